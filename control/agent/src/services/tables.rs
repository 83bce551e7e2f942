//! The kernel's tables of services. The trait exists so that writes can be made to fail in tests; [`InKernel`] is the
//! real one.

use std::collections::BTreeSet;
use std::sync::Arc;

use abi::service::MaglevTable;
use abi::{Addr, Backend, BackendKey};
use loader::{Datapath, TableError};
use model::Identity;
use model::service::{Step, Tables, maglev};

/// Maglev tables that are read at once; each has 32 KiB.
const MAGLEV_BATCH: usize = 16;

/// What is done to the tables of services.
pub(crate) trait ServiceTables: Send + Sync + 'static {
    /// Everything they hold.
    fn read(&self) -> Result<Tables, TableError>;
    /// Does one step. After a failure nothing of it is left, as far as the kernel lets that be.
    fn write(&self, step: &Step) -> Result<(), TableError>;
}

/// The entry of an address that is only services'.
pub(crate) const SERVICE_ADDRESS: abi::Endpoint = abi::Endpoint {
    ifindex: 0,
    identity: Identity::UNKNOWN.0,
    id: 0,
    flags: abi::Endpoint::SERVICE,
    mtu: 0,
    mac: [0; 6],
    node_mac: [0; 6],
    pad: [0; 4],
};

/// The tables of the running datapath.
pub(crate) struct InKernel(pub(crate) Arc<Datapath>);

impl InKernel {
    fn add_set(&self, id: u32, backends: &[Backend], with_table: bool) -> Result<(), TableError> {
        let tables = self.0.services();
        for (slot, backend) in (0..).zip(backends) {
            tables.backends.insert(&BackendKey { set: id, slot }, backend)?;
        }
        if with_table {
            let places: Vec<(Addr, [u8; 2])> = backends.iter().map(|b| (b.addr, b.port)).collect();
            tables.maglev.insert(&id, &MaglevTable(*maglev::table(&places)))?;
        }
        Ok(())
    }

    fn remove_set(&self, id: u32, count: u32, with_table: bool) -> Result<(), TableError> {
        let tables = self.0.services();
        if with_table {
            tables.maglev.remove(&id)?;
        }
        for slot in 0..count {
            tables.backends.remove(&BackendKey { set: id, slot })?;
        }
        Ok(())
    }
}

impl ServiceTables for InKernel {
    fn read(&self) -> Result<Tables, TableError> {
        let tables = self.0.services();
        let mut with_table = BTreeSet::new();
        for batch in tables.maglev.batches_of(MAGLEV_BATCH) {
            with_table.extend(batch?.into_iter().map(|(set, _)| set));
        }
        let mut addresses = BTreeSet::new();
        for batch in self.0.endpoints().batches() {
            let of_services = batch?
                .into_iter()
                .filter(|(_, e)| e.flags & abi::Endpoint::SERVICE != 0);
            addresses.extend(of_services.map(|(addr, _)| addr));
        }
        Ok(Tables {
            services: tables.services.dump()?,
            backends: tables.backends.dump()?,
            maglev: with_table,
            members: tables.members.dump()?,
            ranges: tables.ranges.dump()?,
            addresses,
        })
    }

    fn write(&self, step: &Step) -> Result<(), TableError> {
        let tables = self.0.services();
        match step {
            Step::AddSet { id, backends, maglev } => self.add_set(*id, backends, *maglev).inspect_err(|_| {
                let count = u32::try_from(backends.len()).unwrap_or(u32::MAX);
                // What is left is found when the tables are read again.
                let _ = self.remove_set(*id, count, *maglev);
            }),
            Step::RemoveSet { id, count, maglev } => self.remove_set(*id, *count, *maglev),
            Step::SetMember(key, bits) => tables.members.insert(key, bits),
            Step::RemoveMember(key) => tables.members.remove(key).map(drop),
            Step::AddRange(bits, key) => tables.ranges.insert(*bits, key),
            Step::RemoveRange(bits, key) => tables.ranges.remove(*bits, key).map(drop),
            Step::SetService(key, service) => tables.services.insert(key, service),
            Step::RemoveService(key) => tables.services.remove(key).map(drop),
            // An address of the node or of a pod stays that.
            Step::AddAddress(addr) => self.0.endpoints().insert_new(addr, &SERVICE_ADDRESS).map(drop),
            Step::RemoveAddress(addr) => match self.0.endpoints().get(addr)? {
                Some(entry) if entry.flags & abi::Endpoint::SERVICE != 0 => {
                    self.0.endpoints().remove(addr).map(drop)
                }
                _ => Ok(()),
            },
            Step::RemoveSlot(key) => tables.backends.remove(key).map(drop),
            Step::RemoveMaglev(set) => tables.maglev.remove(set).map(drop),
        }
    }
}
