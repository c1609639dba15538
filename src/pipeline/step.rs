//! One step of a training: forward, backward and update, on the CPU or on a GPU.
//!
//! On a GPU the first step that teaches anything is queued kernel by kernel; the second is captured as a CUDA graph, and
//! every one from there on is one launch of it: what changes from step to step (images, targets, the step's number, rates)
//! lies in device memory at places that stay ([`Inputs`], the optimiser's table).

use std::sync::Arc;
use std::time::Instant;

use super::events::Event;
use super::training::{Batch, Parts, Training, batch_of};
use crate::config::{OptimizerKind, TrainingConfig};
use crate::device::cuda::{DeviceBuffer, Element, Given, Gpu, Graph, Later, Reading, Slot};
use crate::formats::checkpoint;
use crate::nn::module::{Forward, Learned, Mode, Parameter, Parameters, Role};
use crate::optim::cuda::Stop;
use crate::optim::{NotFinite, Optimizer, Update, poly};
use crate::tape::Var;
use crate::tensor::Tensor;
use crate::{Error, ErrorKind, Result};

/// A training's steps: what they change, and what is the same for all.
pub(super) struct Steps<'a, T: Element> {
    pub job: &'a Training<'a, T>,
    pub recomputes: bool,
    pub parameters: Parameters,
    pub optimizer: Optimizer,
    pub on_gpu: Option<OnGpu<T>>,
    pub batch: usize,
    pub steps_per_epoch: u64,
    /// The first step of this process.
    pub first: u64,
    pub total: u64,
}

/// What steps on a GPU have beside.
pub(super) struct OnGpu<T: Element> {
    stop: Stop,
    inputs: Inputs<T>,
    /// Whether a step that taught something has been done: its kernels are loaded, its state and its memory are there.
    ready: bool,
    graph: Option<StepGraph>,
    pub graph_steps: u64,
}

/// What of a step's input is small, at the places where a captured step reads it.
pub(super) struct Inputs<T> {
    targets: Slot<T>,
    /// The optimiser step, low word first.
    step: Slot<u32>,
}

/// A step as a graph: each launch is a step.
struct StepGraph {
    /// Where it reads the images.
    images: Arc<DeviceBuffer<f32>>,
    /// Where it leaves what was learned.
    learned: Learned,
    outcome: Outcome,
    // Last: what it makes lies in its memory.
    graph: Graph,
}

/// Where a step leaves what there is to tell of it.
#[derive(Clone)]
struct Outcome {
    loss: Tensor,
    parts: Parts,
    found: Found,
}

/// A step that is queued.
pub(super) struct Queued<T> {
    step: u64,
    rate: f32,
    batch: Batch<T>,
    loss: Later<f32>,
    parts: Later<Vec<(&'static str, f64)>>,
    /// Where it met or made what is no number.
    found: (Later<Option<NotFinite>>, Later<Option<usize>>),
}

/// Where a step met or made what is no number: in the optimiser's update, then in the running statistics.
#[derive(Clone)]
pub(super) struct Found(Reading<Option<NotFinite>>, Reading<Option<usize>>);

impl<T: Element> OnGpu<T> {
    pub fn new(gpu: &Arc<Gpu>, batch: &Batch<T>) -> Result<Self> {
        let (stop, inputs) = (Stop::new(gpu)?, Inputs::new(gpu, batch.targets.len())?);
        Ok(Self { stop, inputs, ready: false, graph: None, graph_steps: 0 })
    }
}

impl<T: Element> Inputs<T> {
    /// Room for so many targets.
    pub fn new(gpu: &Arc<Gpu>, targets: usize) -> Result<Self> {
        Ok(Self { targets: Slot::new(gpu, "the targets", targets)?, step: Slot::new(gpu, "the step", 2)? })
    }

    pub fn write(&mut self, targets: &[T], step: u64) -> Result<()> {
        self.targets.write(targets)?;
        self.step.write(&[step as u32, (step >> 32) as u32])
    }
}

impl<T: Element> Steps<'_, T> {
    /// Queues a step; on the CPU it is done then.
    pub fn queue(&mut self, batch: Batch<T>, images: Tensor, step: u64) -> Result<Queued<T>> {
        let rate = learning_rate(self.job.recipe, step, self.total);
        let Outcome { loss, parts, found: Found(updated, blended) } = match self.on_gpu.take() {
            None => self.compute(images, &batch.targets, step, rate, None)?.1,
            Some(mut on_gpu) => {
                let outcome = self.queue_on_gpu(&mut on_gpu, images, &batch.targets, step, rate)?;
                self.on_gpu = Some(on_gpu);
                outcome
            }
        };
        let found = (updated.later()?, blended.later()?);
        Ok(Queued { step, rate, batch, loss: loss.item_later()?, parts: parts.later()?, found })
    }

