//! The output folder of a stage: held by one process, swept, and known to hold nothing of other inputs.
//!
//! `stage.json` in it keeps the stage's name and a key: a hash of the program's version, the settings, and
//! what decides every image alike (weights, class names, the key of the folder that is read). Outputs of an
//! image that are there under the same key are kept, so a broken-off stage goes on; under another key the
//! stage refuses, unless `--overwrite` says that they may go.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::session::Session;
use crate::data::Dataset;
use crate::formats::atomic::{FolderLock, check_space, sweep, write_atomically};
use crate::pipeline::manifest::{hash_files, key_of, weights_hash};
use crate::{Error, Result, show_path};

const RECORD: &str = "stage.json";

/// Free space that a stage wants before it begins: it is told early, not after an hour.
const SPACE: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Record {
    schema_version: u32,
    stage: String,
    key: String,
    version: String,
}

/// An output folder in the sole possession of this process.
pub(super) struct StageFolder {
    _lock: FolderLock,
}

impl StageFolder {
    /// Takes possession of `folder` for a stage over `data`. `parts` decide all of its outputs alike;
    /// `files` names the outputs of an image.
    ///
    /// # Errors
    /// Another process has the folder; it cannot be written; it holds outputs of these images made from
    /// other inputs, and `--overwrite` was not given.
    pub fn open(
        session: &Session,
        folder: &Path,
        stage: &str,
        parts: &[&str],
        data: &[String],
        files: impl Fn(&str) -> Vec<String>,
    ) -> Result<Self> {
        let lock = FolderLock::acquire(folder)?;
        sweep(folder)?;
        check_space(folder, &[SPACE])?;
        let mut all = vec![stage];
        all.extend(parts);
        let key = key_of(&all);
        let recorded = read(folder)?;
        let same = recorded.as_ref().is_some_and(|r| r.key == key);
        let there: Vec<PathBuf> = if same && !session.common.overwrite {
            Vec::new()
        } else {
            data.iter()
                .flat_map(|id| files(id))
                .map(|name| folder.join(name))
                .filter(|p| p.is_file())
                .collect()
        };
        if let Some(first) = there.first() {
            if !session.common.overwrite {
                let message = match recorded {
                    Some(r) if r.stage == stage => {
                        "outputs of other weights, settings or inputs are here".to_string()
                    }
                    Some(r) => format!("outputs of `{}` are here", r.stage),
                    None => format!("there is a file that this stage would write: {}", show_path(first)),
                };
                return Err(Error::invalid(message)
                    .in_file(folder)
                    .remedy("choose another --output, or replace them with --overwrite"));
            }
            for path in &there {
                std::fs::remove_file(path).map_err(|e| Error::io("remove", path, e))?;
            }
        }
        if !same {
            let record = Record {
                schema_version: 1,
                stage: stage.to_string(),
                key,
                version: env!("CARGO_PKG_VERSION").to_string(),
            };
            let text = serde_json::to_string_pretty(&record).map_err(|e| Error::invalid(e.to_string()))?;
            write_atomically(&folder.join(RECORD), |w| writeln!(w, "{text}"))?;
        }
        Ok(Self { _lock: lock })
    }
}

fn read(folder: &Path) -> Result<Option<Record>> {
    let path = folder.join(RECORD);
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|e| {
            Error::malformed(&path, e.to_string())
                .at_line(e.line())
                .remedy("this file is not of a stage of seedwalk; choose another --output, or remove it")
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", &path, e)),
    }
}

/// What stands for a folder that a stage reads: the key it was made under; its path where another program
/// made it.
pub(super) fn source_of(folder: &Path) -> Result<String> {
    Ok(read(folder)?.map_or_else(|| show_path(folder), |record| record.key))
}

/// What stands for weights: a hash of their values or of the file.
pub(super) fn weights_of(path: &Path) -> Result<String> {
    if crate::formats::checkpoint::exists(path) {
        return weights_hash(path);
    }
    hash_files(&[path.to_path_buf()], path.parent().unwrap_or(path))
}

/// The ids of a list.
pub(super) fn ids(data: &Dataset) -> Vec<String> {
    data.samples.iter().map(|s| s.id.clone()).collect()
}

/// Removes what a training wrote to a folder, and nothing else: for `--overwrite`.
pub(super) fn clear_training(folder: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("list", folder, e)),
    };
    let _lock = FolderLock::acquire(folder)?;
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("list", folder, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let checkpoint = name.starts_with("step-") && name.ends_with(".safetensors");
        if checkpoint || name == "latest" || name == "events.jsonl" {
            std::fs::remove_file(entry.path()).map_err(|e| Error::io("remove", entry.path(), e))?;
        }
    }
    Ok(())
}
