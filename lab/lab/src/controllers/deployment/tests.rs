use proptest::{prop_assert, prop_assert_eq, prop_assume, proptest};

use super::*;

fn strategy(replicas: usize, max_surge: usize, max_unavailable: usize) -> Strategy {
    Strategy {
        replicas,
        max_surge,
        max_unavailable,
        recreate: false,
    }
}

fn full(size: usize) -> Sizes {
    Sizes {
        wanted: size,
        pods: size,
        ready: size,
        available: size,
    }
}

fn starting(size: usize) -> Sizes {
    Sizes {
        wanted: size,
        pods: size,
        ready: 0,
        available: 0,
    }
}

#[test]
fn steps() {
    let recreate = Strategy {
        recreate: true,
        ..strategy(3, 0, 0)
    };
    for (strategy, new, old, expected_new, expected_old) in [
        // the first roll-out, and scaling
        (strategy(3, 1, 0), full(0), vec![], 3, vec![]),
        (strategy(2, 1, 0), full(3), vec![], 2, vec![]),
        (strategy(0, 1, 0), full(3), vec![], 0, vec![]),
        // surge only: one comes, then one goes
        (strategy(3, 1, 0), full(0), vec![full(3)], 1, vec![3]),
        (strategy(3, 1, 0), starting(1), vec![full(3)], 1, vec![3]),
        (strategy(3, 1, 0), full(1), vec![full(3)], 1, vec![2]),
        (strategy(3, 1, 0), full(1), vec![full(2)], 2, vec![2]),
        (strategy(3, 1, 0), full(3), vec![full(1)], 3, vec![0]),
        // unavailable only: one goes, then one comes
        (strategy(3, 0, 1), full(0), vec![full(3)], 0, vec![2]),
        (strategy(3, 0, 1), full(0), vec![full(2)], 1, vec![2]),
        (strategy(3, 0, 1), starting(1), vec![full(2)], 1, vec![2]),
        // broken old pods go at once
        (
            strategy(3, 1, 1),
            starting(1),
            vec![starting(1), full(2)],
            1,
            vec![0, 2],
        ),
        // recreate
        (recreate, full(0), vec![full(3)], 0, vec![0]),
        (
            recreate,
            full(0),
            vec![Sizes { wanted: 0, ..full(1) }],
            0,
            vec![0],
        ),
        (recreate, full(0), vec![full(0)], 3, vec![0]),
    ] {
        let expected = plan::Resize {
            new: expected_new,
            old: expected_old,
        };
        assert_eq!(
            resize(strategy, new, &old),
            expected,
            "{strategy:?} {new:?} {old:?}"
        );
    }
}

proptest! {
    #[test]
    fn updates_keep_their_bounds_and_end(
        replicas in 0usize..12, surge in 0usize..5, missing in 0usize..5, recreate: bool, before in 0usize..12,
    ) {
        let missing = if surge == 0 && missing == 0 { 1 } else { missing.min(replicas) };
        prop_assume!(surge > 0 || missing > 0 || replicas == 0);
        let strategy = Strategy { replicas, max_surge: surge, max_unavailable: missing, recreate };
        let (mut new, mut old) = (full(0), vec![full(before)]);
        for _ in 0..64 {
            let next = resize(strategy, new, &old);
            if !recreate && before == replicas {
                prop_assert!(next.new + next.old[0] <= replicas + surge, "too many: {next:?}");
                let serving = new.available.min(next.new) + old[0].available.min(next.old[0]);
                prop_assert!(serving + missing >= replicas, "too few: {next:?} of {new:?} {old:?}");
            }
            // All pods that are asked for come up in between.
            new = full(next.new);
            old = vec![full(next.old[0])];
        }
        prop_assert_eq!((new.wanted, old[0].wanted), (replicas, 0));
    }
}

