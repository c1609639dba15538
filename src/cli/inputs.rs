//! Inputs that several commands share: the data set, class lists, tensors, numbers in a list.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::session::{Outcome, Session, path_json};
use crate::config::{Config, DataConfig, Preset, Width};
use crate::data::{Dataset, DatasetOptions, TagUse};
use crate::formats::image::Exif;
use crate::formats::safetensors::read_tensors;
use crate::pipeline::images::StageCount;
use crate::pipeline::networks::{Loaded, WeightFile};
use crate::pipeline::training::class_mismatch;
use crate::tensor::Tensor;
use crate::{Error, Result, show_path};

/// The data set of a command. What is not named here is taken from `--config`.
#[derive(Args)]
#[command(next_help_heading = "Data set")]
pub(super) struct Data {
    /// Folder in VOC's layout, or any folder of images with tags
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A list's name or path [default: every image]
    #[arg(long, value_name = "LIST")]
    split: Option<String>,
    /// CSV or .npy of tags, where they are not in Annotations/
    #[arg(long, value_name = "FILE")]
    tags: Option<PathBuf>,
    /// Class names, one a line, the first `background` [default: the data set's own, else VOC's]
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Take an image without tags as all background instead of leaving it out
    #[arg(long)]
    allow_unlabelled: bool,
    /// Orientation tags [default: ignore, as masks are drawn on the stored pixels]
    #[arg(long, value_enum)]
    exif: Option<ExifFlag>,
}

impl Data {
    /// Puts these flags over the configuration. A folder that is named here comes without the files that
    /// the configuration names for another one.
    ///
    /// # Errors
    /// Neither the flags nor a configuration file names a data set.
    fn over(&self, session: &Session, data: &mut DataConfig) -> Result<()> {
        match &self.data {
            Some(root) => {
                data.root = root.clone();
                (data.tags, data.classes, data.allow_unlabelled) = Default::default();
            }
            None if session.common.config.is_some() => {}
            None => {
                return Err(Error::usage("which data set? --data DIR is needed")
                    .remedy("or --config FILE with a section [data]"));
            }
        }
        for (flag, value) in [(&self.tags, &mut data.tags), (&self.classes, &mut data.classes)] {
            if let Some(flag) = flag {
                value.clone_from(flag);
            }
        }
        data.allow_unlabelled |= self.allow_unlabelled;
        if let Some(exif) = self.exif {
            data.exif = exif.into();
        }
        Ok(())
    }

    /// The folder and how to open it, with these flags over the configuration.
    pub fn named(
        &self,
        session: &Session,
        config: &mut Config,
        tag_use: TagUse,
    ) -> Result<(PathBuf, DatasetOptions)> {
        self.over(session, &mut config.data)?;
        Ok((config.data.root.clone(), config.data.options(self.split.as_deref(), tag_use)))
    }

    /// Opens it, with these flags over the configuration.
    pub fn open(&self, session: &Session, config: &mut Config, tag_use: TagUse) -> Result<Dataset> {
        let (root, options) = self.named(session, config, tag_use)?;
        Dataset::open(&root, &options)
    }

    /// The class names that a command without a data set counts in.
    pub fn class_file(&self) -> Option<&Path> {
        self.classes.as_deref()
    }

    /// What becomes of a single image's orientation tag.
    pub fn exif(&self) -> Exif {
        self.exif.map_or(Exif::Ignore, Into::into)
    }
}

/// Weights, and what a foreign weight file does not say of its network.
#[derive(Args)]
#[command(next_help_heading = "Network")]
pub(super) struct Weights {
    /// A checkpoint folder or any weight file
    #[arg(long, value_name = "WEIGHTS")]
    pub weights: PathBuf,
    /// Form of the network and of what is done with it, paper or psa [default: the weights' own]
    #[arg(long)]
    pub preset: Option<Preset>,
    /// Share of the full channel counts [default: the checkpoint's, else 1]
    #[arg(long, value_name = "FRACTION")]
    width: Option<Width>,
}

impl Weights {
    /// Reads the weights, and the configuration that they are to be loaded under: where neither flag nor
    /// file names a preset, the weights' own.
    pub fn read(&self, session: &Session) -> Result<(Config, WeightFile)> {
        let file = WeightFile::read(&self.weights)?;
        let own = file.preset().unwrap_or(Preset::Paper);
        let mut config = session.config_or(None, self.preset, own)?;
        config.backbone.width = self.width.unwrap_or(config.backbone.width);
        Ok((config, file))
    }

