//! Scoring what the stages wrote against ground truth. Images are scored in parallel; their counts are
//! integers, so the order in which they are added changes nothing.

use std::path::Path;

use rayon::prelude::*;

use crate::data::{Dataset, Sample};
use crate::eval::{ConfusionMatrix, ThresholdSweep};
use crate::formats::cams;
use crate::formats::image::LabelMap;
use crate::formats::label_png::read_labels;
use crate::progress::check_interrupted;
use crate::{Error, Result, show_path};

use super::images::check_folder_classes;
use super::make_cams::read_class_maps;

/// Adds up what `score` makes of every image that has ground truth, and warns of those where it finds no
/// prediction.
///
/// # Errors
/// Whatever `score` fails with, with the mask's path; no prediction for any image.
fn add_up<T: Clone + Send + Sync>(
    data: &Dataset,
    folder: &Path,
    what: &str,
    empty: T,
    score: impl Fn(&mut T, &Sample, &LabelMap) -> Result<bool> + Sync,
    merge: impl Fn(&mut T, &T) + Sync,
) -> Result<T> {
    check_folder_classes(folder, data)?;
    let start = || (empty.clone(), 0usize, 0usize);
    let (total, scored, missing) = data
        .samples
        .par_iter()
        .try_fold(start, |(mut total, mut scored, mut missing), sample| {
            check_interrupted()?;
            if let Some(mask) = &sample.mask {
                let truth = read_labels(mask)?;
                match score(&mut total, sample, &truth).map_err(|e| e.in_file(mask))? {
                    true => scored += 1,
                    false => missing += 1,
                }
            }
            Ok((total, scored, missing))
        })
        .try_reduce(start, |mut a, b| {
            merge(&mut a.0, &b.0);
            Ok((a.0, a.1 + b.1, a.2 + b.2))
        })?;
    if scored == 0 {
        let message = format!("no image of the list has both {what} here and a mask");
        return Err(Error::invalid(message).in_file(folder));
    }
    if missing > 0 {
        log::warn!(
            "{}: {missing} of {} images have no {what}: not scored",
            show_path(folder),
            scored + missing
        );
    }
    Ok(total)
}

/// Scores a folder of label PNGs.
///
/// # Errors
/// No prediction for any image with ground truth; maps of another size than their mask.
pub fn score_labels(data: &Dataset, predictions: &Path) -> Result<ConfusionMatrix> {
    let score = |matrix: &mut ConfusionMatrix, sample: &Sample, truth: &LabelMap| {
        let path = predictions.join(format!("{}.png", sample.id));
        if !path.is_file() {
            return Ok(false);
        }
        matrix.add(&read_labels(&path)?, truth).map_err(|e| e.in_file(&path))?;
        Ok(true)
    };
    let empty = ConfusionMatrix::new(data.classes.len());
    add_up(data, predictions, "a prediction", empty, score, ConfusionMatrix::merge)
}

/// Scores class maps against each of several constant background scores; the matrices are in the order of
/// the thresholds. Each image's maps are read once.
///
/// # Errors
/// As [`score_labels`].
pub fn score_cams(data: &Dataset, folder: &Path, thresholds: &[f32]) -> Result<Vec<ConfusionMatrix>> {
    let score = |sweep: &mut ThresholdSweep, sample: &Sample, truth: &LabelMap| {
        let Some(path) = cams::find(folder, &sample.id) else { return Ok(false) };
        let (maps, labels) = read_class_maps(&path, &data.classes, truth.height, truth.width)?;
        sweep.add(&maps, &labels, truth).map_err(|e| e.in_file(&path))?;
        Ok(true)
    };
    let empty = ThresholdSweep::new(data.classes.len(), thresholds);
    let sweep = add_up(data, folder, "class maps", empty, score, ThresholdSweep::merge)?;
    let matrices = sweep.matrices();
    let of = |threshold: &f32| matrices.iter().find(|(t, _)| t == threshold).map(|(_, m)| m.clone());
    thresholds.iter().map(|t| of(t).ok_or_else(|| Error::invalid(format!("{t} is no threshold")))).collect()
}

/// The thresholds of a sweep: 0.05, 0.10, …, 0.95.
pub fn sweep() -> Vec<f32> {
    (1..20).map(|i| i as f32 * 0.05).collect()
}

/// A threshold as a person writes it, 0.3 and not the f32's 0.30000001192…: what goes to JSON.
pub fn decimal(threshold: f32) -> f64 {
    (f64::from(threshold) * 1e6).round() / 1e6
}
