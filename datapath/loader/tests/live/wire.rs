//! The fast lane on a veth pair: a client and a backend at the far end, a node between them that translates.

use std::io::Write as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use abi::{Backend, BackendKey, BackendSet, Config, Endpoint, MemberKey, Service, ServiceKey};
use nix::net::if_::if_indextoname;
use seta_loader::{Attached, Datapath, Options, WireError, WireMode};

use super::harness::{Node, addr, on_a_node, run};

const HOST: &str = "fc00:f853:ccd:e793::2";
const CLIENT: &str = "2001:db8:1::9";
const BACKEND: &str = "fd00:10:244:1::5";

/// Programs that translate, and the addresses of both ends in the "pod", which is the world here.
fn translating(node: &Node) -> (Datapath, u32) {
    let device = node.link_pod();
    let options = Options {
        config: Config {
            services: 1,
            ..node.options().config
        },
        ..node.options()
    };
    let datapath = Datapath::open(&options).unwrap();
    for address in [CLIENT, BACKEND] {
        node.inside(&format!("ip address add {address}/128 dev eth0 nodad"));
        run("ip", &["route", "add", &format!("{address}/128"), "dev", "lxc"]);
        let neighbour = format!("neigh add {address} lladdr 02:00:00:00:00:02 dev lxc nud permanent");
        run("ip", &neighbour.split(' ').collect::<Vec<_>>());
    }
    node.inside(&format!("ip route add {HOST}/128 dev eth0"));
    node.inside(&format!(
        "ip neigh add {HOST} lladdr 02:00:00:00:00:01 dev eth0 nud permanent"
    ));
    let own = Endpoint {
        flags: Endpoint::HOST,
        ..Endpoint::default()
    };
    datapath.endpoints().insert(&addr(HOST), &own).unwrap();
    datapath.nat().masquerade.insert(&device, &addr(HOST)).unwrap();
    let set = BackendSet { id: 7, count: 1 };
    let port = 8080u16.to_be_bytes();
    for proto in [6, 17] {
        let key = ServiceKey {
            addr: abi::Addr::UNSPECIFIED,
            port: 30080u16.to_be_bytes(),
            proto,
            family: 6,
            pad: [0; 4],
        };
        let service = Service {
            inside: set,
            outside: set,
            number: 3,
            affinity: 0,
            flags: Service::NODE_PORT | Service::EXTERNAL,
        };
        datapath.services().services.insert(&key, &service).unwrap();
    }
    let backend = Backend {
        addr: addr(BACKEND),
        port,
        flags: 0,
        number: 1,
    };
    datapath
        .services()
        .backends
        .insert(&BackendKey { set: 7, slot: 0 }, &backend)
        .unwrap();
    let member = MemberKey {
        addr: addr(BACKEND),
        port,
        pad: [0; 2],
        service: 3,
    };
    datapath.services().members.insert(&member, &3).unwrap();
    datapath.attach_netdev(device).unwrap();
    (datapath, device)
}

/// A client that sends what it is told to the node port and says what came back.
struct Talk {
    child: Child,
    to: ChildStdin,
    from: std::io::BufReader<ChildStdout>,
}

/// Reads lengths, sends as many bytes, and writes "ok" when they came back from the echoing backend, else "lost".
const SCRIPT: &str = r#"
import socket, sys, threading
kind = socket.SOCK_STREAM if sys.argv[1] == "tcp" else socket.SOCK_DGRAM
server = socket.socket(socket.AF_INET6, kind)
server.bind((sys.argv[3], 8080))
if kind == socket.SOCK_STREAM: server.listen()
def echo():
    peer = server
    if kind == socket.SOCK_STREAM:
        peer, _ = server.accept()
    while True:
        data, who = peer.recvfrom(65536)
        if kind == socket.SOCK_STREAM:
            if not data: return
            peer.sendall(data)
        else:
            peer.sendto(data, who)
threading.Thread(target=echo, daemon=True).start()
client = socket.socket(socket.AF_INET6, kind)
client.settimeout(3)
client.bind((sys.argv[2], 40000))
client.connect((sys.argv[4], 30080))
for line in sys.stdin:
    size, client_wait = (int(x) for x in line.split())
    client.settimeout(client_wait / 1000)
    data = bytes(i % 251 for i in range(size))
    try:
        client.send(data) if kind == socket.SOCK_DGRAM else client.sendall(data)
        back = b""
        while len(back) < size:
            back += client.recv(65536)
        print("ok" if back == data else "wrong", flush=True)
    except socket.timeout:
        print("lost", flush=True)
"#;

impl Talk {
    fn new(node: &Node, protocol: &str) -> Self {
        let mut child = node
            .command("python3")
            .args(["-c", SCRIPT, protocol, CLIENT, BACKEND, HOST])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let to = child.stdin.take().unwrap();
        let from = std::io::BufReader::new(child.stdout.take().unwrap());
        Self { child, to, from }
    }

