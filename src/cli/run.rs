//! `run`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::session::{Outcome, Session};
use crate::config::Preset;
use crate::pipeline::run::{clear, dry_run, run};
use crate::pipeline::summary::RunSummary;
use crate::{Error, Result, show_path};

/// Run the whole pipeline on a data set, as a configuration file says
///
/// Stages that are complete and whose inputs and settings are unchanged are skipped; one that was broken
/// off goes on where it was, with the same result as if it had not been.
#[derive(Args)]
#[command(after_help = "Examples:
  seedwalk run configs/msrc14.toml
  seedwalk run --print-config --preset psa > my.toml")]
pub(super) struct Run {
    /// Configuration in TOML (as --config)
    #[arg(value_name = "CONFIG.toml", conflicts_with = "config")]
    file: Option<PathBuf>,
    /// Where defaults come from: paper or psa [default: what the file says, else paper]
    #[arg(long)]
    preset: Option<Preset>,
    /// Folder of the run; wins over the file's
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Say which stages would run, and why; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print every setting with its value, as a file that --config takes
    #[arg(long, conflicts_with = "dry_run")]
    print_config: bool,
}

impl Run {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        if self.file.is_none() && session.common.config.is_none() && !self.print_config {
            return Err(Error::usage("which configuration? `seedwalk run CONFIG.toml`")
                .remedy("`seedwalk run --print-config > my.toml` writes one to start from"));
        }
        let mut config = session.config(self.file.as_deref(), self.preset)?;
        if let Some(folder) = self.output {
            config.output.folder = folder;
        }
        config.check().map_err(Error::of_usage)?;
        if self.print_config {
            return Ok(Outcome::new(config.to_toml()?, json!(config)));
        }
        if self.dry_run {
            let plans = dry_run(&config, &session.progress)?;
            let text: String = plans.iter().map(|(stage, plan)| format!("{stage:22} {plan}\n")).collect();
            let stages: Vec<_> = plans.iter().map(|(s, p)| json!({ "name": s, "plan": p })).collect();
            return Ok(Outcome::new(text, json!({ "stages": stages })));
        }
        if session.common.overwrite {
            clear(&config.output.folder)?;
        }
        let summary = run(&config, session.gpu.as_ref(), &session.progress)?;
        let text = format!("{}\nin {}", table(&summary), show_path(&config.output.folder));
        Ok(Outcome::new(text, summary.metrics))
    }
}

/// Stage, seconds, mean IoU on both lists.
pub(super) fn table(summary: &RunSummary) -> String {
    let score = |v: Option<f64>| v.map_or_else(|| format!("{:>6}", "–"), |v| format!("{:6.1}", 100.0 * v));
    let mut text = format!("{:20} {:>8} {:>7} {:>7}\n", "stage", "seconds", "train", "val");
    for stage in &summary.stages {
        let seconds = stage.seconds.map_or_else(|| "–".into(), |s| format!("{s:.1}"));
        let (train, val) = (score(stage.mean_iou(0)), score(stage.mean_iou(1)));
        text += &format!("{:20} {seconds:>8} {train:>7} {val:>7}\n", stage.name);
    }
    text += &format!("{:20} {:8.1}\n", "total", summary.seconds());
    text + "(mean IoU in per cent; nothing was chosen on val)"
}
