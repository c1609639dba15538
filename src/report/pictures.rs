//! Pictures of maps and labels over the photograph they belong to.
//!
//! The photograph goes grey and pale, so that the class colours (VOC's map, whose first entries are dark)
//! stand out and keep the hue that the legend shows.

use super::{AffinityView, ScoreMaps, font};
use crate::data::augment::{resize_cubic, resize_nearest};
use crate::formats::image::{IGNORE, LabelMap, RgbImage};
use crate::formats::label_png::voc_colour;
use crate::{Error, Result};

/// Opacity of a label's colour, and of a map's colour at its maximum.
const OPACITY: f32 = 0.78;
/// The line around labels and around what the background loses.
const OUTLINE: [u8; 3] = [255, 255, 255];
/// Paper of a contact sheet, and the ink on it.
const PAPER: [u8; 3] = [250, 248, 243];
const INK: [u8; 3] = [60, 58, 52];
/// Colour of low affinity: the borders that AffinityNet sees.
const BORDER: [u8; 3] = [176, 52, 22];

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

/// Pictures in a table on light paper, a caption over each column, every cell a square of `cell` pixels;
/// larger pictures are shrunk, smaller ones enlarged, both in proportion.
///
/// # Errors
/// No cells, rows of another length than `captions`, a picture without pixels.
pub fn contact_sheet(rows: &[Vec<Option<&RgbImage>>], captions: &[&str], cell: usize) -> Result<RgbImage> {
    if captions.is_empty() || cell == 0 || rows.iter().any(|row| row.len() != captions.len()) {
        let message = format!("{} rows, {} captions, cells of {cell}", rows.len(), captions.len());
        return Err(Error::shape("contact sheet", message));
    }
    let gap = (cell / 24).max(2);
    let dot = captions.iter().map(|c| text_width(c)).max().map_or(1, |w| (cell / w.max(1)).clamp(1, 2));
    let header = font::HEIGHT * dot + 2 * gap;
    let width = captions.len() * (cell + gap) + gap;
    let height = header + rows.len() * (cell + gap);
    let mut sheet = RgbImage { width, height, pixels: PAPER.repeat(width * height) };
    for (column, caption) in captions.iter().enumerate() {
        let free = cell.saturating_sub(text_width(caption) * dot);
        write_text(&mut sheet, caption, (gap + column * (cell + gap) + free / 2, gap), dot);
    }
    for (r, row) in rows.iter().enumerate() {
        for (c, picture) in row.iter().enumerate() {
            let Some(picture) = picture else { continue };
            let side = picture.width.max(picture.height).max(1);
            let scale = |n: usize| ((n * cell + side / 2) / side).max(1);
            let scaled = resize_cubic(picture, scale(picture.width), scale(picture.height))?;
            let left = gap + c * (cell + gap) + (cell - scaled.width) / 2;
            let top = header + r * (cell + gap) + (cell - scaled.height) / 2;
            for (y, line) in scaled.pixels.chunks_exact(scaled.width * 3).enumerate() {
                sheet.pixels[((top + y) * width + left) * 3..][..line.len()].copy_from_slice(line);
            }
        }
    }
    Ok(sheet)
}

/// Dots across a line of text.
fn text_width(text: &str) -> usize {
    (text.chars().count() * (font::WIDTH + 1)).saturating_sub(1)
}

fn write_text(image: &mut RgbImage, text: &str, (left, top): (usize, usize), dot: usize) {
    for (n, letter) in text.chars().enumerate() {
        for (row, bits) in font::glyph(letter).into_iter().enumerate() {
            for column in (0..font::WIDTH).filter(|c| bits >> (font::WIDTH - 1 - c) & 1 == 1) {
                let (x, y) = (left + (n * (font::WIDTH + 1) + column) * dot, top + row * dot);
                for (y, x) in (y..y + dot).flat_map(|y| (x..x + dot).map(move |x| (y, x))) {
                    // A caption wider than its column ends at the picture's edge.
                    if x < image.width && y < image.height {
                        image.pixels[(y * image.width + x) * 3..][..3].copy_from_slice(&INK);
                    }
                }
            }
        }
    }
}
