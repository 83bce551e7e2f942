#![expect(clippy::needless_pass_by_value, reason = "`json!` as an argument reads best")]

use serde_json::{Value, json};

use super::*;

fn node(name: &str, spec: Value) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "cores": "4"}}, "spec": spec,
    }))
    .unwrap()
}

fn spec(spec: Value) -> PodSpec {
    let mut all = json!({"containers": []});
    all.as_object_mut()
        .unwrap()
        .extend(spec.as_object().unwrap().clone());
    serde_json::from_value(all).unwrap()
}

fn pod(name: &str, on: Option<&str>, more: Value) -> Pod {
    let mut pod = Pod {
        spec: Some(spec(more)),
        ..Pod::default()
    };
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.namespace = Some("default".to_owned());
    pod.metadata.labels = Some(BTreeMap::from([("app".to_owned(), name.to_owned())]));
    if let Some(spec) = &mut pod.spec {
        spec.node_name = on.map(str::to_owned);
    }
    pod
}

#[test]
fn selectors_and_affinity() {
    let affinity = |terms: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
    let by_name =
        |name: &str| json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]);
    for (pod, expected) in [
        (json!({}), Ok(())),
        (json!({"nodeSelector": {"kubernetes.io/hostname": "a"}}), Ok(())),
        (
            json!({"nodeSelector": {"kubernetes.io/hostname": "b"}}),
            Err(Misfit::Affinity),
        ),
        (json!({"nodeSelector": {"disk": "ssd"}}), Err(Misfit::Affinity)),
        (affinity(by_name("a")), Ok(())),
        (affinity(by_name("b")), Err(Misfit::Affinity)),
        (affinity(json!([])), Err(Misfit::Affinity)),
        (affinity(json!([{}])), Err(Misfit::Affinity)),
        (
            affinity(json!([{"matchFields": [{"key": "spec.x", "operator": "In", "values": ["a"]}]}])),
            Err(Misfit::Affinity),
        ),
        (
            affinity(json!([{"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["2"]}]}])),
            Ok(()),
        ),
        (
            affinity(json!([
                {"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["8"]}]},
                {"matchExpressions": [{"key": "disk", "operator": "DoesNotExist"}]},
            ])),
            Ok(()),
        ),
    ] {
        assert_eq!(
            check_node(&spec(pod.clone()), &node("a", json!({}))),
            expected,
            "{pod}"
        );
    }
}

#[test]
fn taints_and_tolerations() {
    let tainted = json!({"taints": [{"key": "dedicated", "value": "db", "effect": "NoSchedule"}]});
    let misfit = Err(Misfit::Taint {
        key: "dedicated".into(),
        value: "db".into(),
    });
    for (tolerations, expected) in [
        (json!([]), misfit.clone()),
        (json!([{"operator": "Exists"}]), Ok(())),
        (json!([{"key": "dedicated", "operator": "Exists"}]), Ok(())),
        (json!([{"key": "dedicated", "value": "db"}]), Ok(())),
        (
            json!([{"key": "dedicated", "operator": "Equal", "value": "db", "effect": "NoSchedule"}]),
            Ok(()),
        ),
        (
            json!([{"key": "dedicated", "operator": "Equal", "value": "db", "effect": "NoExecute"}]),
            misfit.clone(),
        ),
        (json!([{"key": "dedicated", "value": "web"}]), misfit.clone()),
        (json!([{"key": "other", "operator": "Exists"}]), misfit.clone()),
        (json!([{"value": "db"}]), misfit.clone()),
    ] {
        let pod = spec(json!({"tolerations": tolerations}));
        assert_eq!(
            check_node(&pod, &node("a", tainted.clone())),
            expected,
            "{tolerations}"
        );
    }
    let soft = json!({"taints": [{"key": "dedicated", "value": "db", "effect": "PreferNoSchedule"}]});
    assert_eq!(check_node(&spec(json!({})), &node("a", soft)), Ok(()));
    let cordoned = node("a", json!({"unschedulable": true}));
    assert_eq!(
        check_node(&spec(json!({})), &cordoned),
        Err(Misfit::Unschedulable)
    );
    assert_eq!(
        check_node(&spec(json!({"tolerations": [{"operator": "Exists"}]})), &cordoned),
        Ok(())
    );
}

#[test]
fn other_pods() {
    let (a, b) = (node("a", json!({})), node("b", json!({})));
    let nodes = BTreeMap::from([("a", &a), ("b", &b)]);
    let check = |pod: &Pod, pods: &[Pod]| check_pods(pod, &a, pods, &nodes);
    let host = |port: i32| json!({"hostNetwork": true, "containers": [{"name": "c", "ports": [{"containerPort": port}]}]});
    assert_eq!(
        check(&pod("x", None, host(80)), &[pod("y", Some("a"), host(80))]),
        Err(Misfit::Ports)
    );
    assert_eq!(
        check(&pod("x", None, host(80)), &[pod("y", Some("a"), host(81))]),
        Ok(())
    );
    assert_eq!(
        check(&pod("x", None, host(80)), &[pod("y", Some("b"), host(80))]),
        Ok(())
    );

    let term = |app: &str| json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": app}}}]);
    let apart = |app: &str| json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(app)}}});
    let together = |app: &str| json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(app)}}});
    let plain = |name: &str, on: &str| pod(name, Some(on), json!({}));
    for (new, there, expected) in [
        (
            pod("x", None, apart("x")),
            plain("x", "a"),
            Err(Misfit::PodAntiAffinity),
        ),
        (pod("x", None, apart("x")), plain("x", "b"), Ok(())),
        (pod("x", None, apart("x")), plain("y", "a"), Ok(())),
        (
            pod("x", None, json!({})),
            pod("y", Some("a"), apart("x")),
            Err(Misfit::ExistingAntiAffinity),
        ),
        (pod("x", None, together("y")), plain("y", "a"), Ok(())),
        (
            pod("x", None, together("y")),
            plain("y", "b"),
            Err(Misfit::PodAffinity),
        ),
        (pod("x", None, together("x")), plain("y", "b"), Ok(())),
        (
            pod("x", None, together("x")),
            plain("x", "b"),
            Err(Misfit::PodAffinity),
        ),
    ] {
        assert_eq!(
            check(&new, std::slice::from_ref(&there)),
            expected,
            "{new:?}\n{there:?}"
        );
    }

    let small: Node =
        serde_json::from_value(json!({"metadata": {"name": "a"}, "status": {"allocatable": {"pods": "1"}}}))
            .unwrap();
    assert_eq!(
        check_pods(&plain("x", "b"), &small, &[plain("y", "a")], &nodes),
        Err(Misfit::TooManyPods)
    );
}
