//! Real traffic from pod to pod across two nodes, through the programs on their devices: what `BPF_PROG_TEST_RUN` cannot
//! show, as it makes neither redirects nor packets whose checksum or segmentation is left to the hardware.
//! Needs root; says so where it is not.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod topology;
mod traffic;

use std::time::{Duration, Instant};

use abi::{Config, DropReason, EventHeader};
use aya::maps::{Map, MapData, RingBuf};
use nix::libc::EHOSTUNREACH;
use topology::{POD, Path2, ROUTER, Setting, between_nodes};
use traffic::{Heard, connect_that_expires, tcp_that_expires, transfer, udp_that_expires};
use zerocopy::FromBytes;

/// ICMPv6 message type.
const TIME_EXCEEDED: u8 = 3;
const MEBIBYTE: usize = 1 << 20;

fn stack_routing() -> Setting {
    Setting {
        config: Config {
            host_routing: 0,
            ..Config::default()
        },
        ..Setting::default()
    }
}

fn expect_ping(path: &Path2) {
    for side in 0..2 {
        let (ok, text) = path.command(
            "pod",
            side,
            &format!("ping -6 -q -i 0.01 -W 5 -c 20 {}", POD[1 - side]),
        );
        assert!(ok && text.contains(" 0% packet loss"), "{text}");
    }
}

fn expect_no_drops(path: &Path2) {
    assert!(path.drops().is_empty(), "{:?}", path.drops());
}

#[test]
fn pods_talk_across_nodes() {
    between_nodes(Setting::default(), |path| {
        expect_ping(path);
        transfer(path, 0, 8 * MEBIBYTE);
        transfer(path, 1, 8 * MEBIBYTE);
        expect_no_drops(path);
    });
}

#[test]
fn pods_talk_across_nodes_through_the_stack() {
    between_nodes(stack_routing(), |path| {
        expect_ping(path);
        transfer(path, 0, 8 * MEBIBYTE);
        transfer(path, 1, 8 * MEBIBYTE);
        expect_no_drops(path);
    });
}

#[test]
fn packets_beyond_64_kib_pass() {
    let config = Config {
        monitor_aggregation: 0,
        ..Config::default()
    };
    between_nodes(
        Setting {
            config,
            gso: 196_608,
            ..Setting::default()
        },
        |path| {
            transfer(path, 0, 64 * MEBIBYTE);
            transfer(path, 1, 64 * MEBIBYTE);
            expect_no_drops(path);
            for side in 0..2 {
                let longest = path.longest_packet(side);
                assert!(
                    longest > 0x1_0000,
                    "the longest packet that node {side} saw has {longest} bytes"
                );
            }
        },
    );
}

/// Routes are remembered for some milliseconds, and no longer: neither a route that is gone nor one that is back nor an MTU.
#[test]
fn a_change_of_routes_is_followed() {
    between_nodes(Setting::default(), |path| {
        expect_ping(path);
        let ping = format!("ping -6 -q -c 1 -W 1 -s 1400 {}", POD[1]);
        for (change, passes) in [
            ("ip -6 route add unreachable POD metric 1", false),
            ("ip -6 route del unreachable POD metric 1", true),
            ("ip -6 route add blackhole POD metric 1", false),
            ("ip -6 route del blackhole POD metric 1", true),
            ("ip link set eth0 mtu 1300", false),
            ("ip link set eth0 mtu 1500", true),
        ] {
            let (ok, text) = path.command("node", 0, &change.replace("POD", POD[1]));
            assert!(ok, "{change}: {text}");
            let deadline = Instant::now() + Duration::from_secs(10);
            while path.command("pod", 0, &ping).0 != passes {
                assert!(Instant::now() < deadline, "{change}: ping passes: {}", !passes);
            }
        }
    });
}

/// The sender's stack takes the message for what it is, whoever computes checksums: nobody (veth), or the last device.
fn expect_errors_heard(path: &Path2) {
    let expected = Heard {
        kind: TIME_EXCEEDED,
        from: ROUTER[0].parse().unwrap(),
        errno: EHOSTUNREACH,
    };
    assert_eq!(udp_that_expires(path), expected);
    assert_eq!(tcp_that_expires(path).raw_os_error(), Some(EHOSTUNREACH));
    let (error, after) = connect_that_expires(path);
    assert_eq!(error.raw_os_error(), Some(EHOSTUNREACH), "{error}");
    // The answer to the first try comes while the socket is busy sending it; the second try is a second later.
    assert!(after < Duration::from_secs(5), "after {after:?}");
    assert!(path.dropped(0, DropReason::TtlExceeded) >= 3);
    let (_, counters) = path.command("pod", 0, "cat /proc/self/net/snmp6");
    let wrong = counters
        .lines()
        .find(|line| line.starts_with("Icmp6InCsumErrors"))
        .unwrap();
    assert!(wrong.ends_with(" 0") || wrong.ends_with("\t0"), "{wrong}");
}

