//! A flow: one packet or request, as somebody saw it at one point.
//!
//! Strings that are empty and numbers that are zero mean "unknown" or "not said", as in the API. What is shared by many flows is
//! behind an [`Arc`], what few flows have is in [`Rare`], so that a flow of a packet costs one allocation and a few counters.

use std::net::IpAddr;
use std::sync::Arc;

use crate::layer4::{Layer4, Summary};
use crate::layer7::Layer7;

/// Declares an enum with the numbers and the names of the API.
macro_rules! numbered {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $number:literal $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$doc])* $variant = $number,)*
        }

        impl $name {
            /// All values in the order of the API.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The value with this number in the API.
            #[must_use]
            pub const fn from_number(number: i32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The number in the API.
            #[must_use]
            pub const fn number(self) -> i32 {
                self as i32
            }

            /// The name in the API.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// The value with this name in the API.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == name)
            }
        }
    };
}
pub(crate) use numbered;

/// Nanoseconds since the Unix epoch; reaches from 1677 to 2262.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Time(pub i64);

impl Time {
    /// From the two numbers of a protobuf timestamp; what does not fit is the nearest that does.
    #[must_use]
    pub fn from_parts(seconds: i64, nanos: i32) -> Self {
        Self(
            seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(i64::from(nanos)),
        )
    }

    /// Seconds, rounded down, and the nanoseconds that are left.
    #[must_use]
    pub fn parts(self) -> (i64, i32) {
        let nanos = self.0.rem_euclid(1_000_000_000);
        (
            self.0.div_euclid(1_000_000_000),
            i32::try_from(nanos).unwrap_or_default(),
        )
    }
}

numbered! {
    /// What kind of event the flow is made of.
    FlowKind {
        /// Not said.
        #[default]
        Unknown = 0 "UNKNOWN_TYPE",
        /// A packet.
        L3L4 = 1 "L3_L4",
        /// A request or a response.
        L7 = 2 "L7",
        /// The translation of an address at a socket.
        Sock = 3 "SOCK",
    }
}

numbered! {
    /// What became of it.
    Verdict {
        /// Not said.
        #[default]
        Unknown = 0 "VERDICT_UNKNOWN",
        /// Went on.
        Forwarded = 1 "FORWARDED",
        /// Ended here.
        Dropped = 2 "DROPPED",
        /// A request failed.
        Error = 3 "ERROR",
        /// Would have been denied, were the policy not in audit mode.
        Audit = 4 "AUDIT",
        /// Went to the proxy.
        Redirected = 5 "REDIRECTED",
        /// Seen at a socket before translation.
        Traced = 6 "TRACED",
        /// Seen at a socket after translation.
        Translated = 7 "TRANSLATED",
    }
}

numbered! {
    /// Direction as seen from the pod that reports.
    TrafficDirection {
        /// Not known.
        #[default]
        Unknown = 0 "TRAFFIC_DIRECTION_UNKNOWN",
        /// Connection to the pod.
        Ingress = 1 "INGRESS",
        /// Connection from the pod.
        Egress = 2 "EGRESS",
    }
}

numbered! {
    /// Family of the addresses.
    IpVersion {
        /// No addresses.
        #[default]
        None = 0 "IP_NOT_USED",
        /// IPv4.
        V4 = 1 "IPv4",
        /// IPv6.
        V6 = 2 "IPv6",
    }
}

