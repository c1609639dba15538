//! The three trainings: what a sample is and what the loss is; the loop is in `training.rs`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::config::{Config, Preset, TrainingConfig};
use crate::data::Dataset;
use crate::data::augment::{Recipe, Scale};
use crate::device::cuda::{Element, Given, Gpu, Reading};
use crate::formats::checkpoint;
use crate::formats::image::IGNORE;
use crate::formats::image::{Exif, read_rgb};
use crate::formats::label_png::read_labels;
use crate::formats::safetensors::read_tensors;
use crate::nn::Network;
use crate::nn::module::Forward;
use crate::nn::resnet38::STRIDE;
use crate::ops::affinity::{affinity_loss, any_labelled_pair};
use crate::ops::class_maps::{labels_to_grid, pooled_confident_labels};
use crate::ops::losses::{multi_label_soft_margin, softmax_cross_entropy};
use crate::progress::Progress;
use crate::tape::Var;
use crate::{Error, Result};

use super::images::check_folder_classes;
use super::make_affinity_labels::SCORES;
use super::memory::Recompute;
use super::networks;
use super::training::{Loss, MakeSample, Training, TrainingSummary, train};

/// What all three trainings are given.
pub struct TrainStage<'a> {
    /// The samples.
    pub data: &'a Dataset,
    /// Every setting.
    pub config: &'a Config,
    /// Where checkpoint and `events.jsonl` go.
    pub output: &'a Path,
    /// The GPU to train on, `None` for the CPU.
    pub gpu: Option<&'a Arc<Gpu>>,
    /// Whether activations are kept for the way back.
    pub recompute: Recompute,
    /// Whether a GPU's steps are launched as a graph.
    pub graph: bool,
    /// Only count what a step takes of the GPU's memory.
    pub counts_only: bool,
    /// Where progress goes.
    pub progress: &'a Progress,
}

impl TrainStage<'_> {
    /// `sizes` is the range of sizes that augmentation draws from, for the checkpoint to remember.
    #[expect(clippy::too_many_arguments, reason = "what the trainings differ in")]
    fn run<T: Element + Send + Sync>(
        &self,
        network: &dyn Network,
        recipe: &TrainingConfig,
        sizes: Value,
        names: Vec<String>,
        make: MakeSample<T>,
        loss: &Loss<'_, T>,
        teaches: &(dyn Fn(&[T]) -> bool + Sync),
    ) -> Result<TrainingSummary> {
        let config = self.config;
        let init = Some(config.backbone.init.as_path()).filter(|p| !p.as_os_str().is_empty());
        let init_hash = match init {
            Some(path) if checkpoint::exists(path) => super::manifest::weights_hash(path)?,
            Some(path) => super::manifest::hash_files(&[path.to_path_buf()], path.parent().unwrap_or(path))?,
            None => String::new(),
        };
        train(
            &Training {
                network,
                recipe,
                steps: 0,
                learn_statistics: config.backbone.learn_statistics,
                init,
                output: self.output,
                seed: config.seed,
                classes: self.data.classes.names(),
                configuration: json!({
                    "network": networks::describe(config, network.kind()),
                    "training": recipe,
                    "sizes": sizes,
                    "seed": config.seed,
                    "learn_statistics": config.backbone.learn_statistics,
                    "exif": config.data.exif,
                    "init": init_hash,
                    "samples": super::manifest::key_of(&names.iter().map(String::as_str).collect::<Vec<_>>()),
                }),
                samples: names.len(),
                name_of: &|i| names[i].clone(),
                make,
                loss,
                teaches,
                checkpoint_every: 0,
                gpu: self.gpu.cloned(),
                recompute: self.recompute,
                graph: self.graph,
                counts_only: self.counts_only,
            },
            self.progress,
        )
    }
}

