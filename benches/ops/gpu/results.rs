//! The results of a run as one JSON file, and the comparison with another's.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use seedwalk::device::Device;
use seedwalk::device::cuda::Gpu;
use serde_json::{Value, json};

/// Version of the file: grows when a member changes its meaning or goes.
const SCHEMA_VERSION: u32 = 1;

/// First line of what a command prints; `None` where it is not there or fails.
fn asked(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|o| o.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(|line| line.trim().to_string()).filter(|line| !line.is_empty())
}

/// Clocks, temperature and power of a GPU now, as `nvidia-smi` tells them. They are read, never set.
pub fn clocks(gpu: &Gpu) -> Value {
    let Device::Cuda(number) = gpu.device() else { return Value::Null };
    let fields = "--query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw";
    let line = asked("nvidia-smi", &["-i", &number.to_string(), fields, "--format=csv,noheader,nounits"]);
    let Some(line) = line else { return Value::Null };
    let values: Vec<Option<f64>> = line.split(',').map(|v| v.trim().parse().ok()).collect();
    match values[..] {
        [sm, memory, temperature, power] => {
            json!({ "sm_mhz": sm, "memory_mhz": memory, "celsius": temperature, "watts": power })
        }
        _ => Value::Null,
    }
}

/// Days since 1970-01-01 as year, month, day of the Gregorian calendar.
fn date(days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let (mut year, mut left) = (1970, days);
    loop {
        let length = 365 + u64::from(leap(year));
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while left >= lengths[month] {
        left -= lengths[month];
        month += 1;
    }
    (year, month as u64 + 1, left + 1)
}

/// The time in UTC as in `2026-11-26T09:30:00Z`.
fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (year, month, day) = date(seconds / 86400);
    let of_day = seconds % 86400;
    format!("{year}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

/// The commit of the repository that the bench was built from, where it and git are at hand.
fn commit() -> Option<String> {
    let root = env!("CARGO_MANIFEST_DIR");
    let commit = asked("git", &["-C", root, "rev-parse", "HEAD"])?;
    let changed = asked("git", &["-C", root, "status", "--porcelain", "--untracked-files=no"]).is_some();
    Some(if changed { format!("{commit} and changes") } else { commit })
}

/// The file's object, without its rows.
pub fn head(gpu: &Arc<Gpu>) -> Value {
    let driver = asked("nvidia-smi", &["--query-gpu=driver_version", "--format=csv,noheader"])
        .filter(|_| matches!(gpu.device(), Device::Cuda(_)));
    let cuda = gpu.driver_version().unwrap_or_default();
    let emulated = gpu.device() == Device::Emulated;
    json!({
        "schema_version": SCHEMA_VERSION,
        "gpu": gpu.name(),
        "device": gpu.device().to_string(),
        "emulated": emulated,
        "clock": if emulated {
            "the emulated driver's: sums of the launches' lower bounds, no times"
        } else {
            "CUDA events"
        },
        "driver": match driver {
            Some(version) => format!("{version}, CUDA {cuda}"),
            None => format!("CUDA {cuda}"),
        },
        "compute_capability": { "major": gpu.compute_capability().0, "minor": gpu.compute_capability().1 },
        "multiprocessors": gpu.multiprocessors(),
        "date": now(),
        "commit": commit(),
        "version": env!("CARGO_PKG_VERSION"),
    })
}

/// What tells a row among others.
fn key(row: &Value) -> String {
    let of = |field: &str| row[field].as_str().unwrap_or_default();
    ["operation", "case", "rung", "shape"].map(of).join(", ")
}

/// A row's time beside an older one's.
#[derive(Debug, PartialEq)]
pub struct Change {
    /// Operation, case, rung, shape.
    pub row: String,
    /// Old seconds, new seconds.
    pub seconds: [f64; 2],
    /// What may be noise: both spreads together, relative.
    pub noise: f64,
}

impl Change {
    /// New over old.
    pub fn ratio(&self) -> f64 {
        self.seconds[1] / self.seconds[0]
    }

    /// Slower by more than the noise.
    pub fn is_slower(&self) -> bool {
        self.ratio() > 1.0 + self.noise
    }

    /// Faster by more than the noise.
    pub fn is_faster(&self) -> bool {
        self.ratio() < 1.0 / (1.0 + self.noise)
    }
}

/// The rows that two results have in common, and the names of those that only the old one has.
///
/// # Errors
/// In words: an old file that is not one of ours, or of another GPU.
pub fn compare(old: &Value, new: &Value) -> Result<(Vec<Change>, Vec<String>), String> {
    if old["schema_version"] != new["schema_version"] {
        return Err(format!(
            "it is of version {}, this run of {}",
            old["schema_version"], new["schema_version"]
        ));
    }
    if old["gpu"] != new["gpu"] {
        return Err(format!(
            "it is of {}, this run of {}: their times say nothing about kernels",
            old["gpu"], new["gpu"]
        ));
    }
    let rows = |results: &Value| -> BTreeMap<String, Value> {
        results["rows"].as_array().into_iter().flatten().map(|row| (key(row), row.clone())).collect()
    };
    let (old, new) = (rows(old), rows(new));
    let mut changes = Vec::new();
    for (name, row) in &new {
        let Some(before) = old.get(name) else { continue };
        if let (Some(a), Some(b)) = (before["median_s"].as_f64(), row["median_s"].as_f64())
            && a > 0.0
        {
            // The middle halves may lie apart by that much and still touch; half a per cent is what measuring aims at.
            let spread = |row: &Value| row["spread"].as_f64().unwrap_or(0.0);
            let noise = (spread(before) + spread(row)).max(0.005);
            changes.push(Change { row: name.clone(), seconds: [a, b], noise });
        }
    }
    let gone = old.keys().filter(|name| !new.contains_key(*name)).cloned().collect();
    Ok((changes, gone))
}

/// Reads an older file.
///
/// # Errors
/// In words: it cannot be read, or is no JSON.
pub fn read(path: &Path) -> Result<Value, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Writes a file whole or not at all.
///
/// # Errors
/// In words.
pub fn write(path: &Path, results: &Value) -> Result<(), String> {
    let text = serde_json::to_string_pretty(results).map_err(|e| e.to_string())? + "\n";
    let beside = path.with_extension("partial");
    std::fs::write(&beside, text)
        .and_then(|()| std::fs::rename(&beside, path))
        .map_err(|e| format!("{}: {e}", path.display()))
}

// The bench has no test harness: `tests/profile.rs` takes this module in.
#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "the bench itself is built without a harness")]
mod tests {
    use super::*;

    #[test]
    fn dates_are_the_calendars() {
        assert_eq!([0, 11016, 20783].map(date), [(1970, 1, 1), (2000, 2, 29), (2026, 11, 26)]);
    }

    #[test]
    fn what_got_slower_by_more_than_the_noise_is_told() {
        let row = |rung: &str, seconds: f64, spread: f64| {
            json!({
                "operation": "a", "case": "b", "rung": rung, "shape": "s", "median_s": seconds, "spread": spread,
            })
        };
        let results = |rows: Vec<Value>| json!({ "schema_version": 1, "gpu": "G", "rows": rows });
        let old = [row("x", 1.0, 0.001), row("y", 1.0, 0.2), row("z", 1.0, 0.0), row("w", 1.0, 0.0)];
        let new = [row("x", 1.1, 0.001), row("y", 1.1, 0.0), row("z", 0.5, 0.0), row("v", 9.0, 0.0)];
        let (changes, gone) = compare(&results(old.to_vec()), &results(new.to_vec())).unwrap();
        let seen: Vec<(bool, bool)> = changes.iter().map(|c| (c.is_slower(), c.is_faster())).collect();
        assert_eq!(seen, [(true, false), (false, false), (false, true)]);
        assert_eq!(gone, ["a, b, w, s"]);
        assert!(compare(&json!({}), &results(vec![])).is_err());
        assert!(compare(&json!({ "schema_version": 1, "gpu": "H" }), &results(vec![])).is_err());
    }
}
