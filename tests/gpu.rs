//! The CUDA back end: every rung of every ladder against an f64 reference, on odd shapes; by default on the emulated GPU, with
//! all checks on, no finding, and the same bytes in every order of blocks and warps.
//!
//! `SEEDWALK_TEST_DEVICE=cuda:0` runs the same tests on a GPU. What only the emulator can do is left out there, and each test
//! says so in a line `left out on cuda:0: …`; what was measured on the way is a line `fact: {…}`. The GPU day
//! (`cargo xtask gpu-day`) reads both.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use seedwalk::Result;
use seedwalk::device::cuda::{Emulator, Gpu, kernel_names};
use seedwalk::device::{Device, Request};
use seedwalk::formats::safetensors::{Dtype, read_tensors, write_tensors};
use seedwalk::ops::affinity::{self, BorderRule, Pairs, Reduction, Stencil};
use seedwalk::ops::conv2d::{self, Conv2dOptions, cuda::Precision};
use seedwalk::ops::reduce;
use seedwalk::ops::walk::{self, Transition};
use seedwalk::rng::{Purpose, Stream};
use seedwalk::tensor::Tensor;

mod common;
use common::Place;

#[path = "gpu/adversarial.rs"]
mod adversarial;
#[path = "gpu/crf.rs"]
mod crf;
#[path = "gpu/full_size.rs"]
mod full_size;
#[path = "gpu/loading.rs"]
mod loading;
#[path = "gpu/operations.rs"]
mod operations;
#[path = "gpu/optimisers.rs"]
mod optimisers;
#[path = "gpu/training.rs"]
mod training;

/// Rounding of one f32 operation.
const EPSILON: f64 = f64::EPSILON * (1u64 << 28) as f64;

/// The device under test, and its name for the program's `--device`.
fn device() -> (Device, String) {
    let name = std::env::var("SEEDWALK_TEST_DEVICE").unwrap_or_else(|_| "emulated".into());
    match Request::parse(&name) {
        Ok(Request::Only(device)) if device != Device::Cpu => (device, device.to_string()),
        _ => panic!("SEEDWALK_TEST_DEVICE={name}: `emulated`, `cuda` or `cuda:N` is meant"),
    }
}

/// Says what this test does not do on the device under test.
fn left_out(what: &str) {
    println!("left out on {}: {what}", device().1);
}

/// The GPU for one test at a time: the emulator's settings and report are the process's, and so is a real GPU's precision.
struct Alone {
    gpu: Arc<Gpu>,
    /// `None` on a real GPU.
    emulator: Option<Emulator>,
    said: Cell<bool>,
    _alone: MutexGuard<'static, ()>,
}

impl Alone {
    fn new() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let gpu = device().0.gpu().unwrap();
        let emulator = gpu.emulator();
        if let Some(emulator) = &emulator {
            for (name, value) in [("faults", ""), ("seed", ""), ("checks", "all")] {
                emulator.set(name, value).unwrap();
            }
            emulator.reset().unwrap();
        }
        gpu.set_precision(Precision::F32).unwrap();
        Self { gpu, emulator, said: Cell::new(false), _alone: alone }
    }

    /// The emulator alone; on a real GPU `None`, and the test says that it is left out, and why.
    fn emulated(why: &str) -> Option<(Arc<Gpu>, Emulator, MutexGuard<'static, ()>)> {
        let Self { gpu, emulator, _alone, .. } = Self::new();
        if emulator.is_none() {
            left_out(&format!("the whole test: {why}"));
        }
        Some((gpu, emulator?, _alone))
    }

    /// What `run` gives, the same three times. Under the emulator: for several orders of blocks and warps, without a finding.
    fn same_bytes<T: PartialEq + std::fmt::Debug>(&self, what: &str, run: impl Fn(&Arc<Gpu>) -> T) -> T {
        let first = run(&self.gpu);
        let Some(emulator) = &self.emulator else {
            for repetition in [2, 3] {
                assert!(run(&self.gpu) == first, "{what}: other bytes in run {repetition}");
            }
            if !self.said.replace(true) {
                left_out("the emulator's checks and seeded orders; three runs gave the same bytes");
            }
            return first;
        };
        for seed in ["1", "2"] {
            emulator.set("seed", seed).unwrap();
            assert!(run(&self.gpu) == first, "{what}: other bytes with seed {seed}");
        }
        emulator.set("seed", "").unwrap();
        let report = emulator.report().unwrap();
        assert_eq!(report["findings_in_all"], 0, "{what}: {}", report["findings"]);
        assert!(report["launches_in_all"].as_u64() > Some(0), "{what}: nothing ran");
        emulator.reset().unwrap();
        first
    }
}

