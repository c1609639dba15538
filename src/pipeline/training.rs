//! The training loop that all three networks share.
//!
//! A step is a pure function of the weights, the optimiser's state and the step's number: the samples of
//! a batch follow from (seed, epoch), each sample's augmentation from (seed, epoch, sample), each dropout
//! mask from (seed, step). So a run that was broken off and goes on from its last checkpoint ends with
//! the same bytes as one that was not.
//!
//! On a GPU nothing waits for the host: the next batch is copied while a step is computed (`Feed`), and a step's loss
//! is read when the next step is queued. What is then found to be bad has changed nothing (`Stop`). The step itself is in
//! `step.rs`.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use rayon::prelude::*;
use serde_json::json;

use super::events::Events;
use super::memory::{Recompute, StepMemory};
use super::step::{OnGpu, Queued, Steps, new_optimizer};
use crate::config::TrainingConfig;
use crate::device::cuda::{Element, Feed, Given, Gpu, Reading};
use crate::formats::checkpoint::{self, Checkpoint};
use crate::formats::{atomic, weights};
use crate::nn::Network;
use crate::nn::module::{Forward, Parameters};
use crate::optim::Optimizer;
use crate::progress::{Progress, check_interrupted};
use crate::rng::{Purpose, Stream};
use crate::tape::Var;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Makes one augmented sample of index `i` from its own random stream: an image 1×H×W×3 (or several), and what is to be
/// learned of it, as many values for each.
pub type MakeSample<T> = Arc<dyn Fn(usize, &mut Stream) -> Result<(Tensor, Vec<T>)> + Send + Sync>;

/// What there is to tell of a loss beside its value.
pub type Parts = Reading<Vec<(&'static str, f64)>>;

/// The scalar loss of a batch of images N×H×W×3 and the targets of all of them, and its parts. On a GPU it must be the same
/// launches for all targets that teach anything.
pub type Loss<'a, T> = dyn Fn(&mut Forward<'_>, &Var, &Given<'_, T>) -> Result<(Var, Parts)> + Sync + 'a;

/// The samples of one step.
pub(super) struct Batch<T> {
    /// N×H×W×3, in host memory.
    pub images: Tensor,
    /// As many for each image.
    pub targets: Vec<T>,
}

impl<T> Batch<T> {
    fn of(samples: Vec<(Tensor, Vec<T>)>) -> Result<Self> {
        let (images, targets): (Vec<Tensor>, Vec<Vec<T>>) = samples.into_iter().unzip();
        let images = join(&images)?;
        Ok(Self { images, targets: targets.into_iter().flatten().collect() })
    }

    /// Its images.
    pub fn len(&self) -> usize {
        self.images.shape().first().copied().unwrap_or(0)
    }
}

/// One training, from its samples to its checkpoint.
pub struct Training<'a, T> {
    /// What is trained.
    pub network: &'a dyn Network,
    /// How.
    pub recipe: &'a TrainingConfig,
    /// Optimiser steps in all; 0 follows from the recipe's epochs.
    pub steps: u64,
    /// Normalise by the batch's statistics and learn the affine part; else both stay frozen.
    pub learn_statistics: bool,
    /// Weights to start from; the head may be missing in them.
    pub init: Option<&'a Path>,
    /// Where checkpoint and `events.jsonl` go.
    pub output: &'a Path,
    /// Names what is random.
    pub seed: u64,
    /// Class names, stored in the checkpoint.
    pub classes: &'a [String],
    /// The whole configuration, stored in the checkpoint; a run goes on only under an equal one.
    pub configuration: serde_json::Value,
    /// Number of samples.
    pub samples: usize,
    /// Names of the samples, for the report of a loss that is not a number.
    pub name_of: &'a (dyn Fn(usize) -> String + Sync),
    /// Makes a sample.
    pub make: MakeSample<T>,
    /// The loss.
    pub loss: &'a Loss<'a, T>,
    /// Whether anything can be learned from a batch with these targets. Without, the step leaves all as it is.
    pub teaches: &'a (dyn Fn(&[T]) -> bool + Sync),
    /// Optimiser steps between checkpoints; 0 means one an epoch.
    pub checkpoint_every: u64,
    /// The GPU to train on, `None` for the CPU. Checkpoints do not tell: a run may go on elsewhere.
    pub gpu: Option<Arc<Gpu>>,
    /// Whether activations are kept for the way back or made anew. Either way the results are the same bytes.
    pub recompute: Recompute,
    /// Whether a GPU's steps are launched as a graph. Either way the results are the same bytes.
    pub graph: bool,
    /// End when [`TrainingSummary::memory`] is known, before the first step.
    pub counts_only: bool,
}

