//! Every operation that a network is made of, on the GPU and on the CPU: values and all gradients, on odd shapes.
//! The CPU's are held to an f64 reference and its central differences beside each operation (`src/ops`).

use seedwalk::device::Precision;
use seedwalk::formats::image::IGNORE;
use seedwalk::ops::activation::{elu, relu};
use seedwalk::ops::affinity::{BorderRule, LossForm, Pairs, Reduction, Stencil, affinity_loss};
use seedwalk::ops::batch_norm::{Activation, Statistics, batch_norm};
use seedwalk::ops::concat::concat;
use seedwalk::ops::conv2d::{
    Conv2dOptions, FrozenNorm, conv2d, conv2d_add, conv2d_norm_relu, input_gradient, weight_gradient,
};
use seedwalk::ops::dropout::channel_dropout;
use seedwalk::ops::linear::linear;
use seedwalk::ops::losses::{multi_label_soft_margin, softmax_cross_entropy};
use seedwalk::ops::pooling::{average_pooling, global_average_pooling};
use seedwalk::ops::resize::bilinear_resize;
use seedwalk::ops::{add, walk};
use seedwalk::rng::{Purpose, Stream};
use seedwalk::tape::{Tape, Var};
use seedwalk::tensor::Tensor;
use seedwalk::{Error, Result};

use super::{Alone, device, random};

/// Relative to a tensor's largest value: sums of a few hundred terms in another order.
const TOLERANCE: f32 = 1e-5;

/// The operation's value, then the gradients of all inputs for a random gradient of the value, in host memory.
pub(super) fn values_and_gradients(
    inputs: &[Tensor],
    operation: &impl Fn(&mut Tape, &[Var]) -> Result<Var>,
) -> Vec<Tensor> {
    let gpu = inputs[0].gpu().cloned();
    let mut tape = Tape::new();
    let vars: Vec<Var> = inputs.iter().map(|t| tape.leaf(t.clone())).collect();
    let y = operation(&mut tape, &vars).unwrap();
    assert_eq!(y.value().device(), inputs[0].device(), "the result is elsewhere");
    let mut all = vec![y.value().to_host().unwrap()];
    if y.needs_gradient() {
        let seed = random(y.shape(), 977).to_place(gpu.as_ref(), "a gradient").unwrap();
        let mut gradients = tape.backward(&y, seed).unwrap();
        let of = |v: &Var| gradients.take(v).map(|g| g.to_host().unwrap());
        all.extend(vars.iter().filter_map(of));
    }
    all
}

/// Checks that an operation does on the GPU what it does on the CPU, within `tolerance` of each tensor's largest value.
pub(super) fn follows_within(
    alone: &Alone,
    tolerance: f32,
    what: &str,
    inputs: &[Tensor],
    operation: impl Fn(&mut Tape, &[Var]) -> Result<Var>,
) {
    let expected = values_and_gradients(inputs, &operation);
    let found = alone.same_bytes(what, |gpu| {
        let inputs: Vec<Tensor> = inputs.iter().map(|t| t.to_device(gpu, "an input").unwrap()).collect();
        values_and_gradients(&inputs, &operation)
    });
    assert_eq!(found.len(), expected.len(), "{what}: gradients");
    for (tensor, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found.shape(), expected.shape(), "{what}: tensor {tensor}");
        let largest = expected.data().iter().fold(0f32, |m, v| m.max(v.abs()));
        for (i, (f, e)) in found.data().iter().zip(expected.data()).enumerate() {
            assert!(
                (f - e).abs() <= tolerance * largest.max(1e-30),
                "{what}: tensor {tensor} (0: value, then gradients), element {i}: {f} for {e}, largest {largest}"
            );
        }
    }
}

pub(super) fn follows(
    alone: &Alone,
    what: &str,
    inputs: &[Tensor],
    operation: impl Fn(&mut Tape, &[Var]) -> Result<Var>,
) {
    follows_within(alone, TOLERANCE, what, inputs, operation);
}

