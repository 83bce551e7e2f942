//! What the kubelet serves on its socket: exec, attach, port-forward and logs for the API server, and a little about itself.

use std::{
    collections::HashMap, convert::Infallible, fmt::Write as _, path::Path, sync::Arc, time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Container;
use lab_streams::{PortForward, Protocol, Purpose, RemoteCommand, Wanted, negotiate, refuse};
use tokio::{
    net::UnixListener,
    sync::{Semaphore, mpsc},
};
use tracing::{debug, warn};

use crate::{
    context::{ContainerView, Context, PodView},
    dial, exec, log_reader,
    logs::{Options, Stream},
    pod::termination,
};

type Body = UnsyncBoxBody<Bytes, Infallible>;
type Query = HashMap<String, Vec<String>>;

/// Connections served at a time.
const MAX_CONNECTIONS: usize = 256;
/// How long a client may take to send a request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// How long a port-forward may take to say good-bye.
const FINISH_WITHIN: Duration = Duration::from_secs(5);
/// Connections through one port-forward at a time.
const MAX_FORWARDED: usize = 256;

/// Binds the socket; a socket that an earlier kubelet left is replaced.
pub(crate) fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    crate::files::remove(path)?;
    UnixListener::bind(path).with_context(|| format!("cannot bind {}", path.display()))
}

/// Serves until dropped.
pub(crate) async fn serve(context: Arc<Context>, listener: UnixListener) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let connection = match listener.accept().await {
            Ok((connection, _)) => connection,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let context = context.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let context = context.clone();
                async move { Ok::<_, Infallible>(answer(context, request).await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_WITHIN)
                .serve_connection(TokioIo::new(connection), service)
                .with_upgrades()
                .await;
            if let Err(error) = served {
                debug!(%error, "connection ended");
            }
            drop(slot);
        });
    }
}

