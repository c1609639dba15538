//! Fuzzes the readers of tables of tags, lists and class lists.
#![no_main]

#[path = "../allocator.rs"]
mod allocator;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| allocator::within_limits(bytes, seedwalk::data::fuzzing::tables));
