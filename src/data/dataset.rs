//! Opening a data set: which samples it has, where their files lie, what their tags are.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::classes::Classes;
use super::fault::{Fault, fault_of, into_error};
use super::ids::SeenIds;
use super::layout::{Layout, named_list};
use super::list::{self, Entry};
use super::tags::{self, TagTable};
use super::text::TextFile;
use crate::{Error, ErrorKind, Result};

/// One photograph and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Names it in lists and outputs: a relative path without ending, `/` between folders, never `..`.
    pub id: String,
    /// The photograph.
    pub image: PathBuf,
    /// The ground-truth mask, where there is one.
    pub mask: Option<PathBuf>,
    /// Class indices present, ascending, from 1; empty: background alone; `None`: not known.
    pub tags: Option<Vec<usize>>,
}

/// What a command needs tags for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TagUse {
    /// An image without tags is left out and counted.
    #[default]
    Needed,
    /// An image without tags is all background (`--allow-unlabelled`).
    NeededOrBackground,
    /// An image without tags stays.
    Optional,
    /// Tags are not read at all.
    Unused,
}

/// Which part of a folder to open, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatasetOptions {
    /// A list's name or path; `None`: every image.
    pub split: Option<String>,
    /// A CSV of tags, or the field's `.npy`; `None`: the annotations, else `tags.csv`, `labels.csv` or
    /// `cls_labels.npy` in the folder.
    pub tags: Option<PathBuf>,
    /// A file of class names; `None`: `classes.txt` in the folder, else VOC's.
    pub classes: Option<PathBuf>,
    /// What tags are needed for.
    pub tag_use: TagUse,
}

/// A set of samples with common classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// The folder.
    pub root: PathBuf,
    /// The split's name, where one was asked for.
    pub split: Option<String>,
    /// Class names.
    pub classes: Classes,
    /// The samples, in the list's order, or by id where there is no list.
    pub samples: Vec<Sample>,
    /// Images without tags: left out, or taken as background, as [`DatasetOptions::tag_use`] says.
    pub untagged: usize,
}

impl Dataset {
    /// Opens a folder in VOC's layout (it has `JPEGImages`) or a plain one. Photographs are looked for,
    /// not read.
    ///
    /// # Errors
    /// A folder, list or file of tags that cannot be read; no sample at all; else every fault at once:
    /// bad, repeated or unsafe ids, missing photographs, unknown classes, bad annotations, links that
    /// lead out of the folder, each with file and line.
    pub fn open(root: &Path, options: &DatasetOptions) -> Result<Self> {
        let scan = scan(root, options)?;
        if let Some(error) = into_error(&scan.faults) {
            return Err(error);
        }
        let dataset = scan.dataset;
        if dataset.samples.is_empty() {
            let error = match dataset.untagged {
                0 => Error::invalid("no image in the data set").remedy("check --data and --split"),
                n => Error::invalid(format!("none of the {n} images has tags"))
                    .remedy("name a file of tags with --tags, or pass --allow-unlabelled"),
            };
            return Err(error.in_file(scan.source));
        }
        if dataset.untagged > 0 {
            let fate = match options.tag_use {
                TagUse::Needed => "left out",
                TagUse::NeededOrBackground => "taken as background",
                TagUse::Optional | TagUse::Unused => "without tags",
            };
            let all = dataset.samples.len() + usize::from(fate == "left out") * dataset.untagged;
            log::warn!("{} of {all} images have no tags: {fate}", dataset.untagged);
        }
        Ok(dataset)
    }
}

/// A data set as far as it could be made out, and all that is wrong with it.
pub(super) struct Scan {
    pub dataset: Dataset,
    pub faults: Vec<Fault>,
    /// The list, or the folder where there is none.
    pub source: PathBuf,
}

/// Where tags come from.
enum TagSource {
    Annotations(PathBuf),
    Table(TagTable),
    None,
}

/// Looks at everything but the content of photographs and masks.
///
/// # Errors
/// Only what leaves nothing to look at: no folder, no list, no class names, no file of tags.
pub(super) fn scan(root: &Path, options: &DatasetOptions) -> Result<Scan> {
    let real_root = std::fs::canonicalize(root).map_err(|e| Error::io("open", root, e))?;
    if !real_root.is_dir() {
        return Err(Error::new(ErrorKind::Io, "not a folder").in_file(root).remedy("--data names a folder"));
    }
    let classes = match &options.classes {
        Some(path) => Classes::read(path)?,
        None => match Classes::read(&root.join("classes.txt")) {
            Err(error) if tags::is_missing(&error) => Classes::voc(),
            result => result?,
        },
    };
    let layout = Layout::of(root);
    let mut faults = Vec::new();
    let tag_source = tag_source(&layout, options, &classes, &mut faults)?;
    let (entries, source) = match &options.split {
        Some(split) => {
            let path = named_list(root, split)?;
            (list::parse(&TextFile::read(&path)?, &mut faults), path)
        }
        None => (every_image(&layout, &tag_source, options, &mut faults)?, root.to_path_buf()),
    };

    let found: Vec<Result<Sample, Vec<Fault>>> = entries
        .into_par_iter()
        .map(|entry| find(&layout, &real_root, &source, entry, &tag_source, &classes))
        .collect();
    let mut dataset = Dataset {
        root: root.to_path_buf(),
        split: options.split.clone(),
        classes,
        samples: Vec::new(),
        untagged: 0,
    };
    for result in found {
        match result {
            Err(list) => faults.extend(list),
            Ok(sample) => add(&mut dataset, sample, options.tag_use),
        }
    }
    Ok(Scan { dataset, faults, source })
}

