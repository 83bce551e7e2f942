//! Definitions of the policy kinds, which have no Rust type yet: users can store them, nothing enforces them.
//!
//! The schemas name the fields of the first levels (cilium.md §3.2) and keep whatever is below, so that a policy
//! written for Cilium survives unchanged.

use serde_json::{Value, json};

/// `ciliumnetworkpolicies` and `ciliumclusterwidenetworkpolicies`.
pub(crate) fn definitions() -> [Value; 2] {
    [
        policy(
            "CiliumNetworkPolicy",
            "ciliumnetworkpolicies",
            "ciliumnetworkpolicy",
            &["cnp", "ciliumnp"],
            "Namespaced",
        ),
        policy(
            "CiliumClusterwideNetworkPolicy",
            "ciliumclusterwidenetworkpolicies",
            "ciliumclusterwidenetworkpolicy",
            &["ccnp"],
            "Cluster",
        ),
    ]
}

fn policy(kind: &str, plural: &str, singular: &str, short: &[&str], scope: &str) -> Value {
    let conditions = json!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["status", "type"],
            "properties": {
                "lastTransitionTime": {"type": "string", "format": "date-time"},
                "message": {"type": "string"},
                "reason": {"type": "string"},
                "status": {"type": "string"},
                "type": {"type": "string"},
            },
        },
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.cilium.io")},
        "spec": {
            "group": "cilium.io",
            "scope": scope,
            "names": {
                "kind": kind,
                "listKind": format!("{kind}List"),
                "plural": plural,
                "singular": singular,
                "shortNames": short,
                "categories": ["cilium", "ciliumpolicy"],
            },
            "versions": [{
                "name": "v2",
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                    {"name": "Valid", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Valid')].status"},
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": "Which traffic of the selected endpoints is allowed.",
                    "required": ["metadata"],
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": rule(),
                        "specs": {"type": "array", "items": rule(), "description": "Several rules, each like spec."},
                        "status": {
                            "type": "object",
                            "x-kubernetes-preserve-unknown-fields": true,
                            "properties": {"conditions": conditions},
                        },
                    },
                }},
            }],
        },
    })
}

fn rule() -> Value {
    let open = |description: &str| json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "description": description});
    let list =
        |description: &str| json!({"type": "array", "items": open("One rule."), "description": description});
    json!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": {
            "description": {"type": "string", "description": "What the rule is for."},
            "endpointSelector": open("Endpoints that the rule applies to."),
            "nodeSelector": open("Nodes that the rule applies to."),
            "ingress": list("What may come in; whatever is not listed may not."),
            "ingressDeny": list("What may not come in, even if it is listed."),
            "egress": list("What may go out; whatever is not listed may not."),
            "egressDeny": list("What may not go out, even if it is listed."),
            "enableDefaultDeny": {
                "type": "object",
                "properties": {"ingress": {"type": "boolean"}, "egress": {"type": "boolean"}},
            },
            "labels": {"type": "array", "items": open("A label of the rule.")},
            "log": {"type": "object", "properties": {"value": {"type": "string"}}},
        },
    })
}
