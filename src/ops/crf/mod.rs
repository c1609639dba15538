//! Dense conditional random field with Gaussian edge potentials, by mean field (Krähenbühl and Koltun,
//! *Efficient Inference in Fully Connected CRFs*, NIPS 2011; spec §9).
//!
//! Unary `U = −log p`, p clipped to [1e-5, 1]. Pairwise Potts energies with two kernels between pixels
//! i and j at positions s with colours c (0–255):
//!
//! `k₁ = w₁·exp(−‖s_i − s_j‖²/2σ_xy²)`, `k₂ = w₂·exp(−‖s_i − s_j‖²/2σ_xy² − ‖c_i − c_j‖²/2σ_rgb²)`
//!
//! Each K is normalised symmetrically, n = 1/√(K·1 + 1e-20). From Q₀ = softmax(−U), each iteration sets
//! `Q ← softmax(−U + Σ_m w_m n K_m n Q)` for all pixels at once, with a pixel's message to itself kept.
//! K is applied on the permutohedral lattice, see `lattice.rs`: O(N) for N pixels, never N².

pub mod cuda;
mod lattice;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, OnceLock};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::device::cuda::Gpu;
use crate::formats::image::RgbImage;
use crate::math;
use crate::tensor::Tensor;
use crate::{Error, Result};
use lattice::Lattice;

/// The smoothness kernel k₁.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GaussianKernel {
    /// Deviation in pixels.
    pub sigma_xy: f64,
    /// Weight; 0 leaves the kernel out.
    pub weight: f64,
}

/// The appearance kernel k₂.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BilateralKernel {
    /// Deviation in pixels.
    pub sigma_xy: f64,
    /// Deviation in colour, 0–255.
    pub sigma_rgb: f64,
    /// Weight; 0 leaves the kernel out.
    pub weight: f64,
}

/// The CRF's parameters. The default is what the authors of AffinityNet use: (3, 3), (80, 13, 10), 10
/// iterations.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrfOptions {
    /// Mean-field iterations.
    pub iterations: usize,
    /// k₁.
    pub gaussian: GaussianKernel,
    /// k₂.
    pub bilateral: BilateralKernel,
}

impl Default for CrfOptions {
    fn default() -> Self {
        Self {
            iterations: 10,
            gaussian: GaussianKernel { sigma_xy: 3.0, weight: 3.0 },
            bilateral: BilateralKernel { sigma_xy: 80.0, sigma_rgb: 13.0, weight: 10.0 },
        }
    }
}

/// Labels that an image may have.
const MOST_LABELS: usize = 256;

struct Kernel {
    weight: f32,
    lattice: Arc<Lattice>,
    /// n, per pixel.
    normalizer: Arc<Vec<f32>>,
}

/// What the lattices are made of.
struct Picture {
    height: usize,
    width: usize,
    /// Red, green and blue of each pixel.
    colours: Vec<u8>,
}

impl Picture {
    fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// x and y of the last pixel.
    fn corner(&self) -> [f64; 2] {
        [self.width - 1, self.height - 1].map(|v| v as f64)
    }
}

/// The lattices of one image, for any number of inferences on it.
pub struct DenseCrf {
    picture: Picture,
    options: CrfOptions,
    /// The CPU's lattices, of the kernels whose weight is not 0; built where the CPU is to infer.
    kernels: OnceLock<Vec<Kernel>>,
    /// A GPU's.
    on_gpu: cuda::Last,
}

/// A lattice over positions alone is the same for every image of a size: the last few are kept.
struct Positions {
    /// Height, width, deviation's bits.
    key: (usize, usize, u64),
    lattice: Arc<Lattice>,
    normalizer: Arc<Vec<f32>>,
}

const POSITIONS_KEPT: usize = 8;
static POSITIONS: Mutex<Vec<Positions>> = Mutex::new(Vec::new());

fn positions(height: usize, width: usize, sigma: f64) -> (Arc<Lattice>, Arc<Vec<f32>>) {
    let key = (height, width, sigma.to_bits());
    let kept = || POSITIONS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(found) = kept().iter().find(|p| p.key == key) {
        return (found.lattice.clone(), found.normalizer.clone());
    }
    let deviation = sigma as f32;
    let points: Vec<[f32; 2]> =
        (0..height * width).map(|p| [p % width, p / width].map(|v| v as f32 / deviation)).collect();
    let lattice = Arc::new(Lattice::new::<2, 3>(&points, &[]));
    let normalizer = Arc::new(lattice.normalizer(points.len()));
    let mut kept = kept();
    if kept.len() == POSITIONS_KEPT {
        kept.remove(0);
    }
    kept.push(Positions { key, lattice: lattice.clone(), normalizer: normalizer.clone() });
    (lattice, normalizer)
}

