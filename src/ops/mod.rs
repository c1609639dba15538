//! The operations, one folder each: the maths and the tape rule in `mod.rs`, the CPU code in `cpu.rs`, the launchers of
//! the CUDA kernels in `cuda.rs` where there are some.
//!
//! Every operation is tested against a plain f64 reference, and its gradient against central
//! differences of that reference, on odd sizes.

pub mod activation;
pub mod affinity;
pub mod batch_norm;
pub mod class_maps;
pub mod concat;
pub mod conv2d;
pub mod crf;
pub mod dropout;
pub mod elementwise;
pub mod linear;
pub mod losses;
pub mod pooling;
pub mod reduce;
pub mod resize;
pub mod sort;
#[cfg(test)]
pub(crate) mod testing;
pub mod walk;

pub use activation::relu;
pub use elementwise::add;
