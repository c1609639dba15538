//! Which stages of a `run` are done: `manifest.json` in its output folder.
//!
//! A stage's key is a hash of the program's version, the stage's settings and the contents of its inputs;
//! beside it stand the hash of what the stage wrote and what it reported. A stage is skipped when its key
//! is the recorded one and its outputs still hash to the recorded value; it goes on where it broke off when
//! the key is the recorded one and it did not finish; otherwise its outputs are removed and it starts
//! afresh. No time stamps are used, so clocks and copies of the folder change nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::formats::atomic::write_atomically;
use crate::formats::checkpoint;
use crate::{Error, Result};

/// What is known of one stage.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Hash of version, settings and inputs.
    pub key: String,
    /// Hash of what was written; absent while the stage is under way.
    pub outputs: Option<String>,
    /// Seconds spent, summed over broken-off attempts that ended in order.
    pub seconds: f64,
    /// What the stage reported, for `metrics.json`.
    pub report: Value,
}

/// The manifest of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    schema_version: u32,
    stages: BTreeMap<String, Entry>,
    #[serde(skip)]
    path: PathBuf,
}

/// What is to be done about a stage, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Complete and unchanged.
    Skip,
    /// Same settings and inputs, not finished.
    GoOn,
    /// Never begun.
    Begin,
    /// Settings, inputs or program changed, or outputs were altered: the reason in words.
    Redo(&'static str),
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Plan::Skip => f.write_str("skip: complete, nothing it depends on has changed"),
            Plan::GoOn => f.write_str("go on: it was broken off"),
            Plan::Begin => f.write_str("run: not done yet"),
            Plan::Redo(why) => write!(f, "run again: {why}"),
        }
    }
}

impl Manifest {
    /// Reads the manifest of an output folder; a folder without one has an empty one.
    ///
    /// # Errors
    /// A manifest that is not ours: it is not overwritten silently.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("manifest.json");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { schema_version: 1, stages: BTreeMap::new(), path });
            }
            Err(e) => return Err(Error::io("read", &path, e)),
        };
        let mut manifest: Self = serde_json::from_str(&text).map_err(|e| {
            Error::malformed(&path, e.to_string())
                .at_line(e.line())
                .remedy("remove the file to run every stage again")
        })?;
        if manifest.schema_version != 1 {
            let message = format!("schema version {} is not known", manifest.schema_version);
            return Err(Error::malformed(&path, message).remedy("use the version of seedwalk that wrote it"));
        }
        manifest.path = path;
        Ok(manifest)
    }

    /// What is recorded of a stage.
    pub fn get(&self, stage: &str) -> Option<&Entry> {
        self.stages.get(stage)
    }

    /// Decides about a stage. `outputs` hashes what is there now; asked only where it matters.
    pub fn plan(&self, stage: &str, key: &str, outputs: impl FnOnce() -> Result<String>) -> Result<Plan> {
        let Some(entry) = self.stages.get(stage) else { return Ok(Plan::Begin) };
        if entry.key != key {
            return Ok(Plan::Redo("its settings, its inputs or the program have changed"));
        }
        match &entry.outputs {
            None => Ok(Plan::GoOn),
            Some(recorded) if *recorded == outputs()? => Ok(Plan::Skip),
            Some(_) => Ok(Plan::Redo("its outputs were altered or removed")),
        }
    }

    /// Notes durably that a stage is under way.
    pub fn begin(&mut self, stage: &str, key: &str) -> Result<()> {
        let seconds = self.stages.get(stage).filter(|e| e.key == key).map_or(0.0, |e| e.seconds);
        let entry = Entry { key: key.to_string(), outputs: None, seconds, report: Value::Null };
        self.stages.insert(stage.to_string(), entry);
        self.save()
    }

    /// Notes durably what a stage came to; `outputs` is `None` when it was interrupted.
    pub fn end(&mut self, stage: &str, outputs: Option<String>, seconds: f64, report: Value) -> Result<()> {
        if let Some(entry) = self.stages.get_mut(stage) {
            entry.outputs = outputs;
            entry.seconds += seconds;
            entry.report = report;
        }
        self.save()
    }

    fn save(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::invalid(e.to_string()))?;
        write_atomically(&self.path, |w| std::io::Write::write_all(w, text.as_bytes()))
    }
}

