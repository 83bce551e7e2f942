//! ADD: an address, a link, entries in the tables, programs. Whatever fails, [`Endpoints::tear_down`] undoes it.

use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use api::cni::{AddRequest, AddResponse, Address, Attachment, Interface, Route};
use model::addr::{Family, Mac, to_abi};
use model::inputs::ObjectName;
use model::ipam::Owner;
use model::{Endpoint, EndpointState, Labels};
use netlink::PodNetwork;

use super::{CniError, Endpoints, UNKNOWN_YET, now};
use crate::kernel::POD_PREFIX;
use crate::view::PodFacts;

impl Endpoints {
    /// ADD. When it fails, nothing of it is left.
    pub(crate) async fn add(&self, request: &AddRequest) -> Result<AddResponse, CniError> {
        let _turn = self.adds.acquire().await.map_err(|_| CniError::Stopping)?;
        let before = self.store().find(&request.attachment);
        // The same name again before the link of the last one is gone.
        if let Some(before) = before.filter(|before| before.state == EndpointState::Disconnecting) {
            self.tear_down(&before).await?;
        }
        let endpoint = self.reserve(request)?;
        let built = self.build(endpoint.clone()).await;
        let answer = self.built(endpoint, built).await;
        self.added.notify_waiters();
        answer
    }

    async fn built(
        &self,
        endpoint: Endpoint,
        built: Result<Endpoint, CniError>,
    ) -> Result<AddResponse, CniError> {
        match built {
            Ok(done) => {
                tracing::info!(endpoint = %done.id, pod = %done.pod, identity = %done.identity, "ADD");
                Ok(self.response(&done))
            }
            Err(error) => {
                // What the link got its index for is known only now.
                let made = self.store().get(endpoint.id).cloned().unwrap_or(endpoint);
                tracing::warn!(endpoint = %made.id, pod = %made.pod, error = chain(&error), "ADD failed, undone");
                if let Err(undo) = self.tear_down(&made).await {
                    // It stays known as disconnecting; the sweep tries again.
                    tracing::warn!(endpoint = %made.id, error = chain(&undo), "undoing ADD failed");
                }
                Err(error)
            }
        }
    }

    /// Takes number and addresses, and the name, so that a second ADD at the same time is refused.
    fn reserve(&self, request: &AddRequest) -> Result<Endpoint, CniError> {
        let AddRequest {
            attachment,
            netns,
            args,
            mtu,
        } = request;
        let argument = |name: &str| args.get(name).cloned().unwrap_or_default();
        let pod = ObjectName::new(argument("K8S_POD_NAMESPACE"), argument("K8S_POD_NAME"));
        let facts = self.facts(&pod, &argument("K8S_POD_UID"));
        let mut store = self.store();
        if store.find(attachment).is_some() {
            return Err(CniError::Exists(attachment.clone()));
        }
        let owner = Owner::container(&attachment.container_id, &attachment.ifname);
        let id = store.take_id(rand::random())?;
        let mut addresses = Vec::new();
        for family in &self.settings.families {
            match store.ipam.allocate(*family, owner.clone(), rand::random(), now()) {
                Ok(address) => addresses.push(address),
                Err(error) => {
                    // Nobody has seen the addresses, so they need no rest; giving them back is enough.
                    store.ipam.release_owner(&owner, now());
                    store.give_id_back(id);
                    return Err(error.into());
                }
            }
        }
        let endpoint = Endpoint {
            id,
            state: EndpointState::Creating,
            container_id: attachment.container_id.clone(),
            ifname: attachment.ifname.clone(),
            netns: netns.clone(),
            pod_uid: facts
                .as_ref()
                .map_or_else(|| argument("K8S_POD_UID"), |facts| facts.uid.clone()),
            pod,
            addresses,
            host_ifname: host_device(attachment),
            host_ifindex: 0,
            mac: random_mac(),
            host_mac: random_mac(),
            mtu: if *mtu == 0 { self.settings.mtu } else { *mtu },
            labels: facts
                .as_ref()
                .map_or_else(Labels::default, |facts| facts.labels.clone()),
            identity: facts
                .as_ref()
                .and_then(|facts| facts.identity)
                .unwrap_or(UNKNOWN_YET),
            named_ports: facts
                .as_ref()
                .map(|facts| facts.named_ports.clone())
                .unwrap_or_default(),
            service_account: facts.map(|facts| facts.service_account).unwrap_or_default(),
        };
        store.insert(endpoint.clone());
        Ok(endpoint)
    }

    fn facts(&self, pod: &ObjectName, uid: &str) -> Option<PodFacts> {
        self.view
            .lock()
            .pod(pod, uid, &self.settings.cluster, &self.settings.labels)
    }

