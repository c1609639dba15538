//! What each command does: parse, call the pipeline, print.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::CommandFactory;
use serde_json::{Value, json};

use super::{Command, Common, TrainFlags, configuration};
use crate::config::{Config, TrainingConfig};
use crate::data::synth::{SynthOptions, generate};
use crate::data::{Classes, Dataset, DatasetOptions, TagUse, check_data};
use crate::eval::ConfusionMatrix;
use crate::formats::image::{Exif, LabelMap, RgbImage, read_rgb, write_png};
use crate::formats::label_png::{voc_colour, write_labels};
use crate::formats::safetensors::{Dtype, read_tensors, write_tensors};
use crate::formats::weights::read_weights;
use crate::ops::affinity::Stencil;
use crate::ops::crf::{BilateralKernel, CrfOptions, DenseCrf, GaussianKernel};
use crate::ops::walk::Transition;
use crate::pipeline::images::StageCount;
use crate::pipeline::networks::{load_affinity, load_cam, load_segmentation};
use crate::pipeline::run::{RunSummary, dry_run, run};
use crate::pipeline::score::{score_cams, score_labels, sweep};
use crate::pipeline::segment::segment_image;
use crate::pipeline::stages::{TrainStage, train_affinity, train_cam, train_segmentation};
use crate::pipeline::training::{TrainingSummary, class_mismatch};
use crate::pipeline::{make_affinity_labels, make_cams, make_pseudo_labels};
use crate::progress::{Progress, check_interrupted};
use crate::tensor::Tensor;
use crate::{Error, Result, show_path};

