//! Connections through a `ClusterIP` while N services are in the tables, beside a connection straight to the pod and
//! beside the rules that kube-proxy writes for the same services; and what a lookup costs, what the tables take.

use std::{
    net::{Ipv6Addr, SocketAddrV6, TcpStream},
    thread,
    time::{Duration, Instant},
};

use abi::{Addr, Backend, BackendKey, BackendSet, Service, ServiceKey, names};
use anyhow::{Context as _, Result, anyhow, bail};
use loader::{Datapath, ServiceTables};

use crate::{
    first_packet,
    kube_proxy::{self, Mode},
    one_node::{self, NOWHERE, OneNode, SERVER, at},
    table::{median, ratio},
    traffic::{enter, pin},
};

/// More than that and the peers take minutes to load their rules.
const PEERS_UP_TO: u32 = 10_000;
/// What the tables have room for with endpoints to spare.
const MOST: u32 = 100_000;
/// Sockets that are connected per sample of the lookup's cost.
const LOOKUPS: usize = 50_000;
const TCP: u8 = 6;

/// One number of services, in the tables of every variant.
struct Size {
    count: u32,
    seta: OneNode,
    peers: Vec<(Mode, OneNode)>,
}

/// What is measured: where a client connects to, in which topology.
struct Case<'a> {
    name: String,
    node: &'a OneNode,
    target: SocketAddrV6,
}

pub(crate) fn run(sizes: &[u32], rounds: usize, connections: usize) -> Result<()> {
    if let Some(bad) = sizes.iter().find(|size| !(2..=MOST).contains(*size)) {
        bail!("{bad} services: from 2 to {MOST}");
    }
    let direct = OneNode::new("direct")?;
    println!("\nFilling, whole tables at once");
    let sizes = sizes
        .iter()
        .map(|count| Size::new(*count))
        .collect::<Result<Vec<_>>>()?;
    rates(&direct, &sizes, rounds, connections)?;
    growth(&sizes, rounds, connections)?;
    lookups(&sizes, rounds)?;
    match sizes.first() {
        Some(size) => first_packet::run(&size.seta),
        None => Ok(()),
    }
}

impl Size {
    fn new(count: u32) -> Result<Self> {
        let services = services(count)?;
        let mut seta = OneNode::new(&format!("seta-{count}"))?;
        seta.attach_seta()?;
        let datapath = datapath(&seta)?;
        let started = Instant::now();
        fill(datapath.services(), &services)?;
        let took = started.elapsed();
        println!(
            "{count:>7} services  {:<18} {:>9.1} ms {:>6.2} µs per service, {:.2} MB in the kernel",
            "seta",
            took.as_secs_f64() * 1e3,
            took.as_secs_f64() * 1e6 / f64::from(count),
            memory(datapath)? as f64 / 1e6
        );
        let mut peers = Vec::new();
        for mode in Mode::ALL {
            if count > PEERS_UP_TO {
                println!(
                    "{count:>7} services  {:<18} left out: minutes to load",
                    mode.name()
                );
            } else if mode.program().is_none() {
                println!(
                    "{count:>7} services  {:<18} left out: not on this machine",
                    mode.name()
                );
            } else {
                let node = OneNode::new(&format!("{}-{count}", mode.tag()))?;
                let took = mode
                    .load(&node.netns("node"), &services)
                    .with_context(|| format!("{} with {count} services", mode.name()))?;
                println!(
                    "{count:>7} services  {:<18} {:>9.1} ms",
                    mode.name(),
                    took.as_secs_f64() * 1e3
                );
                peers.push((mode, node));
            }
        }
        Ok(Self { count, seta, peers })
    }

    fn cases<'a>(&'a self, direct: &'a OneNode) -> Result<Vec<Case<'a>>> {
        let pod = at(SERVER[0].parse().context("address")?, one_node::PORT);
        let (middle, last) = (
            at(address(self.count / 2 + 1), kube_proxy::PORT),
            at(address(self.count), kube_proxy::PORT),
        );
        let case = |name: String, node, target| Case { name, node, target };
        let mut cases = vec![
            case("direct".into(), direct, pod),
            case("seta, direct".into(), &self.seta, pod),
            case("seta, service".into(), &self.seta, middle),
        ];
        for (mode, node) in &self.peers {
            cases.push(case(mode.name().into(), node, middle));
            // Its rules are tried one after the other.
            if *mode != Mode::Nftables {
                cases.push(case(format!("{}, last", mode.name()), node, last));
            }
        }
        Ok(cases)
    }
}

/// What was measured of one case, round by round.
#[derive(Clone, Default)]
struct Samples {
    /// Connections per second.
    rates: Vec<f64>,
    /// µs on a CPU per connection.
    cpu: Vec<f64>,
}

