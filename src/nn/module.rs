//! Named parameters, and one forward pass over them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::device::cuda::{DeviceBuffer, Gpu, Reading};
use crate::ops::batch_norm::{Activation, BatchStatistics, Statistics, batch_norm};
use crate::ops::conv2d::{Conv2dOptions, FrozenNorm, conv2d, conv2d_add, conv2d_norm_relu};
use crate::optim::cuda::{Bad, Entry, Stop};
use crate::rng::{Purpose, Stream};
use crate::tape::{Gradients, Tape, Var};
use crate::tensor::Tensor;
use crate::{Error, Result, ops, optim};

/// What a parameter is; decides its optimiser group and whether it is learned at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Convolution or matrix weight: decays.
    Weight,
    /// Bias: learns at twice the rate, does not decay.
    Bias,
    /// Scale or shift of a batch normalisation: does not decay.
    Norm,
    /// Running mean or variance: never has a gradient.
    Statistic,
}

/// One named tensor of a network.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// The published name, such as `b4_3.conv_branch2a.weight`.
    pub name: String,
    /// Its value.
    pub value: Tensor,
    /// What it is.
    pub role: Role,
    /// Belongs to a head that starts from random values: learns at ten times the rate.
    pub new: bool,
    /// Keeps its value: no gradient is computed.
    pub frozen: bool,
}

/// All parameters of a network, in the order in which they were declared.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    list: Vec<Parameter>,
    index: HashMap<String, usize>,
}

impl Parameters {
    /// Declares a parameter. A second one of the same name is a mistake in the network's definition.
    pub fn declare(&mut self, name: impl Into<String>, value: Tensor, role: Role, new: bool) {
        let name = name.into();
        let previous = self.index.insert(name.clone(), self.list.len());
        assert!(previous.is_none(), "parameter `{name}` is declared twice");
        self.list.push(Parameter { name, value, role, new, frozen: role == Role::Statistic });
    }

