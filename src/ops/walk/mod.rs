//! The random walk that grows the seeds (Ahn and Kwak 2018, §3.3; spec §6).
//!
//! `T = D⁻¹ W^∘β`, `D_ii = Σ_j W_ij^β`, `W_ii = 1`; `M* = Tᵗ M` for every map.
//!
//! T has 2P + 1 entries a row whose column offsets never change, so it is kept as planes: the P of the
//! half-stencil and their mirror images, each on the grid with a border of zeros as wide as the stencil
//! reaches. A step is then, for each output row, a sum of 2P + 1 products of a plane's row with a row of
//! the map at a fixed offset: contiguous, without a branch, h·w·(2P + 1) multiply-adds for a map. The dense
//! N×N matrix that the authors' code squares eight times is never built.
//!
//! T is similar to the symmetric D^−½ W^∘β D^−½, so its eigenvalues are real and lie in [−1, 1]; each row
//! sums to 1, so a step takes weighted means and cannot leave the range of the map.

use rayon::prelude::*;

use super::affinity::Stencil;
use crate::tensor::Tensor;
use crate::{Error, Result};

pub mod cuda;
#[cfg(test)]
mod tests;

/// T of one image's affinities.
pub struct Transition {
    h: usize,
    w: usize,
    /// Offset in the padded map and plane of each neighbour, the pixel itself first.
    neighbours: Vec<(isize, Vec<f32>)>,
    /// Width of the padded map's border.
    border: usize,
}

/// Checks what a walk is built from; the grid's height and width.
pub(crate) fn check(affinities: &Tensor, stencil: &Stencil, beta: f32) -> Result<(usize, usize)> {
    let (planes, h, w) = match *affinities.shape() {
        [p, h, w] | [1, p, h, w] => (p, h, w),
        _ => {
            let message = format!("affinities P×h×w expected, not {:?}", affinities.shape());
            return Err(Error::shape("walk", message));
        }
    };
    if planes != stencil.len() || h * w == 0 {
        let message = format!("{planes} planes of {h}×{w} for a stencil of {} offsets", stencil.len());
        return Err(Error::shape("walk", message));
    }
    if !(beta.is_finite() && beta > 0.0) {
        return Err(Error::invalid(format!("β = {beta}: a positive number expected")));
    }
    // Those that are on a GPU were computed there. Rounding may leave a hair above 1.
    if affinities.gpu().is_none()
        && let Some(v) = affinities.data().iter().find(|v| !v.is_nan() && !(0.0..=1.0001).contains(*v))
    {
        return Err(Error::invalid(format!("affinity {v}: 0 to 1 expected")));
    }
    Ok((h, w))
}

/// Checks that maps are L×h×w and finite.
pub(crate) fn check_maps(maps: &Tensor, h: usize, w: usize) -> Result<()> {
    if maps.shape().len() != 3 || maps.shape()[1..] != [h, w] {
        let message = format!("maps L×{h}×{w} expected, not {:?}", maps.shape());
        return Err(Error::shape("walk", message));
    }
    if !maps.is_finite() {
        return Err(Error::invalid("a map to walk on has values that are not finite"));
    }
    Ok(())
}

/// Tᵗ M for maps L×h×w in host memory on affinities P×h×w (or 1×P×h×w), walked where the affinities are and left in host
/// memory.
///
/// # Errors
/// As [`Transition::new`] and [`Transition::walk`]; the device's.
pub fn walk(
    affinities: &Tensor,
    stencil: &Stencil,
    beta: f32,
    maps: &Tensor,
    steps: usize,
) -> Result<Tensor> {
    let Some(gpu) = affinities.gpu() else {
        return Transition::new(affinities, stencil, beta)?.walk(maps, steps);
    };
    let (h, w) = check(affinities, stencil, beta)?;
    cuda::walk(gpu, cuda::choose(gpu, stencil, h, w), affinities, stencil, beta, maps, steps)
}

