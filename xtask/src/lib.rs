//! What the tasks, their tests and the GPU day's runner share.

pub mod day;
pub mod emulated;