    /// Loads the weights by `load`, to where the session computes. A checkpoint says itself what its network is like; flags that say
    /// otherwise are refused, not passed over.
    pub fn load<N>(
        &self,
        session: &Session,
        file: WeightFile,
        config: &Config,
        load: impl Fn(WeightFile, &Config) -> Result<Loaded<N>>,
    ) -> Result<Loaded<N>> {
        let loaded = load(file, config)?;
        let (preset, width) = (loaded.config.preset, loaded.config.backbone.width);
        let refused = |what: &str, has: String, asked: String| {
            Error::invalid(format!("a checkpoint of {what} {has}, --{what} asks for {asked}"))
                .in_file(&self.weights)
                .remedy(format!("leave out --{what}: a checkpoint says what it is"))
        };
        match (self.preset, self.width) {
            (Some(asked), _) if asked != preset => {
                Err(refused("preset", preset.to_string(), asked.to_string()))
            }
            (_, Some(asked))
                if asked.numerator() * width.denominator() != width.numerator() * asked.denominator() =>
            {
                Err(refused("width", width.to_string(), asked.to_string()))
            }
            _ => loaded.move_to(session.gpu.as_ref()),
        }
    }
}

/// `--exif`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ExifFlag {
    /// Turn photographs upright
    Apply,
    /// Take pixels as stored
    Ignore,
}

impl From<ExifFlag> for Exif {
    fn from(flag: ExifFlag) -> Self {
        match flag {
            ExifFlag::Apply => Self::Apply,
            ExifFlag::Ignore => Self::Ignore,
        }
    }
}

/// Fails where a file or folder was made with another class list than the data set's; both are shown.
pub(super) fn check_classes(stored: Option<&[String]>, data: &Dataset, path: &Path) -> Result<()> {
    match stored {
        Some(stored) if stored != data.classes.names() => {
            Err(class_mismatch(stored, data.classes.names()).in_file(path))
        }
        _ => Ok(()),
    }
}

/// Fails where a network tells apart another number of classes than the data set has.
pub(super) fn check_class_count(network: usize, data: &Dataset, path: &Path) -> Result<()> {
    let names = data.classes.foreground();
    if network == names.len() {
        return Ok(());
    }
    let message =
        format!("a network of {network} classes, the data set has {}: {}", names.len(), names.join(", "));
    Err(Error::invalid(message)
        .in_file(path)
        .remedy("pass the class file that the weights were trained with (--classes)"))
}

/// What a stage over images wrote.
pub(super) fn counted(count: StageCount, output: &Path) -> Outcome {
    let StageCount { written, kept, skipped } = count;
    let mut text = format!("{written} written");
    if kept > 0 {
        text += &format!(", {kept} there already");
    }
    if skipped > 0 {
        text += &format!(", {skipped} left out");
    }
    text += &format!(": {}", show_path(output));
    let json = json!({
        "output": path_json(output), "written": written, "kept": kept, "skipped": skipped
    });
    Outcome::new(text, json)
}

/// A tensor of a safetensors file by its name.
pub(super) fn tensor(path: &Path, name: &str) -> Result<Tensor> {
    let file = read_tensors(path)?;
    let names: Vec<String> = file.tensors.iter().map(|t| format!("`{}`", t.name)).collect();
    file.into_pairs().into_iter().find(|(n, _)| n == name).map(|(_, tensor)| tensor).ok_or_else(|| {
        let there = if names.is_empty() { "no tensor at all".to_string() } else { names.join(", ") };
        Error::malformed(path, format!("no tensor `{name}`; the file has {there}"))
            .remedy("`seedwalk COMMAND --help` says which tensors a step reads, and in which form")
    })
}

/// N numbers separated by commas.
pub(super) fn numbers<const N: usize>(text: &str) -> std::result::Result<[f64; N], String> {
    let values: Vec<f64> = text
        .split(',')
        .map(|v| v.trim().parse::<f64>().map_err(|_| format!("`{v}` is not a number")))
        .collect::<std::result::Result<_, _>>()?;
    let count = values.len();
    values.try_into().map_err(|_| format!("{N} numbers separated by commas are expected, not {count}"))
}

/// Does work `times` times; the last result and every run's seconds.
pub(super) fn repeated<T>(times: u32, work: impl Fn() -> Result<T>) -> Result<(T, Vec<f64>)> {
    let mut seconds = Vec::new();
    loop {
        crate::progress::check_interrupted()?;
        let started = Instant::now();
        let result = work()?;
        seconds.push(started.elapsed().as_secs_f64());
        if seconds.len() >= times as usize {
            return Ok((result, seconds));
        }
    }
}

/// `0.412 s`, or the median of several with their number.
pub(super) fn show_repeated(seconds: &[f64]) -> String {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    match seconds.len() {
        1 => format!("{median:.3} s"),
        n => format!("{median:.3} s (median of {n})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers() {
        assert_eq!(numbers::<3>("80, 13,1e1"), Ok([80.0, 13.0, 10.0]));
        assert!(numbers::<2>("3").unwrap_err().contains("2 numbers"));
        assert!(numbers::<2>("3,x").unwrap_err().contains("`x`"));
        assert_eq!(show_repeated(&[3.0, 1.0, 2.0]), "2.000 s (median of 3)");
    }
}
