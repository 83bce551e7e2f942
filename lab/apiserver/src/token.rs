//! Service-account tokens: signed, with audience and expiry, bound to an account and perhaps a pod.

use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Value, json};

use crate::object;
use crate::pki::{Credentials, PkiError};
use crate::status::Status;

/// Issuer and default audience, as kubeadm clusters use.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Issues and checks tokens.
pub(crate) struct Tokens {
    encode: EncodingKey,
    decode: DecodingKey,
}

pub(crate) struct Issued {
    pub(crate) token: String,
    pub(crate) expires: String,
    pub(crate) audiences: Vec<String>,
}

/// What a valid token says; whether account and pod still exist is for the caller to look up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) namespace: String,
    pub(crate) account: String,
    pub(crate) account_uid: String,
    pub(crate) pod: Option<(String, String)>,
    pub(crate) audiences: Vec<String>,
}

impl Tokens {
    pub(crate) fn new(credentials: &Credentials) -> Result<Self, PkiError> {
        Ok(Self {
            encode: EncodingKey::from_ec_pem(credentials.token_key.as_bytes())?,
            decode: DecodingKey::from_ec_pem(credentials.token_public_key.as_bytes())?,
        })
    }

    pub(crate) fn issue(
        &self,
        namespace: &str,
        account: &str,
        uid: &str,
        pod: Option<(String, String)>,
        audiences: Vec<String>,
        seconds: i64,
    ) -> Result<Issued, Status> {
        let audiences = if audiences.is_empty() {
            vec![ISSUER.to_owned()]
        } else {
            audiences
        };
        let now = Timestamp::now();
        let seconds = seconds.clamp(1, 365 * 24 * 3600);
        let expires = now + SignedDuration::from_secs(seconds);
        let mut claims = json!({
            "iss": ISSUER, "sub": format!("system:serviceaccount:{namespace}:{account}"), "aud": audiences,
            "iat": now.as_second(), "nbf": now.as_second(), "exp": expires.as_second(),
            "jti": uuid::Uuid::new_v4().to_string(),
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account, "uid": uid}},
        });
        if let Some((name, uid)) = pod {
            claims["kubernetes.io"]["pod"] = json!({"name": name, "uid": uid});
        }
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.encode)
            .map_err(Status::internal)?;
        Ok(Issued {
            token,
            expires: object::time(expires),
            audiences,
        })
    }

    /// Checks signature, issuer, times and that one of `audiences` is meant. `None`: not a valid token.
    pub(crate) fn check(&self, token: &str, audiences: &[&str]) -> Option<Claims> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(audiences);
        validation.set_issuer(&[ISSUER]);
        validation.validate_nbf = true;
        validation.leeway = 10;
        let claims = jsonwebtoken::decode::<Value>(token, &self.decode, &validation)
            .ok()?
            .claims;
        let private = &claims["kubernetes.io"];
        let text = |v: &Value| v.as_str().map(str::to_owned);
        Some(Claims {
            namespace: text(&private["namespace"])?,
            account: text(&private["serviceaccount"]["name"])?,
            account_uid: text(&private["serviceaccount"]["uid"])?,
            pod: text(&private["pod"]["name"]).zip(text(&private["pod"]["uid"])),
            audiences: object::items(&claims["aud"]).iter().filter_map(text).collect(),
        })
    }
}
