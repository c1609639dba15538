//! Pseudo labels: the seeds, grown by the random walk over learned affinities, refined by the dense CRF
//! (paper, §3.3 and §4; spec §6 and §7).

use std::path::Path;
use std::sync::Arc;

use crate::config::{Config, Preset, Refine, WalkConfig};
use crate::data::Dataset;
use crate::data::augment::normalize;
use crate::device::cuda::Gpu;
use crate::formats::cams;
use crate::formats::image::{LabelMap, RgbImage, read_rgb};
use crate::formats::label_png::{write_class_list, write_labels};
use crate::nn::AffinityNet;
use crate::nn::module::Parameters;
use crate::nn::resnet38::STRIDE;
use crate::ops::affinity::{Pairs, Reduction, affinities};
use crate::ops::class_maps::{self, GridAverage};
use crate::ops::crf::DenseCrf;
use crate::ops::resize::bilinear_resize_plane;
use crate::ops::walk::walk;
use crate::progress::Progress;
use crate::tensor::Tensor;
use crate::{Error, Result};

use super::images::{Outcome, StageCount, check_folder_classes, for_each_image, together};
use super::make_cams::{for_each_pass, read_class_maps};

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
    let pairs = config.affinity.pairs()?;
    let features = features_of(network, parameters, image, config)?;
    let affinities = affinities(&features, &pairs)?;
    let planes = affinities.shape()[1..].to_vec();
    Ok((affinities.reshape(&planes)?, pairs))
}

/// Features on the picture's own grid, 1×h×w×K for one pass. Those of several (each scale, and mirrored) are
/// brought to that grid and put one after the other, so that the distance of two cells is the mean of their
/// distances over the passes, and their affinity the geometric mean.
fn features_of(
    network: &AffinityNet,
    parameters: &Parameters,
    image: &RgbImage,
    config: &Config,
) -> Result<Tensor> {
    let WalkConfig { scales, flip, .. } = &config.walk;
    let pass = |image: &RgbImage| {
        let mut input = normalize(image);
        if config.preset == Preset::Psa {
            input = pad_to_stride(&input)?;
        }
        Ok(network.infer(parameters, input)?.features)
    };
    if let ([1.0], false) = (scales.as_slice(), flip) {
        return pass(image);
    }
    let (h, w) = (image.height.div_ceil(STRIDE), image.width.div_ceil(STRIDE));
    let mut passes = Vec::new();
    for_each_pass(image, scales, *flip, |input, flipped| {
        let features = pass(input)?.to_host()?;
        let [_, gh, gw, k] = features.nhwc("features")?;
        let mut on_grid = bilinear_resize_plane(features.data(), gh, gw, k, h, w)?;
        if flipped {
            on_grid.chunks_exact_mut(w * k).for_each(|row| mirror_row(row, k));
        }
        passes.push(on_grid);
        Ok(())
    })?;
    let k = network.features();
    // The sum over all channels is that of the passes; the mean needs no factor.
    let factor = if config.affinity.reduction == Reduction::Sum { 1.0 / passes.len() as f32 } else { 1.0 };
    let mut data = Vec::with_capacity(passes.len() * h * w * k);
    for cell in 0..h * w {
        passes.iter().for_each(|pass| data.extend(pass[cell * k..][..k].iter().map(|v| factor * v)));
    }
    Tensor::new(&[1, h, w, passes.len() * k], data)?.to_place(parameters.gpu(), "the features")
}

