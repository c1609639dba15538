//! The results file.

use super::child::End;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::Write;
use std::path::Path;

/// Everything that a GPU day found out. Written anew after each part.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Results {
    /// Version of this format.
    pub format: u32,
    /// `cuda:0`, or `emulated` where the day was only tried.
    pub device: String,
    /// Commit that the folder was built from, `+` behind it where the sources differed from it.
    pub commit: String,
    /// When it began, UTC.
    pub started: String,
    /// Seconds that it was given, and those that it has taken so far.
    pub seconds: (f64, f64),
    /// Whether every part has had its turn.
    pub finished: bool,
    /// What the machine is.
    pub machine: Machine,
    /// Each test of `tests/gpu.rs`.
    pub tests: Vec<Test>,
    /// Each training.
    pub trainings: Vec<Training>,
    /// Each run of the benchmark.
    pub benches: Vec<Bench>,
    /// What the benchmark measured, rows of all its runs.
    pub measured: Option<Measured>,
}

/// The machine.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Machine {
    /// What `seedwalk doctor --json` found.
    pub doctor: Value,
    /// What `nvidia-smi` said before and after: name, driver, clocks, temperature, power.
    pub nvidia_smi: Vec<String>,
    /// Version of the C library.
    pub libc: String,
    /// Interpreter of the peers with its versions, or why there is none.
    pub python: String,
}

/// A process's end, with the last of its output where it is not a good one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Part {
    /// How it ended.
    pub end: End,
    /// How long it took.
    pub seconds: f64,
    /// The end of what it wrote; empty where it passed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
}

/// One test.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Test {
    /// As the test program lists it.
    pub name: String,
    /// How it went.
    #[serde(flatten)]
    pub part: Part,
    /// What it left out on this device, in its own words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// What it measured on the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<Value>,
}

/// One training.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Training {
    /// `cam`, `affinity` or `segmentation`.
    pub network: String,
    /// `f32`, `tf32` or `bf16`.
    pub precision: String,
    /// Its flags.
    pub flags: String,
    /// How it went.
    #[serde(flatten)]
    pub part: Part,
    /// The losses, one a step; `null` where one is no number.
    pub losses: Vec<Option<f64>>,
    /// Whether all are numbers and the last third is lower than the first.
    pub falls: bool,
    /// Images a second from the second step on.
    pub images_per_second: Option<f64>,
    /// Bytes in use on the GPU before it, and at most during it.
    pub memory: Option<(u64, u64)>,
    /// What the program itself had counted that a step takes, before it trained.
    #[serde(default)]
    pub counted: Value,
}

/// One run of the benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bench {
    /// Which rows.
    pub filter: String,
    /// How it went.
    #[serde(flatten)]
    pub part: Part,
}

/// What the benchmark writes with `--json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Measured {
    /// The GPU's name.
    #[serde(default)]
    pub gpu: String,
    /// The driver's version.
    #[serde(default)]
    pub driver: String,
    /// The day.
    #[serde(default)]
    pub date: String,
    /// One a rung and shape.
    #[serde(default)]
    pub rows: Vec<Row>,
    /// What it did not measure, and why.
    #[serde(default)]
    pub left_out: Vec<Value>,
}

/// One measured kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Such as `conv2d forward`.
    pub operation: String,
    /// Such as `512→512 3×3 at 56²`.
    pub case: String,
    /// Name or number on the ladder.
    #[serde(default)]
    pub rung: Value,
    /// The kernel.
    #[serde(default)]
    pub kernel: Option<String>,
    /// The shape in words.
    #[serde(default)]
    pub shape: Value,
    /// What it multiplies in.
    #[serde(default)]
    pub precision: Value,
    /// Warm, median.
    pub median_s: Option<f64>,
    /// The middle half's width, as a share of the median.
    pub spread: Option<f64>,
    /// With a cold second-level cache.
    pub cold_s: Option<f64>,
    /// TFLOP/s.
    pub tflops: Option<f64>,
    /// TB/s.
    pub tbs: Option<f64>,
    /// What it takes at least.
    pub bound_s: Option<f64>,
    /// Of the bound.
    pub percent_of_bound: Option<f64>,
    /// Who did the same.
    pub peer: Option<String>,
    /// In how long.
    pub peer_s: Option<f64>,
    /// Of the peer's speed.
    pub percent_of_peer: Option<f64>,
    /// Of whole steps.
    pub images_per_second: Option<f64>,
}

