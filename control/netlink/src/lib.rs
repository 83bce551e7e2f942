//! Links, addresses, routes, neighbours and sysctls of network namespaces: observe and apply.
//!
//! The only crate that knows rtnetlink, netlink-packet-route and netlink-sys. Its callers are the agent, the lab and the bench;
//! it imports none of our crates.
//!
//! A [`Netlink`] is a socket bound to one network namespace for good; [`Netlink::open_in`] opens it inside another
//! namespace without ever moving the calling thread. Every request has a deadline ([`DEADLINE`]).
//! What a whole set of routes should be is decided by a pure function ([`plan_routes`]) and applied by
//! [`Netlink::apply_routes`]; only routes of our own protocol number ([`PROTOCOL`]) are ever touched.

mod address;
mod datagram;
mod error;
mod filter;
mod handle;
mod link;
mod monitor;
mod neighbour;
mod netns;
mod plan;
mod pod;
mod route;
mod sysctl;

pub use address::Address;
pub use datagram::{DatagramError, close_datagram_sockets};
pub use error::NetlinkError;
pub use filter::{Filter, FilterDirection};
pub use handle::{DEADLINE, Netlink};
pub use link::{InvalidMac, Link, LinkSizes, Mac, VethEnd};
pub use monitor::{Monitor, MonitorEvent};
pub use neighbour::Neighbour;
pub use netns::{Netns, NetnsError};
pub use plan::{RouteChange, default_devices, plan_routes};
pub use pod::{PodError, PodLink, PodNetwork, link_pod, raise_pod};
pub use route::{PROTOCOL, Route, TABLE_MAIN};
pub use sysctl::{SysctlError, Sysctls};
