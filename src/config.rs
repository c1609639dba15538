//! The configuration of the pipeline: a preset's defaults, a TOML file over them, flags over that.
//!
//! [`Config::preset`] gives the defaults (spec §2 to §10), [`Config::from_toml`] puts a file over them,
//! the command puts its flags over that and asks [`Config::check`] once more. [`Config::to_toml`] writes
//! every value with a comment; what it writes reads back as the same configuration.

mod file;
mod print;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Result;
use crate::data::{DatasetOptions, TagUse};
use crate::formats::image::Exif;
use crate::ops::affinity::{BorderRule, LossForm, Pairs, Reduction, Stencil};
use crate::ops::crf::CrfOptions;

/// Which of the two published forms gives the defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// As the paper has it: for training from scratch.
    Paper,
    /// As the authors' code has it: for the weights that they published.
    Psa,
}

impl std::str::FromStr for Preset {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "paper" => Ok(Self::Paper),
            "psa" => Ok(Self::Psa),
            _ => Err(format!("`{text}` is no preset: `paper` or `psa` is expected")),
        }
    }
}

impl std::fmt::Display for Preset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Paper => "paper",
            Self::Psa => "psa",
        })
    }
}

/// Width of the backbone as a fraction of the full one, written `1/8` or `1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Width {
    numerator: usize,
    denominator: usize,
}

impl Width {
    /// The full network.
    pub const FULL: Self = Self { numerator: 1, denominator: 1 };
    /// The narrowest that is of any use: a thirty-second, for runs that only see that everything computes.
    pub const TINY: Self = Self { numerator: 1, denominator: 32 };

    /// Numerator of the fraction, as written.
    pub fn numerator(self) -> usize {
        self.numerator
    }

    /// Denominator of the fraction, as written.
    pub fn denominator(self) -> usize {
        self.denominator
    }
}

impl std::str::FromStr for Width {
    type Err = String;

    /// A fraction from 1/64 to 4.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (a, b) = text.split_once('/').unwrap_or((text, "1"));
        match (a.trim().parse::<usize>(), b.trim().parse::<usize>()) {
            (Ok(numerator), Ok(denominator))
                if (1..=64).contains(&numerator)
                    && (1..=64).contains(&denominator)
                    && numerator <= 4 * denominator =>
            {
                Ok(Self { numerator, denominator })
            }
            _ => {
                Err(format!("`{text}` is no width: 1, or a fraction from 1/64 to 4 such as 1/8, is expected"))
            }
        }
    }
}

impl std::fmt::Display for Width {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.denominator {
            1 => write!(f, "{}", self.numerator),
            d => write!(f, "{}/{d}", self.numerator),
        }
    }
}

impl Serialize for Width {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Width {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The optimiser of a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// With momentum, and weight decay as a part of the gradient.
    Sgd,
    /// Weight decay as a part of the gradient.
    Adam,
    /// Adam with weight decay beside the gradient.
    AdamW,
}

/// How a network is trained (spec §10).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingConfig {
    /// Which optimiser.
    pub optimizer: OptimizerKind,
    /// Base learning rate of weights; biases take twice that.
    pub learning_rate: f32,
    /// SGD's momentum.
    pub momentum: f32,
    /// Weight decay; biases and batch normalisation have none.
    pub weight_decay: f32,
    /// The rate falls as (1 − step/steps)^power.
    pub poly_power: f32,
    /// Images a step.
    pub batch: usize,
    /// Passes over the list.
    pub epochs: usize,
    /// Side of the square crop in pixels.
    pub crop: usize,
    /// Steps over which the rate rises from 0.
    pub warmup_steps: usize,
    /// Factor on the rate of layers that initial weights do not have.
    pub head_learning_rate_factor: f32,
    /// Largest change of hue in augmentation, as a share of the colour circle.
    pub hue: f32,
}

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Folder of the data set; relative paths start at the current folder.
    pub root: PathBuf,
    /// List to train on: a name or a path.
    pub train: String,
    /// List to score on; it takes part in no choice. Empty: none.
    pub val: String,
    /// File of tags; empty: the data set's own.
    pub tags: PathBuf,
    /// File of class names; empty: the data set's own, else VOC's.
    pub classes: PathBuf,
    /// Take images without tags as background instead of leaving them out.
    pub allow_unlabelled: bool,
    /// What becomes of orientation tags; masks are drawn on the stored pixels, so they are ignored.
    pub exif: Exif,
}

