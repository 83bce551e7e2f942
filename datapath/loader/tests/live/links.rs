//! Attach, exchange, detach; and that no packet notices.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use abi::{Config, names};
use seta_loader::{AttachError, Attached, Datapath, Direction, MapSizes, Options, uninstall};

use crate::harness::on_a_node;

#[test]
fn programs_are_attached_once_and_seen_in_the_kernel() {
    on_a_node(|node| {
        let lxc = node.link_pod();
        let datapath = Datapath::open(&node.options()).unwrap();
        assert_eq!(datapath.attachments().unwrap(), []);
        assert_eq!(datapath.attach_pod(lxc).unwrap(), Attached::New);
        assert_eq!(datapath.attach_pod(lxc).unwrap(), Attached::Kept);
        let attachments = datapath.attachments().unwrap();
        let seen: Vec<_> = attachments
            .iter()
            .map(|one| (one.program, one.ifindex, one.direction, one.current))
            .collect();
        assert_eq!(
            seen,
            [
                (names::FROM_POD, Some(lxc), Direction::Ingress, true),
                (names::TO_POD, Some(lxc), Direction::Egress, true)
            ]
        );
        node.fill(&datapath, lxc);
        node.ping(20).expect_no_loss();
        assert!(!datapath.metrics().unwrap().is_empty());

        assert_eq!(datapath.detach(lxc).unwrap(), 2);
        assert_eq!(datapath.detach(lxc).unwrap(), 0);
        assert_eq!(datapath.attach_host(lxc).unwrap(), Attached::New);
        assert_eq!(datapath.attach_netdev(lxc).unwrap(), Attached::New);
        assert_eq!(datapath.attachments().unwrap().len(), 3);
    });
}

#[test]
fn the_datapath_outlives_the_agent() {
    on_a_node(|node| {
        let lxc = node.link_pod();
        let datapath = Datapath::open(&node.options()).unwrap();
        node.fill(&datapath, lxc);
        datapath.attach_pod(lxc).unwrap();
        drop(datapath);
        node.ping(50).expect_no_loss();
        // The same agent again: the same programs, without the verifier.
        let datapath = Datapath::open(&node.options()).unwrap();
        assert_eq!(datapath.news(), []);
        let attachments = datapath.attachments().unwrap();
        assert_eq!(attachments.len(), 2);
        assert!(
            attachments.iter().all(|attachment| attachment.current),
            "{attachments:?}"
        );
        assert_eq!(datapath.attach_pod(lxc).unwrap(), Attached::Kept);
        // With other constants they are other programs.
        let config = Config {
            monitor_aggregation: 0,
            ..node.options().config
        };
        let datapath = Datapath::open(&Options {
            config,
            ..node.options()
        })
        .unwrap();
        let attachments = datapath.attachments().unwrap();
        assert!(
            attachments.iter().all(|attachment| !attachment.current),
            "{attachments:?}"
        );
        assert_eq!(datapath.attach_pod(lxc).unwrap(), Attached::Exchanged);
        assert_eq!(
            fs::read_dir(node.root().join("seta/programs")).unwrap().count(),
            1
        );
        assert_eq!(datapath.endpoints().count().unwrap(), 2);
    });
}

#[test]
fn no_packet_is_lost_when_agents_come_and_go() {
    on_a_node(|node| {
        let lxc = node.link_pod();
        let mut datapath = Datapath::open(&node.options()).unwrap();
        node.fill(&datapath, lxc);
        datapath.attach_pod(lxc).unwrap();

        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let pings = scope.spawn(|| {
                let mut pings = 0;
                while !done.load(Ordering::Relaxed) {
                    node.ping(250).expect_no_loss();
                    pings += 250;
                }
                pings
            });
            for upgrade in 1..=6 {
                // Every other time tables get another size, and so are made anew.
                let grown = upgrade % 2;
                let base = node.options();
                let sizes = MapSizes {
                    endpoints: base.sizes.endpoints + grown,
                    ct_any: base.sizes.ct_any << grown,
                    ..base.sizes
                };
                let config = Config {
                    monitor_interval: u64::from(upgrade),
                    ..base.config
                };
                let start = Instant::now();
                let next = Datapath::open(&Options {
                    config,
                    sizes,
                    ..base
                })
                .unwrap();
                println!("loaded in {:?}", start.elapsed());
                assert_eq!(next.attach_pod(lxc).unwrap(), Attached::Exchanged);
                next.settle().unwrap();
                datapath = next;
            }
            done.store(true, Ordering::Relaxed);
            println!("6 upgrades under {} pings", pings.join().unwrap());
        });
        assert!(
            datapath
                .attachments()
                .unwrap()
                .iter()
                .all(|attachment| attachment.current)
        );
    });
}

