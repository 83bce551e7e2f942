//! Addresses of load balancers (LB-IPAM): watches pools and Services, lets the model decide, writes what differs.
//!
//! Everything is decided anew after each change, from what the API holds. A write that comes too late, because the object has
//! changed, is left out: the change brings the next decision.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s::{Cluster, LoadBalancers, RequestError, Responsibility, StoredBalancer};
use model::lbpool::{self, Grant, Plan, Pool, Request};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::metrics::Metrics;

/// After a failure, and between two looks at what nobody has told us to look at.
const RETRY: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Writes under way at the same time.
const PARALLEL: usize = 16;

/// A round did not write all that it should have.
#[derive(Debug, thiserror::Error)]
enum Incomplete {
    /// Objects have changed in between.
    #[error("{0} objects have changed in between")]
    Changed(usize),
    /// The API server refused.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A task panicked.
    #[error("a write has panicked")]
    Panic(#[from] tokio::task::JoinError),
}

/// Gives addresses while we lead.
pub(crate) struct Allocator {
    cluster: Cluster,
    responsibility: Responsibility,
    metrics: Arc<Metrics>,
}

impl Allocator {
    pub(crate) fn new(cluster: Cluster, responsibility: Responsibility, metrics: Arc<Metrics>) -> Self {
        Self {
            cluster,
            responsibility,
            metrics,
        }
    }

    /// Gives addresses whenever we lead, until nobody tells any more whether we do.
    pub(crate) async fn run(self, mut leading: watch::Receiver<bool>) {
        while leading.wait_for(|leading| *leading).await.is_ok() {
            tokio::select! {
                // Whatever is under way is dropped at once: the next leader may be at work already.
                _ = leading.wait_for(|leading| !*leading) => {}
                () = self.work() => {}
            }
        }
    }

    /// Watches and decides; a failure to begin is tried again.
    async fn work(&self) {
        loop {
            match self.cluster.watch_load_balancers(self.responsibility).await {
                Ok(balancers) => self.follow(balancers).await,
                Err(error) => {
                    let error = format!("{:#}", anyhow::Error::new(error));
                    tracing::warn!(error, "pools are not watched yet");
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn follow(&self, mut balancers: LoadBalancers) {
        let mut wait = LOOK_AGAIN;
        loop {
            if let Ok(Err(error)) = tokio::time::timeout(wait, balancers.changed()).await {
                tracing::warn!(%error, "watching anew");
                return;
            }
            if !balancers.is_complete() {
                continue;
            }
            wait = match self.round(&mut balancers).await {
                Ok(()) => LOOK_AGAIN,
                Err(error @ Incomplete::Changed(_)) => {
                    tracing::debug!(%error, "deciding again");
                    RETRY
                }
                Err(error) => {
                    let error = format!("{:#}", anyhow::Error::new(error));
                    tracing::warn!(error, "not everything was written, trying again");
                    RETRY
                }
            };
        }
    }

    /// Decides, and writes: first what is given back, so that no address is in two places, then the rest.
    async fn round(&self, balancers: &mut LoadBalancers) -> Result<(), Incomplete> {
        let pools: Vec<Pool> = balancers.pools().map(|stored| stored.pool.clone()).collect();
        let requests: Vec<Request> = balancers
            .services()
            .filter(|stored| !pools.is_empty() || stored.was_served())
            .filter_map(|stored| stored.request.clone())
            .collect();
        let plan = lbpool::plan(&pools, &requests);
        self.measure(&plan);
        let different = balancers.services().filter_map(|stored| {
            let grant = plan.services.get(&stored.name);
            stored.differs(grant).then(|| (stored.clone(), grant.cloned()))
        });
        let (givers, takers): (Vec<_>, Vec<_>) =
            different.partition(|(stored, grant)| stored.gives_back(grant.as_ref()));
        self.write(balancers, givers).await?;
        self.write(balancers, takers).await?;
        self.report(balancers, &plan).await
    }

    async fn write(
        &self,
        balancers: &mut LoadBalancers,
        writes: Vec<(StoredBalancer, Option<Grant>)>,
    ) -> Result<(), Incomplete> {
        let mut writes = writes.into_iter();
        let mut running = JoinSet::new();
        let mut outcome = Ok(());
        let mut changed = 0;
        loop {
            while running.len() < PARALLEL
                && outcome.is_ok()
                && let Some((stored, grant)) = writes.next()
            {
                let (cluster, responsibility) = (self.cluster.clone(), self.responsibility);
                running.spawn(async move {
                    let written = cluster
                        .publish_balancer(&stored, grant.as_ref(), responsibility)
                        .await;
                    written.inspect(|_| tell(&stored, grant.as_ref()))
                });
            }
            match running.join_next().await {
                None => break,
                Some(Ok(Ok(Some(service)))) => balancers.note_service(service),
                Some(Ok(Ok(None))) => changed += 1,
                Some(Ok(Err(error))) => outcome = outcome.and(Err(error.into())),
                Some(Err(error)) => outcome = outcome.and(Err(error.into())),
            }
        }
        outcome.and(match changed {
            0 => Ok(()),
            changed => Err(Incomplete::Changed(changed)),
        })
    }

    async fn report(&self, balancers: &mut LoadBalancers, plan: &Plan) -> Result<(), Incomplete> {
        let different = balancers.pools().filter_map(|stored| {
            let report = plan.pools.get(&stored.pool.name)?;
            stored.differs(report).then(|| (stored.clone(), report))
        });
        let different: Vec<_> = different.collect();
        let mut changed = 0;
        for (stored, report) in different {
            if let Some(conflict) = &report.conflict {
                tracing::warn!(pool = stored.pool.name, %conflict, "nothing new is given from this pool");
            }
            for problem in &stored.pool.broken {
                tracing::warn!(pool = stored.pool.name, %problem, "block left out");
            }
            let kind = balancers.kind().clone();
            match self.cluster.publish_pool(&kind, &stored, report).await? {
                Some(pool) => balancers.note_pool(pool),
                None => changed += 1,
            }
        }
        if changed == 0 {
            Ok(())
        } else {
            Err(Incomplete::Changed(changed))
        }
    }

    fn measure(&self, plan: &Plan) {
        let unsatisfied = plan.services.values().filter(|grant| grant.refusal.is_some());
        let conflicting = plan.pools.values().filter(|report| report.conflict.is_some());
        let pools: BTreeMap<&str, (u128, u128)> = plan
            .pools
            .iter()
            .map(|(name, report)| (name.as_str(), (report.available, report.used)))
            .collect();
        self.metrics.load_balancers(
            plan.services.len(),
            unsatisfied.count(),
            conflicting.count(),
            &pools,
        );
    }
}

fn tell(stored: &StoredBalancer, grant: Option<&Grant>) {
    let service = &stored.name;
    match grant {
        None => tracing::info!(%service, "its addresses are no longer our business and were taken back"),
        Some(Grant {
            addresses,
            refusal: None,
        }) => tracing::info!(%service, ?addresses, "has its addresses"),
        Some(Grant {
            addresses,
            refusal: Some(refusal),
        }) => {
            tracing::warn!(%service, ?addresses, %refusal, "does not get all it asks for");
        }
    }
}

#[cfg(test)]
mod tests;
