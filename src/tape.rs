//! Reverse-mode differentiation.
//!
//! A [`Tape`] records what ran: for each operation its inputs and a closure that turns the gradient
//! of its output into the gradients of its inputs. [`Tape::backward`] walks the record in reverse.
//! A closure owns what it needs (shared tensors); it is consumed when it has run, so a node's memory
//! goes as soon as backward has used it. There is no graph to build first and nothing to compile.
//!
//! ```
//! use seedwalk::{tape::Tape, tensor::Tensor, ops};
//! # fn main() -> seedwalk::Result<()> {
//! let mut tape = Tape::new();
//! let x = tape.leaf(Tensor::new(&[2], vec![3.0, -1.0])?);
//! let y = ops::relu(&mut tape, &x)?;
//! let mut gradients = tape.backward(&y, Tensor::full(&[2], 1.0))?;
//! assert_eq!(gradients.take(&x).unwrap().data(), [1.0, 0.0]);
//! # Ok(())
//! # }
//! ```

use rayon::prelude::*;

use crate::ops::elementwise;
use crate::tensor::{CHUNK, Tensor, place};
use crate::{Error, Result};

/// A value that may have a place on a [`Tape`]. Without one it is a constant.
#[derive(Clone, Debug)]
pub struct Var {
    value: Tensor,
    node: Option<usize>,
}

impl Var {
    /// A value that no gradient flows to.
    pub fn constant(value: Tensor) -> Self {
        Self { value, node: None }
    }

    /// The tensor.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The tensor by value.
    pub fn into_value(self) -> Tensor {
        self.value
    }

    /// Shape of the tensor.
    pub fn shape(&self) -> &[usize] {
        self.value.shape()
    }

    /// Whether a gradient flows to this value; an operation skips the work for inputs without.
    pub fn needs_gradient(&self) -> bool {
        self.node.is_some()
    }
}

/// From the gradient of an operation's output to the gradients of its inputs, in the order in which
/// the inputs were recorded; `None` for an input that needs none.
pub type Backward = Box<dyn FnOnce(Tensor) -> Result<Vec<Option<Tensor>>> + Send>;

struct Node {
    operation: &'static str,
    inputs: Vec<Option<usize>>,
    backward: Option<Backward>,
}

/// The record of one forward pass.
pub struct Tape {
    nodes: Vec<Node>,
    recording: bool,
}

impl Default for Tape {
    fn default() -> Self {
        Self::new()
    }
}

impl Tape {
    /// An empty tape that records.
    pub fn new() -> Self {
        Self { nodes: Vec::new(), recording: true }
    }

    /// A tape that records nothing: every value is a constant and is freed when its last owner drops it.
    pub fn inference() -> Self {
        Self { nodes: Vec::new(), recording: false }
    }

    /// A value whose gradient is wanted, such as a parameter (a constant on an inference tape).
    pub fn leaf(&mut self, value: Tensor) -> Var {
        if !self.recording {
            return Var::constant(value);
        }
        self.nodes.push(Node { operation: "leaf", inputs: Vec::new(), backward: None });
        Var { value, node: Some(self.nodes.len() - 1) }
    }

    /// Records that `value` came from `inputs`. `backward` must return one entry per input. When no
    /// input needs a gradient the result is a constant and `backward` is dropped at once.
    pub fn record(
        &mut self,
        operation: &'static str,
        value: Tensor,
        inputs: &[&Var],
        backward: impl FnOnce(Tensor) -> Result<Vec<Option<Tensor>>> + Send + 'static,
    ) -> Var {
        if !self.recording || inputs.iter().all(|v| v.node.is_none()) {
            return Var::constant(value);
        }
        self.nodes.push(Node {
            operation,
            inputs: inputs.iter().map(|v| v.node).collect(),
            backward: Some(Box::new(backward)),
        });
        Var { value, node: Some(self.nodes.len() - 1) }
    }

