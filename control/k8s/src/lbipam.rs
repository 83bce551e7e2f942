//! Pools of load balancer addresses and the Services that want some (LB-IPAM): what they say, and writing what was
//! decided. The decision is the model's ([`model::lbpool`]).
//!
//! A Service that carries our condition has been served by us, which is all that has to be remembered: when it is no
//! longer our business, what we gave is taken back, and nothing else.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::api::{ApiResource, Patch};
use kube::core::{GroupVersionKind, Object};
use kube::{Api, ResourceExt};
use model::addr::Family;
use model::inputs::ObjectName;
use model::lbpool::{Grant, Pool, PoolReport, Range, Request, Requirement, Sharing};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::Cluster;
use crate::error::{RequestError, request};

pub(crate) mod crd;
mod watch;

pub use watch::{LoadBalancers, NoLoadBalancers};

/// Our condition on a Service: whether it got all that it asks for.
const SATISFIED: &str = "cilium.io/IPAMRequestSatisfied";
const CONFLICT: &str = "cilium.io/PoolConflict";
const TOTAL: &str = "cilium.io/IPsTotal";
const AVAILABLE: &str = "cilium.io/IPsAvailable";
const USED: &str = "cilium.io/IPsUsed";
/// Blocks that cannot be read, which Cilium only logs.
const BROKEN: &str = "cilium.io/PoolBlocksInvalid";

/// Annotations, and their older names.
const WANTED: [&str; 2] = ["lbipam.cilium.io/ips", "io.cilium/lb-ipam-ips"];
const SHARING_KEY: [&str; 2] = ["lbipam.cilium.io/sharing-key", "io.cilium/lb-ipam-sharing-key"];
const SHARING_NAMESPACES: [&str; 2] = [
    "lbipam.cilium.io/sharing-cross-namespace",
    "io.cilium/lb-ipam-sharing-cross-namespace",
];
/// Labels that every Service has for the selectors of pools.
const NAMESPACE_LABEL: &str = "io.kubernetes.service.namespace";
const NAME_LABEL: &str = "io.kubernetes.service.name";
/// Classes whose addresses come from pools (Cilium `lbClasses`); `io.cilium/node` is served with addresses of nodes.
const CLASSES: [&str; 2] = ["io.cilium/bgp-control-plane", "io.cilium/l2-announcer"];

/// A pool on the wire.
type PoolObject = Object<PoolSpec, PoolStatus>;

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PoolSpec {
    blocks: Vec<PoolBlock>,
    service_selector: Option<LabelSelector>,
    disabled: bool,
    #[serde(rename = "allowFirstLastIPs")]
    allow_first_last: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct PoolBlock {
    cidr: String,
    start: String,
    stop: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct PoolStatus {
    conditions: Vec<Condition>,
}

/// A pool as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredPool {
    /// What it says.
    pub pool: Pool,
    resource_version: Option<String>,
    conditions: Vec<Condition>,
}

/// A Service as stored, as far as load balancers go.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredBalancer {
    /// Namespace and name.
    pub name: ObjectName,
    /// What it asks for; `None`: nothing of us.
    pub request: Option<Request>,
    resource_version: Option<String>,
    addresses: Vec<IpAddr>,
    /// Whether its status names anything but addresses.
    has_names: bool,
    conditions: Vec<Condition>,
}

/// Which Services get addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Responsibility {
    /// Also those that name no class (`default-lb-service-ipam: lbipam`).
    pub without_class: bool,
}

impl StoredBalancer {
    /// Whether it was served by us.
    #[must_use]
    pub fn was_served(&self) -> bool {
        self.conditions
            .iter()
            .any(|condition| condition.type_ == SATISFIED)
    }

    /// Whether the status has to be written for the Service to have just what it was granted; `None`: nothing of us.
    #[must_use]
    pub fn differs(&self, grant: Option<&Grant>) -> bool {
        let Some(grant) = grant else {
            return self.was_served();
        };
        let condition = self.conditions.iter().find(|one| one.type_ == SATISFIED);
        self.has_names
            || self.addresses != grant.addresses
            || !condition.is_some_and(|condition| says_the_same(condition, &satisfied(grant)))
    }

    /// Whether the Service has an address that it was not granted.
    #[must_use]
    pub fn gives_back(&self, grant: Option<&Grant>) -> bool {
        let granted = grant.map_or(&[][..], |grant| &grant.addresses);
        self.addresses.iter().any(|address| !granted.contains(address))
    }
}

impl StoredPool {
    /// Whether the status has to be written to say what is reported.
    #[must_use]
    pub fn differs(&self, report: &PoolReport) -> bool {
        let wanted = reported(&self.pool, report);
        wanted.iter().any(|wanted| {
            let there = self.conditions.iter().find(|one| one.type_ == wanted.type_);
            !there.is_some_and(|there| says_the_same(there, wanted))
        })
    }
}

