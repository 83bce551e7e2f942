//! The table of built-in kinds: everything that distinguishes one resource from another is a row here.

use crate::api::Api;
use crate::printers::{self, Printer};
use crate::schema::{self, TypeDef};
use crate::status::{Cause, Status};
use crate::{admission, crd, defaults, validate};

use serde_json::Value;
use std::sync::Arc;

/// How objects of a kind may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameRule {
    /// Lower-case DNS subdomain (RFC 1123).
    Subdomain,
    /// One DNS label (RFC 1123).
    Label,
    /// One DNS label that starts with a letter (RFC 1035).
    Label1035,
    /// A path segment: anything but `/`, `%`, `.` and `..`.
    Path,
}

/// The fields of a kind.
#[derive(Clone, Debug)]
pub(crate) enum Fields {
    /// In `schema/types.txt`.
    Builtin(&'static TypeDef),
    /// `openAPIV3Schema` of a custom resource definition.
    Structural(Arc<Value>),
}

/// What a kind does beyond the generic way of an object.
#[derive(Clone, Copy)]
pub(crate) struct Hooks {
    /// Fills in what the user left out; pure.
    pub(crate) defaults: fn(&mut Value),
    /// Looks at other objects, changes or refuses (`old` is `None` on creation).
    pub(crate) admit: fn(&Api, &mut Value, Option<&Value>) -> Result<(), Status>,
    /// Checks the complete object; pure.
    pub(crate) validate: fn(&Value, Option<&Value>, &mut Vec<Cause>),
    /// Runs after an object was stored or (second argument false) removed.
    pub(crate) stored: fn(&Api, &Value, bool) -> Result<(), Status>,
    /// From this version's form to the stored one.
    pub(crate) to_stored: fn(&mut Value),
    /// From the stored form to this version's.
    pub(crate) from_stored: fn(&mut Value),
}

impl Hooks {
    const NONE: Hooks = Hooks {
        defaults: |_| (),
        admit: |_, _, _| Ok(()),
        validate: |_, _, _| (),
        stored: |_, _, _| Ok(()),
        to_stored: |_| (),
        from_stored: |_| (),
    };
}

/// Where the `scale` subresource finds its numbers, as dotted paths.
#[derive(Clone, Debug)]
pub(crate) struct ScalePaths {
    pub(crate) spec: String,
    pub(crate) status: String,
    /// Where the label selector is; a structured one (built-in kinds) or its text (custom resources).
    pub(crate) selector: String,
}

/// One kind in one version.
#[derive(Clone)]
pub(crate) struct Kind {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    /// Where objects are kept; kinds that are views of the same objects share it.
    pub(crate) storage: String,
    pub(crate) fields: Fields,
    pub(crate) printer: Printer,
    pub(crate) selectable: Vec<String>,
    pub(crate) status: bool,
    pub(crate) scale: Option<ScalePaths>,
    /// Further subresources as discovery names them: name, kind, verbs.
    pub(crate) subresources: &'static [(&'static str, &'static str, &'static [&'static str])],
    pub(crate) name_rule: NameRule,
    pub(crate) hooks: Hooks,
    /// Comes from a custom resource definition.
    pub(crate) custom: bool,
}

impl Kind {
    /// `v1` or `group/version`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    pub(crate) fn selectable(&self) -> Vec<&str> {
        self.selectable.iter().map(String::as_str).collect()
    }

