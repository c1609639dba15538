//! `evaluate`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};

use super::inputs::Data;
use super::session::{Outcome, Session};
use crate::data::{Dataset, TagUse};
use crate::eval::ConfusionMatrix;
use crate::pipeline::score::{Missing, Scored, decimal, score_cams, score_labels, sweep};
use crate::{Error, Result};

/// Score predictions against ground truth: IoU, precision and recall per class, mean IoU, confusion matrix
///
/// Predictions are a folder of label PNGs, or class activation maps with a constant background score.
/// Pixels whose truth is 255 are left out; the mean is over all classes in truth or prediction.
#[derive(Args)]
#[command(after_help = "Examples:
  seedwalk evaluate --data D --split val --predictions masks --confusion
  seedwalk evaluate --data D --split train --cams cams --sweep --json")]
pub(super) struct Evaluate {
    #[command(flatten)]
    data: Data,
    /// Folder of label PNGs
    #[arg(long, value_name = "DIR", required_unless_present = "cams")]
    predictions: Option<PathBuf>,
    /// Folder of class activation maps, of ours or in psa's or irn's form
    #[arg(long, value_name = "DIR")]
    cams: Option<PathBuf>,
    /// Background score for maps
    #[arg(long, value_name = "SCORE", default_value_t = 0.2, requires = "cams")]
    threshold: f32,
    /// Score maps at the background scores 0.05, 0.10 … 0.95 and report the best
    #[arg(long, requires = "cams", conflicts_with = "threshold")]
    sweep: bool,
    /// Label PNGs may leave pixels undecided (255), as affinity labels do; these count as missed
    #[arg(long, requires = "predictions")]
    partial: bool,
    /// Score the images that have a prediction and leave out the others, instead of failing
    #[arg(long)]
    allow_missing: bool,
    /// Print the confusion matrix too, in per cent of each true class (--json has its pixels always)
    #[arg(long)]
    confusion: bool,
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
        let predictions = self.predictions.as_deref().map(|folder| self.labels(&data, folder)).transpose()?;
        let maps = self.cams.as_deref().map(|folder| self.maps(&data, folder)).transpose()?;

        let names = data.classes.names();
        let (mut text, mut json) = (String::new(), Map::new());
        if let Some(scored) = &predictions {
            text += &self.table(&scored.score, names);
            json.extend(describe(&scored.score, names, scored.images, scored.missing));
        }
        if let Some(scored) = &maps {
            let Sweep { scores, best } = &scored.score;
            let (threshold, matrix) = &scores[*best];
            for (threshold, matrix) in scores.iter().filter(|_| scores.len() > 1) {
                let score = cell(matrix.mean_iou());
                text += &format!("{:20}{score}\n", format!("background {threshold:.2}"));
            }
            let table = self.table(matrix, names);
            text += &format!("class activation maps, background {threshold:.2}:\n{table}");
            let mut described = describe(matrix, names, scored.images, scored.missing);
            described.insert("threshold".into(), json!(decimal(*threshold)));
            let point = |(t, m): &(f32, ConfusionMatrix)| json!({ "threshold": decimal(*t), "mean_iou": m.mean_iou() });
            described.insert("sweep".into(), scores.iter().map(point).collect());
            if predictions.is_some() {
                json.insert("cams".into(), Value::Object(described));
            } else {
                json.extend(described);
            }
        }
        Ok(Outcome::new(text, Value::Object(json)))
    }

    fn missing(&self) -> Missing {
        if self.allow_missing { Missing::LeftOut } else { Missing::Refused }
    }

    fn labels(&self, data: &Dataset, folder: &Path) -> Result<Scored<ConfusionMatrix>> {
        let empty = if self.partial { ConfusionMatrix::partial } else { ConfusionMatrix::new };
        score_labels(data, folder, self.missing(), empty(data.classes.len()))
    }

    fn maps(&self, data: &Dataset, folder: &Path) -> Result<Scored<Sweep>> {
        let thresholds = if self.sweep { sweep() } else { vec![self.threshold] };
        let Scored { score, images, missing } = score_cams(data, folder, self.missing(), &thresholds)?;
        let scores: Vec<_> = thresholds.into_iter().zip(score).collect();
        let mean = |i: usize| scores[i].1.mean_iou().unwrap_or(-1.0);
        let best = (0..scores.len()).fold(0, |best, i| if mean(i) > mean(best) { i } else { best });
        Ok(Scored { score: Sweep { scores, best }, images, missing })
    }

    /// IoU, precision and recall per class that occurs, then the means, in per cent.
    fn table(&self, matrix: &ConfusionMatrix, names: &[String]) -> String {
        let mut text = format!("{:20}{:>10}{:>10}{:>10}\n", "per cent", "IoU", "precision", "recall");
        let scores = matrix.iou().into_iter().zip(matrix.precision()).zip(matrix.recall());
        for (name, ((iou, precision), recall)) in names.iter().zip(scores) {
            if iou.is_some() {
                text += &format!("{name:20}{}{}{}\n", cell(iou), cell(precision), cell(recall));
            }
        }
        text += &format!("{:20}{}\n", "mean IoU", cell(matrix.mean_iou()));
        text += &format!("{:20}{}\n", "pixels right", cell(matrix.pixel_accuracy()));
        if matrix.undecided().is_some() {
            text += &format!("{:20}{}\n", "pixels decided", cell(matrix.coverage()));
        }
        if self.confusion {
            text += &confusion(matrix, names);
        }
        text
    }
}