#[test]
fn errors_are_heard_when_nobody_computes_checksums() {
    between_nodes(Setting::default(), expect_errors_heard);
}

#[test]
fn errors_are_heard_when_the_last_device_computes_checksums() {
    between_nodes(Setting::default(), |path| {
        // The pod leaves checksums to its device, the host side of its link does not, and the pod looks at them.
        for (kind, command) in [
            ("node", "ethtool -K lxc tx off"),
            ("pod", "ethtool -K eth0 rx off"),
        ] {
            if !path.can_run("ethtool") {
                println!("SKIP: needs ethtool");
                return;
            }
            let (ok, text) = path.command(kind, 0, command);
            assert!(ok, "{text}");
        }
        expect_errors_heard(path);
    });
}

#[test]
fn a_transfer_learns_of_a_smaller_link() {
    between_nodes(
        Setting {
            link_mtu: 1400,
            ..Setting::default()
        },
        |path| {
            transfer(path, 0, 8 * MEBIBYTE);
            assert!(
                path.dropped(0, DropReason::CtMissingTcpAckFlag) >= 1,
                "{:?}",
                path.drops()
            );
            let (_, route) = path.command("pod", 0, &format!("ip -6 route get {}", POD[1]));
            assert!(route.contains("mtu 1400"), "{route}");
        },
    );
}

#[test]
fn a_transfer_learns_of_a_smaller_pod() {
    between_nodes(
        Setting {
            pod_mtu: 1400,
            ..Setting::default()
        },
        |path| {
            transfer(path, 0, 8 * MEBIBYTE);
            assert!(
                path.dropped(1, DropReason::CtMissingTcpAckFlag) >= 1,
                "{:?}",
                path.drops()
            );
            let (_, route) = path.command("pod", 0, &format!("ip -6 route get {}", POD[1]));
            assert!(route.contains("mtu 1400"), "{route}");
        },
    );
}

/// The device between the nodes finishes checksums itself: the message leaves through it, inside it a packet whose
/// checksum was left open.
#[test]
fn a_transfer_learns_of_a_smaller_pod_when_devices_compute_checksums() {
    between_nodes(
        Setting {
            pod_mtu: 1400,
            ..Setting::default()
        },
        |path| {
            if !path.can_run("ethtool") {
                println!("SKIP: needs ethtool");
                return;
            }
            for (kind, side, command) in [
                ("node", 1, "ethtool -K eth0 tx off"),
                ("node", 0, "ethtool -K eth0 rx off"),
                ("pod", 0, "ethtool -K eth0 rx off"),
            ] {
                let (ok, text) = path.command(kind, side, command);
                assert!(ok, "{text}");
            }
            transfer(path, 0, MEBIBYTE);
            assert!(
                path.dropped(1, DropReason::CtMissingTcpAckFlag) >= 1,
                "{:?}",
                path.drops()
            );
        },
    );
}

/// A tag travels beside the packet and would leave the node with it.
#[test]
fn a_pod_cannot_send_into_a_vlan() {
    between_nodes(Setting::default(), |path| {
        let (ok, text) = path.command("pod", 0, "ip link add link eth0 name tagged type vlan id 5");
        if !ok {
            println!("SKIP: no VLAN devices here: {}", text.trim());
            return;
        }
        for command in [
            "ip link set tagged up",
            &format!(
                "ip -6 route replace {} via {} dev tagged onlink",
                POD[1], ROUTER[0]
            ),
        ] {
            let (ok, text) = path.command("pod", 0, command);
            assert!(ok, "{text}");
        }
        path.command(
            "pod",
            0,
            &format!(
                "ip -6 neigh replace {} lladdr 02:00:00:00:00:01 dev tagged",
                ROUTER[0]
            ),
        );
        let (ok, text) = path.command("pod", 0, &format!("ping -6 -c 1 -W 1 {}", POD[1]));
        assert!(!ok, "{text}");
        assert!(
            path.dropped(0, DropReason::VlanFiltered) >= 1,
            "{:?}",
            path.drops()
        );
    });
}

impl Path2 {
    fn can_run(&self, program: &str) -> bool {
        std::process::Command::new(program)
            .arg("--version")
            .output()
            .is_ok()
    }

    /// Length of the longest packet that a node reported.
    fn longest_packet(&self, side: usize) -> u32 {
        let ring = MapData::from_pin(self.events(side)).unwrap();
        let mut ring = RingBuf::try_from(Map::RingBuf(ring)).unwrap();
        let mut longest = 0;
        while let Some(record) = ring.next() {
            let (header, _) = EventHeader::read_from_prefix(&record).unwrap();
            longest = longest.max(header.len_orig);
        }
        longest
    }
}
