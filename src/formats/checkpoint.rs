//! Checkpoints: everything that a training needs to go on as if it had never stopped.
//!
//! A checkpoint folder holds `step-NNNNNNNNNN.safetensors` files and `latest`, a text file with the name of
//! the one to go on from. A file has the parameters under their own names, the optimiser's state under
//! `optimizer/…`, and as metadata the network's kind, the configuration, the class names, the step, the
//! random state, the program's version, and an XXH3 hash of each tensor and of the metadata itself.
//!
//! Saving writes the new file beside the old ones, syncs, renames, reads it back and compares the hashes,
//! then points `latest` to it, and only then removes what is older than the one before it. A crash at any
//! point leaves `latest` naming a whole checkpoint.

use std::collections::BTreeMap;
use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::atomic::write_atomically;
use super::elements::check_finite;
use super::safetensors::{self, Dtype, StoredTensor, TensorFile, write_tensors};
use super::{CHANNELS_LAST, LAYOUT, read_file};
use crate::tensor::Tensor;
use crate::{Error, ErrorKind, Result};

/// What a checkpoint holds.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Which network: `cam`, `affinity` or `segmentation`.
    pub kind: String,
    /// The configuration that it was trained under.
    pub configuration: Value,
    /// Class names.
    pub classes: Vec<String>,
    /// Optimiser steps done.
    pub step: u64,
    /// Version of the program that wrote it.
    pub version: String,
    /// The parameters by name.
    pub tensors: Vec<(String, Tensor)>,
    /// The optimiser's state by name.
    pub optimizer: Vec<(String, Tensor)>,
    /// Whatever else the training loop keeps: seed, last loss, number of steps.
    pub state: Value,
}

const FORMAT: &str = "seedwalk-checkpoint-1";
const LATEST: &str = "latest";
const OPTIMIZER: &str = "optimizer/";
/// Metadata that is hashed, in this order.
const HASHED: [&str; 8] = ["format", LAYOUT, "kind", "configuration", "classes", "step", "version", "state"];

/// Whether a path is a checkpoint: a folder with one in it, or a checkpoint file.
pub fn exists(path: &Path) -> bool {
    if path.is_dir() {
        return path.join(LATEST).is_file() || steps(path).is_ok_and(|steps| !steps.is_empty());
    }
    path.is_file() && is_checkpoint_file(path)
}

/// Whether a file's header says that it is a checkpoint. Reads no more than the header.
fn is_checkpoint_file(path: &Path) -> bool {
    use std::io::Read;
    let Ok(mut file) = std::fs::File::open(path) else { return false };
    // Metadata comes first in what `save` writes, the format first in it.
    let mut start = [0u8; 64];
    let begin = format!("{{\"__metadata__\":{{\"format\":\"{FORMAT}\"");
    file.read_exact(&mut start).is_ok() && start[8..].starts_with(begin.as_bytes())
}

/// The name of the file of a step.
fn file_name(step: u64) -> String {
    format!("step-{step:010}.safetensors")
}

/// The steps that a folder has files of, ascending.
fn steps(folder: &Path) -> Result<Vec<u64>> {
    let fail = |e| Error::io("list", folder, e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        let step =
            name.to_str().and_then(|n| n.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok());
        found.extend(step.filter(|&step| file_name(step) == *name.to_string_lossy()));
    }
    found.sort_unstable();
    Ok(found)
}

/// How many checkpoint files a folder has, whole or not.
pub(crate) fn count(folder: &Path) -> usize {
    steps(folder).map_or(0, |steps| steps.len())
}

/// The file that `latest` names; without `latest`, the newest one.
fn latest_file(folder: &Path) -> Result<PathBuf> {
    let pointer = folder.join(LATEST);
    match std::fs::read_to_string(&pointer) {
        Ok(text) => {
            let name = text.trim();
            let step = name.strip_prefix("step-").and_then(|n| n.strip_suffix(".safetensors")?.parse().ok());
            match step.map(file_name) {
                Some(expected) if expected == name => Ok(folder.join(name)),
                _ => {
                    let message = format!("`{}` is not the name of a checkpoint file", name.escape_debug());
                    Err(offer_older(Error::malformed(&pointer, message), folder, None))
                }
            }
        }
        // The process was killed between the first checkpoint and its pointer.
        Err(e) if e.kind() == Io::NotFound => match steps(folder)?.last() {
            Some(&step) => Ok(folder.join(file_name(step))),
            None => Err(Error::malformed(folder, "there is no checkpoint in this folder")
                .remedy("give the folder that a training wrote to, or a weight file")),
        },
        Err(e) if e.kind() == Io::InvalidData => {
            Err(offer_older(Error::malformed(&pointer, "this is not text"), folder, None))
        }
        Err(e) => Err(Error::io("read", &pointer, e)),
    }
}

