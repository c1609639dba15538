//! The configuration of the pipeline, in TOML: presets, a file over them, flags over that.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ops::affinity::{BorderRule, LossForm, Reduction};
use crate::ops::crf::{BilateralKernel, CrfOptions, GaussianKernel};
use crate::{Error, Result};

/// Which of the two published forms gives the defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// As the paper has it.
    Paper,
    /// As the authors' code has it.
    Psa,
}

/// Width of the backbone as a fraction of the full one, written `1/8` or `1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Width {
    numerator: usize,
    denominator: usize,
}

impl Width {
    /// Numerator of the fraction.
    pub fn numerator(self) -> usize {
        self.numerator
    }

    /// Denominator of the fraction.
    pub fn denominator(self) -> usize {
        self.denominator
    }
}

impl std::str::FromStr for Width {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (a, b) = text.split_once('/').unwrap_or((text, "1"));
        match (a.trim().parse(), b.trim().parse()) {
            (Ok(numerator), Ok(denominator))
                if (1..=4).contains(&numerator) && (1..=64).contains(&denominator) =>
            {
                Ok(Self { numerator, denominator })
            }
            _ => Err(format!("`{text}` is no width: a fraction such as 1/8, or 1, is expected")),
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
    /// With momentum and decay in the gradient.
    Sgd,
    /// Adam.
    Adam,
    /// Adam with decoupled decay.
    AdamW,
}

/// How a network is trained (spec §10).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingConfig {
    /// Which optimiser.
    pub optimizer: OptimizerKind,
    /// Its base rate.
    pub learning_rate: f32,
    /// SGD's momentum.
    pub momentum: f32,
    /// Decay of weights.
    pub weight_decay: f32,
    /// Power of the poly schedule.
    pub poly_power: f32,
    /// Images a step.
    pub batch: usize,
    /// Passes over the list.
    pub epochs: usize,
    /// Side of the square crop in pixels.
    pub crop: usize,
    /// Steps of linear warm-up.
    pub warmup_steps: usize,
    /// Factor on the rate of a network's new layers.
    pub head_learning_rate_factor: f32,
    /// Largest change of hue in training, as a share of the colour circle.
    pub hue: f32,
}

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Folder of the data set.
    pub root: PathBuf,
    /// List to train on.
    pub train: String,
    /// List to score on; it takes part in no choice.
    pub val: String,
}

/// `[backbone]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneConfig {
    /// Share of the full channel counts.
    pub width: Width,
    /// Weights to start from; empty: random ones.
    pub init: PathBuf,
    /// Batch normalisation learns (from random weights) or is frozen (fine-tuning).
    pub learn_statistics: bool,
}

/// `[cam]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CamConfig {
    /// Which head: the paper's or that of the authors' code.
    pub head: Preset,
    /// Smallest and largest longer side of a training image.
    pub long_side: [usize; 2],
    /// Scales of inference.
    pub scales: Vec<f64>,
    /// Mirrored passes as well.
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
    /// The CRF.
    pub crf: CrfOptions,
}

/// `[affinity]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AffinityConfig {
    /// Channels that conv4, conv5, conv6 are reduced to at full width.
    pub feature_widths: [usize; 3],
    /// Sum or mean over channels.
    pub reduction: Reduction,
    /// Which pairs exist near the border.
    pub border: BorderRule,
    /// Form of the loss.
    pub loss: LossForm,
    /// γ.
    pub radius: usize,
    /// Training.
    pub training: TrainingConfig,
}

/// `[walk]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalkConfig {
    /// β.
    pub beta: f32,
    /// t.
    pub steps: usize,
    /// α of the background map that walks along.
    pub background_alpha: f32,
}

/// Whether pseudo labels are refined by the CRF.
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
    /// Dilation of the head.
    pub dilation: usize,
    /// Scales of inference.
    pub scales: Vec<f64>,
    /// Mirrored passes as well.
    pub flip: bool,
    /// Refine predictions by the CRF of `[crf]`.
    pub crf: bool,
    /// Training.
    pub training: TrainingConfig,
}

