//! Which kernels are run, in which shapes, the most important first.

use seedwalk::device::Device;
use seedwalk::device::cuda::Gpu;
use seedwalk::ops::ladders::Step;
use seedwalk::profile::{Case, Subject, catalogue};
use seedwalk::{Error, Result};

/// ResNet-38's convolutions at 448², 16 images, by their share of its arithmetic: [in, out, window, stride, dilation, size].
const LAYERS: [[usize; 6]; 15] = [
    [512, 512, 3, 1, 1, 56],
    [1024, 2048, 3, 1, 4, 56],
    [1024, 512, 3, 1, 2, 56],
    [2048, 4096, 1, 1, 1, 56],
    [128, 128, 3, 1, 1, 224],
    [256, 256, 3, 1, 1, 112],
    [512, 1024, 3, 1, 1, 56],
    [512, 1024, 3, 1, 4, 56],
    [1024, 2048, 1, 1, 1, 56],
    [64, 128, 3, 2, 1, 448],
    [128, 256, 3, 2, 1, 224],
    [256, 512, 3, 2, 1, 112],
    [512, 1024, 1, 1, 1, 56],
    [3, 64, 3, 1, 1, 448],
    [4096, 20, 1, 1, 1, 56],
];

/// Layers whose every rung is timed; of the others those that are the fastest of their precision.
const WHOLE_LADDERS: usize = 1;

/// All cases for a GPU; on the emulated one each subject by each rung in its small shape.
///
/// # Errors
/// A shape of [`LAYERS`] that a subject does not take: a mistake here.
pub fn plan(gpu: &Gpu) -> Result<Vec<Case>> {
    let emulated = gpu.device() == Device::Emulated;
    let subjects = catalogue();
    let mut cases = Vec::new();
    if !emulated {
        let convolutions = || subjects.iter().filter(|s| s.operation == "conv2d" && !s.rungs.is_empty());
        for (at, layer) in LAYERS.iter().enumerate() {
            for subject in convolutions() {
                // The first layer's input is the image: nothing asks for its gradient.
                if layer[0] > 3 || subject.pass != "input gradient" {
                    add_layer(&mut cases, subject, layer, at < WHOLE_LADDERS)?;
                }
            }
            if at + 1 == WHOLE_LADDERS {
                // Before the network's other layers: each other kernel once.
                for subject in subjects.iter().filter(|s| s.operation != "conv2d" || s.rungs.is_empty()) {
                    add(&mut cases, subject, &[], emulated, |_| true)?;
                }
            }
        }
    } else {
        for subject in &subjects {
            add(&mut cases, subject, &[], emulated, |_| true)?;
        }
    }
    Ok(cases)
}

fn add_layer(cases: &mut Vec<Case>, subject: &Subject, layer: &[usize; 6], whole: bool) -> Result<()> {
    let [i, o, window, stride, dilation, size] = layer;
    let shape = [
        format!("channels={i}"),
        format!("outputs={o}"),
        format!("window={window}"),
        format!("stride={stride}"),
        format!("dilation={dilation}"),
        format!("size={size}"),
    ];
    let best = |step: &Step| {
        let mut same = subject.rungs.iter().rev().filter(|other| other.precision == step.precision);
        same.next().is_some_and(|last| last.rung.number == step.rung.number)
    };
    add(cases, subject, &shape, false, |step| whole || best(step))
}

/// A subject's cases, the fastest rung first.
fn add(
    cases: &mut Vec<Case>,
    subject: &Subject,
    shape: &[String],
    emulated: bool,
    wanted: impl Fn(&Step) -> bool,
) -> Result<()> {
    let shape = subject
        .shape(subject.default_shape(emulated), shape)
        .map_err(|e: Error| e.context(subject.name()))?;
    if subject.rungs.is_empty() {
        cases.push(subject.case(&shape, None)?);
    }
    for step in subject.rungs.iter().rev().filter(|step| wanted(step)) {
        cases.push(subject.case(&shape, Some(step))?);
    }
    Ok(())
}
