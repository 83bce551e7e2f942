//! Requests that a kubelet answers: exec, attach, port-forward and logs are passed to its unix socket unchanged,
//! upgrades included, and the bytes of upgraded connections are copied both ways.

use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::api::{Api, Target};
use crate::client::Object;
use crate::http::Body;
use crate::object::{self, items};
use crate::rest::Query;
use crate::status::Status;

/// Time for a kubelet to accept a connection, and to send the head of its answer.
const CONNECT: Duration = Duration::from_secs(5);
const HEAD: Duration = Duration::from_secs(30);
/// Longest refusal of a kubelet that is passed on.
const MAX_REFUSAL: usize = 10 << 10;

/// Passes a request on to the kubelet of the pod's node.
pub(crate) async fn to_kubelet(
    api: &Api,
    target: &Target,
    query: &Query,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let whole = Target {
        subresource: None,
        ..target.clone()
    };
    let pod = api.get(&whole)?;
    let part = target.subresource.as_deref().unwrap_or_default();
    let method = request.method().as_str();
    if !(method == "GET" || method == "POST" && part != "log") {
        return Err(Status::method_not_allowed());
    }
    let path = kubelet_path(part, &pod, query)?;
    let node = match pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
        Some(node) => node,
        None if part == "log" => return Ok(crate::http::answer(200, "text/plain", "")),
        None => {
            return Err(Status::bad_request(format!(
                "pod {} does not have a host assigned",
                target.name()
            )));
        }
    };
    let socket = (api.kubelets)(node)
        .ok_or_else(|| Status::internal(format!("no kubelet is known for node {node:?}")))?;

    let upgrade = request
        .headers()
        .contains_key(UPGRADE)
        .then(|| hyper::upgrade::on(&mut request));
    let (mut head, body) = request.into_parts();
    head.uri = path
        .parse()
        .map_err(|e| Status::bad_request(format!("the request cannot be passed on: {e}")))?;
    head.version = hyper::Version::HTTP_11;
    head.headers.insert(HOST, HeaderValue::from_static("kubelet"));
    // The credential is for this server, not for the kubelet.
    head.headers.remove(AUTHORIZATION);
    let mut response = send(&socket, node, Request::from_parts(head, body)).await?;
    if part == "log" && !response.status().is_success() {
        return Err(refusal(response).await);
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(ours) = upgrade else {
            return Err(Status::internal(
                "the kubelet upgraded a connection without being asked to",
            ));
        };
        let theirs = hyper::upgrade::on(&mut response);
        // Ends when either side closes: the API server's connection task owns `ours`, the kubelet `theirs`.
        tokio::spawn(async move {
            match tokio::try_join!(ours, theirs) {
                Ok((ours, theirs)) => {
                    let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
                    let _ = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await;
                }
                Err(error) => tracing::debug!(%error, "API server: upgrade"),
            }
        });
    }
    // A body that breaks off ends; there is no way to say more at that point.
    Ok(response.map(|body| {
        let frames = futures::stream::unfold(body, |mut body| async move {
            match body.frame().await {
                Some(Ok(frame)) => Some((Ok(frame), body)),
                Some(Err(error)) => {
                    tracing::debug!(%error, "API server: a kubelet's answer broke off");
                    None
                }
                None => None,
            }
        });
        http_body_util::StreamBody::new(frames).boxed_unsync()
    }))
}

/// What a kubelet says against a request for logs, as the API server words it.
async fn refusal(response: Response<Incoming>) -> Status {
    let code = response.status();
    let body = Limited::new(response.into_body(), MAX_REFUSAL).collect();
    let text = match tokio::time::timeout(CONNECT, body).await {
        Ok(Ok(body)) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        _ => code.to_string(),
    };
    match code {
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => Status::bad_request(text),
        _ => Status::internal(text),
    }
}

async fn send(socket: &Path, node: &str, request: Request<Incoming>) -> Result<Response<Incoming>, Status> {
    let unreachable =
        |why: String| Status::internal(format!("error dialing backend: kubelet of node {node:?}: {why}"));
    let stream = match tokio::time::timeout(CONNECT, UnixStream::connect(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(unreachable(error.to_string())),
        Err(_) => return Err(unreachable("timed out".into())),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| unreachable(e.to_string()))?;
    // Lives as long as the connection; it ends with it.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "API server: connection to a kubelet");
        }
    });
    match tokio::time::timeout(HEAD, sender.send_request(request)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(unreachable(error.to_string())),
        Err(_) => Err(unreachable("no answer in time".into())),
    }
}

fn kubelet_path(part: &str, pod: &Object, query: &Query) -> Result<String, Status> {
    let (namespace, name) = (object::namespace(pod), object::name(pod));
    let mut out = match part {
        "portforward" => format!("/portForward/{namespace}/{name}"),
        _ => {
            let container = container(pod, query.text("container"))?;
            let verb = if part == "log" { "containerLogs" } else { part };
            format!("/{verb}/{namespace}/{name}/{container}")
        }
    };
    let mut pairs = form_urlencoded::Serializer::new(String::new());
    for (key, value) in query.pairs().iter().filter(|(key, _)| key != "container") {
        pairs.append_pair(key, value);
    }
    let pairs = pairs.finish();
    if !pairs.is_empty() {
        out.push('?');
        out.push_str(&pairs);
    }
    Ok(out)
}

/// The container that is meant.
fn container(pod: &Value, asked: &str) -> Result<String, Status> {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let names = |list: &str| {
        items(&pod["spec"][list])
            .iter()
            .filter_map(|c| c["name"].as_str())
    };
    let all: Vec<&str> = lists.iter().flat_map(|list| names(list)).collect();
    let own = names("containers").collect::<Vec<_>>();
    let name = object::name(pod);
    if !asked.is_empty() {
        return match all.contains(&asked) {
            true => Ok(asked.to_owned()),
            false => Err(Status::bad_request(format!(
                "container {asked} is not valid for pod {name}"
            ))),
        };
    }
    let preferred = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    match (preferred.filter(|p| all.contains(p)), own.as_slice()) {
        (Some(container), _) => Ok(container.to_owned()),
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) => Err(Status::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            own.join(" ")
        ))),
    }
}
