//! The fields of the built-in kinds, read from `schema/types.txt`, and what follows from them: strict decoding,
//! merge keys, OpenAPI.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::Value;

#[cfg(test)]
mod tests;

/// The table that `schema/extract.py` made.
const TYPES: &str = include_str!("../schema/types.txt");

/// How a list of the built-in kinds is merged by a strategic merge patch: `(type, field, merge key)`, with an empty
/// key for sets of plain values. Lists that are not named here are replaced as a whole.
/// Source: `patchStrategy`/`patchMergeKey` of the Kubernetes API types.
const MERGE_KEYS: &[(&str, &str, &str)] = &[
    ("ObjectMeta", "finalizers", ""),
    ("ObjectMeta", "ownerReferences", "uid"),
    ("PodSpec", "containers", "name"),
    ("PodSpec", "initContainers", "name"),
    ("PodSpec", "ephemeralContainers", "name"),
    ("PodSpec", "volumes", "name"),
    ("PodSpec", "imagePullSecrets", "name"),
    ("PodSpec", "hostAliases", "ip"),
    ("PodSpec", "topologySpreadConstraints", "topologyKey"),
    ("PodSpec", "resourceClaims", "name"),
    ("PodSpec", "schedulingGates", "name"),
    ("Container", "ports", "containerPort"),
    ("Container", "env", "name"),
    ("Container", "volumeMounts", "mountPath"),
    ("Container", "volumeDevices", "devicePath"),
    ("EphemeralContainer", "ports", "containerPort"),
    ("EphemeralContainer", "env", "name"),
    ("EphemeralContainer", "volumeMounts", "mountPath"),
    ("EphemeralContainer", "volumeDevices", "devicePath"),
    ("PodStatus", "conditions", "type"),
    ("PodStatus", "podIPs", "ip"),
    ("PodStatus", "hostIPs", "ip"),
    ("PodStatus", "resourceClaimStatuses", "name"),
    ("NodeSpec", "podCIDRs", ""),
    ("NodeStatus", "conditions", "type"),
    ("NodeStatus", "addresses", "type"),
    ("NamespaceStatus", "conditions", "type"),
    ("ServiceSpec", "ports", "port"),
    ("ServiceStatus", "conditions", "type"),
    ("ServiceAccount", "secrets", "name"),
    ("DeploymentStatus", "conditions", "type"),
    ("ReplicaSetStatus", "conditions", "type"),
    ("DaemonSetStatus", "conditions", "type"),
    ("PodDisruptionBudgetStatus", "conditions", "type"),
];

/// Lists whose elements server-side apply tells apart by more or other fields than a strategic merge patch.
/// Source: `listType`/`listMapKey` of the Kubernetes API types.
const LIST_TYPES: &[(&str, &str, ListType)] = &[
    (
        "PodSpec",
        "topologySpreadConstraints",
        ListType::Map(&["topologyKey", "whenUnsatisfiable"]),
    ),
    (
        "Container",
        "ports",
        ListType::Map(&["containerPort", "protocol"]),
    ),
    (
        "EphemeralContainer",
        "ports",
        ListType::Map(&["containerPort", "protocol"]),
    ),
    ("ResourceRequirements", "claims", ListType::Map(&["name"])),
    ("ContainerStatus", "volumeMounts", ListType::Map(&["mountPath"])),
    ("PodStatus", "hostIPs", ListType::Atomic),
    ("ServiceSpec", "ports", ListType::Map(&["port", "protocol"])),
    (
        "CustomResourceDefinitionStatus",
        "conditions",
        ListType::Map(&["type"]),
    ),
];

/// Structs that server-side apply takes as one value.
/// Source: `structType=atomic` of the Kubernetes API types.
const ATOMIC_TYPES: &[&str] = &[
    "ConfigMapKeySelector",
    "EndpointAddress",
    "EndpointPort",
    "discovery.v1.EndpointPort",
    "LabelSelector",
    "LocalObjectReference",
    "NodeSelector",
    "NodeSelectorTerm",
    "ObjectFieldSelector",
    "ObjectReference",
    "ResourceFieldSelector",
    "RoleRef",
    "SecretKeySelector",
    "rbac.v1.Subject",
    "TypedLocalObjectReference",
];

/// Maps that server-side apply takes as one value. Source: `mapType=atomic` of the Kubernetes API types.
const ATOMIC_MAPS: &[(&str, &str)] = &[("PodSpec", "nodeSelector"), ("ServiceSpec", "selector")];

/// What server-side apply does with a list (`x-kubernetes-list-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListType {
    /// One value.
    Atomic,
    /// Plain values, each once.
    Set,
    /// Elements known by these fields, in alphabetical order.
    Map(&'static [&'static str]),
}

/// The value of a key of a list that may be left out.
pub(crate) fn key_default(key: &str) -> Option<&'static str> {
    (key == "protocol").then_some("TCP")
}

/// Fields whose patches name the members to keep (`$retainKeys`), because their members exclude each other.
const RETAIN_KEYS: &[(&str, &str)] = &[("PodSpec", "volumes"), ("DeploymentSpec", "strategy")];

