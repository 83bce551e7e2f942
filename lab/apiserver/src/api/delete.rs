//! Deletion: grace, finalizers, preconditions.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Api, DeleteRequest, Deleted, ListRequest, Target};
use crate::auth::User;
use crate::client::Object;
use crate::object::{self, items};
use crate::status::Status;

impl Api {
    pub(crate) fn delete(
        &self,
        _user: &User,
        target: &Target,
        request: &DeleteRequest,
    ) -> Result<Deleted, Status> {
        let _writer = self.write_lock();
        let current = self.stored(target)?;
        self.check_preconditions(target, &current, request)?;
        if target.kind.storage == "namespaces"
            && ["default", "kube-system", "kube-public"].contains(&target.name())
        {
            let why = "this namespace may not be deleted";
            return Err(Status::forbidden(
                &target.kind.group,
                &target.kind.plural,
                target.name(),
                why,
            ));
        }
        let grace = grace_of(&target.kind.storage, &current, request);
        let mut object = (*current).clone();
        add_propagation_finalizer(&mut object, request.propagation_policy.as_deref());
        let waits = grace > 0 || object::has_finalizers(&object);
        if !waits {
            if request.dry_run {
                return Ok(Deleted {
                    object: current,
                    removed: true,
                });
            }
            let object = self.store.remove(&target.kind.storage, object);
            (target.kind.hooks.stored)(self, &object, false)?;
            return Ok(Deleted {
                object: Self::present(&target.kind, &object),
                removed: true,
            });
        }
        let old_grace = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
        let shorter = old_grace.is_some_and(|old| grace < old);
        if !object::is_terminating(&object) || shorter {
            let at = Timestamp::now() + SignedDuration::from_secs(grace);
            let meta = object::meta_mut(&mut object);
            meta.insert("deletionTimestamp".into(), object::time(at).into());
            meta.insert("deletionGracePeriodSeconds".into(), grace.into());
            if let Some(generation) = meta.get("generation").and_then(Value::as_i64) {
                meta.insert("generation".into(), (generation + 1).into());
            }
            if target.kind.storage == "namespaces" {
                object["status"]["phase"] = "Terminating".into();
            }
        }
        if request.dry_run || object == *current {
            return Ok(Deleted {
                object: Self::present(&target.kind, &current),
                removed: false,
            });
        }
        let object = self.store.put(&target.kind.storage, object);
        (target.kind.hooks.stored)(self, &object, true)?;
        Ok(Deleted {
            object: Self::present(&target.kind, &object),
            removed: false,
        })
    }

    /// Deletes all that match, each as if alone; objects that vanish meanwhile are no error.
    pub(crate) fn delete_collection(
        &self,
        user: &User,
        target: &Target,
        selection: &ListRequest,
        request: &DeleteRequest,
    ) -> Result<Vec<Object>, Status> {
        let page = self.list(target, selection)?;
        let mut deleted = Vec::new();
        for item in page.items {
            let one = Target {
                namespace: target
                    .kind
                    .namespaced
                    .then(|| object::namespace(&item).to_owned()),
                name: Some(object::name(&item).to_owned()),
                ..target.clone()
            };
            match self.delete(user, &one, request) {
                Ok(done) => deleted.push(done.object),
                Err(status) if status.is_not_found() => {}
                Err(status) => return Err(status),
            }
        }
        Ok(deleted)
    }

    fn check_preconditions(
        &self,
        target: &Target,
        current: &Value,
        request: &DeleteRequest,
    ) -> Result<(), Status> {
        let kind = &target.kind;
        let fail = |what: &str, asked: &str, is: &str| {
            let why =
                format!("Precondition failed: {what} in precondition: {asked}, {what} in object meta: {is}");
            Err(Status::conflict(&kind.group, &kind.plural, target.name(), &why))
        };
        let uid = object::meta(current, "uid");
        if let Some(asked) = request.uid.as_deref().filter(|asked| *asked != uid) {
            return fail("UID", asked, uid);
        }
        let version = object::meta(current, "resourceVersion");
        if let Some(asked) = request
            .resource_version
            .as_deref()
            .filter(|asked| *asked != version)
        {
            return fail("ResourceVersion", asked, version);
        }
        Ok(())
    }
}

/// Only pods have grace, and only those that a kubelet runs: their kubelet deletes them again with grace 0.
fn grace_of(storage: &str, object: &Value, request: &DeleteRequest) -> i64 {
    if storage != "pods" {
        return 0;
    }
    let scheduled = object["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty());
    let finished = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if !scheduled || finished {
        return 0;
    }
    let own = object["spec"]["terminationGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(30);
    request.grace_period_seconds.unwrap_or(own).max(0)
}

/// Records the wish for the garbage collector, as the real server does.
fn add_propagation_finalizer(object: &mut Value, policy: Option<&str>) {
    let finalizer = match policy {
        Some("Foreground") => "foregroundDeletion",
        Some("Orphan") => "orphan",
        _ => return,
    };
    if items(&object["metadata"]["finalizers"])
        .iter()
        .any(|f| f == finalizer)
    {
        return;
    }
    let list = object::meta_mut(object)
        .entry("finalizers")
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(list) = list {
        list.push(finalizer.into());
    }
}
