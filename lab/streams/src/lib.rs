//! The server side of Kubernetes' streaming requests: exec, attach and port-forward over WebSocket and over SPDY/3.1.
//!
//! First [`handshake::negotiate`] on the request's headers, then [`RemoteCommand::accept`] or [`PortForward::accept`] on the
//! upgraded connection. Codecs (`spdy::frame`, `spdy::headers`, `channel`, `status`) are pure and take any bytes.
//! Knows no Kubernetes object and no HTTP library; may be imported by the lab's servers.

pub mod channel;
mod forward;
#[doc(hidden)]
pub mod fuzz;
pub mod handshake;
mod remote;
pub mod spdy;
mod status;
mod websocket;

pub use forward::{Forwarded, PortForward, WrongProtocol, refuse};
pub use handshake::{Handshake, HandshakeError, Protocol, Purpose, negotiate};
pub use remote::{AcceptError, RemoteCommand, TerminalSize, Wanted};
pub use status::Outcome;
