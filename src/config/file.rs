//! A configuration file over its preset's defaults, and what values are allowed.

use std::collections::BTreeMap;
use std::path::Path;

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::{Config, Preset, TrainingConfig};
use crate::ops::crf::CrfOptions;
use crate::{Error, Result};

/// The lines of a file's keys, by their dotted paths.
type Lines = BTreeMap<String, usize>;

/// What to do about a key or value that cannot be.
const PRINTED: &str = "`seedwalk run --print-config` prints every key with a value that is allowed";

impl Config {
    /// The configuration of a command: the preset's defaults, the file's values over them. A preset that
    /// is named here wins over the file's own; `otherwise` is that of a file that names none.
    ///
    /// # Errors
    /// As [`Config::from_toml`], and what the operating system fails with.
    pub fn load(path: Option<&Path>, preset: Option<Preset>, otherwise: Preset) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::preset(preset.unwrap_or(otherwise))) };
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let text = String::from_utf8(bytes).map_err(|e| {
            Error::malformed(path, "not UTF-8, so no TOML")
                .at_offset(e.utf8_error().valid_up_to() as u64)
                .remedy("save the file as UTF-8")
        })?;
        parse(&text, preset, otherwise).map_err(|e| e.in_file(path).or_remedy(PRINTED))
    }

    /// Reads a configuration file: its values over its preset's.
    ///
    /// # Errors
    /// As [`Config::from_toml`], and what the operating system fails with.
    pub fn read(path: &Path) -> Result<Self> {
        Self::load(Some(path), None, Preset::Paper)
    }

    /// Reads a configuration from text; `path` names it in errors.
    ///
    /// # Errors
    /// Text that is not TOML; an unknown key, with the nearest known one; a value of another type or out
    /// of range. Each names file and line.
    pub fn from_toml(text: &str, path: &Path) -> Result<Self> {
        parse(text, None, Preset::Paper).map_err(|e| e.in_file(path).or_remedy(PRINTED))
    }

    /// Checks every value's range: after flags were put over a file.
    ///
    /// # Errors
    /// The first value out of its range, with its key.
    pub fn check(&self) -> Result<()> {
        out_of_range(self).map_or(Ok(()), |(key, range)| Err(range_error(&key, &range)))
    }
}

fn range_error(key: &str, range: &str) -> Error {
    Error::invalid(format!("`{key}` is out of range: {range} expected"))
}

fn parse(text: &str, preset: Option<Preset>, otherwise: Preset) -> Result<Config> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let line_of =
        |offset: usize| 1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|b| **b == b'\n').count();
    let not_toml = |e: toml::de::Error| {
        let error = Error::invalid(format!("not TOML: {}", e.message()));
        e.span().map_or_else(|| Error::invalid(e.to_string()), |span| error.at_line(line_of(span.start)))
    };
    let spans = DeTable::parse(text).map_err(not_toml)?;
    let mut lines = Lines::new();
    note_lines(spans.get_ref(), "", &line_of, &mut lines);
    let file: Table = toml::from_str(text).map_err(not_toml)?;

    let preset = match (preset, file.get("preset")) {
        (Some(preset), _) => preset,
        (None, None) => otherwise,
        (None, Some(value)) => value
            .as_str()
            .ok_or_else(|| "\"paper\" or \"psa\" is expected".to_string())
            .and_then(str::parse)
            .map_err(|message| at(&lines, "preset", Error::invalid(format!("`preset`: {message}"))))?,
    };
    let defaults = Table::try_from(Config::preset(preset)).map_err(|e| Error::invalid(e.to_string()))?;
    let mut known = Vec::new();
    key_paths(&defaults, "", &mut known);
    let mut merged = defaults;
    let mut config = Config::preset(preset);
    for (key, value) in leaves(&file, &merged) {
        if key == "preset" || (key == "crf.pseudo_labels" && value.as_str() == Some("auto")) {
            continue;
        }
        // One value at a time, so that whatever is wrong with it can be told with its line.
        put(&mut merged, &key, value, &known)
            .and_then(|()| {
                config = merged.clone().try_into().map_err(|e: toml::de::Error| {
                    Error::invalid(format!("`{key}`: {}", e.message().trim_end()))
                })?;
                Ok(())
            })
            .map_err(|e| at(&lines, &key, e))?;
    }
    if !lines.contains_key("backbone.learn_statistics") {
        config.backbone.learn_statistics = config.backbone.init.as_os_str().is_empty();
    }
    match out_of_range(&config) {
        Some((key, range)) => Err(at(&lines, &key, range_error(&key, &range))),
        None => Ok(config),
    }
}