numbered! {
    /// Where a trace was made. The datapath's 0 is 101 here.
    ObservationPoint {
        /// No trace.
        #[default]
        Unknown = 0 "UNKNOWN_POINT",
        /// To the proxy.
        ToProxy = 1 "TO_PROXY",
        /// To the node itself.
        ToHost = 2 "TO_HOST",
        /// To the kernel's stack.
        ToStack = 3 "TO_STACK",
        /// Into the tunnel.
        ToOverlay = 4 "TO_OVERLAY",
        /// From a pod.
        FromEndpoint = 5 "FROM_ENDPOINT",
        /// From the proxy.
        FromProxy = 6 "FROM_PROXY",
        /// From the node itself.
        FromHost = 7 "FROM_HOST",
        /// From the kernel's stack.
        FromStack = 8 "FROM_STACK",
        /// Out of the tunnel.
        FromOverlay = 9 "FROM_OVERLAY",
        /// From a native device.
        FromNetwork = 10 "FROM_NETWORK",
        /// To a native device.
        ToNetwork = 11 "TO_NETWORK",
        /// Decrypted.
        FromCrypto = 12 "FROM_CRYPTO",
        /// To be encrypted.
        ToCrypto = 13 "TO_CRYPTO",
        /// To a pod.
        ToEndpoint = 101 "TO_ENDPOINT",
    }
}

numbered! {
    /// What conntrack said. The datapath's numbers are lower by one, and its 5 is 0 here.
    TraceReason {
        /// Not asked.
        #[default]
        Unknown = 0 "TRACE_REASON_UNKNOWN",
        /// First packet.
        New = 1 "NEW",
        /// Later packet in the same direction.
        Established = 2 "ESTABLISHED",
        /// Packet in the other direction.
        Reply = 3 "REPLY",
        /// Error about a known connection.
        Related = 4 "RELATED",
        /// Deprecated.
        Reopened = 5 "REOPENED",
        /// SRv6 encapsulation.
        Srv6Encap = 6 "SRV6_ENCAP",
        /// SRv6 decapsulation.
        Srv6Decap = 7 "SRV6_DECAP",
        /// Deprecated.
        EncryptOverlay = 8 "ENCRYPT_OVERLAY",
    }
}

numbered! {
    /// Where a socket's address was seen.
    SocketPoint {
        /// No socket.
        #[default]
        Unknown = 0 "SOCK_XLATE_POINT_UNKNOWN",
        /// Before translation, on the way out.
        PreForward = 1 "SOCK_XLATE_POINT_PRE_DIRECTION_FWD",
        /// After translation, on the way out.
        PostForward = 2 "SOCK_XLATE_POINT_POST_DIRECTION_FWD",
        /// Before translation, on the way back.
        PreReverse = 3 "SOCK_XLATE_POINT_PRE_DIRECTION_REV",
        /// After translation, on the way back.
        PostReverse = 4 "SOCK_XLATE_POINT_POST_DIRECTION_REV",
    }
}

numbered! {
    /// Authentication that policy asks for.
    AuthType {
        /// None.
        #[default]
        Disabled = 0 "DISABLED",
        /// SPIRE.
        Spire = 1 "SPIRE",
        /// Fails always; for tests.
        TestAlwaysFail = 2 "TEST_ALWAYS_FAIL",
    }
}

numbered! {
    /// Encapsulation.
    TunnelProtocol {
        /// Not said.
        #[default]
        Unknown = 0 "UNKNOWN",
        /// VXLAN.
        Vxlan = 1 "VXLAN",
        /// Geneve.
        Geneve = 2 "GENEVE",
    }
}

/// Number of a drop reason. The API has two fields for it, the number and the enum with the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DropCode(pub u32);

impl DropCode {
    /// Denied by default.
    pub const POLICY_DENIED: Self = Self(133);
    /// Denied by a rule.
    pub const POLICY_DENY: Self = Self(181);

    /// The reason, if the number is one of the enum's.
    #[must_use]
    pub fn reason(self) -> Option<abi::DropReason> {
        abi::DropReason::from_number(u8::try_from(self.0).ok()?)
    }

    /// The code whose name in the API this is.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let reason = abi::DropReason::ALL
            .iter()
            .find(|reason| reason.proto() == name)?;
        Some(Self(*reason as u32))
    }
}

/// A unique number; `Display` and `FromStr` speak the usual form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Uuid(pub u128);

