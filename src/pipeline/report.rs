//! Fills the report of a run from what its stages left on disk, and draws its figures.

use std::path::Path;

use crate::config::Config;
use crate::data::{Dataset, Sample};
use crate::eval::ConfusionMatrix;
use crate::formats::atomic::write_atomically;
use crate::formats::cams;
use crate::formats::image::{LabelMap, RgbImage, read_rgb};
use crate::formats::label_png::read_labels;
use crate::ops::walk::Transition;
use crate::report::{
    AffinityView, AxisScale, Curve, GalleryRow, LossChart, Report, ScoreMaps, Scores, StageRow, WalkView,
    figures, render,
};
use crate::tensor::Tensor;
use crate::{Result, show_path};

use super::events::read_losses;
use super::make_cams::read_class_maps;
use super::make_pseudo_labels::{affinities_of, seeds_on_grid};
use super::networks::{Loaded, load_affinity};
use super::summary::{RunSummary, StageResult};
use crate::nn::AffinityNet;

/// Images of each list in the gallery.
const GALLERY: usize = 6;
/// Images of each list whose affinities and walks are shown: the first of the gallery.
const EXPLORED: [usize; 2] = [2, 1];
/// Where the figures go, below the run's folder.
const FIGURES: &str = "figures";

/// Writes `report.html` and `figures/*.png` into a run's folder. Their images are spread evenly over both
/// lists, so none was picked for its looks.
///
/// # Errors
/// A result of a stage that cannot be read, a full disk.
pub(super) fn write_report(
    config: &Config,
    lists: [&Dataset; 2],
    folder: &Path,
    summary: &RunSummary,
) -> Result<()> {
    let affinity = load_affinity(&folder.join("affinity"), config)?;
    let page = Page { config, folder, affinity };
    let mut report = Report {
        title: format!("seedwalk: {}", show_path(folder)),
        summary: description(config, lists),
        settings: settings(config),
        classes: lists[0].classes.names().to_vec(),
        stages: summary.stages.iter().map(row).collect(),
        losses: page.losses()?,
        ..Report::default()
    };
    let splits = [&config.data.train, &config.data.val];
    for ((data, split), explored) in lists.into_iter().zip(splits).zip(EXPLORED) {
        for (i, sample) in spread(&data.samples, GALLERY).into_iter().enumerate() {
            let (row, walk) = page.gallery_row(sample, split, data)?;
            report.gallery.push(row);
            if let Some((view, walk)) = walk.filter(|_| i < explored) {
                report.affinities.push(view);
                report.walks.push(walk);
            }
        }
    }
    let html = render(&report)?;
    write_atomically(&folder.join("report.html"), |file| file.write_all(html.as_bytes()))?;
    for figure in figures(&report)? {
        let path = folder.join(FIGURES).join(format!("{}.png", figure.name));
        write_atomically(&path, |file| file.write_all(&figure.png))?;
    }
    Ok(())
}

fn description(config: &Config, [train, val]: [&Dataset; 2]) -> String {
    let classes = train.classes.foreground().len();
    let scored = match val.samples.len() {
        0 => String::new(),
        n => format!("; {n} more are scored on and took part in no choice"),
    };
    let start = match config.backbone.init.as_os_str().is_empty() {
        true => "from random weights".to_string(),
        false => format!("from the weights in {}", show_path(&config.backbone.init)),
    };
    format!(
        "{} images of {classes} classes with image-level tags{scored}. Three networks on a ResNet-38 of width {}, \
         trained {start}.",
        train.samples.len(),
        config.backbone.width
    )
}

/// Every setting as the configuration file would have it.
fn settings(config: &Config) -> Vec<(String, String)> {
    fn flatten(prefix: &str, value: &serde_json::Value, out: &mut Vec<(String, String)>) {
        match value {
            serde_json::Value::Object(map) => {
                for (key, value) in map {
                    let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                    flatten(&name, value, out);
                }
            }
            other => out.push((prefix.to_string(), other.to_string().trim_matches('"').to_string())),
        }
    }
    let mut out = Vec::new();
    flatten("", &serde_json::json!(config), &mut out);
    out
}

fn row(stage: &StageResult) -> StageRow {
    let scores = |matrix: &Option<ConfusionMatrix>| {
        let matrix = matrix.as_ref()?;
        Some(Scores { mean_iou: matrix.mean_iou()?, iou: matrix.iou() })
    };
    let [train, val] = &stage.scores;
    let more = |key: &str| stage.more.get(key).and_then(serde_json::Value::as_f64);
    let note = match (more("steps"), more("last_loss"), more("threshold")) {
        (Some(steps), Some(loss), _) => format!("{steps} steps, last loss {loss:.3}"),
        (_, _, Some(threshold)) => format!("background score {threshold:.2}, the best on the training list"),
        _ => String::new(),
    };
    StageRow { name: stage.name.into(), seconds: stage.seconds, train: scores(train), val: scores(val), note }
}

