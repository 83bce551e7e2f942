//! Who owns whom, and what follows from it. Pure.

use std::collections::{BTreeSet, HashMap};

use lab_apiserver::Resource;
use serde_json::Value;

use crate::controllers::Key;
use crate::controllers::common::key_of;

/// Finalizer of an object that goes after its dependents.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an object that goes without its dependents.
pub(crate) const ORPHAN: &str = "orphan";

/// An object as the collector knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) uid: String,
    pub(crate) resource: Resource,
    pub(crate) key: Key,
    pub(crate) owners: Vec<Owner>,
    deleting: bool,
    foreground: bool,
    orphan: bool,
}

/// A reference to an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: String,
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    /// The owner waits for this dependent
    pub(crate) blocks: bool,
}

impl Entry {
    /// Reads an object; `None` if it has no uid.
    pub(crate) fn of(resource: &Resource, object: &Value) -> Option<Self> {
        let meta = &object["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let owners = meta["ownerReferences"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|owner| Owner {
                uid: text(&owner["uid"]),
                api_version: text(&owner["apiVersion"]),
                kind: text(&owner["kind"]),
                name: text(&owner["name"]),
                blocks: owner["blockOwnerDeletion"] == true,
            });
        let finalizer = |name: &str| {
            meta["finalizers"]
                .as_array()
                .is_some_and(|list| list.iter().any(|f| f == name))
        };
        Some(Self {
            uid: meta["uid"].as_str()?.to_owned(),
            resource: resource.clone(),
            key: key_of(object),
            owners: owners.collect(),
            deleting: !meta["deletionTimestamp"].is_null(),
            foreground: finalizer(FOREGROUND),
            orphan: finalizer(ORPHAN),
        })
    }

    /// Whether this owner waits for the object.
    pub(crate) fn blocks(&self, owner: &str) -> bool {
        self.owners
            .iter()
            .any(|reference| reference.uid == owner && reference.blocks)
    }

    fn waits_for_dependents(&self) -> bool {
        self.deleting && self.foreground
    }
}

/// What to do about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing.
    Nothing,
    /// Delete it with this propagation.
    Delete(&'static str),
    /// Take these owners out of its references.
    RemoveOwners(Vec<String>),
    /// Take it out of its dependents' references, and then the finalizer off it.
    Orphan,
    /// Its dependents are gone: take the finalizer off it.
    Release,
}

/// All objects that are known.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    entries: HashMap<String, Entry>,
    dependents: HashMap<String, BTreeSet<String>>,
}

impl Graph {
    /// Whether there is an object with this uid.
    pub(crate) fn contains(&self, uid: &str) -> bool {
        self.entries.contains_key(uid)
    }

    /// The object with this uid.
    pub(crate) fn get(&self, uid: &str) -> Option<&Entry> {
        self.entries.get(uid)
    }

    /// Objects that name this one as an owner.
    fn dependents(&self, uid: &str) -> impl Iterator<Item = &Entry> {
        self.dependents
            .get(uid)
            .into_iter()
            .flatten()
            .filter_map(|uid| self.entries.get(uid))
    }

    /// Takes an object in; answers whom to look at because of it.
    pub(crate) fn put(&mut self, entry: Entry) -> Vec<String> {
        let uid = entry.uid.clone();
        let known = self.entries.get(&uid).cloned();
        let mut affected = Vec::new();
        if let Some(known) = &known {
            if *known == entry {
                return affected;
            }
            self.unlink(known);
            // An owner that waits may have waited for this reference.
            affected.extend(known.owners.iter().map(|owner| owner.uid.clone()));
        }
        for owner in &entry.owners {
            self.dependents
                .entry(owner.uid.clone())
                .or_default()
                .insert(uid.clone());
        }
        if entry.waits_for_dependents() {
            affected.extend(self.dependents(&uid).map(|dependent| dependent.uid.clone()));
        }
        if !entry.owners.is_empty() || entry.deleting {
            affected.push(uid.clone());
        }
        self.entries.insert(uid, entry);
        affected
    }

