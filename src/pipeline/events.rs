//! `events.jsonl`: one line a step, readable while the run goes on.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::{Error, Result};

/// One line of `events.jsonl`.
pub struct Event {
    /// Optimiser steps done, from 1.
    pub step: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// The loss that was differentiated.
    pub loss: f64,
    /// Its parts.
    pub parts: Vec<(&'static str, f64)>,
    /// Base learning rate.
    pub rate: f32,
    /// Images a second since this process began.
    pub images_per_second: f64,
}

/// The open file, for appending.
pub struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// Opens the file and drops what a broken-off run wrote after its last checkpoint: lines of steps
    /// beyond `step`, and a torn last line.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let mut keep = 0u64;
        if step > 0
            && let Ok(file) = File::open(path)
        {
            let mut reader = BufReader::new(file);
            let mut line = String::new();
            loop {
                line.clear();
                let read = reader.read_line(&mut line).map_err(|e| Error::io("read", path, e))?;
                let whole = line.ends_with('\n');
                let number = serde_json::from_str::<Value>(&line).ok().and_then(|v| v["step"].as_u64());
                if read == 0 || !whole || number.is_none_or(|n| n > step) {
                    break;
                }
                keep += read as u64;
            }
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|file| file.set_len(keep).map(|()| file))
            .map_err(|e| Error::io("open", path, e))?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Appends a line in one write.
    pub fn write(&mut self, event: &Event) -> Result<()> {
        let mut line = Map::new();
        line.insert("step".into(), json!(event.step));
        line.insert("epoch".into(), json!(event.epoch));
        line.insert("loss".into(), json!(event.loss));
        for (name, value) in &event.parts {
            line.insert((*name).into(), json!(value));
        }
        line.insert("learning_rate".into(), json!(event.rate));
        line.insert("images_per_second".into(), json!(event.images_per_second));
        let text = format!("{}\n", Value::Object(line));
        self.file.write_all(text.as_bytes()).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Makes the lines durable: called before a checkpoint that counts on them.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io("sync", &self.path, e))
    }
}

/// Reads (step, loss) pairs, for the report; a torn last line is left out.
pub fn read_losses(path: &Path) -> Result<Vec<(f64, f64)>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let point = |line: &str| {
        let value: Value = serde_json::from_str(line).ok()?;
        Some((value["step"].as_f64()?, value["loss"].as_f64()?))
    };
    Ok(text.lines().filter_map(point).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_after_the_checkpoint_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let event = |step| Event {
            step,
            epoch: 0,
            loss: 0.5,
            parts: vec![("part", 0.25)],
            rate: 0.1,
            images_per_second: 1.0,
        };
        let mut events = Events::open(&path, 0).unwrap();
        (1..=5).for_each(|step| events.write(&event(step)).unwrap());
        events.file.write_all(b"{\"step\":6,\"lo").unwrap();
        assert_eq!(read_losses(&path).unwrap().len(), 5);
        let mut events = Events::open(&path, 3).unwrap();
        events.write(&event(4)).unwrap();
        let steps: Vec<f64> = read_losses(&path).unwrap().into_iter().map(|(s, _)| s).collect();
        assert_eq!(steps, [1.0, 2.0, 3.0, 4.0]);
    }
}
