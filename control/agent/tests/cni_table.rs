//! The CNI plugin as the kubelet calls it, a process with an environment and JSON on standard input, against a real
//! agent: every version of the specification and every command, and what goes wrong. Needs root and BPF; says `SKIP`
//! without.

mod plugin;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv6Addr;

use plugin::{Node, must, netns};
use serde_json::{Value, json};

/// A block as nodes have it.
const BLOCK: &str = "fd00:10:244::/64";
/// Versions of the specification, and whether they have CHECK, and GC and STATUS.
const VERSIONS: [(&str, bool, bool); 5] = [
    ("0.3.0", false, false),
    ("0.3.1", false, false),
    ("0.4.0", true, false),
    ("1.0.0", true, false),
    ("1.1.0", true, true),
];
/// What no plugin of today speaks, or nobody yet.
const FOREIGN: [&str; 6] = ["0.1.0", "0.2.0", "1.0", "1.2.0", "2.0.0", "latest"];

#[test]
fn every_version_and_command() {
    let Some(mut node) = Node::with_agent("versions", BLOCK) else {
        return;
    };
    let before = node.traces();
    for (version, has_check, has_gc) in VERSIONS {
        let pod = node.pod(&version.replace('.', "-"));
        let call = |command| node.call(command, version, &pod);
        let known = call("VERSION").run().result();
        assert_eq!(
            known,
            json!({ "cniVersion": version, "supportedVersions": VERSIONS.map(|(known, _, _)| known) })
        );
        let result = call("ADD").run().result();
        assert_eq!(result, expected_result(&node, version, &pod), "{version}");
        let check = call("CHECK").after(&result).run();
        let (status, gc) = (call("STATUS").run(), call("GC").with(VALID, valid(&[&pod])).run());
        if has_check {
            check.silence();
        } else {
            assert_eq!(check.error_in(version).0, 1, "{version} has no CHECK");
        }
        if has_gc {
            status.silence();
            gc.silence();
        } else {
            assert_eq!(status.error_in(version).0, 1, "{version} has no STATUS");
            assert_eq!(gc.error_in(version).0, 1, "{version} has no GC");
        }
        assert_eq!(call("ADD").run().error_in(version).0, 100, "ADD twice");
        call("DEL").after(&result).run().silence();
        node.settle(&before);
        // The runtime may ask as often as it wants, with as little as it still knows.
        call("DEL").unset("CNI_NETNS").unset("CNI_ARGS").run().silence();
        call("DEL").env("CNI_NETNS", "/run/netns/gone").run().silence();
        if has_check {
            assert_eq!(call("CHECK").after(&result).run().error_in(version).0, 3);
        }
    }
    let pod = node.pod("foreign");
    for version in FOREIGN {
        for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
            let (code, words) = node.call(command, version, &pod).run().error();
            assert_eq!(code, 1, "{command} {version}");
            assert!(words.contains(version), "{words}");
        }
        let known = node.call("VERSION", version, &pod).run().result();
        assert_eq!(known["cniVersion"], version);
    }
    let known = node.call("VERSION", "", &pod).input(b"").run().result();
    assert_eq!(known["cniVersion"], "1.1.0");
    assert_eq!(node.traces(), before);
}

const VALID: &str = "cni.dev/valid-attachments";

fn valid(pods: &[&str]) -> Value {
    let attachments = pods
        .iter()
        .map(|pod| json!({ "containerID": pod, "ifname": "eth0" }));
    attachments.collect()
}

