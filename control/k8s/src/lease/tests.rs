use serde_json::json;

use super::*;
use crate::fake::Fake;

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/lock";

fn election(fake: &Fake, me: &str) -> Election {
    Election::new(
        fake.cluster.clone(),
        "kube-system",
        "lock",
        me,
        LeaseTimes::default(),
    )
}

#[test]
fn steps() {
    let times = LeaseTimes::default();
    let lease = |holder: &str, seconds: Option<i32>| LeaseSpec {
        holder_identity: Some(holder.into()),
        lease_duration_seconds: seconds,
        ..LeaseSpec::default()
    };
    let rows = [
        ("no lease", None, 0, Step::Create),
        ("ours", Some(lease("me", Some(15))), 100, Step::Renew),
        ("given back", Some(lease("", Some(1))), 0, Step::Take),
        ("held", Some(lease("other", Some(15))), 14, Step::Wait),
        ("run out", Some(lease("other", Some(15))), 15, Step::Take),
        (
            "held for longer than we would",
            Some(lease("other", Some(60))),
            30,
            Step::Wait,
        ),
        ("of unknown duration", Some(lease("other", None)), 14, Step::Wait),
        (
            "of unknown duration, run out",
            Some(lease("other", Some(-1))),
            15,
            Step::Take,
        ),
        ("without a holder", Some(LeaseSpec::default()), 0, Step::Take),
    ];
    for (name, lease, seconds, expected) in rows {
        assert_eq!(
            step(lease.as_ref(), "me", Duration::from_secs(seconds), times),
            expected,
            "{name}"
        );
    }
}

#[tokio::test]
async fn one_leads_until_it_stops_renewing() {
    let fake = Fake::new();
    let (mut a, mut b) = (election(&fake, "a"), election(&fake, "b"));
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    for seconds in (0..40).step_by(2) {
        assert_eq!(a.step_at(at(seconds)).await.unwrap(), Leadership::Leader);
        assert_eq!(
            b.step_at(at(seconds)).await.unwrap(),
            Leadership::Follower { holder: "a".into() }
        );
    }
    // a is gone; its Lease was last seen to change at 38 s.
    assert_eq!(
        b.step_at(at(52)).await.unwrap(),
        Leadership::Follower { holder: "a".into() }
    );
    assert_eq!(b.step_at(at(54)).await.unwrap(), Leadership::Leader);
    assert_eq!(
        a.step_at(at(55)).await.unwrap(),
        Leadership::Follower { holder: "b".into() },
        "a comes back"
    );
    assert_eq!(fake.get(PATH).unwrap()["spec"]["leaseTransitions"], 1);
}

#[tokio::test]
async fn a_released_lease_is_free_at_once() {
    let fake = Fake::new();
    let (mut a, mut b) = (election(&fake, "a"), election(&fake, "b"));
    a.step().await.unwrap();
    b.step().await.unwrap();
    b.release().await.unwrap();
    assert_eq!(
        fake.get(PATH).unwrap()["spec"]["holderIdentity"],
        "a",
        "only the holder can give it back"
    );
    a.release().await.unwrap();
    assert_eq!(election(&fake, "b").step().await.unwrap(), Leadership::Leader);
}

#[tokio::test]
async fn losing_the_race_for_a_free_lease() {
    let fake = Fake::with_hook(|verb, path, store| {
        if verb == "POST" {
            let spec = json!({"holderIdentity": "other", "leaseDurationSeconds": 15});
            store.put(
                &format!("{path}/lock"),
                json!({"metadata": {"name": "lock"}, "spec": spec}),
            );
        }
    });
    let mut me = election(&fake, "me");
    assert_eq!(
        me.step().await.unwrap(),
        Leadership::Follower {
            holder: String::new()
        }
    );
    assert!(me.remaining().is_zero());
    assert_eq!(
        me.step().await.unwrap(),
        Leadership::Follower {
            holder: "other".into()
        }
    );
}

#[tokio::test]
async fn a_leader_that_cannot_renew_gives_up_before_others_take_over() {
    let fake = Fake::new();
    let mut me = election(&fake, "me");
    let start = Instant::now();
    me.step_at(start).await.unwrap();
    let LeaseTimes {
        duration,
        renew_deadline,
        ..
    } = me.times();
    assert!(renew_deadline < duration);
    assert_eq!(
        me.remaining_at(start + renew_deadline - Duration::from_millis(1)),
        Duration::from_millis(1)
    );
    assert!(me.remaining_at(start + renew_deadline).is_zero());
}