/// Input, weight, stride, padding, dilation: each path of the choosers.
const CONVOLUTIONS: &[([usize; 4], [usize; 4], [usize; 3])] = &[
    ([2, 5, 7, 3], [4, 3, 3, 3], [1, 1, 1]),
    ([1, 9, 11, 5], [3, 3, 3, 5], [2, 1, 1]),
    ([1, 6, 7, 33], [34, 3, 3, 33], [1, 2, 2]),
    ([3, 4, 5, 36], [40, 1, 1, 36], [1, 0, 1]),
    ([1, 7, 6, 2], [3, 1, 1, 2], [2, 0, 1]),
    ([1, 5, 5, 2], [3, 3, 3, 2], [1, 4, 4]),
];

fn options([stride, padding, dilation]: [usize; 3]) -> Conv2dOptions {
    Conv2dOptions { stride, padding, dilation }
}

#[test]
fn convolutions_and_linear_layers() {
    let alone = Alone::new();
    for (x, w, o) in CONVOLUTIONS {
        let inputs = [random(x, 1), random(w, 2), random(&w[..1], 3)];
        follows(&alone, &format!("conv2d {x:?} {w:?} {o:?}"), &inputs, |tape, v| {
            conv2d(tape, &v[0], &v[1], Some(&v[2]), options(*o))
        });
    }
    for (x, w, o) in [CONVOLUTIONS[0], CONVOLUTIONS[3]] {
        let shortcut = [x[0], x[1], x[2], w[0]];
        let inputs = [random(&x, 1), random(&w, 2), random(&shortcut, 3)];
        follows(&alone, &format!("conv2d_add {x:?} {w:?} {o:?}"), &inputs, |tape, v| {
            conv2d_add(tape, &v[0], &v[1], None, &v[2], options(o))
        });
    }
    for (x, w, o) in CONVOLUTIONS {
        let norm = [3, 4, 5, 6].map(|seed| {
            let mut values = random(&w[..1], seed);
            // The last is a variance.
            values.data_mut().iter_mut().filter(|_| seed == 6).for_each(|v| *v = v.abs());
            values
        });
        let inputs = [random(x, 1), random(w, 2)];
        follows_within(&alone, 3e-5, &format!("conv2d_norm_relu {x:?} {w:?} {o:?}"), &inputs, |tape, v| {
            let gpu = v[0].value().gpu();
            let norm = norm.each_ref().map(|t| t.to_place(gpu, "a coefficient").unwrap());
            conv2d_norm_relu(tape, &v[0], &v[1], &FrozenNorm(norm.each_ref()), options(*o))
        });
    }
    for (n, i, o) in [(1, 1, 1), (3, 7, 5), (2, 65, 17)] {
        let inputs = [random(&[n, i], 1), random(&[o, i], 2), random(&[o], 3)];
        follows(&alone, &format!("linear {n}×{i}→{o}"), &inputs, |tape, v| {
            linear(tape, &v[0], &v[1], Some(&v[2]))
        });
    }
}

#[test]
fn tensor_cores_stay_within_their_roundings() {
    let alone = Alone::new();
    // Relative to the largest value: one rounding of each operand of a sum of products.
    for (precision, rounding) in [(Precision::Tf32, 2f32.powi(-11)), (Precision::Bf16, 2f32.powi(-8))] {
        alone.gpu.set_precision(precision).unwrap();
        for (x, w, o) in &CONVOLUTIONS[..4] {
            let inputs = [random(x, 1), random(w, 2)];
            let what = format!("{precision:?} {x:?} {w:?}");
            follows_within(&alone, 2.0 * rounding, &what, &inputs, |tape, v| {
                conv2d(tape, &v[0], &v[1], None, options(*o))
            });
        }
        alone.gpu.set_precision(Precision::F32).unwrap();
    }
}

#[test]
fn gradients_of_convolution_alone() {
    let alone = Alone::new();
    let (x, w, o) = (random(&[1, 9, 11, 5], 1), random(&[3, 3, 3, 5], 2), options([2, 1, 1]));
    let dy = random(&[1, 5, 6, 3], 3);
    let on = |gpu| {
        let [x, w, dy] = [&x, &w, &dy].map(|t| t.to_place(gpu, "a tensor").unwrap());
        let dx = input_gradient(&dy, &w, x.shape(), o).unwrap().to_host().unwrap();
        (dx, weight_gradient(&dy, &x, w.shape(), o).unwrap().to_host().unwrap())
    };
    let (dx, dw) = on(None);
    let (dx2, dw2) = on(Some(&alone.gpu));
    for (a, b) in dx.data().iter().chain(dw.data()).zip(dx2.data().iter().chain(dw2.data())) {
        assert!((a - b).abs() < 1e-5 * 10.0, "{a} {b}");
    }
}

