//! The rows of `seta-sim` in the kernel, by `BPF_PROG_TEST_RUN`: the programs must do what the logic does in memory.
//! And what the programs may cost.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeMap;

use abi::{Config, CtKey, names};
use aya::maps::{Map, MapData, RingBuf};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use seta_loader::{Datapath, MapSizes, Options};
use sim::{
    Program, TcAction,
    rows::{self, Happened, Row},
    timeless,
};
use zerocopy::FromBytes;

#[test]
fn every_row_holds_in_the_kernel() {
    in_namespaces(|root| {
        let rows: Vec<Row> = rows::all().into_iter().filter(Row::runs_in_kernel).collect();
        let mut wrong = Vec::new();
        let mut configs: Vec<Config> = Vec::new();
        for row in &rows {
            if !configs.contains(&row.before.config) {
                configs.push(row.before.config);
            }
        }
        for config in configs {
            let kernel = Kernel::load(root, config);
            let rows = rows.iter().filter(|row| row.before.config == config);
            wrong.extend(rows.filter_map(|row| kernel.check(row).err()));
            drop(kernel);
            seta_loader::uninstall(root).unwrap();
        }
        assert!(
            wrong.is_empty(),
            "{} of {} rows:\n{}",
            wrong.len(),
            rows.len(),
            wrong.join("\n\n")
        );
    });
}

/// Without a route nothing turns round, and what does not must be as it came. What turns round: `live/wire.rs`.
#[test]
fn the_fast_lane_leaves_what_it_does_not_take() {
    in_namespaces(|root| {
        let rows: Vec<Row> = rows::all().into_iter().filter(Row::runs_in_kernel).collect();
        let mut configs: Vec<Config> = Vec::new();
        for row in &rows {
            if !configs.contains(&row.before.config) {
                configs.push(row.before.config);
            }
        }
        for config in configs {
            let kernel = Kernel::load(root, config);
            for row in rows.iter().filter(|row| row.before.config == config) {
                // The kernel's test of XDP takes no frame with less than a header.
                if row.before.packet.len() < 14 || row.before.packet.len() > 3000 {
                    continue;
                }
                kernel.fill(row);
                let before = (kernel.counters(), kernel.datapath.nat().nat.entries().unwrap());
                let run = kernel
                    .datapath
                    .test_run(names::FROM_WIRE, &row.before.packet, None, 1);
                let run = run.unwrap_or_else(|error| panic!("{}: {error:?}", row.name));
                assert_eq!(run.verdict, 2, "{}: not XDP_PASS", row.name);
                assert_eq!(run.packet, row.before.packet, "{}", row.name);
                let after = (kernel.counters(), kernel.datapath.nat().nat.entries().unwrap());
                assert_eq!(after, before, "{}", row.name);
                assert!(kernel.events.borrow_mut().next().is_none(), "{}", row.name);
            }
            drop(kernel);
            seta_loader::uninstall(root).unwrap();
        }
    });
}

#[test]
fn programs_keep_to_their_budgets() {
    let budgets = include_str!("../../ebpf/budgets.toml");
    in_namespaces(move |root| {
        let kernel = Kernel::load(root, Config::DEFAULT);
        for program in kernel.datapath.program_infos().unwrap() {
            let budget = budget(budgets, program.name);
            println!(
                "{}: verified {} jited {}",
                program.name, program.verified_instructions, program.jited_bytes
            );
            assert!(
                program.verified_instructions <= budget["verified_instructions"],
                "{}: {program:?}",
                program.name
            );
            assert!(
                program.jited_bytes <= budget["jited_bytes"],
                "{}: {program:?}",
                program.name
            );
        }
    });
}

/// Nanoseconds per packet of a known connection, by `BPF_PROG_TEST_RUN`. Printed, never asserted.
#[test]
#[ignore = "a measurement: cargo nextest run -p seta-loader --run-ignored all --no-capture nanoseconds"]
fn nanoseconds_per_packet() {
    in_namespaces(|root| {
        let kernel = Kernel::load(
            root,
            Config {
                router_v6: rows::node::router(),
                host_ifindex: 3,
                ..Config::DEFAULT
            },
        );
        let passes = [
            "established, nothing new to report",
            "reply of a server, nothing new to report",
            "pod to local pod",
            "network to local pod",
            "node to local pod, second half",
            "node to the network, in the middle of a connection",
            "who has the router",
        ];
        for row in rows::all().into_iter().filter(|row| passes.contains(&row.name)) {
            kernel.fill(&row);
            let mut packet = row.before.packet.clone();
            if packet[14 + 6] == 6 {
                // Nothing to report after the first.
                packet[14 + 40 + 13] = 0x10;
            }
            // Each run decrements the hop limit of the packet of the run before.
            let rounds = (0..200).map(|_| {
                let run = kernel
                    .datapath
                    .test_run(row.program.name(), &packet, Some(&context(&row)), 50)
                    .unwrap();
                run.duration.as_nanos()
            });
            let warm = rounds.min().unwrap();
            println!(
                "{warm:>5} ns, cold {:>5} ns  {}: {}",
                cold(&kernel, &row, &packet),
                row.program.name(),
                row.name
            );
        }
    });
}