/// Loads the checkpoint of a folder, or a checkpoint file.
///
/// # Errors
/// A file that is damaged in any bit, or has NaN or infinity in it: the error names the one before it, if
/// that is whole, but never takes it by itself.
pub fn load(path: &Path) -> Result<Checkpoint> {
    if !path.is_dir() {
        return load_file(path);
    }
    let file = latest_file(path)?;
    load_file(&file).map_err(|e| offer_older(e, path, Some(&file)))
}

/// As [`load`], without the optimiser's state: what inference needs, in a third of Adam's memory.
///
/// # Errors
/// As [`load`].
pub fn load_weights(path: &Path) -> Result<Checkpoint> {
    let weights = |file: &Path| decode_those(file, &read_file(file)?, |name| !name.starts_with(OPTIMIZER));
    if !path.is_dir() {
        return weights(path);
    }
    let file = latest_file(path)?;
    weights(&file).map_err(|e| offer_older(e, path, Some(&file)))
}

/// The tensors of what [`load`] would load, as they are stored, for `inspect`: not verified.
pub(crate) fn latest_tensors(folder: &Path) -> Result<Vec<StoredTensor>> {
    let file = latest_file(folder)?;
    Ok(safetensors::read_tensors(&file)?.tensors)
}

/// Says in the remedy which other checkpoint of the folder is whole.
fn offer_older(error: Error, folder: &Path, broken: Option<&Path>) -> Error {
    let whole = steps(folder).ok().and_then(|steps| {
        let files = steps.into_iter().rev().map(|step| (step, folder.join(file_name(step))));
        files.filter(|(_, file)| Some(file.as_path()) != broken).find(|(_, file)| load_file(file).is_ok())
    });
    let latest = crate::show_path(&folder.join(LATEST));
    error.remedy(match whole {
        Some((step, _)) => format!(
            "the checkpoint of step {step} in this folder is whole; to go on from it, put the line `{}` into {latest}",
            file_name(step)
        ),
        None => "no other checkpoint of this folder is whole; start afresh with --overwrite".to_string(),
    })
}

fn load_file(path: &Path) -> Result<Checkpoint> {
    let bytes = read_file(path)?;
    decode(path, &bytes)
}

/// Reads a checkpoint from memory and verifies every hash.
pub(crate) fn decode(path: &Path, bytes: &[u8]) -> Result<Checkpoint> {
    decode_those(path, bytes, |_| true)
}

/// Longest JSON in the metadata: that of a hundred thousand tensors. What is parsed of it takes many times
/// its size.
const MAX_JSON: usize = 1 << 20;

fn decode_those(path: &Path, bytes: &[u8], wanted: fn(&str) -> bool) -> Result<Checkpoint> {
    decode_wanted(path, bytes, wanted).map_err(|e| e.or_remedy(super::DAMAGED))
}

fn decode_wanted(path: &Path, bytes: &[u8], wanted: fn(&str) -> bool) -> Result<Checkpoint> {
    let file = safetensors::decode_those(path, bytes, wanted)?;
    verify(path, &file, wanted)?;
    let text = |key: &str| {
        let found = file.metadata.get(key).cloned();
        found.ok_or_else(|| Error::malformed(path, format!("the checkpoint has no `{key}`")))
    };
    let json = |key: &str| -> Result<Value> {
        serde_json::from_str(&text(key)?).map_err(|e| Error::malformed(path, format!("`{key}`: {e}")))
    };
    let (kind, version, state, configuration) =
        (text("kind")?, text("version")?, json("state")?, json("configuration")?);
    let classes = serde_json::from_value(json("classes")?)
        .map_err(|e| Error::malformed(path, format!("`classes`: {e}")))?;
    let step = text("step")?.parse().map_err(|e| Error::malformed(path, format!("`step`: {e}")))?;
    check_finite(path, file.tensors.iter().map(|t| (t.name.as_str(), &t.tensor)))?;
    let (mut tensors, mut optimizer) = (Vec::new(), Vec::new());
    for (name, tensor) in file.into_pairs() {
        match name.strip_prefix(OPTIMIZER) {
            Some(name) => optimizer.push((name.to_string(), tensor)),
            None => tensors.push((name, tensor)),
        }
    }
    Ok(Checkpoint { kind, configuration, classes, step, version, tensors, optimizer, state })
}

