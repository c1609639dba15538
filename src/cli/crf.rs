//! `crf`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::inputs::{ExifFlag, numbers, repeated, show_repeated, tensor};
use super::session::{Outcome, Session, path_json};
use crate::config::{Config, Preset};
use crate::formats::image::read_rgb;
use crate::formats::safetensors::{Dtype, write_tensors};
use crate::ops::crf::{BilateralKernel, CrfOptions, DenseCrf, GaussianKernel, forget_positions};
use crate::{Error, Result, show_path};

/// Run the dense CRF on one image: a single step, for study and comparison
///
/// Reads the tensor `probabilities` L×H×W and writes `q` L×H×W. Times include building the lattices.
#[derive(Args)]
#[command(after_help = "Examples:
  seedwalk crf --image a.jpg --probabilities p.safetensors --output q.safetensors
  seedwalk crf --image a.jpg --probabilities p.safetensors --output q.safetensors --bilateral 60,10,5 --repeat 5 --json")]
pub(super) struct Crf {
    /// Photograph
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// safetensors file with `probabilities`; they need not sum to 1
    #[arg(long, value_name = "FILE")]
    probabilities: PathBuf,
    /// safetensors file to write
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Iterations of the mean field
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(..=1000))]
    iterations: u32,
    /// Smoothness kernel: σ_xy,weight
    #[arg(long, value_name = "σ_xy,W", default_value = "3,3", value_parser = numbers::<2>)]
    gaussian: [f64; 2],
    /// Appearance kernel: σ_xy,σ_rgb,weight
    #[arg(long, value_name = "σ_xy,σ_rgb,W", default_value = "80,13,10", value_parser = numbers::<3>)]
    bilateral: [f64; 3],
    /// EXIF orientation of the photograph
    #[arg(long, value_enum, default_value_t = ExifFlag::Ignore)]
    exif: ExifFlag,
    /// Run it N times and report each one's seconds
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    repeat: u32,
}

impl Crf {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let [gaussian_xy, gaussian_weight] = self.gaussian;
        let [bilateral_xy, bilateral_rgb, bilateral_weight] = self.bilateral;
        let options = CrfOptions {
            iterations: self.iterations as usize,
            gaussian: GaussianKernel { sigma_xy: gaussian_xy, weight: gaussian_weight },
            bilateral: BilateralKernel {
                sigma_xy: bilateral_xy,
                sigma_rgb: bilateral_rgb,
                weight: bilateral_weight,
            },
        };
        let mut allowed = Config::preset(Preset::Paper);
        allowed.crf.options = options;
        allowed.check().map_err(Error::of_usage)?;
        let image = read_rgb(&self.image, self.exif.into())?;
        let scores = tensor(&self.probabilities, "probabilities")?;
        let run = || {
            // Every run builds both lattices, as the first does.
            let gpu = session.gpu.as_ref();
            forget_positions(gpu);
            DenseCrf::on(gpu, &image, &options)?.infer_on(gpu, &scores).map_err(|e| {
                e.in_file(&self.probabilities).remedy("`probabilities` is L×H×W, of the photograph's size")
            })
        };
        let (q, seconds) = repeated(self.repeat, run)?;
        write_tensors(&self.output, &[("q", &q)], Dtype::F32, &[])?;
        let text = format!("{}: {}", show_repeated(&seconds), show_path(&self.output));
        let json = json!({ "output": path_json(&self.output), "shape": q.shape(), "seconds": seconds });
        Ok(Outcome::new(text, json))
    }
}
