//! The dense CRF on the GPU: every rung against the CPU, and the sort that its lattices are built by.

use std::sync::Arc;

use proptest::prelude::*;
use seedwalk::device::cuda::Gpu;
use seedwalk::formats::image::RgbImage;
use seedwalk::ops::crf::cuda::{self, CrfRung, LADDER};
use seedwalk::ops::crf::{BilateralKernel, CrfOptions, DenseCrf, GaussianKernel, forget_positions};
use seedwalk::ops::sort::cuda::order;
use seedwalk::rng::{Purpose, Stream};
use seedwalk::tensor::Tensor;

use super::{Alone, every_driver_call_may_fail, left_out, random};

/// Scores L×H×W between 0 and 1, as softmax gives them: a few are near a tie.
fn scores(labels: usize, h: usize, w: usize) -> Tensor {
    let values = random(&[labels, h, w], 3).data().iter().map(|v| v.abs() / 4.0).collect();
    Tensor::new(&[labels, h, w], values).unwrap()
}

/// The result of a CRF whose lattices are all built anew.
fn refined(
    gpu: &Arc<Gpu>,
    rung: &CrfRung,
    image: &RgbImage,
    options: &CrfOptions,
    scores: &Tensor,
) -> seedwalk::Result<Tensor> {
    forget_positions(Some(gpu));
    cuda::infer(gpu, rung, &DenseCrf::on(Some(gpu), image, options)?, scores)
}

fn assert_near(what: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    for (a, b) in found.data().iter().zip(expected.data()) {
        assert!((a - b).abs() < 1e-5, "{what}: {a} for {b}");
    }
}

#[test]
fn every_rung_refines_as_the_cpu() {
    let alone = Alone::new();
    for (h, w, labels) in [(1, 1, 1), (7, 5, 2), (13, 17, 5), (6, 31, 21), (5, 3, 40), (3, 4, 131)] {
        let pixels = (0..h * w * 3).map(|i| (i * i * 31 % 256) as u8).collect();
        let image = RgbImage { width: w, height: h, pixels };
        let scores = scores(labels, h, w);
        let gaussian = GaussianKernel { sigma_xy: 3.0, weight: 3.0 };
        let bilateral = BilateralKernel { sigma_xy: 20.0, sigma_rgb: 13.0, weight: 4.0 };
        for (gaussian_weight, bilateral_weight) in [(3.0, 4.0), (3.0, 0.0), (0.0, 4.0), (0.0, 0.0)] {
            let options = CrfOptions {
                iterations: 5,
                gaussian: GaussianKernel { weight: gaussian_weight, ..gaussian },
                bilateral: BilateralKernel { weight: bilateral_weight, ..bilateral },
            };
            let expected = DenseCrf::new(&image, &options).unwrap().infer(&scores).unwrap();
            let mut plain = None;
            for rung in LADDER {
                let name = rung.rung.name;
                let what = format!("{name} {h}×{w}, {labels} labels, {gaussian_weight}, {bilateral_weight}");
                let found =
                    alone.same_bytes(&what, |gpu| refined(gpu, rung, &image, &options, &scores).unwrap());
                assert_near(&what, &found, &expected);
                // Where the lattice comes from does not show: not in a bit.
                if rung.rung.number < 2 {
                    assert!(
                        plain.get_or_insert_with(|| found.clone()) == &found,
                        "{what}: other bits than rung 0"
                    );
                }
            }
        }
    }
}

#[test]
fn long_lists_and_many_points_are_refined_as_on_the_cpu() {
    let alone = Alone::new();
    let one_colour = RgbImage { width: 61, height: 37, pixels: vec![200; 37 * 61 * 3] };
    let mut noise = one_colour.clone();
    noise.pixels.iter_mut().zip(0u32..).for_each(|(v, i)| *v = (i.wrapping_mul(2_654_435_761) >> 23) as u8);
    let scores = scores(3, 37, 61);
    let options = CrfOptions { iterations: 3, ..CrfOptions::default() };
    for (name, image) in [("one colour", one_colour), ("noise", noise)] {
        let expected = DenseCrf::new(&image, &options).unwrap().infer(&scores).unwrap();
        for rung in &LADDER[1..] {
            let what = format!("{} {name}", rung.rung.name);
            let found = alone.same_bytes(&what, |gpu| refined(gpu, rung, &image, &options, &scores).unwrap());
            assert_near(&what, &found, &expected);
        }
    }
}

