//! The three trainings at toy size on the GPU: losses follow the CPU's step by step, and a run moves between
//! devices by its checkpoint.

use std::path::PathBuf;
use std::sync::Arc;

use seedwalk::Result;
use seedwalk::config::{Config, OptimizerKind, Preset, TrainingConfig};
use seedwalk::device::cuda::{Given, Gpu, Reading};
use seedwalk::formats::image::{IGNORE, LabelMap};
use seedwalk::formats::label_png::write_labels;
use seedwalk::nn::module::{Forward, Parameters, Role};
use seedwalk::nn::{CamHead, CamNet, Classifier, Network, ResNet38};
use seedwalk::ops::conv2d::Conv2dOptions;
use seedwalk::ops::linear::linear;
use seedwalk::ops::losses::multi_label_soft_margin;
use seedwalk::ops::pooling::global_average_pooling;
use seedwalk::pipeline::memory::Recompute;
use seedwalk::pipeline::training::{Parts, Training, train};
use seedwalk::progress::Progress;
use seedwalk::tape::Var;
use seedwalk::tensor::Tensor;

use super::{Alone, device, every_driver_call_may_fail, random};
use crate::common::Place;

/// Four epochs of six steps.
const FLAGS: &str = "--data data --split train --width 1/32 --epochs 4 --batch 1 --crop 32 --seed 4";
const STEPS: usize = 24;

/// All three by SGD: the first steps of Adam divide each gradient by its own size, and make full steps of what is nothing
/// but rounding, in another direction on each device. The rates are such that a rounding of the first weights alone moves
/// no loss by more than 3e-5 on the CPU: at the usual rates it does by 0.2 after six steps of `train-affinity`, whose
/// gradient is made of signs.
fn sgd(factor: f64) -> String {
    let stages = [("cam", 2e-4), ("affinity", 5e-6), ("segmentation", 5e-4)];
    let training = |(stage, rate): (&str, f64)| {
        let rate = factor * rate;
        format!("[{stage}.training]\noptimizer = \"sgd\"\nmomentum = 0.9\nlearning_rate = {rate}\n")
    };
    stages.map(training).concat()
}

/// How near a loss must be to the CPU's, relative. Steps half as long must be seen to differ by more.
const FOLLOWS: f64 = 1e-4;

/// The losses that a training wrote, one a step.
fn losses(place: &Place, folder: &str) -> Vec<f64> {
    let events = place.read(&format!("{folder}/events.jsonl"));
    let loss =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap();
    events.lines().map(loss).collect()
}

/// The largest relative difference of a step's loss.
fn largest_difference(found: &[f64], expected: &[f64]) -> f64 {
    found.iter().zip(expected).map(|(f, e)| (f - e).abs() / e.abs()).fold(0.0, f64::max)
}

fn assert_follows(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let difference = largest_difference(found, expected);
    assert!(difference <= FOLLOWS, "{what}: {difference:e} between {found:?} and {expected:?}");
}

#[test]
fn trainings_follow_the_cpu_and_move_between_devices() {
    let (place, (_, on_gpu)) = (Place::new(), device());
    for (name, rate) in [("whole", 1.0), ("half", 0.5)] {
        place.write(&format!("{name}.toml"), sgd(rate));
    }
    let labels = "--labels data/SegmentationClass";
    for (stage, more) in [("train-cam", ""), ("train-affinity", labels), ("train-segmentation", labels)] {
        let run = |device: &str, rate: &str, output: &str| {
            place.succeeds(&format!(
                "{stage} {FLAGS} {more} --config {rate}.toml --device {device} --output {output}"
            ));
            losses(&place, output)
        };
        let (cpu, gpu) = (format!("{stage}-cpu"), format!("{stage}-gpu"));
        let expected = run("cpu", "whole", &cpu);
        assert_eq!(expected.len(), STEPS);
        assert!(
            largest_difference(&run("cpu", "half", &format!("{stage}-half")), &expected) > 20.0 * FOLLOWS
        );
        assert_follows(stage, &run(&on_gpu, "whole", &gpu), &expected);
        // The last epoch anew, each from the other's checkpoint before it.
        for (folder, device) in [(&cpu, &*on_gpu), (&gpu, "cpu")] {
            std::fs::remove_file(place.at(format!("{folder}/step-0000000024.safetensors"))).unwrap();
            place.write(&format!("{folder}/latest"), "step-0000000018.safetensors\n");
            assert_follows(&format!("{stage} moved to {device}"), &run(device, "whole", folder), &expected);
        }
    }
}

