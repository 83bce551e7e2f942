//! Requests of probes and hooks to a container, in the kubelet's words.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, body::Bytes};
use hyper_util::rt::TokioIo;
use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::net::TcpStream;

/// How much of an answer is read.
const MAX_BODY: usize = 10 << 10;

/// The socket that an action means: its own host or the pod's address; a port by number or by the container's name for it.
pub(crate) fn socket_address(
    host: Option<&str>,
    port: &IntOrString,
    container: &Container,
    pod: IpAddr,
) -> Result<SocketAddr, String> {
    let host = match host.filter(|host| !host.is_empty()) {
        Some(host) => host
            .parse()
            .map_err(|_| format!("host {host:?} is not an address"))?,
        None => pod,
    };
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports
                .find(|port| port.name.as_deref() == Some(name))
                .map(|port| port.container_port);
            named.or_else(|| name.parse().ok())
        }
    };
    let port = number
        .and_then(|number| u16::try_from(number).ok())
        .ok_or("couldn't find port")?;
    Ok(SocketAddr::new(host, port))
}

/// Connects; an error reads as people know it from a kubelet.
pub(crate) async fn dial(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
            io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
            _ => error.to_string(),
        };
        format!("dial tcp {address}: connect: {why}")
    })
}

/// Asks; any answer from 200 to 399 is success.
pub(crate) async fn get(action: &HTTPGetAction, container: &Container, pod: IpAddr) -> Result<(), String> {
    if action.scheme.as_deref() == Some("HTTPS") {
        return Err("HTTPS is not offered by the lab for probes and hooks".to_owned());
    }
    let address = socket_address(action.host.as_deref(), &action.port, container, pod)?;
    let path = action
        .path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or("/");
    let target = format!("Get \"http://{address}{path}\"");
    let failed = |error: &dyn std::fmt::Display| format!("{target}: {error}");
    let stream = dial(address).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    // Ends with the connection, at the latest when the sender is dropped.
    tokio::spawn(connection);
    let mut request = Request::get(path)
        .header("User-Agent", "kube-probe/1.32")
        .header("Accept", "*/*");
    let headers = action.http_headers.as_deref().unwrap_or_default();
    if !headers
        .iter()
        .any(|header| header.name.eq_ignore_ascii_case("host"))
    {
        request = request.header("Host", address.to_string());
    }
    for header in headers {
        request = request.header(&header.name, &header.value);
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(|error| failed(&error))?;
    let status = answer.status();
    // Reading it out is kind to the server; a long or broken body changes nothing.
    let _ = Limited::new(answer.into_body(), MAX_BODY).collect().await;
    match status.as_u16() {
        200..400 => Ok(()),
        code => Err(format!("HTTP probe failed with statuscode: {code}")),
    }
}
