//! The loaded datapath: programs, tables, counters.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use abi::names;
use abi::reason::METRIC_SLOTS;
use abi::tables::Counter;
use abi::{Addr, Config, CtEntry, CtKey, Endpoint, Peer};
use aya::maps::{Map, MapData, PerCpuArray};
use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfError, EbpfLoader, VerifierLogLevel};

use crate::attach::{AttachError, Attached, Attachment, Direction, Programs};
use crate::info::{self, InfoError, MapInfo, ProgramInfo};
use crate::migrate::{Decision, MapNews, decide};
use crate::object::{self, MAPS, ObjectError, PROGRAMS};
use crate::pins::{PinError, Pins};
use crate::sizing::MapSizes;
use crate::table::{Table, TableError, Wire, io_error};
use crate::{EventReader, EventsError};

/// First kernel with tcx links (commit e420bed02507, "bpf: Add fd-based tcx multi-prog infra with link support").
const OLDEST_KERNEL: (u8, u8, u16) = (6, 6, 0);

/// How to load.
#[derive(Clone, Debug)]
pub struct Options {
    /// Mount point of bpffs.
    pub root: PathBuf,
    /// Load-time constants.
    pub config: Config,
    /// Sizes of the maps.
    pub sizes: MapSizes,
    /// The object; [`crate::OBJECT`] unless another one is tried.
    pub object: &'static [u8],
}

impl Default for Options {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/sys/fs/bpf"),
            config: Config::default(),
            sizes: MapSizes::default(),
            object: crate::OBJECT,
        }
    }
}

/// The datapath cannot be loaded. What ran before runs on.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel has no tcx links.
    #[error("kernel {found} is too old: programs are attached with tcx links, which need Linux 6.6")]
    OldKernel {
        /// The running kernel.
        found: String,
    },
    /// The pins cannot be used.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// The object is not one of ours.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// Maps could not be made, or the object not be prepared.
    #[error("cannot load the eBPF object")]
    Load(#[source] Box<EbpfError>),
    /// The kernel does not accept a program.
    #[error("cannot load program {name}")]
    Program {
        /// Name of the program.
        name: &'static str,
        /// Why; the verifier's log is in it.
        source: Box<ProgramError>,
    },
    /// A map does not have the layout that this program knows.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// Forwarded or dropped packets of one reason and direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Number of the drop reason; 0: forwarded.
    pub reason: u8,
    /// Which way.
    pub direction: abi::Direction,
    /// Sum over all CPUs.
    pub counter: Counts,
}

/// Packets and bytes, summed over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Bytes, layer 2 included.
    pub bytes: u64,
}

/// A test run of a program failed.
#[derive(Debug, thiserror::Error)]
pub enum TestRunError {
    /// There is no such program.
    #[error("there is no program {0}")]
    NoProgram(String),
    /// The kernel refused.
    #[error("cannot run program {name}")]
    Run {
        /// Name of the program.
        name: String,
        /// Why.
        source: ProgramError,
    },
}

/// What a program made of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// The verdict, a `TC_ACT_*`.
    pub verdict: i32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// Mean time of a run.
    pub duration: Duration,
}

/// The datapath of this node. Dropping it leaves everything attached.
pub struct Datapath {
    programs: Programs,
    endpoints: Table<Addr, Endpoint>,
    devices: Table<u32, Addr>,
    ipcache: Table<Addr, Peer>,
    ct_tcp: Table<CtKey, CtEntry>,
    ct_any: Table<CtKey, CtEntry>,
    metrics: PerCpuArray<MapData, Wire<Counter>>,
    lost: PerCpuArray<MapData, u64>,
    news: Vec<MapNews>,
    /// Connection tables that programs of the predecessor still write to: (TCP, table).
    predecessors: Mutex<Vec<(bool, Table<CtKey, CtEntry>)>>,
}

impl Datapath {
    /// Loads the programs beside those that may be running, over the same maps where they fit, and changes nothing
    /// about live links: fill the tables, then attach.
    ///
    /// Maps that do not fit are replaced as a set; [`Self::news`] tells. Blocks for the time the verifier takes.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        check_kernel()?;
        let sizes = options.sizes.by_name();
        let wanted = object::definitions(options.object, &sizes)?;
        let pins = Pins::prepare(&options.root)?;
        let lock = pins.lock()?;
        pins.discard_next()?;

