//! All subjects: those with ladders, then what networks, trainings and the CRF are made of beside products.

use std::any::Any;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Build, Case, Dimension, Ready, Shape, Subject, Work, ladders};
use crate::Result;
use crate::device::Precision;
use crate::device::cuda::Gpu;
use crate::formats::image::RgbImage;
use crate::nn::module::{Parameters, Role};
use crate::ops::batch_norm::{Activation, BatchStatistics, Statistics, batch_norm};
use crate::ops::conv2d::{Conv2dOptions, conv2d};
use crate::ops::crf::{CrfOptions, DenseCrf};
use crate::ops::ladders::Step;
use crate::ops::{activation, concat, dropout, elementwise, losses, pooling, resize};
use crate::optim::cuda::Stop;
use crate::optim::{Optimizer, Update};
use crate::rng::{Purpose, Stream};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// A dimension with its value on a GPU and on the emulated one.
#[allow(non_snake_case, reason = "a row of a table")]
pub(super) const fn D(key: &'static str, on_gpu: usize, emulated: usize) -> Dimension {
    Dimension { key, on_gpu, emulated }
}

/// A map of 100 MB on a GPU, more than its cache holds.
const MAPS: &[Dimension] =
    &[D("batch", 16, 2), D("height", 56, 16), D("width", 56, 16), D("channels", 512, 32)];
/// Scores of 21 classes at stride 8, resized to the picture.
const SCORES: &[Dimension] =
    &[D("batch", 1, 1), D("height", 47, 16), D("width", 63, 16), D("channels", 21, 4), D("factor", 8, 2)];
const LABELLED: &[Dimension] =
    &[D("batch", 4, 2), D("height", 112, 16), D("width", 112, 16), D("channels", 21, 5)];
const LOGITS: &[Dimension] = &[D("batch", 16, 2), D("channels", 20, 20)];
/// As many as ResNet-38 has, in tensors of a million.
const PARAMETERS: &[Dimension] = &[D("tensors", 105, 2), D("values", 1 << 20, 5000)];
const CHANNELS: &[Dimension] = &[D("tensors", 90, 3), D("values", 512, 32)];
pub(super) const PHOTO: &[Dimension] =
    &[D("height", 375, 12), D("width", 500, 14), D("labels", 21, 3), D("iterations", 10, 2)];

/// Everything that can be profiled.
pub fn catalogue() -> Vec<Subject> {
    let subject =
        |operation, pass, dimensions, build| Subject { operation, pass, dimensions, rungs: vec![], build };
    let mut all = ladders::subjects();
    all.extend([
        subject("conv2d", "bias gradient", MAPS, bias_gradient as Build),
        subject("batch_norm", "frozen", MAPS, |s, _| normalisation(s, false, false)),
        subject("batch_norm", "frozen gradient", MAPS, |s, _| normalisation(s, false, true)),
        subject("batch_norm", "learning", MAPS, |s, _| normalisation(s, true, false)),
        subject("batch_norm", "learning gradient", MAPS, |s, _| normalisation(s, true, true)),
        subject("batch_norm", "running statistics", CHANNELS, |s, _| running_statistics(s)),
        subject("activation", "relu", MAPS, |s, _| maps(s, "relu", false, [0.0, 2.0], relu)),
        subject("activation", "relu gradient", MAPS, |s, _| maps(s, "relu", true, [1.0, 3.0], relu)),
        subject("activation", "elu", MAPS, |s, _| maps(s, "elu", false, [2.0, 2.0], elu)),
        subject("activation", "elu gradient", MAPS, |s, _| maps(s, "elu", true, [2.0, 3.0], elu)),
        subject("elementwise", "add", MAPS, |s, _| maps(s, "add", false, [1.0, 3.0], add)),
        subject("dropout", "forward", MAPS, |s, _| maps(s, "channel dropout", false, [1.0, 2.0], drop_maps)),
        subject("dropout", "gradient", MAPS, |s, _| maps(s, "channel dropout", true, [1.0, 2.0], drop_maps)),
        subject("concat", "forward", MAPS, |s, _| maps(s, "concat", false, [0.0, 4.0], join)),
        subject("concat", "gradient", MAPS, |s, _| maps(s, "concat", true, [0.0, 4.0], join)),
        subject("pooling", "global", MAPS, |s, _| maps(s, "global average", false, [1.0, 1.0], global)),
        subject("pooling", "global gradient", MAPS, |s, _| {
            maps(s, "global average", true, [1.0, 1.0], global)
        }),
        subject("pooling", "average", MAPS, |s, _| maps(s, "", false, [1.0, 1.25], average)),
        subject("pooling", "average gradient", MAPS, |s, _| maps(s, "", true, [1.0, 1.25], average)),
        subject("resize", "forward", SCORES, |s, _| resized(s, false)),
        subject("resize", "gradient", SCORES, |s, _| resized(s, true)),
        subject("losses", "multi-label", LOGITS, |s, _| multi_label(s)),
        subject("losses", "cross-entropy", LABELLED, |s, _| cross_entropy(s)),
        subject("optimizer", "sgd", PARAMETERS, |s, _| optimiser(s, false)),
        subject("optimizer", "adam", PARAMETERS, |s, _| optimiser(s, true)),
        subject("optimizer", "stop", &[], |_, _| stop()),
    ]);
    // Last: a kernel is shown by the first case that launches it, and these launch those of others.
    all.extend(ladders::epilogues());
    all
}

