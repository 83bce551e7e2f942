//! What the fuzz targets in `fuzz/` do with their input: here, as the parsers are private. A finding is a panic.

use serde_json::{Value, json};

use crate::api::PatchKind;
use crate::jsonpath;
use crate::patch;
use crate::pki::ClientCertificate;
use crate::rest::{Query, body, path};
use crate::selector::{FieldSelector, LabelSelector};
use crate::{kubeconfig, protobuf, quantity, schema};

/// The body of a request; the first byte chooses the format. An object of a kind that we know is held to its schema.
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
    let types = schema::of_kind(version, object["kind"].as_str().unwrap_or_default());
    if let Some(types) = types {
        let _ = schema::decode(types, &mut object);
    }
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
    let Ok(once) = kubeconfig::merged(text, &entry) else {
        return;
    };
    assert_eq!(
        kubeconfig::merged(&once, &entry).ok(),
        Some(once),
        "changed when merged twice"
    );
}
