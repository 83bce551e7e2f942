//! What users get wrong, and what breaks under them: each has an answer that says what to do.

mod common;

use std::time::Duration;

use anyhow::{Result, ensure};
use seta_e2e::{client, server};

#[test]
fn mistakes_are_named_and_nothing_is_half_applied() -> Result<()> {
    let Some(lab) = common::lab("t-mistakes")? else { return Ok(()) };
    lab.ok("seta lab up")?;
    for (script, expected) in [
        ("seta install --set ipv6.enabld=true", "ipv6.enabled"),
        ("seta install --set encryption.enabled=true", "encryption.enabled"),
        ("seta install --set ipv4.enabled=false --set ipv6.enabled=false", "ipv6.enabled"),
        ("seta status", "install it with `seta install`"),
        ("kubectl create -f - <<< '{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"Bad_Name\"}}'", "Invalid value"),
        ("kubectl apply -f - <<< 'kind: [broken'", "error"),
        ("kubectl get po nobody", "not found"),
        ("seta lab exec kind-nobody -- true", "kind-control-plane"),
    ] {
        let output = lab.run(script)?;
        ensure!(output.code != 0, "`{script}` succeeded:\n{}", output.text);
        ensure!(output.text.contains(&lab.localised(expected)), "`{script}` does not say `{expected}`:\n{}", output.text);
    }
    let output = lab.run("kubectl -n kube-system get ds cilium")?;
    ensure!(output.text.contains("NotFound"), "a refused install left something behind:\n{}", output.text);
    Ok(())
}

#[test]
fn an_unknown_image_says_how_to_add_it() -> Result<()> {
    let Some(lab) = common::lab("t-image")? else { return Ok(()) };
    lab.up_with_seta()?;
    lab.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: odd}\nspec: {containers: [{name: odd, image: example.com/odd}]}")?;
    lab.until(Duration::from_secs(20), "kubectl get pod odd", |output| {
        output.text.contains("ErrImagePull") || output.text.contains("ImagePullBackOff")
    })?;
    let text = lab.ok("kubectl describe pod odd")?;
    ensure!(text.contains("image-catalogue") || text.contains("catalogue"), "no word on how to add an image:\n{text}");
    Ok(())
}

#[test]
fn pods_wait_for_a_dead_agent_and_deletes_are_replayed() -> Result<()> {
    let Some(lab) = common::lab("t-dead")? else { return Ok(()) };
    lab.up_with_seta()?;
    lab.pods(&[client("old", "kind-worker")])?;
    // The agent is away: its DaemonSet no longer wants the node.
    lab.ok("kubectl -n kube-system patch ds cilium -p '{\"spec\":{\"template\":{\"spec\":{\"nodeSelector\":{\"no\":\"where\"}}}}}'")?;
    lab.until(Duration::from_secs(60), "kubectl -n kube-system get pods -l k8s-app=cilium", |output| output.text.contains("No resources"))?;
    lab.ok("kubectl delete pod old --timeout=30s")?;
    lab.apply(&server("new", "kind-worker"))?;
    lab.until(Duration::from_secs(30), "kubectl get events", |output| output.text.contains("FailedCreatePodSandBox"))?;
    let queued = lab.ok("seta lab exec kind-worker -- ls /var/run/cilium/deleteQueue")?;
    ensure!(!queued.trim().is_empty(), "the delete was not queued");
    // It comes back with a state file that is garbage.
    lab.ok("seta lab exec kind-worker -- sh -c 'for f in $(find /var/run/cilium/state -type f); do echo garbage > $f; done'")?;
    lab.ok("kubectl -n kube-system patch ds cilium --type=json -p '[{\"op\":\"remove\",\"path\":\"/spec/template/spec/nodeSelector/no\"}]'")?;
    lab.ok("seta status --wait")?;
    lab.ok("kubectl wait --for=condition=Ready pod/new --timeout=60s")?;
    let queued = lab.ok("seta lab exec kind-worker -- ls /var/run/cilium/deleteQueue")?;
    ensure!(queued.trim().is_empty(), "the queue was not replayed: {queued}");
    let aside = lab.ok("seta lab exec kind-worker -- find /var/run/cilium/state -name '*corrupt*'")?;
    ensure!(!aside.trim().is_empty(), "the corrupt state file was not kept aside");
    let agent = lab.agent("kind-worker")?;
    let endpoints = lab.ok(&format!("kubectl -n kube-system exec {agent} -- cilium-dbg endpoint list"))?;
    ensure!(!endpoints.contains("k8s:app=old"), "the deleted pod is still an endpoint:\n{endpoints}");
    Ok(())
}
