//! Subresources that are not a part of the object itself: binding, eviction, token, scale.

use serde_json::{Value, json};

use super::{Api, DeleteRequest, Target, WriteOptions, Written};
use crate::auth::User;
use crate::kinds::Kind;
use crate::object::{self, items};
use crate::selector::LabelSelector;
use crate::status::{Cause, Status};

/// POST to a subresource.
pub(super) fn create(
    api: &Api,
    user: &User,
    target: &Target,
    body: Value,
    options: &WriteOptions,
) -> Result<Written, Status> {
    if !body.is_object() || !(body["metadata"].is_null() || body["metadata"].is_object()) {
        return Err(Status::bad_request("the body of the request is not an object"));
    }
    let object = match (target.kind.storage.as_str(), target.subresource.as_deref()) {
        ("pods", Some("binding")) => bind(api, target, &body, options)?,
        ("pods", Some("eviction")) => evict(api, user, target, &body, options)?,
        ("serviceaccounts", Some("token")) => token(api, target, body)?,
        _ => return Err(Status::method_not_allowed()),
    };
    Ok(Written {
        object: object.into(),
        created: true,
        warnings: Vec::new(),
    })
}

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}

fn bind(api: &Api, target: &Target, body: &Value, options: &WriteOptions) -> Result<Value, Status> {
    let Some(node) = body["target"]["name"].as_str().filter(|n| !n.is_empty()) else {
        return Err(Status::invalid(
            "",
            "Binding",
            target.name(),
            vec![Cause::required("target.name", "")],
        ));
    };
    let _writer = api.write_lock();
    let current = api.stored(target)?;
    if object::is_terminating(&current) {
        let why = format!(
            "pod {} is being deleted, cannot be assigned to a host",
            target.name()
        );
        return Err(Status::conflict("", "pods/binding", target.name(), &why));
    }
    if let Some(assigned) = current["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
        let why = format!("pod {} is already assigned to node {assigned:?}", target.name());
        return Err(Status::conflict("", "pods/binding", target.name(), &why));
    }
    let mut pod = (*current).clone();
    pod["spec"]["nodeName"] = node.into();
    set_condition(
        &mut pod,
        json!({
            "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": object::now(),
        }),
    );
    if !options.dry_run {
        api.put_unchecked(&target.kind, pod)?;
    }
    Ok(success())
}

fn set_condition(object: &mut Value, condition: Value) {
    let status = object::map_mut(&mut object["status"]);
    let list = status
        .entry("conditions")
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(list) = list {
        list.retain(|c| c["type"] != condition["type"]);
        list.push(condition);
    }
}

/// Deletes a pod unless a PodDisruptionBudget that selects it has no disruption left.
fn evict(
    api: &Api,
    user: &User,
    target: &Target,
    body: &Value,
    options: &WriteOptions,
) -> Result<Value, Status> {
    let pod = api.stored(target)?;
    let (budgets, _) = api
        .store
        .list("poddisruptionbudgets.policy", target.namespace.as_deref());
    let selecting = budgets.iter().find(|budget| {
        selector_text(&budget["spec"]["selector"])
            .and_then(|text| LabelSelector::parse(&text).ok())
            .is_some_and(|selector| selector.matches(&pod))
    });
    if let Some(budget) = selecting.filter(|b| b["status"]["disruptionsAllowed"].as_i64().unwrap_or(0) < 1) {
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        let mut status = Status::too_many_requests(message, 10);
        if let Some(details) = &mut status.details {
            details.causes.push(Cause {
                reason: "DisruptionBudget",
                message: format!(
                    "The disruption budget {} does not allow a disruption now",
                    object::name(budget)
                ),
                field: String::new(),
            });
        }
        return Err(status);
    }
    let wish = &body["deleteOptions"];
    let request = DeleteRequest {
        grace_period_seconds: wish["gracePeriodSeconds"].as_i64(),
        uid: wish["preconditions"]["uid"].as_str().map(str::to_owned),
        resource_version: wish["preconditions"]["resourceVersion"]
            .as_str()
            .map(str::to_owned),
        propagation_policy: wish["propagationPolicy"].as_str().map(str::to_owned),
        dry_run: options.dry_run,
    };
    let whole = Target {
        subresource: None,
        ..target.clone()
    };
    api.delete(user, &whole, &request)?;
    Ok(success())
}

