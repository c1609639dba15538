//! `make-pseudo-labels`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::inputs::{Data, Weights, counted};
use super::session::{Outcome, Session};
use super::stage_folder::{StageFolder, ids, source_of, weights_of};
use crate::Result;
use crate::data::TagUse;
use crate::pipeline::images::check_folder_classes;
use crate::pipeline::make_pseudo_labels::make_pseudo_labels;
use crate::pipeline::networks::WeightFile;

/// Make pseudo labels: the maps, grown by a random walk over learned affinities, refined by the dense CRF
#[derive(Args)]
#[command(after_help = "Examples:
  seedwalk make-pseudo-labels --data D --split train --cams cams --weights runs/affinity --output pseudo-labels
  seedwalk make-pseudo-labels --data D --split train --cams cams --weights runs/affinity --output pseudo-labels --revised revised-labels")]
pub(super) struct MakePseudoLabels {
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    weights: Weights,
    /// Folder of class activation maps, of ours or in psa's or irn's form
    #[arg(long, value_name = "DIR")]
    cams: PathBuf,
    /// Folder for the labels
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Folder for the labels before the CRF, if they are wanted too
    #[arg(long, value_name = "DIR")]
    revised: Option<PathBuf>,
}

impl MakePseudoLabels {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let (mut config, file) = self.weights.read(session)?;
        let data = self.data.open(session, &mut config, TagUse::Unused)?;
        let weights = &self.weights.weights;
        let loaded = self.weights.load(session, file, &config, WeightFile::affinity)?;
        let settings = json!([
            config.preset,
            config.backbone.width,
            config.walk,
            config.crf,
            config.affinity,
            config.data.exif
        ]);
        check_folder_classes(&self.cams, &data)?;
        let parts = [weights_of(weights)?, source_of(&self.cams)?, settings.to_string()];
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let files = |id: &str| vec![format!("{id}.png")];
        let open =
            |folder| StageFolder::open(session, folder, "make-pseudo-labels", &parts, &ids(&data), files);
        let _folder = open(&self.output)?;
        let _revised = self.revised.as_deref().map(open).transpose()?;
        let (network, parameters) = (&loaded.network, &loaded.parameters);
        let (revised, progress) = (self.revised.as_deref(), &session.progress);
        let count = make_pseudo_labels(
            network,
            parameters,
            &data,
            &self.cams,
            &loaded.config,
            &self.output,
            revised,
            progress,
        )?;
        Ok(counted(count, &self.output))
    }
}
