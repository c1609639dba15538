//! Batch normalisation on a GPU: the launchers of `kernels/batch_norm.cu`.

use std::sync::Arc;

use super::{Activation, BatchStatistics, Statistics};
use crate::device::cuda::{Argument, DeviceBuffer, Geometry, Gpu, blocks, reuse, sizes};
use crate::ops::elementwise::cuda::PER_BLOCK;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Pixels of a range, as in the kernels.
const RANGE: usize = 512;

type Buffer = Arc<DeviceBuffer<f32>>;

/// What a normalisation is made of, C values each: y = a·x + b, x̂ = (x − mean)·inverse.
pub(in crate::ops) struct Coefficients {
    mean: Buffer,
    inverse: Buffer,
    pub a: Buffer,
    pub b: Buffer,
}

/// What [`batch_norm`](super::batch_norm) does for tensors on a GPU, whose shapes it has checked.
pub(super) fn on_tape(
    gpu: &Arc<Gpu>,
    tape: &mut Tape,
    x: &Var,
    scale: &Var,
    shift: &Var,
    statistics: &Statistics<'_>,
    activation: Activation,
) -> Result<(Var, Option<BatchStatistics>)> {
    let (source, c) = (x.value().buffer()?, scale.value().len());
    let (coefficients, seen) = match statistics {
        Statistics::Frozen { mean, variance } => {
            (frozen(gpu, [scale.value(), shift.value(), mean, variance])?, None)
        }
        Statistics::Learning => {
            let (coefficients, seen) = learned(gpu, source, scale.value(), shift.value())?;
            (coefficients, Some(seen))
        }
    };
    let relu = activation == Activation::Relu;
    let y = Arc::new(gpu.allocate("a normalised map", source.len())?);
    let Coefficients { a, b, .. } = &coefficients;
    let mut arguments = vec![source.into(), a.into(), b.into(), (&y).into()];
    arguments.extend(sizes([source.len(), c, usize::from(relu)])?);
    // SAFETY: x and y have one length, a and b a value a channel.
    unsafe { gpu.launch("batch_norm_f32", Geometry::line(source.len(), PER_BLOCK)?, &arguments)? };
    let y = Tensor::from_buffer(x.shape(), y)?;

    let needs = [x.needs_gradient(), scale.needs_gradient(), shift.needs_gradient()];
    let learning = seen.is_some();
    // A frozen scale passes the gradient on without looking at x.
    let kept_x = (learning || needs[1] || needs[2]).then(|| x.value().clone());
    let kept_y = relu.then(|| y.clone());
    let record = tape.record("batch_norm", y, &[x, scale, shift], move |gradient| {
        backward(gradient, &coefficients, kept_x.as_ref(), kept_y.as_ref(), learning, needs)
    });
    Ok((record, seen))
}

/// The coefficients by scale, shift and given statistics, all of one length.
pub(in crate::ops) fn frozen(
    gpu: &Arc<Gpu>,
    [scale, shift, mean, variance]: [&Tensor; 4],
) -> Result<Coefficients> {
    let c = scale.len();
    let [inverse, a, b] = channel_buffers(gpu, c)?;
    let mean = Arc::clone(mean.buffer()?);
    let arguments = [
        scale.buffer()?.into(),
        shift.buffer()?.into(),
        (&mean).into(),
        variance.buffer()?.into(),
        (&inverse).into(),
        (&a).into(),
        (&b).into(),
        Argument::size(c)?,
    ];
    // SAFETY: all buffers have a value a channel.
    unsafe { gpu.launch("batch_norm_coefficients_f32", Geometry::line(c, 256)?, &arguments)? };
    Ok(Coefficients { mean, inverse, a, b })
}

fn learned(
    gpu: &Arc<Gpu>,
    x: &Buffer,
    scale: &Tensor,
    shift: &Tensor,
) -> Result<(Coefficients, BatchStatistics)> {
    let c = scale.len();
    let rows = x.len() / c;
    let (ranges, grid) = ranges(rows, c)?;
    let parts = gpu.allocate::<f32>("moments of ranges", 2 * ranges * c)?;
    let arguments = [&[x.into(), (&parts).into()][..], &sizes([rows, c])?].concat();
    // SAFETY: x has rows·C values, and parts two a range and channel.
    unsafe { gpu.launch("batch_norm_moments_f32", grid, &arguments)? };
    let [mean, unbiased, inverse, a, b] = channel_buffers(gpu, c)?;
    let mut arguments = vec![x.into(), (&parts).into(), scale.buffer()?.into(), shift.buffer()?.into()];
    arguments.extend([&mean, &unbiased, &inverse, &a, &b].map(Argument::from));
    arguments.extend(sizes([ranges, rows, c])?);
    // SAFETY: as above; the others have a value a channel.
    unsafe { gpu.launch("batch_norm_statistics_f32", joining(c)?, &arguments)? };
    let seen = BatchStatistics {
        mean: Tensor::from_buffer(&[c], Arc::clone(&mean))?,
        variance: Tensor::from_buffer(&[c], unbiased)?,
    };
    Ok((Coefficients { mean, inverse, a, b }, seen))
}

