//! The training loop that all three networks share.
//!
//! A step is a pure function of the weights, the optimiser's state and the step's number: the samples of
//! a batch follow from (seed, epoch), each sample's augmentation from (seed, epoch, sample), each dropout
//! mask from (seed, step). So a run that was broken off and goes on from its last checkpoint ends with
//! the same bytes as one that was not.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use rayon::prelude::*;
use serde_json::json;

use super::events::{Event, Events};
use crate::config::{OptimizerKind, TrainingConfig};
use crate::device::cuda::Gpu;
use crate::formats::checkpoint::{self, Checkpoint};
use crate::formats::{atomic, weights};
use crate::nn::Network;
use crate::nn::module::{Forward, Learned, Mode, Parameter, Parameters, Role};
use crate::optim::{NotFinite, Optimizer, Update, poly};
use crate::progress::{Progress, check_interrupted};
use crate::rng::{Purpose, Stream};
use crate::tape::Var;
use crate::tensor::Tensor;
use crate::{Error, ErrorKind, Result};

/// Makes one augmented sample of index `i` from its own random stream.
pub type MakeSample<S> = Arc<dyn Fn(usize, &mut Stream) -> Result<S> + Send + Sync>;

/// The scalar loss of a batch, and the parts of it that go to `events.jsonl`.
pub type Loss<'a, S> = dyn Fn(&mut Forward<'_>, &[S]) -> Result<(Var, Vec<(&'static str, f64)>)> + Sync + 'a;

/// One training, from its samples to its checkpoint.
pub struct Training<'a, S> {
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
    pub make: MakeSample<S>,
    /// The loss.
    pub loss: &'a Loss<'a, S>,
    /// Optimiser steps between checkpoints; 0 means one an epoch.
    pub checkpoint_every: u64,
    /// The GPU to train on, `None` for the CPU. Checkpoints do not tell: a run may go on elsewhere.
    pub gpu: Option<Arc<Gpu>>,
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
}

/// Trains until the last step, from the last checkpoint in the output folder if there is one.
///
/// # Errors
/// Anything that a sample or the loss fails with; a loss that is not a number
/// ([`ErrorKind::NotFinite`]: the last checkpoint stays); another configuration than the checkpoint's;
/// the folder held by another process; an interruption ([`ErrorKind::Interrupted`]: a checkpoint is
/// written first).
pub fn train<S: Send + Sync + 'static>(
    job: &Training<'_, S>,
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
    parameters.move_to(job.gpu.as_ref())?;
    let mut events = Events::open(&job.output.join("events.jsonl"), step)?;
    let stage = progress.stage(&format!("train {}", job.network.kind()), total);
    stage.already(step);
    if step >= total {
        stage.finish();
        return Ok(TrainingSummary { steps: step, last_loss, seconds: 0.0, was_complete: true });
    }

    let first = step;
    let batches = prefetch(job, step, total, batch, steps_per_epoch);
    let mut saved = step;
    while step < total {
        let samples = match batches.recv().map_err(|_| Error::invalid("the loader ended early"))? {
            Ok(samples) => samples,
            // A photograph that cannot be read is no reason to lose the steps before it.
            Err(error) => {
                if step > saved {
                    events.sync()?;
                    save(job, &parameters, &optimizer, step, total, last_loss)?;
                }
                return Err(error);
            }
        };
        let rate = learning_rate(job.recipe, step, total);
        // On one of the pool's own threads: from any other, each of a step's hundreds of parallel loops would
        // wake the pool and put the caller to sleep.
        let (loss, parts) = rayon::scope(|_| {
            let (loss, parts, learned) = forward_backward(job, &parameters, &samples, step)?;
            let stopped = |place| not_finite(job, place, step, batch, steps_per_epoch, loss);
            if !loss.is_finite() {
                return Err(stopped(first_bad_layer(job, &parameters, &samples, step)));
            }
            if let Some(place) = update(job.recipe, &mut optimizer, &mut parameters, learned, rate)? {
                return Err(stopped(place));
            }
            Ok((loss, parts))
        })?;
        step += 1;
        last_loss = loss;
        let epoch = (step - 1) / steps_per_epoch;
        let images = (step - first) * batch as u64;
        let images_per_second = images as f64 / started.elapsed().as_secs_f64();
        events.write(&Event { step, epoch, loss, parts, rate, images_per_second })?;
        stage.advance(1);
        stage.note(&format!("epoch {} loss {loss:.4}", epoch + 1));
        let interrupted = check_interrupted();
        if step.is_multiple_of(every) || step == total || interrupted.is_err() {
            events.sync()?;
            save(job, &parameters, &optimizer, step, total, last_loss)?;
            saved = step;
        }
        interrupted?;
    }
    stage.finish();
    let seconds = started.elapsed().as_secs_f64();
    Ok(TrainingSummary { steps: step, last_loss, seconds, was_complete: false })
}