/// Adds the line of a key, or of the nearest table above it that the file has.
fn at(lines: &Lines, key: &str, error: Error) -> Error {
    let mut key = key;
    loop {
        if let Some(&line) = lines.get(key) {
            return error.at_line(line);
        }
        match key.rsplit_once('.') {
            Some((above, _)) => key = above,
            None => return error,
        }
    }
}

fn note_lines(table: &DeTable<'_>, above: &str, line_of: &impl Fn(usize) -> usize, lines: &mut Lines) {
    for (key, value) in table {
        let path = join(above, key.get_ref());
        lines.insert(path.clone(), line_of(key.span().start));
        if let DeValue::Table(table) = value.get_ref() {
            note_lines(table, &path, line_of, lines);
        }
    }
}

fn join(above: &str, key: &str) -> String {
    if above.is_empty() { key.to_string() } else { format!("{above}.{key}") }
}

/// Dotted paths of every key, those of tables too.
fn key_paths(table: &Table, above: &str, paths: &mut Vec<String>) {
    for (key, value) in table {
        let path = join(above, key);
        if let Value::Table(table) = value {
            key_paths(table, &path, paths);
        }
        paths.push(path);
    }
}

/// The file's values by dotted path; a table is gone into only where the defaults have a table.
fn leaves(file: &Table, defaults: &Table) -> Vec<(String, Value)> {
    fn gather(file: &Table, defaults: &Table, above: &str, out: &mut Vec<(String, Value)>) {
        for (key, value) in file {
            let path = join(above, key);
            match (value, defaults.get(key)) {
                (Value::Table(file), Some(Value::Table(defaults))) => gather(file, defaults, &path, out),
                _ => out.push((path, value.clone())),
            }
        }
    }
    let mut out = Vec::new();
    gather(file, defaults, "", &mut out);
    out
}

/// Puts a value in the place of the default at `path`.
fn put(merged: &mut Table, path: &str, value: Value, known: &[String]) -> Result<()> {
    let mut keys: Vec<&str> = path.split('.').collect();
    let last = keys.pop().unwrap_or_default();
    let mut table = merged;
    for key in keys {
        table = match table.get_mut(key) {
            Some(Value::Table(inner)) => inner,
            _ => return Err(unknown(path, known)),
        };
    }
    let Some(slot) = table.get_mut(last) else { return Err(unknown(path, known)) };
    *slot = match (&*slot, value) {
        (Value::Float(_), Value::Integer(i)) => Value::Float(i as f64),
        // A width of 1 needs no quotes.
        (Value::String(_), Value::Integer(i)) if path == "backbone.width" => Value::String(i.to_string()),
        (Value::Array(of), Value::Array(new)) if of.iter().all(Value::is_float) => Value::Array(
            new.into_iter().map(|v| v.as_integer().map_or(v, |i| Value::Float(i as f64))).collect(),
        ),
        (default, value) if default.same_type(&value) => value,
        (default, value) => {
            let message =
                format!("`{path}` is of type {}, {} is expected", value.type_str(), default.type_str());
            return Err(Error::invalid(message));
        }
    };
    Ok(())
}

fn unknown(path: &str, known: &[String]) -> Error {
    let error = Error::invalid(format!("unknown key `{path}`"));
    let leaf = |path: &str| path.rsplit('.').next().unwrap_or_default().to_string();
    let likeness = |candidate: &str| {
        let whole = strsim::normalized_damerau_levenshtein(path, candidate);
        whole.max(0.9 * strsim::normalized_damerau_levenshtein(&leaf(path), &leaf(candidate)))
    };
    let nearest = known.iter().map(|k| (likeness(k), k)).max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, key)) if likeness >= 0.5 => error.remedy(format!("the nearest known key is `{key}`")),
        _ => error.remedy(PRINTED),
    }
}

