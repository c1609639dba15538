//! The random walk on a GPU: the ladder of kernels in `kernels/walk.cu`, and how each is launched.

use std::sync::Arc;

use crate::device::cuda::{Argument, Geometry, Gpu, Rung};
use crate::ops::affinity::{Stencil, cuda::upload_offsets};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The ladder, from plain to fast. Numbers are those of the work model; 0, 2 and 4 are not built.
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
    Rung {
        number: 5,
        name: "chebyshev",
        kernel: "walk_chebyshev_2_f32",
        idea: "the power of the transition as a sum of Chebyshev's polynomials, cut off where they stop to count",
        bound: "shared memory, with the root of the steps in place of the steps",
        takes: "grids whose two maps fit twice in a block's shared memory",
    },
];

const STEP: u32 = 1;
const CHEBYSHEV: u32 = 5;
/// What the polynomials that are left out may add up to: half a unit of f32's last digit below 1.
const LEFT_OUT: f64 = f32::EPSILON as f64 / 4.0;
/// Maps that a block of the whole-walk kernels keeps.
const WHOLE_MAPS: usize = 2;

/// Dynamic shared memory of a whole-walk block: two buffers of the grid with its pads, in bytes.
fn whole_shared(pixels: usize, pad: usize) -> usize {
    2 * (pixels + 2 * pad) * WHOLE_MAPS * size_of::<f32>()
}

/// c of xᵗ = Σ c_k T_k(x) up to the degree from which the rest adds up to less than [`LEFT_OUT`]: c_k = 2^{1−t}·C(t, (t−k)/2)
/// where t − k is even, half of that for c_0, 0 where it is odd; they add up to 1.
fn chebyshev_coefficients(steps: usize) -> Vec<f32> {
    let mut k = steps % 2;
    // C(2m, m) / 4^m, the middle of a row of Pascal's triangle, or the one beside it.
    let m = steps / 2;
    let mut c: f64 = (1..=m).map(|i| (2 * i - 1) as f64 / (2 * i) as f64).product();
    if k == 1 {
        c *= steps as f64 / (m + 1) as f64;
    }
    let (mut all, mut sum) = (Vec::new(), 0.0);
    loop {
        all.resize(k, 0.0);
        all.push(c as f32);
        sum += c;
        if k + 2 > steps || 1.0 - sum < LEFT_OUT {
            return all;
        }
        let below = (steps - k) / 2;
        c *= below as f64 / (steps - below + 1) as f64 * if k == 0 { 2.0 } else { 1.0 };
        k += 2;
    }
}

/// Products with the transition that the Chebyshev rung takes in place of so many steps.
pub(crate) fn degree(steps: usize) -> usize {
    if steps == 0 { 0 } else { chebyshev_coefficients(steps).len() - 1 }
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

/// The rung that `--kernel` names, else the fastest that takes a grid on a GPU.
pub fn choose(gpu: &Gpu, stencil: &Stencil, height: usize, width: usize) -> &'static Rung {
    if let Some(forced) = gpu.forced("walk").and_then(|name| LADDER.iter().find(|r| r.name == name)) {
        return forced;
    }
    let shared = whole_shared(height * width, pad(stencil, height, width));
    if shared <= gpu.shared_per_block() as usize { &LADDER[1] } else { &LADDER[0] }
}

/// Tᵗ M of maps L×h×w on affinities P×h×w (or 1×P×h×w) on a GPU by one rung: copied there where they
/// are not, computed, copied back.
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
        let message = format!("rung `{}` of walk takes {}, not {h}×{w}", rung.name, rung.takes);
        return Err(
            Error::invalid(message).remedy("leave out --kernel, or choose `step`, which takes every grid")
        );
    }
    let offsets: Vec<_> = within.iter().map(|plane| stencil.offsets()[*plane]).collect();
    let offsets = upload_offsets(gpu, &offsets)?;
    let given = if planes == stencil.len() {
        affinities.to_device(gpu, "the affinities")?
    } else {
        let all = affinities.to_host()?;
        let plane = |plane: &usize| all.data()[plane * pixels..][..pixels].iter().copied();
        let kept: Vec<f32> = within.iter().flat_map(plane).collect();
        Tensor::new(&[planes, h, w], kept)?.to_device(gpu, "the affinities")?
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
        given.buffer()?.into(),
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
    let shape = [height, width, plane_count, padding, Argument::size(count)?];
    let transition = [Argument::from(&weights), (&inverse_degree).into(), (&offsets).into()];
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
            let buffers = [(&from).into(), (&result).into()];
            let arguments = [&transition[..], &buffers, &shape].concat();
            // SAFETY: as above; source and target are different buffers.
            unsafe { gpu.launch(rung.kernel, geometry, &arguments)? };
        }
    } else if rung.number == CHEBYSHEV {
        let coefficients = chebyshev_coefficients(steps);
        let degree = Argument::size(coefficients.len() - 1)?;
        let coefficients = gpu.upload("the polynomial", &coefficients)?;
        let buffers = [(&coefficients).into(), (&start).into(), (&result).into()];
        let arguments = [&transition[..], &buffers, &shape, &[degree]].concat();
        // SAFETY: as above; there is a coefficient for each degree.
        unsafe { gpu.launch(rung.kernel, whole, &arguments)? };
    } else {
        let buffers = [(&start).into(), (&result).into()];
        let arguments = [&transition[..], &buffers, &shape, &[Argument::size(steps)?]].concat();
        // SAFETY: as above.
        unsafe { gpu.launch(rung.kernel, whole, &arguments)? };
    }
    Tensor::new(maps.shape(), gpu.download(&result)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coefficients_are_those_of_the_power() {
        for steps in [1, 2, 3, 7, 64, 255, 256, 4000] {
            let c = chebyshev_coefficients(steps);
            for x in [-1.0_f64, -0.9, -0.3, 0.0, 0.2, 0.77, 0.999, 1.0] {
                let polynomial = |(k, c): (usize, &f32)| f64::from(*c) * (k as f64 * x.acos()).cos();
                let sum: f64 = c.iter().enumerate().map(polynomial).sum();
                // Each coefficient is rounded to f32; they add up to 1.
                let error = (sum - x.powi(steps as i32)).abs();
                assert!(
                    error < LEFT_OUT + f64::from(f32::EPSILON),
                    "x = {x}, {steps} steps: off by {error:e}"
                );
            }
            let most = (2.0 * steps as f64 * (2.0 / LEFT_OUT).ln()).sqrt() as usize + 2;
            assert!(c.len() <= most.min(steps + 1), "{steps} steps: degree {}", c.len() - 1);
        }
    }
}
