use std::os::unix::fs::PermissionsExt as _;

use super::*;

const OTHER: &str = r#"
apiVersion: v1
kind: Config
current-context: work
preferences: {colors: true}
clusters:
- name: work
  cluster:
    server: https://example.com
    certificate-authority-data: QQ==
contexts:
- name: work
  context: {cluster: work, user: me, namespace: "007"}
users:
- name: me
  user:
    exec: {apiVersion: client.authentication.k8s.io/v1, command: get-token, args: ["--yes", "no"], env: null}
"#;

fn entry() -> Entry {
    Entry {
        context: "kind-kind".into(),
        server: "https://127.0.0.1:1".into(),
        ca_certificate: "ca".into(),
        client: ClientCertificate {
            certificate: "c".into(),
            key: "k".into(),
        },
    }
}

fn load(path: &Path) -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn other_contexts_survive_and_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config");
    std::fs::write(&path, OTHER).unwrap();
    let before = load(&path);
    // Twice, as `lab up` after a crash does.
    merge(&path, &entry()).unwrap();
    merge(&path, &entry()).unwrap();
    let merged = load(&path);
    assert_eq!(merged["current-context"], "kind-kind");
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    for list in ["clusters", "contexts", "users"] {
        assert_eq!(merged[list][0], before[list][0], "{list}");
        assert_eq!(items(&merged[list]).len(), 2, "{list}");
    }
    remove(&path, "kind-kind").unwrap();
    assert_eq!(load(&path), before);
    remove(&path, "kind-kind").unwrap();
    assert_eq!(load(&path), before);
}

#[test]
fn a_file_of_our_own_goes_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/config");
    merge(&path, &entry()).unwrap();
    assert_eq!(load(&path)["users"][0]["user"]["client-key-data"], "aw==");
    let mut long = entry();
    long.ca_certificate = "x".repeat(1000);
    merge(&path, &long).unwrap();
    let line = format!(
        "certificate-authority-data: {}",
        STANDARD.encode(&long.ca_certificate)
    );
    assert!(
        std::fs::read_to_string(&path).unwrap().contains(&line),
        "on one line"
    );
    remove(&path, "kind-kind").unwrap();
    assert!(!path.exists());
    remove(&path, "kind-kind").unwrap();
}

#[test]
fn what_is_current_now_stays_current() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config");
    std::fs::write(&path, OTHER).unwrap();
    merge(&path, &entry()).unwrap();
    let changed = std::fs::read_to_string(&path)
        .unwrap()
        .replace("current-context: kind-kind", "current-context: work");
    std::fs::write(&path, changed).unwrap();
    remove(&path, "kind-kind").unwrap();
    assert_eq!(load(&path)["current-context"], "work");
}

#[test]
fn what_is_not_a_kubeconfig_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config");
    for text in ["[1, 2]", "kind: Other", "a: [", "clusters: {}", "just words"] {
        std::fs::write(&path, text).unwrap();
        assert!(merge(&path, &entry()).is_err(), "{text}");
        assert!(remove(&path, "kind-kind").is_err(), "{text}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn a_link_stays_a_link() {
    let directory = tempfile::tempdir().unwrap();
    let (real, link) = (directory.path().join("real"), directory.path().join("link"));
    std::fs::write(&real, OTHER).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    merge(&link, &entry()).unwrap();
    assert!(link.is_symlink());
    assert_eq!(load(&real)["current-context"], "kind-kind");
}
