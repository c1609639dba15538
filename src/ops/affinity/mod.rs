//! Semantic affinities and their loss.
