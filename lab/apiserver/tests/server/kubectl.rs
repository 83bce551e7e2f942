//! What a person types, with every `kubectl` that this machine has.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt;

use crate::support::{DEADLINE, Server, start};

const MANIFEST: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  nodeName: kind-worker
  containers: [{name: netperf, image: cilium/netperf, ports: [{containerPort: 80}]}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: nginx, image: nginx, env: [{name: A, value: "1"}]}]}
"#;

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.demo.seta.io}
spec:
  group: demo.seta.io
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.replicas}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [replicas]
            properties:
              replicas: {type: integer, minimum: 0}
              color: {type: string, enum: [red, blue], default: red}
"#;

// The first line keeps kubectl from taking it for JSON.
const WIDGET: &str =
    "---\n{apiVersion: demo.seta.io/v1, kind: Widget, metadata: {name: w}, spec: {replicas: 3}}";

/// The binaries to try: those of the Google Cloud SDK, one per release, and else whatever is on the path;
/// or the one that `SETA_TEST_KUBECTL` names.
fn binaries() -> Vec<PathBuf> {
    if let Some(path) = std::env::var_os("SETA_TEST_KUBECTL") {
        return vec![path.into()];
    }
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/google-cloud-sdk/bin")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("kubectl.1."))
        })
        .collect();
    found.sort();
    if found.is_empty() {
        let path = std::env::var_os("PATH").unwrap_or_default();
        found.extend(
            std::env::split_paths(&path)
                .map(|d| d.join("kubectl"))
                .find(|p| p.exists()),
        );
    }
    found
}

struct Kubectl<'a> {
    binary: &'a Path,
    config: PathBuf,
    cache: PathBuf,
}

impl Kubectl<'_> {
    /// Runs a command; answers whether it succeeded, and what it said.
    async fn run(&self, line: &str, input: &str) -> (bool, String) {
        let mut child = tokio::process::Command::new(self.binary)
            .args(line.split_whitespace())
            .arg("--kubeconfig")
            .arg(&self.config)
            .arg("--cache-dir")
            .arg(&self.cache)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let output = tokio::time::timeout(DEADLINE * 3, child.wait_with_output())
            .await
            .expect(line)
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    /// A command that must succeed and say something.
    async fn good(&self, line: &str, input: &str, wanted: &str) {
        let (success, text) = self.run(line, input).await;
        assert!(
            success && text.contains(wanted),
            "{} {line}: wanted {wanted:?}, got {text}",
            self.binary.display()
        );
    }

    /// A command that must fail and say why.
    async fn bad(&self, line: &str, input: &str, wanted: &str) {
        let (success, text) = self.run(line, input).await;
        assert!(
            !success && text.contains(wanted),
            "{} {line}: wanted {wanted:?}, got {text}",
            self.binary.display()
        );
    }
}

