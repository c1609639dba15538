//! The day's order: every test, the trainings, then the benchmark with all the time that is left.

use super::child::{self, Done, End};
use super::memory;
use super::results::{Bench, FORMAT, Measured, Part, Results, Test, Training};
use super::training::{self, CONFIG, FULL, NETWORKS, PRECISIONS, SMALL, Size};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What the folder says of itself: `manifest.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// The commit, `+` behind it where the sources differed from it.
    pub commit: String,
}

/// What is to be run, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder that `cargo xtask gpu-day build` made.
    pub folder: PathBuf,
    /// `cuda:0`, or `emulated`.
    pub device: String,
    /// For everything.
    pub seconds: f64,
    /// Most for one test or training.
    pub part_seconds: f64,
    /// The results file.
    pub results: PathBuf,
    /// Where processes run and leave what they write.
    pub work: PathBuf,
    /// Parts of tests' names; all tests where it is empty.
    pub tests: Vec<String>,
    /// Networks; all where it is empty.
    pub networks: Vec<String>,
    /// Precisions; all where it is empty.
    pub precisions: Vec<String>,
    /// The benchmark's filters; where it is empty, everything, and [`BENCHES`] if that fails.
    pub benches: Vec<String>,
    /// Trains at toy size.
    pub small: bool,
}

/// The benchmark is started once for all that it has, in its own order. Where that run does not come to its end, once for each
/// of these, so that what broke it costs one operation alone.
pub const BENCHES: [&str; 8] =
    ["conv2d", "training step", "affinity", "walk", "crf", "label step", "batch_norm", "optimizer"];

/// Share of the time left that the first run may take.
const FIRST_BENCH: f64 = 0.7;

/// Shares of the time by whose end tests and trainings stop.
const TESTS_END: f64 = 0.40;
const TRAININGS_END: f64 = 0.70;
/// Seconds kept for writing and leaving.
const RESERVE: f64 = 5.0;
/// A part that would get less is not started.
const LEAST: Duration = Duration::from_secs(2);

/// Runs it all and leaves the results file.
///
/// # Errors
/// A folder that is none of ours; a results file or working folder that cannot be written. What parts do is in the results.
pub fn run(options: &Options) -> Result<Results, String> {
    let manifest = options.folder.join("manifest.json");
    let text = std::fs::read_to_string(&manifest).map_err(|e| format!("{}: {e}", manifest.display()))?;
    let Manifest { commit } =
        serde_json::from_str(&text).map_err(|e| format!("{}: {e}", manifest.display()))?;
    std::fs::create_dir_all(&options.work).map_err(|e| format!("{}: {e}", options.work.display()))?;
    let results = Results {
        format: FORMAT,
        device: options.device.clone(),
        commit,
        started: utc_now(),
        seconds: (options.seconds, 0.0),
        ..Results::default()
    };
    let mut day = Day { options, started: Instant::now(), results };
    day.save()?;
    day.look_at_the_machine()?;
    day.test()?;
    day.train()?;
    day.measure()?;
    let smi = day.nvidia_smi();
    day.results.machine.nvidia_smi.extend(smi);
    day.results.finished = true;
    day.save()?;
    Ok(day.results)
}

struct Day<'a> {
    options: &'a Options,
    started: Instant,
    results: Results,
}

impl Day<'_> {
    /// Seconds until a share of all time has passed.
    fn left(&self, share: f64) -> Duration {
        let end = (self.options.seconds - RESERVE) * share;
        Duration::from_secs_f64((end - self.started.elapsed().as_secs_f64()).max(0.0))
    }

    /// The limit of a part that shall end by `share`; `None` if there is no time for it.
    fn limit(&self, share: f64) -> Option<Duration> {
        let limit = self.left(share).min(Duration::from_secs_f64(self.options.part_seconds));
        (limit >= LEAST).then_some(limit)
    }

    fn save(&mut self) -> Result<(), String> {
        self.results.seconds.1 = self.started.elapsed().as_secs_f64();
        self.results.write(&self.options.results)
    }

    /// One of the folder's programs, with what it needs in its environment.
    fn program(&self, name: &str) -> Command {
        let Options { folder, device, work, .. } = self.options;
        let mut command = Command::new(folder.join("bin").join(name));
        command
            .current_dir(work)
            .env("SEEDWALK_TEST_DEVICE", device)
            .env("SEEDWALK_TEST_PROGRAM", folder.join("bin/seedwalk"))
            .env("SEEDWALK_EMULATED_CUDA", folder.join("lib/libemulated_cuda.so"))
            .env("SEEDWALK_PEER_SCRIPT", folder.join("peer.py"))
            // What the driver compiles is kept from process to process.
            .env("CUDA_CACHE_PATH", work.join("compiled"))
            .env("CUDA_CACHE_DISABLE", "0")
            .env("TMPDIR", work)
            .env("RUST_BACKTRACE", "0");
        command
    }

    fn run(&self, command: &mut Command, limit: Duration) -> Done {
        child::run(command, limit, &self.options.work.join("log"))
    }

    /// Runs a part, or says that there was no time for it.
    fn part(&self, command: &mut Command, share: f64) -> (Part, String) {
        let Some(limit) = self.limit(share) else {
            let end = End::NotStarted("no time was left".into());
            return (Part { end, seconds: 0.0, output: String::new() }, String::new());
        };
        let Done { end, seconds, output } = self.run(command, limit);
        let kept = if end == End::Passed { String::new() } else { last(&output, 4000).to_owned() };
        (Part { end, seconds, output: kept }, output)
    }

    fn look_at_the_machine(&mut self) -> Result<(), String> {
        let short = Duration::from_secs(20);
        let done = self.run(self.program("seedwalk").args(["doctor", "--json"]), short);
        let doctor = done.output.lines().find_map(|line| serde_json::from_str(line).ok());
        self.results.machine.doctor =
            doctor.unwrap_or_else(|| Value::String(format!("{}: {}", done.end, last(&done.output, 500))));
        self.results.machine.nvidia_smi = self.nvidia_smi();
        let done = self.run(Command::new("getconf").arg("GNU_LIBC_VERSION"), short);
        self.results.machine.libc = done.output.trim().to_owned();
        let script = "import sys, torch; print('Python', sys.version.split()[0], 'torch', torch.__version__, \
                      'CUDA', torch.version.cuda, 'cuDNN', torch.backends.cudnn.version(), \
                      'available' if torch.cuda.is_available() else 'sees no GPU')";
        // A first import of a large package from a slow disk.
        let done = self
            .run(Command::new(python()).args(["-c", script]), Duration::from_secs(60).min(self.left(0.2)));
        let said = last(done.output.trim(), 300);
        self.results.machine.python =
            if done.end == End::Passed { said.to_owned() } else { format!("none: {}: {said}", done.end) };
        println!("{}", self.results.machine.python);
        self.save()
    }

    /// A line on each GPU; none without the program.
    fn nvidia_smi(&self) -> Vec<String> {
        let query = "--query-gpu=name,driver_version,compute_cap,memory.total,clocks.sm,clocks.mem,temperature.gpu,power.draw";
        let mut command = Command::new("nvidia-smi");
        let done = self.run(command.args([query, "--format=csv,noheader"]), Duration::from_secs(10));
        if done.end == End::Passed { done.output.lines().map(str::to_owned).collect() } else { Vec::new() }
    }

    fn test(&mut self) -> Result<(), String> {
        let listed = |more: &[&str]| {
            let mut command = self.program("gpu-tests");
            let done =
                self.run(command.args(["--list", "--format", "terse"]).args(more), Duration::from_secs(20));
            let names = done.output.lines().filter_map(|line| line.strip_suffix(": test"));
            (names.map(str::to_owned).collect::<Vec<String>>(), done)
        };
        let (mut names, listing) = listed(&[]);
        // The list has those that are run by name only.
        let (ignored, _) = listed(&["--ignored"]);
        names.retain(|name| !ignored.contains(name));
        if names.is_empty() {
            let part = Part {
                end: listing.end,
                seconds: listing.seconds,
                output: last(&listing.output, 4000).to_owned(),
            };
            let test = Test { name: "the list of tests".into(), part, left_out: vec![], facts: vec![] };
            self.results.tests.push(test);
        }
        let wanted = &self.options.tests;
        names.retain(|name| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())));
        // First what everything else stands on, last what takes longest.
        names.sort_by_key(|name| {
            let kinds = ["loading::", "", "full_size::", "training::"];
            let kind = kinds.iter().position(|kind| !kind.is_empty() && name.starts_with(kind));
            (kind.unwrap_or(1), name.clone())
        });
        for name in names {
            let mut command = self.program("gpu-tests");
            command.args(["--exact", &name, "--nocapture", "--test-threads", "1"]);
            let (part, output) = self.part(&mut command, TESTS_END);
            println!("{:60} {}, {:.1} s", name, part.end, part.seconds);
            let device = format!("left out on {}: ", self.options.device);
            // The test's name may stand before its first line.
            let said = |mark: &str| {
                let lines = output.lines().filter_map(|line| Some(line.split_once(mark)?.1.to_owned()));
                lines.collect::<Vec<_>>()
            };
            let facts = said("fact: ").iter().filter_map(|fact| serde_json::from_str(fact).ok()).collect();
            self.results.tests.push(Test { name, part, left_out: said(&device), facts });
            self.save()?;
        }
        Ok(())
    }

    fn train(&mut self) -> Result<(), String> {
        let Options { device, work, .. } = self.options;
        let among = |wanted: &[String], name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
        let networks: Vec<&str> =
            NETWORKS.into_iter().filter(|network| among(&self.options.networks, network)).collect();
        if networks.is_empty() {
            return Ok(());
        }
        let size: &Size = if self.options.small { &SMALL } else { &FULL };
        let config = work.join("day.toml");
        std::fs::write(&config, CONFIG).map_err(|e| format!("{}: {e}", config.display()))?;
        let _ = std::fs::remove_dir_all(work.join("data"));
        let data = self.part(self.program("seedwalk").args(size.synth().split(' ')), TRAININGS_END).0;
        for precision in PRECISIONS.into_iter().filter(|p| among(&self.options.precisions, p)) {
            for network in &networks {
                let folder = work.join(format!("{network}-{precision}"));
                let _ = std::fs::remove_dir_all(&folder);
                let flags = size.train(network, precision, device);
                let (mut part, memory, counted) = match data.end {
                    End::Passed => self.train_one(&flags),
                    _ => {
                        let end = End::NotStarted("there is no data set".into());
                        (Part { end, ..data.clone() }, None, Value::Null)
                    }
                };
                let told = training::read(&folder, size.batch);
                let falls = training::falls(&told.losses);
                if part.end == End::Passed && !falls {
                    part.output = "the loss does not fall".into();
                }
                println!(
                    "{network:12} {precision}: {}, {:.1} s, losses {:.4?}, {:.2} images/s",
                    part.end,
                    part.seconds,
                    told.losses.iter().map(|loss| loss.unwrap_or(f64::NAN)).collect::<Vec<_>>(),
                    told.images_per_second.unwrap_or(f64::NAN)
                );
                self.results.trainings.push(Training {
                    network: (*network).to_owned(),
                    precision: precision.to_owned(),
                    flags,
                    part,
                    losses: told.losses,
                    falls,
                    images_per_second: told.images_per_second,
                    memory,
                    counted,
                });
                self.save()?;
                // A checkpoint at full width has a gigabyte.
                let _ = std::fs::remove_dir_all(&folder);
            }
        }
        Ok(())
    }

    /// A training, with the GPU's memory watched beside it; and what the program counted.
    fn train_one(&self, flags: &str) -> (Part, Option<(u64, u64)>, Value) {
        let log = self.options.work.join("memory");
        let watcher = self.options.device.strip_prefix("cuda:").and_then(|ordinal| {
            let mut command = Command::new(std::env::current_exe().ok()?);
            child::start(command.args(["watch-memory", ordinal]), &log).ok()
        });
        if watcher.is_some() {
            // The first number is from before the training.
            std::thread::sleep(Duration::from_millis(300));
        }
        let arguments = flags.split_whitespace().chain(["-q", "--json"]);
        let (part, output) = self.part(self.program("seedwalk").args(arguments), TRAININGS_END);
        let told = output.lines().find_map(|line| serde_json::from_str::<Value>(line).ok());
        let counted = told.map_or(Value::Null, |told| told["memory"].clone());
        let memory = watcher.and_then(|mut watcher| {
            child::stop(&mut watcher);
            memory::read(&std::fs::read_to_string(&log).unwrap_or_default())
        });
        (part, memory, counted)
    }

    fn measure(&mut self) -> Result<(), String> {
        let given = &self.options.benches;
        let mut filters: Vec<String> = given.clone();
        if given.is_empty() {
            if self.bench(".", self.left(1.0).mul_f64(FIRST_BENCH))? {
                return Ok(());
            }
            filters = BENCHES.map(str::to_owned).to_vec();
        }
        for (i, filter) in filters.iter().enumerate() {
            // What one leaves of its share goes to those after it.
            self.bench(filter, self.left(1.0).div_f64((filters.len() - i) as f64))?;
        }
        Ok(())
    }

    /// Runs the benchmark for some rows; whether it came to its end.
    fn bench(&mut self, filter: &str, limit: Duration) -> Result<bool, String> {
        let json = self.options.work.join("bench.json");
        let _ = std::fs::remove_file(&json);
        let without_peers = self.results.machine.python.starts_with("none");
        let mut command = self.program("ops-bench");
        command
            .args(["--bench", filter, "--gpu-only", "--device", &self.options.device, "--json"])
            .arg(&json)
            // It stops by itself before it is stopped.
            .args(["--seconds", &format!("{:.1}", (limit.as_secs_f64() * 0.8).max(1.0))])
            .env("SEEDWALK_PYTHON", if without_peers { String::new() } else { python() });
        let (part, read) = if limit < LEAST {
            let end = End::NotStarted("no time was left".into());
            (Part { end, seconds: 0.0, output: String::new() }, None)
        } else {
            let Done { end, seconds, output } = self.run(&mut command, limit);
            // Also of a run that was broken off: it may have written what it had.
            let read: Result<Measured, String> = std::fs::read_to_string(&json)
                .map_err(|e| e.to_string())
                .and_then(|text| Measured::parse(&text));
            let mut kept = if end == End::Passed { String::new() } else { last(&output, 4000).to_owned() };
            if let Err(why) = &read {
                kept = format!("{}\nno measurements: {why}", last(&output, 4000));
            }
            (Part { end, seconds, output: kept }, read.ok())
        };
        let rows = read.as_ref().map_or(0, |measured| measured.rows.len());
        println!("bench {filter:24} {}, {:.1} s, {rows} rows", part.end, part.seconds);
        let passed = part.end == End::Passed && read.is_some();
        if let Some(measured) = read {
            self.results.measured.get_or_insert_default().add(measured);
        }
        self.results.benches.push(Bench { filter: filter.to_owned(), part });
        self.save()?;
        Ok(passed)
    }
}

/// The interpreter of the peers.
fn python() -> String {
    std::env::var("SEEDWALK_PYTHON").unwrap_or_else(|_| "python3".into())
}

/// The last bytes of a text, from a character's start on.
fn last(text: &str, bytes: usize) -> &str {
    let from = (text.len().saturating_sub(bytes)..text.len()).find(|i| text.is_char_boundary(*i));
    &text[from.unwrap_or(text.len())..]
}

/// The time as `2026-11-26T03:04:05Z`.
fn utc_now() -> String {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    utc(now)
}

/// Seconds since 1970 as a date; the civil calendar from days, counted in eras of 400 years that begin in March.
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// In words, for the terminal: what went wrong.
pub fn summary(results: &Results, path: &Path) -> String {
    let bad = |end: &End| *end != End::Passed;
    let tests = results.tests.iter().filter(|t| bad(&t.part.end)).count();
    let trainings = results.trainings.iter().filter(|t| bad(&t.part.end) || !t.falls).count();
    let benches = results.benches.iter().filter(|b| bad(&b.part.end)).count();
    format!(
        "{} tests, {tests} not passed; {} trainings, {trainings} not as they should be; {} rows measured, {benches} of {} runs of the \
         benchmark not passed; {:.0} s: {}",
        results.tests.len(),
        results.trainings.len(),
        results.measured.as_ref().map_or(0, |m| m.rows.len()),
        results.benches.len(),
        results.seconds.1,
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_662_245, "2026-11-26T03:04:05Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), date);
        }
    }

    #[test]
    fn the_end_of_a_text_is_cut_between_characters() {
        assert_eq!(last("abc", 10), "abc");
        assert_eq!(last("abc", 2), "bc");
        assert_eq!(last("aß→", 4), "→");
        assert_eq!(last("", 4), "");
    }
}
