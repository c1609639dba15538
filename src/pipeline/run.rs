//! The whole pipeline over one output folder: stages already complete are skipped, a broken-off one goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use crate::config::{Config, Preset};
use crate::data::{Dataset, TagUse};
use crate::device::cuda::Gpu;
use crate::formats::atomic::{FolderLock, sweep, write_atomically};
use crate::formats::image::Exif;
use crate::progress::{Progress, check_interrupted};
use crate::{Error, Result};

use super::manifest::{Manifest, Plan, hash_files, hash_folder, key_of, weights_hash};
use super::memory::Recompute;
use super::networks::{load_affinity, load_cam, load_segmentation};
use super::report::write_report;
use super::score::decimal;
use super::stages::{TrainStage, train_affinity, train_cam, train_segmentation};
use super::summary::{RunSummary, Scorer, StageResult};
use super::{make_affinity_labels, make_cams, make_pseudo_labels, segment};

/// A stage as the manifest sees it.
struct Stage<'a> {
    name: &'static str,
    /// What it reads, as hashes.
    inputs: Vec<String>,
    settings: Value,
    /// Folders that it alone writes.
    writes: Vec<PathBuf>,
    /// A training: its outputs are its weights, for the rest of its folder holds times.
    training: bool,
    work: Box<dyn FnOnce() -> Result<Value> + 'a>,
}

impl Stage<'_> {
    fn key(&self) -> String {
        let settings = self.settings.to_string();
        let mut parts = vec![self.name, &settings];
        parts.extend(self.inputs.iter().map(String::as_str));
        key_of(&parts)
    }

    fn outputs(&self) -> Result<String> {
        outputs_of(&self.writes, self.training)
    }
}

fn outputs_of(writes: &[PathBuf], training: bool) -> Result<String> {
    let hashes: Vec<String> = writes
        .iter()
        .map(|folder| if training { weights_hash(folder) } else { hash_folder(folder) })
        .collect::<Result<_>>()?;
    Ok(key_of(&hashes.iter().map(String::as_str).collect::<Vec<_>>()))
}

struct Run<'a> {
    config: &'a Config,
    gpu: Option<&'a Arc<Gpu>>,
    progress: &'a Progress,
    manifest: Manifest,
    /// (stage, plan) in order, for `--dry-run`.
    plans: Vec<(&'static str, String)>,
    dry: bool,
    /// In a dry run: a stage before will change its outputs.
    stale: bool,
}

impl Run<'_> {
    /// Does a stage if it is due; returns the hash of its outputs, seconds and report.
    fn stage(&mut self, stage: Stage<'_>) -> Result<(String, f64, Value)> {
        check_interrupted()?;
        let (key, name) = (stage.key(), stage.name);
        let plan = self.manifest.plan(name, &key, || stage.outputs())?;
        if self.dry {
            // What was never done is not done again, whatever comes before it.
            let again = self.stale && plan != Plan::Begin;
            let text = if again { "run again: a stage before it will run".into() } else { plan.to_string() };
            self.stale |= plan != Plan::Skip;
            self.plans.push((name, text));
            let outputs = self.manifest.get(name).and_then(|entry| entry.outputs.clone());
            return Ok((outputs.unwrap_or_default(), 0.0, Value::Null));
        }
        if plan != Plan::Skip {
            log::info!("{name}: {plan}");
            for folder in stage.writes.iter().filter(|f| f.exists()) {
                match plan {
                    Plan::Redo(_) => remove(folder)?,
                    Plan::Begin => {
                        return Err(Error::invalid(format!("`{name}` writes here, and did not make this"))
                            .in_file(folder)
                            .remedy("choose another output folder, or move this one away"));
                    }
                    Plan::GoOn | Plan::Skip => {}
                }
            }
            self.manifest.begin(name, &key)?;
            let (writes, training) = (stage.writes.clone(), stage.training);
            let started = Instant::now();
            let outcome = (stage.work)();
            let seconds = started.elapsed().as_secs_f64();
            match outcome {
                Ok(report) => {
                    self.manifest.end(name, Some(outputs_of(&writes, training)?), seconds, report)?
                }
                Err(error) => {
                    self.manifest.end(name, None, seconds, Value::Null)?;
                    return Err(error);
                }
            }
        }
        let entry = self.manifest.get(name).ok_or_else(|| Error::invalid("the manifest lost a stage"))?;
        Ok((entry.outputs.clone().unwrap_or_default(), entry.seconds, entry.report.clone()))
    }
}