    async fn build(&self, mut endpoint: Endpoint) -> Result<Endpoint, CniError> {
        let step = |step| move |source| CniError::Kernel { step, source };
        let began = Instant::now();
        let want = self.network(&endpoint)?;
        let made = self
            .kernel
            .make_pod(Path::new(&endpoint.netns), &want)
            .await
            .map_err(|source| {
                if source.is_exists() {
                    CniError::DeviceExists(source)
                } else {
                    step("linking")(source)
                }
            })?;
        endpoint.host_ifindex = made.host_index;
        self.store()
            .change(endpoint.id, |endpoint| endpoint.host_ifindex = made.host_index);
        let linked = began.elapsed();
        {
            let _tables = self.lock_tables().await;
            // The tables before the programs: the first packet finds all it needs.
            let local = model::desired::LocalNode {
                families: self.settings.families.clone(),
                ..model::desired::LocalNode::default()
            };
            let wanted = model::desired::desired(&local, std::iter::once(&endpoint), [].iter(), [].iter());
            for addr in &endpoint.addresses {
                self.kernel
                    .set_device(made.host_index, to_abi(*addr))
                    .map_err(step("writing the device entry of"))?;
            }
            for (addr, entry) in wanted.endpoints {
                self.kernel
                    .set_endpoint(addr, entry)
                    .map_err(step("writing the endpoint entry of"))?;
            }
            for (addr, peer) in wanted.ipcache {
                self.kernel
                    .set_peer(addr, peer)
                    .map_err(step("writing the identity entry of"))?;
            }
            self.kernel
                .attach_pod(made.host_index)
                .map_err(step("attaching programs to"))?;
        }
        let attached = began.elapsed();
        // Last, so that there is no packet that the programs do not see.
        self.kernel
            .raise_pod(Path::new(&endpoint.netns), &want, made)
            .await
            .map_err(step("configuring"))?;
        let raised = began.elapsed();
        let ready = if endpoint.identity == UNKNOWN_YET {
            EndpointState::WaitingForIdentity
        } else {
            EndpointState::Ready
        };
        self.store()
            .change(endpoint.id, |endpoint| endpoint.state = ready);
        endpoint.state = ready;
        self.persist().await?;
        tracing::debug!(endpoint = %endpoint.id, ?linked, ?attached, ?raised, written = ?began.elapsed(), "times of ADD");
        self.changed.touch();
        Ok(endpoint)
    }

    fn network(&self, endpoint: &Endpoint) -> Result<PodNetwork, CniError> {
        let routers = self.store().routers().to_vec();
        let router_for = |address: &IpAddr| {
            let family = Family::of(*address);
            routers
                .iter()
                .copied()
                .find(|router| Family::of(*router) == family)
                .ok_or(CniError::NoRouter(family))
        };
        Ok(PodNetwork {
            device: endpoint.ifname.clone(),
            mac: netlink::Mac(endpoint.mac.0),
            host_device: endpoint.host_ifname.clone(),
            host_mac: netlink::Mac(endpoint.host_mac.0),
            addresses: endpoint.addresses.clone(),
            routers: endpoint
                .addresses
                .iter()
                .map(router_for)
                .collect::<Result<_, _>>()?,
            mtu: endpoint.mtu,
            route_mtu: self.settings.route_mtu.min(endpoint.mtu),
        })
    }

    fn response(&self, endpoint: &Endpoint) -> AddResponse {
        let routers = self.store().routers().to_vec();
        let pairs: Vec<(IpAddr, IpAddr)> = endpoint
            .addresses
            .iter()
            .filter_map(|address| {
                let router = routers
                    .iter()
                    .find(|router| Family::of(**router) == Family::of(*address))?;
                Some((*address, *router))
            })
            .collect();
        let host = |address: IpAddr| ipnet::IpNet::from(address).to_string();
        let routes = pairs.iter().flat_map(|(_, router)| {
            let everything = if router.is_ipv6() { "::/0" } else { "0.0.0.0/0" };
            [
                Route {
                    dst: host(*router),
                    gw: String::new(),
                    mtu: 0,
                },
                Route {
                    dst: everything.to_owned(),
                    gw: router.to_string(),
                    mtu: self.settings.route_mtu.min(endpoint.mtu),
                },
            ]
        });
        let interface = |name: &str, mac: Mac| Interface {
            name: name.to_owned(),
            mac: mac.to_string(),
            mtu: endpoint.mtu,
        };
        AddResponse {
            endpoint_id: u32::from(endpoint.id.0),
            host: interface(&endpoint.host_ifname, endpoint.host_mac),
            container: interface(&endpoint.ifname, endpoint.mac),
            routes: routes.collect(),
            addresses: pairs
                .iter()
                .map(|(address, router)| Address {
                    address: host(*address),
                    gateway: router.to_string(),
                })
                .collect(),
        }
    }
}

/// Name of the host-side device: a hash, since container ids are longer than device names. FNV-1a, so that an agent
/// built with another compiler computes the same.
pub(super) fn host_device(attachment: &Attachment) -> String {
    let text = format!("{}:{}", attachment.container_id, attachment.ifname);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{POD_PREFIX}{:012x}", hash & 0xffff_ffff_ffff)
}

/// An error with everything that caused it.
fn chain(error: &CniError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Locally administered, unicast.
fn random_mac() -> Mac {
    let mut bytes: [u8; 6] = rand::random();
    bytes[0] = bytes[0] & 0xfc | 0x02;
    Mac(bytes)
}
