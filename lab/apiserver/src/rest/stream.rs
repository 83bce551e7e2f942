//! Watches as HTTP bodies: one JSON document per line.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http_body_util::{BodyExt, StreamBody};
use hyper::Response;
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};

use super::Shape;
use crate::api::Target;
use crate::client::{Object, WatchEvent};
use crate::http::Body;
use crate::status::Status;
use crate::table;

fn respond(lines: impl futures::Stream<Item = Value> + Send + 'static) -> Response<Body> {
    let frames = lines.map(|line| {
        let mut text = line.to_string();
        text.push('\n');
        Ok(Frame::data(Bytes::from(text)))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A watch that ends at once, because its start is forgotten.
pub(super) fn expired(status: &Status) -> Response<Body> {
    let line = json!({"type": "ERROR", "object": status.to_json()});
    respond(stream::iter([line]))
}

/// A running watch.
pub(super) fn watch(
    target: Target,
    events: BoxStream<'static, Result<WatchEvent, Status>>,
    shape: Shape,
    include: &str,
) -> Response<Body> {
    let include = include.to_owned();
    let mut first = true;
    respond(events.map(move |event| {
        let (name, object): (&str, Object) = match event {
            Ok(WatchEvent::Added(object)) => ("ADDED", object),
            Ok(WatchEvent::Modified(object)) => ("MODIFIED", object),
            Ok(WatchEvent::Deleted(object)) => ("DELETED", object),
            Ok(WatchEvent::Bookmark(object)) => ("BOOKMARK", object),
            Err(status) => return json!({"type": "ERROR", "object": status.to_json()}),
        };
        let shown = match shape {
            Shape::Plain(_) => (*object).clone(),
            Shape::Metadata(version) => table::metadata_only(&object, version),
            Shape::Table(version) => {
                let rows: &[Object] = if name == "BOOKMARK" {
                    &[]
                } else {
                    std::slice::from_ref(&object)
                };
                let mut shown = table::table(&target.kind, rows, version, &include, first);
                first = false;
                shown["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
                shown
            }
        };
        json!({"type": name, "object": shown})
    }))
}
