//! The loaded datapath: programs, tables, counters.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use abi::names;
use abi::reason::METRIC_SLOTS;
use abi::tables::Counter;
use abi::{Addr, CtEntry, CtKey, Endpoint, Peer};
use aya::maps::{MapData, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};

use crate::attach::{AttachError, Attached, Attachment, Direction, Holder, Programs};
use crate::info::{self, InfoError, MapInfo, ProgramInfo};
use crate::migrate::MapNews;
use crate::nat::NatTables;
use crate::object::{MAPS, PROGRAMS};
use crate::open::{OpenError, Options};
use crate::pins::PinError;
use crate::services::ServiceTables;
use crate::sockets::{self, SocketAttachment, SocketError, Sockets};
use crate::table::{Table, TableError, Wire as Bytes, io_error};
use crate::wire::{Wire, WireAttachment, WireError, WireMode};
use crate::{Cause, EventReader, EventsError, wire};

/// The programs on the host side of a pod's link. What is delivered comes first: a pod that can send can be answered.
const POD_PROGRAMS: [(&str, Direction); 2] = [
    (names::TO_POD, Direction::Egress),
    (names::FROM_POD, Direction::Ingress),
];

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
        source: Cause,
    },
}

/// What a program made of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// The verdict, a `TC_ACT_*` or `XDP_*`.
    pub verdict: i32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// Mean time of a run.
    pub duration: Duration,
}

/// The datapath of this node. Dropping it leaves everything attached.
pub struct Datapath {
    pub(crate) programs: Programs,
    pub(crate) sockets: Sockets,
    pub(crate) wire: Wire,
    pub(crate) services: ServiceTables,
    pub(crate) nat: NatTables,
    pub(crate) endpoints: Table<Addr, Endpoint>,
    pub(crate) devices: Table<u32, Addr>,
    pub(crate) ipcache: Table<Addr, Peer>,
    pub(crate) ct_tcp: Table<CtKey, CtEntry>,
    pub(crate) ct_any: Table<CtKey, CtEntry>,
    pub(crate) metrics: PerCpuArray<MapData, Bytes<Counter>>,
    pub(crate) lost: PerCpuArray<MapData, u64>,
    pub(crate) news: Vec<MapNews>,
    /// Connection tables that programs of the predecessor still write to: (TCP, table).
    pub(crate) predecessors: Mutex<Vec<(bool, Table<CtKey, CtEntry>)>>,
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
        crate::open::open(options)
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

    /// Services: frontends, backends, and what goes with them.
    #[must_use]
    pub fn services(&self) -> &ServiceTables {
        &self.services
    }

    /// Translated connections, and what masquerade goes by.
    #[must_use]
    pub fn nat(&self) -> &NatTables {
        &self.nat
    }

