//! What the tasks and their tests share.

pub mod emulated;
