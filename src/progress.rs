//! Progress on standard error, and interruption.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, atomic::AtomicBool};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{Error, ErrorKind, Result};

/// Time between two plain lines.
const INTERVAL: Duration = Duration::from_secs(10);

fn flag() -> &'static Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(|| Arc::new(AtomicBool::new(false)))
}

/// From here on the first SIGINT or SIGTERM is noted, for [`check_interrupted`]; the second ends the process.
pub fn handle_signals() -> Result<()> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, flag().clone())
            .and_then(|_| signal_hook::flag::register(signal, flag().clone()))
            .map_err(|e| Error::invalid(format!("signals cannot be handled: {e}")))?;
    }
    Ok(())
}

/// Fails with [`ErrorKind::Interrupted`] once a signal has come. Long work asks between its pieces.
pub fn check_interrupted() -> Result<()> {
    match flag().load(Ordering::Relaxed) {
        false => Ok(()),
        true => Err(Error::new(ErrorKind::Interrupted, "interrupted; what was finished is kept")
            .remedy("run the same command again to go on")),
    }
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    quiet: bool,
}

impl Progress {
    /// A bar on a terminal, lines at intervals elsewhere, nothing when quiet.
    pub fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    /// Begins a stage of `total` pieces.
    pub fn stage(&self, name: &str, total: u64) -> Stage {
        let bar = (!self.quiet && std::io::stderr().is_terminal()).then(|| {
            let style =
                ProgressStyle::with_template("{prefix} [{wide_bar}] {pos}/{len} {per_sec} eta {eta} {msg}");
            let bar = ProgressBar::new(total).with_prefix(name.to_string());
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Stage {
            name: name.to_string(),
            total,
            done: AtomicU64::new(0),
            started: Instant::now(),
            plain: !self.quiet && bar.is_none(),
            last: Mutex::new((Instant::now(), String::new())),
            bar,
        }
    }
}

/// A stage under way; may be advanced from several threads.
pub struct Stage {
    name: String,
    total: u64,
    done: AtomicU64,
    started: Instant,
    plain: bool,
    /// When the last line was printed, and the note.
    last: Mutex<(Instant, String)>,
    bar: Option<ProgressBar>,
}

impl Stage {
    /// Counts finished pieces.
    pub fn advance(&self, pieces: u64) {
        let done = self.done.fetch_add(pieces, Ordering::Relaxed) + pieces;
        if let Some(bar) = &self.bar {
            bar.inc(pieces);
        }
        if self.plain
            && let Ok(mut last) = self.last.try_lock()
            && last.0.elapsed() >= INTERVAL
        {
            last.0 = Instant::now();
            let rate = done as f64 / self.started.elapsed().as_secs_f64();
            let left = (self.total.saturating_sub(done)) as f64 / rate.max(1e-9);
            eprintln!("{}: {done}/{} ({rate:.1}/s, {left:.0} s left) {}", self.name, self.total, last.1);
        }
    }

    /// A word on how it goes, such as the loss.
    pub fn note(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_string());
        } else if self.plain
            && let Ok(mut last) = self.last.try_lock()
        {
            last.1 = text.to_string();
        }
    }

    /// Ends the stage.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.plain || self.bar.is_some() {
            eprintln!("{}: {} done in {:.1} s", self.name, self.total, self.started.elapsed().as_secs_f64());
        }
    }
}
