//! Runs the API server alone, for trying it with kubectl: `cargo run -p seta-lab-apiserver --example serve -- KUBECONFIG`.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use seta_lab_apiserver::{ServerConfig, serve};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = PathBuf::from(std::env::args().nth(1).ok_or("usage: serve KUBECONFIG")?);
    let data = tempfile::tempdir()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let handle = serve(ServerConfig {
        advertise: listener.local_addr()?,
        listeners: vec![listener],
        cluster_name: "kind".into(),
        service_cidr: "fd00:10:96::/112".parse()?,
        pod_cidr: "fd00:10:244::/56".parse()?,
        cert_sans: Vec::new(),
        data_dir: data.path().into(),
        kubelets: Arc::new(|_| None),
        watch_history: ServerConfig::DEFAULT_WATCH_HISTORY,
    })
    .await?;
    handle.write_admin_kubeconfig(&path)?;
    println!("listening on {}; stop with Ctrl-C", handle.addresses()[0]);
    tokio::signal::ctrl_c().await?;
    handle.shutdown().await;
    Ok(())
}
