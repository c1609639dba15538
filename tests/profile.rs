//! `seedwalk profile`, and `--kernel`, which forces a rung: on the emulated GPU, as a person meets them.

use std::collections::BTreeSet;

use seedwalk::Result;
use seedwalk::device::cuda::Gpu;
use seedwalk::device::{Device, Precision};
use seedwalk::ops::affinity::{BorderRule, Pairs, Reduction, Stencil, affinities};
use seedwalk::ops::conv2d::{Conv2dOptions, conv2d};
use seedwalk::ops::ladders::{self, Choice};
use seedwalk::ops::walk;
use seedwalk::tape::Tape;
use seedwalk::tensor::Tensor;
use serde_json::Value;

mod common;
use common::Place;

// What `cargo bench` reads and writes has its tests beside it, and no harness of its own.
#[path = "../benches/ops/options.rs"]
#[allow(dead_code, reason = "the bench uses the rest")]
mod options;
#[path = "../benches/ops/gpu/results.rs"]
#[allow(dead_code, reason = "the bench uses the rest")]
mod results;

/// What the gate's own counters say of a kernel: its launch there was made by hand, in the same shape.
fn approved(kernel: &str) -> Value {
    let text = include_str!("../kernels/counters.json");
    serde_json::from_str::<Value>(text).unwrap()[kernel].take()
}

#[test]
fn a_ladder_is_counted_as_the_gate_counts_it() {
    let place = Place::empty();
    for (operation, least) in [("conv2d", 4), ("affinity", 2)] {
        let found = place.json(&format!("profile {operation} --device emulated"));
        assert_eq!((&found["operation"], &found["emulated"]), (&operation.into(), &true.into()));
        let mut compared = 0;
        for row in found["rows"].as_array().unwrap() {
            let counts = &row["counts"][0];
            assert_eq!(counts["kernel"], row["kernel"]);
            assert!(row["median_s"].is_null() && row["tflops"].is_null(), "a time from the emulator: {row}");
            let approved = approved(counts["kernel"].as_str().unwrap());
            for (field, value) in approved.as_object().into_iter().flatten() {
                match field.as_str() {
                    "ideal_wavefronts" => {
                        let conflicts =
                            counts["shared_wavefronts"].as_u64().unwrap() - value.as_u64().unwrap();
                        assert_eq!(counts["bank_conflicts"], conflicts, "{row}");
                    }
                    // What the launch was of, in words, and its least work.
                    "shape" | "precision" | "flops" | "bytes" => continue,
                    field => assert_eq!(&counts[field], value, "{}: {field}", counts["kernel"]),
                }
                compared += 1;
            }
            let lines = counts["lines"].as_array().unwrap();
            let sum: u64 = lines.iter().map(|l| l["warp_instructions"].as_u64().unwrap()).sum();
            assert_eq!(counts["warp_instructions"], sum);
            assert!(counts["registers"]["sm_90"].as_u64() > Some(8), "{counts}");
            assert!(row["bounds_s"]["RTX 4090"].as_f64() > row["bounds_s"]["H200"].as_f64());
        }
        assert!(compared >= 10 * least, "{operation}: {compared} counts were compared");
    }
}

#[test]
fn one_kernel_is_shown_with_its_source() {
    let place = Place::empty();
    let told =
        place.succeeds("profile conv2d --kernel tf32 --shape size=9,channels=5,outputs=7 --device emulated");
    for words in [
        "no GPU: counts of the emulator",
        "conv2d forward: 5→7 3×3, 1×9×9",
        "4 tf32",
        "tensor cores, mma.sync",
        "kernels/conv2d_pipeline.cuh",
        "RTX 4090",
    ] {
        assert!(told.contains(words), "`{words}` is not in: {told}");
    }
    // 81 pixels' products of 45 terms with 7 outputs are the least that tensor cores can have done.
    let json =
        place.json("profile conv2d --kernel tf32 --shape size=9,channels=5,outputs=7 --device emulated");
    assert_eq!(json["rows"].as_array().unwrap().len(), 1);
    assert!(json["rows"][0]["counts"][0]["tensor_flops"].as_u64() >= Some(2 * 81 * 45 * 7));
    assert_eq!((&json["shape"]["channels"], &json["shape"]["height"]), (&5.into(), &9.into()));

    // A helper's own launches, found by its name.
    let json = place.json("profile conv2d_transpose_weight_f32 --device emulated --shape channels=8");
    assert_eq!(
        (&json["pass"], &json["rows"][0]["kernel"]),
        (&"input gradient".into(), &"conv2d_transpose_weight_f32".into())
    );
    // An operation without a ladder shows all its kernels.
    let told = place.succeeds("profile batch_norm --pass learning --device emulated");
    for kernel in ["batch_norm_moments_f32", "batch_norm_statistics_f32", "batch_norm_f32"] {
        assert!(told.contains(kernel), "{told}");
    }
    // A pass is named as the list has it.
    let json = place.json("profile conv2d --pass weight-gradient --kernel bf16 --device emulated");
    assert_eq!(json["rows"][0]["kernels"], serde_json::json!(["conv2d_weight_mma_bf16", "sum_parts_f32"]));
    let list = place.succeeds("profile");
    assert_eq!(list, place.succeeds("profile --device cuda --kernel tf32 --precision bf16"));
    assert!(
        list.contains("weight-gradient") && list.contains("dilation") && list.contains("adam_table_f32"),
        "{list}"
    );
}

