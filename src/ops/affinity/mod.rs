//! Semantic affinity between pixels of a feature grid, and the loss that trains it (Ahn and Kwak 2018,
//! §3.2; spec §5).
//!
//! `W_ij = exp(−d_ij)`, `d_ij = Σ_k |f_i[k] − f_j[k]|` (paper) or the mean over k (the authors' code).
//!
//! Pairs are named by a half-stencil of offsets: each unordered pair occurs once, at its first pixel.
//! Radius γ = 5 with `<` gives 34 offsets. Affinities of one image are P×h×w, a plane per offset, NaN
//! where the pair does not exist.
//!
//! Loss over the batch's pairs whose ends are both labelled: with equal labels a pair is positive, in two
//! kinds (background and foreground), with different labels negative:
//!
//! `L = L⁺fg + L⁺bg + 2L⁻`, `L⁺ = mean d`, `L⁻ = −mean log(1 − W)` (eq. 7); an empty kind contributes 0.
//! The authors' code takes a quarter of that, with ε = 1e-5 inside the logarithms and added to the counts.
//!
//! log W is −d exactly, and 1 − W = −expm1(−d), which keeps its digits near W = 1.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::device::cuda::{Given, Reading};
use crate::formats::image::IGNORE;
use crate::math;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::{Error, Result};

pub mod cuda;
#[cfg(test)]
mod tests;

/// Smallest distance of a negative pair that the loss looks at, where the loss has no ε of its own: at
/// d = 0 (equal features, as in two dead ones) log(1 − W) and its slope are infinite.
const SMALLEST: f32 = 1e-5;
/// ε of the authors' code.
const PSA_EPSILON: f32 = 1e-5;

/// How the absolute differences of K channels become a distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reduction {
    /// Their sum (paper).
    Sum,
    /// Their mean (the authors' code).
    Mean,
}

/// Which pairs exist near the border.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BorderRule {
    /// Every pair with both ends on the grid.
    Full,
    /// Only first pixels from which the whole half-stencil lies on the grid: y < h − r, r ≤ x < w − r with
    /// r = γ − 1 (the authors' code).
    Psa,
}

/// Which form of the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossForm {
    /// Equation 7.
    Paper,
    /// A quarter of it, with ε.
    Psa,
}

/// The half-stencil: offsets (dy, dx) with dy = 0, dx > 0, or dy > 0, within the radius.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stencil {
    offsets: Vec<(usize, isize)>,
    reach: usize,
}

impl Stencil {
    /// Offsets with dx² + dy² < γ² (≤ with `inclusive`), in the order (0,1), (0,2), …, then dy = 1, 2, …,
    /// dx from low to high.
    ///
    /// # Errors
    /// A radius without any neighbour, or beyond 64.
    pub fn new(radius: usize, inclusive: bool) -> Result<Self> {
        let least = if inclusive { 1 } else { 2 };
        if !(least..=64).contains(&radius) {
            return Err(Error::invalid(format!("radius {radius}: {least} to 64 expected")));
        }
        let (limit, reach) = (radius * radius, if inclusive { radius } else { radius - 1 });
        let inside = |dy: usize, dx: isize| {
            let square = dy * dy + dx.unsigned_abs().pow(2);
            if inclusive { square <= limit } else { square < limit }
        };
        let r = reach as isize;
        let first = (1..=r).map(|dx| (0, dx));
        let rest = (1..=reach).flat_map(|dy| (-r..=r).map(move |dx| (dy, dx)));
        let offsets = first.chain(rest).filter(|&(dy, dx)| inside(dy, dx)).collect();
        Ok(Self { offsets, reach })
    }

    /// (dy, dx) of each plane.
    pub fn offsets(&self) -> &[(usize, isize)] {
        &self.offsets
    }

