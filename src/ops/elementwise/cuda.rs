//! Element-by-element sums and products on a GPU: the launchers of `kernels/pointwise.cu`.

use std::sync::Arc;

use crate::Result;
use crate::device::cuda::{Argument, DeviceBuffer, Geometry, reuse};
use crate::tensor::Tensor;

/// Values of a block: four a thread.
pub(crate) const PER_BLOCK: usize = 1024;

/// a + b of tensors on a GPU.
pub(super) fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (x, y) = (a.buffer()?, b.buffer()?);
    let z = Arc::new(x.gpu().allocate("a sum of activations", x.len())?);
    launch_add(x, y, &z)?;
    Tensor::from_buffer(a.shape(), z)
}

/// sum + more, in the sum's own memory where nobody else holds it.
pub(crate) fn add_to(sum: Tensor, more: &Tensor) -> Result<Tensor> {
    let shape = sum.shape().to_vec();
    let [x, z] = reuse(sum, "a sum of gradients")?;
    launch_add(&x, more.buffer()?, &z)?;
    Tensor::from_buffer(&shape, z)
}

fn launch_add(x: &DeviceBuffer<f32>, y: &DeviceBuffer<f32>, z: &DeviceBuffer<f32>) -> Result<()> {
    let arguments = [x.into(), y.into(), z.into(), Argument::size(x.len())?];
    // SAFETY: three buffers of one length; the kernel allows a target that is a source.
    unsafe { x.gpu().launch("add_f32", Geometry::line(x.len(), PER_BLOCK)?, &arguments) }
}

/// x · by · share, one number each on the GPU, without a share x · by; in x's own memory where nobody else holds it.
pub(crate) fn scale_by(x: Tensor, by: &Tensor, share: Option<&DeviceBuffer<f32>>) -> Result<Tensor> {
    let shape = x.shape().to_vec();
    let [x, y] = reuse(x, "a scaled gradient")?;
    let share = share.map_or(Argument::NONE, Argument::from);
    let arguments = [(&x).into(), by.buffer()?.into(), share, (&y).into(), Argument::size(x.len())?];
    // SAFETY: two buffers of one length, which may be the same, and one number each.
    unsafe { x.gpu().launch("scale_by_f32", Geometry::line(x.len(), PER_BLOCK)?, &arguments)? };
    Tensor::from_buffer(&shape, y)
}