impl std::fmt::Display for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let part = |shift: u32, digits: u32| (self.0 >> shift) & ((1 << (digits * 4)) - 1);
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            part(96, 8),
            part(80, 4),
            part(64, 4),
            part(48, 4),
            part(0, 12)
        )
    }
}

/// No UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no UUID")]
pub struct UuidError;

impl std::str::FromStr for Uuid {
    type Err = UuidError;

    fn from_str(text: &str) -> Result<Self, UuidError> {
        let groups = [8, 4, 4, 4, 12];
        let mut number = 0u128;
        let mut parts = text.split('-');
        for length in groups {
            let part = parts
                .next()
                .filter(|part| part.len() == length)
                .ok_or(UuidError)?;
            if !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(UuidError);
            }
            let digits = u128::from_str_radix(part, 16).map_err(|_| UuidError)?;
            number = number << (length * 4) | digits;
        }
        if parts.next().is_some() {
            Err(UuidError)
        } else {
            Ok(Self(number))
        }
    }
}

/// Address of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Layer 2 addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ethernet {
    /// Sender.
    pub source: Mac,
    /// Receiver.
    pub destination: Mac,
}

/// Layer 3 addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ip {
    /// Sender; none: not known (sockets of unknown processes).
    pub source: Option<IpAddr>,
    /// Receiver.
    pub destination: Option<IpAddr>,
    /// Family.
    pub version: IpVersion,
    /// Whether it travels encrypted.
    pub encrypted: bool,
    /// Sender behind source NAT.
    pub source_xlated: Option<IpAddr>,
}

/// Who is at one side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Number on this node; 0: not of this node.
    pub id: u32,
    /// Security identity.
    pub identity: u32,
    /// Name of the cluster.
    pub cluster_name: Arc<str>,
    /// Namespace of the pod.
    pub namespace: Arc<str>,
    /// `source:key=value`, sorted.
    pub labels: Arc<[Arc<str>]>,
    /// Name of the pod.
    pub pod_name: Arc<str>,
    /// What the pod belongs to.
    pub workloads: Arc<[Workload]>,
}

/// What a pod belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Workload {
    /// `web`.
    pub name: Arc<str>,
    /// `Deployment`.
    pub kind: Arc<str>,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Service {
    /// Name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
}

/// A policy that decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Name.
    pub name: Arc<str>,
    /// Namespace; empty: of the cluster.
    pub namespace: Arc<str>,
    /// Labels of the rule.
    pub labels: Arc<[Arc<str>]>,
    /// Revision of the policies.
    pub revision: u64,
    /// `CiliumNetworkPolicy` …
    pub kind: Arc<str>,
}

/// Type and subtype of the monitor message that the flow is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EventType {
    /// 1 drop, 4 trace, 5 policy verdict, 7 socket, 129 layer 7.
    pub kind: i32,
    /// Observation point of the datapath, drop code, socket point.
    pub subtype: i32,
}

/// Encapsulation of the packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// Kind.
    pub protocol: TunnelProtocol,
    /// Outer addresses.
    pub ip: Option<Ip>,
    /// Outer ports.
    pub l4: Option<Layer4>,
    /// Network identifier.
    pub vni: u32,
}

/// An opaque message of an extension.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extension {
    /// Its type.
    pub type_url: String,
    /// Its bytes.
    pub value: Vec<u8>,
}

/// What few flows have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rare {
    /// `trace_context.parent.trace_id`.
    pub trace_id: Arc<str>,
    /// Name and line of the drop's place in the source.
    pub file: Option<(Arc<str>, u32)>,
    /// Encapsulation.
    pub tunnel: Option<Tunnel>,
    /// Trace number and the kind of the option it came in.
    pub ip_trace_id: Option<(u64, u32)>,
    /// Name and version of the program that made the flow.
    pub emitter: Option<(Arc<str>, Arc<str>)>,
    /// Policies that let it out.
    pub egress_allowed_by: Vec<Policy>,
    /// Policies that let it in.
    pub ingress_allowed_by: Vec<Policy>,
    /// Policies that did not let it out.
    pub egress_denied_by: Vec<Policy>,
    /// Policies that did not let it in.
    pub ingress_denied_by: Vec<Policy>,
    /// `spec.log.value` of the policies.
    pub policy_log: Vec<Arc<str>>,
    /// Ingress, egress and other flows that an exporter put together.
    pub aggregate: Option<(u64, u64, u64)>,
    /// Number of the `DebugCapturePoint`; 0: none.
    pub debug_capture_point: i32,
    /// Extension.
    pub extension: Option<Extension>,
}

