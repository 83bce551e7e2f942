//! `healthCheckNodePort`: balancers in front of the nodes ask each one whether it has endpoints of a service.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use model::service::HealthCheck;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::Services;

/// What balancers may ask about, by port.
pub(crate) type Checks = BTreeMap<u16, HealthCheck>;

/// A port that could not be opened is tried again after this.
const RETRY: Duration = Duration::from_secs(10);

/// Keeps a server at each port that a service has.
pub(crate) async fn serve(services: Arc<Services>) -> anyhow::Result<()> {
    let mut checks = services.checks();
    let mut servers: BTreeMap<u16, AbortOnDropHandle<()>> = BTreeMap::new();
    loop {
        let wanted: Vec<u16> = checks.borrow_and_update().keys().copied().collect();
        servers.retain(|port, server| wanted.contains(port) && !server.is_finished());
        let mut failed = false;
        for port in wanted {
            if servers.contains_key(&port) {
                continue;
            }
            match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
                Ok(listener) => {
                    let router = router(port, checks.clone());
                    let server = async move {
                        // It ends with its port; an accept that fails is tried again by axum itself.
                        let _ = axum::serve(listener, router).await;
                    };
                    servers.insert(port, AbortOnDropHandle::new(tokio::spawn(server)));
                }
                Err(error) => {
                    tracing::warn!(port, %error, "health check port of a service cannot be opened");
                    failed = true;
                }
            }
        }
        tokio::select! {
            changed = checks.changed() => changed?,
            () = tokio::time::sleep(RETRY), if failed => {}
        }
    }
}

/// Any path, as with kube-proxy.
fn router(port: u16, checks: watch::Receiver<Checks>) -> Router {
    Router::new().fallback(get(async move || answer(checks.borrow().get(&port))))
}

/// The words of kube-proxy (`pkg/proxy/healthcheck/service_health.go`).
fn answer(check: Option<&HealthCheck>) -> impl IntoResponse + use<> {
    let Some(HealthCheck {
        service,
        local_endpoints,
    }) = check
    else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let status = if *local_endpoints == 0 {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    let weight = local_endpoints.to_string();
    let body = json!({
        "service": {"namespace": service.namespace, "name": service.name},
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": true,
    });
    let headers = [
        (CONTENT_TYPE, "application/json".to_owned()),
        (
            HeaderName::from_static("x-content-type-options"),
            "nosniff".to_owned(),
        ),
        (
            HeaderName::from_static("x-load-balancing-endpoint-weight"),
            weight,
        ),
    ];
    (status, headers, Json(body)).into_response()
}
