//! Segmenting photographs with the trained network: softmax averaged over scales and mirroring, at image
//! size, then the dense CRF where asked for (spec §8).

use std::path::Path;

use crate::Result;
use crate::config::Config;
use crate::data::Dataset;
use crate::data::augment::normalize;
use crate::formats::image::{LabelMap, RgbImage, read_rgb};
use crate::formats::label_png::{write_class_list, write_labels};
use crate::nn::SegmentationNet;
use crate::nn::module::Parameters;
use crate::ops::class_maps;
use crate::ops::crf::DenseCrf;
use crate::ops::losses::softmax;
use crate::ops::resize::bilinear_resize_plane;
use crate::progress::Progress;
use crate::tensor::Tensor;

use super::images::{Outcome, StageCount, for_each_image, together};
use super::make_cams::for_each_pass;

/// Class probabilities of one image, C×H×W.
pub fn probabilities_of(
    network: &SegmentationNet,
    parameters: &Parameters,
    image: &RgbImage,
    config: &Config,
) -> Result<Tensor> {
    let (h, w, c) = (image.height, image.width, network.classes);
    let mut sum = vec![0f32; c * h * w];
    let mut passes = 0;
    for_each_pass(image, &config.segmentation.scales, config.segmentation.flip, |input, flipped| {
        let logits = network.infer(parameters, normalize(input))?.logits;
        let [_, gh, gw, _] = logits.nhwc("logits")?;
        let large = bilinear_resize_plane(logits.data(), gh, gw, c, h, w)?;
        let p = softmax(&Tensor::new(&[h, w, c], large)?)?;
        for (pixel, p) in p.data().chunks_exact(c).enumerate() {
            let (y, x) = (pixel / w, pixel % w);
            let at = y * w + if flipped { w - 1 - x } else { x };
            p.iter().enumerate().for_each(|(class, p)| sum[class * h * w + at] += p);
        }
        passes += 1;
        Ok(())
    })?;
    sum.iter_mut().for_each(|v| *v /= passes as f32);
    let p = Tensor::new(&[c, h, w], sum)?;
    if !config.segmentation.crf {
        return Ok(p);
    }
    let gpu = parameters.gpu();
    DenseCrf::on(gpu, image, &config.crf.options)?.infer_on(gpu, &p)
}

/// The label map of one image.
pub fn segment_image(
    network: &SegmentationNet,
    parameters: &Parameters,
    image: &RgbImage,
    config: &Config,
) -> Result<LabelMap> {
    let names: Vec<u8> = (0..network.classes).map(|c| c as u8).collect();
    class_maps::argmax(&probabilities_of(network, parameters, image, config)?, &names)
}

/// Writes the label map of every image of a list; what is there already is kept.
///
/// # Errors
/// A photograph that cannot be read, a full disk, an interruption: what was finished is kept.
pub fn segment_all(
    network: &SegmentationNet,
    parameters: &Parameters,
    data: &Dataset,
    config: &Config,
    output: &Path,
    progress: &Progress,
) -> Result<StageCount> {
    write_class_list(output, data.classes.names())?;
    for_each_image(data, together(&network.backbone, parameters), "segment", progress, |sample| {
        let target = output.join(format!("{}.png", sample.id));
        if target.exists() {
            return Ok(Outcome::Kept);
        }
        let image = read_rgb(&sample.image, config.data.exif)?;
        let map = segment_image(network, parameters, &image, config)?;
        Ok(Outcome::Write(Box::new(move || write_labels(&target, &map))))
    })
}
