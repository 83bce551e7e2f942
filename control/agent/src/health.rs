//! The TCP servers: `/healthz` on the loopback addresses for the kubelet, `/metrics` for Prometheus.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse as _;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::agent::Agent;
use crate::metrics;

/// Serves `/healthz` on both loopback addresses, as far as the node has them.
pub(crate) async fn serve_health(agent: Arc<Agent>, port: u16) -> anyhow::Result<()> {
    let health = async move |headers: HeaderMap| match agent.why_not_ready() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        // To be started again does not help an agent that waits for the API server, and serves its pods meanwhile.
        Some(why) if is_alive_enough(&headers) => (StatusCode::OK, format!("{why}\n")),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    };
    let router = Router::new().route("/healthz", get(health));
    let v6 = TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await;
    let v4 = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await;
    let context = || format!("listening on port {port} of the loopback addresses");
    match (v6, v4) {
        (Ok(v6), Ok(v4)) => tokio::try_join!(
            axum::serve(v6, router.clone()).into_future(),
            axum::serve(v4, router).into_future()
        )
        .map(drop)
        .with_context(context),
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => axum::serve(one, router).await.with_context(context),
        (Err(error), Err(_)) => Err(error).with_context(context),
    }
}

/// Whether the probe asks for no more than a process that serves: the header of Cilium's liveness probe.
fn is_alive_enough(headers: &HeaderMap) -> bool {
    headers
        .get("require-k8s-connectivity")
        .is_some_and(|value| value == "false")
}

/// Serves `/metrics`.
pub(crate) async fn serve_metrics(agent: Arc<Agent>, address: SocketAddr) -> anyhow::Result<()> {
    let collect = async move || match metrics::text(metrics::collect(&agent)) {
        Ok(text) => ([(CONTENT_TYPE, metrics::TEXT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    };
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address}"))?;
    axum::serve(listener, Router::new().route("/metrics", get(collect)))
        .await
        .context("serving metrics")
}