/// The result that a version asks for, with what the kernel has.
fn expected_result(node: &Node, version: &str, pod: &str) -> Value {
    let ask = |namespace: &str, command: &str| -> Vec<Value> {
        serde_json::from_str(&node.inside(namespace, command)).expect("JSON")
    };
    let eth0 = &ask(pod, "ip -j -6 addr show dev eth0 scope global")[0];
    let mac = &ask(pod, "ip -j link show dev eth0")[0]["address"];
    let links = ask(node.name(), "ip -j link");
    let host = links
        .iter()
        .find(|link| {
            link["ifname"]
                .as_str()
                .is_some_and(|name| name.starts_with("lxc"))
        })
        .expect("a host side");
    let default = &ask(pod, "ip -j -6 route show default")[0];
    let router = default["gateway"].as_str().expect("a router");
    let address = &eth0["addr_info"][0];
    assert_eq!(address["prefixlen"], 128);
    let address = address["local"].as_str().expect("an address");
    let with_mtu = |mut object: Value| {
        if version == "1.1.0" {
            object["mtu"] = eth0["mtu"].clone();
        }
        object
    };
    let mut ip = json!({ "address": format!("{address}/128"), "gateway": router, "interface": 1 });
    if version.starts_with("0.3") || version.starts_with("0.4") {
        ip["version"] = json!("6");
    }
    json!({
        "cniVersion": version,
        "interfaces": [
            with_mtu(json!({ "name": host["ifname"], "mac": host["address"] })),
            with_mtu(json!({ "name": "eth0", "mac": mac, "sandbox": netns(pod) })),
        ],
        "ips": [ip],
        "routes": [
            { "dst": format!("{router}/128") },
            with_mtu(json!({ "dst": "::/0", "gw": router })),
        ],
        "dns": {},
    })
}

