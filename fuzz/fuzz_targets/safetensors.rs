//! Fuzzes the reader of safetensors and checkpoints.
#![no_main]

#[path = "../allocator.rs"]
mod allocator;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| allocator::within_limits(bytes, seedwalk::formats::fuzzing::tensor_file));
