//! Objects in the shape that was asked for: themselves, a `Table`, or only their metadata.

use hyper::Response;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::{Page, Target};
use crate::client::Object;
use crate::http::{self, Body};
use crate::kinds::Kind;
use crate::rest::{Format, Shape};
use crate::status::Status;

/// One object as an answer.
pub(crate) fn object(target: &Target, object: &Object, shape: Shape, code: u16) -> Response<Body> {
    // Status, Scale, TokenRequest: objects of other kinds have no table here.
    let own = object["kind"] == target.kind.kind;
    match shape {
        Shape::Table(version) if own => {
            let mut shown = table(
                &target.kind,
                std::slice::from_ref(object),
                version,
                "Object",
                true,
            );
            shown["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
            http::json(code, &shown)
        }
        Shape::Metadata(version) if own => http::json(code, &metadata_only(object, version)),
        Shape::Plain(Format::Yaml) => yaml(code, object),
        _ => http::json(code, object),
    }
}

/// A list as an answer.
pub(crate) fn list(target: &Target, page: &Page, shape: Shape, include: &str) -> Response<Body> {
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if !page.continue_token.is_empty() {
        metadata["continue"] = page.continue_token.as_str().into();
    }
    if let Some(remaining) = page.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    match shape {
        Shape::Table(version) => {
            let mut shown = table(&target.kind, &page.items, version, include, true);
            shown["metadata"] = metadata;
            http::json(200, &shown)
        }
        Shape::Metadata(version) => {
            let items: Vec<Value> = page.items.iter().map(|o| metadata_only(o, version)).collect();
            http::json(
                200,
                &json!({
                    "apiVersion": format!("meta.k8s.io/{version}"), "kind": "PartialObjectMetadataList",
                    "metadata": metadata, "items": items,
                }),
            )
        }
        Shape::Plain(format) => {
            let shown = json!({
                "apiVersion": target.kind.api_version(), "kind": target.kind.list_kind, "metadata": metadata,
                "items": page.items.iter().map(|o| bare(target, o)).collect::<Vec<_>>(),
            });
            if format == Format::Yaml {
                yaml(200, &shown)
            } else {
                http::json(200, &shown)
            }
        }
    }
}

/// Items of built-in lists carry no type of their own, as in the real server.
fn bare(target: &Target, object: &Object) -> Value {
    let mut out = (**object).clone();
    if let Some(map) = out.as_object_mut().filter(|_| !target.kind.custom) {
        map.remove("apiVersion");
        map.remove("kind");
    }
    out
}

fn yaml(code: u16, value: &Value) -> Response<Body> {
    match serde_saphyr::to_string(value) {
        Ok(text) => http::answer(code, "application/yaml", text),
        Err(error) => http::failure(&Status::internal(error)),
    }
}

/// Type and metadata of an object, nothing else.
pub(crate) fn metadata_only(object: &Value, version: &str) -> Value {
    json!({
        "apiVersion": format!("meta.k8s.io/{version}"), "kind": "PartialObjectMetadata",
        "metadata": object["metadata"],
    })
}

/// A table of some objects. `include`: what each row carries of its object (`None`, `Metadata` or `Object`).
pub(crate) fn table(
    kind: &Kind,
    objects: &[Object],
    version: &str,
    include: &str,
    with_columns: bool,
) -> Value {
    let now = Timestamp::now();
    let columns: Vec<Value> = if with_columns {
        kind.printer
            .columns
            .iter()
            .map(|c| {
                json!({
                    "name": c.name, "type": c.ty, "format": c.format, "description": c.description,
                    "priority": c.priority,
                })
            })
            .collect()
    } else {
        Vec::new()
    };
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut row = json!({"cells": kind.printer.cells(object, now)});
            match include {
                "None" => {}
                "Object" => row["object"] = (**object).clone(),
                _ => row["object"] = metadata_only(object, version),
            }
            row
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": {},
        "columnDefinitions": if with_columns { Value::Array(columns) } else { Value::Null }, "rows": rows,
    })
}