fn add(dataset: &mut Dataset, mut sample: Sample, tag_use: TagUse) {
    if tag_use == TagUse::Unused {
        sample.tags = None;
    } else if sample.tags.as_ref().is_none_or(Vec::is_empty) {
        dataset.untagged += 1;
        match tag_use {
            TagUse::Needed => return,
            TagUse::NeededOrBackground => sample.tags = Some(Vec::new()),
            TagUse::Optional | TagUse::Unused => sample.tags = None,
        }
    }
    dataset.samples.push(sample);
}

fn tag_source(
    layout: &Layout,
    options: &DatasetOptions,
    classes: &Classes,
    faults: &mut Vec<Fault>,
) -> Result<TagSource> {
    if options.tag_use == TagUse::Unused {
        return Ok(TagSource::None);
    }
    let path = match (&options.tags, &layout.annotations) {
        (Some(path), _) => path.clone(),
        (None, Some(folder)) => return Ok(TagSource::Annotations(folder.clone())),
        (None, None) => match layout.tag_file() {
            Some(path) => path,
            None => return Ok(TagSource::None),
        },
    };
    let table = if path.extension().is_some_and(|e| e == "npy") {
        tags::read_npy(&path, classes, faults)?
    } else {
        tags::parse_csv(&TextFile::read(&path)?, classes, faults)
    };
    Ok(TagSource::Table(table))
}

/// The samples of a folder without a list: every photograph, by id; and rows of tags that name none are
/// faults.
fn every_image(
    layout: &Layout,
    tag_source: &TagSource,
    options: &DatasetOptions,
    faults: &mut Vec<Fault>,
) -> Result<Vec<Entry>> {
    let (mut entries, mut seen) = (Vec::new(), SeenIds::default());
    for (id, path) in layout.photographs(faults)? {
        match seen.insert(&id, 0) {
            Ok(()) => entries.push(Entry { id, image: Some(path), mask: None, line: 0 }),
            Err(message) => faults
                .push(Fault::new(&layout.root.join(path), message).remedy("two files must not share a name")),
        }
    }
    if let TagSource::Table(table) = tag_source {
        let there: HashSet<&str> = entries.iter().map(|e| e.id.as_str()).collect();
        let file = options.tags.clone().or_else(|| layout.tag_file()).unwrap_or_default();
        // `cls_labels.npy` tells of many data sets' images at once; a row of a CSV is meant for this one.
        for id in table.order.iter().filter(|id| !there.contains(id.as_str())) {
            if let Some(line) = table.rows[id].line {
                faults.push(
                    Fault::new(&file, format!("no image `{id}`"))
                        .at_line(line)
                        .remedy(format!("looked in {}", crate::show_path(&layout.images))),
                );
            }
        }
    }
    Ok(entries)
}

/// Finds the files of an entry of `list` and its tags.
fn find(
    layout: &Layout,
    real_root: &Path,
    list: &Path,
    entry: Entry,
    tag_source: &TagSource,
    classes: &Classes,
) -> Result<Sample, Vec<Fault>> {
    let in_list = |message: String| {
        let fault = Fault::new(list, message);
        if entry.line > 0 { fault.at_line(entry.line) } else { fault }
    };
    let inside = |path: PathBuf| match std::fs::canonicalize(&path) {
        Ok(real) if real.starts_with(real_root) => Ok(path),
        Ok(real) => {
            let message = format!("a link out of the data set, to {}", crate::show_path(&real));
            let fault =
                Fault::new(&path, message).remedy("copy the file, or name the folder it lies in as --data");
            Err(vec![fault])
        }
        Err(e) => Err(vec![fault_of(&Error::io("open", &path, e), list)]),
    };
    let Some(image) = layout.photograph(&entry) else {
        let looked =
            entry.image.as_ref().map_or_else(|| layout.images.join(&entry.id), |p| layout.root.join(p));
        let endings = if entry.image.is_some() { "" } else { ".jpg, .jpeg or .png" };
        let message = format!("no image `{}`", entry.id);
        let remedy = format!("looked for {}{endings}", crate::show_path(&looked));
        return Err(vec![in_list(message).remedy(remedy)]);
    };
    let image = inside(image)?;
    let mask = match &entry.mask {
        Some(path) => {
            let path = layout.root.join(path);
            if !path.is_file() {
                return Err(vec![in_list(format!("no mask {}", crate::show_path(&path)))]);
            }
            Some(inside(path)?)
        }
        None => layout.mask(&entry.id).map(inside).transpose()?,
    };
    let tags = match tag_source {
        TagSource::None => None,
        TagSource::Table(table) => table.rows.get(&entry.id).map(|row| row.tags.clone()),
        TagSource::Annotations(folder) => {
            tags::read_annotation(&folder.join(format!("{}.xml", entry.id)), classes)?
        }
    };
    Ok(Sample { id: entry.id, image, mask, tags })
}

/// Images per class, by label; background is in all.
pub(super) fn images_per_class(dataset: &Dataset) -> Vec<u64> {
    let mut counts = vec![0; dataset.classes.len()];
    for tag in dataset.samples.iter().flat_map(|s| s.tags.iter().flatten()) {
        counts[*tag] += 1;
    }
    counts[0] = dataset.samples.len() as u64;
    counts
}
