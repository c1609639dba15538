//! The command line.

mod commands;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Preset, Width};
use crate::data::{Dataset, DatasetOptions, TagUse};
use crate::progress::Progress;
use crate::{Error, ErrorKind, Result};

/// From image-level tags to pixel masks.
#[derive(Parser)]
#[command(name = "seedwalk", version, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

/// What every command takes.
#[derive(Args, Clone)]
struct Common {
    /// Where to compute: auto, cpu (this build has no other)
    #[arg(long, global = true, default_value = "auto")]
    device: String,
    /// Threads; 0 takes all cores. The results do not depend on it
    #[arg(long, global = true, default_value_t = 0)]
    threads: usize,
    /// Names everything random
    #[arg(long, global = true)]
    seed: Option<u64>,
    /// Precision of convolutions: f32 (the CPU has no other)
    #[arg(long, global = true, default_value = "f32")]
    precision: String,
    /// Configuration file; flags win over it
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    /// One JSON object on standard output
    #[arg(long, global = true)]
    json: bool,
    /// No progress, no warnings
    #[arg(short, long, global = true)]
    quiet: bool,
    /// More about what is done
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Remove what the output folder holds and begin afresh
    #[arg(long, global = true)]
    overwrite: bool,
}

/// The data set of a stage.
#[derive(Args)]
struct Data {
    /// Folder in VOC's layout, or a plain one of images
    #[arg(long)]
    data: PathBuf,
    /// A list's name or path
    #[arg(long)]
    split: Option<String>,
    /// CSV of tags, where they are not in Annotations/
    #[arg(long)]
    tags: Option<PathBuf>,
    /// File of class names, background first
    #[arg(long)]
    classes: Option<PathBuf>,
    /// Take an image without tags as all background
    #[arg(long)]
    allow_unlabelled: bool,
}

impl Data {
    fn open(&self, needed: TagUse) -> Result<Dataset> {
        let tag_use = if self.allow_unlabelled && needed == TagUse::Needed {
            TagUse::NeededOrBackground
        } else {
            needed
        };
        let options = DatasetOptions {
            split: self.split.clone(),
            tags: self.tags.clone(),
            classes: self.classes.clone(),
            tag_use,
        };
        Dataset::open(&self.data, &options)
    }
}

/// Settings of a training that flags can change.
#[derive(Args)]
struct TrainFlags {
    /// Where checkpoint and events go
    #[arg(long)]
    output: PathBuf,
    /// Weights to start from
    #[arg(long)]
    init: Option<PathBuf>,
    /// Width of the backbone, such as 1/8
    #[arg(long)]
    width: Option<Width>,
    /// paper or psa
    #[arg(long)]
    preset: Option<String>,
    /// Passes over the list
    #[arg(long)]
    epochs: Option<usize>,
    /// Images a step
    #[arg(long)]
    batch: Option<usize>,
    /// Side of the square crop
    #[arg(long)]
    crop: Option<usize>,
}

