//! What pods may learn about themselves: the downward API. Pure.

use std::{collections::BTreeMap, fmt::Write as _};

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceFieldSelector},
    apimachinery::pkg::api::resource::Quantity,
};

/// A field of the pod by its path; `None` for paths that are not offered.
pub(crate) fn field(pod: &Pod, path: &str) -> Option<String> {
    let (metadata, status) = (&pod.metadata, pod.status.as_ref());
    let spec = pod.spec.as_ref()?;
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => &metadata.labels,
            "metadata.annotations" => &metadata.annotations,
            _ => return None,
        };
        return Some(
            map.as_ref()
                .and_then(|map| map.get(key))
                .cloned()
                .unwrap_or_default(),
        );
    }
    let join = |list: Vec<String>| list.join(",");
    Some(match path {
        "metadata.name" => metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => map_lines(metadata.labels.as_ref()),
        "metadata.annotations" => map_lines(metadata.annotations.as_ref()),
        "spec.nodeName" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.podIP" => status?.pod_ip.clone().unwrap_or_default(),
        "status.hostIP" => status?.host_ip.clone().unwrap_or_default(),
        "status.podIPs" => join(status?.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect()),
        "status.hostIPs" => join(
            status?
                .host_ips
                .iter()
                .flatten()
                .map(|ip| ip.ip.clone())
                .collect(),
        ),
        _ => return None,
    })
}

/// `metadata.labels['key']` as (`metadata.labels`, `key`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, key) = path.split_once("['")?;
    Some((map, key.strip_suffix("']")?))
}

fn map_lines(map: Option<&BTreeMap<String, String>>) -> String {
    let mut text = String::new();
    for (index, (key, value)) in map.into_iter().flatten().enumerate() {
        let _ = write!(text, "{}{key}={value:?}", if index == 0 { "" } else { "\n" });
    }
    text
}

/// A resource of a container in units of the divisor, rounded up; without a limit, 0.
pub(crate) fn resource(
    pod: &Pod,
    own: Option<&Container>,
    reference: &ResourceFieldSelector,
) -> Option<String> {
    let by_name = |name: &str| {
        pod.spec
            .as_ref()?
            .containers
            .iter()
            .find(|container| container.name == name)
    };
    let container = match reference.container_name.as_deref() {
        Some(name) if !name.is_empty() => by_name(name)?,
        _ => own?,
    };
    let (list, name) = reference.resource.split_once('.')?;
    let resources = container.resources.as_ref();
    let map = match list {
        "limits" => resources.and_then(|resources| resources.limits.as_ref()),
        "requests" => resources.and_then(|resources| resources.requests.as_ref()),
        _ => return None,
    };
    let milli = map.and_then(|map| map.get(name)).map_or(Some(0), milli)?;
    let divisor = match &reference.divisor {
        Some(divisor) if !divisor.0.is_empty() && divisor.0 != "0" => self::milli(divisor)?,
        _ => 1000,
    };
    Some(milli.div_ceil(divisor.max(1)).to_string())
}

/// A quantity in thousandths; `None` for what is not one.
pub(crate) fn milli(quantity: &Quantity) -> Option<u128> {
    let text = quantity.0.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let factor: u128 = match suffix {
        "m" => 1,
        "" => 1000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut value = whole
        .parse::<u128>()
        .ok()
        .or_else(|| whole.is_empty().then_some(0))?
        .checked_mul(factor)?;
    let mut place = factor;
    for digit in fraction.chars() {
        place /= 10;
        // Close to the largest whole number a fraction is one too much.
        value = value.checked_add(u128::from(digit.to_digit(10)?) * place)?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_and_resources() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "a", "labels": {"x": "1", "y": "q\"2"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}}}]},
            "status": {"podIPs": [{"ip": "fd00::1"}, {"ip": "10.0.0.1"}]},
        })).unwrap();
        for (path, expected) in [
            ("metadata.name", Some("a")),
            ("metadata.labels['x']", Some("1")),
            ("metadata.labels['z']", Some("")),
            ("metadata.labels", Some("x=\"1\"\ny=\"q\\\"2\"")),
            ("status.podIPs", Some("fd00::1,10.0.0.1")),
            ("spec.nodeName", Some("n")),
            ("spec.containers", None),
        ] {
            assert_eq!(field(&pod, path).as_deref(), expected, "{path}");
        }
        let own = &pod.spec.as_ref().unwrap().containers[0];
        for (name, divisor, expected) in [
            ("limits.cpu", "", Some("2")),
            ("limits.cpu", "1m", Some("1500")),
            ("limits.memory", "1Mi", Some("1024")),
            ("requests.cpu", "1", Some("0")),
            ("nonsense", "1", None),
        ] {
            let reference = ResourceFieldSelector {
                resource: name.to_owned(),
                divisor: Some(Quantity(divisor.to_owned())),
                container_name: None,
            };
            assert_eq!(
                resource(&pod, Some(own), &reference).as_deref(),
                expected,
                "{name} {divisor}"
            );
        }
        assert_eq!(milli(&Quantity("0.5".to_owned())), Some(500));
        // The largest whole number in thousandths, and a fraction that no longer fits.
        assert_eq!(
            milli(&Quantity("340282366920938463463374607431768.99k".to_owned())),
            None
        );
        assert_eq!(milli(&Quantity("x".to_owned())), None);
    }
}