#[test]
fn tensor_cores_stay_near_the_cpu() {
    let place = Place::new();
    let flags = "--data data --split train --width 1/32 --epochs 1 --batch 2 --crop 32 --seed 4";
    place.succeeds(&format!("train-cam {flags} --device cpu --output cpu"));
    let expected = losses(&place, "cpu");
    // Some forty layers round both operands of each product: independent roundings, √80 ≈ 9 of them.
    for (precision, rounding) in [("tf32", 2f64.powi(-11)), ("bf16", 2f64.powi(-8))] {
        let device = device().1;
        place.succeeds(&format!(
            "train-cam {flags} --device {device} --precision {precision} --output {precision}"
        ));
        for (found, expected) in losses(&place, precision).iter().zip(&expected) {
            assert!(
                (found - expected).abs() <= 9.0 * rounding * expected,
                "{precision}: {found} for {expected}"
            );
        }
        assert_ne!(losses(&place, precision), expected, "{precision} is not f32");
    }
}

#[test]
fn the_demo_takes_the_whole_pipeline_through_the_gpu() {
    let place = Place::empty();
    let metrics = place.json(&format!("demo --tiny --device {} --output run --seed 1", device().1));
    let stages: Vec<&str> =
        metrics["stages"].as_array().unwrap().iter().filter_map(|stage| stage["name"].as_str()).collect();
    for stage in ["cams", "walk", "pseudo_labels", "segmentation"] {
        assert!(stages.contains(&stage), "{stage} is not in {stages:?}");
    }
    for folder in ["cams", "affinity-labels", "pseudo-labels", "segmentations"] {
        let files = std::fs::read_dir(place.at(format!("run/{folder}"))).unwrap().count();
        assert!(files >= 6, "{files} files in {folder}");
    }
    assert!(place.at("run/report.html").is_file());
}

#[test]
fn activations_made_anew_give_the_same_bytes() {
    let place = Place::new();
    let flags = "--data data --split train --width 1/32 --epochs 2 --batch 2 --crop 32 --seed 4";
    let labels = "--labels data/SegmentationClass";
    let train = |stage: &str, device: &str, recompute: &str, output: &str| {
        place.succeeds(&format!(
            "{stage} --device {device} --recompute {recompute} --output {output} {flags}"
        ));
        place.results(output)
    };
    // Statistics and dropout; frozen ones, with a tap in the middle of the backbone.
    place.succeeds(&format!("train-cam --device cpu --output start {flags}"));
    let stages = [("train-cam".to_string(), "cam"), (format!("train-affinity --init start {labels}"), "aff")];
    for (stage, name) in stages {
        for (device, place) in [("cpu", "host"), (&*device().1, "gpu")] {
            let [kept, anew] = ["never", "always"]
                .map(|recompute| train(&stage, device, recompute, &format!("{name}-{place}-{recompute}")));
            assert!(kept == anew, "{stage} on {device}");
            assert!(!kept.is_empty());
        }
    }
}

/// The loss of image-level tags, three an image.
fn tag_loss(
    network: &dyn Network,
    forward: &mut Forward<'_>,
    images: &Var,
    tags: &Given<'_, f32>,
) -> Result<(Var, Parts)> {
    let logits = network.forward(forward, images)?;
    let tags = tags.tensor(&[images.shape()[0], 3], logits.value().gpu(), "the tags")?;
    let loss = multi_label_soft_margin(&mut forward.tape, &logits, &tags)?;
    Ok((loss, Reading::known(vec![])))
}

#[test]
fn a_step_as_a_graph_gives_the_same_bytes() {
    let place = Place::new();
    let flags = "--data data --split train --width 1/32 --epochs 2 --batch 1 --crop 32 --seed 4";
    // An image that teaches nothing: its steps are no part of the graph.
    place.copy("data/SegmentationClass", "labels");
    let ids = place.read("data/ImageSets/Segmentation/train.txt");
    let unlabelled = LabelMap { width: 64, height: 64, labels: vec![IGNORE; 64 * 64] };
    write_labels(&place.at(format!("labels/{}.png", ids.lines().nth(2).unwrap())), &unlabelled).unwrap();
    let labels = "--labels labels";
    // Statistics and dropout; then frozen ones, which are the epilogue of convolutions.
    let stages = [
        ("train-cam".to_string(), "cam", 12),
        (format!("train-affinity --init cam-graph {labels}"), "affinity", 10),
        (format!("train-segmentation {labels} --recompute always"), "segmentation", 10),
    ];
    for (stage, name, teaching) in stages {
        let train = |how: &str, more: &str| {
            let output = format!("{name}-{how}");
            let line = format!("{stage} {flags} --device {} --output {output} {more}", device().1);
            let steps = place.json(&line)["graph_steps"].as_u64().unwrap();
            (steps, losses(&place, &output), place.results(&output))
        };
        let ((graphs, graph_losses, graph), (none, plain_losses, plain)) =
            (train("graph", ""), train("plain", "--no-graph"));
        // The first step that teaches anything is queued kernel by kernel.
        assert_eq!((graphs, none), (teaching - 1, 0), "{stage}");
        assert_eq!(graph_losses, plain_losses, "{stage}");
        assert!(graph == plain && !graph.is_empty(), "{stage}");
    }
}

