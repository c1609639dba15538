//! Pictures of maps and labels over the photograph they belong to.
//!
//! The photograph goes grey and pale, so that the class colours (VOC's map, whose first entries are dark)
//! stand out and keep the hue that the legend shows.

use super::{AffinityView, ScoreMaps};
use crate::data::augment::{resize_cubic, resize_nearest};
use crate::formats::image::{IGNORE, LabelMap, RgbImage};
use crate::formats::label_png::voc_colour;
use crate::{Error, Result};

/// Opacity of a label's colour, and of a map's colour at its maximum.
const OPACITY: f32 = 0.78;
/// The line around labels and around what the background loses.
const OUTLINE: [u8; 3] = [255, 255, 255];
/// Of the hatching of neutral pixels.
const INK: [u8; 3] = [60, 58, 52];
/// Colour of low affinity: the borders that AffinityNet sees.
const BORDER: [u8; 3] = [176, 52, 22];
/// Colour of high affinity to a cell.
const NEAR: [u8; 3] = [12, 104, 168];

/// The image at a size whose longer side is at most `longest`; never enlarged.
///
/// # Errors
/// An image without pixels.
pub fn shrink(image: &RgbImage, longest: usize) -> Result<RgbImage> {
    let (w, h) = fit(image.width, image.height, longest);
    if (w, h) == (image.width, image.height) && w * h > 0 {
        return Ok(image.clone());
    }
    resize_cubic(image, w, h)
}

/// As [`shrink`], but an image of less than half that size is enlarged by a whole factor, so that lines
/// drawn on it are fine ones.
pub(super) fn fitted(image: &RgbImage, longest: usize) -> Result<RgbImage> {
    let factor = longest / image.width.max(image.height).max(1);
    if factor > 1 {
        return resize_cubic(image, image.width * factor, image.height * factor);
    }
    shrink(image, longest)
}

/// Width and height scaled down so that the longer one is at most `longest`.
fn fit(width: usize, height: usize, longest: usize) -> (usize, usize) {
    let side = width.max(height);
    if side <= longest {
        return (width, height);
    }
    let scale = |n: usize| ((n * longest + side / 2) / side).max(1);
    (scale(width), scale(height))
}

/// The photograph, grey and pale.
fn faded(image: &RgbImage) -> RgbImage {
    let grey = |p: &[u8]| (u32::from(p[0]) * 299 + u32::from(p[1]) * 587 + u32::from(p[2]) * 114) / 1000;
    let pixels = image.pixels.chunks_exact(3).flat_map(|p| [(96 + grey(p) * 5 / 8) as u8; 3]).collect();
    RgbImage { pixels, ..*image }
}

fn blend(target: &mut [u8], colour: [u8; 3], opacity: f32) {
    for (t, c) in target.iter_mut().zip(colour) {
        *t = (f32::from(*t) + (f32::from(c) - f32::from(*t)) * opacity + 0.5) as u8;
    }
}

/// Labels over the photograph: background leaves it as it is (pale), classes take their colour, neutral
/// and ignored pixels are hatched, a white line runs along every border. The labels are brought to the
/// image's size.
///
/// # Errors
/// A label map without pixels.
pub fn overlay(image: &RgbImage, labels: &LabelMap) -> Result<RgbImage> {
    if labels.width * labels.height == 0 {
        return Err(Error::shape("overlay", "a label map without pixels"));
    }
    let labels = resize_nearest(labels, image.width, image.height).labels;
    let mut out = faded(image);
    for (i, (pixel, &label)) in out.pixels.chunks_exact_mut(3).zip(&labels).enumerate() {
        let (x, y) = (i % image.width, i / image.width);
        match label {
            0 => {}
            IGNORE if (x + y) / 2 % 3 == 0 => blend(pixel, INK, 0.55),
            IGNORE => blend(pixel, OUTLINE, 0.6),
            _ => blend(pixel, voc_colour(label), OPACITY),
        }
    }
    outline(&mut out, &labels);
    Ok(out)
}

/// Draws a line on the pixels whose right or lower neighbour has another label.
fn outline(image: &mut RgbImage, labels: &[u8]) {
    let (w, h) = (image.width, image.height);
    for y in 0..h {
        for x in 0..w {
            let at = y * w + x;
            let differs = |other: usize| labels[other] != labels[at];
            if (x + 1 < w && differs(at + 1)) || (y + 1 < h && differs(at + w)) {
                image.pixels[at * 3..][..3].copy_from_slice(&OUTLINE);
            }
        }
    }
}

/// Class maps over the photograph: each pixel takes the colour of its strongest class, the more so the
/// nearer the map is to its own maximum. With a plane of background (label 0), a line encloses what the
/// background does not win. The maps are brought to the image's size (bilinear, half-pixel centres).
pub fn heat_map(image: &RgbImage, maps: &ScoreMaps) -> RgbImage {
    let (w, h) = (image.width, image.height);
    let mut out = faded(image);
    let mut best = vec![(0f32, 0u8, 0f32); w * h];
    let mut background = None;
    for (label, plane) in maps.planes() {
        let plane = bilinear(plane, maps.size(), w, h);
        if label == 0 {
            background = Some(plane);
            continue;
        }
        let strongest = plane.iter().fold(0f32, |m, v| m.max(*v)).max(f32::MIN_POSITIVE);
        for (best, value) in best.iter_mut().zip(plane) {
            if value > best.0 {
                *best = (value, label, value / strongest);
            }
        }
    }
    for (pixel, &(_, label, heat)) in out.pixels.chunks_exact_mut(3).zip(&best) {
        if label != 0 {
            blend(pixel, voc_colour(label), OPACITY * heat.clamp(0.0, 1.0));
        }
    }
    if let Some(background) = background {
        let winners: Vec<u8> =
            best.iter().zip(&background).map(|(b, &bg)| if b.0 > bg { b.1 } else { 0 }).collect();
        outline(&mut out, &winners);
    }
    out
}

