//! `check-data`.

use clap::Args;

use super::inputs::Data;
use super::session::{Outcome, Session};
use crate::data::{Report, TagUse, check_data};
use crate::progress::check_interrupted;
use crate::{Error, Result};

/// Check a data set: every fault at once, with file and line, and how often each class occurs
///
/// Reads every list, tag, photograph and mask. Faults make it fail; what merely looks wrong is a warning.
#[derive(Args)]
#[command(after_help = "Examples:
  seedwalk check-data --data D
  seedwalk check-data --data D --split train --json")]
pub(super) struct CheckData {
    #[command(flatten)]
    data: Data,
}

impl CheckData {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let mut config = session.config(None, None)?;
        let (root, options) = self.data.named(session, &mut config, TagUse::Optional)?;
        // How many images there are is known only when the check has found them.
        let stage = session.progress.stage("check-data", 0);
        let report = check_data(&root, &options, &|images| {
            stage.advance(images);
            check_interrupted()
        })?;
        stage.finish();
        let json = serde_json::to_value(&report).map_err(|e| Error::invalid(e.to_string()))?;
        let outcome = Outcome::new(text(&report), json);
        Ok(match report.faults.len() {
            0 => outcome,
            1 => outcome.failed(Error::invalid("the data set has a fault").in_file(root)),
            n => outcome.failed(Error::invalid(format!("the data set has {n} faults")).in_file(root)),
        })
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for (what, faults) in [("fault", &report.faults), ("warning", &report.warnings)] {
        for fault in faults {
            text += &format!("{what}: {fault}\n");
            if let Some(remedy) = &fault.remedy {
                text += &format!("  help: {remedy}\n");
            }
        }
    }
    let pixels: u64 = report.classes.iter().map(|c| c.pixels).sum();
    text += &format!("{:20} {:>8} {:>8}\n", "class", "images", "pixels");
    for class in &report.classes {
        let share = if pixels > 0 { 100.0 * class.pixels as f64 / pixels as f64 } else { 0.0 };
        text += &format!("{:20} {:8} {share:7.2}%\n", class.name, class.images);
    }
    let [w0, w1, h0, h1] = report.widths_and_heights;
    text + &format!(
        "{} images ({} without tags, {} with masks), {w0}–{w1} × {h0}–{h1} pixels; {} faults, {} warnings",
        report.images,
        report.untagged,
        report.masks,
        report.faults.len(),
        report.warnings.len()
    )
}
