//! Affinities on a GPU: the ladder of kernels in `kernels/affinity.cu`, and how each is launched.

use std::sync::Arc;

use super::{BorderRule, Pairs, Stencil};
use crate::device::cuda::{Argument, DeviceBuffer, Geometry, Gpu, Rung};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The ladder, from plain to fast.
pub const LADDER: &[Rung] = &[
    Rung {
        number: 0,
        name: "gather",
        kernel: "affinity_forward_gather_f32",
        idea: "one thread a pair",
        bound: "L1 and L2: two loads a term",
        takes: "every stencil",
    },
    Rung {
        number: 1,
        name: "tiled",
        kernel: "affinity_forward_tiled_f32",
        idea: "a tile with its halo in shared memory, a pixel's 34 sums in registers",
        bound: "shared memory: 16 bytes for four terms",
        takes: "the default stencil (radius 5, 34 offsets)",
    },
];

const TILED: u32 = 1;

/// Whether a rung takes a stencil.
pub fn takes(rung: &Rung, stencil: &Stencil) -> bool {
    rung.number != TILED || *stencil == Stencil::default()
}

/// A stencil's offsets (dy, dx) on the GPU, P×2.
pub(crate) fn upload_offsets(gpu: &Arc<Gpu>, offsets: &[(usize, isize)]) -> Result<DeviceBuffer<i32>> {
    // Offsets are at most 64: `Stencil::new` sees to it.
    let pairs: Vec<i32> = offsets.iter().flat_map(|&(dy, dx)| [dy as i32, dx as i32]).collect();
    gpu.upload("the stencil", &pairs)
}

/// Affinities N×P×h×w of features N×h×w×K, NaN where a pair does not exist, on a GPU by one rung: copied there,
/// computed, copied back.
///
/// # Errors
/// As [`affinities`](super::affinities); a stencil that the rung does not take; the device's.
pub fn affinities(gpu: &Arc<Gpu>, rung: &Rung, features: &Tensor, pairs: &Pairs) -> Result<Tensor> {
    let [n, h, w, k] = features.nhwc("affinities")?;
    pairs.check(h, w)?;
    if !takes(rung, &pairs.stencil) {
        return Err(Error::invalid(format!("rung {} of the affinities takes {}", rung.name, rung.takes)));
    }
    let planes = pairs.stencil.len();
    let shape = [n, planes, h, w];
    let values = n * planes * h * w;
    if values == 0 {
        return Tensor::new(&shape, Vec::new());
    }
    let margin = match pairs.border {
        BorderRule::Full => 0,
        BorderRule::Psa => pairs.stencil.reach,
    };
    let f = gpu.upload("the features", features.data())?;
    let out = gpu.allocate::<f32>("the affinities", values)?;
    let [images, height, width, channels, plane_count, margin] =
        [n, h, w, k, planes, margin].map(Argument::size);
    // Indices within a tensor are 32-bit.
    for len in [features.len(), values] {
        Argument::size(len)?;
    }
    let factor = Argument::F32(pairs.factor(k));
    if rung.number == TILED {
        let grid = [w.div_ceil(16) as u32, h.div_ceil(8) as u32, n as u32];
        let arguments = [(&f).into(), (&out).into(), height?, width?, channels?, margin?, factor];
        // SAFETY: the buffers have the sizes that the other arguments say.
        unsafe { gpu.launch(rung.kernel, Geometry { grid, threads: 128, shared: 0 }, &arguments)? };
    } else {
        let offsets = upload_offsets(gpu, pairs.stencil.offsets())?;
        let grid = [values.div_ceil(256) as u32, 1, 1];
        let arguments = [
            (&f).into(),
            (&offsets).into(),
            (&out).into(),
            images?,
            height?,
            width?,
            channels?,
            plane_count?,
            margin?,
            factor,
        ];
        // SAFETY: as above.
        unsafe { gpu.launch(rung.kernel, Geometry { grid, threads: 256, shared: 0 }, &arguments)? };
    }
    Tensor::new(&shape, gpu.download(&out)?)
}
