//! Bodies of requests: bounded, and in a format that we know.

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, Request};
use serde_json::Value;

use super::Query;
use crate::api::PatchKind;
use crate::protobuf;
use crate::status::Status;

/// Largest body, that of the real server.
pub(crate) const LIMIT: usize = 3 * 1024 * 1024;
/// Longest wait for a body.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);

const OBJECT_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];
const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

fn media_type(headers: &HeaderMap) -> String {
    let text = headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    text.split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

async fn read(body: Incoming) -> Result<Bytes, Status> {
    match tokio::time::timeout(DEADLINE, Limited::new(body, LIMIT).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Status::too_large(LIMIT)),
        Ok(Err(error)) => Err(Status::bad_request(format!(
            "unable to read the body of the request: {error}"
        ))),
        Err(_) => Err(Status::bad_request(
            "the body of the request did not arrive in time",
        )),
    }
}

/// An object in one of the formats that we know.
pub(crate) fn parse(bytes: &[u8], media_type: &str) -> Result<Value, Status> {
    match media_type {
        "" | "application/json" => serde_json::from_slice(bytes)
            .map_err(|e| Status::bad_request(format!("couldn't get version/kind; json parse error: {e}"))),
        "application/yaml" => yaml(bytes),
        "application/vnd.kubernetes.protobuf" if protobuf::is(bytes) => protobuf::decode(bytes),
        _ => Err(Status::unsupported_media_type(OBJECT_TYPES)),
    }
}

fn yaml(bytes: &[u8]) -> Result<Value, Status> {
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    // The parser's report is a drawing of several lines; its first says what is wrong.
    serde_saphyr::from_slice(bytes).map_err(|e| {
        let text = e.to_string();
        Status::bad_request(format!(
            "error converting YAML to JSON: yaml: {}",
            text.lines().next().unwrap_or_default()
        ))
    })
}

/// The object in a request. Errors: 400, 413, 415.
pub(super) async fn object(request: Request<Incoming>) -> Result<Value, Status> {
    let media_type = media_type(request.headers());
    if !media_type.is_empty() && !OBJECT_TYPES.contains(&media_type.as_str()) {
        return Err(Status::unsupported_media_type(OBJECT_TYPES));
    }
    let bytes = read(request.into_body()).await?;
    parse(&bytes, &media_type)
}

/// The object in a request that may have none (deletions).
pub(super) async fn optional(request: Request<Incoming>) -> Result<Value, Status> {
    let media_type = media_type(request.headers());
    let bytes = read(request.into_body()).await?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let value = parse(&bytes, &media_type)?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(Status::bad_request(
            "the body of the request is not DeleteOptions",
        ))
    }
}

/// The patch in a request and its format.
pub(super) async fn patch(request: Request<Incoming>, query: &Query) -> Result<(PatchKind, Value), Status> {
    let kind = match media_type(request.headers()).as_str() {
        "application/json-patch+json" => PatchKind::Json,
        "application/merge-patch+json" => PatchKind::Merge,
        "application/strategic-merge-patch+json" => PatchKind::Strategic,
        "application/apply-patch+yaml" => PatchKind::Apply {
            force: query.flag("force"),
        },
        _ => return Err(Status::unsupported_media_type(PATCH_TYPES)),
    };
    let bytes = read(request.into_body()).await?;
    let body = match kind {
        PatchKind::Apply { .. } => yaml(&bytes)?,
        _ => serde_json::from_slice(&bytes)
            .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?,
    };
    Ok((kind, body))
}
