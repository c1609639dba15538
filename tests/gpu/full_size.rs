//! The networks' own shapes, where tiles are many, reductions long and offsets large. The emulator would take hours: there the
//! same checks run at shapes a few times smaller, and say so.

use seedwalk::formats::image::RgbImage;
use seedwalk::ops::activation::elu;
use seedwalk::ops::affinity::{
    self, BorderRule, LossForm, Pairs, Reduction, Stencil, affinities, affinity_loss,
};
use seedwalk::ops::batch_norm::{Activation, Statistics, batch_norm};
use seedwalk::ops::concat::concat;
use seedwalk::ops::conv2d::{self, conv2d, cuda::Precision};
use seedwalk::ops::crf::{self, CrfOptions, DenseCrf};
use seedwalk::ops::dropout::channel_dropout;
use seedwalk::ops::losses::{multi_label_soft_margin, softmax_cross_entropy};
use seedwalk::ops::pooling::{average_pooling, global_average_pooling};
use seedwalk::ops::reduce;
use seedwalk::ops::resize::bilinear_resize;
use seedwalk::ops::walk::{self, Transition};
use seedwalk::optim::{Optimizer, Update};
use seedwalk::rng::{Purpose, Stream};
use seedwalk::tensor::Tensor;

use super::operations::{follows, follows_within};
use super::{Alone, EPSILON, Sum, assert_within, convolution, left_out, random};

/// Shrinks on the emulator; on a GPU everything is as it is in the networks.
struct Scale {
    emulated: bool,
}

impl Scale {
    fn of(alone: &Alone) -> Self {
        let emulated = alone.emulator.is_some();
        if emulated {
            left_out("the networks' own shapes: sides 8 and channels 16 times smaller");
        }
        Self { emulated }
    }

    fn by(&self, value: usize, factor: usize) -> usize {
        if self.emulated { value.div_ceil(factor) } else { value }
    }

    /// Rows or columns.
    fn side(&self, value: usize) -> usize {
        self.by(value, 8)
    }

    fn channels(&self, value: usize) -> usize {
        if value <= 32 { value } else { self.by(value, 16) }
    }

    /// A map N×H×W×C.
    fn map(&self, [n, h, w, c]: [usize; 4]) -> [usize; 4] {
        [n, self.side(h), self.side(w), self.channels(c)]
    }
}

/// N, H, W, I, O, K, stride, padding, dilation: what ResNet-38 spends its time in at 448² (docs/backbone.md), the first layer,
/// and a stride of 2.
const CONVOLUTIONS: [[usize; 9]; 7] = [
    [2, 56, 56, 512, 512, 3, 1, 1, 1],
    [1, 56, 56, 1024, 2048, 3, 1, 4, 4],
    [1, 56, 56, 512, 1024, 3, 1, 2, 2],
    [1, 56, 56, 2048, 4096, 1, 1, 0, 1],
    [1, 112, 112, 256, 512, 3, 2, 1, 1],
    [1, 224, 224, 128, 128, 3, 1, 1, 1],
    [1, 448, 448, 3, 64, 3, 1, 1, 1],
];

/// The shapes at the scale of the device.
fn convolutions(scale: &Scale) -> [[usize; 9]; 7] {
    CONVOLUTIONS.map(|[n, h, w, i, o, k, stride, padding, dilation]| {
        let (i, o) = (scale.channels(i), scale.channels(o));
        [n, scale.side(h), scale.side(w), i, o, k, stride, padding, dilation]
    })
}

/// Some 400 places in a tensor: the first, the last, and others spread over it.
fn samples(len: usize) -> Vec<usize> {
    let spread = (0..400usize).map(|i| (i * 2_654_435_761 + 97) % len);
    spread.chain([0, len - 1]).collect()
}

/// What a tensor has at the samples, with its bound, as [`assert_within`] takes them.
fn assert_samples(what: &str, found: &Tensor, precision: Precision, reference: impl Fn(usize) -> Sum) {
    let at = samples(found.len());
    let values: Vec<f32> = at.iter().map(|i| found.data()[*i]).collect();
    let expected: Vec<_> = at.iter().map(|i| reference(*i).with_bound(precision)).collect();
    assert_within(what, &values, &expected);
    let largest = found.data().iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(found.data().iter().all(|v| v.is_finite()) && largest > 0.0, "{what}: {largest} is the largest");
}