fn random(shape: &[usize], index: u64) -> Tensor {
    let mut stream = Stream::new(0x6b75, Purpose::Test, 0, index);
    let len = shape.iter().product();
    Tensor::new(shape, (0..len).map(|_| stream.normal()).collect()).unwrap()
}

/// Each value within its own bound of the reference.
fn assert_within(what: &str, found: &[f32], expected: &[(f64, f64)]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (&v, &(e, bound))) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(v) - e).abs() <= bound, "{what}: value {i} is {v}, not {e} ± {bound:e}");
    }
}

#[test]
fn ladders_name_kernels_that_there_are_and_all_of_them_once() {
    let known: BTreeSet<&str> = kernel_names().into_iter().collect();
    let ladders = [
        conv2d::cuda::LADDER.iter().map(|r| r.rung).collect::<Vec<_>>(),
        affinity::cuda::LADDER.to_vec(),
        affinity::cuda::BACKWARD_LADDER.to_vec(),
        walk::cuda::LADDER.to_vec(),
        reduce::cuda::LADDER.to_vec(),
        conv2d::cuda::WEIGHT_LADDER.iter().map(|r| r.rung).collect(),
        seedwalk::ops::crf::cuda::LADDER.iter().map(|r| r.rung).collect(),
    ];
    for ladder in ladders {
        assert!(ladder.windows(2).all(|w| w[0].number < w[1].number && w[0].name != w[1].name));
        for rung in ladder {
            assert!(known.contains(rung.kernel), "{} names {}", rung.name, rung.kernel);
        }
    }
}

/// Shape of a convolution: N, H, W, I, O, K, stride, padding, dilation.
const CONVOLUTIONS: &[[usize; 9]] = &[
    [1, 1, 1, 1, 1, 1, 1, 0, 1],
    [2, 5, 7, 3, 5, 3, 1, 1, 1],
    [1, 9, 11, 17, 33, 3, 2, 1, 1],
    [1, 6, 13, 8, 129, 3, 1, 2, 2],
    [1, 12, 11, 36, 16, 1, 1, 0, 1],
    [3, 7, 7, 5, 4, 3, 2, 4, 4],
    [1, 8, 8, 4, 8, 2, 3, 0, 1],
];

fn convolution(shape: &[usize; 9]) -> (Tensor, Tensor, Conv2dOptions) {
    let [n, h, w, i, o, k, stride, padding, dilation] = *shape;
    (random(&[n, h, w, i], 1), random(&[o, k, k, i], 2), Conv2dOptions { stride, padding, dilation })
}

/// Relative rounding of one operand, by what a rung multiplies in.
fn operand_rounding(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 0.0,
        Precision::Tf32 => 2f64.powi(-11),
        Precision::Bf16 => 2f64.powi(-8),
    }
}

/// For each triple (output, input, weight) of indices that a convolution multiplies.
fn for_each_product(shape: &[usize; 9], [oh, ow]: [usize; 2], mut visit: impl FnMut(usize, usize, usize)) {
    let [n, h, w, i, o, k, stride, padding, dilation] = *shape;
    for (m, p, q) in (0..n).flat_map(|m| (0..oh).flat_map(move |p| (0..ow).map(move |q| (m, p, q)))) {
        for (r, s) in (0..k).flat_map(|r| (0..k).map(move |s| (r, s))) {
            let (y, x) = (
                (p * stride + r * dilation).wrapping_sub(padding),
                (q * stride + s * dilation).wrapping_sub(padding),
            );
            if y < h && x < w {
                for (c, d) in (0..o).flat_map(|c| (0..i).map(move |d| (c, d))) {
                    let output = ((m * oh + p) * ow + q) * o + c;
                    visit(output, ((m * h + y) * w + x) * i + d, ((c * k + r) * k + s) * i + d);
                }
            }
        }
    }
}

