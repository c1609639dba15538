//! `walk`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::inputs::{repeated, show_repeated, tensor};
use super::session::{Outcome, Session, path_json};
use crate::config::{Config, Preset};
use crate::device::cuda::Gpu;
use crate::formats::safetensors::{Dtype, write_tensors};
use crate::ops::affinity::Stencil;
use crate::ops::walk::{self, Transition};
use crate::tensor::Tensor;
use crate::{Error, Result, show_path};

/// Run the random walk on one image's affinities: a single step, for study and comparison
///
/// Reads the tensors `affinities` 34×h×w (NaN where a pair does not exist) and `maps` L×h×w, writes `maps`
/// L×h×w. Times include building the transition matrix.
#[derive(Args)]
#[command(after_help = "Examples:
  seedwalk walk --affinities a.safetensors --maps m.safetensors --output w.safetensors
  seedwalk walk --affinities a.safetensors --maps m.safetensors --beta 4 --steps 64 --output w.safetensors --json")]
pub(super) struct Walk {
    /// safetensors file with `affinities`
    #[arg(long, value_name = "FILE")]
    affinities: PathBuf,
    /// safetensors file with `maps`
    #[arg(long, value_name = "FILE")]
    maps: PathBuf,
    /// Power of the affinities
    #[arg(long, value_name = "β", default_value_t = 8.0)]
    beta: f32,
    /// Number of steps
    #[arg(long, value_name = "t", default_value_t = 256, value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    steps: u32,
    /// γ: pairs are closer than this on the feature grid
    #[arg(long, value_name = "γ", default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=64))]
    radius: u32,
    /// Pairs at the distance γ itself count too
    #[arg(long)]
    inclusive: bool,
    /// safetensors file to write
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Run it N times and report each one's seconds
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    repeat: u32,
}

impl Walk {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let mut allowed = Config::preset(Preset::Paper);
        allowed.walk.beta = self.beta;
        allowed.check().map_err(Error::of_usage)?;
        let affinities = tensor(&self.affinities, "affinities")?;
        let maps = tensor(&self.maps, "maps")?;
        let stencil = Stencil::new(self.radius as usize, self.inclusive)?;
        let run = || match &session.gpu {
            None => self.on_cpu(&affinities, &maps, &stencil),
            Some(gpu) => self.on_gpu(gpu, &affinities, &maps, &stencil),
        };
        let (walked, seconds) = repeated(self.repeat, run)?;
        write_tensors(&self.output, &[("maps", &walked)], Dtype::F32, &[])?;
        let text = format!("{}: {}", show_repeated(&seconds), show_path(&self.output));
        let json = json!({ "output": path_json(&self.output), "shape": walked.shape(), "seconds": seconds });
        Ok(Outcome::new(text, json))
    }

    fn on_cpu(&self, affinities: &Tensor, maps: &Tensor, stencil: &Stencil) -> Result<Tensor> {
        let transition =
            Transition::new(affinities, stencil, self.beta).map_err(|e| self.affinities_at_fault(e))?;
        transition.walk(maps, self.steps as usize).map_err(|e| self.maps_at_fault(e))
    }

    fn on_gpu(
        &self,
        gpu: &Arc<Gpu>,
        affinities: &Tensor,
        maps: &Tensor,
        stencil: &Stencil,
    ) -> Result<Tensor> {
        let (h, w) = walk::check(affinities, stencil, self.beta).map_err(|e| self.affinities_at_fault(e))?;
        walk::check_maps(maps, h, w).map_err(|e| self.maps_at_fault(e))?;
        let steps = self.steps as usize;
        let rung = walk::cuda::choose(gpu, stencil, h, w);
        walk::cuda::walk(gpu, rung, affinities, stencil, self.beta, maps, steps)
    }

    fn affinities_at_fault(&self, error: Error) -> Error {
        error
            .in_file(&self.affinities)
            .remedy("`affinities` is a plane for each pair of --radius (and --inclusive), P×h×w, from 0 to 1")
    }

    fn maps_at_fault(&self, error: Error) -> Error {
        error.in_file(&self.maps).remedy("`maps` is L×h×w, finite, on the grid of the affinities")
    }
}