/// Nanoseconds of a run whose code and data are in no near cache: the median of single runs, and before each of them as
/// much memory is walked as the second-level cache of a core holds several times.
fn cold(kernel: &Kernel, row: &Row, packet: &[u8]) -> u128 {
    const RUNS: usize = 301;
    let mut other = vec![1u8; 8 << 20];
    let mut runs: Vec<u128> = (0..RUNS)
        .map(|_| {
            for line in other.chunks_exact_mut(64) {
                line[0] = std::hint::black_box(line[0].wrapping_add(1));
            }
            let run = kernel
                .datapath
                .test_run(row.program.name(), packet, Some(&context(row)), 1);
            run.unwrap().duration.as_nanos()
        })
        .collect();
    runs.sort_unstable();
    runs[RUNS / 2]
}

/// The section of a program: `key = number` lines.
fn budget<'a>(text: &'a str, program: &str) -> BTreeMap<&'a str, u32> {
    let header = format!("[{program}]");
    text.lines()
        .skip_while(|line| **line != header)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim(), value.trim().parse().unwrap()))
        .collect()
}

/// Runs a test in namespaces of its own with a bpffs.
fn in_namespaces(test: impl FnOnce(&std::path::Path) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: needs root to load programs");
        return;
    }
    let done = std::thread::spawn(move || {
        let root = tempfile::tempdir().unwrap();
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let nothing: Option<&str> = None;
        mount(
            nothing,
            "/",
            nothing,
            MsFlags::MS_PRIVATE | MsFlags::MS_REC,
            nothing,
        )
        .unwrap();
        // The mount ends with the namespace, and the namespace with the thread.
        mount(Some("bpf"), root.path(), Some("bpf"), MsFlags::empty(), nothing).unwrap();
        test(root.path());
        nix::mount::umount2(root.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    })
    .join();
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
}

struct Kernel {
    datapath: Datapath,
    events: std::cell::RefCell<RingBuf<MapData>>,
}

impl Kernel {
    fn load(root: &std::path::Path, config: Config) -> Self {
        let sizes = MapSizes {
            ipcache: 1024,
            endpoints: 1024,
            devices: 1024,
            ct_tcp: 1024,
            ct_any: 1024,
            nat: 1024,
            ..MapSizes::default()
        };
        let options = Options {
            root: root.to_owned(),
            config,
            sizes,
            ..Options::default()
        };
        let datapath = Datapath::open(&options).unwrap_or_else(|error| panic!("{error:?}"));
        let ring = MapData::from_pin(root.join("seta/maps").join(names::EVENTS)).unwrap();
        Self {
            datapath,
            events: RingBuf::try_from(Map::RingBuf(ring)).unwrap().into(),
        }
    }

    fn check(&self, row: &Row) -> Result<(), String> {
        self.fill(row);
        let before = self.counters();
        let context = context(row);
        let run = self
            .datapath
            .test_run(row.program.name(), &row.before.packet, Some(&context), 1);
        let run = run.map_err(|error| format!("{}: {error:?}", row.name))?;
        let action = [TcAction::Next, TcAction::Ok, TcAction::Shot, TcAction::Redirect]
            .into_iter()
            .find(|action| *action as i32 == run.verdict)
            .ok_or_else(|| format!("{}: unknown action {}", row.name, run.verdict))?;
        // The entry point does not let another program see what it delivers (`ebpf`, `verdict::last`).
        let action = match (row.program, action) {
            (Program::ToPod, TcAction::Next) => {
                return Err(format!("{}: asks the next program", row.name));
            }
            (Program::ToPod, TcAction::Ok) => TcAction::Next,
            (_, action) => action,
        };
        let counted = self.counters().into_iter().flat_map(|(slot, packets)| {
            let old = before.get(&slot).copied().unwrap_or(0);
            std::iter::repeat_n(slot, usize::try_from(packets - old).unwrap())
        });
        let mut events = Vec::new();
        while let Some(record) = self.events.borrow_mut().next() {
            events.push((record[0], record[1]));
        }
        let known: Vec<_> = row.before.connections.keys().cloned().collect();
        let connections = self
            .connections()
            .into_iter()
            .filter(|(key, _)| !known.contains(key))
            .collect();
        let nat = self.datapath.nat().nat.entries().unwrap();
        row.compare(Happened {
            action,
            packet: run.packet,
            counted: counted.collect(),
            events,
            connections,
            nat: nat.iter().map(|(key, entry)| timeless(key, entry)).collect(),
        })
    }

