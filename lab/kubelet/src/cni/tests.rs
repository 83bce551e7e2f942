use std::{fs, os::unix::fs::PermissionsExt};

use super::*;

fn attachment() -> Attachment {
    Attachment {
        container_id: "c1".to_owned(),
        netns: "/run/netns/cni-1".into(),
        namespace: "default".to_owned(),
        pod: "web".to_owned(),
        uid: "u1".to_owned(),
        port_mappings: vec![json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"})],
    }
}

/// A plugin that writes down how it was called: `<dir>/calls` gets one line per call.
fn plugin(dir: &Path, name: &str, body: &str) {
    let script = format!(
        "#!/bin/sh\nin=$(cat)\necho \"$CNI_COMMAND {name} $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS|$in\" >> {}/calls\n{body}\n",
        dir.display()
    );
    let path = dir.join(name);
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn calls(dir: &Path) -> Vec<(String, Value)> {
    let text = fs::read_to_string(dir.join("calls")).unwrap_or_default();
    let split = text.lines().map(|line| line.split_once('|').unwrap());
    split
        .map(|(head, body)| (head.to_owned(), serde_json::from_str(body).unwrap()))
        .collect()
}

const LIST: &str = r#"{"cniVersion": "1.1.0", "name": "net", "plugins": [
    {"type": "first", "mtu": 1400},
    {"type": "second", "capabilities": {"portMappings": true}}
]}"#;

#[tokio::test]
async fn chain_passes_results_on_and_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    plugin(
        dir.path(),
        "first",
        r#"echo '{"cniVersion":"1.1.0","ips":[{"address":"fd00::5/128"}]}'"#,
    );
    plugin(
        dir.path(),
        "second",
        r#"echo '{"cniVersion":"1.1.0","ips":[{"address":"fd00::5/128"},{"address":"10.0.0.5/32"}]}'"#,
    );
    let (caller, network) = (
        Caller {
            bin_dir: dir.path().to_owned(),
        },
        parse(LIST.as_bytes()).unwrap(),
    );
    let result = caller.add(&network, &attachment()).await.unwrap();
    assert_eq!(
        addresses(&result),
        ["fd00::5", "10.0.0.5"].map(|ip| ip.parse::<IpAddr>().unwrap())
    );
    caller.check(&network, &attachment(), &result).await.unwrap();
    caller.del(&network, &attachment(), Some(&result)).await.unwrap();
    caller.gc(&network, &[attachment()]).await.unwrap();
    caller.status(&network).await.unwrap();
    let calls = calls(dir.path());
    let order = calls
        .iter()
        .map(|(head, _)| head.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>();
    assert_eq!(
        order,
        [
            "ADD first",
            "ADD second",
            "CHECK first",
            "CHECK second",
            "DEL second",
            "DEL first",
            "GC first",
            "GC second",
            "STATUS first",
            "STATUS second",
        ]
    );
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1";
    assert_eq!(calls[0].0, format!("ADD first c1 eth0 {args}"));
    assert_eq!(
        calls[0].1,
        json!({"cniVersion": "1.1.0", "name": "net", "type": "first", "mtu": 1400})
    );
    assert_eq!(calls[1].1["prevResult"]["ips"][0]["address"], "fd00::5/128");
    assert_eq!(calls[1].1["runtimeConfig"]["portMappings"][0]["hostPort"], 8080);
    assert_eq!(calls[1].1.get("capabilities"), None);
    assert_eq!(calls[4].1["prevResult"], result);
    assert_eq!(
        calls[6].1["cni.dev/valid-attachments"],
        json!([{"containerID": "c1", "ifname": "eth0"}])
    );
}

#[tokio::test]
async fn a_failed_add_is_undone_and_tells_the_plugins_reason() {
    let dir = tempfile::tempdir().unwrap();
    plugin(
        dir.path(),
        "first",
        r#"[ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.1.0"}'; exit 0"#,
    );
    plugin(
        dir.path(),
        "second",
        r#"echo '{"code": 101, "msg": "no room", "details": "block full"}'; exit 1"#,
    );
    let (caller, network) = (
        Caller {
            bin_dir: dir.path().to_owned(),
        },
        parse(LIST.as_bytes()).unwrap(),
    );
    let error = caller.add(&network, &attachment()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "plugin type=\"second\" failed (ADD): no room; block full"
    );
    let order = calls(dir.path())
        .iter()
        .map(|(head, _)| head[..10].to_owned())
        .collect::<Vec<_>>();
    assert_eq!(order, ["ADD first ", "ADD second", "DEL second", "DEL first "]);
    fs::remove_file(dir.path().join("first")).unwrap();
    assert!(matches!(
        caller.add(&network, &attachment()).await,
        Err(CniError::NotFound { .. })
    ));
}

#[test]
fn configurations_good_and_bad() {
    let single = parse(br#"{"name": "n", "cniVersion": "1.0.0", "type": "ptp"}"#).unwrap();
    assert_eq!((single.plugins.len(), single.version.as_str()), (1, "1.0.0"));
    for bad in [
        "",
        "[]",
        "{}",
        r#"{"name":"n"}"#,
        r#"{"name":"n","plugins":[]}"#,
        r#"{"name":"n","plugins":[{"type":"../x"}]}"#,
    ] {
        assert!(parse(bad.as_bytes()).is_err(), "{bad}");
    }
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        load(dir.path()).unwrap_err().to_string(),
        "cni plugin not initialized"
    );
    fs::write(dir.path().join("00-broken.conf"), "{").unwrap();
    assert!(matches!(load(dir.path()), Err(ConfError::Invalid(..))));
    fs::write(dir.path().join("05-cilium.conflist"), LIST).unwrap();
    fs::write(dir.path().join("01-ignored.txt"), LIST).unwrap();
    assert_eq!(load(dir.path()).unwrap().name, "net");
}
