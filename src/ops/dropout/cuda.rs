//! Channel dropout on a GPU: the launchers of `kernels/dropout.cu`.

use crate::device::cuda::{Argument, DeviceBuffer, Geometry, reuse, sizes};
use crate::ops::elementwise::cuda::PER_BLOCK;
use crate::rng::Stream;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// What [`channel_dropout`](super::channel_dropout) does, with the same draws, for a tensor on a GPU.
pub(super) fn on_tape(
    tape: &mut Tape,
    x: &Var,
    p: f32,
    stream: &mut Stream,
    index: Option<&DeviceBuffer<u32>>,
) -> Result<Var> {
    let [n, h, w, c] = x.value().nhwc("channel_dropout")?;
    let gpu = x.value().buffer()?.gpu();
    let factors = gpu.allocate("dropout factors", n * c)?;
    let words = stream.take_words(n * c);
    let first = u32::try_from(words.first)
        .map_err(|_| Error::invalid("a stream's words beyond 2^32 cannot be drawn on a GPU"))?;
    let [key0, key1] = words.key.map(Argument::U32);
    let [counter, low, high] = words.counter;
    let own = match index {
        Some(_) => None,
        None => Some(gpu.upload("a stream's index", &[low, high])?),
    };
    let index = index.or(own.as_ref()).map_or(Argument::NONE, Argument::from);
    let arguments = [
        (&factors).into(),
        Argument::size(n * c)?,
        Argument::U32(first),
        key0,
        key1,
        Argument::U32(counter),
        index,
        Argument::F32(p),
        Argument::F32(1.0 / (1.0 - p)),
    ];
    // SAFETY: room for N·C factors; two words of an index.
    unsafe { gpu.launch("dropout_factors_f32", Geometry::line(n * c, 256)?, &arguments)? };
    let image = h * w * c;
    let y = scale_maps(x.value().clone(), &factors, image, c)?;
    Ok(tape.record("channel_dropout", y, &[x], move |gradient| {
        Ok(vec![Some(scale_maps(gradient, &factors, image, c)?)])
    }))
}

/// Each map times its factor, in x's own memory where nobody else holds it. `image` values an image, `c` channels.
fn scale_maps(x: Tensor, factors: &DeviceBuffer<f32>, image: usize, c: usize) -> Result<Tensor> {
    let shape = x.shape().to_vec();
    let [x, y] = reuse(x, "maps after dropout")?;
    let sizes = sizes([x.len(), image, c])?;
    let arguments = [&[(&x).into(), factors.into(), (&y).into()][..], &sizes].concat();
    // SAFETY: two buffers of one length, which may be the same, and a factor a map.
    unsafe { x.gpu().launch("dropout_maps_f32", Geometry::line(x.len(), PER_BLOCK)?, &arguments)? };
    Tensor::from_buffer(&shape, y)
}
