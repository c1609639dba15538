//! Dense CRF.
