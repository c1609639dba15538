//! Values that arithmetic is bad at: zeros of both signs, subnormal and huge numbers, sums that cancel, infinities and NaN.
//! What the CPU makes of them, value by value, is what the GPU must make of them.

use seedwalk::ops::activation::{elu, relu};
use seedwalk::ops::add;
use seedwalk::ops::affinity::{BorderRule, LossForm, Pairs, Reduction, Stencil, affinities, affinity_loss};
use seedwalk::ops::batch_norm::{Activation, Statistics, batch_norm};
use seedwalk::ops::conv2d::{self, Conv2dOptions, cuda::Precision};
use seedwalk::ops::losses::{multi_label_soft_margin, softmax_cross_entropy};
use seedwalk::ops::reduce;
use seedwalk::ops::walk;
use seedwalk::tape::{Tape, Var};
use seedwalk::tensor::Tensor;

use super::{Alone, random};

/// Finite ones, of every size that a product of two leaves finite.
const FINITE: [f32; 11] = [0.0, -0.0, 1.0, -1.0, 1e15, -1e15, 1e-15, 3e-39, -1e-44, f32::MIN_POSITIVE, 7.0];
/// With those that are no numbers.
const ALL: [f32; 16] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e15,
    -1e15,
    1e-15,
    3e-39,
    -1e-44,
    f32::MIN_POSITIVE,
    7.0,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

/// Values of a list, over and over, in an order that follows from `step`.
fn cycled(shape: &[usize], values: &[f32], step: usize) -> Tensor {
    let len: usize = shape.iter().product();
    Tensor::new(shape, (0..len).map(|i| values[i * step % values.len()]).collect()).unwrap()
}

/// The same number, both no number, or apart by `relative`, where one may be too small for a normal number and the other 0.
fn alike(a: f32, b: f32, relative: f32) -> bool {
    let near = || (a - b).abs() <= relative * a.abs().max(b.abs()) + f32::MIN_POSITIVE;
    (a.is_nan() && b.is_nan()) || a == b || (relative > 0.0 && near())
}

/// Holds an operation on the GPU to the CPU's value and gradients, each value by itself.
fn follows(
    alone: &Alone,
    what: &str,
    relative: f32,
    inputs: &[Tensor],
    operation: impl Fn(&mut Tape, &[Var]) -> seedwalk::Result<Var>,
) {
    let expected = super::operations::values_and_gradients(inputs, &operation);
    let found = alone.same_bytes(what, |gpu| {
        let inputs: Vec<Tensor> = inputs.iter().map(|t| t.to_device(gpu, "an input").unwrap()).collect();
        let found = super::operations::values_and_gradients(&inputs, &operation);
        // As bits: a NaN is not equal to itself.
        found.iter().map(|t| t.data().iter().map(|v| v.to_bits()).collect()).collect::<Vec<Vec<u32>>>()
    });
    for (tensor, (found, expected)) in found.iter().zip(&expected).enumerate() {
        for (i, (f, e)) in found.iter().zip(expected.data()).enumerate() {
            let f = f32::from_bits(*f);
            assert!(alike(f, *e, relative), "{what}: tensor {tensor}, element {i}: {f:e} for {e:e}");
        }
    }
}

#[test]
fn value_by_value() {
    let alone = Alone::new();
    for step in [1, 3, 5] {
        let x = cycled(&[1, 3, 5, 7], &ALL, step);
        follows(&alone, "relu", 0.0, std::slice::from_ref(&x), |tape, v| relu(tape, &v[0]));
        follows(&alone, "elu", 1e-6, std::slice::from_ref(&x), |tape, v| elu(tape, &v[0]));
        let y = cycled(&[1, 3, 5, 7], &ALL, 7);
        follows(&alone, "add", 0.0, &[x.clone(), y], |tape, v| add(tape, &v[0], &v[1]));
        let (scale, shift) = (cycled(&[7], &FINITE, 2), cycled(&[7], &FINITE, 3));
        let (mean, variance) = (cycled(&[7], &[0.0, 1e15, -3e-39], 1), cycled(&[7], &[0.0, 1e15, 1e-15], 1));
        follows(&alone, "batch norm, frozen", 1e-6, &[x], |tape, v| {
            let gpu = v[0].value().gpu();
            let [scale, shift, mean, variance] =
                [&scale, &shift, &mean, &variance].map(|t| t.to_place(gpu, "a coefficient").unwrap());
            let statistics = Statistics::Frozen { mean: &mean, variance: &variance };
            let (scale, shift) = (Var::constant(scale), Var::constant(shift));
            Ok(batch_norm(tape, &v[0], &scale, &shift, statistics, Activation::Relu)?.0)
        });
    }
}