    fn new(api_version: &str, kind: &str, plural: &str, short: &[&str]) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let storage = if group.is_empty() {
            plural.to_owned()
        } else {
            format!("{plural}.{group}")
        };
        // Every row names a type of the table: `tests::every_kind_has_fields`.
        static EMPTY: TypeDef = TypeDef {
            name: "",
            definition: "",
            fields: std::collections::BTreeMap::new(),
        };
        Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            list_kind: format!("{kind}List"),
            plural: plural.into(),
            singular: kind.to_lowercase(),
            short_names: short.iter().map(|s| (*s).to_owned()).collect(),
            categories: Vec::new(),
            namespaced: true,
            storage,
            fields: Fields::Builtin(schema::of_kind(api_version, kind).unwrap_or(&EMPTY)),
            printer: printers::plain(),
            selectable: Vec::new(),
            status: false,
            scale: None,
            subresources: &[],
            name_rule: NameRule::Subdomain,
            hooks: Hooks::NONE,
            custom: false,
        }
    }

    /// A row for a version of a custom resource definition.
    pub(crate) fn custom(group: &str, version: &str, kind: &str, plural: &str, schema: Value) -> Self {
        let mut row = Self::new(&format!("{group}/{version}"), kind, plural, &[]);
        row.fields = Fields::Structural(Arc::new(schema));
        row.custom = true;
        row
    }

    fn cluster(mut self) -> Self {
        self.namespaced = false;
        self
    }

    fn with_status(mut self) -> Self {
        self.status = true;
        self
    }

    fn in_all(mut self) -> Self {
        self.categories = vec!["all".into()];
        self
    }

    fn scalable(mut self) -> Self {
        self.scale = Some(ScalePaths {
            spec: "spec.replicas".into(),
            status: "status.replicas".into(),
            selector: "spec.selector".into(),
        });
        self
    }

    fn named(mut self, rule: NameRule) -> Self {
        self.name_rule = rule;
        self
    }

    fn select(mut self, fields: &[&str]) -> Self {
        self.selectable = fields.iter().map(|s| (*s).to_owned()).collect();
        self
    }

    fn print(mut self, printer: Printer) -> Self {
        self.printer = printer;
        self
    }

    fn hook(mut self, change: impl FnOnce(&mut Hooks)) -> Self {
        change(&mut self.hooks);
        self
    }

    fn sub(mut self, list: &'static [(&'static str, &'static str, &'static [&'static str])]) -> Self {
        self.subresources = list;
        self
    }

    fn stored_as(mut self, storage: &str) -> Self {
        self.storage = storage.into();
        self
    }
}

/// Verbs of every resource, as discovery lists them.
pub(crate) const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

/// The built-in kinds.
pub(crate) fn builtin() -> Vec<Kind> {
    let mut rows = core();
    rows.extend(apps());
    rows.extend(others());
    rows
}

fn core() -> Vec<Kind> {
    let k = |kind, plural, short: &[&str]| Kind::new("v1", kind, plural, short);
    vec![
        k("Namespace", "namespaces", &["ns"])
            .cluster()
            .with_status()
            .named(NameRule::Label)
            .select(&["status.phase"])
            .print(printers::namespaces())
            .sub(&[("finalize", "Namespace", &["update"])])
            .hook(|h| {
                h.defaults = defaults::namespace;
                h.stored = crate::bootstrap::namespace_stored;
            }),
        k("Node", "nodes", &["no"])
            .cluster()
            .with_status()
            .select(&["spec.unschedulable"])
            .print(printers::nodes())
            .hook(|h| {
                h.defaults = defaults::node;
                h.validate = validate::node;
            }),
        k("Pod", "pods", &["po"])
            .with_status()
            .in_all()
            .select(&[
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "spec.hostNetwork",
                "status.phase",
                "status.podIP",
                "status.podIPs",
                "status.nominatedNodeName",
            ])
            .print(printers::pods())
            .sub(&[
                ("attach", "PodAttachOptions", &["create", "get"]),
                ("binding", "Binding", &["create"]),
                ("eviction", "Eviction", &["create"]),
                ("exec", "PodExecOptions", &["create", "get"]),
                ("log", "Pod", &["get"]),
                ("portforward", "PodPortForwardOptions", &["create", "get"]),
            ])
            .hook(|h| {
                h.defaults = defaults::pod;
                h.admit = admission::pod;
                h.validate = validate::pod;
            }),
        k("Service", "services", &["svc"])
            .with_status()
            .in_all()
            .select(&["spec.clusterIP", "spec.type"])
            .named(NameRule::Label1035)
            .print(printers::services())
            .hook(|h| {
                h.defaults = defaults::service;
                h.admit = admission::service;
                h.validate = validate::service;
            }),
        k("Endpoints", "endpoints", &["ep"])
            .print(printers::endpoints())
            .hook(|h| {
                h.defaults = defaults::endpoints;
                h.validate = validate::endpoints;
            }),
        k("ConfigMap", "configmaps", &["cm"])
            .print(printers::config_maps())
            .hook(|h| h.validate = validate::config_map),
        k("Secret", "secrets", &[])
            .select(&["type"])
            .print(printers::secrets())
            .hook(|h| {
                h.defaults = defaults::secret;
                h.validate = validate::secret;
            }),
        k("ServiceAccount", "serviceaccounts", &["sa"])
            .print(printers::service_accounts())
            .sub(&[("token", "TokenRequest", &["create"])]),
        k("Event", "events", &["ev"])
            .select(EVENT_FIELDS)
            .print(printers::events())
            .hook(|h| h.defaults = defaults::event),
    ]
}