/// An index of a row-major shape as coordinates.
fn coordinates<const N: usize>(mut index: usize, shape: [usize; N]) -> [usize; N] {
    let mut at = [0; N];
    for (at, size) in at.iter_mut().zip(shape).rev() {
        *at = index % size;
        index /= size;
    }
    at
}

/// The input row or column that tap `tap` of output `out` reads, if it lies on the map.
fn source(out: usize, tap: usize, [stride, padding, dilation]: [usize; 3], size: usize) -> Option<usize> {
    (out * stride + tap * dilation).checked_sub(padding).filter(|at| *at < size)
}

/// Two runs of `run` give the same bytes, those of NaNs too.
fn twice(what: &str, run: impl Fn() -> Tensor) -> Tensor {
    let (first, second) = (run(), run());
    let bits = |t: &Tensor| t.data().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert!(bits(&second) == bits(&first), "{what}: other bytes in a second run");
    first
}

#[test]
fn every_rung_convolves_at_full_size() {
    let alone = Alone::new();
    for shape in convolutions(&Scale::of(&alone)) {
        let (x, w, options) = convolution(&shape);
        let [_, h, width, i, o, k, stride, padding, dilation] = shape;
        let steps = [stride, padding, dilation];
        let mut plain: Option<Tensor> = None;
        for rung in conv2d::cuda::LADDER {
            let what = format!("{} {shape:?}", rung.rung.name);
            let y = twice(&what, || {
                conv2d::cuda::forward(&alone.gpu, rung, &x, &w, None, None, options).unwrap()
            });
            let &[n, oh, ow, _] = y.shape() else { panic!("{what}: {:?}", y.shape()) };
            assert_samples(&what, &y, rung.precision, |index| {
                let [m, p, q, c] = coordinates(index, [n, oh, ow, o]);
                let mut sum = Sum::default();
                for (r, s) in (0..k).flat_map(|r| (0..k).map(move |s| (r, s))) {
                    let (Some(y), Some(z)) = (source(p, r, steps, h), source(q, s, steps, width)) else {
                        continue;
                    };
                    let (a, b) = (((m * h + y) * width + z) * i, ((c * k + r) * k + s) * i);
                    (0..i).for_each(|d| sum.add(x.data()[a + d], w.data()[b + d]));
                }
                sum
            });
            if rung.precision == Precision::F32 {
                let first = plain.get_or_insert_with(|| y.clone());
                assert!(first == &y, "{what}: other bits than rung 0");
            }
        }
    }
}

