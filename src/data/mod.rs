//! Data sets: photographs, tags, masks, augmentation.

mod files;
pub mod synth;
