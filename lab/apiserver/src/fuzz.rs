//! What the fuzz targets in `fuzz/` do with their input: here, as the parsers are private. A finding is a panic.

use std::path::Path;
use std::sync::OnceLock;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::PatchKind;
use crate::kinds::{self, Fields, Kind};
use crate::patch::{self, managed};
use crate::pki::ClientCertificate;
use crate::rest::{Query, body, path};
use crate::selector::{FieldSelector, LabelSelector};
use crate::{crd, jsonpath, kubeconfig, protobuf, quantity, schema, validate};

/// The body of a request; the first byte chooses the format. An object of a kind that we know goes the pure part of its
/// way: schema, defaults, validation, the columns of a table. Defaults leave nothing for a second time.
pub fn body(data: &[u8]) {
    let Some((format, bytes)) = data.split_first() else {
        return;
    };
    let read = match format {
        b'j' => body::parse(bytes, "application/json"),
        b'y' => body::parse(bytes, "application/yaml"),
        b'e' => protobuf::decode(bytes),
        _ => body::parse(bytes, "application/vnd.kubernetes.protobuf"),
    };
    let Ok(mut object) = read else { return };
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let name = object["kind"].as_str().unwrap_or_default();
    let kind = builtin()
        .iter()
        .find(|kind| kind.kind == name && kind.api_version() == version);
    if let Some(kind) = kind {
        admit(kind, &mut object);
    }
}

/// The table of kinds, made once.
fn builtin() -> &'static [Kind] {
    static KINDS: OnceLock<Vec<Kind>> = OnceLock::new();
    KINDS.get_or_init(kinds::builtin)
}

/// What happens to a new object without a look at others; whether it would be stored.
fn admit(kind: &Kind, object: &mut Value) -> bool {
    let decoded = match &kind.fields {
        Fields::Builtin(types) => schema::decode(types, object),
        Fields::Structural(schema) => crd::decode(schema, object),
    };
    if decoded.is_err() {
        return false;
    }
    (kind.hooks.to_stored)(object);
    (kind.hooks.defaults)(object);
    let once = object.clone();
    (kind.hooks.defaults)(object);
    assert_eq!(*object, once, "defaults that are not final");
    let mut causes = Vec::new();
    validate::metadata(object, None, &mut causes);
    if let Fields::Structural(schema) = &kind.fields {
        crd::check(schema, object, "", &mut causes);
    }
    (kind.hooks.validate)(object, None, &mut causes);
    (kind.hooks.validate)(object, Some(&once), &mut Vec::new());
    let good = validate::name(kind, object).is_ok() && causes.is_empty();
    (kind.hooks.from_stored)(object);
    kind.printer.cells(object, Timestamp::UNIX_EPOCH);
    good
}

/// A patch on the second line onward against the object on the first; the first byte chooses the format. What comes
/// out is an object.
pub fn patch(data: &[u8]) {
    let Some((format, rest)) = data.split_first() else {
        return;
    };
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
        return;
    };
    let (object, patch) = rest.split_at(end);
    let (Ok(object), Ok(patch)) = (
        serde_json::from_slice::<Value>(object),
        serde_json::from_slice::<Value>(patch),
    ) else {
        return;
    };
    if !object.is_object() {
        return;
    }
    let kind = match format {
        b'j' => PatchKind::Json,
        b'm' => PatchKind::Merge,
        b's' => PatchKind::Strategic,
        _ => PatchKind::Apply { force: false },
    };
    let types = schema::of_kind("v1", "Pod");
    match patch::apply(kind, types, object, &patch) {
        Ok(after) => assert!(after.is_object(), "no object any more"),
        Err(status) => assert!(matches!(status.code, 400 | 422), "an unknown refusal"),
    }
}

/// The small languages: a label selector, a field selector, a JSONPath and a quantity, one a line.
pub fn selector(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let object = json!({
        "metadata": {"name": "a", "namespace": "b", "labels": {"app": "web", "tier": "1"}},
        "spec": {"nodeName": "kind-worker", "list": [{"type": "Ready", "status": "True"}, {"type": "x"}]},
    });
    for line in text.lines() {
        if let Ok(selector) = LabelSelector::parse(line) {
            selector.matches(&object);
        }
        if let Ok(selector) = FieldSelector::parse(line, &["spec.nodeName"]) {
            selector.matches(&object);
        }
        if let Some(path) = jsonpath::Path::parse(line) {
            path.first(&object);
        }
        let _ = quantity::parse(line);
    }
}