/// A sum of products as a reference with its bound: `terms` roundings of f32, and both operands' own.
#[derive(Clone, Copy, Default)]
struct Sum {
    value: f64,
    size: f64,
    terms: f64,
}

impl Sum {
    fn add(&mut self, a: f32, b: f32) {
        let product = f64::from(a) * f64::from(b);
        self.value += product;
        self.size += product.abs();
        self.terms += 1.0;
    }

    fn with_bound(&self, precision: Precision) -> (f64, f64) {
        // Tensor cores may cut off instead of rounding: twice an f32's rounding a term.
        let relative = 2.0 * operand_rounding(precision) * 1.01 + (self.terms + 2.0) * 2.0 * EPSILON;
        (self.value, self.size * relative + 1e-30)
    }
}

#[test]
fn every_rung_convolves() {
    let alone = Alone::new();
    for shape in CONVOLUTIONS {
        let (x, w, options) = convolution(shape);
        let bias = random(&[shape[4]], 3);
        let mut plain: Option<Tensor> = None;
        for rung in conv2d::cuda::LADDER {
            let what = format!("{} {shape:?}", rung.rung.name);
            let run = |add: Option<&Tensor>| {
                alone.same_bytes(&what, |gpu| {
                    conv2d::cuda::forward(gpu, rung, &x, &w, Some(&bias), add, options).unwrap()
                })
            };
            let y = run(None);
            let &[_, oh, ow, o] = y.shape() else { panic!("{what}: {:?}", y.shape()) };
            let mut sums = vec![Sum::default(); y.len()];
            for_each_product(shape, [oh, ow], |to, a, b| sums[to].add(x.data()[a], w.data()[b]));
            for (i, sum) in sums.iter_mut().enumerate() {
                let bias = bias.data()[i % o];
                sum.value += f64::from(bias);
                sum.size += f64::from(bias.abs());
            }
            let expected: Vec<_> = sums.iter().map(|s| s.with_bound(rung.precision)).collect();
            assert_within(&what, y.data(), &expected);
            // The plain rungs add in the same order: same bits.
            if rung.precision == Precision::F32 {
                let first = plain.get_or_insert_with(|| y.clone());
                assert!(first == &y, "{what}: other bits than rung 0");
            }
            // The normalisation is taken at the end, with the CPU's roundings.
            let (a, b) = (random(&[o], 6), random(&[o], 7));
            let normalised = alone.same_bytes(&what, |gpu| {
                conv2d::cuda::forward_normalised(gpu, rung, &x, &w, [&a, &b], options).unwrap()
            });
            let bare = conv2d::cuda::forward(&alone.gpu, rung, &x, &w, None, None, options).unwrap();
            for (i, (t, y)) in bare.data().iter().zip(normalised.data()).enumerate() {
                let expected = (a.data()[i % o] * t + b.data()[i % o]).max(0.0);
                assert_eq!(*y, expected, "{what}: {t} normalised");
            }
            // The shortcut is added at the end.
            let shortcut = random(y.shape(), 4);
            let added = run(Some(&shortcut));
            for ((sum, with), extra) in y.data().iter().zip(added.data()).zip(shortcut.data()) {
                assert!((sum + extra - with).abs() <= 1e-5 * (sum.abs() + extra.abs()), "{what}: shortcut");
            }
        }
    }
}