        let abi = pins.abi_version();
        let mut decisions = BTreeMap::new();
        for (name, definition) in &wanted {
            decisions.insert(*name, decide(&pins.pinned(name)?, definition, abi));
        }
        let renew = decisions.values().any(|decision| *decision != Decision::Keep);
        if renew {
            pins.begin_next()?;
            for (name, _) in decisions.iter().filter(|(_, decision)| **decision == Decision::Keep) {
                pins.keep(name)?;
            }
        }
        let directory = if renew { pins.next() } else { pins.maps() };
        let loaded = load(options, &sizes, &directory).and_then(|ebpf| Self::assemble(ebpf, &pins, &decisions));
        let mut datapath = match loaded {
            Ok(parts) => parts.into_datapath(pins),
            Err(error) => {
                if renew {
                    pins.discard_next()?;
                }
                return Err(error);
            }
        };
        if renew {
            datapath.programs.pins().commit_next()?;
        }
        drop(lock);
        datapath.news.sort_by_key(|news| news.name);
        Ok(datapath)
    }

    /// Which maps [`Self::open`] made anew, and why.
    #[must_use]
    pub fn news(&self) -> &[MapNews] {
        &self.news
    }

    /// Pods of this node and addresses of the node.
    #[must_use]
    pub fn endpoints(&self) -> &Table<Addr, Endpoint> {
        &self.endpoints
    }

    /// Host-side device of a pod to its address.
    #[must_use]
    pub fn devices(&self) -> &Table<u32, Addr> {
        &self.devices
    }

    /// Identities of addresses in the cluster.
    #[must_use]
    pub fn ipcache(&self) -> &Table<Addr, Peer> {
        &self.ipcache
    }

    /// TCP connections.
    #[must_use]
    pub fn ct_tcp(&self) -> &Table<CtKey, CtEntry> {
        &self.ct_tcp
    }

    /// Connections of other protocols.
    #[must_use]
    pub fn ct_any(&self) -> &Table<CtKey, CtEntry> {
        &self.ct_any
    }

    /// Attaches the programs of a pod to the host side of its link: `from_pod` to what it sends, `to_pod` to what
    /// the stack delivers to it. Attached already: exchanges programs of a predecessor in place.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach_pod(&self, ifindex: u32) -> Result<Attached, AttachError> {
        let to = self.programs.attach(names::TO_POD, ifindex, Direction::Egress)?;
        Ok(to.max(self.programs.attach(names::FROM_POD, ifindex, Direction::Ingress)?))
    }

    /// Attaches `from_netdev` and `to_netdev` to a native device.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach_netdev(&self, ifindex: u32) -> Result<Attached, AttachError> {
        let to = self.programs.attach(names::TO_NETDEV, ifindex, Direction::Egress)?;
        Ok(to.max(self.programs.attach(names::FROM_NETDEV, ifindex, Direction::Ingress)?))
    }

    /// Attaches `from_host` to `cilium_host`.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach_host(&self, ifindex: u32) -> Result<Attached, AttachError> {
        self.programs.attach(names::FROM_HOST, ifindex, Direction::Egress)
    }

    /// Takes all our programs off a device. Returns how many there were. (A device that is deleted needs no call.)
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn detach(&self, ifindex: u32) -> Result<usize, AttachError> {
        self.programs.detach(ifindex)
    }

    /// What is attached, asked of the kernel now.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attachments(&self) -> Result<Vec<Attachment>, AttachError> {
        self.programs.attachments()
    }

    /// Removes the pins of links whose device is gone; returns how many.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn prune(&self) -> Result<usize, AttachError> {
        self.programs.prune()
    }

    /// Ends an upgrade, once everything is attached: takes over connections that programs of the predecessor have
    /// seen since [`Self::open`] (only if the connection tables were made anew) and lets its maps go.
    /// Returns how many connections were taken over.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn settle(&self) -> Result<usize, TableError> {
        let predecessors =
            std::mem::take(&mut *self.predecessors.lock().unwrap_or_else(PoisonError::into_inner));
        let mut copied = 0;
        for (tcp, old) in &predecessors {
            let table = if *tcp { &self.ct_tcp } else { &self.ct_any };
            copied += table.copy_missing(old)?.0;
        }
        Ok(copied)
    }

    /// Forwarded and dropped packets by reason and direction, those that are not zero.
    ///
    /// # Errors
    /// [`TableError::Read`].
    pub fn metrics(&self) -> Result<Vec<Metric>, TableError> {
        let mut metrics = Vec::new();
        for index in 0..METRIC_SLOTS {
            let values = self
                .metrics
                .get(&index, 0)
                .map_err(|error| TableError::Read { name: names::METRICS, source: io_error(error) })?;
            let mut counter = Counts::default();
            for Wire(value) in values.iter() {
                counter.packets = counter.packets.wrapping_add(value.packets);
                counter.bytes = counter.bytes.wrapping_add(value.bytes);
            }
            if counter != Counts::default() {
                let [reason, half, ..] = index.to_le_bytes();
                let direction = if half == 0 { abi::Direction::Ingress } else { abi::Direction::Egress };
                metrics.push(Metric { reason, direction, counter });
            }
        }
        Ok(metrics)
    }

    /// Events that found no room in the ring, by kind (`abi::event::kind`), those that are not zero.
    ///
    /// # Errors
    /// [`TableError::Read`].
    pub fn lost_events(&self) -> Result<BTreeMap<u8, u64>, TableError> {
        let mut lost = BTreeMap::new();
        for kind in 0..=u8::MAX {
            let Ok(values) = self.lost.get(&u32::from(kind), 0).map_err(io_error) else {
                // The map may have fewer slots than there are kinds.
                break;
            };
            let sum = values.iter().fold(0u64, |sum, value| sum.wrapping_add(*value));
            if sum != 0 {
                lost.insert(kind, sum);
            }
        }
        Ok(lost)
    }

    /// Opens the event ring. Only one reader gets each event.
    ///
    /// # Errors
    /// [`EventsError`]; needs a tokio runtime.
    pub fn events(&self) -> Result<EventReader, EventsError> {
        EventReader::open(&self.programs.pins().maps().join(names::EVENTS))
    }

    /// The pinned maps as the kernel describes them, entries counted now.
    ///
    /// # Errors
    /// [`InfoError`].
    pub fn map_infos(&self) -> Result<Vec<MapInfo>, InfoError> {
        MAPS.iter().map(|name| info::map_info(name, &self.programs.pins().maps().join(name))).collect()
    }

    /// The loaded programs as the kernel describes them.
    ///
    /// # Errors
    /// [`InfoError`].
    pub fn program_infos(&self) -> Result<Vec<ProgramInfo>, InfoError> {
        PROGRAMS
            .iter()
            .filter_map(|name| self.programs.with(name, |program| info::program_info(name, program)))
            .collect()
    }

    /// Runs a program over a packet in the kernel, without any device (`BPF_PROG_TEST_RUN`). `context` is a
    /// `struct __sk_buff` whose non-zero fields the kernel allows to set, such as the interface index.
    ///
    /// # Errors
    /// [`TestRunError`].
    pub fn test_run(
        &self,
        program: &str,
        packet: &[u8],
        context: Option<&[u8]>,
        repeat: u32,
    ) -> Result<TestRun, TestRunError> {
        /// Room for what a program may put in front of or behind the packet.
        const GROWTH: usize = 512;
        let run = |classifier: &mut SchedClassifier| {
            let mut out = vec![0; packet.len() + GROWTH];
            let options = TestRunOptions {
                data_in: Some(packet),
                data_out: Some(&mut out),
                ctx_in: context,
                repeat,
                ..TestRunOptions::new()
            };
            let result = classifier
                .test_run(options)
                .map_err(|source| TestRunError::Run { name: program.to_owned(), source })?;
            out.truncate(usize::try_from(result.data_size_out).unwrap_or(usize::MAX));
            Ok(TestRun { verdict: result.return_value.cast_signed(), packet: out, duration: result.duration })
        };
        self.programs.with(program, run).unwrap_or_else(|| Err(TestRunError::NoProgram(program.to_owned())))
    }

    /// Opens the tables and copies what can be copied.
    fn assemble(
        mut ebpf: Ebpf,
        pins: &Pins,
        decisions: &BTreeMap<&'static str, Decision>,
    ) -> Result<Parts, OpenError> {
        let mut news = Vec::new();
        let mut predecessors = Vec::new();
        let mut opener = Opener { ebpf: &mut ebpf, maps: pins.maps(), decisions, news: &mut news };
        let endpoints = opener.table(names::ENDPOINTS)?.0;
        let devices = opener.table(names::DEVICES)?.0;
        let ipcache = opener.table(names::IPCACHE)?.0;
        let (ct_tcp, old_tcp) = opener.table(names::CT_TCP)?;
        let (ct_any, old_any) = opener.table(names::CT_ANY)?;
        predecessors.extend(old_tcp.map(|old| (true, old)));
        predecessors.extend(old_any.map(|old| (false, old)));
        let metrics = opener.counters(names::METRICS)?;
        let lost = opener.counters(names::EVENTS_LOST)?;
        opener.tell(names::EVENTS, 0, 0);
        Ok(Parts { ebpf, endpoints, devices, ipcache, ct_tcp, ct_any, metrics, lost, news, predecessors })
    }
}

