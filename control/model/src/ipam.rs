//! Host-scope address management: which address of the node's pod CIDRs a pod gets.
//!
//! Facts (cilium.md §5.1): addresses are handed out at random within a block, never the first and the last, and of a
//! large block only the first 2^16 are used. An address that was released rests for a while, so that a peer's stale
//! connection or cache entry cannot reach the next owner.
//!
//! The owner of every address is known, so that whatever a failed ADD or a crash left behind can be found and given
//! back. The whole is a [`Snapshot`] in the agent's state file.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::addr::Family;

/// Offsets within a block that can be used at all.
const MAX_OFFSETS: u32 = 1 << 16;

/// Whom an address belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// The node's router (`cilium_host`).
    Router,
    /// The health endpoint.
    Health,
    /// An interface of a container, as the CNI runtime names it.
    Container {
        /// `CNI_CONTAINERID`: the sandbox.
        id: String,
        /// `CNI_IFNAME`.
        ifname: String,
    },
}

impl Owner {
    /// An interface of a container.
    pub fn container(id: impl Into<String>, ifname: impl Into<String>) -> Self {
        Self::Container {
            id: id.into(),
            ifname: ifname.into(),
        }
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Router => f.write_str("router"),
            Self::Health => f.write_str("health"),
            Self::Container { id, ifname } => write!(f, "{id}:{ifname}"),
        }
    }
}

/// A block that addresses cannot be taken from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The first and the last address are skipped, so that nothing is left.
    #[error("{block} has no usable address: its first and last address are never handed out")]
    TooSmall {
        /// The block.
        block: IpNet,
    },
    /// Two blocks share addresses.
    #[error("{first} and {second} overlap")]
    Overlap {
        /// One of them.
        first: IpNet,
        /// The other.
        second: IpNet,
    },
}

/// No address could be handed out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// There is no block of that family.
    #[error("the node has no {family} pod CIDR")]
    NoBlock {
        /// The family asked for.
        family: Family,
    },
    /// Every address is in use or resting.
    #[error(
        "no {family} address is left in {}: {used} of {capacity} are in use, {resting} were released less than \
             {cool_down_secs} s ago",
        list(blocks)
    )]
    Full {
        /// The family asked for.
        family: Family,
        /// All blocks of that family.
        blocks: Vec<IpNet>,
        /// Addresses that have an owner.
        used: u32,
        /// Addresses that were released a moment ago.
        resting: u32,
        /// Usable addresses of all blocks.
        capacity: u32,
        /// How long a released address rests, seconds.
        cool_down_secs: u64,
    },
}

/// An address could not be reserved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// Somebody else has it.
    #[error("{addr} belongs to {owner}")]
    InUse {
        /// The address.
        addr: IpAddr,
        /// Who has it.
        owner: Owner,
    },
    /// It is in no block, or is one that is never handed out.
    #[error("{addr} is not a usable address of the node's pod CIDRs")]
    OutsideOfBlocks {
        /// The address.
        addr: IpAddr,
    },
}

/// How full one block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The block.
    pub block: IpNet,
    /// Addresses that have an owner.
    pub used: u32,
    /// Addresses that rest.
    pub resting: u32,
    /// Addresses that can be used at all.
    pub capacity: u32,
}

/// The whole state, as the state file has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Snapshot {
    /// Blocks, in order of preference.
    pub blocks: Vec<IpNet>,
    /// How long a released address rests.
    pub cool_down: Duration,
    /// Addresses in use, with their owner. May contain addresses of a block the node no longer has.
    pub used: Vec<(IpAddr, Owner)>,
    /// Addresses that rest, with the time of their release since the Unix epoch.
    pub resting: Vec<(IpAddr, Duration)>,
}

/// A snapshot that contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A block cannot be used.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// One address is listed twice.
    #[error("{addr} is listed twice")]
    Duplicate {
        /// The address.
        addr: IpAddr,
    },
}

/// Addresses of one block, by offset: 1 to `last`, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    net: IpNet,
    /// Last usable offset.
    last: u32,
}

impl Block {
    fn new(net: IpNet) -> Result<Self, BlockError> {
        let net = net.trunc();
        let host_bits = u32::from(net.max_prefix_len() - net.prefix_len());
        let offsets = if host_bits >= MAX_OFFSETS.ilog2() {
            MAX_OFFSETS
        } else {
            1 << host_bits
        };
        // Without offset 0 and the last one; a block of one or two addresses has no other.
        if offsets <= 2 {
            Err(BlockError::TooSmall { block: net })
        } else {
            Ok(Self {
                net,
                last: offsets - 2,
            })
        }
    }