/// Compares every tensor and the metadata with the hashes that were stored with them.
fn verify(path: &Path, file: &TensorFile, wanted: fn(&str) -> bool) -> Result<()> {
    let damaged = |what: String| Error::malformed(path, format!("the checkpoint is damaged: {what}"));
    if file.metadata.get("format").map(String::as_str) != Some(FORMAT) {
        return Err(Error::malformed(path, "this is not a checkpoint of this program's version")
            .remedy("give the folder that a training wrote to; plain weights are read by --init"));
    }
    if HASHED.iter().chain(&["hashes"]).any(|&key| file.metadata.get(key).is_some_and(|v| v.len() > MAX_JSON))
    {
        return Err(damaged(format!("a part of its metadata is longer than {MAX_JSON} bytes")));
    }
    let hashes = file.metadata.get("hashes").ok_or_else(|| damaged("its hashes are missing".into()))?;
    let stored: BTreeMap<String, String> =
        serde_json::from_str(hashes).map_err(|e| damaged(format!("its hashes: {e}")))?;
    let value = |key: &str| file.metadata.get(key).map_or("", String::as_str);
    if file.metadata.get("hash") != Some(&metadata_hash(HASHED.map(value), hashes)) {
        return Err(damaged("its metadata does not match its hash".into()));
    }
    for tensor in &file.tensors {
        if tensor.dtype != Dtype::F32 || stored.get(&tensor.name) != Some(&tensor_hash(&tensor.tensor)) {
            return Err(damaged(format!("`{}` does not match its hash", tensor.name)));
        }
    }
    let written = stored.keys().filter(|name| wanted(name)).count();
    if written != file.tensors.len() {
        return Err(damaged(format!("it has {} tensors, {written} were written", file.tensors.len())));
    }
    Ok(())
}

/// XXH3 of a tensor's shape and bytes.
fn tensor_hash(tensor: &Tensor) -> String {
    let mut shape = Xxh3::new();
    for &size in tensor.shape() {
        shape.update(&(size as u64).to_le_bytes());
    }
    format!("{:016x}{:016x}", shape.digest(), xxh3_64(bytemuck::cast_slice(tensor.data())))
}

fn metadata_hash(values: [&str; HASHED.len()], hashes: &str) -> String {
    let mut hash = Xxh3::new();
    for value in values.into_iter().chain([hashes]) {
        hash.update(&(value.len() as u64).to_le_bytes());
        hash.update(value.as_bytes());
    }
    format!("{:016x}", hash.digest())
}

/// Saves a checkpoint durably and keeps the one before it. Call it with the folder's lock held.
///
/// # Errors
/// NaN or infinity in it ([`ErrorKind::NotFinite`]), a full disk, a file that reads back other than it was
/// written: in each case the checkpoint that was there stays the one to go on from.
pub fn save(folder: &Path, checkpoint: &Checkpoint) -> Result<()> {
    let before = latest_step(folder);
    let name = file_name(checkpoint.step);
    let path = folder.join(&name);
    let hash = write_file(&path, checkpoint)?;
    read_back(&path, &hash)?;
    write_atomically(&folder.join(LATEST), |w| w.write_all(format!("{name}\n").as_bytes()))?;
    let all = steps(folder)?;
    // Of the same step, if a training was broken off right after a checkpoint: then the one below it.
    let before = before.filter(|&step| step != checkpoint.step);
    let before = before.or_else(|| all.iter().copied().rfind(|&step| step < checkpoint.step));
    for step in all.into_iter().filter(|&step| step != checkpoint.step && Some(step) != before) {
        let old = folder.join(file_name(step));
        std::fs::remove_file(&old).map_err(|e| Error::io("remove the old checkpoint", &old, e))?;
    }
    Ok(())
}

