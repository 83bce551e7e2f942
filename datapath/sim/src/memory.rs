//! Packet, tables and world in memory.

use std::collections::BTreeMap;

use abi::{Addr, Bucket, Config, CtEntry, CtKey, Endpoint, NatEntry, NatKey, Peer, tables::Counter};
use packet::{AccessError, Covered, Ethernet, Packet, access::MAX_SUM, checksum};
use stages::{
    Context, Dropped, Env, Route, RouteQuery, TableFull, Tables, Verdict,
    wire::{Hop, Wire},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::translation::Translation;

/// One of the five programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `from_pod`.
    FromPod,
    /// `to_pod`.
    ToPod,
    /// `from_netdev`.
    FromNetdev,
    /// `to_netdev`.
    ToNetdev,
    /// `from_host`.
    FromHost,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::FromPod,
        Self::ToPod,
        Self::FromNetdev,
        Self::ToNetdev,
        Self::FromHost,
    ];

    /// Name in the object.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::FromPod => abi::names::FROM_POD,
            Self::ToPod => abi::names::TO_POD,
            Self::FromNetdev => abi::names::FROM_NETDEV,
            Self::ToNetdev => abi::names::TO_NETDEV,
            Self::FromHost => abi::names::FROM_HOST,
        }
    }
}

/// What tc does with a packet, as far as a test run of the kernel shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum TcAction {
    /// `TC_ACT_UNSPEC`: as if the program were not there.
    Next = -1,
    /// `TC_ACT_OK`: to the stack.
    Ok = 0,
    /// `TC_ACT_SHOT`: gone.
    Shot = 2,
    /// `TC_ACT_REDIRECT`: to a device or pod.
    Redirect = 7,
}

impl From<Result<Verdict, Dropped>> for TcAction {
    fn from(result: Result<Verdict, Dropped>) -> Self {
        match result {
            Ok(Verdict::Pass) => Self::Next,
            Ok(Verdict::Stack) => Self::Ok,
            Ok(Verdict::Peer { .. } | Verdict::Device { .. } | Verdict::Neighbour { .. }) => Self::Redirect,
            Ok(Verdict::Consumed(_)) | Err(_) => Self::Shot,
        }
    }
}

/// A node of one packet.
#[derive(Clone, Debug)]
pub struct Sim {
    /// The packet, layer 2 first.
    pub packet: Vec<u8>,
    /// Payload bytes per segment; 0: one packet.
    pub segment_size: u32,
    /// Where the packet is seen.
    pub ifindex: u32,
    /// The packet's mark.
    pub mark: u32,
    /// Whether the packet came with a VLAN tag.
    pub is_tagged: bool,
    /// Load-time constants.
    pub config: Config,
    /// The clock, nanoseconds.
    pub now: u64,
    /// What the routing table says, to every question.
    pub route: Route,
    /// Endpoint table.
    pub endpoints: BTreeMap<Addr, Endpoint>,
    /// Device table.
    pub devices: BTreeMap<u32, Addr>,
    /// Identity table.
    pub peers: BTreeMap<Addr, Peer>,
    /// Connections. Order is by bytes of the key, for tests that compare.
    pub connections: BTreeMap<Vec<u8>, CtEntry>,
    /// Most connections that are taken.
    pub connections_max: usize,
    /// Counters by slot.
    pub counters: BTreeMap<u32, Counter>,
    /// Token buckets.
    pub buckets: BTreeMap<u32, Bucket>,
    /// Records that were sent: header, then captured bytes.
    pub events: Vec<Vec<u8>>,
    /// Services, masquerade and translated connections.
    pub translation: Translation,
}

/// What a program can change besides the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Keys of the connections, and who is behind their ends.
    pub connections: Vec<(Vec<u8>, [u32; 2])>,
    /// Counted packets by slot.
    pub counters: BTreeMap<u32, Counter>,
    /// Kind and subtype of the records.
    pub events: Vec<(u8, u8)>,
    /// Entries of translated connections, without times.
    pub nat: Vec<(Vec<u8>, NatEntry)>,
}