#[derive(Subcommand)]
enum Command {
    /// The whole pipeline on a generated data set
    #[command(after_help = "Examples:\n  seedwalk demo\n  seedwalk demo --output runs/demo2 --seed 2")]
    Demo {
        /// Folder for data and results
        #[arg(long, default_value = "runs/demo")]
        output: PathBuf,
        /// Images to generate
        #[arg(long, default_value_t = 800)]
        images: usize,
    },
    /// The whole pipeline on a data set
    #[command(
        after_help = "Examples:\n  seedwalk run configs/msrc14.toml\n  seedwalk run --print-config > my.toml"
    )]
    Run {
        /// Configuration
        file: Option<PathBuf>,
        /// Say which stages would run, and why
        #[arg(long)]
        dry_run: bool,
        /// Print every setting
        #[arg(long)]
        print_config: bool,
    },
    /// Generate a data set in VOC's layout
    #[command(
        after_help = "Examples:\n  seedwalk synth --output data --images 400\n  seedwalk synth --output data --images 400 --seed 7"
    )]
    Synth {
        /// Folder
        #[arg(long)]
        output: PathBuf,
        /// Number of images
        #[arg(long)]
        images: usize,
    },
    /// Train the CAM network on image-level tags
    #[command(
        after_help = "Examples:\n  seedwalk train-cam --data D --split train --output runs/cam --width 1/8\n  seedwalk train-cam --data D --split train --output runs/cam --init weights.safetensors"
    )]
    TrainCam {
        #[command(flatten)]
        data: Data,
        #[command(flatten)]
        flags: TrainFlags,
    },
    /// Class activation maps of a list
    #[command(
        after_help = "Examples:\n  seedwalk make-cams --data D --split train --weights runs/cam --output cams\n  seedwalk make-cams --data D --split val --weights runs/cam --output cams"
    )]
    MakeCams {
        #[command(flatten)]
        data: Data,
        /// Checkpoint or weights of the CAM network
        #[arg(long)]
        weights: PathBuf,
        /// Folder for the maps
        #[arg(long)]
        output: PathBuf,
    },
    /// Confident parts of the seeds, by two dense CRFs
    #[command(
        after_help = "Examples:\n  seedwalk make-affinity-labels --data D --split train --cams cams --output affinity-labels\n  seedwalk make-affinity-labels --data D --split train --cams cams --output affinity-labels --scores"
    )]
    MakeAffinityLabels {
        #[command(flatten)]
        data: Data,
        /// Folder of class maps
        #[arg(long)]
        cams: PathBuf,
        /// Folder for the labels
        #[arg(long)]
        output: PathBuf,
        /// Keep both posteriors as well
        #[arg(long)]
        scores: bool,
    },
    /// Train AffinityNet on affinity labels
    #[command(
        after_help = "Examples:\n  seedwalk train-affinity --data D --split train --labels affinity-labels --output runs/affinity\n  seedwalk train-affinity --data D --split train --labels affinity-labels --output runs/affinity --epochs 8"
    )]
    TrainAffinity {
        #[command(flatten)]
        data: Data,
        /// Folder of affinity labels
        #[arg(long)]
        labels: PathBuf,
        #[command(flatten)]
        flags: TrainFlags,
    },
    /// Grow the seeds by the random walk, refine them by the CRF
    #[command(
        after_help = "Examples:\n  seedwalk make-pseudo-labels --data D --split train --cams cams --weights runs/affinity --output pseudo-labels\n  seedwalk make-pseudo-labels --config my.toml --data D --split train --cams cams --weights runs/affinity --output pseudo-labels"
    )]
    MakePseudoLabels {
        #[command(flatten)]
        data: Data,
        /// Folder of class maps
        #[arg(long)]
        cams: PathBuf,
        /// Checkpoint or weights of AffinityNet
        #[arg(long)]
        weights: PathBuf,
        /// Folder for the labels
        #[arg(long)]
        output: PathBuf,
    },
    /// Train the segmentation network on label PNGs
    #[command(
        after_help = "Examples:\n  seedwalk train-segmentation --data D --split train --labels pseudo-labels --output runs/segmentation\n  seedwalk train-segmentation --data D --split train --labels D/SegmentationClass --output runs/supervised"
    )]
    TrainSegmentation {
        #[command(flatten)]
        data: Data,
        /// Folder of label PNGs
        #[arg(long)]
        labels: PathBuf,
        #[command(flatten)]
        flags: TrainFlags,
    },
    /// Segment photographs
    #[command(
        after_help = "Examples:\n  seedwalk segment --weights runs/segmentation --output masks photo.jpg\n  seedwalk segment --weights runs/segmentation --output masks --overlay photographs/"
    )]
    Segment {
        /// Checkpoint or weights of the segmentation network
        #[arg(long)]
        weights: PathBuf,
        /// Folder for the masks
        #[arg(long)]
        output: PathBuf,
        /// Coloured pictures as well
        #[arg(long)]
        overlay: bool,
        /// Images or folders of images
        #[arg(required = true)]
        inputs: Vec<PathBuf>,
    },
    /// Score predictions against ground truth
    #[command(
        after_help = "Examples:\n  seedwalk evaluate --data D --split val --predictions masks\n  seedwalk evaluate --data D --split train --cams cams --sweep"
    )]
    Evaluate {
        #[command(flatten)]
        data: Data,
        /// Folder of label PNGs
        #[arg(long)]
        predictions: Option<PathBuf>,
        /// Folder of class maps
        #[arg(long, conflicts_with = "predictions")]
        cams: Option<PathBuf>,
        /// Background score of class maps
        #[arg(long, default_value_t = 0.2)]
        threshold: f32,
        /// Try every background score
        #[arg(long)]
        sweep: bool,
    },
    /// The dense CRF on one image
    #[command(
        after_help = "Examples:\n  seedwalk crf --image a.jpg --probabilities p.safetensors --output q.safetensors\n  seedwalk crf --image a.jpg --probabilities p.safetensors --output q.safetensors --bilateral 60,10,5"
    )]
    Crf {
        /// Photograph
        #[arg(long)]
        image: PathBuf,
        /// File with `probabilities` L×H×W
        #[arg(long)]
        probabilities: PathBuf,
        /// File for `q` L×H×W
        #[arg(long)]
        output: PathBuf,
        /// Mean-field iterations
        #[arg(long, default_value_t = 10)]
        iterations: usize,
        /// σ_xy, weight
        #[arg(long, value_delimiter = ',', num_args = 2, default_values_t = [3.0, 3.0])]
        gaussian: Vec<f64>,
        /// σ_xy, σ_rgb, weight
        #[arg(long, value_delimiter = ',', num_args = 3, default_values_t = [80.0, 13.0, 10.0])]
        bilateral: Vec<f64>,
        /// Do it so many times and report each one's seconds
        #[arg(long, default_value_t = 1)]
        repeat: usize,
    },
    /// The random walk on one image's affinities
    #[command(
        after_help = "Examples:\n  seedwalk walk --affinities a.safetensors --maps m.safetensors --output w.safetensors\n  seedwalk walk --affinities a.safetensors --maps m.safetensors --beta 4 --steps 64 --output w.safetensors"
    )]
    Walk {
        /// File with `affinities` 34×h×w
        #[arg(long)]
        affinities: PathBuf,
        /// File with `maps` L×h×w
        #[arg(long)]
        maps: PathBuf,
        /// Power of the affinities
        #[arg(long, default_value_t = 8.0)]
        beta: f32,
        /// t
        #[arg(long, default_value_t = 256)]
        steps: usize,
        /// File for `maps` L×h×w
        #[arg(long)]
        output: PathBuf,
        /// Do it so many times and report each one's seconds
        #[arg(long, default_value_t = 1)]
        repeat: usize,
    },
    /// Every fault of a data set at once
    #[command(
        after_help = "Examples:\n  seedwalk check-data --data D\n  seedwalk check-data --data D --split train --json"
    )]
    CheckData {
        #[command(flatten)]
        data: Data,
    },
    /// What a checkpoint or safetensors file holds
    #[command(
        after_help = "Examples:\n  seedwalk inspect runs/cam\n  seedwalk inspect cams/000001.safetensors"
    )]
    Inspect {
        /// File or checkpoint folder
        file: PathBuf,
    },
    /// Shell completions and the man page
    #[command(
        after_help = "Examples:\n  seedwalk generate bash > seedwalk.bash\n  seedwalk generate man > seedwalk.1"
    )]
    Generate {
        /// bash, zsh, fish, powershell or man
        what: String,
    },
}

