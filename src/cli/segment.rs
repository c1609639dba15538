//! `segment`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::inputs::{ExifFlag, Weights};
use super::session::{Outcome, Session, path_json};
use super::stage_folder::{StageFolder, weights_of};
use crate::config::Config;
use crate::data::{Dataset, DatasetOptions, TagUse, id_of_file};
use crate::formats::background::{Job, writing_in_background};
use crate::formats::image::{Exif, LabelMap, RgbImage, read_rgb, write_png};
use crate::formats::label_png::{voc_colour, write_class_list, write_labels};
use crate::nn::SegmentationNet;
use crate::pipeline::images::{each, together};
use crate::pipeline::networks::{Loaded, WeightFile};
use crate::pipeline::segment::segment_image;
use crate::progress::check_interrupted;
use crate::{Error, ErrorKind, Result, show_path};

/// Segment photographs with a trained network
///
/// Takes files and folders, needs no labels. Masks are 8-bit palette PNGs; those that are there already
/// from the same weights and settings are kept. A photograph that cannot be read is told and left out.
#[derive(Args)]
#[command(after_help = "Examples:
  seedwalk segment --weights runs/segmentation --output masks photo.jpg
  seedwalk segment --weights runs/segmentation --output masks --overlay photographs/")]
pub(super) struct Segment {
    #[command(flatten)]
    weights: Weights,
    /// Folder for the masks
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Coloured pictures too, in overlays/
    #[arg(long)]
    overlay: bool,
    /// EXIF orientation
    #[arg(long, value_enum, default_value_t = ExifFlag::Apply)]
    exif: ExifFlag,
    /// Photographs, and folders of them
    #[arg(value_name = "IMAGE_OR_FOLDER", required = true)]
    inputs: Vec<PathBuf>,
}

/// A photograph and the name of its mask.
struct Photograph {
    id: String,
    path: PathBuf,
}

impl Segment {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let (config, weights) = self.weights.read(session)?;
        let photographs = photographs(&self.inputs)?;
        let loaded = self.weights.load(session, weights, &config, WeightFile::segmentation)?;
        let settings =
            json!([loaded.config.preset, loaded.config.backbone.width, settings_of(&loaded.config)]);
        let exif = if self.exif == ExifFlag::Apply { "apply" } else { "ignore" };
        let parts = [weights_of(&self.weights.weights)?, settings.to_string(), exif.to_string()];
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let ids: Vec<String> = photographs.iter().map(|p| p.id.clone()).collect();
        let files = |id: &str| vec![format!("{id}.png"), format!("overlays/{id}.png")];
        let _folder = StageFolder::open(session, &self.output, "segment", &parts, &ids, files)?;
        if let Some(classes) = &loaded.classes {
            write_class_list(&self.output, classes)?;
        }

        let stage = session.progress.stage("segment", photographs.len() as u64);
        let done: Vec<Result<bool>> = writing_in_background(|writers| {
            let one = |photograph: &Photograph| -> Result<Result<bool>> {
                check_interrupted()?;
                let done = self.one(&loaded, photograph);
                stage.advance(1);
                Ok(match done {
                    Ok(Some(job)) => Ok(writers.submit(job).map(|()| true)?),
                    Ok(None) => Ok(false),
                    // Whatever one photograph is, the others can be done; anything else stops all.
                    Err(e)
                        if e.path() == Some(photograph.path.as_path())
                            && e.kind() != ErrorKind::Interrupted =>
                    {
                        Err(e)
                    }
                    Err(e) => return Err(e),
                })
            };
            each(&photographs, together(&loaded.network.backbone, &loaded.parameters), one)
        })?;
        stage.finish();
        self.report(&photographs, done)
    }

    /// Segments a photograph and returns what writes its mask; nothing where that was there.
    fn one(&self, loaded: &Loaded<SegmentationNet>, photograph: &Photograph) -> Result<Option<Job<'_>>> {
        let mask = self.output.join(format!("{}.png", photograph.id));
        let picture = self.output.join(format!("overlays/{}.png", photograph.id));
        if mask.is_file() && (!self.overlay || picture.is_file()) {
            return Ok(None);
        }
        let image = read_rgb(&photograph.path, Exif::from(self.exif))?;
        let map = segment_image(&loaded.network, &loaded.parameters, &image, &loaded.config)
            .map_err(|e| e.in_file(&photograph.path))?;
        let overlaid = if self.overlay { Some(overlaid(&image, &map)?) } else { None };
        Ok(Some(Box::new(move || {
            if let Some(overlaid) = overlaid {
                write_png(&picture, &overlaid)?;
            }
            write_labels(&mask, &map)
        })))
    }

    fn report(&self, photographs: &[Photograph], done: Vec<Result<bool>>) -> Result<Outcome> {
        let written = done.iter().filter(|d| matches!(d, Ok(true))).count();
        let kept = done.iter().filter(|d| matches!(d, Ok(false))).count();
        let faults: Vec<Error> = done.into_iter().filter_map(Result::err).collect();
        let mut text = format!("{written} written");
        if kept > 0 {
            text += &format!(", {kept} there already");
        }
        text += &format!(": {}", show_path(&self.output));
        let told: Vec<String> = faults.iter().map(Error::to_string).collect();
        let json = json!({
            "output": path_json(&self.output), "written": written, "kept": kept, "failed": told,
        });
        let outcome = Outcome::new(text, json);
        let count = faults.len();
        let mut faults = faults.into_iter();
        Ok(match (count, faults.next()) {
            (_, None) => outcome,
            (1, Some(fault)) => outcome.failed(fault),
            (_, Some(first)) => {
                faults.for_each(|fault| log::error!("{fault}"));
                let words =
                    format!("{count} of {} photographs were left out, this among them", photographs.len());
                outcome.failed(first.context(words))
            }
        })
    }
}

