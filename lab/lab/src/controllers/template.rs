//! Pods out of templates, and the hash by which a template is recognised.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Value, json};

/// The letters of Kubernetes' hashes: no vowels, so no words, and nothing that looks like something else.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A short name of a template: equal templates have equal ones. Stable across runs, but not the number that
/// Kubernetes would compute (that hashes Go's view of the object).
pub(crate) fn hash(template: &PodTemplateSpec) -> String {
    let value = serde_json::to_value(template).unwrap_or_default();
    let mut state = FNV_OFFSET;
    hash_value(&value, &mut state);
    safe_text(state, 10)
}

/// A short name made of arbitrary text.
pub(crate) fn short_hash(text: &str, letters: usize) -> String {
    let mut state = FNV_OFFSET;
    hash_bytes(text.as_bytes(), &mut state);
    safe_text(state, letters)
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, 64 bits.
fn hash_bytes(bytes: &[u8], state: &mut u64) {
    for byte in bytes {
        *state = (*state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
}

/// Hashes a value independent of the order in which its keys are kept.
fn hash_value(value: &Value, state: &mut u64) {
    match value {
        Value::Object(map) => {
            hash_bytes(b"{", state);
            for (key, value) in map.iter().collect::<BTreeMap<_, _>>() {
                hash_bytes(key.as_bytes(), state);
                hash_bytes(b"\0", state);
                hash_value(value, state);
            }
            hash_bytes(b"}", state);
        }
        Value::Array(list) => {
            hash_bytes(b"[", state);
            list.iter().for_each(|value| hash_value(value, state));
            hash_bytes(b"]", state);
        }
        scalar => {
            hash_bytes(scalar.to_string().as_bytes(), state);
            hash_bytes(b"\0", state);
        }
    }
}

fn safe_text(mut number: u64, letters: usize) -> String {
    let mut text = String::with_capacity(letters);
    for _ in 0..letters {
        let index = usize::try_from(number % 27).unwrap_or_default();
        text.push(ALPHABET.get(index).copied().unwrap_or(b'b').into());
        number /= 27;
    }
    text
}

/// A pod as a template says, to be created under a name that starts with `prefix`.
pub(crate) fn pod(template: &PodTemplateSpec, prefix: &str, owner: &Value, labels: &[(&str, &str)]) -> Value {
    let meta = template.metadata.clone().unwrap_or_default();
    let mut all_labels = meta.labels.unwrap_or_default();
    all_labels.extend(
        labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
    );
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": format!("{prefix}-"),
            "labels": all_labels,
            "ownerReferences": [owner],
        },
        "spec": template.spec,
    });
    if let Some(annotations) = meta.annotations {
        pod["metadata"]["annotations"] = json!(annotations);
    }
    if let Some(finalizers) = meta.finalizers {
        pod["metadata"]["finalizers"] = json!(finalizers);
    }
    pod
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": image}]},
        }))
        .unwrap()
    }

    #[test]
    fn equal_templates_and_no_others_have_equal_hashes() {
        assert_eq!(hash(&template("a")), hash(&template("a")));
        assert_ne!(hash(&template("a")), hash(&template("b")));
        assert!(
            hash(&template("a"))
                .bytes()
                .all(|letter| ALPHABET.contains(&letter))
        );
    }

    #[test]
    fn borders_between_parts_count() {
        let hash = |value: Value| {
            let mut state = FNV_OFFSET;
            hash_value(&value, &mut state);
            state
        };
        assert_ne!(hash(json!(["ab", "c"])), hash(json!(["a", "bc"])));
        assert_ne!(hash(json!([["a"], "b"])), hash(json!([["a", "b"]])));
        assert_ne!(hash(json!({"a": "bc"})), hash(json!({"ab": "c"})));
        assert_ne!(hash(json!("1")), hash(json!(1)));
        assert_eq!(hash(json!({"a": 1, "b": 2})), hash(json!({"b": 2, "a": 1})));
    }

    #[test]
    fn pods_carry_the_template_the_owner_and_the_extra_labels() {
        let pod = pod(
            &template("a"),
            "web-1",
            &json!({"name": "owner"}),
            &[("pod-template-hash", "x")],
        );
        assert_eq!(pod["metadata"]["generateName"], "web-1-");
        assert_eq!(
            pod["metadata"]["labels"],
            json!({"app": "web", "pod-template-hash": "x"})
        );
        assert_eq!(pod["metadata"]["ownerReferences"], json!([{"name": "owner"}]));
        assert_eq!(pod["spec"]["containers"][0]["image"], "a");
    }
}