/// Normal values: zeros would flatter a GPU's power limit. A few thousand draws, repeated.
pub(super) fn random(shape: &[usize], seed: u64) -> Tensor {
    let mut stream = Stream::new(seed, Purpose::Test, 0, 0);
    let values: Vec<f32> = (0..8191).map(|_| stream.normal()).collect();
    let len: usize = shape.iter().product();
    Tensor::new(shape, values.iter().copied().cycle().take(len).collect()).expect("the length fits the shape")
}

/// Random values on a GPU.
pub(super) fn device(gpu: &Arc<Gpu>, shape: &[usize], seed: u64) -> Result<Tensor> {
    random(shape, seed).to_device(gpu, "a random input")
}

/// What a case returns: whatever the operation made, for as long as the recording wants it.
pub(super) fn keep<T: Any>(made: T) -> Result<T> {
    Ok(made)
}

/// An operation that is ready to be executed.
pub(super) fn ready<T: Any>(run: impl FnOnce() -> Result<T> + 'static) -> Ready {
    Box::new(move || Ok(Box::new(run()?) as Box<dyn Any>))
}

type Operation = fn(&mut Tape, &[Var]) -> Result<Var>;

/// A case of a tape's operation: its forward pass, or its backward pass to all inputs.
fn on_tape(
    shape: String,
    work: Work,
    peer: Option<Value>,
    inputs: impl Fn() -> Vec<Tensor> + 'static,
    gradient: bool,
    operation: impl Fn(&mut Tape, &[Var]) -> Result<Var> + Clone + 'static,
) -> Case {
    let prepare = move |gpu: &Arc<Gpu>, seed: u64| {
        let operation = operation.clone();
        let mut tape = if gradient { Tape::new() } else { Tape::inference() };
        let on_gpu = |t: &Tensor| t.to_device(gpu, "an input");
        let inputs: Vec<Tensor> = inputs().iter().map(on_gpu).collect::<Result<_>>()?;
        if !gradient {
            let inputs: Vec<Var> = inputs.into_iter().map(Var::constant).collect();
            return Ok(ready(move || {
                let y = operation(&mut tape, &inputs)?;
                Ok((inputs, y))
            }));
        }
        let leaves: Vec<Var> = inputs.into_iter().map(|t| tape.leaf(t)).collect();
        let y = operation(&mut tape, &leaves)?;
        let given = device(gpu, y.shape(), seed + 1)?;
        Ok(ready(move || {
            // Held beside the tape, so that no operation writes into it: repeated, that would change what it works on.
            let held = given.clone();
            let gradients = tape.backward(&y, given)?;
            Ok((leaves, held, gradients))
        }))
    };
    let prepare = Box::new(prepare);
    Case { operation: "", pass: "", rung: None, shape, work, peer, kernels: vec![], prepare }
}

fn f32_work(flops: f64, values: f64) -> Work {
    Work { flops, bytes: 4.0 * values, precision: Precision::F32 }
}

