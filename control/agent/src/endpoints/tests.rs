//! ADD, DEL, CHECK and GC against a kernel in memory that fails when told to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use abi::{Addr, Peer};
use api::cni::{AddRequest, CheckRequest};
use futures::future::BoxFuture;
use model::inputs::{CiliumIdentity, Namespace, ObjectName, Pod};
use model::{Identity, Labels};
use netlink::{NetlinkError, PodLink, PodNetwork, Route};

use super::*;
use crate::kernel::Inside;

/// A kernel in memory.
#[derive(Default)]
pub(crate) struct Memory(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    links: BTreeMap<String, u32>,
    /// What is inside pods, by namespace and device.
    inside: BTreeMap<(String, String), Inside>,
    attached: BTreeSet<u32>,
    devices: BTreeMap<u32, Addr>,
    endpoints: BTreeMap<Addr, abi::Endpoint>,
    peers: BTreeMap<Addr, Peer>,
    last_index: u32,
    /// Operation that fails.
    fails: Option<&'static str>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, operation: Option<&'static str>) {
        self.lock().fails = operation;
    }

    fn step(&self, operation: &str) -> Result<MutexGuard<'_, Inner>, KernelError> {
        let inner = self.lock();
        if inner.fails == Some(operation) {
            Err(NetlinkError::Closed.into())
        } else {
            Ok(inner)
        }
    }

    fn is_empty(&self) -> bool {
        let Inner {
            links,
            inside,
            attached,
            devices,
            endpoints,
            peers,
            last_index: _,
            fails: _,
        } = &*self.lock();
        links.is_empty()
            && inside.is_empty()
            && attached.is_empty()
            && devices.is_empty()
            && endpoints.is_empty()
            && peers.is_empty()
    }
}

impl Kernel for Memory {
    fn make_pod<'a>(
        &'a self,
        netns: &'a Path,
        want: &'a PodNetwork,
    ) -> BoxFuture<'a, Result<PodLink, KernelError>> {
        Box::pin(async move {
            let mut inner = self.step("make_pod")?;
            inner.last_index += 1;
            let index = inner.last_index;
            inner.links.insert(want.host_device.clone(), index);
            let place = (netns.display().to_string(), want.device.clone());
            let routes = want.routers.iter().flat_map(|router| {
                [
                    Route::new(ipnet::IpNet::from(*router), index),
                    Route::default_via(*router, index),
                ]
            });
            let inside = Inside {
                addresses: want.addresses.clone(),
                routes: routes.collect(),
            };
            inner.inside.insert(place, inside);
            Ok(PodLink {
                host_index: index,
                index: Some(2),
            })
        })
    }

    fn raise_pod<'a>(
        &'a self,
        _netns: &'a Path,
        _want: &'a PodNetwork,
        link: PodLink,
    ) -> BoxFuture<'a, Result<(), KernelError>> {
        Box::pin(async move {
            let inner = self.step("raise_pod")?;
            assert!(
                inner.attached.contains(&link.host_index),
                "packets before programs"
            );
            Ok(())
        })
    }

    fn delete_link<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool, KernelError>> {
        Box::pin(async move {
            let mut inner = self.step("delete_link")?;
            let Some(index) = inner.links.remove(name) else {
                return Ok(false);
            };
            inner.attached.remove(&index);
            inner.inside.clear();
            Ok(true)
        })
    }

    fn pod_links(&self) -> BoxFuture<'_, Result<BTreeMap<String, u32>, KernelError>> {
        Box::pin(async move { Ok(self.step("pod_links")?.links.clone()) })
    }

    fn inside_pod<'a>(
        &'a self,
        netns: &'a Path,
        device: &'a str,
    ) -> BoxFuture<'a, Result<Inside, KernelError>> {
        Box::pin(async move {
            let place = (netns.display().to_string(), device.to_owned());
            Ok(self
                .step("inside_pod")?
                .inside
                .get(&place)
                .cloned()
                .unwrap_or_default())
        })
    }

    fn attach_pod(&self, ifindex: u32) -> Result<(), KernelError> {
        self.step("attach_pod")?.attached.insert(ifindex);
        Ok(())
    }

    fn attach_native(&self, _ifindex: u32) -> Result<(), KernelError> {
        self.step("attach_native").map(drop)
    }

    fn attach_wire(&self, _ifindex: u32) -> Result<(), KernelError> {
        self.step("attach_wire").map(drop)
    }

    fn detach_wire(&self, _ifindex: u32) -> Result<(), KernelError> {
        self.step("detach_wire").map(drop)
    }

    fn set_masquerade(&self, _ifindex: u32, _addr: Addr) -> Result<(), KernelError> {
        self.step("set_masquerade").map(drop)
    }

    fn attach_router(&self, _ifindex: u32) -> Result<(), KernelError> {
        self.step("attach_router").map(drop)
    }

    fn detach_pod(&self, ifindex: u32) -> Result<(), KernelError> {
        self.step("detach_pod")?.attached.remove(&ifindex);
        Ok(())
    }

    fn attached_pods<'a>(&'a self, devices: &'a [u32]) -> BoxFuture<'a, Result<BTreeSet<u32>, KernelError>> {
        Box::pin(async move {
            let inner = self.step("attached_pods")?;
            let attached = devices.iter().filter(|device| inner.attached.contains(device));
            Ok(attached.copied().collect())
        })
    }

    fn set_device(&self, ifindex: u32, addr: Addr) -> Result<(), KernelError> {
        self.step("set_device")?.devices.insert(ifindex, addr);
        Ok(())
    }

    fn remove_device(&self, ifindex: u32) -> Result<(), KernelError> {
        self.step("remove_device")?.devices.remove(&ifindex);
        Ok(())
    }

    fn devices(&self) -> Result<BTreeMap<u32, Addr>, KernelError> {
        Ok(self.step("devices")?.devices.clone())
    }

    fn set_endpoint(&self, addr: Addr, endpoint: abi::Endpoint) -> Result<(), KernelError> {
        self.step("set_endpoint")?.endpoints.insert(addr, endpoint);
        Ok(())
    }

    fn remove_endpoint(&self, addr: Addr) -> Result<(), KernelError> {
        self.step("remove_endpoint")?.endpoints.remove(&addr);
        Ok(())
    }

    fn endpoints(&self) -> Result<BTreeMap<Addr, abi::Endpoint>, KernelError> {
        Ok(self.step("endpoints")?.endpoints.clone())
    }

    fn set_peer(&self, addr: Addr, peer: Peer) -> Result<(), KernelError> {
        self.step("set_peer")?.peers.insert(addr, peer);
        Ok(())
    }

    fn remove_peer(&self, addr: Addr) -> Result<(), KernelError> {
        self.step("remove_peer")?.peers.remove(&addr);
        Ok(())
    }

    fn peers(&self) -> Result<BTreeMap<Addr, Peer>, KernelError> {
        Ok(self.step("peers")?.peers.clone())
    }
}

