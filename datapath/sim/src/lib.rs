//! The datapath in memory: the logic of `stages` over a packet in a `Vec`, tables in maps, and a world that is set by
//! hand. Tests and the simulator run it; the rows in [`rows`] run here and in the kernel, and must agree.
#![forbid(unsafe_code)]

mod builder;
pub mod fuzz;
mod memory;
pub mod rows;
mod translation;

pub use builder::{Builder, checksum_is_valid};
pub use memory::{DEVICE_MAC, NEIGHBOUR_MAC, Program, Sim, Snapshot, TcAction, timeless};
pub use translation::Translation;