async fn walk(server: &Server, binary: &Path) {
    let name = binary
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let cache = server.directory.path().join(format!("cache-{name}"));
    let k = Kubectl {
        binary,
        config: server.kubeconfig(),
        cache,
    };
    k.good("get namespaces", "", "kube-system").await;
    k.good("apply -f -", MANIFEST, "pod/client created").await;
    k.good("apply -f -", MANIFEST, "deployment.apps/web unchanged")
        .await;
    k.good(
        "apply -f -",
        &MANIFEST.replace("value: \"1\"", "value: \"2\""),
        "deployment.apps/web configured",
    )
    .await;
    k.good("get deployment web -o jsonpath={..env[0].value}", "", "2")
        .await;
    k.good("get pods -o wide", "", "NOMINATED NODE").await;
    k.good("get pod client -o yaml", "", "kube-api-access-").await;
    k.good("describe pod client", "", "QoS Class:").await;
    k.good("scale deployment/web --replicas=5", "", "scaled").await;
    k.good("get deployment web", "", "0/5").await;
    k.good("label pod client tier=front", "", "labeled").await;
    k.good("get pods -l tier=front -o name", "", "pod/client").await;
    k.good("annotate pod client a=b", "", "annotate").await;
    k.good("expose pod client --port=80", "", "exposed").await;
    k.good("get services", "", "fd00:10:96::").await;
    k.good("create namespace team", "", "created").await;
    k.good("create configmap settings --from-literal=a=b", "", "created")
        .await;
    k.good("create secret generic hidden --from-literal=a=b", "", "created")
        .await;
    k.good("get secret hidden -o jsonpath={.data.a}", "", "Yg==")
        .await;
    k.good("create deployment made --image=nginx", "", "created")
        .await;
    k.good("auth can-i create pods", "", "yes").await;
    k.bad("get pod nope", "", "pods \"nope\" not found").await;
    let empty = "---\n{apiVersion: v1, kind: Pod, metadata: {name: x}}";
    k.bad("create -f -", empty, "spec.containers: Required value")
        .await;
    // Before 1.27 kubectl checked fields and explained them by itself, from a document that we do not have.
    if name.starts_with("kubectl.1.") {
        k.good("explain pod.spec.nodeName", "", "nodeName").await;
        let typo = "---\n{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {conteiners: []}}";
        k.bad(
            "apply -f -",
            typo,
            "strict decoding error: unknown field \"spec.conteiners\"",
        )
        .await;
    }

    k.good("apply -f -", DEFINITION, "created").await;
    k.good(
        "wait --for condition=established --timeout=10s crd/widgets.demo.seta.io",
        "",
        "condition met",
    )
    .await;
    k.good("apply -f -", WIDGET, "created").await;
    k.good(
        "apply -f -",
        &WIDGET.replace("replicas: 3", "replicas: 4"),
        "configured",
    )
    .await;
    k.good("get wd", "", "SIZE").await;
    k.good("get wd w -o jsonpath={.spec.color}", "", "red").await;
    k.bad(
        "apply -f -",
        &WIDGET.replace("replicas: 3", "replicas: -3"),
        "should be greater than or equal to 0",
    )
    .await;
    k.good(
        "apply --server-side -f -",
        &WIDGET.replace("name: w", "name: v"),
        "serverside-applied",
    )
    .await;
    k.good("delete crd widgets.demo.seta.io", "", "deleted").await;

    k.good(
        "delete service/client deployment/made configmap/settings secret/hidden",
        "",
        "deleted",
    )
    .await;
    k.good(
        "delete -f - --grace-period=0 --force",
        MANIFEST,
        "pod \"client\" force deleted",
    )
    .await;
    k.good("get pods", "", "No resources found").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kubectl_feels_at_home() {
    let binaries = binaries();
    if binaries.is_empty() {
        println!("SKIP: no kubectl on this machine; install kubernetes-client to run this test");
        return;
    }
    for binary in binaries {
        // A server each, as each leaves a namespace behind (emptying those is a controller's work).
        let server = start().await;
        walk(&server, &binary).await;
        server.handle.shutdown().await;
    }
}

/// What `kubectl` says of Services, from `expose` to a change of type.
#[tokio::test(flavor = "multi_thread")]
async fn every_kubectl_exposes_and_describes_services() {
    for binary in binaries() {
        let server = start().await;
        let k = Kubectl {
            binary: &binary,
            config: server.kubeconfig(),
            cache: server.directory.path().join("cache"),
        };
        k.good("apply -f -", MANIFEST, "created").await;
        k.good(
            "expose po client --type=ClusterIP --port=80 --labels app=client",
            "",
            "exposed",
        )
        .await;
        k.good(
            "expose deployment web --port=80 --target-port=8080",
            "",
            "exposed",
        )
        .await;
        let (_, shown) = k.run("describe svc client", "").await;
        let lines: Vec<String> = shown
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        for wanted in [
            "Name: client",
            "Namespace: default",
            "Labels: app=client",
            "Annotations: <none>",
            "Selector: app=client",
            "Type: ClusterIP",
            "IP Family Policy: SingleStack",
            "IP Families: IPv6",
            "Port: <unset> 80/TCP",
            "TargetPort: 80/TCP",
            "Session Affinity: None",
            "Events: <none>",
        ] {
            assert!(
                lines.iter().any(|line| line == wanted),
                "{}: {wanted:?} is not in {shown}",
                binary.display()
            );
        }
        k.good("get svc web", "", "80/TCP").await;
        k.good(r#"patch svc web -p {"spec":{"type":"NodePort"}}"#, "", "patched")
            .await;
        k.good("get svc web", "", "80:3").await;
        k.good(r#"patch svc web -p {"spec":{"type":"ClusterIP"}}"#, "", "patched")
            .await;
        k.bad(
            r#"patch svc web -p {"spec":{"clusterIP":"fd00:10:96::9"}}"#,
            "",
            "may not change once set",
        )
        .await;
        server.handle.shutdown().await;
    }
}
