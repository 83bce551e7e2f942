//! The REST socket: what the agent knows and measures, and the requests of the CNI plugin.

mod dump;
mod nat;
mod running;
mod services;
mod sizes;
mod status;
mod tables;

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use api::cni::{AddRequest, Attachment, CheckRequest, GcRequest, code};
use api::monitor::Event;
use api::objects::{ConfigurationSpec, ConfigurationStatus, DaemonConfiguration};
use api::tables::TranslationsOf;
use api::{ApiError, path};
use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::broadcast::error::RecvError;

use crate::agent::{Agent, VERSION};
use crate::endpoints::CniError;
use crate::metrics;

/// Listens on `socket`, in place of whatever was left there.
pub(crate) fn bind(socket: &Path) -> anyhow::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(directory) = socket.parent() {
        std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing the old socket {}", socket.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(socket).with_context(|| format!("listening on {}", socket.display()))?;
    listener.set_nonblocking(true)?;
    // Whoever may talk to the agent may attach devices to namespaces.
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// All paths.
pub(crate) fn router(agent: Arc<Agent>) -> Router {
    Router::new()
        .route(
            path::HEALTHZ,
            get(async |State(agent): State<Arc<Agent>>| Json(status::status(&agent).await)),
        )
        .route(
            path::ENDPOINT,
            get(async |State(agent): State<Arc<Agent>>| answer(tables::endpoints(&agent).await)),
        )
        .route("/v1/endpoint/{id}", get(endpoint))
        .route(
            path::IP,
            get(async |State(agent): State<Arc<Agent>>| Json(tables::addresses(&agent))),
        )
        .route(
            path::IDENTITY,
            get(async |State(agent): State<Arc<Agent>>| Json(tables::identities(&agent))),
        )
        .route("/v1/identity/{id}", get(identity))
        .route(
            path::IPAM,
            get(async |State(agent): State<Arc<Agent>>| Json(status::ipam(&agent))),
        )
        .route(
            path::MAP,
            get(async |State(agent): State<Arc<Agent>>| read(agent, tables::maps).await),
        )
        .route(
            path::NODE,
            get(async |State(agent): State<Arc<Agent>>| Json(tables::nodes(&agent))),
        )
        .route(
            path::CONFIG,
            get(async |State(agent): State<Arc<Agent>>| answer(configuration(&agent).await)),
        )
        .route(
            path::METRICS,
            get(async |State(agent): State<Arc<Agent>>| Json(metrics::collect(&agent))),
        )
        .route(
            path::BPF_CT,
            get(async |State(agent): State<Arc<Agent>>| dump::list(agent, tables::connections).await),
        )
        .route(path::BPF_NAT, get(translations))
        .route(
            path::BPF_IPMASQ,
            get(async |State(agent): State<Arc<Agent>>| read(agent, nat::plain).await),
        )
        .route(
            path::BPF_METRICS,
            get(async |State(agent): State<Arc<Agent>>| read(agent, tables::metrics).await),
        )
        .route(
            path::BPF_IPCACHE,
            get(async |State(agent): State<Arc<Agent>>| read(agent, tables::ipcache).await),
        )
        .route(
            path::BPF_ENDPOINT,
            get(async |State(agent): State<Arc<Agent>>| read(agent, tables::local).await),
        )
        .route(
            path::SERVICE,
            get(async |State(agent): State<Arc<Agent>>| Json(services::services(&agent).await)),
        )
        .route(
            path::BPF_LB,
            get(async |State(agent): State<Arc<Agent>>| read(agent, services::load_balancer).await),
        )
        .route(
            path::MONITOR,
            get(async |State(agent): State<Arc<Agent>>| monitor(&agent)),
        )
        .route(path::CNI_ADD, put(cni_add))
        .route(path::CNI_DEL, put(cni_del))
        .route(path::CNI_CHECK, put(cni_check))
        .route(path::CNI_GC, put(cni_gc))
        .route(path::CNI_STATUS, get(cni_status))
        .fallback(async || refuse(StatusCode::NOT_FOUND, "no such path", 0))
        .with_state(agent)
}

fn refuse(status: StatusCode, error: impl Into<String>, cni_code: u32) -> Response {
    (
        status,
        Json(ApiError {
            error: error.into(),
            cni_code,
        }),
    )
        .into_response()
}

/// An answer that had to be measured.
fn answer<T: Serialize>(measured: anyhow::Result<T>) -> Response {
    match measured {
        Ok(value) => Json(value).into_response(),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"), 0),
    }
}

/// An answer that is read from the kernel. A long table takes a while, which nobody else on this thread should wait for.
async fn read<T: Serialize + Send + 'static>(
    agent: Arc<Agent>,
    from: impl FnOnce(&Agent) -> anyhow::Result<T> + Send + 'static,
) -> Response {
    let found = tokio::task::spawn_blocking(move || from(&agent)).await;
    answer(found.unwrap_or_else(|error| Err(error.into())))
}

async fn translations(State(agent): State<Arc<Agent>>, Query(only): Query<TranslationsOf>) -> Response {
    dump::list(agent, move |agent, list| {
        nat::translations(agent, only.protocol, list)
    })
    .await
}