pub(super) fn execute(command: Command, common: &Common, progress: &Progress) -> Result<Value> {
    let say = |text: String| {
        if !common.json && !common.quiet {
            println!("{text}");
        }
    };
    match command {
        Command::Demo { output, images } => {
            let seed = common.seed.unwrap_or(0);
            clear(&output, common)?;
            let config = Config::demo(seed, &output);
            let options = SynthOptions { images, seed, ..Default::default() };
            if !config.data.root.join("ImageSets/Segmentation/val.txt").exists() {
                synth(&config.data.root, &options, progress)?;
            }
            let summary = run(&config, progress)?;
            say(table(&summary));
            say(format!("written to {}", show_path(&output)));
            Ok(summary.metrics)
        }
        Command::Run { file, dry_run: dry, print_config } => {
            let mut config = match &file {
                Some(path) => Config::read(path)?,
                None if print_config => configuration(common, None)?,
                None => return Err(Error::usage("which configuration? seedwalk run CONFIG.toml")),
            };
            config.seed = common.seed.unwrap_or(config.seed);
            if print_config {
                print!("{}", config.to_toml()?);
                return Ok(Value::Null);
            }
            if dry {
                let plans = dry_run(&config, progress)?;
                plans.iter().for_each(|(stage, plan)| say(format!("{stage:22} {plan}")));
                return Ok(
                    json!({"stages": plans.iter().map(|(s, p)| json!({"name": s, "plan": p})).collect::<Vec<_>>()}),
                );
            }
            clear(&config.output.folder, common)?;
            let summary = run(&config, progress)?;
            say(table(&summary));
            Ok(summary.metrics)
        }
        Command::Synth { output, images } => {
            let options = SynthOptions { images, seed: common.seed.unwrap_or(0), ..Default::default() };
            synth(&output, &options, progress)?;
            say(format!("{images} images in {}", show_path(&output)));
            Ok(json!({"images": images}))
        }
        Command::TrainCam { data, flags } => {
            let mut config = configuration(common, flags.preset.as_deref())?;
            flags.apply(&mut config, |c| &mut c.cam.training);
            if let Some(crop) = flags.crop {
                // The published range belongs to crops of 448.
                config.cam.long_side = [(crop * 4 / 7).max(1), (crop * 8 / 7).max(1)];
            }
            clear(&flags.output, common)?;
            let data = data.open(TagUse::Needed)?;
            let stage = TrainStage { data: &data, config: &config, output: &flags.output, progress };
            trained(train_cam(&stage)?, &flags.output, say)
        }
        Command::TrainAffinity { data, labels, flags } => {
            let mut config = configuration(common, flags.preset.as_deref())?;
            flags.apply(&mut config, |c| &mut c.affinity.training);
            clear(&flags.output, common)?;
            let data = data.open(TagUse::Unused)?;
            let stage = TrainStage { data: &data, config: &config, output: &flags.output, progress };
            trained(train_affinity(&stage, &labels)?, &flags.output, say)
        }
        Command::TrainSegmentation { data, labels, flags } => {
            let mut config = configuration(common, flags.preset.as_deref())?;
            flags.apply(&mut config, |c| &mut c.segmentation.training);
            clear(&flags.output, common)?;
            let data = data.open(TagUse::Unused)?;
            let stage = TrainStage { data: &data, config: &config, output: &flags.output, progress };
            trained(train_segmentation(&stage, &labels)?, &flags.output, say)
        }
        Command::MakeCams { data, weights, output } => {
            let data = data.open(TagUse::Needed)?;
            let loaded = load_cam(&weights, &configuration(common, None)?)?;
            same_classes(loaded.classes.as_deref(), &data.classes, &weights)?;
            clear(&output, common)?;
            let count = make_cams::make_cams(
                &loaded.network,
                &loaded.parameters,
                &data,
                &loaded.config,
                &output,
                progress,
            )?;
            counted(count, &output, say)
        }
        Command::MakeAffinityLabels { data, cams, output, scores } => {
            let data = data.open(TagUse::Unused)?;
            clear(&output, common)?;
            let config = configuration(common, None)?;
            let count =
                make_affinity_labels::make_affinity_labels(&data, &cams, &config, scores, &output, progress)?;
            counted(count, &output, say)
        }
        Command::MakePseudoLabels { data, cams, weights, output } => {
            let data = data.open(TagUse::Unused)?;
            let loaded = load_affinity(&weights, &configuration(common, None)?)?;
            clear(&output, common)?;
            let (n, p, c) = (&loaded.network, &loaded.parameters, &loaded.config);
            let count =
                make_pseudo_labels::make_pseudo_labels(n, p, &data, &cams, c, &output, None, progress)?;
            counted(count, &output, say)
        }
        Command::Segment { weights, output, overlay, inputs } => {
            let loaded = load_segmentation(&weights, &configuration(common, None)?)?;
            let files = photographs(&inputs)?;
            let stage = progress.stage("segment", files.len() as u64);
            for file in &files {
                check_interrupted()?;
                let image = read_rgb(file, Exif::Apply)?;
                let map = segment_image(&loaded.network, &loaded.parameters, &image, &loaded.config)
                    .map_err(|e| e.in_file(file))?;
                let name = |end: &str| {
                    let mut name = file.file_stem().unwrap_or_default().to_os_string();
                    name.push(end);
                    output.join(name)
                };
                write_labels(&name(".png"), &map)?;
                if overlay {
                    write_png(&name("-overlay.png"), &overlaid(&image, &map)?)?;
                }
                stage.advance(1);
            }
            stage.finish();
            say(format!("{} masks in {}", files.len(), show_path(&output)));
            Ok(json!({"images": files.len()}))
        }
        Command::Evaluate { data, predictions, cams, threshold, sweep: all } => {
            let data = data.open(TagUse::Unused)?;
            let thresholds = if all { sweep() } else { vec![threshold] };
            let (scores, thresholds) = match (predictions, cams) {
                (Some(folder), _) => (vec![score_labels(&data, &folder)?], vec![]),
                (None, Some(folder)) => (score_cams(&data, &folder, &thresholds)?, thresholds),
                (None, None) => return Err(Error::usage("what is to be scored? --predictions or --cams")),
            };
            let mean = |m: &ConfusionMatrix| m.mean_iou().unwrap_or(0.0);
            for (t, m) in thresholds.iter().zip(&scores) {
                say(format!("threshold {t:.2}: mean IoU {:.4}", mean(m)));
            }
            let best =
                (0..scores.len()).max_by(|a, b| mean(&scores[*a]).total_cmp(&mean(&scores[*b]))).unwrap_or(0);
            let names = data.classes.names();
            let mut per_class = serde_json::Map::new();
            for (name, iou) in names.iter().zip(scores[best].iou()) {
                if let Some(iou) = iou {
                    say(format!("{name:20} {iou:.4}"));
                    per_class.insert(name.clone(), json!(iou));
                }
            }
            say(format!("{:20} {:.4}", "mean IoU", mean(&scores[best])));
            let curve: Vec<Value> = thresholds
                .iter()
                .zip(&scores)
                .map(|(t, m)| json!({"threshold": t, "mean_iou": mean(m)}))
                .collect();
            Ok(json!({
                "mean_iou": mean(&scores[best]), "iou": per_class, "threshold": thresholds.get(best),
                "sweep": curve, "classes": names, "confusion_matrix": scores[best].rows(),
            }))
        }
        Command::Crf { image, probabilities, output, iterations, gaussian, bilateral, repeat } => {
            let (&[sigma, weight], &[wide, colour, strength]) = (&gaussian[..], &bilateral[..]) else {
                return Err(Error::usage("--gaussian takes two numbers, --bilateral three"));
            };
            let options = CrfOptions {
                iterations,
                gaussian: GaussianKernel { sigma_xy: sigma, weight },
                bilateral: BilateralKernel { sigma_xy: wide, sigma_rgb: colour, weight: strength },
            };
            let image = read_rgb(&image, Exif::Ignore)?;
            let scores = tensor(&probabilities, "probabilities")?;
            let (q, seconds) = repeated(repeat, || DenseCrf::new(&image, &options)?.infer(&scores))?;
            write_tensors(&output, &[("q", &q)], Dtype::F32, &[])?;
            Ok(json!({"seconds": seconds}))
        }
        Command::Walk { affinities, maps, beta, steps, output, repeat } => {
            let a = tensor(&affinities, "affinities")?;
            let m = tensor(&maps, "maps")?;
            let (walked, seconds) =
                repeated(repeat, || Transition::new(&a, &Stencil::default(), beta)?.walk(&m, steps))?;
            write_tensors(&output, &[("maps", &walked)], Dtype::F32, &[])?;
            Ok(json!({"seconds": seconds}))
        }
        Command::CheckData { data } => {
            let options = DatasetOptions {
                split: data.split.clone(),
                tags: data.tags.clone(),
                classes: data.classes.clone(),
                tag_use: TagUse::Optional,
            };
            check(&data.data, &options, progress, say)
        }
        Command::Inspect { file } => {
            let mut list = Vec::new();
            for (name, t) in read_weights(&file)? {
                let fold = |f: fn(f32, f32) -> f32, start| t.data().iter().fold(start, |m, v| f(m, *v));
                let (low, high) = (fold(f32::min, f32::INFINITY), fold(f32::max, f32::NEG_INFINITY));
                say(format!("{name:40} {:?}  {low:.4} … {high:.4}", t.shape()));
                list.push(json!({"name": name, "shape": t.shape(), "min": low, "max": high}));
            }
            Ok(json!({"tensors": list}))
        }
        Command::Generate { what } => {
            let mut command = super::Cli::command();
            let mut out = std::io::stdout();
            if what == "man" {
                clap_mangen::Man::new(command)
                    .render(&mut out)
                    .map_err(|e| Error::io("write", "man page", e))?;
            } else {
                let shell: clap_complete::Shell = what
                    .parse()
                    .map_err(|_| Error::usage(format!("`{what}`: bash, zsh, fish, powershell or man")))?;
                clap_complete::generate(shell, &mut command, "seedwalk", &mut out);
            }
            Ok(Value::Null)
        }
    }
}