#[test]
fn value_by_value_operations() {
    let alone = Alone::new();
    for shape in [vec![1], vec![2, 3, 5, 7], vec![1, 33, 32, 1], vec![0, 4]] {
        let what = |name: &str| format!("{name} {shape:?}");
        if !shape.contains(&0) {
            follows(&alone, &what("relu"), &[random(&shape, 1)], |tape, v| relu(tape, &v[0]));
            follows(&alone, &what("elu"), &[random(&shape, 1)], |tape, v| elu(tape, &v[0]));
        }
        if !shape.contains(&0) {
            follows(&alone, &what("add"), &[random(&shape, 1), random(&shape, 2)], |tape, v| {
                // A sum of gradients too: the first input is used three times.
                let twice = add(tape, &v[0], &v[0])?;
                let sum = add(tape, &twice, &v[1])?;
                add(tape, &sum, &v[0])
            });
        }
    }
    let nan = Tensor::full(&[3], f32::NAN).to_device(&alone.gpu, "NaN").unwrap();
    let y = relu(&mut Tape::inference(), &Var::constant(nan)).unwrap();
    assert!(y.value().to_host().unwrap().data().iter().all(|v| v.is_nan()));
}

#[test]
fn maps_are_joined_and_dropped() {
    let alone = Alone::new();
    for widths in [[2, 5, 1], [4, 8, 12]] {
        let inputs: Vec<Tensor> = widths.iter().map(|c| random(&[2, 1, 3, *c], *c as u64)).collect();
        follows(&alone, &format!("concat {widths:?}"), &inputs, |tape, v| {
            concat(tape, &[&v[0], &v[1], &v[2]])
        });
    }
    for shape in [[2, 3, 1, 5], [1, 7, 5, 64], [3, 1, 1, 1], [2, 13, 11, 3]] {
        for skip in [0, 3] {
            // The same bits: tolerance 0.
            follows_within(&alone, 0.0, &format!("dropout {shape:?}"), &[random(&shape, 1)], |tape, v| {
                let mut stream = Stream::new(7, Purpose::Dropout, 2, 5);
                (0..skip).for_each(|_| _ = stream.next_u32());
                let y = channel_dropout(tape, &v[0], 0.4, &mut stream)?;
                channel_dropout(tape, &y, 0.1, &mut stream)
            });
        }
    }
}