    /// Every parameter, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.list.iter()
    }

    /// Every parameter for writing, in order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        self.list.iter_mut()
    }

    /// The value of a parameter by its name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|&i| &self.list[i].value)
    }

    /// Number of learned values (running statistics are not counted).
    pub fn count(&self) -> usize {
        self.list.iter().filter(|p| p.role != Role::Statistic).map(|p| p.value.len()).sum()
    }

    /// Freezes what fine-tuning keeps: every batch normalisation, conv1a and the b2 units (spec §1).
    pub fn freeze_for_fine_tuning(&mut self) {
        for p in &mut self.list {
            let early =
                p.name.starts_with("conv1a.") || p.name.starts_with("b2.") || p.name.starts_with("b2_");
            p.frozen |= early || p.role == Role::Norm;
        }
    }

    /// Takes values from `tensors` by name. With `partial`, parameters of the head may be missing and
    /// tensors that the network does not have are ignored (a backbone from another network); otherwise
    /// every parameter must be there and nothing else. Returns the names that were not taken.
    ///
    /// # Errors
    /// A wrong shape, and unless `partial` a missing or unexpected name: all of them are listed.
    pub fn load(&mut self, tensors: &[(String, Tensor)], partial: bool) -> Result<Vec<String>> {
        let mut seen = vec![false; self.list.len()];
        let mut faults = Vec::new();
        let mut unused = Vec::new();
        for (name, tensor) in tensors {
            let Some(&i) = self.index.get(name) else {
                unused.push(name.clone());
                continue;
            };
            let parameter = &mut self.list[i];
            if parameter.value.shape() == tensor.shape() {
                parameter.value = tensor.clone();
                seen[i] = true;
            } else if !(partial && parameter.new) {
                let (have, want) = (tensor.shape(), parameter.value.shape());
                faults.push(format!("`{name}` is {have:?}, the network wants {want:?}"));
            }
        }
        let missing = self.list.iter().zip(&seen).filter(|(p, seen)| !(**seen || partial && p.new));
        let missing: Vec<_> = missing.map(|(p, _)| format!("`{}` is missing", p.name)).collect();
        // A tensor of the wrong shape is in the file: do not list it twice.
        faults.extend(missing.into_iter().filter(|m| {
            let name = m.trim_start_matches('`').split('`').next().unwrap_or_default();
            !tensors.iter().any(|(n, _)| n == name)
        }));
        if !partial {
            faults.extend(unused.iter().map(|name| format!("`{name}` is not a parameter of this network")));
        }
        if faults.is_empty() {
            return Ok(unused);
        }
        let more = faults.len().saturating_sub(12);
        faults.truncate(12);
        let tail = if more > 0 { format!("; and {more} more") } else { String::new() };
        Err(Error::invalid(format!("the weights do not fit the network: {}{tail}", faults.join("; "))).remedy(
            "width, preset and number of classes must be those the weights were trained with; `seedwalk inspect` shows a file's tensors",
        ))
    }

    /// The GPU that the parameters are on, `None` for the CPU.
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        self.list.first().and_then(|p| p.value.gpu())
    }

    /// Moves every parameter to a GPU, or with `None` to host memory: the networks then compute there.
    ///
    /// # Errors
    /// The device's: out of memory above all.
    pub fn move_to(&mut self, gpu: Option<&Arc<Gpu>>) -> Result<()> {
        for parameter in &mut self.list {
            parameter.value = parameter.value.to_place(gpu, &parameter.name)?;
        }
        Ok(())
    }

    /// Folds the statistics of a training batch into the running ones: r ← 0.9·r + 0.1·batch. Returns the position of
    /// the first of them that is no number afterwards. On a GPU nothing is done once `stop` is set.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn update_running_statistics(
        &mut self,
        seen: &[(String, BatchStatistics)],
        stop: Option<&Stop>,
    ) -> Result<Reading<Option<usize>>> {
        const MOMENTUM: f32 = 0.1;
        if let Some(gpu) = self.gpu().cloned() {
            return self.blend_on_device(&gpu, seen, stop, MOMENTUM);
        }
        let mut bad = None;
        for (name, batch) in seen {
            for (suffix, batch) in [("running_mean", &batch.mean), ("running_var", &batch.variance)] {
                if let Some(&i) = self.index.get(&format!("{name}.{suffix}")) {
                    let running = self.list[i].value.data_mut();
                    for (r, b) in running.iter_mut().zip(batch.data()) {
                        *r += MOMENTUM * (b - *r);
                    }
                    if !self.list[i].value.is_finite() {
                        bad = Some(bad.map_or(i, |first: usize| first.min(i)));
                    }
                }
            }
        }
        Ok(Reading::known(bad))
    }

    fn blend_on_device(
        &mut self,
        gpu: &Arc<Gpu>,
        seen: &[(String, BatchStatistics)],
        stop: Option<&Stop>,
        rate: f32,
    ) -> Result<Reading<Option<usize>>> {
        let (mut entries, mut positions) = (Vec::new(), Vec::new());
        for (name, batch) in seen {
            for (suffix, batch) in [("running_mean", &batch.mean), ("running_var", &batch.variance)] {
                let Some(&i) = self.index.get(&format!("{name}.{suffix}")) else { continue };
                let running = self.list[i].value.buffer_mut("running statistics")?;
                let addresses = [running.address(), batch.buffer()?.address(), 0, 0];
                entries.push(Entry { addresses, count: batch.len(), rate, ..Entry::default() });
                positions.push(i);
            }
        }
        if entries.is_empty() {
            return Ok(Reading::known(None));
        }
        let table = gpu.upload("a table of statistics", &optim::cuda::words(&entries)?)?;
        // SAFETY: a running value for each of the batch's; `buffer_mut` made it its own.
        let bad = unsafe { optim::cuda::launch("blend_table_f32", &table, &entries, stop, &[])? };
        let first = move |bad: Vec<Bad>| {
            positions.iter().zip(bad).filter(|(_, b)| b.values > 0).map(|(i, _)| *i).min()
        };
        Ok(bad.map(first))
    }
}

