//! Concatenation on a GPU: the launcher of `kernels/concat.cu`.

use std::sync::Arc;

use crate::Result;
use crate::device::cuda::{DeviceBuffer, Geometry, Gpu, sizes};
use crate::tensor::Tensor;

/// Some channels of every pixel: the buffer's channels in all, and the first of those meant.
#[derive(Clone, Copy)]
struct Channels<'a> {
    buffer: &'a DeviceBuffer<f32>,
    width: usize,
    start: usize,
}

fn copy(gpu: &Gpu, from: Channels<'_>, to: Channels<'_>, pixels: usize, channels: usize) -> Result<()> {
    let offsets = [channels, from.width, from.start, to.width, to.start];
    let piece = if offsets.iter().all(|v| v % 4 == 0) { 4 } else { 1 };
    let sizes = sizes([pixels, channels, from.width, from.start, to.width, to.start, piece])?;
    let arguments = [&[from.buffer.into(), to.buffer.into()][..], &sizes].concat();
    // SAFETY: both buffers have `pixels` times their width values, and start + channels is at most the width.
    unsafe { gpu.launch("copy_channels_f32", Geometry::line(pixels * channels / piece, 256)?, &arguments) }
}

/// The inputs, of so many pixels and these widths, side by side in N×H×W×`total`.
pub(super) fn join(
    gpu: &Arc<Gpu>,
    inputs: &[&Tensor],
    widths: &[usize],
    [n, h, w, total]: [usize; 4],
) -> Result<Tensor> {
    let out = Arc::new(gpu.allocate("joined maps", n * h * w * total)?);
    let mut start = 0;
    for (input, &width) in inputs.iter().zip(widths) {
        let from = Channels { buffer: input.buffer()?, width, start: 0 };
        copy(gpu, from, Channels { buffer: &out, width: total, start }, n * h * w, width)?;
        start += width;
    }
    Tensor::from_buffer(&[n, h, w, total], out)
}

/// `width` channels of N×H×W×C from `start` on.
pub(super) fn slice(joined: &Tensor, start: usize, width: usize) -> Result<Tensor> {
    let [n, h, w, total] = joined.nhwc("concat")?;
    let buffer = joined.buffer()?;
    let gpu = buffer.gpu();
    let out = Arc::new(gpu.allocate("a slice of a gradient", n * h * w * width)?);
    let from = Channels { buffer, width: total, start };
    copy(gpu, from, Channels { buffer: &out, width, start: 0 }, n * h * w, width)?;
    Tensor::from_buffer(&[n, h, w, width], out)
}
