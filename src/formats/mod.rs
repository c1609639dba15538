//! File formats.

pub mod image;
