//! Pods and the workloads that make them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{immutable, labels, text};
use crate::object::{self, items};
use crate::selector::LabelSelector;
use crate::status::Cause;

const POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
const PULL: &[&str] = &["Always", "IfNotPresent", "Never"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const DNS: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const UPDATES: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(crate) fn pod(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    spec(&object["spec"], "spec", causes);
    let Some(old) = old else { return };
    let frozen = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        if let Some(map) = spec.as_object_mut() {
            for free in [
                "activeDeadlineSeconds",
                "tolerations",
                "schedulingGates",
                "terminationGracePeriodSeconds",
            ] {
                map.remove(free);
            }
        }
        for list in ["containers", "initContainers"] {
            for one in spec.get_mut(list).map(object::items_mut).unwrap_or_default() {
                if let Some(map) = one.as_object_mut() {
                    map.remove("image");
                }
            }
        }
        spec
    };
    if frozen(object) != frozen(old) {
        causes.push(Cause::forbidden("spec", UPDATES));
    }
}

/// Deployments, ReplicaSets, DaemonSets.
pub(crate) fn workload(object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let own = &object["spec"];
    if let Some(replicas) = own["replicas"].as_i64().filter(|n| *n < 0) {
        causes.push(Cause::invalid(
            "spec.replicas",
            &replicas.into(),
            "must be greater than or equal to 0",
        ));
    }
    let selector = &own["selector"];
    let empty = selector["matchLabels"]
        .as_object()
        .is_none_or(serde_json::Map::is_empty)
        && items(&selector["matchExpressions"]).is_empty();
    if selector.is_null() {
        causes.push(Cause::required("spec.selector", ""));
    } else if empty {
        causes.push(Cause::invalid(
            "spec.selector",
            selector,
            "empty selector is invalid for deployment",
        ));
    } else {
        labels(&selector["matchLabels"], "spec.selector.matchLabels", causes);
        let made = &own["template"]["metadata"]["labels"];
        let matches = crate::api::selector_text(selector)
            .and_then(|t| LabelSelector::parse(&t).ok())
            .is_some_and(|s| s.matches_labels(made));
        if !matches {
            let shown = if made.is_null() { json!(null) } else { made.clone() };
            let detail = "`selector` does not match template `labels`";
            causes.push(Cause::invalid("spec.template.metadata.labels", &shown, detail));
        }
    }
    immutable(object, old, "/spec/selector", causes);
    labels(
        &own["template"]["metadata"]["labels"],
        "spec.template.metadata.labels",
        causes,
    );
    let policy = &own["template"]["spec"]["restartPolicy"];
    if !policy.is_null() && policy != "Always" {
        causes.push(Cause::unsupported(
            "spec.template.spec.restartPolicy",
            policy,
            &["Always"],
        ));
    }
    spec(&own["template"]["spec"], "spec.template.spec", causes);
}

fn one_of(value: &Value, field: String, allowed: &[&str], causes: &mut Vec<Cause>) {
    if !value.is_null() && !value.as_str().is_some_and(|v| allowed.contains(&v)) {
        causes.push(Cause::unsupported(field, value, allowed));
    }
}

fn spec(spec: &Value, field: &str, causes: &mut Vec<Cause>) {
    let volumes = volumes(spec, field, causes);
    let mut names = BTreeSet::new();
    for list in ["initContainers", "containers"] {
        for (index, one) in items(&spec[list]).iter().enumerate() {
            let at = format!("{field}.{list}[{index}]");
            container(one, &at, &volumes, causes);
            if let Some(name) = one["name"].as_str().filter(|n| !names.insert((*n).to_owned())) {
                causes.push(Cause::duplicate(format!("{at}.name"), &name.into()));
            }
        }
    }
    if items(&spec["containers"]).is_empty() {
        causes.push(Cause::required(format!("{field}.containers"), ""));
    }
    one_of(
        &spec["restartPolicy"],
        format!("{field}.restartPolicy"),
        POLICIES,
        causes,
    );
    one_of(&spec["dnsPolicy"], format!("{field}.dnsPolicy"), DNS, causes);
    if let Some(grace) = spec["terminationGracePeriodSeconds"].as_i64().filter(|g| *g < 0) {
        let at = format!("{field}.terminationGracePeriodSeconds");
        causes.push(Cause::invalid(
            at,
            &grace.into(),
            "must be greater than or equal to 0",
        ));
    }
    labels(&spec["nodeSelector"], &format!("{field}.nodeSelector"), causes);
    if let Some(rule) = spec["hostname"]
        .as_str()
        .filter(|h| !h.is_empty())
        .and_then(text::label)
    {
        causes.push(Cause::invalid(
            format!("{field}.hostname"),
            &spec["hostname"],
            rule,
        ));
    }
    for (index, toleration) in items(&spec["tolerations"]).iter().enumerate() {
        let at = format!("{field}.tolerations[{index}]");
        one_of(
            &toleration["operator"],
            format!("{at}.operator"),
            &["Equal", "Exists"],
            causes,
        );
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        one_of(&toleration["effect"], format!("{at}.effect"), &effects, causes);
    }
}

