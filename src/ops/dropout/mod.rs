//! Channel dropout.
