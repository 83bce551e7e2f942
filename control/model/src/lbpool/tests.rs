use proptest::prelude::*;

use super::*;

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pool(name: &str, created: i64, cidrs: &[&str]) -> Pool {
    Pool {
        name: name.into(),
        created,
        ranges: cidrs
            .iter()
            .map(|cidr| Range::parse(cidr, "", "", true).unwrap())
            .collect(),
        selector: Some(Vec::new()),
        ..Pool::default()
    }
}

fn service(name: &str, created: i64) -> Request {
    Request {
        name: ObjectName::new("default", name),
        created,
        families: vec![Family::V6],
        ports: [(Protocol::Tcp, 80)].into(),
        ..Request::default()
    }
}

fn sharing(name: &str, created: i64, port: u16) -> Request {
    Request {
        sharing: Some(Sharing {
            key: "k".into(),
            namespaces: BTreeSet::new(),
        }),
        ports: [(Protocol::Tcp, port)].into(),
        ..service(name, created)
    }
}

/// Addresses of a Service as one text.
fn given(plan: &Plan, name: &str) -> String {
    let grant = &plan.services[&ObjectName::new("default", name)];
    let texts: Vec<String> = grant.addresses.iter().map(ToString::to_string).collect();
    texts.join(" ")
}

fn reason(plan: &Plan, name: &str) -> &'static str {
    let grant = &plan.services[&ObjectName::new("default", name)];
    grant.refusal.as_ref().map_or("satisfied", Refusal::reason)
}

