//! The Helm release: one Secret per revision, exactly as Helm stores it (`pkg/storage/driver/secrets.go`).
//!
//! It makes `helm list`, `helm upgrade` and the "Helm chart version" of the cilium CLI work on what `seta install`
//! made, and it is where `upgrade` finds the values again. The content is the release as JSON, compressed with gzip,
//! in base64, in a Secret of type `helm.sh/release.v1`.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use serde_json::{Value, json};
use thiserror::Error;

use crate::chart::{self, ChartError, Manifest};
use crate::cluster::Cluster;

/// The type of a Secret that holds a release.
const SECRET_TYPE: &str = "helm.sh/release.v1";
/// Revisions that are kept, as Helm keeps them.
const HISTORY: usize = 10;
/// Most bytes of an unpacked release.
const MAX_RELEASE: u64 = 32 << 20;

/// Why a stored release cannot be read or written.
#[derive(Debug, Error)]
pub(crate) enum ReleaseError {
    /// The API server refused.
    #[error("Helm release: {}", crate::cluster::told(.0))]
    Api(kube::Error),
    /// A Secret of a release without one.
    #[error("Secret {0} holds no Helm release")]
    Empty(String),
    /// Not base64.
    #[error("Helm release in Secret {0} is not base64: {1}")]
    Base64(String, base64::DecodeError),
    /// Not gzip.
    #[error("Helm release in Secret {0} cannot be unpacked: {1}")]
    Gzip(String, std::io::Error),
    /// Not JSON.
    #[error("Helm release {0}: {1}")]
    Json(String, serde_json::Error),
    /// The chart itself.
    #[error(transparent)]
    Chart(#[from] ChartError),
}

impl From<kube::Error> for ReleaseError {
    fn from(error: kube::Error) -> Self {
        Self::Api(error)
    }
}

/// One revision of the release.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Release(Value);

impl Release {
    /// A revision that is about to be applied.
    pub(crate) fn new(
        namespace: &str,
        revision: u32,
        user: &Value,
        manifests: &[Manifest],
        first_deployed: Option<&str>,
        now: &str,
    ) -> Result<Self, ChartError> {
        let metadata: Value = serde_saphyr::from_str(chart::CHART_YAML)
            .map_err(|error| ChartError::File("Chart.yaml", Box::new(error)))?;
        let templates: Vec<_> = chart::FILES
            .iter()
            .map(|(path, content)| json!({ "name": path, "data": STANDARD.encode(content) }))
            .collect();
        let status = if revision == 1 {
            "pending-install"
        } else {
            "pending-upgrade"
        };
        Ok(Self(json!({
            "name": chart::RELEASE,
            "namespace": namespace,
            "version": revision,
            "info": {
                "first_deployed": first_deployed.unwrap_or(now),
                "last_deployed": now,
                "deleted": "",
                "description": if revision == 1 { "Initial install underway" } else { "Preparing upgrade" },
                "status": status,
            },
            "chart": {
                "metadata": metadata,
                "lock": null,
                "templates": templates,
                "values": chart::default_values()?,
                "schema": STANDARD.encode(chart::VALUES_SCHEMA),
                "files": [],
            },
            "config": user,
            "manifest": chart::stream(manifests),
        })))
    }

    /// Number of the revision, from 1.
    pub(crate) fn revision(&self) -> u32 {
        self.0["version"]
            .as_u64()
            .and_then(|revision| u32::try_from(revision).ok())
            .unwrap_or(1)
    }

    /// `deployed`, `failed`, `superseded`, `pending-install`…
    pub(crate) fn status(&self) -> &str {
        self.0["info"]["status"].as_str().unwrap_or("unknown")
    }

    /// When the first revision was deployed, RFC 3339.
    pub(crate) fn first_deployed(&self) -> Option<&str> {
        self.0["info"]["first_deployed"].as_str()
    }

    /// Version of its chart.
    pub(crate) fn chart_version(&self) -> &str {
        self.0["chart"]["metadata"]["version"]
            .as_str()
            .unwrap_or_default()
    }

    /// Whether the chart is this one, and not Cilium's own.
    pub(crate) fn is_ours(&self) -> bool {
        self.0["chart"]["metadata"]["annotations"]["seta/distribution"] == "seta"
    }

    /// What the user set.
    pub(crate) fn user_values(&self) -> Value {
        match &self.0["config"] {
            Value::Object(values) => Value::Object(values.clone()),
            _ => json!({}),
        }
    }

    /// The objects it made.
    pub(crate) fn objects(&self) -> Vec<Value> {
        let manifest = self.0["manifest"].as_str().unwrap_or_default();
        manifest
            .split("\n---")
            .filter_map(|document| serde_saphyr::from_str::<Value>(document.trim_start_matches("---")).ok())
            .filter(|object| object["kind"].is_string())
            .collect()
    }

    /// The same with another status.
    pub(crate) fn with_status(mut self, status: &str, description: &str) -> Self {
        self.0["info"]["status"] = json!(status);
        self.0["info"]["description"] = json!(description);
        self
    }

