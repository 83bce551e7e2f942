//! What probes and Prometheus ask for, over HTTP.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use anyhow::Context as _;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::corefile::Config;
use crate::server::Server;

/// Whether the server is to be asked.
#[derive(Debug, Clone)]
pub(crate) struct Readiness {
    /// One mark for each watch
    pub(crate) synced: Vec<Arc<AtomicBool>>,
    /// It was told to end
    pub(crate) leaving: Arc<AtomicBool>,
}

impl Readiness {
    /// Whether everything has been listed once.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced.iter().all(|synced| synced.load(Ordering::Acquire))
    }

    fn answer(&self) -> (StatusCode, &'static str) {
        if self.leaving.load(Ordering::Acquire) {
            (StatusCode::SERVICE_UNAVAILABLE, "leaving")
        } else if self.is_synced() {
            (StatusCode::OK, "OK")
        } else {
            // As CoreDNS: the name of what is not ready.
            (StatusCode::SERVICE_UNAVAILABLE, "kubernetes")
        }
    }
}

/// Starts what the configuration asks for.
///
/// # Errors
/// An address cannot be listened at.
pub(crate) async fn start(
    config: &Config,
    server: &Arc<Server>,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    if let Some((address, _)) = config.health {
        serve(address, Router::new().route("/health", get(async || "OK")), tasks).await?;
    }
    if let Some(address) = config.ready {
        let readiness = server.readiness.clone();
        let route = get(async move || readiness.answer());
        serve(address, Router::new().route("/ready", route), tasks).await?;
    }
    if let Some(address) = config.prometheus {
        let server = server.clone();
        let route = get(async move || {
            let sizes = server
                .index
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .sizes();
            let kind = (
                axum::http::header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            );
            ([kind], server.metrics.text(sizes))
        });
        serve(address, Router::new().route("/metrics", route), tasks).await?;
    }
    Ok(())
}

async fn serve(address: SocketAddr, router: Router, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen at {address}"))?;
    tasks.spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, %address, "no longer listening");
        }
    });
    Ok(())
}
