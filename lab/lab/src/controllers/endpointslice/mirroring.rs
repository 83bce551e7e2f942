//! Slices that repeat the Endpoints which somebody wrote by hand for a service without a selector, as those who read
//! services look at slices only.

use k8s_openapi::api::core::v1::{Endpoints, Service};
use lab_apiserver::{Client, Resource};
use serde_json::{Value, json};

use super::{LEADER, apply};
use crate::controllers::{Controller, Key, Next, Trigger, common, template};

/// Who keeps the slices that are ours.
const MANAGED_BY: &str = "endpointslicemirroring-controller.k8s.io";
/// The label of Endpoints whose author writes the slices, too.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Most addresses of a subset that are repeated (`--mirroring-max-endpoints-per-subset`).
const MOST: usize = 1000;

/// The controller.
pub(crate) struct Mirroring {
    client: Client,
}

impl Mirroring {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }
}

impl Controller for Mirroring {
    const NAME: &'static str = "endpointslicemirroring";

    fn client(&self) -> &Client {
        &self.client
    }

    fn triggers(&self) -> Vec<Trigger> {
        vec![
            Trigger::itself(Resource::core("endpoints")),
            Trigger::itself(Resource::core("services")),
            Trigger::keys(apply::slices(), |slice| apply::service_key(slice, MANAGED_BY)),
        ]
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let service: Option<Service> = common::get(&self.client, &Resource::core("services"), key).await?;
        let endpoints: Option<Endpoints> =
            common::get(&self.client, &Resource::core("endpoints"), key).await?;
        let wanted = match (service, endpoints) {
            (Some(service), Some(endpoints)) if is_mirrored(&service, &endpoints) => slices_for(&endpoints),
            _ => Vec::new(),
        };
        let there = apply::existing(&self.client, key, MANAGED_BY).await?;
        apply::apply(&self.client, key, &there, &wanted).await?;
        Ok(Next::Wait)
    }
}

fn is_mirrored(service: &Service, endpoints: &Endpoints) -> bool {
    let selects = service
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.as_ref())
        .is_some_and(|selector| !selector.is_empty());
    let skipped = common::labels(&endpoints.metadata)
        .get(SKIP)
        .is_some_and(|value| value == "true");
    let elects = endpoints
        .metadata
        .annotations
        .iter()
        .flatten()
        .any(|(name, _)| name == LEADER);
    !selects && !skipped && !elects
}

/// One slice per subset and address family.
fn slices_for(endpoints: &Endpoints) -> Vec<Value> {
    let meta = &endpoints.metadata;
    let service = meta.name.as_deref().unwrap_or_default();
    let owner = common::controller_reference("v1", "Endpoints", meta);
    let mut slices = Vec::new();
    for (index, subset) in endpoints.subsets.iter().flatten().enumerate() {
        let all = || {
            let ready = subset.addresses.iter().flatten().map(|address| (address, true));
            let not_ready = subset.not_ready_addresses.iter().flatten();
            ready.chain(not_ready.map(|address| (address, false))).take(MOST)
        };
        for family in ["IPv6", "IPv4"] {
            let entries: Vec<Value> = all()
                .filter(|(address, _)| address.ip.contains(':') == (family == "IPv6"))
                .map(|(address, ready)| {
                    let mut entry = json!({"addresses": [address.ip], "conditions": {"ready": ready}});
                    for (field, value) in [("hostname", &address.hostname), ("nodeName", &address.node_name)]
                    {
                        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                            entry[field] = value.into();
                        }
                    }
                    if let Some(target) = &address.target_ref {
                        entry["targetRef"] = json!(target);
                    }
                    entry
                })
                .collect();
            if entries.is_empty() {
                continue;
            }
            let ports: Vec<Value> = subset
                .ports
                .iter()
                .flatten()
                .map(|port| {
                    let name = port.name.as_deref().unwrap_or_default();
                    let protocol = port.protocol.as_deref().unwrap_or("TCP");
                    let mut entry = json!({"name": name, "port": port.port, "protocol": protocol});
                    if let Some(protocol) = &port.app_protocol {
                        entry["appProtocol"] = protocol.as_str().into();
                    }
                    entry
                })
                .collect();
            let text = format!("{service}/mirror/{index}/{family}");
            let name = format!("{service}-{}", template::short_hash(&text, 5));
            let mut labels = common::labels(meta).clone();
            labels.remove("endpoints.kubernetes.io/managed-by");
            slices.push(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": apply::metadata(&name, service, MANAGED_BY, labels, meta, &owner),
                "addressType": family, "ports": ports, "endpoints": entries,
            }));
        }
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: serde::de::DeserializeOwned>(object: Value) -> T {
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn who_is_mirrored() {
        let service = |spec: Value| read::<Service>(json!({"metadata": {"name": "s"}, "spec": spec}));
        let endpoints = |meta: Value| read::<Endpoints>(json!({"metadata": meta}));
        let rows = [
            (json!({}), json!({"name": "s"}), true),
            (json!({"selector": {"a": "b"}}), json!({"name": "s"}), false),
            (json!({}), json!({"labels": {SKIP: "true"}}), false),
            (json!({}), json!({"labels": {SKIP: "false"}}), true),
            (json!({}), json!({"annotations": {LEADER: "{}"}}), false),
        ];
        for (spec, meta, wanted) in rows {
            let said = is_mirrored(&service(spec.clone()), &endpoints(meta.clone()));
            assert_eq!(said, wanted, "{spec} {meta}");
        }
    }

    #[test]
    fn a_slice_for_each_family_of_a_subset() {
        let endpoints: Endpoints = read(json!({
            "metadata": {"name": "db", "namespace": "default", "uid": "e", "labels": {"team": "a"}},
            "subsets": [{
                "addresses": [{"ip": "2001:db8::1", "nodeName": "n"}, {"ip": "192.0.2.1"}],
                "notReadyAddresses": [{"ip": "2001:db8::2", "hostname": "h"}],
                "ports": [{"name": "sctp", "port": 9, "protocol": "SCTP"}],
            }],
        }));
        let slices = slices_for(&endpoints);
        let shown: Vec<(&Value, &Value)> = slices
            .iter()
            .map(|slice| (&slice["addressType"], &slice["endpoints"]))
            .collect();
        assert_eq!(
            shown,
            [
                (
                    &json!("IPv6"),
                    &json!([
                        {"addresses": ["2001:db8::1"], "conditions": {"ready": true}, "nodeName": "n"},
                        {"addresses": ["2001:db8::2"], "conditions": {"ready": false}, "hostname": "h"},
                    ])
                ),
                (
                    &json!("IPv4"),
                    &json!([{"addresses": ["192.0.2.1"], "conditions": {"ready": true}}])
                ),
            ]
        );
        assert_eq!(
            slices[0]["ports"],
            json!([{"name": "sctp", "port": 9, "protocol": "SCTP"}])
        );
        assert_eq!(slices[0]["metadata"]["ownerReferences"][0]["kind"], "Endpoints");
        assert_eq!(slices[0]["metadata"]["labels"]["team"], "a");
    }
}
