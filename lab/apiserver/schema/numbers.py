#!/usr/bin/env python3
"""Extracts the protobuf field numbers of the built-in kinds (numbers.txt) from the sources of the crate k8s-pb.

usage: numbers.py ~/.cargo/registry/src/*/k8s-pb-0.9.0/src types.txt > numbers.txt

One type per block: its name in types.txt, then `number field` lines. A field that JSON shows inline in its owner is
written `number *Type`, and that type has a block of its own.
"""
import pathlib
import re
import sys

root, table = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
json = {}
for line in table.read_text().splitlines():
    if line.startswith("#"):
        continue
    if not line.startswith(" "):
        name, definition = line.split()
        current = json.setdefault(definition, (name, {}))[1]
    else:
        field = line.split()[0]
        current[re.sub("[^a-z0-9]", "", field.lower())] = field

messages = {}
for path in root.rglob("mod.rs"):
    package = "io.k8s." + ".".join(path.relative_to(root).parts[:-1]).replace("_", "-")
    for name, body in re.findall(r"^pub struct (\w+) \{\n(.*?)^\}", path.read_text(), re.M | re.S):
        fields = re.findall(r'#\[prost\(([^\]]*?)tag\s*=\s*"(\d+)"[^\]]*?\)\]\s*pub (?:r#)?(\w+):\s*(.*?),\n', body, re.S)
        # prost writes HttpGetAction for HTTPGetAction.
        messages[f"{package}.{name}".lower()] = fields

INLINE = ["LocalObjectReference", "EphemeralContainerCommon", "ProbeHandler", "VolumeSource"]

print("# Protobuf field numbers of the built-in kinds. Made by schema/numbers.py; do not edit.")
todo = [(name, definition, fields) for definition, (name, fields) in sorted(json.items())]
seen = set()
while todo:
    name, definition, fields = todo.pop(0)
    if name in seen:
        continue
    seen.add(name)
    found = messages.get(definition.lower())
    if found is None:
        print("warning: no message for", definition, file=sys.stderr)
        continue
    print(name)
    package = definition.rsplit(".", 1)[0]
    for kind, number, rust, ty in found:
        key = rust.replace("_", "").lower()
        if key in fields:
            print(f"  {number} {fields[key]}")
        elif (inner := re.findall(r"(\w+)>*$", ty.strip())[-1]) in INLINE:
            print(f"  {number} *{inner}")
            todo.append((inner, f"{package}.{inner}", fields))
        else:
            print("warning:", name, rust, "is not in JSON", file=sys.stderr)
