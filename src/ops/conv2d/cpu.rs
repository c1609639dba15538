//! Convolution as an implicit matrix product on the CPU: what each pass multiplies.
//!
//! Forward, rows of the product are output pixels, columns are output channels, and the sum runs over the
//! window and the input channels; the other passes are products of the same parts. The matrix of windows is
//! never built: a block of it that fits into the second-level cache is copied out of the input at a time
//! (`windows.rs`), multiplied by weights packed once a call (`product.rs`, `simd.rs`) and forgotten.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::product::{Packed, Placement, product};
use super::simd::Isa;
use super::windows::Windows;

/// Shape of a convolution whose sizes have been checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    /// N, H, W, I of the input.
    pub input: [usize; 4],
    /// KH, KW.
    pub kernel: [usize; 2],
    /// N, H', W', O of the output.
    pub output: [usize; 4],
    pub stride: usize,
    pub padding: usize,
    pub dilation: usize,
}

impl Geometry {
    /// The input's windows, one for each output pixel.
    pub(super) fn windows<'a>(&self, input: &'a [f32]) -> Windows<'a> {
        let [kh, kw] = self.kernel;
        let offset = |tap: usize| (tap * self.dilation) as isize - self.padding as isize;
        Windows {
            data: input,
            shape: self.input,
            counts: [self.output[0], self.output[1], self.output[2]],
            step: self.stride,
            taps: (0..kh * kw).map(|tap| [offset(tap / kw), offset(tap % kw)]).collect(),
        }
    }
}

/// Forward pass: N×H'×W'×O.
pub(super) fn forward(
    isa: Isa,
    g: &Geometry,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let [n, oh, ow, o] = g.output;
    let length = n * oh * ow * o;
    let windows = g.windows(input);
    if length == 0 || windows.terms() == 0 {
        return bias.map_or_else(|| vec![0.0; length], |bias| bias.repeat(n * oh * ow));
    }
    // Zeros first would be another pass over memory.
    let mut out = Vec::with_capacity(length);
    let terms: Vec<usize> = (0..windows.terms()).collect();
    let packed = Packed::new(isa, weight, &terms, terms.len(), o);
    let placement = Placement { start: 0, steps: [oh * ow * o, ow * o, o] };
    product(isa, &windows, &packed, bias, &placement, &mut out.spare_capacity_mut()[..length]);
    // SAFETY: there is a row of the product for every output pixel, and all its columns were written.
    unsafe { out.set_len(length) };
    out
}

/// Gradient of the input, N×H×W×I, from that of the output.
///
/// The pixels of the input fall into stride² phases by their position modulo the stride. Within a phase
/// the taps that reach a pixel are the same for all, and consecutive pixels see consecutive outputs: each
/// phase is a convolution with stride 1 of the output's gradient.
pub(super) fn backward_input(isa: Isa, g: &Geometry, gradient: &[f32], weight: &[f32]) -> Vec<f32> {
    let [n, h, w, i] = g.input;
    let o = g.output[3];
    let [kh, kw] = g.kernel;
    let mut out = vec![0f32; n * h * w * i];
    if out.is_empty() || gradient.is_empty() {
        return out;
    }
    // Taps of one dimension that reach phase p, with the output's index relative to the phase's.
    let reaching = |p: usize, k: usize| -> Vec<(usize, isize)> {
        let distance = |t: usize| (p + g.padding) as isize - (t * g.dilation) as isize;
        let stride = g.stride as isize;
        (0..k).filter(|&t| distance(t) % stride == 0).map(|t| (t, distance(t) / stride)).collect()
    };
    for py in 0..g.stride.min(h) {
        for px in 0..g.stride.min(w) {
            let (rows, columns) = (reaching(py, kh), reaching(px, kw));
            let mut taps = Vec::with_capacity(rows.len() * columns.len());
            let mut terms = Vec::with_capacity(taps.capacity() * o);
            for &(ty, ey) in &rows {
                for &(tx, ex) in &columns {
                    taps.push([ey, ex]);
                    terms.extend((0..o).map(|c| (c * kh * kw + ty * kw + tx) * i));
                }
            }
            if taps.is_empty() {
                continue;
            }
            let windows = Windows {
                data: gradient,
                shape: g.output,
                counts: [n, (h - py).div_ceil(g.stride), (w - px).div_ceil(g.stride)],
                step: 1,
                taps,
            };
            let packed = Packed::new(isa, weight, &terms, 1, i);
            let placement =
                Placement { start: (py * w + px) * i, steps: [h * w * i, g.stride * w * i, g.stride * i] };
            product(isa, &windows, &packed, None, &placement, as_uninit(&mut out));
        }
    }
    out
}

/// Values as room for values; only initialised ones may be written.
fn as_uninit(values: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    // SAFETY: both have the same layout, and `product` writes nothing but values.
    unsafe { &mut *(std::ptr::from_mut(values) as *mut [MaybeUninit<f32>]) }
}

/// Gradient of the bias: the sum of the output's gradient over pixels, in f64 over fixed ranges.
pub(super) fn backward_bias(gradient: &[f32], o: usize) -> Vec<f32> {
    let partial: Vec<Vec<f64>> = gradient
        .par_chunks(4096 * o.max(1))
        .map(|chunk| {
            let mut sums = vec![0f64; o];
            for row in chunk.chunks_exact(o) {
                sums.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v));
            }
            sums
        })
        .collect();
    (0..o).map(|c| partial.iter().map(|p| p[c]).sum::<f64>() as f32).collect()
}
