//! Data sets: photographs, tags, masks, augmentation.
