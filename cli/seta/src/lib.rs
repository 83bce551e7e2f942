//! What of the command line is pure: the embedded chart, and the values that people set, read and checked. A library
//! beside the binary, so that `fuzz/` reaches it.
#![forbid(unsafe_code)]

pub mod chart;
pub mod values;