fn apps() -> Vec<Kind> {
    let k = |kind, plural, short: &[&str]| Kind::new("apps/v1", kind, plural, short).with_status().in_all();
    vec![
        k("DaemonSet", "daemonsets", &["ds"])
            .print(printers::daemon_sets())
            .hook(|h| {
                h.defaults = defaults::daemon_set;
                h.validate = validate::workload;
            }),
        k("Deployment", "deployments", &["deploy"])
            .scalable()
            .print(printers::deployments())
            .hook(|h| {
                h.defaults = defaults::deployment;
                h.validate = validate::workload;
            }),
        k("ReplicaSet", "replicasets", &["rs"])
            .scalable()
            .select(&["status.replicas"])
            .print(printers::replica_sets())
            .hook(|h| {
                h.defaults = defaults::replica_set;
                h.validate = validate::workload;
            }),
    ]
}

fn others() -> Vec<Kind> {
    let rbac =
        |kind, plural| Kind::new("rbac.authorization.k8s.io/v1", kind, plural, &[]).named(NameRule::Path);
    vec![
        Kind::new("coordination.k8s.io/v1", "Lease", "leases", &[]).print(printers::leases()),
        Kind::new("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", &[])
            .print(printers::endpoint_slices())
            .hook(|h| {
                h.defaults = defaults::endpoint_slice;
                h.validate = validate::endpoint_slice;
            }),
        Kind::new("events.k8s.io/v1", "Event", "events", &["ev"])
            .stored_as("events")
            .select(EVENT_FIELDS)
            .print(printers::events())
            .hook(|h| {
                h.defaults = defaults::event;
                h.to_stored = defaults::event_to_core;
                h.from_stored = defaults::event_from_core;
            }),
        rbac("Role", "roles").print(printers::created_at()),
        rbac("RoleBinding", "rolebindings")
            .print(printers::role_bindings())
            .hook(|h| h.validate = validate::role_binding),
        rbac("ClusterRole", "clusterroles")
            .cluster()
            .print(printers::created_at()),
        rbac("ClusterRoleBinding", "clusterrolebindings")
            .cluster()
            .print(printers::role_bindings())
            .hook(|h| h.validate = validate::role_binding),
        Kind::new(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            &["crd", "crds"],
        )
        .cluster()
        .with_status()
        .print(printers::definitions())
        .hook(|h| {
            h.defaults = crd::defaults;
            h.admit = crd::admit;
            h.validate = crd::validate;
            h.stored = crd::stored;
        }),
        Kind::new(
            "scheduling.k8s.io/v1",
            "PriorityClass",
            "priorityclasses",
            &["pc"],
        )
        .cluster()
        .print(printers::priority_classes())
        .hook(|h| h.defaults = defaults::priority_class),
        Kind::new(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            "networkpolicies",
            &["netpol"],
        )
        .print(printers::network_policies())
        .hook(|h| {
            h.defaults = defaults::network_policy;
            h.validate = validate::network_policy;
        }),
        Kind::new(
            "policy/v1",
            "PodDisruptionBudget",
            "poddisruptionbudgets",
            &["pdb"],
        )
        .with_status()
        .print(printers::disruption_budgets()),
        Kind::new("node.k8s.io/v1", "RuntimeClass", "runtimeclasses", &[])
            .cluster()
            .print(printers::runtime_classes()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_fields() {
        for kind in builtin() {
            assert!(
                matches!(kind.fields, Fields::Builtin(def) if !def.fields.is_empty()),
                "{}",
                kind.kind
            );
        }
    }
}
