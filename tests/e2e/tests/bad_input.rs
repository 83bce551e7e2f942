//! What users get wrong, and what breaks under them: each has an answer that says what to do.

mod common;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use seta_e2e::{client, server, walk::INSTALL};

#[test]
fn mistakes_are_named_and_nothing_is_half_applied() -> Result<()> {
    let Some(lab) = common::lab("t-mistakes")? else {
        return Ok(());
    };
    lab.ok("seta lab up")?;
    for (script, expected) in [
        ("seta install --set ipv6.enabld=true", "ipv6.enabled"),
        ("seta install --set encryption.enabled=true", "encryption.enabled"),
        (
            "seta install --set ipv4.enabled=false --set ipv6.enabled=false",
            "ipv6.enabled",
        ),
        ("seta status", "install it with `seta install`"),
        (
            "kubectl get po nobody",
            r#"Error from server (NotFound): pods "nobody" not found"#,
        ),
        ("seta lab exec kind-nobody -- true", "kind-control-plane"),
    ] {
        let output = lab.run(script)?;
        ensure!(output.code != 0, "`{script}` succeeded:\n{}", output.text);
        ensure!(
            output.text.contains(&lab.localised(expected)),
            "`{script}` does not say `{expected}`:\n{}",
            output.text
        );
    }
    let output = lab.run("kubectl -n kube-system get ds cilium")?;
    ensure!(
        output.text.contains("NotFound"),
        "a refused install left something behind:\n{}",
        output.text
    );
    Ok(())
}

/// Pods that a block of 16 addresses has room for: without the first and the last, and the router's.
const ROOM: usize = 13;

#[test]
fn a_full_block_is_told_to_the_user_and_pods_follow_when_there_is_room() -> Result<()> {
    let Some(lab) = common::lab("t-full")? else {
        return Ok(());
    };
    lab.ok("seta lab up")?;
    // A node that was given a small block. Blocks cannot be changed, so the Node is made anew; its kubelet may be
    // faster and make it with a block of the usual size.
    lab.until(
        Duration::from_secs(30),
        "kubectl get node kind-worker -o json | sed 's#fd00:10:244:1::/64#fd00:10:244:1::/124#' | kubectl replace --force -f - >/dev/null
kubectl get node kind-worker -o jsonpath='{.spec.podCIDRs}'",
        |output| output.text.contains("/124"),
    )?;
    // Its pods would take some of the addresses.
    lab.ok("kubectl -n kube-system scale deployment coredns --replicas=0")?;
    lab.ok(INSTALL)?;
    lab.ok("seta status --wait")?;
    let names: Vec<String> = (0..=ROOM).map(|number| format!("p{number}")).collect();
    lab.apply(
        &names
            .iter()
            .map(|name| client(name, "kind-worker"))
            .collect::<String>(),
    )?;
    let running = "kubectl get pods --field-selector status.phase=Running -o name | wc -l";
    lab.until(Duration::from_secs(60), running, |output| {
        output.text.trim() == ROOM.to_string()
    })?;
    let waiting = lab.ok("kubectl get pods --field-selector status.phase=Pending -o name")?;
    let waiting = waiting.trim();
    let said = lab.until(
        Duration::from_secs(30),
        &format!("kubectl describe {waiting}"),
        |output| output.text.contains("FailedCreatePodSandBox"),
    )?;
    for word in [
        "no IPv6 address is left in fd00:10:244:1::/124",
        "14 of 14 are in use",
    ] {
        ensure!(said.text.contains(word), "no word of `{word}`:\n{}", said.text);
    }
    let gone = names
        .iter()
        .find(|name| !waiting.ends_with(&format!("/{name}")))
        .context("a pod that runs")?;
    lab.ok(&format!("kubectl delete pod {gone} --timeout=30s"))?;
    // The address rests for half a minute, and the kubelet takes its time between two attempts.
    lab.ok(&format!(
        "kubectl wait --for=condition=Ready {waiting} --timeout=110s"
    ))
    .map(drop)
}

