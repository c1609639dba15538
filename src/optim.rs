//! Optimisers and the learning-rate schedule.
//!
//! With gradient g, weight w, rate η, decay λ:
//!
//! * SGD: `g ← g + λw; v ← μv + g; w ← w − ηv`; v begins as g (Sutskever et al. 2013, in the form that
//!   the field's frameworks use);
//! * Adam: `g ← g + λw; m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²; w ← w − η·m̂/(√v̂ + ε)` with
//!   m̂ = m/(1−β₁ᵗ), v̂ = v/(1−β₂ᵗ) (Kingma and Ba 2015, algorithm 1);
//! * AdamW: as Adam without λw in g, but `w ← w − ηλw` first (Loshchilov and Hutter 2019, algorithm 2).
//!
//! β₁ = 0.9, β₂ = 0.999, ε = 1e-8.

pub(crate) mod cuda;

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;

use crate::device::cuda::{Argument, DeviceBuffer, Gpu, Reading, Slot};
use crate::math::powf_f64;
use crate::tensor::{CHUNK, Tensor, place};
use crate::{Error, Result};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f32 = 1e-8;

/// η·(1 − step/total)^power, the "poly" schedule (Liu et al., *ParseNet*, 2015, §3.4).
pub fn poly(base: f32, step: u64, total: u64, power: f32) -> f32 {
    let left = 1.0 - step.min(total) as f64 / total.max(1) as f64;
    (f64::from(base) * powf_f64(left, f64::from(power))) as f32
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Rule {
    Sgd { momentum: f32 },
    Adam { decoupled: bool },
}

/// An optimiser with its state: for each parameter, by its position, one or two tensors of its shape.
pub struct Optimizer {
    rule: Rule,
    steps: u64,
    state: BTreeMap<usize, Vec<Tensor>>,
    /// On a GPU: what the kernel is told of each parameter.
    table: Option<Slot<u32>>,
}

/// One parameter's part in a step.
pub struct Update<'a> {
    /// Its position, which names its state.
    pub index: usize,
    /// Its value.
    pub parameter: &'a mut Tensor,
    /// The loss's gradient, of the same shape, in the same place.
    pub gradient: &'a Tensor,
    /// η.
    pub rate: f32,
    /// λ.
    pub decay: f32,
}

/// What a step met or made that is no number, by the parameter's position. Nothing may be kept of such a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotFinite {
    /// The last of the gradients that has one: backward met it first.
    Gradient(usize),
    /// The first of the parameters that has one after the step.
    Parameter(usize),
}

impl Optimizer {
    fn new(rule: Rule) -> Self {
        Self { rule, steps: 0, state: BTreeMap::new(), table: None }
    }

    /// Stochastic gradient descent; momentum 0 keeps no state.
    pub fn sgd(momentum: f32) -> Self {
        Self::new(Rule::Sgd { momentum })
    }

    /// Adam, decay in the gradient.
    pub fn adam() -> Self {
        Self::new(Rule::Adam { decoupled: false })
    }

    /// Adam with decoupled decay.
    pub fn adamw() -> Self {
        Self::new(Rule::Adam { decoupled: true })
    }

    /// Tensors of state per parameter.
    pub fn slots(&self) -> usize {
        match self.rule {
            Rule::Sgd { momentum } => usize::from(momentum != 0.0),
            Rule::Adam { .. } => 2,
        }
    }