    /// Walks the tape in reverse from `output`, whose gradient is `seed` (for a scalar loss: ones), and
    /// returns the gradients of the leaves. The tape is empty afterwards.
    pub fn backward(&mut self, output: &Var, seed: Tensor) -> Result<Gradients> {
        let Some(last) = output.node else {
            return Err(Error::shape("backward", "the output does not depend on any leaf"));
        };
        if seed.shape() != output.shape() {
            let message = format!("gradient {:?} for an output {:?}", seed.shape(), output.shape());
            return Err(Error::shape("backward", message));
        }
        let mut nodes = std::mem::take(&mut self.nodes);
        nodes.truncate(last + 1);
        let mut gradients: Vec<Option<Tensor>> = vec![None; nodes.len()];
        gradients[last] = Some(seed);
        while let Some(node) = nodes.pop() {
            let index = nodes.len();
            let Some(backward) = node.backward else { continue };
            let Some(gradient) = gradients[index].take() else { continue };
            let inputs = backward(gradient)?;
            if inputs.len() != node.inputs.len() {
                let message = format!("{} gradients for {} inputs", inputs.len(), node.inputs.len());
                return Err(Error::shape(node.operation, message));
            }
            for (target, gradient) in node.inputs.into_iter().zip(inputs) {
                if let (Some(target), Some(gradient)) = (target, gradient) {
                    accumulate(&mut gradients[target], gradient)?;
                }
            }
        }
        Ok(Gradients { of_node: gradients })
    }
}

fn accumulate(slot: &mut Option<Tensor>, gradient: Tensor) -> Result<()> {
    let Some(sum) = slot.take() else {
        *slot = Some(gradient);
        return Ok(());
    };
    debug_assert_eq!(sum.shape(), gradient.shape());
    *slot = Some(match place("sum of gradients", &[&sum, &gradient])? {
        Some(_) => elementwise::cuda::add_to(sum, &gradient)?,
        None => {
            let mut sum = sum;
            let chunks = sum.data_mut().par_chunks_mut(CHUNK).zip(gradient.data().par_chunks(CHUNK));
            chunks.for_each(|(sum, gradient)| sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += g));
            sum
        }
    });
    Ok(())
}

/// The gradients that [`Tape::backward`] left at the leaves.
pub struct Gradients {
    of_node: Vec<Option<Tensor>>,
}

impl Gradients {
    /// Takes the gradient of a leaf; `None` when the output does not depend on it.
    pub fn take(&mut self, leaf: &Var) -> Option<Tensor> {
        self.of_node.get_mut(leaf.node?)?.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn double(tape: &mut Tape, x: &Var) -> Var {
        let value = Tensor::new(x.shape(), x.value().data().iter().map(|v| 2.0 * v).collect()).unwrap();
        tape.record("double", value, &[x], |mut g| {
            g.data_mut().iter_mut().for_each(|v| *v *= 2.0);
            Ok(vec![Some(g)])
        })
    }

    #[test]
    fn shared_inputs_accumulate() {
        let mut tape = Tape::new();
        let x = tape.leaf(Tensor::full(&[3], 1.0));
        let a = double(&mut tape, &x);
        let b = double(&mut tape, &a);
        let sum = crate::ops::add(&mut tape, &a, &b).unwrap();
        let mut g = tape.backward(&sum, Tensor::full(&[3], 1.0)).unwrap();
        assert_eq!(g.take(&x).unwrap().data(), [6.0; 3]);
    }

    #[test]
    fn memory_goes_as_backward_uses_it() {
        struct Counted(Arc<AtomicUsize>);
        impl Drop for Counted {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let alive = Arc::new(AtomicUsize::new(0));
        let mut tape = Tape::new();
        let mut x = tape.leaf(Tensor::scalar(1.0));
        for step in 0..5 {
            alive.fetch_add(1, Ordering::SeqCst);
            let (held, seen) = (Counted(alive.clone()), alive.clone());
            x = tape.record("probe", Tensor::scalar(1.0), &[&x], move |g| {
                // Nodes recorded later have run and released what they held.
                assert_eq!(seen.load(Ordering::SeqCst), step + 1);
                drop(held);
                Ok(vec![Some(g)])
            });
        }
        assert_eq!(alive.load(Ordering::SeqCst), 5);
        tape.backward(&x, Tensor::scalar(1.0)).unwrap();
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn inference_records_nothing() {
        let mut tape = Tape::inference();
        let x = tape.leaf(Tensor::scalar(1.0));
        let y = double(&mut tape, &x);
        assert!(!y.needs_gradient());
        assert!(tape.backward(&y, Tensor::scalar(1.0)).is_err());
    }
}