#[test]
fn a_step_takes_the_memory_that_was_counted() {
    let Alone { gpu, .. } = Alone::new();
    let place = Place::empty();
    let network = CamNet {
        backbone: ResNet38::new(1, 32),
        head: CamHead::Paper,
        classifier: Classifier::Small,
        classes: 3,
    };
    let recipe = TrainingConfig { batch: 2, crop: 32, ..Config::preset(Preset::Paper).cam.training };
    for (recompute, learn_statistics) in
        [(Recompute::Never, true), (Recompute::Always, true), (Recompute::Never, false)]
    {
        let before = gpu.footprint();
        let summary = train(
            &Training {
                network: &network,
                recipe: &recipe,
                steps: 3,
                learn_statistics,
                init: None,
                output: &place.at(format!("{recompute:?}-{learn_statistics}")),
                seed: 1,
                classes: &["background", "a", "b", "c"].map(String::from),
                configuration: serde_json::Value::Null,
                samples: 2,
                name_of: &|i| i.to_string(),
                make: Arc::new(|i, _| Ok((random(&[1, 32, 32, 3], i as u64), vec![1.0, 0.0, 1.0]))),
                loss: &|forward, images, tags: &Given<'_, f32>| tag_loss(&network, forward, images, tags),
                teaches: &|_| true,
                checkpoint_every: 0,
                gpu: Some(Arc::clone(&gpu)),
                recompute,
                graph: true,
                counts_only: false,
            },
            &Progress::new(true),
        )
        .unwrap();
        let memory = summary.memory.unwrap();
        let counted = if memory.recomputes { memory.recomputed } else { memory.kept };
        // The GPU's own count is of all trainings so far: the first is the largest.
        if before == 0 {
            let taken = gpu.footprint();
            assert!(counted.abs_diff(taken) < 64, "{counted} were counted, {taken} taken");
        }
        assert!(counted <= gpu.footprint());
        assert!(memory.recomputed < memory.kept, "{memory}");
        assert!(memory.fits == 2 && memory.free > counted, "{memory}");
    }
}

#[test]
fn a_step_that_does_not_fit_names_the_batch_that_does() {
    // By the emulated driver everywhere: it alone has as much memory as it is told.
    let place = Place::new();
    let line = |batch: usize, more: &str| {
        format!(
            "train-cam --data data --split train --width 1/32 --crop 48 --device emulated --output x \
             --batch {batch} {more}"
        )
    };
    let with_memory = |line: &str, bytes: u64| {
        let out = place.command(line).env("EMULATED_CUDA_MEMORY", bytes.to_string()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (out.status.code(), text(&out.stdout), text(&out.stderr))
    };
    let counted = |batch: usize, memory: u64| -> serde_json::Value {
        let (_, json, error) = with_memory(&line(batch, "--count-memory --json"), memory);
        serde_json::from_str(&json).unwrap_or_else(|e| panic!("{e}: {error}"))
    };
    let bytes = |counted: &serde_json::Value, what: &str| counted["memory"][what].as_u64().unwrap();
    let (six, four) = (counted(6, 1 << 30), counted(4, 1 << 30));
    assert_eq!(six["memory"]["recomputes"], false);
    // Room for six with activations made anew, then for four.
    let tight = counted(6, bytes(&six, "recomputed") + 1000);
    assert_eq!((&tight["memory"]["recomputes"], &tight["memory"]["fits"]), (&true.into(), &6.into()));
    for (flags, room) in [("", "recomputed"), ("--recompute never", "kept")] {
        let (code, _, error) = with_memory(&line(6, flags), bytes(&four, room) + 1000);
        assert_eq!(code, Some(1), "{error}");
        for words in ["a step of 6 images does not fit", "GiB", "--batch 4 fits"] {
            assert!(error.contains(words), "{words} is not in {error}");
        }
    }
    let (_, _, error) = with_memory(&line(6, ""), 10_000);
    assert!(error.contains("not even --batch 1"), "{error}");
}

/// The full networks at the published batch and crop, f32: counted, as nobody has that much here.
#[test]
fn a_full_step_fits_in_24_gigabytes() {
    const GIB: f64 = (1u64 << 30) as f64;
    let place = Place::with_images(24, 64);
    let labels = "--labels data/SegmentationClass";
    let flags = "--data data --split train --width 1 --batch 16 --crop 448 --device emulated --count-memory";
    for (stage, more) in [("train-cam", ""), ("train-affinity", labels), ("train-segmentation", labels)] {
        let counted = place.json(&format!("{stage} {flags} {more} --output {stage}"));
        let memory = &counted["memory"];
        assert_eq!(memory["batch"], 16);
        let gib = |name: &str| memory[name].as_f64().unwrap() / GIB;
        let (kept, recomputed) = (gib("kept"), gib("recomputed"));
        println!("{stage}: {kept:.2} GiB, activations made anew {recomputed:.2} GiB");
        // 24 GB are 22.35 GiB.
        assert!(recomputed < 22.35 && recomputed < kept, "{stage}: {recomputed:.2} of {kept:.2} GiB");
        // Weights, gradients and the optimiser's state of 105 million parameters alone.
        assert!(recomputed > 4.0 * 105e6 * 4.0 / GIB, "{stage}: {recomputed:.2} GiB");
        assert!(!place.at(stage).join("latest").exists());
    }
    place.fails(&format!("train-cam {} --output x", flags.replace("emulated", "cpu")), 2, &["--device cuda"]);
}

/// A network of one layer of everything that a training step is made of.
struct Tiny;

impl Network for Tiny {
    fn kind(&self) -> &'static str {
        "cam"
    }

    fn parameters(&self, seed: u64) -> Result<Parameters> {
        let mut parameters = Parameters::default();
        parameters.declare("conv.weight", random(&[4, 3, 3, 3], seed), Role::Weight, false);
        for (name, value, role) in [
            ("norm.weight", 1.0, Role::Norm),
            ("norm.bias", 0.0, Role::Norm),
            ("norm.running_mean", 0.0, Role::Statistic),
            ("norm.running_var", 1.0, Role::Statistic),
        ] {
            parameters.declare(name, Tensor::full(&[4], value), role, false);
        }
        parameters.declare("head.weight", random(&[3, 4], seed + 1), Role::Weight, true);
        Ok(parameters)
    }

    fn forward(&self, forward: &mut Forward<'_>, image: &Var) -> Result<Var> {
        let options = Conv2dOptions { stride: 1, padding: 1, dilation: 1 };
        let y = forward.conv_norm_relu("conv", "norm", image, options)?;
        let y = forward.dropout(&y, 0.3)?;
        let y = global_average_pooling(&mut forward.tape, &y)?;
        let head = forward.parameter("head.weight")?;
        linear(&mut forward.tape, &y, &head, None)
    }
}