fn maps_name([n, h, w, c]: [usize; 4]) -> String {
    format!("{n}×{h}×{w}×{c}")
}

/// An operation on maps of one shape: FLOPs a value and tensors that it touches.
fn maps(
    shape: &Shape,
    peer: &'static str,
    gradient: bool,
    [flops, touched]: [f64; 2],
    operation: Operation,
) -> Case {
    let maps = shape.maps();
    let values: f64 = maps.iter().map(|v| *v as f64).product();
    let pass = if gradient { "backward" } else { "forward" };
    let peer = (!peer.is_empty()).then(|| json!({ "op": peer, "pass": pass, "input": maps }));
    let inputs = move || vec![random(&maps, 1), random(&maps, 2)];
    on_tape(maps_name(maps), f32_work(flops * values, touched * values), peer, inputs, gradient, operation)
}

fn relu(tape: &mut Tape, v: &[Var]) -> Result<Var> {
    activation::relu(tape, &v[0])
}

fn elu(tape: &mut Tape, v: &[Var]) -> Result<Var> {
    activation::elu(tape, &v[0])
}

fn add(tape: &mut Tape, v: &[Var]) -> Result<Var> {
    elementwise::add(tape, &v[0], &v[1])
}

fn drop_maps(tape: &mut Tape, v: &[Var]) -> Result<Var> {
    dropout::channel_dropout(tape, &v[0], 0.5, &mut Stream::new(1, Purpose::Dropout, 0, 0))
}

fn join(tape: &mut Tape, v: &[Var]) -> Result<Var> {
    concat::concat(tape, &[&v[0], &v[1]])
}

fn global(tape: &mut Tape, v: &[Var]) -> Result<Var> {
    pooling::global_average_pooling(tape, &v[0])
}

fn average(tape: &mut Tape, v: &[Var]) -> Result<Var> {
    pooling::average_pooling(tape, &v[0], 2)
}

/// The gradient of a 1×1 convolution's bias; the convolution's own gradients are not asked for.
fn bias_gradient(shape: &Shape, _: Option<&crate::ops::ladders::Step>) -> Case {
    let [n, h, w, c] = shape.maps();
    let values: f64 = shape.maps().iter().map(|v| *v as f64).product();
    let (name, work) = (maps_name(shape.maps()), f32_work(values, values));
    on_tape(
        name,
        work,
        None,
        move || vec![random(&[c], 1)],
        true,
        move |tape, v| {
            let gpu = v[0].value().buffer()?.gpu();
            let x = Var::constant(device(gpu, &[n, h, w, 4], 2)?);
            let weight = Var::constant(device(gpu, &[c, 1, 1, 4], 3)?);
            conv2d(tape, &x, &weight, Some(&v[0]), Conv2dOptions::default())
        },
    )
}

/// With ReLU, as the networks have it.
fn normalisation(shape: &Shape, learning: bool, gradient: bool) -> Case {
    let maps = shape.maps();
    let values: f64 = maps.iter().map(|v| *v as f64).product();
    let (flops, touched) = match (learning, gradient) {
        (false, false) => (2.0, 2.0),
        // The mean and the variance are taken in one pass over x.
        (true, false) => (6.0, 3.0),
        // y, its gradient and x for the scale's gradient in, the gradient of x out.
        (false, true) => (6.0, 4.0),
        (true, true) => (10.0, 6.0),
    };
    let channels = maps[3];
    let inputs =
        move || vec![random(&maps, 1), Tensor::full(&[channels], 1.1), Tensor::full(&[channels], 0.1)];
    let peer = json!({
        "op": "batch_norm", "pass": if gradient { "backward" } else { "forward" }, "learning": learning, "input": maps,
    });
    let operation = move |tape: &mut Tape, v: &[Var]| {
        let gpu = v[0].value().buffer()?.gpu();
        let full = |value| Tensor::full(&[channels], value).to_device(gpu, "statistics");
        let (mean, variance) = (full(0.01)?, full(0.9)?);
        let statistics = match learning {
            true => Statistics::Learning,
            false => Statistics::Frozen { mean: &mean, variance: &variance },
        };
        Ok(batch_norm(tape, &v[0], &v[1], &v[2], statistics, Activation::Relu)?.0)
    };
    on_tape(
        maps_name(maps),
        f32_work(flops * values, touched * values),
        Some(peer),
        inputs,
        gradient,
        operation,
    )
}

