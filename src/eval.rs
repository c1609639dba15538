//! Scores: one confusion matrix over a set of images, IoU per class, their mean (spec §11).
//!
//! With n_tp the pixels of truth t and prediction p:
//!
//! * `IoU_c = n_cc / (Σ_p n_cp + Σ_t n_tc − n_cc)`; the mean is the plain one over the classes that occur in
//!   truth or prediction;
//! * `precision_c = n_cc / Σ_t n_tc`, `recall_c = n_cc / Σ_p n_cp`.
//!
//! Labels may decide some pixels only, as affinity labels do. A pixel that is left undecided (255) is a miss:
//! it counts in the `Σ_p n_cp` of its true class c and in nobody's `n_cc`. Counts are integers, so the
//! order in which images are counted changes nothing.

use crate::formats::image::{IGNORE, LabelMap};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Counts of pixels by (truth, prediction); truth 255 is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfusionMatrix {
    classes: usize,
    counts: Vec<u64>,
    /// Pixels of each truth that the prediction leaves undecided, where that is allowed.
    undecided: Option<Vec<u64>>,
}

impl ConfusionMatrix {
    /// No pixels yet, for so many classes, background included. Predictions must decide every pixel.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes], undecided: None }
    }

    /// As [`ConfusionMatrix::new`], for predictions that may leave pixels undecided (255).
    pub fn partial(classes: usize) -> Self {
        Self { undecided: Some(vec![0; classes]), ..Self::new(classes) }
    }

    /// Number of classes, background included.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Counts an image.
    ///
    /// # Errors
    /// Maps of different sizes, a label that is no class; unless the matrix is a partial one, a prediction of
    /// 255 where the truth is known.
    pub fn add(&mut self, prediction: &LabelMap, truth: &LabelMap) -> Result<()> {
        same_size((prediction.height, prediction.width), truth)?;
        for (&p, &t) in prediction.labels.iter().zip(&truth.labels) {
            if t == IGNORE {
                continue;
            }
            let (p, t) = (usize::from(p), usize::from(t));
            if t >= self.classes {
                return Err(no_class("mask", t, self.classes));
            }
            match &mut self.undecided {
                Some(undecided) if p == usize::from(IGNORE) => undecided[t] += 1,
                _ if p >= self.classes => return Err(no_class("prediction", p, self.classes)),
                _ => self.counts[t * self.classes + p] += 1,
            }
        }
        Ok(())
    }

    /// Adds another matrix.
    ///
    /// # Panics
    /// If the other is for another number of classes, or one of both is partial: a bug of the caller.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!((self.classes, self.undecided.is_some()), (other.classes, other.undecided.is_some()));
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
        let (mine, theirs) = (self.undecided.iter_mut().flatten(), other.undecided.iter().flatten());
        mine.zip(theirs).for_each(|(a, b)| *a += b);
    }

    /// Rows of counts: row t holds the pixels of truth t by prediction.
    pub fn rows(&self) -> Vec<&[u64]> {
        self.counts.chunks(self.classes.max(1)).collect()
    }

    /// Pixels whose truth is known.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.undecided.iter().flatten().sum::<u64>()
    }

    /// Pixels of each truth that are left undecided; `None` unless the matrix is a partial one.
    pub fn undecided(&self) -> Option<&[u64]> {
        self.undecided.as_deref()
    }

    /// Share of the pixels that are decided; `None` when nothing was counted.
    pub fn coverage(&self) -> Option<f64> {
        ratio(self.counts.iter().sum(), self.total())
    }

    /// Share of the decided pixels that are predicted right; `None` when none was.
    pub fn pixel_accuracy(&self) -> Option<f64> {
        ratio((0..self.classes).map(|c| self.right(c)).sum(), self.counts.iter().sum())
    }

    /// Pixels of a class that are predicted right.
    fn right(&self, class: usize) -> u64 {
        self.counts[class * self.classes + class]
    }

    /// Pixels whose truth is a class.
    fn truth(&self, class: usize) -> u64 {
        let decided: u64 = self.counts[class * self.classes..][..self.classes].iter().sum();
        decided + self.undecided.as_ref().map_or(0, |undecided| undecided[class])
    }

    /// Pixels that are predicted to be of a class.
    fn predicted(&self, class: usize) -> u64 {
        self.counts.iter().skip(class).step_by(self.classes).sum()
    }

    fn per_class(&self, score: impl Fn(usize) -> Option<f64>) -> Vec<Option<f64>> {
        (0..self.classes).map(score).collect()
    }

    /// Intersection over union per class; `None` where a class occurs in neither truth nor prediction.
    pub fn iou(&self) -> Vec<Option<f64>> {
        self.per_class(|c| ratio(self.right(c), self.truth(c) + self.predicted(c) - self.right(c)))
    }

    /// Share of the pixels predicted to be of a class that are; `None` where none is predicted so.
    pub fn precision(&self) -> Vec<Option<f64>> {
        self.per_class(|c| ratio(self.right(c), self.predicted(c)))
    }

    /// Share of a class's pixels that are predicted so; `None` where the truth has none.
    pub fn recall(&self) -> Vec<Option<f64>> {
        self.per_class(|c| ratio(self.right(c), self.truth(c)))
    }

    /// Plain mean over the classes that occur; `None` when nothing was counted.
    pub fn mean_iou(&self) -> Option<f64> {
        let known: Vec<f64> = self.iou().into_iter().flatten().collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn same_size((height, width): (usize, usize), truth: &LabelMap) -> Result<()> {
    if (width, height) == (truth.width, truth.height) {
        return Ok(());
    }
    let message = format!("the prediction is {width}×{height}, the mask {}×{}", truth.width, truth.height);
    Err(Error::shape("evaluate", message)
        .remedy("predictions and masks have their photograph's own size; make these anew"))
}

fn no_class(what: &str, label: usize, classes: usize) -> Error {
    if label == usize::from(IGNORE) {
        return Error::invalid(format!("the {what} has undecided pixels (255)"))
            .remedy("score label maps that decide every pixel, such as pseudo labels; labels with 255, such as affinity labels, with --partial");
    }
    Error::invalid(format!("label {label} in the {what}, and there are {classes} classes"))
        .remedy("check the class list (--classes)")
}

/// Scores class maps against every one of many constant background scores at once: a pixel is
/// background where the score is at least that of the strongest map, else that map's class.
///
/// Each pixel is looked at once: it is counted by truth, strongest class and the number of thresholds
/// below its score, and the matrices follow from sums of those counts.
#[derive(Debug, Clone)]
pub struct ThresholdSweep {
    classes: usize,
    /// Ascending.
    thresholds: Vec<f32>,
    /// `[(truth * classes + strongest) * (thresholds + 1) + thresholds below the score]`.
    counts: Vec<u64>,
}

impl ThresholdSweep {
    /// For so many classes, background included. Thresholds are put in ascending order.
    pub fn new(classes: usize, thresholds: &[f32]) -> Self {
        let mut thresholds = thresholds.to_vec();
        thresholds.sort_by(f32::total_cmp);
        let counts = vec![0; classes * classes * (thresholds.len() + 1)];
        Self { classes, thresholds, counts }
    }

    /// Counts an image: maps L×H×W, the label of each map, the truth.
    ///
    /// # Errors
    /// Maps of another size than the truth or another number than the labels; labels that are no class.
    pub fn add(&mut self, maps: &Tensor, labels: &[u8], truth: &LabelMap) -> Result<()> {
        let (planes, h, w) = match *maps.shape() {
            [l, h, w] if l == labels.len() => (l, h, w),
            _ => {
                let message = format!("{} labels for maps {:?}", labels.len(), maps.shape());
                return Err(Error::shape("evaluate", message));
            }
        };
        same_size((h, w), truth)?;
        if let Some(&label) = labels.iter().find(|&&l| usize::from(l) >= self.classes) {
            return Err(no_class("prediction", usize::from(label), self.classes));
        }
        for (pixel, &t) in truth.labels.iter().enumerate() {
            if t == IGNORE {
                continue;
            }
            let t = usize::from(t);
            if t >= self.classes {
                return Err(no_class("mask", t, self.classes));
            }
            let mut best = (f32::NEG_INFINITY, 0);
            for plane in 0..planes {
                let score = maps.data()[plane * h * w + pixel];
                if score > best.0 {
                    best = (score, usize::from(labels[plane]));
                }
            }
            let below = self.thresholds.partition_point(|&threshold| threshold < best.0);
            self.counts[(t * self.classes + best.1) * (self.thresholds.len() + 1) + below] += 1;
        }
        Ok(())
    }

    /// Adds another sweep over the same classes and thresholds.
    ///
    /// # Panics
    /// If the other has another number of either, which is a bug of the caller.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.counts.len(), other.counts.len());
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
    }

    /// Each threshold, ascending, with its matrix.
    pub fn matrices(&self) -> Vec<(f32, ConfusionMatrix)> {
        let (n, bins) = (self.classes, self.thresholds.len() + 1);
        let matrix = |index: usize| {
            let mut matrix = ConfusionMatrix::new(n);
            for (cell, bins) in self.counts.chunks_exact(bins).enumerate() {
                let (truth, strongest) = (cell / n, cell % n);
                let background: u64 = bins[..=index].iter().sum();
                let object: u64 = bins[index + 1..].iter().sum();
                matrix.counts[truth * n] += background;
                matrix.counts[truth * n + strongest] += object;
            }
            matrix
        };
        self.thresholds.iter().enumerate().map(|(i, &t)| (t, matrix(i))).collect()
    }

    /// The threshold of the highest mean IoU, the lowest of several, with its matrix.
    pub fn best(&self) -> Option<(f32, ConfusionMatrix)> {
        let mean = |m: &ConfusionMatrix| m.mean_iou().unwrap_or(-1.0);
        self.matrices()
            .into_iter()
            .reduce(|best, next| if mean(&next.1) > mean(&best.1) { next } else { best })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};

    fn map(labels: &[u8]) -> LabelMap {
        LabelMap::new(labels.len(), 1, labels.to_vec()).unwrap()
    }

    #[test]
    fn counts_and_leaves_out() {
        let mut m = ConfusionMatrix::new(4);
        assert_eq!((m.mean_iou(), m.pixel_accuracy()), (None, None));
        m.add(&map(&[0, 0, 1, 2, 1]), &map(&[0, 1, 1, IGNORE, 1])).unwrap();
        // Class 0: 1 of 2; class 1: 2 of 3; class 2 was predicted on an ignored pixel only.
        assert_eq!(m.iou(), [Some(0.5), Some(2.0 / 3.0), None, None]);
        assert_eq!(m.pixel_accuracy(), Some(0.75));
        assert_eq!(m.rows()[1], [1, 2, 0, 0]);
        let mut twice = m.clone();
        twice.merge(&m);
        assert_eq!((twice.mean_iou(), twice.total()), (m.mean_iou(), 8));
        assert!(m.add(&map(&[0]), &map(&[0, 1])).is_err());
        assert!(m.add(&map(&[9]), &map(&[0])).is_err());
        assert!(m.add(&map(&[IGNORE]), &map(&[0])).unwrap_err().message().contains("undecided"));
        m.add(&map(&[IGNORE]), &map(&[IGNORE])).unwrap();
    }

    #[test]
    fn undecided_pixels_are_misses_where_they_are_allowed() {
        let mut m = ConfusionMatrix::partial(3);
        m.add(&map(&[0, 1, IGNORE, 1, IGNORE, 9]), &map(&[0, 0, 0, 1, 1, IGNORE])).unwrap();
        assert_eq!(m.undecided(), Some(&[1, 1, 0][..]));
        assert_eq!((m.total(), m.coverage(), m.pixel_accuracy()), (5, Some(0.6), Some(2.0 / 3.0)));
        assert_eq!(m.iou(), [Some(1.0 / 3.0), Some(1.0 / 3.0), None]);
        assert_eq!(m.precision(), [Some(1.0), Some(0.5), None]);
        assert_eq!(m.recall(), [Some(1.0 / 3.0), Some(0.5), None]);
        let mut twice = m.clone();
        twice.merge(&m);
        assert_eq!((twice.iou(), twice.undecided()), (m.iou(), Some(&[2, 2, 0][..])));
        assert!(m.add(&map(&[9]), &map(&[0])).is_err());
        assert_eq!(ConfusionMatrix::partial(3).coverage(), None);
    }

    #[test]
    fn a_sweep_is_what_each_threshold_gives_alone() {
        let (h, w, labels) = (7, 11, [3u8, 1]);
        let mut random = Stream::new(5, Purpose::Test, 0, 0);
        // Few distinct values, so that maps tie with each other and with thresholds.
        let maps: Vec<f32> = (0..2 * h * w).map(|_| random.below(11) as f32 / 10.0).collect();
        let truth: Vec<u8> = (0..h * w).map(|_| [0, 1, 2, 3, IGNORE][random.below(5) as usize]).collect();
        let truth = LabelMap::new(w, h, truth).unwrap();
        let thresholds = [0.9, 0.0, 0.3, 0.5, 1.0];
        let mut sweep = ThresholdSweep::new(4, &thresholds);
        sweep.add(&Tensor::new(&[2, h, w], maps.clone()).unwrap(), &labels, &truth).unwrap();
        let matrices = sweep.matrices();
        assert!(matrices.is_sorted_by_key(|(t, _)| *t) && matrices.len() == 5);
        for (threshold, matrix) in &matrices {
            let predicted = (0..h * w).map(|p| {
                let scores = [*threshold, maps[p], maps[h * w + p]];
                let best = (0..3).fold(0, |best, i| if scores[i] > scores[best] { i } else { best });
                [0, labels[0], labels[1]][best]
            });
            let mut expected = ConfusionMatrix::new(4);
            expected.add(&LabelMap::new(w, h, predicted.collect()).unwrap(), &truth).unwrap();
            assert_eq!(*matrix, expected, "threshold {threshold}");
        }
        let best = sweep.best().unwrap();
        assert!(matrices.iter().all(|(_, m)| m.mean_iou() <= best.1.mean_iou()));
        assert!(sweep.add(&Tensor::zeros(&[1, h, w]), &labels, &truth).is_err());
    }
}