/// Trains the CAM network on image-level tags.
///
/// # Errors
/// As [`train`]; no image with tags.
pub fn train_cam(stage: &TrainStage<'_>) -> Result<TrainingSummary> {
    let classes = stage.data.classes.foreground().len();
    let network = networks::cam_net(stage.config, classes);
    let recipe = &stage.config.cam.training;
    let samples: Arc<Vec<_>> = Arc::new(
        stage.data.samples.iter().filter_map(|s| Some((s.image.clone(), s.tags.clone()?))).collect(),
    );
    let names = samples.iter().map(|(path, _)| crate::show_path(path)).collect();
    let [min, max] = stage.config.cam.long_side;
    let augment = Recipe { scale: Scale::LongSide { min, max }, ..hued(Recipe::cam(recipe.crop), recipe) };
    let exif = stage.config.data.exif;
    let make: MakeSample<f32> = Arc::new(move |i, random| {
        let (path, tags) = &samples[i];
        let image = augment.apply(&read_rgb(path, exif)?, None, random)?.image;
        let mut target = vec![0f32; classes];
        tags.iter().for_each(|&tag| target[tag - 1] = 1.0);
        Ok((image, target))
    });
    let loss = |forward: &mut Forward<'_>, images: &Var, tags: &Given<'_, f32>| {
        let logits = network.forward(forward, images)?;
        let targets = tags.tensor(&[images.shape()[0], classes], logits.value().gpu(), "the tags")?;
        Ok((multi_label_soft_margin(&mut forward.tape, &logits, &targets)?, Reading::known(vec![])))
    };
    stage.run(&network, recipe, json!([min, max]), names, make, &loss, &|_| true)
}

/// A recipe with the configuration's change of hue.
fn hued(mut recipe: Recipe, training: &TrainingConfig) -> Recipe {
    recipe.jitter.hue = training.hue;
    recipe
}

/// Images of a list that have a label PNG in a folder.
fn labelled(data: &Dataset, folder: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    check_folder_classes(folder, data)?;
    let pairs = data.samples.iter().map(|s| (s.image.clone(), folder.join(format!("{}.png", s.id))));
    let found: Vec<_> = pairs.filter(|(_, labels)| labels.is_file()).collect();
    match found.len() {
        0 => Err(Error::invalid("no image of the list has a label PNG here")
            .in_file(folder)
            .remedy("make them for the same --split: labels lie in ID.png")),
        n => {
            let missing = data.samples.len() - n;
            if missing > 0 {
                log::warn!("{missing} of {} images have no label PNG: left out", data.samples.len());
            }
            Ok(found)
        }
    }
}

/// An image and its labels on the feature grid, both augmented alike.
fn labelled_sample(
    samples: Arc<Vec<(PathBuf, PathBuf)>>,
    augment: Recipe,
    exif: Exif,
    classes: usize,
) -> MakeSample<u8> {
    Arc::new(move |i, random| {
        let (image, labels) = &samples[i];
        let map = read_labels(labels)?;
        map.check_classes(classes).map_err(|e| e.in_file(labels))?;
        let made =
            augment.apply(&read_rgb(image, exif)?, Some(&map), random).map_err(|e| e.in_file(labels))?;
        let map = made.labels.ok_or_else(|| Error::invalid("the sample lost its labels"))?;
        Ok((made.image, labels_to_grid(&map, STRIDE).labels))
    })
}

/// The posteriors that `make-affinity-labels --scores` kept beside labels, in their order; none where there
/// are none at all.
fn posteriors(folder: &Path, labels: &[PathBuf]) -> Result<Option<Vec<PathBuf>>> {
    let scores = folder.join(SCORES);
    if !scores.is_dir() {
        log::warn!(
            "no CRF posteriors in {}: labels come to the feature grid by majority, not by the average of the \
             posteriors as in the authors' code; `seedwalk make-affinity-labels --scores` keeps them",
            crate::show_path(folder)
        );
        return Ok(None);
    }
    let of =
        |labels: &PathBuf| scores.join(labels.file_name().unwrap_or_default()).with_extension("safetensors");
    let paths: Vec<PathBuf> = labels.iter().map(of).collect();
    match paths.iter().find(|path| !path.is_file()) {
        Some(missing) => Err(Error::io("open", missing, std::io::ErrorKind::NotFound.into())
            .remedy("make them all: `seedwalk make-affinity-labels --scores`, for the same --split")),
        None => Ok(Some(paths)),
    }
}

