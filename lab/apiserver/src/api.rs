//! What the server does with objects, independent of HTTP: every request, from REST or in-process, ends here.
//!
//! Writers are serialised by one lock, so admission may read other objects (address allocation, namespaces) and
//! nothing changes between its look and the store. Readers and watchers never wait for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::client::{Object, Resource, ServedResource};
use crate::config::KubeletResolver;
use crate::kinds::{Fields, Kind};
use crate::object;
use crate::registry::Registry;
use crate::schema;
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::Status;
use crate::store::{Key, Store};
use crate::token::Tokens;

mod apply;
mod delete;
mod list;
mod subresource;
#[cfg(test)]
mod tests;
mod watch;
mod write;

pub(crate) use subresource::selector_text;

pub(crate) use list::{ListRequest, Page};
pub(crate) use watch::WatchRequest;
pub(crate) use write::PatchKind;

/// Facts about the cluster that admission needs.
pub(crate) struct Cluster {
    pub(crate) service_cidr: ipnet::Ipv6Net,
    pub(crate) advertise: std::net::SocketAddr,
    /// PEM, for kube-root-ca.crt.
    pub(crate) ca_certificate: String,
}

/// The server without its wire.
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    pub(crate) tokens: Tokens,
    pub(crate) kubelets: KubeletResolver,
    pub(crate) cluster: Cluster,
    writer: Mutex<()>,
}

/// What a request is about: parsed path.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) kind: Arc<Kind>,
    /// Set for one namespace, `None` for all or for cluster-wide kinds.
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

impl Target {
    pub(crate) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    fn key(&self) -> Key {
        Key::new(self.namespace.as_deref().unwrap_or_default(), self.name())
    }

    pub(crate) fn not_found(&self) -> Status {
        Status::not_found(&self.kind.group, &self.kind.plural, self.name())
    }
}

/// How strictly bodies are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Strict,
    #[default]
    Warn,
    Ignore,
}

/// Query parameters of writes.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
    pub(crate) field_manager: String,
}

/// Body and query of deletions.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteRequest {
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) propagation_policy: Option<String>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) dry_run: bool,
}

/// What a write answers.
pub(crate) struct Written {
    pub(crate) object: Object,
    /// 201 rather than 200.
    pub(crate) created: bool,
    pub(crate) warnings: Vec<String>,
}

/// What a deletion answers.
pub(crate) struct Deleted {
    pub(crate) object: Object,
    /// Gone now; else only marked.
    pub(crate) removed: bool,
}

impl Api {
    pub(crate) fn new(store: Store, tokens: Tokens, kubelets: KubeletResolver, cluster: Cluster) -> Self {
        Self {
            store,
            registry: Registry::new(),
            tokens,
            kubelets,
            cluster,
            writer: Mutex::new(()),
        }
    }

    fn write_lock(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the kind of a request. Errors: 404 as for an unknown path.
    pub(crate) fn target(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Result<Target, Status> {
        let kind = self
            .registry
            .find(group, version, plural)
            .ok_or_else(Status::no_such_path)?;
        let namespace = namespace
            .filter(|n| kind.namespaced && !n.is_empty())
            .map(str::to_owned);
        if kind.namespaced && namespace.is_none() && name.is_some() {
            return Err(Status::no_such_path());
        }
        Ok(Target {
            kind,
            namespace,
            name: name.map(str::to_owned),
            subresource: None,
        })
    }

    /// An object in the form of the version that was asked for.
    pub(crate) fn present(kind: &Kind, object: &Object) -> Object {
        if object["apiVersion"] == kind.api_version() && object["kind"] == kind.kind {
            return object.clone();
        }
        let mut shown = (**object).clone();
        (kind.hooks.from_stored)(&mut shown);
        stamp(kind, &mut shown);
        Arc::new(shown)
    }

    fn stored(&self, target: &Target) -> Result<Object, Status> {
        self.store
            .get(&target.kind.storage, &target.key())
            .ok_or_else(|| target.not_found())
    }

    pub(crate) fn get(&self, target: &Target) -> Result<Object, Status> {
        let object = self.stored(target)?;
        match target.subresource.as_deref() {
            Some("scale") => subresource::scale_of(&target.kind, &object).map(Arc::new),
            _ => Ok(Self::present(&target.kind, &object)),
        }
    }

    /// Reads a built-in object by storage name, for admission.
    pub(crate) fn peek(&self, storage: &str, namespace: &str, name: &str) -> Option<Object> {
        self.store.get(storage, &Key::new(namespace, name))
    }

    fn selectors(kind: &Kind, labels: &str, fields: &str) -> Result<(LabelSelector, FieldSelector), Status> {
        Ok((
            LabelSelector::parse(labels)?,
            FieldSelector::parse(fields, &kind.selectable())?,
        ))
    }

    /// One entry per stored resource, in its first served version.
    pub(crate) fn served_resources(&self) -> Vec<ServedResource> {
        let mut out: Vec<(String, ServedResource)> = Vec::new();
        for kind in self.registry.all() {
            if !out.iter().any(|(storage, _)| *storage == kind.storage) {
                let resource = Resource::new(&kind.group, &kind.version, &kind.plural);
                let served = ServedResource {
                    resource,
                    kind: kind.kind.clone(),
                    namespaced: kind.namespaced,
                };
                out.push((kind.storage.clone(), served));
            }
        }
        out.into_iter().map(|(_, served)| served).collect()
    }
}

/// Writes `apiVersion` and `kind`.
fn stamp(kind: &Kind, object: &mut Value) {
    let map = object::map_mut(object);
    map.insert("apiVersion".into(), kind.api_version().into());
    map.insert("kind".into(), kind.kind.clone().into());
}

/// Reads a body as an object of this kind: right version, right types, nothing unknown. Answers warnings.
fn decode(kind: &Kind, object: &mut Value, validation: FieldValidation) -> Result<Vec<String>, Status> {
    let (version, name) = (kind.api_version(), kind.kind.as_str());
    if !object.is_object() {
        return Err(Status::bad_request(format!(
            "couldn't get version/kind; json parse error: the body is not an object of kind {name}"
        )));
    }
    let given = object["apiVersion"].as_str().unwrap_or(&version);
    let given_kind = object["kind"].as_str().unwrap_or(name);
    if given_kind != name {
        return Err(Status::bad_request(format!(
            "{given_kind} in version {:?} cannot be handled as a {name}: no kind {given_kind:?} is registered for this resource",
            given.rsplit('/').next().unwrap_or_default()
        )));
    }
    if given != version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({given}) does not match the expected API version ({version})"
        )));
    }
    stamp(kind, object);
    let unknown = match &kind.fields {
        Fields::Builtin(def) => schema::decode(def, object),
        Fields::Structural(structural) => crate::crd::decode(structural, object),
    }
    .map_err(|e| {
        Status::bad_request(format!(
            "{name} in version {:?} cannot be handled as a {name}: {e}",
            kind.version
        ))
    })?;
    let complaints: Vec<String> = unknown
        .iter()
        .map(|path| format!("unknown field {path:?}"))
        .collect();
    match validation {
        FieldValidation::Strict if !complaints.is_empty() => Err(Status::bad_request(format!(
            "{name} in version {:?} cannot be handled as a {name}: strict decoding error: {}",
            kind.version,
            complaints.join(", ")
        ))),
        FieldValidation::Ignore => Ok(Vec::new()),
        _ => Ok(complaints),
    }
}
