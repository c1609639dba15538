//! Every operation but the convolution.
//!
//! FLOPs are those of the definition: transcendental functions count as one, and a comparison as none.

use seedwalk::formats::image::RgbImage;
use seedwalk::ops;
use seedwalk::ops::affinity::{BorderRule, LossForm, Pairs, Reduction, Stencil, affinities, affinity_loss};
use seedwalk::ops::batch_norm::{Activation, Statistics, batch_norm};
use seedwalk::ops::crf::{CrfOptions, DenseCrf};
use seedwalk::ops::walk::Transition;
use seedwalk::ops::{activation, concat, dropout, linear, losses, pooling, resize};
use seedwalk::rng::{Purpose, Stream};
use seedwalk::tape::{Tape, Var};
use seedwalk::tensor::Tensor;
use serde_json::json;

use crate::row::{Row, Work, backward, forward, random, timed};

/// A map of the third stage, 12.8 MB.
const MAP: [usize; 4] = [1, 112, 112, 256];
const VALUES: usize = 112 * 112 * 256;
/// A photograph of the data set's usual size, and its grid at stride 8.
const PHOTO: [usize; 2] = [375, 500];
const GRID: [usize; 2] = [47, 63];

/// A row for each operation and pass.
pub fn rows() -> Vec<Row> {
    let mut rows = elementwise();
    rows.extend(batch_norms());
    rows.extend(pooling_and_resize());
    rows.extend(heads());
    rows.extend(affinity());
    rows.extend(walk());
    rows.extend(crf());
    rows
}

/// A tape operation's two passes on one map: `flops` a value, tensors touched in each.
fn both(
    name: &str,
    shape: [usize; 4],
    [flops, back_flops]: [f64; 2],
    [touched, back_touched]: [usize; 2],
    f: fn(&mut Tape, &[Var]) -> Var,
) -> [Row; 2] {
    let values: usize = shape.iter().product();
    let request = |pass: &str| json!({ "op": name, "pass": pass, "input": shape });
    let work = |flops: f64, touched| Work::new(flops * values as f64, touched * values);
    let inputs = move || vec![random(&shape), random(&shape)];
    [
        Row::new(format!("{name}/forward"), work(flops, touched), move || forward(inputs(), f))
            .peer(request("forward")),
        Row::new(format!("{name}/backward"), work(back_flops, back_touched), move || backward(inputs(), f))
            .peer(request("backward")),
    ]
}

fn elementwise() -> Vec<Row> {
    let mut rows = Vec::new();
    rows.extend(both("relu", MAP, [0.0, 1.0], [2, 3], |t, v| activation::relu(t, &v[0]).expect("fits")));
    rows.extend(both("elu", MAP, [2.0, 2.0], [2, 3], |t, v| activation::elu(t, &v[0]).expect("fits")));
    rows.extend(both("channel dropout", MAP, [1.0, 1.0], [2, 2], |t, v| {
        let mut stream = Stream::new(1, Purpose::Test, 0, 0);
        dropout::channel_dropout(t, &v[0], 0.5, &mut stream).expect("fits")
    }));
    let [add, _] = both("add", MAP, [1.0, 0.0], [3, 0], |t, v| ops::add(t, &v[0], &v[1]).expect("fits"));
    rows.push(add);
    rows.extend(both("concat", MAP, [0.0, 0.0], [4, 4], |t, v| {
        concat::concat(t, &[&v[0], &v[1]]).expect("fits")
    }));
    rows
}

/// Normalisation with ReLU, as the network has it.
fn batch_norms() -> Vec<Row> {
    fn parameters() -> Vec<Tensor> {
        vec![random(&MAP), Tensor::full(&[MAP[3]], 1.1), Tensor::full(&[MAP[3]], 0.1)]
    }
    fn frozen(tape: &mut Tape, v: &[Var]) -> Var {
        let (mean, variance) = (Tensor::full(&[MAP[3]], 0.01), Tensor::full(&[MAP[3]], 0.9));
        let statistics = Statistics::Frozen { mean: &mean, variance: &variance };
        batch_norm(tape, &v[0], &v[1], &v[2], statistics, Activation::Relu).expect("fits").0
    }
    fn learning(tape: &mut Tape, v: &[Var]) -> Var {
        batch_norm(tape, &v[0], &v[1], &v[2], Statistics::Learning, Activation::Relu).expect("fits").0
    }
    let row = |pass: &str, kind: &str, flops, touched| {
        let work = Work::new(flops * VALUES as f64, touched * VALUES);
        let request =
            json!({ "op": "batch_norm", "pass": pass, "learning": kind == "learning", "input": MAP });
        let f = if kind == "learning" { learning } else { frozen };
        let is_forward = pass == "forward";
        let prepare = move || if is_forward { forward(parameters(), f) } else { backward(parameters(), f) };
        Row::new(format!("batch norm + relu/{kind} {pass}"), work, prepare).peer(request)
    };
    vec![
        row("forward", "frozen", 2.0, 2),
        row("forward", "learning", 6.0, 3),
        // y, its gradient and x for the scale's gradient in, the gradient of x out.
        row("backward", "frozen", 6.0, 4),
        row("backward", "learning", 10.0, 6),
    ]
}

