//! Affinity labels: the confident parts of the seeds (paper, §3.2; spec §4).
//!
//! The class maps of an image are joined by two backgrounds, `M_bg = (1 − max_c M_c)^α` with a small α
//! (strong background) and a large one (weak background); each is refined by the dense CRF on
//! [background, classes present]. Where a class wins against the strong background it is confident
//! object, where the weak background wins it is confident background, everything else is neutral (255).
//! Both CRFs share one lattice.

use std::path::Path;
use std::sync::Arc;

use crate::config::Config;
use crate::data::Dataset;
use crate::device::cuda::Gpu;
use crate::formats::cams;
use crate::formats::image::{LabelMap, RgbImage, read_rgb};
use crate::formats::label_png::{write_class_list, write_labels};
use crate::formats::safetensors::{Dtype, write_tensors};
use crate::ops::class_maps;
use crate::ops::crf::DenseCrf;
use crate::progress::Progress;
use crate::tensor::Tensor;
use crate::{Error, Result};

use super::images::{Outcome, StageCount, check_folder_classes, for_each_image};
use super::make_cams::read_class_maps;

/// Where posteriors are kept, below the folder of labels.
pub const SCORES: &str = "scores";

/// The two posteriors of an image and what follows from them.
pub struct AffinityLabels {
    /// Class index + 1 of each confident pixel, 0 background, 255 neutral.
    pub labels: LabelMap,
    /// (1+L)×H×W: the CRF against the strong background (small α).
    pub strong: Tensor,
    /// (1+L)×H×W: the CRF against the weak background (large α).
    pub weak: Tensor,
}

/// Affinity labels of one image from its maps L×H×W (maximum 1 each). `names[i]` is the label of map i. The CRF
/// iterates on a GPU where one is given.
///
/// # Errors
/// Maps of another size than the image; settings out of range.
pub fn affinity_labels_of(
    image: &RgbImage,
    maps: &Tensor,
    names: &[u8],
    config: &Config,
    gpu: Option<&Arc<Gpu>>,
) -> Result<AffinityLabels> {
    let settings = &config.affinity_labels;
    let crf = DenseCrf::on(gpu, image, &settings.crf)?;
    let posterior = |alpha: f32| crf.infer_on(gpu, &class_maps::with_background(maps, alpha)?);
    let (strong, weak) = (posterior(settings.alpha_strong)?, posterior(settings.alpha_weak)?);
    let labels: Vec<u8> = std::iter::once(0).chain(names.iter().copied()).collect();
    let map = class_maps::confident_labels(
        &class_maps::argmax(&strong, &labels)?,
        &class_maps::argmax(&weak, &labels)?,
    )?;
    Ok(AffinityLabels { labels: map, strong, weak })
}

/// Writes the affinity labels of every image that has class maps; those already there are kept. With
/// `scores`, both posteriors go to `scores/ID.safetensors` as f16.
///
/// # Errors
/// A photograph or a map that cannot be read, a full disk, an interruption: what was finished is kept.
pub fn make_affinity_labels(
    data: &Dataset,
    cam_folder: &Path,
    config: &Config,
    scores: bool,
    output: &Path,
    gpu: Option<&Arc<Gpu>>,
    progress: &Progress,
) -> Result<StageCount> {
    check_folder_classes(cam_folder, data)?;
    write_class_list(output, data.classes.names())?;
    for_each_image(data, gpu.is_none(), "make-affinity-labels", progress, |sample| {
        let Some(path) = cams::find(cam_folder, &sample.id) else { return Ok(Outcome::Skipped) };
        let target = output.join(format!("{}.png", sample.id));
        let score_target = output.join(SCORES).join(format!("{}.safetensors", sample.id));
        if target.exists() && (!scores || score_target.exists()) {
            return Ok(Outcome::Kept);
        }
        let image = read_rgb(&sample.image, config.data.exif)?;
        let (maps, names) = read_class_maps(&path, &data.classes, image.height, image.width)?;
        let made = affinity_labels_of(&image, &maps, &names, config, gpu)?;
        Ok(Outcome::Write(Box::new(move || {
            if scores {
                let names = names.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
                let tensors = [("strong", &made.strong), ("weak", &made.weak)];
                write_tensors(&score_target, &tensors, Dtype::F16, &[("labels", &names)])?;
            }
            write_labels(&target, &made.labels)
        })))
    })
    .and_then(|count| match count.written + count.kept {
        0 => Err(Error::invalid("no image of the list has class maps here")
            .in_file(cam_folder)
            .remedy("make them with `seedwalk make-cams` for the same --split")),
        _ => Ok(count),
    })
}
