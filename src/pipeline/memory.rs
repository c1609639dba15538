//! What a training step takes of a GPU's memory, counted before the first one.
//!
//! The step itself runs on a counting frame of the GPU, where operations take no memory and compute nothing: so every
//! buffer of it is in the count, by its shape. The pool keeps what it was given, sorted by size; its footprint after two
//! steps is what the driver is asked for in all.

use std::fmt;
use std::sync::Arc;

use super::step::{Inputs, forward_backward, new_optimizer, update};
use super::training::{Batch, Training};
use crate::device::cuda::{Element, Gpu};
use crate::nn::module::Parameters;
use crate::tensor::Tensor;
use crate::{Error, ErrorKind, Result};

/// Whether a step keeps the activations of the backbone's units for the way back, or makes them anew there: a third more
/// arithmetic for a fraction of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Recompute {
    /// Where they would not fit a GPU's memory; never on the CPU.
    #[default]
    Auto,
    /// Make them anew.
    Always,
    /// Keep them.
    Never,
}

impl std::str::FromStr for Recompute {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err(format!("`{text}` is none of auto, always, never")),
        }
    }
}

/// Bytes of a step on a GPU.
#[derive(Debug, Clone)]
pub struct StepMemory {
    /// With all activations kept.
    pub kept: usize,
    /// With the units' activations made anew.
    pub recomputed: usize,
    /// Which of the two is done.
    pub recomputes: bool,
    /// Free on the GPU before the first step.
    pub free: usize,
    /// Images of a step.
    pub batch: usize,
    /// The most images whose step fits in what is free; 0 where not even one does.
    pub fits: usize,
    /// Kernels of a step.
    pub launches: u64,
}

impl StepMemory {
    /// Counts a step of a training with `batch`.
    ///
    /// # Errors
    /// Those of the step.
    pub(super) fn count<T: Element>(
        job: &Training<'_, T>,
        gpu: &Arc<Gpu>,
        parameters: &Parameters,
        batch: &Batch<T>,
    ) -> Result<Self> {
        let count = |images, recomputes| footprint(job, gpu, parameters, batch, images, recomputes);
        let all = batch.len();
        let ((kept, launches), (recomputed, more_launches)) = (count(all, false)?, count(all, true)?);
        let free = gpu.memory()?.0;
        let recomputes = match job.recompute {
            Recompute::Always => true,
            Recompute::Never => false,
            Recompute::Auto => kept > free,
        };
        let (taken, launches) = if recomputes { (recomputed, more_launches) } else { (kept, launches) };
        // Between a number of images that fits and one that does not.
        let (mut fits, mut too_many) = if taken <= free { (all, all + 1) } else { (0, all) };
        while fits + 1 < too_many {
            let middle = fits.midpoint(too_many);
            let fitting = count(middle, recomputes)?.0 <= free;
            *(if fitting { &mut fits } else { &mut too_many }) = middle;
        }
        Ok(Self { kept, recomputed, recomputes, free, batch: all, fits, launches })
    }

    /// The error that a step does not fit, where it does not.
    pub(super) fn unfit(&self) -> Option<Error> {
        let message = format!("a step of {} images does not fit the GPU's memory: {self}", self.batch);
        let error = || Error::new(ErrorKind::OutOfMemory, message).remedy(self.remedy());
        (self.fits < self.batch).then(error)
    }

    fn remedy(&self) -> String {
        let batch = match self.fits {
            0 => "not even --batch 1 fits: use a smaller --crop or --width".to_string(),
            n => format!("--batch {n} fits"),
        };
        let recompute = if self.recomputes { "" } else { ", --recompute always takes less" };
        format!("{batch}{recompute}; or free memory that other programs hold")
    }

    /// An error of a step with the batch that would fit, where memory ran out all the same.
    pub(super) fn explain(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::OutOfMemory { error.remedy(self.remedy()) } else { error }
    }
}

impl fmt::Display for StepMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
        let (kept, recomputed, free) = (gib(self.kept), gib(self.recomputed), gib(self.free));
        let done = if self.recomputes { "made anew" } else { "kept" };
        write!(
            f,
            "a step takes {kept:.2} GiB with all activations kept, {recomputed:.2} with the units' made anew; \
             {free:.2} are free: they are {done}; it queues {} kernels",
            self.launches
        )
    }
}

/// The footprint of two steps with the first `images` of a batch, from parameters in host memory: the second step has the
/// optimiser's state from the first. And the kernels of the second.
fn footprint<T: Element>(
    job: &Training<'_, T>,
    gpu: &Gpu,
    parameters: &Parameters,
    batch: &Batch<T>,
    images: usize,
    recomputes: bool,
) -> Result<(usize, u64)> {
    let gpu = gpu.counting();
    let mut launches = 0;
    let mut parameters = parameters.clone();
    parameters.move_to(Some(&gpu))?;
    let mut optimizer = new_optimizer(job.recipe);
    let (all, mut shape) = (batch.len().max(1), batch.images.shape().to_vec());
    shape[0] = images;
    // The feed's two places, and a graph's own.
    let mut places = [(); 2].map(|()| None);
    let of_graph = if job.graph { shape.iter().product() } else { 0 };
    let _of_graph = gpu.allocate::<f32>("the images", of_graph)?;
    let targets = &batch.targets[..batch.targets.len() / all * images];
    let inputs = Inputs::new(&gpu, targets.len())?;
    for (step, place) in places.iter_mut().enumerate() {
        launches = gpu.launches();
        let input = Arc::new(gpu.allocate("the images", shape.iter().product())?);
        let input = place.insert(Tensor::from_buffer(&shape, input)?).clone();
        let pass =
            forward_backward(job, &parameters, input, targets, Some(&inputs), step as u64, recomputes)?;
        update(job.recipe, &mut optimizer, &mut parameters, &pass.learned, 0.0, None)?;
    }
    Ok((gpu.footprint(), gpu.launches() - launches))
}