/// A fraction in per cent, ten characters wide; `-` where there is none.
fn cell(fraction: Option<f64>) -> String {
    fraction.map_or_else(|| format!("{:>10}", "-"), |f| format!("{:10.2}", 100.0 * f))
}

/// The matrix in per cent of each true class: a row a true class that occurs, a column a predicted one, by
/// its index; at last what is left undecided.
fn confusion(matrix: &ConfusionMatrix, names: &[String]) -> String {
    let mut text = format!("\n{:>3} {:20}", "", "truth \\ prediction");
    (0..names.len()).for_each(|c| text += &format!("{c:>6}"));
    text += if matrix.undecided().is_some() { "   255\n" } else { "\n" };
    for (c, (name, row)) in names.iter().zip(matrix.rows()).enumerate() {
        let undecided = matrix.undecided().map(|undecided| undecided[c]);
        let total = row.iter().sum::<u64>() + undecided.unwrap_or(0);
        if total > 0 {
            let share = |n: u64| format!("{:6.1}", 100.0 * n as f64 / total as f64);
            let shares: String = row.iter().copied().chain(undecided).map(share).collect();
            text += &format!("{c:>3} {name:20}{shares}\n");
        }
    }
    text
}

/// Scores as fractions; a class that occurs nowhere is null.
fn describe(matrix: &ConfusionMatrix, names: &[String], images: usize, missing: usize) -> Map<String, Value> {
    let by_class = |scores: Vec<Option<f64>>| -> Map<String, Value> {
        names.iter().cloned().zip(scores.into_iter().map(|v| json!(v))).collect()
    };
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| map.insert(key.into(), value);
    put("mean_iou", json!(matrix.mean_iou()));
    put("pixel_accuracy", json!(matrix.pixel_accuracy()));
    put("iou", Value::Object(by_class(matrix.iou())));
    put("precision", Value::Object(by_class(matrix.precision())));
    put("recall", Value::Object(by_class(matrix.recall())));
    put("classes", json!(names));
    put("confusion_matrix", json!(matrix.rows()));
    if let Some(undecided) = matrix.undecided() {
        put("undecided", json!(undecided));
        put("coverage", json!(matrix.coverage()));
    }
    put("images", json!(images));
    put("missing", json!(missing));
    map
}
