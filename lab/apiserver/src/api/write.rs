//! Creating, replacing and patching objects.

use serde_json::Value;

use super::{Api, Target, WriteOptions, Written, decode, stamp, subresource};
use crate::auth::User;
use crate::client::Object;
use crate::kinds::{Fields, Kind};
use crate::object::{self, items};
use crate::patch;
use crate::patch::managed::{Managers, Writer};
use crate::status::{Cause, Status};
use crate::validate;

/// Format of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchKind {
    Json,
    Merge,
    Strategic,
    Apply { force: bool },
}

/// Characters that the server adds to `generateName`.
const GENERATED: usize = 5;
/// Tries to find a generated name that is free.
const GENERATE_TRIES: usize = 8;

impl Api {
    pub(crate) fn create(
        &self,
        user: &User,
        target: &Target,
        body: Value,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        if target.subresource.is_some() {
            return subresource::create(self, user, target, body, options);
        }
        let mut object = body;
        let warnings = decode(&target.kind, &mut object, options.field_validation)?;
        let _writer = self.write_lock();
        let object = self.insert(target, object, options, &Managers::default())?;
        Ok(Written {
            object,
            created: true,
            warnings,
        })
    }

    /// The second half of a creation: `object` is decoded, the writer lock is held.
    pub(super) fn insert(
        &self,
        target: &Target,
        mut object: Value,
        options: &WriteOptions,
        managers: &Managers,
    ) -> Result<Object, Status> {
        let kind = &target.kind;
        if !object::meta(&object, "resourceVersion").is_empty() {
            return Err(Status::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        place(target, &mut object)?;
        self.check_namespace(target, object::name(&object))?;
        let key = |object: &Value| crate::store::Key::new(object::namespace(object), object::name(object));
        if object::name(&object).is_empty() && !object::meta(&object, "generateName").is_empty() {
            let prefix = object::meta(&object, "generateName").to_owned();
            for _ in 0..GENERATE_TRIES {
                let name = format!("{prefix}{}", object::random_suffix(GENERATED));
                object::meta_mut(&mut object).insert("name".into(), name.into());
                if self.store.get(&kind.storage, &key(&object)).is_none() {
                    break;
                }
            }
        }
        let meta = object::meta_mut(&mut object);
        meta.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
        meta.insert("creationTimestamp".into(), object::now().into());
        for field in [
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
            "generation",
        ] {
            meta.remove(field);
        }
        (kind.hooks.to_stored)(&mut object);
        if has_generation(kind) {
            object::meta_mut(&mut object).insert("generation".into(), 1.into());
        }
        // A kubelet registers its node with the status; everything else starts without one.
        if kind.status && kind.storage != "nodes" {
            object::map_mut(&mut object).remove("status");
        }
        (kind.hooks.defaults)(&mut object);
        validate::name(kind, &object)?;
        if self.store.get(&kind.storage, &key(&object)).is_some() {
            return Err(Status::already_exists(
                &kind.group,
                &kind.plural,
                object::name(&object),
            ));
        }
        (kind.hooks.admit)(self, &mut object, None)?;
        check(kind, &object, None)?;
        managers.write(&mut object);
        if options.dry_run {
            return Ok(Self::present(kind, &object.into()));
        }
        let stored = self.store.put(&kind.storage, object);
        (kind.hooks.stored)(self, &stored, true)?;
        Ok(Self::present(kind, &stored))
    }

    pub(crate) fn update(
        &self,
        _user: &User,
        target: &Target,
        body: Value,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let _writer = self.write_lock();
        let current = self.stored(target)?;
        if target.subresource.as_deref() == Some("scale") {
            let object = self.rescale(target, &current, &body, options)?;
            return Ok(Written {
                object,
                created: false,
                warnings: Vec::new(),
            });
        }
        let mut object = body;
        let warnings = decode(&target.kind, &mut object, options.field_validation)?;
        let object = self.replace(target, &current, object, options)?;
        Ok(Written {
            object,
            created: false,
            warnings,
        })
    }

    pub(crate) fn patch(
        &self,
        _user: &User,
        target: &Target,
        format: PatchKind,
        body: Value,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let kind = &target.kind;
        if format == PatchKind::Strategic && kind.custom {
            return Err(Status::unsupported_media_type(&[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/apply-patch+yaml",
            ]));
        }
        let _writer = self.write_lock();
        let found = self.stored(target);
        if let PatchKind::Apply { force } = format {
            return self.apply(target, found, body, force, options);
        }
        let current = found?;
        if target.subresource.as_deref() == Some("scale") {
            let scale = subresource::scale_of(kind, &current)?;
            let patched = patch::apply(format, None, scale, &body)?;
            let object = self.rescale(target, &current, &patched, options)?;
            return Ok(Written {
                object,
                created: false,
                warnings: Vec::new(),
            });
        }
        let shown = (*Self::present(kind, &current)).clone();
        let types = match &kind.fields {
            Fields::Builtin(def) => Some(*def),
            Fields::Structural(_) => None,
        };
        let mut object = patch::apply(format, types, shown, &body)?;
        let warnings = decode(kind, &mut object, options.field_validation)?;
        let object = self.replace(target, &current, object, options)?;
        Ok(Written {
            object,
            created: false,
            warnings,
        })
    }

    /// Stores a changed object: what may not change is taken from `current`. The writer lock is held.
    pub(super) fn replace(
        &self,
        target: &Target,
        current: &Object,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Object, Status> {
        self.replace_as(target, current, object, options, None)
    }

    /// The same for an object whose fields have these owners; `None`: the writer owns what it changed.
    pub(super) fn replace_as(
        &self,
        target: &Target,
        current: &Object,
        mut object: Value,
        options: &WriteOptions,
        owners: Option<Managers>,
    ) -> Result<Object, Status> {
        let kind = &target.kind;
        place(target, &mut object)?;
        if object::name(&object).is_empty() {
            object::meta_mut(&mut object).insert("name".into(), target.name().into());
        }
        if object::name(&object) != target.name() {
            return Err(Status::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                object::name(&object),
                target.name()
            )));
        }
        let version = object::meta(&object, "resourceVersion");
        if !version.is_empty() && version != object::meta(current, "resourceVersion") {
            return Err(Status::modified(&kind.group, &kind.plural, target.name()));
        }
        let uid = object::meta(&object, "uid");
        if !uid.is_empty() && uid != object::meta(current, "uid") {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                object::meta(current, "uid")
            );
            return Err(Status::conflict(&kind.group, &kind.plural, target.name(), &why));
        }
        (kind.hooks.to_stored)(&mut object);
        // Writers may edit the record of who owns what; leaving it out does not.
        let given = &object["metadata"]["managedFields"];
        let edited = !items(given).is_empty() && *given != current["metadata"]["managedFields"];
        let mut managers = Managers::of(if edited { &object } else { current });
        let mut object = match target.subresource.as_deref() {
            Some("status") => with_part(current, &object, "status"),
            Some("finalize") => {
                let mut finalized = (**current).clone();
                finalized["spec"]["finalizers"] = object["spec"]["finalizers"].clone();
                finalized
            }
            _ => {
                let mut object = object;
                if kind.status {
                    object = with_part(&object, current, "status");
                }
                object
            }
        };
        keep_system_fields(&mut object, current);
        if target.subresource.as_deref() != Some("finalize") {
            (kind.hooks.defaults)(&mut object);
        }
        if target.subresource.is_none() {
            (kind.hooks.admit)(self, &mut object, Some(current))?;
        }
        check(kind, &object, Some(current))?;
        if has_generation(kind) && main_part_differs(&object, current) {
            let generation = current["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            object::meta_mut(&mut object).insert("generation".into(), generation.into());
        }
        match owners {
            Some(owners) => managers = owners,
            None => managers.update(kind, current, &object, writer(target, options)),
        }
        managers.write(&mut object);
        if object == **current {
            return Ok(Self::present(kind, current));
        }
        if options.dry_run {
            return Ok(Self::present(kind, &object.into()));
        }
        let graceful = object["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(0)
            > 0;
        if object::is_terminating(&object)
            && !object::has_finalizers(&object)
            && !(kind.storage == "pods" && graceful)
        {
            let last = self.store.remove(&kind.storage, object);
            (kind.hooks.stored)(self, &last, false)?;
            return Ok(Self::present(kind, &last));
        }
        let stored = self.store.put(&kind.storage, object);
        (kind.hooks.stored)(self, &stored, true)?;
        Ok(Self::present(kind, &stored))
    }

    fn rescale(
        &self,
        target: &Target,
        current: &Object,
        scale: &Value,
        options: &WriteOptions,
    ) -> Result<Object, Status> {
        let object = subresource::with_scale(&target.kind, current, scale)?;
        let whole = Target {
            subresource: None,
            ..target.clone()
        };
        let stored = self.replace(&whole, current, object, options)?;
        subresource::scale_of(&target.kind, &stored).map(Into::into)
    }

    /// Objects can only be made in a namespace that is there and stays.
    fn check_namespace(&self, target: &Target, name: &str) -> Result<(), Status> {
        let Some(namespace) = target.namespace.as_deref().filter(|_| target.kind.namespaced) else {
            return Ok(());
        };
        match self.peek("namespaces", "", namespace) {
            None => Err(Status::not_found("", "namespaces", namespace)),
            Some(found) if object::is_terminating(&found) => {
                let why = format!(
                    "unable to create new content in namespace {namespace} because it is being terminated"
                );
                let mut status = Status::forbidden(&target.kind.group, &target.kind.plural, name, &why);
                if let Some(details) = &mut status.details {
                    details.causes.push(Cause {
                        reason: "NamespaceTerminating",
                        message: format!("namespace {namespace} is being terminated"),
                        field: "metadata.namespace".into(),
                    });
                }
                Err(status)
            }
            Some(_) => Ok(()),
        }
    }
}

/// The manager of a request.
pub(super) fn writer<'a>(target: &'a Target, options: &'a WriteOptions) -> Writer<'a> {
    Writer {
        manager: if options.field_manager.is_empty() {
            "unknown"
        } else {
            &options.field_manager
        },
        subresource: target.subresource.as_deref().unwrap_or_default(),
    }
}

/// Runs the checks of all kinds and of this kind.
fn check(kind: &Kind, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    let mut causes = Vec::new();
    validate::metadata(object, old, &mut causes);
    if let Fields::Structural(schema) = &kind.fields {
        crate::crd::check(schema, object, "", &mut causes);
    }
    (kind.hooks.validate)(object, old, &mut causes);
    if causes.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(
            &kind.group,
            &kind.kind,
            object::name(object),
            causes,
        ))
    }
}

