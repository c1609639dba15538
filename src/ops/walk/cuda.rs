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
        idea: "the polynomial x^t by Chebyshev's, stopped early",
        bound: "shared memory, with a quarter of the steps at t = 256",
        takes: "grids whose two maps fit twice in a block's shared memory",
    },
];

const STEP: u32 = 1;
const CHEBYSHEV: u32 = 5;
/// Maps that a block of the whole-walk kernels keeps.
const WHOLE_MAPS: usize = 2;
/// What Chebyshev's polynomial may leave out, of a map's range.
const TRUNCATION: f64 = 1e-6;

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
pub fn choose(gpu: &Gpu, stencil: &Stencil, height: usize, width: usize, steps: usize) -> &'static Rung {
    let fits = whole_shared(height * width, pad(stencil, height, width)) <= gpu.shared_per_block() as usize;
    match (fits, steps) {
        (false, _) => &LADDER[0],
        // Below, the polynomial has hardly fewer terms than there are steps.
        (true, ..64) => &LADDER[1],
        (true, _) => &LADDER[2],
    }
}

/// Chebyshev coefficients of x^t up to where the rest is below [`TRUNCATION`]: c_k = 2^{1−t}·C(t, (t−k)/2) for t − k even,
/// half of that for k = 0, 0 for odd. |T_k| ≤ 1 on [−1, 1], so the sum of what is left out bounds the error.
fn coefficients(steps: usize) -> Vec<f32> {
    // From the middle of Pascal's row outwards: each from the one before, so nothing over- or underflows early.
    let t = steps as f64;
    let mut value = 1.0;
    for i in 1..=steps / 2 {
        // C(t, ⌊t/2⌋) / 2^t, a factor at a time.
        value *= (t - (steps / 2 - i) as f64) / i as f64 / 4.0;
    }
    if steps % 2 == 1 {
        value /= 2.0;
    }
    let mut all = vec![0.0; steps + 1];
    let mut left = 1.0;
    for k in (steps % 2..=steps).step_by(2) {
        // Now `value` = C(t, (t−k)/2) / 2^t.
        let c = if k == 0 { value } else { 2.0 * value };
        all[k] = c;
        left -= c;
        if left <= TRUNCATION {
            all.truncate(k + 1);
            break;
        }
        let half = (steps - k) as f64 / 2.0;
        value *= half / (t - half + 1.0);
    }
    all.into_iter().map(|c| c as f32).collect()
}

/// Tᵗ M of maps L×h×w on affinities P×h×w (or 1×P×h×w) on a GPU by one rung: copied there, computed, copied back.
/// Chebyshev's rung leaves out at most 10⁻⁶ of a map's range, before rounding.
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
    match rung.number {
        STEP => {
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
        }
        CHEBYSHEV => {
            let coefficients = coefficients(steps);
            let degree = Argument::size(coefficients.len() - 1)?;
            let coefficients = gpu.upload("the coefficients", &coefficients)?;
            let buffers = [(&coefficients).into(), (&start).into(), (&result).into()];
            // SAFETY: as above.
            unsafe { gpu.launch(rung.kernel, whole, &arguments(&buffers, &[degree]))? };
        }
        _ => {
            let buffers: [Argument; 2] = [(&start).into(), (&result).into()];
            let steps = Argument::size(steps)?;
            // SAFETY: as above.
            unsafe { gpu.launch(rung.kernel, whole, &arguments(&buffers, &[steps]))? };
        }
    }
    Tensor::new(maps.shape(), gpu.download(&result)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Σ c_k T_k(x) against x^t, by the recurrence.
    fn polynomial(c: &[f32], x: f64) -> f64 {
        let (mut before, mut now) = (1.0, x);
        let mut sum = f64::from(c[0]);
        for c in &c[1..] {
            sum += f64::from(*c) * now;
            (before, now) = (now, 2.0 * x * now - before);
        }
        sum
    }

    #[test]
    fn chebyshevs_polynomial_is_the_power() {
        for steps in [1, 2, 3, 7, 64, 256, 1001] {
            let c = coefficients(steps);
            for x in [-1.0, -0.7, 0.0, 0.3, 0.99, 1.0f64] {
                // Truncation, and rounding of up to 200 coefficients to f32.
                let error = (polynomial(&c, x) - x.powi(steps as i32)).abs();
                assert!(error < TRUNCATION + 200.0 * 6e-8, "t {steps}, x {x}: {error:e}");
            }
        }
        // 4.9 standard deviations of the walk ±1 of 256 steps.
        assert!((70..90).contains(&coefficients(256).len()), "{}", coefficients(256).len());
    }
}
