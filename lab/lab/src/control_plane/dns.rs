//! The cluster's DNS: the objects that kubeadm installs, in `manifests/dns.yaml`. Its pods run once there is a CNI, like all
//! others, so nobody waits for them here. What the user changes or deletes stays so.

use anyhow::Context as _;
use lab_apiserver::{Client, Resource};
use serde_json::Value;

const MANIFEST: &str = include_str!("../../manifests/dns.yaml");

/// Makes the objects.
///
/// # Errors
/// The API server refuses one.
pub(super) async fn install(client: &Client) -> anyhow::Result<()> {
    for object in objects()? {
        let resource = resource(&object)?;
        let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
        match client.create(&resource, namespace.as_deref(), object).await {
            Err(status) if !status.is_already_exists() => return Err(status.into()),
            _ => {}
        }
    }
    Ok(())
}

fn objects() -> anyhow::Result<Vec<Value>> {
    serde_saphyr::from_multiple(MANIFEST).context("the manifest of the DNS is no YAML")
}

/// The resource that an object is of.
fn resource(object: &Value) -> anyhow::Result<Resource> {
    let text = |field: &str| {
        object[field]
            .as_str()
            .with_context(|| format!("an object without {field}"))
    };
    let api_version = text("apiVersion")?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    // The plural of every kind in the manifest is regular.
    let plural = format!("{}s", text("kind")?.to_lowercase());
    Ok(Resource::new(group, version, &plural))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{CLUSTER_DNS, CLUSTER_DOMAIN};

    #[test]
    fn the_manifest_fits_what_pods_are_told() {
        let objects = objects().unwrap();
        let of_kind = |kind: &str| objects.iter().find(|object| object["kind"] == kind).unwrap();
        assert_eq!(of_kind("Service")["spec"]["clusterIP"], CLUSTER_DNS);
        let corefile = of_kind("ConfigMap")["data"]["Corefile"].as_str().unwrap();
        assert!(corefile.contains(&format!("kubernetes {CLUSTER_DOMAIN} ")));
        let config = lab_dns::corefile::Config::parse(corefile).unwrap();
        assert!(config.without_effect.is_empty() && config.forward.is_some());
    }
}
