//! Bodies in Kubernetes' protobuf: read by the same table of fields, with the numbers of `schema/numbers.txt`.
//!
//! kubectl 1.32 and newer send what it makes itself (`create namespace`, `create deployment`, …) in this form and do
//! not try again with JSON. Answers are always JSON, which those clients accept.
//!
//! Go writes the zero of every field that is not a pointer, so "0" and "absent" look alike here. A zero is kept only
//! for the fields of [`ZERO_MATTERS`].

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::schema::{self, Type, TypeDef};
use crate::status::Status;

const NUMBERS: &str = include_str!("../schema/numbers.txt");
const MAGIC: &[u8] = b"k8s\0";
/// Deepest nesting of messages that is read.
const DEPTH: usize = 64;

/// Fields that are pointers in Go, where false and 0 say something else than nothing.
const ZERO_MATTERS: &[&str] = &[
    "allocateLoadBalancerNodePorts",
    "allowPrivilegeEscalation",
    "automountServiceAccountToken",
    "blockOwnerDeletion",
    "controller",
    "enableServiceLinks",
    "fsGroup",
    "gracePeriodSeconds",
    "hostUsers",
    "maxReplicas",
    "optional",
    "orphanDependents",
    "privileged",
    "readOnlyRootFilesystem",
    "ready",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "serving",
    "shareProcessNamespace",
    "terminating",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "value",
];

/// Why bytes are not an object.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum DecodeError {
    #[error("the bytes end too early")]
    Truncated,
    #[error("wire type {0} is not known")]
    WireType(u8),
    #[error("a text is not UTF-8")]
    NotText,
    #[error("messages are nested too deeply")]
    TooDeep,
    #[error("a field of JSON text holds something else")]
    NotJson,
    #[error("a field has the wrong wire type")]
    WrongType,
    #[error("{0} has no protobuf form here")]
    UnknownKind(String),
}

/// Whether a body is in this form.
pub(crate) fn is(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Reads a body (`k8s\0` and a `runtime.Unknown`). Errors: 400 for broken bytes, 415 for kinds without fields.
pub(crate) fn decode(bytes: &[u8]) -> Result<Value, Status> {
    envelope(bytes.get(MAGIC.len()..).unwrap_or_default()).map_err(|error| match error {
        DecodeError::UnknownKind(_) => {
            Status::unsupported_media_type(&["application/json", "application/yaml"])
        }
        other => Status::bad_request(format!("the body of the request is not valid protobuf: {other}")),
    })
}

fn envelope(bytes: &[u8]) -> Result<Value, DecodeError> {
    let (mut version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in fields(bytes) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for field in fields(meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => version = utf8(text)?,
                        (2, Wire::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(inner)) => raw = inner,
            _ => {}
        }
    }
    let def = schema::of_kind(&version, &kind)
        .filter(|def| numbers().contains_key(def.name))
        .ok_or_else(|| DecodeError::UnknownKind(kind.clone()))?;
    let mut out = Map::new();
    message(def, def.name, raw, &mut out, DEPTH)?;
    out.insert("apiVersion".into(), version.into());
    out.insert("kind".into(), kind.into());
    Ok(Value::Object(out))
}

enum Slot {
    Field(&'static str),
    /// The fields of this message stand in its owner.
    Inline(&'static str),
}

fn numbers() -> &'static HashMap<&'static str, BTreeMap<u32, Slot>> {
    static ALL: OnceLock<HashMap<&'static str, BTreeMap<u32, Slot>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut out: HashMap<&'static str, BTreeMap<u32, Slot>> = HashMap::new();
        let mut current = "";
        for line in NUMBERS.lines().filter(|l| !l.starts_with('#')) {
            let mut words = line.split_whitespace();
            match (line.starts_with(' '), words.next(), words.next()) {
                (false, Some(name), _) => {
                    current = name;
                    out.entry(name).or_default();
                }
                (true, Some(number), Some(field)) => {
                    let slot = field.strip_prefix('*').map_or(Slot::Field(field), Slot::Inline);
                    if let (Ok(number), Some(fields)) = (number.parse(), out.get_mut(current)) {
                        fields.insert(number, slot);
                    }
                }
                _ => {}
            }
        }
        out
    })
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Fixed-width values occur in no field that we know.
    Fixed,
}

fn varint(bytes: &mut &[u8]) -> Result<u64, DecodeError> {
    let mut out = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or(DecodeError::Truncated)?;
        *bytes = rest;
        out |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(out);
        }
    }
    Err(DecodeError::Truncated)
}