/// How a forward pass treats batch normalisation and dropout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Running statistics, no dropout, no tape.
    Inference,
    /// Gradients are wanted.
    Training {
        /// Normalise by the batch's statistics (training from random weights); else by the running ones.
        learn_statistics: bool,
        /// Seed of the run and step: name the dropout masks.
        seed: u64,
        /// Optimiser step, from 0.
        step: u64,
    },
}

/// One forward pass: a tape, the parameters as leaves on it, and the statistics that it saw.
pub struct Forward<'a> {
    /// The tape that records the pass.
    pub tape: Tape,
    parameters: &'a Parameters,
    mode: Mode,
    leaves: HashMap<usize, Var>,
    statistics: Vec<(String, BatchStatistics)>,
    dropouts: u64,
    /// The step's two words on a GPU, which name dropout masks.
    step: Option<Arc<DeviceBuffer<u32>>>,
    /// Whether a segment's values are made anew on the way back.
    recomputes: bool,
    /// The parameters as segments keep them.
    kept: Option<Arc<Parameters>>,
    /// While watching: the first layer whose output was not finite.
    watched: Option<Option<String>>,
}

impl<'a> Forward<'a> {
    /// Starts a pass.
    pub fn new(parameters: &'a Parameters, mode: Mode) -> Self {
        let tape = if mode == Mode::Inference { Tape::inference() } else { Tape::new() };
        Self {
            tape,
            parameters,
            mode,
            leaves: HashMap::new(),
            statistics: Vec::new(),
            dropouts: 0,
            step: None,
            recomputes: false,
            kept: None,
            watched: None,
        }
    }

    /// From here on, what names a step's dropout masks on a GPU is read from these two words: the optimiser step, low word
    /// first.
    pub(crate) fn read_step_from(&mut self, words: &Arc<DeviceBuffer<u32>>) {
        self.step = Some(Arc::clone(words));
    }

    /// From here on, [`Forward::segment`] keeps nothing but inputs.
    pub fn recompute(&mut self) {
        self.recomputes = true;
    }

