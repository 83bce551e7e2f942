//! Kubeconfig files: adding the lab's context to one, and taking it out again, without harming what else is in it.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::object::{items, map_mut};
use crate::pki::{ClientCertificate, PkiError, write_private};

#[cfg(test)]
mod tests;

/// Under this name the context remembers which context was current before it.
const PREVIOUS: &str = "seta.lab/previous-context";

/// One cluster with one user.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name of the context, and of its cluster and user.
    pub context: String,
    /// URL of the server.
    pub server: String,
    /// PEM.
    pub ca_certificate: String,
    /// Certificate and key of the user.
    pub client: ClientCertificate,
}

/// Why a kubeconfig could not be changed. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// The file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is there is not a kubeconfig; it is left alone.
    #[error("{path} is not a kubeconfig: {reason}")]
    NotAKubeconfig {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// What is there is not YAML.
    #[error("{path} is not YAML")]
    NotYaml {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    /// The file could not be written.
    #[error("cannot write the kubeconfig")]
    Write(#[source] PkiError),
    /// The file could not be removed.
    #[error("cannot remove {path}")]
    Remove {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The entry could not be made.
    #[error("cannot make the credentials")]
    Credentials(#[source] PkiError),
}

impl Entry {
    /// A kubeconfig with only this entry (for a kubelet or a controller).
    pub fn to_yaml(&self) -> String {
        let mut config = empty();
        insert(&mut config, self);
        text(&config)
    }

    /// Writes a kubeconfig with only this entry (0600, atomically).
    pub fn write(&self, path: &Path) -> Result<(), KubeconfigError> {
        write_private(path, &self.to_yaml()).map_err(KubeconfigError::Write)
    }
}

/// Adds an entry to a kubeconfig (made when absent) and makes it current. An entry of the same name is replaced,
/// everything else keeps its meaning.
pub fn merge(path: &Path, entry: &Entry) -> Result<(), KubeconfigError> {
    let path = resolve(path);
    let after = merged(&path, &read(&path)?, entry)?;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|source| {
            KubeconfigError::Write(PkiError::File {
                path: parent.into(),
                source,
            })
        })?;
    }
    write_private(&path, &after).map_err(KubeconfigError::Write)
}

/// Takes a context with its cluster and user out again and makes the context current that was so before. A file
/// in which nothing is left is removed. No file, or no such context, is no error.
pub fn remove(path: &Path, context: &str) -> Result<(), KubeconfigError> {
    let path = resolve(path);
    let Some(mut config) = parse(&path, &read(&path)?)? else {
        return Ok(());
    };
    let Some(found) = items(&config["contexts"]).iter().find(|c| c["name"] == context) else {
        return Ok(());
    };
    let extensions = items(&found["context"]["extensions"]);
    let previous = extensions
        .iter()
        .find(|e| e["name"] == PREVIOUS)
        .and_then(|e| e["extension"]["context"].as_str());
    let previous = previous.unwrap_or_default().to_owned();
    for list in ["clusters", "contexts", "users"] {
        if let Some(Value::Array(list)) = map_mut(&mut config).get_mut(list) {
            list.retain(|e| e["name"] != context);
        }
    }
    if config["current-context"] == context {
        let exists = items(&config["contexts"])
            .iter()
            .any(|c| c["name"] == previous.as_str());
        config["current-context"] = if exists { previous.into() } else { "".into() };
    }
    let rest = ["clusters", "contexts", "users"]
        .iter()
        .all(|list| items(&config[*list]).is_empty());
    if rest {
        return std::fs::remove_file(&path).map_err(|source| KubeconfigError::Remove { path, source });
    }
    write_private(&path, &text(&config)).map_err(KubeconfigError::Write)
}

/// The text of a kubeconfig with an entry added; `path` is for errors.
pub(crate) fn merged(path: &Path, before: &str, entry: &Entry) -> Result<String, KubeconfigError> {
    let mut config = parse(path, before)?.unwrap_or_else(empty);
    insert(&mut config, entry);
    Ok(text(&config))
}

/// The file itself, where the path is a link: it is replaced, not the link.
fn resolve(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.into())
}

fn empty() -> Value {
    json!({"apiVersion": "v1", "kind": "Config", "preferences": {}, "clusters": [], "contexts": [], "users": []})
}

/// The file's text, empty when there is no file.
fn read(path: &Path) -> Result<String, KubeconfigError> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|source| KubeconfigError::Read {
            path: path.into(),
            source,
        }),
    }
}

/// The kubeconfig in a file's text; `path` is for errors. `None` for an empty file.
fn parse(path: &Path, text: &str) -> Result<Option<Value>, KubeconfigError> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let config: Value = serde_saphyr::from_str(text).map_err(|e| KubeconfigError::NotYaml {
        path: path.into(),
        source: Box::new(e),
    })?;
    let refuse = |reason| {
        Err(KubeconfigError::NotAKubeconfig {
            path: path.into(),
            reason,
        })
    };
    if !config.is_object() {
        return refuse("it is not a map");
    }
    if !config["kind"].is_null() && config["kind"] != "Config" {
        return refuse("its kind is not Config");
    }
    for list in ["clusters", "contexts", "users"] {
        if !config[list].is_null() && !config[list].is_array() {
            return refuse("clusters, contexts and users must be lists");
        }
    }
    Ok(Some(config))
}

fn insert(config: &mut Value, entry: &Entry) {
    let name = entry.context.as_str();
    let encode = |pem: &str| STANDARD.encode(pem);
    let current = config["current-context"].as_str().unwrap_or_default().to_owned();
    // Merged twice, the context that was current before the first time is still the one to go back to.
    let before = items(&config["contexts"])
        .iter()
        .find(|c| c["name"] == name)
        .filter(|_| current == name)
        .map(|c| c["context"]["extensions"].clone());
    let mut context = json!({"cluster": name, "user": name});
    match before {
        Some(extensions) if extensions.is_array() => context["extensions"] = extensions,
        _ if !current.is_empty() && current != name => {
            context["extensions"] = json!([{"name": PREVIOUS, "extension": {"context": current}}]);
        }
        _ => {}
    }
    let cluster =
        json!({"server": entry.server, "certificate-authority-data": encode(&entry.ca_certificate)});
    let user = json!({
        "client-certificate-data": encode(&entry.client.certificate),
        "client-key-data": encode(&entry.client.key),
    });
    for (list, own, value) in [
        ("clusters", "cluster", cluster),
        ("contexts", "context", context),
        ("users", "user", user),
    ] {
        let list = map_mut(config).entry(list).or_insert(Value::Null);
        if !list.is_array() {
            *list = json!([]);
        }
        if let Value::Array(list) = list {
            let fresh = json!({"name": name, own: value});
            match list.iter_mut().find(|e| e["name"] == name) {
                Some(old) => *old = fresh,
                None => list.push(fresh),
            }
        }
    }
    config["current-context"] = name.into();
    let map = map_mut(config);
    map.entry("apiVersion").or_insert_with(|| "v1".into());
    map.entry("kind").or_insert_with(|| "Config".into());
}

/// The file's text: YAML, when that reads back as the same; else JSON, which is YAML too.
fn text(config: &Value) -> String {
    // One line per certificate: scripts cut them out with grep and awk.
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    match serde_saphyr::to_string_with_options(config, options) {
        Ok(yaml) if serde_saphyr::from_str::<Value>(&yaml).is_ok_and(|back| back == *config) => yaml,
        _ => format!("{config:#}\n"),
    }
}