fn running_statistics(shape: &Shape) -> Case {
    let [tensors, channels] = shape.of(["tensors", "values"]);
    let values = (2 * tensors * channels) as f64;
    let prepare = move |gpu: &Arc<Gpu>, seed: u64| {
        let mut parameters = Parameters::default();
        for i in 0..tensors {
            for kind in ["running_mean", "running_var"] {
                let value = device(gpu, &[channels], seed)?;
                parameters.declare(format!("bn{i}.{kind}"), value, Role::Statistic, false);
            }
        }
        let seen = |i| -> Result<(String, BatchStatistics)> {
            let (mean, variance) = (device(gpu, &[channels], seed + 1)?, device(gpu, &[channels], seed + 2)?);
            Ok((format!("bn{i}"), BatchStatistics { mean, variance }))
        };
        let seen: Vec<_> = (0..tensors).map(seen).collect::<Result<_>>()?;
        Ok(ready(move || {
            let bad = parameters.update_running_statistics(&seen, None)?.wait()?;
            Ok((parameters, bad))
        }))
    };
    plain(format!("{tensors} layers of {channels}"), f32_work(3.0 * values, 3.0 * values), None, prepare)
}

fn plain(
    shape: String,
    work: Work,
    peer: Option<Value>,
    prepare: impl Fn(&Arc<Gpu>, u64) -> Result<Ready> + 'static,
) -> Case {
    let prepare = Box::new(prepare);
    Case { operation: "", pass: "", rung: None, shape, work, peer, kernels: vec![], prepare }
}

fn resized(shape: &Shape, gradient: bool) -> Case {
    let [n, h, w, c] = shape.maps();
    let factor = shape.get("factor");
    let (height, width) = (h * factor, w * factor);
    let [from, to] = [n * h * w * c, n * height * width * c].map(|v| v as f64);
    let pass = if gradient { "backward" } else { "forward" };
    let peer = json!({ "op": "resize", "pass": pass, "input": [n, h, w, c], "size": [height, width] });
    let name = format!("{n}×{h}×{w}×{c} to {height}×{width}");
    let inputs = move || vec![random(&[n, h, w, c], 1)];
    on_tape(name, f32_work(6.0 * to, from + to), Some(peer), inputs, gradient, move |tape, v| {
        resize::bilinear_resize(tape, &v[0], height, width)
    })
}

fn multi_label(shape: &Shape) -> Case {
    let [n, c] = shape.of(["batch", "channels"]);
    let values = (n * c) as f64;
    let peer = json!({ "op": "multi-label loss", "input": [n, c] });
    let inputs = move || vec![random(&[n, c], 1)];
    // A softplus and a sigmoid: two exponentials' worth and a few sums.
    on_tape(
        format!("{n}×{c}"),
        f32_work(8.0 * values, 3.0 * values),
        Some(peer),
        inputs,
        false,
        move |tape, v| {
            let targets = Tensor::full(&[n, c], 1.0).to_device(v[0].value().buffer()?.gpu(), "targets")?;
            losses::multi_label_soft_margin(tape, &v[0], &targets)
        },
    )
}

/// Loss and gradient together: the forward pass works the slopes out on its way.
fn cross_entropy(shape: &Shape) -> Case {
    let maps = shape.maps();
    let [n, h, w, c] = maps;
    let values: f64 = maps.iter().map(|v| *v as f64).product();
    let peer = json!({ "op": "cross entropy", "input": maps });
    let prepare = move |gpu: &Arc<Gpu>, seed: u64| {
        let logits = device(gpu, &maps, seed)?;
        let one = Tensor::scalar(1.0).to_device(gpu, "the loss's gradient")?;
        let label = |p: usize| if p.is_multiple_of(9) { 255 } else { (p % c) as u8 };
        let labels: Vec<u8> = (0..n * h * w).map(label).collect();
        Ok(ready(move || {
            let mut tape = Tape::new();
            let logits = tape.leaf(logits);
            let loss = losses::softmax_cross_entropy(&mut tape, &logits, &labels)?;
            let gradients = tape.backward(&loss, one)?;
            Ok((logits, gradients))
        }))
    };
    plain(maps_name(maps), f32_work(6.0 * values, 2.0 * values), Some(peer), prepare)
}

