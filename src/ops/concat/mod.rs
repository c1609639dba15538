//! Concatenation along channels.
