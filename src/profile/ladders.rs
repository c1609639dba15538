//! The subjects that have ladders: convolution, affinity, walk, CRF, sum.

use serde_json::json;

use super::catalogue::{D, PHOTO, crf, device, keep, random, ready};
use super::{Build, Case, Dimension, Shape, Subject, Work};
use crate::device::Precision;
use crate::ops::affinity::{BorderRule, LossForm, Pairs, Reduction, Stencil, affinities, affinity_loss};
use crate::ops::conv2d::{
    Conv2dOptions, FrozenNorm, conv2d, conv2d_add, conv2d_norm_relu, input_gradient, weight_gradient,
};
use crate::ops::ladders::{Step, ladders};
use crate::ops::{reduce, walk};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

const CONVOLUTION: &[Dimension] = &[
    D("batch", 16, 1),
    D("height", 56, 16),
    D("width", 56, 16),
    D("channels", 512, 32),
    D("outputs", 512, 64),
    D("window", 3, 3),
    D("stride", 1, 1),
    D("dilation", 1, 1),
];
const FEATURES: &[Dimension] =
    &[D("batch", 8, 1), D("height", 56, 16), D("width", 56, 16), D("channels", 896, 32)];
const WALK: &[Dimension] = &[D("height", 47, 16), D("width", 63, 16), D("maps", 3, 3), D("steps", 256, 8)];
const VALUES: &[Dimension] = &[D("values", 1 << 20, 1 << 13)];

/// A subject for each ladder.
pub(super) fn subjects() -> Vec<Subject> {
    let of = |operation: &str, pass: &str| -> Option<(&'static [Dimension], Build)> {
        Some(match (operation, pass) {
            ("conv2d", "forward") => (CONVOLUTION, convolution_forward),
            ("conv2d", "input gradient") => (CONVOLUTION, convolution_input_gradient),
            ("conv2d", "weight gradient") => (CONVOLUTION, convolution_weight_gradient),
            ("affinity", "forward") => (FEATURES, affinity_forward),
            ("affinity", "gradient") => (FEATURES, affinity_gradient),
            ("walk", "forward") => (WALK, walk_forward),
            ("crf", "mean field") => (PHOTO, crf),
            ("reduce", "sum") => (VALUES, sum),
            _ => return None,
        })
    };
    let subject = |ladder: crate::ops::ladders::Ladder| {
        let (dimensions, build) = of(ladder.operation, ladder.pass)?;
        let (operation, pass, rungs) = (ladder.operation, ladder.pass, ladder.rungs);
        Some(Subject { operation, pass, dimensions, rungs, build })
    };
    ladders().into_iter().filter_map(subject).collect()
}

/// What convolutions do beside, by the rung that suits them.
pub(super) fn epilogues() -> [Subject; 2] {
    let subject = |pass, build| {
        let (operation, dimensions, rungs) = ("conv2d", CONVOLUTION, vec![]);
        Subject { operation, pass, dimensions, rungs, build }
    };
    [
        subject("forward, add", |shape, _| convolution_epilogue(shape, false)),
        subject("forward, norm, relu", |shape, _| convolution_epilogue(shape, true)),
    ]
}

