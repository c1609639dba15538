//! `synth`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::session::{Outcome, Session, path_json};
use crate::data::synth::{CLASSES, SynthOptions, generate};
use crate::formats::atomic::{FolderLock, sweep};
use crate::progress::{Progress, check_interrupted};
use crate::{Error, Result, show_path};

/// Generate a data set in VOC's layout, with the lists `train` and `val`
///
/// A class is told by a small part of a larger object, in clutter, so that class activation maps find
/// the part and miss the body, as on photographs. The same seed gives the same bytes on every machine.
#[derive(Args)]
#[command(after_help = "Examples:
  seedwalk synth --output data --images 400 --seed 1
  seedwalk synth --output large --images 5000 --size 256")]
pub(super) struct Synth {
    /// Folder of the data set
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Number of images; every fourth is in `val`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    images: u32,
    /// Side of the square pictures in pixels
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(64..=1024))]
    size: u32,
    /// Of 100 objects that show their telling part, how many have a surface typical of their class
    #[arg(long, value_name = "PERCENT", default_value_t = 97, value_parser = clap::value_parser!(u8).range(0..=100))]
    typical: u8,
}

impl Synth {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let (images, size, typical) = (self.images as usize, self.size as usize, self.typical);
        let options = SynthOptions { images, seed: session.common.seed.unwrap_or(0), size, typical };
        if is_data_set(&self.output) && !session.common.overwrite {
            return Err(Error::invalid("there is a data set in this folder")
                .in_file(&self.output)
                .remedy("choose another --output, or replace its files with --overwrite"));
        }
        synthesize(&self.output, &options, &session.progress)?;
        let val = (0..images).filter(|&i| options.is_val(i)).count();
        let text =
            format!("{} images to train on, {val} to score on: {}", images - val, show_path(&self.output));
        let json = json!({
            "output": path_json(&self.output), "images": images, "train": images - val, "val": val,
            "size": size, "typical": typical, "seed": options.seed, "classes": CLASSES,
        });
        Ok(Outcome::new(text, json))
    }
}

/// Whether a folder holds a complete data set: the lists are written last.
pub(super) fn is_data_set(folder: &Path) -> bool {
    folder.join("ImageSets/Segmentation/val.txt").exists()
}

/// Draws a data set with progress.
pub(super) fn synthesize(folder: &Path, options: &SynthOptions, progress: &Progress) -> Result<()> {
    let _lock = FolderLock::acquire(folder)?;
    sweep(folder)?;
    let stage = progress.stage("synth", options.images as u64);
    generate(folder, options, &|images| {
        stage.advance(images);
        check_interrupted()
    })?;
    stage.finish();
    Ok(())
}
