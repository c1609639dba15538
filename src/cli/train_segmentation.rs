//! `train-segmentation`.

use std::path::PathBuf;

use clap::Args;

use super::inputs::Data;
use super::session::{Outcome, Session};
use super::training_flags::TrainingFlags;
use crate::Result;
use crate::data::TagUse;
use crate::pipeline::images::check_folder_classes;
use crate::pipeline::stages::train_segmentation;

/// Train the segmentation network on pseudo labels, or on any label PNGs
#[derive(Args)]
#[command(after_help = "Examples:
  seedwalk train-segmentation --data D --split train --labels pseudo-labels --output runs/segmentation
  seedwalk train-segmentation --data D --split train --labels D/SegmentationClass --output runs/supervised")]
pub(super) struct TrainSegmentation {
    #[command(flatten)]
    data: Data,
    /// Folder of label PNGs, 255 where no label is known
    #[arg(long, value_name = "DIR")]
    labels: PathBuf,
    #[command(flatten)]
    flags: TrainingFlags,
}

impl TrainSegmentation {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let mut config = self.flags.config(session, |c| &mut c.segmentation.training)?;
        let data = self.data.open(session, &mut config, TagUse::Unused)?;
        // Before an earlier training is removed for this one.
        check_folder_classes(&self.labels, &data)?;
        self.flags.prepare(session)?;
        let stage = self.flags.stage(session, &data, &config);
        Ok(self.flags.trained(&train_segmentation(&stage, &self.labels)?))
    }
}