#[test]
fn every_rung_gives_both_gradients_of_convolution_at_full_size() {
    let alone = Alone::new();
    for shape in convolutions(&Scale::of(&alone)) {
        let (x, w, options) = convolution(&shape);
        let [n, h, width, i, o, k, stride, padding, dilation] = shape;
        let steps = [stride, padding, dilation];
        let out = |size: usize| (size + 2 * padding - dilation * (k - 1) - 1) / stride + 1;
        let (oh, ow) = (out(h), out(width));
        let dy = random(&[n, oh, ow, o], 5);
        for rung in conv2d::cuda::LADDER.iter().filter(|r| r.both_ways) {
            let what = format!("{} backward {shape:?}", rung.rung.name);
            let dx = twice(&what, || {
                conv2d::cuda::input_gradient(&alone.gpu, rung, &dy, &w, x.shape(), options).unwrap()
            });
            assert_samples(&what, &dx, rung.precision, |index| {
                let [m, y, z, d] = coordinates(index, [n, h, width, i]);
                let mut sum = Sum::default();
                // The outputs that read this pixel: few, found by trying all near it.
                let near = |at: usize| (at.saturating_sub(k * dilation) / stride)..=((at + padding) / stride);
                for (p, r) in near(y).flat_map(|p| (0..k).map(move |r| (p, r))) {
                    for (q, s) in near(z).flat_map(|q| (0..k).map(move |s| (q, s))) {
                        let seen = p < oh && source(p, r, steps, h) == Some(y);
                        if seen && q < ow && source(q, s, steps, width) == Some(z) {
                            let from = ((m * oh + p) * ow + q) * o;
                            (0..o).for_each(|c| {
                                sum.add(dy.data()[from + c], w.data()[((c * k + r) * k + s) * i + d]);
                            });
                        }
                    }
                }
                sum
            });
        }
        for rung in conv2d::cuda::WEIGHT_LADDER {
            let what = format!("{} weight {shape:?}", rung.rung.name);
            let dw = twice(&what, || {
                conv2d::cuda::weight_gradient(&alone.gpu, rung, &dy, &x, w.shape(), options).unwrap()
            });
            assert_samples(&what, &dw, rung.precision, |index| {
                let [c, r, s, d] = coordinates(index, [o, k, k, i]);
                let mut sum = Sum::default();
                for (m, p, q) in
                    (0..n).flat_map(|m| (0..oh).flat_map(move |p| (0..ow).map(move |q| (m, p, q))))
                {
                    let (Some(y), Some(z)) = (source(p, r, steps, h), source(q, s, steps, width)) else {
                        continue;
                    };
                    let from = ((m * oh + p) * ow + q) * o + c;
                    sum.add(dy.data()[from], x.data()[((m * h + y) * width + z) * i + d]);
                }
                sum
            });
        }
    }
}

/// The choice of rung, the ranges of a weight's gradient and the transposed weights, as a training step uses them.
#[test]
fn convolution_as_trained_follows_the_cpu_at_full_size() {
    let alone = Alone::new();
    let scale = Scale::of(&alone);
    // Relative to the largest value: sums of some five thousand terms in another order; one rounding of each operand.
    for (precision, tolerance) in
        [(Precision::F32, 3e-5), (Precision::Tf32, 2f32.powi(-10)), (Precision::Bf16, 2f32.powi(-7))]
    {
        alone.gpu.set_precision(precision).unwrap();
        for index in [0, 4] {
            let shape = convolutions(&scale)[index];
            let (x, w, options) = convolution(&shape);
            follows_within(&alone, tolerance, &format!("{precision:?} {shape:?}"), &[x, w], |tape, v| {
                conv2d(tape, &v[0], &v[1], None, options)
            });
        }
    }
    alone.gpu.set_precision(Precision::F32).unwrap();
}

/// Features whose distances are near 1, so that the exponential keeps its digits.
fn features(shape: [usize; 4]) -> Tensor {
    let mut features = random(&shape, 6);
    features.data_mut().iter_mut().for_each(|v| *v /= shape[3] as f32);
    features
}

#[test]
fn affinities_and_their_loss_at_full_size() {
    let alone = Alone::new();
    let shape = Scale::of(&alone).map([2, 56, 56, 896]);
    let [n, h, w, k] = shape;
    let features = features(shape);
    let pairs = Pairs { stencil: Stencil::default(), reduction: Reduction::Sum, border: BorderRule::Full };
    let expected = affinities(&features, &pairs).unwrap();
    for rung in affinity::cuda::LADDER {
        let found =
            twice(rung.name, || affinity::cuda::affinities(&alone.gpu, rung, &features, &pairs).unwrap());
        for (i, (v, e)) in found.data().iter().zip(expected.data()).enumerate() {
            // W = exp(−d): K roundings of d, which is below 4 here, on both devices, and the exponential's.
            let bound = 2.0 * ((k + 8) as f64 * EPSILON * 4.0 + 4.0 * EPSILON) * f64::from(*e);
            assert!(
                v.is_nan() == e.is_nan() && (e.is_nan() || f64::from((v - e).abs()) <= bound),
                "{}: pair {i}: {v} for {e}",
                rung.name
            );
        }
    }
    let slopes = random(&[n, pairs.stencil.len(), h, w], 9);
    // A slope where there is no pair is 0.
    let mut masked = slopes.clone();
    for (slope, e) in masked.data_mut().iter_mut().zip(expected.data()) {
        if e.is_nan() {
            *slope = 0.0;
        }
    }
    let mut plain = None;
    for rung in affinity::cuda::BACKWARD_LADDER {
        let what = format!("{} gradient", rung.name);
        let found = twice(&what, || {
            affinity::cuda::gradient(&alone.gpu, rung, &features, &masked, &pairs.stencil).unwrap()
        });
        assert!(plain.get_or_insert_with(|| found.clone()) == &found, "{what}: other bits than rung 0");
    }
    let labels: Vec<u8> = (0..n * h * w).map(|p| [0, 0, 1, 1, 2, 255][p / 3 % 6]).collect();
    follows_within(&alone, 1e-4, "affinity loss", &[features], |tape, v| {
        Ok(affinity_loss(tape, &v[0], &labels, &pairs, LossForm::Paper)?.0)
    });
}

