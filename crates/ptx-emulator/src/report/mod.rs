//! Findings and counters for people ([`text`]) and programs ([`json`]).

pub(crate) mod collect;
mod json;
mod text;

pub use json::json;
pub use text::text;
