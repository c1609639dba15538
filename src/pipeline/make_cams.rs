//! Class activation maps by multi-scale inference (paper, §3.1; spec §3).
//!
//! For each scale s and each mirroring: the image resampled (cubic) to round(s·H)×round(s·W), half to
//! even; the network's maps `max(0, w_cᵀ f)` of the classes present; bilinear to H×W; mirrored back;
//! summed. The sum is divided by its largest value per class (psa: + 1e-5).

use std::path::Path;

use crate::config::{CamConfig, Config, Preset};
use crate::data::augment::{mirror, normalize, resize_cubic};
use crate::data::{Classes, Dataset};
use crate::formats::cams::{self, ClassMaps};
use crate::formats::image::{RgbImage, read_rgb};
use crate::formats::label_png::write_class_list;
use crate::nn::CamNet;
use crate::nn::module::Parameters;
use crate::nn::resnet38::STRIDE;
use crate::ops::class_maps;
use crate::ops::resize::bilinear_resize_plane;
use crate::progress::Progress;
use crate::tensor::Tensor;
use crate::{Error, Result};

use super::images::{Outcome, StageCount, for_each_image, together};

/// How maps are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CamFormat {
    /// f16 at stride 8 in safetensors.
    Safetensors,
    /// f32 at image size in psa's pickled `.npy` dictionaries.
    Npy,
}

/// round(size · scale), half to even as Python and NumPy round, at least 1.
pub fn scaled(size: usize, scale: f64) -> usize {
    ((size as f64 * scale).round_ties_even() as usize).max(1)
}

/// Calls `pass` with the image at each scale and, if `flip`, with each of those mirrored; the flag says which.
///
/// # Errors
/// What `pass` fails with; a scale that leaves no picture that can be made.
pub fn for_each_pass(
    image: &RgbImage,
    scales: &[f64],
    flip: bool,
    mut pass: impl FnMut(&RgbImage, bool) -> Result<()>,
) -> Result<()> {
    for &scale in scales {
        let resized = resize_cubic(image, scaled(image.width, scale), scaled(image.height, scale))?;
        pass(&resized, false)?;
        if flip {
            pass(&mirror(&resized), true)?;
        }
    }
    Ok(())
}

/// Maps of the classes `present` (0 = the first after background) for one image, L×H×W at image size,
/// each with maximum 1.
///
/// # Errors
/// Shapes that do not fit; a class that the network does not have.
pub fn class_maps_of(
    network: &CamNet,
    parameters: &Parameters,
    image: &RgbImage,
    present: &[usize],
    settings: &CamConfig,
    preset: Preset,
) -> Result<Tensor> {
    if let Some(class) = present.iter().find(|&&c| c >= network.classes) {
        let message = format!("class {class} of a network with {} classes", network.classes);
        return Err(Error::invalid(message));
    }
    let (h, w) = (image.height, image.width);
    let mut sum = vec![0f32; present.len() * h * w];
    for_each_pass(image, &settings.scales, settings.flip, |input, flipped| {
        let output = network.infer(parameters, normalize(input))?;
        let [_, gh, gw, c] = output.class_activation_maps.nhwc("class activation maps")?;
        for (plane, &class) in present.iter().enumerate() {
            let map = output.class_activation_maps.data();
            let map: Vec<f32> = (0..gh * gw).map(|p| map[p * c + class]).collect();
            let map = bilinear_resize_plane(&map, gh, gw, 1, h, w)?;
            let target = &mut sum[plane * h * w..][..h * w];
            for (target, source) in target.chunks_mut(w).zip(map.chunks(w)) {
                for x in 0..w {
                    target[x] += source[if flipped { w - 1 - x } else { x }];
                }
            }
        }
        Ok(())
    })?;
    let mut maps = Tensor::new(&[present.len(), h, w], sum)?;
    class_maps::normalize(&mut maps, if preset == Preset::Psa { 1e-5 } else { 0.0 })?;
    Ok(maps)
}

/// Writes the maps of every tagged image of `data` into `output`; those already there are kept.
///
/// # Errors
/// A photograph that cannot be read, a full disk, an interruption: what was finished is kept.
pub fn make_cams(
    network: &CamNet,
    parameters: &Parameters,
    data: &Dataset,
    config: &Config,
    format: CamFormat,
    output: &Path,
    progress: &Progress,
) -> Result<StageCount> {
    write_class_list(output, data.classes.names())?;
    let class_names = data.classes.foreground().to_vec();
    for_each_image(data, together(&network.backbone, parameters), "make-cams", progress, |sample| {
        let Some(tags) = sample.tags.as_ref().filter(|t| !t.is_empty()) else { return Ok(Outcome::Skipped) };
        if cams::find(output, &sample.id).is_some() {
            return Ok(Outcome::Kept);
        }
        let present: Vec<usize> = tags.iter().map(|t| t - 1).collect();
        let image = read_rgb(&sample.image, config.data.exif)?;
        let maps = class_maps_of(network, parameters, &image, &present, &config.cam, config.preset)?;
        let class_names = &class_names;
        Ok(Outcome::Write(Box::new(move || {
            write_cams(output, &sample.id, &image, &maps, &present, class_names, format)
        })))
    })
}