/// Opens both lists of a configuration's data set; the second is empty where none is named.
fn open(config: &Config) -> Result<[Dataset; 2]> {
    let list =
        |name: &str| Dataset::open(&config.data.root, &config.data.options(Some(name), TagUse::Needed));
    let train = list(&config.data.train)?;
    let val = match config.data.val.as_str() {
        "" => Dataset { samples: Vec::new(), split: None, untagged: 0, ..train.clone() },
        name => list(name)?,
    };
    Ok([train, val])
}

/// Hash of a list: ids, tags, class names, the photographs' contents and how they are turned.
fn hash_of(data: &Dataset, exif: Exif) -> Result<String> {
    let files: Vec<PathBuf> = data.samples.iter().map(|s| s.image.clone()).collect();
    let tags: Vec<String> = data.samples.iter().map(|s| format!("{} {:?}", s.id, s.tags)).collect();
    let (images, exif) = (hash_files(&files, &data.root)?, json!(exif).to_string());
    Ok(key_of(&[&images, &exif, &tags.join("\n"), &data.classes.names().join("\n")]))
}

/// Where each stage of a run writes, below the run's folder.
const FOLDERS: [(&str, &[&str]); 7] = [
    ("train-cam", &["cam"]),
    ("make-cams", &["cams"]),
    ("make-affinity-labels", &["affinity-labels"]),
    ("train-affinity", &["affinity"]),
    ("make-pseudo-labels", &["pseudo-labels", "revised-labels"]),
    ("train-segmentation", &["segmentation"]),
    ("segment", &["segmentations"]),
];

/// Removes what the stages of an earlier run wrote, as its manifest has it, and nothing else.
///
/// # Errors
/// The folder is held by another process; a file that cannot be removed.
pub fn clear(folder: &Path) -> Result<()> {
    let manifest_file = folder.join("manifest.json");
    if !manifest_file.exists() {
        return Ok(());
    }
    let _lock = FolderLock::acquire(folder)?;
    let manifest = Manifest::open(folder)?;
    for (stage, folders) in FOLDERS.iter().filter(|(stage, _)| manifest.get(stage).is_some()) {
        log::info!("{stage}: removed");
        for path in folders.iter().map(|name| folder.join(name)).filter(|path| path.exists()) {
            remove(&path)?;
        }
    }
    std::fs::remove_file(&manifest_file).map_err(|e| Error::io("remove", &manifest_file, e))
}

fn remove(folder: &Path) -> Result<()> {
    std::fs::remove_dir_all(folder).map_err(|e| Error::io("remove", folder, e))
}

/// Says for each stage whether it would run, and why.
///
/// # Errors
/// A data set or manifest that cannot be read.
pub fn dry_run(config: &Config, progress: &Progress) -> Result<Vec<(&'static str, String)>> {
    Ok(pipeline(config, None, progress, true)?.1)
}

/// Runs all stages, the networks on a GPU where one is given, and writes `metrics.json`, `report.html` and `figures/`.
///
/// # Errors
/// Whatever a stage fails with; the stages before it are complete and kept.
pub fn run(config: &Config, gpu: Option<&Arc<Gpu>>, progress: &Progress) -> Result<RunSummary> {
    pipeline(config, gpu, progress, false)?.0.ok_or_else(|| Error::invalid("a dry run has no summary"))
}

