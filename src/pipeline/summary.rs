//! What a run came to: seconds and scores of each stage, as `metrics.json`, the table and the report tell it.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::Result;
use crate::data::Dataset;
use crate::eval::ConfusionMatrix;

use super::score::{Missing, score_cams, score_labels, sweep};

/// A stage that ran: its time and, if it makes labels, how good they are.
#[derive(Debug, Clone)]
pub struct StageResult {
    /// Its name in `metrics.json`.
    pub name: &'static str,
    /// Seconds over all attempts; `None` where the stage named by `includes` below counts them.
    pub seconds: Option<f64>,
    /// Confusion matrices on the training and the validation list, where there are masks.
    pub scores: [Option<ConfusionMatrix>; 2],
    /// What else `metrics.json` tells: steps, last loss, threshold.
    pub more: Value,
}

impl StageResult {
    /// A stage that makes no labels.
    pub fn unscored(name: &'static str, seconds: f64, more: Value) -> Self {
        Self { name, seconds: Some(seconds), scores: [None, None], more }
    }

    /// Mean IoU on the training (0) or validation list (1).
    pub fn mean_iou(&self, list: usize) -> Option<f64> {
        self.scores[list].as_ref().and_then(ConfusionMatrix::mean_iou)
    }

    fn to_json(&self, classes: &[String]) -> Value {
        let mut entry = Map::new();
        entry.insert("name".into(), json!(self.name));
        entry.insert("seconds".into(), json!(self.seconds.unwrap_or(0.0)));
        if self.scores.iter().any(Option::is_some) {
            let per_class = |m: &Option<ConfusionMatrix>| -> Map<String, Value> {
                let pairs = m.iter().flat_map(|m| classes.iter().cloned().zip(m.iou()));
                pairs.filter_map(|(name, iou)| Some((name, json!(iou?)))).collect()
            };
            entry.insert("mean_iou".into(), json!({"train": self.mean_iou(0), "val": self.mean_iou(1)}));
            let [train, val] = &self.scores;
            entry.insert("iou".into(), json!({"train": per_class(train), "val": per_class(val)}));
        }
        if let Value::Object(more) = &self.more {
            entry.extend(more.clone());
        }
        Value::Object(entry)
    }
}

/// What a run came to.
#[derive(Debug, Clone)]
pub struct RunSummary {
    /// The stages in their order.
    pub stages: Vec<StageResult>,
    /// The contents of `metrics.json`.
    pub metrics: Value,
}

impl RunSummary {
    /// Gathers stages under the class names of their scores, background first.
    pub fn new(stages: Vec<StageResult>, classes: &[String]) -> Self {
        let entries: Vec<Value> = stages.iter().map(|stage| stage.to_json(classes)).collect();
        let version = env!("CARGO_PKG_VERSION");
        let metrics = json!({"schema_version": 1, "version": version, "stages": entries});
        Self { stages, metrics }
    }

    /// The seconds of all stages.
    pub fn seconds(&self) -> f64 {
        self.stages.iter().filter_map(|stage| stage.seconds).sum()
    }
}

/// Scores of a list of folders on both lists of a data set.
pub(super) struct Scorer<'a> {
    lists: [&'a Dataset; 2],
}

impl<'a> Scorer<'a> {
    pub fn new(train: &'a Dataset, val: &'a Dataset) -> Self {
        Self { lists: [train, val] }
    }

    fn has_masks(&self, list: usize) -> bool {
        self.lists[list].samples.iter().any(|sample| sample.mask.is_some())
    }

    /// Label PNGs on both lists.
    pub fn labels(&self, folder: &Path) -> Result<[Option<ConfusionMatrix>; 2]> {
        let one = |list: usize| -> Result<Option<ConfusionMatrix>> {
            if !self.has_masks(list) {
                return Ok(None);
            }
            let data = self.lists[list];
            let empty = ConfusionMatrix::new(data.classes.len());
            Ok(Some(score_labels(data, folder, Missing::LeftOut, empty)?.score))
        };
        Ok([one(0)?, one(1)?])
    }

    /// Class activation maps, at the background score that suits the training list best; with no masks
    /// there, at 0.2.
    pub fn cams(&self, folder: &Path) -> Result<(f32, [Option<ConfusionMatrix>; 2])> {
        let mut best = (0.2f32, None);
        if self.has_masks(0) {
            let thresholds = sweep();
            let all = score_cams(self.lists[0], folder, Missing::LeftOut, &thresholds)?.score;
            let mean = |m: &ConfusionMatrix| m.mean_iou().unwrap_or(0.0);
            if let Some((threshold, matrix)) =
                thresholds.into_iter().zip(all).max_by(|a, b| mean(&a.1).total_cmp(&mean(&b.1)))
            {
                best = (threshold, Some(matrix));
            }
        }
        let val = match self.has_masks(1) {
            true => score_cams(self.lists[1], folder, Missing::LeftOut, &[best.0])?.score.pop(),
            false => None,
        };
        Ok((best.0, [best.1, val]))
    }
}
