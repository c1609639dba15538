//! A row of the table: an operation on a shape.

use std::time::{Duration, Instant};

use seedwalk::rng::{Purpose, Stream};
use seedwalk::tape::{Tape, Var};
use seedwalk::tensor::Tensor;
use serde_json::Value;

/// Runs the operation once and says how long the measured part took.
pub type Operation = Box<dyn FnMut() -> Duration>;

/// What an operation cannot do without, counted from its shape.
#[derive(Debug, Clone, Copy, Default)]
pub struct Work {
    /// Floating-point operations; a fused multiply-add is two.
    pub flops: f64,
    /// Bytes of inputs read once and outputs written once.
    pub bytes: f64,
}

impl Work {
    /// Work that reads and writes `values` f32 numbers.
    pub fn new(flops: f64, values: usize) -> Self {
        Self { flops, bytes: 4.0 * values as f64 }
    }
}

/// One row.
pub struct Row {
    /// `operation/case`.
    pub name: String,
    /// Whether a run without a filter has it.
    pub by_default: bool,
    /// What it cannot do without.
    pub work: Work,
    /// For convolutions: the pass, and how many layers of the network have this shape.
    pub layers: Option<(&'static str, usize)>,
    /// The peer's request; its `op` names a function of `benches/peer.py`.
    pub peer: Option<Value>,
    /// Makes the inputs.
    pub prepare: Box<dyn Fn() -> Operation>,
}

impl Row {
    /// A row that every run has.
    pub fn new(name: impl Into<String>, work: Work, prepare: impl Fn() -> Operation + 'static) -> Self {
        Self {
            name: name.into(),
            by_default: true,
            work,
            layers: None,
            peer: None,
            prepare: Box::new(prepare),
        }
    }

    /// The same with a peer.
    pub fn peer(mut self, request: Value) -> Self {
        self.peer = Some(request);
        self
    }
}

/// Normal values: zeros and ones would flatter a processor's power limit.
pub fn random(shape: &[usize]) -> Tensor {
    let mut stream = Stream::new(1, Purpose::Test, 0, shape.iter().product::<usize>() as u64);
    // A few thousand draws, repeated: drawing tens of millions would take longer than the measurement.
    let values: Vec<f32> = (0..8191).map(|_| stream.normal()).collect();
    let len: usize = shape.iter().product();
    Tensor::new(shape, values.iter().copied().cycle().take(len).collect()).expect("the length fits the shape")
}

/// The time of `work`; what it returns is dropped within, as a caller would have to.
pub fn timed<T>(mut work: impl FnMut() -> T + 'static) -> Operation {
    Box::new(move || {
        let start = Instant::now();
        std::hint::black_box(work());
        start.elapsed()
    })
}

/// An operation's forward pass, nothing recorded.
pub fn forward(inputs: Vec<Tensor>, f: impl Fn(&mut Tape, &[Var]) -> Var + 'static) -> Operation {
    let inputs: Vec<Var> = inputs.into_iter().map(Var::constant).collect();
    timed(move || f(&mut Tape::inference(), &inputs))
}

/// An operation's backward pass to all inputs; the forward pass before it is not measured.
pub fn backward(inputs: Vec<Tensor>, f: impl Fn(&mut Tape, &[Var]) -> Var + 'static) -> Operation {
    Box::new(move || {
        let mut tape = Tape::new();
        let leaves: Vec<Var> = inputs.iter().map(|t| tape.leaf(t.clone())).collect();
        let y = f(&mut tape, &leaves);
        // Not shared with anyone, as in a training step, so that backward may write into it.
        let seed = if y.value().len() == 1 { Tensor::full(y.shape(), 1.0) } else { random(y.shape()) };
        drop(leaves);
        let start = Instant::now();
        std::hint::black_box(tape.backward(&y, seed).expect("the output depends on the leaves"));
        start.elapsed()
    })
}
