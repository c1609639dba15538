//! Sizes and mirror images of photographs and label maps.

use super::resample::{Kernel, resample};
use crate::Result;
use crate::formats::image::{LabelMap, RgbImage};

/// Resamples with the cubic kernel of a = −½, widened when shrinking so that every source pixel counts:
/// what Pillow calls BICUBIC, to the last bit.
///
/// # Errors
/// A width or height of 0.
pub fn resize_cubic(image: &RgbImage, width: usize, height: usize) -> Result<RgbImage> {
    resample(image, width, height, Kernel::Cubic)
}

/// The label under each target pixel's centre: source index ⌊(i + ½) · source / target⌋.
pub fn resize_nearest(map: &LabelMap, width: usize, height: usize) -> LabelMap {
    // (2i + 1) · source / (2 · target) in whole numbers: no rounding to differ about.
    let index = |i: usize, source: usize, target: usize| (2 * i + 1) * source / (2 * target);
    let columns: Vec<usize> = (0..width).map(|x| index(x, map.width, width)).collect();
    let mut labels = Vec::with_capacity(width * height);
    for y in 0..height {
        let row = &map.labels[index(y, map.height, height) * map.width..][..map.width];
        labels.extend(columns.iter().map(|&x| row[x]));
    }
    LabelMap { width, height, labels }
}

/// The mirror image, left and right exchanged.
pub fn mirror(image: &RgbImage) -> RgbImage {
    let rows = image.pixels.chunks_exact((image.width * 3).max(1));
    let pixels = rows.flat_map(|row| row.rchunks_exact(3).flatten().copied()).collect();
    RgbImage { pixels, ..*image }
}

/// The mirror image of labels.
pub fn mirror_labels(map: &LabelMap) -> LabelMap {
    let rows = map.labels.chunks_exact(map.width.max(1));
    LabelMap { labels: rows.flat_map(|row| row.iter().rev().copied()).collect(), ..*map }
}