#[test]
fn strategies() {
    let of = |spec: Value| -> Strategy {
        let mut all = json!({"selector": {}, "template": {}});
        all.as_object_mut()
            .unwrap()
            .extend(spec.as_object().unwrap().clone());
        Strategy::of(&serde_json::from_value(all).unwrap())
    };
    let rolling = |surge: Value, missing: Value| json!({"replicas": 10, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": missing}}});
    for (spec, expected) in [
        (json!({}), strategy(1, 1, 0)),
        (json!({"replicas": 10}), strategy(10, 3, 2)),
        (json!({"replicas": 0}), strategy(0, 0, 1)),
        (json!({"replicas": -1}), strategy(0, 0, 1)),
        (rolling(json!(2), json!(0)), strategy(10, 2, 0)),
        (rolling(json!("15%"), json!("15%")), strategy(10, 2, 1)),
        (rolling(json!(0), json!(0)), strategy(10, 0, 1)),
        (rolling(json!(0), json!(99)), strategy(10, 0, 10)),
    ] {
        assert_eq!(of(spec.clone()), expected, "{spec}");
    }
    assert!(of(json!({"strategy": {"type": "Recreate"}})).recreate);
}

fn set(name: &str, revision: u64, wanted: i32, there: i32) -> ReplicaSet {
    serde_json::from_value(json!({
        "metadata": {"name": name, "annotations": {REVISION: revision.to_string()}},
        "spec": {"replicas": wanted, "selector": {}},
        "status": {"replicas": there, "readyReplicas": there, "availableReplicas": there},
    }))
    .unwrap()
}

#[test]
fn history_is_bounded_and_only_empty_sets_go() {
    let sets = [
        set("a", 1, 0, 0),
        set("b", 2, 0, 1),
        set("c", 3, 0, 0),
        set("d", 4, 0, 0),
    ];
    let old: Vec<_> = sets.iter().collect();
    let names = |limit| -> Vec<_> {
        outdated(&old, limit)
            .iter()
            .map(|set| set.metadata.name.clone().unwrap())
            .collect()
    };
    assert_eq!(names(10), [""; 0]);
    assert_eq!(names(3), ["a"]);
    assert_eq!(names(2), ["a", "c"]);
    assert_eq!(names(0), ["a", "c", "d"]);
}

#[test]
fn status_tells_progress_success_and_failure() {
    let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
    let deployment = |status: Value| -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"generation": 2}, "spec": {"replicas": 2, "selector": {}, "template": {}}, "status": status,
        }))
        .unwrap()
    };
    let reason = |status: &Value, kind: &str| -> String {
        let conditions = status["conditions"].as_array().unwrap();
        let found = conditions
            .iter()
            .find(|condition| condition["type"] == kind)
            .unwrap();
        found["reason"].as_str().unwrap().to_owned()
    };
    let strategy = strategy(2, 1, 0);
    let (half, done) = (set("n", 1, 2, 1), set("n", 1, 2, 2));

    let (first, again) = status(&deployment(json!({})), &[&half], &[], strategy, now);
    assert_eq!(reason(&first, "Progressing"), "ReplicaSetUpdated");
    assert_eq!(reason(&first, "Available"), "MinimumReplicasUnavailable");
    assert_eq!(
        (&first["unavailableReplicas"], again),
        (&json!(1), Some(Duration::from_secs(600)))
    );

    let later: Timestamp = "2026-01-01T01:10:00Z".parse().unwrap();
    let (stuck, again) = status(&deployment(first.clone()), &[&half], &[], strategy, later);
    assert_eq!(reason(&stuck, "Progressing"), "ProgressDeadlineExceeded");
    assert_eq!(again, None);

    let (complete, again) = status(&deployment(first), &[&done], &[], strategy, later);
    assert_eq!(reason(&complete, "Progressing"), "NewReplicaSetAvailable");
    assert_eq!(reason(&complete, "Available"), "MinimumReplicasAvailable");
    assert_eq!(again, None);
    let (repeated, _) = status(&deployment(complete.clone()), &[&done], &[], strategy, now);
    assert!(
        !differs(&complete, &repeated),
        "nothing changed: {complete} {repeated}"
    );
}
