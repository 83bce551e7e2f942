//! Follows the pods' objects: labels to identities, endpoints to `CiliumEndpoint` objects. ADD does not wait for any
//! of it; an endpoint has the identity `init` until its own is known, and changes it in place.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use model::endpoint::EndpointStatus;
use model::inputs::{CiliumEndpoint, ObjectName};
use model::{Endpoint, EndpointId, EndpointState, Identity};
use tokio::sync::Mutex;

use crate::endpoints::Endpoints;
use crate::registry::Registry;
use crate::view::SharedView;

/// Brings identities and published objects of this node's pods up to date.
pub(crate) struct Follower {
    /// The pods.
    pub(crate) endpoints: Arc<Endpoints>,
    /// What is known of the cluster.
    pub(crate) view: SharedView,
    /// Where it is published.
    pub(crate) registry: Arc<dyn Registry>,
    /// What was published last.
    published: Mutex<BTreeMap<EndpointId, EndpointStatus>>,
}

impl Follower {
    /// Has published nothing yet.
    #[must_use]
    pub(crate) fn new(endpoints: Arc<Endpoints>, view: SharedView, registry: Arc<dyn Registry>) -> Self {
        Self {
            endpoints,
            view,
            registry,
            published: Mutex::new(BTreeMap::new()),
        }
    }

    /// Gives every endpoint the identity its labels have now. Goes on after a failure and reports the first.
    pub(crate) async fn identities(&self) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        let endpoints = self.endpoints.store().all();
        for endpoint in endpoints {
            let followed = self.identity(&endpoint).await;
            let named =
                followed.with_context(|| format!("identity of endpoint {} ({})", endpoint.id, endpoint.pod));
            outcome = outcome.and(named);
        }
        outcome
    }

    async fn identity(&self, endpoint: &Endpoint) -> anyhow::Result<()> {
        if !matches!(
            endpoint.state,
            EndpointState::Ready | EndpointState::WaitingForIdentity
        ) {
            return Ok(());
        }
        let settings = self.endpoints.settings();
        let facts = self.view.lock().pod(
            &endpoint.pod,
            &endpoint.pod_uid,
            &settings.cluster,
            &settings.labels,
        );
        // The watch shows the pod sooner or later; asking the API server would not make it known any earlier.
        let Some(facts) = facts else { return Ok(()) };
        let settled = endpoint.identity != Identity::INIT && endpoint.state == EndpointState::Ready;
        let same = endpoint.labels == facts.labels
            && endpoint.named_ports == facts.named_ports
            && endpoint.pod_uid == facts.uid
            && facts
                .identity
                .is_none_or(|identity| identity == endpoint.identity);
        if settled && same {
            return Ok(());
        }
        let identity = match facts.identity {
            Some(identity) => identity,
            None => self.registry.identity(&facts.labels).await?,
        };
        if identity != endpoint.identity {
            tracing::info!(endpoint = %endpoint.id, pod = %endpoint.pod, from = %endpoint.identity, to = %identity,
                "identity changed");
        }
        self.endpoints
            .update(endpoint.id, |endpoint| {
                endpoint.identity = identity;
                endpoint.labels = facts.labels;
                endpoint.named_ports = facts.named_ports;
                endpoint.service_account = facts.service_account;
                endpoint.pod_uid = facts.uid;
                if endpoint.state == EndpointState::WaitingForIdentity {
                    endpoint.state = EndpointState::Ready;
                }
            })
            .await?;
        Ok(())
    }

    /// Address under which other nodes know this one.
    fn node_ip(&self) -> Option<IpAddr> {
        self.view.lock().node.as_ref()?.internal_ips.first().copied()
    }

    /// Publishes every endpoint whose object is not as it should be, and takes back those of pods that are gone.
    /// With `reread` what was published before is compared with what the watches show.
    pub(crate) async fn publish(&self, reread: bool) -> anyhow::Result<()> {
        let node_ip = self.node_ip();
        let mut published = self.published.lock().await;
        let endpoints = self.endpoints.store().all();
        published.retain(|id, _| endpoints.iter().any(|endpoint| endpoint.id == *id));
        let mut outcome = Ok(());
        for endpoint in endpoints.iter().filter(|endpoint| is_published(endpoint)) {
            let status = endpoint.status(node_ip);
            if !reread && published.get(&endpoint.id) == Some(&status) {
                continue;
            }
            let shown = self
                .view
                .lock()
                .endpoints
                .get(&endpoint.pod)
                .is_some_and(|object| shows(object, &status, endpoint));
            let sent = if shown {
                Ok(())
            } else {
                self.registry.publish(&status, &endpoint.pod_uid).await
            };
            if sent.is_ok() {
                published.insert(endpoint.id, status);
            }
            outcome = outcome
                .and(sent.with_context(|| format!("publishing endpoint {} ({})", endpoint.id, endpoint.pod)));
        }
        outcome.and(self.withdraw(&endpoints).await)
    }

    async fn withdraw(&self, endpoints: &[Endpoint]) -> anyhow::Result<()> {
        let Some(node_ip) = self.node_ip() else {
            return Ok(());
        };
        let ours = |object: &&CiliumEndpoint| object.node_ip == Some(node_ip);
        let gone: Vec<(ObjectName, String)> = {
            let view = self.view.lock();
            let stale = view.endpoints.values().filter(ours).filter(|object| {
                !endpoints
                    .iter()
                    .any(|endpoint| endpoint.pod == object.name && is_published(endpoint))
            });
            stale
                .map(|object| (object.name.clone(), object.pod_uid.clone()))
                .collect()
        };
        let mut outcome = Ok(());
        for (pod, uid) in gone {
            let taken = self.registry.withdraw(&pod, &uid).await;
            outcome = outcome.and(taken.with_context(|| format!("withdrawing the endpoint of {pod}")));
        }
        outcome
    }
}

/// Whether others are to know of it. Without a pod there is nothing that could own the object.
fn is_published(endpoint: &Endpoint) -> bool {
    let alive = matches!(
        endpoint.state,
        EndpointState::Ready | EndpointState::WaitingForIdentity
    );
    alive && !endpoint.pod.name.is_empty() && !endpoint.pod_uid.is_empty()
}

fn shows(object: &CiliumEndpoint, status: &EndpointStatus, endpoint: &Endpoint) -> bool {
    object.id == status.id.0
        && object.pod_uid == endpoint.pod_uid
        && object.identity == status.identity.as_ref().map(|(identity, _)| *identity)
        && object.addresses == status.addresses
        && object.node_ip == status.node_ip
        && object.state == status.state.as_str()
        && object.named_ports == status.named_ports
}
