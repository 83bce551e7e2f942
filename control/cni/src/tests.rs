//! Rows for what comes in and goes out, properties for what may come in.

use std::path::Path;

use api::cni::{Address, Attachment, Interface, Route, code};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::spec::*;
use super::*;

fn environment(command: &str) -> Environment {
    Environment {
        command: command.to_owned(),
        container_id: "c0ffee".to_owned(),
        netns: "/run/netns/pod".to_owned(),
        ifname: "eth0".to_owned(),
        args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=client".to_owned(),
    }
}

fn config(version: &str) -> Vec<u8> {
    format!(r#"{{"cniVersion":"{version}","name":"cilium","type":"cilium-cni"}}"#).into_bytes()
}

#[test]
fn bad_requests_have_the_codes_of_the_specification() {
    let without = |change: fn(&mut Environment)| {
        let mut environment = environment("ADD");
        change(&mut environment);
        environment
    };
    let good = config("1.1.0");
    let rows: Vec<(&str, Environment, Vec<u8>, u32)> = vec![
        (
            "garbage",
            environment("ADD"),
            b"\x00garbage".to_vec(),
            code::DECODE,
        ),
        ("nothing", environment("ADD"), Vec::new(), code::DECODE),
        ("a list", environment("DEL"), b"[]".to_vec(), code::DECODE),
        (
            "an old version",
            environment("ADD"),
            config("0.2.0"),
            code::INCOMPATIBLE_VERSION,
        ),
        (
            "no version",
            environment("ADD"),
            br#"{"name":"x"}"#.to_vec(),
            code::INCOMPATIBLE_VERSION,
        ),
        (
            "a version to come",
            environment("ADD"),
            config("2.0.0"),
            code::INCOMPATIBLE_VERSION,
        ),
        (
            "CHECK before it was there",
            environment("CHECK"),
            config("0.3.1"),
            code::INCOMPATIBLE_VERSION,
        ),
        (
            "GC before it was there",
            environment("GC"),
            config("1.0.0"),
            code::INCOMPATIBLE_VERSION,
        ),
        (
            "STATUS before it was there",
            environment("STATUS"),
            config("1.0.0"),
            code::INCOMPATIBLE_VERSION,
        ),
        (
            "no name",
            environment("ADD"),
            br#"{"cniVersion":"1.0.0"}"#.to_vec(),
            code::BAD_CONFIG,
        ),
        (
            "not the first of a chain",
            environment("ADD"),
            br#"{"cniVersion":"1.0.0","name":"x","prevResult":{}}"#.to_vec(),
            code::BAD_CONFIG,
        ),
        (
            "CHECK without a result",
            environment("CHECK"),
            good.clone(),
            code::BAD_CONFIG,
        ),
        (
            "masquerading by pod",
            environment("ADD"),
            br#"{"cniVersion":"1.0.0","name":"x","ipMasq":true}"#.to_vec(),
            code::UNSUPPORTED_FIELD,
        ),
        (
            "another plugin for addresses",
            environment("ADD"),
            br#"{"cniVersion":"1.0.0","name":"x","ipam":{"type":"host-local"}}"#.to_vec(),
            code::UNSUPPORTED_FIELD,
        ),
        ("no command", environment(""), good.clone(), code::BAD_ENVIRONMENT),
        (
            "an unknown command",
            environment("ATTACH"),
            good.clone(),
            code::BAD_ENVIRONMENT,
        ),
        (
            "no container",
            without(|e| e.container_id.clear()),
            good.clone(),
            code::BAD_ENVIRONMENT,
        ),
        (
            "a path as container",
            without(|e| e.container_id = "../x".into()),
            good.clone(),
            code::BAD_ENVIRONMENT,
        ),
        (
            "no interface",
            without(|e| e.ifname.clear()),
            good.clone(),
            code::BAD_ENVIRONMENT,
        ),
        (
            "a long interface",
            without(|e| e.ifname = "a".repeat(16)),
            good.clone(),
            code::BAD_ENVIRONMENT,
        ),
        (
            "a path as interface",
            without(|e| e.ifname = "a/b".into()),
            good.clone(),
            code::BAD_ENVIRONMENT,
        ),
        (
            "no namespace",
            without(|e| e.netns.clear()),
            good.clone(),
            code::BAD_ENVIRONMENT,
        ),
        (
            "arguments without value",
            without(|e| e.args = "K8S_POD_NAME".into()),
            good,
            code::BAD_ENVIRONMENT,
        ),
    ];
    for (name, environment, input, expected) in rows {
        let error = parse(&environment, &input).expect_err(name);
        assert_eq!(error.code, expected, "{name}: {error:?}");
        assert!(error.to_json()["msg"].is_string(), "{name}");
    }
}

#[test]
fn del_needs_no_namespace() {
    let mut environment = environment("DEL");
    environment.netns.clear();
    let request = parse(&environment, &config("1.0.0")).expect("a request");
    assert_eq!(
        request.attachment,
        Attachment {
            container_id: "c0ffee".into(),
            ifname: "eth0".into()
        }
    );
}

#[test]
fn version_answers_with_nothing_on_standard_input() {
    let answered = answer(&environment("VERSION"), b"", Path::new("/nowhere")).expect("an answer");
    assert_eq!(
        answered.expect("output").to_string(),
        r#"{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#
    );
}

fn made() -> AddResponse {
    AddResponse {
        endpoint_id: 7,
        host: Interface {
            name: "lxc0".into(),
            mac: "02:00:00:00:00:01".into(),
            mtu: 1500,
        },
        container: Interface {
            name: "eth0".into(),
            mac: "02:00:00:00:00:02".into(),
            mtu: 1500,
        },
        addresses: vec![Address {
            address: "fd00::5/128".into(),
            gateway: "fd00::1".into(),
        }],
        routes: vec![
            Route {
                dst: "fd00::1/128".into(),
                gw: String::new(),
                mtu: 0,
            },
            Route {
                dst: "::/0".into(),
                gw: "fd00::1".into(),
                mtu: 1500,
            },
        ],
    }
}

#[test]
fn results_have_the_shape_of_the_requested_version() {
    for version in VERSIONS {
        let request = parse(&environment("ADD"), &config(version)).expect("a request");
        let result = result(&request, &made());
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["interfaces"][1]["sandbox"], "/run/netns/pod");
        assert_eq!(
            result["interfaces"][0].get("sandbox"),
            None,
            "{version}: the host side has no sandbox"
        );
        assert_eq!(result["interfaces"][1].get("mtu").is_some(), version == "1.1.0");
        assert_eq!(result["ips"][0]["interface"], 1);
        assert_eq!(result["ips"][0]["gateway"], "fd00::1");
        assert_eq!(
            result["ips"][0].get("version").is_some(),
            version.starts_with("0.")
        );
        assert_eq!(result["routes"][0].get("gw"), None);
        assert_eq!(result["routes"][1].get("mtu").is_some(), version == "1.1.0");
        assert!(result["dns"].is_object());
    }
}

