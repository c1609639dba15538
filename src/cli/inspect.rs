//! `inspect`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::session::{Outcome, Session};
use crate::formats::image::{Exif, IGNORE, read_rgb};
use crate::formats::label_png::read_labels;
use crate::formats::safetensors::read_tensors;
use crate::formats::{checkpoint, weights};
use crate::tensor::Tensor;
use crate::{Error, Result, show_path};

/// Show what is in a file: tensors with shapes, ranges and NaN counts; images; masks
///
/// Reads checkpoints, .safetensors, .pth, .params, .npz, .npy, photographs and label PNGs.
#[derive(Args)]
#[command(after_help = "Examples:
  seedwalk inspect runs/cam
  seedwalk inspect cams/2007_000032.safetensors --json")]
pub(super) struct Inspect {
    /// File or checkpoint folder
    file: PathBuf,
}

impl Inspect {
    pub fn run(self, _session: &Session) -> Result<Outcome> {
        let path = self.file.as_path();
        if checkpoint::exists(path) {
            return of_checkpoint(path);
        }
        if path.is_dir() {
            return Err(Error::invalid("a folder without a checkpoint")
                .in_file(path)
                .remedy("name a file in it, or check a data set with `seedwalk check-data`"));
        }
        let ending = path.extension().map(|e| e.to_ascii_lowercase());
        match ending.as_deref().and_then(|e| e.to_str()) {
            Some("safetensors") => {
                let file = read_tensors(path)?;
                let metadata = json!(file.metadata);
                let mut lines = vec!["safetensors".to_string()];
                lines.extend(file.metadata.iter().map(|(k, v)| format!("{k}: {}", shortened(v))));
                Ok(of_tensors("safetensors", &lines, &file.into_pairs(), [("metadata", metadata)]))
            }
            Some("png" | "jpg" | "jpeg") => of_picture(path),
            _ => Ok(of_tensors("weights", &["weights".to_string()], &weights::read_weights(path)?, [])),
        }
    }
}

fn of_checkpoint(path: &Path) -> Result<Outcome> {
    let saved = checkpoint::load(path)?;
    let lines = [
        format!(
            "checkpoint of the {} network, step {}, by seedwalk {}",
            saved.kind, saved.step, saved.version
        ),
        format!("classes: {}", saved.classes.join(", ")),
        format!("configuration: {}", saved.configuration),
        format!("state: {}", saved.state),
    ];
    let optimizer = saved.optimizer.len();
    Ok(of_tensors(
        "checkpoint",
        &lines,
        &saved.tensors,
        [
            ("network", json!(saved.kind)),
            ("step", json!(saved.step)),
            ("version", json!(saved.version)),
            ("classes", json!(saved.classes)),
            ("configuration", saved.configuration),
            ("state", saved.state),
            ("optimizer_tensors", json!(optimizer)),
        ],
    ))
}

/// A tensor's values, NaN and infinities counted apart.
struct Statistics {
    min: f32,
    max: f32,
    mean: f64,
    nan: usize,
    infinite: usize,
}

impl Statistics {
    fn of(tensor: &Tensor) -> Self {
        let mut s = Self { min: f32::INFINITY, max: f32::NEG_INFINITY, mean: 0.0, nan: 0, infinite: 0 };
        let mut finite = 0usize;
        for &v in tensor.data() {
            match v {
                _ if v.is_nan() => s.nan += 1,
                _ if v.is_infinite() => s.infinite += 1,
                _ => {
                    finite += 1;
                    s.mean += f64::from(v);
                }
            }
            // Comparisons with NaN are false.
            if v < s.min {
                s.min = v;
            }
            if v > s.max {
                s.max = v;
            }
        }
        s.mean /= finite.max(1) as f64;
        s
    }
}

fn of_tensors<const N: usize>(
    kind: &str,
    lines: &[String],
    tensors: &[(String, Tensor)],
    more: [(&str, Value); N],
) -> Outcome {
    let mut text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let mut list = Vec::new();
    let mut values = 0;
    for (name, tensor) in tensors {
        let s = Statistics::of(tensor);
        values += tensor.len();
        let shape = tensor.shape().iter().map(usize::to_string).collect::<Vec<_>>().join("×");
        text += &format!("{name:32} {shape:>18}");
        if !tensor.is_empty() {
            text += &format!("  {:>11.4e} … {:>11.4e}  mean {:>11.4e}", s.min, s.max, s.mean);
        }
        for (count, what) in [(s.nan, "NaN"), (s.infinite, "infinite")] {
            if count > 0 {
                text += &format!("  {count} {what}");
            }
        }
        text.push('\n');
        // Infinity has no form in JSON: min and max are null where no finite value is on that side.
        list.push(json!({
            "name": name, "shape": tensor.shape(), "min": s.min, "max": s.max, "mean": s.mean,
            "nan": s.nan, "infinite": s.infinite,
        }));
    }
    text += &format!("{} tensors, {values} values", tensors.len());
    let mut json = json!({ "kind": kind, "tensors": list, "values": values });
    for (key, value) in more {
        json[key] = value;
    }
    Outcome::new(text, json)
}

/// A label PNG, or else a photograph.
fn of_picture(path: &Path) -> Result<Outcome> {
    let png = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
    if png && let Ok(map) = read_labels(path) {
        let mut counts = [0u64; 256];
        map.labels.iter().for_each(|&l| counts[usize::from(l)] += 1);
        let present: Vec<(usize, u64)> = counts.into_iter().enumerate().filter(|(_, n)| *n > 0).collect();
        let mut text = format!("{}: labels, {}×{} pixels\n", show_path(path), map.width, map.height);
        for (label, count) in &present {
            let name = if *label == usize::from(IGNORE) { " (ignored)" } else { "" };
            let share = 100.0 * *count as f64 / map.labels.len() as f64;
            text += &format!("{label:5} {count:10} {share:6.2}%{name}\n");
        }
        let labels: Vec<Value> = present.iter().map(|(l, n)| json!({ "label": l, "pixels": n })).collect();
        let json = json!({ "kind": "labels", "width": map.width, "height": map.height, "labels": labels });
        return Ok(Outcome::new(text, json));
    }
    let stored = read_rgb(path, Exif::Ignore)?;
    let upright = read_rgb(path, Exif::Apply)?;
    let turned = upright != stored;
    let mut text = format!("{}: photograph, {}×{} pixels", show_path(path), stored.width, stored.height);
    if turned {
        text += &format!("; upright, as its orientation tag has it, {}×{}", upright.width, upright.height);
    }
    let json = json!({
        "kind": "image", "width": stored.width, "height": stored.height, "orientation_tag": turned
    });
    Ok(Outcome::new(text, json))
}

/// The beginning of a long value.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((at, _)) => format!("{}… ({} bytes)", &text[..at], text.len()),
        None => text.to_string(),
    }
}
