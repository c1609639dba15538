//! Augmentation: one training sample from one photograph and one random stream (paper, §5.1; spec §10).
//!
//! In this order: a random size (cubic for the photograph, nearest for labels), mirroring, colour
//! jitter, normalising, a random crop of crop×crop pixels with padding outside the picture. Everything
//! random is drawn from the stream that the caller names by (seed, epoch, sample), so a sample does not
//! depend on threads, on batches, or on where a run was broken off.

mod colour;
mod geometry;
mod resample;
#[cfg(test)]
mod tests;

pub use colour::Jitter;
pub use geometry::{mirror, mirror_labels, resize_cubic, resize_nearest};
pub use resample::{Kernel, resample};

use crate::formats::image::{IGNORE, LabelMap, RgbImage};
use crate::rng::Stream;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Mean of ImageNet's RGB values in 0–1.
pub const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Standard deviation of ImageNet's RGB values in 0–1.
pub const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// How a sample's size is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// As it is.
    Keep,
    /// The longer side becomes uniform in min..=max pixels.
    LongSide {
        /// Smallest longer side.
        min: usize,
        /// Largest longer side.
        max: usize,
    },
    /// Both sides times a factor uniform in min..max.
    Factor {
        /// Smallest factor.
        min: f32,
        /// Largest factor.
        max: f32,
    },
}

/// What lies outside the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// The mean colour: 0 after normalising.
    Mean,
    /// Black: 0 before normalising.
    Black,
}

/// How one of the three networks sees its training images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recipe {
    /// Random size.
    pub scale: Scale,
    /// Mirror half of the samples.
    pub mirror: bool,
    /// Random colours.
    pub jitter: Jitter,
    /// Side of the square crop in pixels.
    pub crop: usize,
    /// What lies outside the picture.
    pub padding: Padding,
}

impl Recipe {
    /// For the CAM network: longer side 256–512 at crop 448, in proportion at other crops.
    pub fn cam(crop: usize) -> Self {
        let (min, max) = ((crop * 4 / 7).max(1), (crop * 8 / 7).max(1));
        Self {
            scale: Scale::LongSide { min, max },
            mirror: true,
            jitter: Jitter::STANDARD,
            crop,
            padding: Padding::Mean,
        }
    }

    /// For AffinityNet: no scaling, so that distances keep their meaning; black outside.
    pub fn affinity(crop: usize) -> Self {
        Self { scale: Scale::Keep, padding: Padding::Black, ..Self::cam(crop) }
    }

    /// For the segmentation network: scale 0.5–1.5.
    pub fn segmentation(crop: usize) -> Self {
        Self { scale: Scale::Factor { min: 0.5, max: 1.5 }, ..Self::cam(crop) }
    }

    /// Makes a sample: the image 1×crop×crop×3, normalised, and the labels crop×crop with 255 outside the
    /// picture, moved alike.
    ///
    /// # Errors
    /// Labels of another size than the image; a crop of 0.
    pub fn apply(
        &self,
        image: &RgbImage,
        labels: Option<&LabelMap>,
        random: &mut Stream,
    ) -> Result<Augmented> {
        if let Some(map) = labels.filter(|m| (m.width, m.height) != (image.width, image.height)) {
            return Err(Error::shape(
                "augmentation",
                format!(
                    "labels of {}×{} for an image of {}×{}",
                    map.width, map.height, image.width, image.height
                ),
            )
            .remedy("make the labels at the photograph's own size, from its stored pixels (--exif ignore)"));
        }
        let (made, placement) = self.place(image, random)?;
        Ok(Augmented { image: made, labels: labels.map(|map| placement.labels(map)) })
    }

    /// Makes a sample's image 1×crop×crop×3, normalised, and says where it came to lie, for whatever else
    /// belongs to the photograph.
    ///
    /// # Errors
    /// An empty image; a crop of 0.
    pub fn place(&self, image: &RgbImage, random: &mut Stream) -> Result<(Tensor, Placement)> {
        if self.crop == 0 || image.pixels.is_empty() {
            return Err(Error::shape("augmentation", "an empty image or crop"));
        }
        let (width, height) = self.draw_size(image.width, image.height, random);
        let mirrored = self.mirror && random.chance(0.5);
        let mut image = resize_cubic(image, width, height)?;
        if mirrored {
            image = mirror(&image);
        }
        let mut pixels: Vec<f32> = image.pixels.iter().map(|&v| f32::from(v) / 255.0).collect();
        self.jitter.apply(&mut pixels, random);
        let window = Window::draw(width, height, self.crop, random);
        let tensor = window.image(&pixels, self.padding)?;
        Ok((tensor, Placement { width, height, mirrored, window }))
    }

    fn draw_size(&self, width: usize, height: usize, random: &mut Stream) -> (usize, usize) {
        let scaled = |side: usize, factor: f64| ((side as f64 * factor).round_ties_even() as usize).max(1);
        match self.scale {
            Scale::Keep => (width, height),
            Scale::LongSide { min, max } => {
                let range = (max.max(min) - min) as u32 + 1;
                let long = min + random.below(range) as usize;
                // side·long before the division, as the field has it: a tie then is one in both.
                let scaled = |side: usize| {
                    ((side * long) as f64 / width.max(height) as f64).round_ties_even().max(1.0) as usize
                };
                (scaled(width), scaled(height))
            }
            Scale::Factor { min, max } => {
                let factor = f64::from(random.range(min, max));
                (scaled(width, factor), scaled(height, factor))
            }
        }
    }
}