impl Cluster {
    /// Writes what a Service was granted, if the Service is still as it was when that was decided; `None` takes back
    /// what it has of us. Returns the Service as it is now, or `None` when it has changed or is gone, so that a new
    /// decision is due.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn publish_balancer(
        &self,
        stored: &StoredBalancer,
        grant: Option<&Grant>,
        responsibility: Responsibility,
    ) -> Result<Option<StoredBalancer>, RequestError> {
        let name = &stored.name;
        let api: Api<Service> = Api::namespaced(self.client.clone(), &name.namespace);
        let addresses = grant.map_or(&[][..], |grant| &grant.addresses);
        let ingress: Vec<_> = addresses.iter().map(|address| json!({"ip": address})).collect();
        let mut conditions = stored.conditions.clone();
        match grant {
            Some(grant) => set(&mut conditions, satisfied(grant)),
            None => conditions.retain(|condition| condition.type_ != SATISFIED),
        }
        // Lists are replaced as a whole: the version makes sure that nobody has written in between.
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": stored.resource_version},
            "status": {"loadBalancer": {"ingress": ingress}, "conditions": conditions},
        }));
        let params = self.patch();
        let written = api.patch_status(&name.name, &params, &patch);
        match request("set the addresses of", format!("Service {name}"), written).await {
            Ok(service) => Ok(Some(balancer(&service, responsibility))),
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes how a pool is, if it has not changed since. Returns it as it is now, or `None` when it has changed or is
    /// gone.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn publish_pool(
        &self,
        kind: &PoolKind,
        stored: &StoredPool,
        report: &PoolReport,
    ) -> Result<Option<StoredPool>, RequestError> {
        let name = &stored.pool.name;
        let api: Api<PoolObject> = Api::all_with(self.client.clone(), &kind.0);
        let mut conditions = stored.conditions.clone();
        for condition in reported(&stored.pool, report) {
            set(&mut conditions, condition);
        }
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": stored.resource_version},
            "status": {"conditions": conditions},
        }));
        let object = format!("CiliumLoadBalancerIPPool {name}");
        let params = self.patch();
        let written = api.patch_status(name, &params, &patch);
        match request("set the status of", object, written).await {
            Ok(object) => Ok(Some(pool(&object))),
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The version in which the cluster serves pools. A definition that Cilium 1.15 left there has only the older one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolKind(ApiResource);

impl PoolKind {
    pub(crate) fn of_version(version: &str) -> Self {
        let kind = GroupVersionKind::gvk("cilium.io", version, "CiliumLoadBalancerIPPool");
        Self(ApiResource::from_gvk_with_plural(&kind, crd::PLURAL))
    }
}

fn condition(kind: &str, status: &str, reason: &str, message: String) -> Condition {
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: Time(jiff::Timestamp::now()),
        observed_generation: None,
    }
}

fn satisfied(grant: &Grant) -> Condition {
    match &grant.refusal {
        None => condition(SATISFIED, "True", "satisfied", String::new()),
        Some(refusal) => condition(SATISFIED, "False", refusal.reason(), refusal.to_string()),
    }
}

/// The conditions of a pool. Numbers are messages of conditions that are neither true nor false, as Cilium writes them.
fn reported(pool: &Pool, report: &PoolReport) -> Vec<Condition> {
    let number = |kind, number: u128| condition(kind, "Unknown", "noreason", number.to_string());
    let mut conditions = vec![
        match &report.conflict {
            Some(conflict) => condition(CONFLICT, "True", "cidr_overlap", conflict.to_string()),
            None => condition(CONFLICT, "False", "resolved", String::new()),
        },
        number(TOTAL, report.total),
        number(AVAILABLE, report.available),
        number(USED, report.used),
    ];
    let mut problems: Vec<String> = pool.broken.iter().map(ToString::to_string).collect();
    if pool.selector.is_none() {
        problems.push("the service selector has an unknown operator".to_owned());
    }
    conditions.push(if problems.is_empty() {
        condition(BROKEN, "False", "valid", String::new())
    } else {
        condition(BROKEN, "True", "unusable", problems.join("; "))
    });
    conditions
}

fn says_the_same(a: &Condition, b: &Condition) -> bool {
    (&a.status, &a.reason, &a.message) == (&b.status, &b.reason, &b.message)
}

/// Sets a condition among others; its time changes with its status only.
fn set(conditions: &mut Vec<Condition>, mut condition: Condition) {
    match conditions.iter_mut().find(|one| one.type_ == condition.type_) {
        Some(there) => {
            if there.status == condition.status {
                condition.last_transition_time = there.last_transition_time.clone();
            }
            *there = condition;
        }
        None => conditions.push(condition),
    }
}

fn pool(object: &PoolObject) -> StoredPool {
    let spec = &object.spec;
    let ends = spec.allow_first_last != "No";
    let (mut ranges, mut broken) = (Vec::new(), Vec::new());
    for block in &spec.blocks {
        match Range::parse(&block.cidr, &block.start, &block.stop, ends) {
            Ok(range) => ranges.push(range),
            Err(error) => broken.push(error),
        }
    }
    StoredPool {
        pool: Pool {
            name: object.name_any(),
            created: object.creation_timestamp().map_or(0, |time| time.0.as_second()),
            ranges,
            broken,
            selector: requirements(spec.service_selector.as_ref()),
            disabled: spec.disabled,
        },
        resource_version: object.resource_version(),
        conditions: object
            .status
            .as_ref()
            .map(|status| status.conditions.clone())
            .unwrap_or_default(),
    }
}

