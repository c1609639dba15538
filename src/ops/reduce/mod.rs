//! Sums of a vector in a fixed tree: the same bytes on every run, in whatever order the GPU runs its blocks.
//!
//! `s = Σ_i x_i`. On the CPU the operations that need one add up in f64 themselves.

pub mod cuda;
