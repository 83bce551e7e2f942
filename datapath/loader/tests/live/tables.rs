//! Tables, counters, events.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use abi::event::ObservationPoint;
use abi::tables::identity;
use abi::{Config, CtEntry, CtKey, Endpoint, NatEntry, NatKey, names};
use seta_loader::{
    Collection, Datapath, Event, EventsError, MapSizes, Options, StatsGuard, TableError, TestRunError,
    monotonic_ns,
};

use crate::harness::{nth, on_a_node};

fn connection(number: u32) -> CtKey {
    CtKey {
        src: nth(number),
        proto: 17,
        ..CtKey::default()
    }
}

#[test]
fn entries_come_and_go() {
    on_a_node(|node| {
        let datapath = Datapath::open(&node.options()).unwrap();
        let table = datapath.endpoints();
        let endpoint = Endpoint {
            ifindex: 7,
            id: 3,
            ..Endpoint::default()
        };
        assert_eq!(table.get(&nth(1)).unwrap(), None);
        table.insert(&nth(1), &endpoint).unwrap();
        assert!(!table.insert_new(&nth(1), &Endpoint::default()).unwrap());
        assert!(table.insert_new(&nth(2), &Endpoint::default()).unwrap());
        assert_eq!(table.get(&nth(1)).unwrap(), Some(endpoint));
        let expected = BTreeMap::from([(nth(1), endpoint), (nth(2), Endpoint::default())]);
        assert_eq!(table.dump().unwrap(), expected);
        assert!(table.remove(&nth(1)).unwrap());
        assert!(!table.remove(&nth(1)).unwrap());
        assert_eq!(table.count().unwrap(), 1);
    });
}

#[test]
fn a_full_map_is_named() {
    on_a_node(|node| {
        let datapath = Datapath::open(&node.options()).unwrap();
        let table = datapath.endpoints();
        for number in 0..64 {
            table.insert(&nth(number), &Endpoint::default()).unwrap();
        }
        let error = table.insert(&nth(64), &Endpoint::default()).unwrap_err();
        assert!(
            matches!(
                error,
                TableError::MapFull {
                    name: names::ENDPOINTS,
                    max: 64
                }
            ),
            "{error}"
        );
        // What is there can still be changed.
        table
            .insert(
                &nth(3),
                &Endpoint {
                    id: 9,
                    ..Endpoint::default()
                },
            )
            .unwrap();
        table.remove(&nth(4)).unwrap();
        table.insert(&nth(64), &Endpoint::default()).unwrap();
        assert_eq!(table.count().unwrap(), 64);
    });
}

#[test]
fn batches_of_every_size_see_every_entry() {
    on_a_node(|node| {
        let sizes = MapSizes {
            ipcache: 20_000,
            ..node.options().sizes
        };
        let datapath = Datapath::open(&Options {
            sizes,
            ..node.options()
        })
        .unwrap();
        let table = datapath.ipcache();
        let expected: BTreeSet<_> = (0..20_000).map(nth).collect();
        for address in &expected {
            table
                .insert(
                    address,
                    &abi::Peer {
                        identity: 5,
                        ..abi::Peer::default()
                    },
                )
                .unwrap();
        }
        for size in [1, 7, 1000, 1_000_000] {
            let mut seen = BTreeSet::new();
            for batch in table.batches_of(size) {
                for (address, peer) in batch.unwrap() {
                    assert_eq!(peer.identity, 5);
                    assert!(seen.insert(address), "each once");
                }
            }
            assert_eq!(seen, expected, "batches of {size}");
        }
        assert_eq!(table.count().unwrap(), 20_000);
        assert_eq!(datapath.devices().entries().unwrap(), []);
    });
}

#[test]
fn expired_connections_are_collected() {
    on_a_node(|node| {
        let datapath = Datapath::open(&node.options()).unwrap();
        let now = monotonic_ns();
        assert!(now > 0);
        for number in 0..900 {
            let expires = if number % 3 == 0 {
                now - 1
            } else {
                now + 60_000_000_000
            };
            datapath
                .ct_any()
                .insert(
                    &connection(number),
                    &CtEntry {
                        expires,
                        ..CtEntry::default()
                    },
                )
                .unwrap();
        }
        let mut gc = Collection::new(datapath.ct_any(), 64);
        let mut steps = 0;
        while gc.step(now).unwrap() {
            steps += 1;
        }
        assert_eq!((gc.report().seen, gc.report().removed), (900, 300));
        assert!(steps >= 900 / 64, "{steps}");
        assert_eq!(datapath.ct_any().count().unwrap(), 600);
        assert!(datapath.ct_any().get(&connection(3)).unwrap().is_none());
        assert!(datapath.ct_any().get(&connection(4)).unwrap().is_some());
    });
}

