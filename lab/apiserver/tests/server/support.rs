//! A server on 127.0.0.1 and a plain HTTP client for it.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use seta_lab_apiserver::kubeconfig::Entry;
use seta_lab_apiserver::{Client, Handle, ServerConfig, serve};

/// Longest wait for anything in these tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";

pub(crate) fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "nginx"}]},
    })
}

pub(crate) fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": "0"}})
}

pub(crate) struct Server {
    pub(crate) handle: Handle,
    pub(crate) entry: Entry,
    pub(crate) directory: tempfile::TempDir,
}

/// Starts a server; kubelet sockets are `<directory>/<node>.sock`.
pub(crate) async fn start() -> Server {
    start_with(ServerConfig::DEFAULT_WATCH_HISTORY).await
}

pub(crate) async fn start_with(watch_history: usize) -> Server {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sockets = directory.path().to_path_buf();
    let handle = serve(ServerConfig {
        advertise: listener.local_addr().unwrap(),
        listeners: vec![listener],
        cluster_name: "kind".into(),
        service_cidr: "fd00:10:96::/112".parse().unwrap(),
        pod_cidr: "fd00:10:244::/56".parse().unwrap(),
        cert_sans: vec!["example.test".into()],
        data_dir: directory.path().join("pki"),
        kubelets: Arc::new(move |node| Some(sockets.join(format!("{node}.sock")))),
        watch_history,
    })
    .await
    .unwrap();
    let entry = handle.admin_kubeconfig().unwrap();
    Server {
        handle,
        entry,
        directory,
    }
}

pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub(crate) fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
}

impl Server {
    pub(crate) fn client(&self) -> Client {
        self.handle.client()
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        let path = self.directory.path().join("kubeconfig");
        self.handle.write_admin_kubeconfig(&path).unwrap();
        path
    }

    fn address(&self) -> SocketAddr {
        self.handle.addresses()[0]
    }

    /// A connection; with the administrator's certificate or without any.
    async fn connect(&self, authenticated: bool) -> http1::SendRequest<Full<Bytes>> {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.entry.ca_certificate.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = if authenticated {
            let certificate =
                CertificateDer::from_pem_slice(self.entry.client.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(self.entry.client.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        } else {
            builder.with_no_client_auth()
        };
        let stream = tokio::net::TcpStream::connect(self.address()).await.unwrap();
        let name = ServerName::try_from("kubernetes.default.svc").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender
    }

    /// Sends a request and waits for the head of the answer.
    pub(crate) async fn open(
        &self,
        authenticated: bool,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        let mut sender = self.connect(authenticated).await;
        let mut request = Request::builder().method(method).uri(path).header("host", "test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        tokio::time::timeout(DEADLINE, sender.send_request(request))
            .await
            .unwrap()
            .unwrap()
    }

    pub(crate) async fn raw(
        &self,
        authenticated: bool,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let response = self.open(authenticated, method, path, headers, body).await;
        let (head, body) = response.into_parts();
        let bytes = tokio::time::timeout(DEADLINE, body.collect())
            .await
            .unwrap()
            .unwrap()
            .to_bytes();
        Answer {
            code: head.status.as_u16(),
            headers: head.headers,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.raw(true, "GET", path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.raw(
            true,
            "POST",
            path,
            &[("content-type", "application/json")],
            body.to_string(),
        )
        .await
    }

    pub(crate) async fn patch(&self, path: &str, media_type: &str, body: &Value) -> Answer {
        self.raw(
            true,
            "PATCH",
            path,
            &[("content-type", media_type)],
            body.to_string(),
        )
        .await
    }
}

/// Reads the lines of a watch.
pub(crate) struct Lines {
    body: Incoming,
    rest: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(response: Response<Incoming>) -> Self {
        assert_eq!(response.status(), 200);
        Self {
            body: response.into_body(),
            rest: Vec::new(),
        }
    }

    /// The next line; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(DEADLINE, self.body.frame())
                .await
                .expect("a line in time")?;
            if let Ok(data) = frame.unwrap().into_data() {
                self.rest.extend_from_slice(&data);
            }
        }
    }
}
