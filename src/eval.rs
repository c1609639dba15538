//! Scores: one confusion matrix over a set of images, IoU per class, their mean (spec §11).

use crate::formats::image::{IGNORE, LabelMap};
use crate::{Error, Result};

/// Counts of pixels by (truth, prediction); truth 255 is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfusionMatrix {
    classes: usize,
    counts: Vec<u64>,
}

impl ConfusionMatrix {
    /// No pixels yet, for so many classes, background included.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// Counts an image.
    ///
    /// # Errors
    /// Maps of different sizes, a label that is no class, a prediction of 255.
    pub fn add(&mut self, prediction: &LabelMap, truth: &LabelMap) -> Result<()> {
        if (prediction.width, prediction.height) != (truth.width, truth.height) {
            return Err(Error::shape(
                "evaluate",
                format!(
                    "the prediction is {}×{}, the mask {}×{}",
                    prediction.width, prediction.height, truth.width, truth.height
                ),
            ));
        }
        for (&p, &t) in prediction.labels.iter().zip(&truth.labels) {
            if t == IGNORE {
                continue;
            }
            let (p, t) = (usize::from(p), usize::from(t));
            if p >= self.classes || t >= self.classes {
                let (what, label) = if t >= self.classes { ("mask", t) } else { ("prediction", p) };
                return Err(Error::invalid(format!(
                    "label {label} in the {what}: there are {} classes",
                    self.classes
                )));
            }
            self.counts[t * self.classes + p] += 1;
        }
        Ok(())
    }

    /// Adds another matrix of the same size.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
    }

    /// Rows of counts, by truth.
    pub fn rows(&self) -> Vec<&[u64]> {
        self.counts.chunks(self.classes.max(1)).collect()
    }

    /// Intersection over union per class; `None` where a class occurs in neither truth nor prediction.
    pub fn iou(&self) -> Vec<Option<f64>> {
        let n = self.classes;
        (0..n)
            .map(|c| {
                let truth: u64 = self.counts[c * n..(c + 1) * n].iter().sum();
                let predicted: u64 = (0..n).map(|t| self.counts[t * n + c]).sum();
                let both = self.counts[c * n + c];
                let union = truth + predicted - both;
                (union > 0).then(|| both as f64 / union as f64)
            })
            .collect()
    }

    /// Plain mean over the classes that occur; `None` when nothing was counted.
    pub fn mean_iou(&self) -> Option<f64> {
        let known: Vec<f64> = self.iou().into_iter().flatten().collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_leaves_out() {
        let map = |labels: &[u8]| LabelMap::new(labels.len(), 1, labels.to_vec()).unwrap();
        let mut m = ConfusionMatrix::new(4);
        assert_eq!(m.mean_iou(), None);
        m.add(&map(&[0, 0, 1, 2, 1]), &map(&[0, 1, 1, IGNORE, 1])).unwrap();
        // Class 0: 1 of 2; class 1: 2 of 3; class 2 was predicted on an ignored pixel only.
        assert_eq!(m.iou(), [Some(0.5), Some(2.0 / 3.0), None, None]);
        let mut twice = m.clone();
        twice.merge(&m);
        assert_eq!(twice.mean_iou(), m.mean_iou());
        assert!(m.add(&map(&[0]), &map(&[0, 1])).is_err());
        assert!(m.add(&map(&[9]), &map(&[0])).is_err());
    }
}