    /// Queues a step as a launch of the graph where there is one; the second that teaches anything makes it.
    fn queue_on_gpu(
        &mut self,
        on_gpu: &mut OnGpu<T>,
        images: Tensor,
        targets: &[T],
        step: u64,
        rate: f32,
    ) -> Result<Outcome> {
        on_gpu.inputs.write(targets, step)?;
        if !(self.job.teaches)(targets) {
            let compute = || self.compute(images, targets, step, rate, Some(on_gpu));
            let pass = match &on_gpu.graph {
                Some(made) => made.graph.lend(compute),
                None => compute(),
            };
            return pass.map(|(_, outcome)| outcome);
        }
        let buffer = images.buffer()?;
        let gpu = Arc::clone(buffer.gpu());
        if let Some(made) = &on_gpu.graph {
            gpu.copy("the images", buffer, &made.images)?;
            let mut updates = updates(self.job.recipe, &mut self.parameters, &made.learned, rate);
            self.optimizer.prepare(&gpu, &mut updates)?;
        } else if self.job.graph && on_gpu.ready {
            let place = Arc::new(gpu.duplicate("the images", buffer)?);
            let at_place = Tensor::from_buffer(images.shape(), Arc::clone(&place))?;
            let pass = || self.compute(at_place, targets, step, rate, Some(on_gpu));
            let (graph, (learned, outcome)) = gpu.capture(pass)?;
            self.optimizer.flush()?;
            on_gpu.graph = Some(StepGraph { images: place, learned, outcome, graph });
        }
        match &on_gpu.graph {
            Some(made) => {
                made.graph.launch()?;
                on_gpu.graph_steps += 1;
                Ok(made.outcome.clone())
            }
            None => {
                on_gpu.ready = true;
                Ok(self.compute(images, targets, step, rate, Some(on_gpu))?.1)
            }
        }
    }

    /// Forward, backward and update, kernel by kernel.
    fn compute(
        &mut self,
        images: Tensor,
        targets: &[T],
        step: u64,
        rate: f32,
        on_gpu: Option<&OnGpu<T>>,
    ) -> Result<(Learned, Outcome)> {
        let job = self.job;
        let inputs = on_gpu.map(|on_gpu| &on_gpu.inputs);
        let pass = forward_backward(job, &self.parameters, images, targets, inputs, step, self.recomputes)?;
        let Pass { loss, parts, learned } = pass;
        let stop = on_gpu.map(|on_gpu| &on_gpu.stop);
        if let Some(stop) = stop {
            stop.look_at(&loss)?;
        }
        let found = if stop.is_none() && !loss.item()?.is_finite() {
            // Nothing is learned from it.
            Found(Reading::known(None), Reading::known(None))
        } else {
            update(job.recipe, &mut self.optimizer, &mut self.parameters, &learned, rate, stop)?
        };
        Ok((learned, Outcome { loss, parts, found }))
    }

    /// Waits for a step; what it came to.
    pub fn close(&self, queued: Queued<T>, started: Instant) -> Result<Event> {
        let Queued { step, rate, batch, loss, parts, found: (updated, blended) } = queued;
        let loss = f64::from(loss.wait()?);
        let stopped = |place| not_finite(self.job, place, step, self.batch, self.steps_per_epoch, loss);
        if !loss.is_finite() {
            let first = || Ok(first_bad_layer(self.job, &self.parameters, &batch, step));
            let graph = self.on_gpu.as_ref().and_then(|on_gpu| on_gpu.graph.as_ref());
            return Err(stopped(graph.map_or_else(first, |made| made.graph.lend(first))?));
        }
        let name = |i| self.parameters.iter().nth(i).map(|p: &Parameter| p.name.clone()).unwrap_or_default();
        let after = match updated.wait()? {
            Some(NotFinite::Gradient(i)) => {
                return Err(stopped(format!("the gradient of `{}`", name(i))));
            }
            Some(NotFinite::Parameter(i)) => Some(i),
            None => None,
        };
        if let Some(i) = after.into_iter().chain(blended.wait()?).min() {
            return Err(stopped(format!("`{}`, after the step", name(i))));
        }
        let (parts, images) = (parts.wait()?, (step + 1 - self.first) * self.batch as u64);
        let images_per_second = images as f64 / started.elapsed().as_secs_f64();
        Ok(Event { step: step + 1, epoch: step / self.steps_per_epoch, loss, parts, rate, images_per_second })
    }
}

