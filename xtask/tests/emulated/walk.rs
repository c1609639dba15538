use super::{difference, flat, in_any_order, line, random, stencil, wide};
use ptx_emulator::ParameterBytes;
use xtask::emulated::{Machine, Shape};

/// Height, width, maps, steps, β. The last is wider than a block's 1024 threads.
const CASES: [(usize, usize, usize, usize, f32); 4] =
    [(5, 7, 3, 6, 8.0), (13, 11, 5, 9, 2.5), (1, 3, 1, 2, 1.0), (33, 35, 2, 2, 8.0)];

fn affinities(h: usize, w: usize) -> Vec<f32> {
    let values = random(34 * h * w, 3);
    let exists = |(plane, at): (usize, usize)| {
        let (dy, dx) = stencil()[plane];
        at / w + dy < h && (at % w).checked_add_signed(dx).is_some_and(|x| x < w)
    };
    let value = |i: usize| if exists((i / (h * w), i % (h * w))) { 0.5 + 0.5 * values[i] } else { f32::NAN };
    (0..values.len()).map(value).collect()
}

/// T^steps x in f64.
fn walked(a: &[f32], x: &[f32], (h, w, maps, steps, beta): (usize, usize, usize, usize, f32)) -> Vec<f64> {
    let pixels = h * w;
    let mut pairs = Vec::new();
    let mut degree = vec![1f64; pixels];
    for (plane, (dy, dx)) in stencil().into_iter().enumerate() {
        for i in 0..pixels {
            let v = a[plane * pixels + i];
            if !v.is_nan() {
                let (j, weight) =
                    ((i + dy * w).wrapping_add_signed(dx), f64::from(v.min(1.0)).powf(f64::from(beta)));
                pairs.push((i, j, weight));
                degree[i] += weight;
                degree[j] += weight;
            }
        }
    }
    let mut now = wide(x);
    for _ in 0..steps {
        let mut next = now.clone();
        for map in 0..maps {
            for &(i, j, weight) in &pairs {
                next[map * pixels + i] += weight * now[map * pixels + j];
                next[map * pixels + j] += weight * now[map * pixels + i];
            }
        }
        next.iter_mut().enumerate().for_each(|(at, v)| *v /= degree[at % pixels]);
        now = next;
    }
    now
}

/// c_k of x^t = Σ c_k T_k(x).
fn chebyshev(t: usize) -> Vec<f32> {
    let choose = |n: usize, k: usize| (0..k).fold(1f64, |c, i| c * (n - i) as f64 / (i + 1) as f64);
    let c = |k: usize| 2f64.powi(1 - t as i32) * choose(t, (t - k) / 2) * if k == 0 { 0.5 } else { 1.0 };
    (0..=t).map(|k| if (t - k).is_multiple_of(2) { c(k) as f32 } else { 0.0 }).collect()
}

#[test]
fn every_rung_walks_as_f64_does() {
    for case in CASES {
        let (h, w, maps, steps, beta) = case;
        let pixels = h * w;
        let (a, x) = (affinities(h, w), random(maps * pixels, 4));
        let pad = stencil().iter().map(|(dy, dx)| (dy * w) as isize + dx).max().unwrap() as usize;
        let outputs = in_any_order(|machine: &mut Machine| {
            let (a, offsets) = (machine.floats(&a), machine.ints(&flat(&stencil())));
            let planes = machine.empty(4 * 34 * (pad + pixels));
            let inverse = machine.empty(4 * pixels);
            let sizes = |p: ParameterBytes| [h, w, 34, pad].iter().fold(p, |p, v| p.i32(*v as i32));
            let p = sizes(ParameterBytes::new().address(a).address(offsets).address(planes).address(inverse))
                .f32(beta);
            machine
                .launch("walk", "walk_build_f32", line((pad + pixels).div_ceil(256), 256), &p)
                .unwrap_or_else(|e| panic!("{case:?}: {e}"));
            let head = ParameterBytes::new().address(planes).address(inverse).address(offsets);

            let mut now = machine.floats(&x);
            let start = now;
            for _ in 0..steps {
                let next = machine.empty(4 * x.len());
                let shape = Shape {
                    grid: [pixels.div_ceil(256) as u32, maps.div_ceil(4) as u32, 1],
                    threads: 256,
                    shared: 0,
                };
                let p = sizes(head.clone().address(now).address(next)).i32(maps as i32);
                machine
                    .launch("walk", "walk_step_f32", shape, &p)
                    .unwrap_or_else(|e| panic!("{case:?}: {e}"));
                now = next;
            }
            let mut outputs = vec![machine.read_floats(now, x.len())];
            let coefficients = machine.floats(&chebyshev(steps));
            for width in [2usize, 4] {
                for kind in ["whole", "chebyshev"] {
                    let y = machine.empty(4 * x.len());
                    let p = if kind == "whole" { head.clone() } else { head.clone().address(coefficients) };
                    let p = sizes(p.address(start).address(y)).i32(maps as i32).i32(steps as i32);
                    let shared = (2 * (pixels + 2 * pad) * 4 * width) as u32;
                    let shape = Shape { grid: [maps.div_ceil(width) as u32, 1, 1], threads: 1024, shared };
                    machine
                        .launch("walk", &format!("walk_{kind}_{width}_f32"), shape, &p)
                        .unwrap_or_else(|e| panic!("{case:?}: {e}"));
                    outputs.push(machine.read_floats(y, x.len()));
                }
            }
            outputs
        });
        let reference = walked(&a, &x, case);
        // A step takes weighted means of 69 values: 69 roundings, and those of β's powers.
        let tolerance = steps as f64 * 100.0 * 6e-8;
        for (rung, output) in outputs.iter().enumerate() {
            let error = difference(output, &reference);
            assert!(error < tolerance, "{case:?} output {rung}: {error}");
        }
        assert!(outputs[0] == outputs[1] && outputs[0] == outputs[3], "{case:?}: step and whole walk differ");
        assert!(outputs[2] == outputs[4], "{case:?}: Chebyshev by 2 and by 4 maps differ");
    }
}
