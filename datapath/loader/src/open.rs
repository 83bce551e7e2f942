//! Loading: which maps go on, which are made anew, and in which order, so that a crash at any step does no harm.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use abi::tables::Counter;
use abi::{Addr, Config, CtEntry, CtKey, Endpoint, Peer, names};
use aya::maps::{Map, MapData, MapError, MapType, PerCpuArray};
use aya::programs::{ProgramError, SchedClassifier};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};

use crate::attach::Programs;
use crate::migrate::{Decision, MapNews, decide};
use crate::nat::NatTables;
use crate::object::{self, MAPS, ObjectError, PROGRAMS};
use crate::pins::{PinError, Pins};
use crate::prefix::PrefixTable;
use crate::services::ServiceTables;
use crate::sizing::MapSizes;
use crate::sockets::{self, Sockets};
use crate::table::{Layout, Table, TableError, Wire, io_error};
use crate::verified::{self, Verified};
use crate::wire::{self, Wire as WireProgram};
use crate::{Cause, Datapath};

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
    Load(#[source] Cause),
    /// The kernel does not accept a program.
    #[error("cannot load program {name}")]
    Program {
        /// Name of the program.
        name: &'static str,
        /// Why; the verifier's log is in it.
        source: Cause,
    },
    /// A map does not have the layout that this program knows.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// [`Datapath::open`].
pub(crate) fn open(options: &Options) -> Result<Datapath, OpenError> {
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
        for (name, _) in decisions
            .iter()
            .filter(|(_, decision)| **decision == Decision::Keep)
        {
            pins.keep(name)?;
        }
    }
    let loaded = load_or_reopen(options, &sizes, &pins, renew)
        .and_then(|verified| Ok((verified, assemble(&pins, &decisions, renew)?)));
    let mut datapath = match loaded {
        Ok((verified, parts)) => {
            let programs = Programs::new(pins, verified.classifiers);
            parts.into_datapath(programs, verified.sockets, verified.wire)
        }
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

/// The programs, from their pins if they are the same and work on the same maps, else through the verifier.
fn load_or_reopen(
    options: &Options,
    sizes: &BTreeMap<&'static str, u32>,
    pins: &Pins,
    renew: bool,
) -> Result<Verified, OpenError> {
    if !renew {
        let fingerprint = verified::fingerprint(options.object, &options.config, &pins.maps())?;
        if let Some(verified) = verified::reopen(pins, &fingerprint) {
            return Ok(verified);
        }
    }
    let directory = pins.set(renew);
    let mut ebpf = load(options, sizes, &directory)?;
    let fingerprint = verified::fingerprint(options.object, &options.config, &directory)?;
    Ok(verified::keep(pins, &fingerprint, &mut ebpf)?)
}

/// Opens the tables and copies what can be copied.
fn assemble(
    pins: &Pins,
    decisions: &BTreeMap<&'static str, Decision>,
    renew: bool,
) -> Result<Parts, OpenError> {
    let mut news = Vec::new();
    let mut predecessors = Vec::new();
    let mut opener = Opener {
        directory: pins.set(renew),
        predecessor: pins.maps(),
        decisions,
        news: &mut news,
    };
    let endpoints = opener.table(names::ENDPOINTS)?.0;
    let devices = opener.table(names::DEVICES)?.0;
    let ipcache = opener.table(names::IPCACHE)?.0;
    let (ct_tcp, old_tcp) = opener.table(names::CT_TCP)?;
    let (ct_any, old_any) = opener.table(names::CT_ANY)?;
    predecessors.extend(old_tcp.map(|old| (true, old)));
    predecessors.extend(old_any.map(|old| (false, old)));
    let metrics = opener.counters(names::METRICS)?;
    let lost = opener.counters(names::EVENTS_LOST)?;
    let services = ServiceTables {
        services: opener.table(names::SERVICES)?.0,
        backends: opener.table(names::BACKENDS)?.0,
        maglev: opener.table(names::MAGLEV)?.0,
        members: opener.table(names::MEMBERS)?.0,
        affinity: opener.table(names::AFFINITY)?.0,
        ranges: opener.prefixes(names::SOURCE_RANGES)?,
    };
    let nat = NatTables {
        nat: opener.table(names::NAT)?.0,
        masquerade: opener.table(names::MASQUERADE)?.0,
        plain: opener.prefixes(names::PLAIN)?,
    };
    opener.tell(names::FRAGMENTS, 0, 0);
    opener.tell(names::SOCKETS, 0, 0);
    opener.tell(names::SOCKET_PEERS, 0, 0);
    opener.tell(names::EVENTS, 0, 0);
    opener.tell(names::RATES, 0, 0);
    Ok(Parts {
        endpoints,
        devices,
        ipcache,
        ct_tcp,
        ct_any,
        metrics,
        lost,
        services,
        nat,
        news,
        predecessors,
    })
}

/// A datapath without its programs.
struct Parts {
    endpoints: Table<Addr, Endpoint>,
    devices: Table<u32, Addr>,
    ipcache: Table<Addr, Peer>,
    ct_tcp: Table<CtKey, CtEntry>,
    ct_any: Table<CtKey, CtEntry>,
    metrics: PerCpuArray<MapData, Wire<Counter>>,
    lost: PerCpuArray<MapData, u64>,
    services: ServiceTables,
    nat: NatTables,
    news: Vec<MapNews>,
    predecessors: Vec<(bool, Table<CtKey, CtEntry>)>,
}

impl Parts {
    fn into_datapath(self, programs: Programs, sockets: Sockets, wire: WireProgram) -> Datapath {
        let Self {
            endpoints,
            devices,
            ipcache,
            ct_tcp,
            ct_any,
            metrics,
            lost,
            services,
            nat,
            news,
            predecessors,
        } = self;
        Datapath {
            programs,
            sockets,
            wire,
            services,
            nat,
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

/// Opens pinned maps.
struct Opener<'a> {
    /// Where the maps are.
    directory: PathBuf,
    /// Where those are that they take the place of.
    predecessor: PathBuf,
    decisions: &'a BTreeMap<&'static str, Decision>,
    news: &'a mut Vec<MapNews>,
}

impl Opener<'_> {
    /// Opens a table and copies what can be copied.
    fn table<K: Layout, V: Layout>(&mut self, name: &'static str) -> Result<Opened<K, V>, OpenError> {
        let table = Table::new(name, pinned_map(name, &self.directory)?)?;
        let old = match self.decisions.get(name) {
            Some(Decision::Create { copy: true, .. }) => {
                Some(Table::new(name, pinned_map(name, &self.predecessor)?)?)
            }
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
        let map = pinned_map(name, &self.directory)?;
        self.tell(name, 0, 0);
        let layout = |error| TableError::Layout {
            name,
            source: io_error(error),
        };
        Ok(PerCpuArray::try_from(map).map_err(layout)?)
    }

    fn prefixes<K: Layout + Ord>(&mut self, name: &'static str) -> Result<PrefixTable<K>, OpenError> {
        let table = PrefixTable::new(name, pinned_map(name, &self.directory)?)?;
        self.tell(name, 0, 0);
        Ok(table)
    }

    fn tell(&mut self, name: &'static str, copied: usize, left: usize) {
        if let Some(Decision::Create { reason, .. }) = self.decisions.get(name) {
            self.news.push(MapNews {
                name,
                reason: *reason,
                copied,
                left,
            });
        }
    }
}

fn pinned_map(name: &'static str, directory: &Path) -> Result<Map, TableError> {
    let open = || -> Result<Map, MapError> {
        let data = MapData::from_pin(directory.join(name))?;
        Ok(match data.info()?.map_type()? {
            MapType::LruHash => Map::LruHashMap(data),
            MapType::Hash => Map::HashMap(data),
            MapType::LpmTrie => Map::LpmTrie(data),
            MapType::PerCpuArray => Map::PerCpuArray(data),
            _ => Map::Unsupported(data),
        })
    };
    open().map_err(|error| TableError::Read {
        name,
        source: io_error(error),
    })
}

fn check_kernel() -> Result<(), OpenError> {
    let (major, minor, patch) = OLDEST_KERNEL;
    if KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(major, minor, patch)) {
        return Ok(());
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    Err(OpenError::OldKernel {
        found: release.map_or_else(|_| "of unknown version".to_owned(), |text| text.trim().to_owned()),
    })
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
    let mut ebpf = loader
        .load(options.object)
        .map_err(|error| OpenError::Load(error.into()))?;
    sockets::load(&mut ebpf).map_err(|(name, source)| OpenError::Program { name, source })?;
    wire::load(&mut ebpf)?;
    load_programs(&mut ebpf)?;
    Ok(ebpf)
}

/// Hands all programs to the verifier, side by side: its time is most of what a start takes.
fn load_programs(ebpf: &mut Ebpf) -> Result<(), OpenError> {
    if let Some(name) = PROGRAMS.iter().find(|name| ebpf.program(name).is_none()) {
        return Err(ObjectError::Missing {
            kind: "program",
            name,
        }
        .into());
    }
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (name, program) in ebpf.programs_mut() {
            let Some(name) = PROGRAMS.iter().find(|known| **known == name) else {
                continue;
            };
            let load = move || {
                let failed = |error: ProgramError| OpenError::Program {
                    name,
                    source: error.into(),
                };
                let classifier: &mut SchedClassifier = program.try_into().map_err(failed)?;
                classifier.load().map_err(failed)
            };
            threads.push((name, scope.spawn(load)));
        }
        for (name, thread) in threads {
            let panicked = |_| {
                Err(OpenError::Program {
                    name,
                    source: "the loading thread panicked".into(),
                })
            };
            thread.join().unwrap_or_else(panicked)?;
        }
        Ok(())
    })
}