#[test]
fn lattices_serve_again_and_positions_for_every_image_of_a_size() {
    let alone = Alone::new();
    let image = |seed: usize| {
        let pixels = (0..9 * 11 * 3).map(|i| (i * (i + seed) * 31 % 256) as u8).collect();
        RgbImage { width: 11, height: 9, pixels }
    };
    let scores = scores(2, 9, 11);
    let options = CrfOptions { iterations: 2, ..CrfOptions::default() };
    forget_positions(Some(&alone.gpu));
    // Launches of a kernel since the last question, where there is an emulator that counts them.
    let launches = |kernel: &str| {
        let Some(emulator) = &alone.emulator else {
            left_out("numbers of launches: the emulator counts them");
            return None;
        };
        // What is queued is not counted yet.
        alone.gpu.synchronize().unwrap();
        let report = emulator.report().unwrap();
        let launches = report["launches"].as_array().unwrap();
        let count = launches.iter().filter(|l| l["kernel"] == kernel).count();
        emulator.reset().unwrap();
        Some(count)
    };
    let build = |seed| DenseCrf::on(Some(&alone.gpu), &image(seed), &options).unwrap();
    let infer = |crf: &DenseCrf| crf.infer_on(Some(&alone.gpu), &scores).unwrap();
    let first = build(1);
    assert_eq!(launches("crf_embed_positions_f32").unwrap_or(1), 1);
    let found = infer(&first);
    assert!(infer(&first) == found);
    assert_eq!(launches("crf_points_u32").unwrap_or(0), 0, "both inferences use the lattices that are there");
    drop(first);
    let second = build(2);
    assert_eq!(launches("crf_embed_positions_f32").unwrap_or(0), 0, "the size is known");
    assert!(infer(&second) != found);
    drop(second);
    assert!(infer(&build(1)) == found, "a lattice from the cache gives the same bytes");
    forget_positions(Some(&alone.gpu));
    launches("");
    build(1);
    assert_eq!(launches("crf_embed_positions_f32").unwrap_or(1), 1);
}

#[test]
fn what_the_crf_cannot_do_is_an_error() {
    let alone = Alone::new();
    let image = RgbImage { width: 2, height: 1, pixels: vec![0; 6] };
    let crf = DenseCrf::on(Some(&alone.gpu), &image, &CrfOptions::default()).unwrap();
    for scores in [Tensor::full(&[2, 1, 2], f32::NAN), Tensor::zeros(&[2, 2, 2]), Tensor::zeros(&[257, 1, 2])]
    {
        assert!(crf.infer_on(Some(&alone.gpu), &scores).is_err());
    }
    let wide = RgbImage { width: 200_000, height: 1, pixels: vec![0; 600_000] };
    let mut options = CrfOptions::default();
    options.gaussian.sigma_xy = 0.01;
    let error = DenseCrf::on(Some(&alone.gpu), &wide, &options).err().unwrap();
    assert!(error.to_string().contains("deviations"), "{error}");
}

#[test]
fn every_driver_call_of_a_crf_may_fail() {
    let image = RgbImage { width: 3, height: 2, pixels: (0..18).map(|v| v * 14).collect() };
    let scores = scores(2, 2, 3);
    let options = CrfOptions { iterations: 1, ..CrfOptions::default() };
    every_driver_call_may_fail(50, |gpu| {
        let outcome = refined(gpu, cuda::choose(gpu), &image, &options, &scores);
        forget_positions(Some(gpu));
        outcome
    });
}

#[test]
fn memory_that_runs_out_is_named() {
    let Some((gpu, emulator, _alone)) = Alone::emulated("a real driver's memory does not end on demand")
    else {
        return;
    };
    let image = RgbImage { width: 3, height: 2, pixels: vec![7; 18] };
    let run = |gpu| refined(gpu, cuda::choose(gpu), &image, &CrfOptions::default(), &scores(2, 2, 3));
    for (n, what) in [(1, "a lattice's keys"), (6, "the sort's order"), (10, "a lattice's heads")] {
        emulator.set("faults", &format!("alloc:{n}")).unwrap();
        let error = run(&gpu).unwrap_err().to_string();
        for part in [what, "out of memory", "MiB are free"] {
            assert!(error.contains(part), "allocation {n}: {part} is not in {error}");
        }
    }
    emulator.set("faults", "").unwrap();
    run(&gpu).unwrap();
}

/// The stable order, plainly.
fn expected_order(words: &[Vec<u32>]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..words[0].len() as u32).collect();
    order.sort_by_key(|&i| words.iter().map(|w| w[i as usize]).collect::<Vec<_>>());
    order
}

