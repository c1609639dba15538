//! `demo`.

use std::path::PathBuf;

use clap::Args;

use super::run::table;
use super::session::{Outcome, Session};
use super::synth::{is_data_set, synthesize};
use crate::config::{BackboneConfig, Config, Width};
use crate::data::synth::SynthOptions;
use crate::formats::atomic::write_atomically;
use crate::pipeline::run::{clear, run};
use crate::{Result, show_path};

/// Run the whole pipeline on a generated data set, and show what each stage makes of it
///
/// The networks start from a small backbone that the program carries, pretrained on other generated images
/// (configs/backbone.toml). Writes a data set, every stage's results, metrics.json, report.html and its
/// pictures as PNG files in figures/. Takes a few minutes on two cores; a demo that was broken off goes on.
#[derive(Args)]
#[command(after_help = "Examples:
  seedwalk demo
  seedwalk demo --tiny --device emulated --output runs/tiny")]
pub(super) struct Demo {
    /// Folder for the data set and all results
    #[arg(long, value_name = "DIR", default_value = "runs/demo")]
    output: PathBuf,
    /// Number of images to generate; every fourth is scored on, the others are trained on
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(8..=100_000))]
    images: u32,
    /// Take every stage in seconds, to see that a device computes: 8 images of 64 pixels, narrow networks from random
    /// weights, one epoch. They learn nothing
    #[arg(long, conflicts_with = "images")]
    tiny: bool,
}

/// Made as the head of `configs/backbone.toml` says.
const BACKBONE: &[u8] = include_bytes!("../../weights/backbone-narrow.safetensors");

impl Demo {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let seed = session.common.seed.unwrap_or(0);
        let mut config = Config::demo(seed, &self.output);
        let mut options = SynthOptions { images: self.images as usize, seed, ..Default::default() };
        if self.tiny {
            shrink(&mut config);
            (options.images, options.size) = (8, 64);
        }
        if session.common.overwrite {
            clear(&self.output)?;
        }
        if session.common.overwrite || !is_data_set(&config.data.root) {
            synthesize(&config.data.root, &options, &session.progress)?;
        }
        let backbone = Config::demo_backbone(&self.output);
        if !self.tiny && !std::fs::read(&backbone).is_ok_and(|bytes| bytes == BACKBONE) {
            write_atomically(&backbone, |file| file.write_all(BACKBONE))?;
        }
        let summary = run(&config, session.gpu.as_ref(), &session.progress)?;
        let text = format!("{}\nin {}", table(&summary), show_path(&self.output));
        Ok(Outcome::new(text, summary.metrics))
    }
}

/// A configuration whose stages are all there and each take seconds, on the emulated device too.
fn shrink(config: &mut Config) {
    config.backbone = BackboneConfig { width: Width::TINY, init: PathBuf::new(), learn_statistics: true };
    config.cam.long_side = [32, 64];
    config.cam.scales = vec![1.0];
    config.segmentation.scales = vec![1.0];
    config.segmentation.flip = false;
    let trainings =
        [&mut config.cam.training, &mut config.affinity.training, &mut config.segmentation.training];
    for training in trainings {
        (training.batch, training.epochs, training.crop, training.warmup_steps) = (2, 1, 32, 2);
    }
}