/// At most `count` of them, evenly spaced, the first among them.
fn spread<T>(items: &[T], count: usize) -> Vec<&T> {
    let count = count.min(items.len());
    (0..count).map(|i| &items[i * items.len() / count]).collect()
}

/// The affinities of an image and the walk over them.
type Walk = (AffinityView, WalkView);

struct Page<'a> {
    config: &'a Config,
    folder: &'a Path,
    affinity: Loaded<AffinityNet>,
}

impl Page<'_> {
    fn losses(&self) -> Result<Vec<LossChart>> {
        let chart = |title: &str, stage: &str| {
            let points = read_losses(&self.folder.join(stage).join("events.jsonl"))?;
            let curves = vec![Curve { name: "loss".into(), points }];
            Ok(LossChart { title: title.into(), curves, scale: AxisScale::Auto })
        };
        Ok(vec![
            chart("CAM network", "cam")?,
            chart("AffinityNet", "affinity")?,
            chart("Segmentation network", "segmentation")?,
        ])
    }

    fn labels(&self, stage: &str, sample: &Sample) -> Result<Option<LabelMap>> {
        let path = self.folder.join(stage).join(format!("{}.png", sample.id));
        path.is_file().then(|| read_labels(&path)).transpose()
    }

    /// Class maps at image size and their labels; `None` where the image has none.
    fn class_maps(
        &self,
        sample: &Sample,
        data: &Dataset,
        size: [usize; 2],
    ) -> Result<Option<(Tensor, Vec<u8>)>> {
        let Some(path) = cams::find(&self.folder.join("cams"), &sample.id) else { return Ok(None) };
        read_class_maps(&path, &data.classes, size[0], size[1]).map(Some)
    }

    /// What every stage made of an image, and the walk behind it where it has class maps.
    fn gallery_row(
        &self,
        sample: &Sample,
        split: &str,
        data: &Dataset,
    ) -> Result<(GalleryRow, Option<Walk>)> {
        let image = read_rgb(&sample.image, self.config.data.exif)?;
        let maps = self.class_maps(sample, data, [image.height, image.width])?;
        let walk = maps.as_ref().map(|maps| self.walk(&sample.id, &image, maps)).transpose()?;
        let row = GalleryRow {
            id: sample.id.clone(),
            split: split.to_string(),
            image,
            cams: maps.map(|(maps, labels)| ScoreMaps::new(labels, maps)).transpose()?,
            affinity_labels: self.labels("affinity-labels", sample)?,
            revised: walk.as_ref().and_then(|(_, walk)| walk.frames.last()).map(|(_, maps)| maps.clone()),
            revised_label: self.labels("revised-labels", sample)?,
            pseudo_label: self.labels("pseudo-labels", sample)?,
            prediction: self.labels("segmentations", sample)?,
            ground_truth: sample.mask.as_deref().map(read_labels).transpose()?,
        };
        Ok((row, walk))
    }

    /// The affinities of an image, and the walk on its maps at 0, 1, 2, 4 … t steps.
    fn walk(&self, id: &str, image: &RgbImage, (maps, labels): &(Tensor, Vec<u8>)) -> Result<Walk> {
        let Loaded { network, parameters, config, .. } = &self.affinity;
        let (affinities, pairs) = affinities_of(network, parameters, image, config)?;
        let transition = Transition::new(&affinities, &pairs.stencil, config.walk.beta)?;
        let mut steps = vec![0];
        steps.extend((0..).map(|power| 1 << power).take_while(|&t| t < config.walk.steps));
        steps.push(config.walk.steps);
        steps.dedup();
        let labels: Vec<u8> = std::iter::once(0).chain(labels.iter().copied()).collect();
        let frames = transition.walk_frames(&seeds_on_grid(maps, config)?, &steps)?;
        let frames = steps
            .into_iter()
            .zip(frames)
            .map(|(t, maps)| Ok((t, ScoreMaps::new(labels.clone(), maps)?)))
            .collect::<Result<_>>()?;
        let view = AffinityView {
            id: id.to_string(),
            image: image.clone(),
            affinities,
            offsets: pairs.stencil.offsets().to_vec(),
            beta: config.walk.beta,
        };
        Ok((view, WalkView { id: id.to_string(), image: image.clone(), frames }))
    }
}
