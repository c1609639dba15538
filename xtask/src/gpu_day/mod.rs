//! `gpu-day build` and `gpu-day docs`: what the day's runner (`xtask::day`) is carried in, and what becomes of its results.

mod binary;
pub mod build;
pub mod page;
