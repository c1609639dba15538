//! The GPU day: everything that only a GPU can tell, found out by one program in a few minutes.
//!
//! `cargo xtask gpu-day build` makes a folder with the tests, the benchmark, the program and this runner (`src/bin/gpu-day.rs`),
//! which need no toolkit, no Rust and no network. The runner starts each test, training and benchmark as a process of its own
//! with a time limit, so that one that fails, hangs or crashes costs itself alone, and writes the results file anew after each.

pub mod child;
pub mod memory;
pub mod results;
pub mod runner;
mod training;
