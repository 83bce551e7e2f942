//! Header types and the packet trait.
#![no_std]
#![forbid(unsafe_code)]