/// Parses arguments, runs the command, prints what went wrong; returns the exit code.
pub fn main() -> u8 {
    let parsed = match Cli::try_parse() {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help and version are not errors; a closed pipe is nobody's fault.
            let _ = error.print();
            return if error.use_stderr() { 2 } else { 0 };
        }
    };
    let json = parsed.common.json;
    match execute(parsed.command, &parsed.common) {
        Ok(value) => {
            if json {
                println!("{value}");
            }
            0
        }
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(remedy) = error.how_to_mend() {
                eprintln!("  help: {remedy}");
            }
            error.exit_code()
        }
    }
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            eprintln!("{}: {}", record.level().as_str().to_lowercase(), record.args());
        }
    }

    fn flush(&self) {}
}

fn execute(command: Command, common: &Common) -> Result<serde_json::Value> {
    let level = match (common.quiet, common.verbose) {
        (true, _) => log::LevelFilter::Error,
        (_, true) => log::LevelFilter::Info,
        _ => log::LevelFilter::Warn,
    };
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(level);
    }
    match common.device.as_str() {
        "auto" | "cpu" => {}
        other => {
            return Err(Error::new(ErrorKind::Unavailable, format!("device `{other}` is not in this build"))
                .remedy("use --device cpu"));
        }
    }
    if common.precision != "f32" {
        let message = format!("precision `{}` is not available on the CPU", common.precision);
        return Err(Error::new(ErrorKind::Unavailable, message).remedy("use --precision f32"));
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(common.threads)
        .build_global()
        .map_err(|e| Error::invalid(format!("threads cannot be started: {e}")))?;
    crate::progress::handle_signals()?;
    let progress = Progress::new(common.quiet);
    commands::execute(command, common, &progress)
}

/// The configuration of a single command: the file, or a preset, with the seed flag over it.
fn configuration(common: &Common, preset: Option<&str>) -> Result<Config> {
    let mut config = match (&common.config, preset) {
        (Some(path), _) => Config::read(path)?,
        (None, None | Some("paper")) => Config::preset(Preset::Paper),
        (None, Some("psa")) => Config::preset(Preset::Psa),
        (None, Some(other)) => return Err(Error::usage(format!("preset `{other}`: paper or psa expected"))),
    };
    if let Some(seed) = common.seed {
        config.seed = seed;
    }
    Ok(config)
}