/// `[output]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputConfig {
    /// Folder of a run.
    pub folder: PathBuf,
}

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the defaults come from.
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
    /// A preset's values (spec §2 to §10).
    pub fn preset(preset: Preset) -> Self {
        let psa = preset == Preset::Psa;
        let training = |batch, epochs| TrainingConfig {
            optimizer: if psa { OptimizerKind::Sgd } else { OptimizerKind::Adam },
            learning_rate: if psa { 0.1 } else { 1e-3 },
            // The authors' code hands the decay to the optimiser's momentum.
            momentum: if psa { 5e-4 } else { 0.9 },
            weight_decay: if psa { 0.0 } else { 5e-4 },
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
            weight_decay: 5e-4,
            ..training(10, 19)
        };
        Self {
            preset,
            seed: 0,
            data: DataConfig { root: "data".into(), train: "train".into(), val: "val".into() },
            backbone: BackboneConfig {
                width: Width { numerator: 1, denominator: 1 },
                init: PathBuf::new(),
                learn_statistics: false,
            },
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
                training: training(8, 8),
            },
            walk: WalkConfig { beta: 8.0, steps: 256, background_alpha: 16.0 },
            crf: CrfConfig {
                pseudo_labels: if psa { Refine::Off } else { Refine::On },
                options: CrfOptions::default(),
            },
            segmentation: SegmentationConfig {
                dilation: 12,
                scales: vec![1.0],
                flip: true,
                crf: false,
                training: segmentation,
            },
            output: OutputConfig { folder: "runs/run".into() },
        }
    }

    /// The configuration that the demo runs with: a backbone an eighth as wide, small crops, a few epochs.
    pub fn demo(seed: u64, folder: &Path) -> Self {
        let mut c = Self::preset(Preset::Paper);
        c.seed = seed;
        c.data.root = folder.join("data");
        c.output.folder = folder.to_path_buf();
        c.backbone = BackboneConfig {
            width: Width { numerator: 1, denominator: 8 },
            init: PathBuf::new(),
            learn_statistics: true,
        };
        let training = |epochs| TrainingConfig {
            optimizer: OptimizerKind::AdamW,
            learning_rate: 3e-3,
            momentum: 0.9,
            weight_decay: 1e-2,
            poly_power: 0.9,
            batch: 16,
            epochs,
            crop: 128,
            warmup_steps: 30,
            head_learning_rate_factor: 1.0,
            hue: 0.02,
        };
        c.cam.head = Preset::Psa;
        c.cam.long_side = [112, 160];
        c.cam.scales = vec![1.0, 0.5, 1.5];
        c.cam.training = training(10);
        c.affinity_labels.alpha_strong = 2.0;
        c.affinity_labels.alpha_weak = 8.0;
        c.affinity.training = training(5);
        c.walk = WalkConfig { beta: 8.0, steps: 32, background_alpha: 4.0 };
        c.crf.options = CrfOptions {
            iterations: 5,
            gaussian: GaussianKernel { sigma_xy: 3.0, weight: 3.0 },
            bilateral: BilateralKernel { sigma_xy: 40.0, sigma_rgb: 10.0, weight: 5.0 },
        };
        c.segmentation.dilation = 2;
        c.segmentation.training = training(8);
        c
    }

    /// Reads a configuration: the file's values over its preset's.
    ///
    /// # Errors
    /// Not TOML, an unknown key (with its line and the nearest known key), a value out of range.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        Self::parse(&text).map_err(|e| e.in_file(path))
    }

    fn parse(text: &str) -> Result<Self> {
        let line_of = |offset: usize| text[..offset].matches('\n').count() + 1;
        let fail = |e: toml::de::Error| {
            let error = Error::invalid(e.message().to_string());
            match e.span() {
                Some(span) => error.at_line(line_of(span.start.min(text.len()))),
                None => error,
            }
        };
        let file: toml::Table = toml::from_str(text).map_err(fail)?;
        let preset = match file.get("preset") {
            None => Preset::Paper,
            Some(value) => value
                .clone()
                .try_into()
                .map_err(|_| Error::invalid(format!("preset = {value}: \"paper\" or \"psa\" expected")))?,
        };
        let mut table =
            toml::Table::try_from(Self::preset(preset)).map_err(|e| Error::invalid(e.to_string()))?;
        overlay(&mut table, &file, "").map_err(|(key, message)| {
            let name = key.rsplit('.').next().unwrap_or_default().to_string();
            let line = text.lines().position(|l| l.trim_start().trim_start_matches('[').starts_with(&name));
            let error = Error::invalid(message);
            match line {
                Some(line) => error.at_line(line + 1),
                None => error,
            }
        })?;
        let config: Self = table.try_into().map_err(fail)?;
        config.check()?;
        Ok(config)
    }

    /// Every value, as TOML.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::invalid(e.to_string()))
    }

    fn check(&self) -> Result<()> {
        let fail = |key: &str, range: &str| {
            Err(Error::invalid(format!("`{key}` is out of range: {range} expected")))
        };
        for (name, t) in [
            ("cam", &self.cam.training),
            ("affinity", &self.affinity.training),
            ("segmentation", &self.segmentation.training),
        ] {
            if t.batch == 0 || t.epochs == 0 || !(8..=4096).contains(&t.crop) {
                return fail(
                    &format!("{name}.training"),
                    "batch and epochs of at least 1, crop from 8 to 4096",
                );
            }
            let rate_fits = t.learning_rate > 0.0 && t.learning_rate.is_finite();
            if !rate_fits || !(0.0..1.0).contains(&t.momentum) {
                return fail(
                    &format!("{name}.training"),
                    "a positive learning_rate, momentum from 0 to below 1",
                );
            }
        }
        for (name, scales) in [("cam", &self.cam.scales), ("segmentation", &self.segmentation.scales)] {
            if scales.is_empty() || scales.iter().any(|s| !(0.1..=8.0).contains(s)) {
                return fail(&format!("{name}.scales"), "at least one, each from 0.1 to 8");
            }
        }
        if self.affinity_labels.alpha_strong < 1.0
            || self.affinity_labels.alpha_weak < self.affinity_labels.alpha_strong
        {
            return fail("affinity_labels.alpha_weak", "1 ≤ alpha_strong ≤ alpha_weak");
        }
        if self.walk.beta <= 0.0 || self.walk.background_alpha < 1.0 {
            return fail("walk", "beta above 0, background_alpha at least 1");
        }
        let [min, max] = self.cam.long_side;
        if min == 0 || min > max || max > 4096 {
            return fail("cam.long_side", "1 ≤ smallest ≤ largest ≤ 4096");
        }
        if self.segmentation.dilation == 0 {
            return fail("segmentation.dilation", "at least 1");
        }
        Ok(())
    }
}

