//! What the chart renders, held to a snapshot, and its own rules.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::*;
use crate::values::{assign, merge};

/// The demo's install line.
const DEMO: &str = "debug.enabled=true,ipv4.enabled=false,ipv6.enabled=true,routingMode=native,\
    autoDirectNodeRoutes=true,ipv6NativeRoutingCIDR=fd00:10::/32,bpf.masquerade=true,kubeProxyReplacement=true";

fn render_with(set: &str) -> Vec<Manifest> {
    let mut values = default_values().expect("values.yaml is YAML");
    let mut user = json!({});
    assign::assign(&mut user, set, assign::Typing::Typed).expect("the assignments are well-formed");
    merge(&mut values, user);
    render(
        &values,
        Release {
            namespace: "kube-system",
            revision: 1,
        },
    )
    .expect("the chart renders")
}

fn chart_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/chart")
}

#[test]
fn every_file_of_the_chart_is_embedded() {
    let root = chart_directory();
    let mut found = BTreeSet::new();
    let mut directories = vec![root.join("templates")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("the chart can be listed") {
            let path = entry.expect("the chart can be listed").path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let path = path.strip_prefix(&root).expect("it is below the chart");
                found.insert(path.to_string_lossy().into_owned());
            }
        }
    }
    let embedded: BTreeSet<_> = FILES.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(embedded, found);
}

/// To accept a change: `SETA_UPDATE_SNAPSHOTS=1 cargo nextest run -p seta`, and read the diff.
#[test]
fn the_demo_renders_as_in_the_snapshot() {
    let rendered = stream(&render_with(DEMO));
    let snapshot = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/demo.yaml");
    if std::env::var_os("SETA_UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&snapshot, &rendered).expect("the snapshot can be written");
    }
    let expected = std::fs::read_to_string(&snapshot).unwrap_or_default();
    assert_eq!(rendered, expected, "see {}", snapshot.display());
}

#[test]
fn the_demo_has_the_configuration_that_cilium_would_write() {
    let config = config(&render_with(DEMO));
    for (key, value) in [
        ("debug", "true"),
        ("enable-ipv4", "false"),
        ("enable-ipv6", "true"),
        ("routing-mode", "native"),
        ("auto-direct-node-routes", "true"),
        ("ipv6-native-routing-cidr", "fd00:10::/32"),
        ("enable-bpf-masquerade", "true"),
        ("kube-proxy-replacement", "true"),
        ("enable-ipv6-masquerade", "true"),
        ("enable-ipv6-big-tcp", "false"),
        ("ipam", "kubernetes"),
        ("cluster-id", "0"),
        ("identity-allocation-mode", "crd"),
        ("enable-policy", "default"),
        ("monitor-aggregation", "medium"),
        ("monitor-aggregation-interval", "5s"),
        ("monitor-aggregation-flags", "all"),
        ("bpf-map-dynamic-size-ratio", "0.0025"),
    ] {
        assert_eq!(config.get(key).map(String::as_str), Some(value), "{key}");
    }
}

#[test]
fn objects_have_the_names_and_labels_that_tools_look_for() {
    let manifests = render_with(DEMO);
    let find = |kind: &str, name: &str| {
        manifests
            .iter()
            .find(|manifest| manifest.kind() == kind && manifest.name() == name)
            .map(|found| &found.object)
    };
    let daemonset = find("DaemonSet", "cilium").expect("a DaemonSet cilium");
    assert_eq!(
        daemonset["spec"]["template"]["metadata"]["labels"]["k8s-app"],
        "cilium"
    );
    assert_eq!(
        daemonset["spec"]["template"]["spec"]["containers"][0]["name"],
        "cilium-agent"
    );
    assert_eq!(
        daemonset["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"],
        2
    );
    let operator = find("Deployment", "cilium-operator").expect("a Deployment cilium-operator");
    assert_eq!(
        operator["spec"]["template"]["metadata"]["labels"]["io.cilium/app"],
        "operator"
    );
    assert_eq!(
        operator["spec"]["template"]["metadata"]["labels"]["name"],
        "cilium-operator"
    );
    assert!(find("ConfigMap", "cilium-config").is_some());
    for kind in ["ServiceAccount", "ClusterRole", "ClusterRoleBinding"] {
        assert!(
            find(kind, "cilium").is_some() && find(kind, "cilium-operator").is_some(),
            "{kind}"
        );
    }
}

