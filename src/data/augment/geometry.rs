//! Sizes and mirror images of photographs and label maps.

use fast_image_resize as fir;

use crate::formats::image::{LabelMap, RgbImage};
use crate::{Error, Result};

/// Resamples with the cubic kernel of a = −½ (Keys 1981, Catmull–Rom), widened when shrinking so that
/// every source pixel counts: what Pillow calls BICUBIC.
///
/// # Errors
/// A width or height of 0.
pub fn resize_cubic(image: &RgbImage, width: usize, height: usize) -> Result<RgbImage> {
    if (width, height) == (image.width, image.height) {
        return Ok(image.clone());
    }
    let fail = |e: &dyn std::fmt::Display| {
        Error::shape("resize", format!("{}×{} to {width}×{height}: {e}", image.width, image.height))
    };
    let size = |side: usize| match u32::try_from(side) {
        Ok(side) if side > 0 => Ok(side),
        _ => Err(fail(&"an impossible size")),
    };
    let source = fir::images::ImageRef::new(
        size(image.width)?,
        size(image.height)?,
        &image.pixels,
        fir::PixelType::U8x3,
    )
    .map_err(|e| fail(&e))?;
    let mut target = fir::images::Image::new(size(width)?, size(height)?, fir::PixelType::U8x3);
    let options =
        fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::CatmullRom));
    fir::Resizer::new().resize(&source, &mut target, &options).map_err(|e| fail(&e))?;
    RgbImage::new(width, height, target.into_vec())
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