    /// Attaches the programs of sockets to a cgroup: they see every socket of its processes, and of those in cgroups
    /// below. Attached already: exchanges programs of a predecessor in place.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn attach_sockets(&self, cgroup: &Path) -> Result<Attached, SocketError> {
        self.sockets.attach(self.programs.pins(), cgroup)
    }

    /// Takes the programs of sockets off. Returns how many there were.
    ///
    /// # Errors
    /// [`PinError`].
    pub fn detach_sockets(&self) -> Result<usize, PinError> {
        sockets::detach(self.programs.pins())
    }

    /// Whether every system call in which services are translated has its program, this agent's or another's.
    #[must_use]
    pub fn has_all_sockets(&self) -> bool {
        let attached = self.socket_attachments();
        sockets::names().all(|name| attached.iter().any(|attachment| attachment.program == name))
    }

    /// The programs of sockets that are attached, asked of the kernel now.
    #[must_use]
    pub fn socket_attachments(&self) -> Vec<SocketAttachment> {
        self.sockets.attachments(self.programs.pins())
    }

    /// Attaches the programs of a pod to the host side of its link, by pinned links: `from_pod` to what it sends,
    /// `to_pod` to what the stack delivers to it. Attached already: exchanges programs of a predecessor in place.
    /// Filters of [`Self::attach_pod_at_once`] are taken away as soon as a link is in their place.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach_pod(&self, ifindex: u32) -> Result<Attached, AttachError> {
        let mut outcome = Attached::Kept;
        for (program, direction) in POD_PROGRAMS {
            outcome = outcome.max(self.programs.attach(program, ifindex, direction)?);
            self.programs.unfilter(program, ifindex, direction)?;
        }
        Ok(outcome)
    }

    /// Has the programs of a pod run on its link from now on. Making the two links of [`Self::attach_pod`] takes
    /// 25 ms, most of it waiting for the kernel's grace periods (`tcx_entry_sync`) with the routing lock held; where
    /// there are none yet, this puts the programs on the device as filters of a clsact qdisc, which takes less than
    /// one. Links and filters of a predecessor get these programs, between two packets.
    ///
    /// Returns whether there are filters: call [`Self::attach_pod`] when there is time for it.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach_pod_at_once(&self, ifindex: u32) -> Result<bool, AttachError> {
        let mut filters = false;
        for (program, direction) in POD_PROGRAMS {
            let holder = self.programs.attach_at_once(program, ifindex, direction)?;
            filters |= holder == Holder::Filter;
        }
        Ok(filters)
    }

    /// Attaches `from_netdev` and `to_netdev` to a native device.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach_netdev(&self, ifindex: u32) -> Result<Attached, AttachError> {
        let to = self
            .programs
            .attach(names::TO_NETDEV, ifindex, Direction::Egress)?;
        Ok(to.max(
            self.programs
                .attach(names::FROM_NETDEV, ifindex, Direction::Ingress)?,
        ))
    }

    /// Attaches the fast lane, `from_wire`, to a native device that has its other programs. Attached already in this
    /// mode: exchanges a predecessor's program in place, between two packets.
    ///
    /// # Errors
    /// [`WireError`]: the device goes on without it.
    pub fn attach_wire(&self, ifindex: u32, mode: WireMode) -> Result<Attached, WireError> {
        self.wire.attach(self.programs.pins(), ifindex, mode)
    }

    /// Takes the fast lane off a device. Returns whether it was there.
    ///
    /// # Errors
    /// [`PinError`].
    pub fn detach_wire(&self, ifindex: u32) -> Result<bool, PinError> {
        wire::detach(self.programs.pins(), ifindex)
    }

    /// The devices with a fast lane, asked of the kernel now.
    ///
    /// # Errors
    /// [`PinError`].
    pub fn wire_attachments(&self) -> Result<Vec<WireAttachment>, PinError> {
        self.wire.attachments(self.programs.pins())
    }

    /// Attaches `from_host` to `cilium_host`.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach_host(&self, ifindex: u32) -> Result<Attached, AttachError> {
        self.programs.attach(names::FROM_HOST, ifindex, Direction::Egress)
    }

    /// Takes all our programs off a device. Returns how many links there were. (A device that is deleted needs no
    /// call.)
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn detach(&self, ifindex: u32) -> Result<usize, AttachError> {
        let detached = self.programs.detach(ifindex)? + usize::from(self.detach_wire(ifindex)?);
        for (program, direction) in POD_PROGRAMS {
            match self.programs.unfilter(program, ifindex, direction) {
                Ok(()) | Err(AttachError::NoDevice { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(detached)
    }

    /// What is attached by links, asked of the kernel now. Filters belong to their device and are found there.
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
        Ok(self.programs.prune()? + wire::prune(self.programs.pins())?)
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
            let values = self.metrics.get(&index, 0).map_err(|error| TableError::Read {
                name: names::METRICS,
                source: io_error(error),
            })?;
            let mut counter = Counts::default();
            for Bytes(value) in values.iter() {
                counter.packets = counter.packets.wrapping_add(value.packets);
                counter.bytes = counter.bytes.wrapping_add(value.bytes);
            }
            if counter != Counts::default() {
                let [reason, half, ..] = index.to_le_bytes();
                let direction = if half == 0 {
                    abi::Direction::Ingress
                } else {
                    abi::Direction::Egress
                };
                metrics.push(Metric {
                    reason,
                    direction,
                    counter,
                });
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
        MAPS.iter()
            .map(|name| info::map_info(name, &self.programs.pins().maps().join(name)))
            .collect()
    }

    /// The loaded programs as the kernel describes them.
    ///
    /// # Errors
    /// [`InfoError`].
    pub fn program_infos(&self) -> Result<Vec<ProgramInfo>, InfoError> {
        let packets = PROGRAMS
            .iter()
            .filter_map(|name| Some((*name, self.programs.with(name, |program| program.info())?)));
        let sockets = self.sockets.each(|name, program| (name, program.info()));
        packets
            .chain(sockets)
            .chain([(names::FROM_WIRE, self.wire.info())])
            .map(|(name, info)| info::program_info(name, info))
            .collect()
    }

    /// The constants that programs (numbers of the kernel) were loaded with, whoever loaded them. Programs that are gone
    /// or of another version are left out.
    ///
    /// # Errors
    /// [`InfoError::Constants`].
    pub fn constants(&self, programs: &BTreeSet<u32>) -> Result<BTreeMap<u32, abi::Config>, InfoError> {
        info::constants(programs)
    }

    /// Runs a program over a packet in the kernel, without any device (`BPF_PROG_TEST_RUN`). `context` is a
    /// `struct __sk_buff` (of `from_wire`: `struct xdp_md`) whose non-zero fields the kernel allows to set, such as the interface index.
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
            let result = classifier.test_run(options).map_err(|error| TestRunError::Run {
                name: program.to_owned(),
                source: error.into(),
            })?;
            out.truncate(usize::try_from(result.data_size_out).unwrap_or(usize::MAX));
            Ok(TestRun {
                verdict: result.return_value.cast_signed(),
                packet: out,
                duration: result.duration,
            })
        };
        if program == names::FROM_WIRE {
            return self.wire.test_run(packet, context, repeat);
        }
        self.programs
            .with(program, run)
            .unwrap_or_else(|| Err(TestRunError::NoProgram(program.to_owned())))
    }
}
