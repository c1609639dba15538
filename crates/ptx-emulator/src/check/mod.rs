//! Race detection and what belongs to it.

pub(crate) mod clock;
pub(crate) mod global;
pub(crate) mod shared;
pub(crate) mod sync;