async fn answer(context: Arc<Context>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let parts = path.split('/').skip(1).collect::<Vec<_>>();
    let query = parse_query(request.uri().query().unwrap_or_default());
    match parts.as_slice() {
        ["healthz"] => text(StatusCode::OK, "ok"),
        ["pods"] => pods(&context),
        ["metrics"] => metrics(&context),
        ["containerLogs", namespace, pod, container] => match find(&context, namespace, pod, container) {
            Ok((view, container, state)) => logs(context.clone(), &view, &container, &state, &query),
            Err(why) => text(StatusCode::NOT_FOUND, &why),
        },
        ["exec" | "attach", namespace, pod, container] => {
            let found = find(&context, namespace, pod, container);
            let is_exec = parts.first() == Some(&"exec");
            match found {
                Ok((view, container, state)) => remote_command(
                    context.clone(),
                    request,
                    is_exec,
                    &view,
                    &container,
                    state,
                    &query,
                ),
                Err(why) => text(StatusCode::NOT_FOUND, &why),
            }
        }
        ["portForward", namespace, pod] => {
            let view = context
                .pods()
                .get(&((*namespace).to_owned(), (*pod).to_owned()))
                .cloned();
            match view {
                Some(view) => port_forward(request, &view),
                None => text(
                    StatusCode::NOT_FOUND,
                    &format!("pod {pod} in namespace {namespace} is not on this node"),
                ),
            }
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

/// A container of a pod: its view, its specification, its state.
fn find(
    context: &Context,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Result<(PodView, Container, ContainerView), String> {
    let view = context
        .pods()
        .get(&(namespace.to_owned(), pod.to_owned()))
        .cloned();
    let view =
        view.ok_or_else(|| format!("pod \"{pod}\" not found in namespace \"{namespace}\" on this node"))?;
    let spec = view.pod.spec.clone().unwrap_or_default();
    let mut all = spec
        .containers
        .into_iter()
        .chain(spec.init_containers.unwrap_or_default());
    let found = all.find(|one| one.name == container);
    let found = found.ok_or_else(|| format!("container {container} is not valid for pod {pod}"))?;
    let state = view.containers.get(container).cloned();
    let state = state.unwrap_or(ContainerView {
        running: None,
        attempt: None,
        waiting: None,
    });
    Ok((view, found, state))
}

fn parse_query(query: &str) -> Query {
    let mut map = Query::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        map.entry(unescape(key)).or_default().push(unescape(value));
    }
    map
}

/// Percent-decoding; what is not an escape stays as it is.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        let code = code
            .filter(|_| *first == b'%')
            .and_then(|code| u8::from_str_radix(code, 16).ok());
        bytes.push(code.unwrap_or(if *first == b'+' { b' ' } else { *first }));
        rest = if code.is_some() {
            after.get(2..).unwrap_or_default()
        } else {
            after
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn flag(query: &Query, name: &str) -> bool {
    let last = query.get(name).and_then(|values| values.last());
    last.is_some_and(|value| matches!(value.as_str(), "true" | "1" | "True" | "TRUE" | "t"))
}

fn number(query: &Query, name: &str) -> Result<Option<u64>, String> {
    let Some(value) = query
        .get(name)
        .and_then(|values| values.last())
        .filter(|value| !value.is_empty())
    else {
        return Ok(None);
    };
    value
        .parse()
        .map(Some)
        .map_err(|_| format!("{name} must be a number, not {value:?}"))
}

fn log_options(query: &Query) -> Result<Options, String> {
    let seconds = number(query, "sinceSeconds")?;
    let mut since = seconds.and_then(|seconds| {
        let seconds = SignedDuration::from_secs(i64::try_from(seconds).ok()?);
        Timestamp::now().checked_sub(seconds).ok()
    });
    if let Some(text) = query
        .get("sinceTime")
        .and_then(|values| values.last())
        .filter(|text| !text.is_empty())
    {
        since = Some(
            text.parse()
                .map_err(|_| format!("sinceTime must be a time, not {text:?}"))?,
        );
    }
    let size = |name| -> Result<Option<usize>, String> {
        Ok(number(query, name)?.map(|value| usize::try_from(value).unwrap_or(usize::MAX)))
    };
    let only = match query
        .get("stream")
        .and_then(|values| values.last())
        .map(String::as_str)
    {
        Some("Stdout") => Some(Stream::Stdout),
        Some("Stderr") => Some(Stream::Stderr),
        _ => None,
    };
    Ok(Options {
        follow: flag(query, "follow"),
        tail: size("tailLines")?,
        since,
        timestamps: flag(query, "timestamps"),
        limit: size("limitBytes")?,
        only,
    })
}

fn logs(
    context: Arc<Context>,
    view: &PodView,
    container: &Container,
    state: &ContainerView,
    query: &Query,
) -> Response<Body> {
    let mut options = match log_options(query) {
        Ok(options) => options,
        Err(why) => return text(StatusCode::BAD_REQUEST, &why),
    };
    let pod = view.pod.metadata.name.as_deref().unwrap_or_default();
    let previous = flag(query, "previous");
    let attempt = match (state.attempt, previous) {
        (Some(attempt), false) => Some(attempt),
        (Some(attempt), true) => attempt.checked_sub(1),
        (None, _) => None,
    };
    let Some(attempt) = attempt else {
        let why = match previous {
            true => format!(
                "previous terminated container \"{}\" in pod \"{pod}\" not found",
                container.name
            ),
            false => {
                let why = match state.waiting.as_deref() {
                    Some("ErrImagePull" | "ImagePullBackOff") => "trying and failing to pull image",
                    Some(reason) => reason,
                    None => "ContainerCreating",
                };
                format!(
                    "container \"{}\" in pod \"{pod}\" is waiting to start: {why}",
                    container.name
                )
            }
        };
        return text(StatusCode::BAD_REQUEST, &why);
    };
    let path = context.paths.log(&view.uid, &container.name, attempt);
    let running = state.running.clone().filter(|_| !previous);
    options.follow &= running.is_some();
    let (out, lines) = mpsc::channel::<Bytes>(16);
    tokio::spawn(async move {
        let ended = async {
            if let Some(id) = running {
                termination::ended(&context.paths.container(&id)).await;
            }
        };
        log_reader::send(path, options, ended, out).await;
    });
    let frames = futures::stream::unfold(lines, |mut lines| async move {
        lines
            .recv()
            .await
            .map(|text| (Ok::<_, Infallible>(Frame::data(text)), lines))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(
        "content-type",
        hyper::header::HeaderValue::from_static("text/plain"),
    );
    response
}

/// Agrees on a protocol; the connection is served after the answer is sent.
fn upgrade(
    request: &mut Request<Incoming>,
    purpose: Purpose,
) -> Result<(Response<Body>, Protocol, OnUpgrade), Box<Response<Body>>> {
    let headers = request.headers().clone();
    let values = |name: &str| {
        let values = headers.get_all(name).iter();
        values
            .filter_map(|value| value.to_str().ok())
            .map(str::to_owned)
            .collect()
    };
    let handshake = negotiate(values, purpose).map_err(|error| {
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
        Box::new(text(status, &error.to_string()))
    })?;
    let mut response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    for (name, value) in handshake.headers {
        response = response.header(name, value);
    }
    let response = response
        .body(empty())
        .map_err(|_| Box::new(text(StatusCode::BAD_REQUEST, "bad upgrade headers")))?;
    Ok((response, handshake.protocol, hyper::upgrade::on(request)))
}

fn remote_command(
    context: Arc<Context>,
    mut request: Request<Incoming>,
    is_exec: bool,
    view: &PodView,
    container: &Container,
    state: ContainerView,
    query: &Query,
) -> Response<Body> {
    let any = |long: &str, short: &str| flag(query, long) || flag(query, short);
    let tty = any("tty", "tty") && (is_exec || container.tty == Some(true));
    let wanted = Wanted {
        stdin: any("stdin", "input"),
        stdout: any("stdout", "output"),
        stderr: any("stderr", "error") && !tty,
        tty,
    };
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        return text(
            StatusCode::BAD_REQUEST,
            "you must specify at least 1 of stdin, stdout, stderr",
        );
    }
    let command = query.get("command").cloned().unwrap_or_default();
    if is_exec && command.is_empty() {
        return text(StatusCode::BAD_REQUEST, "you must specify at least 1 command");
    }
    let Some(id) = state.running else {
        return text(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("container not found (\"{}\")", container.name),
        );
    };
    let (response, protocol, upgraded) = match upgrade(&mut request, Purpose::RemoteCommand) {
        Ok(agreed) => agreed,
        Err(refusal) => return *refusal,
    };
    let stdin_once = container.stdin_once == Some(true);
    let log = context
        .paths
        .log(&view.uid, &container.name, state.attempt.unwrap_or_default());
    tokio::spawn(async move {
        let Ok(io) = upgraded.await else { return };
        let client = match RemoteCommand::accept(TokioIo::new(io), protocol, wanted).await {
            Ok(client) => client,
            Err(error) => return debug!(%error, "no remote command"),
        };
        if is_exec {
            exec::run(&context, &id, &command, wanted.tty, client).await;
        } else {
            exec::attach(&context, &id, &log, stdin_once, client).await;
        }
    });
    response
}

fn port_forward(mut request: Request<Incoming>, view: &PodView) -> Response<Body> {
    let (response, protocol, upgraded) = match upgrade(&mut request, Purpose::PortForward) {
        Ok(agreed) => agreed,
        Err(refusal) => return *refusal,
    };
    let netns = view.netns.clone();
    tokio::spawn(async move {
        let Ok(io) = upgraded.await else { return };
        let mut client = match PortForward::accept(TokioIo::new(io), protocol).await {
            Ok(client) => client,
            Err(error) => return debug!(%error, "no port-forward"),
        };
        let slots = Arc::new(Semaphore::new(MAX_FORWARDED));
        while let Some(mut forwarded) = client.next().await {
            let (netns, slots) = (netns.clone(), slots.clone());
            tokio::spawn(async move {
                let Ok(_slot) = slots.try_acquire() else {
                    return refuse(forwarded.error, "too many connections".to_owned()).await;
                };
                match dial::local(netns, forwarded.port).await {
                    Ok(mut stream) => {
                        drop(forwarded.error);
                        let _ = tokio::io::copy_bidirectional(&mut forwarded.data, &mut stream).await;
                    }
                    Err(error) => {
                        let why = format!(
                            "failed to connect to localhost:{} inside the pod: {error}",
                            forwarded.port
                        );
                        refuse(forwarded.error, why).await;
                    }
                }
            });
        }
        client.finish(FINISH_WITHIN).await;
    });
    response
}

fn pods(context: &Context) -> Response<Body> {
    let items = context
        .pods()
        .values()
        .map(|view| (*view.pod).clone())
        .collect::<Vec<_>>();
    let list = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    let mut response = text(StatusCode::OK, &list.to_string());
    response.headers_mut().insert(
        "content-type",
        hyper::header::HeaderValue::from_static("application/json"),
    );
    response
}

fn metrics(context: &Context) -> Response<Body> {
    let (pods, containers) = {
        let pods = context.pods();
        let running = pods
            .values()
            .flat_map(|view| view.containers.values())
            .filter(|one| one.running.is_some());
        (pods.len(), running.count())
    };
    let mut page = String::new();
    for (name, help, value) in [
        ("kubelet_running_pods", "Number of pods that have a worker", pods),
        (
            "kubelet_running_containers",
            "Number of containers currently running",
            containers,
        ),
    ] {
        let _ = write!(
            page,
            "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"
        );
    }
    text(StatusCode::OK, &page)
}

fn text(status: StatusCode, body: &str) -> Response<Body> {
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(
        "content-type",
        hyper::header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

fn empty() -> Body {
    Full::new(Bytes::new()).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let query = parse_query(
            "command=sh&command=-c&command=echo%20%22a%2Bb%22+c&tty=true&stdin=false&x&tailLines=3",
        );
        assert_eq!(query["command"], ["sh", "-c", "echo \"a+b\" c"]);
        assert!(flag(&query, "tty") && !flag(&query, "stdin") && !flag(&query, "none"));
        assert_eq!(log_options(&query).unwrap().tail, Some(3));
        assert!(log_options(&parse_query("tailLines=x")).is_err());
        assert!(log_options(&parse_query("sinceTime=yesterday")).is_err());
        assert_eq!(unescape("%zz%4"), "%zz%4");
    }
}