/// Forgets the lattices over positions that were kept, on a GPU too where one is given, so that the next image's is built:
/// for timings.
pub fn forget_positions(gpu: Option<&Arc<Gpu>>) {
    POSITIONS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clear();
    if let Some(gpu) = gpu {
        cuda::forget_positions(gpu);
    }
}

/// The CPU's lattices. `bystanders` are features without a pixel, see [`Lattice::new`].
fn kernels(picture: &Picture, options: &CrfOptions, bystanders: &[[f32; 5]]) -> Vec<Kernel> {
    let CrfOptions { gaussian, bilateral, .. } = *options;
    let (height, width) = (picture.height, picture.width);
    let mut kernels = Vec::with_capacity(2);
    if gaussian.weight > 0.0 {
        let (lattice, normalizer) = positions(height, width, gaussian.sigma_xy);
        kernels.push(Kernel { weight: gaussian.weight as f32, lattice, normalizer });
    }
    if bilateral.weight > 0.0 {
        let (place, colour) = (bilateral.sigma_xy as f32, bilateral.sigma_rgb as f32);
        let (colours, _) = picture.colours.as_chunks::<3>();
        let points: Vec<[f32; 5]> = (0..height * width)
            .map(|p| {
                let [x, y] = [p % width, p / width].map(|v| v as f32 / place);
                let [r, g, b] = colours[p].map(|v| f32::from(v) / colour);
                [x, y, r, g, b]
            })
            .collect();
        let lattice = Arc::new(Lattice::new::<5, 6>(&points, bystanders));
        let normalizer = Arc::new(lattice.normalizer(points.len()));
        kernels.push(Kernel { weight: bilateral.weight as f32, lattice, normalizer });
    }
    kernels
}

impl DenseCrf {
    /// Builds the lattices of an image, on the CPU.
    ///
    /// # Errors
    /// An image without pixels; a deviation that is not positive, a weight that is negative.
    pub fn new(image: &RgbImage, options: &CrfOptions) -> Result<Self> {
        Self::on(None, image, options)
    }

    /// Builds the lattices of an image on a GPU where one is given, else on the CPU.
    ///
    /// # Errors
    /// As [`DenseCrf::new`]; the device's; an image that is too many deviations wide for a GPU's keys.
    pub fn on(gpu: Option<&Arc<Gpu>>, image: &RgbImage, options: &CrfOptions) -> Result<Self> {
        let crf = Self::of(image, options)?;
        match gpu {
            Some(gpu) => crf.build_on(gpu)?,
            None => _ = crf.kernels(),
        }
        Ok(crf)
    }

    /// With `bystanders`, see [`kernels`].
    #[cfg(test)]
    fn build(image: &RgbImage, options: &CrfOptions, bystanders: &[[f32; 5]]) -> Result<Self> {
        let crf = Self::of(image, options)?;
        crf.kernels.get_or_init(|| kernels(&crf.picture, options, bystanders));
        Ok(crf)
    }

    /// Without any lattice yet.
    fn of(image: &RgbImage, options: &CrfOptions) -> Result<Self> {
        let RgbImage { height, width, pixels } = image;
        if height * width == 0 {
            return Err(Error::shape("crf", "the image has no pixels"));
        }
        let CrfOptions { gaussian, bilateral, .. } = *options;
        for (name, sigma) in [
            ("gaussian σ_xy", gaussian.sigma_xy),
            ("bilateral σ_xy", bilateral.sigma_xy),
            ("bilateral σ_rgb", bilateral.sigma_rgb),
        ] {
            // The lower bound keeps lattice coordinates within their range on any image.
            if !(sigma.is_finite() && sigma >= 0.01) {
                return Err(Error::invalid(format!("CRF {name} = {sigma}: at least 0.01 expected")));
            }
        }
        for (name, weight) in [("gaussian", gaussian.weight), ("bilateral", bilateral.weight)] {
            if !(weight.is_finite() && weight >= 0.0) {
                return Err(Error::invalid(format!("CRF {name} weight = {weight}: 0 or more expected")));
            }
        }
        let picture = Picture { height: *height, width: *width, colours: pixels.clone() };
        Ok(Self { picture, options: *options, kernels: OnceLock::new(), on_gpu: cuda::Last::default() })
    }

    /// The CPU's lattices.
    fn kernels(&self) -> &[Kernel] {
        self.kernels.get_or_init(|| kernels(&self.picture, &self.options, &[]))
    }

    /// As [`DenseCrf::infer`], on a GPU where one is given: scores and result in host memory. Lattices that are not there
    /// yet are built; those of the last GPU are kept.
    ///
    /// # Errors
    /// As [`DenseCrf::infer`] and [`DenseCrf::on`].
    pub fn infer_on(&self, gpu: Option<&Arc<Gpu>>, scores: &Tensor) -> Result<Tensor> {
        match gpu {
            Some(gpu) => cuda::infer(gpu, cuda::choose(gpu), self, scores),
            None => self.infer(scores),
        }
    }

