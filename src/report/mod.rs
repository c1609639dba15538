//! Pictures, plots and the HTML report of a run.
//!
//! [`render`] turns a [`Report`], plain data that the pipeline fills, into one HTML file that needs
//! nothing else: style, script and pictures are in it, and a content-security policy keeps it from asking
//! the network for anything. Without JavaScript it shows the same facts: the script only turns the frames
//! of the walk into a film and draws the affinities around the pixel that the reader points at.
//!
//! [`figures()`] draws PNG files for documents from the same data.
//!
//! The same data give the same bytes: nothing in the page tells the time or the machine.

mod charts;
mod encode;
mod figures;
mod font;
mod page;
pub mod pictures;
mod plots;
mod sheet;
#[cfg(test)]
mod tests;

use crate::formats::image::{LabelMap, RgbImage};
use crate::tensor::Tensor;
use crate::{Error, Result};

pub use figures::{Figure, figures};
pub use page::render;

/// Everything that a report tells. Parts that are empty or `None` are left out of the page.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The heading.
    pub title: String,
    /// One or two sentences under it: which data, which networks.
    pub summary: String,
    /// The command that made it, as typed.
    pub command: String,
    /// Settings worth telling: name and value.
    pub settings: Vec<(String, String)>,
    /// Class names, background first; a class's place is its label.
    pub classes: Vec<String>,
    /// The stages in the order in which they ran.
    pub stages: Vec<StageRow>,
    /// One chart a training.
    pub losses: Vec<LossChart>,
    /// Images with what every stage made of them.
    pub gallery: Vec<GalleryRow>,
    /// Images whose affinities the reader can explore.
    pub affinities: Vec<AffinityView>,
    /// Walks to watch.
    pub walks: Vec<WalkView>,
}

/// A stage: its time and, if it makes labels, how good they are.
#[derive(Debug, Clone, Default)]
pub struct StageRow {
    /// Its name as in `metrics.json`, `pseudo_labels` for one; underscores are shown as blanks.
    pub name: String,
    /// Wall-clock time; `None` where another stage's time includes it.
    pub seconds: Option<f64>,
    /// Scores on the training list.
    pub train: Option<Scores>,
    /// Scores on the list that took no part in any choice.
    pub val: Option<Scores>,
    /// What the reader should know of this stage: a threshold, steps, images.
    pub note: String,
}

/// Intersection over union, as fractions.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scores {
    /// Mean over the classes that occur.
    pub mean_iou: f64,
    /// Per class, background first; `None` where a class does not occur.
    pub iou: Vec<Option<f64>>,
}

/// The losses of one training.
#[derive(Debug, Clone, Default)]
pub struct LossChart {
    /// The network's name.
    pub title: String,
    /// The loss, or its parts.
    pub curves: Vec<Curve>,
    /// Linear or logarithmic.
    pub scale: AxisScale,
}

/// A line in a chart.
#[derive(Debug, Clone, Default)]
pub struct Curve {
    /// What it shows.
    pub name: String,
    /// Step and value, steps ascending. Values that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// The vertical axis of a chart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AxisScale {
    /// Logarithmic where the smoothed values are positive and span a factor of 20 or more, else linear.
    #[default]
    Auto,
    /// Linear, from zero where all values are positive.
    Linear,
    /// Logarithmic; values of 0 or less are left out.
    Log,
}

/// Scores of several classes over one image, at any size: L×h×w.
#[derive(Debug, Clone)]
pub struct ScoreMaps {
    labels: Vec<u8>,
    maps: Tensor,
}

impl ScoreMaps {
    /// Maps L×h×w and the label of each plane (0 = background).
    ///
    /// # Errors
    /// Maps that are not L×h×w with h, w ≥ 1, or another number of labels than L.
    pub fn new(labels: Vec<u8>, maps: Tensor) -> Result<Self> {
        match *maps.shape() {
            [l, h, w] if l == labels.len() && h * w > 0 => Ok(Self { labels, maps }),
            _ => {
                let message = format!("maps {:?} for {} labels, L×h×w expected", maps.shape(), labels.len());
                Err(Error::shape("report", message))
            }
        }
    }

    /// The label of each plane.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// Height and width.
    fn size(&self) -> (usize, usize) {
        (self.maps.shape()[1], self.maps.shape()[2])
    }

    /// Label and values of each plane.
    fn planes(&self) -> impl Iterator<Item = (u8, &[f32])> {
        let (h, w) = self.size();
        self.labels.iter().copied().zip(self.maps.data().chunks_exact(h * w))
    }
}