    fn fill(&self, row: &Row) {
        let tables = &self.datapath;
        for (key, _) in tables.endpoints().entries().unwrap() {
            tables.endpoints().remove(&key).unwrap();
        }
        for (key, _) in tables.devices().entries().unwrap() {
            tables.devices().remove(&key).unwrap();
        }
        for table in [tables.ct_tcp(), tables.ct_any()] {
            for (key, _) in table.entries().unwrap() {
                table.remove(&key).unwrap();
            }
        }
        for (key, value) in &row.before.endpoints {
            tables.endpoints().insert(key, value).unwrap();
        }
        for (key, value) in &row.before.devices {
            tables.devices().insert(key, value).unwrap();
        }
        self.fill_translation(row);
        for (key, _) in tables.ipcache().entries().unwrap() {
            tables.ipcache().remove(&key).unwrap();
        }
        for (key, value) in &row.before.peers {
            tables.ipcache().insert(key, value).unwrap();
        }
        for (key, value) in &row.before.connections {
            let key = CtKey::read_from_bytes(key).unwrap();
            let table = if key.proto == 6 {
                tables.ct_tcp()
            } else {
                tables.ct_any()
            };
            table.insert(&key, value).unwrap();
        }
    }

    fn fill_translation(&self, row: &Row) {
        let (services, nat) = (self.datapath.services(), self.datapath.nat());
        let wanted = &row.before.translation;
        for (key, _) in nat.nat.entries().unwrap() {
            nat.nat.remove(&key).unwrap();
        }
        for (key, _) in nat.masquerade.entries().unwrap() {
            nat.masquerade.remove(&key).unwrap();
        }
        for (bits, key) in nat.plain.dump().unwrap() {
            nat.plain.remove(bits, &key).unwrap();
        }
        for (key, _) in services.services.entries().unwrap() {
            services.services.remove(&key).unwrap();
        }
        for (key, _) in services.members.entries().unwrap() {
            services.members.remove(&key).unwrap();
        }
        for (key, entry) in wanted.entries() {
            nat.nat.insert(&key, &entry).unwrap();
        }
        for (key, value) in &wanted.masquerade {
            nat.masquerade.insert(key, value).unwrap();
        }
        for (bits, key) in &wanted.plain {
            nat.plain.insert(*bits, key).unwrap();
        }
        for (key, value) in &wanted.services {
            services.services.insert(key, value).unwrap();
        }
        for (key, value) in &wanted.backends {
            services.backends.insert(key, value).unwrap();
        }
        for (key, value) in &wanted.members {
            services.members.insert(key, value).unwrap();
        }
        for (bits, key) in &wanted.ranges {
            services.ranges.insert(*bits, key).unwrap();
        }
    }

    fn counters(&self) -> BTreeMap<u32, u64> {
        let metrics = self.datapath.metrics().unwrap();
        metrics
            .iter()
            .map(|metric| {
                (
                    abi::reason::metric_index(metric.reason, metric.direction),
                    metric.counter.packets,
                )
            })
            .collect()
    }

    fn connections(&self) -> Vec<(Vec<u8>, [u32; 2])> {
        [self.datapath.ct_tcp(), self.datapath.ct_any()]
            .iter()
            .flat_map(|table| table.entries().unwrap())
            .map(|(key, entry)| {
                (
                    zerocopy::IntoBytes::as_bytes(&key).to_vec(),
                    [entry.src_identity, entry.dst_identity],
                )
            })
            .collect()
    }
}

/// `struct __sk_buff` with the fields that the rows use.
fn context(row: &Row) -> Vec<u8> {
    const LEN: usize = 192;
    const MARK: usize = 8;
    const IFINDEX: usize = 40;
    const GSO_SEGS: usize = 164;
    const GSO_SIZE: usize = 176;
    let mut context = vec![0; LEN];
    let mut set =
        |offset: usize, value: u32| context[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    set(MARK, row.before.mark);
    set(IFINDEX, row.before.ifindex);
    if row.before.segment_size != 0 {
        set(GSO_SIZE, row.before.segment_size);
        set(GSO_SEGS, 2);
    }
    context
}
