//! Bilinear resizing.
