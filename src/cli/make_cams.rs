//! `make-cams`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::inputs::{Data, Weights, check_class_count, check_classes, counted};
use super::session::{Outcome, Session, path_json};
use super::stage_folder::{StageFolder, ids, weights_of};
use crate::config::Config;
use crate::data::{Classes, TagUse, id_of_file};
use crate::formats::image::read_rgb;
use crate::formats::label_png::write_class_list;
use crate::nn::CamNet;
use crate::pipeline::make_cams::{CamFormat, class_maps_of, make_cams, write_cams};
use crate::pipeline::networks::{Loaded, WeightFile};
use crate::{Error, Result, show_path};

/// Make class activation maps of a list, or of one image
///
/// Maps of the classes that an image is tagged with, over several scales and mirrored, each with a
/// maximum of 1. Maps that are there already from the same weights and settings are kept.
#[derive(Args)]
#[command(after_help = "Examples:
  seedwalk make-cams --data D --split train --weights runs/cam --output cams
  seedwalk make-cams --image dog.jpg --labels dog,person --weights runs/cam --output cams")]
pub(super) struct MakeCams {
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    weights: Weights,
    /// Folder for the maps
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Form of the maps
    #[arg(long, value_enum, default_value_t = Format::Safetensors)]
    format: Format,
    /// A single image instead of a data set
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data", "split", "tags"], requires = "labels")]
    image: Option<PathBuf>,
    /// The image's classes: names, or indices with 0 the first after background
    #[arg(long, value_name = "CLASS,…", value_delimiter = ',', requires = "image")]
    labels: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// f16 at stride 8 in safetensors
    Safetensors,
    /// psa's pickled dictionaries, f32 at image size
    Npy,
}

impl From<Format> for CamFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Safetensors => Self::Safetensors,
            Format::Npy => Self::Npy,
        }
    }
}

impl MakeCams {
    pub fn run(self, session: &Session) -> Result<Outcome> {
        let (config, weights) = self.weights.read(session)?;
        match &self.image {
            Some(image) => self.one(session, &config, weights, image),
            None => self.list(session, config, weights),
        }
    }

    fn list(&self, session: &Session, mut config: Config, file: WeightFile) -> Result<Outcome> {
        let data = self.data.open(session, &mut config, TagUse::Needed)?;
        let weights = &self.weights.weights;
        let loaded = self.weights.load(session, file, &config, WeightFile::cam)?;
        check_classes(loaded.classes.as_deref(), &data, weights)?;
        check_class_count(loaded.network.classes, &data, weights)?;
        let _folder = self.folder(session, &loaded, &ids(&data))?;
        let (network, parameters) = (&loaded.network, &loaded.parameters);
        let format = self.format.into();
        let count =
            make_cams(network, parameters, &data, &loaded.config, format, &self.output, &session.progress)?;
        Ok(counted(count, &self.output))
    }

    fn folder(&self, session: &Session, loaded: &Loaded<CamNet>, ids: &[String]) -> Result<StageFolder> {
        let config = &loaded.config;
        let form = if self.format == Format::Npy { "npy" } else { "safetensors" };
        let settings = json!([
            config.preset,
            config.cam.head,
            config.backbone.width,
            config.cam.scales,
            config.cam.flip,
            form
        ]);
        let parts = [weights_of(&self.weights.weights)?, settings.to_string()];
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let files = |id: &str| vec![format!("{id}.safetensors"), format!("{id}.npy")];
        StageFolder::open(session, &self.output, "make-cams", &parts, ids, files)
    }

    fn one(&self, session: &Session, config: &Config, file: WeightFile, path: &Path) -> Result<Outcome> {
        let loaded = self.weights.load(session, file, config, WeightFile::cam)?;
        let all = match (self.data.class_file(), &loaded.classes) {
            (Some(file), _) => Classes::read(file)?.names().to_vec(),
            (None, Some(names)) => names.clone(),
            (None, None) => Classes::voc().names().to_vec(),
        };
        let names = all.get(1..).unwrap_or_default();
        let present = present(&self.labels, names)?;
        let image = read_rgb(path, self.data.exif())?;
        let id = id_of_file(Path::new(path.file_stem().unwrap_or_default()));
        let _folder = self.folder(session, &loaded, std::slice::from_ref(&id))?;
        let (network, parameters, config) = (&loaded.network, &loaded.parameters, &loaded.config);
        let maps = class_maps_of(network, parameters, &image, &present, &config.cam, config.preset)
            .map_err(|e| e.in_file(path))?;
        write_class_list(&self.output, &all)?;
        write_cams(&self.output, &id, &image, &maps, &present, names, self.format.into())?;
        let classes: Vec<&str> = present.iter().map(|&c| names[c].as_str()).collect();
        let text = format!("{}: {}", show_path(path), classes.join(", "));
        Ok(Outcome::new(text, json!({ "output": path_json(&self.output), "id": id, "classes": classes })))
    }
}

/// Class indices (0 = the first after background) of names or numbers, ascending.
fn present(labels: &[String], names: &[String]) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    for label in labels {
        let label = label.trim();
        let index = match (names.iter().position(|n| n == label), label.parse::<usize>()) {
            (Some(index), _) => index,
            (None, Ok(index)) if index < names.len() => index,
            _ => {
                return Err(Error::usage(format!("`{label}` is no class")).remedy(format!(
                    "0 to {}, or one of: {}",
                    names.len().saturating_sub(1),
                    names.join(", ")
                )));
            }
        };
        found.push(index);
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_names_or_indices() {
        let names = ["cat", "dog", "7"].map(String::from);
        let of = |labels: &[&str]| present(&labels.iter().map(|l| l.to_string()).collect::<Vec<_>>(), &names);
        assert_eq!(of(&["dog", "0", "cat"]).unwrap(), [0, 1]);
        assert_eq!(of(&["7"]).unwrap(), [2]);
        assert_eq!(of(&["3"]).unwrap_err().exit_code(), 2);
        assert!(of(&["cow"]).unwrap_err().how_to_mend().unwrap().contains("cat, dog"));
    }
}
