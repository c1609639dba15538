//! Running a stage over the images of a list.

use std::path::Path;

use rayon::prelude::*;

use crate::data::{Dataset, Sample};
use crate::formats::background::{Job, writing_in_background};
use crate::formats::label_png::read_class_list;
use crate::nn::ResNet38;
use crate::nn::module::Parameters;
use crate::progress::{Progress, check_interrupted};
use crate::{Error, Result};

use super::training::class_mismatch;

/// What a stage over a list of images did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageCount {
    /// Images whose output was written now.
    pub written: usize,
    /// Images whose output was there already.
    pub kept: usize,
    /// Images left out, with a warning.
    pub skipped: usize,
}

/// What comes of one image.
pub enum Outcome<'a> {
    /// Its output, still to be written.
    Write(Job<'a>),
    /// Its output was there.
    Kept,
    /// It has no place in this stage (no tags, say).
    Skipped,
}

/// Fails where a folder of maps or labels says that it was made with another class list than the data
/// set's; both are shown. Folders of other programs do not say.
///
/// # Errors
/// No such folder; a list that cannot be read or differs.
pub fn check_folder_classes(folder: &Path, data: &Dataset) -> Result<()> {
    if !folder.is_dir() {
        return Err(Error::io("open", folder, std::io::ErrorKind::NotFound.into()));
    }
    match read_class_list(folder)? {
        Some(stored) if stored != data.classes.names() => {
            Err(class_mismatch(&stored, data.classes.names()).in_file(folder))
        }
        _ => Ok(()),
    }
}

/// `work` on every item: several at a time, or one after the other.
///
/// # Errors
/// The first failure.
pub(crate) fn each<'a, T: Sync, R: Send>(
    items: &'a [T],
    together: bool,
    work: impl Fn(&'a T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    if together { items.par_iter().map(&work).collect() } else { items.iter().map(work).collect() }
}

/// Whether several images are worked on at a time: where one does not fill the threads, and the network computes on them.
/// A GPU takes one after the other.
pub fn together(backbone: &ResNet38, parameters: &Parameters) -> bool {
    backbone.is_narrow() && parameters.gpu().is_none()
}

/// Runs `work` on every image: several at a time where one image does not fill the threads, one after
/// the other where its activations would fill the memory. Each image's result depends on that image
/// alone, so the order does not matter. Outputs are written in the background.
///
/// # Errors
/// The first failure, with the image's path; [`crate::ErrorKind::Interrupted`]. What was written stays.
pub fn for_each_image<'a>(
    data: &'a Dataset,
    together: bool,
    name: &str,
    progress: &Progress,
    work: impl Fn(&'a Sample) -> Result<Outcome<'a>> + Sync,
) -> Result<StageCount> {
    let stage = progress.stage(name, data.samples.len() as u64);
    let stage = &stage;
    let counts = writing_in_background(|writers| {
        let one = |sample: &'a Sample| {
            check_interrupted()?;
            let (mut count, place) = (StageCount::default(), |e: Error| e.in_file(&sample.image));
            match work(sample).map_err(place)? {
                Outcome::Write(job) => {
                    count.written = 1;
                    writers.submit(Box::new(move || {
                        job().map_err(place)?;
                        stage.advance(1);
                        Ok(())
                    }))?;
                    return Ok(count);
                }
                Outcome::Kept => count.kept = 1,
                Outcome::Skipped => count.skipped = 1,
            }
            stage.advance(1);
            Ok(count)
        };
        each(&data.samples, together, one)
    })?;
    stage.finish();
    let done = counts.iter().fold(StageCount::default(), |sum, one| StageCount {
        written: sum.written + one.written,
        kept: sum.kept + one.kept,
        skipped: sum.skipped + one.skipped,
    });
    if done.skipped > 0 {
        log::warn!(
            "{name}: {} of {} images left out (no tags, or nothing from the stage before)",
            done.skipped,
            data.samples.len()
        );
    }
    Ok(done)
}
