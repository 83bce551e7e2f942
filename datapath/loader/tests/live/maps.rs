//! Pinned maps: kept, made anew, and what else may lie beside them.

use std::collections::BTreeSet;
use std::fs;

use abi::{CtEntry, CtKey, names};
use aya::maps::{Array, Map, MapData};
use seta_loader::{Datapath, MapReason, MapSizes, OpenError, Options};

use crate::harness::{Node, nth, on_a_node};

fn pinned_id(node: &Node, name: &str) -> u32 {
    MapData::from_pin(node.maps().join(name))
        .unwrap()
        .info()
        .unwrap()
        .id()
}

fn connection(port: u16) -> CtKey {
    CtKey {
        src: nth(1),
        dst: nth(2),
        src_port: port.to_be_bytes(),
        proto: 6,
        ..CtKey::default()
    }
}

#[test]
fn a_first_start_makes_every_map_and_says_so() {
    on_a_node(|node| {
        let datapath = Datapath::open(&node.options()).unwrap();
        let infos = datapath.map_infos().unwrap();
        assert_eq!(datapath.news().len(), infos.len());
        assert!(
            datapath
                .news()
                .iter()
                .all(|news| news.reason == MapReason::Missing && !news.reason.is_replacement())
        );
        let endpoints = infos.iter().find(|info| info.name == names::ENDPOINTS).unwrap();
        assert_eq!(
            (endpoints.kind.as_str(), endpoints.max_entries, endpoints.entries),
            ("Hash", 64, Some(0))
        );
        // The kernel accounts LPM tries by their entries, and what sockets keep to the sockets.
        assert!(infos.iter().any(|info| info.bytes > 0), "{infos:?}");
        let programs = datapath.program_infos().unwrap();
        // Five see packets, one frames, five sockets.
        assert_eq!(programs.len(), 11);
        assert!(
            programs
                .iter()
                .all(|program| program.verified_instructions > 0 && program.jited_bytes > 0)
        );
    });
}

#[test]
fn the_constants_of_running_programs_are_read_back() {
    on_a_node(|node| {
        let first = Datapath::open(&node.options()).unwrap();
        let of_first: BTreeSet<u32> = first
            .program_infos()
            .unwrap()
            .iter()
            .map(|info| info.id)
            .collect();
        let mut options = node.options();
        options.config.host_routing = 0;
        options.config.nat_ports = [40_000, 41_000];
        let second = Datapath::open(&options).unwrap();
        let of_second: BTreeSet<u32> = second
            .program_infos()
            .unwrap()
            .iter()
            .map(|info| info.id)
            .collect();
        let all = second.constants(&(&of_first | &of_second)).unwrap();
        for id in &of_second {
            if let Some(config) = all.get(id) {
                assert_eq!(*config, options.config);
            }
        }
        let packets = |datapath: &Datapath| {
            let infos = datapath.program_infos().unwrap();
            infos.iter().find(|info| info.name == names::FROM_POD).unwrap().id
        };
        assert_eq!(all[&packets(&first)].host_routing, 1);
        assert_eq!(all[&packets(&second)].nat_ports, [40_000, 41_000]);
        // A program that is no one's.
        assert!(second.constants(&BTreeSet::from([u32::MAX])).unwrap().is_empty());
    });
}

#[test]
fn another_size_keeps_the_entries() {
    on_a_node(|node| {
        let datapath = Datapath::open(&node.options()).unwrap();
        for port in 1..=1000 {
            let entry = CtEntry {
                packets: u64::from(port),
                ..CtEntry::default()
            };
            datapath.ct_tcp().insert(&connection(port), &entry).unwrap();
        }
        for number in 0..50 {
            datapath.devices().insert(&number, &nth(number)).unwrap();
        }
        let kept = pinned_id(node, names::ENDPOINTS);
        let sizes = MapSizes {
            ct_tcp: 8192,
            devices: 20,
            ..node.options().sizes
        };
        let next = Datapath::open(&Options {
            sizes,
            ..node.options()
        })
        .unwrap();

        let news: Vec<_> = next
            .news()
            .iter()
            .map(|news| (news.name, news.reason, news.copied, news.left))
            .collect();
        assert_eq!(
            news,
            [
                (
                    names::CT_TCP,
                    MapReason::Resized { from: 4096, to: 8192 },
                    1000,
                    0
                ),
                (names::DEVICES, MapReason::Resized { from: 64, to: 20 }, 20, 30),
            ]
        );
        assert_eq!(next.ct_tcp().get(&connection(77)).unwrap().unwrap().packets, 77);
        assert_eq!(next.ct_tcp().max_entries(), 8192);
        assert_eq!(pinned_id(node, names::ENDPOINTS), kept);

        // What programs of the predecessor see until they are exchanged.
        datapath
            .ct_tcp()
            .insert(&connection(5000), &CtEntry::default())
            .unwrap();
        assert_eq!(next.settle().unwrap(), 1);
        assert!(next.ct_tcp().get(&connection(5000)).unwrap().is_some());
        assert_eq!(next.settle().unwrap(), 0);
    });
}

#[test]
fn maps_of_another_version_are_not_touched_by_this_one() {
    on_a_node(|node| {
        let datapath = Datapath::open(&node.options()).unwrap();
        datapath.devices().insert(&1, &nth(1)).unwrap();
        let version = MapData::from_pin(node.maps().join("seta_abi")).unwrap();
        let mut version = Array::<_, u32>::try_from(Map::Array(version)).unwrap();
        version.set(0, abi::ABI_VERSION + 1, 0).unwrap();
        let next = Datapath::open(&node.options()).unwrap();
        let from = Some(abi::ABI_VERSION + 1);
        assert_eq!(next.news().len(), next.map_infos().unwrap().len());
        assert!(
            next.news()
                .iter()
                .all(|news| news.reason == MapReason::OtherAbi { from } && news.copied == 0)
        );
        assert_eq!(next.devices().count().unwrap(), 0);
        assert_eq!(datapath.devices().count().unwrap(), 1);
        // And now the version is right.
        drop(next);
        assert_eq!(Datapath::open(&node.options()).unwrap().news(), []);
    });
}

