//! Fuzzes the reader of configurations.
#![no_main]

#[path = "../allocator.rs"]
mod allocator;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| allocator::within_limits(bytes, seedwalk::data::fuzzing::configuration));