#[test]
fn links_of_devices_that_are_gone_are_cleared_away() {
    on_a_node(|node| {
        let lxc = node.link_pod();
        let datapath = Datapath::open(&node.options()).unwrap();
        datapath.attach_pod(lxc).unwrap();
        crate::harness::run("ip", &["link", "delete", "lxc"]);
        let attachments = datapath.attachments().unwrap();
        assert!(
            attachments.iter().all(|attachment| attachment.ifindex.is_none()),
            "{attachments:?}"
        );
        assert_eq!(datapath.prune().unwrap(), 2);
        assert_eq!(datapath.attachments().unwrap(), []);
        let error = datapath.attach_pod(lxc).unwrap_err();
        assert!(matches!(error, AttachError::NoDevice { .. }), "{error:?}");
        // A new device may get the number of the old one.
        let again = node.link_pod();
        assert_eq!(datapath.attach_pod(again).unwrap(), Attached::New);
    });
}

#[test]
fn a_pin_of_a_device_number_that_was_used_before_is_replaced() {
    on_a_node(|node| {
        let lxc = node.link_pod();
        let datapath = Datapath::open(&node.options()).unwrap();
        datapath.attach_pod(lxc).unwrap();
        crate::harness::run("ip", &["link", "delete", "lxc"]);
        let again = node.link_pod();
        for program in [names::FROM_POD, names::TO_POD] {
            let pin = |index| node.links().join(format!("{program}-{index}"));
            fs::rename(pin(lxc), pin(again)).unwrap();
        }
        assert_eq!(datapath.attach_pod(again).unwrap(), Attached::New);
        assert!(
            datapath
                .attachments()
                .unwrap()
                .iter()
                .all(|attachment| attachment.ifindex == Some(again))
        );
    });
}

#[test]
fn foreign_pins_among_the_links_are_left_alone() {
    on_a_node(|node| {
        let lxc = node.link_pod();
        let datapath = Datapath::open(&node.options()).unwrap();
        let foreign = node.links().join("of-somebody-else");
        let in_the_way = node.links().join(format!("{}-{lxc}", names::TO_POD));
        fs::create_dir(&foreign).unwrap();
        fs::create_dir(&in_the_way).unwrap();
        let error = datapath.attach_pod(lxc).unwrap_err();
        assert!(matches!(error, AttachError::ForeignPin { .. }), "{error}");
        assert!(
            error.to_string().contains(&in_the_way.display().to_string()),
            "{error}"
        );
        assert_eq!(datapath.attachments().unwrap(), []);
        assert_eq!(datapath.detach(lxc).unwrap(), 0);
        assert!(foreign.exists() && in_the_way.exists());
    });
}

#[test]
fn uninstall_takes_away_all_that_is_ours_and_nothing_else() {
    on_a_node(|node| {
        let lxc = node.link_pod();
        let datapath = Datapath::open(&node.options()).unwrap();
        node.fill(&datapath, lxc);
        datapath.attach_pod(lxc).unwrap();
        // All maps, and the one with their version.
        let maps = datapath.map_infos().unwrap().len() + 1;
        let programs = datapath.program_infos().unwrap().len();
        drop(datapath);
        let removed = uninstall(node.root()).unwrap();
        assert_eq!(
            (removed.links, removed.maps, removed.programs),
            (2, maps, programs)
        );
        assert!(!node.root().join("seta").exists());
        assert_eq!(
            uninstall(node.root()).unwrap(),
            seta_loader::Uninstalled::default()
        );
        // The stack alone carries the packets again.
        node.ping(10).expect_no_loss();

        let datapath = Datapath::open(&node.options()).unwrap();
        datapath.attach_pod(lxc).unwrap();
        let foreign = [node.links().join("foreign"), node.maps().join("foreign")];
        for path in &foreign {
            fs::create_dir(path).unwrap();
        }
        drop(datapath);
        uninstall(node.root()).unwrap();
        assert!(foreign.iter().all(|path| path.exists()));
        assert_eq!(fs::read_dir(node.maps()).unwrap().count(), 1);
    });
}

#[test]
fn an_upgrade_that_dies_before_it_attaches_does_no_harm() {
    on_a_node(|node| {
        let lxc = node.link_pod();
        let datapath = Datapath::open(&node.options()).unwrap();
        node.fill(&datapath, lxc);
        datapath.attach_pod(lxc).unwrap();
        let links: Vec<u32> = datapath
            .attachments()
            .unwrap()
            .iter()
            .map(|one| one.link_id)
            .collect();
        drop(datapath);

        let sizes = MapSizes {
            endpoints: 128,
            ..node.options().sizes
        };
        drop(
            Datapath::open(&Options {
                sizes,
                ..node.options()
            })
            .unwrap(),
        );
        // The old programs go on with the old maps, which have no pins any more.
        node.ping(50).expect_no_loss();
        let datapath = Datapath::open(&Options {
            sizes,
            ..node.options()
        })
        .unwrap();
        assert_eq!(datapath.news(), []);
        assert_eq!(datapath.endpoints().count().unwrap(), 2);
        assert_eq!(datapath.attach_pod(lxc).unwrap(), Attached::Exchanged);
        node.ping(50).expect_no_loss();
        let now: Vec<u32> = datapath
            .attachments()
            .unwrap()
            .iter()
            .map(|one| one.link_id)
            .collect();
        assert_eq!(
            now, links,
            "the links are the same, only their programs are others"
        );
    });
}
