//! `GET /v1/healthz`: everything is asked of the kernel and the API server when the request comes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use api::status::{
    Attachment, BigTcp, BpfMapProperties, BpfMapStatus, ClusterStatus, Device, Enabled, IpamStatus,
    K8sStatus, KubeProxyReplacement, LbFeatures, Mode, MonitorStatus, NodePortFeature, Routing, State,
    Status, StatusResponse,
};
use k8s::{Kind, WatchState};
use model::EndpointState;
use model::addr::Family;
use model::config::Acceleration;
use model::ipam::Owner;
use netlink::Link;

use super::running::Running;
use crate::agent::{Agent, VERSION};
use crate::host;
use crate::kernel::POD_PREFIX;
use crate::programs::{self, Found, Holder};

/// The API server has to answer within this; `status` must not hang because something else does.
const API_DEADLINE: Duration = Duration::from_secs(2);

/// What has to be measured may fail; then the agent's own line says so, and the rest is still told.
pub(super) async fn status(agent: &Agent) -> StatusResponse {
    let mut problems: Vec<String> = Vec::new();
    let mut note = |what: &str, error: &dyn std::fmt::Display| problems.push(format!("{what}: {error:#}"));
    let natives = host::native_devices(&agent.netlink, &agent.config.devices).await;
    let natives = natives.unwrap_or_else(|error| {
        note("devices", &error);
        Vec::new()
    });
    let addresses = agent.netlink.addresses().await.unwrap_or_else(|error| {
        note("addresses", &error);
        Vec::new()
    });
    let links = agent.netlink.links().await.unwrap_or_else(|error| {
        note("links", &error);
        Vec::new()
    });
    let found = programs(agent, &links).await.unwrap_or_else(|error| {
        note("programs", &error);
        Vec::new()
    });
    let routes = direct_routes(agent).await.unwrap_or_else(|error| {
        note("routes", &error);
        Vec::new()
    });
    let running: BTreeSet<u32> = found.iter().map(|(found, _)| found.program_id).collect();
    let running = agent.datapath.constants(&running).unwrap_or_else(|error| {
        note("constants of programs", &error);
        Default::default()
    });
    let running = Running::new(&running);
    let maps = agent.datapath.map_infos().unwrap_or_else(|error| {
        note("maps", &error);
        Vec::new()
    });
    let lost = agent.datapath.lost_events().unwrap_or_else(|error| {
        note("events", &error);
        Default::default()
    });
    problems.extend(wrong_programs(agent, &natives, &found));
    let kubernetes = kubernetes(agent).await;
    let counts = agent.events.counts();
    let num_nodes = agent.view.lock().nodes.len();
    let ring = maps
        .iter()
        .find(|map| map.name == abi::names::EVENTS)
        .map_or(0, |map| u64::from(map.max_entries));
    StatusResponse {
        cilium: own(agent, &problems),
        kvstore: Status::new(State::Disabled, "identities are CiliumIdentity objects"),
        kubernetes,
        kube_proxy_replacement: KubeProxyReplacement {
            mode: match running.services && agent.datapath.has_all_sockets() {
                true => "True".to_owned(),
                false => "False".to_owned(),
            },
            devices: natives.iter().map(|link| link.name.clone()).collect(),
            device_list: natives.iter().map(|link| device(link, &addresses)).collect(),
            features: LbFeatures {
                node_port: NodePortFeature {
                    acceleration: acceleration(&natives, &found).to_owned(),
                },
            },
            direct_routing_device: natives.first().map(|link| link.name.clone()).unwrap_or_default(),
        },
        host_firewall: Mode::default(),
        srv6: Enabled { enabled: false },
        cni_chaining: Mode {
            mode: "none".to_owned(),
        },
        cni_file: cni_file(agent),
        node_monitor: MonitorStatus {
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64,
            npages: ring / 4096,
            pagesize: 4096,
            lost: lost.values().sum(),
            unknown: counts.unknown,
        },
        cluster: ClusterStatus {
            cilium_health: Status::new(State::Disabled, "nodes are not probed"),
            this: format!("{}/{}", agent.config.cluster_name, agent.node),
            num_nodes,
        },
        ipam: ipam(agent),
        ipv4_big_tcp: big_tcp(
            &natives,
            |link| (link.sizes.gro_ipv4_max, link.sizes.gso_ipv4_max),
            agent.config.enable_ipv4,
        ),
        ipv6_big_tcp: big_tcp(
            &natives,
            |link| (link.sizes.gro_max, link.sizes.gso_max),
            agent.config.enable_ipv6,
        ),
        bandwidth_manager: Enabled { enabled: false },
        routing: Routing {
            inter_host_routing_mode: "Native".to_owned(),
            intra_host_routing_mode: running.host_routing.to_owned(),
            tunnel_protocol: String::new(),
            direct_routes: routes,
        },
        attach_mode: attach_mode(&found),
        datapath_mode: datapath_mode(&links),
        masquerading: api::status::Masquerading {
            ip_masq_agent: running.masquerading.enabled && agent.config.ip_masq_agent,
            ..running.masquerading
        },
        controllers: agent.controllers.snapshot(),
        bpf_maps: BpfMapStatus {
            maps: maps
                .iter()
                .map(|map| BpfMapProperties {
                    name: map.name.to_owned(),
                    size: u64::from(map.max_entries),
                    entries: map.entries.map(u64::from),
                })
                .collect(),
        },
        attachments: found.into_iter().map(|(_, attachment)| attachment).collect(),
        ..StatusResponse::default()
    }
}

