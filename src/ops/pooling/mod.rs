//! Global and local average pooling.
