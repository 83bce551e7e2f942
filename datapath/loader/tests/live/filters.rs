//! A new pod's programs as filters: they run at once, links take their place, and whatever a killed agent leaves is
//! taken over by the next.

use std::fs;
use std::process::Command;

use abi::{Config, names};
use seta_loader::{Attached, Datapath, MapSizes, Options};

use crate::harness::{Node, on_a_node};

const PINGS: u32 = 300;

/// Ids of the programs that are filters of the device, as `tc` shows them: one per filter.
fn filters(direction: &str) -> Vec<String> {
    let arguments = ["filter", "show", "dev", "lxc", direction];
    let output = Command::new("tc").args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter(|line| line.contains(" direct-action "));
    lines
        .map(|line| line.split_once(" id ").unwrap().1)
        .map(|rest| rest.split(' ').next().unwrap().to_owned())
        .collect()
}

/// Number of filters: (ingress, egress).
fn count() -> (usize, usize) {
    (filters("ingress").len(), filters("egress").len())
}

/// Another build, as far as the kernel is concerned: other constants, and tables of another size.
fn another(node: &Node) -> Options {
    let base = node.options();
    Options {
        config: Config {
            monitor_interval: 1,
            ..base.config
        },
        sizes: MapSizes {
            ct_any: base.sizes.ct_any << 1,
            ..base.sizes
        },
        ..base
    }
}

/// Packets that were forwarded in a direction.
fn forwarded(datapath: &Datapath, direction: abi::Direction) -> u64 {
    let metrics = datapath.metrics().unwrap().into_iter();
    metrics
        .filter(|metric| metric.reason == 0 && metric.direction == direction)
        .map(|metric| metric.counter.packets)
        .sum()
}

#[test]
fn filters_run_at_once_and_there_is_one_per_direction() {
    on_a_node(|node| {
        let lxc = node.link_pod();
        let datapath = Datapath::open(&node.options()).unwrap();
        for _ in 0..3 {
            assert!(datapath.attach_pod_at_once(lxc).unwrap());
        }
        assert_eq!((count(), datapath.attachments().unwrap()), ((1, 1), vec![]));
        // Nobody is known yet: everything is dropped.
        node.ping(20).expect_no_answer();
        node.fill(&datapath, lxc);
        node.ping(20).expect_no_loss();
        assert_eq!(datapath.detach(lxc).unwrap(), 0);
        assert_eq!(count(), (0, 0));
    });
}

#[test]
fn links_take_the_place_of_filters_and_every_packet_is_seen_once() {
    on_a_node(|node| {
        let lxc = node.link_pod();
        let datapath = Datapath::open(&node.options()).unwrap();
        node.fill(&datapath, lxc);
        assert!(datapath.attach_pod_at_once(lxc).unwrap());
        let ping = node.ping(PINGS);
        while forwarded(&datapath, abi::Direction::Egress) == 0 {
            std::thread::yield_now();
        }
        assert_eq!(datapath.attach_pod(lxc).unwrap(), Attached::New);
        ping.expect_no_loss();
        assert_eq!((count(), datapath.attachments().unwrap().len()), ((0, 0), 2));
        for direction in [abi::Direction::Egress, abi::Direction::Ingress] {
            assert_eq!(forwarded(&datapath, direction), u64::from(PINGS), "{direction:?}");
        }
    });
}

#[test]
fn no_packet_passes_unverified_while_links_take_the_place_of_filters() {
    on_a_node(|node| {
        let lxc = node.link_pod();
        let datapath = Datapath::open(&node.options()).unwrap();
        // The tables are empty, so that the program drops what the stack alone would answer.
        node.ping(20).expect_no_loss();
        assert!(datapath.attach_pod_at_once(lxc).unwrap());
        let ping = node.ping(PINGS);
        while datapath.metrics().unwrap().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(datapath.attach_pod(lxc).unwrap(), Attached::New);
        ping.expect_no_answer();
    });
}

#[test]
fn filters_that_a_killed_agent_left_run_the_programs_of_the_next() {
    on_a_node(|node| {
        let lxc = node.link_pod();
        let datapath = Datapath::open(&node.options()).unwrap();
        node.fill(&datapath, lxc);
        assert!(datapath.attach_pod_at_once(lxc).unwrap());
        let before = (filters("ingress"), filters("egress"));
        drop(datapath);

        let ping = node.ping(PINGS);
        let next = Datapath::open(&another(node)).unwrap();
        assert!(next.attach_pod_at_once(lxc).unwrap());
        let after = (filters("ingress"), filters("egress"));
        assert_eq!((after.0.len(), after.1.len()), (1, 1));
        assert!(before.0 != after.0 && before.1 != after.1, "{before:?} {after:?}");
        let own = next.program_infos().unwrap();
        let id = |name| own.iter().find(|info| info.name == name).unwrap().id.to_string();
        assert_eq!(after, (vec![id(names::FROM_POD)], vec![id(names::TO_POD)]));
        next.settle().unwrap();
        assert_eq!(next.attach_pod(lxc).unwrap(), Attached::New);
        ping.expect_no_loss();
        assert_eq!(count(), (0, 0));
        assert!(next.attachments().unwrap().iter().all(|one| one.current));
    });
}

#[test]
fn an_agent_killed_while_it_makes_links_leaves_nothing_that_the_next_does_not_mend() {
    on_a_node(|node| {
        let lxc = node.link_pod();
        for hidden in [vec![names::FROM_POD], vec![names::FROM_POD, names::TO_POD]] {
            // Links and filters of one program at once, as between the two steps of making a link.
            let datapath = Datapath::open(&node.options()).unwrap();
            node.fill(&datapath, lxc);
            datapath.attach_pod(lxc).unwrap();
            let pin = |program: &str| node.links().join(format!("{program}-{lxc}"));
            let aside = |program: &str| node.maps().join(format!("{program}-aside"));
            for program in &hidden {
                fs::rename(pin(program), aside(program)).unwrap();
            }
            assert!(datapath.attach_pod_at_once(lxc).unwrap());
            assert_eq!(count(), (1, hidden.len() - 1));
            for program in &hidden {
                fs::rename(aside(program), pin(program)).unwrap();
            }
            drop(datapath);

            let next = Datapath::open(&another(node)).unwrap();
            assert!(!next.attach_pod_at_once(lxc).unwrap(), "both have links");
            assert_eq!(count(), (0, 0));
            node.ping(20).expect_no_loss();

            // Only one link was made.
            let datapath = Datapath::open(&node.options()).unwrap();
            fs::remove_file(pin(names::FROM_POD)).unwrap();
            assert!(datapath.attach_pod_at_once(lxc).unwrap());
            assert_eq!(count(), (1, 0));
            node.ping(20).expect_no_loss();
            assert_eq!(datapath.attach_pod(lxc).unwrap(), Attached::New);
            assert_eq!(count(), (0, 0));
        }
    });
}
