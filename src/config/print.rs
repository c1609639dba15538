//! Every value of a configuration as TOML, each with a comment.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::Config;
use crate::{Error, Result};

/// Every key that is written, in the order of the pipeline. A name that ends in `.` begins a section.
const KEYS: &[(&str, &str)] = &[
    ("preset", "\"paper\" or \"psa\": gives the defaults, and chooses heads, paddings and rounding"),
    ("seed", "names everything random: same seed, same bytes"),
    ("data.", "What to learn from. Relative paths start at the current folder."),
    ("data.root", "folder in VOC's layout, or any folder of images with tags"),
    ("data.train", "list to train on: a name in ImageSets/Segmentation, or a path"),
    ("data.val", "list to score on, never used for a choice; \"\": none"),
    ("data.tags", "CSV or .npy of image-level tags; \"\": the data set's own"),
    ("data.classes", "class names, one a line, the first `background`; \"\": the data set's own, else VOC's"),
    ("data.allow_unlabelled", "take images without tags as background instead of leaving them out"),
    ("data.exif", "\"ignore\" orientation tags, as masks are drawn on the stored pixels, or \"apply\" them"),
    ("backbone.", "The backbone that all three networks share (ResNet-38)."),
    ("backbone.width", "share of the full channel counts: 1, or a fraction such as \"1/8\""),
    ("backbone.init", "weights to start from; \"\": random ones"),
    (
        "backbone.learn_statistics",
        "batch normalisation learns (from random weights) or is frozen (fine-tuning)",
    ),
    ("cam.", "Class activation maps."),
    ("cam.head", "\"paper\" or \"psa\""),
    ("cam.long_side", "smallest and largest longer side of a training image"),
    ("cam.scales", "scales of inference"),
    ("cam.flip", "each scale also mirrored"),
    ("cam.training.", "Training of the CAM network."),
    ("affinity_labels.", "Confident objects and background, from two dense CRFs."),
    ("affinity_labels.alpha_strong", "α of the strong background, which confident objects must beat"),
    ("affinity_labels.alpha_weak", "α of the weak background, which names confident background"),
    ("affinity_labels.crf.", "The dense CRF behind both."),
    ("affinity.", "AffinityNet."),
    ("affinity.feature_widths", "channels that conv4, conv5, conv6 are reduced to at full width"),
    ("affinity.reduction", "\"sum\" or \"mean\" of absolute differences over channels"),
    ("affinity.border", "\"full\": every pair on the grid; \"psa\": only from where the whole stencil fits"),
    ("affinity.loss", "\"paper\": equation 7; \"psa\": a quarter of it, with ε"),
    ("affinity.radius", "γ: pairs are closer than this, in steps of the feature grid"),
    ("affinity.inclusive", "pairs at the distance γ itself count too (the paper's ≤; its code has <)"),
    ("affinity.training.", "Training of AffinityNet."),
    ("walk.", "The random walk that grows the maps."),
    ("walk.beta", "β: power of the affinities"),
    ("walk.steps", "t: number of steps"),
    ("walk.background_alpha", "α of the background map that walks along"),
    ("walk.scales", "of the picture, whose affinities are averaged"),
    ("walk.flip", "each scale also mirrored"),
    ("crf.", "The dense CRF on the walked maps."),
    ("crf.pseudo_labels", "\"on\", \"off\", or \"auto\": as the preset has it"),
    ("crf.options.", "Its parameters."),
    ("segmentation.", "The segmentation network."),
    ("segmentation.dilation", "of the head's two convolutions"),
    ("segmentation.scales", "scales of inference"),
    ("segmentation.flip", "each scale also mirrored"),
    ("segmentation.crf", "refine predictions by the CRF of [crf.options]"),
    ("segmentation.scale_range", "smallest and largest factor on a training image's sides"),
    ("segmentation.training.", "Training of the segmentation network."),
    ("output.", "Where a run goes."),
    ("output.folder", "what is complete there is not done again"),
];

/// The keys of each `….training` section.
const TRAINING: &[(&str, &str)] = &[
    ("optimizer", "\"sgd\", \"adam\" or \"adamw\""),
    ("learning_rate", "of weights; biases take twice that"),
    ("momentum", "of SGD"),
    ("weight_decay", "of weights; biases and batch normalisation have none"),
    ("poly_power", "the rate falls as (1 − step/steps)^power"),
    ("batch", "images a step"),
    ("epochs", "passes over the list"),
    ("crop", "side of the square crop in pixels"),
    ("warmup_steps", "steps over which the rate rises from 0"),
    ("head_learning_rate_factor", "on the rate of layers that initial weights do not have"),
    ("hue", "largest change of hue in augmentation, as a share of the colour circle"),
];

/// The keys of each section of CRF parameters.
const CRF: &[(&str, &str)] = &[
    ("iterations", "of the mean field"),
    ("gaussian", "smoothness: σ in pixels, weight"),
    ("bilateral", "appearance: σ in pixels, σ in colour (0–255), weight"),
];

impl Config {
    /// Every value, as TOML with a comment each; [`Config::from_toml`] reads it back as the same.
    ///
    /// # Errors
    /// A path that is not UTF-8, which TOML cannot hold.
    pub fn to_toml(&self) -> Result<String> {
        let table =
            Table::try_from(self).map_err(|e| Error::invalid(format!("not to be had as TOML: {e}")))?;
        let mut out = String::new();
        for (key, comment) in KEYS {
            let Some(section) = key.strip_suffix('.') else {
                line(&mut out, &table, key, comment);
                continue;
            };
            // Writing to a string cannot fail.
            let _ = writeln!(out, "\n# {comment}\n[{section}]");
            let keys = match section.rsplit('.').next() {
                Some("training") => TRAINING,
                Some("crf" | "options") if section.contains('.') => CRF,
                _ => &[],
            };
            for (key, comment) in keys {
                line(&mut out, &table, &format!("{section}.{key}"), comment);
            }
        }
        Ok(out)
    }
}

/// `key = value  # comment`.
fn line(out: &mut String, table: &Table, path: &str, comment: &str) {
    let mut keys = path.split('.');
    let first = keys.next().and_then(|key| table.get(key));
    let value = keys.fold(first, |value, key| value.and_then(|v| v.get(key)));
    let Some(value) = value else { return };
    let key = path.rsplit('.').next().unwrap_or(path);
    let _ = writeln!(out, "{:<40} # {comment}", format!("{key} = {}", show(value)));
}

/// A value in TOML. Numbers that were f32 are written as such: 0.9, not 0.8999999761581421.
fn show(value: &Value) -> String {
    match value {
        Value::Float(v) if f64::from(*v as f32) == *v => format!("{:?}", *v as f32),
        Value::Float(v) => format!("{v:?}"),
        Value::Array(values) => format!("[{}]", values.iter().map(show).collect::<Vec<_>>().join(", ")),
        Value::Table(table) => {
            let pairs: Vec<String> = table.iter().map(|(k, v)| format!("{k} = {}", show(v))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}
