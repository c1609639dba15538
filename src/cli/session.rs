//! What every command takes, and how every command ends.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::config::{Config, Preset};
use crate::device::cuda::Gpu;
use crate::device::{self, Device, Request};
pub(super) use crate::error::path_json;
use crate::ops::ladders::{self, Choice};
use crate::progress::{Progress, handle_signals, print_line};
use crate::{Error, ErrorKind, Position, Result};

/// Flags of every command.
#[derive(Args)]
#[command(next_help_heading = "Common options")]
pub(super) struct Common {
    /// Where to compute: auto, cpu, cuda, cuda:N, emulated
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE")]
    device: String,
    /// Threads [default: one a core]; results do not depend on it
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Names everything random: same seed, same bytes
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    pub seed: Option<u64>,
    /// What convolutions multiply in
    #[arg(long, global = true, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// Kernels to use instead of those that suit each shape, OPERATION=RUNG with commas between; GPU only
    #[arg(long, global = true, value_name = "OPERATION=RUNG", value_delimiter = ',')]
    pub kernel: Vec<String>,
    /// Configuration in TOML; flags win over it
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the result as one JSON object on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress, no warnings
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Tell more of what is done (-vv: everything)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Replace what an earlier run wrote to the output instead of keeping or continuing it
    #[arg(long, global = true)]
    pub overwrite: bool,
}

/// What convolutions multiply in; they always accumulate in f32.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Precision {
    F32,
    Tf32,
    Bf16,
}

impl From<Precision> for device::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Tf32 => Self::Tf32,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

/// Where a command can compute.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// On the CPU only.
    Cpu,
    /// On the CPU or a GPU.
    CpuOrGpu,
    /// On a GPU or the emulated one: it runs kernels for their own sake.
    Kernels,
    /// Nothing is computed, whatever device is named.
    Nowhere,
}

/// A command under way: its common flags, where progress goes.
pub(super) struct Session {
    pub common: Common,
    pub progress: Progress,
    /// The GPU to compute on; `None` for the CPU.
    pub gpu: Option<Arc<Gpu>>,
}

impl Session {
    /// Sets up threads, signals, log; refuses a device, a precision or a kernel that there is not.
    pub fn new(common: Common, place: Place) -> Result<Self> {
        // A second session in one process keeps the first one's log.
        if log::set_logger(&Log).is_ok() {
            log::set_max_level(match (common.quiet, common.verbose) {
                (true, _) => log::LevelFilter::Error,
                (_, 0) => log::LevelFilter::Warn,
                (_, 1) => log::LevelFilter::Info,
                _ => log::LevelFilter::Trace,
            });
        }
        // `profile` reads --kernel itself: it names what is profiled.
        let choices = match place {
            Place::Kernels | Place::Nowhere => vec![],
            _ => common.kernel.iter().map(|text| Choice::parse(text)).collect::<Result<Vec<_>>>()?,
        };
        let gpu = match Request::parse(&common.device)? {
            request if place == Place::CpuOrGpu => request.resolve()?,
            request if place == Place::Kernels => Some(request.resolve_for_kernels()?),
            _ if place == Place::Nowhere => None,
            Request::Auto | Request::Only(Device::Cpu) => None,
            Request::Only(device) => {
                let message = format!("this command does not compute on device `{device}`");
                return Err(Error::new(ErrorKind::Unavailable, message)
                    .remedy("use --device cpu, or auto; the networks and `walk` compute on a GPU"));
            }
        };
        match &gpu {
            None if !choices.is_empty() => {
                let message = format!("device `{}` has no kernels to choose from", Device::Cpu);
                return Err(Error::new(ErrorKind::Unavailable, message)
                    .remedy("leave out --kernel, or compute on a GPU: --device cuda, or emulated"));
            }
            Some(gpu) => {
                gpu.set_precision(common.precision.into())?;
                ladders::force(gpu, &choices)?;
            }
            None if common.precision != Precision::F32 && place != Place::Nowhere => {
                let message = format!("device `{}` computes in f32 only", Device::Cpu);
                return Err(Error::new(ErrorKind::Unavailable, message)
                    .remedy("leave out --precision; tf32 and bf16 need a GPU"));
            }
            None => {}
        }
        let device = gpu.as_ref().map_or(Device::Cpu, |gpu| gpu.device());
        let threads = common.threads.map_or(0, usize::from);
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().map_err(|e| {
            Error::invalid(format!("cannot start threads: {e}")).remedy("try fewer --threads")
        })?;
        handle_signals()?;
        match &gpu {
            None => log::info!("device {device}, {} threads", rayon::current_num_threads()),
            // A choice that was not spelt out is told; what is printed of kernels begins with it.
            Some(gpu) if common.device == "auto" && !common.quiet && place != Place::Kernels => {
                print_line(&format!("computing on {gpu:?}"))
            }
            Some(gpu) => log::info!("device {gpu:?}"),
        }
        let progress = Progress::new(common.quiet);
        Ok(Self { common, progress, gpu })
    }