/// A datapath that has no pins yet.
struct Parts {
    ebpf: Ebpf,
    endpoints: Table<Addr, Endpoint>,
    devices: Table<u32, Addr>,
    ipcache: Table<Addr, Peer>,
    ct_tcp: Table<CtKey, CtEntry>,
    ct_any: Table<CtKey, CtEntry>,
    metrics: PerCpuArray<MapData, Wire<Counter>>,
    lost: PerCpuArray<MapData, u64>,
    news: Vec<MapNews>,
    predecessors: Vec<(bool, Table<CtKey, CtEntry>)>,
}

impl Parts {
    fn into_datapath(self, pins: Pins) -> Datapath {
        let Self { ebpf, endpoints, devices, ipcache, ct_tcp, ct_any, metrics, lost, news, predecessors } = self;
        Datapath {
            programs: Programs::new(pins, ebpf),
            endpoints,
            devices,
            ipcache,
            ct_tcp,
            ct_any,
            metrics,
            lost,
            news,
            predecessors: Mutex::new(predecessors),
        }
    }
}

/// A table, and the one it takes the place of if entries were copied from that.
type Opened<K, V> = (Table<K, V>, Option<Table<K, V>>);

/// Takes the maps out of a loaded object.
struct Opener<'a> {
    ebpf: &'a mut Ebpf,
    /// Where the maps of the predecessor are.
    maps: PathBuf,
    decisions: &'a BTreeMap<&'static str, Decision>,
    news: &'a mut Vec<MapNews>,
}