impl DataConfig {
    /// How to open a list of it; every image where none is named.
    pub fn options(&self, split: Option<&str>, tag_use: TagUse) -> DatasetOptions {
        let named = |path: &Path| Some(path.to_path_buf()).filter(|p| !p.as_os_str().is_empty());
        DatasetOptions {
            split: split.map(String::from),
            tags: named(&self.tags),
            classes: named(&self.classes),
            tag_use: match tag_use {
                TagUse::Needed if self.allow_unlabelled => TagUse::NeededOrBackground,
                other => other,
            },
        }
    }
}

/// `[backbone]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneConfig {
    /// Share of the full channel counts.
    pub width: Width,
    /// Weights to start from; empty: random ones.
    pub init: PathBuf,
    /// Batch normalisation learns, or is frozen. A file that does not say has it learn from random weights
    /// and frozen with initial ones.
    pub learn_statistics: bool,
}

/// `[cam]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CamConfig {
    /// Which head: the paper's or that of the authors' code.
    pub head: Preset,
    /// Smallest and largest longer side of a training image in pixels.
    pub long_side: [usize; 2],
    /// Scales of inference.
    pub scales: Vec<f64>,
    /// Each scale also mirrored.
    pub flip: bool,
    /// Training.
    pub training: TrainingConfig,
}

/// `[affinity_labels]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AffinityLabelsConfig {
    /// α of the strong background, which confident objects must beat.
    pub alpha_strong: f32,
    /// α of the weak background, which names confident background.
    pub alpha_weak: f32,
    /// The CRF behind both.
    pub crf: CrfOptions,
}

/// `[affinity]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AffinityConfig {
    /// Channels that conv4, conv5, conv6 are reduced to at full width.
    pub feature_widths: [usize; 3],
    /// Sum or mean of absolute differences over channels.
    pub reduction: Reduction,
    /// Which pairs exist near the border.
    pub border: BorderRule,
    /// Form of the loss.
    pub loss: LossForm,
    /// γ: pairs are closer than this, in steps of the feature grid.
    pub radius: usize,
    /// Pairs at the distance γ itself count too, as the paper writes; its authors' code leaves them out.
    pub inclusive: bool,
    /// Training.
    pub training: TrainingConfig,
}

impl AffinityConfig {
    /// Which pairs there are and how they are measured, in training and in use alike.
    ///
    /// # Errors
    /// A radius out of range.
    pub fn pairs(&self) -> Result<Pairs> {
        Ok(Pairs {
            stencil: Stencil::new(self.radius, self.inclusive)?,
            reduction: self.reduction,
            border: self.border,
        })
    }
}

/// `[walk]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalkConfig {
    /// β: power of the affinities.
    pub beta: f32,
    /// t: number of steps.
    pub steps: usize,
    /// α of the background map that walks along.
    pub background_alpha: f32,
    /// Scales of the picture whose affinities are averaged.
    pub scales: Vec<f64>,
    /// Each scale also mirrored.
    pub flip: bool,
}

/// Whether pseudo labels are refined by the CRF. A file may also say `auto`: as the preset has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Refine {
    /// Always.
    On,
    /// Never.
    Off,
}

/// `[crf]`: the refinement of pseudo labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrfConfig {
    /// Whether it is applied.
    pub pseudo_labels: Refine,
    /// Its parameters.
    pub options: CrfOptions,
}

/// `[segmentation]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentationConfig {
    /// Dilation of the head's convolutions.
    pub dilation: usize,
    /// Scales of inference.
    pub scales: Vec<f64>,
    /// Each scale also mirrored.
    pub flip: bool,
    /// Refine predictions by the CRF of `[crf]`.
    pub crf: bool,
    /// Smallest and largest factor on a training image's sides.
    pub scale_range: [f32; 2],
    /// Training.
    pub training: TrainingConfig,
}

/// `[output]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputConfig {
    /// Folder of a run; relative paths start at the current folder.
    pub folder: PathBuf,
}

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the defaults come from, and which of the two forms is computed.
    pub preset: Preset,
    /// Names everything random.
    pub seed: u64,
    /// `[data]`
    pub data: DataConfig,
    /// `[backbone]`
    pub backbone: BackboneConfig,
    /// `[cam]`
    pub cam: CamConfig,
    /// `[affinity_labels]`
    pub affinity_labels: AffinityLabelsConfig,
    /// `[affinity]`
    pub affinity: AffinityConfig,
    /// `[walk]`
    pub walk: WalkConfig,
    /// `[crf]`
    pub crf: CrfConfig,
    /// `[segmentation]`
    pub segmentation: SegmentationConfig,
    /// `[output]`
    pub output: OutputConfig,
}