/// A key from named parts, in order. Parts are length-prefixed, so that no two lists of parts collide.
pub fn key_of(parts: &[&str]) -> String {
    let mut hash = Xxh3::new();
    for part in std::iter::once(&env!("CARGO_PKG_VERSION")).chain(parts) {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    format!("{:016x}", hash.digest())
}

/// Hash of the names and contents of the files of a folder, subfolders included; a folder that is not
/// there hashes as an empty one. Lock files and temporary files, whose names begin with a dot, do not count.
pub fn hash_folder(folder: &Path) -> Result<String> {
    let mut files = Vec::new();
    list(folder, &mut files)?;
    files.sort();
    hash_files(&files, folder)
}

/// Hash of the newest checkpoint's weights: equal weights, equal hash.
pub fn weights_hash(folder: &Path) -> Result<String> {
    if !checkpoint::exists(folder) {
        return Ok("none".into());
    }
    let mut hash = Xxh3::new();
    for (name, tensor) in checkpoint::load(folder)?.tensors {
        hash.update(name.as_bytes());
        tensor.data().iter().for_each(|v| hash.update(&v.to_le_bytes()));
    }
    Ok(format!("{:016x}", hash.digest()))
}

/// Hash of the contents of files, named relative to `root`.
pub fn hash_files(files: &[PathBuf], root: &Path) -> Result<String> {
    let hashes: Vec<u64> = files
        .par_iter()
        .map(|file| std::fs::read(file).map(|bytes| xxh3_64(&bytes)).map_err(|e| Error::io("read", file, e)))
        .collect::<Result<_>>()?;
    let mut all = Xxh3::new();
    for (file, hash) in files.iter().zip(hashes) {
        let name = file.strip_prefix(root).unwrap_or(file);
        all.update(name.as_os_str().as_encoded_bytes());
        all.update(&[0]);
        all.update(&hash.to_le_bytes());
    }
    Ok(format!("{:016x}", all.digest()))
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("list", folder, e)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("list", folder, e))?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        if entry.file_type().map_err(|e| Error::io("stat", &path, e))?.is_dir() {
            list(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_goes_from_begun_to_complete_to_redone() {
        let dir = tempfile::tempdir().unwrap();
        let never = || -> Result<String> { panic!("outputs are not asked for") };
        let mut m = Manifest::open(dir.path()).unwrap();
        assert_eq!(m.plan("cams", "k1", never).unwrap(), Plan::Begin);
        m.begin("cams", "k1").unwrap();
        let mut m = Manifest::open(dir.path()).unwrap();
        assert_eq!(m.plan("cams", "k1", never).unwrap(), Plan::GoOn);
        m.end("cams", Some("out".into()), 2.0, Value::Null).unwrap();
        let m = Manifest::open(dir.path()).unwrap();
        assert_eq!(m.plan("cams", "k1", || Ok("out".into())).unwrap(), Plan::Skip);
        assert!(matches!(m.plan("cams", "k1", || Ok("else".into())).unwrap(), Plan::Redo(_)));
        assert!(matches!(m.plan("cams", "k2", never).unwrap(), Plan::Redo(_)));
    }

    #[test]
    fn a_folder_hash_sees_names_and_contents() {
        let dir = tempfile::tempdir().unwrap();
        let hash = || hash_folder(dir.path()).unwrap();
        let empty = hash();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/x"), "1").unwrap();
        let one = hash();
        std::fs::write(dir.path().join("a/x"), "2").unwrap();
        let two = hash();
        std::fs::write(dir.path().join(".lock"), "9").unwrap();
        assert_eq!(two, hash());
        std::fs::rename(dir.path().join("a/x"), dir.path().join("a/y")).unwrap();
        assert_eq!([empty != one, one != two, two != hash()], [true; 3]);
        assert_ne!(key_of(&["ab", "c"]), key_of(&["a", "bc"]));
    }

    #[test]
    fn a_foreign_manifest_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("manifest.json"), "{\"schema_version\": 9}").unwrap();
        assert!(Manifest::open(dir.path()).is_err());
    }
}
