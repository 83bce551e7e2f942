use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

#[derive(Clone, Debug)]
enum Write {
    Put(usize, u8),
    Remove(usize),
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        (0..6_usize, any::<u8>()).prop_map(|(n, v)| Write::Put(n, v)),
        (0..6_usize).prop_map(Write::Remove)
    ]
}

fn object(n: usize, value: u8) -> Value {
    json!({"metadata": {"name": format!("o{n}"), "namespace": if n < 3 { "a" } else { "b" }}, "value": value})
}

fn apply(store: &Store, write: &Write) {
    match write {
        Write::Put(n, value) => {
            store.put("things", object(*n, *value));
        }
        Write::Remove(n) => {
            store.remove("things", object(*n, 0));
        }
    }
}

fn state(store: &Store) -> BTreeMap<Key, Object> {
    store
        .list("things", None)
        .0
        .into_iter()
        .map(|o| (Key::of(&o), o))
        .collect()
}

/// Reads everything after `from`, batch by batch, and applies it.
fn replay(store: &Store, mut state: BTreeMap<Key, Object>, mut from: u64) -> BTreeMap<Key, Object> {
    let mut last = from;
    loop {
        let (changes, next) = store.changes("things", from).unwrap();
        if changes.is_empty() {
            assert_eq!(next, store.revision());
            return state;
        }
        for change in changes {
            assert!(change.revision > last, "each change once, in order");
            last = change.revision;
            let before = match &change.after {
                Some(after) => state.insert(Key::of(after), after.clone()),
                None => state.remove(&Key::of(&change.last)),
            };
            assert_eq!(
                before, change.before,
                "the state before is the one that the watcher has"
            );
        }
        from = next;
    }
}

proptest! {
    /// List, then watch from its revision: the same state as a later list, whatever was written in between.
    #[test]
    fn list_and_replay_is_list(
        before in proptest::collection::vec(write(), 0..40),
        after in proptest::collection::vec(write(), 0..400),
    ) {
        let store = Store::new(100, 1000);
        for write in &before {
            apply(&store, write);
        }
        let (listed, revision) = (state(&store), store.revision());
        for write in &after {
            apply(&store, write);
        }
        prop_assert_eq!(replay(&store, listed, revision), state(&store));
        prop_assert_eq!(replay(&store, BTreeMap::new(), 100), state(&store));
    }

    /// With a small history a watcher sees all changes after its revision or is told that it cannot.
    #[test]
    fn forgotten_history_is_never_silent(
        writes in proptest::collection::vec(write(), 0..60),
        history in 1..8_usize,
        start in 0..60_usize,
    ) {
        let store = Store::new(1, history);
        let mut snapshots = vec![(store.revision(), state(&store))];
        for write in &writes {
            apply(&store, write);
            snapshots.push((store.revision(), state(&store)));
        }
        let (revision, listed) = snapshots[start.min(writes.len())].clone();
        match store.changes("things", revision) {
            Ok(_) => prop_assert_eq!(replay(&store, listed, revision), state(&store)),
            Err(status) => {
                prop_assert!(status.is_expired());
                prop_assert!(store.revision() - revision > history as u64, "still remembered");
            }
        }
    }
}

#[test]
fn namespaces_are_ranges_of_keys() {
    let store = Store::new(1, 10);
    for n in 0..6 {
        store.put("things", object(n, 0));
    }
    assert_eq!(store.list("things", Some("a")).0.len(), 3);
    assert_eq!(store.list("things", Some("b")).0.len(), 3);
    assert_eq!(store.list("things", Some("")).0.len(), 0);
    assert_eq!(store.list("others", None).0.len(), 0);
}

#[test]
fn a_revision_of_the_future_or_of_an_earlier_run_is_expired() {
    let store = Store::new(1000, 10);
    store.put("things", object(0, 0));
    for (resource, from) in [("things", 5000), ("things", 3), ("others", 3)] {
        assert!(
            store.changes(resource, from).is_err_and(|s| s.is_expired()),
            "{resource} {from}"
        );
    }
}

#[test]
fn removing_what_is_not_there_changes_nothing() {
    let store = Store::new(1, 10);
    store.remove("things", object(0, 0));
    assert_eq!(store.revision(), 1);
}