impl Transition {
    /// T = D⁻¹ W^∘β from affinities P×h×w (or 1×P×h×w); NaN where a pair does not exist.
    ///
    /// # Errors
    /// Another number of planes than the stencil's; affinities outside [0, 1]; β that is not positive.
    pub fn new(affinities: &Tensor, stencil: &Stencil, beta: f32) -> Result<Self> {
        let (h, w) = check(affinities, stencil, beta)?;
        let border = stencil.offsets().iter().map(|(dy, dx)| dx.unsigned_abs().max(*dy)).max().unwrap_or(0);
        let stride = (w + 2 * border) as isize;
        let mut degree = vec![1f32; h * w];
        let mut neighbours = vec![(0, vec![1f32; h * w])];
        for (plane, &(dy, dx)) in affinities.data().chunks_exact(h * w).zip(stencil.offsets()) {
            let mut ahead = vec![0f32; h * w];
            let mut behind = vec![0f32; h * w];
            let (ys, xs) = stencil.sources((dy, dx), h, w, super::affinity::BorderRule::Full);
            for y in ys {
                for x in xs.clone() {
                    let (i, j) = (y * w + x, (y + dy) * w + x.wrapping_add_signed(dx));
                    let weight = plane[i].min(1.0);
                    if !plane[i].is_nan() {
                        let weight = crate::math::powf(weight, beta);
                        ahead[i] = weight;
                        behind[j] = weight;
                    }
                }
            }
            let offset = dy as isize * stride + dx;
            neighbours.push((offset, ahead));
            neighbours.push((-offset, behind));
        }
        for (_, plane) in &neighbours[1..] {
            degree.iter_mut().zip(plane).for_each(|(d, v)| *d += v);
        }
        for (_, plane) in &mut neighbours {
            plane.iter_mut().zip(&degree).for_each(|(v, d)| *v /= d);
        }
        Ok(Self { h, w, neighbours, border })
    }

    /// Tᵗ M for maps L×h×w.
    ///
    /// # Errors
    /// Maps of another size, or values that are not finite.
    pub fn walk(&self, maps: &Tensor, steps: usize) -> Result<Tensor> {
        Ok(self.walk_frames(maps, &[steps])?.remove(0))
    }

    /// Tᵗ M at several ascending t, from one walk.
    ///
    /// # Errors
    /// As [`Transition::walk`]; times that do not ascend.
    pub fn walk_frames(&self, maps: &Tensor, steps: &[usize]) -> Result<Vec<Tensor>> {
        let (h, w) = (self.h, self.w);
        check_maps(maps, h, w)?;
        if !steps.is_sorted() {
            return Err(Error::invalid("the steps at which to look at a walk must ascend"));
        }
        let per_map: Vec<Vec<Vec<f32>>> =
            maps.data().par_chunks_exact(h * w).map(|map| self.walk_map(map, steps)).collect();
        let frame = |t: usize| {
            let data = per_map.iter().flat_map(|frames| frames[t].iter().copied()).collect();
            Tensor::new(maps.shape(), data)
        };
        (0..steps.len()).map(frame).collect()
    }

    /// One map's walk; its values at each of `steps`.
    fn walk_map(&self, map: &[f32], steps: &[usize]) -> Vec<Vec<f32>> {
        let (h, w, border) = (self.h, self.w, self.border);
        let stride = w + 2 * border;
        let row_at = |y: usize| (y + border) * stride + border;
        let mut now = vec![0f32; stride * (h + 2 * border)];
        for (y, row) in map.chunks_exact(w).enumerate() {
            now[row_at(y)..][..w].copy_from_slice(row);
        }
        let mut next = now.clone();
        let mut frames = Vec::with_capacity(steps.len());
        let mut done = 0;
        for &t in steps {
            while done < t {
                for y in 0..h {
                    let target = row_at(y);
                    let out = &mut next[target..][..w];
                    out.fill(0.0);
                    // Two neighbours at a time halve the traffic on the output row.
                    let mut pairs = self.neighbours.chunks_exact(2);
                    for pair in &mut pairs {
                        let [(o0, p0), (o1, p1)] = pair else { unreachable!("chunks of two") };
                        let a = (&p0[y * w..][..w], &now[target.wrapping_add_signed(*o0)..][..w]);
                        let b = (&p1[y * w..][..w], &now[target.wrapping_add_signed(*o1)..][..w]);
                        for x in 0..w {
                            out[x] += a.0[x] * a.1[x] + b.0[x] * b.1[x];
                        }
                    }
                    for (offset, plane) in pairs.remainder() {
                        let (plane, row) =
                            (&plane[y * w..][..w], &now[target.wrapping_add_signed(*offset)..][..w]);
                        out.iter_mut().zip(plane.iter().zip(row)).for_each(|(o, (p, m))| *o += p * m);
                    }
                }
                std::mem::swap(&mut now, &mut next);
                done += 1;
            }
            frames.push((0..h).flat_map(|y| now[row_at(y)..][..w].iter().copied()).collect());
        }
        frames
    }
}
