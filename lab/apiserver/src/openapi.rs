//! OpenAPI, as far as kubectl reads it: which paths take `fieldValidation`, the fields for `kubectl explain` and the
//! merge keys for `kubectl apply`.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use hyper::header::ACCEPT;
use hyper::{HeaderMap, Response};
use serde_json::{Map, Value, json};

use crate::api::Api;
use crate::discovery::RELEASE;
use crate::http::{self, Body};
use crate::kinds::{Fields, Kind};
use crate::schema::{self, ListType, Type, TypeDef};
use crate::status::Status;

/// What the real server answers with; the `@` of the request is not allowed in a media type.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Answers a path below `/openapi/`.
pub(crate) fn answer(api: &Api, rest: &str, headers: &HeaderMap) -> Result<Response<Body>, Status> {
    let kinds = api.registry.all();
    match rest {
        "v2" => {
            let accept = headers
                .get(ACCEPT)
                .and_then(|v| v.to_str().ok())
                .unwrap_or_default();
            Ok(
                if accept.contains("protobuf") && !accept.starts_with("application/json") {
                    http::answer(200, PROTOBUF, minimal_protobuf())
                } else {
                    http::json(200, &v2(&kinds.iter().map(|k| &**k).collect::<Vec<_>>()))
                },
            )
        }
        "v3" => {
            // Clients keep documents by their hash: it may change only with the kinds.
            let mut hashes: BTreeMap<String, DefaultHasher> = BTreeMap::new();
            for kind in &kinds {
                let hasher = hashes.entry(group_path(kind)).or_default();
                (RELEASE.2, &kind.kind, &kind.plural, kind.namespaced).hash(hasher);
                if let Fields::Structural(schema) = &kind.fields {
                    schema.to_string().hash(hasher);
                }
            }
            let paths: Map<String, Value> = hashes
                .into_iter()
                .map(|(path, hasher)| {
                    let url = format!("/openapi/v3/{path}?hash={:016X}", hasher.finish());
                    (path, json!({"serverRelativeURL": url}))
                })
                .collect();
            Ok(http::json(200, &json!({"paths": paths})))
        }
        other => {
            let path = other.strip_prefix("v3/").ok_or_else(Status::no_such_path)?;
            let own: Vec<&Kind> = kinds
                .iter()
                .map(|k| &**k)
                .filter(|k| group_path(k) == path)
                .collect();
            if own.is_empty() {
                return Err(Status::no_such_path());
            }
            Ok(http::json(200, &v3(&own)))
        }
    }
}

fn group_path(kind: &Kind) -> String {
    if kind.group.is_empty() {
        format!("api/{}", kind.version)
    } else {
        format!("apis/{}/{}", kind.group, kind.version)
    }
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": RELEASE.2})
}

/// `swagger: "2.0"`, info and nothing else, for clients that read only protobuf. They then skip their own validation
/// and fall back to the types they were built with.
fn minimal_protobuf() -> Vec<u8> {
    let field = |number: u8, text: &[u8]| {
        // Length-delimited; every text here is shorter than 128 bytes, so one length byte is enough.
        let mut out = vec![number << 3 | 2, u8::try_from(text.len()).unwrap_or(0)];
        out.extend_from_slice(text);
        out
    };
    let mut info = field(1, b"Kubernetes");
    info.extend(field(2, RELEASE.2.as_bytes()));
    let mut document = field(1, b"2.0");
    document.extend(field(2, &info));
    document.extend(field(8, &[]));
    document
}

fn definition(kind: &Kind) -> String {
    match &kind.fields {
        Fields::Builtin(def) => def.definition.to_owned(),
        Fields::Structural(_) => {
            let reversed: Vec<&str> = kind.group.split('.').rev().collect();
            format!("{}.{}.{}", reversed.join("."), kind.version, kind.kind)
        }
    }
}

