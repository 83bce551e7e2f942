//! The tables of translation.

use abi::nat::PlainKey;
use abi::{Addr, NatEntry, NatKey};

use crate::prefix::PrefixTable;
use crate::table::Table;

/// What programs translate addresses and ports by.
pub struct NatTables {
    /// Translated connections, two entries each. Programs write it.
    pub nat: Table<NatKey, NatEntry>,
    /// Interface index of a native device to the address that pods leave by it with.
    pub masquerade: Table<u32, Addr>,
    /// Destinations that pods reach with their own address. The value says nothing.
    pub plain: PrefixTable<PlainKey>,
}