/// Checks volumes and answers their names.
fn volumes(spec: &Value, field: &str, causes: &mut Vec<Cause>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (index, volume) in items(&spec["volumes"]).iter().enumerate() {
        let at = format!("{field}.volumes[{index}]");
        let name = volume["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            causes.push(Cause::required(format!("{at}.name"), ""));
        } else if let Some(rule) = text::label(name) {
            causes.push(Cause::invalid(format!("{at}.name"), &name.into(), rule));
        }
        if !names.insert(name.to_owned()) {
            causes.push(Cause::duplicate(format!("{at}.name"), &name.into()));
        }
        let sources = volume
            .as_object()
            .map_or(0, |map| map.keys().filter(|k| *k != "name").count());
        if sources > 1 {
            causes.push(Cause::forbidden(
                at.clone(),
                "may not specify more than 1 volume type",
            ));
        }
        if volume["hostPath"].is_object()
            && volume["hostPath"]["path"].as_str().unwrap_or_default().is_empty()
        {
            causes.push(Cause::required(format!("{at}.hostPath.path"), ""));
        }
        no_backstep(&volume["hostPath"]["path"], format!("{at}.hostPath.path"), causes);
        if volume["configMap"].is_object()
            && volume["configMap"]["name"]
                .as_str()
                .unwrap_or_default()
                .is_empty()
        {
            causes.push(Cause::required(format!("{at}.configMap.name"), ""));
        }
    }
    names
}

