use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const COOL_DOWN: Duration = Duration::from_secs(60);

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn ipam(texts: &[&str]) -> Ipam {
    Ipam::new(&nets(texts), COOL_DOWN).unwrap()
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn owner(number: usize) -> Owner {
    Owner::container(format!("c{number}"), "eth0")
}

#[test]
fn capacities() {
    let rows = [
        ("fd00:10:244::/64", 65534),
        ("fd00:10:244::/112", 65534),
        ("fd00:10:244::/113", 32766),
        ("fd00:10:244::/126", 2),
        ("10.244.1.0/24", 254),
        ("10.0.0.0/8", 65534),
        ("10.244.1.0/30", 2),
    ];
    for (net, capacity) in rows {
        assert_eq!(ipam(&[net]).usage(at(0))[0].capacity, capacity, "{net}");
    }
    for net in ["fd00::/127", "fd00::/128", "10.0.0.0/31", "10.0.0.0/32"] {
        assert!(
            matches!(
                Ipam::new(&nets(&[net]), COOL_DOWN),
                Err(BlockError::TooSmall { .. })
            ),
            "{net}"
        );
    }
    let overlap = Ipam::new(&nets(&["fd00::/64", "10.0.0.0/24", "fd00::/112"]), COOL_DOWN);
    assert!(matches!(overlap, Err(BlockError::Overlap { .. })));
}

#[test]
fn first_and_last_are_never_handed_out() {
    for net in ["fd00:10:244::/125", "10.244.1.0/29"] {
        let mut ipam = ipam(&[net]);
        let family = Family::of(ipam.blocks().next().unwrap().addr());
        let mut given = BTreeSet::new();
        for number in 0..6 {
            given.insert(
                ipam.allocate(family, owner(number), number as u64 * 7, at(0))
                    .unwrap(),
            );
        }
        let block: IpNet = net.parse().unwrap();
        assert_eq!(given.len(), 6);
        let last = match block {
            IpNet::V4(v4) => IpAddr::V4(v4.broadcast()),
            IpNet::V6(v6) => IpAddr::V6(v6.broadcast()),
        };
        assert!(!given.contains(&block.network()) && !given.contains(&last));
        assert_eq!(
            ipam.allocate(family, owner(9), 3, at(1)),
            Err(AllocateError::Full {
                family,
                blocks: vec![block],
                used: 6,
                resting: 0,
                capacity: 6,
                cool_down_secs: 60
            })
        );
    }
}

#[test]
fn the_random_number_chooses_the_offset() {
    let mut ipam = ipam(&["fd00:10:244::/64"]);
    let addr = ipam.allocate(Family::V6, owner(0), 0x6320, at(0)).unwrap();
    assert_eq!(addr, "fd00:10:244::6321".parse::<IpAddr>().unwrap());
    assert!(matches!(
        ipam.allocate(Family::V4, owner(0), 0, at(0)),
        Err(AllocateError::NoBlock { family: Family::V4 })
    ));
}

#[test]
fn released_addresses_rest() {
    let mut ipam = ipam(&["fd00::/126"]);
    let first = ipam.allocate(Family::V6, owner(0), 0, at(100)).unwrap();
    let second = ipam.allocate(Family::V6, owner(1), 0, at(100)).unwrap();
    assert_eq!(ipam.release(first, at(100)), Some(owner(0)));
    assert_eq!(
        ipam.release(first, at(101)),
        None,
        "a second release changes nothing"
    );
    let full = AllocateError::Full {
        family: Family::V6,
        blocks: vec!["fd00::/126".parse().unwrap()],
        used: 1,
        resting: 1,
        capacity: 2,
        cool_down_secs: 60,
    };
    assert_eq!(ipam.allocate(Family::V6, owner(2), 0, at(159)), Err(full));
    assert_eq!(ipam.allocate(Family::V6, owner(2), 0, at(160)), Ok(first));
    assert_eq!(ipam.release_owner(&owner(1), at(200)), [second]);
    assert_eq!(
        ipam.usage(at(200))[0],
        Usage {
            block: "fd00::/126".parse().unwrap(),
            used: 1,
            resting: 1,
            capacity: 2
        }
    );
    assert_eq!(ipam.usage(at(260))[0].resting, 0);
}

#[test]
fn a_clock_that_is_set_back_does_not_lose_addresses() {
    let mut ipam = ipam(&["fd00::/126"]);
    for number in 0..2 {
        ipam.allocate(Family::V6, owner(number), 0, at(10_000)).unwrap();
        ipam.release_owner(&owner(number), at(10_000));
    }
    assert!(
        ipam.allocate(Family::V6, owner(3), 0, at(9_990)).is_err(),
        "a small step: it still rests"
    );
    assert!(
        ipam.allocate(Family::V6, owner(3), 0, at(1_000)).is_ok(),
        "a large step: the time says nothing"
    );
}

#[test]
fn reservations() {
    let mut ipam = ipam(&["fd00:10:244::/64"]);
    let addr: IpAddr = "fd00:10:244::6321".parse().unwrap();
    ipam.reserve(addr, Owner::Router).unwrap();
    ipam.reserve(addr, Owner::Router).unwrap();
    assert_eq!(
        ipam.reserve(addr, owner(0)),
        Err(ReserveError::InUse {
            addr,
            owner: Owner::Router
        })
    );
    for outside in [
        "fd00:10:244::",
        "fd00:10:244:0:1::",
        "fd00:10:244::ffff",
        "fd00:10:245::1",
        "10.0.0.1",
    ] {
        let addr: IpAddr = outside.parse().unwrap();
        assert_eq!(
            ipam.reserve(addr, owner(0)),
            Err(ReserveError::OutsideOfBlocks { addr }),
            "{outside}"
        );
    }
    ipam.release(addr, at(0));
    ipam.reserve(addr, owner(0)).unwrap();
    assert_eq!(ipam.usage(at(0))[0].resting, 0, "a reservation ends the rest");
    assert_eq!(ipam.owner(addr), Some(&owner(0)));
}

#[test]
fn blocks_can_change_under_the_pods() {
    let mut ipam = ipam(&["fd00:1::/64"]);
    let old = ipam.allocate(Family::V6, owner(0), 5, at(0)).unwrap();
    let strays = ipam.set_blocks(&nets(&["fd00:2::/64"])).unwrap();
    assert_eq!(strays, [(old, owner(0))]);
    assert!(ipam.set_blocks(&nets(&["fd00::/128"])).is_err());
    let new = ipam.allocate(Family::V6, owner(1), 5, at(0)).unwrap();
    assert_eq!(new, "fd00:2::6".parse::<IpAddr>().unwrap());
    let restored = Ipam::restore(&ipam.snapshot()).unwrap();
    assert_eq!(restored, ipam);
    ipam.release(old, at(1));
    assert!(
        ipam.snapshot().resting.is_empty(),
        "an address of no block does not rest"
    );
}

#[test]
fn snapshots_that_contradict_themselves_are_refused() {
    let addr: IpAddr = "fd00::5".parse().unwrap();
    let good = Snapshot {
        blocks: nets(&["fd00::/64"]),
        cool_down: COOL_DOWN,
        used: vec![(addr, Owner::Router)],
        resting: Vec::new(),
    };
    assert!(Ipam::restore(&good).is_ok());
    let twice = Snapshot {
        used: vec![(addr, Owner::Router), (addr, owner(1))],
        ..good.clone()
    };
    assert_eq!(Ipam::restore(&twice), Err(RestoreError::Duplicate { addr }));
    let both = Snapshot {
        resting: vec![(addr, at(0))],
        ..good.clone()
    };
    assert_eq!(Ipam::restore(&both), Err(RestoreError::Duplicate { addr }));
    let small = Snapshot {
        blocks: nets(&["fd00::/128"]),
        ..good
    };
    assert!(matches!(Ipam::restore(&small), Err(RestoreError::Block(_))));
}

#[derive(Clone, Debug)]
enum Step {
    Allocate {
        family: Family,
        owner: usize,
        random: u64,
    },
    Release {
        nth: usize,
    },
    ReleaseOwner {
        owner: usize,
    },
    Reserve {
        offset: u8,
        owner: usize,
    },
    Wait {
        seconds: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let step = prop_oneof![
        4 => (family, 0..6_usize, any::<u64>()).prop_map(|(family, owner, random)| Step::Allocate { family, owner, random }),
        2 => any::<usize>().prop_map(|nth| Step::Release { nth }),
        1 => (0..6_usize).prop_map(|owner| Step::ReleaseOwner { owner }),
        1 => (any::<u8>(), 0..6_usize).prop_map(|(offset, owner)| Step::Reserve { offset, owner }),
        1 => (0..90_u64).prop_map(|seconds| Step::Wait { seconds }),
    ];
    proptest::collection::vec(step, 0..80)
}

proptest! {
    /// Against a plain list of who has what.
    #[test]
    fn never_twice_never_outside_never_too_early(steps in steps()) {
        let blocks = ["fd00:10:244::/124", "10.244.1.0/29"];
        let mut ipam = ipam(&blocks);
        let mut now = at(1_000);
        let mut model: BTreeMap<IpAddr, Owner> = BTreeMap::new();
        let mut released: BTreeMap<IpAddr, Duration> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Allocate { family, owner: who, random } => match ipam.allocate(family, owner(who), random, now) {
                    Ok(addr) => {
                        prop_assert!(!model.contains_key(&addr), "{addr} twice");
                        prop_assert!(nets(&blocks).iter().any(|net| net.contains(&addr) && net.network() != addr));
                        if let Some(since) = released.get(&addr) {
                            prop_assert!(now - *since >= COOL_DOWN, "{addr} too early");
                        }
                        model.insert(addr, owner(who));
                    }
                    Err(AllocateError::Full { used, resting, capacity, .. }) => prop_assert_eq!(used + resting, capacity),
                    Err(error) => return Err(TestCaseError::fail(error.to_string())),
                },
                Step::Release { nth } => {
                    let Some((addr, who)) = model.iter().nth(nth % model.len().max(1)).map(|(a, o)| (*a, o.clone())) else { continue };
                    prop_assert_eq!(ipam.release(addr, now), Some(who));
                    prop_assert_eq!(ipam.release(addr, now), None);
                    model.remove(&addr);
                    released.insert(addr, now);
                }
                Step::ReleaseOwner { owner: who } => {
                    let expected: Vec<IpAddr> = model.iter().filter(|(_, o)| **o == owner(who)).map(|(a, _)| *a).collect();
                    prop_assert_eq!(ipam.release_owner(&owner(who), now), expected.clone());
                    for addr in expected {
                        model.remove(&addr);
                        released.insert(addr, now);
                    }
                }
                Step::Reserve { offset, owner: who } => {
                    let addr = IpAddr::V6(Ipv6Addr::from_bits(0xfd00_0010_0244_0000_0000_0000_0000_0000 + u128::from(offset % 20)));
                    let usable = (1..=14).contains(&(offset % 20));
                    let free = model.get(&addr).is_none_or(|current| *current == owner(who));
                    prop_assert_eq!(ipam.reserve(addr, owner(who)).is_ok(), usable && free);
                    if usable && free {
                        model.insert(addr, owner(who));
                    }
                }
                Step::Wait { seconds } => now += at(seconds),
            }
            prop_assert_eq!(ipam.used().map(|(a, o)| (a, o.clone())).collect::<BTreeMap<_, _>>(), model.clone());
            prop_assert_eq!(&Ipam::restore(&ipam.snapshot()).unwrap(), &ipam);
        }
        // Everything that is given back comes back.
        for addr in model.keys() {
            ipam.release(*addr, now);
        }
        now += COOL_DOWN;
        for (family, capacity) in [(Family::V6, 14), (Family::V4, 6)] {
            let given: BTreeSet<IpAddr> =
                (0..capacity).map(|n| ipam.allocate(family, owner(n), n as u64, now).unwrap()).collect();
            prop_assert_eq!(given.len(), capacity);
        }
    }
}
