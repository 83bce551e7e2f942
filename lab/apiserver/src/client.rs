//! The in-process client: what the lab's own controllers use.
//!
//! It takes the same path as REST (admission, defaulting, validation, watches), only without TLS and HTTP.

use std::sync::Arc;

use futures::stream::BoxStream;
use serde_json::{Value, json};

use crate::api::{Api, DeleteRequest, ListRequest, PatchKind, Target, WatchRequest, WriteOptions};
use crate::auth::User;
use crate::status::Status;

/// An object as it is stored; cheap to clone, never changed in place.
pub type Object = Arc<Value>;

/// Which resource a call is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resource {
    /// API group, empty for the core group.
    pub group: String,
    /// API version, for example `v1`.
    pub version: String,
    /// Plural name, for example `pods`.
    pub plural: String,
}

impl Resource {
    /// A resource of any group.
    pub fn new(group: &str, version: &str, plural: &str) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            plural: plural.into(),
        }
    }

    /// A resource of the core group, version `v1`.
    pub fn core(plural: &str) -> Self {
        Self::new("", "v1", plural)
    }

    /// A resource of `apps/v1`.
    pub fn apps(plural: &str) -> Self {
        Self::new("apps", "v1", plural)
    }
}

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Label selector in its text form, empty for all.
    pub labels: String,
    /// Field selector in its text form, empty for all.
    pub fields: String,
}

/// A list and the revision it was taken at.
#[derive(Clone, Debug)]
pub struct ObjectList {
    /// Objects in order of namespace and name.
    pub items: Vec<Object>,
    /// Start a watch from here to see every later change exactly once.
    pub resource_version: u64,
}

/// One change.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// The object came (or came into the selection).
    Added(Object),
    /// The object changed.
    Modified(Object),
    /// The object went (or left the selection); its last state.
    Deleted(Object),
    /// Nothing changed for this watcher up to the resourceVersion of the object.
    Bookmark(Object),
}