impl TrainFlags {
    fn apply(&self, config: &mut Config, training: impl Fn(&mut Config) -> &mut TrainingConfig) {
        if let Some(init) = &self.init {
            config.backbone.init = init.clone();
        }
        config.backbone.width = self.width.unwrap_or(config.backbone.width);
        // Without weights to start from, running statistics mean nothing and must be learned.
        config.backbone.learn_statistics |= config.backbone.init.as_os_str().is_empty();
        let t = training(config);
        t.epochs = self.epochs.unwrap_or(t.epochs).max(1);
        t.batch = self.batch.unwrap_or(t.batch).max(1);
        t.crop = self.crop.unwrap_or(t.crop).max(8);
    }
}

fn clear(folder: &Path, common: &Common) -> Result<()> {
    if common.overwrite && folder.exists() {
        std::fs::remove_dir_all(folder).map_err(|e| Error::io("remove", folder, e))?;
    }
    Ok(())
}

fn synth(output: &Path, options: &SynthOptions, progress: &Progress) -> Result<()> {
    let stage = progress.stage("synth", options.images as u64);
    generate(output, options, &|done| {
        stage.advance(done);
        check_interrupted()
    })?;
    stage.finish();
    Ok(())
}

fn trained(summary: TrainingSummary, output: &Path, say: impl Fn(String)) -> Result<Value> {
    let what = if summary.was_complete { "was complete already" } else { "done" };
    say(format!("{} steps, loss {:.4}, {what}: {}", summary.steps, summary.last_loss, show_path(output)));
    Ok(json!({"steps": summary.steps, "last_loss": summary.last_loss, "seconds": summary.seconds}))
}