struct Node {
    kernel: Arc<Memory>,
    view: SharedView,
    endpoints: Arc<Endpoints>,
    directory: tempfile::TempDir,
}

fn node_with(block: &str) -> Node {
    let directory = tempfile::tempdir().expect("a directory");
    let (kernel, view) = (Arc::new(Memory::default()), SharedView::default());
    let mut store = Store::new("node", &[block.parse().expect("a block")]).expect("a store");
    store.choose_routers(&[Family::V6], 0, now()).expect("a router");
    let settings = Settings {
        families: vec![Family::V6],
        mtu: 1500,
        route_mtu: 1500,
        cluster: "kind".to_owned(),
        labels: LabelFilter::new("").expect("a filter"),
        state_file: directory.path().join("agent.json"),
    };
    let shared: Arc<dyn Kernel> = Arc::<Memory>::clone(&kernel);
    let endpoints = Arc::new(Endpoints::new(
        shared,
        settings,
        view.clone(),
        store,
        Changes::default(),
    ));
    Node {
        kernel,
        view,
        endpoints,
        directory,
    }
}

fn node() -> Node {
    node_with("fd00:10:244::/64")
}

fn request(container: &str) -> AddRequest {
    AddRequest {
        attachment: Attachment {
            container_id: container.to_owned(),
            ifname: "eth0".to_owned(),
        },
        netns: format!("/run/netns/{container}"),
        args: [
            ("K8S_POD_NAMESPACE", "default"),
            ("K8S_POD_NAME", "client"),
            ("K8S_POD_UID", "uid"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
        mtu: 0,
    }
}

/// Endpoints and addresses that are known, the router's not counted.
fn known(node: &Node) -> (usize, usize) {
    let store = node.endpoints.store();
    (store.iter().count(), store.ipam.used().count() - 1)
}

#[tokio::test]
async fn whatever_step_of_add_fails_nothing_is_left() {
    for step in [
        "make_pod",
        "set_device",
        "set_endpoint",
        "set_peer",
        "attach_pod",
        "raise_pod",
    ] {
        let node = node();
        node.kernel.fail(Some(step));
        let error = node.endpoints.add(&request("a")).await.expect_err(step);
        assert_eq!(error.code(), code::KERNEL, "{step}");
        assert!(node.kernel.is_empty(), "{step}");
        assert_eq!(known(&node), (0, 0), "{step}");
        node.kernel.fail(None);
        node.endpoints.add(&request("a")).await.expect("a second try");
    }
}

#[tokio::test]
async fn an_add_that_cannot_be_written_down_is_undone() {
    let node = node();
    std::fs::create_dir(node.directory.path().join("agent.json")).expect("a directory in the way");
    let error = node.endpoints.add(&request("a")).await.expect_err("refused");
    assert_eq!(error.code(), code::IO);
    assert!(node.kernel.is_empty());
    assert_eq!(known(&node), (0, 0));
}

#[tokio::test]
async fn what_could_not_be_undone_is_swept_later() {
    for step in [
        "delete_link",
        "detach_pod",
        "remove_device",
        "remove_endpoint",
        "remove_peer",
    ] {
        let node = node();
        node.endpoints.add(&request("a")).await.expect("ADD");
        node.kernel.fail(Some(step));
        // DEL answers before the link is gone; what it leaves is finished in the background.
        let deleted = node.endpoints.delete(&request("a").attachment).await;
        assert!(
            deleted.is_err() || node.endpoints.finish().await.is_err(),
            "{step}"
        );
        assert_eq!(known(&node), (1, 1), "{step}: it is still known");
        node.kernel.fail(None);
        node.endpoints.sweep().await.expect("swept");
        assert!(node.kernel.is_empty(), "{step}");
        assert_eq!(known(&node), (0, 0), "{step}");
    }
}

#[tokio::test]
async fn one_name_is_added_once_also_at_the_same_moment() {
    let node = node();
    let (first, second, request) = (
        Arc::clone(&node.endpoints),
        Arc::clone(&node.endpoints),
        request("a"),
    );
    let (one, two) = tokio::join!(first.add(&request), second.add(&request));
    let refused = [one, two]
        .into_iter()
        .filter_map(Result::err)
        .map(|error| error.code())
        .collect::<Vec<_>>();
    assert_eq!(refused, [code::EXISTS]);
    assert_eq!(known(&node), (1, 1));
    node.endpoints.delete(&request.attachment).await.expect("DEL");
    node.endpoints
        .delete(&request.attachment)
        .await
        .expect("DEL again");
    node.endpoints.finish().await.expect("finished");
    assert!(node.kernel.is_empty());
    node.endpoints
        .delete(&request.attachment)
        .await
        .expect("DEL of nothing");
}

#[tokio::test]
async fn a_deleted_pod_is_cut_off_at_once_and_its_address_rests_until_the_link_is_gone() {
    let node = node();
    let request = request("a");
    let first = node.endpoints.add(&request).await.expect("ADD");
    node.endpoints.delete(&request.attachment).await.expect("DEL");
    let entries = node.kernel.endpoints().expect("a table").len();
    let links = node.kernel.pod_links().await.expect("links").len();
    assert_eq!((entries, links, known(&node)), (0, 1, (1, 1)));
    let gone = CheckRequest {
        attachment: request.attachment.clone(),
        netns: request.netns.clone(),
        addresses: Vec::new(),
    };
    let error = node.endpoints.check(&gone).await.expect_err("it is gone");
    assert_eq!(error.code(), code::UNKNOWN_CONTAINER);
    // The same name again does not wait for the background, and what is left to do there spares the new one.
    let second = node.endpoints.add(&request).await.expect("ADD again");
    assert_ne!(first.addresses[0].address, second.addresses[0].address);
    node.endpoints.finish().await.expect("nothing to do");
    assert_eq!(known(&node).0, 1);
    assert_eq!(node.kernel.pod_links().await.expect("links").len(), 1);
}

#[tokio::test]
async fn a_full_block_refuses_and_leaks_nothing() {
    // Four addresses: two are never given out, one is the router's.
    let node = node_with("fd00:10:244::/126");
    node.endpoints.add(&request("a")).await.expect("the last address");
    let error = node.endpoints.add(&request("b")).await.expect_err("full");
    assert_eq!((error.code(), known(&node)), (code::NO_ADDRESS, (1, 1)));
    node.endpoints
        .delete(&request("a").attachment)
        .await
        .expect("DEL");
    let error = node
        .endpoints
        .add(&request("b"))
        .await
        .expect_err("the address rests");
    assert_eq!(error.code(), code::NO_ADDRESS);
}

#[tokio::test]
async fn the_identity_of_a_known_pod_is_there_from_the_start() {
    let node = node();
    let name = ObjectName::new("default", "client");
    let pod = Pod {
        name: name.clone(),
        uid: "uid".into(),
        labels: [("app".into(), "x".into())].into(),
        ..Pod::default()
    };
    let namespace = Namespace {
        name: "default".into(),
        ..Namespace::default()
    };
    let labels = Labels::of_pod(&pod, &namespace, "kind", &LabelFilter::new("").expect("a filter"));
    {
        let mut view = node.view.lock();
        view.pods.insert(name, pod);
        view.namespaces.insert("default".into(), namespace);
        view.identities.upsert(CiliumIdentity {
            identity: Identity(4711),
            labels,
            created: 1,
        });
    }
    node.endpoints.add(&request("a")).await.expect("ADD");
    let endpoint = node
        .endpoints
        .store()
        .find(&request("a").attachment)
        .expect("an endpoint");
    assert_eq!(
        (endpoint.identity, endpoint.state),
        (Identity(4711), EndpointState::Ready)
    );
    assert_eq!(
        node.kernel
            .peers()
            .expect("a table")
            .values()
            .next()
            .map(|peer| peer.identity),
        Some(4711)
    );

    let mut stranger = request("b");
    stranger.args.insert("K8S_POD_NAME".into(), "nobody".into());
    node.endpoints.add(&stranger).await.expect("ADD");
    let endpoint = node
        .endpoints
        .store()
        .find(&stranger.attachment)
        .expect("an endpoint");
    assert_eq!(
        (endpoint.identity, endpoint.state),
        (Identity::INIT, EndpointState::WaitingForIdentity)
    );
}

#[tokio::test]
async fn check_names_what_is_wrong() {
    let node = node();
    let made = node.endpoints.add(&request("a")).await.expect("ADD");
    let AddRequest {
        attachment, netns, ..
    } = request("a");
    let addresses = vec![made.addresses[0].address.clone()];
    let check = CheckRequest {
        attachment,
        netns,
        addresses,
    };
    node.endpoints.check(&check).await.expect("as ADD left it");
    type Damage = fn(&mut Inner);
    let damages: [(&str, Damage); 7] = [
        ("host-side device", |inner| inner.links.clear()),
        ("has the addresses", |inner| inner.inside.clear()),
        ("has no route to ::/0", |inner| {
            for inside in inner.inside.values_mut() {
                inside.routes.retain(|route| route.via.is_none());
            }
        }),
        ("no programs", |inner| inner.attached.clear()),
        ("device entry", |inner| inner.devices.clear()),
        ("endpoint entry", |inner| inner.endpoints.clear()),
        ("identity entry", |inner| {
            inner.peers.values_mut().for_each(|peer| peer.identity = 2);
        }),
    ];
    for (what, damage) in damages.into_iter().rev() {
        damage(&mut node.kernel.lock());
        let error = node.endpoints.check(&check).await.expect_err(what);
        assert_eq!(error.code(), code::CHECK_FAILED, "{what}");
        assert!(error.to_string().contains(what), "{what}: {error}");
    }
}

#[tokio::test]
async fn state_survives_and_half_made_pods_do_not() {
    let node = node();
    node.endpoints.add(&request("a")).await.expect("ADD");
    node.endpoints.add(&request("b")).await.expect("ADD");
    let half = node
        .endpoints
        .store()
        .find(&request("b").attachment)
        .expect("an endpoint")
        .id;
    node.endpoints
        .update(half, |endpoint| endpoint.state = EndpointState::Creating)
        .await
        .expect("written");
    let store = load(&node.directory.path().join("agent.json"), "node")
        .expect("readable")
        .expect("a state");
    assert_eq!(
        (store.routers(), store.iter().count()),
        (node.endpoints.store().routers(), 2)
    );
    let shared: Arc<dyn Kernel> = Arc::<Memory>::clone(&node.kernel);
    let settings = node.endpoints.settings().clone();
    let next = Endpoints::new(shared, settings, node.view.clone(), store, Changes::default());
    next.recover().await.expect("recovered");
    assert_eq!(next.store().all().len(), 1);
    assert_eq!(node.kernel.pod_links().await.expect("links").len(), 1);
    assert!(
        load(&node.directory.path().join("agent.json"), "another")
            .expect("readable")
            .is_none()
    );
}

#[tokio::test]
async fn gc_takes_what_is_not_listed_and_links_of_nobody() {
    let node = node();
    node.endpoints.add(&request("a")).await.expect("ADD");
    node.endpoints.add(&request("b")).await.expect("ADD");
    node.kernel.lock().links.insert("lxc0badc0ffee00".to_owned(), 99);
    node.endpoints
        .collect(&[request("a").attachment])
        .await
        .expect("GC");
    assert_eq!(known(&node), (1, 1));
    assert_eq!(node.kernel.pod_links().await.expect("links").len(), 1);
}
