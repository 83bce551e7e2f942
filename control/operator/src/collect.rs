//! Garbage collection: reads, decides (`garbage`), looks again, deletes.
//!
//! Every deletion names the version of the object that was judged, so that one that has changed in between stays.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s::{Cluster, Deleted, RequestError};
use model::identity::Identity;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::garbage::{self, Unused};
use crate::metrics::{Kind, Metrics, Outcome};
use crate::options::GarbageTimes;

/// A CiliumEndpoint or CiliumNode has to be found stale twice, so that the two lists that were compared may be of
/// slightly different age.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// Decides when to look and remembers what was seen.
pub(crate) struct Collector {
    cluster: Cluster,
    times: GarbageTimes,
    metrics: Arc<Metrics>,
    identities: Unused<(Identity, String)>,
    endpoints: Unused<String>,
    nodes: Unused<String>,
    next: [Instant; 3],
}

impl Collector {
    pub(crate) fn new(cluster: Cluster, times: GarbageTimes, metrics: Arc<Metrics>) -> Self {
        Self {
            cluster,
            times,
            metrics,
            identities: Unused::new(),
            endpoints: Unused::new(),
            nodes: Unused::new(),
            next: [Instant::now(); 3],
        }
    }

    /// Begins all waiting times anew.
    fn forget(&mut self) {
        self.identities.clear();
        self.endpoints.clear();
        self.nodes.clear();
        self.next = [Instant::now(); 3];
    }

    /// Collects garbage whenever we lead, until nobody tells any more whether we do.
    pub(crate) async fn run(mut self, mut leading: watch::Receiver<bool>) {
        while leading.wait_for(|leading| *leading).await.is_ok() {
            // What was seen while another led is old.
            self.forget();
            tokio::select! {
                // Whatever is under way is dropped at once: the next leader may be at work already.
                _ = leading.wait_for(|leading| !*leading) => {}
                () = self.work() => {}
            }
        }
    }

    async fn work(&mut self) {
        let mut ticks = tokio::time::interval(SECOND_LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.round().await;
        }
    }

    /// Looks for whatever is due. A failure is logged and counted; the next look comes as usual.
    async fn round(&mut self) {
        let intervals = [self.times.nodes, self.times.endpoints, self.times.identities];
        for (index, (kind, interval)) in [Kind::Node, Kind::Endpoint, Kind::Identity]
            .into_iter()
            .zip(intervals)
            .enumerate()
        {
            let due = self.next.get(index).is_some_and(|next| *next <= Instant::now());
            if interval.is_zero() || !due {
                continue;
            }
            let (outcome, again) = match kind {
                Kind::Node => self.nodes().await,
                Kind::Endpoint => self.endpoints().await,
                Kind::Identity => self.identities().await,
            }
            .map_or_else(
                |error| {
                    let error = format!("{:#}", anyhow::Error::new(error));
                    tracing::warn!(?kind, error, "garbage collection failed");
                    (Outcome::Failed, None)
                },
                |again| (Outcome::Done, again),
            );
            self.metrics.run(kind, outcome);
            if let Some(next) = self.next.get_mut(index) {
                *next = Instant::now() + again.unwrap_or(interval).min(interval);
            }
        }
    }

    /// When to look again earlier than usual.
    async fn identities(&mut self) -> Result<Option<Duration>, RequestError> {
        // Endpoints last: an identity that is in the list and gets its endpoint now is found to be in use.
        let identities = self.cluster.identities().await?;
        let endpoints = self.cluster.endpoints_everywhere().await?;
        self.metrics
            .identities
            .set(i64::try_from(identities.len()).unwrap_or(i64::MAX));
        let unused = garbage::unused_identities(&identities, &endpoints);
        let garbage = self.identities.observe(&unused, now(), self.times.identity_grace);
        if garbage.is_empty() {
            return Ok(None);
        }
        // Look again: the grace period may have ended just when somebody began to use it.
        let still = garbage::unused_identities(&identities, &self.cluster.endpoints_everywhere().await?);
        for stored in &identities {
            let key = (stored.identity, stored.version.uid.clone());
            if garbage.contains(&key) && still.contains(&key) {
                let deleted = self.cluster.delete_identity(stored).await?;
                self.note(Kind::Identity, &stored.identity.to_string(), deleted);
            }
        }
        Ok(None)
    }

    async fn endpoints(&mut self) -> Result<Option<Duration>, RequestError> {
        // Pods last: a pod is older than its CiliumEndpoint.
        let endpoints = self.cluster.endpoints_everywhere().await?;
        let pods = self.cluster.pods_everywhere().await?;
        let stale = garbage::stale_endpoints(&endpoints, &pods);
        let uids: BTreeSet<String> = stale.iter().map(|stored| stored.version.uid.clone()).collect();
        let garbage = self.endpoints.observe(&uids, now(), SECOND_LOOK);
        for stored in stale
            .iter()
            .filter(|stored| garbage.contains(&stored.version.uid))
        {
            // The lists may be old by now: ask for this one pod.
            let pod = self.cluster.pod(&stored.endpoint.name).await?;
            if !garbage::has_pod(stored, pod.as_ref()) {
                let deleted = self.cluster.delete_stored_endpoint(stored).await?;
                self.note(Kind::Endpoint, &stored.endpoint.name.to_string(), deleted);
            }
        }
        Ok((garbage.len() < uids.len()).then_some(SECOND_LOOK))
    }

    async fn nodes(&mut self) -> Result<Option<Duration>, RequestError> {
        let stored = self.cluster.cilium_nodes().await?;
        let nodes = self.cluster.nodes_everywhere().await?;
        if nodes.is_empty() {
            // A cluster has nodes (we run on one): an empty list is no reason to remove everything.
            return Ok(None);
        }
        let stale = garbage::stale_nodes(&stored, &nodes);
        let uids: BTreeSet<String> = stale.iter().map(|stored| stored.version.uid.clone()).collect();
        let garbage = self.nodes.observe(&uids, now(), SECOND_LOOK);
        for stored in stale
            .iter()
            .filter(|stored| garbage.contains(&stored.version.uid))
        {
            match self.cluster.node(&stored.name).await {
                Err(error) if error.is_not_found() => {
                    let deleted = self.cluster.delete_cilium_node(stored).await?;
                    self.note(Kind::Node, &stored.name, deleted);
                }
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        Ok((garbage.len() < uids.len()).then_some(SECOND_LOOK))
    }

    fn note(&self, kind: Kind, name: &str, deleted: Deleted) {
        match deleted {
            Deleted::Gone => {
                tracing::info!(?kind, name, "removed: nobody uses it");
                self.metrics.deleted(kind);
            }
            Deleted::Changed => tracing::info!(?kind, name, "stays: it has changed in between"),
        }
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