impl Config {
    /// A preset's values.
    pub fn preset(preset: Preset) -> Self {
        let psa = preset == Preset::Psa;
        let training = |batch, epochs| TrainingConfig {
            optimizer: if psa { OptimizerKind::Sgd } else { OptimizerKind::Adam },
            learning_rate: if psa { 0.1 } else { 1e-3 },
            // The authors' code hands the weight decay to the optimiser's momentum too (spec §10).
            momentum: if psa { 5e-4 } else { 0.9 },
            weight_decay: 5e-4,
            poly_power: 0.9,
            batch,
            epochs,
            crop: 448,
            warmup_steps: 0,
            head_learning_rate_factor: 10.0,
            hue: 0.1,
        };
        let segmentation = TrainingConfig {
            optimizer: OptimizerKind::Sgd,
            learning_rate: 1e-3,
            momentum: 0.9,
            // 20 k iterations of 10 over the 10,582 images of train_aug.
            ..training(10, 19)
        };
        Self {
            preset,
            seed: 0,
            data: DataConfig {
                root: "data".into(),
                train: "train".into(),
                val: "val".into(),
                tags: PathBuf::new(),
                classes: PathBuf::new(),
                allow_unlabelled: false,
                exif: Exif::Ignore,
            },
            backbone: BackboneConfig { width: Width::FULL, init: PathBuf::new(), learn_statistics: true },
            cam: CamConfig {
                head: preset,
                long_side: [256, 512],
                scales: vec![1.0, 0.5, 1.5, 2.0],
                flip: true,
                training: training(16, 15),
            },
            affinity_labels: AffinityLabelsConfig {
                alpha_strong: 4.0,
                alpha_weak: if psa { 32.0 } else { 24.0 },
                crf: CrfOptions::default(),
            },
            affinity: AffinityConfig {
                feature_widths: if psa { [64, 128, 256] } else { [128, 256, 512] },
                reduction: if psa { Reduction::Mean } else { Reduction::Sum },
                border: if psa { BorderRule::Psa } else { BorderRule::Full },
                loss: if psa { LossForm::Psa } else { LossForm::Paper },
                radius: 5,
                inclusive: false,
                training: training(8, 8),
            },
            walk: WalkConfig {
                beta: 8.0,
                steps: 256,
                background_alpha: 16.0,
                scales: vec![1.0],
                flip: false,
            },
            crf: CrfConfig {
                pseudo_labels: if psa { Refine::Off } else { Refine::On },
                options: CrfOptions::default(),
            },
            segmentation: SegmentationConfig {
                dilation: 12,
                scales: vec![1.0],
                flip: true,
                crf: false,
                scale_range: [0.5, 1.5],
                training: segmentation,
            },
            output: OutputConfig { folder: "runs/run".into() },
        }
    }

    /// What the demo runs with: a backbone an eighth as wide that starts from [`Config::demo_backbone`]'s
    /// weights, small crops, a few epochs.
    pub fn demo(seed: u64, folder: &Path) -> Self {
        let mut c = Self::preset(Preset::Paper);
        c.seed = seed;
        c.data.root = folder.join("data");
        c.output.folder = folder.to_path_buf();
        c.backbone = BackboneConfig {
            width: Width { numerator: 1, denominator: 8 },
            init: Self::demo_backbone(folder),
            learn_statistics: false,
        };
        let training = |epochs, crop| TrainingConfig {
            optimizer: OptimizerKind::AdamW,
            learning_rate: 1e-3,
            momentum: 0.9,
            weight_decay: 1e-2,
            poly_power: 0.9,
            batch: 16,
            epochs,
            crop,
            warmup_steps: 20,
            head_learning_rate_factor: 3.0,
            hue: 0.02,
        };
        c.cam.head = Preset::Psa;
        c.cam.long_side = [112, 160];
        c.cam.scales = vec![1.0, 0.5];
        c.cam.training = training(3, 128);
        c.affinity_labels.alpha_strong = 1.0;
        c.affinity_labels.alpha_weak = 4.0;
        c.affinity.training = training(4, 96);
        // As wide as the pictures: 80 pixels belong to photographs of 500.
        c.crf.options.bilateral.sigma_xy = 20.0;
        c.walk = WalkConfig { beta: 8.0, steps: 24, background_alpha: 1.5, ..c.walk };
        c.segmentation.dilation = 2;
        // Half of a picture of 128 is too small for its parts, and leaves most of the crop to padding.
        c.segmentation.scale_range = [0.75, 1.25];
        c.segmentation.training =
            TrainingConfig { learning_rate: 2e-3, batch: 8, warmup_steps: 40, ..training(10, 96) };
        c.segmentation.crf = true;
        c
    }

    /// Where the demo puts the pretrained backbone that the program carries.
    pub fn demo_backbone(folder: &Path) -> PathBuf {
        folder.join("backbone.safetensors")
    }
}
