//! Connections: TLS, who is there, HTTP/1.1 and HTTP/2, and a limit on everything a stranger can make us hold.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::Api;
use crate::auth::{self, User};
use crate::rest;
use crate::status::Status;

/// Body of every answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Connections at the same time, per listener.
const CONNECTIONS: usize = 1024;
/// How long open requests may take to end at shutdown.
pub(crate) const DRAIN: Duration = Duration::from_millis(500);
/// Time for the TLS handshake and for the first header.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Accepts connections until `stop`.
pub(crate) async fn accept(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    api: Arc<Api>,
    stop: CancellationToken,
    open: TaskTracker,
) {
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // For example out of file descriptors: wait for some to come back instead of spinning.
                    tracing::warn!(%error, "API server: accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let (acceptor, api, stop) = (acceptor.clone(), api.clone(), stop.clone());
        open.spawn(async move {
            let _slot = slot;
            connection(stream, acceptor, api, stop).await;
        });
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, api: Arc<Api>, stop: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "API server: TLS handshake");
            return;
        }
        Err(_) => return,
    };
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first());
    let user = certificate.and_then(auth::from_certificate).map(Arc::new);
    let service = service_fn(move |request| {
        let (api, user) = (api.clone(), user.clone());
        async move { Ok::<_, Infallible>(guarded(api, user, request).await) }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(250)
        .keep_alive_interval(Duration::from_secs(30));
    let mut served = std::pin::pin!(server.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let end = tokio::select! {
        end = served.as_mut() => end,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            // Watches do not end by themselves.
            tokio::time::timeout(DRAIN, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = end {
        tracing::debug!(error, "API server: connection");
    }
}

/// A bug in one request answers 500 there and harms nobody else.
async fn guarded(
    api: Arc<Api>,
    certificate: Option<Arc<User>>,
    request: Request<Incoming>,
) -> Response<Body> {
    let what = format!("{} {}", request.method(), request.uri().path());
    let user = match bearer(&request) {
        Some(token) => auth::from_token(&api, token, auth::OWN_AUDIENCES).map(|(user, _)| Arc::new(user)),
        None => certificate,
    };
    match AssertUnwindSafe(rest::handle(api, user, request))
        .catch_unwind()
        .await
    {
        Ok(response) => {
            tracing::debug!(%what, status = response.status().as_u16(), "API server");
            response
        }
        Err(_) => {
            tracing::error!(%what, "API server: a handler panicked");
            failure(&Status::internal(
                "the handler of this request panicked; see the server's log",
            ))
        }
    }
}

fn bearer(request: &Request<Incoming>) -> Option<&str> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// An answer with a body of known length.
pub(crate) fn answer(code: u16, media_type: &str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() =
        hyper::StatusCode::from_u16(code).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(value) = HeaderValue::from_str(media_type) {
        response.headers_mut().insert(hyper::header::CONTENT_TYPE, value);
    }
    response
}

/// A JSON answer.
pub(crate) fn json(code: u16, value: &Value) -> Response<Body> {
    let mut body = value.to_string();
    body.push('\n');
    answer(code, "application/json", body)
}

/// A refusal.
pub(crate) fn failure(status: &Status) -> Response<Body> {
    let mut response = json(status.code, &status.to_json());
    if let Some(seconds) = status.details.as_ref().and_then(|d| d.retry_after_seconds) {
        response
            .headers_mut()
            .insert(hyper::header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
