//! How many pods each ReplicaSet of a Deployment should have next. Pure.

use k8s_openapi::api::apps::v1::{DeploymentSpec, ReplicaSet};

use crate::controllers::common::int_or_percent;
use crate::controllers::replicaset::replicas;

/// How a Deployment gets from one template to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Strategy {
    /// Pods that are asked for
    pub(crate) replicas: usize,
    /// Pods that there may be beyond that
    pub(crate) max_surge: usize,
    /// Pods that may be missing
    pub(crate) max_unavailable: usize,
    /// All old pods end before the first new one starts
    pub(crate) recreate: bool,
}

impl Strategy {
    /// What a Deployment says.
    pub(crate) fn of(spec: &DeploymentSpec) -> Self {
        let count = |number: i32| usize::try_from(number).unwrap_or(0);
        let total = spec.replicas.unwrap_or(1).max(0);
        let strategy = spec.strategy.as_ref();
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let quarter = |up| if up { (total + 3) / 4 } else { total / 4 };
        let surge = rolling
            .and_then(|r| r.max_surge.as_ref())
            .map_or(quarter(true), |v| int_or_percent(v, total, true));
        let missing = rolling
            .and_then(|r| r.max_unavailable.as_ref())
            .map_or(quarter(false), |v| int_or_percent(v, total, false));
        let recreate = strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate");
        let (max_surge, mut max_unavailable) = (count(surge), count(missing).min(count(total)));
        // With neither, no update could begin; Kubernetes resolves it the same way.
        if !recreate && max_surge == 0 && max_unavailable == 0 {
            max_unavailable = 1;
        }
        Self {
            replicas: count(total),
            max_surge,
            max_unavailable,
            recreate,
        }
    }
}

/// The pods of a ReplicaSet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Asked for
    pub(crate) wanted: usize,
    /// There
    pub(crate) pods: usize,
    /// Of these, ready
    pub(crate) ready: usize,
    /// Of these, ready for long enough
    pub(crate) available: usize,
}

impl Sizes {
    /// Those of a ReplicaSet as its status says.
    pub(crate) fn of(set: &ReplicaSet) -> Self {
        let count = |number: Option<i32>| usize::try_from(number.unwrap_or(0)).unwrap_or(0);
        let status = set.status.as_ref();
        Self {
            wanted: replicas(set),
            pods: status.map_or(0, |status| count(Some(status.replicas))),
            ready: status.map_or(0, |status| count(status.ready_replicas)),
            available: status.map_or(0, |status| count(status.available_replicas)),
        }
    }

    /// Nothing wanted, nothing there.
    pub(crate) fn is_empty(&self) -> bool {
        self.wanted == 0 && self.pods == 0
    }
}

/// Sizes to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resize {
    /// Of the ReplicaSet of the present template
    pub(crate) new: usize,
    /// Of the others, in the given order
    pub(crate) old: Vec<usize>,
}

/// The next step of an update: repeated, it ends with all pods in the new set.
pub(crate) fn resize(strategy: Strategy, new: Sizes, old: &[Sizes]) -> Resize {
    let Strategy {
        replicas,
        max_surge,
        max_unavailable,
        recreate,
    } = strategy;
    let old_there: usize = old.iter().map(|sizes| sizes.pods.max(sizes.wanted)).sum();
    if recreate {
        let size = if old_there == 0 {
            replicas
        } else {
            new.wanted.min(replicas)
        };
        return Resize {
            new: size,
            old: vec![0; old.len()],
        };
    }
    let old_wanted: usize = old.iter().map(|sizes| sizes.wanted).sum();
    // The new set grows into whatever room the bound leaves, and never beyond what is asked for.
    let room = (replicas + max_surge).saturating_sub(old_wanted + new.wanted);
    let grown = (new.wanted + room).min(replicas);

    // The old ones shrink by as many pods as are not needed for the minimum. Pods that the new set asked for but
    // that are not available yet do not count for it.
    let minimum = replicas.saturating_sub(max_unavailable);
    let new_missing = new.wanted.saturating_sub(new.available);
    let mut spare = (old_wanted + new.wanted).saturating_sub(minimum + new_missing);
    let mut sizes: Vec<usize> = old.iter().map(|sizes| sizes.wanted).collect();
    // First those that serve nobody, then the others; the oldest first.
    for only_broken in [true, false] {
        for (size, set) in sizes.iter_mut().zip(old) {
            let broken = set.wanted.saturating_sub(set.available);
            let step = (if only_broken { broken } else { *size }).min(spare).min(*size);
            *size -= step;
            spare -= step;
        }
    }
    Resize {
        new: grown,
        old: sizes,
    }
}