#[test]
fn blocks_are_read_as_the_api_has_them() {
    let rows = [
        ("2001:db8::/126", "", "", true, Ok(4), "2001:db8:: - 2001:db8::3"),
        ("2001:db8::/126", "", "", false, Ok(2), "2001:db8:: - 2001:db8::3"),
        ("2001:db8::/127", "", "", false, Ok(2), "2001:db8:: - 2001:db8::1"),
        (
            "2001:db8::7/128",
            "",
            "",
            false,
            Ok(1),
            "2001:db8::7 - 2001:db8::7",
        ),
        ("10.0.0.9/30", "", "", false, Ok(2), "10.0.0.8 - 10.0.0.11"),
        (
            "::/0",
            "",
            "",
            true,
            Ok(u128::MAX),
            ":: - ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ),
        (
            "",
            "2001:db8::5",
            "2001:db8::7",
            false,
            Ok(3),
            "2001:db8::5 - 2001:db8::7",
        ),
        ("", "10.0.0.1", "", false, Ok(1), "10.0.0.1 - 10.0.0.1"),
        ("", "", "", true, Err(()), "a block needs a cidr or a start"),
        (
            "",
            "",
            "10.0.0.1",
            true,
            Err(()),
            "a block needs a cidr or a start",
        ),
        (
            "10.0.0.0/33",
            "",
            "",
            true,
            Err(()),
            "cidr: \"10.0.0.0/33\" cannot be parsed",
        ),
        ("", "ten", "", true, Err(()), "start: \"ten\" cannot be parsed"),
        (
            "",
            "10.0.0.2",
            "10.0.0.1",
            true,
            Err(()),
            "the block from 10.0.0.2 to 10.0.0.1 has no address",
        ),
        (
            "",
            "10.0.0.2",
            "2001:db8::",
            true,
            Err(()),
            "the block from 10.0.0.2 to 2001:db8:: has no address",
        ),
    ];
    for (cidr, start, stop, ends, size, text) in rows {
        let range = Range::parse(cidr, start, stop, ends);
        assert_eq!(
            range.as_ref().map(Range::size).map_err(drop),
            size,
            "{cidr}{start}"
        );
        let said = range.map_or_else(|error| error.to_string(), |range| range.to_string());
        assert_eq!(said, text);
    }
}

#[test]
fn the_lowest_free_address_of_the_oldest_pool_that_selects() {
    let labelled = Pool {
        selector: Some(vec![Requirement::In("tier".into(), ["gold".to_owned()].into())]),
        ..pool("gold", 1, &["2001:db8:1::/126"])
    };
    let unknowable = Pool {
        selector: None,
        ..pool("broken", 0, &["2001:db8:9::/126"])
    };
    let disabled = Pool {
        disabled: true,
        ..pool("disabled", 0, &["2001:db8:8::/126"])
    };
    let ends = Pool {
        ranges: vec![Range::parse("2001:db8:2::/126", "", "", false).unwrap()],
        ..pool("rest", 2, &[])
    };
    let mut gold = service("gold", 9);
    gold.labels.insert("tier".into(), "gold".into());
    let dual = Request {
        families: vec![Family::V6, Family::V4],
        ..service("dual", 1)
    };
    let pools = [ends, labelled, unknowable, disabled];
    let plan = plan(
        &pools,
        &[gold, service("b", 3), service("a", 3), service("late", 4), dual],
    );
    assert_eq!(given(&plan, "gold"), "2001:db8:1::");
    assert_eq!(
        (given(&plan, "dual"), reason(&plan, "dual")),
        ("2001:db8:2::1".into(), "no_pool")
    );
    assert_eq!(
        (given(&plan, "a"), reason(&plan, "a")),
        ("2001:db8:2::2".into(), "satisfied")
    );
    assert_eq!(
        (given(&plan, "b"), reason(&plan, "b")),
        (String::new(), "out_of_ips")
    );
    assert_eq!(reason(&plan, "late"), "out_of_ips");
    let rest = &plan.pools["rest"];
    assert_eq!((rest.total, rest.used, rest.available), (2, 2, 0));
    let gold = &plan.pools["gold"];
    assert_eq!((gold.total, gold.used, gold.available), (4, 1, 3));
}

#[test]
fn selectors() {
    let labels: BTreeMap<String, String> = [("a".to_owned(), "1".to_owned())].into();
    let values = |value: &str| BTreeSet::from([value.to_owned()]);
    let rows = [
        (Requirement::In("a".into(), values("1")), true),
        (Requirement::In("a".into(), values("2")), false),
        (Requirement::In("b".into(), values("1")), false),
        (Requirement::NotIn("a".into(), values("1")), false),
        (Requirement::NotIn("b".into(), values("1")), true),
        (Requirement::Exists("a".into()), true),
        (Requirement::Exists("b".into()), false),
        (Requirement::DoesNotExist("a".into()), false),
        (Requirement::DoesNotExist("b".into()), true),
    ];
    for (requirement, admits) in rows {
        assert_eq!(requirement.admits(&labels), admits, "{requirement:?}");
    }
}

#[test]
fn who_has_an_address_keeps_it_while_it_may() {
    let current = |text: &str| Request {
        current: vec![addr(text)],
        ..service("s", 5)
    };
    let reserved = Pool {
        ranges: vec![Range::parse("2001:db8::/126", "", "", false).unwrap()],
        ..pool("p", 1, &[])
    };
    let drained = Pool {
        disabled: true,
        ..pool("p", 1, &["2001:db8::/120"])
    };
    let selective = Pool {
        selector: Some(vec![Requirement::Exists("gold".into())]),
        ..pool("p", 1, &["2001:db8::/120"])
    };
    let older = pool("older", 0, &["2001:db8::/64"]);
    let plain = pool("p", 1, &["2001:db8::/120"]);
    let rows: [(&str, &[Pool], Request, &str); 9] = [
        (
            "it is in the pool",
            std::slice::from_ref(&plain),
            current("2001:db8::7"),
            "2001:db8::7",
        ),
        (
            "it is in no pool",
            std::slice::from_ref(&plain),
            current("2001:db9::7"),
            "2001:db8::",
        ),
        (
            "the pool is drained",
            std::slice::from_ref(&drained),
            current("2001:db8::7"),
            "2001:db8::7",
        ),
        (
            "its pool is in conflict",
            &[older, plain.clone()],
            current("2001:db8::7"),
            "2001:db8::7",
        ),
        (
            "it is the first of the block",
            std::slice::from_ref(&reserved),
            current("2001:db8::"),
            "2001:db8::",
        ),
        (
            "the pool selects others",
            std::slice::from_ref(&selective),
            current("2001:db8::7"),
            "",
        ),
        (
            "another address is asked for",
            std::slice::from_ref(&plain),
            Request {
                wanted: vec![addr("2001:db8::9")],
                ..current("2001:db8::7")
            },
            "2001:db8::9",
        ),
        (
            "another family is asked for",
            std::slice::from_ref(&plain),
            Request {
                families: vec![Family::V4],
                ..current("2001:db8::7")
            },
            "",
        ),
        (
            "there are two of a family",
            std::slice::from_ref(&plain),
            Request {
                current: vec![addr("2001:db8::7"), addr("2001:db8::6")],
                ..service("s", 5)
            },
            "2001:db8::7",
        ),
    ];
    for (name, pools, request, expected) in rows {
        assert_eq!(given(&plan(pools, &[request]), "s"), expected, "{name}");
    }
}

#[test]
fn addresses_asked_for() {
    let pools = [
        pool("p", 1, &["2001:db8::/126"]),
        Pool {
            selector: Some(vec![Requirement::Exists("gold".into())]),
            ..pool("gold", 2, &["2001:db8:1::/126"])
        },
    ];
    let wants = |name: &str, created, texts: &[&str]| Request {
        wanted: texts.iter().map(|text| addr(text)).collect(),
        ..service(name, created)
    };
    let holder = Request {
        current: vec![addr("2001:db8::2")],
        ..service("holder", 9)
    };
    let unreadable = Request {
        unreadable: vec!["x".into()],
        ..service("unreadable", 1)
    };
    let services = [
        holder,
        unreadable,
        wants("taken", 1, &["2001:db8::2"]),
        wants("outside", 1, &["2001:db9::"]),
        wants("unselected", 1, &["2001:db8:1::1"]),
        wants("two", 8, &["2001:db8::1", "2001:db8::"]),
        Request {
            wanted: vec![addr("2001:db8::2")],
            ..sharing("incompatible", 2, 80)
        },
        service("any", 1),
    ];
    let plan = plan(&pools, &services);
    let rows = [
        ("holder", "2001:db8::2", "satisfied"),
        ("unreadable", "", "request_invalid"),
        ("taken", "", "already_allocated"),
        ("outside", "", "no_pool"),
        ("unselected", "", "pool_selector_mismatch"),
        ("two", "2001:db8::1 2001:db8::", "satisfied"),
        ("incompatible", "", "already_allocated_incompatible_service"),
        ("any", "2001:db8::3", "satisfied"),
    ];
    for (name, addresses, why) in rows {
        assert_eq!(
            (given(&plan, name).as_str(), reason(&plan, name)),
            (addresses, why),
            "{name}"
        );
    }
}

#[test]
fn sharing_needs_the_same_key_and_different_ports() {
    let first = sharing("first", 1, 80);
    let other_namespace = |ours: &[&str], theirs: &[&str]| {
        let mut second = sharing("second", 2, 81);
        second.name.namespace = "other".into();
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        second.sharing.as_mut().unwrap().namespaces = set(theirs);
        let mut first = first.clone();
        first.sharing.as_mut().unwrap().namespaces = set(ours);
        (first, second)
    };
    let local = |name: &str, created, port, app: &str| Request {
        external_local: true,
        selector: [("app".to_owned(), app.to_owned())].into(),
        ..sharing(name, created, port)
    };
    let udp = Request {
        ports: [(Protocol::Udp, 80)].into(),
        ..sharing("second", 2, 80)
    };
    let mut other_key = sharing("second", 2, 81);
    other_key.sharing.as_mut().unwrap().key = "other".into();
    let rows = [
        ("other port", (first.clone(), sharing("second", 2, 81)), true),
        ("other protocol", (first.clone(), udp), true),
        ("same port", (first.clone(), sharing("second", 2, 80)), false),
        ("other key", (first.clone(), other_key), false),
        ("no key", (first.clone(), service("second", 2)), false),
        (
            "other policy",
            (first.clone(), local("second", 2, 81, "a")),
            false,
        ),
        (
            "same pods",
            (local("first", 1, 80, "a"), local("second", 2, 81, "a")),
            true,
        ),
        (
            "other pods",
            (local("first", 1, 80, "a"), local("second", 2, 81, "b")),
            false,
        ),
        ("other namespace", other_namespace(&[], &[]), false),
        ("only one admits", other_namespace(&["other"], &[]), false),
        ("both admit", other_namespace(&["other"], &["default"]), true),
        ("both admit all", other_namespace(&["*"], &["*"]), true),
    ];
    for (name, (first, second), shared) in rows {
        let names = [first.name.clone(), second.name.clone()];
        let plan = plan(&[pool("p", 1, &["2001:db8::/120"])], &[first, second]);
        let [a, b] = names.map(|name| plan.services[&name].addresses.clone());
        assert_eq!((a.len(), b.len(), a == b), (1, 1, shared), "{name}");
    }
}

#[test]
fn the_younger_of_two_pools_that_overlap_is_out_of_use() {
    let pools = [
        pool("c", 3, &["2001:db8:0:1::/64"]),
        pool("b", 2, &["2001:db8::/48", "10.0.0.0/30"]),
        pool("a", 1, &["2001:db8::/120"]),
        pool("own", 4, &["2001:dba::/64", "2001:dba::/80"]),
    ];
    let v4 = Request {
        families: vec![Family::V4],
        ..service("v4", 1)
    };
    let plan = plan(&pools, &[v4]);
    let conflict = |name: &str| plan.pools[name].conflict.as_ref().map(ToString::to_string);
    assert_eq!(conflict("a"), None);
    assert_eq!(
        conflict("b").unwrap(),
        "2001:db8:: - 2001:db8:0:ffff:ffff:ffff:ffff:ffff overlaps 2001:db8:: - 2001:db8::ff of pool a"
    );
    assert_eq!(conflict("c"), None, "b is out of use and in nobody's way");
    assert!(conflict("own").unwrap().ends_with("of pool own"));
    assert_eq!(
        reason(&plan, "v4"),
        "no_pool",
        "nothing new from a pool in conflict"
    );
}

/// Small worlds, in which everything meets: few addresses, few keys, few namespaces.
fn worlds() -> impl Strategy<Value = (Vec<Pool>, Vec<Request>)> {
    let address = (0_u16..24).prop_map(|last| addr(&format!("2001:db8::{last:x}")));
    let range = (0_u128..20, 0_u128..6, any::<bool>()).prop_map(|(start, more, v4)| {
        let at = |offset: u128| {
            if v4 {
                IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + offset as u32))
            } else {
                IpAddr::from(Ipv6Addr::from_bits((0x2001_0db8 << 96) + offset))
            }
        };
        Range {
            first: at(start),
            last: at(start + more),
            reserve_ends: more > 1 && start % 2 == 0,
        }
    });
    let gold = |is| {
        if is {
            vec![Requirement::Exists("gold".into())]
        } else {
            Vec::new()
        }
    };
    let pool = (
        0_i64..3,
        prop::collection::vec(range, 0..3),
        any::<bool>(),
        prop::bool::weighted(0.2),
    )
        .prop_map(move |(created, ranges, selective, disabled)| Pool {
            created,
            ranges,
            selector: Some(gold(selective)),
            disabled,
            ..Pool::default()
        });
    let request = (
        0_i64..3,
        (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
        prop::collection::vec(address.clone(), 0..3),
        prop::collection::vec(address, 0..3),
        prop::option::of(0_u8..2),
        1_u16..4,
        any::<bool>(),
    )
        .prop_map(
            |(created, (v4, gold, local, everywhere), mut wanted, current, key, port, asks)| {
                if !asks {
                    wanted.clear();
                }
                Request {
                    created,
                    labels: gold
                        .then(|| ("gold".to_owned(), String::new()))
                        .into_iter()
                        .collect(),
                    families: if v4 {
                        vec![Family::V4, Family::V6]
                    } else {
                        vec![Family::V6]
                    },
                    wanted,
                    sharing: key.map(|key| Sharing {
                        key: key.to_string(),
                        namespaces: everywhere.then(|| "*".to_owned()).into_iter().collect(),
                    }),
                    external_local: local,
                    ports: [(Protocol::Tcp, port)].into(),
                    current,
                    ..Request::default()
                }
            },
        );
    let worlds = (
        prop::collection::vec(pool, 0..4),
        prop::collection::vec(request, 0..12),
    );
    worlds.prop_map(|(mut pools, mut services)| {
        for (index, pool) in pools.iter_mut().enumerate() {
            pool.name = format!("p{index}");
        }
        for (index, service) in services.iter_mut().enumerate() {
            service.name = ObjectName::new(if index % 3 == 0 { "a" } else { "b" }, format!("s{index}"));
        }
        (pools, services)
    })
}