#[test]
fn every_rung_walks_at_full_size() {
    let alone = Alone::new();
    let scale = Scale::of(&alone);
    let (h, w, maps, steps) = (scale.side(47), scale.side(63), 3, scale.by(256, 8));
    let stencil = Stencil::default();
    let pairs = Pairs { stencil: stencil.clone(), reduction: Reduction::Sum, border: BorderRule::Full };
    let affinities = affinities(&features([1, h, w, scale.channels(896)]), &pairs).unwrap();
    let start = random(&[maps, h, w], 8);
    let range = start.data().iter().fold(0f32, |m, v| m.max(v.abs()));
    let expected = Transition::new(&affinities, &stencil, 8.0).unwrap().walk(&start, steps).unwrap();
    // As at small sizes: what rounding makes of the rows' sums, step after step.
    let bound = f32::max(1e-5, 2.0 * steps as f32 * f32::EPSILON) * range;
    for rung in walk::cuda::LADDER {
        let found = twice(rung.name, || {
            walk::cuda::walk(&alone.gpu, rung, &affinities, &stencil, 8.0, &start, steps).unwrap()
        });
        let off = found.data().iter().zip(expected.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off <= bound, "{}: off by {off:e}, {bound:e} is allowed", rung.name);
    }
}

#[test]
fn the_dense_crf_at_full_size() {
    let alone = Alone::new();
    let scale = Scale::of(&alone);
    let (h, w, labels) = (scale.side(375), scale.side(500), 21);
    let pixels =
        (0..h * w * 3).map(|i| (i / 3 % w / 7 * 40 + i / 3 / w / 9 * 25 + i % 3 * 30) as u8).collect();
    let image = RgbImage { width: w, height: h, pixels };
    let mut scores = random(&[labels, h, w], 3);
    scores.data_mut().iter_mut().for_each(|v| *v = v.abs() / 4.0);
    let options = CrfOptions::default();
    let expected = DenseCrf::new(&image, &options).unwrap().infer(&scores).unwrap();
    for rung in crf::cuda::LADDER {
        let name = rung.rung.name;
        let found = twice(name, || {
            let crf = DenseCrf::on(Some(&alone.gpu), &image, &options).unwrap();
            crf::cuda::infer(&alone.gpu, rung, &crf, &scores).unwrap()
        });
        for (i, (a, b)) in found.data().iter().zip(expected.data()).enumerate() {
            assert!((a - b).abs() < 1e-5, "{name}: probability {i}: {a} for {b}");
        }
    }
}

