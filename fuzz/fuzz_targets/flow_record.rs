//! See `seta_fuzz::TARGETS`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seta_fuzz::flow_record(data));
