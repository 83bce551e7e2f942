//! What the two controllers of slices share: finding theirs, and writing the difference.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use lab_apiserver::{Client, DeleteOptions, ListOptions, Object, Resource};
use serde_json::{Value, json};

use super::nonempty;
use crate::controllers::{Key, common};

/// The label that leads from a slice to its service.
const SERVICE: &str = "kubernetes.io/service-name";
/// The label that says which controller keeps a slice.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// The resource.
pub(super) fn slices() -> Resource {
    Resource::new("discovery.k8s.io", "v1", "endpointslices")
}

/// The service of a slice that `manager` keeps.
pub(super) fn service_key(slice: &Value, manager: &str) -> Vec<Key> {
    let labels = &slice["metadata"]["labels"];
    let name = labels[SERVICE].as_str().filter(|_| labels[MANAGED_BY] == manager);
    let namespace = common::key_of(slice).namespace;
    name.map(|name| Key::new(&namespace, name)).into_iter().collect()
}

/// The metadata of a slice: `labels` are those of the owner.
pub(super) fn metadata(
    name: &str,
    service: &str,
    manager: &str,
    mut labels: BTreeMap<String, String>,
    of: &ObjectMeta,
    owner: &Value,
) -> Value {
    labels.insert(SERVICE.to_owned(), service.to_owned());
    labels.insert(MANAGED_BY.to_owned(), manager.to_owned());
    json!({"name": name, "namespace": of.namespace, "labels": labels, "ownerReferences": [owner]})
}

/// The slices of a service that `manager` keeps, by name.
pub(super) async fn existing(client: &Client, key: &Key, manager: &str) -> anyhow::Result<Vec<Object>> {
    let options = ListOptions {
        labels: format!("{SERVICE}={},{MANAGED_BY}={manager}", key.name),
        ..Default::default()
    };
    Ok(client.list(&slices(), key.namespace(), &options).await?.items)
}

/// Makes, changes and deletes, until `wanted` is there. In this order, so that nothing is missing in between.
pub(super) async fn apply(
    client: &Client,
    key: &Key,
    there: &[Object],
    wanted: &[Value],
) -> anyhow::Result<()> {
    let resource = slices();
    for slice in wanted {
        let name = &slice["metadata"]["name"];
        match there.iter().find(|known| known["metadata"]["name"] == *name) {
            None => drop(client.create(&resource, key.namespace(), slice.clone()).await?),
            Some(known) if says_the_same(known, slice) => {}
            Some(known) => {
                let mut slice = slice.clone();
                slice["metadata"]["resourceVersion"] = known["metadata"]["resourceVersion"].clone();
                client.update(&resource, key.namespace(), slice).await?;
            }
        }
    }
    let unwanted = |known: &&Object| {
        let name = &known["metadata"]["name"];
        !wanted.iter().any(|slice| slice["metadata"]["name"] == *name)
    };
    for known in there.iter().filter(unwanted) {
        let meta = serde::Deserialize::deserialize(&known["metadata"])?;
        common::delete(client, &resource, &meta, DeleteOptions::default()).await?;
    }
    Ok(())
}

fn says_the_same(known: &Value, wanted: &Value) -> bool {
    nonempty(&known["endpoints"]) == nonempty(&wanted["endpoints"])
        && nonempty(&known["ports"]) == nonempty(&wanted["ports"])
        && known["metadata"]["labels"] == wanted["metadata"]["labels"]
}