/// Names and bytes.
type Files = Vec<(PathBuf, Vec<u8>)>;

/// Three steps of [`Tiny`]: kernel by kernel, as a graph that is captured, as a graph that is there. The last loss, and the
/// checkpoint's bytes.
fn tiny_training(gpu: &Arc<Gpu>) -> Result<(f64, Files)> {
    let place = Place::empty();
    let recipe = TrainingConfig { batch: 2, ..Config::preset(Preset::Paper).cam.training };
    let summary = train(
        &Training {
            network: &Tiny,
            recipe: &TrainingConfig { optimizer: OptimizerKind::AdamW, ..recipe },
            steps: 3,
            learn_statistics: true,
            init: None,
            output: &place.at("run"),
            seed: 1,
            classes: &["background", "a", "b", "c"].map(String::from),
            configuration: serde_json::Value::Null,
            samples: 4,
            name_of: &|i| i.to_string(),
            make: Arc::new(|i, _| Ok((random(&[1, 4, 5, 3], i as u64), vec![1.0, 0.0, 1.0]))),
            loss: &|forward, images, tags: &Given<'_, f32>| tag_loss(&Tiny, forward, images, tags),
            teaches: &|_| true,
            checkpoint_every: 3,
            gpu: Some(Arc::clone(gpu)),
            recompute: Recompute::Never,
            graph: true,
            counts_only: false,
        },
        &Progress::new(true),
    )?;
    assert_eq!(summary.graph_steps, 2);
    Ok((summary.last_loss, place.results("run")))
}

#[test]
fn every_driver_call_of_a_training_may_fail() {
    every_driver_call_may_fail(200, tiny_training);
}

#[test]
fn memory_that_is_not_there_is_told_by_name_and_number() {
    let Some((gpu, emulator, _alone)) = Alone::emulated("a real driver's memory does not end on demand")
    else {
        return;
    };
    let mut steps = 0;
    for allocation in 1.. {
        emulator.set("faults", &format!("alloc:{allocation}")).unwrap();
        let outcome = tiny_training(&gpu);
        emulator.set("faults", "").unwrap();
        let Err(error) = outcome else { break };
        let text = error.to_string();
        assert!(text.contains("allocating") && text.contains("MiB"), "{text}");
        assert!(text.contains("are free") || text.contains("page-locked"), "{text}");
        assert!(error.how_to_mend().unwrap().contains("--batch"));
        steps += 1;
    }
    assert!(steps > 20, "{steps} allocations");
}