/// The first value out of range: its key, and the range in words.
fn out_of_range(c: &Config) -> Option<(String, String)> {
    let mut wrong: Option<(String, String)> = None;
    let mut require = |holds: bool, key: &str, range: &str| {
        if !holds && wrong.is_none() {
            wrong = Some((key.to_string(), range.to_string()));
        }
    };
    require(i64::try_from(c.seed).is_ok(), "seed", "0 to 2^63 − 1");
    require(!c.data.root.as_os_str().is_empty(), "data.root", "a folder");
    require(!c.data.train.is_empty(), "data.train", "a list's name or path");
    for (name, scales) in [
        ("cam.scales", &c.cam.scales),
        ("walk.scales", &c.walk.scales),
        ("segmentation.scales", &c.segmentation.scales),
    ] {
        require(!scales.is_empty(), name, "at least one scale");
        require(scales.iter().all(|s| (0.1..=8.0).contains(s)), name, "scales from 0.1 to 8");
    }
    let [smallest, largest] = c.cam.long_side;
    require(
        (1..=largest).contains(&smallest) && largest <= 4096,
        "cam.long_side",
        "1 ≤ smallest ≤ largest ≤ 4096",
    );
    let (strong, weak) = (c.affinity_labels.alpha_strong, c.affinity_labels.alpha_weak);
    require((1.0..=1024.0).contains(&strong), "affinity_labels.alpha_strong", "1 to 1024");
    require((strong..=1024.0).contains(&weak), "affinity_labels.alpha_weak", "alpha_strong to 1024");
    let widths = c.affinity.feature_widths;
    require(
        widths.iter().all(|w| (1..=4096).contains(w)),
        "affinity.feature_widths",
        "three numbers from 1 to 4096",
    );
    require((2..=64).contains(&c.affinity.radius), "affinity.radius", "2 to 64");
    require(c.walk.beta > 0.0 && c.walk.beta <= 1024.0, "walk.beta", "above 0, to 1024");
    require(c.walk.steps <= 1 << 20, "walk.steps", "0 to 1048576");
    require((1.0..=1024.0).contains(&c.walk.background_alpha), "walk.background_alpha", "1 to 1024");
    let [smallest, largest] = c.segmentation.scale_range;
    require(
        (0.1..=largest).contains(&smallest) && largest <= 8.0,
        "segmentation.scale_range",
        "0.1 ≤ smallest ≤ largest ≤ 8",
    );
    require((1..=512).contains(&c.segmentation.dilation), "segmentation.dilation", "1 to 512");
    require(!c.output.folder.as_os_str().is_empty(), "output.folder", "a folder");
    wrong
        .or_else(|| crf_out_of_range(&c.affinity_labels.crf, "affinity_labels.crf"))
        .or_else(|| crf_out_of_range(&c.crf.options, "crf.options"))
        .or_else(|| training_out_of_range(&c.cam.training, "cam.training"))
        .or_else(|| training_out_of_range(&c.affinity.training, "affinity.training"))
        .or_else(|| training_out_of_range(&c.segmentation.training, "segmentation.training"))
}

fn crf_out_of_range(crf: &CrfOptions, at: &str) -> Option<(String, String)> {
    let deviation = |v: f64| (0.01..=1e6).contains(&v);
    let weight = |v: f64| (0.0..=1e6).contains(&v);
    [
        (crf.iterations <= 1000, "iterations", "0 to 1000"),
        (deviation(crf.gaussian.sigma_xy), "gaussian.sigma_xy", "0.01 to 1e6"),
        (weight(crf.gaussian.weight), "gaussian.weight", "0 to 1e6"),
        (deviation(crf.bilateral.sigma_xy), "bilateral.sigma_xy", "0.01 to 1e6"),
        (deviation(crf.bilateral.sigma_rgb), "bilateral.sigma_rgb", "0.01 to 1e6"),
        (weight(crf.bilateral.weight), "bilateral.weight", "0 to 1e6"),
    ]
    .into_iter()
    .find(|(holds, ..)| !holds)
    .map(|(_, key, range)| (join(at, key), range.to_string()))
}

fn training_out_of_range(t: &TrainingConfig, at: &str) -> Option<(String, String)> {
    [
        (t.learning_rate > 0.0 && t.learning_rate <= 100.0, "learning_rate", "above 0, to 100"),
        ((0.0..1.0).contains(&t.momentum), "momentum", "0 to below 1"),
        ((0.0..=1.0).contains(&t.weight_decay), "weight_decay", "0 to 1"),
        ((0.0..=10.0).contains(&t.poly_power), "poly_power", "0 to 10"),
        ((1..=4096).contains(&t.batch), "batch", "1 to 4096"),
        ((1..=1_000_000).contains(&t.epochs), "epochs", "1 to 1000000"),
        ((8..=4096).contains(&t.crop), "crop", "8 to 4096 pixels"),
        ((0.0..=0.5).contains(&t.hue), "hue", "0 to 0.5"),
        (t.warmup_steps <= 1_000_000_000, "warmup_steps", "0 to 1000000000"),
        (
            t.head_learning_rate_factor > 0.0 && t.head_learning_rate_factor <= 1000.0,
            "head_learning_rate_factor",
            "above 0, to 1000",
        ),
    ]
    .into_iter()
    .find(|(holds, ..)| !holds)
    .map(|(_, key, range)| (join(at, key), range.to_string()))
}