#[test]
fn what_works_on_maps_at_full_size() {
    let alone = Alone::new();
    let scale = Scale::of(&alone);
    let map = |shape: [usize; 4]| random(&scale.map(shape), 1);
    let c = scale.channels(512);
    let mut x = map([2, 56, 56, 512]);
    // Far from zero.
    x.data_mut().iter_mut().for_each(|v| *v += 3.0);
    let inputs = [x, random(&[c], 2), random(&[c], 3)];
    follows_within(&alone, 1e-4, "batch norm", &inputs, |tape, v| {
        Ok(batch_norm(tape, &v[0], &v[1], &v[2], Statistics::Learning, Activation::Relu)?.0)
    });
    follows(&alone, "elu", &[map([2, 56, 56, 512])], |tape, v| elu(tape, &v[0]));
    follows(&alone, "global average", &[map([4, 56, 56, 4096])], |tape, v| {
        global_average_pooling(tape, &v[0])
    });
    follows(&alone, "average pooling", &[map([1, 448, 448, 3])], |tape, v| average_pooling(tape, &v[0], 8));
    let parts = [64, 128, 256].map(|c| map([1, 56, 56, c]));
    follows(&alone, "concat", &parts, |tape, v| concat(tape, &[&v[0], &v[1], &v[2]]));
    follows_within(&alone, 0.0, "dropout", &[map([4, 56, 56, 4096])], |tape, v| {
        channel_dropout(tape, &v[0], 0.5, &mut Stream::new(7, Purpose::Dropout, 2, 5))
    });
    let (h, w) = (scale.side(375), scale.side(500));
    follows(&alone, "resize", &[random(&[1, scale.side(47), scale.side(63), 21], 1)], |tape, v| {
        bilinear_resize(tape, &v[0], h, w)
    });
    let labels: Vec<u8> = (0..h * w).map(|p| if p % 9 == 0 { 255 } else { (p % 21) as u8 }).collect();
    follows(&alone, "cross-entropy", &[random(&[1, h, w, 21], 1)], |tape, v| {
        softmax_cross_entropy(tape, &v[0], &labels)
    });
    let tags: Vec<f32> = (0..16 * 20).map(|i| f32::from(u8::from(i % 7 == 0))).collect();
    let tags = Tensor::new(&[16, 20], tags).unwrap();
    follows(&alone, "soft margin", &[random(&[16, 20], 1)], |tape, v| {
        multi_label_soft_margin(tape, &v[0], &tags.to_place(v[0].value().gpu(), "the tags")?)
    });
}

#[test]
fn sums_and_optimisers_at_full_size() {
    let alone = Alone::new();
    let scale = Scale::of(&alone);
    let values = random(&[scale.by((1 << 24) + 5, 1024)], 9);
    let exact: f64 = values.data().iter().map(|v| f64::from(*v)).sum();
    let size: f64 = values.data().iter().map(|v| f64::from(v.abs())).sum();
    for rung in reduce::cuda::LADDER {
        if rung.number == 0 && !scale.emulated {
            left_out("rung 0 of the sum: one thread would add for a second");
            continue;
        }
        let found = reduce::cuda::sum(&alone.gpu, rung, values.data()).unwrap();
        // Rung 0 adds in a row; rung 1 in a tree: far fewer roundings than values.
        let roundings = if rung.number == 0 { values.len() as f64 } else { 4200.0 };
        assert_within(rung.name, &[found], &[(exact, roundings * EPSILON * size)]);
    }
    // The 2048→4096 layer's weights, and the 3×3 layers' of 512 channels, not a multiple of anything.
    let sizes = [8_388_608, 2_359_297].map(|n| scale.by(n, 1024));
    let makers: [fn() -> Optimizer; 2] = [|| Optimizer::sgd(0.9), Optimizer::adam];
    for (which, make) in makers.into_iter().enumerate() {
        let train = |gpu| {
            let mut optimizer = make();
            let place = |t: Tensor| t.to_place(gpu, "a tensor").unwrap();
            let mut parameters = sizes.map(|n| place(random(&[n], 7)));
            for t in 0..2 {
                let gradients = sizes.map(|n| place(random(&[n], 8 + t)));
                let mut updates: Vec<Update<'_>> = parameters
                    .iter_mut()
                    .zip(&gradients)
                    .enumerate()
                    .map(|(index, (parameter, gradient))| Update {
                        index,
                        parameter,
                        gradient,
                        rate: 0.01,
                        decay: 5e-4,
                    })
                    .collect();
                assert_eq!(optimizer.update(&mut updates).unwrap(), None);
            }
            parameters.map(|p| p.to_host().unwrap())
        };
        for (found, expected) in train(Some(&alone.gpu)).iter().zip(&train(None)) {
            for (f, e) in found.data().iter().zip(expected.data()) {
                assert!((f - e).abs() <= 2e-6 * (1.0 + e.abs()), "optimiser {which}: {f} for {e}");
            }
        }
    }
}