fn identity(kind: &Kind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

fn v3(kinds: &[&Kind]) -> Value {
    let mut paths = Map::new();
    for kind in kinds {
        for (path, item) in operations(kind) {
            paths.insert(path, item);
        }
    }
    json!({
        "openapi": "3.0.0", "info": info(), "paths": paths,
        "components": {"schemas": definitions(kinds, "#/components/schemas/")},
    })
}

fn v2(kinds: &[&Kind]) -> Value {
    json!({"swagger": "2.0", "info": info(), "paths": {}, "definitions": definitions(kinds, "#/definitions/")})
}

/// The paths of one kind with the operations that kubectl looks at.
fn operations(kind: &Kind) -> Vec<(String, Value)> {
    let parameter = |name: &str, ty: &str| json!({"name": name, "in": "query", "schema": {"type": ty, "uniqueItems": true}});
    let operation = |action: &str| {
        json!({
            "operationId": format!("{action}{}", kind.kind), "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": identity(kind),
            "parameters": [
                parameter("dryRun", "string"), parameter("fieldManager", "string"),
                parameter("fieldValidation", "string"), parameter("force", "boolean"),
            ],
            "responses": {"200": {"description": "OK"}},
        })
    };
    let read = |action: &str| {
        json!({
            "operationId": format!("{action}{}", kind.kind), "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": identity(kind), "responses": {"200": {"description": "OK"}},
        })
    };
    let scope = if kind.namespaced {
        "/namespaces/{namespace}"
    } else {
        ""
    };
    let base = format!("/{}{scope}/{}", group_path(kind), kind.plural);
    let collection = json!({"get": read("list"), "post": operation("post")});
    let object = json!({
        "get": read("get"), "put": operation("put"), "patch": operation("patch"), "delete": operation("delete"),
    });
    vec![(base.clone(), collection), (format!("{base}/{{name}}"), object)]
}

/// The types of these kinds and everything they are made of.
fn definitions(kinds: &[&Kind], prefix: &str) -> Value {
    let mut out = Map::new();
    for kind in kinds {
        let mut shown = match &kind.fields {
            Fields::Builtin(def) => {
                add(def, prefix, &mut out);
                out.get(def.definition).cloned().unwrap_or_default()
            }
            Fields::Structural(schema) => {
                let mut shown = (**schema).clone();
                if let Some(meta) = schema::find("ObjectMeta") {
                    add(meta, prefix, &mut out);
                    if shown["properties"].is_object() {
                        shown["properties"]["metadata"] = reference(meta, prefix);
                    }
                }
                shown
            }
        };
        let properties = crate::object::map_mut(&mut shown["properties"]);
        for field in ["apiVersion", "kind"] {
            properties.insert(field.into(), json!({"type": "string"}));
        }
        shown["x-kubernetes-group-version-kind"] = json!([identity(kind)]);
        out.insert(definition(kind), shown);
    }
    Value::Object(out)
}

fn reference(def: &TypeDef, prefix: &str) -> Value {
    json!({"$ref": format!("{prefix}{}", def.definition)})
}

fn add(def: &'static TypeDef, prefix: &str, out: &mut Map<String, Value>) {
    if out.contains_key(def.definition) {
        return;
    }
    // Present from now on: types may contain themselves.
    out.insert(def.definition.into(), Value::Null);
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, field) in &def.fields {
        let mut shown = type_schema(&field.ty, prefix, out);
        if let Some(key) = def.merge_key(name) {
            let strategy = if def.retain_keys(name) {
                "merge,retainKeys"
            } else {
                "merge"
            };
            shown["x-kubernetes-patch-strategy"] = strategy.into();
            if !key.is_empty() {
                shown["x-kubernetes-patch-merge-key"] = key.into();
            }
        } else if def.retain_keys(name) {
            shown["x-kubernetes-patch-strategy"] = "retainKeys".into();
        }
        if matches!(field.ty, Type::List(_)) {
            let (list, keys) = match def.list_type(name) {
                ListType::Atomic => ("atomic", None),
                ListType::Set => ("set", None),
                ListType::Map(keys) => ("map", Some(keys)),
            };
            shown["x-kubernetes-list-type"] = list.into();
            if let Some(keys) = keys {
                shown["x-kubernetes-list-map-keys"] = json!(keys);
            }
        }
        if def.is_atomic_map(name) {
            shown["x-kubernetes-map-type"] = "atomic".into();
        }
        properties.insert((*name).into(), shown);
        if field.required {
            required.push(*name);
        }
    }
    let mut shown = json!({"type": "object", "properties": properties});
    if def.is_atomic() {
        shown["x-kubernetes-map-type"] = "atomic".into();
    }
    if !required.is_empty() {
        shown["required"] = json!(required);
    }
    out.insert(def.definition.into(), shown);
}

fn type_schema(ty: &Type, prefix: &str, out: &mut Map<String, Value>) -> Value {
    match ty {
        Type::String | Type::Quantity => json!({"type": "string"}),
        Type::Boolean => json!({"type": "boolean"}),
        Type::Int32 => json!({"type": "integer", "format": "int32"}),
        Type::Int64 => json!({"type": "integer", "format": "int64"}),
        Type::Number => json!({"type": "number", "format": "double"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Time | Type::MicroTime => json!({"type": "string", "format": "date-time"}),
        Type::IntOrString => json!({"type": "string", "format": "int-or-string"}),
        Type::Any => json!({"type": "object"}),
        Type::List(inner) => json!({"type": "array", "items": type_schema(inner, prefix, out)}),
        Type::Map(inner) => {
            json!({"type": "object", "additionalProperties": type_schema(inner, prefix, out)})
        }
        Type::Named(name) => match schema::find(name) {
            Some(def) => {
                add(def, prefix, out);
                reference(def, prefix)
            }
            None => json!({"type": "object"}),
        },
    }
}
