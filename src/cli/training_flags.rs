//! What the three trainings share: their flags, and what they print.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::session::{Outcome, Session, path_json};
use super::stage_folder::clear_training;
use crate::config::{Config, Preset, TrainingConfig, Width};
use crate::data::Dataset;
use crate::pipeline::memory::Recompute;
use crate::pipeline::stages::TrainStage;
use crate::pipeline::training::TrainingSummary;
use crate::{Error, Result, show_path};

/// Flags of a training; they win over the configuration file.
#[derive(Args)]
#[command(next_help_heading = "Training")]
pub(super) struct TrainingFlags {
    /// Folder for checkpoints and events.jsonl; a training that was broken off there goes on
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Weights to start from: a checkpoint folder or any weight file [default: random]
    #[arg(long, value_name = "WEIGHTS")]
    init: Option<PathBuf>,
    /// Share of the full channel counts, such as 1/8
    #[arg(long, value_name = "FRACTION")]
    width: Option<Width>,
    /// Where the defaults come from: paper or psa
    #[arg(long)]
    preset: Option<Preset>,
    /// Passes over the list
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    epochs: Option<u32>,
    /// Images a step
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: Option<u32>,
    /// Side of the square crop in pixels
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(8..=4096))]
    crop: Option<u32>,
    /// Base learning rate
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f32>,
    /// Make the units' activations anew on the way back instead of keeping them: auto (where a GPU's memory
    /// would not hold them), always, never; the results are the same bytes
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    recompute: Recompute,
    /// Queue every step's kernels one by one, where a GPU would launch all but the first as one graph; the results are the
    /// same bytes
    #[arg(long)]
    no_graph: bool,
    /// Count what a step takes of the GPU's memory, and stop there
    #[arg(long)]
    count_memory: bool,
}

impl TrainingFlags {
    /// The configuration with these flags over it; `recipe` picks the training's own section.
    pub fn config(
        &self,
        session: &Session,
        recipe: impl Fn(&mut Config) -> &mut TrainingConfig,
    ) -> Result<Config> {
        let mut config = session.config(None, self.preset)?;
        if let Some(init) = &self.init {
            config.backbone.init = init.clone();
            if session.common.config.is_none() {
                config.backbone.learn_statistics = false;
            }
        }
        config.backbone.width = self.width.unwrap_or(config.backbone.width);
        let training = recipe(&mut config);
        let over = |flag: Option<u32>, value: &mut usize| {
            if let Some(flag) = flag {
                *value = flag as usize;
            }
        };
        over(self.epochs, &mut training.epochs);
        over(self.batch, &mut training.batch);
        over(self.crop, &mut training.crop);
        training.learning_rate = self.learning_rate.unwrap_or(training.learning_rate);
        // The file was checked when it was read.
        config.check().map_err(Error::of_usage)?;
        Ok(config)
    }

    /// The crop, where a flag says it.
    pub fn crop(&self) -> Option<usize> {
        self.crop.map(|crop| crop as usize)
    }

    /// With `--overwrite`, removes an earlier training from the output folder.
    pub fn prepare(&self, session: &Session) -> Result<()> {
        if self.count_memory && session.gpu.is_none() {
            return Err(Error::usage("--count-memory counts a GPU's memory")
                .remedy("add --device cuda, or --device emulated where there is none"));
        }
        if self.count_memory && session.common.overwrite {
            return Err(Error::usage("--count-memory trains nothing, so it overwrites nothing"));
        }
        if session.common.overwrite { clear_training(&self.output) } else { Ok(()) }
    }

    /// A training with these flags.
    pub fn stage<'a>(
        &'a self,
        session: &'a Session,
        data: &'a Dataset,
        config: &'a Config,
    ) -> TrainStage<'a> {
        TrainStage {
            data,
            config,
            output: &self.output,
            gpu: session.gpu.as_ref(),
            recompute: self.recompute,
            graph: !self.no_graph,
            counts_only: self.count_memory,
            progress: &session.progress,
        }
    }

    /// What a training came to.
    pub fn trained(&self, summary: &TrainingSummary) -> Outcome {
        let what = if summary.was_complete { "complete already" } else { "trained" };
        let trained = format!(
            "{what}: {} steps, last loss {:.4}: {}",
            summary.steps,
            summary.last_loss,
            show_path(&self.output)
        );
        let mut lines = if self.count_memory { vec![] } else { vec![trained] };
        let memory = summary.memory.as_ref().map(|memory| {
            lines.push(memory.to_string());
            json!({
                "kept": memory.kept, "recomputed": memory.recomputed, "free": memory.free,
                "recomputes": memory.recomputes, "batch": memory.batch, "fits": memory.fits,
                "launches": memory.launches,
            })
        });
        let json = json!({
            "output": path_json(&self.output), "steps": summary.steps, "last_loss": summary.last_loss,
            "seconds": summary.seconds, "was_complete": summary.was_complete,
            "graph_steps": summary.graph_steps, "memory": memory,
        });
        Outcome::new(lines.join("\n"), json)
    }
}
