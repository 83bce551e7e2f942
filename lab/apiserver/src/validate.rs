//! Checks of complete objects, in the words of Kubernetes.

use serde_json::{Value, json};

use crate::kinds::{Kind, NameRule};
use crate::object::{self, items};
use crate::status::{Cause, Status};

mod network;
mod pod;
mod service;
#[cfg(test)]
mod tests;
pub(crate) mod text;

pub(crate) use network::{endpoint_slice, endpoints, network_policy};
pub(crate) use pod::{pod, workload};
pub(crate) use service::service;

/// Checks the name of a new object.
pub(crate) fn name(kind: &Kind, object: &Value) -> Result<(), Status> {
    let name = object::name(object);
    let refuse = |cause| Err(Status::invalid(&kind.group, &kind.kind, name, vec![cause]));
    if name.is_empty() {
        return refuse(Cause::required(
            "metadata.name",
            "name or generateName is required",
        ));
    }
    let broken = match kind.name_rule {
        NameRule::Subdomain => text::subdomain(name),
        NameRule::Label => text::label(name),
        NameRule::Label1035 => text::label1035(name),
        NameRule::Path => text::path_segment(name),
    };
    match broken {
        Some(rule) => refuse(Cause::invalid("metadata.name", &name.into(), rule)),
        None => Ok(()),
    }
}

/// Checks labels, annotations and finalizers.
pub(crate) fn metadata(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let meta = &object["metadata"];
    labels(&meta["labels"], "metadata.labels", causes);
    let annotations = meta["annotations"].as_object();
    let mut size = 0;
    for (key, value) in annotations.into_iter().flatten() {
        if let Some(rule) = text::qualified_name(&key.to_lowercase()) {
            causes.push(Cause::invalid(
                "metadata.annotations",
                &key.as_str().into(),
                &rule,
            ));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > 256 * 1024 {
        causes.push(Cause {
            reason: "FieldValueTooLong",
            message: "Too long: may not be more than 262144 bytes".into(),
            field: "metadata.annotations".into(),
        });
    }
    if let Some(old) = old.filter(|o| object::is_terminating(o)) {
        let had = items(&old["metadata"]["finalizers"]);
        let added: Vec<&Value> = items(&meta["finalizers"])
            .iter()
            .filter(|f| !had.contains(f))
            .collect();
        if !added.is_empty() {
            let names = added.iter().map(|f| f.to_string()).collect::<Vec<_>>().join(", ");
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{names}}}"
            );
            causes.push(Cause::forbidden("metadata.finalizers", &detail));
        }
    }
}

/// A list of strings that breaks a rule, shown as Go prints it.
pub(crate) fn listed(field: &str, list: &[impl AsRef<str>], detail: &str) -> Cause {
    let shown: Vec<String> = list.iter().map(|s| format!("{:?}", s.as_ref())).collect();
    Cause {
        reason: "FieldValueInvalid",
        message: format!("Invalid value: []string{{{}}}: {detail}", shown.join(", ")),
        field: field.into(),
    }
}

/// Checks an address that others are sent to (`ValidateNonSpecialIP`): not the loopback, not one of a single link.
pub(super) fn address(value: &Value, field: &str, causes: &mut Vec<Cause>) {
    use std::net::IpAddr;
    let Ok(address) = value.as_str().unwrap_or_default().parse::<IpAddr>() else {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        causes.push(Cause::invalid(field, value, detail));
        return;
    };
    let (local, local_group) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    let detail = if address.is_unspecified() {
        "may not be unspecified (0.0.0.0 or ::)"
    } else if address.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)"
    } else if local {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
    } else if local_group {
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
    } else {
        return;
    };
    causes.push(Cause::invalid(field, value, detail));
}

/// Checks a map of labels.
pub(crate) fn labels(value: &Value, field: &str, causes: &mut Vec<Cause>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        if let Some(rule) = text::qualified_name(key) {
            causes.push(Cause::invalid(field, &key.as_str().into(), &rule));
        }
        if let Some(rule) = text::label_value(value.as_str().unwrap_or_default()) {
            causes.push(Cause::invalid(field, value, rule));
        }
    }
}

/// Says that a field must not change after creation.
pub(crate) fn immutable(object: &Value, old: Option<&Value>, pointer: &str, causes: &mut Vec<Cause>) {
    let Some(old) = old else { return };
    let read = |v: &Value| v.pointer(pointer).cloned().unwrap_or(Value::Null);
    let (is, was) = (read(object), read(old));
    if is != was && !was.is_null() {
        let field = pointer.trim_start_matches('/').replace('/', ".");
        causes.push(Cause::invalid(field, &is, "field is immutable"));
    }
}

