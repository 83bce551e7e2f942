//! Events have two views of the same objects: `v1` (kept) and `events.k8s.io/v1`.

use serde_json::Value;

use crate::object::map_mut;

/// Fields of the newer view and what they are called in the older.
const NAMES: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

pub(crate) fn event(object: &mut Value) {
    let map = map_mut(object);
    map.entry("type").or_insert_with(|| "Normal".into());
    for field in ["reportingComponent", "reportingInstance"] {
        map.entry(field).or_insert_with(|| "".into());
    }
    for field in ["source", "involvedObject"] {
        map.entry(field)
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
    }
}

pub(crate) fn to_core(object: &mut Value) {
    let map = map_mut(object);
    for (new, old) in NAMES {
        if let Some(value) = map.remove(*new) {
            map.insert((*old).into(), value);
        }
    }
    map.insert("apiVersion".into(), "v1".into());
}

pub(crate) fn from_core(object: &mut Value) {
    let map = map_mut(object);
    for (new, old) in NAMES {
        if let Some(value) = map.remove(*old) {
            map.insert((*new).into(), value);
        }
    }
}