    fn secret_name(&self) -> String {
        format!("sh.helm.release.v1.{}.v{}", chart::RELEASE, self.revision())
    }

    /// As Helm stores it.
    fn to_secret(&self) -> Result<Secret, ReleaseError> {
        let name = self.secret_name();
        let json = serde_json::to_vec(&self.0).map_err(|error| ReleaseError::Json(name.clone(), error))?;
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        let packed = gzip.write_all(&json).and_then(|()| gzip.finish());
        let packed = packed.map_err(|error| ReleaseError::Gzip(name.clone(), error))?;
        let labels = [
            ("name", chart::RELEASE.to_owned()),
            ("owner", "helm".to_owned()),
            ("status", self.status().to_owned()),
            ("version", self.revision().to_string()),
        ];
        Ok(Secret {
            metadata: ObjectMeta {
                name: Some(name),
                labels: Some(
                    labels
                        .into_iter()
                        .map(|(key, value)| (key.to_owned(), value))
                        .collect(),
                ),
                ..ObjectMeta::default()
            },
            type_: Some(SECRET_TYPE.to_owned()),
            data: Some(BTreeMap::from([(
                "release".to_owned(),
                ByteString(STANDARD.encode(packed).into_bytes()),
            )])),
            ..Secret::default()
        })
    }

    fn from_secret(secret: &Secret) -> Result<Self, ReleaseError> {
        let name = secret.metadata.name.clone().unwrap_or_default();
        let data = secret.data.as_ref().and_then(|data| data.get("release"));
        let Some(ByteString(text)) = data else {
            return Err(ReleaseError::Empty(name));
        };
        let packed = STANDARD
            .decode(text)
            .map_err(|error| ReleaseError::Base64(name.clone(), error))?;
        let mut json = Vec::new();
        GzDecoder::new(packed.as_slice())
            .take(MAX_RELEASE)
            .read_to_end(&mut json)
            .map_err(|error| ReleaseError::Gzip(name.clone(), error))?;
        serde_json::from_slice(&json)
            .map(Self)
            .map_err(|error| ReleaseError::Json(name, error))
    }
}

/// Whether two manifests are of the same object.
pub(crate) fn same_object(one: &Value, other: &Value) -> bool {
    one["kind"] == other["kind"] && one["metadata"]["name"] == other["metadata"]["name"]
}

/// The revisions of the release in a cluster.
pub(crate) struct History {
    secrets: Api<Secret>,
}

impl History {
    /// Those in the namespace of the cluster.
    pub(crate) fn of(cluster: &Cluster) -> Self {
        Self {
            secrets: Api::namespaced(cluster.client.clone(), &cluster.namespace),
        }
    }

    async fn revisions(&self) -> Result<Vec<(u32, Secret)>, ReleaseError> {
        let selector = format!("owner=helm,name={}", chart::RELEASE);
        let mut found: Vec<_> = self
            .secrets
            .list(&ListParams::default().labels(&selector))
            .await?
            .into_iter()
            .filter_map(|secret| {
                let revision = secret.metadata.labels.as_ref()?.get("version")?.parse().ok()?;
                Some((revision, secret))
            })
            .collect();
        found.sort_by_key(|(revision, _)| *revision);
        Ok(found)
    }

    /// The newest revision, if there is a release.
    pub(crate) async fn last(&self) -> Result<Option<Release>, ReleaseError> {
        self.revisions()
            .await?
            .last()
            .map(|(_, secret)| Release::from_secret(secret))
            .transpose()
    }

    /// The objects that may be in the cluster: those of the newest deployed revision, and further ones of revisions
    /// after it that failed or were interrupted.
    pub(crate) async fn objects(&self) -> Result<Vec<Value>, ReleaseError> {
        let mut attempts: Vec<Release> = Vec::new();
        for (_, secret) in self.revisions().await?.iter().rev() {
            let release = Release::from_secret(secret)?;
            let deployed = release.status() == "deployed";
            attempts.push(release);
            if deployed {
                break;
            }
        }
        let mut objects: Vec<Value> = Vec::new();
        for object in attempts.iter().rev().flat_map(Release::objects) {
            if !objects.iter().any(|known| same_object(known, &object)) {
                objects.push(object);
            }
        }
        Ok(objects)
    }

    /// Stores a new revision and forgets the oldest, so that attempts that fail again and again do not pile up.
    pub(crate) async fn create(&self, release: &Release) -> Result<(), ReleaseError> {
        self.secrets
            .create(&PostParams::default(), &release.to_secret()?)
            .await?;
        let revisions = self.revisions().await?;
        let deployed = |secret: &Secret| {
            let labels = secret.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get("status")).map(String::as_str) == Some("deployed")
        };
        let known: Vec<_> = revisions
            .iter()
            .map(|(number, secret)| (*number, deployed(secret)))
            .collect();
        for (_, secret) in revisions
            .iter()
            .filter(|(number, _)| surplus(&known).contains(number))
        {
            let name = secret.metadata.name.as_deref().unwrap_or_default();
            self.forget(name).await?;
        }
        Ok(())
    }

