//! Short trainings of the three networks: how they are asked for, and what is read of what they leave.

use serde_json::Value;
use std::path::Path;

/// How large a training is.
pub struct Size {
    /// Images that are generated; three quarters are trained on.
    pub images: usize,
    /// Their side in pixels.
    pub side: usize,
    /// Images a step.
    pub batch: usize,
    flags: &'static str,
}

/// The networks' own: full width, 448², 12 steps of 4 images. The larger part of a 24 GB GPU in f32.
pub const FULL: Size =
    Size { images: 64, side: 448, batch: 4, flags: "--width 1 --epochs 1 --batch 4 --crop 448" };
/// For trying it on the emulated driver: 6 steps.
pub const SMALL: Size =
    Size { images: 8, side: 64, batch: 2, flags: "--width 1/32 --epochs 2 --batch 2 --crop 32" };

/// Stages, as in `train-STAGE`.
pub const NETWORKS: [&str; 3] = ["cam", "affinity", "segmentation"];
/// As in `--precision`.
pub const PRECISIONS: [&str; 3] = ["f32", "tf32", "bf16"];

/// From random weights, so that statistics are learnt and a dozen steps tell.
pub const CONFIG: &str = "[backbone]\nlearn_statistics = true\n\
    [cam.training]\noptimizer = \"adamw\"\nlearning_rate = 1e-3\nwarmup_steps = 0\nhead_learning_rate_factor = 1.0\n\
    [affinity.training]\noptimizer = \"adamw\"\nlearning_rate = 1e-3\nwarmup_steps = 0\nhead_learning_rate_factor = 1.0\n\
    [segmentation.training]\noptimizer = \"adamw\"\nlearning_rate = 1e-3\nwarmup_steps = 0\nhead_learning_rate_factor = 1.0\n";

impl Size {
    /// Arguments that generate the data set `data`.
    pub fn synth(&self) -> String {
        format!("synth --output data --images {} --size {} --seed 3", self.images, self.side)
    }

    /// Arguments of one training on it, with `day.toml` as [`CONFIG`], into a folder of the stage's and precision's names.
    pub fn train(&self, network: &str, precision: &str, device: &str) -> String {
        let labels = if network == "cam" { "" } else { " --labels data/SegmentationClass" };
        format!(
            "train-{network} --data data --split train{labels} --config day.toml --seed 4 {} --device {device} \
             --precision {precision} --output {network}-{precision}",
            self.flags
        )
    }
}

/// What `events.jsonl` tells, also of a training that was broken off.
#[derive(Debug, Default, PartialEq)]
pub struct Told {
    /// One a step; `None` where one is no number.
    pub losses: Vec<Option<f64>>,
    /// From the second step on.
    pub images_per_second: Option<f64>,
}

/// Reads it. Its `images_per_second` counts from the start, so that the first step, which loads kernels and takes memory, is
/// taken out again.
pub fn read(folder: &Path, batch: usize) -> Told {
    let text = std::fs::read_to_string(folder.join("events.jsonl")).unwrap_or_default();
    let events: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let losses = events.iter().map(|event| event["loss"].as_f64()).collect();
    let images = |step: usize| (step * batch) as f64;
    let elapsed = |step: usize| Some(images(step) / events[step - 1]["images_per_second"].as_f64()?);
    let rate = match events.len() {
        0 | 1 => None,
        steps => {
            let seconds = elapsed(steps).zip(elapsed(1)).map(|(last, first)| last - first);
            seconds.filter(|s| *s > 0.0).map(|seconds| (images(steps) - images(1)) / seconds)
        }
    };
    Told { losses, images_per_second: rate }
}

/// Whether all are numbers, and the mean of the last third is below that of the first.
pub fn falls(losses: &[Option<f64>]) -> bool {
    let Some(losses) = losses.iter().copied().collect::<Option<Vec<f64>>>() else { return false };
    let third = losses.len().div_ceil(3);
    let sum = |part: &[f64]| part.iter().sum::<f64>();
    losses.len() >= 2
        && losses.iter().all(|loss| loss.is_finite())
        && sum(&losses[losses.len() - third..]) < sum(&losses[..third])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_up_to_where_they_broke_off() {
        let folder = tempfile::tempdir().unwrap();
        let line = |loss: &str, rate: f64| format!("{{\"loss\":{loss},\"images_per_second\":{rate}}}\n");
        // Two images a step: the first after 4 s, then one step a second.
        let text =
            [line("2.0", 0.5), line("1.5", 4.0 / 5.0), line("1.0", 1.0), "{\"loss\":0.".into()].concat();
        std::fs::write(folder.path().join("events.jsonl"), text).unwrap();
        let told = read(folder.path(), 2);
        assert_eq!(told.losses, [2.0, 1.5, 1.0].map(Some));
        assert!((told.images_per_second.unwrap() - 2.0).abs() < 1e-12, "{told:?}");
        assert_eq!(read(&folder.path().join("nowhere"), 2), Told::default());
    }

    #[test]
    fn falling_is_told_from_rising_and_from_what_is_no_number() {
        assert!(falls(&[3.0, 2.0, 2.5, 1.0, 1.5, 0.5].map(Some)));
        assert!(!falls(&[1.0, 2.0, 3.0].map(Some)));
        assert!(!falls(&[Some(3.0), None, Some(1.0)]));
        assert!(!falls(&[3.0, f64::INFINITY, 1.0].map(Some)));
        assert!(!falls(&[Some(1.0)]));
        assert!(!falls(&[]));
    }
}