async fn endpoint(State(agent): State<Arc<Agent>>, UrlPath(id): UrlPath<String>) -> Response {
    match tables::endpoints(&agent).await {
        Ok(all) => match all.into_iter().find(|endpoint| endpoint.id.to_string() == id) {
            Some(endpoint) => Json(endpoint).into_response(),
            None => refuse(StatusCode::NOT_FOUND, format!("there is no endpoint {id}"), 0),
        },
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"), 0),
    }
}

async fn identity(State(agent): State<Arc<Agent>>, UrlPath(id): UrlPath<String>) -> Response {
    match tables::identities(&agent)
        .into_iter()
        .find(|identity| identity.id.to_string() == id)
    {
        Some(identity) => Json(identity).into_response(),
        None => refuse(StatusCode::NOT_FOUND, format!("there is no identity {id}"), 0),
    }
}

async fn configuration(agent: &Agent) -> anyhow::Result<DaemonConfiguration> {
    let device_sizes = sizes::device_sizes(agent).await?;
    let (gro_max_size, gso_max_size) = sizes::of_pods(&device_sizes);
    Ok(DaemonConfiguration {
        spec: ConfigurationSpec {
            options: agent.config.raw.clone(),
            unknown: agent.warnings.clone(),
        },
        status: ConfigurationStatus {
            datapath_mode: "veth".to_owned(),
            device_mtu: agent.mtu,
            gro_max_size,
            gso_max_size,
            device_sizes,
            node_name: agent.node.clone(),
            version: VERSION.to_owned(),
        },
    })
}

/// Events from now on, a JSON object per line. A reader that is slow loses its own and is told how many.
fn monitor(agent: &Agent) -> Response {
    let events = agent.events.clone();
    let lines = futures::stream::unfold((events.listen(), events), |(mut listener, events)| async move {
        let event = match listener.recv().await {
            Ok(event) => Event::clone(&event),
            Err(RecvError::Lagged(number)) => {
                events.missed(number);
                Event {
                    kind: "lost".to_owned(),
                    lost: number,
                    ..Event::default()
                }
            }
            Err(RecvError::Closed) => return None,
        };
        let line = serde_json::to_vec(&event).map(|mut line| {
            line.push(b'\n');
            Bytes::from(line)
        });
        Some((line, (listener, events)))
    });
    Body::from_stream(lines).into_response()
}

/// A CNI request: a body of the right shape, and an error in the words of the specification.
async fn cni<B, T, F>(body: Bytes, work: impl FnOnce(B) -> F) -> Response
where
    B: DeserializeOwned,
    T: Serialize,
    F: Future<Output = Result<T, CniError>>,
{
    let request = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                format!("the request: {error}"),
                code::DECODE,
            );
        }
    };
    match work(request).await {
        Ok(value) => Json(value).into_response(),
        Err(error) => {
            let cni_code = error.code();
            let status = if cni_code == code::EXISTS {
                StatusCode::CONFLICT
            } else {
                StatusCode::INTERNAL_SERVER_ERROR
            };
            refuse(status, format!("{:#}", anyhow::Error::from(error)), cni_code)
        }
    }
}

async fn cni_add(State(agent): State<Arc<Agent>>, body: Bytes) -> Response {
    // On a task of its own: a plugin that is killed halfway must not leave half an endpoint.
    let add = move |request: AddRequest| async move {
        let work = tokio::spawn(async move { agent.endpoints.add(&request).await });
        work.await.unwrap_or(Err(CniError::Stopping))
    };
    cni(body, add).await
}

async fn cni_del(State(agent): State<Arc<Agent>>, body: Bytes) -> Response {
    let delete = move |attachment: Attachment| async move {
        let work = tokio::spawn(async move { agent.endpoints.delete(&attachment).await });
        work.await.unwrap_or(Err(CniError::Stopping))
    };
    cni(body, delete).await
}

async fn cni_check(State(agent): State<Arc<Agent>>, body: Bytes) -> Response {
    cni(body, |request: CheckRequest| async move {
        agent.endpoints.check(&request).await
    })
    .await
}

async fn cni_gc(State(agent): State<Arc<Agent>>, body: Bytes) -> Response {
    let collect = move |request: GcRequest| async move {
        let work = tokio::spawn(async move { agent.endpoints.collect(&request.valid).await });
        work.await.unwrap_or(Err(CniError::Stopping))
    };
    cni(body, collect).await
}

async fn cni_status(State(agent): State<Arc<Agent>>) -> Response {
    if let Some(why) = agent.why_not_ready() {
        return refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the agent is {why}"),
            code::NOT_AVAILABLE,
        );
    }
    let now = crate::endpoints::now();
    let full = agent
        .endpoints
        .store()
        .ipam
        .usage(now)
        .iter()
        .all(|usage| usage.used + usage.resting >= usage.capacity);
    if full {
        return refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "no address is left on the node",
            code::NOT_AVAILABLE,
        );
    }
    Json(serde_json::json!({})).into_response()
}
