//! Resampling of 8-bit pictures as Pillow does it, to the last bit (Pillow, `src/libImaging/Resample.c`,
//! whose method this states anew; Keys, *Cubic Convolution Interpolation*, 1981).
//!
//! With step s = H/H' and width f = max(s, 1), output i lies at c = (i + ½)·s of the input and is
//!
//! `y_i = Σ_j k((j + ½ − c)/f)·x_j / Σ_j k((j + ½ − c)/f)`
//!
//! over the input samples j that lie within the kernel's support times f. So every source pixel counts when
//! shrinking. Rows are resampled first, to 8 bits, then columns. Weights are rounded to multiples of 2⁻²²:
//! 32 bits, less 8 for the values and 2 for weights that overshoot and their sign. What other
//! implementations do in between (16-bit weights, other orders) differs by a level here and there, and
//! maps over several scales show it.

use rayon::prelude::*;

use crate::formats::image::RgbImage;
use crate::{Error, Result};

/// Bits behind the point of a weight.
const PRECISION: u32 = 32 - 8 - 2;

/// The interpolating kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// 1 − |x|, support 1.
    Bilinear,
    /// Keys' cubic with a = −½, support 2: Catmull–Rom.
    Cubic,
}

impl Kernel {
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Cubic => 2.0,
        }
    }

    fn value(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Cubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Cubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            Self::Cubic => 0.0,
        }
    }
}

/// For each output sample its first input sample and the weights from there on.
fn weights(from: usize, to: usize, kernel: Kernel) -> Vec<(usize, Vec<i32>)> {
    let step = from as f64 / to as f64;
    let stretch = step.max(1.0);
    let support = kernel.support() * stretch;
    (0..to)
        .map(|i| {
            let centre = (i as f64 + 0.5) * step;
            // Towards zero, as a C cast does; a negative end is cut off.
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let at = |j: usize| kernel.value((j as f64 - centre + 0.5) * (1.0 / stretch));
            let mut exact: Vec<f64> = (first..end).map(at).collect();
            let sum: f64 = exact.iter().sum();
            exact.iter_mut().for_each(|w| *w /= sum);
            let fixed = |w: &f64| {
                let scaled = w * f64::from(1u32 << PRECISION);
                (scaled + if *w < 0.0 { -0.5 } else { 0.5 }) as i32
            };
            (first, exact.iter().map(fixed).collect())
        })
        .collect()
}

/// Half a level, so that the shift at the end rounds.
const HALF: i32 = 1 << (PRECISION - 1);

fn to_level(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Resamples a picture to width×height.
///
/// # Errors
/// A side of 0.
pub fn resample(image: &RgbImage, width: usize, height: usize, kernel: Kernel) -> Result<RgbImage> {
    let (w, h) = (image.width, image.height);
    if [w, h, width, height].contains(&0) {
        return Err(Error::shape("resize", format!("{w}×{h} to {width}×{height}: no side may be 0")));
    }
    // A direction whose size stays is left alone: its weights would be 1 at the sample itself.
    let mut wide = image.pixels.clone();
    if width != w {
        let columns = weights(w, width, kernel);
        wide = vec![0; h * width * 3];
        wide.par_chunks_exact_mut(width * 3).zip(image.pixels.par_chunks_exact(w * 3)).for_each(
            |(out, row)| {
                for (out, (first, weights)) in out.chunks_exact_mut(3).zip(&columns) {
                    let mut sums = [HALF; 3];
                    for (pixel, weight) in row[first * 3..].chunks_exact(3).zip(weights) {
                        for c in 0..3 {
                            sums[c] += i32::from(pixel[c]) * weight;
                        }
                    }
                    out.copy_from_slice(&sums.map(to_level));
                }
            },
        );
    }
    if height == h {
        return RgbImage::new(width, height, wide);
    }
    let rows = weights(h, height, kernel);
    let mut pixels = vec![0; height * width * 3];
    pixels.par_chunks_exact_mut(width * 3).zip(&rows).for_each(|(out, (first, weights))| {
        let mut sums = vec![HALF; width * 3];
        for (row, weight) in wide[first * width * 3..].chunks_exact(width * 3).zip(weights) {
            sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += i32::from(*v) * weight);
        }
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = to_level(sum));
    });
    RgbImage::new(width, height, pixels)
}
