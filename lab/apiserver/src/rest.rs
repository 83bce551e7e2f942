//! HTTP to [`Api`] and back: which path is meant, in which format the body is and the answer should be.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response};
use serde_json::{Value, json};

use crate::api::{Api, DeleteRequest, ListRequest, PatchKind, Target, WatchRequest, WriteOptions, Written};
use crate::auth::User;
use crate::http::{Body, answer, failure, json as json_answer};
use crate::status::{Status, success};
use crate::{discovery, openapi, proxy, table};

mod accept;
pub(crate) mod body;
pub(crate) mod path;
mod query;
mod reviews;
mod stream;

pub(crate) use accept::{Format, Shape, ranges};
pub(crate) use path::Route;
pub(crate) use query::Query;
pub(crate) use reviews::REVIEWS;

/// Longest time a watch runs when the caller names none (the real server: 30 to 60 minutes).
const WATCH_TIMEOUT: Duration = Duration::from_secs(40 * 60);
/// Longest name of a field manager.
const MANAGER_LIMIT: usize = 128;

/// Answers one request.
pub(crate) async fn handle(
    api: Arc<Api>,
    user: Option<Arc<User>>,
    request: Request<Incoming>,
) -> Response<Body> {
    match route(api, user, request).await {
        Ok(response) => response,
        Err(status) => failure(&status),
    }
}

async fn route(
    api: Arc<Api>,
    user: Option<Arc<User>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let path = request.uri().path().to_owned();
    let route = path::parse(&path)?;
    if let Route::Health = route {
        return Ok(answer(200, "text/plain; charset=utf-8", "ok"));
    }
    if let Route::Version = route {
        return Ok(json_answer(200, &discovery::version()));
    }
    let user = user.ok_or_else(Status::unauthorized)?;
    match route {
        Route::Resource(place) => resource(api, &user, place, request).await,
        Route::Review {
            group,
            version,
            plural,
        } => reviews::handle(&api, &user, &group, &version, &plural, request).await,
        _ if request.method() != Method::GET && request.method() != Method::HEAD => {
            Err(Status::method_not_allowed())
        }
        Route::OpenApi(rest) => openapi::answer(&api, &rest, request.headers()),
        other => discovery::answer(&api, &other, request.headers()),
    }
}

async fn resource(
    api: Arc<Api>,
    user: &User,
    place: path::Place,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let mut target = api.target(
        &place.group,
        &place.version,
        &place.plural,
        place.namespace.as_deref(),
        place.name.as_deref(),
    )?;
    target.subresource = place.subresource;
    let query = Query::parse(request.uri().query().unwrap_or_default());
    if let Some(part) = target.subresource.as_deref() {
        if target.kind.storage == "pods" && ["exec", "attach", "portforward", "log"].contains(&part) {
            return proxy::to_kubelet(&api, &target, &query, request).await;
        }
        known_subresource(&target, part)?;
    }
    let shape = accept::negotiate(request.headers())?;
    let (name, method) = (target.name.is_some(), request.method().clone());
    match method {
        Method::GET | Method::HEAD if !name || query.flag("watch") => collection(&api, target, &query, shape),
        Method::GET | Method::HEAD => {
            if matches!(
                target.subresource.as_deref(),
                Some("binding" | "eviction" | "token" | "finalize")
            ) {
                return Err(Status::method_not_allowed());
            }
            let object = api.get(&target)?;
            Ok(table::object(&target, &object, shape, 200))
        }
        Method::POST if !name || target.subresource.is_some() => {
            if matches!(
                target.subresource.as_deref(),
                Some("status" | "scale" | "finalize")
            ) {
                return Err(Status::method_not_allowed());
            }
            if target.kind.namespaced && target.namespace.is_none() {
                return Err(Status::method_not_allowed());
            }
            let options = query.write_options(request.headers())?;
            let body = body::object(request).await?;
            Ok(written(
                &target,
                &api.create(user, &target, body, &options)?,
                shape,
            ))
        }
        Method::PUT if name => {
            let options = query.write_options(request.headers())?;
            let body = body::object(request).await?;
            Ok(written(
                &target,
                &api.update(user, &target, body, &options)?,
                shape,
            ))
        }
        Method::PATCH if name => {
            let options = query.write_options(request.headers())?;
            let (format, body) = body::patch(request, &query).await?;
            if !matches!(format, PatchKind::Apply { .. }) && query.has("force") {
                return Err(Status::bad_request(
                    "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
                ));
            }
            if matches!(format, PatchKind::Apply { .. }) && options.field_manager.is_empty() {
                return Err(Status::bad_request(
                    "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
                ));
            }
            Ok(written(
                &target,
                &api.patch(user, &target, format, body, &options)?,
                shape,
            ))
        }
        Method::DELETE if target.subresource.is_none() => {
            delete(&api, user, &target, &query, shape, request).await
        }
        _ => Err(Status::method_not_allowed()),
    }
}

/// Subresources are part of the table like everything else.
fn known_subresource(target: &Target, part: &str) -> Result<(), Status> {
    let kind = &target.kind;
    let known = match part {
        "status" => kind.status,
        "scale" => kind.scale.is_some(),
        other => kind.subresources.iter().any(|(name, ..)| *name == other),
    };
    if known {
        Ok(())
    } else {
        Err(Status::no_such_path())
    }
}

