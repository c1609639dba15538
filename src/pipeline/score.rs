//! Scoring what the stages wrote against ground truth.

use std::path::Path;

use rayon::prelude::*;

use crate::data::{Dataset, Sample};
use crate::eval::ConfusionMatrix;
use crate::formats::cams;
use crate::formats::image::LabelMap;
use crate::formats::label_png::read_labels;
use crate::ops::class_maps;
use crate::{Error, Result};

use super::make_cams::read_class_maps;

/// Joins the matrices of all images that have ground truth and, by `predict`, predictions.
fn joined(
    data: &Dataset,
    matrices: usize,
    predict: impl Fn(&Sample, &LabelMap) -> Result<Option<Vec<LabelMap>>> + Sync,
) -> Result<Vec<ConfusionMatrix>> {
    let empty = || vec![ConfusionMatrix::new(data.classes.len()); matrices];
    data.samples
        .par_iter()
        .map(|sample| {
            let mut out = empty();
            let Some(mask) = &sample.mask else { return Ok(out) };
            let truth = read_labels(mask)?;
            if let Some(maps) = predict(sample, &truth)? {
                for (matrix, map) in out.iter_mut().zip(&maps) {
                    matrix.add(map, &truth).map_err(|e| e.in_file(mask))?;
                }
            }
            Ok(out)
        })
        .try_reduce(empty, |mut a, b| {
            a.iter_mut().zip(&b).for_each(|(a, b)| a.merge(b));
            Ok(a)
        })
}

/// Scores a folder of label PNGs.
///
/// # Errors
/// No prediction for any image with ground truth; maps of another size than their mask.
pub fn score_labels(data: &Dataset, predictions: &Path) -> Result<ConfusionMatrix> {
    let matrix = joined(data, 1, |sample, _| {
        let path = predictions.join(format!("{}.png", sample.id));
        if !path.is_file() {
            return Ok(None);
        }
        Ok(Some(vec![read_labels(&path)?]))
    })?
    .remove(0);
    match matrix.mean_iou() {
        Some(_) => Ok(matrix),
        None => {
            Err(Error::invalid("no image of the list has both a prediction here and a mask")
                .in_file(predictions))
        }
    }
}

/// Scores class maps against each of several constant background scores.
///
/// # Errors
/// As [`score_labels`].
pub fn score_cams(data: &Dataset, folder: &Path, thresholds: &[f32]) -> Result<Vec<ConfusionMatrix>> {
    let matrices = joined(data, thresholds.len(), |sample, truth| {
        let Some(path) = cams::find(folder, &sample.id) else { return Ok(None) };
        let (maps, names) = read_class_maps(&path, &data.classes, truth.height, truth.width)?;
        let labels: Vec<u8> = std::iter::once(0).chain(names).collect();
        let label = |&t: &f32| class_maps::argmax(&class_maps::with_constant_background(&maps, t)?, &labels);
        thresholds.iter().map(label).collect::<Result<Vec<_>>>().map(Some)
    })?;
    match matrices.first().and_then(ConfusionMatrix::mean_iou) {
        Some(_) => Ok(matrices),
        None => {
            Err(Error::invalid("no image of the list has both class maps here and a mask").in_file(folder))
        }
    }
}

/// The thresholds of a sweep: 0.05, 0.10, …, 0.95.
pub fn sweep() -> Vec<f32> {
    (1..20).map(|i| i as f32 * 0.05).collect()
}
