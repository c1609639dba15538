//! Losses on a GPU: the launchers of `kernels/losses.cu`. The loss stays there, and its slopes with it.

use std::sync::Arc;

use crate::Result;
use crate::device::cuda::{Argument, Geometry, Gpu, sizes};
use crate::ops::{elementwise, reduce};
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
        Ok(vec![Some(elementwise::cuda::scale_by(slopes, &g, 1.0)?)])
    }))
}

/// What [`softmax_cross_entropy`](super::softmax_cross_entropy) does for logits on a GPU; `labelled` of the labels count.
pub(super) fn cross_entropy(
    gpu: &Arc<Gpu>,
    tape: &mut Tape,
    logits: &Var,
    labels: &[u8],
    labelled: usize,
) -> Result<Var> {
    /// Pixels of a block.
    const PIXELS: usize = 256;
    let (len, pixels) = (logits.value().len(), labels.len());
    let labels = gpu.upload("labels", labels)?;
    let slopes = Arc::new(gpu.allocate("slopes of the loss", len)?);
    let parts = gpu.allocate("losses of blocks", pixels.div_ceil(PIXELS))?;
    let source = logits.value().buffer()?;
    let mut arguments = vec![source.into(), (&labels).into(), (&slopes).into(), (&parts).into()];
    arguments.extend(sizes([pixels, len / pixels])?);
    // SAFETY: logits and slopes have a value a pixel and class, labels one a pixel, parts one a block.
    unsafe { gpu.launch("softmax_cross_entropy_f32", Geometry::line(pixels, PIXELS)?, &arguments)? };
    let share = 1.0 / labelled as f32;
    let loss = reduce::cuda::sum_scaled(&parts, share)?;
    let slopes = Tensor::from_buffer(logits.shape(), slopes)?;
    Ok(tape.record("softmax_cross_entropy", loss, &[logits], move |g| {
        Ok(vec![Some(elementwise::cuda::scale_by(slopes, &g, share)?)])
    }))
}