#[test]
fn every_rung_that_goes_both_ways_gives_the_inputs_gradient() {
    let alone = Alone::new();
    for shape in CONVOLUTIONS {
        let (x, w, options) = convolution(shape);
        let plain = &conv2d::cuda::LADDER[0];
        let y = conv2d::cuda::forward(&alone.gpu, plain, &x, &w, None, None, options).unwrap();
        let &[_, oh, ow, _] = y.shape() else { panic!("{:?}", y.shape()) };
        let dy = random(y.shape(), 5);
        for rung in conv2d::cuda::LADDER.iter().filter(|r| r.both_ways) {
            let what = format!("{} backward {shape:?}", rung.rung.name);
            let dx = alone.same_bytes(&what, |gpu| {
                conv2d::cuda::input_gradient(gpu, rung, &dy, &w, x.shape(), options).unwrap()
            });
            let mut sums = vec![Sum::default(); dx.len()];
            for_each_product(shape, [oh, ow], |from, to, b| sums[to].add(dy.data()[from], w.data()[b]));
            let expected: Vec<_> = sums.iter().map(|s| s.with_bound(rung.precision)).collect();
            assert_within(&what, dx.data(), &expected);
        }
        let error = conv2d::cuda::input_gradient(&alone.gpu, plain, &dy, &w, x.shape(), options).unwrap_err();
        assert!(error.to_string().contains("forward only"));
    }
}

#[test]
fn every_rung_gives_the_weights_gradient() {
    let alone = Alone::new();
    // The last has more pixels than one range.
    let many = [3, 29, 31, 3, 5, 3, 2, 1, 1];
    for shape in CONVOLUTIONS.iter().chain([&many]) {
        let (x, w, options) = convolution(shape);
        let plain = &conv2d::cuda::LADDER[0];
        let y = conv2d::cuda::forward(&alone.gpu, plain, &x, &w, None, None, options).unwrap();
        let &[_, oh, ow, _] = y.shape() else { panic!("{:?}", y.shape()) };
        let dy = random(y.shape(), 5);
        for rung in conv2d::cuda::WEIGHT_LADDER {
            let what = format!("{} weight {shape:?}", rung.rung.name);
            let dw = alone.same_bytes(&what, |gpu| {
                conv2d::cuda::weight_gradient(gpu, rung, &dy, &x, w.shape(), options).unwrap()
            });
            let mut sums = vec![Sum::default(); dw.len()];
            for_each_product(shape, [oh, ow], |from, at, to| sums[to].add(dy.data()[from], x.data()[at]));
            let expected: Vec<_> = sums.iter().map(|s| s.with_bound(rung.precision)).collect();
            assert_within(&what, dw.data(), &expected);
        }
    }
}

#[test]
fn every_rung_gives_the_affinities() {
    let alone = Alone::new();
    for (shape, radius) in [([1, 1, 1, 1], 5), ([2, 9, 17, 33], 5), ([1, 16, 33, 8], 5), ([1, 10, 12, 7], 3)]
    {
        for (border, reduction) in [(BorderRule::Full, Reduction::Sum), (BorderRule::Psa, Reduction::Mean)] {
            // The narrow border rule has no pairs on the smallest grid.
            if border == BorderRule::Psa && shape[1] == 1 {
                continue;
            }
            let pairs = Pairs { stencil: Stencil::new(radius, false).unwrap(), reduction, border };
            // Small, so that distances are near 1 and the exponential keeps its digits.
            let features = random(&shape, 6);
            let small: Vec<f32> = features.data().iter().map(|v| v / shape[3] as f32).collect();
            let features = Tensor::new(&shape, small).unwrap();
            let expected = affinity::affinities(&features, &pairs).unwrap();
            for rung in affinity::cuda::LADDER {
                let what = format!("{} {shape:?} radius {radius}, {border:?}", rung.name);
                if !affinity::cuda::takes(rung, &pairs.stencil) {
                    assert!(
                        affinity::cuda::affinities(&alone.gpu, rung, &features, &pairs).is_err(),
                        "{what}"
                    );
                    continue;
                }
                let found = alone.same_bytes(&what, |gpu| {
                    let t = affinity::cuda::affinities(gpu, rung, &features, &pairs).unwrap();
                    t.data().iter().map(|v| v.to_bits()).collect::<Vec<_>>()
                });
                for (v, &e) in found.iter().map(|b| f32::from_bits(*b)).zip(expected.data()) {
                    assert_eq!(v.is_nan(), e.is_nan(), "{what}");
                    // W = exp(−d): K terms' rounding in d, which is below 4 here, and the exponential's.
                    let bound = ((shape[3] + 8) as f64 * EPSILON * 4.0 + 4.0 * EPSILON) * f64::from(e);
                    assert!(e.is_nan() || f64::from((v - e).abs()) <= bound, "{what}: {v} for {e}");
                }
            }
        }
    }
}