#[test]
fn sums_that_cancel() {
    let alone = Alone::new();
    for rung in reduce::cuda::LADDER {
        let values: Vec<f32> = (0..9001).map(|i| FINITE[i * 3 % FINITE.len()]).collect();
        let exact: f64 = values.iter().map(|v| f64::from(*v)).sum();
        let size: f64 = values.iter().map(|v| f64::from(v.abs())).sum();
        let sum = alone.same_bytes(rung.name, |gpu| reduce::cuda::sum(gpu, rung, &values).unwrap());
        // A rounding of the running sum, at most all there is, a term.
        assert!((f64::from(sum) - exact).abs() <= size * 9001.0 * super::EPSILON, "{}: {sum}", rung.name);
        let mut bad = values.clone();
        bad[8999] = f32::NAN;
        let sum = alone.same_bytes(rung.name, |gpu| reduce::cuda::sum(gpu, rung, &bad).unwrap().to_bits());
        assert!(f32::from_bits(sum).is_nan(), "{}", rung.name);
    }
    // A mean of 3,000 with deviations of 1e-3: no digits are lost to the square of the mean.
    let mut x = random(&[2, 9, 11, 5], 3);
    x.data_mut().iter_mut().for_each(|v| *v = 3000.0 + 1e-3 * *v);
    let (scale, shift) = (Tensor::full(&[5], 1.0), Tensor::zeros(&[5]));
    // The value alone: gradients of normalised values are sums that cancel to nothing.
    let value = |tape: &mut Tape, v: &[Var]| {
        let y = batch_norm(tape, &v[0], &v[1], &v[2], Statistics::Learning, Activation::Identity)?.0;
        Ok(Var::constant(y.into_value()))
    };
    follows(&alone, "batch norm of a far mean", 2e-3, &[x, scale, shift], value);
    // Equal values: the variance is 0, and what is normalised is β.
    let x = Tensor::full(&[1, 4, 4, 3], 0.1);
    let inputs = [x, random(&[3], 1), random(&[3], 2)];
    follows(&alone, "batch norm of equal values", 0.0, &inputs, value);
}

#[test]
fn convolutions_by_every_rung() {
    let alone = Alone::new();
    let options = Conv2dOptions { stride: 1, padding: 1, dilation: 1 };
    let shape = [1, 5, 6, 9];
    let (x, w) = (cycled(&shape, &FINITE, 3), cycled(&[6, 3, 3, 9], &FINITE, 4));
    let sizes = [&x, &w].map(|t| {
        let all: Vec<f32> = t.data().iter().map(|v| v.abs()).collect();
        Tensor::new(t.shape(), all).unwrap()
    });
    let on_cpu = |x: &Tensor, w: &Tensor| {
        let (x, w) = (Var::constant(x.clone()), Var::constant(w.clone()));
        conv2d::conv2d(&mut Tape::inference(), &x, &w, None, options).unwrap().into_value()
    };
    let (expected, size) = (on_cpu(&x, &w), on_cpu(&sizes[0], &sizes[1]));
    for rung in conv2d::cuda::LADDER {
        let name = rung.rung.name;
        let forward = |x: &Tensor| {
            alone.same_bytes(name, |gpu| {
                let y = conv2d::cuda::forward(gpu, rung, x, &w, None, None, options).unwrap();
                y.data().iter().map(|v| v.to_bits()).collect::<Vec<_>>()
            })
        };
        // Each operand's own rounding, then those of 81 products and sums, on both sides.
        let rounding = match rung.precision {
            Precision::F32 => 0.0,
            Precision::Tf32 => 2f32.powi(-10),
            Precision::Bf16 => 2f32.powi(-7),
        };
        for (i, f) in forward(&x).into_iter().map(f32::from_bits).enumerate() {
            let (e, size) = (expected.data()[i], size.data()[i]);
            let bound = (rounding + 4.0 * 81.0 * f32::EPSILON) * size + 1e-30;
            assert!((f - e).abs() <= bound, "{name}: output {i} is {f:e} for {e:e} ± {bound:e}");
        }
        // What is no number reaches the outputs that see it, and no other.
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = random(&shape, 5);
            x.data_mut()[(2 * 6 + 3) * 9 + 4] = bad;
            for (i, f) in forward(&x).into_iter().map(f32::from_bits).enumerate() {
                let (row, column) = (i / 6 / 6, i / 6 % 6);
                let sees = row.abs_diff(2) <= 1 && column.abs_diff(3) <= 1;
                assert_eq!(f.is_finite(), !sees, "{name}: {bad} at output {i}: {f}");
            }
        }
    }
}