#[test]
fn what_cannot_be_profiled_is_answered_with_what_can() {
    let place = Place::empty();
    for (line, code, words) in [
        ("profile conv3d", 2, &["conv3d", "conv2d, affinity, walk"][..]),
        ("profile conv2d --kernel winograd", 2, &["winograd", "direct, tiled, blocks, async, tf32, bf16"]),
        ("profile conv2d --kernel walk=step", 2, &["walk=step", "direct, tiled"]),
        ("profile conv2d --pass backward", 2, &["backward", "forward, input-gradient, weight-gradient"]),
        ("profile conv2d --shape steps=4", 2, &["steps", "window, stride, dilation"]),
        ("profile conv2d --shape batch=0", 2, &["batch=0", "from 1"]),
        ("profile conv2d --shape batch", 2, &["KEY=NUMBER"]),
        ("profile conv2d --shape batch=99999,size=9999", 2, &["smaller --shape"]),
        ("profile conv2d --seconds 0", 2, &["--seconds 0"]),
        ("profile elementwise --kernel fast", 2, &["no ladder"]),
        ("profile add_f32 --kernel tf32", 2, &["add_f32", "operations: conv2d"]),
        ("profile conv2d conv2d", 2, &["unexpected"]),
        ("profile from_bf16", 1, &["no operation", "from_bf16"]),
        ("profile walk --kernel whole --shape size=300", 1, &["whole", "300×300", "step"]),
        ("profile sum_parts_f32 --shape channels=3", 0, &[]),
    ] {
        if code == 0 {
            place.succeeds(&format!("{line} --device emulated"));
        } else {
            place.fails(&format!("{line} --device emulated"), code, words);
        }
    }
    place.fails("profile conv2d --device cpu", 1, &["cpu", "--device emulated"]);
}

#[test]
fn a_forced_rung_is_refused_where_it_means_nothing() {
    let place = Place::new();
    let train = format!("train-cam {} --output x", common::TRAIN);
    for (flags, code, words) in [
        (
            "--kernel conv2d=fastest --device emulated",
            2,
            &["fastest", "direct, tiled, blocks, async, tf32, bf16"][..],
        ),
        ("--kernel conv2d=fastest --device cpu", 2, &["fastest"]),
        ("--kernel tf32 --device emulated", 2, &["OPERATION=RUNG", "conv2d, affinity, walk"]),
        ("--kernel crf=hash --device emulated", 2, &["crf", "uploaded, sorted, fused, chunks"]),
        ("--kernel conv2d=tf32 --device emulated", 1, &["tf32", "f32", "--precision tf32"]),
        ("--kernel conv2d=async --precision bf16 --device emulated", 1, &["async", "--precision f32"]),
        ("--kernel conv2d=blocks --device cpu", 1, &["cpu", "--kernel"]),
    ] {
        place.fails(&format!("{train} {flags}"), code, words);
    }
    assert!(!place.at("x").exists());
    place.fails("synth --output y --images 8 --kernel conv2d=blocks", 1, &["cpu", "--kernel"]);
    // Given twice and with a comma, and taken by a run.
    place.succeeds(
        "train-cam --data data --split train --width 1/32 --epochs 1 --batch 6 --crop 16 --output z --device emulated \
         --kernel conv2d=tiled,affinity=gather --kernel walk=step",
    );
}

/// The kernels that a piece of work launched.
fn launched(gpu: &Gpu, work: impl FnOnce() -> Result<()>) -> BTreeSet<String> {
    let emulator = gpu.emulator().unwrap();
    gpu.synchronize().unwrap();
    emulator.reset().unwrap();
    work().unwrap();
    // Queued work is done when somebody waits for it.
    gpu.synchronize().unwrap();
    let report = emulator.report().unwrap();
    let launches = report["launches"].as_array().unwrap();
    launches.iter().map(|l| l["kernel"].as_str().unwrap().to_string()).collect()
}

