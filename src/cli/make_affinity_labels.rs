//! `make-affinity-labels`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::inputs::{Data, counted};
use super::session::{Outcome, Session};
use super::stage_folder::{StageFolder, ids, source_of};
use crate::Result;
use crate::config::Preset;
use crate::data::TagUse;
use crate::pipeline::images::check_folder_classes;
use crate::pipeline::make_affinity_labels::make_affinity_labels;

/// Make affinity labels: the confident parts of the maps, by two dense CRFs
///
/// Pixels where a class wins against a strong background get its label, those where a weak background
/// wins get 0, all others 255 (neutral).
#[derive(Args)]
#[command(after_help = "Examples:
  seedwalk make-affinity-labels --data D --split train --cams cams --output affinity-labels
  seedwalk make-affinity-labels --data D --split train --cams cams --output affinity-labels --preset psa")]
pub(super) struct MakeAffinityLabels {
    #[command(flatten)]
    data: Data,
    /// Folder of class activation maps, of ours or in psa's or irn's form
    #[arg(long, value_name = "DIR")]
    cams: PathBuf,
    /// Folder for the labels
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Keep both CRF posteriors too, as f16 in scores/ID.safetensors; under psa they are always kept, for
    /// train-affinity reads them
    #[arg(long)]
    scores: bool,
    /// Where the defaults come from, paper or psa [default: the configuration's, else paper]
    #[arg(long)]
    preset: Option<Preset>,
}

impl MakeAffinityLabels {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let mut config = session.config(None, self.preset)?;
        let data = self.data.open(session, &mut config, TagUse::Unused)?;
        check_folder_classes(&self.cams, &data)?;
        let parts = [source_of(&self.cams)?, json!([config.affinity_labels, config.data.exif]).to_string()];
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let files = |id: &str| vec![format!("{id}.png"), format!("scores/{id}.safetensors")];
        let _folder =
            StageFolder::open(session, &self.output, "make-affinity-labels", &parts, &ids(&data), files)?;
        let scores = self.scores || config.preset == Preset::Psa;
        let (gpu, progress) = (session.gpu.as_ref(), &session.progress);
        let count = make_affinity_labels(&data, &self.cams, &config, scores, &self.output, gpu, progress)?;
        Ok(counted(count, &self.output))
    }
}