fn pooling_and_resize() -> Vec<Row> {
    let [gh, gw] = GRID;
    let [h, w] = PHOTO;
    let classes = 21;
    let deep = [1, 56, 56, 4096];
    let mut rows = Vec::new();
    let values: usize = deep.iter().product();
    for pass in ["forward", "backward"] {
        let f = |t: &mut Tape, v: &[Var]| pooling::global_average_pooling(t, &v[0]).expect("fits");
        let prepare = move || match pass {
            "forward" => forward(vec![random(&deep)], f),
            _ => backward(vec![random(&deep)], f),
        };
        let work = Work::new(values as f64, values + deep[3]);
        let request = json!({ "op": "global average", "pass": pass, "input": deep });
        rows.push(Row::new(format!("global average/{pass}"), work, prepare).peer(request));
    }
    let full = [1, h, w, classes];
    let pooled = h * w * classes + h.div_ceil(8) * w.div_ceil(8) * classes;
    rows.push(
        Row::new("average pooling/forward", Work::new((h * w * classes) as f64, pooled), move || {
            forward(vec![random(&full)], |t, v| pooling::average_pooling(t, &v[0], 8).expect("fits"))
        })
        .peer(json!({ "op": "average pooling", "pass": "forward", "input": full })),
    );
    let small = [1, gh, gw, classes];
    let flops = (6 * h * w * classes) as f64;
    let work = Work::new(flops, (gh * gw + h * w) * classes);
    for pass in ["forward", "backward"] {
        let f =
            |t: &mut Tape, v: &[Var]| resize::bilinear_resize(t, &v[0], PHOTO[0], PHOTO[1]).expect("fits");
        let prepare = move || match pass {
            "forward" => forward(vec![random(&small)], f),
            _ => backward(vec![random(&small)], f),
        };
        let request = json!({ "op": "resize", "pass": pass, "input": small, "size": PHOTO });
        rows.push(Row::new(format!("bilinear resize/{pass}"), work, prepare).peer(request));
    }
    rows
}

fn heads() -> Vec<Row> {
    let (batch, features, classes) = (16, 4096, 20);
    let mut rows = vec![
        Row::new(
            "linear/forward",
            Work::new(
                (2 * batch * features * classes) as f64,
                batch * (features + classes) + features * classes,
            ),
            move || {
                forward(vec![random(&[batch, features]), random(&[classes, features])], |t, v| {
                    linear::linear(t, &v[0], &v[1], None).expect("fits")
                })
            },
        )
        .peer(json!({ "op": "linear", "input": [batch, features], "weight": [classes, features] })),
        // A softplus and a sigmoid: two exponentials' worth and a few sums.
        Row::new(
            "multi-label loss/forward + slope",
            Work::new((8 * batch * classes) as f64, 2 * batch * classes),
            move || {
                let targets = Tensor::full(&[batch, classes], 1.0);
                forward(vec![random(&[batch, classes])], move |t, v| {
                    losses::multi_label_soft_margin(t, &v[0], &targets).expect("fits")
                })
            },
        )
        .peer(json!({ "op": "multi-label loss", "input": [batch, classes] })),
    ];
    let shape = [4, 112, 112, 21];
    let values: usize = shape.iter().product();
    // Forward works the slope out on its way, the peer in backward: only both together can be compared.
    let work = Work::new((6 * values) as f64, 2 * values);
    let prepare = move || {
        let labels: Vec<u8> =
            (0..values / 21).map(|p| if p % 9 == 0 { 255 } else { (p % 21) as u8 }).collect();
        let logits = random(&shape);
        timed(move || {
            let mut tape = Tape::new();
            let logits = tape.leaf(logits.clone());
            let loss = losses::softmax_cross_entropy(&mut tape, &logits, &labels).expect("fits");
            tape.backward(&loss, Tensor::scalar(1.0)).expect("the loss depends on the logits")
        })
    };
    let request = json!({ "op": "cross entropy", "input": shape });
    rows.push(Row::new("softmax cross-entropy/loss and gradient", work, prepare).peer(request));
    rows
}

fn pairs() -> Pairs {
    let stencil = Stencil::new(5, false).expect("a valid radius");
    Pairs { stencil, reduction: Reduction::Mean, border: BorderRule::Full }
}

