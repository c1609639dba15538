//! Whole steps, in images a second: a training step as `seedwalk train-cam` makes it, and one image's way through the
//! networks, the walk and the CRF to its pseudo label.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use seedwalk::config::{Config, Preset};
use seedwalk::device::cuda::Gpu;
use seedwalk::device::{Device, Precision};
use seedwalk::formats::image::RgbImage;
use seedwalk::nn::Network;
use seedwalk::pipeline::make_cams::class_maps_of;
use seedwalk::pipeline::make_pseudo_labels::{pseudo_labels_of, walked_maps};
use seedwalk::pipeline::networks::{affinity_net, cam_net};
use seedwalk::profile::{median, spread};
use seedwalk::rng::{Purpose, Stream};
use serde_json::{Value, json};

/// A step of either kind.
pub struct Step {
    /// `training step` or `label step`, with how it differs from the usual.
    pub operation: &'static str,
    /// What it multiplies in.
    pub precision: Precision,
}

/// A training as it is meant: full width, a graph a step.
const TRAINING: &str = "training step";
/// Each step's kernels one by one.
const QUEUED: &str = "training step, kernel by kernel";
/// A network so narrow that the host must keep up.
const NARROW: &str = "training step, width 1/8";
const NARROW_QUEUED: &str = "training step, width 1/8, kernel by kernel";

/// The steps in all precisions, the one that is meant for use first; what a graph saves in that one alone.
pub fn steps() -> Vec<Step> {
    let of = |precision| [TRAINING, "label step"].map(|operation| Step { operation, precision });
    let all = [Precision::Bf16, Precision::Tf32, Precision::F32].into_iter().flat_map(of);
    let graphs =
        [QUEUED, NARROW, NARROW_QUEUED].map(|operation| Step { operation, precision: Precision::Bf16 });
    all.chain(graphs).collect()
}

/// What a step took.
struct Taken {
    shape: String,
    images: usize,
    /// Seconds of each step.
    samples: Vec<f64>,
}

impl Step {
    /// Runs it for about `time`, a training for as many steps as there are pictures, until `deadline` at the most, and
    /// returns its row. On the emulated GPU the network is narrow and the picture small.
    ///
    /// # Errors
    /// In words, with what the program told.
    pub fn run(
        &self,
        gpu: &Arc<Gpu>,
        time: Duration,
        pictures: &mut Pictures,
        deadline: Option<Instant>,
    ) -> Result<Value, String> {
        let taken = match self.operation {
            TRAINING | QUEUED | NARROW | NARROW_QUEUED => training(gpu, self, pictures, deadline)?,
            _ => label(gpu, self.precision, time).map_err(|e| e.to_string())?,
        };
        let seconds = median(&taken.samples);
        let emulated = gpu.device() == Device::Emulated;
        Ok(json!({
            "operation": self.operation,
            "case": self.precision.to_string(),
            "shape": taken.shape,
            "precision": self.precision.to_string(),
            "median_s": seconds,
            "spread": spread(&taken.samples),
            "samples": taken.samples.len(),
            "images": taken.images,
            "rung": null, "kernel": null, "cold_s": null, "tflops": null, "tbs": null, "bound_s": null,
            "percent_of_bound": null, "peer": null, "peer_s": null, "percent_of_peer": null,
            // What the emulator takes says nothing of a GPU.
            "images_per_second": (!emulated).then_some(taken.images as f64 / seconds),
        }))
    }
}

/// The generated data set of trainings, made when the first one asks for it.
#[derive(Default)]
pub struct Pictures(Option<tempfile::TempDir>);