pub(crate) fn node(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    for (index, taint) in items(&object["spec"]["taints"]).iter().enumerate() {
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if !taint["effect"].as_str().is_some_and(|e| effects.contains(&e)) {
            causes.push(Cause::unsupported(
                format!("spec.taints[{index}].effect"),
                &taint["effect"],
                &effects,
            ));
        }
        if let Some(rule) = text::qualified_name(taint["key"].as_str().unwrap_or_default()) {
            causes.push(Cause::invalid(
                format!("spec.taints[{index}].key"),
                &taint["key"],
                &rule,
            ));
        }
    }
    let ranges = items(&object["spec"]["podCIDRs"]);
    for (index, range) in ranges.iter().enumerate() {
        if range
            .as_str()
            .and_then(|r| r.parse::<ipnet::IpNet>().ok())
            .is_none()
        {
            causes.push(Cause::invalid(
                format!("spec.podCIDRs[{index}]"),
                range,
                "must be a valid CIDR value",
            ));
        }
    }
    let had = old.map(|o| items(&o["spec"]["podCIDRs"])).unwrap_or_default();
    if !had.is_empty() && had != ranges {
        causes.push(Cause::forbidden(
            "spec.podCIDRs",
            "node updates may not change podCIDR except from \"\" to valid",
        ));
    }
}

fn data_keys(object: &Value, field: &str, causes: &mut Vec<Cause>) -> usize {
    let mut size = 0;
    for (key, value) in object[field].as_object().into_iter().flatten() {
        if let Some(rule) = text::config_key(key) {
            causes.push(Cause::invalid(
                format!("{field}[{key}]"),
                &key.as_str().into(),
                rule,
            ));
        }
        size += value.as_str().map_or(0, str::len);
    }
    size
}

fn too_long(size: usize, causes: &mut Vec<Cause>) {
    if size > 1024 * 1024 {
        causes.push(Cause {
            reason: "FieldValueTooLong",
            message: "Too long: may not be more than 1048576 bytes".into(),
            field: "data".into(),
        });
    }
}

fn unchanged(object: &Value, old: Option<&Value>, fields: &[&str], causes: &mut Vec<Cause>) {
    let Some(old) = old.filter(|o| o["immutable"] == true) else {
        return;
    };
    if object["immutable"] != true {
        causes.push(Cause::forbidden(
            "immutable",
            "field is immutable when `immutable` is set",
        ));
    }
    for field in fields {
        if object[*field] != old[*field] {
            causes.push(Cause::forbidden(
                *field,
                "field is immutable when `immutable` is set",
            ));
        }
    }
}

pub(crate) fn config_map(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let size = data_keys(object, "data", causes) + data_keys(object, "binaryData", causes);
    for key in object["binaryData"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key)
    {
        if !object["data"][key.as_str()].is_null() {
            causes.push(Cause::invalid(
                format!("data[{key}]"),
                &key.as_str().into(),
                "duplicate of key present in binaryData",
            ));
        }
    }
    too_long(size, causes);
    unchanged(object, old, &["data", "binaryData"], causes);
}

pub(crate) fn secret(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    use base64::Engine as _;
    let size = data_keys(object, "data", causes);
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        let text = value.as_str().unwrap_or_default();
        if base64::engine::general_purpose::STANDARD.decode(text).is_err() {
            causes.push(Cause::invalid(
                format!("data[{key}]"),
                &json!("<secret contents redacted>"),
                "illegal base64 data",
            ));
        }
    }
    too_long(size, causes);
    immutable(object, old, "/type", causes);
    unchanged(object, old, &["data"], causes);
}

pub(crate) fn role_binding(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    if object["roleRef"]["name"].as_str().unwrap_or_default().is_empty() {
        causes.push(Cause::required("roleRef.name", ""));
    }
    if let Some(old) = old.filter(|o| o["roleRef"] != object["roleRef"]) {
        let _ = old;
        causes.push(Cause::invalid(
            "roleRef",
            &object["roleRef"],
            "cannot change roleRef",
        ));
    }
    for (index, subject) in items(&object["subjects"]).iter().enumerate() {
        let kinds = ["ServiceAccount", "User", "Group"];
        if !subject["kind"].as_str().is_some_and(|k| kinds.contains(&k)) {
            causes.push(Cause::unsupported(
                format!("subjects[{index}].kind"),
                &subject["kind"],
                &kinds,
            ));
        }
        if subject["kind"] == "ServiceAccount" && subject["namespace"].as_str().unwrap_or_default().is_empty()
        {
            causes.push(Cause::required(format!("subjects[{index}].namespace"), ""));
        }
    }
}