    /// Q after the mean field's iterations, L×H×W, from scores L×H×W, which need not sum to 1.
    ///
    /// # Errors
    /// Scores of another size than the image, no label or more than 256, values that are not finite.
    pub fn infer(&self, scores: &Tensor) -> Result<Tensor> {
        let labels = self.check(scores)?;
        let (h, w) = (self.picture.height, self.picture.width);
        let n = h * w;
        let log_p = |label: usize, pixel: usize| math::ln(scores.data()[label * n + pixel].clamp(1e-5, 1.0));
        // Pixel by pixel, a multiple of four labels each, so that a pixel's labels fill vectors.
        let planes: Vec<f32> = match labels {
            1..=4 => transpose(&self.mean_field::<4>(labels, log_p), labels),
            5..=8 => transpose(&self.mean_field::<8>(labels, log_p), labels),
            9..=16 => transpose(&self.mean_field::<16>(labels, log_p), labels),
            17..=24 => transpose(&self.mean_field::<24>(labels, log_p), labels),
            25..=32 => transpose(&self.mean_field::<32>(labels, log_p), labels),
            _ => transpose(&self.mean_field::<MOST_LABELS>(labels, log_p), labels),
        };
        Tensor::new(&[labels, h, w], planes)
    }

    /// Checks the scores; their number of labels.
    fn check(&self, scores: &Tensor) -> Result<usize> {
        let (h, w) = (self.picture.height, self.picture.width);
        let labels = match *scores.shape() {
            [l, sh, sw] if l > 0 && (sh, sw) == (h, w) => l,
            _ => {
                let message = format!("scores {:?} for an image of {h}×{w}", scores.shape());
                return Err(Error::shape("crf", message));
            }
        };
        if labels > MOST_LABELS {
            return Err(Error::invalid(format!("{labels} labels: at most {MOST_LABELS} are possible")));
        }
        if !scores.is_finite() {
            return Err(Error::invalid("the CRF's scores have values that are not finite"));
        }
        Ok(labels)
    }

    fn mean_field<const C: usize>(
        &self,
        labels: usize,
        log_p: impl Fn(usize, usize) -> f32 + Sync,
    ) -> Vec<[f32; C]> {
        const CHUNK: usize = 2048;
        let n = self.picture.pixels();
        let unary: Vec<[f32; C]> = (0..n)
            .into_par_iter()
            .with_min_len(CHUNK)
            .map(|pixel| {
                std::array::from_fn(|c| if c < labels { log_p(c, pixel) } else { f32::NEG_INFINITY })
            })
            .collect();
        let mut q = unary.clone();
        q.par_chunks_mut(CHUNK).for_each(|rows| rows.iter_mut().for_each(|row| softmax(row, labels)));
        // Two buffers for all iterations: fresh memory would cost a page fault every 4 KiB.
        let mut scaled = vec![[0f32; C]; n];
        let mut energy = unary.clone();
        for _ in 0..self.options.iterations {
            energy
                .par_iter_mut()
                .zip(&unary)
                .with_min_len(CHUNK)
                .for_each(|(energy, unary)| *energy = *unary);
            for kernel in self.kernels() {
                scaled.par_iter_mut().zip(&q).zip(&*kernel.normalizer).with_min_len(CHUNK).for_each(
                    |((scaled, q), n)| {
                        *scaled = q.map(|v| v * n);
                    },
                );
                let message = kernel.lattice.filter(&scaled);
                energy.par_iter_mut().zip(&message).zip(&*kernel.normalizer).with_min_len(CHUNK).for_each(
                    |((energy, message), n)| {
                        let factor = kernel.weight * n;
                        for c in 0..C {
                            energy[c] += factor * message[c];
                        }
                    },
                );
            }
            energy
                .par_chunks_mut(CHUNK)
                .for_each(|rows| rows.iter_mut().for_each(|row| softmax(row, labels)));
            std::mem::swap(&mut q, &mut energy);
        }
        q
    }
}

/// Softmax of the first `labels` values; the rest, −∞, become 0. Four at a time, so that they fill vectors.
fn softmax<const C: usize>(row: &mut [f32; C], labels: usize) {
    let (fours, _) = row[..labels.next_multiple_of(4)].as_chunks_mut::<4>();
    let largest = fours.iter().flatten().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    for four in &mut *fours {
        *four = four.map(|v| math::exp(v - largest));
    }
    let sum: f32 = fours.iter().flatten().sum();
    for four in fours {
        *four = four.map(|v| v / sum);
    }
    row[labels..].fill(0.0);
}

fn transpose<const C: usize>(rows: &[[f32; C]], labels: usize) -> Vec<f32> {
    (0..labels).flat_map(|label| rows.iter().map(move |row| row[label])).collect()
}