/// Connections per second of all variants, side by side for each number of services.
fn rates(direct: &OneNode, sizes: &[Size], rounds: usize, connections: usize) -> Result<()> {
    let cases = sizes
        .iter()
        .map(|size| size.cases(direct))
        .collect::<Result<Vec<_>>>()?;
    let mut samples: Vec<Vec<Samples>> = cases
        .iter()
        .map(|cases| vec![Samples::default(); cases.len()])
        .collect();
    for round in 0..rounds {
        for (cases, samples) in cases.iter().zip(&mut samples) {
            sample(cases, samples, round, connections)?;
        }
        eprintln!("connections: round {}/{rounds}", round + 1);
    }
    for ((size, cases), samples) in sizes.iter().zip(&cases).zip(&samples) {
        println!(
            "\n{} services, connections/s ({connections} per sample)",
            size.count
        );
        println!(
            "{:<24} {:>7} {:>21} {:>22} {:>8} {:>21} {:>22}",
            "", "median", "÷ direct", "seta, service ÷ it", "CPU µs", "÷ direct", "it ÷ seta, service"
        );
        for (case, own) in cases.iter().zip(samples) {
            println!(
                "{:<24} {:>7.0} {:>21} {:>22} {:>8.1} {:>21} {:>22}",
                case.name,
                median(&own.rates),
                ratio(&own.rates, &samples[0].rates),
                ratio(&samples[2].rates, &own.rates),
                median(&own.cpu),
                ratio(&own.cpu, &samples[0].cpu),
                ratio(&own.cpu, &samples[2].cpu)
            );
        }
    }
    Ok(())
}

