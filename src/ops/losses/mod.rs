//! Losses of the classification and segmentation networks.