/// Type of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    String,
    Boolean,
    Int32,
    Int64,
    Number,
    Bytes,
    Time,
    MicroTime,
    IntOrString,
    Quantity,
    Any,
    List(Box<Type>),
    Map(Box<Type>),
    Named(&'static str),
}

/// A field of a type.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) ty: Type,
    pub(crate) required: bool,
}

/// A struct of the Kubernetes API.
#[derive(Debug)]
pub(crate) struct TypeDef {
    /// Short name, for example `PodSpec`.
    pub(crate) name: &'static str,
    /// Name in OpenAPI, for example `io.k8s.api.core.v1.PodSpec`.
    pub(crate) definition: &'static str,
    pub(crate) fields: BTreeMap<&'static str, Field>,
}

/// Looks a type up by its short name.
pub(crate) fn find(name: &str) -> Option<&'static TypeDef> {
    all().get(name)
}

/// Looks the type of a kind up. Kinds that share their name are told apart by their group.
pub(crate) fn of_kind(api_version: &str, kind: &str) -> Option<&'static TypeDef> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let group = group.split('.').next().unwrap_or_default();
    find(&format!("{group}.{version}.{kind}")).or_else(|| find(kind))
}

/// All types by short name.
pub(crate) fn all() -> &'static BTreeMap<&'static str, TypeDef> {
    static ALL: OnceLock<BTreeMap<&'static str, TypeDef>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut out: BTreeMap<&'static str, TypeDef> = BTreeMap::new();
        let mut current = None;
        for line in TYPES.lines().filter(|l| !l.starts_with('#')) {
            let mut words = line.split_whitespace();
            let (Some(first), Some(second)) = (words.next(), words.next()) else {
                continue;
            };
            if line.starts_with(' ') {
                let field = Field {
                    ty: type_of(second),
                    required: words.next() == Some("!"),
                };
                if let Some(def) = current.and_then(|name| out.get_mut(name)) {
                    def.fields.insert(first, field);
                }
            } else {
                current = Some(first);
                out.insert(
                    first,
                    TypeDef {
                        name: first,
                        definition: second,
                        fields: BTreeMap::new(),
                    },
                );
            }
        }
        out
    })
}

fn type_of(text: &'static str) -> Type {
    if let Some(inner) = text.strip_prefix("[]") {
        return Type::List(Box::new(type_of(inner)));
    }
    if let Some(inner) = text.strip_prefix("{}") {
        return Type::Map(Box::new(type_of(inner)));
    }
    match text {
        "string" => Type::String,
        "boolean" => Type::Boolean,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "number" => Type::Number,
        "bytes" => Type::Bytes,
        "time" => Type::Time,
        "microtime" => Type::MicroTime,
        "intorstring" => Type::IntOrString,
        "quantity" => Type::Quantity,
        "any" => Type::Any,
        named => Type::Named(named),
    }
}

impl TypeDef {
    /// The merge key of a list field: `Some("")` for sets of plain values, `None` when the list is replaced.
    pub(crate) fn merge_key(&self, field: &str) -> Option<&'static str> {
        MERGE_KEYS
            .iter()
            .find(|(ty, f, _)| *ty == self.name && *f == field)
            .map(|(_, _, key)| *key)
    }

    /// What server-side apply does with a list field.
    pub(crate) fn list_type(&self, field: &str) -> ListType {
        let own = LIST_TYPES
            .iter()
            .find(|(ty, f, _)| *ty == self.name && *f == field);
        if let Some((_, _, list)) = own {
            return *list;
        }
        match MERGE_KEYS
            .iter()
            .find(|(ty, f, _)| *ty == self.name && *f == field)
        {
            None => ListType::Atomic,
            Some((_, _, "")) => ListType::Set,
            Some((_, _, key)) => ListType::Map(std::slice::from_ref(key)),
        }
    }

    /// Whether server-side apply takes this struct as one value.
    pub(crate) fn is_atomic(&self) -> bool {
        ATOMIC_TYPES.contains(&self.name)
    }

    /// Whether server-side apply takes this map as one value.
    pub(crate) fn is_atomic_map(&self, field: &str) -> bool {
        ATOMIC_MAPS.contains(&(self.name, field))
    }

    /// Whether patches of this field (or of its elements) use `$retainKeys`.
    pub(crate) fn retain_keys(&self, field: &str) -> bool {
        RETAIN_KEYS.contains(&(self.name, field))
    }

    /// The named type of a field, through lists and maps.
    pub(crate) fn member(&self, field: &str) -> Option<&'static TypeDef> {
        let mut ty = &self.fields.get(field)?.ty;
        loop {
            match ty {
                Type::List(inner) | Type::Map(inner) => ty = inner,
                Type::Named(name) => return find(name),
                _ => return None,
            }
        }
    }
}

/// A value that does not fit its type; says it as Go's JSON decoder does.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("json: cannot unmarshal {got} into Go struct field {owner}.{path} of type {want}")]
pub(crate) struct TypeMismatch {
    got: &'static str,
    owner: String,
    path: String,
    want: String,
}