/// Every case once; every other round backwards, so that nobody always follows the same neighbour.
fn sample(cases: &[Case<'_>], samples: &mut [Samples], round: usize, connections: usize) -> Result<()> {
    let mut order: Vec<usize> = (0..cases.len()).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    for index in order {
        let case = &cases[index];
        let rate = case
            .node
            .rate(case.target, connections)
            .with_context(|| case.name.clone())?;
        samples[index].rates.push(rate.per_second);
        samples[index].cpu.push(rate.cpu);
    }
    Ok(())
}

/// Seta's rates through a service next to each other, whatever the number of services.
fn growth(sizes: &[Size], rounds: usize, connections: usize) -> Result<()> {
    let cases: Vec<Case<'_>> = sizes
        .iter()
        .map(|size| Case {
            name: format!("{} services", size.count),
            node: &size.seta,
            target: at(address(size.count / 2 + 1), kube_proxy::PORT),
        })
        .collect();
    let mut samples = vec![Samples::default(); cases.len()];
    for round in 0..rounds {
        sample(&cases, &mut samples, round, connections)?;
    }
    println!("\nseta, service, by the number of services, connections/s");
    for (case, own) in cases.iter().zip(&samples) {
        println!(
            "{:<24} {:>7.0} ÷ the first: {:<21} CPU {:>5.1} µs ÷ the first: {}",
            case.name,
            median(&own.rates),
            ratio(&own.rates, &samples[0].rates),
            median(&own.cpu),
            ratio(&own.cpu, &samples[0].cpu)
        );
    }
    Ok(())
}

/// Which services are asked for.
#[derive(Clone, Copy)]
enum Keys {
    /// An address that is no service: the floor.
    None,
    /// Always the same service.
    One,
    /// The n-th service 1/n as often as the first (Zipf).
    Skewed,
    /// All alike.
    Random,
}

impl Keys {
    const ALL: [(Self, &'static str); 4] = [
        (Self::None, "no service"),
        (Self::One, "one"),
        (Self::Skewed, "skewed"),
        (Self::Random, "random"),
    ];

    /// Numbers of services from 1; 0: none. Never those that lead to the server.
    fn draw(self, count: u32) -> Vec<u32> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut uniform = || {
            // Xorshift (Marsaglia, "Xorshift RNGs", 2003): the same keys in every run.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let mut sum = 0.0;
        let weights: Vec<f64> = (1..=count)
            .map(|rank| {
                sum += 1.0 / f64::from(rank);
                sum
            })
            .collect();
        (0..LOOKUPS)
            .map(|_| match self {
                Self::None => 0,
                Self::One => 1,
                Self::Skewed => {
                    let point = uniform() * sum;
                    let rank = weights.partition_point(|weight| *weight < point) as u32;
                    // Popular services are anywhere in the table.
                    (rank.wrapping_mul(7_919) % count) + 1
                }
                Self::Random => (uniform() * f64::from(count)) as u32 + 1,
            })
            .map(|number| if leads_to_server(number, count) { 1 } else { number })
            .collect()
    }
}

/// What `connect6` takes by the kernel's own count, with a new socket each time. Backends cannot be reached, which the
/// kernel knows before it makes a packet.
fn lookups(sizes: &[Size], rounds: usize) -> Result<()> {
    let _stats = loader::StatsGuard::enable().context("run statistics")?;
    let draws: Vec<Vec<Vec<u32>>> = sizes
        .iter()
        .map(|size| Keys::ALL.map(|(keys, _)| keys.draw(size.count)).to_vec())
        .collect();
    let mut samples = vec![vec![Vec::new(); Keys::ALL.len()]; sizes.len()];
    for _ in 0..rounds {
        for ((size, draws), samples) in sizes.iter().zip(&draws).zip(&mut samples) {
            for (draw, samples) in draws.iter().zip(samples) {
                samples.push(lookup(&size.seta, draw)?);
            }
        }
    }
    println!("\nconnect6, ns per run by the kernel's counters, median of {rounds} × {LOOKUPS} [smallest]");
    print!("{:>16}", "");
    for (_, name) in Keys::ALL {
        print!(" {name:>18}");
    }
    println!();
    for (size, samples) in sizes.iter().zip(&samples) {
        print!("{:>7} services", size.count);
        for own in samples {
            let smallest = own.iter().copied().fold(f64::INFINITY, f64::min);
            print!(" {:>18}", format!("{:.0} [{smallest:.0}]", median(own)));
        }
        println!();
    }
    println!("(the statistics themselves cost 20 to 40 ns per run)");
    Ok(())
}

fn lookup(node: &OneNode, draw: &[u32]) -> Result<f64> {
    let counters = || -> Result<(Duration, u64)> {
        let infos = datapath(node)?.program_infos().context("program information")?;
        let info = infos
            .iter()
            .find(|info| info.name == names::CONNECT6)
            .context("no connect6")?;
        Ok((info.run_time, info.run_count))
    };
    let targets: Vec<SocketAddrV6> = draw
        .iter()
        .map(|number| match number {
            0 => NOWHERE.parse().map(|nowhere| at(nowhere, kube_proxy::PORT)),
            number => Ok(at(address(*number), kube_proxy::PORT)),
        })
        .collect::<Result<_, _>>()
        .context("address")?;
    let netns = node.netns("client");
    let before = counters()?;
    node.inside(|| {
        let connected = thread::spawn(move || -> Result<()> {
            enter(&netns)?;
            pin(1)?;
            for target in targets {
                match TcpStream::connect(target) {
                    Ok(_) => bail!("{target} leads somewhere"),
                    Err(error) if error.kind() == std::io::ErrorKind::HostUnreachable => {}
                    Err(error) => return Err(error).with_context(|| format!("connect to {target}")),
                }
            }
            Ok(())
        });
        connected.join().map_err(|_| anyhow!("the client panicked"))?
    })?;
    let after = counters()?;
    let runs = after.1 - before.1;
    if runs < draw.len() as u64 {
        bail!("connect6 ran {runs} times for {} sockets", draw.len());
    }
    Ok(after.0.saturating_sub(before.0).as_nanos() as f64 / runs as f64)
}

fn datapath(node: &OneNode) -> Result<&Datapath> {
    Ok(&node.seta.as_ref().context("Seta is not there")?.datapath)
}

/// Address of the service with this number, from 1.
fn address(number: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(0xfd00_0010_0096_0000_0000_0000_0000_0000 + u128::from(number))
}

/// Two services of each table can be used: in the middle, and the last one.
fn leads_to_server(number: u32, count: u32) -> bool {
    number == count / 2 + 1 || number == count
}

/// Services with two endpoints each, which only exist for two of them.
fn services(count: u32) -> Result<Vec<kube_proxy::Service>> {
    let nowhere: Ipv6Addr = NOWHERE.parse().context("address")?;
    (1..=count)
        .map(|number| {
            let endpoints = (0..2_u32)
                .map(|slot| {
                    let (ip, port) = if leads_to_server(number, count) {
                        (SERVER[slot as usize].parse().context("address")?, one_node::PORT)
                    } else {
                        let host = u128::from(number) * 2 + u128::from(slot);
                        (Ipv6Addr::from_bits(nowhere.to_bits() + host), 80)
                    };
                    Ok(at(ip, port))
                })
                .collect::<Result<_>>()?;
            Ok(kube_proxy::Service {
                number,
                address: address(number),
                endpoints,
            })
        })
        .collect()
}

/// As the agent writes it: the set of backends, then the frontend.
fn fill(tables: &ServiceTables, services: &[kube_proxy::Service]) -> Result<()> {
    for service in services {
        let mut set = BackendSet {
            id: service.number,
            count: 0,
        };
        for endpoint in &service.endpoints {
            let key = BackendKey {
                set: set.id,
                slot: set.count,
            };
            let backend = Backend {
                addr: Addr(endpoint.ip().octets()),
                port: endpoint.port().to_be_bytes(),
                flags: 0,
                number: service.number * 2 + set.count,
            };
            tables.backends.insert(&key, &backend)?;
            set.count += 1;
        }
        let key = ServiceKey {
            addr: Addr(service.address.octets()),
            port: kube_proxy::PORT.to_be_bytes(),
            proto: TCP,
            family: 6,
            pad: [0; 4],
        };
        let frontend = Service {
            inside: set,
            outside: set,
            number: service.number,
            ..Service::default()
        };
        tables.services.insert(&key, &frontend)?;
    }
    Ok(())
}

/// What the tables of services take, bytes, as the kernel accounts for it.
fn memory(datapath: &Datapath) -> Result<u64> {
    let infos = datapath.map_infos().context("map information")?;
    Ok(infos
        .iter()
        .filter(|info| [names::SERVICES, names::BACKENDS].contains(&info.name))
        .map(|info| info.bytes)
        .sum())
}
