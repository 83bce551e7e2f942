//! Largest packets that the stack puts together on devices, as the devices say.

use api::objects::DeviceSizes;

use crate::agent::Agent;
use crate::host;
use crate::kernel::POD_PREFIX;

/// Those of native devices, of the router's and of those of pods.
pub(super) async fn device_sizes(agent: &Agent) -> anyhow::Result<Vec<DeviceSizes>> {
    let natives = host::native_devices(&agent.netlink, &agent.config.devices).await?;
    let links = agent.netlink.links().await?;
    let counts = |link: &netlink::Link| {
        link.name == host::HOST_DEVICE
            || link.name.starts_with(POD_PREFIX)
            || natives.iter().any(|native| native.index == link.index)
    };
    let sizes = links.iter().filter(|link| counts(link)).map(|link| DeviceSizes {
        name: link.name.clone(),
        gro: link.sizes.gro_max.into(),
        gso: link.sizes.gso_max.into(),
        gro_ipv4: link.sizes.gro_ipv4_max.into(),
        gso_ipv4: link.sizes.gso_ipv4_max.into(),
    });
    Ok(sizes.collect())
}

/// GRO and GSO of the devices of pods, of which the smallest counts; of the router's where there is no pod.
pub(super) fn of_pods(devices: &[DeviceSizes]) -> (u64, u64) {
    let pods = devices
        .iter()
        .filter(|device| device.name.starts_with(POD_PREFIX));
    let pods: Vec<&DeviceSizes> = pods.collect();
    let router = devices.iter().filter(|device| device.name == host::HOST_DEVICE);
    let counted = if pods.is_empty() { router.collect() } else { pods };
    let smallest = |size: fn(&DeviceSizes) -> u64| counted.iter().map(|one| size(one)).min();
    (
        smallest(|one| one.gro).unwrap_or_default(),
        smallest(|one| one.gso).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_of_the_pods_counts() {
        let device = |name: &str, gro, gso| DeviceSizes {
            name: name.to_owned(),
            gro,
            gso,
            ..DeviceSizes::default()
        };
        let natives = [device("eth0", 1, 1), device(host::HOST_DEVICE, 65536, 65535)];
        assert_eq!(of_pods(&natives), (65536, 65535), "no pod");
        let mut all = natives.to_vec();
        all.extend([device("lxc1", 196_608, 65536), device("lxc2", 65536, 196_608)]);
        assert_eq!(of_pods(&all), (65536, 65536));
        assert_eq!(of_pods(&[]), (0, 0));
    }
}
