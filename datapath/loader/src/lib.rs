//! Loads, pins, attaches and upgrades the kernel programs, and gives typed access to their maps and events.
//!
//! The only crate that knows aya. It meets the kernel side in `abi` alone; the object is built by `build.rs`.
//!
//! Everything is pinned below `<bpffs>/seta`, so that the datapath outlives the process that loaded it:
//!
//! ```text
//! seta/maps/<map name>                 maps, all of one ABI version, replaced as a whole
//! seta/maps/seta_abi                   the ABI version of the maps beside it
//! seta/links/<program>-<ifindex>       tcx links, and XDP links of `from_wire`
//! seta/links/<program>                 cgroup links of the programs of sockets
//! seta/programs/<fingerprint>/<name>   programs that need not be verified again while nothing has changed
//! seta/next/                           a new set of maps while it is being prepared
//! ```
//!
//! An upgrade never has a moment without a complete datapath. [`Datapath::open`] loads the new programs beside the
//! running ones; `attach_*` then swaps the program behind each pinned link, which the kernel does between two
//! packets. A crash at any step leaves every link with a program and the maps that belong to it, and the next
//! [`Datapath::open`] goes on from there.

mod attach;
mod datapath;
mod events;
mod expiry;
mod info;
mod migrate;
mod nat;
mod object;
mod open;
mod pins;
mod prefix;
mod services;
mod sizing;
mod sockets;
mod sys;
mod table;
mod verified;
mod wire;

pub use attach::{AttachError, Attached, Attachment, Direction};
pub use datapath::{Counts, Datapath, Metric, TestRun, TestRunError};
pub use events::{Event, EventReader, EventsError, Malformed, decode};
pub use expiry::{Collection, Expires, GcReport, monotonic_ns};
pub use info::{InfoError, MapInfo, ProgramInfo, StatsGuard};
pub use migrate::{MapNews, MapReason};
pub use nat::NatTables;
pub use object::{OBJECT, ObjectError};
pub use open::{OpenError, Options};
pub use pins::{PinError, Uninstalled, uninstall};
pub use prefix::PrefixTable;
pub use services::ServiceTables;
pub use sizing::{MapSizes, total_memory};
pub use sockets::{SocketAttachment, SocketError};
pub use sys::network_namespace;
pub use table::{Batches, Layout, Table, TableError};

pub use wire::{WireAttachment, WireError, WireMode};

/// The reason that the library below gives for an error.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;
