//! `inspect`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};

use super::session::{Outcome, Session};
use crate::formats::image::{Exif, IGNORE, LabelMap, read_rgb};
use crate::formats::label_png::read_labels;
use crate::formats::safetensors::read_tensors;
use crate::formats::{TensorSummary, checkpoint, inspect};
use crate::{Error, Result};

/// Show what is in a file: tensors with types, shapes, ranges and NaN counts; images; masks
///
/// Reads checkpoints, .safetensors, .pth, .params, .npz, .npy, photographs and label PNGs, told by their
/// contents. Names and layout are the file's own.
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
        if path.is_dir() && !checkpoint::exists(path) {
            return Err(Error::invalid("a folder without a checkpoint")
                .in_file(path)
                .remedy("name a file in it, or check a data set with `seedwalk check-data`"));
        }
        let tensors = inspect(path)?;
        let about = about(path, &tensors)?;
        let mut text: String =
            about.iter().map(|(key, value)| format!("{key}: {}\n", shortened(&plain(value)))).collect();
        let mut values = 0;
        for t in &tensors {
            let shape = t.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("×");
            values += t.shape.iter().product::<usize>();
            text += &format!("{:32} {:4} {shape:>16}", t.name, t.dtype);
            if !t.mean.is_nan() {
                text += &format!("  {:>11.4e} … {:>11.4e}  mean {:>11.4e}", t.min, t.max, t.mean);
            }
            if t.nan_count > 0 {
                text += &format!("  {} NaN", t.nan_count);
            }
            text.push('\n');
        }
        text += &format!("{} tensors, {values} values", tensors.len());
        // JSON has no NaN and no infinity: they become null.
        let list: Vec<Value> = tensors
            .iter()
            .map(|t| {
                json!({
                    "name": t.name, "dtype": t.dtype, "shape": t.shape, "min": t.min, "max": t.max,
                    "mean": t.mean, "nan_count": t.nan_count,
                })
            })
            .collect();
        let mut json = about;
        json.insert("tensors".into(), json!(list));
        json.insert("values".into(), json!(values));
        Ok(Outcome::new(text, Value::Object(json)))
    }
}

/// What else is known of a file than its tensors.
fn about(path: &Path, tensors: &[TensorSummary]) -> Result<Map<String, Value>> {
    let value = if checkpoint::exists(path) {
        let saved = checkpoint::load(path)?;
        json!({
            "kind": "checkpoint", "network": saved.kind, "step": saved.step, "version": saved.version,
            "classes": saved.classes, "configuration": saved.configuration, "state": saved.state,
            "optimizer_tensors": saved.optimizer.len(),
        })
    } else if is_picture(tensors, "labels") {
        json!({ "kind": "labels", "labels": counts(&read_labels(path)?) })
    } else if is_picture(tensors, "pixels") {
        let upright = read_rgb(path, Exif::Apply)? != read_rgb(path, Exif::Ignore)?;
        json!({ "kind": "photograph", "orientation_tag": upright })
    } else {
        // Whatever reads as safetensors may have metadata; other formats have none.
        let metadata = read_tensors(path).map(|file| file.metadata).unwrap_or_default();
        if metadata.is_empty() {
            json!({ "kind": "tensors" })
        } else {
            json!({ "kind": "tensors", "metadata": metadata })
        }
    };
    Ok(match value {
        Value::Object(map) => map,
        _ => Map::new(),
    })
}

fn is_picture(tensors: &[TensorSummary], name: &str) -> bool {
    matches!(tensors, [only] if only.name == name && only.dtype == "u8")
}

/// Pixels of each label that occurs.
fn counts(map: &LabelMap) -> Map<String, Value> {
    let mut counts = [0u64; 256];
    map.labels.iter().for_each(|&label| counts[usize::from(label)] += 1);
    let present = counts.into_iter().enumerate().filter(|(_, count)| *count > 0);
    present
        .map(|(label, count)| {
            let name = if label == usize::from(IGNORE) { "ignored".to_string() } else { label.to_string() };
            (name, json!(count))
        })
        .collect()
}

/// Texts without their quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

/// The beginning of a long value.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(240) {
        Some((at, _)) => format!("{}… ({} bytes)", &text[..at], text.len()),
        None => text.to_string(),
    }
}
