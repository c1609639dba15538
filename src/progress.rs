//! Progress on standard error, and interruption.
//!
//! On a terminal a stage is a bar with rate and time left; elsewhere a plain line every ten seconds, so
//! that logs stay short. An interruption (SIGINT, SIGTERM) sets a flag that long work asks for between its
//! pieces, so what was finished is kept; the second signal ends the process at once.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::{Error, ErrorKind, Result};

/// Time between two plain lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// What an interrupted process exits with, as shells have it for SIGINT.
const INTERRUPTED: i32 = 130;

fn flag() -> &'static Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(|| Arc::new(AtomicBool::new(false)))
}

/// From here on the first SIGINT or SIGTERM is noted, for [`check_interrupted`]; the second ends the
/// process. Writing beyond a limit on a file's size becomes an error like any other.
///
/// # Errors
/// The operating system refuses to register the handlers.
pub fn handle_signals() -> Result<()> {
    let cannot = |e| Error::new(ErrorKind::Io, format!("cannot handle signals: {e}"));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // In this order: the first signal finds the flag unset and sets it, the second finds it set.
        signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED, flag().clone())
            .and_then(|_| signal_hook::flag::register(signal, flag().clone()))
            .map_err(cannot)?;
    }
    // So that a write beyond a limit on a file's size fails and is told, where it would end the process.
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default()).map_err(cannot)?;
    Ok(())
}

/// Fails once a signal has come. Long work asks between its pieces.
///
/// # Errors
/// [`ErrorKind::Interrupted`].
pub fn check_interrupted() -> Result<()> {
    match flag().load(Ordering::Relaxed) {
        false => Ok(()),
        true => Err(Error::new(ErrorKind::Interrupted, "interrupted; what was finished is kept")
            .remedy("run the same command again to go on")),
    }
}

/// The bars on the terminal, so that lines can be printed above them.
fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(MultiProgress::new)
}

/// Prints a line to standard error, above the bars. A closed standard error is no failure.
pub fn print_line(text: &str) {
    bars().suspend(|| {
        let _ = writeln!(std::io::stderr(), "{text}");
    });
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
            let template = if std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()) {
                "{prefix} [{wide_bar}] {pos}/{len} {per_sec} {eta} left {msg}"
            } else {
                "{prefix:.bold} [{wide_bar:.cyan}] {pos}/{len} {per_sec} {eta} left {msg}"
            };
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(total).with_style(style.progress_chars("=> "));
            bars().add(bar.with_prefix(name.to_string()))
        });
        let now = Instant::now();
        Stage {
            name: name.to_string(),
            total,
            done: AtomicU64::new(0),
            started: now,
            plain: !self.quiet && bar.is_none(),
            state: Mutex::new(Line { when: now, done: 0, note: String::new() }),
            bar,
        }
    }
}

/// What the last plain line said.
struct Line {
    when: Instant,
    done: u64,
    note: String,
}

/// A stage under way; may be advanced from several threads.
pub struct Stage {
    name: String,
    total: u64,
    done: AtomicU64,
    started: Instant,
    plain: bool,
    state: Mutex<Line>,
    bar: Option<ProgressBar>,
}

impl Stage {
    /// Counts pieces that an earlier process finished: they say nothing about the rate.
    pub fn already(&self, pieces: u64) {
        let done = self.done.fetch_add(pieces, Ordering::Relaxed) + pieces;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.reset_eta();
        }
        if let Ok(mut line) = self.state.lock() {
            line.done = done;
        }
    }

    /// Counts finished pieces.
    pub fn advance(&self, pieces: u64) {
        let done = self.done.fetch_add(pieces, Ordering::Relaxed) + pieces;
        if let Some(bar) = &self.bar {
            bar.inc(pieces);
        }
        // Whoever finds the line taken leaves it to the thread that has it.
        if self.plain
            && let Ok(mut line) = self.state.try_lock()
            && line.when.elapsed() >= INTERVAL
            && done > line.done
        {
            let rate = (done - line.done) as f64 / line.when.elapsed().as_secs_f64();
            (line.when, line.done) = (Instant::now(), done);
            print_line(&plain_line(&self.name, done, self.total, rate, &line.note));
        }
    }

    /// A word on how it goes, such as the loss.
    pub fn note(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_string());
        } else if self.plain
            && let Ok(mut line) = self.state.lock()
        {
            line.note = text.to_string();
        }
    }

    /// Ends the stage: the bar goes, a line of how long it took stays.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            bars().remove(bar);
        }
        if self.plain || self.bar.is_some() {
            let seconds = self.started.elapsed().as_secs_f64();
            print_line(&format!(
                "{}: {} done in {seconds:.1} s",
                self.name,
                self.done.load(Ordering::Relaxed)
            ));
        }
    }
}

impl Drop for Stage {
    /// A stage that failed leaves no bar behind.
    fn drop(&mut self) {
        if let Some(bar) = &self.bar
            && !bar.is_finished()
        {
            bar.finish_and_clear();
            bars().remove(bar);
        }
    }
}

fn plain_line(name: &str, done: u64, total: u64, rate: f64, note: &str) -> String {
    let left = total.saturating_sub(done) as f64 / rate;
    let separator = if note.is_empty() { "" } else { ", " };
    format!("{name}: {done}/{total}, {rate:.1}/s, {} left{separator}{note}", show_seconds(left))
}

/// A duration for people: `45 s`, `3 min 20 s`, `2 h 5 min`.
pub fn show_seconds(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match (s / 3600, s % 3600 / 60, s % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_tell_rate_and_time_left() {
        let line = plain_line("make-cams", 25, 100, 0.5, "loss 0.1");
        assert_eq!(line, "make-cams: 25/100, 0.5/s, 2 min 30 s left, loss 0.1");
        assert_eq!(show_seconds(59.6), "1 min 0 s");
        assert_eq!(show_seconds(7320.0), "2 h 2 min");
        assert_eq!(show_seconds(f64::INFINITY).split(' ').nth(1), Some("h"));
    }

    #[test]
    fn pieces_are_counted_from_several_threads() {
        let stage = Progress::new(true).stage("s", 2000);
        stage.already(1000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..250).for_each(|_| stage.advance(1)));
            }
        });
        assert_eq!(stage.done.load(Ordering::Relaxed), 2000);
        stage.note("x");
        stage.finish();
        check_interrupted().unwrap();
    }
}
