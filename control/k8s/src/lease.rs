//! Leader election by a Lease, as client-go does it: whoever renews the Lease is the leader; it may be taken over when
//! it has not been renewed for its duration. That time is measured by our own clock from the moment we saw it change,
//! so that the clocks of two machines need not agree.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api;

use crate::client::Cluster;
use crate::error::{RequestError, request};

/// How long things may take (the defaults are those of Cilium's operator).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTimes {
    /// After how long without renewal others may take the Lease.
    pub duration: Duration,
    /// After how long without success the leader gives up by itself. Must be shorter than `duration`.
    pub renew_deadline: Duration,
    /// Pause between two attempts.
    pub retry: Duration,
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Whether we are the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// We are.
    Leader,
    /// Somebody else is.
    Follower {
        /// Who; empty when the Lease was given back.
        holder: String,
    },
}

/// The Lease could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("leader election failed")]
pub struct LeaseError(#[from] RequestError);

/// Our part in an election.
#[derive(Debug)]
pub struct Election {
    cluster: Cluster,
    namespace: String,
    name: String,
    me: String,
    times: LeaseTimes,
    observed: Option<Observed>,
    /// When the Lease was last written by us, measured before the request was sent.
    renewed: Option<Instant>,
}

/// The Lease as last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Observed {
    resource_version: String,
    at: Instant,
}

/// What to do about a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There is none.
    Create,
    /// It is ours: renew it.
    Renew,
    /// Its holder has given it back, or not renewed it in time.
    Take,
    /// Somebody else holds it.
    Wait,
}

fn step(lease: Option<&LeaseSpec>, me: &str, unchanged_for: Duration, times: LeaseTimes) -> Step {
    let Some(lease) = lease else { return Step::Create };
    let holder = lease.holder_identity.as_deref().unwrap_or_default();
    // The holder says how long its Lease is good for; it may be configured differently from us.
    let duration = lease
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    let duration = duration.map_or(times.duration, Duration::from_secs);
    if holder == me {
        Step::Renew
    } else if holder.is_empty() || unchanged_for >= duration {
        Step::Take
    } else {
        Step::Wait
    }
}

impl Election {
    /// Takes part in the election for the Lease `namespace`/`name` as `me`, which has to be unique in the cluster.
    #[must_use]
    pub fn new(cluster: Cluster, namespace: &str, name: &str, me: &str, times: LeaseTimes) -> Self {
        Self {
            cluster,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            me: me.to_owned(),
            times,
            observed: None,
            renewed: None,
        }
    }

    /// Its times.
    #[must_use]
    pub fn times(&self) -> LeaseTimes {
        self.times
    }

    /// For how long we may go on as the leader without another renewal; zero if we are not the leader.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.remaining_at(Instant::now())
    }

    fn remaining_at(&self, now: Instant) -> Duration {
        let since = self.renewed.map(|renewed| now.saturating_duration_since(renewed));
        since.map_or(Duration::ZERO, |since| {
            self.times.renew_deadline.saturating_sub(since)
        })
    }

    /// Renews the Lease if it is ours, takes it if it is free. To be called every [`LeaseTimes::retry`].
    ///
    /// # Errors
    /// When the API server refuses or does not answer. We are still the leader then, if we were, until
    /// [`Election::remaining`] is over.
    pub async fn step(&mut self) -> Result<Leadership, LeaseError> {
        self.step_at(Instant::now()).await
    }

    /// Our own renewal counts from before the request, what others did from after it: a slow API server makes us give
    /// up sooner and take over later, never the other way round.
    async fn step_at(&mut self, now: Instant) -> Result<Leadership, LeaseError> {
        let started = Instant::now();
        let api = self.api();
        let object = format!("Lease {}/{}", self.namespace, self.name);
        let current = request("get", &object, api.get_opt(&self.name)).await?;
        let unchanged_for = self.observe(current.as_ref(), now, started.elapsed());
        let spec = current
            .as_ref()
            .map(|lease| lease.spec.clone().unwrap_or_default());
        let step = step(spec.as_ref(), &self.me, unchanged_for, self.times);
        if step == Step::Wait {
            let holder = spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
            self.renewed = None;
            return Ok(Leadership::Follower { holder });
        }
        let mut lease = current.unwrap_or_else(|| self.blank());
        lease.spec = Some(self.renewal(spec, step));
        let post = self.cluster.post();
        let written = match step {
            Step::Create => request("create", &object, api.create(&post, &lease)).await,
            _ => request("renew", &object, api.replace(&self.name, &post, &lease)).await,
        };
        match written {
            Ok(lease) => {
                self.observe(Some(&lease), now, started.elapsed());
                self.renewed = Some(now);
                Ok(Leadership::Leader)
            }
            // Somebody was faster.
            Err(error) if error.is_conflict() || error.is_already_exists() => {
                self.renewed = None;
                Ok(Leadership::Follower {
                    holder: String::new(),
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the Lease back if it is ours, so that nobody has to wait for it to run out.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn release(mut self) -> Result<(), LeaseError> {
        if self.renewed.take().is_none() {
            return Ok(());
        }
        let api = self.api();
        let object = format!("Lease {}/{}", self.namespace, self.name);
        let Some(mut lease) = request("get", &object, api.get_opt(&self.name)).await? else {
            return Ok(());
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.me) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        match request(
            "give back",
            &object,
            api.replace(&self.name, &self.cluster.post(), &lease),
        )
        .await
        {
            Ok(_) => Ok(()),
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Notes the Lease, whose request was sent at `now` and took `took`; returns for how long it had not changed then.
    fn observe(&mut self, lease: Option<&Lease>, now: Instant, took: Duration) -> Duration {
        let version = lease
            .and_then(|lease| lease.metadata.resource_version.clone())
            .unwrap_or_default();
        match &self.observed {
            Some(observed) if observed.resource_version == version => {
                now.saturating_duration_since(observed.at)
            }
            _ => {
                self.observed = Some(Observed {
                    resource_version: version,
                    at: now + took,
                });
                Duration::ZERO
            }
        }
    }

    fn renewal(&self, before: Option<LeaseSpec>, step: Step) -> LeaseSpec {
        let now = Some(MicroTime(jiff::Timestamp::now()));
        let before = before.unwrap_or_default();
        let changes_hands = step != Step::Renew;
        let transitions = before.lease_transitions.unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: Some(i32::try_from(self.times.duration.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: if changes_hands {
                now.clone()
            } else {
                before.acquire_time.clone()
            },
            renew_time: now,
            lease_transitions: Some(transitions.saturating_add(i32::from(step == Step::Take))),
            ..before
        }
    }

    fn blank(&self) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        }
    }

    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.cluster.client.clone(), &self.namespace)
    }
}

#[cfg(test)]
mod tests;
