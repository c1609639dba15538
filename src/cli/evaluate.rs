//! `evaluate`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};

use super::inputs::Data;
use super::session::{Outcome, Session};
use crate::data::{Dataset, TagUse};
use crate::eval::ConfusionMatrix;
use crate::pipeline::score::{decimal, score_cams, score_labels, sweep};
use crate::{Error, Result};

/// Score predictions against ground truth: IoU per class, their mean, the confusion matrix
///
/// Predictions are a folder of label PNGs, or class activation maps with a constant background score.
/// Pixels whose truth is 255 are left out; the mean is over all classes in truth or prediction.
#[derive(Args)]
#[command(after_help = "Examples:
  seedwalk evaluate --data D --split val --predictions masks
  seedwalk evaluate --data D --split train --cams cams --sweep --json")]
pub(super) struct Evaluate {
    #[command(flatten)]
    data: Data,
    /// Folder of label PNGs
    #[arg(long, value_name = "DIR", required_unless_present = "cams")]
    predictions: Option<PathBuf>,
    /// Folder of class activation maps
    #[arg(long, value_name = "DIR")]
    cams: Option<PathBuf>,
    /// Background score for maps
    #[arg(long, value_name = "SCORE", default_value_t = 0.2, requires = "cams")]
    threshold: f32,
    /// Score maps at the background scores 0.05, 0.10 … 0.95 and report the best
    #[arg(long, requires = "cams", conflicts_with = "threshold")]
    sweep: bool,
}

/// Maps at several background scores; the first best is what counts.
struct Sweep {
    scores: Vec<(f32, ConfusionMatrix)>,
    best: usize,
}

impl Evaluate {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        if !self.threshold.is_finite() {
            return Err(Error::usage("--threshold is a number, usually from 0 to 1"));
        }
        let mut config = session.config(None, None)?;
        let data = self.data.open(session, &mut config, TagUse::Unused)?;
        if data.samples.iter().all(|s| s.mask.is_none()) {
            return Err(Error::invalid("no image of the list has a ground-truth mask")
                .in_file(&data.root)
                .remedy("masks lie in SegmentationClass/ID.png, or beside images in lists of pairs"));
        }
        let predictions =
            self.predictions.as_deref().map(|folder| score_labels(&data, folder)).transpose()?;
        let maps = self.cams.as_deref().map(|folder| self.maps(&data, folder)).transpose()?;

        let (mut text, mut json) = (String::new(), Map::new());
        if let Some(matrix) = &predictions {
            text += &table(matrix, &data);
            json.extend(describe(matrix, &data));
        }
        if let Some(sweep) = &maps {
            let (threshold, matrix) = &sweep.scores[sweep.best];
            for (threshold, matrix) in sweep.scores.iter().filter(|_| sweep.scores.len() > 1) {
                text += &format!(
                    "{:20} {:6.2}\n",
                    format!("background {threshold:.2}"),
                    per_cent(matrix.mean_iou())
                );
            }
            text += &format!("class activation maps, background {threshold:.2}:\n{}", table(matrix, &data));
            let mut described = describe(matrix, &data);
            described.insert("threshold".into(), json!(decimal(*threshold)));
            let curve = |(t, m): &(f32, ConfusionMatrix)| json!({ "threshold": decimal(*t), "mean_iou": m.mean_iou() });
            described.insert("sweep".into(), sweep.scores.iter().map(curve).collect());
            if predictions.is_some() {
                json.insert("cams".into(), Value::Object(described));
            } else {
                json.extend(described);
            }
        }
        Ok(Outcome::new(text, Value::Object(json)))
    }

    fn maps(&self, data: &Dataset, folder: &Path) -> Result<Sweep> {
        let thresholds = if self.sweep { sweep() } else { vec![self.threshold] };
        let matrices = score_cams(data, folder, &thresholds)?;
        let scores: Vec<_> = thresholds.into_iter().zip(matrices).collect();
        let mean = |i: usize| scores[i].1.mean_iou().unwrap_or(-1.0);
        let best = (0..scores.len()).fold(0, |best, i| if mean(i) > mean(best) { i } else { best });
        Ok(Sweep { scores, best })
    }
}

fn per_cent(fraction: Option<f64>) -> f64 {
    100.0 * fraction.unwrap_or(f64::NAN)
}

/// IoU per class that occurs, then the mean, in per cent.
fn table(matrix: &ConfusionMatrix, data: &Dataset) -> String {
    let mut text = String::new();
    for (name, iou) in data.classes.names().iter().zip(matrix.iou()) {
        if iou.is_some() {
            text += &format!("{name:20} {:6.2}\n", per_cent(iou));
        }
    }
    text + &format!("{:20} {:6.2}\n", "mean IoU (%)", per_cent(matrix.mean_iou()))
}

/// Scores as fractions; a class that occurs nowhere is null.
fn describe(matrix: &ConfusionMatrix, data: &Dataset) -> Map<String, Value> {
    let names = data.classes.names();
    let iou: Map<String, Value> =
        names.iter().cloned().zip(matrix.iou().into_iter().map(|v| json!(v))).collect();
    let object = json!({
        "mean_iou": matrix.mean_iou(), "pixel_accuracy": matrix.pixel_accuracy(), "iou": iou,
        "classes": names, "confusion_matrix": matrix.rows(), "images": data.samples.len(),
    });
    match object {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