    /// P, the number of planes.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Never: a stencil has at least one offset.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// First pixels (y range, x range) from which the pair at an offset exists, on an h×w grid.
    pub fn sources(
        &self,
        (dy, dx): (usize, isize),
        h: usize,
        w: usize,
        rule: BorderRule,
    ) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let r = self.reach;
        match rule {
            BorderRule::Full => {
                let (left, right) = ((-dx).max(0) as usize, dx.max(0) as usize);
                (0..h.saturating_sub(dy), left.min(w)..w.saturating_sub(right).max(left.min(w)))
            }
            BorderRule::Psa => (0..h.saturating_sub(r), r.min(w)..w.saturating_sub(r).max(r.min(w))),
        }
    }
}

impl Default for Stencil {
    /// γ = 5, `<`: 34 offsets.
    fn default() -> Self {
        Self::new(5, false).expect("5 is a valid radius")
    }
}

/// How pairs are formed and measured.
#[derive(Debug, Clone)]
pub struct Pairs {
    /// Which offsets.
    pub stencil: Stencil,
    /// Sum or mean over channels.
    pub reduction: Reduction,
    /// Which pairs exist near the border.
    pub border: BorderRule,
}

impl Pairs {
    fn factor(&self, channels: usize) -> f32 {
        match self.reduction {
            Reduction::Sum => 1.0,
            Reduction::Mean => 1.0 / channels as f32,
        }
    }

    /// Columns and rows at the left, right and lower border that are no pair's first pixel.
    fn margin(&self) -> usize {
        match self.border {
            BorderRule::Full => 0,
            BorderRule::Psa => self.stencil.reach,
        }
    }

    /// Fails where no pair exists at all.
    fn check(&self, h: usize, w: usize) -> Result<()> {
        let any = self.stencil.offsets.iter().any(|&o| {
            let (ys, xs) = self.stencil.sources(o, h, w, self.border);
            !ys.is_empty() && !xs.is_empty()
        });
        if any || self.border == BorderRule::Full {
            return Ok(());
        }
        let r = self.stencil.reach;
        Err(Error::shape(
            "affinity",
            format!(
                "a {h}×{w} grid has no pairs under the border rule `psa`, which needs more than {r}×{}",
                2 * r
            ),
        )
        .remedy(format!(
            "use images or crops of more than {}×{} pixels, or the border rule `full` (affinity.border)",
            8 * r,
            16 * r
        )))
    }
}

/// Σ |a − b| over channels, in eight interleaved partial sums that are joined in order.
#[inline]
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    for (a, b) in a8.iter().zip(b8) {
        for i in 0..8 {
            sums[i] += (a[i] - b[i]).abs();
        }
    }
    for (i, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        sums[i] += (a - b).abs();
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

/// Affinities of features N×h×w×K: N×P×h×w, in (0, 1], NaN where a pair does not exist.
///
/// # Errors
/// Features that are not N×h×w×K; a grid without any pair under the border rule `psa`.
pub fn affinities(features: &Tensor, pairs: &Pairs) -> Result<Tensor> {
    let [n, h, w, k] = features.nhwc("affinities")?;
    pairs.check(h, w)?;
    if features.gpu().is_some() {
        return cuda::affinities_on_device(features, pairs);
    }
    let factor = pairs.factor(k);
    let planes = pairs.stencil.len();
    let mut out = vec![f32::NAN; n * planes * h * w];
    if h * w > 0 {
        out.par_chunks_exact_mut(h * w).enumerate().for_each(|(index, plane)| {
            let (image, offset) = (index / planes, pairs.stencil.offsets[index % planes]);
            let features = &features.data()[image * h * w * k..][..h * w * k];
            let (ys, xs) = pairs.stencil.sources(offset, h, w, pairs.border);
            for y in ys {
                for x in xs.clone() {
                    let (i, j) = (y * w + x, (y + offset.0) * w + x.wrapping_add_signed(offset.1));
                    plane[i] =
                        math::exp(-factor * distance(&features[i * k..][..k], &features[j * k..][..k]));
                }
            }
        });
    }
    Tensor::new(&[n, planes, h, w], out)
}

/// The parts of the loss and how many pairs each stands on.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct AffinityLossParts {
    /// L⁺bg, L⁺fg, L⁻ before they are weighted.
    pub background: f64,
    /// See `background`.
    pub foreground: f64,
    /// See `background`.
    pub negative: f64,
    /// Number of background, foreground and negative pairs.
    pub counts: [u64; 3],
}