impl Opener<'_> {
    fn take(&mut self, name: &'static str) -> Result<Map, OpenError> {
        Ok(self.ebpf.take_map(name).ok_or(ObjectError::Missing { kind: "map", name })?)
    }

    /// Opens a table and copies what can be copied.
    fn table<K, V>(&mut self, name: &'static str) -> Result<Opened<K, V>, OpenError>
    where
        K: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + Copy + 'static,
        V: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + Copy + 'static,
    {
        let table = Table::new(name, self.take(name)?)?;
        let old = match self.decisions.get(name) {
            Some(Decision::Create { copy: true, .. }) => Some(Table::new(name, pinned_map(name, &self.maps)?)?),
            _ => None,
        };
        let (copied, left) = match &old {
            Some(old) => table.copy_missing(old)?,
            None => (0, 0),
        };
        self.tell(name, copied, left);
        Ok((table, old))
    }

    fn counters<V: aya::Pod>(&mut self, name: &'static str) -> Result<PerCpuArray<MapData, V>, OpenError> {
        let map = self.take(name)?;
        self.tell(name, 0, 0);
        let layout = |error| TableError::Layout { name, source: io_error(error) };
        Ok(PerCpuArray::try_from(map).map_err(layout)?)
    }

    fn tell(&mut self, name: &'static str, copied: usize, left: usize) {
        if let Some(Decision::Create { reason, .. }) = self.decisions.get(name) {
            self.news.push(MapNews { name, reason: *reason, copied, left });
        }
    }
}

fn pinned_map(name: &'static str, directory: &Path) -> Result<Map, TableError> {
    let open = || -> Result<Map, aya::maps::MapError> {
        let data = MapData::from_pin(directory.join(name))?;
        Ok(match data.info()?.map_type()? {
            aya::maps::MapType::LruHash => Map::LruHashMap(data),
            _ => Map::HashMap(data),
        })
    };
    open().map_err(|error| TableError::Read { name, source: io_error(error) })
}

fn check_kernel() -> Result<(), OpenError> {
    let (major, minor, patch) = OLDEST_KERNEL;
    match KernelVersion::current() {
        Ok(version) if version >= KernelVersion::new(major, minor, patch) => Ok(()),
        Ok(version) => Err(OpenError::OldKernel { found: format!("{version:?}") }),
        Err(error) => Err(OpenError::OldKernel { found: format!("of unknown version ({error})") }),
    }
}

/// Makes missing maps, pins them in `directory`, and loads all programs.
fn load(options: &Options, sizes: &BTreeMap<&'static str, u32>, directory: &Path) -> Result<Ebpf, OpenError> {
    let config = Wire(options.config);
    let mut loader = EbpfLoader::new();
    // The log is only written when a program is refused: statistics would cost time at every start.
    loader.verifier_log_level(VerifierLogLevel::DEBUG);
    loader.override_global(names::CONFIG, &config, true);
    for name in MAPS {
        loader.map_pin_path(name, directory.join(name));
        if let Some(size) = sizes.get(name) {
            loader.map_max_entries(name, *size);
        }
    }
    let mut ebpf = loader.load(options.object).map_err(|error| OpenError::Load(Box::new(error)))?;
    for name in PROGRAMS {
        let failed = |source| OpenError::Program { name, source: Box::new(source) };
        let program = ebpf.program_mut(name).ok_or(ObjectError::Missing { kind: "program", name })?;
        let program: &mut SchedClassifier = program.try_into().map_err(failed)?;
        program.load().map_err(failed)?;
    }
    Ok(ebpf)
}