#[test]
fn a_forced_rung_is_the_one_that_runs_wherever_a_pass_has_it() {
    let gpu = Device::Emulated.gpu().unwrap();
    let force = |text: &str| ladders::force(&gpu, &[Choice::parse(text)?]);
    let on = |shape: &[usize]| {
        let len: usize = shape.iter().product();
        let values = (0..len).map(|i| ((i * 37 % 64) as f32 - 31.5) / 64.0).collect();
        Tensor::new(shape, values).unwrap().to_device(&gpu, "a tensor").unwrap()
    };
    let convolve = || {
        let mut tape = Tape::new();
        let (x, w) = (tape.leaf(on(&[1, 9, 9, 40])), tape.leaf(on(&[40, 3, 3, 40])));
        let options = Conv2dOptions { stride: 1, padding: 1, dilation: 1 };
        let y = conv2d(&mut tape, &x, &w, None, options)?;
        let seed = on(y.shape());
        tape.backward(&y, seed).map(drop)
    };
    let products = |kernels: BTreeSet<String>| -> Vec<String> {
        kernels.into_iter().filter(|k| k.starts_with("conv2d") && !k.contains("transpose")).collect()
    };
    assert_eq!(products(launched(&gpu, convolve)), ["conv2d_async_f32", "conv2d_weight_async_f32"]);
    for (choice, expected) in [
        // The weight's gradient has no `blocks` and `direct` goes forward only: what suits the shape serves there.
        ("conv2d=direct", &["conv2d_async_f32", "conv2d_forward_direct_f32", "conv2d_weight_async_f32"][..]),
        ("conv2d=blocks", &["conv2d_blocks_f32", "conv2d_weight_async_f32"]),
        ("conv2d=tiled", &["conv2d_tiled_f32", "conv2d_weight_tiled_f32"]),
    ] {
        force(choice).unwrap();
        assert_eq!(products(launched(&gpu, convolve)), expected, "{choice}");
    }
    let error = force("conv2d=bf16").unwrap_err();
    assert!(error.to_string().contains("multiplies in bf16, and this run in f32"), "{error}");
    gpu.set_precision(Precision::Bf16).unwrap();
    // The rung of before multiplies in f32: told, not silently replaced.
    assert!(convolve().unwrap_err().to_string().contains("`tiled`"));
    force("conv2d=bf16").unwrap();
    assert_eq!(products(launched(&gpu, convolve)), ["conv2d_mma_bf16_f32", "conv2d_weight_mma_bf16"]);
    gpu.set_precision(Precision::F32).unwrap();

    let pairs = |radius| Pairs {
        stencil: Stencil::new(radius, false).unwrap(),
        reduction: Reduction::Mean,
        border: BorderRule::Full,
    };
    let features = on(&[1, 9, 9, 8]);
    let compare = |radius| affinities(&features, &pairs(radius)).map(drop);
    force("affinity=gather").unwrap();
    assert_eq!(launched(&gpu, || compare(5)), BTreeSet::from(["affinity_forward_gather_f32".into()]));
    force("affinity=tiled").unwrap();
    assert_eq!(launched(&gpu, || compare(5)), BTreeSet::from(["affinity_forward_tiled_f32".into()]));
    let error = compare(4).unwrap_err();
    assert!(error.to_string().contains("34 offsets") && error.how_to_mend().is_some(), "{error}");

    let weights = affinities(&features, &pairs(5)).unwrap();
    let maps = Tensor::full(&[2, 9, 9], 1.0);
    let mut results: Vec<Tensor> = Vec::new();
    for (rung, kernel) in
        [("step", "walk_step_f32"), ("whole", "walk_whole_2_f32"), ("chebyshev", "walk_chebyshev_2_f32")]
    {
        force(&format!("walk={rung}")).unwrap();
        let kernels = launched(&gpu, || {
            results.push(walk::walk(&weights, &pairs(5).stencil, 8.0, &maps, 16)?);
            Ok(())
        });
        assert_eq!(kernels, BTreeSet::from(["walk_build_f32".into(), kernel.into()]), "{rung}");
    }
    // A map of ones stays one: each row of the transition adds up to 1.
    for value in results.iter().flat_map(|r| r.data()) {
        assert!((value - 1.0).abs() < 1e-5, "{value}");
    }
    assert!(force("walk=none").is_err_and(|e| e.exit_code() == 2));
}
