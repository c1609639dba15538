//! Fully connected layer.
