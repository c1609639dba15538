//! Transition matrix and random walk.