/// Kind of a pair by its labels: background, foreground, negative, in the order of the counts.
fn kind(a: u8, b: u8) -> Option<usize> {
    match (a, b) {
        (IGNORE, _) | (_, IGNORE) => None,
        (0, 0) => Some(0),
        (a, b) if a == b => Some(1),
        _ => Some(2),
    }
}

/// Whether any pair of a batch of h×w grids is labelled at both ends: without, there is nothing to learn.
pub fn any_labelled_pair(labels: &[u8], h: usize, w: usize, pairs: &Pairs) -> bool {
    labels.chunks_exact((h * w).max(1)).any(|labels| {
        pairs.stencil.offsets.iter().any(|&(dy, dx)| {
            let (mut ys, xs) = pairs.stencil.sources((dy, dx), h, w, pairs.border);
            ys.any(|y| {
                let mut row = xs.clone().map(|x| (y * w + x, (y + dy) * w + x.wrapping_add_signed(dx)));
                row.any(|(i, j)| kind(labels[i], labels[j]).is_some())
            })
        })
    })
}

/// The loss of features N×h×w×K under labels N·h·w (255 neutral), a scalar, and its parts.
///
/// # Errors
/// A number of labels other than N·h·w; a grid without any pair under the border rule `psa`.
pub fn affinity_loss<'a>(
    tape: &mut Tape,
    features: &Var,
    labels: impl Into<Given<'a, u8>>,
    pairs: &Pairs,
    form: LossForm,
) -> Result<(Var, Reading<AffinityLossParts>)> {
    let given: Given<'_, u8> = labels.into();
    let labels = given.values();
    let [n, h, w, k] = features.value().nhwc("affinity_loss")?;
    if labels.len() != n * h * w {
        let message = format!("{} labels for features {:?}", labels.len(), features.shape());
        return Err(Error::shape("affinity_loss", message));
    }
    pairs.check(h, w)?;
    if features.value().gpu().is_some() {
        if !any_labelled_pair(labels, h, w, pairs) {
            let zero = Tensor::scalar(0.0).to_place(features.value().gpu(), "the loss")?;
            return Ok((Var::constant(zero), Reading::known(AffinityLossParts::default())));
        }
        return cuda::loss(tape, features, given, pairs, form);
    }
    let factor = pairs.factor(k);
    let planes = pairs.stencil.len();
    // Distances of the pairs that count; NaN elsewhere. Each plane's sums are taken in f64, in order.
    let mut distances = vec![f32::NAN; n * planes * h * w];
    let data = features.value().data();
    let negative_loss = |d: f32| match form {
        LossForm::Paper => -math::ln_f64(f64::from(-math::exp_m1(-d.max(SMALLEST)))),
        LossForm::Psa => -math::ln_f64(f64::from(PSA_EPSILON - math::exp_m1(-d))),
    };
    let positive_loss = |d: f32| match form {
        LossForm::Paper => f64::from(d),
        LossForm::Psa => -math::ln_f64(f64::from(math::exp(-d) + PSA_EPSILON)),
    };
    let sums: Vec<[(f64, u64); 3]> = distances
        .par_chunks_mut((h * w).max(1))
        .enumerate()
        .map(|(index, plane)| {
            let (image, offset) = (index / planes, pairs.stencil.offsets[index % planes]);
            let (features, labels) =
                (&data[image * h * w * k..][..h * w * k], &labels[image * h * w..][..h * w]);
            let (ys, xs) = pairs.stencil.sources(offset, h, w, pairs.border);
            let mut sums = [(0f64, 0u64); 3];
            for y in ys {
                for x in xs.clone() {
                    let (i, j) = (y * w + x, (y + offset.0) * w + x.wrapping_add_signed(offset.1));
                    let Some(kind) = kind(labels[i], labels[j]) else { continue };
                    let d = factor * distance(&features[i * k..][..k], &features[j * k..][..k]);
                    plane[i] = d;
                    sums[kind].0 += if kind == 2 { negative_loss(d) } else { positive_loss(d) };
                    sums[kind].1 += 1;
                }
            }
            sums
        })
        .collect();
    let mut totals = [(0f64, 0u64); 3];
    for part in &sums {
        for (total, part) in totals.iter_mut().zip(part) {
            total.0 += part.0;
            total.1 += part.1;
        }
    }
    let divisor = |count: u64| match form {
        LossForm::Paper => (count as f64).max(1.0),
        LossForm::Psa => count as f64 + f64::from(PSA_EPSILON),
    };
    let [background, foreground, negative] = totals.map(|(sum, count)| sum / divisor(count));
    let parts =
        AffinityLossParts { background, foreground, negative, counts: totals.map(|(_, count)| count) };
    // Weight of one pair of each kind in the loss.
    let overall = if form == LossForm::Psa { 0.25 } else { 1.0 };
    let loss = overall * (background + foreground + 2.0 * negative);
    let mut weights = [1.0, 1.0, 2.0];
    for (weight, (_, count)) in weights.iter_mut().zip(totals) {
        *weight *= overall / divisor(count);
    }
    let weights = weights.map(|v| v as f32);
    let slope = move |kind: usize, d: f32| -> f32 {
        let of_distance = match (kind, form) {
            // d(−log(1 − e⁻ᵈ))/dd = −1/(eᵈ − 1)
            (2, LossForm::Paper) if d < SMALLEST => 0.0,
            (2, LossForm::Paper) => -1.0 / math::exp_m1(d),
            (2, LossForm::Psa) => -math::exp(-d) / (PSA_EPSILON - math::exp_m1(-d)),
            (_, LossForm::Paper) => 1.0,
            (_, LossForm::Psa) => math::exp(-d) / (math::exp(-d) + PSA_EPSILON),
        };
        weights[kind] * factor * of_distance
    };
    if totals.iter().all(|(_, count)| *count == 0) {
        return Ok((Var::constant(Tensor::scalar(0.0)), Reading::known(parts)));
    }
    let (kept, labels, pairs) = (features.value().clone(), labels.to_vec(), pairs.clone());
    let loss = tape.record("affinity_loss", Tensor::scalar(loss as f32), &[features], move |g| {
        let g = g.item()?;
        let f = kept.data();
        let mut dx = vec![0f32; f.len()];
        // Each pixel gathers from its neighbours on both sides, in a fixed order, so no two threads write
        // to one place. A pair's slope is worked out at both ends.
        dx.par_chunks_exact_mut(w * k).enumerate().for_each(|(row, dx)| {
            let (image, y) = (row / h, row % h);
            let base = image * h * w;
            for x in 0..w {
                let (me, dx) = (base + y * w + x, &mut dx[x * k..][..k]);
                for (plane, &(dy, ox)) in pairs.stencil.offsets.iter().enumerate() {
                    let there = y + dy < h && x.checked_add_signed(ox).is_some_and(|x| x < w);
                    let back = y >= dy && x.checked_add_signed(-ox).is_some_and(|x| x < w);
                    let forward = there.then(|| (y * w + x, base + (y + dy) * w + x.wrapping_add_signed(ox)));
                    let backward = back.then(|| {
                        let other = (y - dy) * w + x.wrapping_add_signed(-ox);
                        (other, base + other)
                    });
                    for (first, other) in forward.into_iter().chain(backward) {
                        let d = distances[(image * planes + plane) * h * w + first];
                        let Some(kind) = kind(labels[me], labels[other]).filter(|_| !d.is_nan()) else {
                            continue;
                        };
                        let slope = g * slope(kind, d);
                        let (a, b) = (&f[me * k..][..k], &f[other * k..][..k]);
                        for ((dx, a), b) in dx.iter_mut().zip(a).zip(b) {
                            *dx += if a > b {
                                slope
                            } else if a < b {
                                -slope
                            } else {
                                0.0
                            };
                        }
                    }
                }
            }
        });
        Ok(vec![Some(Tensor::new(kept.shape(), dx)?)])
    });
    Ok((loss, Reading::known(parts)))
}