/// Turns a row of cells of `k` values round.
fn mirror_row(row: &mut [f32], k: usize) {
    let cells = row.len() / k;
    for x in 0..cells / 2 {
        let (left, right) = row.split_at_mut((cells - 1 - x) * k);
        left[x * k..][..k].swap_with_slice(&mut right[..k]);
    }
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
    let seeds = seeds_on_grid(maps, config)?;
    let walked = walk(&affinities, &pairs.stencil, config.walk.beta, &seeds, config.walk.steps)?;
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

/// Labels of one image before and after the CRF, which iterates on a GPU where one is given.
pub fn pseudo_labels_of(
    image: &RgbImage,
    walked: &Tensor,
    names: &[u8],
    config: &Config,
    gpu: Option<&Arc<Gpu>>,
) -> Result<(LabelMap, LabelMap)> {
    let labels: Vec<u8> = std::iter::once(0).chain(names.iter().copied()).collect();
    let revised = class_maps::argmax(walked, &labels)?;
    let refined = match config.crf.pseudo_labels {
        Refine::Off => revised.clone(),
        Refine::On => {
            let q = DenseCrf::on(gpu, image, &config.crf.options)?.infer_on(gpu, walked)?;
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
    let count = for_each_image(
        data,
        together(&network.backbone, parameters),
        "make-pseudo-labels",
        progress,
        |sample| {
            let Some(path) = cams::find(cam_folder, &sample.id) else { return Ok(Outcome::Skipped) };
            let name = format!("{}.png", sample.id);
            let (target, before) = (output.join(&name), revised_output.map(|folder| folder.join(&name)));
            if target.exists() && before.as_ref().is_none_or(|p| p.exists()) {
                return Ok(Outcome::Kept);
            }
            let image = read_rgb(&sample.image, config.data.exif)?;
            let (maps, names) = read_class_maps(&path, &data.classes, image.height, image.width)?;
            let walked = walked_maps(network, parameters, &image, &maps, config)?;
            let (revised, refined) = pseudo_labels_of(&image, &walked, &names, config, parameters.gpu())?;
            Ok(Outcome::Write(Box::new(move || {
                if let Some(before) = before {
                    write_labels(&before, &revised)?;
                }
                write_labels(&target, &refined)
            })))
        },
    )?;
    match count.written + count.kept {
        0 => Err(Error::invalid("no image of the list has class maps here")
            .in_file(cam_folder)
            .remedy("make them with `seedwalk make-cams` for the same --split")),
        _ => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Width;
    use crate::data::augment::{mirror, resize_cubic};
    use crate::nn::Network;
    use crate::pipeline::networks::affinity_net;
    use crate::rng::{Purpose, Stream};

    fn setting() -> (AffinityNet, Parameters, RgbImage, Config) {
        let mut config = Config::preset(Preset::Paper);
        config.backbone.width = "1/64".parse::<Width>().unwrap();
        let network = affinity_net(&config);
        let mut random = Stream::new(4, Purpose::Test, 0, 0);
        let pixels = (0..21 * 37 * 3).map(|_| random.below(256) as u8).collect();
        let image = RgbImage::new(37, 21, pixels).unwrap();
        let parameters = network.parameters(3).unwrap();
        (network, parameters, image, config)
    }

    #[test]
    fn several_passes_give_the_geometric_mean_of_their_affinities() {
        let (network, parameters, image, mut config) = setting();
        let of = |config: &Config, image: &RgbImage| {
            affinities_of(&network, &parameters, image, config).unwrap().0
        };
        config.walk.scales = vec![1.0, 1.5];
        let both = of(&config, &image);
        let one = |scale: f64| {
            let mut config = config.clone();
            config.walk.scales = vec![scale];
            of(&config, &image)
        };
        let (a, b) = (one(1.0), one(1.5));
        assert!((both.shape(), a.shape()) == (b.shape(), &[34, 3, 5]), "{:?}", both.shape());
        let pairs = a.data().iter().zip(b.data()).zip(both.data()).filter(|((a, _), _)| !a.is_nan());
        let (mut different, mut all) = (0, 0);
        for ((a, b), both) in pairs {
            // Distances are sums of fewer than 32 terms of one sign, each rounded: 32 ε of a distance below 4.
            assert!(((a * b).sqrt() / both).ln().abs() < 32.0 * 4.0 * f32::EPSILON, "{a} {b} {both}");
            // Ten times what rounding could make of equal distances.
            different += usize::from((a / b).ln().abs() > 10.0 * 32.0 * 4.0 * f32::EPSILON);
            all += 1;
        }
        assert!(2 * different > all && all > 50, "the scales differ at {different} of {all} pairs");
    }

    #[test]
    fn with_mirroring_a_mirrored_picture_has_mirrored_affinities() {
        let (network, parameters, image, mut config) = setting();
        // Sides that are multiples of the stride, so that the mirrored grid covers the same cells.
        let image = resize_cubic(&image, 40, 24).unwrap();
        config.walk.flip = true;
        let of = |image: &RgbImage| affinities_of(&network, &parameters, image, &config).unwrap().0;
        let (plain, mirrored) = (of(&image), of(&mirror(&image)));
        let (h, w) = (3, 5);
        // The first four planes are the offsets (0, 1) … (0, 4): their mirror image starts at the other end.
        for dx in 1..=4 {
            for y in 0..h {
                for x in 0..w - dx {
                    let at = |x: usize| ((dx - 1) * h + y) * w + x;
                    let (a, b) = (plain.data()[at(x)], mirrored.data()[at(w - 1 - x - dx)]);
                    assert!((a / b).ln().abs() < 32.0 * 4.0 * f32::EPSILON, "{dx} {y} {x}: {a} {b}");
                }
            }
        }
        let mut row = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        mirror_row(&mut row, 2);
        assert_eq!(row, [5.0, 6.0, 3.0, 4.0, 1.0, 2.0]);
    }
}
