use super::{difference, flat, in_any_order, line, random, stencil};
use ptx_emulator::ParameterBytes;
use xtask::emulated::{Machine, Shape};

/// Images, height, width, channels, margin of the border rule: sizes around the tile of 8×16 and one smaller than the
/// stencil; channels in and out of fours.
const CASES: [[usize; 5]; 3] = [[1, 9, 17, 7, 0], [2, 13, 18, 36, 4], [1, 3, 2, 8, 0]];

struct Reference {
    /// NaN where the pair does not exist.
    distance: Vec<f64>,
    /// First and second pixel of each pair.
    ends: Vec<Option<(usize, usize)>>,
}

fn reference(f: &[f32], [n, h, w, k, margin]: [usize; 5], factor: f64) -> Reference {
    let mut all = Reference { distance: Vec::new(), ends: Vec::new() };
    for image in 0..n {
        for (dy, dx) in stencil() {
            for at in 0..h * w {
                let (y, x) = (at / w, at % w);
                let other = x.checked_add_signed(dx).filter(|x| *x < w && y + dy < h);
                let other = other.filter(|_| y + margin < h && x >= margin && x + margin < w);
                let ends = other.map(|x| (image * h * w + at, (image * h + y + dy) * w + x));
                let distance = ends.map(|(a, b)| {
                    (0..k).map(|c| f64::from((f[a * k + c] - f[b * k + c]).abs())).sum::<f64>() * factor
                });
                all.distance.push(distance.unwrap_or(f64::NAN));
                all.ends.push(ends);
            }
        }
    }
    all
}

fn features(case: [usize; 5]) -> Vec<f32> {
    let [n, h, w, k, _] = case;
    let mut f: Vec<f32> = random(n * h * w * k, k as u64).iter().map(|v| v * 0.3).collect();
    f[k..2 * k].fill(0.25); // two equal vectors: distance 0
    f[2 * k..3 * k].fill(0.25);
    f
}

fn shape_parameters(p: ParameterBytes, [n, h, w, k, margin]: [usize; 5], factor: f32) -> ParameterBytes {
    let p = [n, h, w, k, 34, margin].iter().fold(p, |p, v| p.i32(*v as i32));
    p.f32(factor)
}

#[test]
fn both_rungs_give_the_same_bits_and_match_f64() {
    for case in CASES {
        let [n, h, w, k, margin] = case;
        let (f, factor) = (features(case), 1.0 / k as f32);
        let count = n * 34 * h * w;
        let outputs = in_any_order(|machine: &mut Machine| {
            let (features, offsets) = (machine.floats(&f), machine.ints(&flat(&stencil())));
            [
                "affinity_forward_gather_f32",
                "affinity_distance_gather_f32",
                "affinity_forward_tiled_f32",
                "affinity_distance_tiled_f32",
            ]
            .map(|kernel| {
                let out = machine.empty(4 * count);
                let (shape, p) = if kernel.contains("gather") {
                    let p = ParameterBytes::new().address(features).address(offsets).address(out);
                    (line(count.div_ceil(256), 256), shape_parameters(p, case, factor))
                } else {
                    let p = ParameterBytes::new().address(features).address(out);
                    let p = [h, w, k, margin].iter().fold(p, |p, v| p.i32(*v as i32)).f32(factor);
                    (
                        Shape {
                            grid: [w.div_ceil(16) as u32, h.div_ceil(8) as u32, n as u32],
                            threads: 128,
                            shared: 0,
                        },
                        p,
                    )
                };
                machine.launch("affinity", kernel, shape, &p).unwrap_or_else(|e| panic!("{case:?}: {e}"));
                machine.read(out, 4 * count)
            })
        });
        assert!(outputs[0] == outputs[2] && outputs[1] == outputs[3], "{case:?}: the rungs differ");
        let values = |bytes: &[u8]| {
            bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>()
        };
        let (affinities, distances) = (values(&outputs[0]), values(&outputs[1]));
        let expected = reference(&f, case, f64::from(factor));
        for (at, &d) in expected.distance.iter().enumerate() {
            if d.is_nan() {
                assert!(affinities[at].is_nan() && distances[at].is_nan(), "{case:?} at {at}");
                continue;
            }
            // k roundings of the sum, one of the factor; the exponential passes on an absolute error of d.
            let tolerance = (k + 2) as f64 * 6e-8 * d;
            assert!(
                (f64::from(distances[at]) - d).abs() <= tolerance,
                "{case:?} at {at}: {} for {d}",
                distances[at]
            );
            let error = f64::from(affinities[at]) / (-d).exp() - 1.0;
            assert!(error.abs() <= tolerance + 3e-7, "{case:?} at {at}: {error}");
        }
    }
}

