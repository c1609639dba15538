//! `forward`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::inputs::{ExifFlag, Weights, repeated, show_repeated};
use super::session::{Outcome, Session, path_json};
use crate::config::Config;
use crate::data::augment::normalize;
use crate::formats::image::read_rgb;
use crate::formats::safetensors::{Dtype, write_tensors};
use crate::nn::Taps;
use crate::ops::affinity::affinities;
use crate::ops::losses::softmax;
use crate::ops::resize::bilinear_resize_plane;
use crate::pipeline::networks::WeightFile;
use crate::tensor::Tensor;
use crate::{Result, show_path};

/// Run a network on one image at its own size: a single step, for study and comparison
///
/// Writes f32 tensors, channels last: `conv4`, `conv5`, `conv6` of the backbone, and of the CAM network
/// `logits` and `class_activation_maps`, of AffinityNet `features` and `affinities`, of the segmentation
/// network `logits` and `probabilities`.
#[derive(Args)]
#[command(after_help = "Examples:
  seedwalk forward --network cam --weights runs/cam --image a.jpg --output a.safetensors
  seedwalk forward --network affinity --preset psa --weights res38_aff.pth --image a.jpg --output a.safetensors --repeat 3 --json")]
pub(super) struct Forward {
    /// Which network
    #[arg(long, value_enum)]
    network: Kind,
    #[command(flatten)]
    weights: Weights,
    /// Photograph
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// safetensors file to write
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// EXIF orientation of the photograph
    #[arg(long, value_enum, default_value_t = ExifFlag::Ignore)]
    exif: ExifFlag,
    /// Run it N times and report each one's seconds
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    repeat: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Cam,
    Affinity,
    Segmentation,
}

type Named = Vec<(&'static str, Tensor)>;

impl Forward {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let (config, weights) = self.weights.read(session)?;
        let image = read_rgb(&self.image, self.exif.into())?;
        let (h, w) = (image.height, image.width);
        let input = normalize(&image);
        let (tensors, seconds) =
            self.infer(session, &config, weights, &input, h, w).map_err(|e| e.in_file(&self.image))?;
        let named: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, t)| (*name, t)).collect();
        write_tensors(&self.output, &named, Dtype::F32, &[])?;
        let mut text = String::new();
        let mut shapes = serde_json::Map::new();
        for (name, tensor) in &tensors {
            text += &format!("{name:24} {:?}\n", tensor.shape());
            shapes.insert((*name).to_string(), json!(tensor.shape()));
        }
        text += &format!("{}: {}", show_repeated(&seconds), show_path(&self.output));
        let json = json!({ "output": path_json(&self.output), "tensors": shapes, "seconds": seconds });
        Ok(Outcome::new(text, json))
    }

    /// The network's tensors and the seconds of each run; reading weights is not counted.
    fn infer(
        &self,
        session: &Session,
        config: &Config,
        file: WeightFile,
        input: &Tensor,
        h: usize,
        w: usize,
    ) -> Result<(Named, Vec<f64>)> {
        match self.network {
            Kind::Cam => {
                let loaded = self.weights.load(session, file, config, WeightFile::cam)?;
                repeated(self.repeat, || {
                    let out = loaded.network.infer(&loaded.parameters, input.clone())?;
                    let own = [("logits", out.logits), ("class_activation_maps", out.class_activation_maps)];
                    with_taps(out.taps, own)
                })
            }
            Kind::Affinity => {
                let loaded = self.weights.load(session, file, config, WeightFile::affinity)?;
                let pairs = loaded.config.affinity.pairs()?;
                repeated(self.repeat, || {
                    let out = loaded.network.infer(&loaded.parameters, input.clone())?;
                    let planes = affinities(&out.features, &pairs)?;
                    let shape = planes.shape()[1..].to_vec();
                    with_taps(out.taps, [("affinities", planes.reshape(&shape)?), ("features", out.features)])
                })
            }
            Kind::Segmentation => {
                let loaded = self.weights.load(session, file, config, WeightFile::segmentation)?;
                repeated(self.repeat, || {
                    let out = loaded.network.infer(&loaded.parameters, input.clone())?;
                    let [_, gh, gw, c] = out.logits.nhwc("logits")?;
                    let large = bilinear_resize_plane(out.logits.data(), gh, gw, c, h, w)?;
                    let p = softmax(&Tensor::new(&[1, h, w, c], large)?)?;
                    with_taps(out.taps, [("logits", out.logits), ("probabilities", p)])
                })
            }
        }
    }
}

/// All of a network's tensors, in host memory.
fn with_taps(taps: Taps, own: [(&'static str, Tensor); 2]) -> Result<Named> {
    let taps = [("conv4", taps.conv4), ("conv5", taps.conv5), ("conv6", taps.conv6)];
    let all = taps.into_iter().map(|(name, var)| (name, var.into_value())).chain(own);
    all.map(|(name, tensor)| Ok((name, tensor.to_host()?))).collect()
}