/// Writes one image's maps, L×H×W at image size, in either form.
pub fn write_cams(
    output: &Path,
    id: &str,
    image: &RgbImage,
    maps: &Tensor,
    present: &[usize],
    class_names: &[String],
    format: CamFormat,
) -> Result<()> {
    let (h, w) = (image.height, image.width);
    let image_size = Some((h, w));
    let classes = present.iter().map(|&c| class_names[c].clone()).collect();
    match format {
        CamFormat::Safetensors => {
            let maps = class_maps::resize(maps, h.div_ceil(STRIDE), w.div_ceil(STRIDE))?;
            let path = output.join(format!("{id}.safetensors"));
            cams::write_safetensors(&path, &ClassMaps { classes, maps, image_size })
        }
        CamFormat::Npy => {
            let maps = ClassMaps { classes, maps: maps.clone(), image_size };
            cams::write_npy(&output.join(format!("{id}.npy")), &maps, present)
        }
    }
}

/// The maps of an image from its file, at h×w, and the label of each. Maps at image size that lie within 0
/// and 1 are taken as they are: whoever made them scaled them (the authors' code to a maximum just below
/// 1). All others get their maximum of 1, again or for the first time, and negatives cut to 0.
///
/// # Errors
/// A file that is none, or of an image of another size; a class that the data set does not have.
pub fn read_class_maps(path: &Path, classes: &Classes, h: usize, w: usize) -> Result<(Tensor, Vec<u8>)> {
    let stored = cams::read(path, classes.foreground())?;
    let [_, mh, mw] = class_maps::planes(&stored.maps, "class maps")?;
    let (found, expected) = match stored.image_size {
        Some(size) => (size, (h, w)),
        None => ((mh, mw), (h.div_ceil(cams::IRN_STRIDE), w.div_ceil(cams::IRN_STRIDE))),
    };
    if found != expected {
        let ((fh, fw), (eh, ew)) = (found, expected);
        let message = match stored.image_size {
            Some(_) => format!("maps of an image of {fw}×{fh} pixels, this one has {w}×{h}"),
            None => format!(
                "`cam` is {fw}×{fh}; an image of {w}×{h} pixels has {ew}×{eh} at stride {}",
                cams::IRN_STRIDE
            ),
        };
        return Err(Error::invalid(message)
            .in_file(path)
            .remedy("make the maps anew from these photographs, with the same --exif"));
    }
    let label = |name: &String| {
        let index = classes.index_of(name).and_then(|i| u8::try_from(i).ok());
        index.ok_or_else(|| {
            Error::invalid(format!("class `{name}` is not one of the data set's"))
                .in_file(path)
                .remedy("pass the class file that the maps were made with (--classes)")
        })
    };
    let labels = stored.classes.iter().map(label).collect::<Result<Vec<u8>>>()?;
    let mut maps = class_maps::resize(&stored.maps, h, w)?;
    let scaled = stored.maps.shape() == maps.shape() && maps.data().iter().all(|v| (0.0..=1.0).contains(v));
    if !scaled {
        maps.data_mut().iter_mut().for_each(|v| *v = v.max(0.0));
        class_maps::normalize(&mut maps, 0.0)?;
    }
    Ok((maps, labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_were_scaled_are_taken_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        let read = |values: [f32; 4], size: (usize, usize)| {
            let maps = ClassMaps {
                classes: vec!["cat".into()],
                maps: Tensor::new(&[1, 2, 2], values.to_vec()).unwrap(),
                image_size: Some((2, 2)),
            };
            cams::write_npy(&path, &maps, &[7]).unwrap();
            read_class_maps(&path, &Classes::voc(), size.0, size.1).map(|(maps, labels)| {
                assert_eq!(labels, [8]);
                maps.data().to_vec()
            })
        };
        let psa = [0.99999, 0.5, 0.25, 0.0];
        assert_eq!(read(psa, (2, 2)).unwrap(), psa);
        assert_eq!(read([4.0, 2.0, -1.0, 0.0], (2, 2)).unwrap(), [1.0, 0.5, 0.0, 0.0]);
        assert!(read(psa, (2, 3)).is_err());
    }
}