/// The program itself, in a process of its own: this one's file carries it. Its memory goes with it, and where it does not
/// suffice nothing else is disturbed.
fn seedwalk(folder: &Path, line: &str, deadline: Option<Instant>) -> Result<(), String> {
    let told = folder.join("told.txt");
    let text = |e: std::io::Error| format!("`{line}`: {e}");
    let errors = File::create(&told).map_err(text)?;
    let mut command = Command::new(std::env::current_exe().map_err(text)?);
    command.arg("--seedwalk").args(line.split_whitespace()).current_dir(folder);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn().map_err(text)?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(text)? {
            break status;
        }
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            child.kill().and_then(|()| child.wait()).map_err(text)?;
            return Err("no time left".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    match status.success() {
        true => Ok(()),
        false => Err(format!("`{line}`: {}", std::fs::read_to_string(&told).unwrap_or_default().trim())),
    }
}

fn training(
    gpu: &Arc<Gpu>,
    step: &Step,
    pictures: &mut Pictures,
    deadline: Option<Instant>,
) -> Result<Taken, String> {
    const WARM_UP: usize = 3;
    const STEPS: usize = 8;
    let emulated = gpu.device() == Device::Emulated;
    // At full width a step of 16 images is some tens of milliseconds, and reading pictures must keep up.
    let narrow = matches!(step.operation, NARROW | NARROW_QUEUED);
    let (mut batch, crop, width): (usize, usize, _) = match (emulated, narrow) {
        (true, _) => (1, 32, "1/32"),
        (false, true) => (16, 128, "1/8"),
        (false, false) => (16, 448, "1/1"),
    };
    let graph = if matches!(step.operation, QUEUED | NARROW_QUEUED) { "--no-graph" } else { "" };
    let folder = match &pictures.0 {
        Some(folder) => folder,
        None => {
            let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
            // Three of four are trained on.
            let (count, size) = ((batch * STEPS * 4).div_ceil(3), crop.max(64));
            let line = format!("synth --output data --images {count} --size {size} --seed 1 -q");
            seedwalk(folder.path(), &line, deadline)?;
            pictures.0.insert(folder)
        }
    };
    loop {
        let line = format!(
            "train-cam --data data --split train --output run --width {width} --epochs 1 --batch {batch} --crop {crop} \
             --device {} --precision {} {graph} --overwrite -q",
            gpu.device(),
            step.precision
        );
        match seedwalk(folder.path(), &line, deadline) {
            Ok(()) => break,
            // The activations do not fit: fewer images do.
            Err(error) if batch > 1 && error.contains("are free") => batch /= 2,
            Err(error) => return Err(error),
        }
    }
    let events =
        std::fs::read_to_string(folder.path().join("run/events.jsonl")).map_err(|e| e.to_string())?;
    // Images a second are the mean since the start: the time of a step is the difference of two sums.
    let ends: Vec<f64> = events
        .lines()
        .enumerate()
        .filter_map(|(step, line)| {
            let event: Value = serde_json::from_str(line).ok()?;
            Some(((step + 1) * batch) as f64 / event["images_per_second"].as_f64()?)
        })
        .collect();
    let samples: Vec<f64> = ends.windows(2).map(|w| w[1] - w[0]).skip(WARM_UP.min(ends.len() / 2)).collect();
    if samples.is_empty() {
        return Err(format!("{} steps are too few to time", ends.len()));
    }
    let shape = format!("CAM network, width {width}, batch {batch}, crop {crop}");
    Ok(Taken { shape, images: batch, samples })
}

fn label(gpu: &Arc<Gpu>, precision: Precision, time: Duration) -> seedwalk::Result<Taken> {
    let emulated = gpu.device() == Device::Emulated;
    let mut config = Config::preset(Preset::Paper);
    let (height, width, share) = if emulated { (40, 48, "1/32") } else { (375, 500, "1/1") };
    config.backbone.width = share.parse().map_err(seedwalk::Error::invalid)?;
    if emulated {
        config.cam.scales = vec![1.0];
        config.walk.steps = 8;
    }
    let before = gpu.precision();
    gpu.set_precision(precision)?;
    let mut random = Stream::new(1, Purpose::Test, 0, 0);
    let pixels = (0..height * width * 3).map(|_| random.below(256) as u8).collect();
    let image = RgbImage::new(width, height, pixels)?;
    let (cam, affinity) = (cam_net(&config, 20), affinity_net(&config));
    let (mut cam_parameters, mut affinity_parameters) = (cam.parameters(1)?, affinity.parameters(2)?);
    cam_parameters.move_to(Some(gpu))?;
    affinity_parameters.move_to(Some(gpu))?;
    let names = [1u8, 8];
    let step = || {
        let maps = class_maps_of(&cam, &cam_parameters, &image, &[0, 7], &config.cam, config.preset)?;
        let walked = walked_maps(&affinity, &affinity_parameters, &image, &maps, &config)?;
        pseudo_labels_of(&image, &walked, &names, &config, Some(gpu)).map(drop)
    };
    let (mut samples, started) = (Vec::new(), Instant::now());
    // The first loads kernels and fills the pool of memory.
    let mut result = step();
    while result.is_ok()
        && (samples.len() < if emulated { 1 } else { 3 } || started.elapsed() < time && !emulated)
    {
        let start = Instant::now();
        result = step();
        samples.push(start.elapsed().as_secs_f64());
    }
    gpu.set_precision(before)?;
    result?;
    let passes = config.cam.scales.len() * if config.cam.flip { 2 } else { 1 };
    let shape = format!("{height}×{width}, width {share}, {passes} CAM passes, affinities, walk, CRF");
    Ok(Taken { shape, images: 1, samples })
}