#[test]
fn every_rung_gives_the_features_gradient() {
    let alone = Alone::new();
    let stencil = Stencil::default();
    for shape in [[1, 1, 2, 1], [2, 9, 17, 33], [1, 5, 6, 20], [1, 19, 35, 16]] {
        let [n, h, w, k] = shape;
        // Few values, so that there are equal ones, whose sign is 0.
        let steps: Vec<f32> = random(&shape, 6).data().iter().map(|v| v.round()).collect();
        let features = Tensor::new(&shape, steps).unwrap();
        let mut slopes = random(&[n, stencil.len(), h, w], 9);
        let mut expected = vec![Sum::default(); features.len()];
        for (image, plane) in (0..n).flat_map(|i| (0..stencil.len()).map(move |p| (i, p))) {
            let (dy, dx) = stencil.offsets()[plane];
            let (ys, xs) = stencil.sources((dy, dx), h, w, BorderRule::Full);
            for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
                let slope = &mut slopes.data_mut()[((image * stencil.len() + plane) * h + y) * w + x];
                if !ys.contains(&y) || !xs.contains(&x) {
                    *slope = 0.0;
                    continue;
                }
                let a = (image * h + y) * w + x;
                let b = (image * h + y + dy) * w + x.wrapping_add_signed(dx);
                for c in 0..k {
                    let difference = features.data()[a * k + c] - features.data()[b * k + c];
                    let sign = if difference == 0.0 { 0.0 } else { difference.signum() };
                    expected[a * k + c].add(*slope, sign);
                    expected[b * k + c].add(*slope, -sign);
                }
            }
        }
        let expected: Vec<_> = expected.iter().map(|s| s.with_bound(Precision::F32)).collect();
        let mut plain = None;
        for rung in affinity::cuda::BACKWARD_LADDER {
            let what = format!("{} gradient {shape:?}", rung.name);
            let found = alone.same_bytes(&what, |gpu| {
                affinity::cuda::gradient(gpu, rung, &features, &slopes, &stencil).unwrap()
            });
            assert_within(&what, found.data(), &expected);
            assert!(plain.get_or_insert_with(|| found.clone()) == &found, "{what}: other bits than rung 0");
        }
    }
}

