//! Routes. Ours carry our own protocol number, by which they are told from everybody else's.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

use crate::{Netlink, NetlinkError, RouteChange};

/// Protocol number of the routes we install. Numbers above 4 are not interpreted by the kernel; this one is free in
/// `include/uapi/linux/rtnetlink.h` (6.18) and in iproute2's `rt_protos`.
pub const PROTOCOL: u8 = 83;

/// The main routing table.
pub const TABLE_MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// Metric that the kernel gives to IPv6 routes without one (`IP6_RT_PRIO_USER`).
const DEFAULT_METRIC_V6: u32 = 1024;

/// A unicast route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// Destinations.
    pub destination: IpNet,
    /// Next hop; `None`: on the link.
    pub via: Option<IpAddr>,
    /// Index of the device.
    pub device: u32,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// The lowest wins; 1024 is what IPv6 routes have by default, 0 IPv4 routes.
    pub metric: u32,
    /// Path MTU for the route, bytes; `None`: the device's.
    pub mtu: Option<u32>,
    /// Routing table.
    pub table: u32,
    /// Who installed it; [`PROTOCOL`] for our own.
    pub protocol: u8,
}

impl Route {
    /// One of our routes in the main table, with the kernel's default metric.
    #[must_use]
    pub fn new(destination: IpNet, device: u32) -> Self {
        let metric = if destination.addr().is_ipv6() {
            DEFAULT_METRIC_V6
        } else {
            0
        };
        Self {
            destination: destination.trunc(),
            via: None,
            device,
            source: None,
            metric,
            mtu: None,
            table: TABLE_MAIN,
            protocol: PROTOCOL,
        }
    }

    /// The default route of the family of `via`.
    #[must_use]
    pub fn default_via(via: IpAddr, device: u32) -> Self {
        let everything = match via {
            IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
            IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
        };
        Self {
            via: Some(via),
            ..Self::new(everything, device)
        }
    }

    /// Matches everything.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0
    }

    fn parse(message: &RouteMessage) -> Vec<Self> {
        let header = &message.header;
        let cached = header.flags.contains(RouteFlags::Cloned);
        if header.kind != RouteType::Unicast || cached || header.source_prefix_length != 0 {
            return Vec::new();
        }
        let unspecified = match header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return Vec::new(),
        };
        let mut destination = unspecified;
        let mut route = Self {
            metric: 0,
            table: u32::from(header.table),
            protocol: header.protocol.into(),
            ..Self::default_via(unspecified, 0)
        };
        route.via = None;
        let mut hops = Vec::new();
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => destination = ip(address).unwrap_or(destination),
                RouteAttribute::Gateway(address) => route.via = ip(address),
                RouteAttribute::Via(RouteVia::Inet6(address)) => route.via = Some(IpAddr::V6(*address)),
                RouteAttribute::PrefSource(address) => route.source = ip(address),
                RouteAttribute::Oif(index) => route.device = *index,
                RouteAttribute::Priority(metric) => route.metric = *metric,
                RouteAttribute::Table(table) => route.table = *table,
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                RouteAttribute::MultiPath(all) => hops.clone_from(all),
                _ => {}
            }
        }
        let Ok(net) = IpNet::new(destination, header.destination_prefix_length) else {
            return Vec::new();
        };
        route.destination = net;
        if hops.is_empty() {
            return vec![route];
        }
        // One route per next hop: whoever asks wants to know the devices.
        let via = |hop: &[RouteAttribute]| {
            hop.iter().find_map(|attribute| match attribute {
                RouteAttribute::Gateway(address) => ip(address),
                _ => None,
            })
        };
        hops.iter()
            .map(|hop| Self {
                via: via(&hop.attributes),
                device: hop.interface_index,
                ..route.clone()
            })
            .collect()
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = match self.destination {
            IpNet::V4(_) => AddressFamily::Inet,
            IpNet::V6(_) => AddressFamily::Inet6,
        };
        message.header.destination_prefix_length = self.destination.prefix_len();
        message.header.protocol = RouteProtocol::from(self.protocol);
        message.header.kind = RouteType::Unicast;
        let on_link = self.via.is_none() && self.destination.addr().is_ipv4();
        message.header.scope = if on_link {
            RouteScope::Link
        } else {
            RouteScope::Universe
        };
        // The header has one byte; the attribute carries the whole number.
        message.header.table = u8::try_from(self.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Table(self.table));
        attributes.push(RouteAttribute::Destination(self.destination.network().into()));
        attributes.push(RouteAttribute::Oif(self.device));
        if self.metric != 0 {
            attributes.push(RouteAttribute::Priority(self.metric));
        }
        match (self.via, self.destination) {
            (Some(IpAddr::V6(via)), IpNet::V4(_)) => {
                attributes.push(RouteAttribute::Via(RouteVia::Inet6(via)));
            }
            (Some(via), _) => attributes.push(RouteAttribute::Gateway(via.into())),
            (None, _) => {}
        }
        if let Some(source) = self.source {
            attributes.push(RouteAttribute::PrefSource(source.into()));
        }
        if let Some(mtu) = self.mtu {
            attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        }
        message
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        write!(f, " dev {}", self.device)?;
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        write!(f, " metric {}", self.metric)?;
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        if self.table != TABLE_MAIN {
            write!(f, " table {}", self.table)?;
        }
        Ok(())
    }
}

impl Netlink {
    /// All unicast routes of the namespace, both families, all tables, whoever installed them.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub async fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let answers = self
            .dump(
                "list routes",
                RouteNetlinkMessage::GetRoute(RouteMessage::default()),
            )
            .await?;
        Ok(answers
            .iter()
            .flat_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) => Route::parse(message),
                _ => Vec::new(),
            })
            .collect())
    }

    /// The routes that carry our protocol number.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub async fn our_routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = self.routes().await?;
        routes.retain(|route| route.protocol == PROTOCOL);
        Ok(routes)
    }

    /// Adds a route.
    ///
    /// # Errors
    /// [`NetlinkError::is_exists`] when there is one with this destination, metric and table already.
    pub async fn add_route(&self, route: &Route) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewRoute(route.message());
        self.change(
            "add route",
            || route.to_string(),
            message,
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .await
    }

    /// Puts a route in the place of the one with the same destination, metric and table, whoever owns that; adds it
    /// when there is none. No packet sees a moment without a route.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub async fn replace_route(&self, route: &Route) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewRoute(route.message());
        self.change(
            "replace route",
            || route.to_string(),
            message,
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        .await
    }

    /// Deletes exactly this route (protocol, device and next hop included). `Ok(false)`: it was not there.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub async fn delete_route(&self, route: &Route) -> Result<bool, NetlinkError> {
        let message = RouteNetlinkMessage::DelRoute(route.message());
        match self
            .change("delete route", || route.to_string(), message, 0)
            .await
        {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Applies planned changes; goes on after a failure and returns every change that failed.
    pub async fn apply_routes(&self, changes: Vec<RouteChange>) -> Vec<(RouteChange, NetlinkError)> {
        let mut failed = Vec::new();
        for change in changes {
            let result = match &change {
                RouteChange::Add(route) => self.add_route(route).await,
                RouteChange::Replace { new, .. } => self.replace_route(new).await,
                RouteChange::Delete(route) => self.delete_route(route).await.map(drop),
            };
            if let Err(error) = result {
                failed.push((change, error));
            }
        }
        failed
    }

    /// The devices of the default routes, IPv6 first: the ones that lead to other nodes.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub async fn default_devices(&self) -> Result<Vec<u32>, NetlinkError> {
        Ok(crate::default_devices(&self.routes().await?))
    }
}
