//! Services and EndpointSlices, kept small: there are many of them, and each agent knows them all.

use std::net::IpAddr;
use std::sync::Arc;

use abi::Addr;
use ipnet::IpNet;

use super::ObjectName;
use crate::addr::Family;

/// A transport protocol that services know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The IP protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol with that IP protocol number.
    #[must_use]
    pub const fn of_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// As Kubernetes spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Not the name of a protocol that services know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not TCP, UDP or SCTP")]
pub struct ParseProtocolError(String);

impl std::str::FromStr for Protocol {
    type Err = ParseProtocolError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "TCP" => Ok(Self::Tcp),
            "UDP" => Ok(Self::Udp),
            "SCTP" => Ok(Self::Sctp),
            _ => Err(ParseProtocolError(text.to_owned())),
        }
    }
}

/// `spec.type` of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    /// Reached inside the cluster.
    #[default]
    ClusterIp,
    /// Also reached on a port of every node.
    NodePort,
    /// Also reached through a load balancer.
    LoadBalancer,
    /// Only a name in DNS.
    ExternalName,
}

/// How packets of outside clients reach backends on other nodes (annotation `service.cilium.io/forwarding-mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// With the address of the node that took them.
    Snat,
    /// With the client's address; the backend's node answers for the service.
    Dsr,
}

/// A port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; empty when the service has one port only.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Port at the service's addresses, host order.
    pub port: u16,
    /// Port at the nodes' addresses; 0: none.
    pub node_port: u16,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: ObjectName,
    /// Seconds since the Unix epoch when the object was created; 0 when unknown.
    pub created: i64,
    /// `spec.type`.
    pub kind: ServiceType,
    /// `spec.clusterIPs`; empty for headless services.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` whose traffic arrives with the address as destination (`ipMode` VIP).
    pub balancer_ips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.sessionAffinityConfig.clientIP.timeoutSeconds` with `sessionAffinity: ClientIP`; 0: no affinity.
    pub affinity: u32,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `spec.healthCheckNodePort`; 0: none.
    pub health_check_port: u16,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<IpNet>,
    /// The service's own wish, where the configuration lets it have one.
    pub forwarding: Option<Forwarding>,
}

/// What an endpoint says of itself (`conditions` of an EndpointSlice, with the defaults that its API names).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// It takes new connections. True also for unready pods of a service with `publishNotReadyAddresses`.
    pub ready: bool,
    /// It would be ready if it were not terminating.
    pub serving: bool,
    /// It is being deleted.
    pub terminating: bool,
}

impl Conditions {
    /// Ready and not terminating.
    pub const READY: Self = Self {
        ready: true,
        serving: true,
        terminating: false,
    };
}

/// Who an endpoint is meant for (`hints` of an EndpointSlice).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hints {
    /// `forZones`.
    pub zones: Vec<Arc<str>>,
    /// `forNodes`.
    pub nodes: Vec<Arc<str>>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// The first of its addresses; the API makes no use of others.
    pub addr: Addr,
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// `hints`; `None`: none.
    pub hints: Option<Arc<Hints>>,
    /// `conditions`.
    pub conditions: Conditions,
}

/// A port of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlicePort {
    /// Name of the service's port that it stands for.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the endpoints, host order.
    pub port: u16,
}

/// An EndpointSlice: some of the endpoints of a service that have the same ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub name: ObjectName,
    /// Name of the service, in the same namespace (label `kubernetes.io/service-name`).
    pub service: Arc<str>,
    /// Family of all addresses.
    pub family: Family,
    /// Ports that all its endpoints have.
    pub ports: Vec<SlicePort>,
    /// The endpoints.
    pub endpoints: Box<[SliceEndpoint]>,
}

/// A port of a container that the node offers under its own address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `hostIP`; `None`: every address of the node.
    pub addr: Option<IpAddr>,
    /// `hostPort`, host order.
    pub host_port: u16,
    /// `containerPort`, host order.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}