#[test]
fn affinities_of_equal_and_of_far_features() {
    let alone = Alone::new();
    let pairs = |reduction| Pairs { stencil: Stencil::default(), reduction, border: BorderRule::Full };
    for (name, values) in
        [("equal", &[0.25f32][..]), ("far", &[0.0, 300.0, -300.0]), ("tiny", &[1e-30, -3e-39, 0.0])]
    {
        let features = cycled(&[1, 7, 9, 5], values, 2);
        for reduction in [Reduction::Sum, Reduction::Mean] {
            let on = |gpu: Option<&_>| {
                let features = features.to_place(gpu, "the features").unwrap();
                affinities(&features, &pairs(reduction)).unwrap().to_host().unwrap()
            };
            let expected = on(None);
            let found = alone
                .same_bytes(name, |gpu| on(Some(gpu)).data().iter().map(|v| v.to_bits()).collect::<Vec<_>>());
            for (f, e) in found.into_iter().map(f32::from_bits).zip(expected.data()) {
                assert!(alike(f, *e, 1e-5), "{name}: {f:e} for {e:e}");
            }
        }
        let labels: Vec<u8> = (0..63).map(|p| (p % 3) as u8).collect();
        for form in [LossForm::Paper, LossForm::Psa] {
            follows(&alone, name, 2e-5, std::slice::from_ref(&features), |tape, v| {
                Ok(affinity_loss(tape, &v[0], &labels, &pairs(Reduction::Mean), form)?.0)
            });
        }
    }
}

#[test]
fn a_walk_over_affinities_of_zero_and_one() {
    let alone = Alone::new();
    let stencil = Stencil::default();
    let (h, w) = (6, 7);
    for values in [&[0.0f32][..], &[1.0], &[0.0, 1.0, 1e-20]] {
        let mut planes = cycled(&[1, stencil.len(), h, w], values, 5);
        // What does not exist is NaN.
        let pairs = Pairs { stencil: stencil.clone(), reduction: Reduction::Mean, border: BorderRule::Full };
        let some = affinities(&random(&[1, h, w, 2], 1), &pairs).unwrap();
        let missing = some.data().iter().map(|v| v.is_nan());
        planes.data_mut().iter_mut().zip(missing).filter(|(_, m)| *m).for_each(|(v, _)| *v = f32::NAN);
        let maps = cycled(&[2, h, w], &[0.0, 1.0, 1e-30, 1e6], 3);
        let on = |gpu: Option<&_>| {
            let planes = planes.to_place(gpu, "the affinities").unwrap();
            walk::walk(&planes, &stencil, 8.0, &maps, 16).unwrap()
        };
        let expected = on(None);
        let found = alone.same_bytes("walk", |gpu| on(Some(gpu)));
        for (f, e) in found.data().iter().zip(expected.data()) {
            assert!((f - e).abs() <= 1e-5 * 1e6, "{values:?}: {f} for {e}");
        }
    }
}

#[test]
fn losses_of_certain_logits() {
    let alone = Alone::new();
    let extreme = [0.0f32, 30.0, -30.0, 1e4, -1e4, 88.0, -104.0, 1e-30];
    let tags = cycled(&[3, 7], &[1.0, 0.0, 0.0], 2);
    follows(&alone, "soft margin", 1e-5, &[cycled(&[3, 7], &extreme, 3)], |tape, v| {
        let tags = tags.to_place(v[0].value().gpu(), "the tags")?;
        multi_label_soft_margin(tape, &v[0], &tags)
    });
    let labels: Vec<u8> = (0..20).map(|p| (p % 5) as u8).collect();
    follows(&alone, "cross-entropy", 1e-5, &[cycled(&[1, 4, 5, 5], &extreme, 3)], |tape, v| {
        softmax_cross_entropy(tape, &v[0], &labels)
    });
    // A loss that is no number says so.
    let mut logits = random(&[1, 4, 5, 5], 1);
    logits.data_mut()[33] = f32::NAN;
    let loss = alone.same_bytes("NaN", |gpu| {
        let logits = Var::constant(logits.to_device(gpu, "the logits").unwrap());
        let loss = softmax_cross_entropy(&mut Tape::inference(), &logits, &labels).unwrap();
        loss.value().item().unwrap().to_bits()
    });
    assert!(f32::from_bits(loss).is_nan());
}