#[test]
fn batch_normalisation_frozen_and_learning() {
    let alone = Alone::new();
    for (shape, seed) in [([1, 2, 1, 1], 1), ([2, 3, 5, 7], 2), ([1, 1, 3, 17], 3), ([2, 23, 25, 40], 4)] {
        let c = shape[3];
        let mut x = random(&shape, seed);
        // Far from zero.
        x.data_mut().iter_mut().for_each(|v| *v += 3.0);
        let inputs = [x, random(&[c], seed + 10), random(&[c], seed + 15)];
        let (mean, variance) = (random(&[c], seed + 20), Tensor::full(&[c], 1.7));
        for activation in [Activation::Identity, Activation::Relu] {
            let what = |name: &str| format!("batch norm, {name} {shape:?} {activation:?}");
            follows_within(&alone, 3e-5, &what("frozen"), &inputs, |tape, v| {
                let gpu = v[0].value().gpu();
                let (mean, variance) = (mean.to_place(gpu, "μ")?, variance.to_place(gpu, "σ²")?);
                let s = Statistics::Frozen { mean: &mean, variance: &variance };
                Ok(batch_norm(tape, &v[0], &v[1], &v[2], s, activation)?.0)
            });
            // The usual case of fine-tuning: only x learns.
            follows_within(&alone, 3e-5, &what("frozen scale"), &inputs[..1], |tape, v| {
                let gpu = v[0].value().gpu();
                let [scale, shift, mean, variance] = [&inputs[1], &inputs[2], &mean, &variance]
                    .map(|t| t.to_place(gpu, "a coefficient").unwrap());
                let s = Statistics::Frozen { mean: &mean, variance: &variance };
                let (scale, shift) = (Var::constant(scale), Var::constant(shift));
                Ok(batch_norm(tape, &v[0], &scale, &shift, s, activation)?.0)
            });
            if shape[1] == 2 {
                continue; // two values: the gradient is all rounding
            }
            follows_within(&alone, 1e-4, &what("learning"), &inputs, |tape, v| {
                Ok(batch_norm(tape, &v[0], &v[1], &v[2], Statistics::Learning, activation)?.0)
            });
        }
        let seen = |inputs: &[Tensor]| {
            let v = inputs.iter().map(|t| Var::constant(t.clone())).collect::<Vec<_>>();
            let tape = &mut Tape::inference();
            let (_, seen) =
                batch_norm(tape, &v[0], &v[1], &v[2], Statistics::Learning, Activation::Relu).unwrap();
            let seen = seen.unwrap();
            [seen.mean.to_host().unwrap(), seen.variance.to_host().unwrap()]
        };
        let there: Vec<Tensor> =
            inputs.iter().map(|t| t.to_device(&alone.gpu, "an input").unwrap()).collect();
        for (a, b) in seen(&inputs).iter().zip(seen(&there)) {
            for (a, b) in a.data().iter().zip(b.data()) {
                assert!((a - b).abs() <= 1e-5 * a.abs(), "statistics {shape:?}: {a} {b}");
            }
        }
    }
}

#[test]
fn pooling_and_resizing() {
    let alone = Alone::new();
    for shape in [[1, 1, 1, 1], [2, 3, 5, 7], [1, 16, 17, 33]] {
        follows(&alone, &format!("global pooling {shape:?}"), &[random(&shape, 1)], |tape, v| {
            global_average_pooling(tape, &v[0])
        });
        for k in [1, 2, 3, 8] {
            follows(&alone, &format!("pooling by {k} {shape:?}"), &[random(&shape, 1)], |tape, v| {
                average_pooling(tape, &v[0], k)
            });
        }
    }
    for (shape, height, width) in [
        ([1, 1, 1, 1], 3, 2),
        ([2, 3, 5, 2], 7, 4),
        ([1, 4, 4, 3], 8, 8),
        ([1, 9, 7, 1], 2, 1),
        ([1, 5, 6, 4], 5, 6),
    ] {
        follows(&alone, &format!("resize {shape:?} {height}×{width}"), &[random(&shape, 1)], |tape, v| {
            bilinear_resize(tape, &v[0], height, width)
        });
    }
}

#[test]
fn losses_on_logits() {
    let alone = Alone::new();
    for shape in [[1, 1], [3, 7], [16, 20]] {
        let mut targets = random(&shape, 2);
        targets.data_mut().iter_mut().for_each(|t| *t = if *t > 0.0 { 1.0 } else { 0.0 });
        let mut logits = random(&shape, 1);
        logits.data_mut().iter_mut().for_each(|v| *v *= 8.0);
        follows(&alone, &format!("soft margin {shape:?}"), &[logits], |tape, v| {
            let targets = targets.to_place(v[0].value().gpu(), "the tags")?;
            multi_label_soft_margin(tape, &v[0], &targets)
        });
    }
    for [n, h, w, c] in [[1, 1, 1, 1], [2, 3, 5, 4], [1, 21, 13, 21], [1, 3, 3, 70]] {
        let labels: Vec<u8> =
            (0..n * h * w).map(|p| if p % 5 == 3 { IGNORE } else { (p * 7 % c) as u8 }).collect();
        follows(
            &alone,
            &format!("cross-entropy {n}×{h}×{w}×{c}"),
            &[random(&[n, h, w, c], 1)],
            |tape, v| softmax_cross_entropy(tape, &v[0], &labels),
        );
    }
}