    /// One step of all parameters that have a gradient, in ascending order of their positions. Looks for what is no
    /// number on the way; where a gradient has one, parameters on the CPU are left as they are.
    ///
    /// # Errors
    /// Tensors in different places; the device's.
    pub fn update(&mut self, updates: &mut [Update<'_>]) -> Result<Option<NotFinite>> {
        self.update_unless(None, updates)?.wait()
    }

    /// As [`Optimizer::update`], but what was met can be read after each launch of a graph that the step is captured in,
    /// and on a GPU nothing is done once `stop` is set.
    ///
    /// # Errors
    /// As [`Optimizer::update`].
    pub(crate) fn update_unless(
        &mut self,
        stop: Option<&cuda::Stop>,
        updates: &mut [Update<'_>],
    ) -> Result<Reading<Option<NotFinite>>> {
        let tensors: Vec<&Tensor> = updates.iter().flat_map(|u| [&*u.parameter, u.gradient]).collect();
        if let Some(gpu) = place("optimiser", &tensors)?.cloned() {
            return self.update_on_device(&gpu, stop, updates);
        }
        self.steps += 1;
        if let Some(bad) = updates.iter().rev().find(|u| !u.gradient.is_finite()) {
            return Ok(Reading::known(Some(NotFinite::Gradient(bad.index))));
        }
        for u in updates.iter_mut() {
            self.step(u.index, u.parameter, u.gradient, u.rate, u.decay);
        }
        let bad = updates.iter().find(|u| !u.parameter.is_finite());
        Ok(Reading::known(bad.map(|u| NotFinite::Parameter(u.index))))
    }

    fn update_on_device(
        &mut self,
        gpu: &Arc<Gpu>,
        stop: Option<&cuda::Stop>,
        updates: &mut [Update<'_>],
    ) -> Result<Reading<Option<NotFinite>>> {
        let (entries, table) = self.prepare(gpu, updates)?;
        let betas = [BETA1, 1.0 - BETA1, BETA2, 1.0 - BETA2].map(|beta| Argument::F32(beta as f32));
        let (kernel, more) = match self.rule {
            Rule::Sgd { .. } => ("sgd_table_f32", &betas[..0]),
            Rule::Adam { .. } => ("adam_table_f32", &betas[..]),
        };
        // SAFETY: parameter, gradient and state of an entry have one shape; `buffer_mut` made what is written its own.
        let bad = unsafe { cuda::launch(kernel, &table, &entries, stop, more)? };
        let positions: Vec<usize> = updates.iter().map(|u| u.index).collect();
        Ok(bad.map(move |bad| {
            let of = |found: Option<usize>| found.map(|at| positions[at]);
            let gradient = of(bad.iter().rposition(|b| b.gradients > 0)).map(NotFinite::Gradient);
            gradient.or_else(|| of(bad.iter().position(|b| b.values > 0)).map(NotFinite::Parameter))
        }))
    }

    /// Begins a step on a GPU: writes what the kernel is told of each parameter, the entries, to a table there. The rest is one launch, which is the same
    /// in every step but the first of a parameter, so that a graph that captured it needs only this.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn prepare(
        &mut self,
        gpu: &Arc<Gpu>,
        updates: &mut [Update<'_>],
    ) -> Result<(Vec<cuda::Entry>, Arc<DeviceBuffer<u32>>)> {
        self.steps += 1;
        let (t, slots) = (self.steps as f64, self.slots());
        let mut entries = Vec::with_capacity(updates.len());
        for u in updates.iter_mut() {
            assert_eq!(u.parameter.shape(), u.gradient.shape(), "gradient of parameter {}", u.index);
            let first = !self.state.contains_key(&u.index);
            let state = self.state.entry(u.index).or_default();
            let mut addresses =
                [u.parameter.buffer_mut("a parameter")?.address(), u.gradient.buffer()?.address(), 0, 0];
            for slot in 0..slots {
                match state.get_mut(slot) {
                    // From a checkpoint, or from steps on another device.
                    Some(tensor) => *tensor = tensor.to_device(gpu, "optimiser state")?,
                    None => {
                        gpu.check_lasting("optimiser state")?;
                        let fresh = Arc::new(gpu.allocate("optimiser state", u.gradient.len())?);
                        state.push(Tensor::from_buffer(u.gradient.shape(), fresh)?);
                    }
                }
                addresses[2 + slot] = state[slot].buffer_mut("optimiser state")?.address();
            }
            let mut entry = cuda::Entry {
                addresses,
                count: u.gradient.len(),
                rate: u.rate,
                decay: u.decay,
                shrink: 1.0,
                momentum: if first { 0.0 } else { 1.0 },
                v_hat: (1.0 / (1.0 - powf_f64(BETA2, t))) as f32,
            };
            match self.rule {
                Rule::Sgd { momentum } => entry.momentum *= momentum,
                Rule::Adam { decoupled } => {
                    entry.rate = (f64::from(u.rate) / (1.0 - powf_f64(BETA1, t))) as f32;
                    if decoupled {
                        (entry.decay, entry.shrink) = (0.0, 1.0 - u.rate * u.decay);
                    }
                }
            }
            entries.push(entry);
        }
        let words = cuda::words(&entries)?;
        let fits =
            |table: &Slot<u32>| table.buffer().len() == words.len() && Arc::ptr_eq(table.buffer().gpu(), gpu);
        let mut table = match self.table.take().filter(fits) {
            Some(table) => table,
            None => {
                gpu.check_lasting("a table of parameters")?;
                Slot::new(gpu, "a table of parameters", words.len())?
            }
        };
        table.write(&words)?;
        Ok((entries, Arc::clone(self.table.insert(table).buffer())))
    }

    /// Writes what was held back while a graph was captured.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.table.as_mut().map_or(Ok(()), Slot::flush)
    }

    /// Updates parameter number `i` on the CPU by its gradient, which has the same shape.
    fn step(&mut self, i: usize, parameter: &mut Tensor, gradient: &Tensor, rate: f32, decay: f32) {
        assert_eq!(parameter.shape(), gradient.shape(), "gradient of parameter {i}");
        let slots = self.slots();
        let first = !self.state.contains_key(&i);
        let state = self.state.entry(i).or_insert_with(|| vec![Tensor::zeros(gradient.shape()); slots]);
        let w = parameter.data_mut().par_chunks_mut(CHUNK);
        let g = gradient.data().par_chunks(CHUNK);
        match (self.rule, state.as_mut_slice()) {
            (Rule::Sgd { .. }, []) => w.zip(g).for_each(|(w, g)| {
                for (w, g) in w.iter_mut().zip(g) {
                    *w -= rate * (g + decay * *w);
                }
            }),
            (Rule::Sgd { momentum }, [velocity, ..]) => {
                let momentum = if first { 0.0 } else { momentum };
                w.zip(g).zip(velocity.data_mut().par_chunks_mut(CHUNK)).for_each(|((w, g), v)| {
                    for ((w, g), v) in w.iter_mut().zip(g).zip(v) {
                        *v = momentum * *v + (g + decay * *w);
                        *w -= rate * *v;
                    }
                });
            }
            (Rule::Adam { decoupled }, [m, v, ..]) => {
                let t = self.steps as f64;
                let (b1, b2) = (BETA1 as f32, BETA2 as f32);
                // From f64: in f32, 1 − 0.999 would be wrong in its fifth digit.
                let (c1, c2) = ((1.0 - BETA1) as f32, (1.0 - BETA2) as f32);
                let rate_hat = (f64::from(rate) / (1.0 - powf_f64(BETA1, t))) as f32;
                let v_hat = (1.0 / (1.0 - powf_f64(BETA2, t))) as f32;
                let (coupled, shrink) = if decoupled { (0.0, 1.0 - rate * decay) } else { (decay, 1.0) };
                let (m, v) = (m.data_mut().par_chunks_mut(CHUNK), v.data_mut().par_chunks_mut(CHUNK));
                w.zip(g).zip(m.zip(v)).for_each(|((w, g), (m, v))| {
                    for ((w, g), (m, v)) in w.iter_mut().zip(g).zip(m.iter_mut().zip(v)) {
                        let g = g + coupled * *w;
                        *m = b1 * *m + c1 * g;
                        *v = b2 * *v + c2 * g * g;
                        *w = shrink * *w - rate_hat * *m / ((*v * v_hat).sqrt() + EPSILON);
                    }
                });
            }
            (Rule::Adam { .. }, _) => unreachable!("Adam keeps two tensors"),
        }
    }

    /// The state as named tensors, for a checkpoint: `steps` and `POSITION.SLOT`.
    ///
    /// # Errors
    /// State on a GPU that cannot be copied from there.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        // Two halves of 24 bits: an f32 holds each exactly.
        let halves = [(self.steps >> 24) as f32, (self.steps & 0xff_ffff) as f32];
        let mut all = vec![("steps".to_string(), Tensor::full(&[2], 0.0))];
        all[0].1.data_mut().copy_from_slice(&halves);
        for (i, slots) in &self.state {
            for (slot, tensor) in slots.iter().enumerate() {
                all.push((format!("{i}.{slot}"), tensor.to_host()?));
            }
        }
        Ok(all)
    }

    /// Takes up a state that [`Optimizer::state`] gave.
    ///
    /// # Errors
    /// Names that are none of ours, or slots missing.
    pub fn load_state(&mut self, tensors: &[(String, Tensor)]) -> Result<()> {
        let strange = |name: &str| Error::invalid(format!("optimiser state `{name}` is not understood"));
        let mut state: BTreeMap<usize, BTreeMap<usize, Tensor>> = BTreeMap::new();
        for (name, tensor) in tensors {
            if name == "steps" {
                let [high, low] = tensor.data() else { return Err(strange(name)) };
                self.steps = ((*high as u64) << 24) + *low as u64;
                continue;
            }
            let parts = name.split_once('.').and_then(|(i, s)| Some((i.parse().ok()?, s.parse().ok()?)));
            let (i, slot) = parts.ok_or_else(|| strange(name))?;
            state.entry(i).or_default().insert(slot, tensor.clone());
        }
        if let Some((i, _)) = state.iter().find(|(_, slots)| !slots.keys().copied().eq(0..self.slots())) {
            return Err(Error::invalid(format!(
                "optimiser state of parameter {i} does not fit this optimiser"
            )));
        }
        self.state = state.into_iter().map(|(i, slots)| (i, slots.into_values().collect())).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::random;

    /// The rules in f64, for one value.
    fn reference(optimizer: &Optimizer, w: f64, gradients: &[f64], rate: f64, decay: f64) -> f64 {
        let (mut w, mut a, mut b) = (w, 0.0, 0.0);
        for (t, &g) in gradients.iter().enumerate() {
            match optimizer.rule {
                Rule::Sgd { momentum } => {
                    a = if t == 0 { 0.0 } else { f64::from(momentum) * a } + g + decay * w;
                    w -= rate * a;
                }
                Rule::Adam { decoupled } => {
                    let g = if decoupled { g } else { g + decay * w };
                    if decoupled {
                        w -= rate * decay * w;
                    }
                    a = BETA1 * a + (1.0 - BETA1) * g;
                    b = BETA2 * b + (1.0 - BETA2) * g * g;
                    let t = t as i32 + 1;
                    w -= rate * (a / (1.0 - BETA1.powi(t))) / ((b / (1.0 - BETA2.powi(t))).sqrt() + 1e-8);
                }
            }
        }
        w
    }

    #[test]
    fn each_rule_matches_its_equations_and_survives_a_round_trip() {
        for make in [|| Optimizer::sgd(0.9), || Optimizer::sgd(0.0), Optimizer::adam, Optimizer::adamw] {
            let mut optimizer = make();
            let start = random(&[7], 1);
            let mut w = start.clone();
            let gradients: Vec<Tensor> = (0..5).map(|t| random(&[7], 10 + t)).collect();
            for (t, g) in gradients.iter().enumerate() {
                if t == 3 {
                    // As if resumed from a checkpoint.
                    let state = optimizer.state().unwrap();
                    optimizer = make();
                    optimizer.load_state(&state).unwrap();
                }
                let update = Update { index: 4, parameter: &mut w, gradient: g, rate: 0.05, decay: 0.1 };
                assert_eq!(optimizer.update(&mut [update]).unwrap(), None);
            }
            for i in 0..7 {
                let g: Vec<f64> = gradients.iter().map(|g| f64::from(g.data()[i])).collect();
                let expected = reference(
                    &optimizer,
                    f64::from(start.data()[i]),
                    &g,
                    f64::from(0.05f32),
                    f64::from(0.1f32),
                );
                approx::assert_relative_eq!(
                    f64::from(w.data()[i]),
                    expected,
                    max_relative = 1e-5,
                    epsilon = 1e-6
                );
            }
        }
    }

    #[test]
    fn what_is_no_number_is_found_and_a_bad_gradient_changes_nothing() {
        let step = |values: [f32; 2], gradients: [f32; 2]| {
            let mut parameters = values.map(|v| Tensor::full(&[3], v));
            let gradients = gradients.map(|g| Tensor::full(&[3], g));
            let mut updates: Vec<_> = parameters
                .iter_mut()
                .zip(&gradients)
                .enumerate()
                .map(|(i, (parameter, gradient))| Update {
                    index: 5 + i,
                    parameter,
                    gradient,
                    rate: 1.0,
                    decay: 0.0,
                })
                .collect();
            let found = Optimizer::sgd(0.0).update(&mut updates).unwrap();
            (found, parameters.map(|p| p.data()[0]))
        };
        assert_eq!(step([1.0, 2.0], [0.5, 0.5]), (None, [0.5, 1.5]));
        assert_eq!(step([1.0, 2.0], [f32::NAN, f32::INFINITY]), (Some(NotFinite::Gradient(6)), [1.0, 2.0]));
        let (found, _) = step([f32::MAX, 2.0], [f32::MIN, 0.5]);
        assert_eq!(found, Some(NotFinite::Parameter(5)));
    }

    #[test]
    fn poly_falls_from_the_base_to_zero() {
        assert_eq!(poly(0.1, 0, 10, 0.9), 0.1);
        assert_eq!(poly(0.1, 10, 10, 0.9), 0.0);
        approx::assert_relative_eq!(poly(0.1, 5, 10, 0.9), 0.1 * 0.5f32.powf(0.9), max_relative = 1e-6);
    }

    #[test]
    fn a_state_of_another_rule_is_refused() {
        let mut adam = Optimizer::adam();
        let (parameter, gradient) = (&mut Tensor::zeros(&[2]), &Tensor::full(&[2], 1.0));
        adam.update(&mut [Update { index: 0, parameter, gradient, rate: 0.1, decay: 0.0 }]).unwrap();
        assert!(Optimizer::sgd(0.9).load_state(&adam.state().unwrap()).is_err());
        assert!(adam.load_state(&[("x".into(), Tensor::zeros(&[1]))]).is_err());
    }
}