/// `None` when there is an operator that is not known.
fn requirements(selector: Option<&LabelSelector>) -> Option<Vec<Requirement>> {
    let Some(selector) = selector else {
        return Some(Vec::new());
    };
    let labels = selector.match_labels.iter().flatten();
    let labels = labels.map(|(key, value)| Some(Requirement::In(key.clone(), [value.clone()].into())));
    let expressions = selector.match_expressions.iter().flatten().map(|expression| {
        let key = expression.key.clone();
        let values = expression.values.iter().flatten().cloned().collect();
        match expression.operator.as_str() {
            "In" => Some(Requirement::In(key, values)),
            "NotIn" => Some(Requirement::NotIn(key, values)),
            "Exists" => Some(Requirement::Exists(key)),
            "DoesNotExist" => Some(Requirement::DoesNotExist(key)),
            _ => None,
        }
    });
    labels.chain(expressions).collect()
}

pub(crate) fn balancer(service: &Service, responsibility: Responsibility) -> StoredBalancer {
    let name = ObjectName::new(service.namespace().unwrap_or_default(), service.name_any());
    let status = service.status.as_ref();
    let ingress = status
        .and_then(|status| status.load_balancer.as_ref()?.ingress.as_deref())
        .unwrap_or_default();
    let addresses: Vec<IpAddr> = ingress
        .iter()
        .filter_map(|ingress| ingress.ip.as_ref()?.parse().ok())
        .collect();
    let request = service
        .spec
        .as_ref()
        .filter(|spec| is_ours(spec, responsibility))
        .map(|spec| wish(service, spec, &name, &addresses));
    StoredBalancer {
        request,
        resource_version: service.resource_version(),
        has_names: addresses.len() != ingress.len(),
        addresses,
        conditions: status
            .and_then(|status| status.conditions.clone())
            .unwrap_or_default(),
        name,
    }
}

fn is_ours(spec: &ServiceSpec, responsibility: Responsibility) -> bool {
    spec.type_.as_deref() == Some("LoadBalancer")
        && match spec.load_balancer_class.as_deref() {
            None => responsibility.without_class,
            Some(class) => CLASSES.contains(&class),
        }
}

fn wish(service: &Service, spec: &ServiceSpec, name: &ObjectName, addresses: &[IpAddr]) -> Request {
    let annotation = |names: [&str; 2]| {
        let annotations = service.annotations();
        let found = names.iter().find_map(|name| annotations.get(*name));
        found.map(|text| text.trim()).filter(|text| !text.is_empty())
    };
    let items = |text: Option<&str>| -> Vec<String> {
        let items = text.unwrap_or_default().split(',').map(str::trim);
        items.filter(|item| !item.is_empty()).map(str::to_owned).collect()
    };
    let mut asked = items(spec.load_balancer_ip.as_deref());
    asked.extend(items(annotation(WANTED)));
    let (mut wanted, mut unreadable) = (Vec::new(), Vec::new());
    for text in asked {
        match text.parse::<IpAddr>() {
            Ok(address) if wanted.contains(&address) => {}
            Ok(address) => wanted.push(address),
            Err(_) => unreadable.push(text),
        }
    }
    let mut labels = service.labels().clone();
    labels.insert(NAMESPACE_LABEL.to_owned(), name.namespace.clone());
    labels.insert(NAME_LABEL.to_owned(), name.name.clone());
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP").parse().ok()?;
        Some((protocol, u16::try_from(port.port).ok()?))
    });
    Request {
        name: name.clone(),
        created: service.creation_timestamp().map_or(0, |time| time.0.as_second()),
        labels,
        families: families(spec),
        wanted,
        unreadable,
        sharing: annotation(SHARING_KEY).map(|key| Sharing {
            key: key.to_owned(),
            namespaces: items(annotation(SHARING_NAMESPACES)).into_iter().collect(),
        }),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        selector: spec.selector.clone().unwrap_or_default(),
        ports: ports.collect(),
        current: addresses.to_vec(),
    }
}

/// The API server writes the families that a Service has; without them its own addresses tell.
fn families(spec: &ServiceSpec) -> Vec<Family> {
    let mut families: Vec<Family> = spec
        .ip_families
        .iter()
        .flatten()
        .filter_map(|family| match family.as_str() {
            "IPv6" => Some(Family::V6),
            "IPv4" => Some(Family::V4),
            _ => None,
        })
        .collect();
    if families.is_empty() {
        let own = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        let own = own.filter_map(|address| Some(Family::of(address.parse().ok()?)));
        families.extend(own);
    }
    let mut seen = Vec::new();
    families.retain(|family| {
        let new = !seen.contains(family);
        seen.push(*family);
        new
    });
    families
}

#[cfg(test)]
mod tests;