fn collection(
    api: &Arc<Api>,
    mut target: Target,
    query: &Query,
    shape: Shape,
) -> Result<Response<Body>, Status> {
    let mut fields = query.text("fieldSelector").to_owned();
    if let Some(name) = target.name.take() {
        // GET …/name?watch=true is the old way to watch one object.
        fields = if fields.is_empty() {
            format!("metadata.name={name}")
        } else {
            format!("{fields},metadata.name={name}")
        };
    }
    let labels = query.text("labelSelector").to_owned();
    if !query.flag("watch") {
        let exact = query.text("resourceVersionMatch") == "Exact";
        let asked = query.revision("resourceVersion")?;
        let request = ListRequest {
            labels,
            fields,
            limit: query
                .number("limit")?
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(0),
            continue_token: query.text("continue").to_owned(),
            not_older_than: asked,
        };
        if exact && asked.is_some_and(|asked| asked != api.store.revision()) {
            let asked = asked.unwrap_or_default();
            return Err(Status::expired(asked, api.store.revision()));
        }
        let page = api.list(&target, &request)?;
        return Ok(table::list(&target, &page, shape, query.text("includeObject")));
    }
    let initial_events = query.flag("sendInitialEvents");
    if initial_events && query.text("resourceVersionMatch") != "NotOlderThan" {
        return Err(Status::bad_request(
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    let seconds = query
        .number("timeoutSeconds")?
        .and_then(|n| u64::try_from(n).ok())
        .filter(|n| *n > 0);
    let request = WatchRequest {
        labels,
        fields,
        from: query.revision("resourceVersion")?,
        bookmarks: query.flag("allowWatchBookmarks"),
        initial_events,
        timeout: Some(
            seconds
                .map_or(WATCH_TIMEOUT, Duration::from_secs)
                .min(WATCH_TIMEOUT),
        ),
    };
    let events = match api.watch(&target, &request) {
        Ok(events) => events,
        // Clients look for an expired start inside the stream as well as in the status line.
        Err(status) if status.is_expired() => return Ok(stream::expired(&status)),
        Err(status) => return Err(status),
    };
    Ok(stream::watch(target, events, shape, query.text("includeObject")))
}

fn written(target: &Target, written: &Written, shape: Shape) -> Response<Body> {
    let code = if written.created { 201 } else { 200 };
    let mut response = table::object(target, &written.object, shape, code);
    for warning in &written.warnings {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(hyper::header::WARNING, value);
        }
    }
    response
}

async fn delete(
    api: &Api,
    user: &User,
    target: &Target,
    query: &Query,
    shape: Shape,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let body = body::optional(request).await?;
    let text = |v: &Value| v.as_str().map(str::to_owned);
    let propagation =
        text(&body["propagationPolicy"]).or_else(|| query.get("propagationPolicy").map(str::to_owned));
    if let Some(policy) = propagation
        .as_deref()
        .filter(|p| !["Background", "Foreground", "Orphan"].contains(p))
    {
        return Err(Status::bad_request(format!(
            "invalid propagationPolicy {policy:?}: must be one of Background, Foreground, Orphan"
        )));
    }
    let options = DeleteRequest {
        grace_period_seconds: body["gracePeriodSeconds"]
            .as_i64()
            .or(query.number("gracePeriodSeconds")?),
        propagation_policy: propagation,
        uid: text(&body["preconditions"]["uid"]),
        resource_version: text(&body["preconditions"]["resourceVersion"]),
        dry_run: query.has("dryRun") || !crate::object::items(&body["dryRun"]).is_empty(),
    };
    if target.name.is_some() {
        let done = api.delete(user, target, &options)?;
        // The real server answers with the pod itself, also when it is gone.
        if !done.removed || target.kind.storage == "pods" {
            return Ok(table::object(target, &done.object, shape, 200));
        }
        let name = crate::object::name(&done.object);
        let uid = crate::object::meta(&done.object, "uid");
        return Ok(json_answer(
            200,
            &success(&target.kind.group, &target.kind.plural, name, uid),
        ));
    }
    if target.kind.namespaced && target.namespace.is_none() {
        return Err(Status::method_not_allowed());
    }
    let selection = ListRequest {
        labels: query.text("labelSelector").to_owned(),
        fields: query.text("fieldSelector").to_owned(),
        ..ListRequest::default()
    };
    let deleted = api.delete_collection(user, target, &selection, &options)?;
    Ok(json_answer(
        200,
        &json!({
            "apiVersion": target.kind.api_version(), "kind": target.kind.list_kind,
            "metadata": {"resourceVersion": api.store.revision().to_string()}, "items": deleted,
        }),
    ))
}

impl Query {
    fn write_options(&self, headers: &hyper::HeaderMap) -> Result<WriteOptions, Status> {
        use crate::api::FieldValidation::{Ignore, Strict, Warn};
        if let Some(value) = self.get("dryRun").filter(|v| *v != "All") {
            return Err(Status::bad_request(format!(
                "dryRun: Unsupported value: {value:?}: supported values: \"All\""
            )));
        }
        let field_validation = match self.text("fieldValidation") {
            "" | "Warn" => Warn,
            "Strict" => Strict,
            "Ignore" => Ignore,
            other => {
                return Err(Status::bad_request(format!(
                    "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
                )));
            }
        };
        let agent = headers
            .get(hyper::header::USER_AGENT)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        let manager = match self.text("fieldManager") {
            "" => agent.split('/').next().unwrap_or_default(),
            named => named,
        };
        let too_long = manager.chars().count() > MANAGER_LIMIT;
        if self.has("fieldManager") && (too_long || manager.chars().any(char::is_control)) {
            return Err(Status::bad_request(format!(
                "fieldManager: Invalid value: {manager:?}: should be at most {MANAGER_LIMIT} printable characters"
            )));
        }
        let manager: String = manager
            .chars()
            .filter(|c| !c.is_control())
            .take(MANAGER_LIMIT)
            .collect();
        Ok(WriteOptions {
            dry_run: self.has("dryRun"),
            field_validation,
            field_manager: manager,
        })
    }
}
