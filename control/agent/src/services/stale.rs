//! Connected UDP sockets whose backend has gone from its service.
//!
//! Nobody tells them, and there is no packet to translate: they would send into the void for as long as they live. They are
//! closed, in the namespaces of the node and of its pods, so that the program's next call fails and it connects anew. A
//! socket that a program connected to the very same address and port without the service is closed with them: the kernel
//! does not list what was asked for.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddrV6};

use anyhow::Context;
use model::EndpointState;
use model::addr::from_abi;
use netlink::{Netns, close_datagram_sockets};

use super::Services;

impl Services {
    /// Closes what is connected to backends that went since the last call. Goes on after a failure and reports the first.
    ///
    /// # Errors
    /// When sockets of a namespace could not be closed; they are tried again next time.
    pub(crate) async fn close_stale(&self) -> anyhow::Result<()> {
        let stale = {
            let mut state = self.state.lock().await;
            let mut stale = std::mem::take(&mut state.stale);
            // One that came back meanwhile is no longer stale.
            stale.retain(|(addr, port)| !state.installed.is_member(*addr, *port));
            stale
        };
        let peers = stale.iter().filter_map(|(addr, port)| match from_abi(*addr) {
            IpAddr::V6(ip) => Some(SocketAddrV6::new(ip, u16::from_be_bytes(*port), 0, 0)),
            IpAddr::V4(_) => None,
        });
        let peers: BTreeSet<SocketAddrV6> = peers.collect();
        if peers.is_empty() {
            return Ok(());
        }
        let mut outcome = self.close_in(&Netns::current()?, &peers).await;
        let endpoints = self.endpoints.store().all();
        for endpoint in endpoints {
            if endpoint.state == EndpointState::Disconnecting {
                continue;
            }
            // A pod that is just going takes its sockets with it.
            if let Ok(netns) = Netns::open(&endpoint.netns) {
                outcome = outcome.and(self.close_in(&netns, &peers).await);
            }
        }
        if outcome.is_err() {
            self.state.lock().await.stale.extend(stale);
        }
        outcome
    }

    async fn close_in(&self, netns: &Netns, peers: &BTreeSet<SocketAddrV6>) -> anyhow::Result<()> {
        let closed = close_datagram_sockets(netns, peers.clone())
            .await
            .with_context(|| {
                format!(
                    "closing sockets of removed backends in {}",
                    netns.path().display()
                )
            })?;
        if closed > 0 {
            tracing::info!(closed, netns = %netns.path().display(), "UDP sockets of removed backends closed");
        }
        Ok(())
    }
}
