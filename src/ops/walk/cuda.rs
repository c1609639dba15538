//! The random walk on a GPU: the ladder of kernels in `kernels/walk.cu`, and how each is launched.

use std::sync::Arc;

use crate::device::cuda::{Argument, Geometry, Gpu, Rung};
use crate::ops::affinity::{Stencil, cuda::upload_offsets};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The ladder, from plain to fast. Numbers are those of the work model; 0, 2 and 4 are not built, and 5 (Chebyshev's
/// polynomial, `walk_chebyshev_*` in the PTX) has no launcher until the emulator runs it without a finding.
pub const LADDER: &[Rung] = &[
    Rung {
        number: 1,
        name: "step",
        kernel: "walk_step_f32",
        idea: "one launch a step; a thread one pixel of four maps",
        bound: "launches, and L2: two loads a plane",
        takes: "every size",
    },
    Rung {
        number: 3,
        name: "whole",
        kernel: "walk_whole_2_f32",
        idea: "all steps in one launch; a block keeps two maps in shared memory",
        bound: "shared memory: 16 bytes a plane and pixel",
        takes: "grids whose two maps fit twice in a block's shared memory",
    },
];

const STEP: u32 = 1;
/// Maps that a block of the whole-walk kernels keeps.
const WHOLE_MAPS: usize = 2;

/// Dynamic shared memory of a whole-walk block: two buffers of the grid with its pads, in bytes.
fn whole_shared(pixels: usize, pad: usize) -> usize {
    2 * (pixels + 2 * pad) * WHOLE_MAPS * size_of::<f32>()
}

/// The planes of a stencil that have pairs on an h×w grid. The others are nothing but NaN, and on a grid that is narrower
/// than their offset the partner would not lie ahead in memory, on which the kernels rely.
fn planes_within(stencil: &Stencil, h: usize, w: usize) -> Vec<usize> {
    let within = |plane: &usize| {
        let (dy, dx) = stencil.offsets()[*plane];
        dy < h && dx.unsigned_abs() < w
    };
    (0..stencil.len()).filter(within).collect()
}

/// The largest step from a pixel to a partner ahead of it, in pixels.
fn pad(stencil: &Stencil, h: usize, w: usize) -> usize {
    let step = |plane: usize| {
        let (dy, dx) = stencil.offsets()[plane];
        (dy * w).saturating_add_signed(dx)
    };
    planes_within(stencil, h, w).into_iter().map(step).max().unwrap_or(0)
}

/// The fastest rung that takes a grid on a GPU.
pub fn choose(gpu: &Gpu, stencil: &Stencil, height: usize, width: usize) -> &'static Rung {
    let shared = whole_shared(height * width, pad(stencil, height, width));
    if shared <= gpu.shared_per_block() as usize { &LADDER[1] } else { &LADDER[0] }
}

/// Tᵗ M of maps L×h×w on affinities P×h×w (or 1×P×h×w) on a GPU by one rung: copied there, computed, copied back.
///
/// # Errors
/// As [`Transition`](super::Transition)'s; a grid that the rung does not take; the device's.
pub fn walk(
    gpu: &Arc<Gpu>,
    rung: &Rung,
    affinities: &Tensor,
    stencil: &Stencil,
    beta: f32,
    maps: &Tensor,
    steps: usize,
) -> Result<Tensor> {
    let (h, w) = super::check(affinities, stencil, beta)?;
    super::check_maps(maps, h, w)?;
    if maps.is_empty() || steps == 0 {
        return Ok(maps.clone());
    }
    let within = planes_within(stencil, h, w);
    let (pixels, pad, planes) = (h * w, pad(stencil, h, w), within.len());
    let shared = whole_shared(pixels, pad);
    if rung.number != STEP && shared > gpu.shared_per_block() as usize {
        let message = format!("rung {} of the walk takes {}, not {h}×{w}", rung.name, rung.takes);
        return Err(Error::invalid(message));
    }
    let offsets: Vec<_> = within.iter().map(|plane| stencil.offsets()[*plane]).collect();
    let offsets = upload_offsets(gpu, &offsets)?;
    let given = if planes == stencil.len() {
        gpu.upload("the affinities", affinities.data())?
    } else {
        let kept: Vec<f32> = within
            .iter()
            .flat_map(|plane| affinities.data()[plane * pixels..][..pixels].iter().copied())
            .collect();
        gpu.upload("the affinities", &kept)?
    };
    let weights = gpu.allocate::<f32>("the transition's planes", planes * (pad + pixels))?;
    let inverse_degree = gpu.allocate::<f32>("the degrees", pixels)?;
    let [height, width, plane_count, padding] = [h, w, planes, pad].map(Argument::size);
    let (height, width, plane_count, padding) = (height?, width?, plane_count?, padding?);
    // Indices within a tensor are 32-bit.
    for len in [weights.len(), maps.len()] {
        Argument::size(len)?;
    }
    let build = [
        (&given).into(),
        (&offsets).into(),
        (&weights).into(),
        (&inverse_degree).into(),
        height,
        width,
        plane_count,
        padding,
        Argument::F32(beta),
    ];
    let per_pixel = |count: usize| count.div_ceil(256) as u32;
    let geometry = Geometry { grid: [per_pixel(pad + pixels), 1, 1], threads: 256, shared: 0 };
    // SAFETY: the buffers have the sizes that the other arguments say.
    unsafe { gpu.launch("walk_build_f32", geometry, &build)? };

    let count = maps.shape()[0];
    let start = gpu.upload("the maps", maps.data())?;
    let mut result = gpu.allocate::<f32>("the walked maps", maps.len())?;
    let transition: Vec<Argument> = vec![(&weights).into(), (&inverse_degree).into(), (&offsets).into()];
    let shape = [height, width, plane_count, padding, Argument::size(count)?];
    // Every kernel of the ladder takes the transition, buffers of its own, the shape, and what it has to do.
    let arguments =
        |buffers: &[Argument], to_do: &[Argument]| [&*transition, buffers, &shape, to_do].concat();
    let whole =
        Geometry { grid: [count.div_ceil(WHOLE_MAPS) as u32, 1, 1], threads: 1024, shared: shared as u32 };
    if rung.number == STEP {
        let geometry =
            Geometry { grid: [per_pixel(pixels), count.div_ceil(4) as u32, 1], threads: 256, shared: 0 };
        let mut from = start;
        for step in 0..steps {
            if step > 0 {
                std::mem::swap(&mut from, &mut result);
            }
            let arguments = arguments(&[(&from).into(), (&result).into()], &[]);
            // SAFETY: as above; source and target are different buffers.
            unsafe { gpu.launch(rung.kernel, geometry, &arguments)? };
        }
    } else {
        let buffers: [Argument; 2] = [(&start).into(), (&result).into()];
        let steps = Argument::size(steps)?;
        // SAFETY: as above.
        unsafe { gpu.launch(rung.kernel, whole, &arguments(&buffers, &[steps]))? };
    }
    Tensor::new(maps.shape(), gpu.download(&result)?)
}