/// The agent's own line: its version, or what is wrong with the datapath.
fn own(agent: &Agent, problems: &[String]) -> Status {
    match problems.first() {
        Some(first) => Status::new(
            State::Failure,
            format!("{VERSION} ({} problems, the first: {first})", problems.len()),
        ),
        None => match agent.why_not_ready() {
            Some(why) => Status::new(State::Warning, format!("{VERSION} ({why})")),
            None => Status::new(State::Ok, VERSION),
        },
    }
}

/// Programs that should be on a device and are not, or are not those that this agent loaded.
fn wrong_programs(agent: &Agent, natives: &[Link], found: &[(Found, Attachment)]) -> Vec<String> {
    let has = |device: &str, program: &str| {
        found
            .iter()
            .any(|(_, a)| a.device == device && a.program == program)
    };
    let mut expected: Vec<(String, &str)> = vec![(host::HOST_DEVICE.to_owned(), abi::names::FROM_HOST)];
    for link in natives {
        expected.extend(
            [abi::names::FROM_NETDEV, abi::names::TO_NETDEV].map(|program| (link.name.clone(), program)),
        );
    }
    if agent.config.kube_proxy_replacement && agent.config.services.acceleration == Acceleration::Native {
        expected.extend(
            natives
                .iter()
                .map(|link| (link.name.clone(), abi::names::FROM_WIRE)),
        );
    }
    let half = [EndpointState::Creating, EndpointState::Disconnecting];
    for endpoint in agent
        .endpoints
        .store()
        .iter()
        .filter(|endpoint| endpoint.host_ifindex != 0 && !half.contains(&endpoint.state))
    {
        let programs = [abi::names::FROM_POD, abi::names::TO_POD];
        expected.extend(programs.map(|program| (endpoint.host_ifname.clone(), program)));
    }
    let missing = expected
        .into_iter()
        .filter(|(device, program)| !has(device, program))
        .map(|(device, program)| format!("{program} is not attached to {device}"));
    let old = found
        .iter()
        .filter(|(found, _)| !found.current)
        .map(|(_, a)| format!("{} on {} is the program of another agent", a.program, a.device));
    missing.chain(old).collect()
}

/// All programs of ours on the node's devices, with the names of the devices.
async fn programs(agent: &Agent, links: &[Link]) -> anyhow::Result<Vec<(Found, Attachment)>> {
    let pods = links
        .iter()
        .filter(|link| link.name.starts_with(POD_PREFIX))
        .map(|link| link.index);
    let pods: Vec<u32> = pods.collect();
    let found = programs::on_devices(&agent.datapath, &agent.netlink, &pods).await?;
    let named = |found: Found| {
        let link = links.iter().find(|link| link.index == found.ifindex)?;
        let attachment = Attachment {
            device: link.name.clone(),
            direction: match found.direction {
                loader::Direction::Ingress => "ingress".to_owned(),
                loader::Direction::Egress => "egress".to_owned(),
            },
            program: found.program.to_owned(),
            program_id: found.program_id,
            holder: match found.holder {
                Holder::Tcx => "tcx".to_owned(),
                Holder::Clsact => "clsact".to_owned(),
                Holder::Xdp => "xdp".to_owned(),
            },
        };
        Some((found, attachment))
    };
    Ok(found.into_iter().filter_map(named).collect())
}

/// In Cilium's words: where packets to services turn round in the driver.
fn acceleration(natives: &[Link], found: &[(Found, Attachment)]) -> &'static str {
    let has = |link: &&Link| {
        found
            .iter()
            .any(|(found, _)| found.holder == Holder::Xdp && found.ifindex == link.index)
    };
    match natives.iter().filter(has).count() {
        0 => "Disabled",
        some if some < natives.len() => "Best-Effort",
        _ => "Native",
    }
}

/// In Cilium's words; both while new pods wait for their links.
fn attach_mode(found: &[(Found, Attachment)]) -> String {
    let has = |holder| found.iter().any(|(found, _)| found.holder == holder);
    match (has(Holder::Tcx), has(Holder::Clsact)) {
        (true, true) => "TCX, Legacy TC on new pods",
        (true, false) => "TCX",
        (false, true) => "Legacy TC",
        (false, false) => "none",
    }
    .to_owned()
}

/// The driver of the pods' devices; of the router's where there is no pod.
fn datapath_mode(links: &[Link]) -> String {
    let pod = links.iter().find(|link| link.name.starts_with(POD_PREFIX));
    let router = links.iter().find(|link| link.name == host::HOST_DEVICE);
    let kind = pod.or(router).and_then(|link| link.kind.clone());
    kind.unwrap_or_else(|| "unknown".to_owned())
}