#[test]
fn every_rung_walks() {
    let alone = Alone::new();
    for (h, w, maps, radius, steps) in
        [(1, 1, 1, 5, 3), (5, 7, 3, 5, 1), (9, 13, 5, 5, 70), (8, 6, 2, 3, 256)]
    {
        let stencil = Stencil::new(radius, false).unwrap();
        let pairs = Pairs { stencil: stencil.clone(), reduction: Reduction::Mean, border: BorderRule::Full };
        let affinities = affinity::affinities(&random(&[1, h, w, 4], 7), &pairs).unwrap();
        let start = random(&[maps, h, w], 8);
        let range = start.data().iter().fold(0f32, |m, v| m.max(v.abs()));
        for beta in [8.0, 2.5] {
            let expected = Transition::new(&affinities, &stencil, beta).unwrap().walk(&start, steps).unwrap();
            for rung in walk::cuda::LADDER {
                let what = format!("{} {h}×{w}, {maps} maps, {steps} steps, β {beta}", rung.name);
                let found = alone.same_bytes(&what, |gpu| {
                    walk::cuda::walk(gpu, rung, &affinities, &stencil, beta, &start, steps).unwrap()
                });
                let worst =
                    found.data().iter().zip(expected.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                // 10⁻⁵ of a map's range; in long walks what rounding makes of the rows' sums, which are 1 within
                // ε on either side, step after step.
                let bound = f32::max(1e-5, 2.0 * steps as f32 * f32::EPSILON) * range;
                assert!(worst <= bound, "{what}: off by {worst:e}");
            }
        }
        assert_eq!(walk::cuda::choose(&alone.gpu, &stencil, h, w).name, "whole");
        assert_eq!(walk::cuda::choose(&alone.gpu, &stencil, 500, 500).name, "step");
    }
}

#[test]
fn every_rung_adds_up() {
    let alone = Alone::new();
    for count in [1, 2, 31, 255, 4095, 4096, 4097, 10_007] {
        let values = random(&[count], 9);
        let exact: f64 = values.data().iter().map(|v| f64::from(*v)).sum();
        let size: f64 = values.data().iter().map(|v| f64::from(v.abs())).sum();
        for rung in reduce::cuda::LADDER {
            let what = format!("{} {count}", rung.name);
            let found = alone.same_bytes(&what, |gpu| reduce::cuda::sum(gpu, rung, values.data()).unwrap());
            assert_within(&what, &[found], &[(exact, count as f64 * EPSILON * size)]);
        }
    }
}

#[test]
fn errors_name_what_was_done_and_what_to_do() {
    let alone = Alone::new();
    let (free, total) = alone.gpu.memory().unwrap();
    println!("fact: {}", serde_json::json!({ "free_bytes": free, "total_bytes": total }));
    let error = alone.gpu.zeros::<f32>("the class maps", total).unwrap_err();
    let words = error.to_string();
    for part in [&device().1, "allocating the class maps, ", "out of memory", "MiB are free"] {
        assert!(words.contains(part), "{part} is not in {words}");
    }
    assert!(error.how_to_mend().unwrap().contains("--batch"));
    assert_eq!(error.exit_code(), 1);
    assert_eq!(alone.gpu.download(&alone.gpu.zeros::<f32>("x", 3).unwrap()).unwrap(), [0.0; 3]);
}

/// Runs `work` once for each of its driver calls, with that call made to fail: it ends with a typed error that tells of it,
/// or as ever where the call only gave something back, and nothing stays behind on the driver's side. Work with so many
/// calls at least.
fn every_driver_call_may_fail<T: PartialEq>(least: u64, work: impl Fn(&Arc<Gpu>) -> Result<T>) {
    let Some((gpu, emulator, _alone)) = Alone::emulated("a real driver does not fail on demand") else {
        return;
    };
    let live = || {
        // Without the launches the report is short.
        emulator.reset().unwrap();
        emulator.report().unwrap()["live"].clone()
    };
    let run = || {
        let outcome = work(&gpu);
        // A destructor's failure comes out at the next call.
        let _ = gpu.synchronize();
        gpu.synchronize().unwrap();
        outcome
    };
    let expected = run().unwrap();
    // Kernels are loaded: what is live now is what stays.
    let before = live();
    emulator.reset().unwrap();
    assert!(run().unwrap() == expected, "other values the second time");
    let calls = emulator.report().unwrap()["calls"]["total"].as_u64().unwrap();
    assert!(calls >= least, "{calls} calls");
    let mut failures = 0;
    for n in 1..=calls {
        emulator.set("faults", &format!("call:{n}=CUDA_ERROR_ILLEGAL_STATE")).unwrap();
        let outcome = work(&gpu);
        emulator.set("faults", "").unwrap();
        let _ = gpu.synchronize();
        gpu.synchronize().unwrap();
        let told = match outcome {
            Ok(found) => {
                assert!(found == expected, "other values when call {n} failed");
                "no error".to_string()
            }
            Err(error) => {
                assert!(error.to_string().contains("fault on demand"), "call {n}: {error}");
                failures += 1;
                error.to_string()
            }
        };
        // Page-locked memory whose copy failed is not kept for the next.
        for (what, count) in live().as_object().unwrap() {
            assert!(
                count.as_u64() <= before[what].as_u64(),
                "{what}: {count} live after call {n} failed ({told}), {} before",
                before[what]
            );
        }
    }
    assert!(2 * failures > calls, "{failures} of {calls} calls failed");
}

#[test]
fn every_driver_call_of_a_walk_may_fail() {
    let stencil = Stencil::default();
    let pairs = Pairs { stencil: stencil.clone(), reduction: Reduction::Mean, border: BorderRule::Full };
    let affinities = affinity::affinities(&random(&[1, 4, 5, 3], 7), &pairs).unwrap();
    let start = random(&[2, 4, 5], 8);
    let rung = &walk::cuda::LADDER[1];
    every_driver_call_may_fail(10, |gpu| walk::cuda::walk(gpu, rung, &affinities, &stencil, 8.0, &start, 5));
}

#[test]
fn a_named_device_is_never_replaced() {
    let resolve = |name: &str| Request::parse(name).unwrap().resolve();
    assert!(resolve("cpu").unwrap().is_none());
    let _alone = Alone::new();
    let (device, name) = device();
    assert_eq!(resolve(&name).unwrap().unwrap().device(), device);
    // One process uses one driver: the other kind of GPU cannot be had in it.
    let (other, best) = match device {
        Device::Emulated => ("cuda", None),
        _ => ("emulated", Some(Device::Cuda(0))),
    };
    let error = resolve(other).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.how_to_mend().is_some());
    assert_eq!(resolve("auto").unwrap().map(|gpu| gpu.device()), best);
}

