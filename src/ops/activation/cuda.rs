//! Activations on a GPU: the launchers of `kernels/pointwise.cu`.

use std::sync::Arc;

use crate::Result;
use crate::device::cuda::{Argument, Geometry, reuse};
use crate::ops::elementwise::cuda::PER_BLOCK;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// y = f(x) on the tape; `kernels` are f's and its gradient's, which looks at y alone.
pub(super) fn on_tape(
    tape: &mut Tape,
    name: &'static str,
    kernels: [&'static str; 2],
    x: &Var,
) -> Result<Var> {
    let source = x.value().buffer()?;
    let (gpu, len) = (source.gpu(), source.len());
    let y = Arc::new(gpu.allocate("an activation", len)?);
    let arguments = [source.into(), (&y).into(), Argument::size(len)?];
    // SAFETY: two buffers of one length.
    unsafe { gpu.launch(kernels[0], Geometry::line(len, PER_BLOCK)?, &arguments)? };
    let y = Tensor::from_buffer(x.shape(), y)?;
    let kept = y.clone();
    Ok(tape.record(name, y, &[x], move |gradient| {
        let shape = gradient.shape().to_vec();
        let [dy, dx] = reuse(gradient, "an activation's gradient")?;
        let arguments = [(&dy).into(), kept.buffer()?.into(), (&dx).into(), Argument::size(len)?];
        // SAFETY: three buffers of one length; the kernel allows a target that is a source.
        unsafe { dy.gpu().launch(kernels[1], Geometry::line(len, PER_BLOCK)?, &arguments)? };
        Ok(vec![Some(Tensor::from_buffer(&shape, dx)?)])
    }))
}
