//! Findings and counters for people ([`text`], [`HtmlReport`]) and programs ([`json`]).

pub(crate) mod collect;
mod html;
mod json;
mod text;

pub use html::HtmlReport;
pub use json::json;
pub use text::text;
