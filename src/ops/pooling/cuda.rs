//! Pooling on a GPU: the launchers of `kernels/pooling.cu`.

use std::sync::Arc;

use crate::Result;
use crate::device::cuda::{Geometry, Gpu, blocks, sizes};
use crate::ops::elementwise::cuda::PER_BLOCK;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// What [`global_average_pooling`](super::global_average_pooling) does for a tensor on a GPU.
pub(super) fn global_average(
    gpu: &Arc<Gpu>,
    tape: &mut Tape,
    x: &Var,
    [n, h, w, c]: [usize; 4],
) -> Result<Var> {
    let y = Arc::new(gpu.allocate("pooled features", n * c)?);
    let geometry = Geometry { grid: [blocks(c, 32)?, blocks(n, 1)?, 1], threads: 256, shared: 0 };
    let arguments = [&[x.value().buffer()?.into(), (&y).into()][..], &sizes([h * w, c])?].concat();
    // SAFETY: x has N·H·W·C values, y N·C.
    unsafe { gpu.launch("global_average_f32", geometry, &arguments)? };
    let y = Tensor::from_buffer(&[n, c], y)?;
    Ok(tape.record("global_average_pooling", y, &[x], move |gradient| {
        let dy = gradient.buffer()?;
        let count = n * h * w * c;
        let dx = Arc::new(dy.gpu().allocate("a pooled map's gradient", count)?);
        let arguments = [&[dy.into(), (&dx).into()][..], &sizes([count, h * w, c])?].concat();
        let geometry = Geometry::line(count, PER_BLOCK)?;
        // SAFETY: as above.
        unsafe { dy.gpu().launch("global_average_backward_f32", geometry, &arguments)? };
        Ok(vec![Some(Tensor::from_buffer(&[n, h, w, c], dx)?)])
    }))
}

/// What [`average_pooling`](super::average_pooling) does for a tensor on a GPU.
pub(super) fn average(
    gpu: &Arc<Gpu>,
    tape: &mut Tape,
    x: &Var,
    [n, h, w, c]: [usize; 4],
    k: usize,
) -> Result<Var> {
    let out = [n, h.div_ceil(k), w.div_ceil(k), c];
    let count = out.iter().product();
    let y = Arc::new(gpu.allocate("pooled maps", count)?);
    let shape = sizes([n, h, w, c, k])?;
    let arguments = [&[x.value().buffer()?.into(), (&y).into()][..], &shape].concat();
    // SAFETY: x has N·H·W·C values, y as many as its shape says.
    unsafe { gpu.launch("average_pooling_f32", Geometry::line(count, 256)?, &arguments)? };
    let y = Tensor::from_buffer(&out, y)?;
    Ok(tape.record("average_pooling", y, &[x], move |gradient| {
        let dy = gradient.buffer()?;
        let count = n * h * w * c;
        let dx = Arc::new(dy.gpu().allocate("pooled maps' gradient", count)?);
        let arguments = [&[dy.into(), (&dx).into()][..], &shape].concat();
        // SAFETY: as above.
        unsafe { dy.gpu().launch("average_pooling_backward_f32", Geometry::line(count, 256)?, &arguments)? };
        Ok(vec![Some(Tensor::from_buffer(&[n, h, w, c], dx)?)])
    }))
}
