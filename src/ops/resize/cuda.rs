//! Bilinear resize on a GPU: the launchers of `kernels/resize.cu`.

use std::sync::Arc;

use super::taps;
use crate::Result;
use crate::device::cuda::{Argument, DeviceBuffer, Geometry, Gpu, sizes};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// The tables of one axis on the GPU: for each output its two sources and the weight of the second, and for each source
/// the range of outputs that read it.
struct Axis {
    taps: DeviceBuffer<u32>,
    spans: DeviceBuffer<i32>,
}

impl Axis {
    fn new(gpu: &Arc<Gpu>, from: usize, to: usize) -> Result<Self> {
        let taps = taps(from, to);
        // Both sources ascend with the output, so those that read a source are neighbours.
        let span = |at: usize| {
            let first = taps.partition_point(|tap| tap.1 < at);
            [first, taps.partition_point(|tap| tap.0 <= at).max(first)].map(|v| v as i32)
        };
        let spans: Vec<i32> = (0..from).flat_map(span).collect();
        let words: Vec<u32> = taps
            .iter()
            .flat_map(|&(low, high, weight)| [low as u32, high as u32, weight.to_bits()])
            .collect();
        Ok(Self {
            taps: gpu.upload("a resize's sources", &words)?,
            spans: gpu.upload("a resize's ranges", &spans)?,
        })
    }
}

/// What [`bilinear_resize`](super::bilinear_resize) does for a tensor on a GPU.
pub(super) fn on_tape(
    gpu: &Arc<Gpu>,
    tape: &mut Tape,
    x: &Var,
    [n, h, w, c]: [usize; 4],
    height: usize,
    width: usize,
) -> Result<Var> {
    let (rows, columns) = (Axis::new(gpu, h, height)?, Axis::new(gpu, w, width)?);
    let count = n * height * width * c;
    let y = Arc::new(gpu.allocate("resized maps", count)?);
    let shape = sizes([n, h, w, c, height, width])?;
    let mut arguments =
        vec![x.value().buffer()?.into(), (&rows.taps).into(), (&columns.taps).into(), (&y).into()];
    arguments.extend(shape);
    // SAFETY: x and y have the values that the shape says, the tables an entry a position.
    unsafe { gpu.launch("bilinear_resize_f32", Geometry::line(count, 256)?, &arguments)? };
    let y = Tensor::from_buffer(&[n, height, width, c], y)?;
    Ok(tape.record("bilinear_resize", y, &[x], move |gradient| {
        let dy = gradient.buffer()?;
        let count = n * h * w * c;
        let dx = Arc::new(dy.gpu().allocate("resized maps' gradient", count)?);
        let mut arguments = vec![dy.into(), (&rows.taps).into(), (&columns.taps).into()];
        arguments.extend([Argument::from(&rows.spans), (&columns.spans).into(), (&dx).into()]);
        arguments.extend(shape);
        // SAFETY: as above.
        unsafe { dy.gpu().launch("bilinear_resize_backward_f32", Geometry::line(count, 256)?, &arguments)? };
        Ok(vec![Some(Tensor::from_buffer(&[n, h, w, c], dx)?)])
    }))
}
