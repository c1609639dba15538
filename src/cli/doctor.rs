//! `doctor`.

use std::path::Path;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::session::{Outcome, Session};
use crate::device::cuda;
use crate::{Error, Result, show_path};

/// Look at this machine: what is there, what is missing, what that means and what to do about it
#[derive(Args)]
#[command(after_help = "Examples:
  seedwalk doctor
  seedwalk doctor --json")]
pub(super) struct Doctor {}

/// How a finding is meant.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// Nothing to do.
    Ok,
    /// Works, could be better.
    Note,
    /// Will not work.
    Bad,
}

#[derive(Serialize)]
struct Finding {
    name: &'static str,
    status: Status,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn new(name: &'static str, status: Status, found: impl Into<String>) -> Self {
        Self { name, status, found: found.into(), remedy: None }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl Doctor {
    pub fn run(self, _session: &Session) -> Result<Outcome> {
        let version = format!("seedwalk {}", env!("CARGO_PKG_VERSION"));
        let findings = [
            Finding::new("program", Status::Ok, version),
            processor(),
            threads(),
            memory(),
            folder(),
            gpu(),
            emulated(),
        ];
        let mut text = String::new();
        for f in &findings {
            let mark = match f.status {
                Status::Ok => "ok",
                Status::Note => "note",
                Status::Bad => "bad",
            };
            text += &format!("{mark:5} {:10} {}\n", f.name, f.found);
            if let Some(remedy) = &f.remedy {
                text += &format!("{:16} help: {remedy}\n", "");
            }
        }
        let bad = findings.iter().filter(|f| f.status == Status::Bad).count();
        let outcome = Outcome::new(text, json!({ "findings": findings }));
        Ok(if bad > 0 {
            outcome.failed(Error::invalid("something on this machine needs mending"))
        } else {
            outcome
        })
    }
}

/// The instructions that convolutions run on.
fn processor() -> Finding {
    #[cfg(target_arch = "x86_64")]
    let (avx512, avx2) = (
        std::is_x86_feature_detected!("avx512f"),
        std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma"),
    );
    #[cfg(not(target_arch = "x86_64"))]
    let (avx512, avx2) = (false, false);
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(':'))
        .map_or("", |(_, m)| m.trim());
    let model = if model.is_empty() { std::env::consts::ARCH } else { model };
    match (avx512, avx2) {
        (true, _) => Finding::new("processor", Status::Ok, format!("{model}, with AVX-512")),
        (false, true) => Finding::new("processor", Status::Ok, format!("{model}, with AVX2 and FMA")),
        (false, false) => {
            Finding::new("processor", Status::Note, format!("{model}, without AVX2: plain loops"))
                .remedy("results are the same, and take about ten times as long")
        }
    }
}

fn threads() -> Finding {
    let used = rayon::current_num_threads();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let found = format!("{used} used of {cores} that this process may use");
    if used > cores {
        return Finding::new("threads", Status::Note, found)
            .remedy("more threads than cores slow each other down");
    }
    Finding::new("threads", Status::Ok, found)
}

/// Memory that is free, against what full-width networks take.
fn memory() -> Finding {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let gib = |key: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
        Some(line.trim().trim_end_matches("kB").trim().parse::<f64>().ok()? / f64::from(1 << 20))
    };
    let (Some(total), Some(free)) = (gib("MemTotal"), gib("MemAvailable")) else {
        return Finding::new("memory", Status::Note, "not known on this system");
    };
    let found = format!("{free:.1} GiB free of {total:.1} GiB");
    if free < 8.0 {
        return Finding::new("memory", Status::Note, found)
            .remedy("training at full width takes up to 8 GiB; --width 1/8 takes a small part of that");
    }
    Finding::new("memory", Status::Ok, found)
}

/// Whether the current folder, where results go by default, can be written.
fn folder() -> Finding {
    let probe = crate::formats::atomic::check_space(Path::new("."), &[1 << 20]);
    match probe {
        Ok(()) => Finding::new("folder", Status::Ok, "the current folder can be written"),
        Err(e) => Finding::new("folder", Status::Note, format!("the current folder: {}", e.message()))
            .remedy("give --output a folder that can be written"),
    }
}

/// The driver and its GPUs.
fn gpu() -> Finding {
    match cuda::survey() {
        Ok((version, gpus)) => {
            Finding::new("gpu", Status::Ok, format!("{}; driver for CUDA {version}", gpus.join(", ")))
        }
        Err(e) => {
            let finding = Finding::new("gpu", Status::Note, e.message());
            match e.how_to_mend() {
                Some(remedy) => finding.remedy(remedy),
                None => finding,
            }
        }
    }
}

/// The stand-in for the driver.
fn emulated() -> Finding {
    match cuda::emulated_driver() {
        Ok(path) => Finding::new("emulated", Status::Ok, format!("a GPU for checks: {}", show_path(&path))),
        Err(e) => {
            let finding = Finding::new("emulated", Status::Note, e.to_string());
            match e.how_to_mend() {
                Some(remedy) => finding.remedy(remedy),
                None => finding,
            }
        }
    }
}