fn latest_step(folder: &Path) -> Option<u64> {
    let file = latest_file(folder).ok()?;
    file.file_stem()?.to_str()?.strip_prefix("step-")?.parse().ok()
}

/// Writes one file; returns the hash of its metadata, which covers the hashes of the tensors.
fn write_file(path: &Path, checkpoint: &Checkpoint) -> Result<String> {
    let optimizer: Vec<(String, &Tensor)> =
        checkpoint.optimizer.iter().map(|(name, t)| (format!("{OPTIMIZER}{name}"), t)).collect();
    let mut tensors: Vec<(&str, &Tensor)> = Vec::with_capacity(checkpoint.tensors.len() + optimizer.len());
    tensors.extend(checkpoint.tensors.iter().map(|(name, t)| (name.as_str(), t)));
    tensors.extend(optimizer.iter().map(|(name, t)| (name.as_str(), *t)));
    check_finite(path, tensors.iter().copied())
        .map_err(|e| e.remedy("the checkpoint before it is kept; lower the learning rate"))?;
    let hashes: BTreeMap<&str, String> = tensors.iter().map(|(name, t)| (*name, tensor_hash(t))).collect();
    let text = |value: serde_json::Result<String>| value.map_err(|e| Error::invalid(e.to_string()));
    let (hashes, classes) =
        (text(serde_json::to_string(&hashes))?, text(serde_json::to_string(&checkpoint.classes))?);
    let (configuration, state) = (checkpoint.configuration.to_string(), checkpoint.state.to_string());
    let step = checkpoint.step.to_string();
    let values = [
        FORMAT,
        CHANNELS_LAST,
        &checkpoint.kind,
        &configuration,
        &classes,
        &step,
        &checkpoint.version,
        &state,
    ];
    let hash = metadata_hash(values, &hashes);
    let mut metadata: Vec<(&str, &str)> = HASHED.into_iter().zip(values).collect();
    metadata.extend([("hashes", hashes.as_str()), ("hash", hash.as_str())]);
    write_tensors(path, &tensors, Dtype::F32, &metadata)?;
    Ok(hash)
}

