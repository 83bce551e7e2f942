//! What the fuzz targets in `fuzz/` do with their input: here, as the parsers are private. A finding is a panic.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;

use crate::env::Env;
use crate::{catalogue, cni, crun, downward, logs, mounts};

/// A log file in the CRI format; the first byte chooses what is asked of it.
pub fn log(data: &[u8]) {
    let Some((wish, content)) = data.split_first() else {
        return;
    };
    let limit = usize::from(*wish);
    let start = logs::tail_start(content, usize::from(wish % 8));
    assert!(start <= content.len(), "starts behind the end");
    let options = logs::Options {
        timestamps: wish % 2 == 1,
        limit: Some(limit),
        ..logs::Options::default()
    };
    let (mut printer, mut out) = (logs::Printer::new(options), Vec::new());
    let tail = content.get(start..).unwrap_or_default();
    for line in tail.split(|byte| *byte == b'\n').filter_map(logs::parse) {
        printer.print(&line, &mut out);
    }
    assert!(out.len() <= limit, "more than the limit");
}

/// An image reference, a text with `$(NAME)` and a quantity, each line as all three. A full image name stays as it is.
pub fn text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut env = Env::default();
    env.set("NAME", "value".to_owned());
    for line in text.lines() {
        if let Some(name) = catalogue::normalise(line) {
            assert!(name.contains('/'), "a name without a registry");
        }
        let expanded = env.expand(line);
        assert!(line.contains('$') || expanded == line, "changed without a dollar");
        let _ = downward::milli(&Quantity(line.to_owned()));
    }
}

/// The kernel's table of mounts.
pub fn proc(data: &[u8]) {
    assert!(
        mounts::points(data).count() <= data.len() + 1,
        "more mounts than lines"
    );
}

/// What the administrator of the network and its plugins write; the first byte says which: a configuration, the result
/// of an attachment, or what a plugin printed before it failed.
pub fn cni(data: &[u8]) {
    let Some((kind, text)) = data.split_first() else {
        return;
    };
    match kind {
        b'c' => {
            if let Ok(network) = cni::parse(text) {
                assert!(!network.name.is_empty(), "a network without a name");
                // The sandbox's state keeps the network over a restart of the kubelet.
                let again = serde_json::to_vec(&network)
                    .ok()
                    .and_then(|text| serde_json::from_slice(&text).ok());
                // serde_json reads long fractions one bit off, as its feature `float_roundtrip` is off.
                if !serde_json::from_slice(text).is_ok_and(|value| has_fractions(&value)) {
                    assert_eq!(again, Some(network), "read back differently");
                }
            }
        }
        b'r' => {
            if let Ok(result) = serde_json::from_slice(text) {
                let _ = cni::addresses(&result);
            }
        }
        _ => {
            let _ = cni::error_message(text, text);
        }
    }
}

fn has_fractions(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(list) => list.iter().any(has_fractions),
        Value::Object(map) => map.values().any(has_fractions),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

/// What the OCI runtime prints: its list of containers, or its log.
pub fn runtime(data: &[u8]) {
    if let Ok(list) = crun::parse_list(data) {
        assert!(list.len() <= data.len(), "more containers than bytes");
    }
    let text = String::from_utf8_lossy(data);
    if let Some(error) = crun::last_error_in(&text) {
        assert!(error.len() <= text.len(), "an error that nobody wrote");
    }
}