    /// Runs a part of the network whose only input is `x` and whose parameters are its own: y = part(x).
    ///
    /// After [`Forward::recompute`] nothing of the part stays but x; on the way back it runs once more, this time
    /// recorded (Chen et al., *Training Deep Nets with Sublinear Memory Cost*, 2016). Values and gradients keep their bits:
    /// masks of dropout have names, statistics are seen once, and each gradient is summed in the same order.
    ///
    /// # Errors
    /// Those of the part.
    pub fn segment(
        &mut self,
        x: Var,
        part: impl Fn(&mut Forward<'_>, Var) -> Result<Var> + Send + 'static,
    ) -> Result<Var> {
        if !self.recomputes || self.mode == Mode::Inference {
            return part(self, x);
        }
        let mut once = Forward::new(self.parameters, self.mode);
        once.tape = Tape::inference();
        once.dropouts = self.dropouts;
        once.step = self.step.clone();
        once.watched = self.watched.take();
        let y = part(&mut once, Var::constant(x.value().clone()))?;
        let Forward { leaves, statistics, dropouts, watched, .. } = once;
        self.statistics.extend(statistics);
        self.watched = watched;
        let before = std::mem::replace(&mut self.dropouts, dropouts);

        let mut learned: Vec<usize> = leaves.into_keys().collect();
        learned.sort_unstable();
        let mut inputs = vec![x.clone()];
        inputs.extend(learned.iter().map(|&i| self.leaf(i)));
        let parameters = self.kept.get_or_insert_with(|| Arc::new(self.parameters.clone()));
        let (parameters, mode, step) = (Arc::clone(parameters), self.mode, self.step.clone());
        let inputs: Vec<&Var> = inputs.iter().collect();
        Ok(self.tape.record("segment", y.into_value(), &inputs, move |dy| {
            let mut again = Forward::new(&parameters, mode);
            again.dropouts = before;
            again.step.clone_from(&step);
            let needed = x.needs_gradient();
            let x = x.into_value();
            let x = if needed { again.tape.leaf(x) } else { Var::constant(x) };
            let y = part(&mut again, x.clone())?;
            let mut gradients = again.tape.backward(&y, dy)?;
            let of_parameter = |i: &usize| again.leaves.get(i).and_then(|leaf| gradients.take(leaf));
            let of_parameters: Vec<_> = learned.iter().map(of_parameter).collect();
            Ok(std::iter::once(gradients.take(&x)).chain(of_parameters).collect())
        }))
    }

    /// From here on, notes the first layer whose output is not finite (costs a pass over each output).
    pub fn watch(&mut self) {
        self.watched = Some(None);
    }

    /// What [`Forward::watch`] found.
    pub fn first_not_finite(&self) -> Option<String> {
        self.watched.clone().flatten()
    }

    fn look_at(&mut self, name: &str, y: &Var) -> Result<()> {
        if let Some(found @ None) = &mut self.watched
            && !y.value().to_host()?.is_finite()
        {
            *found = Some(name.to_string());
        }
        Ok(())
    }

    /// A constant of this pass, such as the images, where the parameters are. `what` names it in errors.
    ///
    /// # Errors
    /// The device's.
    pub fn constant(&self, value: &Tensor, what: &str) -> Result<Var> {
        Ok(Var::constant(value.to_place(self.parameters.gpu(), what)?))
    }

    /// A parameter as a variable of this pass.
    pub fn parameter(&mut self, name: &str) -> Result<Var> {
        let Some(&i) = self.parameters.index.get(name) else {
            return Err(Error::invalid(format!("the network has no parameter `{name}`")));
        };
        let parameter = &self.parameters.list[i];
        if parameter.frozen {
            return Ok(Var::constant(parameter.value.clone()));
        }
        Ok(self.leaf(i))
    }

    /// The learned parameter at a position, as the one leaf that it has on the tape.
    fn leaf(&mut self, i: usize) -> Var {
        let (tape, parameters) = (&mut self.tape, self.parameters);
        self.leaves.entry(i).or_insert_with(|| tape.leaf(parameters.list[i].value.clone())).clone()
    }

    /// Convolution with `NAME.weight`, and `NAME.bias` where the network declares one.
    pub fn conv(&mut self, name: &str, x: &Var, options: Conv2dOptions) -> Result<Var> {
        let (weight, bias) = self.conv_parameters(name)?;
        let y = conv2d(&mut self.tape, x, &weight, bias.as_ref(), options).map_err(|e| e.context(name))?;
        self.look_at(name, &y)?;
        Ok(y)
    }

    /// As [`Forward::conv`], and `add` added to it.
    pub fn conv_add(&mut self, name: &str, x: &Var, options: Conv2dOptions, add: &Var) -> Result<Var> {
        let (weight, bias) = self.conv_parameters(name)?;
        let y = conv2d_add(&mut self.tape, x, &weight, bias.as_ref(), add, options)
            .map_err(|e| e.context(name))?;
        self.look_at(name, &y)?;
        Ok(y)
    }

    /// Convolution with `CONV.weight`, then relu(batch normalisation) with `NORM.…`: as [`Forward::conv`] and
    /// [`Forward::batch_norm_relu`], in one pass where the normalisation is frozen.
    pub fn conv_norm_relu(&mut self, conv: &str, norm: &str, x: &Var, options: Conv2dOptions) -> Result<Var> {
        let parts = ["weight", "bias", "running_mean", "running_var"].map(|part| format!("{norm}.{part}"));
        let parameters = self.parameters;
        let all = parts.map(|name| parameters.index.get(&name).map(|&i| &parameters.list[i]));
        let learning = matches!(self.mode, Mode::Training { learn_statistics: true, .. });
        let [Some(scale), Some(shift), Some(mean), Some(variance)] = all else {
            return Err(Error::invalid(format!("the network has no normalisation `{norm}`")));
        };
        let frozen = self.mode == Mode::Inference || scale.frozen && shift.frozen;
        let (weight, bias) = self.conv_parameters(conv)?;
        if learning || !frozen || bias.is_some() || parameters.gpu().is_none() {
            let y = self.conv(conv, x, options)?;
            return self.batch_norm_relu(norm, &y);
        }
        let of_norm = FrozenNorm([&scale.value, &shift.value, &mean.value, &variance.value]);
        let y =
            conv2d_norm_relu(&mut self.tape, x, &weight, &of_norm, options).map_err(|e| e.context(conv))?;
        self.look_at(conv, &y)?;
        Ok(y)
    }

    fn conv_parameters(&mut self, name: &str) -> Result<(Var, Option<Var>)> {
        let weight = self.parameter(&format!("{name}.weight"))?;
        let bias = format!("{name}.bias");
        let bias = self.parameters.index.contains_key(&bias).then(|| self.parameter(&bias)).transpose()?;
        Ok((weight, bias))
    }

    /// relu(batch normalisation) with `NAME.{weight,bias,running_mean,running_var}`.
    pub fn batch_norm_relu(&mut self, name: &str, x: &Var) -> Result<Var> {
        let scale = self.parameter(&format!("{name}.weight"))?;
        let shift = self.parameter(&format!("{name}.bias"))?;
        let learning = matches!(self.mode, Mode::Training { learn_statistics: true, .. });
        let running = |suffix: &str| {
            let name = format!("{name}.{suffix}");
            self.parameters.get(&name).ok_or_else(|| Error::invalid(format!("no parameter `{name}`")))
        };
        let statistics = if learning {
            Statistics::Learning
        } else {
            Statistics::Frozen { mean: running("running_mean")?, variance: running("running_var")? }
        };
        let (y, seen) = batch_norm(&mut self.tape, x, &scale, &shift, statistics, Activation::Relu)
            .map_err(|e| e.context(name))?;
        self.look_at(name, &y)?;
        self.statistics.extend(seen.map(|seen| (name.to_string(), seen)));
        Ok(y)
    }

    /// Channel dropout while training, nothing otherwise. The mask is named by seed, step and how many
    /// dropouts came before in this pass.
    pub fn dropout(&mut self, x: &Var, p: f32) -> Result<Var> {
        let Mode::Training { seed, step, .. } = self.mode else { return Ok(x.clone()) };
        let mut stream = Stream::new(seed, Purpose::Dropout, self.dropouts as u32, step);
        self.dropouts += 1;
        ops::dropout::channel_dropout_at(&mut self.tape, x, p, &mut stream, self.step.as_deref())
    }

    /// Walks the tape back from a scalar loss. Returns the gradient of each learned parameter that the
    /// loss depends on, by position in [`Parameters`], and the statistics that the pass saw.
    pub fn backward(mut self, loss: &Var) -> Result<Learned> {
        let seed = Tensor::full(loss.shape(), 1.0).to_place(loss.value().gpu(), "the loss's gradient")?;
        let mut gradients: Gradients = self.tape.backward(loss, seed)?;
        let mut found: Vec<(usize, Tensor)> = self
            .leaves
            .iter()
            .filter_map(|(&i, leaf)| gradients.take(leaf).map(|gradient| (i, gradient)))
            .collect();
        found.sort_by_key(|(i, _)| *i);
        Ok(Learned { gradients: found, statistics: self.statistics })
    }
}

/// What one backward pass brought.
#[derive(Default)]
pub struct Learned {
    /// (position in [`Parameters`], gradient), by position.
    pub gradients: Vec<(usize, Tensor)>,
    /// (name of the normalisation, what it saw).
    pub statistics: Vec<(String, BatchStatistics)>,
}
