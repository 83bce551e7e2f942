#!/usr/bin/env python3
"""Extracts the field table of the built-in kinds (types.txt) from the sources of the crate k8s-openapi.

usage: extract.py ~/.cargo/registry/src/*/k8s-openapi-0.29.0/src/v1_33 > types.txt

One type per block: its name, then `field type` lines, `!` after a field that is required. Lists are `[]T`, maps `{}T`.
"""
import re
import sys
import pathlib

root = pathlib.Path(sys.argv[1])
START = ["Pod", "Node", "Namespace", "Service", "Endpoints", "ConfigMap", "Secret", "ServiceAccount", "core.v1.Event",
         "Deployment", "ReplicaSet", "DaemonSet", "Lease", "EndpointSlice", "events.v1.Event", "Role", "RoleBinding",
         "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "PriorityClass", "NetworkPolicy",
         "PodDisruptionBudget", "RuntimeClass", "autoscaling.v1.Scale", "Binding", "Eviction", "TokenRequest",
         "DeleteOptions", "Status",
         "SelfSubjectAccessReview", "SelfSubjectReview", "SubjectAccessReview", "LocalSubjectAccessReview",
         "SelfSubjectRulesReview", "TokenReview"]
SCALARS = {"std::string::String": "string", "bool": "boolean", "i32": "int32", "i64": "int64", "f64": "number",
           "crate::ByteString": "bytes", "serde_json::Value": "any"}
SPECIAL = {"Time": "time", "MicroTime": "microtime", "IntOrString": "intorstring", "Quantity": "quantity",
           "JSON": "any", "RawExtension": "any", "FieldsV1": "any", "JSONSchemaPropsOrArray": "any",
           "JSONSchemaPropsOrBool": "any", "JSONSchemaPropsOrStringArray": "any"}

types = {}
for path in sorted(root.rglob("*.rs")):
    text = path.read_text()
    m = re.match(r"// Generated from definition (io\.k8s\.\S+)", text)
    if not m:
        continue
    definition = m.group(1)
    if definition in types:
        continue
    s = re.search(r"^pub struct (\w+) \{\n(.*?)^\}", text, re.M | re.S)
    if not s:
        continue
    rust = re.findall(r"^    pub (?:r#)?(\w+): (.*),$", s.group(2), re.M)
    keys = dict((b, a) for a, b in re.findall(r'"([^"]+)" => Field::Key_(\w+),', text))
    types[definition] = [(keys.get(f, f), t) for f, t in rust]


def short(definition):
    parts = definition.split(".")
    name = parts[-1]
    same = [d for d in types if d.split(".")[-1] == name and (d.endswith(f"v1.{name}") or ".util." in d)]
    if len(same) > 1 and not definition.startswith("io.k8s.api.core.v1."):
        return ".".join(parts[-3:])
    return name


def resolve(t):
    for wrapper in ("std::option::Option<", "Option<", "std::boxed::Box<", "Box<"):
        if t.startswith(wrapper):
            return resolve(t[len(wrapper):-1])
    if t.startswith("std::vec::Vec<") or t.startswith("Vec<"):
        inner, used = resolve(t[t.index("<") + 1:-1])
        return "[]" + inner, used
    m = re.match(r"std::collections::BTreeMap<std::string::String, (.*)>$", t)
    if m:
        inner, used = resolve(m.group(1))
        return "{}" + inner, used
    for rustname, name in SCALARS.items():
        if t == rustname or t.endswith("::" + rustname):
            return name, None
    last = t.split("::")[-1]
    if last in SPECIAL:
        return SPECIAL[last], None
    path = t.replace("crate::", "")
    for d in types:
        tail = d.split(".")
        if path.split("::")[-2:] == [tail[-2], tail[-1]] and (len(path.split("::")) < 4 or path.split("::")[-3] == tail[-3]):
            return short(d), d
    raise SystemExit(f"unknown type {t}")


def find(name):
    hits = [d for d in types if d.endswith("." + name) and re.search(r"\.v1\.\w+$", d)]
    hits = [d for d in hits if not d.startswith("io.k8s.kube-aggregator")]
    if not hits:
        raise SystemExit(f"no {name}: {hits}")
    return hits[0]


todo, done = [find(n) for n in START], {}
while todo:
    definition = todo.pop(0)
    if definition in done:
        continue
    rows = []
    for field, t in types[definition]:
        try:
            name, used = resolve(t)
        except SystemExit as e:
            print("warning", definition, field, e, file=sys.stderr)
            name, used = "any", None
        rows.append(f"  {field} {name}" + ("" if "Option<" in t else " !"))
        if used:
            todo.append(used)
    done[definition] = rows

print("# Fields of the built-in kinds. Made by schema/extract.py; do not edit.")
for definition in sorted(done):
    print(short(definition), definition)
    for row in done[definition]:
        print(row)