/// An image, augmented, and its affinity labels on the feature grid from both posteriors, moved alike.
fn posterior_sample(samples: Vec<(PathBuf, PathBuf)>, augment: Recipe, exif: Exif) -> MakeSample<u8> {
    Arc::new(move |i, random| {
        let (image, scores) = &samples[i];
        let mut tensors = read_tensors(scores)?.into_pairs();
        let mut take = |name: &str| {
            let found = tensors.iter().position(|(n, _)| n == name).map(|at| tensors.swap_remove(at).1);
            found.ok_or_else(|| {
                Error::malformed(scores, format!("no tensor `{name}`"))
                    .remedy("make the posteriors anew: `seedwalk make-affinity-labels --scores`")
            })
        };
        let (strong, weak) = (take("strong")?, take("weak")?);
        let (image, placement) = augment.place(&read_rgb(image, exif)?, random)?;
        let on_grid = placement
            .planes(&strong)
            .and_then(|strong| pooled_confident_labels(&strong, &placement.planes(&weak)?, STRIDE))
            .map_err(|e| e.in_file(scores))?;
        Ok((image, on_grid.labels))
    })
}

/// Trains AffinityNet on affinity labels. Under the preset `psa` they are made on the feature grid from the
/// posteriors kept beside them, where there are any.
///
/// # Errors
/// As [`train`]; no image with labels; under the border rule `psa` a crop without any pair.
pub fn train_affinity(stage: &TrainStage<'_>, labels: &Path) -> Result<TrainingSummary> {
    let config = &stage.config.affinity;
    let network = networks::affinity_net(stage.config);
    let pairs = config.pairs()?;
    let samples = labelled(stage.data, labels)?;
    let names = samples.iter().map(|(path, _)| crate::show_path(path)).collect();
    let augment = hued(Recipe::affinity(config.training.crop), &config.training);
    let exif = stage.config.data.exif;
    let (images, masks): (Vec<PathBuf>, Vec<PathBuf>) = samples.iter().cloned().unzip();
    let kept = if stage.config.preset == Preset::Psa { posteriors(labels, &masks)? } else { None };
    let make = match kept {
        Some(scores) => posterior_sample(images.into_iter().zip(scores).collect(), augment, exif),
        None => labelled_sample(Arc::new(samples), augment, exif, stage.data.classes.len()),
    };
    let loss = |forward: &mut Forward<'_>, images: &Var, labels: &Given<'_, u8>| {
        let features = network.forward(forward, images)?;
        let (loss, parts) = affinity_loss(&mut forward.tape, &features, *labels, &pairs, config.loss)?;
        let parts = parts.map(|parts| {
            vec![
                ("background", parts.background),
                ("foreground", parts.foreground),
                ("negative", parts.negative),
            ]
        });
        Ok((loss, parts))
    };
    let side = config.training.crop.div_ceil(STRIDE);
    let teaches = |labels: &[u8]| any_labelled_pair(labels, side, side, &pairs);
    stage.run(&network, &config.training, Value::Null, names, make, &loss, &teaches)
}

/// Trains the segmentation network on label PNGs.
///
/// # Errors
/// As [`train`]; no image with labels; a label that is no class.
pub fn train_segmentation(stage: &TrainStage<'_>, labels: &Path) -> Result<TrainingSummary> {
    let recipe = &stage.config.segmentation.training;
    let network = networks::segmentation_net(stage.config, stage.data.classes.len());
    let samples = Arc::new(labelled(stage.data, labels)?);
    let names = samples.iter().map(|(path, _)| crate::show_path(path)).collect();
    let [min, max] = stage.config.segmentation.scale_range;
    let augment =
        Recipe { scale: Scale::Factor { min, max }, ..hued(Recipe::segmentation(recipe.crop), recipe) };
    let make = labelled_sample(samples, augment, stage.config.data.exif, stage.data.classes.len());
    let loss = |forward: &mut Forward<'_>, images: &Var, labels: &Given<'_, u8>| {
        let logits = network.forward(forward, images)?;
        Ok((softmax_cross_entropy(&mut forward.tape, &logits, *labels)?, Reading::known(vec![])))
    };
    let teaches = |labels: &[u8]| labels.iter().any(|label| *label != IGNORE);
    stage.run(&network, recipe, json!([min, max]), names, make, &loss, &teaches)
}
