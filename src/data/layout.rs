//! Where the files of a data set lie: VOC's folders, or a plain one.

use std::path::{Path, PathBuf};

use super::classes::nearest;
use super::fault::Fault;
use super::ids::{IMAGE_ENDINGS, id_of_file, is_image, why_unsafe, without_ending};
use super::list::Entry;
use crate::{Error, Result};

/// Folders of a plain data set that hold no photographs.
const NOT_PHOTOGRAPHS: [&str; 5] =
    ["SegmentationClass", "SegmentationClassAug", "masks", "Annotations", "ImageSets"];

/// The folders of a data set.
pub(super) struct Layout {
    /// The data set itself.
    pub root: PathBuf,
    /// Photographs: `JPEGImages`, else `images`, else the root.
    pub images: PathBuf,
    /// Masks: `SegmentationClass`, `SegmentationClassAug` or `masks`.
    masks: Option<PathBuf>,
    /// VOC's XML.
    pub annotations: Option<PathBuf>,
}

impl Layout {
    /// Looks at what a folder has.
    pub fn of(root: &Path) -> Self {
        let first = |names: &[&str]| names.iter().map(|n| root.join(n)).find(|p| p.is_dir());
        Self {
            root: root.to_path_buf(),
            images: first(&["JPEGImages", "images"]).unwrap_or_else(|| root.to_path_buf()),
            masks: first(&["SegmentationClass", "SegmentationClassAug", "masks"]),
            annotations: first(&["Annotations"]),
        }
    }

    /// A file of tags in the folder.
    pub fn tag_file(&self) -> Option<PathBuf> {
        ["tags.csv", "labels.csv", "cls_labels.npy"]
            .iter()
            .map(|name| self.root.join(name))
            .find(|p| p.is_file())
    }

    /// The photograph of an entry.
    pub fn photograph(&self, entry: &Entry) -> Option<PathBuf> {
        match &entry.image {
            // A path in a list starts at the root, or at the folder of photographs.
            Some(path) => [&self.root, &self.images].iter().map(|f| f.join(path)).find(|p| p.is_file()),
            None => {
                let candidates = IMAGE_ENDINGS.iter();
                candidates.map(|e| self.images.join(format!("{}.{e}", entry.id))).find(|p| p.is_file())
            }
        }
    }

    /// The mask of an id.
    pub fn mask(&self, id: &str) -> Option<PathBuf> {
        self.masks.as_ref().map(|folder| folder.join(format!("{id}.png"))).filter(|p| p.is_file())
    }

    /// Id and path (below the root) of every photograph, by path.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn photographs(&self, faults: &mut Vec<Fault>) -> Result<Vec<(String, PathBuf)>> {
        let mut found = Vec::new();
        let mut folders = vec![self.images.clone()];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder).map_err(|e| Error::io("read", &folder, e))?;
            for entry in entries {
                let entry = entry.map_err(|e| Error::io("read", &folder, e))?;
                let (path, kind) = (entry.path(), entry.file_type());
                let name = entry.file_name();
                let hidden = name.as_encoded_bytes().starts_with(b".");
                let other = folder == self.root && NOT_PHOTOGRAPHS.iter().any(|n| name == **n);
                if hidden || other {
                    continue;
                }
                // Links to folders are not followed: they may lead out or round in a circle.
                if kind.is_ok_and(|k| k.is_dir()) {
                    folders.push(path);
                } else if is_image(&path) {
                    let id = id_of_file(path.strip_prefix(&self.images).unwrap_or(&path));
                    let id = without_ending(&id);
                    match (why_unsafe(id), path.strip_prefix(&self.root)) {
                        (None, Ok(below)) => found.push((id.to_string(), below.to_path_buf())),
                        (why, _) => {
                            let message = format!("its name {}", why.unwrap_or("leads out of the folder"));
                            faults.push(Fault::new(&path, message).remedy("rename the file"));
                        }
                    }
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

/// The file of a list, by name or path.
///
/// # Errors
/// No such list: the error tells which there are.
pub(super) fn named_list(root: &Path, split: &str) -> Result<PathBuf> {
    let folder = root.join("ImageSets").join("Segmentation");
    let candidates = [folder.join(format!("{split}.txt")), root.join(format!("{split}.txt")), split.into()];
    if let Some(path) = candidates.iter().find(|p| p.is_file()) {
        return Ok(path.clone());
    }
    let mut names: Vec<String> = [folder.as_path(), root]
        .iter()
        .filter_map(|f| std::fs::read_dir(f).ok())
        .flat_map(|entries| entries.filter_map(|e| e.ok()?.file_name().into_string().ok()))
        .filter_map(|name| name.strip_suffix(".txt").map(String::from))
        .filter(|name| name != "classes")
        .collect();
    names.sort();
    let remedy = match (nearest(split, names.iter().map(String::as_str)), names.is_empty()) {
        (Some(name), _) => format!("did you mean `{name}`?"),
        (None, false) => format!("there are: {}", names.join(", ")),
        (None, true) => "there is no list in the folder; leave --split out to take every image".to_string(),
    };
    Err(Error::invalid(format!("no list `{}`", split.escape_debug())).in_file(root).remedy(remedy))
}