type Plans = Vec<(&'static str, String)>;

fn pipeline(
    config: &Config,
    gpu: Option<&Arc<Gpu>>,
    progress: &Progress,
    dry: bool,
) -> Result<(Option<RunSummary>, Plans)> {
    let folder = config.output.folder.clone();
    let [train, val] = open(config)?;
    let lock = if dry {
        None
    } else {
        let lock = FolderLock::acquire(&folder)?;
        sweep(&folder)?;
        Some(lock)
    };
    let manifest = Manifest::open(&folder)?;
    let mut run = Run { config, gpu, progress, manifest, plans: Vec::new(), dry, stale: false };
    let summary = run.all(&folder, &train, &val)?;
    drop(lock);
    Ok((summary, run.plans))
}

impl Run<'_> {
    fn all(&mut self, folder: &Path, train: &Dataset, val: &Dataset) -> Result<Option<RunSummary>> {
        let (config, gpu, progress) = (self.config, self.gpu, self.progress);
        let at = |name: &str| folder.join(name);
        let (train_hash, val_hash) = (hash_of(train, config.data.exif)?, hash_of(val, config.data.exif)?);
        let network = json!([config.preset, config.backbone, config.seed]);
        let training = |name: &str| (at(name), name.to_string());
        let (recompute, graph, counts_only) = (Recompute::Auto, true, false);
        let stage_of =
            |data, output| TrainStage { data, config, output, gpu, recompute, graph, counts_only, progress };

        let (cam, _) = training("cam");
        let (cam_hash, cam_seconds, cam_report) = self.stage(Stage {
            name: "train-cam",
            inputs: vec![train_hash.clone()],
            settings: json!([network, config.cam.head, config.cam.long_side, config.cam.training]),
            writes: vec![cam.clone()],
            training: true,
            work: Box::new(|| {
                train_cam(&stage_of(train, &cam)).map(|s| json!({"steps": s.steps, "last_loss": s.last_loss}))
            }),
        })?;
        let cams = at("cams");
        let (cams_hash, cams_seconds, _) = self.stage(Stage {
            name: "make-cams",
            inputs: vec![cam_hash, train_hash.clone(), val_hash.clone()],
            settings: json!([config.cam.scales, config.cam.flip, config.preset]),
            writes: vec![cams.clone()],
            training: false,
            work: Box::new(|| {
                let loaded = load_cam(&cam, config)?.move_to(gpu)?;
                // The authors' stages go on from maps at image size.
                let psa = config.preset == Preset::Psa;
                let form = if psa { make_cams::CamFormat::Npy } else { make_cams::CamFormat::Safetensors };
                for data in [train, val].into_iter().filter(|data| !data.samples.is_empty()) {
                    make_cams::make_cams(
                        &loaded.network,
                        &loaded.parameters,
                        data,
                        &loaded.config,
                        form,
                        &cams,
                        progress,
                    )?;
                }
                Ok(Value::Null)
            }),
        })?;
        let affinity_labels = at("affinity-labels");
        let (labels_hash, labels_seconds, _) = self.stage(Stage {
            name: "make-affinity-labels",
            inputs: vec![cams_hash.clone(), train_hash.clone()],
            settings: json!([config.affinity_labels, config.preset]),
            writes: vec![affinity_labels.clone()],
            training: false,
            work: Box::new(|| {
                make_affinity_labels::make_affinity_labels(
                    train,
                    &cams,
                    config,
                    config.preset == Preset::Psa,
                    &affinity_labels,
                    gpu,
                    progress,
                )?;
                Ok(Value::Null)
            }),
        })?;
        let affinity = at("affinity");
        let (affinity_hash, affinity_seconds, affinity_report) = self.stage(Stage {
            name: "train-affinity",
            inputs: vec![labels_hash, train_hash.clone()],
            settings: json!([network, config.affinity]),
            writes: vec![affinity.clone()],
            training: true,
            work: Box::new(|| {
                let summary = train_affinity(&stage_of(train, &affinity), &affinity_labels)?;
                Ok(json!({"steps": summary.steps, "last_loss": summary.last_loss}))
            }),
        })?;
        let (pseudo, revised) = (at("pseudo-labels"), at("revised-labels"));
        let (pseudo_hash, pseudo_seconds, _) = self.stage(Stage {
            name: "make-pseudo-labels",
            inputs: vec![affinity_hash, cams_hash, train_hash.clone(), val_hash.clone()],
            settings: json!([
                config.walk,
                config.crf,
                config.affinity.radius,
                config.affinity.inclusive,
                config.affinity.border
            ]),
            writes: vec![pseudo.clone(), revised.clone()],
            training: false,
            work: Box::new(|| {
                let loaded = load_affinity(&affinity, config)?.move_to(gpu)?;
                for data in [train, val].into_iter().filter(|data| !data.samples.is_empty()) {
                    let (n, p) = (&loaded.network, &loaded.parameters);
                    let revised = Some(revised.as_path());
                    make_pseudo_labels::make_pseudo_labels(
                        n,
                        p,
                        data,
                        &cams,
                        &loaded.config,
                        &pseudo,
                        revised,
                        progress,
                    )?;
                }
                Ok(Value::Null)
            }),
        })?;
        let segmentation = at("segmentation");
        let (network_hash, segmentation_seconds, segmentation_report) = self.stage(Stage {
            name: "train-segmentation",
            inputs: vec![pseudo_hash, train_hash.clone()],
            settings: json!([
                network,
                config.segmentation.training,
                config.segmentation.dilation,
                config.segmentation.scale_range
            ]),
            writes: vec![segmentation.clone()],
            training: true,
            work: Box::new(|| {
                let summary = train_segmentation(&stage_of(train, &segmentation), &pseudo)?;
                Ok(json!({"steps": summary.steps, "last_loss": summary.last_loss}))
            }),
        })?;
        let masks = at("segmentations");
        let (_, segment_seconds, _) = self.stage(Stage {
            name: "segment",
            inputs: vec![network_hash, train_hash, val_hash],
            settings: json!([
                config.segmentation.scales,
                config.segmentation.flip,
                config.segmentation.crf,
                config.crf
            ]),
            writes: vec![masks.clone()],
            training: false,
            work: Box::new(|| {
                let loaded = load_segmentation(&segmentation, config)?.move_to(gpu)?;
                for data in [train, val].into_iter().filter(|data| !data.samples.is_empty()) {
                    segment::segment_all(
                        &loaded.network,
                        &loaded.parameters,
                        data,
                        &loaded.config,
                        &masks,
                        progress,
                    )?;
                }
                Ok(Value::Null)
            }),
        })?;
        if self.dry {
            return Ok(None);
        }

        let scorer = Scorer::new(train, val);
        let (threshold, cam_scores) = scorer.cams(&cams)?;
        let scored = |name, seconds, scores, more| StageResult { name, seconds, scores, more };
        let results = vec![
            StageResult::unscored("train_cam", cam_seconds, cam_report),
            scored("cams", Some(cams_seconds), cam_scores, json!({"threshold": decimal(threshold)})),
            StageResult::unscored("affinity_labels", labels_seconds, Value::Null),
            StageResult::unscored("train_affinity", affinity_seconds, affinity_report),
            // One stage makes both; the walk's time is counted with what the CRF makes of it.
            scored("walk", None, scorer.labels(&revised)?, json!({"included_in": "pseudo_labels"})),
            scored("pseudo_labels", Some(pseudo_seconds), scorer.labels(&pseudo)?, Value::Null),
            StageResult::unscored("train_segmentation", segmentation_seconds, segmentation_report),
            scored("segmentation", Some(segment_seconds), scorer.labels(&masks)?, Value::Null),
        ];
        let summary = RunSummary::new(results, train.classes.names());
        let text =
            serde_json::to_string_pretty(&summary.metrics).map_err(|e| Error::invalid(e.to_string()))?;
        write_atomically(&folder.join("metrics.json"), |file| file.write_all(text.as_bytes()))?;
        write_report(config, [train, val], folder, &summary)?;
        Ok(Some(summary))
    }
}
