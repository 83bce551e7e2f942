//! What an applied configuration may set piece by piece, and what only as a whole: the `x-kubernetes-list-type`,
//! `…-list-map-keys` and `…-map-type` of built-in kinds (from the table of fields) and of custom ones (from their
//! schema).

use serde_json::{Map, Value};

use crate::kinds::{Fields, Kind};
use crate::object::items;
use crate::schema::{self, ListType, Type, TypeDef};

/// The type of a value inside an object.
#[derive(Clone, Copy)]
pub(super) enum Shape<'a> {
    /// A struct of the built-in kinds.
    Struct(&'static TypeDef),
    /// A field of such a struct, which says how its list or map merges.
    Field(&'static TypeDef, &'static str, &'static Type),
    /// An element of a list or map of the built-in kinds.
    Element(&'static Type),
    /// A value of a custom kind; the root has the `metadata` of every object.
    Custom { schema: &'a Value, root: bool },
    /// Nothing is known: maps merge, lists do not.
    Free,
}

/// How the elements of a list are told apart.
pub(super) enum Elements<'a> {
    /// They are not: the list is one value.
    Whole,
    /// By their value.
    Set,
    /// By these fields, each with the value that it has when it is left out.
    Keyed(Vec<(&'a str, Value)>),
}

impl<'a> Shape<'a> {
    pub(super) fn of(kind: &'a Kind) -> Self {
        match &kind.fields {
            Fields::Builtin(def) => Self::Struct(def),
            Fields::Structural(schema) => Self::Custom { schema, root: true },
        }
    }

    fn of_type(ty: &'static Type) -> Self {
        match ty {
            Type::Named(name) => schema::find(name).map_or(Self::Free, Self::Struct),
            _ => Self::Element(ty),
        }
    }

    /// The shape of a member of a struct or map.
    pub(super) fn member(self, name: &str) -> Self {
        match self {
            Self::Struct(def) => match def.fields.get_key_value(name) {
                Some((name, field)) => Self::Field(def, name, &field.ty),
                None => Self::Free,
            },
            Self::Field(_, _, ty) | Self::Element(ty) => match ty {
                Type::Map(inner) => Self::of_type(inner),
                Type::Named(_) => match Self::of_type(ty) {
                    Self::Struct(def) => Self::Struct(def).member(name),
                    _ => Self::Free,
                },
                _ => Self::Free,
            },
            Self::Custom { schema, root } => {
                if root && name == "metadata" {
                    return schema::find("ObjectMeta").map_or(Self::Free, Self::Struct);
                }
                let known = schema["properties"].get(name);
                let known = known.or_else(|| schema.get("additionalProperties").filter(|s| s.is_object()));
                known.map_or(Self::Free, |schema| Self::Custom { schema, root: false })
            }
            Self::Free => Self::Free,
        }
    }

    /// The shape of the elements of a list.
    pub(super) fn element(self) -> Self {
        match self {
            Self::Field(_, _, Type::List(inner)) | Self::Element(Type::List(inner)) => Self::of_type(inner),
            Self::Custom { schema, .. } => Self::Custom {
                schema: &schema["items"],
                root: false,
            },
            _ => Self::Free,
        }
    }

    /// Whether a struct or map is one value.
    pub(super) fn is_atomic(self) -> bool {
        match self {
            Self::Struct(def) => def.is_atomic(),
            Self::Field(owner, name, ty) => {
                owner.is_atomic_map(name) || matches!(Self::of_type(ty), Self::Struct(def) if def.is_atomic())
            }
            Self::Custom { schema, .. } => schema["x-kubernetes-map-type"] == "atomic",
            Self::Element(_) | Self::Free => false,
        }
    }

    /// How the elements of a list are told apart.
    pub(super) fn elements(self) -> Elements<'a> {
        match self {
            Self::Field(owner, name, _) => match owner.list_type(name) {
                ListType::Atomic => Elements::Whole,
                ListType::Set => Elements::Set,
                ListType::Map(keys) => {
                    let default = |key: &str| schema::key_default(key).map_or(Value::Null, Value::from);
                    Elements::Keyed(keys.iter().map(|key| (*key, default(key))).collect())
                }
            },
            Self::Custom { schema, .. } => match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => Elements::Set,
                Some("map") => {
                    let of = &schema["items"]["properties"];
                    let keys = items(&schema["x-kubernetes-list-map-keys"]).iter();
                    let mut keys: Vec<(&str, Value)> = keys
                        .filter_map(Value::as_str)
                        .map(|key| (key, of[key]["default"].clone()))
                        .collect();
                    keys.sort_by_key(|(key, _)| *key);
                    Elements::Keyed(keys)
                }
                _ => Elements::Whole,
            },
            _ => Elements::Whole,
        }
    }
}

impl Elements<'_> {
    /// Whether elements are known by this field (`f:name`).
    pub(super) fn is_key(&self, step: &str) -> bool {
        matches!(self, Self::Keyed(keys) if keys.iter().any(|(key, _)| step.strip_prefix("f:") == Some(key)))
    }

    /// The name of an element in `FieldsV1`: `v:…` or `k:{…}`; none when the list is one value.
    pub(super) fn step(&self, item: &Value) -> Option<String> {
        match self {
            Self::Whole => None,
            Self::Set => Some(format!("v:{item}")),
            Self::Keyed(keys) => {
                let named: Map<String, Value> = keys
                    .iter()
                    .map(|(key, default)| {
                        let value = item.get(key).filter(|v| !v.is_null()).unwrap_or(default);
                        ((*key).to_owned(), value.clone())
                    })
                    .collect();
                Some(format!("k:{}", Value::Object(named)))
            }
        }
    }
}