#[test]
fn roles_have_no_wildcards_and_touch_no_secrets() {
    for manifest in render_with("") {
        for rule in manifest.object["rules"].as_array().into_iter().flatten() {
            let text = rule.to_string();
            assert!(!text.contains('*'), "{}: {text}", manifest.path);
            for forbidden in ["secrets", "escalate", "impersonate", "bind", "deletecollection"] {
                assert!(
                    !text.contains(&format!("\"{forbidden}\"")),
                    "{}: {text}",
                    manifest.path
                );
            }
        }
    }
}

#[test]
fn every_value_that_changes_the_shape_renders() {
    for set in [
        "operator.enabled=false",
        "prometheus.enabled=false,operator.prometheus.enabled=false",
        "k8sServiceHost=fc00::2,k8sServicePort=6443",
        r"podAnnotations.a=b,podLabels.c=d,nodeSelector.kubernetes\.io/os=null,tolerations={}",
        "imagePullSecrets[0].name=x,extraArgs={--a,--b=1},extraEnv[0].name=A,extraEnv[0].value=B",
        "resources.limits.memory=100Mi,operator.resources.requests.cpu=1,affinity.nodeAffinity.x=y",
        "extraConfig.some-key=5,MTU=1400,devices=eth0,operator.replicas=1,rollOutCiliumPods=false",
        "operator.rollOutPods=false,operator.image.tag=v9,image.repository=example.org/x,image.tag=v8",
        "enableCriticalPriorityClass=false,cni.install=false,operator.affinity.podAffinity.x=y",
    ] {
        for manifest in render_with(set) {
            assert!(
                !manifest.kind().is_empty() && !manifest.name().is_empty(),
                "{set}: {}",
                manifest.path
            );
        }
    }
}

#[test]
fn images_follow_the_values() {
    let image = |set: &str, kind: &str| {
        render_with(set)
            .iter()
            .find(|manifest| manifest.kind() == kind)
            .and_then(|found| {
                found.object["spec"]["template"]["spec"]["containers"][0]["image"]
                    .as_str()
                    .map(str::to_owned)
            })
    };
    let ours = Some(format!("ghcr.io/seta/seta:v{}", env!("CARGO_PKG_VERSION")));
    assert_eq!(image("", "DaemonSet"), ours);
    assert_eq!(image("", "Deployment"), ours);
    assert_eq!(
        image("image.tag=v8", "Deployment"),
        Some("ghcr.io/seta/seta:v8".to_owned())
    );
    assert_eq!(
        image("operator.image.tag=v9", "Deployment"),
        Some("ghcr.io/seta/seta:v9".to_owned())
    );
    assert_eq!(image("operator.image.tag=v9", "DaemonSet"), ours);
}

#[test]
fn agents_restart_when_their_configuration_changes() {
    let annotation = |set: &str| {
        render_with(set)
            .iter()
            .find(|manifest| manifest.kind() == "DaemonSet")
            .map(|found| found.object["spec"]["template"]["metadata"]["annotations"].clone())
    };
    assert_ne!(annotation(""), annotation("debug.enabled=true"));
    assert_eq!(
        annotation("rollOutCiliumPods=false"),
        annotation("rollOutCiliumPods=false,debug.enabled=true")
    );
}

#[test]
fn the_chart_has_the_version_of_the_workspace() {
    let metadata = metadata().expect("Chart.yaml is YAML");
    assert_eq!(metadata.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(metadata.app_version, env!("CARGO_PKG_VERSION"));
    assert_eq!(metadata.name, RELEASE);
}

#[test]
fn a_broken_value_is_an_error_and_no_panic() {
    let mut values = default_values().expect("values.yaml is YAML");
    merge(&mut values, json!({"operator": {"replicas": "many"}}));
    let error = render(
        &values,
        Release {
            namespace: "kube-system",
            revision: 1,
        },
    )
    .expect_err("many is no number");
    assert!(
        error
            .to_string()
            .contains("templates/cilium-operator/deployment.yaml"),
        "{error}"
    );
    merge(&mut values, json!({"cni": null}));
    let error = render(
        &values,
        Release {
            namespace: "kube-system",
            revision: 1,
        },
    )
    .expect_err("a value is missing");
    assert!(matches!(error, ChartError::Template { .. }), "{error}");
}