/// The order of samples in an epoch: a shuffle named by (seed, epoch).
fn epoch_order(seed: u64, epoch: u64, samples: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..samples).collect();
    Stream::new(seed, Purpose::Shuffle, epoch as u32, 0).shuffle(&mut order);
    order
}

/// Sample indices of a step; the last incomplete batch of an epoch is left out, as the field does.
fn batch_of(seed: u64, step: u64, batch: usize, steps_per_epoch: u64, samples: usize) -> (u64, Vec<usize>) {
    let (epoch, position) = (step / steps_per_epoch, (step % steps_per_epoch) as usize);
    let order = epoch_order(seed, epoch, samples);
    (epoch, order[position * batch..(position + 1) * batch].to_vec())
}

/// Decodes and augments in the background, at most two batches ahead. The thread ends when the
/// receiver goes.
fn prefetch<S: Send + 'static>(
    job: &Training<'_, S>,
    first: u64,
    total: u64,
    batch: usize,
    steps_per_epoch: u64,
) -> Receiver<Result<Vec<S>>> {
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
                .collect::<Result<Vec<S>>>();
            let failed = made.is_err();
            if sender.send(made).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

type Pass = (f64, Vec<(&'static str, f64)>, Learned);

fn forward_backward<S>(
    job: &Training<'_, S>,
    parameters: &Parameters,
    batch: &[S],
    step: u64,
) -> Result<Pass> {
    let mode = Mode::Training { learn_statistics: job.learn_statistics, seed: job.seed, step };
    let mut forward = Forward::new(parameters, mode);
    let (loss, parts) = (job.loss)(&mut forward, batch)?;
    let value = f64::from(loss.value().item()?);
    // A loss that nothing depends on (no labelled pixel in the batch) has no gradient: the step is empty.
    let learned = if loss.needs_gradient() { forward.backward(&loss)? } else { Learned::default() };
    Ok((value, parts, learned))
}

/// Base rate of a step: linear warm-up, then (1 − step/total)^power.
fn learning_rate(recipe: &TrainingConfig, step: u64, total: u64) -> f32 {
    let warm = recipe.warmup_steps as u64;
    let ramp = if step < warm { (step + 1) as f32 / warm as f32 } else { 1.0 };
    ramp * poly(recipe.learning_rate, step, total, recipe.poly_power)
}

fn new_optimizer(recipe: &TrainingConfig) -> Optimizer {
    match recipe.optimizer {
        OptimizerKind::Sgd => Optimizer::sgd(recipe.momentum),
        OptimizerKind::Adam => Optimizer::adam(),
        OptimizerKind::AdamW => Optimizer::adamw(),
    }
}

/// One optimiser step over all learned parameters, with the field's groups (spec §10): weight ×1, bias
/// ×2 without decay, a new head's weights and biases at a multiple of that. Says where a gradient or what
/// was made of it is not a number.
fn update(
    recipe: &TrainingConfig,
    optimizer: &mut Optimizer,
    parameters: &mut Parameters,
    learned: Learned,
    rate: f32,
) -> Result<Option<String>> {
    let mut gradients = learned.gradients.iter().peekable();
    let mut updates = Vec::with_capacity(learned.gradients.len());
    for (i, parameter) in parameters.iter_mut().enumerate() {
        let Some((_, gradient)) = gradients.next_if(|(index, _)| *index == i) else { continue };
        let head = if parameter.new { recipe.head_learning_rate_factor } else { 1.0 };
        let (factor, decay) = match parameter.role {
            Role::Weight => (1.0, recipe.weight_decay),
            Role::Bias => (2.0, 0.0),
            Role::Norm | Role::Statistic => (1.0, 0.0),
        };
        let rate = rate * factor * head;
        updates.push(Update { index: i, parameter: &mut parameter.value, gradient, rate, decay });
    }
    let found = optimizer.update(&mut updates)?;
    drop(updates);
    let name = |parameters: &Parameters, i| {
        parameters.iter().nth(i).map(|p: &Parameter| p.name.clone()).unwrap_or_default()
    };
    let first = match found {
        Some(NotFinite::Gradient(i)) => {
            return Ok(Some(format!("the gradient of `{}`", name(parameters, i))));
        }
        Some(NotFinite::Parameter(i)) => Some(i),
        None => None,
    };
    let running = parameters.update_running_statistics(learned.statistics)?;
    let first = first.into_iter().chain(running).min();
    Ok(first.map(|i| format!("`{}`, after the step", name(parameters, i))))
}

/// Loads initial weights, if any, into fresh parameters.
fn start<S>(job: &Training<'_, S>, parameters: &mut Parameters) -> Result<()> {
    if let Some(path) = job.init {
        let tensors = weights::read_weights(path)?;
        parameters.load(&tensors, true).map_err(|e| e.in_file(path))?;
    }
    Ok(())
}

/// Takes up the last checkpoint of the output folder: its step and last loss.
fn resume<S>(
    job: &Training<'_, S>,
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

fn save<S>(
    job: &Training<'_, S>,
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

/// The layer whose output is the first that is not a number.
fn first_bad_layer<S>(job: &Training<'_, S>, parameters: &Parameters, samples: &[S], step: u64) -> String {
    let mode = Mode::Training { learn_statistics: job.learn_statistics, seed: job.seed, step };
    let mut forward = Forward::new(parameters, mode);
    forward.watch();
    // The pass is repeated for its trace alone; what it returns is known to be bad.
    let _ = (job.loss)(&mut forward, samples);
    forward.first_not_finite().unwrap_or_else(|| "the loss".to_string())
}

/// Explains why training stops: the batch, and the first place that is not a number. Nothing is saved.
fn not_finite<S>(
    job: &Training<'_, S>,
    place: String,
    step: u64,
    batch: usize,
    steps_per_epoch: u64,
    loss: f64,
) -> Error {
    let (epoch, indices) = batch_of(job.seed, step, batch, steps_per_epoch, job.samples);
    let names: Vec<String> = indices.into_iter().map(job.name_of).collect();
    Error::new(
        ErrorKind::NotFinite,
        format!(
            "training stopped at step {} (epoch {}): loss {loss}; first bad value in {place}; batch: {}",
            step + 1,
            epoch + 1,
            names.join(", ")
        ),
    )
    .in_file(job.output)
    .remedy(match checkpoint::count(job.output) {
        0 => "start afresh with a lower learning rate, or look at those images with `seedwalk check-data`"
            .to_string(),
        _ => format!(
            "the last checkpoint is kept; start with a lower learning rate, afresh or from that checkpoint \
             in another folder (--init {}), or look at those images with `seedwalk check-data`",
            crate::show_path(job.output)
        ),
    })
}

/// Stacks N tensors of one shape 1×H×W×C (or any with a leading 1) along the first dimension.
pub fn stack(tensors: &[&Tensor]) -> Result<Tensor> {
    let Some(first) = tensors.first() else { return Err(Error::shape("stack", "no tensors")) };
    let mut shape = first.shape().to_vec();
    if shape.first() != Some(&1) || tensors.iter().any(|t| t.shape() != first.shape()) {
        return Err(Error::shape("stack", format!("tensors are not all {shape:?} with a leading 1")));
    }
    shape[0] = tensors.len();
    let mut data = Vec::with_capacity(first.len() * tensors.len());
    for tensor in tensors {
        data.extend_from_slice(tensor.data());
    }
    Tensor::new(&shape, data)
}