#[test]
fn expired_translations_go_too() {
    on_a_node(|node| {
        let datapath = Datapath::open(&node.options()).unwrap();
        let (table, now) = (&datapath.nat().nat, monotonic_ns());
        let key = |number| NatKey {
            src: nth(number),
            proto: 6,
            ..NatKey::default()
        };
        for (number, expires) in [(1, now - 1), (2, now + 1_000_000_000_000)] {
            let entry = NatEntry {
                expires,
                ..NatEntry::default()
            };
            table.insert(&key(number), &entry).unwrap();
        }
        let mut pass = Collection::new(table, 64);
        while pass.step(now).unwrap() {}
        assert_eq!((pass.report().seen, pass.report().removed), (2, 1));
        assert!(table.get(&key(1)).unwrap().is_none() && table.get(&key(2)).unwrap().is_some());
    });
}

#[test]
fn programs_run_without_a_device_and_are_counted() {
    on_a_node(|node| {
        let datapath = Datapath::open(&node.options()).unwrap();
        let stats = StatsGuard::enable().unwrap();
        let packet = [0; 64];
        let run = datapath.test_run(names::FROM_NETDEV, &packet, None, 100).unwrap();
        assert!(run.packet.len() >= packet.len());
        drop(stats);
        let programs = datapath.program_infos().unwrap();
        let program = programs
            .iter()
            .find(|program| program.name == names::FROM_NETDEV)
            .unwrap();
        assert!(
            program.run_count >= 100 && program.run_time > Duration::ZERO,
            "{program:?}"
        );
        let error = datapath
            .test_run("no_such_program", &packet, None, 1)
            .unwrap_err();
        assert!(matches!(error, TestRunError::NoProgram(_)), "{error}");
        let error = datapath
            .test_run(names::FROM_NETDEV, &[0; 4], None, 1)
            .unwrap_err();
        assert!(matches!(error, TestRunError::Run { .. }), "{error}");
    });
}

#[test]
fn packets_become_events() {
    on_a_node(|node| {
        let lxc = node.link_pod();
        // Without aggregation every packet is reported.
        let config = Config {
            monitor_aggregation: 0,
            ..node.options().config
        };
        let datapath = Datapath::open(&Options {
            config,
            ..node.options()
        })
        .unwrap();
        node.fill(&datapath, lxc);
        datapath.attach_pod(lxc).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (events, malformed) = runtime.block_on(async {
            let mut reader = datapath.events().unwrap();
            let ping = node.ping(20);
            let mut events = Vec::new();
            let collect = async {
                while events.len() < 40 {
                    reader.read(&mut events, 8).await.unwrap();
                }
            };
            tokio::time::timeout(Duration::from_secs(10), collect)
                .await
                .expect("events come");
            ping.expect_no_loss();
            (events, reader.malformed())
        });
        assert_eq!(malformed, 0);
        let mut from_pod = events.iter().filter_map(|event| match event {
            Event::Trace { notify, packet }
                if notify.header.subtype == ObservationPoint::FromEndpoint as u8 =>
            {
                Some((notify, packet))
            }
            _ => None,
        });
        let (notify, packet) = from_pod.next_back().expect("the pod's packets are seen");
        assert_eq!(notify.src_label, identity::MIN_CLUSTER);
        assert_eq!(packet.len(), usize::from(notify.header.len_cap));
        assert_eq!(packet.get(6..12), Some(&crate::harness::POD_MAC[..]));
        assert!(notify.time > 0 && notify.time <= monotonic_ns());
    });
}

#[test]
fn a_ring_that_nobody_reads_counts_what_it_loses() {
    on_a_node(|node| {
        let lxc = node.link_pod();
        let config = Config {
            monitor_aggregation: 0,
            ..node.options().config
        };
        let sizes = MapSizes {
            events_bytes: 4096,
            ..node.options().sizes
        };
        let datapath = Datapath::open(&Options {
            config,
            sizes,
            ..node.options()
        })
        .unwrap();
        node.fill(&datapath, lxc);
        datapath.attach_pod(lxc).unwrap();
        assert_eq!(datapath.lost_events().unwrap(), BTreeMap::new());
        node.ping(50).expect_no_loss();
        let lost = datapath.lost_events().unwrap();
        assert!(
            lost.get(&abi::event::kind::TRACE).is_some_and(|lost| *lost > 10),
            "{lost:?}"
        );
    });
}

#[test]
fn a_reader_needs_a_runtime() {
    on_a_node(|node| {
        let datapath = Datapath::open(&node.options()).unwrap();
        assert!(matches!(datapath.events().err(), Some(EventsError::Open(_))));
    });
}