impl Row {
    /// What makes it one of its kind.
    fn key(&self) -> (&str, &str, [&Value; 3], &Option<String>) {
        (&self.operation, &self.case, [&self.rung, &self.shape, &self.precision], &self.kernel)
    }
}

impl Measured {
    /// Reads the benchmark's file. A row that is not as it should be goes to what was left out, and costs no other.
    ///
    /// # Errors
    /// No JSON object, or one without rows.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut all: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let rows = match all["rows"].take() {
            Value::Array(rows) => rows,
            other => return Err(format!("no rows but {other}")),
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut measured = Self {
            gpu: text(&all["gpu"]),
            driver: text(&all["driver"]),
            date: text(&all["date"]),
            ..Self::default()
        };
        measured.left_out = all["left_out"].as_array().cloned().unwrap_or_default();
        for row in rows {
            let why = |e: serde_json::Error| Value::String(format!("a row that cannot be read: {e}: {row}"));
            match serde_json::from_value(row.clone()).map_err(why) {
                Ok(row) => measured.rows.push(row),
                Err(why) => measured.left_out.push(why),
            }
        }
        Ok(measured)
    }

    /// Adds another run's rows; of rows of one kind the first stays.
    pub fn add(&mut self, other: Self) {
        for (own, new) in
            [(&mut self.gpu, other.gpu), (&mut self.driver, other.driver), (&mut self.date, other.date)]
        {
            if own.is_empty() {
                *own = new;
            }
        }
        for row in other.rows {
            if !self.rows.iter().any(|own| own.key() == row.key()) {
                self.rows.push(row);
            }
        }
        for what in other.left_out {
            if !self.left_out.contains(&what) {
                self.left_out.push(what);
            }
        }
    }
}

/// The number that [`Results::format`] has.
pub const FORMAT: u32 = 1;

impl Results {
    /// Writes the file whole or not at all: beside its place first, then over it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let beside = path.with_extension("json.part");
        let write = || {
            let mut file = std::fs::File::create(&beside)?;
            file.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            std::fs::rename(&beside, path)
        };
        write().map_err(|e: std::io::Error| format!("{}: {e}", path.display()))
    }

    /// Reads a results file.
    ///
    /// # Errors
    /// It cannot be read, or is none of this version.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let results: Self = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        if results.format != FORMAT {
            return Err(format!("{}: of format {}, {FORMAT} is meant", path.display(), results.format));
        }
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_back_and_another_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.json");
        let part = Part { end: End::Crashed(11), seconds: 1.5, output: "the end".into() };
        let test = Test { name: "a::b".into(), part, left_out: vec!["orders".into()], facts: vec![] };
        let mut results = Results { format: FORMAT, tests: vec![test], ..Results::default() };
        results.write(&path).unwrap();
        let read = Results::read(&path).unwrap();
        assert_eq!(
            (read.tests[0].part.end.clone(), &*read.tests[0].left_out[0]),
            (End::Crashed(11), "orders")
        );
        results.format = 0;
        results.write(&path).unwrap();
        assert!(Results::read(&path).unwrap_err().contains("format 0"));
    }

    #[test]
    fn rows_are_added_once() {
        let json = r#"{"gpu":"G","driver":"1","date":"d","commit":null,"rows":[
            {"operation":"conv2d","case":"a","rung":1,"kernel":"k","shape":"s","median_s":1e-3,"spread":0.1,"cold_s":null,"tflops":1,
             "tbs":null,"bound_s":1e-4,"percent_of_bound":10,"peer":"cuDNN","peer_s":5e-4,"percent_of_peer":50},
            {"operation":"conv2d","case":"a","rung":2,"kernel":"l","median_s":null}],"left_out":["walk: too large"]}"#;
        let one = Measured::parse(json).unwrap();
        let mut all = Measured::default();
        all.add(one.clone());
        all.add(one);
        assert_eq!((all.rows.len(), all.left_out.len(), &*all.gpu), (2, 1, "G"));
        assert_eq!(all.rows[1].percent_of_bound, None);
        let odd =
            Measured::parse(r#"{"rows":[{"case":"no operation"},{"operation":"o","case":"c"}],"gpu":null}"#)
                .unwrap();
        assert_eq!((odd.rows.len(), odd.left_out.len()), (1, 1), "{odd:?}");
        assert!(Measured::parse("{}").is_err() && Measured::parse(r#"{"rows":["#).is_err());
    }
}
