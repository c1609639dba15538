//! seedwalk turns photographs with nothing but image-level tags into pixel masks: the pipeline of
//! *Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised
//! Semantic Segmentation* (Ahn and Kwak, CVPR 2018, arXiv 1803.10464).
//!
//! The modules stack: [`tensor`] and [`tape`] at the bottom, [`ops`] on them, [`nn`] on those, then
//! [`data`] and [`formats`], then [`pipeline`], one file a stage, and on top the command.

// Inputs by rule are shared with the parity tests, which name the library from outside.
#[cfg(test)]
extern crate self as seedwalk;

pub mod cli;
pub mod config;
pub mod data;
pub mod device;
mod error;
pub mod eval;
pub mod formats;
pub mod math;
pub mod nn;
pub mod ops;
pub mod optim;
pub mod pipeline;
pub mod profile;
pub mod progress;
pub mod report;
pub mod rng;
pub mod tape;
pub mod tensor;

pub use error::{Error, ErrorKind, Position, Result, show_path};