#[test]
fn loss_and_gradient_match_f64_in_both_forms() {
    for case in CASES {
        let [n, h, w, k, margin] = case;
        let (f, factor) = (features(case), 1.0 / k as f32);
        let count = n * 34 * h * w;
        let blocks = count.div_ceil(256);
        let labels: Vec<u8> =
            random(n * h * w, 9).iter().map(|v| [0, 1, 2, 255][(v.abs() * 3.999) as usize]).collect();
        let weights = [0.3f32, 0.7, 1.1];
        let expected = reference(&f, case, f64::from(factor));
        for form in 0..2 {
            let (counts, sums, gradient) = in_any_order(|machine: &mut Machine| {
                let (features, offsets, labels) =
                    (machine.floats(&f), machine.ints(&flat(&stencil())), machine.bytes(&labels));
                let (d, counts, weights) =
                    (machine.empty(4 * count), machine.ints(&[0; 3]), machine.floats(&weights));
                let (sums, df) = (machine.empty(12 * blocks), machine.empty(4 * f.len()));
                let scale = machine.floats(&[2.0]);
                let mut launch = |kernel: &str, shape, p: &ParameterBytes| {
                    machine.launch("affinity", kernel, shape, p).unwrap_or_else(|e| panic!("{case:?}: {e}"));
                };
                let p = shape_parameters(
                    ParameterBytes::new().address(features).address(offsets).address(d),
                    case,
                    factor,
                );
                launch("affinity_distance_gather_f32", line(blocks, 256), &p);
                let sizes = |p: ParameterBytes| [n, h, w, 34, margin].iter().fold(p, |p, v| p.i32(*v as i32));
                let p = sizes(ParameterBytes::new().address(labels).address(offsets).address(counts));
                launch("affinity_count_u32", line(blocks, 256), &p);
                let p = ParameterBytes::new()
                    .address(d)
                    .address(labels)
                    .address(offsets)
                    .address(weights)
                    .address(d)
                    .address(sums);
                launch("affinity_loss_f32", line(blocks, 256), &sizes(p).i32(form).f32(factor));
                let p = ParameterBytes::new().address(features).address(d).address(offsets);
                let p = [n, h, w, k, 34].iter().fold(p.address(scale).address(df), |p, v| p.i32(*v as i32));
                launch("affinity_backward_gather_f32", line(f.len().div_ceil(256), 256), &p);
                (
                    machine.read(counts, 12),
                    machine.read_floats(sums, 3 * blocks),
                    machine.read_floats(df, f.len()),
                )
            });
            let (mut numbers, mut losses, mut df) = ([0u32; 3], [0f64; 3], vec![0f64; f.len()]);
            for (d, ends) in expected.distance.iter().zip(&expected.ends) {
                let Some((a, b)) = *ends else { continue };
                let kind = match (labels[a], labels[b]) {
                    (255, _) | (_, 255) => continue,
                    (a, b) if a != b => 2,
                    (0, _) => 0,
                    _ => 1,
                };
                let epsilon = 1e-5;
                let (loss, slope) = match (kind, form) {
                    (2, 0) => (
                        -(-(-d.max(epsilon)).exp_m1()).ln(),
                        if *d < epsilon { 0.0 } else { -1.0 / d.exp_m1() },
                    ),
                    (2, _) => (-(epsilon - (-d).exp_m1()).ln(), -(-d).exp() / (epsilon - (-d).exp_m1())),
                    (_, 0) => (*d, 1.0),
                    _ => (-((-d).exp() + epsilon).ln(), (-d).exp() / ((-d).exp() + epsilon)),
                };
                numbers[kind] += 1;
                losses[kind] += loss;
                for c in 0..k {
                    let sign =
                        f64::from((f[a * k + c] - f[b * k + c]).partial_cmp(&0.0).map_or(0, |o| o as i32));
                    let g = sign * slope * 2.0 * f64::from(weights[kind]) * f64::from(factor);
                    df[a * k + c] += g;
                    df[b * k + c] -= g;
                }
            }
            assert_eq!(counts, numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>(), "{case:?}");
            for kind in 0..3 {
                let sum: f64 = (0..blocks).map(|b| f64::from(sums[3 * b + kind])).sum();
                // A loss near 0 has the absolute error of its distance and logarithm.
                let tolerance = 4e-6 * (losses[kind].abs() + f64::from(numbers[kind]));
                assert!(
                    (sum - losses[kind]).abs() <= tolerance,
                    "{case:?} kind {kind}: {sum} for {}",
                    losses[kind]
                );
            }
            // Slopes of near pairs pass on the relative error of d: k + 2 roundings; 68 terms are added.
            let error = difference(&gradient, &df);
            assert!(error < (k + 70) as f64 * 6e-8, "{case:?} form {form}: {error}");
        }
    }
}
