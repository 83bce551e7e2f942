//! The tables of services.

use abi::service::MaglevTable;
use abi::{Affinity, AffinityKey, Backend, BackendKey, MemberKey, Service, ServiceKey, SourceRangeKey};

use crate::prefix::PrefixTable;
use crate::table::Table;

/// What programs look services up in.
pub struct ServiceTables {
    /// Frontends.
    pub services: Table<ServiceKey, Service>,
    /// Backends by set and slot.
    pub backends: Table<BackendKey, Backend>,
    /// Balancing tables by set.
    pub maglev: Table<u32, MaglevTable>,
    /// Backends that are remembered somewhere, and whom they are there for (`abi::service::member`).
    pub members: Table<MemberKey, u32>,
    /// Backends that clients come back to.
    pub affinity: Table<AffinityKey, Affinity>,
    /// Who may use a service from outside. The value says nothing.
    pub ranges: PrefixTable<SourceRangeKey>,
}