#[test]
fn maps_without_a_version_are_replaced() {
    on_a_node(|node| {
        drop(Datapath::open(&node.options()).unwrap());
        fs::remove_file(node.maps().join("seta_abi")).unwrap();
        let next = Datapath::open(&node.options()).unwrap();
        assert!(
            next.news()
                .iter()
                .all(|news| news.reason == MapReason::OtherAbi { from: None })
        );
    });
}

#[test]
fn strangers_in_the_directory_survive() {
    on_a_node(|node| {
        drop(Datapath::open(&node.options()).unwrap());
        let foreign_map = node.maps().join("foreign");
        Array::<_, u32>::create(1, 0).unwrap().pin(&foreign_map).unwrap();
        fs::create_dir(node.maps().join("directory")).unwrap();
        // Under names of ours: a map of another kind, and no map at all.
        let (other_kind, no_map) = (node.maps().join(names::DEVICES), node.maps().join(names::IPCACHE));
        fs::remove_file(&other_kind).unwrap();
        Array::<_, u32>::create(1, 0).unwrap().pin(&other_kind).unwrap();
        fs::remove_file(&no_map).unwrap();
        fs::create_dir(&no_map).unwrap();

        let next = Datapath::open(&node.options()).unwrap();
        let news: Vec<_> = next.news().iter().map(|news| (news.name, news.reason)).collect();
        assert_eq!(
            news,
            [
                (names::DEVICES, MapReason::Redefined),
                (names::IPCACHE, MapReason::NotAMap)
            ]
        );
        next.ipcache().insert(&nth(1), &abi::Peer::default()).unwrap();
        assert!(MapData::from_pin(&foreign_map).is_ok());
        assert!(node.maps().join("directory").is_dir());
        assert!(!node.root().join("seta/next").exists());
    });
}

#[test]
fn what_a_crash_has_left_is_cleared_away() {
    on_a_node(|node| {
        let datapath = Datapath::open(&node.options()).unwrap();
        datapath.devices().insert(&1, &nth(1)).unwrap();
        drop(datapath);
        let next = node.root().join("seta/next");
        fs::create_dir(&next).unwrap();
        Array::<_, u32>::create(1, 0)
            .unwrap()
            .pin(next.join(names::DEVICES))
            .unwrap();
        fs::create_dir(next.join(names::IPCACHE)).unwrap();
        // Somebody else's, which lay among the maps before they were replaced.
        fs::create_dir(next.join("foreign")).unwrap();
        let datapath = Datapath::open(&node.options()).unwrap();
        assert_eq!(datapath.news(), []);
        assert_eq!(datapath.devices().count().unwrap(), 1);
        assert!(!next.exists());
        assert!(node.maps().join("foreign").is_dir());
    });
}

#[test]
fn a_bad_object_changes_nothing() {
    on_a_node(|node| {
        drop(Datapath::open(&node.options()).unwrap());
        let before = pinned_id(node, names::CT_TCP);
        let sizes = MapSizes {
            ct_tcp: 8192,
            ..node.options().sizes
        };
        for object in [
            &b""[..],
            b"\x7fELF and so on",
            &seta_loader::OBJECT[..seta_loader::OBJECT.len() / 2],
        ] {
            let result = Datapath::open(&Options {
                object,
                sizes,
                ..node.options()
            });
            assert!(matches!(result.err(), Some(OpenError::Object(_))));
        }
        // Too large for the kernel: the map cannot be made.
        let sizes = MapSizes {
            ct_tcp: u32::MAX,
            ..node.options().sizes
        };
        let error = Datapath::open(&Options {
            sizes,
            ..node.options()
        })
        .err()
        .unwrap();
        assert!(matches!(error, OpenError::Load(_)), "{error}");
        assert_eq!(pinned_id(node, names::CT_TCP), before);
        assert!(!node.root().join("seta/next").exists());
        assert_eq!(Datapath::open(&node.options()).unwrap().news(), []);
    });
}

#[test]
fn a_root_that_is_no_bpffs_says_what_to_mount() {
    on_a_node(|node| {
        let directory = tempfile::tempdir().unwrap();
        let error = Datapath::open(&Options {
            root: directory.path().to_owned(),
            ..node.options()
        })
        .err()
        .unwrap();
        let mount = format!("mount -t bpf bpf {}", directory.path().display());
        assert!(error.to_string().contains(&mount), "{error}");
    });
}

#[test]
fn programs_that_are_not_all_there_are_verified_again() {
    on_a_node(|node| {
        let ids = |datapath: &Datapath| -> Vec<u32> {
            datapath
                .program_infos()
                .unwrap()
                .iter()
                .map(|program| program.id)
                .collect()
        };
        let first = ids(&Datapath::open(&node.options()).unwrap());
        assert_eq!(ids(&Datapath::open(&node.options()).unwrap()), first);
        let sets: Vec<_> = fs::read_dir(node.root().join("seta/programs")).unwrap().collect();
        let set = sets[0].as_ref().unwrap().path();
        fs::remove_file(set.join(names::FROM_HOST)).unwrap();
        let again = ids(&Datapath::open(&node.options()).unwrap());
        assert!(again.iter().all(|id| !first.contains(id)), "{first:?} {again:?}");
        assert_eq!(ids(&Datapath::open(&node.options()).unwrap()), again);
    });
}
