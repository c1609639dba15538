//! The stages: data in, data out, no arithmetic of their own.

pub mod events;
pub mod images;
pub mod make_affinity_labels;
pub mod make_cams;
pub mod make_pseudo_labels;
pub mod manifest;
pub mod memory;
pub mod networks;
mod report;
pub mod run;
pub mod score;
pub mod segment;
pub mod stages;
mod step;
pub mod summary;
pub mod training;
