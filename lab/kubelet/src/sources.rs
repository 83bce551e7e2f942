//! ConfigMaps, Secrets and tokens of one pod's namespace, as bytes by key.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Secret, ServiceAccount},
};
use kube::{Api, Client, api::PostParams};

/// What a ConfigMap or Secret holds.
pub(crate) type Content = BTreeMap<String, Vec<u8>>;

/// Why a source cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("{kind} \"{name}\" not found")]
    NotFound { kind: &'static str, name: String },
    #[error("cannot read {kind} \"{name}\"")]
    Api {
        kind: &'static str,
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
}

/// The sources of a pod.
#[derive(Clone)]
pub(crate) struct Sources {
    client: Client,
    namespace: String,
}

impl Sources {
    pub(crate) fn new(client: Client, namespace: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
        }
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A ConfigMap's content; `None` for an optional one that does not exist.
    pub(crate) async fn config_map(
        &self,
        name: &str,
        optional: bool,
    ) -> Result<Option<Content>, SourceError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = existing(api.get_opt(name).await, "configmap", name, optional)?;
        Ok(found.map(|map| {
            let text = map
                .data
                .into_iter()
                .flatten()
                .map(|(key, value)| (key, value.into_bytes()));
            let binary = map
                .binary_data
                .into_iter()
                .flatten()
                .map(|(key, value)| (key, value.0));
            text.chain(binary).collect()
        }))
    }

    /// A Secret's content; `None` for an optional one that does not exist.
    pub(crate) async fn secret(&self, name: &str, optional: bool) -> Result<Option<Content>, SourceError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = existing(api.get_opt(name).await, "secret", name, optional)?;
        Ok(found.map(|secret| {
            secret
                .data
                .into_iter()
                .flatten()
                .map(|(key, value)| (key, value.0))
                .collect()
        }))
    }

    /// A token of the pod's service account, bound to the pod.
    pub(crate) async fn token(
        &self,
        account: &str,
        audience: Option<&str>,
        seconds: i64,
        pod: (&str, &str),
    ) -> Result<String, SourceError> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let (name, uid) = pod;
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: audience.map(|audience| vec![audience.to_owned()]),
                expiration_seconds: Some(seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(name.to_owned()),
                    uid: Some(uid.to_owned()),
                }),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let answer = api
            .create_token_request(account, &PostParams::default(), &request)
            .await;
        let answer = answer.map_err(|error| SourceError::Api {
            kind: "token of serviceaccount",
            name: account.to_owned(),
            source: Box::new(error),
        })?;
        Ok(answer.status.and_then(|status| status.token).unwrap_or_default())
    }
}

fn existing<T>(
    found: kube::Result<Option<T>>,
    kind: &'static str,
    name: &str,
    optional: bool,
) -> Result<Option<T>, SourceError> {
    match found {
        Ok(None) if !optional => Err(SourceError::NotFound {
            kind,
            name: name.to_owned(),
        }),
        Ok(found) => Ok(found),
        Err(error) => Err(SourceError::Api {
            kind,
            name: name.to_owned(),
            source: Box::new(error),
        }),
    }
}
