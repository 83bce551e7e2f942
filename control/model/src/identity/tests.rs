use proptest::prelude::*;

use super::*;

fn labels(text: &str) -> Labels {
    Labels::parse([text])
}

fn object(number: u32, text: &str, created: i64) -> CiliumIdentity {
    CiliumIdentity {
        identity: Identity(number),
        labels: labels(text),
        created,
    }
}

#[test]
fn reserved_names_go_both_ways() {
    for (identity, label) in Identity::all_reserved() {
        let name = identity.reserved_name().unwrap();
        assert_eq!(Identity::from_reserved_name(name), Some(identity));
        assert_eq!(label.to_string(), format!("reserved:{name}"));
        assert!(!identity.is_cluster());
    }
    assert_eq!(Identity(300).to_string(), "300");
    assert_eq!(Identity::HOST.to_string(), "host");
    assert_eq!(format!("{:>6}|", Identity::HOST), "  host|");
}

#[test]
fn duplicates_resolve_to_the_oldest_then_the_lowest() {
    let rows: [(&str, &[CiliumIdentity], u32); 3] = [
        (
            "oldest",
            &[object(300, "k8s:a=b", 20), object(900, "k8s:a=b", 10)],
            900,
        ),
        (
            "lowest of the same age",
            &[object(301, "k8s:a=b", 10), object(300, "k8s:a=b", 10)],
            300,
        ),
        (
            "the only one",
            &[object(500, "k8s:a=b", 0), object(300, "k8s:a=c", 0)],
            500,
        ),
    ];
    for (name, objects, expected) in rows {
        let mut index = IdentityIndex::new();
        for object in objects.iter().rev() {
            assert!(index.upsert(object.clone()), "{name}");
        }
        assert_eq!(
            index.lookup(&labels("k8s:a=b")),
            Some(Identity(expected)),
            "{name}"
        );
        assert!(
            !index.upsert(objects[0].clone()),
            "{name}: the same again changes nothing"
        );
    }
}

#[test]
fn losing_a_race_for_a_number_chooses_another() {
    let mut index = IdentityIndex::new();
    let Ok(Allocation::Create(first)) = index.allocate(&labels("k8s:a=b"), 7) else {
        panic!("a free number")
    };
    index.upsert(CiliumIdentity {
        identity: first,
        labels: labels("k8s:other=1"),
        created: 1,
    });
    let Ok(Allocation::Create(second)) = index.allocate(&labels("k8s:a=b"), 7) else {
        panic!("a free number")
    };
    assert_ne!(first, second);
    index.upsert(CiliumIdentity {
        identity: second,
        labels: labels("k8s:a=b"),
        created: 1,
    });
    assert_eq!(
        index.allocate(&labels("k8s:a=b"), 99),
        Ok(Allocation::Existing(second))
    );
}

#[test]
fn a_full_range_is_an_error_with_the_count() {
    let mut index = IdentityIndex::new();
    for number in Identity::MIN.0..=Identity::MAX.0 {
        index.upsert(object(number, &format!("k8s:n={number}"), 0));
    }
    assert_eq!(
        index.allocate(&labels("k8s:a=b"), 1),
        Err(AllocationError::Exhausted { in_use: 65280 })
    );
    assert_eq!(
        index.allocate(&Labels::default(), 1),
        Err(AllocationError::NoLabels)
    );
    index.remove(Identity(4711));
    assert_eq!(
        index.allocate(&labels("k8s:a=b"), u64::MAX),
        Ok(Allocation::Create(Identity(4711)))
    );
}

proptest! {
    #[test]
    fn the_order_of_arrival_does_not_matter(
        objects in proptest::collection::vec((256u32..262, 0u8..4, 0i64..3), 0..12),
    ) {
        // One object per number, as the API server guarantees.
        let unique: BTreeMap<u32, CiliumIdentity> =
            objects.into_iter().map(|(n, l, t)| (n, object(n, &format!("k8s:l={l}"), t))).collect();
        let mut forwards = IdentityIndex::new();
        let mut backwards = IdentityIndex::new();
        unique.values().for_each(|o| { forwards.upsert(o.clone()); });
        unique.values().rev().for_each(|o| { backwards.upsert(o.clone()); });
        for l in 0..4 {
            let wanted = labels(&format!("k8s:l={l}"));
            prop_assert_eq!(forwards.lookup(&wanted), backwards.lookup(&wanted));
        }
        for number in unique.keys() {
            forwards.remove(Identity(*number));
        }
        prop_assert!(forwards.is_empty() && forwards.by_labels.is_empty());
    }

    #[test]
    fn a_chosen_number_is_free_and_in_range(taken in proptest::collection::btree_set(256u32..300, 0..44), random: u64) {
        let mut index = IdentityIndex::new();
        for number in &taken {
            index.upsert(object(*number, &format!("k8s:n={number}"), 0));
        }
        let Ok(Allocation::Create(chosen)) = index.allocate(&labels("k8s:new=1"), random) else {
            return Err(TestCaseError::fail("a free number exists"));
        };
        prop_assert!(chosen.is_cluster() && !taken.contains(&chosen.0));
    }
}