/// The gradient of x from that of y = max(0, a·x + b) with frozen coefficients.
pub(in crate::ops) fn through_frozen(gradient: Tensor, of: &Coefficients, y: &Tensor) -> Result<Tensor> {
    let mut all = backward(gradient, of, None, Some(y), false, [true, false, false])?;
    all.swap_remove(0).ok_or_else(|| Error::shape("batch_norm", "the input's gradient is missing"))
}

/// Gradients of x, scale and shift, as far as they are needed.
fn backward(
    gradient: Tensor,
    of: &Coefficients,
    x: Option<&Tensor>,
    y: Option<&Tensor>,
    learning: bool,
    needs: [bool; 3],
) -> Result<Vec<Option<Tensor>>> {
    let (shape, c) = (gradient.shape().to_vec(), of.a.len());
    let gpu = Arc::clone(gradient.buffer()?.gpu());
    let y = Argument::from(y.map(Tensor::buffer).transpose()?);
    let x = x.map(Tensor::buffer).transpose()?;
    let [d_scale, d_shift, p, q] = match x {
        Some(x) => gradient_sums(&gpu, gradient.buffer()?, y, x, of)?.map(Some),
        None => [None, None, None, None],
    };
    let dx = if needs[0] {
        let [dy, dx] = reuse(gradient, "a normalisation's gradient")?;
        let len = dx.len();
        let (kernel, mut arguments) = match (learning, x, &p, &q) {
            (true, Some(x), Some(p), Some(q)) => {
                let coefficients = [x, &of.a, p, q].map(Argument::from);
                ("batch_norm_learning_backward_f32", [&[(&dy).into(), y][..], &coefficients].concat())
            }
            _ => ("batch_norm_backward_f32", vec![(&dy).into(), y, (&of.a).into()]),
        };
        arguments.push((&dx).into());
        arguments.extend(sizes([len, c])?);
        // SAFETY: dy, y, x and dx have one length, the others a value a channel; the target may be a source.
        unsafe { gpu.launch(kernel, Geometry::line(len, PER_BLOCK)?, &arguments)? };
        Some(Tensor::from_buffer(&shape, dx)?)
    } else {
        None
    };
    let of_channels = |needed: bool, buffer: Option<Buffer>| {
        buffer.filter(|_| needed).map(|b| Tensor::from_buffer(&[c], b)).transpose()
    };
    Ok(vec![dx, of_channels(needs[1], d_scale)?, of_channels(needs[2], d_shift)?])
}

/// dγ, dβ, and the p and q of dx = a·g + p·x + q.
fn gradient_sums(
    gpu: &Arc<Gpu>,
    dy: &Buffer,
    y: Argument<'_>,
    x: &Buffer,
    of: &Coefficients,
) -> Result<[Buffer; 4]> {
    let c = of.a.len();
    let rows = x.len() / c;
    let (ranges, grid) = ranges(rows, c)?;
    let parts = gpu.allocate::<f32>("sums of a gradient's ranges", 2 * ranges * c)?;
    let mut arguments =
        vec![dy.into(), y, x.into(), (&of.mean).into(), (&of.inverse).into(), (&parts).into()];
    arguments.extend(sizes([rows, c])?);
    // SAFETY: dy, y and x have rows·C values, parts two a range and channel, the others one a channel.
    unsafe { gpu.launch("batch_norm_gradient_sums_f32", grid, &arguments)? };
    let [d_scale, d_shift, p, q] = channel_buffers(gpu, c)?;
    let mut arguments = vec![Argument::from(&parts)];
    arguments.extend([&of.mean, &of.inverse, &of.a, &d_scale, &d_shift, &p, &q].map(Argument::from));
    arguments.extend(sizes([ranges, rows, c])?);
    // SAFETY: as above.
    unsafe { gpu.launch("batch_norm_gradient_f32", joining(c)?, &arguments)? };
    Ok([d_scale, d_shift, p, q])
}

/// Buffers of a value a channel.
fn channel_buffers<const N: usize>(gpu: &Arc<Gpu>, c: usize) -> Result<[Buffer; N]> {
    let buffers: Vec<Buffer> =
        (0..N).map(|_| Ok(Arc::new(gpu.allocate("channel coefficients", c)?))).collect::<Result<_>>()?;
    Ok(buffers.try_into().unwrap_or_else(|_| unreachable!("N buffers were made")))
}

/// How many ranges so many pixels make, and the grid that sums them.
fn ranges(rows: usize, c: usize) -> Result<(usize, Geometry)> {
    let ranges = rows.div_ceil(RANGE);
    Ok((ranges, Geometry { grid: [blocks(c, 32)?, blocks(ranges, 1)?, 1], threads: 256, shared: 0 }))
}

/// The grid that joins ranges: 32 channels a block.
fn joining(c: usize) -> Result<Geometry> {
    Geometry::line(c, 32)
}
