//! Running a stage over the images of a list.

use rayon::prelude::*;

use crate::Result;
use crate::data::{Dataset, Sample};
use crate::progress::{Progress, check_interrupted};

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

/// What happened to one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its output was written.
    Written,
    /// Its output was there.
    Kept,
    /// It has no place in this stage (no tags, say).
    Skipped,
}

/// Runs `work` on every image: several at a time where one image does not fill the threads, one after
/// the other where its activations would fill the memory. Each image's result depends on that image
/// alone, so the order does not matter.
///
/// # Errors
/// The first failure, with the image's path; [`crate::ErrorKind::Interrupted`]. What was written stays.
pub fn for_each_image(
    data: &Dataset,
    together: bool,
    name: &str,
    progress: &Progress,
    work: impl Fn(&Sample) -> Result<Outcome> + Sync,
) -> Result<StageCount> {
    let stage = progress.stage(name, data.samples.len() as u64);
    let one = |sample: &Sample| {
        check_interrupted()?;
        let outcome = work(sample).map_err(|e| e.in_file(&sample.image))?;
        stage.advance(1);
        Ok(outcome)
    };
    let outcomes: Vec<Outcome> = if together {
        data.samples.par_iter().map(one).collect::<Result<_>>()?
    } else {
        data.samples.iter().map(one).collect::<Result<_>>()?
    };
    stage.finish();
    let count = |o: Outcome| outcomes.iter().filter(|&&x| x == o).count();
    let done = StageCount {
        written: count(Outcome::Written),
        kept: count(Outcome::Kept),
        skipped: count(Outcome::Skipped),
    };
    if done.skipped > 0 {
        log::warn!(
            "{name}: {} of {} images left out (no tags, or nothing from the stage before)",
            done.skipped,
            data.samples.len()
        );
    }
    Ok(done)
}