#[test]
fn check_takes_the_addresses_of_the_previous_result() {
    let input =
        br#"{"cniVersion":"1.0.0","name":"x","prevResult":{"ips":[{"address":"fd00::5/128"},{"x":1},7]}}"#;
    let request = parse(&environment("CHECK"), input).expect("a request");
    assert_eq!(request.config.previous_addresses(), ["fd00::5/128"]);
}

#[test]
fn gc_takes_the_valid_attachments() {
    let input = br#"{"cniVersion":"1.1.0","name":"x","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]}"#;
    let request = parse(&environment("GC"), input).expect("a request");
    assert_eq!(
        request.config.valid_attachments,
        Some(vec![Attachment {
            container_id: "a".into(),
            ifname: "eth0".into()
        }])
    );
}

#[test]
fn gc_tells_an_empty_list_from_none() {
    let parse = |rest: &str| {
        let input = format!(r#"{{"cniVersion":"1.1.0","name":"x"{rest}}}"#);
        parse(&environment("GC"), input.as_bytes())
    };
    for empty in ["[]", "null"] {
        let request = parse(&format!(r#","cni.dev/valid-attachments":{empty}"#)).expect(empty);
        assert_eq!(request.config.valid_attachments, Some(Vec::new()));
    }
    let error = parse("").expect_err("refused");
    assert_eq!(error.code, code::BAD_CONFIG);
    assert!(error.message.contains("cni.dev/valid-attachments"));
}

#[test]
fn errors_speak_the_version_of_the_request() {
    let mut nameless = environment("ADD");
    nameless.ifname.clear();
    for version in VERSIONS {
        let error = parse(&nameless, &config(version)).expect_err(version);
        assert_eq!(error.version, version);
    }
    let error = parse(&nameless, &config("9.0.0")).expect_err("refused");
    assert_eq!(error.version, "1.1.0");
}

#[test]
fn without_the_agent_add_is_to_be_tried_again_and_status_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("cilium.sock");
    for (command, expected) in [
        ("ADD", code::TRY_AGAIN),
        ("CHECK", code::TRY_AGAIN),
        ("GC", code::TRY_AGAIN),
        ("STATUS", code::NOT_AVAILABLE),
    ] {
        let input = br#"{"cniVersion":"1.1.0","name":"x","prevResult":{},"cni.dev/valid-attachments":[]}"#;
        let input = if command == "ADD" {
            config("1.1.0")
        } else {
            input.to_vec()
        };
        let error = answer(&environment(command), &input, &socket).expect_err(command);
        assert_eq!(error.code, expected, "{command}");
        assert!(
            error.details.contains("cilium.sock"),
            "{command}: {}",
            error.details
        );
    }
}

#[test]
fn without_the_agent_del_is_queued_once_and_the_queue_is_bounded() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("cilium.sock");
    let files = || {
        std::fs::read_dir(directory.path().join("deleteQueue"))
            .expect("a queue")
            .count()
    };
    for _ in 0..2 {
        assert_eq!(answer(&environment("DEL"), &config("1.0.0"), &socket), Ok(None));
        assert_eq!(files(), 1);
    }
    for number in 0..api::DELETE_QUEUE_MAX - 1 {
        let mut environment = environment("DEL");
        environment.container_id = format!("c{number}");
        assert_eq!(answer(&environment, &config("1.0.0"), &socket), Ok(None));
    }
    let mut environment = environment("DEL");
    environment.container_id = "onemore".to_owned();
    let error = answer(&environment, &config("1.0.0"), &socket).expect_err("full");
    assert_eq!((error.code, files()), (code::TRY_AGAIN, api::DELETE_QUEUE_MAX));
}

/// An agent that gives one answer to whatever it is asked.
fn agent(status: &'static str, body: String) -> (tempfile::TempDir, PathBuf, std::thread::JoinHandle<()>) {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("cilium.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    listener.set_nonblocking(true).expect("a socket");
    let serve = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::UnixListener::from_std(listener).expect("a listener");
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut request = vec![0; 65536];
            let _ = stream.read(&mut request).await.expect("a request");
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
            stream
                .write_all((head + &body).as_bytes())
                .await
                .expect("answered");
        });
    });
    (directory, socket, serve)
}

