//! Pseudo labels: the seeds, grown by the random walk over learned affinities, refined by the dense CRF
//! (paper, §3.3 and §4; spec §6 and §7).

use std::path::Path;

use crate::config::{Config, Preset, Refine};
use crate::data::Dataset;
use crate::data::augment::normalize;
use crate::formats::cams;
use crate::formats::image::{LabelMap, RgbImage, read_rgb};
use crate::formats::label_png::{write_class_list, write_labels};
use crate::nn::AffinityNet;
use crate::nn::module::Parameters;
use crate::nn::resnet38::STRIDE;
use crate::ops::affinity::{Pairs, affinities};
use crate::ops::class_maps::{self, GridAverage};
use crate::ops::crf::DenseCrf;
use crate::ops::walk::Transition;
use crate::progress::Progress;
use crate::tensor::Tensor;
use crate::{Error, Result};

use super::images::{Outcome, StageCount, check_folder_classes, for_each_image};
use super::make_cams::read_class_maps;

/// The affinities of an image, P×h×w, and the pairs that they are of. Under the border rule `psa` the pairs
/// at the border do not exist here either, as in the authors' code.
///
/// # Errors
/// An image whose grid has no pair at all under that rule: one of at most 32 rows or 64 columns.
pub fn affinities_of(
    network: &AffinityNet,
    parameters: &Parameters,
    image: &RgbImage,
    config: &Config,
) -> Result<(Tensor, Pairs)> {
    let mut input = normalize(image);
    if config.preset == Preset::Psa {
        input = pad_to_stride(&input)?;
    }
    let features = network.infer(parameters, input)?.features;
    let pairs = config.affinity.pairs()?;
    let affinities = affinities(&features, &pairs)?;
    let planes = affinities.shape()[1..].to_vec();
    Ok((affinities.reshape(&planes)?, pairs))
}

/// The normalised picture with zeros at the right and bottom up to a multiple of the stride, as the
/// authors' code pads it.
fn pad_to_stride(image: &Tensor) -> Result<Tensor> {
    let [n, h, w, c] = image.nhwc("padding")?;
    let (ph, pw) = (h.next_multiple_of(STRIDE), w.next_multiple_of(STRIDE));
    let mut out = Tensor::zeros(&[n, ph, pw, c]);
    for (row, source) in image.data().chunks_exact(w * c).enumerate() {
        let at = (row / h * ph + row % h) * pw * c;
        out.data_mut()[at..at + w * c].copy_from_slice(source);
    }
    Ok(out)
}

/// The maps that a walk starts from, background first, on the feature grid.
pub fn seeds_on_grid(maps: &Tensor, config: &Config) -> Result<Tensor> {
    let rule = if config.preset == Preset::Psa { GridAverage::ZeroPadded } else { GridAverage::Covered };
    class_maps::to_grid(&class_maps::with_background(maps, config.walk.background_alpha)?, STRIDE, rule)
}

/// The walked maps of one image at its size, (1+L)×H×W, from its class maps L×H×W.
pub fn walked_maps(
    network: &AffinityNet,
    parameters: &Parameters,
    image: &RgbImage,
    maps: &Tensor,
    config: &Config,
) -> Result<Tensor> {
    let (affinities, pairs) = affinities_of(network, parameters, image, config)?;
    let transition = Transition::new(&affinities, &pairs.stencil, config.walk.beta)?;
    let walked = transition.walk(&seeds_on_grid(maps, config)?, config.walk.steps)?;
    let (h, w) = (image.height, image.width);
    if config.preset == Preset::Psa {
        return crop(
            &class_maps::resize(&walked, h.next_multiple_of(STRIDE), w.next_multiple_of(STRIDE))?,
            h,
            w,
        );
    }
    class_maps::resize(&walked, h, w)
}

fn crop(maps: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let [l, h, w] = class_maps::planes(maps, "crop")?;
    let rows = (0..l * height).flat_map(|r| &maps.data()[((r / height) * h + r % height) * w..][..width]);
    Tensor::new(&[l, height, width], rows.copied().collect())
}

/// Labels of one image before and after the CRF.
pub fn pseudo_labels_of(
    image: &RgbImage,
    walked: &Tensor,
    names: &[u8],
    config: &Config,
) -> Result<(LabelMap, LabelMap)> {
    let labels: Vec<u8> = std::iter::once(0).chain(names.iter().copied()).collect();
    let revised = class_maps::argmax(walked, &labels)?;
    let refined = match config.crf.pseudo_labels {
        Refine::Off => revised.clone(),
        Refine::On => {
            let q = DenseCrf::new(image, &config.crf.options)?.infer(walked)?;
            class_maps::argmax(&q, &labels)?
        }
    };
    Ok((revised, refined))
}

/// Writes the pseudo labels of every image that has class maps to `output`, and those before the CRF to
/// `revised` where it is given; what is there already is kept.
///
/// # Errors
/// A photograph or map that cannot be read, a full disk, an interruption: what was finished is kept.
#[allow(clippy::too_many_arguments, reason = "a stage's inputs and outputs, each named once")]
pub fn make_pseudo_labels(
    network: &AffinityNet,
    parameters: &Parameters,
    data: &Dataset,
    cam_folder: &Path,
    config: &Config,
    output: &Path,
    revised_output: Option<&Path>,
    progress: &Progress,
) -> Result<StageCount> {
    check_folder_classes(cam_folder, data)?;
    for folder in std::iter::once(output).chain(revised_output) {
        write_class_list(folder, data.classes.names())?;
    }
    let count =
        for_each_image(data, network.backbone.is_narrow(), "make-pseudo-labels", progress, |sample| {
            let Some(path) = cams::find(cam_folder, &sample.id) else { return Ok(Outcome::Skipped) };
            let name = format!("{}.png", sample.id);
            let (target, before) = (output.join(&name), revised_output.map(|folder| folder.join(&name)));
            if target.exists() && before.as_ref().is_none_or(|p| p.exists()) {
                return Ok(Outcome::Kept);
            }
            let image = read_rgb(&sample.image, config.data.exif)?;
            let (maps, names) = read_class_maps(&path, &data.classes, image.height, image.width)?;
            let walked = walked_maps(network, parameters, &image, &maps, config)?;
            let (revised, refined) = pseudo_labels_of(&image, &walked, &names, config)?;
            if let Some(before) = before {
                write_labels(&before, &revised)?;
            }
            write_labels(&target, &refined)?;
            Ok(Outcome::Written)
        })?;
    match count.written + count.kept {
        0 => Err(Error::invalid("no image of the list has class maps here")
            .in_file(cam_folder)
            .remedy("make them with `seedwalk make-cams` for the same --split")),
        _ => Ok(count),
    }
}