/// What forward and backward of a batch come to.
pub(super) struct Pass {
    pub loss: Tensor,
    pub parts: Parts,
    pub learned: Learned,
}

/// Forward and backward of a batch; on a GPU `inputs` has targets and step.
pub(super) fn forward_backward<T: Element>(
    job: &Training<'_, T>,
    parameters: &Parameters,
    images: Tensor,
    targets: &[T],
    inputs: Option<&Inputs<T>>,
    step: u64,
    recomputes: bool,
) -> Result<Pass> {
    let mode = Mode::Training { learn_statistics: job.learn_statistics, seed: job.seed, step };
    let mut forward = Forward::new(parameters, mode);
    if recomputes {
        forward.recompute();
    }
    if let Some(inputs) = inputs {
        forward.read_step_from(inputs.step.buffer());
    }
    let targets = Given::new(targets, inputs.map(|inputs| inputs.targets.buffer()));
    let (loss, parts) = (job.loss)(&mut forward, &Var::constant(images), &targets)?;
    // A loss that nothing depends on (no labelled pixel in the batch) has no gradient: the step is empty.
    let learned = if loss.needs_gradient() { forward.backward(&loss)? } else { Learned::default() };
    Ok(Pass { loss: loss.into_value(), parts, learned })
}

/// Base rate of a step: linear warm-up, then (1 − step/total)^power.
fn learning_rate(recipe: &TrainingConfig, step: u64, total: u64) -> f32 {
    let warm = recipe.warmup_steps as u64;
    let ramp = if step < warm { (step + 1) as f32 / warm as f32 } else { 1.0 };
    ramp * poly(recipe.learning_rate, step, total, recipe.poly_power)
}

pub(super) fn new_optimizer(recipe: &TrainingConfig) -> Optimizer {
    match recipe.optimizer {
        OptimizerKind::Sgd => Optimizer::sgd(recipe.momentum),
        OptimizerKind::Adam => Optimizer::adam(),
        OptimizerKind::AdamW => Optimizer::adamw(),
    }
}

/// One optimiser step over all learned parameters. Says where a gradient or what was made of it is not a number.
pub(super) fn update(
    recipe: &TrainingConfig,
    optimizer: &mut Optimizer,
    parameters: &mut Parameters,
    learned: &Learned,
    rate: f32,
    stop: Option<&Stop>,
) -> Result<Found> {
    let updated = optimizer.update_unless(stop, &mut updates(recipe, parameters, learned, rate))?;
    Ok(Found(updated, parameters.update_running_statistics(&learned.statistics, stop)?))
}

/// What an optimiser step does to each learned parameter, with the field's groups (spec §10): weight ×1, bias ×2 without
/// decay, a new head's weights and biases at a multiple of that.
fn updates<'a>(
    recipe: &TrainingConfig,
    parameters: &'a mut Parameters,
    learned: &'a Learned,
    rate: f32,
) -> Vec<Update<'a>> {
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
    updates
}

/// The layer whose output is the first that is not a number.
fn first_bad_layer<T: Element>(
    job: &Training<'_, T>,
    parameters: &Parameters,
    batch: &Batch<T>,
    step: u64,
) -> String {
    let mode = Mode::Training { learn_statistics: job.learn_statistics, seed: job.seed, step };
    let mut forward = Forward::new(parameters, mode);
    forward.watch();
    // The pass is repeated for its trace alone; what it returns is known to be bad.
    if let Ok(images) = forward.constant(&batch.images, "the images") {
        let _ = (job.loss)(&mut forward, &images, &batch.targets.as_slice().into());
    }
    forward.first_not_finite().unwrap_or_else(|| "the loss".to_string())
}

/// Explains why training stops: the batch, and the first place that is not a number. Nothing is saved.
fn not_finite<T>(
    job: &Training<'_, T>,
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