/// One packet or request, as somebody saw it at one point.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// When; none: not said.
    pub time: Option<Time>,
    /// Unique number.
    pub uuid: Option<Uuid>,
    /// `cluster/node`, or the node alone in the cluster `default`.
    pub node_name: Arc<str>,
    /// Labels of the node, `key=value`.
    pub node_labels: Arc<[Arc<str>]>,
    /// Kind.
    pub kind: FlowKind,
    /// What became of it.
    pub verdict: Verdict,
    /// Why it was dropped.
    pub drop_reason: Option<DropCode>,
    /// Authentication that policy asks for.
    pub auth_type: AuthType,
    /// Layer 2.
    pub ethernet: Option<Ethernet>,
    /// Layer 3.
    pub ip: Option<Ip>,
    /// Layer 4.
    pub l4: Option<Layer4>,
    /// Layer 7.
    pub l7: Option<Box<Layer7>>,
    /// Sender.
    pub source: Option<Arc<Endpoint>>,
    /// Receiver.
    pub destination: Option<Arc<Endpoint>>,
    /// DNS names of the sender.
    pub source_names: Arc<[Arc<str>]>,
    /// DNS names of the receiver.
    pub destination_names: Arc<[Arc<str>]>,
    /// Service at the sender's address and port.
    pub source_service: Option<Arc<Service>>,
    /// Service at the receiver's address and port.
    pub destination_service: Option<Arc<Service>>,
    /// Whether it answers; none: unknown. The API's deprecated `reply` is `is_reply == Some(true)`.
    pub is_reply: Option<bool>,
    /// Direction.
    pub direction: TrafficDirection,
    /// Monitor message.
    pub event_type: EventType,
    /// How the policy matched: 0 none, 1 L3-Only, 2 L3-L4, 3 L4-Only, 4 all, 5 L3-Proto, 6 Proto-Only.
    pub policy_match_type: u32,
    /// Where a trace was made.
    pub observation_point: ObservationPoint,
    /// What conntrack said.
    pub trace_reason: TraceReason,
    /// Device: index and name.
    pub interface: Option<(u32, Arc<str>)>,
    /// Port of the proxy it went to.
    pub proxy_port: u32,
    /// Where a socket's address was seen.
    pub socket_point: SocketPoint,
    /// Cookie of the socket.
    pub socket_cookie: u64,
    /// cgroup of the socket.
    pub cgroup_id: u64,
    /// What people read at the end of the line.
    pub summary: Summary,
    /// What few flows have.
    pub rare: Option<Box<Rare>>,
}

impl Flow {
    /// Bytes that the flow takes for itself, about; what it shares with others is not counted.
    #[must_use]
    pub fn size(&self) -> usize {
        let text = match &self.summary {
            Summary::Text(text) => text.len(),
            _ => 0,
        };
        let rare = self.rare.as_ref().map_or(0, |rare| {
            let policies = [
                &rare.egress_allowed_by,
                &rare.ingress_allowed_by,
                &rare.egress_denied_by,
                &rare.ingress_denied_by,
            ];
            let policies: usize = policies.iter().map(|list| list.len()).sum();
            size_of::<Rare>() + policies * size_of::<Policy>()
        });
        let l7 = self.l7.as_ref().map_or(0, |l7| l7.size());
        size_of::<Self>() + text + rare + l7
    }
}