fn take<'a>(bytes: &mut &'a [u8], count: u64) -> Result<&'a [u8], DecodeError> {
    let count = usize::try_from(count).map_err(|_| DecodeError::Truncated)?;
    let (head, rest) = bytes.split_at_checked(count).ok_or(DecodeError::Truncated)?;
    *bytes = rest;
    Ok(head)
}

fn fields(mut bytes: &[u8]) -> impl Iterator<Item = Result<(u32, Wire<'_>), DecodeError>> {
    let mut failed = false;
    std::iter::from_fn(move || {
        if bytes.is_empty() || failed {
            return None;
        }
        let next = one(&mut bytes);
        failed = next.is_err();
        Some(next)
    })
}

fn one<'a>(bytes: &mut &'a [u8]) -> Result<(u32, Wire<'a>), DecodeError> {
    let tag = varint(bytes)?;
    let number = u32::try_from(tag >> 3).map_err(|_| DecodeError::Truncated)?;
    let wire = match tag & 7 {
        0 => Wire::Number(varint(bytes)?),
        1 => take(bytes, 8).map(|_| Wire::Fixed)?,
        2 => {
            let length = varint(bytes)?;
            Wire::Bytes(take(bytes, length)?)
        }
        5 => take(bytes, 4).map(|_| Wire::Fixed)?,
        other => return Err(DecodeError::WireType(u8::try_from(other).unwrap_or(u8::MAX))),
    };
    Ok((number, wire))
}

fn utf8(bytes: &[u8]) -> Result<String, DecodeError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::NotText)
}