    /// Forgets an object; answers whom to look at because of it.
    pub(crate) fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(entry) = self.entries.remove(uid) else {
            return Vec::new();
        };
        self.unlink(&entry);
        let owners = entry.owners.into_iter().map(|owner| owner.uid);
        let dependents = self.dependents.get(uid).into_iter().flatten().cloned();
        owners.chain(dependents).collect()
    }

    /// Forgets the objects of a resource that are not in `uids`; answers whom to look at because of it.
    pub(crate) fn retain(&mut self, resource: &Resource, uids: &[String]) -> Vec<String> {
        let kept: BTreeSet<&String> = uids.iter().collect();
        let gone: Vec<String> = self
            .entries
            .values()
            .filter(|entry| entry.resource == *resource && !kept.contains(&entry.uid))
            .map(|entry| entry.uid.clone())
            .collect();
        gone.iter().flat_map(|uid| self.remove(uid)).collect()
    }

    fn unlink(&mut self, entry: &Entry) {
        for owner in &entry.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(&entry.uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    /// What to do about an object, if the owners in `absent` are known to be gone.
    pub(crate) fn decide(&self, uid: &str, absent: &[String]) -> Action {
        let Some(entry) = self.entries.get(uid) else {
            return Action::Nothing;
        };
        if entry.deleting {
            return if entry.orphan {
                Action::Orphan
            } else if entry.foreground && !self.is_blocked(uid) {
                Action::Release
            } else {
                Action::Nothing
            };
        }
        if entry.owners.is_empty() {
            return Action::Nothing;
        }
        let is_absent = |owner: &Owner| absent.contains(&owner.uid);
        let waits = |owner: &Owner| {
            self.entries
                .get(&owner.uid)
                .is_some_and(Entry::waits_for_dependents)
        };
        let (leaving, staying): (Vec<&Owner>, Vec<&Owner>) = entry
            .owners
            .iter()
            .partition(|owner| is_absent(owner) || waits(owner));
        if leaving.is_empty() {
            Action::Nothing
        } else if !staying.is_empty() {
            Action::RemoveOwners(leaving.iter().map(|owner| owner.uid.clone()).collect())
        } else if leaving.iter().any(|owner| waits(owner)) && self.dependents.contains_key(uid) {
            // Its own dependents go first, as with the owner.
            Action::Delete("Foreground")
        } else {
            Action::Delete("Background")
        }
    }

    /// Whether a dependent is there that its owner waits for.
    fn is_blocked(&self, uid: &str) -> bool {
        self.dependents(uid).any(|entry| entry.blocks(uid))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(uid: &str, owners: &[&str], finalizer: Option<&str>) -> Entry {
        let owners: Vec<Value> = owners
            .iter()
            .map(|uid| json!({"uid": uid, "kind": "K", "apiVersion": "v1", "name": uid, "blockOwnerDeletion": true}))
            .collect();
        let mut object =
            json!({"metadata": {"name": uid, "namespace": "n", "uid": uid, "ownerReferences": owners}});
        if let Some(finalizer) = finalizer {
            object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            object["metadata"]["finalizers"] = json!([finalizer]);
        }
        Entry::of(&Resource::core("things"), &object).unwrap()
    }

    fn graph(entries: &[Entry]) -> Graph {
        let mut graph = Graph::default();
        for entry in entries {
            graph.put(entry.clone());
        }
        graph
    }

    #[test]
    fn dependents_follow_their_owners() {
        let absent = |uids: &[&str]| uids.iter().map(|uid| (*uid).to_owned()).collect::<Vec<_>>();
        let there = object("owner", &[], None);
        let waiting = object("owner", &[], Some(FOREGROUND));
        let other = object("other", &[], None);
        let child = |owners: &[&str]| object("child", owners, None);
        for (entries, gone, expected) in [
            (vec![there.clone(), child(&["owner"])], vec![], Action::Nothing),
            (vec![child(&["owner"])], vec![], Action::Nothing),
            (
                vec![child(&["owner"])],
                absent(&["owner"]),
                Action::Delete("Background"),
            ),
            (
                vec![other.clone(), child(&["owner", "other"])],
                absent(&["owner"]),
                Action::RemoveOwners(absent(&["owner"])),
            ),
            (
                vec![waiting.clone(), child(&["owner"])],
                vec![],
                Action::Delete("Background"),
            ),
            (
                vec![
                    waiting.clone(),
                    child(&["owner"]),
                    object("grandchild", &["child"], None),
                ],
                vec![],
                Action::Delete("Foreground"),
            ),
            (
                vec![waiting, other, child(&["owner", "other"])],
                vec![],
                Action::RemoveOwners(absent(&["owner"])),
            ),
            (vec![child(&[])], vec![], Action::Nothing),
            (
                vec![there, object("child", &["owner"], Some("example.com/x"))],
                vec![],
                Action::Nothing,
            ),
        ] {
            assert_eq!(graph(&entries).decide("child", &gone), expected, "{entries:#?}");
        }
    }

    #[test]
    fn owners_wait_or_let_go() {
        let child = object("child", &["owner"], None);
        for (finalizer, entries, expected) in [
            (FOREGROUND, vec![child.clone()], Action::Nothing),
            (FOREGROUND, vec![], Action::Release),
            (ORPHAN, vec![child], Action::Orphan),
            (ORPHAN, vec![], Action::Orphan),
        ] {
            let mut graph = graph(&entries);
            graph.put(object("owner", &[], Some(finalizer)));
            assert_eq!(graph.decide("owner", &[]), expected, "{finalizer} {entries:?}");
        }
    }

    #[test]
    fn changes_wake_those_they_concern() {
        let mut graph = graph(&[object("owner", &[], None), object("child", &["owner"], None)]);
        assert_eq!(graph.put(object("child", &["owner"], None)), [""; 0]);
        assert_eq!(
            graph.put(object("owner", &[], Some(FOREGROUND))),
            ["child", "owner"]
        );
        assert_eq!(graph.put(object("child", &[], None)), ["owner"]);
        assert_eq!(graph.decide("owner", &[]), Action::Release);
        graph.put(object("child", &["owner"], None));
        assert_eq!(graph.remove("owner"), ["child"]);
        assert_eq!(graph.remove("owner"), [""; 0]);
        assert_eq!(graph.retain(&Resource::core("things"), &[]), ["owner"]);
        assert!(graph.entries.is_empty() && graph.dependents.is_empty());
        assert_eq!(graph.decide("child", &[]), Action::Nothing);
    }
}
