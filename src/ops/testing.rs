//! What the operations' tests share: random tensors and the comparison with an f64 reference.

use crate::Result;
use crate::rng::{Purpose, Stream};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Standard normal values; `index` names the draw.
pub fn random(shape: &[usize], index: u64) -> Tensor {
    let mut stream = Stream::new(0x5eed, Purpose::Test, 0, index);
    let len = shape.iter().product();
    Tensor::new(shape, (0..len).map(|_| stream.normal()).collect()).unwrap()
}

/// Relative tolerance of a sum of a few hundred f32 terms; a test with longer sums passes its own.
pub const TOLERANCE: f64 = 2e-5;

/// Checks `operation` and its gradients with [`TOLERANCE`]. See [`check_within`].
pub fn check(
    inputs: &[Tensor],
    operation: impl Fn(&mut Tape, &[Var]) -> Result<Var>,
    reference: impl Fn(&[Vec<f64>]) -> Vec<f64>,
) {
    check_within(TOLERANCE, inputs, operation, reference);
}

/// Compares `operation` with `reference`, a plain f64 computation over the flattened inputs, and the
/// gradients of v·operation(x), for a random v, with central differences of v·reference(x).
///
/// Errors are measured against the largest reference value of the tensor compared. Inputs must keep
/// away from kinks by more than the difference step 1e-5.
pub fn check_within(
    tolerance: f64,
    inputs: &[Tensor],
    operation: impl Fn(&mut Tape, &[Var]) -> Result<Var>,
    reference: impl Fn(&[Vec<f64>]) -> Vec<f64>,
) {
    let mut tape = Tape::new();
    let vars: Vec<Var> = inputs.iter().map(|t| tape.leaf(t.clone())).collect();
    let output = operation(&mut tape, &vars).unwrap();
    let mut x: Vec<Vec<f64>> =
        inputs.iter().map(|t| t.data().iter().map(|&v| f64::from(v)).collect()).collect();
    assert_close("output", output.value().data(), &reference(&x), tolerance);

    let seed = random(output.shape(), 977);
    let mut gradients = tape.backward(&output, seed.clone()).unwrap();
    let objective = |x: &[Vec<f64>]| -> f64 {
        reference(x).iter().zip(seed.data()).map(|(y, &v)| y * f64::from(v)).sum()
    };
    const STEP: f64 = 1e-5;
    for input in 0..x.len() {
        let mut expected = Vec::with_capacity(x[input].len());
        for element in 0..x[input].len() {
            let kept = x[input][element];
            x[input][element] = kept + STEP;
            let above = objective(&x);
            x[input][element] = kept - STEP;
            let below = objective(&x);
            x[input][element] = kept;
            expected.push((above - below) / (2.0 * STEP));
        }
        let gradient = gradients.take(&vars[input]).expect("a gradient for every leaf");
        assert_eq!(gradient.shape(), inputs[input].shape());
        assert_close(&format!("gradient of input {input}"), gradient.data(), &expected, tolerance);
    }
}

/// |actual − expected| ≤ tolerance · max(1e-3, max |expected|) for every element.
pub fn assert_close(what: &str, actual: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: number of elements");
    let scale = expected.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    for (i, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(a) - e).abs();
        assert!(error <= tolerance * scale, "{what}[{i}]: {a} instead of {e} (scale {scale})");
    }
}
