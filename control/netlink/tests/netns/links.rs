//! Devices, addresses, neighbours, settings, news.

use std::net::IpAddr;
use std::time::Duration;

use seta_netlink::{Mac, Monitor, MonitorEvent, Netns, SysctlError, Sysctls, VethEnd};

use crate::harness::namespace;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

fn end(name: &str) -> VethEnd<'_> {
    VethEnd {
        name,
        mac: None,
        netns: None,
    }
}

#[tokio::test]
async fn a_pair_is_made_changed_and_deleted() {
    let Some(ns) = namespace("pair") else { return };
    let netlink = ns.connect().await;
    netlink
        .add_veth(
            &VethEnd {
                mac: Some(MAC),
                ..end("one")
            },
            &end("other"),
            1400,
        )
        .await
        .unwrap();
    let (one, other) = (
        netlink.link_by_name("one").await.unwrap(),
        netlink.link_by_name("other").await.unwrap(),
    );
    assert_eq!(
        (one.mac, one.mtu, one.up, one.kind.as_deref()),
        (Some(MAC), 1400, false, Some("veth"))
    );
    assert_eq!((one.peer, other.peer), (Some(other.index), Some(one.index)));
    assert!(
        one.sizes.gso_max >= 65536 && one.sizes.gro_max >= 65536,
        "{:?}",
        one.sizes
    );

    let error = netlink
        .add_veth(&end("one"), &end("third"), 1500)
        .await
        .unwrap_err();
    assert!(error.is_exists(), "{error}");
    assert!(error.to_string().contains("one"), "{error}");

    netlink.set_up(one.index, true).await.unwrap();
    netlink.set_up(other.index, true).await.unwrap();
    netlink.set_noarp(one.index, true).await.unwrap();
    netlink.set_mtu(one.index, 9000).await.unwrap();
    netlink.rename(other.index, "renamed").await.unwrap();
    let one = netlink.link_by_index(one.index).await.unwrap();
    assert_eq!(
        (one.up, one.running, one.noarp, one.mtu),
        (true, true, true, 9000)
    );
    assert_eq!(netlink.link_by_index(other.index).await.unwrap().name, "renamed");

    let names: Vec<String> = netlink
        .links()
        .await
        .unwrap()
        .into_iter()
        .map(|link| link.name)
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(netlink.delete_link("one").await.unwrap());
    assert!(!netlink.delete_link("one").await.unwrap());
    let error = netlink.link_by_name("renamed").await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[tokio::test]
async fn a_bridge_takes_ports() {
    let Some(ns) = namespace("bridge") else { return };
    let netlink = ns.connect().await;
    netlink.add_bridge("br").await.unwrap();
    netlink.add_veth(&end("port"), &end("away"), 1500).await.unwrap();
    let bridge = netlink.link_by_name("br").await.unwrap();
    assert_eq!(bridge.kind.as_deref(), Some("bridge"));
    let port = netlink.link_by_name("port").await.unwrap().index;
    netlink.set_controller(port, bridge.index).await.unwrap();
    assert_eq!(
        netlink.link_by_index(port).await.unwrap().controller,
        Some(bridge.index)
    );
}

#[tokio::test]
async fn a_link_moves_to_another_namespace() {
    let (Some(here), Some(there)) = (namespace("here"), namespace("there")) else {
        return;
    };
    let netlink = here.connect().await;
    netlink
        .add_veth(&end("stays"), &end("moves"), 1500)
        .await
        .unwrap();
    netlink
        .move_to(netlink.link_by_name("moves").await.unwrap().index, &there.netns)
        .await
        .unwrap();
    assert!(netlink.link_by_name("moves").await.unwrap_err().is_not_found());
    assert!(there.connect().await.link_by_name("moves").await.is_ok());
    assert!(netlink.link_by_name("stays").await.unwrap().peer_netns.is_some());
}

#[tokio::test]
async fn addresses_are_usable_at_once() {
    let Some(ns) = namespace("address") else { return };
    let netlink = ns.connect().await;
    netlink.add_veth(&end("one"), &end("other"), 1500).await.unwrap();
    let index = netlink.link_by_name("one").await.unwrap().index;
    netlink.set_up(index, true).await.unwrap();
    netlink
        .set_up(netlink.link_by_name("other").await.unwrap().index, true)
        .await
        .unwrap();
    for net in ["2001:db8::1/128", "192.0.2.1/32", "2001:db8::1/128"] {
        netlink.add_address(index, net.parse().unwrap()).await.unwrap();
    }
    let addresses = netlink.addresses().await.unwrap();
    let global: Vec<_> = addresses
        .iter()
        .filter(|address| address.device == index && address.global)
        .collect();
    assert_eq!(global.len(), 2, "{addresses:?}");
    assert!(global.iter().all(|address| !address.tentative), "{addresses:?}");
    assert_eq!(
        netlink.global_address(index).await.unwrap(),
        "2001:db8::1".parse::<IpAddr>().unwrap()
    );

    assert!(
        netlink
            .delete_address(index, "2001:db8::1/128".parse().unwrap())
            .await
            .unwrap()
    );
    assert!(
        !netlink
            .delete_address(index, "2001:db8::1/128".parse().unwrap())
            .await
            .unwrap()
    );
    assert_eq!(
        netlink.global_address(index).await.unwrap(),
        "192.0.2.1".parse::<IpAddr>().unwrap()
    );
    assert!(
        netlink
            .add_address(4711, "2001:db8::1/128".parse().unwrap())
            .await
            .unwrap_err()
            .is_not_found()
    );
}

#[tokio::test]
async fn neighbours_are_permanent() {
    let Some(ns) = namespace("neigh") else { return };
    let netlink = ns.connect().await;
    netlink.add_veth(&end("one"), &end("other"), 1500).await.unwrap();
    let index = netlink.link_by_name("one").await.unwrap().index;
    netlink.set_up(index, true).await.unwrap();
    let ip: IpAddr = "2001:db8::9".parse().unwrap();
    netlink.set_neighbour(index, ip, Mac::default()).await.unwrap();
    netlink.set_neighbour(index, ip, MAC).await.unwrap();
    let entries = netlink.neighbours().await.unwrap();
    let entry = entries
        .iter()
        .find(|entry| entry.ip == ip && entry.device == index)
        .expect("is in the table");
    assert_eq!((entry.mac, entry.permanent), (Some(MAC), true));
    assert!(netlink.delete_neighbour(index, ip).await.unwrap());
    assert!(!netlink.delete_neighbour(index, ip).await.unwrap());
}

#[tokio::test]
async fn settings_belong_to_the_namespace() {
    let Some(ns) = namespace("sysctl") else { return };
    let sysctls = Sysctls::default();
    let name = "net/ipv6/conf/all/forwarding";
    let outside = sysctls.get(name).unwrap();
    sysctls
        .set_in(&ns.netns, vec![(name.to_owned(), "1".to_owned())])
        .await
        .unwrap();
    let inside = {
        let sysctls = sysctls.clone();
        ns.netns.run(move || sysctls.get(name)).await.unwrap().unwrap()
    };
    assert_eq!(inside, "1");
    assert_eq!(sysctls.get(name).unwrap(), outside);
    let refused = sysctls
        .set_in(&ns.netns, vec![(name.to_owned(), "often".to_owned())])
        .await;
    assert!(matches!(refused, Err(SysctlError::Write { .. })), "{refused:?}");
}

#[tokio::test]
async fn threads_of_the_caller_stay_where_they_are() {
    let Some(ns) = namespace("thread") else { return };
    let here = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let before = here();
    let inside = ns
        .netns
        .run(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap())
        .await
        .unwrap();
    assert_ne!(inside, before);
    assert_eq!(
        ns.netns
            .run_blocking(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap())
            .unwrap(),
        inside
    );
    assert_eq!(here(), before);
}

#[tokio::test]
async fn what_is_no_namespace_is_an_error() {
    assert!(Netns::open("/run/netns/seta-t-netlink-missing").is_err());
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: needs root to enter namespaces");
        return;
    }
    let file = Netns::open("/proc/self/ns/uts").unwrap();
    let error = file.run(|| ()).await.unwrap_err();
    assert!(error.to_string().contains("/proc/self/ns/uts"), "{error}");
}

#[tokio::test]
async fn news_of_devices_and_addresses() {
    let Some(ns) = namespace("news") else { return };
    let mut monitor = Monitor::open_in(&ns.netns).await.unwrap();
    let netlink = ns.connect().await;
    netlink.add_veth(&end("one"), &end("other"), 1500).await.unwrap();
    let index = netlink.link_by_name("one").await.unwrap().index;
    netlink
        .add_address(index, "2001:db8::1/128".parse().unwrap())
        .await
        .unwrap();
    let watch = async {
        let (mut link, mut address) = (false, false);
        // The kernel tells of an address from a work queue, so the device has to live until then.
        while !(link && address) {
            match monitor.next().await.unwrap() {
                MonitorEvent::Link(news) => link |= news.name == "one",
                MonitorEvent::Address(news) => address |= news.device == index && news.global,
                _ => {}
            }
        }
        netlink.delete_link("one").await.unwrap();
        while !matches!(monitor.next().await.unwrap(), MonitorEvent::LinkGone(news) if news.index == index) {}
    };
    tokio::time::timeout(Duration::from_secs(5), watch)
        .await
        .expect("the news come");
}
