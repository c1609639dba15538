//! Every fault of a data set at once, and how often each class occurs.

use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use super::dataset::{DatasetOptions, Sample, TagUse, images_per_class, scan};
use super::fault::{Fault, fault_of};
use crate::Result;
use crate::formats::image::{Exif, IGNORE, read_rgb};
use crate::formats::label_png::read_labels;

/// How often a class occurs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    /// Its name.
    pub name: String,
    /// Images tagged with it; for background all images.
    pub images: u64,
    /// Mask pixels of it.
    pub pixels: u64,
}

/// What [`check_data`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Images whose files were found.
    pub images: usize,
    /// Of these without tags.
    pub untagged: usize,
    /// Of these with a mask.
    pub masks: usize,
    /// Smallest and largest width, then smallest and largest height, in pixels.
    pub widths_and_heights: [usize; 4],
    /// Classes by label.
    pub classes: Vec<ClassCount>,
    /// Mask pixels that take no part (255).
    pub ignored_pixels: u64,
    /// What must be mended before the data set can be used.
    pub faults: Vec<Fault>,
    /// What looks wrong but stops nothing.
    pub warnings: Vec<Fault>,
}

/// What one sample adds to the report.
#[derive(Default)]
struct Finding {
    size: Option<(usize, usize)>,
    pixels: Vec<u64>,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

/// Reads everything: lists, tags, every photograph and mask. `progress` is called with 1 after each
/// image, from several threads.
///
/// # Errors
/// As [`super::Dataset::open`] where nothing can be looked at; whatever `progress` returns. Faults of the
/// data are in the report.
pub fn check_data(
    root: &Path,
    options: &DatasetOptions,
    progress: &(dyn Fn(u64) -> Result<()> + Sync),
) -> Result<Report> {
    let options = DatasetOptions { tag_use: TagUse::Optional, ..options.clone() };
    let scan = scan(root, &options)?;
    let dataset = &scan.dataset;
    let names = dataset.classes.names();
    let findings = dataset
        .samples
        .par_iter()
        .map(|sample| {
            let finding = look_at(sample, names);
            progress(1).map(|()| finding)
        })
        .collect::<Result<Vec<_>>>()?;

    let images = images_per_class(dataset);
    let classes =
        names.iter().zip(images).map(|(name, images)| ClassCount { name: name.clone(), images, pixels: 0 });
    let mut report = Report {
        images: dataset.samples.len(),
        untagged: dataset.untagged,
        masks: dataset.samples.iter().filter(|s| s.mask.is_some()).count(),
        widths_and_heights: [0; 4],
        classes: classes.collect(),
        ignored_pixels: 0,
        faults: scan.faults,
        warnings: Vec::new(),
    };
    if report.images == 0 && report.faults.is_empty() {
        report.faults.push(Fault::new(&scan.source, "no image").remedy("check --data and --split"));
    }
    let sizes: Vec<_> = findings.iter().filter_map(|f| f.size).collect();
    let extent = |side: fn(&(usize, usize)) -> usize| {
        [sizes.iter().map(side).min().unwrap_or(0), sizes.iter().map(side).max().unwrap_or(0)]
    };
    let ([a, b], [c, d]) = (extent(|s| s.0), extent(|s| s.1));
    report.widths_and_heights = [a, b, c, d];
    for finding in findings {
        report.faults.extend(finding.faults);
        report.warnings.extend(finding.warnings);
        for (label, count) in finding.pixels.into_iter().enumerate() {
            match report.classes.get_mut(label) {
                Some(class) => class.pixels += count,
                None => report.ignored_pixels += count,
            }
        }
    }
    Ok(report)
}

/// Decodes a sample's photograph and mask and compares them with each other and the tags.
fn look_at(sample: &Sample, names: &[String]) -> Finding {
    let mut finding = Finding::default();
    match read_rgb(&sample.image, Exif::Ignore) {
        Ok(image) => finding.size = Some((image.width, image.height)),
        Err(error) => finding.faults.push(fault_of(&error, &sample.image)),
    }
    let Some(path) = &sample.mask else { return finding };
    let mask = match read_labels(path) {
        Ok(mask) => mask,
        Err(error) => {
            finding.faults.push(fault_of(&error, path));
            return finding;
        }
    };
    if let Some((width, height)) = finding.size.filter(|s| *s != (mask.width, mask.height)) {
        let message = format!("mask of {}×{} for an image of {width}×{height}", mask.width, mask.height);
        finding.faults.push(Fault::new(path, message).remedy("export the mask at the image's own size"));
    }
    let mut counts = [0u64; 256];
    mask.labels.iter().for_each(|&l| counts[usize::from(l)] += 1);
    let unknown: Vec<String> = (names.len()..usize::from(IGNORE))
        .filter(|&label| counts[label] > 0)
        .map(|label| label.to_string())
        .collect();
    if !unknown.is_empty() {
        let message = format!("labels {} in a set of {} classes", unknown.join(", "), names.len());
        finding.faults.push(Fault::new(path, message).remedy("masks hold class indices, or 255 for ignore"));
    }
    if let Some(tags) = &sample.tags {
        let list =
            |labels: Vec<usize>| labels.iter().map(|&l| names[l].as_str()).collect::<Vec<_>>().join(", ");
        let drawn = |label: &usize| counts[*label] > 0;
        let untold = (1..names.len()).filter(|l| drawn(l) && !tags.contains(l)).collect::<Vec<_>>();
        let undrawn = tags.iter().copied().filter(|l| !drawn(l)).collect::<Vec<_>>();
        if !untold.is_empty() {
            finding.warnings.push(Fault::new(path, format!("in the mask but no tag: {}", list(untold))));
        }
        if !undrawn.is_empty() {
            finding.warnings.push(Fault::new(path, format!("a tag but not in the mask: {}", list(undrawn))));
        }
    }
    finding.pixels = counts[..names.len()].to_vec();
    finding.pixels.push(counts[usize::from(IGNORE)]);
    finding
}
