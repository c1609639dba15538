//! File formats, and writing files so that each is complete or absent.

pub mod atomic;
pub mod cams;
pub mod checkpoint;
pub(crate) mod codec;
pub mod image;
pub mod safetensors;
pub mod weights;