/// The features that AffinityNet compares, in training's crop.
fn affinity() -> Vec<Row> {
    let shape = [1, 56, 56, 448];
    let values: usize = shape.iter().product();
    let planes = pairs().stencil.len();
    let exponents = planes * 56 * 56;
    // Subtract and add for each channel of each pair.
    let flops = (2 * planes * values) as f64;
    let features = move || {
        let mut features = random(&shape);
        features.data_mut().iter_mut().for_each(|v| *v *= 0.1);
        features
    };
    // Patches of 14×14 pixels: all three kinds of pairs.
    let labels: Vec<u8> = (0..56 * 56).map(|p| (p / 56 / 14 + p % 56 / 14) as u8 % 3).collect();
    let loss = move |t: &mut Tape, v: &[Var]| {
        affinity_loss(t, &v[0], &labels, &pairs(), LossForm::Psa).expect("fits").0
    };
    let back = loss.clone();
    let request = |pass: &str| json!({ "op": "affinity", "pass": pass, "input": shape, "radius": 5 });
    vec![
        Row::new("affinity/forward", Work::new(flops, values + exponents), move || {
            let features = features();
            timed(move || affinities(&features, &pairs()).expect("fits"))
        })
        .peer(request("forward")),
        Row::new("affinity/loss forward", Work::new(flops, values), move || {
            forward(vec![features()], loss.clone())
        }),
        // A signed sum at both ends of each pair.
        Row::new("affinity/loss backward", Work::new(flops, 2 * values + exponents), move || {
            backward(vec![features()], back.clone())
        })
        .peer(request("backward")),
    ]
}

fn walk() -> Vec<Row> {
    let [h, w] = GRID;
    let stencil = Stencil::new(5, false).expect("a valid radius");
    let (planes, maps, steps) = (stencil.len(), 3, 256);
    let affinities = {
        let stencil = stencil.clone();
        move || {
            let features = random(&[1, h, w, 16]);
            let pairs = Pairs { stencil: stencil.clone(), ..pairs() };
            seedwalk::ops::affinity::affinities(&features, &pairs).expect("fits")
        }
    };
    let make = affinities.clone();
    // Both directions of each pair and the pixel itself.
    let flops = (2 * (2 * planes + 1) * h * w * maps * steps) as f64;
    vec![
        Row::new(
            "walk/transition 47×63",
            Work::new((6 * planes * h * w) as f64, (3 * planes + 1) * h * w),
            move || {
                let (affinities, stencil) = (make(), Stencil::new(5, false).expect("a valid radius"));
                timed(move || Transition::new(&affinities, &stencil, 8.0).expect("fits"))
            },
        ),
        Row::new(
            "walk/47×63, 3 maps, 256 steps",
            Work::new(flops, (2 * planes + 1 + 2 * maps) * h * w),
            move || {
                let transition = Transition::new(&affinities(), &stencil, 8.0).expect("fits");
                let maps = random(&[maps, h, w]);
                timed(move || transition.walk(&maps, steps).expect("fits"))
            },
        )
        .peer(json!({ "op": "walk", "grid": GRID, "maps": maps, "steps": steps, "radius": 5 })),
    ]
}

/// A picture with edges, gradients and noise; `benches/peer.py` makes the same.
fn photo() -> RgbImage {
    let [h, w] = PHOTO;
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
    RgbImage::new(w, h, pixels).expect("three values a pixel")
}

/// Of the work on the lattice only splat and slice are counted: how many lattice points the blur runs over
/// depends on the picture.
fn crf() -> Vec<Row> {
    let [h, w] = PHOTO;
    let options = CrfOptions::default();
    // Six corners of a simplex in five dimensions, three in two.
    let corners = 6 + 3;
    let build = Row::new("crf/lattice 375×500", Work::new(0.0, h * w * 6 * 2), move || {
        let photo = photo();
        timed(move || DenseCrf::new(&photo, &options).expect("a valid picture"))
    });
    let mut rows = vec![build];
    for labels in [3, 21] {
        let flops = (options.iterations * 2 * 2 * corners * labels * h * w) as f64;
        let work = Work::new(flops, 2 * labels * h * w);
        let prepare = move || {
            let crf = DenseCrf::new(&photo(), &options).expect("a valid picture");
            let mut scores = random(&[labels, h, w]);
            scores.data_mut().iter_mut().for_each(|v| *v = v.abs());
            timed(move || crf.infer(&scores).expect("fits"))
        };
        rows.push(Row::new(format!("crf/10 iterations, {labels} labels"), work, prepare));
    }
    for labels in [3, 21] {
        let flops = (options.iterations * 2 * 2 * corners * labels * h * w) as f64;
        let work = Work::new(flops, 2 * labels * h * w);
        let prepare = move || {
            let photo = photo();
            let mut scores = random(&[labels, h, w]);
            scores.data_mut().iter_mut().for_each(|v| *v = v.abs());
            timed(move || {
                let crf = DenseCrf::new(&photo, &options).expect("a valid picture");
                crf.infer(&scores).expect("fits")
            })
        };
        let request =
            json!({ "op": "crf", "size": PHOTO, "labels": labels, "iterations": options.iterations });
        rows.push(Row::new(format!("crf/lattice and {labels} labels"), work, prepare).peer(request));
    }
    rows
}