    /// The configuration of a command: a preset, the file over it, `--seed` over that.
    pub fn config(&self, file: Option<&Path>, preset: Option<Preset>) -> Result<Config> {
        self.config_or(file, preset, Preset::Paper)
    }

    /// As [`Session::config`], with another preset than `paper` where neither flag nor file names one.
    pub fn config_or(
        &self,
        file: Option<&Path>,
        preset: Option<Preset>,
        otherwise: Preset,
    ) -> Result<Config> {
        let mut config = Config::load(file.or(self.common.config.as_deref()), preset, otherwise)?;
        if let Some(seed) = self.common.seed {
            config.seed = seed;
        }
        Ok(config)
    }
}

/// What a command came to.
pub(super) struct Outcome {
    /// For people; may be empty.
    text: String,
    /// For programs.
    json: Value,
    /// The command did what it was asked, and what it found is a failure.
    error: Option<Error>,
}

impl Outcome {
    pub fn new(text: impl Into<String>, json: Value) -> Self {
        Self { text: text.into(), json, error: None }
    }

    /// Exits as `error` says, after printing the result.
    pub fn failed(mut self, error: Error) -> Self {
        self.error = Some(error);
        self
    }
}

/// Prints an outcome and returns the exit code.
pub(super) fn finish(outcome: Result<Outcome>, json: bool) -> u8 {
    let (text, error) = match outcome {
        Ok(Outcome { text, json: value, error }) => (if json { value.to_string() } else { text }, error),
        Err(error) => {
            (if json { json!({ "error": describe(&error) }).to_string() } else { String::new() }, Some(error))
        }
    };
    if let Some(error) = &error {
        tell(error);
    }
    let printed = match text.trim_end_matches('\n') {
        "" => Ok(()),
        text => {
            let mut out = std::io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush())
        }
    };
    match (error, printed) {
        (Some(error), _) => error.exit_code(),
        // The reader has what it wanted, as in `| head`.
        (None, Err(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => 0,
        (None, Err(e)) => {
            tell(&Error::io("write", "standard output", e));
            1
        }
        (None, Ok(())) => 0,
    }
}

/// Prints an error as the one object on standard output. A closed pipe is no news.
pub(super) fn print_json_error(error: &Error) {
    let _ = writeln!(std::io::stdout(), "{}", json!({ "error": describe(error) }));
}

/// Prints an error: its cause, then what to do.
fn tell(error: &Error) {
    print_line(&format!("error: {error}"));
    if let Some(remedy) = error.how_to_mend() {
        print_line(&format!("  help: {remedy}"));
    }
}

/// An error for programs.
fn describe(error: &Error) -> Value {
    let mut value = json!({ "message": error.message(), "exit_code": error.exit_code() });
    if let Some(path) = error.path() {
        value["file"] = path_json(path);
    }
    match error.position() {
        Some(Position::Line(line)) => value["line"] = json!(line),
        Some(Position::Offset(offset)) => value["offset"] = json!(offset),
        None => {}
    }
    if let Some(remedy) = error.how_to_mend() {
        value["remedy"] = json!(remedy);
    }
    value
}

/// The library's log, on standard error above the bars.
struct Log;

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("seedwalk")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = match record.level() {
                log::Level::Warn => "warning".to_string(),
                other => other.as_str().to_lowercase(),
            };
            print_line(&format!("{level}: {}", record.args()));
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_in_json_with_file_and_line() {
        let error = Error::malformed("a.csv", "unknown class").at_line(3).remedy("mend it");
        let expected = json!({
            "message": "unknown class", "exit_code": 1, "file": "a.csv", "line": 3, "remedy": "mend it"
        });
        assert_eq!(describe(&error), expected);
    }
}
