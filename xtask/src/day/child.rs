//! A process with a time limit: it and all that it started end when it does.

use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// With exit code 0.
    Passed,
    /// With another exit code.
    Failed(i32),
    /// By a signal.
    Crashed(i32),
    /// It was ended at its time limit.
    TimedOut,
    /// It was ended because it wrote more than [`MOST_OUTPUT`].
    TooMuchOutput,
    /// There was no process: why.
    NotStarted(String),
}

impl End {
    fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(0), _) => Self::Passed,
            (Some(code), _) => Self::Failed(code),
            (None, signal) => Self::Crashed(signal.unwrap_or(0)),
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Passed => write!(f, "passed"),
            Self::Failed(code) => write!(f, "failed ({code})"),
            Self::Crashed(signal) => write!(f, "crashed (signal {signal})"),
            Self::TimedOut => write!(f, "timed out"),
            Self::TooMuchOutput => write!(f, "wrote too much"),
            Self::NotStarted(why) => write!(f, "not started: {why}"),
        }
    }
}

/// A process that has ended.
#[derive(Debug)]
pub struct Done {
    /// How.
    pub end: End,
    /// After how long.
    pub seconds: f64,
    /// What it wrote to standard output and standard error.
    pub output: String,
}

/// Bytes that a process may write.
pub const MOST_OUTPUT: u64 = 16 << 20;

/// How long a killed process may take to go; one that is stuck in the driver may stay for ever.
const MOST_DYING: Duration = Duration::from_secs(5);

/// Runs a command to its end or its limit. Output goes to `log`, a file: a pipe that some grandchild kept open would be waited
/// for. All processes of its group are ended with it.
pub fn run(command: &mut Command, limit: Duration, log: &Path) -> Done {
    let started = Instant::now();
    let done = |end: End| {
        let bytes = std::fs::read(log).unwrap_or_default();
        let seconds = started.elapsed().as_secs_f64();
        Done { end, seconds, output: String::from_utf8_lossy(&bytes).into_owned() }
    };
    let mut child = match start(command, log) {
        Ok(child) => child,
        Err(why) => return done(End::NotStarted(why)),
    };
    let end = loop {
        match child.try_wait() {
            Ok(Some(status)) => break End::of(status),
            Ok(None) if started.elapsed() >= limit => break End::TimedOut,
            Ok(None) if log.metadata().is_ok_and(|m| m.len() > MOST_OUTPUT) => break End::TooMuchOutput,
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            Err(e) => break End::NotStarted(format!("it cannot be waited for: {e}")),
        }
    };
    stop(&mut child);
    done(end)
}

/// Starts a command at the head of a process group of its own.
pub(super) fn start(command: &mut Command, log: &Path) -> Result<Child, String> {
    let open = || {
        let out = File::create(log)?;
        Ok((out.try_clone()?, out))
    };
    let (out, err) = open().map_err(|e: std::io::Error| format!("{}: {e}", log.display()))?;
    command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
    // SAFETY: one system call, which is all that a process between fork and exec may do.
    unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
    command.spawn().map_err(|e| format!("{}: {e}", command.get_program().to_string_lossy()))
}

/// Ends a process and its group.
pub(super) fn stop(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Also where it has ended by itself: what it started may not have. An empty group is no harm.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let started = Instant::now();
    while matches!(child.try_wait(), Ok(None)) && started.elapsed() < MOST_DYING {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a shell script.
    fn shell(script: &str, limit: f64) -> Done {
        let folder = tempfile::tempdir().unwrap();
        let limit = Duration::from_secs_f64(limit);
        run(Command::new("sh").args(["-c", script]), limit, &folder.path().join("log"))
    }

    #[test]
    fn ends_are_told_apart() {
        let done = shell("echo out; echo err >&2", 20.0);
        assert_eq!((done.end, done.output.as_str()), (End::Passed, "out\nerr\n"));
        assert_eq!(shell("exit 3", 20.0).end, End::Failed(3));
        assert_eq!(shell("kill -SEGV $$", 20.0).end, End::Crashed(11));
        let nothing = run(
            &mut Command::new("/nowhere/at/all"),
            Duration::from_secs(1),
            &std::env::temp_dir().join(format!("gpu-day-{}", std::process::id())),
        );
        assert!(matches!(nothing.end, End::NotStarted(why) if why.contains("/nowhere/at/all")));
    }

    #[test]
    fn a_hanging_process_ends_at_its_limit_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("grandchild");
        // The grandchild would hold a pipe open, ignores what can be ignored, and would write long after.
        let script =
            format!("(trap '' TERM HUP INT; sleep 2; touch {}) & echo begun; sleep 60", file.display());
        let done = shell(&script, 0.3);
        assert_eq!((done.end, done.output.as_str()), (End::TimedOut, "begun\n"));
        assert!(done.seconds < 2.0, "{} s", done.seconds);
        std::thread::sleep(Duration::from_millis(2500));
        assert!(!file.exists(), "the grandchild went on");
    }

    #[test]
    fn what_a_process_leaves_behind_ends_too() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("grandchild");
        let done = shell(&format!("(sleep 1; touch {}) & exit 0", file.display()), 20.0);
        assert_eq!(done.end, End::Passed);
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!file.exists(), "the grandchild went on");
    }

    #[test]
    fn a_flood_of_output_is_stopped() {
        let done = shell("yes and so on", 60.0);
        assert_eq!(done.end, End::TooMuchOutput);
    }
}