#[test]
fn the_agents_answer_becomes_the_result_and_its_refusal_the_error() {
    let (_directory, socket, serve) = agent("200 OK", serde_json::to_string(&made()).expect("JSON"));
    let result = answer(&environment("ADD"), &config("1.0.0"), &socket)
        .expect("a result")
        .expect("output");
    assert_eq!(result["ips"][0]["address"], "fd00::5/128");
    serve.join().expect("served");

    let (_directory, socket, serve) =
        agent("409 Conflict", r#"{"error":"eth0 exists","cniCode":100}"#.into());
    let error = answer(&environment("ADD"), &config("1.0.0"), &socket).expect_err("an error");
    assert_eq!(
        (error.code, error.message.as_str(), error.version.as_str()),
        (code::EXISTS, "eth0 exists", "1.0.0")
    );
    serve.join().expect("served");

    let (_directory, socket, serve) = agent("200 OK", "not JSON".into());
    let error = answer(&environment("ADD"), &config("1.0.0"), &socket).expect_err("an error");
    assert_eq!(error.code, code::TRY_AGAIN);
    serve.join().expect("served");
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(command in "ADD|DEL|CHECK|GC|STATUS|VERSION|.*", id in ".*", name in ".*",
                                       args in ".*", input in proptest::collection::vec(any::<u8>(), 0..256)) {
        let environment = Environment { command, container_id: id, netns: "/x".into(), ifname: name, args };
        if let Err(error) = parse(&environment, &input) {
            prop_assert!(matches!(error.code, 1 | 2 | 4 | 6 | 7));
        }
    }

    #[test]
    fn accepted_names_stay_inside_the_queue(id in ".{0,140}", name in ".{0,20}") {
        let environment = Environment { container_id: id, ifname: name, ..environment("DEL") };
        if let Ok(request) = parse(&environment, &config("1.0.0")) {
            let file = format!("{}:{}.delete", request.attachment.container_id, request.attachment.ifname);
            prop_assert!(!file.contains('/') && !file.starts_with('.') && file.len() < 255);
        }
    }
}