/// Which body a patch has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patch {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' strategic merge.
    Strategic,
    /// Server-side apply, with force.
    Apply,
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds of grace (pods); absent: as the object says.
    pub grace_period_seconds: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`.
    pub propagation_policy: Option<String>,
    /// Only if the object still has this uid.
    pub uid: Option<String>,
    /// Only if the object still has this resourceVersion.
    pub resource_version: Option<String>,
}

/// Calls into the API server of this process. Clones share everything but the name of the caller.
#[derive(Clone)]
pub struct Client {
    api: Arc<Api>,
    user: Arc<User>,
    manager: String,
}

impl Client {
    pub(crate) fn new(api: Arc<Api>) -> Self {
        Self {
            api,
            user: Arc::new(User::system_admin()),
            manager: "seta-lab".into(),
        }
    }

    /// The same client under another field manager name (shown in `managedFields`).
    pub fn named(&self, manager: &str) -> Self {
        Self {
            manager: manager.into(),
            ..self.clone()
        }
    }

    fn target(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Result<Target, Status> {
        self.api.target(
            &resource.group,
            &resource.version,
            &resource.plural,
            namespace,
            name,
        )
    }

    fn write_options(&self) -> WriteOptions {
        WriteOptions {
            field_manager: self.manager.clone(),
            ..WriteOptions::default()
        }
    }

    /// Reads one object. Errors: `NotFound`.
    pub async fn get(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Object, Status> {
        self.api.get(&self.target(resource, namespace, Some(name))?)
    }

    /// Reads all objects (of one namespace or of all) that match.
    pub async fn list(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<ObjectList, Status> {
        let request = ListRequest {
            labels: options.labels.clone(),
            fields: options.fields.clone(),
            ..ListRequest::default()
        };
        let page = self
            .api
            .list(&self.target(resource, namespace, None)?, &request)?;
        Ok(ObjectList {
            items: page.items,
            resource_version: page.revision,
        })
    }

    /// Changes after `from`. The stream ends only with an error; `is_expired` means: list again.
    pub async fn watch(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        options: &ListOptions,
        from: u64,
    ) -> Result<BoxStream<'static, Result<WatchEvent, Status>>, Status> {
        let request = WatchRequest {
            labels: options.labels.clone(),
            fields: options.fields.clone(),
            from: Some(from),
            bookmarks: true,
            ..WatchRequest::default()
        };
        self.api.watch(&self.target(resource, namespace, None)?, &request)
    }

    /// Creates an object; `generateName` works. Errors: `AlreadyExists`, `Invalid`, `Forbidden`, …
    pub async fn create(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        object: Value,
    ) -> Result<Object, Status> {
        let target = self.target(resource, namespace, None)?;
        Ok(self
            .api
            .create(&self.user, &target, object, &self.write_options())?
            .object)
    }

    /// Replaces an object; with `metadata.resourceVersion` set, only if it is still that one.
    pub async fn update(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        object: Value,
    ) -> Result<Object, Status> {
        self.update_part(resource, namespace, object, None)
    }

    /// Replaces the status of an object; everything else in `object` is ignored.
    pub async fn update_status(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        object: Value,
    ) -> Result<Object, Status> {
        self.update_part(resource, namespace, object, Some("status"))
    }

    fn update_part(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        object: Value,
        part: Option<&str>,
    ) -> Result<Object, Status> {
        let name = object["metadata"]["name"].as_str().map(str::to_owned);
        let mut target = self.target(resource, namespace, name.as_deref())?;
        target.subresource = part.map(str::to_owned);
        Ok(self
            .api
            .update(&self.user, &target, object, &self.write_options())?
            .object)
    }

    /// Patches an object.
    pub async fn patch(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        kind: Patch,
        patch: Value,
    ) -> Result<Object, Status> {
        self.patch_part(resource, namespace, name, None, kind, patch)
    }

    /// Patches the status of an object; only the status changes.
    pub async fn patch_status(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        kind: Patch,
        patch: Value,
    ) -> Result<Object, Status> {
        self.patch_part(resource, namespace, name, Some("status"), kind, patch)
    }

    fn patch_part(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        part: Option<&str>,
        kind: Patch,
        patch: Value,
    ) -> Result<Object, Status> {
        let mut target = self.target(resource, namespace, Some(name))?;
        target.subresource = part.map(str::to_owned);
        let kind = match kind {
            Patch::Json => PatchKind::Json,
            Patch::Merge => PatchKind::Merge,
            Patch::Strategic => PatchKind::Strategic,
            Patch::Apply => PatchKind::Apply { force: true },
        };
        Ok(self
            .api
            .patch(&self.user, &target, kind, patch, &self.write_options())?
            .object)
    }

    /// Deletes an object, or marks it for deletion when it has finalizers or grace. Answers its last state.
    pub async fn delete(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Object, Status> {
        let request = DeleteRequest {
            grace_period_seconds: options.grace_period_seconds,
            propagation_policy: options.propagation_policy.clone(),
            uid: options.uid.clone(),
            resource_version: options.resource_version.clone(),
            dry_run: false,
        };
        let target = self.target(resource, namespace, Some(name))?;
        Ok(self.api.delete(&self.user, &target, &request)?.object)
    }

    /// Deletes everything of a kind in a namespace (or everywhere) that matches.
    pub async fn delete_collection(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<(), Status> {
        let request = ListRequest {
            labels: options.labels.clone(),
            fields: options.fields.clone(),
            ..ListRequest::default()
        };
        let target = self.target(resource, namespace, None)?;
        self.api
            .delete_collection(&self.user, &target, &request, &DeleteRequest::default())
            .map(drop)
    }

    /// Assigns a pod to a node (the scheduler's `pods/binding`). Errors: `Conflict` when it has one already.
    pub async fn bind(&self, namespace: &str, pod: &str, node: &str) -> Result<(), Status> {
        let mut target = self.target(&Resource::core("pods"), Some(namespace), Some(pod))?;
        target.subresource = Some("binding".into());
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod, "namespace": namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        self.api
            .create(&self.user, &target, binding, &self.write_options())
            .map(drop)
    }

    /// Replaces the finalizers in a namespace's spec (`namespaces/finalize`); without any, a terminating one is gone.
    pub async fn finalize_namespace(&self, namespace: Value) -> Result<Object, Status> {
        self.update_part(&Resource::core("namespaces"), None, namespace, Some("finalize"))
    }

    /// All resources that are served at the moment, custom ones included (for garbage collection and namespaces).
    pub fn resources(&self) -> Vec<ServedResource> {
        self.api.served_resources()
    }
}

/// A resource that the server knows; one entry per stored resource (its preferred version).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedResource {
    /// How to call it.
    pub resource: Resource,
    /// For example `Pod`.
    pub kind: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
}
