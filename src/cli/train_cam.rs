//! `train-cam`.

use clap::Args;

use super::inputs::Data;
use super::session::{Outcome, Session};
use super::training_flags::TrainingFlags;
use crate::Result;
use crate::data::TagUse;
use crate::pipeline::stages::train_cam;

/// Train the CAM network on image-level tags
#[derive(Args)]
#[command(after_help = "Examples:
  seedwalk train-cam --data D --split train --output runs/cam --width 1/8
  seedwalk train-cam --data VOC2012 --split train_aug --output runs/cam --preset psa --init resnet38.safetensors")]
pub(super) struct TrainCam {
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    flags: TrainingFlags,
}

impl TrainCam {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let mut config = self.flags.config(session, |c| &mut c.cam.training)?;
        if let Some(crop) = self.flags.crop() {
            // The published range, 256 to 512, belongs to crops of 448.
            config.cam.long_side = [(crop * 4 / 7).max(1), (crop * 8 / 7).max(1)];
        }
        let data = self.data.open(session, &mut config, TagUse::Needed)?;
        self.flags.prepare(session)?;
        let stage = self.flags.stage(session, &data, &config);
        Ok(self.flags.trained(&train_cam(&stage)?))
    }
}