/// Where a sample's image came from: its size before the crop, whether it was mirrored, the crop.
pub struct Placement {
    width: usize,
    height: usize,
    mirrored: bool,
    window: Window,
}

impl Placement {
    /// Moves labels of the photograph's size alike: crop×crop, 255 outside the picture.
    pub fn labels(&self, map: &LabelMap) -> LabelMap {
        let map = resize_nearest(map, self.width, self.height);
        self.window.labels(&if self.mirrored { mirror_labels(&map) } else { map })
    }

    /// Moves planes L×H×W of an image that keeps its size alike: L×crop×crop, 0 outside the picture.
    ///
    /// # Errors
    /// Planes of another size than the image has in the sample.
    pub fn planes(&self, planes: &Tensor) -> Result<Tensor> {
        let (w, crop) = (self.width, self.window.crop);
        let l = match *planes.shape() {
            [l, ph, pw] if (ph, pw) == (self.height, w) => l,
            _ => {
                let message = format!("planes {:?} for an image of {}×{w}", planes.shape(), self.height);
                return Err(Error::shape("augmentation", message));
            }
        };
        let mut out = Tensor::zeros(&[l, crop, crop]);
        let sources = planes.data().chunks_exact(self.height * w);
        for (target, source) in out.data_mut().chunks_exact_mut(crop * crop).zip(sources) {
            for (from, to) in self.window.rows() {
                for (x, target) in target[to..][..self.window.width].iter_mut().enumerate() {
                    let (row, column) = (from / w * w, from % w + x);
                    *target = source[row + if self.mirrored { w - 1 - column } else { column }];
                }
            }
        }
        Ok(out)
    }
}

/// A training sample.
#[derive(Debug, Clone)]
pub struct Augmented {
    /// 1×crop×crop×3, normalised.
    pub image: Tensor,
    /// crop×crop, 255 outside the picture.
    pub labels: Option<LabelMap>,
}

/// `(value/255 − mean) / std` per channel: 1×H×W×3.
pub fn normalize(image: &RgbImage) -> Tensor {
    let mut data = Vec::with_capacity(image.pixels.len());
    for pixel in image.pixels.chunks_exact(3) {
        for c in 0..3 {
            data.push((f32::from(pixel[c]) / 255.0 - MEAN[c]) / STD[c]);
        }
    }
    // Three samples a pixel is what an `RgbImage` is.
    let mut tensor = Tensor::zeros(&[1, image.height, image.width, 3]);
    tensor.data_mut().copy_from_slice(&data);
    tensor
}

/// Where the crop lies: the picture's pixel (left, top) comes to (into_left, into_top), width×height
/// pixels of it are seen.
struct Window {
    crop: usize,
    source_width: usize,
    left: usize,
    top: usize,
    into_left: usize,
    into_top: usize,
    width: usize,
    height: usize,
}

impl Window {
    /// Uniform among all places where the smaller of picture and crop lies within the larger, in each
    /// direction.
    fn draw(width: usize, height: usize, crop: usize, random: &mut Stream) -> Self {
        let mut place = |side: usize| {
            let offset = random.below(side.abs_diff(crop) as u32 + 1) as usize;
            if side > crop { (offset, 0, crop) } else { (0, offset, side) }
        };
        let (left, into_left, seen_width) = place(width);
        let (top, into_top, seen_height) = place(height);
        Self {
            crop,
            source_width: width,
            left,
            top,
            into_left,
            into_top,
            width: seen_width,
            height: seen_height,
        }
    }

    /// For each row seen: its first pixel in the source and in the crop.
    fn rows(&self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.height).map(|y| {
            let from = (self.top + y) * self.source_width + self.left;
            (from, (self.into_top + y) * self.crop + self.into_left)
        })
    }

    /// Cuts out and normalises pixels in 0–1.
    fn image(&self, pixels: &[f32], padding: Padding) -> Result<Tensor> {
        let outside = match padding {
            Padding::Mean => [0.0; 3],
            Padding::Black => std::array::from_fn(|c| (0.0 - MEAN[c]) / STD[c]),
        };
        let mut data = outside.repeat(self.crop * self.crop);
        for (from, to) in self.rows() {
            let source = pixels[from * 3..][..self.width * 3].chunks_exact(3);
            let target = data[to * 3..][..self.width * 3].chunks_exact_mut(3);
            for (target, source) in target.zip(source) {
                for c in 0..3 {
                    target[c] = (source[c] - MEAN[c]) / STD[c];
                }
            }
        }
        Tensor::new(&[1, self.crop, self.crop, 3], data)
    }

    fn labels(&self, map: &LabelMap) -> LabelMap {
        let mut labels = vec![IGNORE; self.crop * self.crop];
        for (from, to) in self.rows() {
            labels[to..][..self.width].copy_from_slice(&map.labels[from..][..self.width]);
        }
        LabelMap { width: self.crop, height: self.crop, labels }
    }
}