/// The path and the query of a request.
pub fn path(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (path, query) = text.split_once('?').unwrap_or((&text, ""));
    let _ = path::parse(path);
    let query = Query::parse(query);
    let _ = (
        query.number("limit"),
        query.revision("resourceVersion"),
        query.flag("watch"),
    );
}

/// A kubeconfig that the lab's context is added to: still one afterwards, and the same when it is added twice.
pub fn kubeconfig(data: &[u8]) {
    let entry = kubeconfig::Entry {
        context: "kind-kind".to_owned(),
        server: "https://127.0.0.1:6443".to_owned(),
        ca_certificate: "ca".to_owned(),
        client: ClientCertificate {
            certificate: "certificate".to_owned(),
            key: "key".to_owned(),
        },
    };
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let path = Path::new("kubeconfig");
    let Ok(once) = kubeconfig::merged(path, text, &entry) else {
        return;
    };
    assert_eq!(
        kubeconfig::merged(path, &once, &entry).ok(),
        Some(once),
        "changed when merged twice"
    );
}

/// The JSON documents of an input, one a line; `None` when one is no object.
fn objects(data: &[u8]) -> Option<Vec<Value>> {
    data.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).ok().filter(Value::is_object))
        .collect()
}

/// Server-side apply: an object on the first line, then configurations, applied one after the other by two managers in
/// turn; the first byte chooses the kind. Applied again, a configuration changes nothing, and the record of who applied
/// what is that of everybody once.
pub fn managed(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let name = match kind {
        b'p' => "Pod",
        b's' => "Service",
        b'n' => "Node",
        _ => "Deployment",
    };
    let (Some(kind), Some(lines)) = (builtin().iter().find(|kind| kind.kind == name), objects(rest)) else {
        return;
    };
    let Fields::Builtin(types) = kind.fields else {
        return;
    };
    let decoded = |mut object: Value| schema::decode(types, &mut object).ok().map(|_| object);
    let mut lines = lines.into_iter().filter_map(decoded);
    let Some(mut object) = lines.next() else { return };
    for (manager, config) in ["one", "two"].into_iter().cycle().zip(lines) {
        let writer = managed::Writer {
            manager,
            subresource: "",
        };
        // Without force it may be refused, and says so.
        let _ = managed::apply(kind, &object, &config, writer, false);
        let apply = |before: Value| {
            let (mut after, owners) = managed::apply(kind, &before, &config, writer, true).ok()?;
            schema::decode(types, &mut after).ok()?;
            owners.write(&mut after);
            Some(after)
        };
        let Some(once) = apply(object) else { return };
        assert_eq!(
            apply(once.clone()).as_ref(),
            Some(&once),
            "changed when applied twice"
        );
        object = once;
    }
}

/// A CustomResourceDefinition on the first line and objects on the others. A definition that would be stored is served,
/// and every object is pruned, filled in and checked by each of its schemas: once and for all.
pub fn definition(data: &[u8]) {
    let Some(lines) = objects(data) else { return };
    let mut lines = lines.into_iter();
    let (Some(mut definition), Some(of_definitions)) = (
        lines.next(),
        builtin()
            .iter()
            .find(|kind| kind.kind == "CustomResourceDefinition"),
    ) else {
        return;
    };
    if !admit(of_definitions, &mut definition) {
        return;
    }
    let served = crd::rows(&definition);
    for object in lines {
        for kind in &served {
            let mut pruned = object.clone();
            if !admit(kind, &mut pruned) {
                continue;
            }
            let Fields::Structural(schema) = &kind.fields else {
                continue;
            };
            let mut again = pruned.clone();
            let unknown = crd::decode(schema, &mut again);
            assert_eq!(unknown, Ok(Vec::new()), "pruned and still unknown");
            assert_eq!(again, pruned, "changed when read again");
        }
    }
}
