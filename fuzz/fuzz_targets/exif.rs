//! Fuzzes the reader of JPEG's markers and EXIF.
#![no_main]

#[path = "../allocator.rs"]
mod allocator;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| allocator::within_limits(bytes, seedwalk::formats::fuzzing::exif_block));
