#![expect(clippy::needless_pass_by_value, reason = "`json!` as an argument reads best")]

use super::*;

fn set(strategy: Value) -> DaemonSet {
    serde_json::from_value(json!({
        "metadata": {"name": "agent", "namespace": "kube-system", "uid": "u", "generation": 3},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [], "nodeSelector": {"os": "linux"}}},
            "updateStrategy": strategy,
        },
    }))
    .unwrap()
}

fn node(name: &str, taint: Option<(&str, &str)>) -> Node {
    let taints: Vec<_> = taint
        .iter()
        .map(|(key, effect)| json!({"key": key, "effect": effect}))
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"os": "linux"}}, "spec": {"taints": taints},
    }))
    .unwrap()
}

fn pod(name: &str, node: &str, hash: &str, ready: bool) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "uid": name, "labels": {HASH_LABEL: hash}},
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]},
    }))
    .unwrap()
}

fn names(pods: &[&Pod]) -> Vec<String> {
    pods.iter()
        .map(|pod| pod.metadata.name.clone().unwrap())
        .collect()
}

fn plan<'a>(set: &DaemonSet, nodes: &[Node], pods: &'a [Pod]) -> Plan<'a> {
    Plan::new(set, "new", nodes, pods, Timestamp::UNIX_EPOCH)
}

#[test]
fn every_fitting_node_gets_one() {
    let mut windows = node("w", None);
    windows.metadata.labels = None;
    let nodes = [
        node("a", None),
        node("b", Some(("node.kubernetes.io/not-ready", "NoExecute"))),
        node("c", Some(("dedicated", "NoSchedule"))),
        windows,
    ];
    let plan = plan(&set(json!({})), &nodes, &[]);
    assert_eq!(plan.create, ["a", "b"]);
    assert_eq!(plan.status["desiredNumberScheduled"], 2);
    assert_eq!(plan.status["numberUnavailable"], 2);
    assert_eq!(plan.status["observedGeneration"], 3);
}

#[test]
fn pods_that_do_not_belong_go() {
    let pods = [
        pod("stays", "a", "new", true),
        pod("twin", "a", "new", true),
        pod("tolerated", "b", "new", true),
        pod("evicted", "c", "new", true),
        pod("lost", "gone", "new", true),
    ];
    let nodes = [
        node("a", None),
        node("b", Some(("dedicated", "NoSchedule"))),
        node("c", Some(("dedicated", "NoExecute"))),
    ];
    let plan = plan(&set(json!({})), &nodes, &pods);
    assert_eq!(names(&plan.delete), ["twin", "evicted"]);
    assert_eq!(plan.create, [""; 0]);
    assert_eq!(plan.status["numberMisscheduled"], 3);
    assert_eq!(plan.status["currentNumberScheduled"], 1);
}

#[test]
fn a_pod_that_ended_is_replaced_when_it_is_gone() {
    let mut failed = pod("failed", "a", "new", false);
    failed.status.as_mut().unwrap().phase = Some("Failed".into());
    let nodes = [node("a", None)];
    let (create, delete) = {
        let pods = [failed.clone()];
        let plan = plan(&set(json!({})), &nodes, &pods);
        (plan.create.clone(), names(&plan.delete))
    };
    assert_eq!((create, delete), (vec![], vec!["failed".to_owned()]));
    failed.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let pods = [failed];
    let ending = plan(&set(json!({})), &nodes, &pods);
    assert_eq!((ending.create.len(), ending.delete.len()), (0, 0));
}

#[test]
fn updates_roll() {
    let nodes = ["a", "b", "c", "d"].map(|name| node(name, None));
    let rolling = |max: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": max}});
    let all_old = ["a", "b", "c", "d"].map(|name| pod(name, name, "old", true));
    let mut one_down = all_old.clone();
    one_down[2] = pod("c", "c", "old", false);
    let mut one_new_coming = all_old.clone();
    one_new_coming[0] = pod("a", "a", "new", false);
    for (strategy, pods, expected) in [
        (json!({}), &all_old, vec!["a"]),
        (rolling(json!(2)), &all_old, vec!["a", "b"]),
        (rolling(json!("50%")), &all_old, vec!["a", "b"]),
        (rolling(json!(0)), &all_old, vec!["a"]),
        (rolling(json!(1)), &one_down, vec!["c"]),
        (rolling(json!(1)), &one_new_coming, vec![]),
        (rolling(json!(2)), &one_new_coming, vec!["b"]),
        (json!({"type": "OnDelete"}), &all_old, vec![]),
    ] {
        assert_eq!(
            names(&plan(&set(strategy.clone()), &nodes, pods).delete),
            expected,
            "{strategy}"
        );
    }
}

#[test]
fn a_pod_names_its_node_and_tolerates_what_daemons_must() {
    let pod = pod_for(&set(json!({})), "h", "a");
    assert_eq!(
        pod["metadata"]["labels"],
        json!({"app": "agent", HASH_LABEL: "h"})
    );
    assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "u");
    let typed: Pod = serde_json::from_value(pod).unwrap();
    assert_eq!(target_node(&typed), Some("a"));
    let tolerations = typed.spec.unwrap().tolerations.unwrap();
    assert!(
        tolerations
            .iter()
            .any(|t| t.key.as_deref() == Some("node.kubernetes.io/not-ready"))
    );
    let twice = tolerant(tolerant(PodSpec::default()));
    assert_eq!(twice, tolerant(PodSpec::default()));
}