#[test]
fn the_affinity_loss() {
    let alone = Alone::new();
    for (shape, radius) in [([1, 1, 2, 1], 5), ([2, 9, 11, 13], 5), ([1, 6, 7, 5], 3)] {
        let [n, h, w, k] = shape;
        let features = random(&shape, 6);
        let small: Vec<f32> = features.data().iter().map(|v| v / k as f32).collect();
        let features = Tensor::new(&shape, small).unwrap();
        let labels: Vec<u8> = (0..n * h * w).map(|p| [0, 0, 1, 1, 2, IGNORE][p / 3 % 6]).collect();
        for (border, form, reduction) in [
            (BorderRule::Full, LossForm::Paper, Reduction::Sum),
            (BorderRule::Psa, LossForm::Psa, Reduction::Mean),
        ] {
            if border == BorderRule::Psa && (h < 5 || w < 9) {
                continue;
            }
            let pairs = Pairs { stencil: Stencil::new(radius, false).unwrap(), reduction, border };
            let what = format!("affinity loss {shape:?} radius {radius} {form:?}");
            // Slopes of near pairs pass on the relative error of their small distance.
            follows_within(&alone, 1e-4, &what, std::slice::from_ref(&features), |tape, v| {
                Ok(affinity_loss(tape, &v[0], &labels, &pairs, form)?.0)
            });
            let parts = |features: Tensor| {
                let features = Var::constant(features);
                affinity_loss(&mut Tape::inference(), &features, &labels, &pairs, form)
                    .unwrap()
                    .1
                    .wait()
                    .unwrap()
            };
            let (cpu, gpu) = (parts(features.clone()), parts(features.to_device(&alone.gpu, "f").unwrap()));
            assert_eq!(cpu.counts, gpu.counts, "{what}");
            for (a, b) in [
                (cpu.background, gpu.background),
                (cpu.foreground, gpu.foreground),
                (cpu.negative, gpu.negative),
            ] {
                assert!((a - b).abs() <= 1e-5 * a.abs().max(1e-3), "{what}: {a} {b}");
            }
        }
    }
}

#[test]
fn a_walk_goes_on_where_its_affinities_are() {
    let alone = Alone::new();
    let pairs = Pairs { stencil: Stencil::default(), reduction: Reduction::Mean, border: BorderRule::Full };
    let features = random(&[1, 7, 3, 4], 7);
    let maps = random(&[2, 7, 3], 8);
    let on = |gpu| {
        let features = features.to_place(gpu, "the features").unwrap();
        let affinities = seedwalk::ops::affinity::affinities(&features, &pairs).unwrap();
        assert_eq!(affinities.device(), features.device());
        walk::walk(&affinities, &pairs.stencil, 8.0, &maps, 16).unwrap()
    };
    for (a, b) in on(None).data().iter().zip(on(Some(&alone.gpu)).data()) {
        assert!((a - b).abs() < 1e-5 * 4.0, "{a} {b}");
    }
}

#[test]
fn inputs_in_two_places_are_an_error_that_names_the_operation() {
    let alone = Alone::new();
    let here = |shape: &[usize]| Var::constant(random(shape, 1));
    let there = |shape: &[usize]| Var::constant(random(shape, 1).to_device(&alone.gpu, "a tensor").unwrap());
    let tape = &mut Tape::new();
    let map = [1, 2, 3, 4];
    let statistics = Statistics::Learning;
    let mixtures: [(&str, Result<Var>); 5] = [
        ("add", add(tape, &here(&map), &there(&map))),
        ("concat", concat(tape, &[&there(&map), &here(&map)])),
        ("conv2d", conv2d(tape, &there(&map), &here(&[2, 1, 1, 4]), None, Conv2dOptions::default())),
        (
            "batch_norm",
            batch_norm(tape, &there(&map), &there(&[4]), &here(&[4]), statistics, Activation::Relu)
                .map(|v| v.0),
        ),
        ("multi_label_soft_margin", multi_label_soft_margin(tape, &there(&[2, 3]), here(&[2, 3]).value())),
    ];
    for (operation, outcome) in mixtures {
        let words = outcome.map(|_| ()).unwrap_err().to_string();
        for part in [operation, &format!("`{}`", device().1), "`cpu`", "one place"] {
            assert!(words.contains(part), "{part} is not in {words}");
        }
    }
    let error: Error = there(&map).value().reshape(&[5]).unwrap_err();
    assert!(error.to_string().contains("reshape"));
}