fn container(one: &Value, at: &str, volumes: &BTreeSet<String>, causes: &mut Vec<Cause>) {
    let name = one["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        causes.push(Cause::required(format!("{at}.name"), ""));
    } else if let Some(rule) = text::label(name) {
        causes.push(Cause::invalid(format!("{at}.name"), &name.into(), rule));
    }
    let image = one["image"].as_str().unwrap_or_default();
    if image.is_empty() {
        causes.push(Cause::required(format!("{at}.image"), ""));
    } else if image.trim() != image {
        causes.push(Cause::invalid(
            format!("{at}.image"),
            &image.into(),
            "must not have leading or trailing whitespace",
        ));
    }
    one_of(
        &one["imagePullPolicy"],
        format!("{at}.imagePullPolicy"),
        PULL,
        causes,
    );
    for (index, port) in items(&one["ports"]).iter().enumerate() {
        let at = format!("{at}.ports[{index}]");
        match port["containerPort"].as_i64() {
            None | Some(0) => causes.push(Cause::required(format!("{at}.containerPort"), "")),
            Some(number) => port_number(number, &format!("{at}.containerPort"), causes),
        }
        if let Some(number) = port["hostPort"].as_i64() {
            port_number(number, &format!("{at}.hostPort"), causes);
        }
        if let Some(rule) = port["name"]
            .as_str()
            .filter(|n| !n.is_empty())
            .and_then(text::port_name)
        {
            causes.push(Cause::invalid(format!("{at}.name"), &port["name"], rule));
        }
        one_of(&port["protocol"], format!("{at}.protocol"), PROTOCOLS, causes);
    }
    for (index, variable) in items(&one["env"]).iter().enumerate() {
        let name = variable["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            causes.push(Cause::required(format!("{at}.env[{index}].name"), ""));
        } else if name.contains('=') {
            let detail = "a valid environment variable name must consist only of printable ASCII characters other than '='";
            causes.push(Cause::invalid(
                format!("{at}.env[{index}].name"),
                &name.into(),
                detail,
            ));
        }
        if !variable["value"].as_str().unwrap_or_default().is_empty() && variable["valueFrom"].is_object() {
            let detail = "may not be specified when `value` is not empty";
            causes.push(Cause::invalid(
                format!("{at}.env[{index}].valueFrom"),
                &json!(""),
                detail,
            ));
        }
    }
    mounts(one, at, volumes, causes);
    for kind in ["limits", "requests"] {
        for (resource, value) in one["resources"][kind].as_object().into_iter().flatten() {
            let field = format!("{at}.resources.{kind}[{resource}]");
            match value.as_str().and_then(crate::quantity::parse) {
                None => causes.push(Cause::invalid(field, value, QUANTITY)),
                Some(n) if n < 0.0 => {
                    causes.push(Cause::invalid(field, value, "must be greater than or equal to 0"));
                }
                Some(_) => {}
            }
        }
    }
    let amount = |kind: &str, r: &str| {
        one["resources"][kind][r]
            .as_str()
            .and_then(crate::quantity::parse)
    };
    for resource in ["cpu", "memory"] {
        let (limit, request) = (amount("limits", resource), amount("requests", resource));
        if limit.zip(request).is_some_and(|(limit, request)| request > limit) {
            let limit = one["resources"]["limits"][resource].as_str().unwrap_or_default();
            let detail = format!("must be less than or equal to {resource} limit of {limit}");
            let value = &one["resources"]["requests"][resource];
            causes.push(Cause::invalid(format!("{at}.resources.requests"), value, &detail));
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if one[probe].is_object() {
            self::probe(&one[probe], &format!("{at}.{probe}"), causes);
        }
    }
}

const QUANTITY: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

fn mounts(one: &Value, at: &str, volumes: &BTreeSet<String>, causes: &mut Vec<Cause>) {
    let mut paths = BTreeSet::new();
    for (index, mount) in items(&one["volumeMounts"]).iter().enumerate() {
        let at = format!("{at}.volumeMounts[{index}]");
        let name = mount["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            causes.push(Cause::required(format!("{at}.name"), ""));
        } else if !volumes.contains(name) {
            causes.push(Cause::not_found(format!("{at}.name"), &name.into()));
        }
        let path = mount["mountPath"].as_str().unwrap_or_default();
        if path.is_empty() {
            causes.push(Cause::required(format!("{at}.mountPath"), ""));
        } else if !paths.insert(path) {
            causes.push(Cause::invalid(
                format!("{at}.mountPath"),
                &path.into(),
                "must be unique",
            ));
        }
        no_backstep(&mount["subPath"], format!("{at}.subPath"), causes);
    }
}

/// Paths that people write may not climb.
fn no_backstep(path: &Value, at: String, causes: &mut Vec<Cause>) {
    if path
        .as_str()
        .is_some_and(|text| text.split('/').any(|part| part == ".."))
    {
        causes.push(Cause::invalid(at, path, "must not contain '..'"));
    }
}

fn probe(probe: &Value, at: &str, causes: &mut Vec<Cause>) {
    let handlers = ["exec", "httpGet", "tcpSocket", "grpc"];
    match handlers.iter().filter(|h| probe[**h].is_object()).count() {
        0 => causes.push(Cause::required(at, "must specify a handler type")),
        1 => {}
        _ => causes.push(Cause::forbidden(at, "may not specify more than 1 handler type")),
    }
    for field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        if let Some(number) = probe[field].as_i64().filter(|n| *n < 0) {
            causes.push(Cause::invalid(
                format!("{at}.{field}"),
                &number.into(),
                "must be greater than or equal to 0",
            ));
        }
    }
}

/// Checks the number of a port.
pub(super) fn port_number(number: i64, field: &str, causes: &mut Vec<Cause>) {
    if !(1..=65535).contains(&number) {
        causes.push(Cause::invalid(
            field,
            &number.into(),
            "must be between 1 and 65535, inclusive",
        ));
    }
}
