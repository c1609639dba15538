//! `train-affinity`.

use std::path::PathBuf;

use clap::Args;

use super::inputs::Data;
use super::session::{Outcome, Session};
use super::training_flags::TrainingFlags;
use crate::Result;
use crate::data::TagUse;
use crate::pipeline::images::check_folder_classes;
use crate::pipeline::stages::train_affinity;

/// Train AffinityNet on affinity labels
#[derive(Args)]
#[command(after_help = "Examples:
  seedwalk train-affinity --data D --split train --labels affinity-labels --output runs/affinity
  seedwalk train-affinity --data D --split train --labels affinity-labels --output runs/affinity --epochs 8 --crop 128")]
pub(super) struct TrainAffinity {
    #[command(flatten)]
    data: Data,
    /// Folder of label PNGs, 255 where no label is known
    #[arg(long, value_name = "DIR")]
    labels: PathBuf,
    #[command(flatten)]
    flags: TrainingFlags,
}

impl TrainAffinity {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let mut config = self.flags.config(session, |c| &mut c.affinity.training)?;
        let data = self.data.open(session, &mut config, TagUse::Unused)?;
        // Before an earlier training is removed for this one.
        check_folder_classes(&self.labels, &data)?;
        self.flags.prepare(session)?;
        let stage = self.flags.stage(session, &data, &config);
        Ok(self.flags.trained(&train_affinity(&stage, &self.labels)?))
    }
}