/// Name, bits, and the key of each number.
type Kind = (&'static str, u32, fn(u32) -> u32);

#[test]
fn the_sort_is_stable_on_keys_of_every_kind() {
    let alone = Alone::new();
    let kinds: [Kind; 8] = [
        ("all equal", 32, |_| 0xdead_beef),
        ("all zero", 1, |_| 0),
        ("one bit", 32, |i| (i.wrapping_mul(0x9e37_79b9) >> 31) << 17),
        ("lowest bit", 1, |i| i & 1),
        ("sorted", 32, |i| i * 65_537),
        ("reversed", 32, |i| u32::MAX - i * 4_099),
        ("all bits", 32, |i| i.wrapping_mul(0x9e37_79b9) ^ (i << 7)),
        ("seven bits", 7, |i| i.wrapping_mul(0x9e37_79b9) >> 25),
    ];
    for count in [1, 31, 257, 4096, 4097] {
        for (name, bits, key) in kinds {
            let words = vec![(0..count).map(key).collect::<Vec<u32>>()];
            let what = format!("{count} keys, {name}");
            let found = alone.same_bytes(&what, |gpu| order(gpu, &words, &[bits]).unwrap());
            assert!(found == expected_order(&words), "{what}");
        }
    }
    assert!(order(&alone.gpu, &[vec![]], &[8]).unwrap().is_empty());
    assert!(order(&alone.gpu, &[vec![1, 2], vec![1]], &[8, 8]).is_err());
    assert!(order(&alone.gpu, &[vec![1, 2]], &[33]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Keys of several words, of any number of bits each; of few bits, so that many are equal, or of many.
    #[test]
    fn the_sort_orders_long_keys_by_their_first_words_first(
        bits in prop_oneof![prop::collection::vec(1u32..=3, 1..4), prop::collection::vec(1u32..=32, 1..4)],
        count in prop_oneof![1usize..300, 4_000usize..4_500],
        seed: u64,
    ) {
        let alone = Alone::new();
        let mut stream = Stream::new(seed, Purpose::Test, 0, 0);
        let mut word = |bits: u32| (0..count).map(|_| (stream.below(1 << 31) << 1) >> (32 - bits)).collect();
        let words: Vec<Vec<u32>> = bits.iter().map(|b| word(*b)).collect();
        let what = format!("{count} keys of {bits:?} bits");
        let found = alone.same_bytes(&what, |gpu| order(gpu, &words, &bits).unwrap());
        prop_assert!(found == expected_order(&words), "{}", what);
    }
}

/// What building the lattices of a photograph and one iteration of each rung move at full size, as the emulator counts it:
/// the figures of docs/kernels.md. Minutes long, so not among the others:
/// `cargo test --release --test gpu crf::a_photograph -- --ignored --nocapture`.
#[test]
#[ignore = "minutes long: run by name when figures are wanted"]
fn a_photograph_moves_what_the_ladder_says() {
    let Some((gpu, emulator, _alone)) = Alone::emulated("figures are the emulator's") else { return };
    let (h, w, labels) = (375, 500, 21);
    // Ramps with noise, so that neighbours are similar as in photographs.
    let mut stream = Stream::new(1, Purpose::Test, 0, 0);
    let value = |i: usize| ((i / 3 % w) / 4 + (i / 3 / w) / 3 + i % 3 * 40).min(225) as u32;
    let pixels = (0..h * w * 3).map(|i| (value(i) + stream.below(30)) as u8).collect();
    let image = RgbImage { width: w, height: h, pixels };
    let scores = scores(labels, h, w);
    let options = CrfOptions { iterations: 1, ..CrfOptions::default() };
    let expected = DenseCrf::new(&image, &options).unwrap().infer(&scores).unwrap();
    emulator.set("checks", "none").unwrap();
    let mut moved = Vec::new();
    for rung in LADDER {
        forget_positions(Some(&gpu));
        emulator.reset().unwrap();
        let crf = DenseCrf::new(&image, &options).unwrap();
        let found = cuda::infer(&gpu, rung, &crf, &scores).unwrap();
        let report = emulator.report().unwrap();
        println!("{}", rung.rung.name);
        println!(
            "{:28} {:>12} {:>14} {:>14} {:>16}",
            "kernel", "grid", "MB read", "MB written", "warp instr."
        );
        let mut iteration = 0;
        for launch in report["launches"].as_array().unwrap() {
            let counters = &launch["counters"];
            let sectors = |what: &str| 32 * counters[what]["sectors"].as_u64().unwrap();
            let (read, written) = (sectors("global_loads"), sectors("global_stores"));
            let kernel = launch["kernel"].as_str().unwrap();
            println!(
                "{kernel:28} {:>12} {:>14.2} {:>14.2} {:>16}",
                launch["grid"][0],
                read as f64 / 1e6,
                written as f64 / 1e6,
                counters["instructions"]["warp"]
            );
            if ["crf_slice_f32", "crf_softmax_f32", "crf_update_f32"].contains(&kernel) {
                iteration += read + written;
            }
        }
        moved.push(iteration);
        let worst = found.data().iter().zip(expected.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("differs from the CPU's by {worst:.1e}\n");
        assert!(worst < 1e-5, "{}: {worst:e}", rung.rung.name);
    }
    // Gathers are the same; energies and Q are a third.
    assert!(moved[1] == moved[0] && moved[2] < moved[1] && moved[3] == moved[2], "{moved:?}");
}