/// A case whose operation and pass the subject fills in. The rung's own kernel counts, and those beside it.
fn case(shape: String, work: Work, rung: Option<&Step>, beside: &[&'static str]) -> Case {
    let mut kernels: Vec<&'static str> = rung.map(|step| step.rung.kernel).into_iter().collect();
    if !kernels.is_empty() {
        kernels.extend(beside);
    }
    let prepare = Box::new(|_: &_, _| Ok(ready(|| Ok(()))));
    Case { operation: "", pass: "", rung: None, shape, work, peer: None, kernels, prepare }
}

/// What a convolution multiplies in by a rung; f32 where none is named.
fn precision(rung: Option<&Step>) -> Precision {
    rung.and_then(|step| step.precision).unwrap_or(Precision::F32)
}

/// The shapes of a convolution with a padding that keeps the size.
struct Convolution {
    input: [usize; 4],
    weight: [usize; 4],
    output: [usize; 4],
    options: Conv2dOptions,
}

impl Convolution {
    fn of(shape: &Shape) -> Self {
        let [n, h, w, i] = shape.maps();
        let [o, k, stride, dilation] = shape.of(["outputs", "window", "stride", "dilation"]);
        let padding = dilation * (k - 1) / 2;
        let out = |size: usize| (size + 2 * padding - dilation * (k - 1) - 1) / stride + 1;
        Self {
            input: [n, h, w, i],
            weight: [o, k, k, i],
            output: [n, out(h), out(w), o],
            options: Conv2dOptions { stride, padding, dilation },
        }
    }

    fn name(&self) -> String {
        let ([n, h, w, i], [o, k, ..], Conv2dOptions { stride, dilation, .. }) =
            (self.input, self.weight, self.options);
        let stride = if stride > 1 { format!(" stride {stride}") } else { String::new() };
        let dilation = if dilation > 1 { format!(" dilation {dilation}") } else { String::new() };
        format!("{i}→{o} {k}×{k}{stride}{dilation}, {n}×{h}×{w}")
    }

    /// The two operands are read in the precision, the result is written in f32.
    fn work(&self, [a, b]: [[usize; 4]; 2], result: [usize; 4], precision: Precision) -> Work {
        let count = |shape: [usize; 4]| shape.iter().map(|v| *v as f64).product::<f64>();
        let operand = if precision == Precision::Bf16 { 2.0 } else { 4.0 };
        let [_, kh, kw, i] = self.weight.map(|v| v as f64);
        let flops = 2.0 * count(self.output) * kh * kw * i;
        Work { flops, bytes: operand * (count(a) + count(b)) + 4.0 * count(result), precision }
    }

    fn peer(&self, pass: &str, precision: Precision) -> Option<serde_json::Value> {
        let Conv2dOptions { stride, padding, dilation } = self.options;
        Some(json!({
            "op": "conv2d", "pass": pass, "input": self.input, "weight": self.weight, "stride": stride,
            "padding": padding, "dilation": dilation, "precision": precision.to_string(),
        }))
    }
}

fn convolution_forward(shape: &Shape, rung: Option<&Step>) -> Case {
    let (g, precision) = (Convolution::of(shape), precision(rung));
    let base = case(g.name(), g.work([g.input, g.weight], g.output, precision), rung, &[]);
    let peer = g.peer("forward", precision);
    let prepare = Box::new(move |gpu: &_, seed| {
        let x = Var::constant(device(gpu, &g.input, seed)?);
        let w = Var::constant(device(gpu, &g.weight, seed + 1)?);
        let options = g.options;
        Ok(ready(move || {
            let y = conv2d(&mut Tape::inference(), &x, &w, None, options)?;
            Ok((x, w, y))
        }))
    });
    Case { peer, prepare, ..base }
}

/// A convolution and what is taken where its values leave their registers, in f32: a frozen normalisation with its ReLU, or
/// a map that is added. Beside the forward pass alone it shows what that costs; a pass of its own would be two tensors more.
fn convolution_epilogue(shape: &Shape, normalises: bool) -> Case {
    let g = Convolution::of(shape);
    let mut base = case(g.name(), g.work([g.input, g.weight], g.output, Precision::F32), None, &[]);
    let mut peer = g.peer("forward", Precision::F32);
    if let Some(peer) = &mut peer {
        peer["then"] = json!(if normalises { "norm relu" } else { "add" });
    }
    if !normalises {
        base.work.bytes += 4.0 * g.output.iter().map(|v| *v as f64).product::<f64>();
    }
    let prepare = Box::new(move |gpu: &_, seed| {
        let x = Var::constant(device(gpu, &g.input, seed)?);
        let w = Var::constant(device(gpu, &g.weight, seed + 1)?);
        let (options, mut tape) = (g.options, Tape::inference());
        if !normalises {
            let add = Var::constant(device(gpu, &g.output, seed + 2)?);
            return Ok(ready(move || {
                let y = conv2d_add(&mut tape, &x, &w, None, &add, options)?;
                Ok((x, w, add, y))
            }));
        }
        let of_channels = |value| Tensor::full(&g.output[3..], value).to_device(gpu, "a normalisation");
        let [scale, shift] = [of_channels(1.1)?, of_channels(0.1)?];
        let [mean, variance] = [of_channels(0.01)?, of_channels(0.9)?];
        Ok(ready(move || {
            let norm = FrozenNorm([&scale, &shift, &mean, &variance]);
            let y = conv2d_norm_relu(&mut tape, &x, &w, &norm, options)?;
            Ok((x, w, [scale, shift, mean, variance], y))
        }))
    });
    Case { peer, prepare, ..base }
}

fn convolution_input_gradient(shape: &Shape, rung: Option<&Step>) -> Case {
    let (g, precision) = (Convolution::of(shape), precision(rung));
    let base = case(g.name(), g.work([g.output, g.weight], g.input, precision), rung, &[]);
    let peer = g.peer("input gradient", precision);
    let prepare = Box::new(move |gpu: &_, seed| {
        let (dy, w) = (device(gpu, &g.output, seed)?, device(gpu, &g.weight, seed + 1)?);
        let (input, options) = (g.input, g.options);
        Ok(ready(move || {
            let dx = input_gradient(&dy, &w, &input, options)?;
            Ok((dy, w, dx))
        }))
    });
    Case { peer, prepare, ..base }
}

fn convolution_weight_gradient(shape: &Shape, rung: Option<&Step>) -> Case {
    let (g, precision) = (Convolution::of(shape), precision(rung));
    // The parts of the ranges of pixels are added by a second kernel.
    let base = case(g.name(), g.work([g.output, g.input], g.weight, precision), rung, &["sum_parts_f32"]);
    let peer = g.peer("weight gradient", precision);
    let prepare = Box::new(move |gpu: &_, seed| {
        let (dy, x) = (device(gpu, &g.output, seed)?, device(gpu, &g.input, seed + 1)?);
        let (weight, options) = (g.weight, g.options);
        Ok(ready(move || {
            let dw = weight_gradient(&dy, &x, &weight, options)?;
            Ok((dy, x, dw))
        }))
    });
    Case { peer, prepare, ..base }
}

fn pairs() -> Pairs {
    Pairs { stencil: Stencil::default(), reduction: Reduction::Mean, border: BorderRule::Full }
}

fn affinity_forward(shape: &Shape, rung: Option<&Step>) -> Case {
    let maps = shape.maps();
    let [n, h, w, k] = maps.map(|v| v as f64);
    let planes = pairs().stencil.len() as f64;
    // A subtraction and an addition for each channel of each pair.
    let work = Work {
        flops: 2.0 * planes * n * h * w * k,
        bytes: 4.0 * n * h * w * (k + planes),
        precision: Precision::F32,
    };
    let base = case(features_name(maps), work, rung, &[]);
    let peer = Some(json!({ "op": "affinity", "pass": "forward", "input": maps, "radius": 5 }));
    let prepare = Box::new(move |gpu: &_, seed| {
        let features = device(gpu, &maps, seed)?;
        Ok(ready(move || {
            let pairs = affinities(&features, &pairs())?;
            Ok((features, pairs))
        }))
    });
    Case { peer, prepare, ..base }
}

fn features_name([n, h, w, k]: [usize; 4]) -> String {
    format!("{n}×{h}×{w}×{k}, 34 offsets")
}

fn affinity_gradient(shape: &Shape, rung: Option<&Step>) -> Case {
    let maps = shape.maps();
    let [n, h, w, k] = maps.map(|v| v as f64);
    let planes = pairs().stencil.len() as f64;
    // From both ends of each pair: a subtraction, a product with the slope, an addition.
    let work = Work {
        flops: 6.0 * planes * n * h * w * k,
        bytes: 4.0 * n * h * w * (2.0 * k + planes),
        precision: Precision::F32,
    };
    let base = case(features_name(maps), work, rung, &[]);
    let peer = Some(json!({ "op": "affinity", "pass": "backward", "input": maps, "radius": 5 }));
    let prepare = Box::new(move |gpu: &_, seed| {
        let features = device(gpu, &maps, seed)?;
        let one = Tensor::scalar(1.0).to_device(gpu, "the loss's gradient")?;
        Ok(ready(move || {
            let mut tape = Tape::new();
            let features = tape.leaf(features);
            let [n, h, w, _] = maps;
            // Patches of 14×14 pixels: all three kinds of pairs.
            let label = |p: usize| ((p / w % h / 14 + p % w / 14) % 3) as u8;
            let labels: Vec<u8> = (0..n * h * w).map(label).collect();
            let (loss, _) = affinity_loss(&mut tape, &features, &labels, &pairs(), LossForm::Psa)?;
            let gradients = tape.backward(&loss, one)?;
            Ok((features, gradients))
        }))
    });
    Case { peer, prepare, ..base }
}

fn walk_forward(shape: &Shape, rung: Option<&Step>) -> Case {
    let [h, w, maps, steps] = shape.of(["height", "width", "maps", "steps"]);
    let planes = Stencil::default().len();
    let pixels = (h * w) as f64;
    // A polynomial of lower degree does in fewer products what the steps do.
    let products = match rung {
        Some(step) if step.rung.name == "chebyshev" => walk::cuda::degree(steps),
        _ => steps,
    };
    let work = Work {
        flops: (2 * (2 * planes + 1)) as f64 * pixels * (maps * products) as f64,
        bytes: 4.0 * pixels * (planes + 1 + 2 * maps) as f64,
        precision: Precision::F32,
    };
    let base = case(format!("{h}×{w}, {maps} maps, {steps} steps"), work, rung, &[]);
    let peer = Some(json!({ "op": "walk", "grid": [h, w], "maps": maps, "steps": steps, "radius": 5 }));
    let prepare = Box::new(move |gpu: &_, seed| {
        let features = device(gpu, &[1, h, w, 16], seed)?;
        let affinities = affinities(&features, &pairs())?;
        Ok(ready(move || {
            let maps = random(&[maps, h, w], seed + 1);
            let walked = walk::walk(&affinities, &Stencil::default(), 8.0, &maps, steps)?;
            Ok((features, affinities, walked))
        }))
    });
    Case { peer, prepare, ..base }
}

fn sum(shape: &Shape, rung: Option<&Step>) -> Case {
    let count = shape.get("values");
    let values = count as f64;
    let work = Work { flops: values, bytes: 4.0 * values, precision: Precision::F32 };
    let base = case(format!("{count} values"), work, rung, &[]);
    let chosen = rung.and_then(|step| reduce::cuda::LADDER.iter().find(|r| r.name == step.rung.name));
    let rung = chosen.unwrap_or(&reduce::cuda::LADDER[1]);
    let prepare = Box::new(move |gpu: &_, seed| {
        let gpu = std::sync::Arc::clone(gpu);
        let data = random(&[count], seed);
        Ok(ready(move || keep(reduce::cuda::sum(&gpu, rung, data.data())?)))
    });
    Case { prepare, ..base }
}
