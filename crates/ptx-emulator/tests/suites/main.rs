//! The emulator's suites: planted bugs, kernels known to be right, and the truth of single instructions.

mod correct;
mod examples;
mod planted;
mod support;
mod truth;
