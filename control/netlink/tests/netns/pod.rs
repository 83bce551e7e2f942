//! A pod's network from nothing to the first packet.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use seta_netlink::{Mac, Netlink, PodError, PodNetwork, Route, Sysctls, VethEnd, link_pod, raise_pod};

use crate::harness::{Namespace, namespace};

const ROUTER: &str = "fd00:10:244::1";
const POD: &str = "fd00:10:244::6321";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn wanted() -> PodNetwork {
    PodNetwork {
        device: "eth0".to_owned(),
        mac: Mac([2, 0, 0, 0, 0, 2]),
        host_device: "lxc1234".to_owned(),
        host_mac: Mac([2, 0, 0, 0, 0, 1]),
        addresses: vec![ip(POD)],
        routers: vec![ip(ROUTER)],
        mtu: 1500,
        route_mtu: 1450,
    }
}

async fn namespaces() -> Option<(Namespace, Namespace, Netlink)> {
    let (host, pod) = (namespace("host")?, namespace("pod")?);
    let netlink = host.connect().await;
    Some((host, pod, netlink))
}

/// `link_pod` writes the host side's settings in the namespace of its own thread, so the test goes there.
async fn configure_from(
    host: &Namespace,
    pod: &Namespace,
    sysctls: Sysctls,
    want: PodNetwork,
) -> Result<(), PodError> {
    let (host_path, pod_path) = (host.netns.path().to_owned(), pod.netns.path().to_owned());
    host.netns
        .run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let host = Netlink::open_in(&seta_netlink::Netns::open(host_path).unwrap())
                    .await
                    .unwrap();
                let pod = seta_netlink::Netns::open(pod_path).unwrap();
                let link = link_pod(&host, &pod, &sysctls, &want).await?;
                assert!(link.host_index > 1 && link.index.is_some_and(|index| index > 1));
                let made = host.link_by_index(link.host_index).await.unwrap();
                assert!(!made.up, "a packet before anybody looks at it");
                let raised = raise_pod(&host, &pod, &sysctls, &want, link).await;
                if raised.is_err() {
                    host.delete_link(&want.host_device).await.unwrap();
                }
                raised
            })
        })
        .await
        .unwrap()
}

#[tokio::test]
async fn the_first_packet_goes_through() {
    let Some((host, pod, netlink)) = namespaces().await else {
        return;
    };
    // As a container runtime leaves it.
    let sysctls = Sysctls::default();
    let off = vec![("net/ipv6/conf/all/disable_ipv6".to_owned(), "1".to_owned())];
    sysctls.set_in(&pod.netns, off).await.unwrap();

    let start = Instant::now();
    configure_from(&host, &pod, sysctls, wanted()).await.unwrap();
    println!("configured in {:?}", start.elapsed());

    let inside = pod.connect().await;
    let eth0 = inside.link_by_name("eth0").await.unwrap();
    assert_eq!((eth0.mac, eth0.mtu, eth0.up), (Some(wanted().mac), 1500, true));
    assert!(inside.link_by_name("lo").await.unwrap().up);
    let addresses = inside.addresses().await.unwrap();
    let address = addresses
        .iter()
        .find(|address| address.net.addr() == ip(POD))
        .expect("has its address");
    assert_eq!((address.net.prefix_len(), address.tentative), (128, false));
    let routes = inside.our_routes().await.unwrap();
    let default = Route {
        mtu: Some(1450),
        ..Route::default_via(ip(ROUTER), eth0.index)
    };
    assert!(routes.contains(&default), "{routes:?}");
    assert!(
        routes.contains(&Route::new("fd00:10:244::1/128".parse().unwrap(), eth0.index)),
        "{routes:?}"
    );

    // The host's stack plays the router.
    let lxc = netlink.link_by_name("lxc1234").await.unwrap();
    assert_eq!(
        (lxc.mac, lxc.up, lxc.peer),
        (Some(wanted().host_mac), true, Some(eth0.index))
    );
    netlink
        .add_address(lxc.index, "fd00:10:244::1/128".parse().unwrap())
        .await
        .unwrap();
    netlink
        .add_route(&Route::new("fd00:10:244::6321/128".parse().unwrap(), lxc.index))
        .await
        .unwrap();
    pod.run("ping", &["-6", "-c", "1", "-W", "2", ROUTER]).unwrap();
    host.run("ping", &["-6", "-c", "1", "-W", "2", POD]).unwrap();
}

#[tokio::test]
async fn a_failure_leaves_nothing_behind() {
    let Some((host, pod, netlink)) = namespaces().await else {
        return;
    };
    let bad_address = PodNetwork {
        addresses: vec![ip("ff02::1")],
        ..wanted()
    };
    let bad_router = PodNetwork {
        routers: vec![ip(ROUTER), ip(ROUTER)],
        ..wanted()
    };
    for want in [bad_address, bad_router] {
        let error = configure_from(&host, &pod, Sysctls::default(), want)
            .await
            .unwrap_err();
        assert!(matches!(error, PodError::Configure(_)), "{error:?}");
        assert!(netlink.link_by_name("lxc1234").await.unwrap_err().is_not_found());
    }
    let empty = std::env::temp_dir().join("seta-t-netlink-no-such-directory");
    let error = configure_from(&host, &pod, Sysctls::at(empty), wanted())
        .await
        .unwrap_err();
    assert!(matches!(error, PodError::Sysctl(_)), "{error:?}");
    assert!(netlink.link_by_name("lxc1234").await.unwrap_err().is_not_found());
    assert!(
        pod.connect()
            .await
            .link_by_name("eth0")
            .await
            .unwrap_err()
            .is_not_found()
    );
    // And the same pod can be made afterwards.
    configure_from(&host, &pod, Sysctls::default(), wanted())
        .await
        .unwrap();
}

#[tokio::test]
async fn names_that_are_taken_are_told_and_kept() {
    let Some((host, pod, netlink)) = namespaces().await else {
        return;
    };
    let inside = pod.connect().await;
    let end = |name| VethEnd {
        name,
        mac: None,
        netns: None,
    };
    inside.add_veth(&end("eth0"), &end("other"), 1500).await.unwrap();
    let error = configure_from(&host, &pod, Sysctls::default(), wanted())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, PodError::Link(error) if error.is_exists()),
        "{error:?}"
    );
    assert!(inside.link_by_name("eth0").await.is_ok());
    assert!(netlink.link_by_name("lxc1234").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn many_pods_one_after_the_other() {
    let Some(host) = namespace("many") else { return };
    let mut times = Vec::new();
    for number in 0..20 {
        let Some(pod) = namespace("one") else { return };
        let want = PodNetwork {
            host_device: format!("lxc{number}"),
            ..wanted()
        };
        let start = Instant::now();
        configure_from(&host, &pod, Sysctls::default(), want)
            .await
            .unwrap();
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "a pod: p50 {:?}, max {:?}",
        times[times.len() / 2],
        times.last().unwrap_or(&Duration::ZERO)
    );
}