    fn say(&mut self, bytes: usize, within: Duration) -> String {
        use std::io::BufRead as _;
        writeln!(self.to, "{bytes} {}", within.as_millis()).unwrap();
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const LONG: Duration = Duration::from_secs(3);
const SHORT: Duration = Duration::from_millis(400);

#[test]
fn a_known_connection_turns_round_in_the_fast_lane() {
    on_a_node(|node| known(node, "tcp", "ok"));
}

#[test]
fn datagrams_turn_round_in_the_fast_lane() {
    on_a_node(|node| known(node, "udp", "ok"));
}

#[test]
fn packets_with_unfinished_checksums_go_the_other_way() {
    on_a_node(|node| known(node, "tcp", ""));
}

/// The kernel takes a link off some time after its pin is gone.
fn until_nothing_else_is_attached() {
    let end = Instant::now() + LONG;
    loop {
        let shown = Command::new("bpftool").args(["net", "show"]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        if !shown.contains("_netdev") {
            return;
        }
        assert!(Instant::now() < end, "still attached:\n{shown}");
    }
}

/// Both ways carry a connection; then only the fast lane is there. What it leaves reaches the node's own stack, which resets
/// the connection: the client ends without a word.
fn known(node: &Node, protocol: &str, alone: &str) {
    let (datapath, device) = translating(node);
    if alone == "ok" {
        node.inside("ethtool -K eth0 tx off");
    }
    // What is sent back arrives only where the other end has a program, too: GRO there was not enough (Linux 6.18). This
    // one lets everything pass, as nothing there is for the node.
    assert_eq!(
        datapath.attach_wire(device, WireMode::Forced).unwrap(),
        Attached::New
    );
    assert_eq!(
        datapath.attach_wire(device, WireMode::Forced).unwrap(),
        Attached::Kept
    );
    let programs = node.root().join("seta/programs");
    let first = std::fs::read_dir(&programs)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    node.inside(&format!(
        "bpftool net attach xdpdrv pinned {} dev eth0",
        first.join("from_wire").display()
    ));
    let mut talk = Talk::new(node, protocol);
    for size in [100, 1, 1400, 100] {
        let answer = talk.say(size, LONG);
        assert_eq!(answer, "ok", "{protocol}, {size} bytes: {:?}", datapath.metrics());
    }
    // Without the other way there is nobody else who could translate.
    for name in ["from_netdev", "to_netdev"] {
        std::fs::remove_file(node.links().join(format!("{name}-{device}"))).unwrap();
    }
    until_nothing_else_is_attached();
    let within = if alone == "ok" { LONG } else { SHORT };
    assert_eq!(talk.say(100, within), alone, "{protocol}, the fast lane alone");
    datapath.attach_netdev(device).unwrap();
    assert!(datapath.detach_wire(device).unwrap() && !datapath.detach_wire(device).unwrap());
    if alone == "ok" {
        assert_eq!(
            talk.say(300, LONG),
            "ok",
            "{protocol}, without the fast lane again"
        );
    }
}

#[test]
fn a_new_agent_exchanges_the_program_in_place() {
    on_a_node(|node| {
        let (datapath, device) = translating(node);
        datapath.attach_wire(device, WireMode::Forced).unwrap();
        let before = datapath.wire_attachments().unwrap();
        drop(datapath);
        // Other constants: another program.
        let mut options = node.options();
        options.config.services = 1;
        options.config.ct_any += 1;
        let datapath = Datapath::open(&options).unwrap();
        assert!(!datapath.wire_attachments().unwrap()[0].current);
        assert_eq!(
            datapath.attach_wire(device, WireMode::Forced).unwrap(),
            Attached::Exchanged
        );
        let after = datapath.wire_attachments().unwrap();
        assert!(after[0].current && after[0].program_id != before[0].program_id);
        run(
            "ip",
            &[
                "link",
                "delete",
                &if_indextoname(device).unwrap().to_string_lossy(),
            ],
        );
        assert!(datapath.wire_attachments().unwrap().is_empty());
        assert!(datapath.prune().unwrap() > 0);
        assert!(!node.links().join(format!("from_wire-{device}")).exists());
        drop(datapath);
        seta_loader::uninstall(node.root()).unwrap();
    });
}

#[test]
fn a_virtual_pair_is_refused_in_native_mode() {
    on_a_node(|node| {
        let (datapath, device) = translating(node);
        let refused = datapath.attach_wire(device, WireMode::Native).unwrap_err();
        assert!(matches!(refused, WireError::Virtual { .. }), "{refused}");
        assert!(refused.to_string().contains("unfinished checksums"), "{refused}");
        assert!(datapath.wire_attachments().unwrap().is_empty());
    });
}