/// A step over all parameters, which have state from a step before.
fn optimiser(shape: &Shape, adam: bool) -> Case {
    let [tensors, len] = shape.of(["tensors", "values"]);
    let values = (tensors * len) as f64;
    // Weight, gradient and momentum in, weight and momentum out; Adam has two moments.
    let (flops, touched) = if adam { (12.0, 7.0) } else { (5.0, 5.0) };
    let prepare = move |gpu: &Arc<Gpu>, seed: u64| {
        let make =
            |first| (0..tensors).map(|i| device(gpu, &[len], first + i as u64)).collect::<Result<Vec<_>>>();
        let (mut weights, gradients) = (make(seed)?, make(seed + 1000)?);
        let mut optimizer = if adam { Optimizer::adam() } else { Optimizer::sgd(0.9) };
        step(&mut optimizer, &mut weights, &gradients)?;
        Ok(ready(move || {
            step(&mut optimizer, &mut weights, &gradients)?;
            Ok((weights, gradients, optimizer))
        }))
    };
    plain(format!("{tensors} tensors of {len}"), f32_work(flops * values, touched * values), None, prepare)
}

fn step(optimizer: &mut Optimizer, weights: &mut [Tensor], gradients: &[Tensor]) -> Result<()> {
    let update =
        |(index, (parameter, gradient))| Update { index, parameter, gradient, rate: 1e-3, decay: 5e-4 };
    let mut updates: Vec<Update<'_>> = weights.iter_mut().zip(gradients).enumerate().map(update).collect();
    optimizer.update(&mut updates)?;
    Ok(())
}

/// The mark that a loss sets when it is no number: one value read.
fn stop() -> Case {
    let prepare = |gpu: &Arc<Gpu>, seed: u64| {
        let (loss, stop) = (device(gpu, &[], seed)?, Stop::new(gpu)?);
        Ok(ready(move || {
            stop.look_at(&loss)?;
            Ok((loss, stop))
        }))
    };
    plain("one loss".into(), f32_work(0.0, 1.0), None, prepare)
}

/// A picture with edges, gradients and noise; `benches/peer.py` makes the same.
fn photo(h: usize, w: usize) -> Result<RgbImage> {
    let mut pixels = Vec::with_capacity(h * w * 3);
    for y in 0..h {
        for x in 0..w {
            let patch = (x / 90 + 2 * (y / 80)) * 53 % 140;
            pixels.extend((0..3).map(|c| {
                let noise = (x * 7919 + y * 104_729 + c * 1301) % 23;
                ((patch * (c + 2) / 3 + x / (6 + c) + y / 9 + noise) % 256) as u8
            }));
        }
    }
    RgbImage::new(w, h, pixels)
}

/// Of the work on the lattice only splat and slice are counted: how many points the blur runs over depends on the picture.
/// Whatever the rung, all kernels that run are its own.
pub(super) fn crf(shape: &Shape, _: Option<&Step>) -> Case {
    let [h, w, labels, iterations] = shape.of(["height", "width", "labels", "iterations"]);
    // Six corners of a simplex in five dimensions, three in two.
    let flops = (iterations * 2 * 2 * (6 + 3) * labels * h * w) as f64;
    let peer = json!({ "op": "crf", "size": [h, w], "labels": labels, "iterations": iterations });
    let prepare = move |gpu: &Arc<Gpu>, seed: u64| {
        let crf = DenseCrf::new(&photo(h, w)?, &CrfOptions { iterations, ..CrfOptions::default() })?;
        let mut scores = random(&[labels, h, w], seed);
        scores.data_mut().iter_mut().for_each(|v| *v = v.abs());
        let gpu = Arc::clone(gpu);
        Ok(ready(move || crf.infer_on(Some(&gpu), &scores)))
    };
    let name = format!("{h}×{w}, {labels} labels, {iterations} iterations");
    plain(name, f32_work(flops, (2 * labels * h * w) as f64), Some(peer), prepare)
}