/// TokenRequest: a signed token for a service account, bound to a pod when the request says so.
fn token(api: &Api, target: &Target, mut body: Value) -> Result<Value, Status> {
    let account = api.stored(target)?;
    let spec = body["spec"].clone();
    let audiences: Vec<String> = items(&spec["audiences"])
        .iter()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(3600);
    if seconds < 600 {
        let detail = "may not specify a duration less than 10 minutes";
        let cause = Cause::invalid("spec.expirationSeconds", &seconds.into(), detail);
        return Err(Status::invalid(
            "authentication.k8s.io",
            "TokenRequest",
            target.name(),
            vec![cause],
        ));
    }
    let pod = &spec["boundObjectRef"];
    let bound = match (pod["kind"].as_str(), pod["name"].as_str()) {
        (Some("Pod"), Some(name)) => {
            let found = api
                .peek("pods", object::namespace(&account), name)
                .ok_or_else(|| Status::not_found("", "pods", name))?;
            if pod["uid"]
                .as_str()
                .is_some_and(|uid| !uid.is_empty() && uid != object::meta(&found, "uid"))
            {
                let why = format!(
                    "the UID in the bound object reference ({}) does not match the UID in record. \
                     The object might have been deleted and then recreated",
                    pod["uid"].as_str().unwrap_or_default()
                );
                return Err(Status::conflict("", "pods", name, &why));
            }
            Some((name.to_owned(), object::meta(&found, "uid").to_owned()))
        }
        _ => None,
    };
    let issued = api.tokens.issue(
        object::namespace(&account),
        target.name(),
        object::meta(&account, "uid"),
        bound,
        audiences,
        seconds,
    )?;
    body["apiVersion"] = "authentication.k8s.io/v1".into();
    body["kind"] = "TokenRequest".into();
    body["metadata"] = json!({
        "name": target.name(), "namespace": object::namespace(&account), "creationTimestamp": object::now(),
    });
    body["spec"]["expirationSeconds"] = seconds.into();
    body["spec"]["audiences"] = issued.audiences.into();
    body["status"] = json!({"token": issued.token, "expirationTimestamp": issued.expires});
    Ok(body)
}

fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.split('.')
        .filter(|p| !p.is_empty())
        .fold(object, |v, step| &v[step])
}

fn no_scale() -> Status {
    Status::no_such_path()
}

/// The Scale view of an object.
pub(super) fn scale_of(kind: &Kind, object: &Value) -> Result<Value, Status> {
    let paths = kind.scale.as_ref().ok_or_else(no_scale)?;
    let mut scale = json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {
            "name": object::name(object), "namespace": object::namespace(object), "uid": object::meta(object, "uid"),
            "resourceVersion": object::meta(object, "resourceVersion"),
            "creationTimestamp": object::meta(object, "creationTimestamp"),
        },
        "spec": {"replicas": at(object, &paths.spec).as_i64().unwrap_or(0)},
        "status": {"replicas": at(object, &paths.status).as_i64().unwrap_or(0)},
    });
    let selector = at(object, &paths.selector);
    let text = selector
        .as_str()
        .map(str::to_owned)
        .or_else(|| selector_text(selector));
    if let Some(text) = text {
        scale["status"]["selector"] = text.into();
    }
    Ok(scale)
}

/// The object with the replicas that a Scale asks for.
pub(super) fn with_scale(kind: &Kind, current: &Value, scale: &Value) -> Result<Value, Status> {
    let paths = kind.scale.as_ref().ok_or_else(no_scale)?;
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let cause = Cause::invalid(
            "spec.replicas",
            &replicas.into(),
            "must be greater than or equal to 0",
        );
        return Err(Status::invalid(
            "autoscaling",
            "Scale",
            object::name(current),
            vec![cause],
        ));
    }
    let mut object = current.clone();
    let mut place = &mut object;
    for step in paths.spec.split('.').filter(|p| !p.is_empty()) {
        place = object::map_mut(place).entry(step).or_insert(Value::Null);
    }
    *place = replicas.into();
    let version = &scale["metadata"]["resourceVersion"];
    if version.as_str().is_some_and(|v| !v.is_empty()) {
        object["metadata"]["resourceVersion"] = version.clone();
    }
    Ok(object)
}

/// A structured label selector as text; `None` when there is none.
pub(crate) fn selector_text(selector: &Value) -> Option<String> {
    let selector = selector.as_object()?;
    let mut parts = Vec::new();
    if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
        parts.extend(
            labels
                .iter()
                .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())),
        );
    }
    for expression in selector.get("matchExpressions").map(items).unwrap_or_default() {
        let key = expression["key"].as_str().unwrap_or_default();
        let values = items(&expression["values"])
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(",");
        parts.push(match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    Some(parts.join(","))
}