/// The mean affinity of every pixel to the nearest of its neighbours (dx² + dy² ≤ 2), over the photograph:
/// the weaker, the redder, from the image's highest mean to its lowest. What shows are the borders that the
/// walk will not cross.
///
/// # Errors
/// Affinities that are not P×h×w with an offset a plane.
pub fn affinity_borders(view: &AffinityView, image: &RgbImage) -> Result<RgbImage> {
    let (h, w) = view.grid()?;
    let (mut sum, mut count) = (vec![0f32; h * w], vec![0f32; h * w]);
    let planes = view.affinities.data().chunks_exact(h * w).zip(&view.offsets);
    for (plane, &(dy, dx)) in planes.filter(|(_, (dy, dx))| *dy <= 1 && dx.unsigned_abs() <= 1) {
        for (i, &value) in plane.iter().enumerate().filter(|(_, v)| v.is_finite()) {
            let (y, x) = (i / w + dy, (i % w).checked_add_signed(dx));
            if let Some(x) = x.filter(|&x| x < w && y < h) {
                for end in [i, y * w + x] {
                    sum[end] += value;
                    count[end] += 1.0;
                }
            }
        }
    }
    let mean: Vec<f32> = sum.iter().zip(&count).map(|(s, c)| if *c > 0.0 { s / c } else { 1.0 }).collect();
    let low = mean.iter().fold(f32::INFINITY, |m, v| m.min(*v));
    let high = mean.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    let range = (high - low).max(1e-6);
    let mut out = faded(image);
    for (pixel, value) in
        out.pixels.chunks_exact_mut(3).zip(bilinear(&mean, (h, w), image.width, image.height))
    {
        blend(pixel, BORDER, 0.9 * ((high - value) / range).clamp(0.0, 1.0));
    }
    Ok(out)
}

/// The affinities of one cell (y, x) to the cells around it, each to the power `power`, over the
/// photograph: the higher, the bluer; white lines enclose the cell and its neighbourhood. Outside the grid
/// there is nothing.
///
/// # Errors
/// Affinities that are not P×h×w with an offset a plane.
pub fn affinities_around(
    view: &AffinityView,
    image: &RgbImage,
    (y, x): (usize, usize),
    power: f32,
) -> Result<RgbImage> {
    let (h, w) = view.grid()?;
    let mut near = vec![None; h * w];
    let planes = view.affinities.data().chunks_exact(h * w);
    for (plane, &(dy, dx)) in planes.zip(&view.offsets) {
        let on_grid =
            |y: Option<usize>, x: Option<usize>| Some((y.filter(|y| *y < h)?, x.filter(|x| *x < w)?));
        // A pair is stored at its first cell, so the cells before this one hold the affinity to it.
        let ahead = on_grid(Some(y + dy), x.checked_add_signed(dx));
        let behind = on_grid(y.checked_sub(dy), x.checked_add_signed(-dx));
        for ((oy, ox), first) in ahead.map(|o| (o, (y, x))).into_iter().chain(behind.map(|o| (o, o))) {
            near[oy * w + ox] = Some(plane[first.0 * w + first.1]).filter(|v| v.is_finite());
        }
    }
    let mut out = faded(image);
    let mut regions = vec![0u8; image.width * image.height];
    for (i, (pixel, region)) in out.pixels.chunks_exact_mut(3).zip(&mut regions).enumerate() {
        let cell = (i / image.width * h / image.height, i % image.width * w / image.width);
        if cell == (y, x) {
            blend(pixel, NEAR, 1.0);
            *region = 2;
        } else if let Some(affinity) = near[cell.0 * w + cell.1] {
            blend(pixel, NEAR, 0.9 * crate::math::powf(affinity.clamp(0.0, 1.0), power));
            *region = 1;
        }
    }
    outline(&mut out, &regions);
    Ok(out)
}

/// A plane h×w at another size, bilinear with half-pixel centres; what is not a number counts as 0.
fn bilinear(plane: &[f32], (h, w): (usize, usize), width: usize, height: usize) -> Vec<f32> {
    let taps = |target: usize, source: usize| -> Vec<(usize, usize, f32)> {
        let centre = |i: usize| ((i as f32 + 0.5) * source as f32 / target as f32 - 0.5).max(0.0);
        (0..target)
            .map(|i| {
                let low = (centre(i) as usize).min(source - 1);
                (low, (low + 1).min(source - 1), centre(i) - low as f32)
            })
            .collect()
    };
    let value = |i: usize| if plane[i].is_finite() { plane[i] } else { 0.0 };
    let columns = taps(width, w);
    let mut out = Vec::with_capacity(width * height);
    for (y0, y1, fy) in taps(height, h) {
        out.extend(columns.iter().map(|&(x0, x1, fx)| {
            let row = |y: usize| value(y * w + x0) * (1.0 - fx) + value(y * w + x1) * fx;
            row(y0) * (1.0 - fy) + row(y1) * fy
        }));
    }
    out
}