fn counted(count: StageCount, output: &Path, say: impl Fn(String)) -> Result<Value> {
    let StageCount { written, kept, skipped } = count;
    say(format!("{written} written, {kept} kept, {skipped} left out: {}", show_path(output)));
    Ok(json!({"written": written, "kept": kept, "skipped": skipped}))
}

fn same_classes(stored: Option<&[String]>, data: &Classes, path: &Path) -> Result<()> {
    match stored {
        Some(stored) if stored != data.names() => Err(class_mismatch(stored, data.names()).in_file(path)),
        _ => Ok(()),
    }
}

fn repeated<T>(times: usize, work: impl Fn() -> Result<T>) -> Result<(T, Vec<f64>)> {
    let mut seconds = Vec::new();
    loop {
        let started = Instant::now();
        let result = work()?;
        seconds.push(started.elapsed().as_secs_f64());
        if seconds.len() >= times {
            return Ok((result, seconds));
        }
    }
}

/// The images among files and in folders, in order.
fn photographs(inputs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for input in inputs {
        if !input.is_dir() {
            files.push(input.clone());
            continue;
        }
        let options = DatasetOptions { tag_use: TagUse::Unused, ..Default::default() };
        let folder: Dataset = Dataset::open(input, &options)?;
        files.extend(folder.samples.into_iter().map(|s| s.image));
    }
    Ok(files)
}

/// The photograph, half covered by its classes' colours.
fn overlaid(image: &RgbImage, map: &LabelMap) -> Result<RgbImage> {
    let blend = |(pixel, &label): (&[u8], &u8)| -> [u8; 3] {
        let colour = voc_colour(label);
        std::array::from_fn(|c| {
            if label == 0 { pixel[c] } else { ((u16::from(pixel[c]) + u16::from(colour[c])) / 2) as u8 }
        })
    };
    let pixels = image.pixels.chunks_exact(3).zip(&map.labels).flat_map(blend).collect();
    RgbImage::new(image.width, image.height, pixels)
}

/// Stage, seconds, mean IoU on both lists.
fn table(summary: &RunSummary) -> String {
    let score = |v: Option<f64>| v.map_or("     –".to_string(), |v| format!("{:6.1}", 100.0 * v));
    let mut text = format!("{:20} {:>8}  {:>6} {:>6}\n", "stage", "seconds", "train", "val");
    for row in &summary.rows {
        text += &format!("{:20} {:8.1}  {} {}\n", row.stage, row.seconds, score(row.train), score(row.val));
    }
    text + "mean IoU in per cent"
}

/// Prints a data set's report; a fault makes the command fail after all have been told.
fn check(root: &Path, options: &DatasetOptions, progress: &Progress, say: impl Fn(String)) -> Result<Value> {
    let report = check_data(root, options, &|_| check_interrupted())?;
    progress.stage("check-data", report.images as u64).finish();
    for class in &report.classes {
        say(format!("{:20} {:6} images {:12} pixels", class.name, class.images, class.pixels));
    }
    say(format!("{} images, {} without tags, {} masks", report.images, report.untagged, report.masks));
    report.warnings.iter().for_each(|fault| say(format!("warning: {fault}")));
    if report.faults.is_empty() {
        return serde_json::to_value(&report).map_err(|e| Error::invalid(e.to_string()));
    }
    report.faults.iter().for_each(|fault| eprintln!("fault: {fault}"));
    Err(Error::invalid(format!("{} faults", report.faults.len())).in_file(root))
}

/// A tensor of a file by its name.
fn tensor(path: &Path, name: &str) -> Result<Tensor> {
    let file = read_tensors(path)?;
    file.get(name).cloned().ok_or_else(|| {
        let names: Vec<&str> = file.tensors.iter().map(|t| t.name.as_str()).collect();
        Error::malformed(path, format!("no tensor `{name}`; the file has: {}", names.join(", ")))
    })
}