/// Makes sure that what lies on disk is what was written.
fn read_back(path: &Path, hash: &str) -> Result<()> {
    let file = safetensors::read_tensors(path)?;
    verify(path, &file, |_| true)?;
    if file.metadata.get("hash").map(String::as_str) != Some(hash) {
        return Err(Error::new(ErrorKind::Io, "the checkpoint reads back other than it was written")
            .in_file(path)
            .remedy("check the disk and the memory of this machine; the checkpoint before it is kept"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn sample(step: u64) -> Checkpoint {
        let tensor = |n: usize| {
            Tensor::new(&[n, 2], (0..2 * n).map(|i| i as f32 + step as f32 / 7.0).collect()).unwrap()
        };
        Checkpoint {
            kind: "cam".into(),
            configuration: json!({"network": {"width": "1/8"}, "rate": 0.1}),
            classes: vec!["background".into(), "tv monitor".into()],
            step,
            version: "0.1.0".into(),
            tensors: vec![("conv1a.weight".into(), tensor(3)), ("fc8.weight".into(), tensor(5))],
            optimizer: vec![("steps".into(), tensor(1)), ("0.0".into(), tensor(3))],
            state: json!({"loss": 0.25, "seed": 7}),
        }
    }

    fn assert_equal(a: &Checkpoint, b: &Checkpoint) {
        let bits = |list: &[(String, Tensor)]| -> Vec<(String, Vec<usize>, Vec<u32>)> {
            let one = |(n, t): &(String, Tensor)| {
                (n.clone(), t.shape().to_vec(), t.data().iter().map(|v| v.to_bits()).collect())
            };
            list.iter().map(one).collect()
        };
        assert_eq!(bits(&a.tensors), bits(&b.tensors));
        assert_eq!(bits(&a.optimizer), bits(&b.optimizer));
        assert_eq!((&a.kind, &a.configuration, &a.classes), (&b.kind, &b.configuration, &b.classes));
        assert_eq!((a.step, &a.version, &a.state), (b.step, &b.version, &b.state));
    }

    fn files(folder: &Path) -> Vec<u64> {
        steps(folder).unwrap()
    }

    #[test]
    fn the_last_two_are_kept_and_the_last_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!exists(dir.path()));
        assert!(load(dir.path()).is_err());
        for step in [10, 20, 30] {
            save(dir.path(), &sample(step)).unwrap();
            assert_equal(&load(dir.path()).unwrap(), &sample(step));
        }
        assert!(exists(dir.path()));
        assert_eq!(files(dir.path()), [20, 30]);
        let file = dir.path().join(file_name(20));
        assert!(exists(&file));
        assert_equal(&load(&file).unwrap(), &sample(20));
        // Saving the same step again keeps the one below.
        save(dir.path(), &sample(30)).unwrap();
        assert_eq!(files(dir.path()), [20, 30]);
    }

    #[test]
    fn without_a_pointer_the_newest_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &sample(10)).unwrap();
        std::fs::remove_file(dir.path().join(LATEST)).unwrap();
        assert!(exists(dir.path()));
        assert_eq!(load(dir.path()).unwrap().step, 10);
    }

    #[test]
    fn weights_come_without_the_optimiser() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &sample(10)).unwrap();
        let (all, weights) = (load(dir.path()).unwrap(), load_weights(dir.path()).unwrap());
        assert!(!all.optimizer.is_empty());
        assert!(weights.optimizer.is_empty());
        assert!(all.tensors == weights.tensors);
    }

    #[test]
    fn a_damaged_one_is_an_error_that_offers_the_older() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &sample(10)).unwrap();
        save(dir.path(), &sample(20)).unwrap();
        let newest = dir.path().join(file_name(20));
        let mut bytes = std::fs::read(&newest).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&newest, &bytes).unwrap();
        let e = load(dir.path()).unwrap_err();
        assert!(e.message().contains("`optimizer/0.0` does not match its hash"), "{e}");
        assert!(e.how_to_mend().unwrap().contains(&file_name(10)), "{:?}", e.how_to_mend());
        // Doing what the remedy says.
        std::fs::write(dir.path().join(LATEST), file_name(10)).unwrap();
        assert_eq!(load(dir.path()).unwrap().step, 10);
        // And training on from there drops the damaged one.
        save(dir.path(), &sample(15)).unwrap();
        assert_eq!(files(dir.path()), [10, 15]);
        std::fs::remove_file(dir.path().join(file_name(15))).unwrap();
        assert!(load(dir.path()).unwrap_err().how_to_mend().unwrap().contains(&file_name(10)));
        for junk in ["../../etc/passwd", "", "step-x.safetensors", "step-1.safetensors"] {
            std::fs::write(dir.path().join(LATEST), junk).unwrap();
            assert!(load(dir.path()).is_err(), "{junk}");
        }
    }

    #[test]
    fn nan_is_neither_saved_nor_loaded() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &sample(10)).unwrap();
        let mut bad = sample(20);
        bad.tensors[1].1.data_mut()[3] = f32::NAN;
        let e = save(dir.path(), &bad).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFinite);
        assert!(e.message().contains("fc8.weight"));
        assert_eq!(files(dir.path()), [10]);
        assert_eq!(load(dir.path()).unwrap().step, 10);
    }

    #[test]
    fn a_folder_that_cannot_be_written_keeps_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("file/x");
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(save(&inside, &sample(1)).is_err());
        assert!(!exists(&inside));
    }

    static BYTES: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &sample(20)).unwrap();
        std::fs::read(dir.path().join(file_name(20))).unwrap()
    });

    #[test]
    fn every_changed_bit_is_noticed() {
        let path = Path::new("c.safetensors");
        let mut bytes = BYTES.clone();
        let whole = decode(path, &bytes).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1 << (at % 8);
            // A change that is noticed by no hash may only be in the header's blanks.
            if let Ok(read) = decode(path, &bytes) {
                assert_equal(&read, &whole);
            }
            bytes[at] ^= 1 << (at % 8);
        }
        for cut in 0..bytes.len() {
            assert!(decode(path, &bytes[..cut]).is_err());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn any_damage_is_a_value_or_an_error(at in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)) {
            let mut bytes = BYTES.clone();
            for (at, value) in at {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let _ = decode(Path::new("c.safetensors"), &bytes);
        }
    }
}