    /// Removes the Secret of a revision; that there is none any more is as good.
    async fn forget(&self, name: &str) -> Result<(), ReleaseError> {
        match self.secrets.delete(name, &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores a revision again.
    pub(crate) async fn update(&self, release: &Release) -> Result<(), ReleaseError> {
        let mut secret = release.to_secret()?;
        let name = release.secret_name();
        secret.metadata.resource_version = self.secrets.get_metadata(&name).await?.metadata.resource_version;
        self.secrets
            .replace(&name, &PostParams::default(), &secret)
            .await?;
        Ok(())
    }

    /// A revision is deployed: those before it are superseded.
    pub(crate) async fn deployed(&self, release: Release) -> Result<(), ReleaseError> {
        let revision = release.revision();
        let description = if revision == 1 {
            "Install complete"
        } else {
            "Upgrade complete"
        };
        self.update(&release.with_status("deployed", description)).await?;
        for (number, secret) in self.revisions().await? {
            if number >= revision {
                continue;
            }
            let old = Release::from_secret(&secret)?;
            if old.status() == "deployed" {
                self.update(&old.with_status("superseded", "Superseded by a newer revision"))
                    .await?;
            }
        }
        Ok(())
    }

    /// Forgets the release.
    pub(crate) async fn delete(&self) -> Result<(), ReleaseError> {
        for (_, secret) in self.revisions().await? {
            self.forget(&secret.metadata.name.unwrap_or_default()).await?;
        }
        Ok(())
    }
}

/// Which revisions are too many: the oldest, but never the newest deployed one, which knows what is in the cluster.
/// `known` are all revisions in ascending order, and whether each is deployed.
fn surplus(known: &[(u32, bool)]) -> Vec<u32> {
    let current = known
        .iter()
        .rfind(|(_, deployed)| *deployed)
        .map(|(number, _)| *number);
    known
        .iter()
        .map(|(number, _)| *number)
        .take(known.len().saturating_sub(HISTORY))
        .filter(|number| Some(*number) != current)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release() -> Release {
        let values = chart::default_values().expect("values.yaml is YAML");
        let manifests = chart::render(
            &values,
            chart::Release {
                namespace: "kube-system",
                revision: 1,
            },
        )
        .expect("it renders");
        let user = json!({"debug": {"enabled": true}});
        Release::new("kube-system", 1, &user, &manifests, None, "2026-01-02T03:04:05Z")
            .expect("it is complete")
    }

    #[test]
    fn a_release_survives_its_secret() {
        let release = release();
        let secret = release.to_secret().expect("it can be stored");
        assert_eq!(secret.type_.as_deref(), Some("helm.sh/release.v1"));
        assert_eq!(
            secret.metadata.name.as_deref(),
            Some("sh.helm.release.v1.cilium.v1")
        );
        let labels = secret.metadata.labels.clone().unwrap_or_default();
        for (key, value) in [
            ("owner", "helm"),
            ("name", "cilium"),
            ("version", "1"),
            ("status", "pending-install"),
        ] {
            assert_eq!(labels.get(key).map(String::as_str), Some(value));
        }
        let back = Release::from_secret(&secret).expect("it can be read");
        assert_eq!(back, release);
        assert!(back.is_ours());
        assert_eq!(back.chart_version(), env!("CARGO_PKG_VERSION"));
        assert_eq!(back.user_values(), json!({"debug": {"enabled": true}}));
        let kinds: Vec<_> = back
            .objects()
            .iter()
            .filter_map(|object| object["kind"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(kinds.len(), 11, "{kinds:?}");
        assert_eq!(kinds.first().map(String::as_str), Some("ServiceAccount"));
    }

    #[test]
    fn old_revisions_are_forgotten_but_not_the_one_that_is_deployed() {
        let revisions = |last: u32, deployed: &[u32]| -> Vec<(u32, bool)> {
            (1..=last)
                .map(|number| (number, deployed.contains(&number)))
                .collect()
        };
        assert_eq!(surplus(&revisions(10, &[9])), [0_u32; 0]);
        assert_eq!(surplus(&revisions(12, &[11])), [1, 2]);
        assert_eq!(surplus(&revisions(12, &[1])), [2], "ten upgrades failed");
        assert_eq!(
            surplus(&revisions(12, &[1, 2])),
            [1],
            "an interrupted upgrade left two"
        );
        assert_eq!(surplus(&revisions(12, &[])), [1, 2]);
    }

    #[test]
    fn broken_secrets_are_told_apart() {
        let with = |data: Option<&str>| Secret {
            data: data
                .map(|data| BTreeMap::from([("release".to_owned(), ByteString(data.as_bytes().to_vec()))])),
            ..Secret::default()
        };
        assert!(matches!(
            Release::from_secret(&with(None)),
            Err(ReleaseError::Empty(_))
        ));
        assert!(matches!(
            Release::from_secret(&with(Some("%%"))),
            Err(ReleaseError::Base64(..))
        ));
        assert!(matches!(
            Release::from_secret(&with(Some("aGVsbG8="))),
            Err(ReleaseError::Gzip(..))
        ));
    }
}
