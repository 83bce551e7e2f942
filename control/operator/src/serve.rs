//! `/healthz` and `/metrics`.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use k8s::Cluster;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::options::Options;

type Server = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// Listens on the configured addresses; the servers run until `stop`.
pub(crate) async fn servers(
    options: &Options,
    metrics: &Arc<Metrics>,
    cluster: &Cluster,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<Server>> {
    let mut servers: Vec<Server> = Vec::new();
    if let Some(addr) = options.api {
        servers.push(server(addr, health(cluster.clone()), stop.clone()).await?);
    }
    if let Some(addr) = options.metrics {
        servers.push(server(addr, prometheus(Arc::clone(metrics)), stop.clone()).await?);
    }
    Ok(servers)
}

async fn server(addr: SocketAddr, router: Router, stop: CancellationToken) -> anyhow::Result<Server> {
    let listener = TcpListener::bind(addr)
        .await
        .with_context(|| format!("cannot listen on {addr}"))?;
    tracing::debug!(%addr, "listening");
    Ok(Box::pin(async move {
        axum::serve(listener, router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
            .context("the server failed")
    }))
}

/// Healthy means that the API server answers: without it the operator can do nothing.
fn health(cluster: Cluster) -> Router {
    let handler = move || {
        let cluster = cluster.clone();
        async move {
            match cluster.version().await {
                Ok(_) => (StatusCode::OK, "ok\n".to_owned()),
                Err(error) => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("{:#}\n", anyhow::Error::new(error)),
                ),
            }
        }
    };
    Router::new()
        .route("/healthz", get(handler.clone()))
        .route("/v1/healthz", get(handler))
}

fn prometheus(metrics: Arc<Metrics>) -> Router {
    let handler = move || {
        let metrics = Arc::clone(&metrics);
        async move {
            match metrics.encode() {
                Ok(text) => {
                    let kind = [(
                        header::CONTENT_TYPE,
                        "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    )];
                    (kind, text).into_response()
                }
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
            }
        }
    };
    Router::new().route("/metrics", get(handler))
}