/// Sets the namespace from the path.
pub(super) fn place(target: &Target, object: &mut Value) -> Result<(), Status> {
    let given = object::namespace(object).to_owned();
    let meta = object::meta_mut(object);
    match &target.namespace {
        None if !target.kind.namespaced => {
            meta.remove("namespace");
            Ok(())
        }
        None => Err(Status::method_not_allowed()),
        Some(namespace) if given.is_empty() || given == *namespace => {
            meta.insert("namespace".into(), namespace.as_str().into());
            Ok(())
        }
        Some(_) => Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
    }
}

/// `object` with one top-level part of another.
fn with_part(object: &Value, other: &Value, part: &str) -> Value {
    let mut out = object.clone();
    let map = object::map_mut(&mut out);
    match other.get(part) {
        Some(value) => map.insert(part.into(), value.clone()),
        None => map.remove(part),
    };
    out
}

fn keep_system_fields(object: &mut Value, current: &Value) {
    let meta = object::meta_mut(object);
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
        "generateName",
        "selfLink",
        "managedFields",
    ] {
        match current["metadata"].get(field) {
            Some(value) => meta.insert(field.into(), value.clone()),
            None => meta.remove(field),
        };
    }
    let empty: Vec<String> = meta
        .iter()
        .filter(|(key, v)| {
            matches!(key.as_str(), "labels" | "annotations")
                && v.as_object().is_some_and(serde_json::Map::is_empty)
                || key.as_str() == "finalizers" && items(v).is_empty()
        })
        .map(|(key, _)| key.clone())
        .collect();
    for key in empty {
        meta.remove(&key);
    }
    // `apiVersion` and `kind` of the stored form, so that views of one object do not fight over it.
    for field in ["apiVersion", "kind"] {
        if let Some(value) = current.get(field) {
            object::map_mut(object).insert(field.into(), value.clone());
        }
    }
}

fn main_part_differs(object: &Value, current: &Value) -> bool {
    let parts = |v: &Value| {
        let mut out = v.as_object().cloned().unwrap_or_default();
        for part in ["metadata", "status", "apiVersion", "kind"] {
            out.remove(part);
        }
        out
    };
    parts(object) != parts(current)
}

/// The kinds whose writers count generations.
fn has_generation(kind: &Kind) -> bool {
    kind.custom
        || matches!(
            kind.group.as_str(),
            "apps"
                | "networking.k8s.io"
                | "policy"
                | "scheduling.k8s.io"
                | "apiextensions.k8s.io"
                | "discovery.k8s.io"
        )
}

impl Api {
    /// Stores an object of a view of the server itself (no admission), for subresources. The writer lock is held.
    pub(super) fn put_unchecked(&self, kind: &Kind, mut object: Value) -> Result<Object, Status> {
        if object["apiVersion"].is_null() {
            stamp(kind, &mut object);
        }
        let stored = self.store.put(&kind.storage, object);
        (kind.hooks.stored)(self, &stored, true)?;
        Ok(stored)
    }
}
