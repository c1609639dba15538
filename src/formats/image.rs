//! Photographs and label maps in memory.

use crate::{Error, Result};

/// An RGB photograph, 8 bits a sample, rows from the top, `pixels[(y * width + x) * 3 + channel]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Interleaved samples, `height * width * 3` of them.
    pub pixels: Vec<u8>,
}

impl RgbImage {
    /// Wraps samples; fails when their number is not `width * height * 3`.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Result<Self> {
        if pixels.len() != width * height * 3 {
            let message = format!("{} samples for {width}×{height} RGB", pixels.len());
            return Err(Error::shape("image", message));
        }
        Ok(Self { width, height, pixels })
    }

    /// The three samples at (x, y).
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let at = (y * self.width + x) * 3;
        [self.pixels[at], self.pixels[at + 1], self.pixels[at + 2]]
    }
}

/// A class index per pixel: 0 background, 255 ignored or neutral; rows from the top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMap {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width` class indices.
    pub labels: Vec<u8>,
}

/// The label of pixels that take no part: ignored in ground truth, neutral in affinity labels.
pub const IGNORE: u8 = 255;

impl LabelMap {
    /// Wraps labels; fails when their number is not `width * height`.
    pub fn new(width: usize, height: usize, labels: Vec<u8>) -> Result<Self> {
        if labels.len() != width * height {
            return Err(Error::shape("labels", format!("{} labels for {width}×{height}", labels.len())));
        }
        Ok(Self { width, height, labels })
    }
}