async fn direct_routes(agent: &Agent) -> anyhow::Result<Vec<String>> {
    let links = agent.netlink.links().await?;
    let name = |index: u32| {
        links
            .iter()
            .find(|link| link.index == index)
            .map_or("?", |link| link.name.as_str())
    };
    let routes = agent.netlink.our_routes().await?.into_iter();
    Ok(routes
        .filter_map(|route| {
            Some(format!(
                "{} via {} dev {}",
                route.destination,
                route.via?,
                name(route.device)
            ))
        })
        .collect())
}

fn device(link: &Link, addresses: &[netlink::Address]) -> Device {
    let own = addresses.iter().filter(|address| address.device == link.index);
    Device {
        name: link.name.clone(),
        ip: own.map(|address| address.net.addr().to_string()).collect(),
    }
}

async fn kubernetes(agent: &Agent) -> K8sStatus {
    let Some(watches) = &agent.watches else {
        return K8sStatus::default();
    };
    let services = Kind::SERVICES
        .iter()
        .filter(|_| agent.config.kube_proxy_replacement);
    let kinds = Kind::ALL.iter().chain(services);
    let kinds = kinds.map(|kind| kind.api().to_owned()).collect();
    let (state, msg) = match tokio::time::timeout(API_DEADLINE, agent.registry.version()).await {
        Ok(Ok(version)) => (State::Ok, version),
        Ok(Err(error)) => (State::Failure, format!("{error:#}")),
        Err(_) => (
            State::Failure,
            format!("no answer within {} s", API_DEADLINE.as_secs()),
        ),
    };
    let failing = watches.borrow().iter().find_map(|(kind, watch)| match watch {
        WatchState::Failing { failures, error } => Some(format!("{kind}: {error} ({failures} failures)")),
        WatchState::Starting | WatchState::Synced => None,
    });
    match failing {
        Some(failing) if state == State::Ok => K8sStatus {
            state: State::Warning,
            msg: format!("{msg}; {failing}"),
            k8s_api_versions: kinds,
        },
        _ => K8sStatus {
            state,
            msg,
            k8s_api_versions: kinds,
        },
    }
}

fn cni_file(agent: &Agent) -> Status {
    match &agent.cni_conf {
        None => Status::new(State::Disabled, "not managed by the agent"),
        Some(path) if path.exists() => Status::new(
            State::Ok,
            format!("successfully wrote CNI configuration file to {}", path.display()),
        ),
        Some(path) => Status::new(State::Failure, format!("{} is not there", path.display())),
    }
}

/// Addresses, their owners, and the line people read.
pub(super) fn ipam(agent: &Agent) -> IpamStatus {
    let store = agent.endpoints.store();
    let pod = |owner: &Owner| {
        let endpoint = store.iter().find(|endpoint| endpoint.owner() == *owner);
        endpoint
            .filter(|endpoint| !endpoint.pod.name.is_empty())
            .map(|endpoint| endpoint.pod.to_string())
    };
    let used: Vec<(IpAddr, String)> = store
        .ipam
        .used()
        .map(|(address, owner)| (address, pod(owner).unwrap_or_else(|| owner.to_string())))
        .collect();
    let of = |family| {
        let addresses = used
            .iter()
            .map(|(address, _)| *address)
            .filter(move |a| Family::of(*a) == family);
        addresses.map(|address| address.to_string()).collect()
    };
    // Cilium counts the whole block here; ours is what can really be handed out.
    let lines = store
        .ipam
        .usage(crate::endpoints::now())
        .into_iter()
        .map(|usage| {
            let family = Family::of(usage.block.network());
            format!(
                "{family}: {}/{} allocated from {},",
                usage.used, usage.capacity, usage.block
            )
        });
    IpamStatus {
        status: lines.collect::<Vec<_>>().join(" "),
        ipv4: of(Family::V4),
        ipv6: of(Family::V6),
        allocations: used
            .into_iter()
            .map(|(address, owner)| (address.to_string(), owner))
            .collect(),
    }
}

/// BIG TCP is what the devices say: the smallest of them counts.
fn big_tcp(natives: &[Link], sizes: fn(&Link) -> (u32, u32), family: bool) -> BigTcp {
    /// Larger than this is BIG TCP (`GSO_LEGACY_MAX_SIZE`).
    const LEGACY_MAX: u64 = 65536;
    let smallest = |pick: fn((u32, u32)) -> u32| {
        natives
            .iter()
            .map(|link| u64::from(pick(sizes(link))))
            .min()
            .unwrap_or(0)
    };
    let (max_gro, max_gso) = (smallest(|(gro, _)| gro), smallest(|(_, gso)| gso));
    BigTcp {
        enabled: family && max_gro > LEGACY_MAX && max_gso > LEGACY_MAX,
        max_gro,
        max_gso,
    }
}
