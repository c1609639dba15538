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

/// What becomes of images that have ground truth and no prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// They are an error: a score over those that are there says less than it seems to.
    Refused,
    /// They are left out with a warning: a run's stages leave out images without tags.
    LeftOut,
}

/// What came of scoring a folder.
#[derive(Debug, Clone)]
pub struct Scored<T> {
    /// The counts.
    pub score: T,
    /// Images that were scored.
    pub images: usize,
    /// Images that have ground truth and no prediction.
    pub missing: usize,
}

impl<T> Scored<T> {
    fn map<U>(self, f: impl FnOnce(T) -> Result<U>) -> Result<Scored<U>> {
        Ok(Scored { score: f(self.score)?, images: self.images, missing: self.missing })
    }
}

/// Adds up what `score` makes of every image that has ground truth; it says whether it found a prediction.
///
/// # Errors
/// Whatever `score` fails with, with the mask's path; no prediction for any image, or for one where that
/// is refused.
fn add_up<T: Clone + Send + Sync>(
    data: &Dataset,
    folder: &Path,
    what: &str,
    missing: Missing,
    empty: T,
    score: impl Fn(&mut T, &Sample, &LabelMap) -> Result<bool> + Sync,
    merge: impl Fn(&mut T, &T) + Sync,
) -> Result<Scored<T>> {
    check_folder_classes(folder, data)?;
    let start = || (empty.clone(), 0usize, Vec::<&str>::new());
    let (score, images, lacking) = data
        .samples
        .par_iter()
        .try_fold(start, |(mut total, mut images, mut lacking), sample| {
            check_interrupted()?;
            if let Some(mask) = &sample.mask {
                let truth = read_labels(mask)?;
                truth.check_classes(data.classes.len()).map_err(|e| e.in_file(mask))?;
                match score(&mut total, sample, &truth).map_err(|e| e.in_file(mask))? {
                    true => images += 1,
                    false => lacking.push(&sample.id),
                }
            }
            Ok((total, images, lacking))
        })
        .try_reduce(start, |mut a, b| {
            merge(&mut a.0, &b.0);
            a.2.extend(b.2);
            Ok((a.0, a.1 + b.1, a.2))
        })?;
    if images == 0 {
        let message = format!("no image of the list has both {what} here and a mask");
        return Err(Error::invalid(message).in_file(folder).remedy(
            "predictions lie in the folder under their image's id, as ID.png, ID.safetensors or ID.npy",
        ));
    }
    if !lacking.is_empty() {
        let all = images + lacking.len();
        let message = format!("{} of {all} images have no {what}: {}", lacking.len(), some_of(&lacking));
        if missing == Missing::Refused {
            return Err(Error::invalid(message).in_file(folder).remedy(
                "make them too, name the list that they were made for (--split), or score those that are \
                 there (--allow-missing)",
            ));
        }
        log::warn!("{}: {message}; not scored", show_path(folder));
    }
    Ok(Scored { score, images, missing: lacking.len() })
}

/// The first few of some ids.
fn some_of(ids: &[&str]) -> String {
    const SHOWN: usize = 5;
    let shown = ids.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if ids.len() > SHOWN { format!("{shown}, …") } else { shown }
}

/// Scores a folder of label PNGs into `empty`, which says whether they may leave pixels undecided.
///
/// # Errors
/// Predictions that are missing, where that is refused; maps of another size than their mask, labels that are no class.
pub fn score_labels(
    data: &Dataset,
    predictions: &Path,
    missing: Missing,
    empty: ConfusionMatrix,
) -> Result<Scored<ConfusionMatrix>> {
    let score = |matrix: &mut ConfusionMatrix, sample: &Sample, truth: &LabelMap| {
        let path = predictions.join(format!("{}.png", sample.id));
        if !path.is_file() {
            return Ok(false);
        }
        matrix.add(&read_labels(&path)?, truth).map_err(|e| e.in_file(&path))?;
        Ok(true)
    };
    add_up(data, predictions, "label PNG", missing, empty, score, ConfusionMatrix::merge)
}

/// Scores class maps against each of several constant background scores; the matrices are in the order of
/// the thresholds. Each image's maps are read once.
///
/// # Errors
/// As [`score_labels`].
pub fn score_cams(
    data: &Dataset,
    folder: &Path,
    missing: Missing,
    thresholds: &[f32],
) -> Result<Scored<Vec<ConfusionMatrix>>> {
    let score = |sweep: &mut ThresholdSweep, sample: &Sample, truth: &LabelMap| {
        let Some(path) = cams::find(folder, &sample.id) else { return Ok(false) };
        let (maps, labels) = read_class_maps(&path, &data.classes, truth.height, truth.width)?;
        sweep.add(&maps, &labels, truth).map_err(|e| e.in_file(&path))?;
        Ok(true)
    };
    let empty = ThresholdSweep::new(data.classes.len(), thresholds);
    add_up(data, folder, "class maps", missing, empty, score, ThresholdSweep::merge)?.map(|sweep| {
        let matrices = sweep.matrices();
        let of = |threshold: &f32| matrices.iter().find(|(t, _)| t == threshold).map(|(_, m)| m.clone());
        let no_threshold = |t| Error::invalid(format!("{t} is no threshold"));
        thresholds.iter().map(|t| of(t).ok_or_else(|| no_threshold(t))).collect()
    })
}

/// The thresholds of a sweep: 0.05, 0.10, …, 0.95.
pub fn sweep() -> Vec<f32> {
    (1..20).map(|i| i as f32 * 0.05).collect()
}

/// A threshold as a person writes it, 0.3 and not the f32's 0.30000001192…: what goes to JSON.
pub fn decimal(threshold: f32) -> f64 {
    (f64::from(threshold) * 1e6).round() / 1e6
}