/// An entry without times, which differ between kernel and memory.
#[must_use]
pub fn timeless(key: &NatKey, entry: &NatEntry) -> (Vec<u8>, NatEntry) {
    (
        key.as_bytes().to_vec(),
        NatEntry {
            created: 0,
            expires: 0,
            ..*entry
        },
    )
}

impl Default for Sim {
    fn default() -> Self {
        Self {
            packet: Vec::new(),
            segment_size: 0,
            ifindex: 1,
            mark: 0,
            is_tagged: false,
            config: Config::default(),
            // A clock that has run for a while, as a machine's has when the datapath is loaded.
            now: 1_000_000_000_000,
            route: Route::Stack,
            endpoints: BTreeMap::new(),
            devices: BTreeMap::new(),
            peers: BTreeMap::new(),
            connections: BTreeMap::new(),
            connections_max: 1024,
            counters: BTreeMap::new(),
            buckets: BTreeMap::new(),
            events: Vec::new(),
            translation: Translation::default(),
        }
    }
}

impl Sim {
    /// Runs a program over the packet.
    pub fn run(&mut self, program: Program) -> Result<Verdict, Dropped> {
        match program {
            Program::FromPod => stages::from_pod(self),
            Program::ToPod => stages::to_pod(self),
            Program::FromNetdev => stages::from_netdev(self),
            Program::ToNetdev => stages::to_netdev(self),
            Program::FromHost => stages::from_host(self),
        }
    }

    /// What was changed so far.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let head = |event: &Vec<u8>| {
            (
                event.first().copied().unwrap_or(0),
                event.get(1).copied().unwrap_or(0),
            )
        };
        Snapshot {
            connections: self
                .connections
                .iter()
                .map(|(key, entry)| (key.clone(), [entry.src_identity, entry.dst_identity]))
                .collect(),
            counters: self.counters.clone(),
            events: self.events.iter().map(head).collect(),
            nat: self
                .translation
                .entries()
                .map(|(key, entry)| timeless(&key, &entry))
                .collect(),
        }
    }

    fn range(&self, offset: u32, len: usize) -> Result<core::ops::Range<usize>, AccessError> {
        let start = usize::try_from(offset).map_err(|_| AccessError::OutOfBounds)?;
        let end = start.checked_add(len).ok_or(AccessError::OutOfBounds)?;
        if end <= self.packet.len() {
            Ok(start..end)
        } else {
            Err(AccessError::OutOfBounds)
        }
    }
}

impl Packet for Sim {
    fn len(&self) -> u32 {
        u32::try_from(self.packet.len()).unwrap_or(u32::MAX)
    }

    fn segment_size(&self) -> u32 {
        self.segment_size
    }

    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    fn mark(&self) -> u32 {
        self.mark
    }

    fn set_mark(&mut self, mark: u32) {
        self.mark = mark;
    }

    fn is_tagged(&self) -> bool {
        self.is_tagged
    }

    fn hash(&self) -> u32 {
        0
    }

    fn load<T: FromBytes + Copy>(&self, offset: u32) -> Result<T, AccessError> {
        let range = self.range(offset, size_of::<T>())?;
        T::read_from_bytes(&self.packet[range]).map_err(|_| AccessError::OutOfBounds)
    }

    fn store<T: IntoBytes + Immutable>(&mut self, offset: u32, value: &T) -> Result<(), AccessError> {
        // As the kernel's helper answers.
        let range = self
            .range(offset, size_of::<T>())
            .map_err(|_| AccessError::Refused)?;
        self.packet[range].copy_from_slice(value.as_bytes());
        Ok(())
    }

