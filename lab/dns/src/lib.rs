//! The cluster's name server: a small server in CoreDNS's place, for machines that have no CoreDNS.
//!
//! It watches services, EndpointSlices, namespaces and (if asked to) pods, and answers for the cluster's domain and the
//! reverse zones as the Kubernetes DNS specification 1.1.0 says. Other names go upstream, if there is an upstream.
//! It is configured by the part of a Corefile that it understands ([`corefile`]).
//!
//! [`index`], [`zone`], `answer`, [`wire`] and [`corefile`] are pure: they know neither clock nor socket.

mod answer;
mod args;
mod convert;
pub mod corefile;
#[doc(hidden)]
pub mod fuzz;
pub mod index;
mod metrics;
mod serve;
mod server;
mod status;
mod upstream;
mod watch;
pub mod wire;
pub mod zone;

pub use args::Args;
pub use serve::run;