/// What a training came to.
#[derive(Debug, Clone)]
pub struct TrainingSummary {
    /// Optimiser steps, those before an interruption included.
    pub steps: u64,
    /// Loss of the last step.
    pub last_loss: f64,
    /// Seconds of this process.
    pub seconds: f64,
    /// Whether the checkpoint was there already and nothing was left to do.
    pub was_complete: bool,
    /// Steps of this process that were one launch of a graph.
    pub graph_steps: u64,
    /// What a step takes of the GPU's memory.
    pub memory: Option<StepMemory>,
}

/// Trains until the last step, from the last checkpoint in the output folder if there is one.
///
/// # Errors
/// Anything that a sample or the loss fails with; a loss that is not a number
/// ([`NotFinite`](crate::ErrorKind::NotFinite): the last checkpoint stays); another configuration than the checkpoint's;
/// the folder held by another process; an interruption ([`Interrupted`](crate::ErrorKind::Interrupted): a checkpoint is
/// written first).
pub fn train<T: Element + Send + Sync>(
    job: &Training<'_, T>,
    progress: &Progress,
) -> Result<TrainingSummary> {
    if job.samples == 0 {
        return Err(Error::invalid(format!("nothing to train the {} network on", job.network.kind())));
    }
    let _lock = atomic::FolderLock::acquire(job.output)?;
    atomic::sweep(job.output)?;
    let started = Instant::now();
    let batch = job.recipe.batch.max(1).min(job.samples);
    let steps_per_epoch = (job.samples / batch) as u64;
    let total = if job.steps > 0 { job.steps } else { job.recipe.epochs as u64 * steps_per_epoch };
    let every = if job.checkpoint_every > 0 { job.checkpoint_every } else { steps_per_epoch };

    let mut parameters = job.network.parameters(job.seed)?;
    let mut optimizer = new_optimizer(job.recipe);
    let (mut step, mut last_loss) = (0u64, f64::NAN);
    match resume(job, &mut parameters, &mut optimizer)? {
        Some((done, loss)) => (step, last_loss) = (done, loss),
        None => start(job, &mut parameters)?,
    }
    let to_come = total.saturating_sub(step).div_ceil(every);
    check_space(job.output, &parameters, &optimizer, to_come)?;
    if !job.learn_statistics {
        parameters.freeze_for_fine_tuning();
    }
    let mut events = Events::open(&job.output.join("events.jsonl"), step)?;
    let stage = progress.stage(&format!("train {}", job.network.kind()), total);
    stage.already(step);
    let mut summary = TrainingSummary {
        steps: step,
        last_loss,
        seconds: 0.0,
        was_complete: true,
        graph_steps: 0,
        memory: None,
    };
    if step >= total {
        stage.finish();
        return Ok(summary);
    }

    let batches = prefetch(job, step, total, batch, steps_per_epoch);
    let receive = || batches.recv().map_err(|_| Error::invalid("the loader ended early"))?;
    let first_batch = receive();
    if let (Some(gpu), Ok(batch)) = (&job.gpu, &first_batch) {
        let memory = StepMemory::count(job, gpu, &parameters, batch)?;
        log::info!("{memory}");
        let unfit = memory.unfit();
        summary.memory = Some(memory);
        if job.counts_only {
            return Ok(TrainingSummary { was_complete: false, ..summary });
        }
        unfit.map_or(Ok(()), Err)?;
    }
    let mut steps = Steps {
        job,
        recomputes: summary.memory.as_ref().map_or(job.recompute == Recompute::Always, |m| m.recomputes),
        on_gpu: None,
        parameters,
        optimizer,
        batch,
        steps_per_epoch,
        first: step,
        total,
    };
    let out_of_memory = |e: Error| match &summary.memory {
        Some(memory) => memory.explain(e),
        None => e,
    };
    if let (Some(gpu), Ok(batch)) = (&job.gpu, &first_batch) {
        steps.parameters.move_to(Some(gpu)).map_err(out_of_memory)?;
        steps.on_gpu = Some(OnGpu::new(gpu, batch).map_err(out_of_memory)?);
    }
    let mut feed = Feed::new(job.gpu.as_ref())?;
    // A step's results are asked for when the one behind it is queued.
    let behind = usize::from(job.gpu.is_some());
    let mut open: VecDeque<Queued<T>> = VecDeque::new();
    let mut saved = step;
    let mut ready = Some(bring(&mut feed, first_batch));
    while let Some(next) = ready.take() {
        let broken_off = match next {
            Ok((batch, images)) => {
                // On one of the pool's own threads: from any other, each of a step's hundreds of parallel loops
                // would wake the pool and put the caller to sleep.
                let queued = rayon::scope(|_| steps.queue(batch, images, step)).map_err(out_of_memory)?;
                open.push_back(queued);
                feed.used()?;
                step += 1;
                None
            }
            // A photograph that cannot be read is no reason to lose the steps before it.
            Err(error) => Some(error),
        };
        if step < total && broken_off.is_none() {
            ready = Some(bring(&mut feed, receive()));
        }
        let interrupted = check_interrupted();
        let due = broken_off.is_none() && (step.is_multiple_of(every) || step == total);
        let saves = due || ((broken_off.is_some() || interrupted.is_err()) && step > saved);
        while open.len() > if saves { 0 } else { behind } {
            let Some(queued) = open.pop_front() else { break };
            let event = steps.close(queued, started)?;
            last_loss = event.loss;
            events.write(&event)?;
            stage.advance(1);
            stage.note(&format!("epoch {} loss {last_loss:.4}", event.epoch + 1));
        }
        if saves {
            events.sync()?;
            save(job, &steps.parameters, &steps.optimizer, step, total, last_loss)?;
            saved = step;
        }
        interrupted?;
        if let Some(error) = broken_off {
            return Err(error);
        }
    }
    stage.finish();
    let seconds = started.elapsed().as_secs_f64();
    let graph_steps = steps.on_gpu.map_or(0, |on_gpu| on_gpu.graph_steps);
    Ok(TrainingSummary { steps: step, last_loss, seconds, was_complete: false, graph_steps, ..summary })
}