    fn replace<T: IntoBytes + Immutable>(
        &mut self,
        offset: u32,
        old: &T,
        new: &T,
        covered: Covered,
    ) -> Result<(), AccessError> {
        self.store(offset, new)?;
        let field: [u8; 2] = self.load(covered.field).map_err(|_| AccessError::Refused)?;
        if covered.zero_is_none && field == [0; 2] {
            return Ok(());
        }
        let change = checksum::add(!checksum::sum(old.as_bytes()), checksum::sum(new.as_bytes()));
        let sum = !checksum::add(!u16::from_be_bytes(field), change);
        // As the kernel does it, and RFC 768 wants.
        let sum = if covered.zero_is_none && sum == 0 {
            0xffff
        } else {
            sum
        };
        self.store(covered.field, &sum.to_be_bytes())
    }

    fn resize(&mut self, len: u32) -> Result<(), AccessError> {
        self.packet
            .resize(usize::try_from(len).map_err(|_| AccessError::Refused)?, 0);
        self.segment_size = 0;
        Ok(())
    }

    fn open_layer3(&mut self, bytes: u32) -> Result<(), AccessError> {
        let at = Ethernet::LEN as usize;
        if self.packet.len() < at {
            return Err(AccessError::Refused);
        }
        self.packet
            .splice(at..at, std::iter::repeat_n(0xee, bytes as usize));
        Ok(())
    }

    fn sum(&self, offset: u32, len: u32) -> Result<u16, AccessError> {
        if len > MAX_SUM {
            return Err(AccessError::OutOfBounds);
        }
        Ok(checksum::sum(&self.packet[self.range(offset, len as usize)?]))
    }
}

impl Tables for Sim {
    fn endpoint(&self, addr: &Addr) -> Option<Endpoint> {
        self.endpoints.get(addr).copied()
    }

    fn device(&self, ifindex: u32) -> Option<Addr> {
        self.devices.get(&ifindex).copied()
    }

    fn peer(&self, addr: &Addr) -> Option<Peer> {
        self.peers.get(addr).copied()
    }

    fn connection<R>(&mut self, key: &CtKey, with: impl FnOnce(&mut CtEntry) -> R) -> Option<R> {
        self.connections.get_mut(key.as_bytes()).map(with)
    }

    fn add_connection(&mut self, key: &CtKey, entry: &CtEntry) -> Result<(), TableFull> {
        if self.connections.len() >= self.connections_max {
            return Err(TableFull);
        }
        self.connections.insert(key.as_bytes().to_vec(), *entry);
        Ok(())
    }

    fn count(&mut self, slot: u32, bytes: u32) {
        let counter = self.counters.entry(slot).or_default();
        counter.packets += 1;
        counter.bytes += u64::from(bytes);
    }

    fn bucket<R>(&mut self, slot: u32, with: impl FnOnce(&mut Bucket) -> R) -> Option<R> {
        Some(with(self.buckets.entry(slot).or_default()))
    }
}

impl Env for Sim {
    fn now(&self) -> u64 {
        self.now
    }

    fn config(&self) -> Config {
        self.config
    }

    fn route(&mut self, _query: &RouteQuery<'_>) -> Route {
        self.route
    }

    fn emit<H: IntoBytes + Immutable + 'static>(&mut self, _kind: u8, header: &H, captured: u32) {
        let mut record = header.as_bytes().to_vec();
        record.extend(self.packet.iter().take(captured as usize));
        self.events.push(record);
    }
}

impl Context for Sim {}

/// Link-layer address of every neighbour.
pub const NEIGHBOUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xcc];
/// Link-layer address of the device under test.
pub const DEVICE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xdd];

impl Wire for Sim {
    fn hop(&mut self, query: &RouteQuery<'_>) -> Option<Hop> {
        match self.route {
            Route::Via { ifindex, .. } if ifindex == query.ifindex => Some([NEIGHBOUR_MAC, DEVICE_MAC]),
            _ => None,
        }
    }
}
