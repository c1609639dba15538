//! Findings and counters for people (text) and programs (JSON).

pub(crate) mod html;