    fn address(&self, offset: u32) -> IpAddr {
        match self.net.network() {
            IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from_bits(base.to_bits() | offset)),
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from_bits(base.to_bits() | u128::from(offset))),
        }
    }

    fn contains(&self, addr: IpAddr) -> bool {
        let offset = match (self.net.network(), addr) {
            (IpAddr::V4(base), IpAddr::V4(addr)) => {
                addr.to_bits().checked_sub(base.to_bits()).map(u128::from)
            }
            (IpAddr::V6(base), IpAddr::V6(addr)) => addr.to_bits().checked_sub(base.to_bits()),
            _ => None,
        };
        offset.is_some_and(|offset| (1..=u128::from(self.last)).contains(&offset))
    }
}

/// The allocator of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipam {
    blocks: Vec<Block>,
    cool_down: Duration,
    used: BTreeMap<IpAddr, Owner>,
    resting: BTreeMap<IpAddr, Duration>,
}

impl Ipam {
    /// An allocator over the node's pod CIDRs.
    ///
    /// # Errors
    /// When a block is too small or two overlap.
    pub fn new(blocks: &[IpNet], cool_down: Duration) -> Result<Self, BlockError> {
        let blocks = blocks_of(blocks)?;
        Ok(Self {
            blocks,
            cool_down,
            used: BTreeMap::new(),
            resting: BTreeMap::new(),
        })
    }

    /// The allocator that a snapshot was taken of.
    ///
    /// # Errors
    /// When the snapshot contradicts itself.
    pub fn restore(snapshot: &Snapshot) -> Result<Self, RestoreError> {
        let mut ipam = Self::new(&snapshot.blocks, snapshot.cool_down)?;
        for (addr, owner) in &snapshot.used {
            if ipam.used.insert(*addr, owner.clone()).is_some() {
                return Err(RestoreError::Duplicate { addr: *addr });
            }
        }
        for (addr, since) in &snapshot.resting {
            if ipam.used.contains_key(addr) || ipam.resting.insert(*addr, *since).is_some() {
                return Err(RestoreError::Duplicate { addr: *addr });
            }
        }
        Ok(ipam)
    }

