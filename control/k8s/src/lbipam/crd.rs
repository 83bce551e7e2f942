//! The definition of `ciliumloadbalancerippools`, with the columns and fields that Cilium's has.

use serde_json::{Value, json};

/// Name of the kind in paths.
pub(crate) const PLURAL: &str = "ciliumloadbalancerippools";

/// Both versions have the same fields; the older one is what manifests written for Cilium up to 1.17 name.
pub(crate) fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name()},
        "spec": {
            "group": "cilium.io",
            "scope": "Cluster",
            "names": {
                "kind": "CiliumLoadBalancerIPPool",
                "listKind": "CiliumLoadBalancerIPPoolList",
                "plural": PLURAL,
                "singular": "ciliumloadbalancerippool",
                "shortNames": ["ippools", "ippool", "lbippool", "lbippools"],
                "categories": ["cilium"],
            },
            "versions": [version("v2", true), version("v2alpha1", false)],
        },
    })
}

/// Name of the definition.
pub(crate) fn name() -> String {
    format!("{PLURAL}.cilium.io")
}

fn version(name: &str, storage: bool) -> Value {
    json!({
        "name": name,
        "served": true,
        "storage": storage,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": "Disabled", "type": "boolean", "jsonPath": ".spec.disabled"},
            {"name": "Conflicting", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"cilium.io/PoolConflict\")].status"},
            {"name": "IPs Available", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"cilium.io/IPsAvailable\")].message"},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ],
        "schema": {"openAPIV3Schema": {
            "type": "object",
            "description": "Addresses that Services of type LoadBalancer get.",
            "required": ["metadata", "spec"],
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"type": "object"},
                "spec": spec(),
                "status": {"type": "object", "properties": {"conditions": conditions()}},
            },
        }},
    })
}

fn spec() -> Value {
    json!({
        "type": "object",
        "properties": {
            "blocks": {
                "type": "array",
                "description": "Where the addresses are from.",
                "items": {
                    "type": "object",
                    "description": "A prefix, or the addresses from start to stop.",
                    "properties": {
                        "cidr": {"type": "string", "format": "cidr"},
                        "start": {"type": "string"},
                        "stop": {"type": "string", "description": "Left out: start alone."},
                    },
                },
            },
            "serviceSelector": {
                "type": "object",
                "description": "Which Services get addresses; left out: all.",
                "x-kubernetes-map-type": "atomic",
                "properties": {
                    "matchLabels": {
                        "type": "object",
                        "additionalProperties": {
                            "type": "string",
                            "maxLength": 63,
                            "pattern": "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$",
                        },
                    },
                    "matchExpressions": {
                        "type": "array",
                        "x-kubernetes-list-type": "atomic",
                        "items": {
                            "type": "object",
                            "required": ["key", "operator"],
                            "properties": {
                                "key": {"type": "string"},
                                "operator": {"type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                                "values": {
                                    "type": "array",
                                    "x-kubernetes-list-type": "atomic",
                                    "items": {"type": "string"},
                                },
                            },
                        },
                    },
                },
            },
            "disabled": {
                "type": "boolean",
                "default": false,
                "description": "Nothing new is given; Services keep what they have.",
            },
            "allowFirstLastIPs": {
                "type": "string",
                "enum": ["Yes", "No"],
                "description": "Whether the first and the last address of a prefix are given, which is so unless this is No.",
            },
        },
    })
}

fn conditions() -> Value {
    json!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "lastTransitionTime": {"type": "string", "format": "date-time"},
                "message": {"type": "string", "maxLength": 32768},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                "reason": {"type": "string", "minLength": 1, "maxLength": 1024, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "type": {"type": "string", "maxLength": 316},
            },
        },
    })
}
