//! Direct server return: the world reaches a node port by way of a node without a backend, and the backend sees who asks.

mod common;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use seta_e2e::{Lab, server};

const NODES: [&str; 2] = ["fc00:f853:ccd:e793::2", "fc00:f853:ccd:e793::3"];
const OUTSIDE: &str = "2001:db8:1::2";

#[test]
fn a_backend_elsewhere_sees_the_client_and_answers_it() -> Result<()> {
    let Some(lab) = common::lab("t-dsr")? else {
        return Ok(());
    };
    lab.ok("seta lab up --nodes 2")?;
    lab.ok(&format!(
        "{} --set loadBalancer.mode=dsr",
        seta_e2e::walk::INSTALL
    ))?;
    lab.ok("seta status --wait")?;
    lab.pods(&[server("far", "kind-worker")])?;
    lab.ok("kubectl expose pod far --port=80 --type=NodePort --name=far-web")?;
    let port = lab.ok("kubectl get service far-web -o jsonpath='{.spec.ports[0].nodePort}'")?;
    let backend = lab.address("far")?;
    for node in NODES {
        lab.until(Duration::from_secs(20), &get(node, &port), |output| {
            output.text == "200"
        })
        .with_context(|| format!("the world to a service by way of {node}"))?;
        sees_client(&lab, node, &port, &backend)?;
    }
    Ok(())
}

fn get(node: &str, port: &str) -> String {
    format!(
        r#"seta lab exec outside -- curl -6 -s -m 2 -o /dev/null -w "%{{http_code}}" "http://[{node}]:{port}""#
    )
}

/// What reaches the backend comes from the client, by the backend's own capture.
fn sees_client(lab: &Lab, node: &str, port: &str, backend: &str) -> Result<()> {
    let seen = lab.ok(&format!(
        "for i in $(seq 20); do {}; sleep 0.2; done > /dev/null & \
         kubectl exec far -- timeout 10 tcpdump -lni eth0 -c 1 'tcp dst port 80 and src host {OUTSIDE}'",
        get(node, port)
    ))?;
    ensure!(
        seen.contains(OUTSIDE) && seen.contains(backend),
        "by way of {node} the backend sees:\n{seen}"
    );
    Ok(())
}