    /// The whole state.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let Self {
            blocks,
            cool_down,
            used,
            resting,
        } = self;
        Snapshot {
            blocks: blocks.iter().map(|block| block.net).collect(),
            cool_down: *cool_down,
            used: used.iter().map(|(addr, owner)| (*addr, owner.clone())).collect(),
            resting: resting.iter().map(|(addr, since)| (*addr, *since)).collect(),
        }
    }

    /// Replaces the blocks. Addresses outside the new ones stay with their owners until they are released, and are
    /// returned, since their pods are no longer reachable from other nodes.
    ///
    /// # Errors
    /// When a block is too small or two overlap; nothing has changed then.
    pub fn set_blocks(&mut self, blocks: &[IpNet]) -> Result<Vec<(IpAddr, Owner)>, BlockError> {
        self.blocks = blocks_of(blocks)?;
        let Self {
            blocks,
            used,
            resting,
            ..
        } = self;
        let inside = |addr: IpAddr| blocks.iter().any(|block| block.contains(addr));
        resting.retain(|addr, _| inside(*addr));
        Ok(used
            .iter()
            .filter(|(addr, _)| !inside(**addr))
            .map(|(addr, owner)| (*addr, owner.clone()))
            .collect())
    }

    /// The blocks, in order of preference.
    pub fn blocks(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.blocks.iter().map(|block| block.net)
    }

    /// Whether there is a block of that family.
    #[must_use]
    pub fn has_family(&self, family: Family) -> bool {
        self.blocks_of_family(family).next().is_some()
    }

    /// Hands out a free address of a family. `random` chooses where in the block; `now` is the time since the Unix
    /// epoch.
    ///
    /// # Errors
    /// When there is no block of that family or no free address in it.
    pub fn allocate(
        &mut self,
        family: Family,
        owner: Owner,
        random: u64,
        now: Duration,
    ) -> Result<IpAddr, AllocateError> {
        self.wake(now);
        if !self.has_family(family) {
            return Err(AllocateError::NoBlock { family });
        }
        let free = self
            .blocks_of_family(family)
            .find_map(|block| self.free_in(block, random));
        match free {
            Some(addr) => {
                self.used.insert(addr, owner);
                Ok(addr)
            }
            None => Err(self.full(family)),
        }
    }

    /// Marks an address as used by `owner`: after a restart, or because the user chose it. Takes it out of its rest;
    /// reserving what the owner already has changes nothing.
    ///
    /// # Errors
    /// When somebody else has the address or it is not ours to give.
    pub fn reserve(&mut self, addr: IpAddr, owner: Owner) -> Result<(), ReserveError> {
        match self.used.get(&addr) {
            Some(current) if *current == owner => return Ok(()),
            Some(current) => {
                return Err(ReserveError::InUse {
                    addr,
                    owner: current.clone(),
                });
            }
            None => {}
        }
        if !self.blocks.iter().any(|block| block.contains(addr)) {
            return Err(ReserveError::OutsideOfBlocks { addr });
        }
        self.resting.remove(&addr);
        self.used.insert(addr, owner);
        Ok(())
    }

    /// Gives an address back; from `now` on it rests. Returns its owner, or `None` if it was not in use.
    pub fn release(&mut self, addr: IpAddr, now: Duration) -> Option<Owner> {
        let owner = self.used.remove(&addr)?;
        if self.blocks.iter().any(|block| block.contains(addr)) {
            self.resting.insert(addr, now);
        }
        Some(owner)
    }

    /// Gives back every address of an owner; returns them.
    pub fn release_owner(&mut self, owner: &Owner, now: Duration) -> Vec<IpAddr> {
        let addrs: Vec<IpAddr> = self.addresses_of(owner).collect();
        for addr in &addrs {
            self.release(*addr, now);
        }
        addrs
    }

    /// Who has an address.
    #[must_use]
    pub fn owner(&self, addr: IpAddr) -> Option<&Owner> {
        self.used.get(&addr)
    }

    /// Addresses of an owner.
    pub fn addresses_of<'a>(&'a self, owner: &'a Owner) -> impl Iterator<Item = IpAddr> + 'a {
        self.used
            .iter()
            .filter(move |(_, current)| *current == owner)
            .map(|(addr, _)| *addr)
    }

    /// Addresses in use, in ascending order.
    pub fn used(&self) -> impl Iterator<Item = (IpAddr, &Owner)> {
        self.used.iter().map(|(addr, owner)| (*addr, owner))
    }

    /// How full each block is. Addresses whose rest ended before `now` count as free.
    #[must_use]
    pub fn usage(&self, now: Duration) -> Vec<Usage> {
        self.blocks
            .iter()
            .map(|block| Usage {
                block: block.net,
                used: count(self.used.keys(), block),
                resting: count(
                    self.resting
                        .iter()
                        .filter(|(_, since)| !self.is_rested(**since, now))
                        .map(|(addr, _)| addr),
                    block,
                ),
                capacity: block.last,
            })
            .collect()
    }

    fn blocks_of_family(&self, family: Family) -> impl Iterator<Item = &Block> {
        self.blocks
            .iter()
            .filter(move |block| Family::of(block.net.network()) == family)
    }

    fn free_in(&self, block: &Block, random: u64) -> Option<IpAddr> {
        let start = (random % u64::from(block.last)) as u32;
        (0..block.last)
            .map(|step| block.address((start + step) % block.last + 1))
            .find(|addr| !self.used.contains_key(addr) && !self.resting.contains_key(addr))
    }

    /// Ends the rest of addresses whose time is over.
    fn wake(&mut self, now: Duration) {
        let cool_down = self.cool_down;
        self.resting.retain(|_, since| !rested(*since, now, cool_down));
    }

    fn is_rested(&self, since: Duration, now: Duration) -> bool {
        rested(since, now, self.cool_down)
    }

    fn full(&self, family: Family) -> AllocateError {
        let (mut used, mut resting, mut capacity) = (0, 0, 0);
        for block in self.blocks_of_family(family) {
            used += count(self.used.keys(), block);
            resting += count(self.resting.keys(), block);
            capacity += block.last;
        }
        AllocateError::Full {
            family,
            blocks: self.blocks_of_family(family).map(|block| block.net).collect(),
            used,
            resting,
            capacity,
            cool_down_secs: self.cool_down.as_secs(),
        }
    }
}

/// Whether an address released at `since` may be used again. A clock that was set back starts the rest anew only as
/// long as it would have lasted, never longer.
fn rested(since: Duration, now: Duration, cool_down: Duration) -> bool {
    match now.checked_sub(since) {
        Some(rest) => rest >= cool_down,
        // Released "in the future": the clock was set back. By more than the cool-down the time says nothing.
        None => since.saturating_sub(now) > cool_down,
    }
}

fn list(blocks: &[IpNet]) -> String {
    let texts: Vec<String> = blocks.iter().map(IpNet::to_string).collect();
    texts.join(", ")
}

fn count<'a>(addrs: impl Iterator<Item = &'a IpAddr>, block: &Block) -> u32 {
    addrs.filter(|addr| block.contains(**addr)).map(|_| 1).sum()
}

fn blocks_of(nets: &[IpNet]) -> Result<Vec<Block>, BlockError> {
    let blocks = nets
        .iter()
        .map(|net| Block::new(*net))
        .collect::<Result<Vec<_>, _>>()?;
    for (index, first) in blocks.iter().enumerate() {
        for second in blocks.iter().skip(index + 1) {
            if first.net.contains(&second.net) || second.net.contains(&first.net) {
                return Err(BlockError::Overlap {
                    first: first.net,
                    second: second.net,
                });
            }
        }
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests;