/// A manifest, and what Kubernetes says about it, word for word.
const BROKEN: &[(&str, &str)] = &[
    ("kind: [broken", "error converting YAML to JSON"),
    (
        "{apiVersion: v1, kind: Pod, metadata: {name: Bad_Name}, spec: {containers: [{name: c, image: nginx}]}}",
        r#"The Pod "Bad_Name" is invalid: metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters"#,
    ),
    (
        "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: []}}",
        r#"The Pod "p" is invalid: spec.containers: Required value"#,
    ),
    (
        "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: nginx}, {name: c, image: nginx}]}}",
        r#"The Pod "p" is invalid: spec.containers[1].name: Duplicate value: "c""#,
    ),
    (
        "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: nowhere}, spec: {containers: [{name: c, image: nginx}]}}",
        r#"namespaces "nowhere" not found"#,
    ),
    (
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: c, image: nginx}]}}}}",
        "`selector` does not match template `labels`",
    ),
    (
        "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {ports: [{port: 70000}]}}",
        "must be between 1 and 65535, inclusive",
    ),
    (
        "{apiVersion: v1, kind: Nonsense, metadata: {name: x}}",
        r#"no matches for kind "Nonsense" in version "v1""#,
    ),
];

#[test]
fn broken_manifests_get_the_words_of_kubernetes() -> Result<()> {
    let Some(lab) = common::lab("t-broken")? else {
        return Ok(());
    };
    lab.ok("seta lab up")?;
    let mut wrong = Vec::new();
    // A document mark in front, as kubectl takes what starts with a brace for JSON.
    for (manifest, expected) in BROKEN {
        let output = lab.run(&format!("kubectl create -f - <<'EOF'\n---\n{manifest}\nEOF"))?;
        if output.code == 0 || !output.text.contains(expected) {
            wrong.push(format!(
                "{manifest}\n  should say: {expected}\n  says: {}",
                output.text
            ));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn an_unknown_image_says_how_to_add_it() -> Result<()> {
    let Some(lab) = common::lab("t-image")? else {
        return Ok(());
    };
    lab.up_with_seta()?;
    lab.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: odd}\nspec: {containers: [{name: odd, image: example.com/odd}]}")?;
    lab.until(Duration::from_secs(20), "kubectl get pod odd", |output| {
        output.text.contains("ErrImagePull") || output.text.contains("ImagePullBackOff")
    })?;
    let text = lab.ok("kubectl describe pod odd")?;
    ensure!(
        text.contains("image-catalogue") || text.contains("catalogue"),
        "no word on how to add an image:\n{text}"
    );
    Ok(())
}

#[test]
fn pods_wait_for_a_dead_agent_and_deletes_are_replayed() -> Result<()> {
    let Some(lab) = common::lab("t-dead")? else {
        return Ok(());
    };
    lab.up_with_seta()?;
    lab.pods(&[client("old", "kind-worker")])?;
    // The agent is away: its DaemonSet no longer wants the node.
    lab.ok("kubectl -n kube-system patch ds cilium -p '{\"spec\":{\"template\":{\"spec\":{\"nodeSelector\":{\"no\":\"where\"}}}}}'")?;
    lab.until(
        Duration::from_secs(60),
        "kubectl -n kube-system get pods -l k8s-app=cilium",
        |output| output.text.contains("No resources"),
    )?;
    lab.ok("kubectl delete pod old --timeout=30s")?;
    lab.apply(&server("new", "kind-worker"))?;
    lab.until(Duration::from_secs(30), "kubectl get events", |output| {
        output.text.contains("FailedCreatePodSandBox")
    })?;
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
    ensure!(
        !aside.trim().is_empty(),
        "the corrupt state file was not kept aside"
    );
    let agent = lab.agent("kind-worker")?;
    let endpoints = lab.ok(&format!(
        "kubectl -n kube-system exec {agent} -- cilium-dbg endpoint list"
    ))?;
    ensure!(
        !endpoints.contains("k8s:app=old"),
        "the deleted pod is still an endpoint:\n{endpoints}"
    );
    Ok(())
}