#[test]
fn bad_requests_have_their_codes_and_leave_nothing() {
    let Some(mut node) = Node::with_agent("bad", BLOCK) else {
        return;
    };
    let before = node.traces();
    let pod = node.pod("one");
    let a_file = node.path("config/routing-mode").display().to_string();
    let own = netns(node.name());
    let huge = [vec![b' '; 9 << 20], br#"{"cniVersion":"1.1.0"}"#.to_vec()].concat();
    let many = format!(r#"{{"cniVersion":"1.1.0","name":{}}}"#, "[".repeat(1 << 20));
    let deep = format!(
        r#"{{"cniVersion":"1.1.0","name":"x","args":{}}}"#,
        "[".repeat(1 << 20)
    );
    let call = |command| node.call(command, "1.1.0", &pod);
    let add = || call("ADD");
    // What is called, the code, and a word that must be in the message.
    let rows = [
        (add().unset("CNI_COMMAND"), 4, "CNI_COMMAND"),
        (add().env("CNI_COMMAND", "add"), 4, "CNI_COMMAND"),
        (add().unset("CNI_CONTAINERID"), 4, "CNI_CONTAINERID"),
        (call("DEL").unset("CNI_CONTAINERID"), 4, "CNI_CONTAINERID"),
        (call("CHECK").unset("CNI_CONTAINERID"), 4, "CNI_CONTAINERID"),
        (add().env("CNI_CONTAINERID", "../../etc"), 4, "CNI_CONTAINERID"),
        (add().unset("CNI_NETNS"), 4, "CNI_NETNS"),
        (call("CHECK").unset("CNI_NETNS"), 4, "CNI_NETNS"),
        (add().env("CNI_NETNS", "/run/netns/no-such"), 4, "no-such"),
        (add().env("CNI_NETNS", &a_file), 4, "routing-mode"),
        (add().env("CNI_NETNS", "/run"), 4, "/run"),
        (add().env("CNI_NETNS", &own), 4, "namespace"),
        (add().unset("CNI_IFNAME"), 4, "CNI_IFNAME"),
        (call("DEL").unset("CNI_IFNAME"), 4, "CNI_IFNAME"),
        (add().env("CNI_IFNAME", "sixteen-letters-"), 4, "CNI_IFNAME"),
        (add().env("CNI_IFNAME", "a/b"), 4, "CNI_IFNAME"),
        (add().env("CNI_IFNAME", "a:b"), 4, "CNI_IFNAME"),
        (add().env("CNI_IFNAME", "a b"), 4, "CNI_IFNAME"),
        (add().env("CNI_IFNAME", ".."), 4, "CNI_IFNAME"),
        (add().env("CNI_IFNAME", "lo"), 100, "exists"),
        (add().env("CNI_ARGS", "K8S_POD_NAME"), 4, "CNI_ARGS"),
        (add().input(b""), 6, "JSON"),
        (add().input(b"\x00\xff garbage"), 6, "JSON"),
        (add().input(br#"{"cniVersion":"1.1.0","name":"x""#), 6, "JSON"),
        (add().input(b"[]"), 6, "JSON"),
        (add().input(many.as_bytes()), 6, "JSON"),
        (add().input(deep.as_bytes()), 6, "JSON"),
        (add().input(&huge), 7, "longer than"),
        (call("VERSION").input(b"garbage"), 6, "JSON"),
        (add().with("cniVersion", json!(1)), 6, "JSON"),
        (add().with("mtu", json!(-1)), 6, "JSON"),
        (add().without("cniVersion"), 1, "supported"),
        (add().without("name"), 7, "name"),
        (call("DEL").without("name"), 7, "name"),
        (add().after(&json!({})), 7, "first of its chain"),
        (add().with("ipMasq", json!(true)), 2, "ipMasq: true"),
        (
            add().with("ipam", json!({ "type": "host-local" })),
            2,
            "host-local",
        ),
        (call("CHECK"), 7, "prevResult"),
        (call("CHECK").after(&json!({})), 3, "eth0"),
        (call("GC").without(VALID), 7, VALID),
        (call("GC").with(VALID, json!([{ "containerID": 1 }])), 6, "JSON"),
        // The kernel does not speak IPv6 below 1280 bytes, and knows no larger device than 65535.
        (add().with("mtu", json!(500)), 102, "pod"),
        (add().with("mtu", json!(1 << 20)), 102, "pod"),
    ];
    for (number, (call, expected, word)) in rows.into_iter().enumerate() {
        let (code, words) = call.run().error();
        assert_eq!(code, expected, "row {number}: {words}");
        assert!(
            words.contains(word),
            "row {number} does not say `{word}`: {words}"
        );
    }
    assert_eq!(node.traces(), before);
    let left = node.inside(&pod, "ip -o link");
    assert_eq!(left.lines().count(), 1, "only the loopback device: {left}");

    // What may be missing: nobody is delegated to, and a pod need not be one of Kubernetes.
    call("STATUS").unset("CNI_PATH").run().silence();
    call("GC").unset("CNI_PATH").run().silence();
    let result = add().unset("CNI_PATH").unset("CNI_ARGS").run().result();
    call("CHECK").after(&result).unset("CNI_ARGS").run().silence();
    call("DEL").run().silence();
    node.settle(&before);
}

#[test]
fn one_name_is_given_once() {
    let Some(mut node) = Node::with_agent("twice", BLOCK) else {
        return;
    };
    let before = node.traces();
    let (pod, result) = node.add("one");
    let one = node.traces();
    let again = node.call("ADD", "1.1.0", &pod);
    assert_eq!(again.clone().run().error().0, 100);
    // Another sandbox that finds the device there already.
    let (code, words) = again.env("CNI_CONTAINERID", "another").run().error();
    assert_eq!((code, words.contains("exists")), (100, true), "{words}");
    assert_eq!(node.traces(), one);
    let check = node.call("CHECK", "1.1.0", &pod).after(&result);
    check.run().silence();

    // A second device of the same sandbox is another attachment.
    let second = |command: &str| node.call(command, "1.1.0", &pod).env("CNI_IFNAME", "net1");
    let (code, words) = second("ADD").run().error();
    assert_eq!(
        code, 102,
        "the default route is there, and one address is all we give: {words}"
    );
    second("DEL").run().silence();
    node.settle(&one);

    // At the same moment: one gets it, the other is told.
    let racers: Vec<_> = {
        let pod = node.pod("race");
        let call = node.call("ADD", "1.1.0", &pod);
        let started = (0..2).map(|_| {
            let call = call.clone();
            std::thread::spawn(move || call.run())
        });
        started.collect()
    };
    let answers: Vec<_> = racers
        .into_iter()
        .map(|racer| racer.join().expect("answered"))
        .collect();
    let won = answers.iter().filter(|answer| answer.succeeded()).count();
    assert_eq!(won, 1, "{answers:?}");
    for answer in answers.into_iter().filter(|answer| !answer.succeeded()) {
        assert_eq!(answer.error().0, 100);
    }
    let gone = format!("{}-race", node.name());
    // The runtime has taken the namespace away before it asks.
    node.remove_pod(&gone);
    node.call("DEL", "1.1.0", &gone).run().silence();
    node.settle(&one);
    node.call("DEL", "1.1.0", &pod).run().silence();
    node.settle(&before);
}

#[test]
fn check_finds_what_others_broke() {
    let Some(mut node) = Node::with_agent("check", BLOCK) else {
        return;
    };
    let (_, other) = node.add("other");
    // What breaks it, where `A` is the address, `R` the router, `H` the host side, and the word of the answer.
    let rows = [
        ("nothing", "pod", "true", ""),
        ("address", "pod", "ip -6 addr del A/128 dev eth0", "addresses"),
        (
            "another",
            "pod",
            "ip -6 addr add fd99::1/128 dev eth0",
            "addresses",
        ),
        ("default", "pod", "ip -6 route del default", "::/0"),
        ("router", "pod", "ip -6 route del R/128 dev eth0", "/128"),
        ("down", "pod", "ip link set eth0 down", "addresses"),
        ("inside", "pod", "ip link del eth0", "eth0"),
        ("outside", "node", "ip link del H", "eth0"),
    ];
    for (name, place, command, word) in rows {
        let (pod, result) = node.add(name);
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let address = text(&result["ips"][0]["address"]).replace("/128", "");
        let command = command
            .replace('A', &address)
            .replace('R', &text(&result["ips"][0]["gateway"]))
            .replace('H', &text(&result["interfaces"][0]["name"]));
        let namespace = if place == "pod" { pod.as_str() } else { node.name() };
        node.inside(namespace, &command);
        let answer = node.call("CHECK", "1.1.0", &pod).after(&result).run();
        if word.is_empty() {
            answer.silence();
            let wrong = node.call("CHECK", "1.1.0", &pod).after(&other).run();
            assert_eq!(wrong.error().0, 103, "the result of another pod");
            let gone = node.call("CHECK", "1.1.0", &pod).after(&result);
            assert_eq!(gone.env("CNI_NETNS", "/run/netns/gone").run().error().0, 4);
            continue;
        }
        let (code, words) = answer.error();
        // The agent forgets an endpoint whose link is gone, by itself and possibly before it is asked.
        let forgotten = code == 3 && word == "eth0";
        assert!(
            forgotten || code == 103 && (words.contains(word) || word == "eth0"),
            "{name}: {code} {words}"
        );
        node.call("DEL", "1.1.0", &pod).after(&result).run().silence();
    }
    // What the programs go by.
    let (pod, result) = node.add("table");
    let address = result["ips"][0]["address"].as_str().expect("an address");
    let key = hex(&address.replace("/128", "").parse().expect("an address"));
    let table = node.path("bpf/seta/maps/seta_endpoints").display().to_string();
    must(
        "bpftool",
        &[
            &["map", "delete", "pinned", &table, "key", "hex"],
            &key.split(' ').collect::<Vec<_>>()[..],
        ]
        .concat(),
    );
    let (code, words) = node.call("CHECK", "1.1.0", &pod).after(&result).run().error();
    assert!(code == 103 && words.contains("endpoint entry"), "{code} {words}");
}

fn hex(address: &Ipv6Addr) -> String {
    address.octets().map(|byte| format!("{byte:02x}")).join(" ")
}

#[test]
fn without_an_agent_pods_can_be_deleted_but_not_made() {
    let Some(mut node) = Node::with_agent("down", BLOCK) else {
        return;
    };
    let before = node.traces();
    let ((one, result), (two, _)) = (node.add("one"), node.add("two"));
    let three = node.pod("three");
    node.kill();
    for (call, code) in [
        (node.call("ADD", "1.0.0", &three), 11),
        (node.call("CHECK", "1.0.0", &one).after(&result), 11),
    ] {
        let (found, words) = call.run().error_in("1.0.0");
        assert_eq!(found, code, "{words}");
        assert!(words.contains("cilium.sock"), "{words}");
    }
    assert_eq!(node.call("GC", "1.1.0", "").run().error().0, 11);
    assert_eq!(node.call("STATUS", "1.1.0", "").run().error().0, 50);
    node.call("VERSION", "1.1.0", "").run().result();
    assert_eq!(node.queued().len(), 0);
    for _ in 0..2 {
        node.call("DEL", "1.0.0", &one).run().silence();
    }
    node.call("DEL", "0.3.1", "never-seen").run().silence();
    let mut queued: Vec<String> = node
        .queued()
        .into_iter()
        .map(|attachment| attachment.container_id)
        .collect();
    queued.sort();
    assert_eq!(queued, ["never-seen", one.as_str()]);
    node.start();
    assert_eq!(node.queued(), [], "replayed before anything is served");
    let left: Vec<String> = containers(&node);
    assert_eq!(left, [two.as_str()]);

    // A queue that cannot be written: the runtime has to come again.
    node.kill();
    let queue = node.path("run/deleteQueue");
    fs::remove_dir(&queue).expect("an empty directory");
    fs::write(&queue, "not a directory").expect("written");
    let (code, words) = node.call("DEL", "1.1.0", &two).run().error();
    assert!(code == 11 && words.contains("queued"), "{code} {words}");
    node.start();
    node.call("STATUS", "1.1.0", "").run().silence();
    node.call("DEL", "1.1.0", &two).run().silence();
    node.settle(&before);
}

fn containers(node: &Node) -> Vec<String> {
    let mut ids: Vec<String> = node
        .endpoints()
        .into_iter()
        .map(|endpoint| endpoint.status.external_identifiers.container_id)
        .collect();
    ids.sort();
    ids
}

#[test]
fn a_full_block_is_named_and_fills_again_after_the_rest() {
    /// Addresses of a /124 that are handed out: without the first and the last, and the router's.
    const PODS: usize = 13;
    let Some(mut node) = Node::with_agent("block", "fd00:10:244::/124") else {
        return;
    };
    let added: BTreeMap<String, Value> = (0..PODS).map(|number| node.add(&number.to_string())).collect();
    let full = node.traces();
    let late = node.pod("late");
    let add = || node.call("ADD", "1.1.0", &late).run();
    let (code, words) = add().error();
    assert_eq!(code, 101, "{words}");
    for word in ["fd00:10:244::/124", "14 of 14", "in use"] {
        assert!(words.contains(word), "`{word}` is not in: {words}");
    }
    assert_eq!(node.traces(), full, "a refused ADD leaves nothing");
    let (code, words) = node.call("STATUS", "1.1.0", "").run().error();
    assert!(code == 50 && words.contains("address"), "{code} {words}");

    // One that goes makes room only when its address has rested.
    let (gone, result) = added.iter().next().expect("a pod");
    node.call("DEL", "1.1.0", gone).after(result).run().silence();
    node.until("the link is gone", |node| {
        node.traces() != full && containers(node).len() < PODS
    });
    let (code, words) = add().error();
    assert!(code == 101 && words.contains("1 were released"), "{code} {words}");
    // Time goes by: the address was released long ago.
    node.kill();
    node.change_state(|state| {
        let resting = state["ipam"]["resting"].as_array_mut().expect("a list");
        assert_eq!(resting.len(), 1);
        resting[0][1] = json!({ "secs": 1, "nanos": 0 });
    });
    node.start();
    node.call("STATUS", "1.1.0", "").run().silence();
    let again = node.call("ADD", "1.1.0", &late).run().result();
    assert_eq!(again["ips"], result["ips"], "the only address that is free");
    assert_eq!(containers(&node).len(), PODS);
}

#[test]
fn a_full_table_fails_add_and_leaves_nothing() {
    let Some(mut node) = Node::with_agent("table", BLOCK) else {
        return;
    };
    let before = node.traces();
    let pod = node.pod("one");
    fill(&node);
    let (code, words) = node.call("ADD", "1.1.0", &pod).run().error();
    assert!(code == 102 && words.contains("endpoint entry"), "{code} {words}");
    node.until("it is undone", |node| node.endpoints().is_empty());
    assert!(!node.inside(node.name(), "ip -o link").contains("lxc"));
    assert_eq!(node.inside(&pod, "ip -o link").lines().count(), 1);
    // The next agent finds that the entries are nobody's.
    node.kill();
    node.start();
    node.settle(&before);
    let result = node.call("ADD", "1.1.0", &pod).run().result();
    node.call("CHECK", "1.1.0", &pod).after(&result).run().silence();
}

/// Fills the endpoint table with entries of nobody.
fn fill(node: &Node) {
    let table = node.path("bpf/seta/maps/seta_endpoints").display().to_string();
    let info: Value =
        serde_json::from_str(&must("bpftool", &["-j", "map", "show", "pinned", &table])).expect("JSON");
    let size = |key: &str| info[key].as_u64().expect("a number");
    let value = vec!["00"; usize::try_from(size("bytes_value")).expect("small")].join(" ");
    let lines: String = (0..size("max_entries"))
        .map(|number| {
            let key = hex(&Ipv6Addr::from_bits((0xfd99 << 112) + u128::from(number)));
            format!("map update pinned {table} key hex {key} value hex {value}\n")
        })
        .collect();
    let batch = node.path("batch");
    fs::write(&batch, lines).expect("written");
    // It ends with the first entry that finds no room, as the node has entries of its own.
    let output = std::process::Command::new("bpftool")
        .arg("batch")
        .arg("file")
        .arg(&batch)
        .output()
        .expect("bpftool");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("too long"),
        "E2BIG is how the kernel says that a table is full: {output:?}"
    );
}

#[test]
fn gc_keeps_exactly_what_is_listed() {
    let Some(mut node) = Node::with_agent("gc", BLOCK) else {
        return;
    };
    let before = node.traces();
    let added: Vec<(String, Value)> = ["a", "b", "c"].map(|pod| node.add(pod)).into();
    let [a, b, c] = [0, 1, 2].map(|number: usize| added[number].0.as_str());
    let gc = |valid: Value| node.call("GC", "1.1.0", "").with(VALID, valid).run();
    gc(valid(&[c, a, b, "never-seen"])).silence();
    assert_eq!(containers(&node), [a, b, c]);
    assert_eq!(node.call("GC", "1.1.0", "").without(VALID).run().error().0, 7);
    assert_eq!(
        containers(&node),
        [a, b, c],
        "who does not say what stays, gets nothing"
    );
    gc(valid(&[c, a])).silence();
    assert_eq!(containers(&node), [a, c]);
    for (pod, result) in [&added[0], &added[2]] {
        node.call("CHECK", "1.1.0", pod).after(result).run().silence();
    }
    let deleted = node.call("CHECK", "1.1.0", b).after(&added[1].1).run();
    assert_eq!(deleted.error().0, 3);
    // The same container, another device: not what was made.
    gc(json!([{ "containerID": a, "ifname": "eth1" }, { "containerID": c, "ifname": "eth0" }])).silence();
    assert_eq!(containers(&node), [c]);
    // Go's libraries write an empty list so.
    gc(Value::Null).silence();
    node.settle(&before);
}
