//! Losses on a GPU: the launchers of `kernels/losses.cu`. The loss stays there, and its slopes with it.

use std::sync::Arc;

use crate::Result;
use crate::device::cuda::{Argument, DeviceBuffer, Geometry, Given, Gpu, sizes};
use crate::ops::elementwise;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// What [`multi_label_soft_margin`](super::multi_label_soft_margin) does for tensors on a GPU.
pub(super) fn soft_margin(gpu: &Arc<Gpu>, tape: &mut Tape, logits: &Var, targets: &Tensor) -> Result<Var> {
    let count = targets.len();
    let slopes = Arc::new(gpu.allocate("slopes of the loss", count)?);
    let loss = Arc::new(gpu.allocate("the loss", 1)?);
    let arguments = [
        logits.value().buffer()?.into(),
        targets.buffer()?.into(),
        (&slopes).into(),
        (&loss).into(),
        Argument::size(count)?,
    ];
    let geometry = Geometry { grid: [1, 1, 1], threads: 256, shared: 0 };
    // SAFETY: logits, targets and slopes have one length, the loss is one number.
    unsafe { gpu.launch("multi_label_soft_margin_f32", geometry, &arguments)? };
    let slopes = Tensor::from_buffer(logits.shape(), slopes)?;
    let loss = Tensor::from_buffer(&[], loss)?;
    Ok(tape.record("multi_label_soft_margin", loss, &[logits], move |g| {
        Ok(vec![Some(elementwise::cuda::scale_by(slopes, &g, None)?)])
    }))
}

/// What [`softmax_cross_entropy`](super::softmax_cross_entropy) does for logits on a GPU.
pub(super) fn cross_entropy(
    gpu: &Arc<Gpu>,
    tape: &mut Tape,
    logits: &Var,
    labels: Given<'_, u8>,
) -> Result<Var> {
    /// Pixels of a block.
    const PIXELS: usize = 256;
    let (len, pixels) = (logits.value().len(), labels.values().len());
    let labels = labels.on(gpu, "labels")?;
    let slopes = Arc::new(gpu.allocate("slopes of the loss", len)?);
    let blocks = pixels.div_ceil(PIXELS);
    let parts: DeviceBuffer<f32> = gpu.allocate("losses of blocks", blocks)?;
    let counts: DeviceBuffer<u32> = gpu.allocate("labels of blocks", blocks)?;
    let mut arguments = vec![logits.value().buffer()?.into(), (&labels).into(), (&slopes).into()];
    arguments.extend([Argument::from(&parts), Argument::from(&counts)]);
    arguments.extend(sizes([pixels, len / pixels])?);
    // SAFETY: logits and slopes have a value a pixel and class, labels one a pixel, parts and counts one a block.
    unsafe { gpu.launch("softmax_cross_entropy_f32", Geometry::line(pixels, PIXELS)?, &arguments)? };
    let [loss, share] = [gpu.allocate("the loss", 1)?, gpu.allocate("a pixel's share of the loss", 1)?];
    let arguments =
        [(&parts).into(), (&counts).into(), (&loss).into(), (&share).into(), Argument::size(blocks)?];
    // SAFETY: a loss and a count a block, one number each that comes of them.
    unsafe {
        gpu.launch("mean_of_blocks_f32", Geometry { grid: [1, 1, 1], threads: 256, shared: 0 }, &arguments)?
    };
    let loss = Tensor::from_buffer(&[], Arc::new(loss))?;
    let slopes = Tensor::from_buffer(logits.shape(), slopes)?;
    Ok(tape.record("softmax_cross_entropy", loss, &[logits], move |g| {
        Ok(vec![Some(elementwise::cuda::scale_by(slopes, &g, Some(&share))?)])
    }))
}