/// Puts the file's values over the defaults; a key that is not there is an error (key, message).
fn overlay(
    base: &mut toml::Table,
    file: &toml::Table,
    at: &str,
) -> std::result::Result<(), (String, String)> {
    for (key, value) in file {
        let full = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
        let Some(slot) = base.get_mut(key) else {
            let nearest = base
                .keys()
                .max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)));
            let hint = nearest.map(|n| format!("; the nearest known key is `{n}`")).unwrap_or_default();
            return Err((full.clone(), format!("unknown key `{full}`{hint}")));
        };
        match (slot, value) {
            (toml::Value::Table(base), toml::Value::Table(file)) => overlay(base, file, &full)?,
            (slot @ toml::Value::Float(_), toml::Value::Integer(i)) => *slot = toml::Value::Float(*i as f64),
            (slot, value) if slot.same_type(value) => *slot = value.clone(),
            (slot, value) => {
                let message =
                    format!("`{full}` is a {}, a {} is expected", value.type_str(), slot.type_str());
                return Err((full, message));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_survives_a_round_trip() {
        for preset in [Preset::Paper, Preset::Psa] {
            let config = Config::preset(preset);
            assert_eq!(Config::parse(&config.to_toml().unwrap()).unwrap(), config);
        }
    }

    #[test]
    fn an_unknown_key_names_its_line_and_neighbour() {
        let error = Config::parse("preset = \"psa\"\n[walk]\nbetta = 4\n").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("walk.betta") && text.contains("`beta`"), "{text}");
        assert_eq!(error.position(), Some(crate::Position::Line(3)));
        assert!(Config::parse("[walk]\nbeta = -1.0\n").is_err());
        assert!(Config::parse("[walk]\nbeta = \"x\"\n").is_err());
        assert_eq!(Config::parse("[walk]\nbeta = 4\n").unwrap().walk.beta, 4.0);
        assert!("0/8".parse::<Width>().is_err() && "1/8".parse::<Width>().is_ok());
    }
}