fn settings_of(config: &Config) -> serde_json::Value {
    let s = &config.segmentation;
    let crf = s.crf.then_some(&config.crf.options);
    json!([s.dilation, s.scales, s.flip, crf])
}

/// The photographs among files and in folders, each with the name of its mask: a file's own, without its
/// ending, or its path in the folder.
fn photographs(inputs: &[PathBuf]) -> Result<Vec<Photograph>> {
    let mut found = Vec::new();
    for input in inputs {
        if input.is_dir() {
            let options = DatasetOptions { tag_use: TagUse::Unused, ..Default::default() };
            let folder = Dataset::open(input, &options)?;
            found.extend(folder.samples.into_iter().map(|s| Photograph { id: s.id, path: s.image }));
        } else {
            let id = id_of_file(Path::new(input.file_stem().unwrap_or_default()));
            found.push(Photograph { id, path: input.clone() });
        }
    }
    let mut seen: HashMap<&str, &Path> = HashMap::new();
    for photograph in &found {
        if let Some(other) = seen.insert(&photograph.id, &photograph.path) {
            let message = format!("its mask would have the same name as that of {}", show_path(other));
            return Err(Error::usage(message)
                .in_file(&photograph.path)
                .remedy("segment the two into different folders, or give the folder above both"));
        }
    }
    Ok(found)
}

/// The photograph, objects half covered by their classes' colours.
fn overlaid(image: &RgbImage, map: &LabelMap) -> Result<RgbImage> {
    let blend = |(pixel, &label): (&[u8], &u8)| -> [u8; 3] {
        let colour = voc_colour(label);
        std::array::from_fn(|c| match label {
            0 => pixel[c],
            _ => ((u16::from(pixel[c]) + u16::from(colour[c])) / 2) as u8,
        })
    };
    let pixels = image.pixels.chunks_exact(3).zip(&map.labels).flat_map(blend).collect();
    RgbImage::new(image.width, image.height, pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_of_one_name_are_refused() {
        let names = |inputs: &[&str]| {
            let inputs: Vec<PathBuf> = inputs.iter().map(PathBuf::from).collect();
            photographs(&inputs).map(|found| found.into_iter().map(|p| p.id).collect::<Vec<_>>())
        };
        assert_eq!(names(&["a/x.jpg", "b/y.png"]).unwrap(), ["x", "y"]);
        let error = names(&["a/x.jpg", "b/x.png"]).unwrap_err();
        assert!(error.exit_code() == 2 && error.message().contains("a/x.jpg"), "{error}");
    }

    #[test]
    fn background_is_left_as_it_is() {
        let image = RgbImage::new(2, 1, vec![10, 20, 30, 10, 20, 30]).unwrap();
        let map = LabelMap::new(2, 1, vec![0, 1]).unwrap();
        assert_eq!(overlaid(&image, &map).unwrap().pixels, [10, 20, 30, 69, 10, 15]);
    }
}
