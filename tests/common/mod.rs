//! What the whole-program tests share: the built program in a folder of its own, small data, and what is
//! compared afterwards.
#![allow(dead_code, reason = "each test program uses a part of this")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The data set's flags and a training that takes a tenth of a second, 3 steps an epoch.
pub const TRAIN: &str = "--data data --split train --width 1/32 --epochs 2 --batch 2 --crop 32";

/// The program under test: the one that cargo has built, or, where tests run far from it, what `SEEDWALK_TEST_PROGRAM` names.
fn program() -> PathBuf {
    let built = env!("CARGO_BIN_EXE_seedwalk");
    std::env::var_os("SEEDWALK_TEST_PROGRAM").map_or_else(|| built.into(), Into::into)
}

/// A temporary folder that commands run in, so that all paths are relative to it.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// An empty one.
    pub fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// One with a generated data set `data` of 8 small images: 6 in `train`, 2 in `val`.
    pub fn new() -> Self {
        Self::with_images(8, 64)
    }

    /// One with a generated data set `data`.
    pub fn with_images(images: usize, size: usize) -> Self {
        let place = Self::empty();
        place.succeeds(&format!("synth --output data --images {images} --size {size} --seed 3"));
        place
    }

    /// A path in it.
    pub fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program with the arguments of a line, split at blanks.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(program());
        command.current_dir(self.dir.path()).args(line.split_whitespace());
        command
    }

    /// Runs a command.
    pub fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// Runs a command that must end with 0; returns what it printed to standard output.
    pub fn succeeds(&self, line: &str) -> String {
        let out = self.run(line);
        assert_eq!(out.status.code(), Some(0), "{line}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// As [`Place::succeeds`], the object that `--json` prints.
    pub fn json(&self, line: &str) -> serde_json::Value {
        serde_json::from_str(&self.succeeds(&format!("{line} --json"))).unwrap()
    }

    /// Runs a command that must fail with this exit code and tell these words on standard error; a failure
    /// (1) must come with a remedy. Returns what it told.
    pub fn fails(&self, line: &str, code: i32, words: &[&str]) -> String {
        failed(line, self.run(line), code, words)
    }

    /// Starts a command that goes on beside the test.
    pub fn start(&self, line: &str) -> Running {
        let mut command = self.command(line);
        Running(Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()))
    }

    /// Everything below a folder that a stage leaves as its result, with its bytes.
    pub fn results(&self, folder: &str) -> Vec<(PathBuf, Vec<u8>)> {
        results(&self.at(folder))
    }

    /// Reads a text.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.at(name)).unwrap()
    }

    /// Writes a file and the folders above it.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.at(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Replaces words in a text that must hold them.
    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let text = self.read(name);
        assert!(text.contains(from), "{name}: {text}");
        self.write(name, text.replace(from, to));
    }

    /// Copies a folder.
    pub fn copy(&self, from: &str, to: &str) {
        fn all(from: &Path, to: &Path) {
            std::fs::create_dir_all(to).unwrap();
            for entry in std::fs::read_dir(from).unwrap() {
                let entry = entry.unwrap();
                let target = to.join(entry.file_name());
                if entry.file_type().unwrap().is_dir() {
                    all(&entry.path(), &target);
                } else {
                    std::fs::copy(entry.path(), target).unwrap();
                }
            }
        }
        all(&self.at(from), &self.at(to));
    }

    /// Trains the CAM network into `cam` and makes the maps of `train` in `cams`.
    pub fn with_cams() -> Self {
        let place = Self::new();
        place.succeeds(&format!("train-cam {TRAIN} --output cam"));
        place.succeeds("make-cams --data data --split train --weights cam --output cams");
        place
    }
}

/// Checks how a command failed: see [`Place::fails`].
pub fn failed(line: &str, out: Output, code: i32, words: &[&str]) -> String {
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(code), "{line}: {told}");
    for word in words {
        assert!(told.contains(word), "{line}: `{word}` is not in: {told}");
    }
    assert!(code != 1 || told.contains("help: "), "{line}: there is no remedy: {told}");
    assert!(!told.contains("panicked"), "{line}: {told}");
    told
}

/// A command under way; it is ended with the test.
pub struct Running(Option<Child>);

impl Running {
    /// Its process number.
    pub fn id(&self) -> i32 {
        i32::try_from(self.0.as_ref().unwrap().id()).unwrap()
    }

    /// Waits until something holds while the command runs.
    pub fn wait_until(&mut self, what: &str, holds: impl Fn() -> bool) {
        let started = Instant::now();
        while !holds() {
            let child = self.0.as_mut().unwrap();
            assert!(child.try_wait().unwrap().is_none(), "it ended before: {what}");
            assert!(started.elapsed() < Duration::from_secs(60), "waited too long for: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.id()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub fn end(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs the program, quietly.
pub fn seedwalk(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).args(["-q"]).output().unwrap()
}

/// A path that is text.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A configuration that takes seconds: a backbone a thirty-second as wide, one epoch, small crops.
pub fn configuration(folder: &Path, data: &Path, output: &str) -> PathBuf {
    let training = "batch = 4\nepochs = 1\ncrop = 64\n";
    let config = format!(
        "[data]\nroot = {data:?}\n[output]\nfolder = {:?}\n[backbone]\nwidth = \"1/32\"\nlearn_statistics = true\n\
         [cam]\nlong_side = [48, 80]\nscales = [1.0, 0.5]\n[cam.training]\n{training}[affinity.training]\n{training}\
         [segmentation]\ndilation = 2\n[segmentation.training]\n{training}[walk]\nsteps = 16\n",
        folder.join(output)
    );
    let path = folder.join(format!("{output}.toml"));
    std::fs::write(&path, config).unwrap();
    path
}

/// Name and contents of every result; times and locks left out.
pub fn results(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    fn list(folder: &Path, root: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                list(&path, root, found);
            } else if path.extension().is_some_and(|e| e == "png" || e == "safetensors") {
                found.push((path.strip_prefix(root).unwrap().to_path_buf(), std::fs::read(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    list(folder, folder, &mut found);
    found.sort();
    found
}
