//! The packet parser on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sim::fuzz::packet(data));
