//! Who is calling: client certificates and bearer tokens.
//!
//! Authorisation: every authenticated user may do everything; without credentials only the health and version
//! paths answer. The RBAC objects are stored and shown but not enforced, and `auth can-i` says so by saying yes.

use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use crate::api::Api;
use crate::object;
use crate::token;

/// A caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: Vec<(String, String)>,
}

impl User {
    pub(crate) fn new(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        groups.push("system:authenticated".into());
        Self {
            name: name.into(),
            uid: String::new(),
            groups,
            extra: Vec::new(),
        }
    }

    /// The server's own controllers.
    pub(crate) fn system_admin() -> Self {
        Self::new("system:admin", &["system:masters"])
    }

    /// As in `SelfSubjectReview` and `TokenReview`.
    pub(crate) fn to_json(&self) -> Value {
        let mut out = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            out["uid"] = self.uid.as_str().into();
        }
        for (key, value) in &self.extra {
            out["extra"][key.as_str()] = json!([value]);
        }
        out
    }
}

/// The user that a (verified) client certificate names: common name and organisations.
pub(crate) fn from_certificate(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed
        .subject()
        .iter_common_name()
        .next()?
        .as_str()
        .ok()?
        .to_owned();
    let groups: Vec<&str> = parsed
        .subject()
        .iter_organization()
        .filter_map(|o| o.as_str().ok())
        .collect();
    Some(User::new(&name, &groups))
}

/// The user of a bearer token, when it is valid now for one of the audiences and its account (and pod) still exist.
pub(crate) fn from_token(api: &Api, bearer: &str, audiences: &[&str]) -> Option<(User, Vec<String>)> {
    let claims = api.tokens.check(bearer, audiences)?;
    let account = api.peek("serviceaccounts", &claims.namespace, &claims.account)?;
    if object::meta(&account, "uid") != claims.account_uid {
        return None;
    }
    let mut user = User::new(
        &format!("system:serviceaccount:{}:{}", claims.namespace, claims.account),
        &[
            "system:serviceaccounts",
            &format!("system:serviceaccounts:{}", claims.namespace),
        ],
    );
    user.uid = claims.account_uid;
    if let Some((name, uid)) = claims.pod {
        let pod = api.peek("pods", &claims.namespace, &name)?;
        if object::meta(&pod, "uid") != uid {
            return None;
        }
        user.extra
            .push(("authentication.kubernetes.io/pod-name".into(), name));
        user.extra
            .push(("authentication.kubernetes.io/pod-uid".into(), uid));
    }
    let meant = claims
        .audiences
        .into_iter()
        .filter(|a| audiences.contains(&a.as_str()))
        .collect();
    Some((user, meant))
}

/// The audiences that this server itself answers to.
pub(crate) const OWN_AUDIENCES: &[&str] = &[token::ISSUER];