proptest! {
    #[test]
    fn nobody_gets_what_is_not_theirs((pools, services) in worlds()) {
        let plan = plan(&pools, &services);
        for service in &services {
            let grant = &plan.services[&service.name];
            for address in &grant.addresses {
                let offered = pools.iter().any(|pool| {
                    pool.admits(service) && pool.ranges.iter().any(|range| range.contains(*address))
                });
                prop_assert!(offered, "{address} is from no pool that selects {}", service.name);
                if service.wanted.is_empty() {
                    prop_assert!(service.families.contains(&Family::of(*address)));
                } else {
                    prop_assert!(service.wanted.contains(address));
                }
                for other in &services {
                    let both = other.name != service.name && plan.services[&other.name].addresses.contains(address);
                    prop_assert!(!both || service.incompatible_with(other).is_none());
                }
            }
            let asked = if service.wanted.is_empty() {
                service.families.len()
            } else {
                service.wanted.iter().collect::<BTreeSet<_>>().len()
            };
            prop_assert_eq!(grant.refusal.is_none(), grant.addresses.len() == asked);
        }
        for report in plan.pools.values() {
            prop_assert!(report.available <= report.total);
        }
    }

    /// Written down and read again, by this operator or the next one, the decision is the same; whatever order the
    /// objects come in.
    #[test]
    fn a_decision_stands((pools, services) in worlds()) {
        let first = plan(&pools, &services);
        let mut again = services.clone();
        for service in &mut again {
            service.current = first.services[&service.name].addresses.clone();
        }
        again.reverse();
        let mut reversed = pools.clone();
        reversed.reverse();
        prop_assert_eq!(plan(&reversed, &again), first);
    }

    /// A Service that comes takes nothing from those who are there.
    #[test]
    fn newcomers_take_nothing_away((pools, services) in worlds(), newcomer in 0_usize..12) {
        prop_assume!(newcomer < services.len());
        let mut there = services.clone();
        let new = there.remove(newcomer);
        let before = plan(&pools, &there);
        for service in &mut there {
            service.current = before.services[&service.name].addresses.clone();
        }
        let old = there.clone();
        there.push(Request { current: Vec::new(), ..new });
        let after = plan(&pools, &there);
        for service in &old {
            let (had, has) = (&before.services[&service.name].addresses, &after.services[&service.name].addresses);
            prop_assert!(had.iter().all(|address| has.contains(address)));
        }
    }
}
