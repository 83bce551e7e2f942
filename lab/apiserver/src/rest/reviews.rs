//! Questions about identity and permission (`auth whoami`, `auth can-i`, token reviews): answered, never stored.

use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use serde_json::{Value, json};

use super::body;
use crate::api::Api;
use crate::auth::{self, User};
use crate::http::{Body, json as json_answer};
use crate::object;
use crate::status::Status;

/// `group, kind, plural, namespaced`, for discovery too.
pub(crate) const REVIEWS: &[(&str, &str, &str, bool)] = &[
    (
        "authentication.k8s.io",
        "SelfSubjectReview",
        "selfsubjectreviews",
        false,
    ),
    ("authentication.k8s.io", "TokenReview", "tokenreviews", false),
    (
        "authorization.k8s.io",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        true,
    ),
    (
        "authorization.k8s.io",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        false,
    ),
    (
        "authorization.k8s.io",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        false,
    ),
    (
        "authorization.k8s.io",
        "SubjectAccessReview",
        "subjectaccessreviews",
        false,
    ),
];

pub(super) async fn handle(
    api: &Api,
    user: &User,
    group: &str,
    version: &str,
    plural: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let found = REVIEWS
        .iter()
        .find(|(g, _, p, _)| *g == group && *p == plural && version == "v1");
    let (_, kind, ..) = found.ok_or_else(Status::no_such_path)?;
    if request.method() != Method::POST {
        return Err(Status::method_not_allowed());
    }
    let mut review = body::object(request).await?;
    if !review.is_object() || !(review["spec"].is_null() || review["spec"].is_object()) {
        return Err(Status::bad_request(format!(
            "the body of the request is not a {kind}"
        )));
    }
    review["status"] = match plural {
        "selfsubjectreviews" => json!({"userInfo": user.to_json()}),
        "tokenreviews" => token_review(api, &review["spec"]),
        "selfsubjectrulesreviews" => json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": false,
        }),
        _ => {
            json!({"allowed": true, "reason": "the lab's API server lets every authenticated user do everything"})
        }
    };
    review["apiVersion"] = format!("{group}/v1").into();
    review["kind"] = (*kind).into();
    object::meta_mut(&mut review).insert("creationTimestamp".into(), Value::Null);
    Ok(json_answer(201, &review))
}

fn token_review(api: &Api, spec: &Value) -> Value {
    let asked: Vec<&str> = object::items(&spec["audiences"])
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let audiences = if asked.is_empty() {
        auth::OWN_AUDIENCES
    } else {
        &asked
    };
    match auth::from_token(api, spec["token"].as_str().unwrap_or_default(), audiences) {
        Some((user, meant)) => json!({"authenticated": true, "user": user.to_json(), "audiences": meant}),
        None => json!({"authenticated": false, "user": {}, "error": "the token is not valid"}),
    }
}
