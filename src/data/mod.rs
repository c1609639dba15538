//! Data sets: photographs, tags, masks, augmentation; and a generated one.
//!
//! A [`Dataset`] is opened from a folder in VOC's layout or from a plain one ([`Dataset::open`]);
//! [`check_data`] tells every fault of it at once. [`augment`] makes training samples, [`synth`] draws a
//! data set that needs no download.

pub mod augment;
mod check;
mod classes;
mod dataset;
mod fault;
#[cfg(fuzzing)]
pub mod fuzzing;
mod ids;
mod layout;
mod list;
pub mod synth;
mod tags;
#[cfg(test)]
mod tests;
mod text;

pub use check::{ClassCount, Report, check_data};
pub use classes::Classes;
pub use dataset::{Dataset, DatasetOptions, Sample, TagUse};
pub use fault::Fault;
pub(crate) use ids::id_of_file;