/// Brings an object of a built-in kind into the form that the rest of the server relies on: every value has the type
/// of its field, nulls and unknown fields are gone. Answers the paths of the unknown fields.
pub(crate) fn decode(def: &'static TypeDef, object: &mut Value) -> Result<Vec<String>, TypeMismatch> {
    let mut decoder = Decoder {
        unknown: Vec::new(),
        path: Vec::new(),
    };
    decoder.structure(def, object, true)?;
    Ok(decoder.unknown)
}

struct Decoder {
    unknown: Vec<String>,
    path: Vec<String>,
}

impl Decoder {
    fn structure(
        &mut self,
        def: &'static TypeDef,
        value: &mut Value,
        root: bool,
    ) -> Result<(), TypeMismatch> {
        let Value::Object(map) = value else {
            return Err(self.mismatch(def.name, value, def.name));
        };
        map.retain(|_, v| !v.is_null());
        let keys: Vec<String> = map.keys().cloned().collect();
        for key in keys {
            if root && (key == "apiVersion" || key == "kind") {
                if let Some(v) = map.get(&key).filter(|v| !v.is_string()) {
                    self.path.push(key.clone());
                    return Err(self.mismatch(def.name, v, "string"));
                }
                continue;
            }
            self.path.push(key.clone());
            match def.fields.get(key.as_str()) {
                None => {
                    map.remove(&key);
                    self.unknown.push(self.path_text());
                }
                Some(field) => {
                    if let Some(v) = map.get_mut(&key) {
                        self.value(&field.ty, v, def.name)?;
                    }
                }
            }
            self.path.pop();
        }
        Ok(())
    }

    fn value(&mut self, ty: &Type, value: &mut Value, owner: &str) -> Result<(), TypeMismatch> {
        let fits = match ty {
            Type::Any => true,
            Type::String | Type::Bytes | Type::Time | Type::MicroTime => value.is_string(),
            Type::Boolean => value.is_boolean(),
            Type::Int32 => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            Type::Int64 => value.is_i64(),
            Type::Number => value.is_number(),
            Type::IntOrString => value.is_string() || value.is_i64(),
            Type::Quantity => {
                if let Value::Number(number) = value {
                    *value = number.to_string().into();
                }
                value.is_string()
            }
            Type::Named(name) => {
                return match find(name) {
                    Some(def) => self.structure(def, value, false),
                    None => Ok(()),
                };
            }
            Type::List(inner) => {
                let Value::Array(list) = value else {
                    return Err(self.mismatch(owner, value, &go_name(ty)));
                };
                for (index, item) in list.iter_mut().enumerate() {
                    let last = self.path.last_mut().map(|step| {
                        let plain = step.clone();
                        step.push_str(&format!("[{index}]"));
                        plain
                    });
                    self.value(inner, item, owner)?;
                    if let (Some(step), Some(plain)) = (self.path.last_mut(), last) {
                        *step = plain;
                    }
                }
                true
            }
            Type::Map(inner) => {
                let Value::Object(map) = value else {
                    return Err(self.mismatch(owner, value, &go_name(ty)));
                };
                for (key, item) in map.iter_mut() {
                    if item.is_null() {
                        *item = zero(inner);
                    }
                    self.path.push(key.clone());
                    self.value(inner, item, owner)?;
                    self.path.pop();
                }
                true
            }
        };
        if fits {
            Ok(())
        } else {
            Err(self.mismatch(owner, value, &go_name(ty)))
        }
    }

    fn path_text(&self) -> String {
        self.path.join(".")
    }

    fn mismatch(&self, owner: &str, value: &Value, want: &str) -> TypeMismatch {
        let got = match value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        // Go names the path without indices.
        let path = self
            .path
            .iter()
            .map(|p| p.split('[').next().unwrap_or_default())
            .collect::<Vec<_>>()
            .join(".");
        TypeMismatch {
            got,
            owner: owner.into(),
            path,
            want: want.into(),
        }
    }
}

/// What Go makes of a null inside a map.
fn zero(ty: &Type) -> Value {
    match ty {
        Type::String | Type::Bytes => "".into(),
        Type::Quantity => "0".into(),
        Type::Named(_) | Type::Map(_) => Value::Object(serde_json::Map::new()),
        Type::List(_) => Value::Array(Vec::new()),
        _ => Value::Null,
    }
}

fn go_name(ty: &Type) -> String {
    match ty {
        Type::String => "string".into(),
        Type::Boolean => "bool".into(),
        Type::Int32 => "int32".into(),
        Type::Int64 => "int64".into(),
        Type::Number => "float64".into(),
        Type::Bytes => "[]uint8".into(),
        Type::Time => "v1.Time".into(),
        Type::MicroTime => "v1.MicroTime".into(),
        Type::IntOrString => "intstr.IntOrString".into(),
        Type::Quantity => "resource.Quantity".into(),
        Type::Any => "interface {}".into(),
        Type::List(inner) => format!("[]{}", go_name(inner)),
        Type::Map(inner) => format!("map[string]{}", go_name(inner)),
        Type::Named(name) => format!("v1.{name}"),
    }
}