/// What a picture of a [`GalleryRow`] shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// The photograph.
    Image,
    /// Class activation maps.
    ClassMaps,
    /// Confident object and background.
    AffinityLabels,
    /// The maps after the random walk.
    WalkedMaps,
    /// The labels that the walked maps give.
    RevisedLabels,
    /// The labels after the CRF.
    PseudoLabels,
    /// What the segmentation network says.
    Prediction,
    /// The mask.
    GroundTruth,
}

impl Column {
    /// What stands over it.
    pub fn caption(self) -> &'static str {
        match self {
            Self::Image => "Image",
            Self::ClassMaps => "CAM",
            Self::AffinityLabels => "Affinity labels",
            Self::WalkedMaps => "Random walk",
            Self::RevisedLabels => "Revised labels",
            Self::PseudoLabels => "Pseudo label",
            Self::Prediction => "Prediction",
            Self::GroundTruth => "Ground truth",
        }
    }
}

/// An image and what every stage made of it.
#[derive(Debug, Clone)]
pub struct GalleryRow {
    /// The image's id.
    pub id: String,
    /// The list it is from.
    pub split: String,
    /// The photograph.
    pub image: RgbImage,
    /// Class activation maps of the classes present.
    pub cams: Option<ScoreMaps>,
    /// Confident object and background, 255 neutral.
    pub affinity_labels: Option<LabelMap>,
    /// The maps after the random walk; with a plane of background its border is drawn.
    pub revised: Option<ScoreMaps>,
    /// Labels of the maps after the walk, before the CRF.
    pub revised_label: Option<LabelMap>,
    /// After the CRF.
    pub pseudo_label: Option<LabelMap>,
    /// What the segmentation network says.
    pub prediction: Option<LabelMap>,
    /// The mask, which no training saw.
    pub ground_truth: Option<LabelMap>,
}

impl GalleryRow {
    /// The pictures of the columns, their longer side at most `longest` pixels; `None` where the image
    /// has none.
    ///
    /// # Errors
    /// An image or a label map without pixels.
    pub fn pictures(&self, columns: &[Column], longest: usize) -> Result<Vec<Option<RgbImage>>> {
        let image = pictures::shrink(&self.image, longest)?;
        let heat = |maps: &Option<ScoreMaps>| Ok(maps.as_ref().map(|m| pictures::heat_map(&image, m)));
        let labels = |map: &Option<LabelMap>| map.as_ref().map(|m| pictures::overlay(&image, m)).transpose();
        let picture = |column: &Column| match column {
            Column::Image => Ok(Some(image.clone())),
            Column::ClassMaps => heat(&self.cams),
            Column::AffinityLabels => labels(&self.affinity_labels),
            Column::WalkedMaps => heat(&self.revised),
            Column::RevisedLabels => labels(&self.revised_label),
            Column::PseudoLabels => labels(&self.pseudo_label),
            Column::Prediction => labels(&self.prediction),
            Column::GroundTruth => labels(&self.ground_truth),
        };
        columns.iter().map(picture).collect()
    }

    /// The labels that its pictures show, ascending; background and neutral left out.
    fn labels(&self) -> Vec<u8> {
        let mut seen = [false; 256];
        for maps in [&self.cams, &self.revised].into_iter().flatten() {
            maps.labels().iter().for_each(|&l| seen[usize::from(l)] = true);
        }
        for map in [&self.pseudo_label, &self.prediction, &self.ground_truth].into_iter().flatten() {
            map.labels.iter().for_each(|&l| seen[usize::from(l)] = true);
        }
        (1..255).filter(|&l| seen[usize::from(l)]).collect()
    }
}

/// The affinities of one image, for the reader to explore.
#[derive(Debug, Clone)]
pub struct AffinityView {
    /// The image's id.
    pub id: String,
    /// The photograph.
    pub image: RgbImage,
    /// P×h×w, W_ij at the pair's first pixel, NaN where the pair does not exist.
    pub affinities: Tensor,
    /// (dy, dx) of each plane's second pixel; dy ≥ 0.
    pub offsets: Vec<(usize, isize)>,
    /// The power of the affinities in the walk.
    pub beta: f32,
}

impl AffinityView {
    /// Height and width of the feature grid.
    fn grid(&self) -> Result<(usize, usize)> {
        match *self.affinities.shape() {
            [p, h, w] if p == self.offsets.len() && h * w > 0 => Ok((h, w)),
            ref shape => {
                let message =
                    format!("affinities {shape:?} for {} offsets, P×h×w expected", self.offsets.len());
                Err(Error::shape("report", message))
            }
        }
    }
}

/// A random walk on one image's maps.
#[derive(Debug, Clone)]
pub struct WalkView {
    /// The image's id.
    pub id: String,
    /// The photograph.
    pub image: RgbImage,
    /// Number of steps and the maps after them, ascending.
    pub frames: Vec<(usize, ScoreMaps)>,
}