/// A batch and its images where the network computes.
type Ready<T> = Result<(Batch<T>, Tensor)>;

/// Brings a batch's images to the GPU, if there is one.
fn bring<T>(feed: &mut Feed, batch: Result<Batch<T>>) -> Ready<T> {
    let batch = batch?;
    let images = feed.bring(&batch.images, "the images")?;
    Ok((batch, images))
}

/// The order of samples in an epoch: a shuffle named by (seed, epoch).
fn epoch_order(seed: u64, epoch: u64, samples: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..samples).collect();
    Stream::new(seed, Purpose::Shuffle, epoch as u32, 0).shuffle(&mut order);
    order
}

/// Sample indices of a step; the last incomplete batch of an epoch is left out, as the field does.
pub(super) fn batch_of(
    seed: u64,
    step: u64,
    batch: usize,
    steps_per_epoch: u64,
    samples: usize,
) -> (u64, Vec<usize>) {
    let (epoch, position) = (step / steps_per_epoch, (step % steps_per_epoch) as usize);
    let order = epoch_order(seed, epoch, samples);
    (epoch, order[position * batch..(position + 1) * batch].to_vec())
}

/// Decodes and augments in the background, at most two batches ahead. The thread ends when the
/// receiver goes.
fn prefetch<T: Send + 'static>(
    job: &Training<'_, T>,
    first: u64,
    total: u64,
    batch: usize,
    steps_per_epoch: u64,
) -> Receiver<Result<Batch<T>>> {
    let (sender, receiver) = sync_channel(2);
    let (make, seed, samples) = (job.make.clone(), job.seed, job.samples);
    std::thread::spawn(move || {
        for step in first..total {
            let (epoch, indices) = batch_of(seed, step, batch, steps_per_epoch, samples);
            let made = indices
                .into_par_iter()
                .map(|i| {
                    let mut stream = Stream::new(seed, Purpose::Augmentation, epoch as u32, i as u64);
                    make(i, &mut stream)
                })
                .collect::<Result<Vec<_>>>()
                .and_then(Batch::of);
            let failed = made.is_err();
            if sender.send(made).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// Loads initial weights, if any, into fresh parameters.
fn start<T>(job: &Training<'_, T>, parameters: &mut Parameters) -> Result<()> {
    if let Some(path) = job.init {
        let tensors = weights::read_weights(path)?;
        parameters.load(&tensors, true).map_err(|e| e.in_file(path))?;
    }
    Ok(())
}

/// Takes up the last checkpoint of the output folder: its step and last loss.
fn resume<T>(
    job: &Training<'_, T>,
    parameters: &mut Parameters,
    optimizer: &mut Optimizer,
) -> Result<Option<(u64, f64)>> {
    if !checkpoint::exists(job.output) {
        return Ok(None);
    }
    let saved = checkpoint::load(job.output)?;
    if saved.configuration != job.configuration || saved.kind != job.network.kind() {
        return Err(Error::invalid(format!(
            "the folder holds a `{}` checkpoint of another configuration (step {})",
            saved.kind, saved.step
        ))
        .in_file(job.output)
        .remedy("choose another --output, or start afresh with --overwrite"));
    }
    if saved.classes != job.classes {
        return Err(class_mismatch(&saved.classes, job.classes).in_file(job.output));
    }
    parameters.load(&saved.tensors, false).map_err(|e| e.in_file(job.output))?;
    optimizer.load_state(&saved.optimizer).map_err(|e| e.in_file(job.output))?;
    let loss = saved.state.get("loss").and_then(|v| v.as_f64()).unwrap_or(f64::NAN);
    Ok(Some((saved.step, loss)))
}

/// The error for two class lists that ought to be equal.
pub fn class_mismatch(stored: &[String], asked: &[String]) -> Error {
    Error::invalid(format!(
        "class lists differ: stored [{}], this data set has [{}]",
        stored.join(", "),
        asked.join(", ")
    ))
    .remedy("pass the class file that the folder was made with (--classes), or make it anew")
}

fn save<T>(
    job: &Training<'_, T>,
    parameters: &Parameters,
    optimizer: &Optimizer,
    step: u64,
    total: u64,
    loss: f64,
) -> Result<()> {
    let tensors =
        parameters.iter().map(|p| Ok((p.name.clone(), p.value.to_host()?))).collect::<Result<_>>()?;
    checkpoint::save(
        job.output,
        &Checkpoint {
            kind: job.network.kind().to_string(),
            configuration: job.configuration.clone(),
            classes: job.classes.to_vec(),
            step,
            version: env!("CARGO_PKG_VERSION").to_string(),
            tensors,
            optimizer: optimizer.state()?,
            state: json!({ "loss": loss, "seed": job.seed, "total_steps": total }),
        },
    )
}

/// Makes sure before the first step that the checkpoints to come have room: two are kept, a third is
/// written beside them.
fn check_space(output: &Path, parameters: &Parameters, optimizer: &Optimizer, to_come: u64) -> Result<()> {
    // Names, shapes and hashes of the tensors, the configuration.
    const HEADER: u64 = 1 << 18;
    let values = parameters.count() as u64 * (1 + optimizer.slots() as u64);
    let room = to_come.min(3 - checkpoint::count(output).min(2) as u64);
    atomic::check_space(output, &vec![4 * values + HEADER; room as usize])
        .map_err(|e| e.context("room for checkpoints"))
}

/// Joins tensors of one shape along their first dimension.
fn join(tensors: &[Tensor]) -> Result<Tensor> {
    let Some(first) = tensors.first() else { return Err(Error::shape("join", "no tensors")) };
    let mut shape = first.shape().to_vec();
    if shape.is_empty() || tensors.iter().any(|t| t.shape() != shape) {
        return Err(Error::shape("join", format!("tensors are not all {shape:?}")));
    }
    shape[0] *= tensors.len();
    let mut data = Vec::with_capacity(first.len() * tensors.len());
    for tensor in tensors {
        data.extend_from_slice(tensor.data());
    }
    Tensor::new(&shape, data)
}