/// Reads a message into `out`. `table` names the numbers; it differs from the type only for inline messages.
fn message(
    def: &'static TypeDef,
    table: &str,
    bytes: &[u8],
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), DecodeError> {
    let depth = depth.checked_sub(1).ok_or(DecodeError::TooDeep)?;
    let Some(slots) = numbers().get(table) else {
        return Err(DecodeError::UnknownKind(table.to_owned()));
    };
    for field in fields(bytes) {
        let (number, wire) = field?;
        match (slots.get(&number), wire) {
            (Some(Slot::Inline(inner)), Wire::Bytes(bytes)) => message(def, inner, bytes, out, depth)?,
            (Some(Slot::Field(name)), wire) => {
                let Some(field) = def.fields.get(name) else {
                    continue;
                };
                member(&field.ty, name, &wire, out, depth)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn member(
    ty: &Type,
    name: &str,
    wire: &Wire<'_>,
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), DecodeError> {
    match ty {
        Type::List(inner) => {
            let list = out.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            let value = single(inner, wire, depth)?;
            if let Value::Array(list) = list {
                list.push(value);
            }
        }
        Type::Map(inner) => {
            let Wire::Bytes(entry) = wire else {
                return Err(DecodeError::WrongType);
            };
            let (mut key, mut value) = (String::new(), Value::Null);
            for field in fields(entry) {
                match field? {
                    (1, Wire::Bytes(text)) => key = utf8(text)?,
                    (2, wire) => value = single(inner, &wire, depth)?,
                    _ => {}
                }
            }
            if value.is_null() && matches!(**inner, Type::String | Type::Bytes) {
                value = "".into();
            }
            if let Value::Object(map) = out.entry(name).or_insert_with(|| Value::Object(Map::new())) {
                map.insert(key, value);
            }
        }
        _ => {
            let value = single(ty, wire, depth)?;
            let zero = match &value {
                Value::Null => true,
                Value::String(text) => text.is_empty(),
                Value::Bool(flag) => !flag && !ZERO_MATTERS.contains(&name),
                Value::Number(number) => number.as_i64() == Some(0) && !ZERO_MATTERS.contains(&name),
                _ => false,
            };
            // A missing port number and the like is a zero of the wire too: validation will say so.
            if !zero {
                out.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

/// One value; null for the zero of a type that has its own message.
fn single(ty: &Type, wire: &Wire<'_>, depth: usize) -> Result<Value, DecodeError> {
    Ok(match (ty, wire) {
        (Type::String, Wire::Bytes(bytes)) => utf8(bytes)?.into(),
        (Type::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Type::Boolean, Wire::Number(number)) => (*number != 0).into(),
        // Negative numbers are sign-extended to 64 bits.
        (Type::Int32 | Type::Int64 | Type::Number, Wire::Number(number)) => number.cast_signed().into(),
        (Type::Time | Type::MicroTime, Wire::Bytes(bytes)) => time(bytes, matches!(ty, Type::MicroTime))?,
        (Type::Quantity, Wire::Bytes(bytes)) => text_of(bytes)?.into(),
        (Type::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
        // `JSON` and `RawExtension`: field 1 is JSON text.
        (Type::Any, Wire::Bytes(bytes)) => match text_of(bytes)?.as_str() {
            "" => Value::Null,
            text => serde_json::from_str(text).map_err(|_| DecodeError::NotJson)?,
        },
        (Type::Named(name), Wire::Bytes(bytes)) => {
            let def = schema::find(name).ok_or_else(|| DecodeError::UnknownKind((*name).to_owned()))?;
            let mut out = Map::new();
            message(def, def.name, bytes, &mut out, depth)?;
            Value::Object(out)
        }
        _ => return Err(DecodeError::WrongType),
    })
}

/// The text in field 1.
fn text_of(bytes: &[u8]) -> Result<String, DecodeError> {
    for field in fields(bytes) {
        if let (1, Wire::Bytes(text)) = field? {
            return utf8(text);
        }
    }
    Ok(String::new())
}

fn time(bytes: &[u8], micros: bool) -> Result<Value, DecodeError> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in fields(bytes) {
        match field? {
            (1, Wire::Number(number)) => seconds = number.cast_signed(),
            (2, Wire::Number(number)) => nanos = i32::try_from(number).unwrap_or(0),
            _ => {}
        }
    }
    // Go's zero time lies in the year 1.
    if seconds <= 0 {
        return Ok(Value::Null);
    }
    let Ok(at) = Timestamp::new(seconds, nanos) else {
        return Ok(Value::Null);
    };
    let form = if micros {
        "%Y-%m-%dT%H:%M:%S.%6fZ"
    } else {
        "%Y-%m-%dT%H:%M:%SZ"
    };
    Ok(at.strftime(form).to_string().into())
}

fn int_or_string(bytes: &[u8]) -> Result<Value, DecodeError> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for field in fields(bytes) {
        match field? {
            (1, Wire::Number(kind)) => is_text = kind == 1,
            (2, Wire::Number(value)) => number = value.cast_signed(),
            (3, Wire::Bytes(bytes)) => text = utf8(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn part(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        out.extend_from_slice(bytes);
        out
    }

    fn wrap(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(part(
            1,
            &[part(1, version.as_bytes()), part(2, kind.as_bytes())].concat(),
        ));
        out.extend(part(2, raw));
        out
    }

    #[test]
    fn a_namespace() {
        let meta = [part(1, b"team"), part(2, b""), part(8, &[])].concat();
        let bytes = wrap(
            "v1",
            "Namespace",
            &[part(1, &meta), part(2, &[]), part(3, &part(1, b""))].concat(),
        );
        let wanted = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}, "spec": {}, "status": {},
        });
        assert_eq!(decode(&bytes), Ok(wanted));
    }

    #[test]
    fn an_unknown_kind_is_a_media_type_that_we_do_not_take() {
        assert_eq!(
            decode(&wrap("demo/v1", "Widget", &[])).map_err(|s| s.code),
            Err(415)
        );
    }

    #[test]
    fn every_numbered_field_is_in_the_table_of_types() {
        for (name, slots) in numbers() {
            let Some(def) = schema::find(name) else { continue };
            for slot in slots.values() {
                if let Slot::Field(field) = slot {
                    assert!(def.fields.contains_key(field), "{name}.{field}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&wrap("v1", "Pod", &bytes[..bytes.len().min(120)]));
            let _ = decode(&[MAGIC, &bytes].concat());
        }
    }
}