/// A place with `a.safetensors` and `m.safetensors` for the walk.
fn walking_place() -> Place {
    let place = Place::empty();
    let pairs = Pairs { stencil: Stencil::default(), reduction: Reduction::Mean, border: BorderRule::Full };
    let affinities = affinity::affinities(&random(&[1, 6, 9, 4], 7), &pairs).unwrap();
    let affinities = affinities.reshape(&[34, 6, 9]).unwrap();
    let write =
        |file, name, tensor| write_tensors(&place.at(file), &[(name, tensor)], Dtype::F32, &[]).unwrap();
    write("a.safetensors", "affinities", &affinities);
    write("m.safetensors", "maps", &random(&[3, 6, 9], 8));
    place
}

const WALK: &str = "walk --affinities a.safetensors --maps m.safetensors --steps 20";

#[test]
fn the_command_walks_on_the_gpu() {
    let place = walking_place();
    place.succeeds(&format!("{WALK} --device cpu --output cpu.safetensors"));
    place.succeeds(&format!("{WALK} --device {} --output gpu.safetensors", device().1));
    let read = |file| read_tensors(&place.at(file)).unwrap().get("maps").unwrap().clone();
    let (cpu, gpu) = (read("cpu.safetensors"), read("gpu.safetensors"));
    assert_eq!(cpu.shape(), gpu.shape());
    for (a, b) in cpu.data().iter().zip(gpu.data()) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
}

#[test]
fn a_device_that_cannot_be_had_is_told_with_a_remedy() {
    let place = walking_place();
    let fails = |device: &str, variables: &[(&str, &str)], words: &[&str]| {
        let line = format!("{WALK} --device {device} --output x.safetensors");
        let out = place.command(&line).envs(variables.iter().copied()).output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{device}: {text}");
        for word in words {
            assert!(text.contains(word), "{device}: `{word}` is not in {text}");
        }
        // One line of cause, one of what to do.
        assert_eq!(text.lines().count(), 2, "{text}");
    };
    // No driver, or no such GPU, whatever this machine has.
    fails("cuda:99", &[], &["--device cpu"]);
    fails("emulated", &[("SEEDWALK_EMULATED_CUDA", "nowhere.so")], &["nowhere.so", "cargo build"]);
    fails("emulated", &[("EMULATED_CUDA_DEVICES", "0")], &["the driver sees no NVIDIA GPU", "nvidia-smi"]);
    fails("emulated", &[("EMULATED_CUDA_DRIVER_VERSION", "11020")], &["CUDA 11.2, 11.4 is needed", "newer"]);
    fails("emulated", &[("EMULATED_CUDA_GPU", "voodoo")], &["EMULATED_CUDA_GPU", "a100"]);
    fails(
        "emulated",
        &[("EMULATED_CUDA_MEMORY", "1000")],
        &["out of memory", "the affinities", "MiB are free"],
    );
    fails("emulated", &[("EMULATED_CUDA_FAULTS", "launch:2")], &["launch 2", "walk_"]);
    assert!(!place.at("x.safetensors").exists());
    // Commands that cannot compute there say which can.
    place.fails("synth --output x --images 8 --device emulated", 1, &["emulated", "`walk`", "--device cpu"]);
    place.fails("synth --output x --images 8 --precision bf16", 1, &["f32 only", "--precision"]);
}
