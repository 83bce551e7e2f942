//! Services at the socket, in a cgroup of the test's own.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use abi::service::member;
use abi::{Addr, Backend, BackendKey, BackendSet, MemberKey, Service, ServiceKey};
use seta_loader::{Attached, Datapath, ServiceTables};

use crate::harness::{Node, on_a_node, run};

const TCP: u8 = 6;
const UDP: u8 = 17;
const DEADLINE: Duration = Duration::from_secs(5);
const SERVICE: &str = "fd00:10:96::1";
const BACKENDS: [&str; 2] = ["fd00:b::1", "fd00:b::2"];

/// A cgroup that this process is in while the value lives.
struct Cgroup(PathBuf);

impl Cgroup {
    fn join() -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let root = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let path = fields.nth(1)?;
            (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
        });
        let Some(root) = root else {
            println!("SKIP: needs a cgroup v2 hierarchy");
            return None;
        };
        let path = root.join(format!("seta-t-loader-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let cgroup = Self(path);
        cgroup.enter(&cgroup.0);
        Some(cgroup)
    }

    fn enter(&self, path: &Path) {
        std::fs::write(path.join("cgroup.procs"), "0").unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Some(root) = self.0.parent() {
            self.enter(root);
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn at(addr: &str, port: u16) -> SocketAddr {
    let ip: Ipv6Addr = addr.parse().unwrap();
    SocketAddr::V6(SocketAddrV6::new(ip, port, 0, 0))
}

fn abi(addr: &str) -> Addr {
    Addr(addr.parse::<Ipv6Addr>().unwrap().octets())
}

/// Writes a service with these backends.
fn serve(tables: &ServiceTables, number: u32, addr: Addr, proto: u8, port: u16, backends: &[SocketAddr]) {
    let set = number * 10 + u32::try_from(backends.len()).unwrap();
    let count = u32::try_from(backends.len()).unwrap();
    for (slot, backend) in (0..).zip(backends) {
        let SocketAddr::V6(backend) = backend else {
            panic!("IPv6 only")
        };
        let value = Backend {
            addr: Addr(backend.ip().octets()),
            port: backend.port().to_be_bytes(),
            flags: 0,
            number: slot + 1,
        };
        tables.backends.insert(&BackendKey { set, slot }, &value).unwrap();
        let key = MemberKey {
            addr: value.addr,
            port: value.port,
            pad: [0; 2],
            service: number,
        };
        tables.members.insert(&key, &member::INSIDE).unwrap();
    }
    let inside = BackendSet {
        id: if count == 0 { 0 } else { set },
        count,
    };
    let key = ServiceKey {
        addr,
        port: port.to_be_bytes(),
        proto,
        family: 6,
        pad: [0; 4],
    };
    let service = Service {
        inside,
        number,
        ..Service::default()
    };
    tables.services.insert(&key, &service).unwrap();
}

fn open(node: &Node) -> Datapath {
    run("ip", &["link", "set", "lo", "up"]);
    for backend in BACKENDS {
        run(
            "ip",
            &["address", "add", &format!("{backend}/128"), "dev", "lo", "nodad"],
        );
    }
    Datapath::open(&node.options()).unwrap()
}

#[test]
fn a_stream_to_a_service_reaches_a_backend_and_names_the_service() {
    on_a_node(|node| {
        let Some(cgroup) = Cgroup::join() else { return };
        let datapath = open(node);
        assert_eq!(datapath.attach_sockets(&cgroup.0).unwrap(), Attached::New);
        assert_eq!(datapath.attach_sockets(&cgroup.0).unwrap(), Attached::Kept);
        let attachments = datapath.socket_attachments();
        assert_eq!(attachments.len(), 5);
        assert!(attachments.iter().all(|attachment| attachment.current));

        let listeners = BACKENDS.map(|backend| TcpListener::bind(at(backend, 0)).unwrap());
        let backends = listeners
            .each_ref()
            .map(|listener| listener.local_addr().unwrap());
        serve(datapath.services(), 1, abi(SERVICE), TCP, 80, &backends);
        let mut hits = [0; 2];
        for _ in 0..64 {
            let mut client = TcpStream::connect_timeout(&at(SERVICE, 80), DEADLINE).unwrap();
            assert_eq!(client.peer_addr().unwrap(), at(SERVICE, 80));
            client.write_all(b"x").unwrap();
            let index = listeners
                .iter()
                .position(|listener| {
                    listener.set_nonblocking(true).unwrap();
                    listener.accept().is_ok_and(|(mut server, _)| {
                        server.set_nonblocking(false).unwrap();
                        let mut byte = [0];
                        server.read_exact(&mut byte).is_ok()
                    })
                })
                .unwrap();
            hits[index] += 1;
        }
        assert!(hits.iter().all(|hit| *hit > 8), "{hits:?}");

        // Straight to a backend nothing changes.
        let client = TcpStream::connect_timeout(&backends[0], DEADLINE).unwrap();
        assert_eq!(client.peer_addr().unwrap(), backends[0]);

        // No backend: refused at once.
        serve(datapath.services(), 1, abi(SERVICE), TCP, 80, &[]);
        let error = TcpStream::connect_timeout(&at(SERVICE, 80), DEADLINE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);

        assert_eq!(datapath.detach_sockets().unwrap(), 5);
        assert!(datapath.socket_attachments().is_empty());
    });
}

#[test]
fn datagrams_stay_with_their_backend_and_answers_come_from_the_service() {
    on_a_node(|node| {
        let Some(cgroup) = Cgroup::join() else { return };
        let datapath = open(node);
        datapath.attach_sockets(&cgroup.0).unwrap();
        let servers = BACKENDS.map(|backend| UdpSocket::bind(at(backend, 0)).unwrap());
        let backends = servers.each_ref().map(|server| server.local_addr().unwrap());
        for server in &servers {
            server.set_nonblocking(true).unwrap();
        }
        serve(datapath.services(), 2, abi(SERVICE), UDP, 53, &backends);
        let answer = || {
            let mut byte = [0];
            servers
                .iter()
                .position(|server| match server.recv_from(&mut byte) {
                    Ok((_, from)) => server.send_to(&byte, from).is_ok(),
                    Err(_) => false,
                })
        };

        let client = UdpSocket::bind("[::]:0").unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut chosen = None;
        for _ in 0..16 {
            client.send_to(b"?", at(SERVICE, 53)).unwrap();
            let index = answer().unwrap();
            assert_eq!(
                *chosen.get_or_insert(index),
                index,
                "a socket stays with its backend"
            );
            let (_, from) = client.recv_from(&mut [0]).unwrap();
            assert_eq!(from, at(SERVICE, 53));
        }
        // The backend goes: the next datagram goes to the other one.
        let (gone, left) = (chosen.unwrap(), 1 - chosen.unwrap());
        let SocketAddr::V6(addr) = backends[gone] else {
            unreachable!()
        };
        let key = MemberKey {
            addr: Addr(addr.ip().octets()),
            port: addr.port().to_be_bytes(),
            pad: [0; 2],
            service: 2,
        };
        serve(
            datapath.services(),
            2,
            abi(SERVICE),
            UDP,
            53,
            &backends[left..=left],
        );
        datapath.services().members.remove(&key).unwrap();
        client.send_to(b"?", at(SERVICE, 53)).unwrap();
        assert_eq!(answer(), Some(left));
        assert_eq!(client.recv_from(&mut [0]).unwrap().1, at(SERVICE, 53));

        // A connected socket: the same, and it may be connected elsewhere later.
        let client = UdpSocket::bind("[::]:0").unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.connect(at(SERVICE, 53)).unwrap();
        assert_eq!(client.peer_addr().unwrap(), at(SERVICE, 53));
        client.send(b"?").unwrap();
        assert_eq!(answer(), Some(left));
        assert_eq!(client.recv_from(&mut [0]).unwrap().1, at(SERVICE, 53));
        client.connect(backends[gone]).unwrap();
        assert_eq!(client.peer_addr().unwrap(), backends[gone]);

        // More services than a socket remembers: the newest ones work.
        let client = UdpSocket::bind("[::]:0").unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        for port in 100..120 {
            serve(
                datapath.services(),
                u32::from(port),
                abi(SERVICE),
                UDP,
                port,
                &backends[..1],
            );
            client.send_to(b"?", at(SERVICE, port)).unwrap();
            assert_eq!(answer(), Some(0));
            assert_eq!(client.recv_from(&mut [0]).unwrap().1, at(SERVICE, port));
        }
    });
}

#[test]
fn a_client_with_affinity_comes_back_while_its_backend_is_there() {
    on_a_node(|node| {
        let Some(cgroup) = Cgroup::join() else { return };
        let datapath = open(node);
        datapath.attach_sockets(&cgroup.0).unwrap();
        let listeners = BACKENDS.map(|backend| TcpListener::bind(at(backend, 0)).unwrap());
        let backends = listeners
            .each_ref()
            .map(|listener| listener.local_addr().unwrap());
        let tables = datapath.services();
        serve(tables, 3, abi(SERVICE), TCP, 80, &backends);
        let key = ServiceKey {
            addr: abi(SERVICE),
            port: 80u16.to_be_bytes(),
            proto: TCP,
            family: 6,
            pad: [0; 4],
        };
        let mut service = tables.services.get(&key).unwrap().unwrap();
        service.affinity = 10_800;
        tables.services.insert(&key, &service).unwrap();
        for listener in &listeners {
            listener.set_nonblocking(true).unwrap();
        }
        let who = || {
            let _client = TcpStream::connect_timeout(&at(SERVICE, 80), DEADLINE).unwrap();
            listeners
                .iter()
                .position(|listener| listener.accept().is_ok())
                .unwrap()
        };
        let first = who();
        assert!((0..32).all(|_| who() == first));
        let SocketAddr::V6(gone) = backends[first] else {
            unreachable!()
        };
        let member = MemberKey {
            addr: Addr(gone.ip().octets()),
            port: gone.port().to_be_bytes(),
            pad: [0; 2],
            service: 3,
        };
        tables.members.remove(&member).unwrap();
        serve(tables, 3, abi(SERVICE), TCP, 80, &backends[1 - first..2 - first]);
        assert_eq!(who(), 1 - first);
    });
}
