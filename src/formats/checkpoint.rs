//! Checkpoints of trainings: a folder with `step-N` folders and `latest`, which names the newest.
//!
//! A `step-N` folder holds `weights.safetensors`, `optimizer.safetensors` and `checkpoint.json` (network,
//! step, classes, configuration, program version, a hash of each file). It is written under a temporary
//! name, synced, renamed and read back before `latest` points to it; only then are older ones removed, all
//! but one.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::atomic::write_atomically;
use super::safetensors::{Dtype, read_tensors, write_tensors};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// All that a training needs to go on, and that inference needs to know.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// `cam`, `affinity` or `segmentation`.
    pub kind: String,
    /// Network, recipe, seed, data.
    pub configuration: Value,
    /// Class names, background first.
    pub classes: Vec<String>,
    /// Optimiser steps done.
    pub step: u64,
    /// Version of the program that wrote it.
    pub version: String,
    /// Parameters and running statistics.
    pub tensors: Vec<(String, Tensor)>,
    /// The optimiser's state.
    pub optimizer: Vec<(String, Tensor)>,
    /// Last loss, seed, number of steps in all. Random state is a pure function of seed and step.
    pub state: Value,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    schema_version: u32,
    kind: String,
    step: u64,
    version: String,
    classes: Vec<String>,
    state: Value,
    configuration: Value,
    weights_hash: String,
    optimizer_hash: String,
}

const LATEST: &str = "latest";
const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const DESCRIPTION: &str = "checkpoint.json";

/// Whether a path is a checkpoint folder.
pub fn exists(folder: &Path) -> bool {
    folder.join(LATEST).is_file()
}

fn hash(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    Ok(format!("{:016x}", xxh3_64(&bytes)))
}

/// Hash of the newest checkpoint's weights: equal weights, equal hash.
pub fn weights_hash(folder: &Path) -> Result<String> {
    if !exists(folder) {
        return Ok("none".into());
    }
    hash(&latest(folder)?.join(WEIGHTS))
}

fn latest(folder: &Path) -> Result<PathBuf> {
    let pointer = folder.join(LATEST);
    let name = std::fs::read_to_string(&pointer).map_err(|e| Error::io("read", &pointer, e))?;
    let name = name.trim();
    if !name.strip_prefix("step-").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit())) {
        return Err(Error::malformed(&pointer, format!("`{name}` is not the name of a checkpoint")));
    }
    Ok(folder.join(name))
}

/// Loads the newest checkpoint.
///
/// # Errors
/// A damaged one is never replaced silently by an older one: the error names the older.
pub fn load(folder: &Path) -> Result<Checkpoint> {
    let newest = latest(folder)?;
    load_step(&newest).map_err(|e| {
        let mut older = steps(folder);
        older.retain(|path| *path != newest);
        match older.last() {
            Some(path) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                e.remedy(format!(
                    "an older checkpoint is there: write `{name}` into the file `{LATEST}` to use it"
                ))
            }
            None => e.remedy("train again with --overwrite"),
        }
    })
}

fn load_step(path: &Path) -> Result<Checkpoint> {
    let file = path.join(DESCRIPTION);
    let text = std::fs::read_to_string(&file).map_err(|e| Error::io("read", &file, e))?;
    let d: Description =
        serde_json::from_str(&text).map_err(|e| Error::malformed(&file, e.to_string()).at_line(e.line()))?;
    for (name, recorded) in [(WEIGHTS, &d.weights_hash), (OPTIMIZER, &d.optimizer_hash)] {
        let file = path.join(name);
        if hash(&file)? != *recorded {
            return Err(Error::malformed(&file, "the contents do not match the hash that was recorded"));
        }
    }
    let file = path.join(WEIGHTS);
    let tensors = read_tensors(&file)?.tensors;
    if let Some((name, _)) = tensors.iter().find(|(_, t)| !t.is_finite()) {
        return Err(Error::malformed(&file, format!("tensor `{name}` has values that are not finite")));
    }
    Ok(Checkpoint {
        kind: d.kind,
        configuration: d.configuration,
        classes: d.classes,
        step: d.step,
        version: d.version,
        tensors,
        optimizer: read_tensors(&path.join(OPTIMIZER))?.tensors,
        state: d.state,
    })
}

/// The `step-N` folders, oldest first.
fn steps(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|e| Some((e.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?, e.path())))
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

/// Saves a checkpoint and points `latest` to it; the one before stays, older ones go.
pub fn save(folder: &Path, checkpoint: &Checkpoint) -> Result<()> {
    let name = format!("step-{:08}", checkpoint.step);
    let target = folder.join(&name);
    let draft = folder.join(format!(".draft-{name}"));
    for path in [&draft, &target] {
        if path.exists() {
            std::fs::remove_dir_all(path).map_err(|e| Error::io("remove", path, e))?;
        }
    }
    let named = |tensors: &'static str| draft.join(tensors);
    for (file, tensors) in [(WEIGHTS, &checkpoint.tensors), (OPTIMIZER, &checkpoint.optimizer)] {
        let list: Vec<(&str, &Tensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
        write_tensors(&named(file), &list, Dtype::F32, &[])?;
    }
    let description = Description {
        schema_version: 1,
        kind: checkpoint.kind.clone(),
        step: checkpoint.step,
        version: checkpoint.version.clone(),
        classes: checkpoint.classes.clone(),
        state: checkpoint.state.clone(),
        configuration: checkpoint.configuration.clone(),
        weights_hash: hash(&named(WEIGHTS))?,
        optimizer_hash: hash(&named(OPTIMIZER))?,
    };
    let text = serde_json::to_string_pretty(&description).map_err(|e| Error::invalid(e.to_string()))?;
    write_atomically(&named(DESCRIPTION), |file| file.write_all(text.as_bytes()))?;
    std::fs::rename(&draft, &target).map_err(|e| Error::io("rename", &target, e))?;
    load_step(&target)?;
    write_atomically(&folder.join(LATEST), |file| file.write_all(name.as_bytes()))?;
    let all = steps(folder);
    for old in &all[..all.len().saturating_sub(2)] {
        std::fs::remove_dir_all(old).map_err(|e| Error::io("remove", old, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::random;

    fn checkpoint(step: u64) -> Checkpoint {
        Checkpoint {
            kind: "cam".into(),
            configuration: serde_json::json!({"seed": 1}),
            classes: vec!["background".into(), "a".into()],
            step,
            version: "0".into(),
            tensors: vec![("w".into(), random(&[3, 2], step))],
            optimizer: vec![],
            state: Value::Null,
        }
    }

    #[test]
    fn the_newest_two_are_kept_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!exists(dir.path()));
        (1..=3).for_each(|step| save(dir.path(), &checkpoint(step)).unwrap());
        assert_eq!(steps(dir.path()).len(), 2);
        let loaded = load(dir.path()).unwrap();
        assert!(loaded.step == 3 && loaded.tensors == checkpoint(3).tensors);
        let weights = dir.path().join("step-00000003").join(WEIGHTS);
        let mut bytes = std::fs::read(&weights).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&weights, bytes).unwrap();
        let error = load(dir.path()).unwrap_err();
        assert!(error.how_to_mend().unwrap().contains("step-00000002"));
    }
}
