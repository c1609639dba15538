//! Kernels known to be right (`correct/*.cu`): no finding in any order of warps and blocks, results equal to plain loops,
//! and the same bytes and counters whether blocks run on one thread or several.
//!
//! Inputs are multiples of 2⁻⁶ between -1 and 1, so that all sums below are exact in f32 and the order of their terms does
//! not matter: results are compared with `==`.

mod cooperation;

use ptx_emulator::{Module, Options, ParameterBytes};

use crate::support::{Device, Random, Shape, module};

/// What one run does: launches, one after another, and the buffers to look at then.
struct Work<'a> {
    launches: Vec<(Shape<'a>, ParameterBytes)>,
    /// Address and bytes.
    outputs: Vec<(u64, usize)>,
}

fn shape(kernel: &str, grid: [u32; 3], block: [u32; 3]) -> Shape<'_> {
    Shape { kernel, grid, block, shared: 0 }
}

/// Runs in several orders, each with blocks one after another and in parallel, and gives each run's outputs to `check`.
fn in_all_orders<'a>(
    module: &Module,
    cooperative: bool,
    prepare: impl Fn(&mut Device) -> Work<'a>,
    check: impl Fn(&[Vec<u8>]),
) {
    for seed in [None, Some(1), Some(2), Some(3), Some(4)] {
        let mut serial = None;
        for parallel in [false, true] {
            let options =
                Options { seed, parallel, cooperative, instruction_limit: 5_000_000, ..Options::default() };
            let mut device = Device::new(module);
            let work = prepare(&mut device);
            let mut counters = Vec::new();
            for (shape, parameters) in &work.launches {
                let report = device.launch(shape, parameters, &options);
                let at = format!("{}, seed {seed:?}, parallel {parallel}", shape.kernel);
                assert!(report.findings.is_empty(), "{at}: {}", report.findings[0]);
                assert_eq!(report.stopped, None, "{at}");
                assert!(report.counters.executed.lanes > 0, "{at}");
                counters.push(report.counters);
            }
            let outputs: Vec<Vec<u8>> = work.outputs.iter().map(|(a, n)| device.read(*a, *n)).collect();
            check(&outputs);
            let kernel = work.launches[0].0.kernel;
            match &serial {
                None => serial = Some((outputs, counters)),
                Some((bytes, counted)) => {
                    assert!(*bytes == outputs, "{kernel}: bytes differ between serial and parallel");
                    assert_eq!(*counted, counters, "{kernel}: counters differ between serial and parallel");
                }
            }
        }
    }
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
}

fn u32s(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
}

fn random_f32s(seed: u64, n: usize) -> Vec<f32> {
    let mut random = Random(seed);
    (0..n).map(|_| random.f32()).collect()
}

fn random_u32s(seed: u64, n: usize) -> Vec<u32> {
    let mut random = Random(seed);
    (0..n).map(|_| random.u32()).collect()
}

#[test]
fn sum_in_shared_memory_and_by_shuffles() {
    let module = module("correct/ptx/reductions.ptx");
    for (kernel, n) in
        [("reduce_shared", 3001), ("reduce_shared", 1), ("reduce_shuffle", 4096), ("reduce_shuffle", 508)]
    {
        let x = random_f32s(n as u64, n);
        let want: f64 = x.iter().map(|v| f64::from(*v)).sum();
        in_all_orders(
            &module,
            false,
            |device| {
                let (input, out) = (device.f32s(&x), device.empty(4 * 4));
                let parameters = ParameterBytes::new().address(input).address(out).u32(n as u32);
                let launches = vec![(shape(kernel, [4, 1, 1], [128, 1, 1]), parameters)];
                Work { launches, outputs: vec![(out, 16)] }
            },
            |outputs| {
                assert_eq!(f32s(&outputs[0]).iter().map(|v| f64::from(*v)).sum::<f64>(), want, "{kernel}")
            },
        );
    }
}

#[test]
fn sum_by_the_last_block() {
    let module = module("correct/ptx/reductions.ptx");
    let x = random_f32s(7, 5000);
    let want = x.iter().map(|v| f64::from(*v)).sum::<f64>() as f32;
    in_all_orders(
        &module,
        false,
        |device| {
            let (input, parts, out) = (device.f32s(&x), device.empty(4 * 9), device.empty(4));
            let arrived = device.u32s(&[0]);
            let p =
                ParameterBytes::new().address(input).address(parts).address(arrived).address(out).u32(5000);
            Work {
                launches: vec![(shape("reduce_last_block", [9, 1, 1], [128, 1, 1]), p)],
                outputs: vec![(out, 4)],
            }
        },
        |outputs| assert_eq!(f32s(&outputs[0]), [want]),
    );
}

#[test]
fn sum_of_integers_by_atomics() {
    let module = module("correct/ptx/reductions.ptx");
    let x = random_u32s(8, 1000);
    let want = x.iter().fold(0u32, |a, b| a.wrapping_add(*b));
    in_all_orders(
        &module,
        false,
        |device| {
            let (input, out) = (device.u32s(&x), device.u32s(&[0]));
            let p = ParameterBytes::new().address(input).address(out).u32(1000);
            Work {
                launches: vec![(shape("reduce_atomic", [8, 1, 1], [128, 1, 1]), p)],
                outputs: vec![(out, 4)],
            }
        },
        |outputs| assert_eq!(u32s(&outputs[0]), [want]),
    );
}

#[test]
fn softmax_in_one_pass() {
    let module = module("correct/ptx/reductions.ptx");
    let (rows, width) = (3, 200);
    let x: Vec<f32> = random_f32s(9, rows * width).iter().map(|v| v * 8.0).collect();
    in_all_orders(
        &module,
        false,
        |device| {
            let (input, out) = (device.f32s(&x), device.empty(4 * x.len()));
            let p = ParameterBytes::new().address(input).address(out).u32(width as u32);
            Work {
                launches: vec![(shape("softmax_rows", [rows as u32, 1, 1], [32, 1, 1]), p)],
                outputs: vec![(out, 4 * x.len())],
            }
        },
        |outputs| {
            for (got, x) in f32s(&outputs[0]).chunks(width).zip(x.chunks(width)) {
                let sum: f64 = x.iter().map(|v| f64::from(*v).exp2()).sum();
                for (g, v) in got.iter().zip(x) {
                    let want = f64::from(*v).exp2() / sum;
                    // A term is scaled up to 7 + 5 times by ex2.approx, whose error is 2⁻²², and rounded as often.
                    let bound = want * 32.0 * 2f64.powi(-22);
                    assert!((f64::from(*g) - want).abs() <= bound, "{g} for {want}");
                }
            }
        },
    );
}

/// A kernel from n words to n words in one block.
fn one_block(kernel: &str, threads: u32, x: &[u32], want: &[u32]) {
    let module = module("correct/ptx/scans.ptx");
    in_all_orders(
        &module,
        false,
        |device| {
            let (input, out) = (device.u32s(x), device.empty(4 * x.len()));
            let p = ParameterBytes::new().address(input).address(out);
            let launches = vec![(shape(kernel, [1, 1, 1], [threads, 1, 1]), p)];
            Work { launches, outputs: vec![(out, 4 * x.len())] }
        },
        |outputs| assert_eq!(u32s(&outputs[0]), want, "{kernel}"),
    );
}

fn inclusive(x: &[u32]) -> Vec<u32> {
    let mut sum = 0u32;
    x.iter()
        .map(|v| {
            sum = sum.wrapping_add(*v);
            sum
        })
        .collect()
}

#[test]
fn scans_of_a_block() {
    let x = random_u32s(10, 256);
    let up_to = inclusive(&x);
    let before: Vec<u32> = up_to.iter().zip(&x).map(|(s, v)| s.wrapping_sub(*v)).collect();
    one_block("scan_hillis_steele", 256, &x, &up_to);
    one_block("scan_shuffle", 256, &x, &up_to);
    one_block("scan_blelloch", 128, &x, &before);
}

#[test]
fn sorts_of_a_block() {
    let x = random_u32s(11, 256);
    let mut sorted = x.clone();
    sorted.sort_unstable();
    one_block("sort_bitonic", 256, &x, &sorted);
    one_block("sort_radix", 256, &x, &sorted);
    let mut by_warp = x.clone();
    by_warp.chunks_mut(32).for_each(<[u32]>::sort_unstable);
    one_block("sort_warp", 256, &x, &by_warp);
}

#[test]
fn scan_over_blocks_with_look_back() {
    let module = module("correct/ptx/scans.ptx");
    let x = random_u32s(12, 900);
    let want = inclusive(&x);
    in_all_orders(
        &module,
        false,
        |device| {
            let (input, out) = (device.u32s(&x), device.empty(4 * x.len()));
            let (states, next) = (device.buffer(&[0; 8 * 8]), device.u32s(&[0]));
            let p = ParameterBytes::new().address(input).address(out).address(states).address(next).u32(900);
            Work {
                launches: vec![(shape("scan_look_back", [8, 1, 1], [128, 1, 1]), p)],
                outputs: vec![(out, 3600)],
            }
        },
        |outputs| assert_eq!(u32s(&outputs[0]), want),
    );
}

#[test]
fn compaction_by_ballots() {
    let module = module("correct/ptx/scans.ptx");
    let x = random_u32s(13, 500);
    let mut want: Vec<u32> = x.iter().copied().filter(|v| v % 3 == 0).collect();
    want.sort_unstable();
    in_all_orders(
        &module,
        false,
        |device| {
            let (input, out, kept) = (device.u32s(&x), device.u32s(&[0; 500]), device.u32s(&[0]));
            let p = ParameterBytes::new().address(input).address(out).address(kept).u32(500);
            Work {
                launches: vec![(shape("compact_ballot", [4, 1, 1], [128, 1, 1]), p)],
                outputs: vec![(out, 2000), (kept, 4)],
            }
        },
        |outputs| {
            let kept = u32s(&outputs[1])[0] as usize;
            let mut got = u32s(&outputs[0])[..kept].to_vec();
            got.sort_unstable();
            assert_eq!(got, want);
        },
    );
}

/// `C[m][n] = Σ_k A[m][k] B[k][n]`, exact.
fn product(a: &[f32], b: &[f32], m: usize, n: usize, depth: usize) -> Vec<f32> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            let terms = (0..depth).map(|k| f64::from(a[i * depth + k]) * f64::from(b[k * n + j]));
            c[i * n + j] = terms.sum::<f64>() as f32;
        }
    }
    c
}

/// A matrix product by one kernel, `tile` rows and columns of C a block.
fn gemm(kernel: &str, [m, n, depth]: [usize; 3], tile: u32, block: [u32; 3], shared: u32, bf16: bool) {
    let module = module("correct/ptx/products.ptx");
    let (a, b) = (random_f32s(14, m * depth), random_f32s(15, depth * n));
    let want = product(&a, &b, m, n, depth);
    let upload = |device: &mut Device, x: &[f32]| {
        if bf16 {
            // Multiples of 2⁻⁶ up to 1 have at most 7 significant bits, bf16 holds 8: the upper half is exact.
            let halves: Vec<u8> = x.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect();
            device.buffer(&halves)
        } else {
            device.f32s(x)
        }
    };
    in_all_orders(
        &module,
        false,
        |device| {
            let (a, b, c) = (upload(device, &a), upload(device, &b), device.empty(4 * m * n));
            let sizes = [m as u32, n as u32, depth as u32];
            let p = ParameterBytes::new().address(a).address(b).address(c);
            let p = p.u32(sizes[0]).u32(sizes[1]).u32(sizes[2]);
            let grid = [sizes[1].div_ceil(tile), sizes[0].div_ceil(tile), 1];
            Work { launches: vec![(Shape { kernel, grid, block, shared }, p)], outputs: vec![(c, 4 * m * n)] }
        },
        |outputs| assert_eq!(f32s(&outputs[0]), want, "{kernel}"),
    );
}

#[test]
fn matrix_product_in_tiles() {
    gemm("gemm_tiled", [33, 17, 50], 16, [16, 16, 1], 0, false);
    gemm("gemm_tiled", [1, 1, 1], 16, [16, 16, 1], 0, false);
}

#[test]
fn matrix_product_with_two_buffers() {
    gemm("gemm_double_buffered", [64, 32, 40], 32, [64, 1, 1], 0, false);
}

#[test]
fn matrix_product_with_asynchronous_copies() {
    gemm("gemm_async", [32, 32, 80], 16, [256, 1, 1], 3 * 2 * 1024, false);
    gemm("gemm_async", [16, 16, 16], 16, [256, 1, 1], 3 * 2 * 1024, false);
}

#[test]
fn matrix_product_on_tensor_cores() {
    gemm("gemm_tensor", [64, 32, 96], 32, [128, 1, 1], 0, true);
    gemm("gemm_tensor", [32, 32, 32], 32, [128, 1, 1], 0, true);
}

#[test]
fn matrix_product_split_over_the_depth() {
    let module = module("correct/ptx/products.ptx");
    let (m, n, depth, parts) = (32, 16, 128, 4);
    let (a, b) = (random_f32s(16, m * depth), random_f32s(17, depth * n));
    let want = product(&a, &b, m, n, depth);
    in_all_orders(
        &module,
        false,
        |device| {
            let (a, b, c) = (device.f32s(&a), device.f32s(&b), device.empty(4 * m * n));
            let planes = device.empty(4 * m * n * parts);
            let first = ParameterBytes::new().address(a).address(b).address(planes);
            let first = first.u32(m as u32).u32(n as u32).u32(depth as u32);
            let second =
                ParameterBytes::new().address(planes).address(c).u32((m * n) as u32).u32(parts as u32);
            let launches = vec![
                (shape("gemm_split_k", [1, 2, parts as u32], [16, 16, 1]), first),
                (shape("add_planes", [2, 1, 1], [128, 1, 1]), second),
            ];
            Work { launches, outputs: vec![(c, 4 * m * n)] }
        },
        |outputs| assert_eq!(f32s(&outputs[0]), want),
    );
}

#[test]
fn matrix_times_vector_a_warp_a_row() {
    let module = module("correct/ptx/products.ptx");
    let (rows, columns) = (13, 77);
    let (a, x) = (random_f32s(18, rows * columns), random_f32s(19, columns));
    let want = product(&a, &x, rows, 1, columns);
    in_all_orders(
        &module,
        false,
        |device| {
            let (a, x, y) = (device.f32s(&a), device.f32s(&x), device.empty(4 * rows));
            let p =
                ParameterBytes::new().address(a).address(x).address(y).u32(rows as u32).u32(columns as u32);
            Work {
                launches: vec![(shape("matrix_times_vector", [4, 1, 1], [128, 1, 1]), p)],
                outputs: vec![(y, 4 * rows)],
            }
        },
        |outputs| assert_eq!(f32s(&outputs[0]), want),
    );
}

/// A kernel of `grids` from one buffer of f32 to one of the same length.
fn on_a_grid(kernel: &str, grid: [u32; 3], block: [u32; 3], x: &[f32], sizes: &[u32], want: &[f32]) {
    let module = module("correct/ptx/grids.ptx");
    in_all_orders(
        &module,
        false,
        |device| {
            let (input, out) = (device.f32s(x), device.empty(4 * x.len()));
            let p = ParameterBytes::new().address(input).address(out);
            let p = sizes.iter().fold(p, |p, n| p.u32(*n));
            Work { launches: vec![(shape(kernel, grid, block), p)], outputs: vec![(out, 4 * x.len())] }
        },
        |outputs| assert_eq!(f32s(&outputs[0]), want, "{kernel}"),
    );
}

#[test]
fn stencils() {
    let x = random_f32s(20, 150);
    let at = |i: i64| if (0..150).contains(&i) { x[i as usize] } else { 0.0 };
    let want: Vec<f32> = (0..150).map(|i| 0.25 * at(i - 1) + 0.5 * at(i) + 0.25 * at(i + 1)).collect();
    on_a_grid("stencil_line", [3, 1, 1], [64, 1, 1], &x, &[150], &want);

    let (width, height) = (41, 19);
    let x = random_f32s(21, width * height);
    let at = |u: i64, v: i64| {
        let inside = (0..width as i64).contains(&u) && (0..height as i64).contains(&v);
        if inside { x[v as usize * width + u as usize] } else { 0.0 }
    };
    let five = |u, v| at(u, v) * 4.0 - at(u - 1, v) - at(u + 1, v) - at(u, v - 1) - at(u, v + 1);
    let want: Vec<f32> =
        (0..(width * height) as i64).map(|i| five(i % width as i64, i / width as i64)).collect();
    on_a_grid("stencil_plane", [2, 3, 1], [32, 8, 1], &x, &[width as u32, height as u32], &want);
}

/// `rounds` sweeps around a ring: half of itself and a quarter of each neighbour.
fn sweeps(x: &[f32], rounds: usize) -> Vec<f32> {
    let (mut line, n) = (x.to_vec(), x.len());
    for _ in 0..rounds {
        line = (0..n).map(|i| 0.5 * line[i] + 0.25 * (line[(i + n - 1) % n] + line[(i + 1) % n])).collect();
    }
    line
}

#[test]
fn sweeps_between_two_buffers() {
    let x = random_f32s(22, 64);
    on_a_grid("stencil_sweeps", [1, 1, 1], [64, 1, 1], &x, &[5], &sweeps(&x, 5));
}

#[test]
fn transposition() {
    let (width, height) = (45, 70);
    let x = random_f32s(23, width * height);
    let want: Vec<f32> = (0..width * height).map(|i| x[i % height * width + i / height]).collect();
    on_a_grid("transpose_padded", [2, 3, 1], [32, 8, 1], &x, &[width as u32, height as u32], &want);
}

#[test]
fn bytes_that_share_a_word() {
    let module = module("correct/ptx/grids.ptx");
    let x: Vec<u8> = random_u32s(24, 128).iter().map(|v| *v as u8).collect();
    for (kernel, grid, block) in [("bytes_of_different_warps", 1, 128), ("bytes_of_different_blocks", 4, 32)]
    {
        let want: Vec<u8> =
            (0..128).map(|i| if grid == 1 { x[i % 4 * 32 + i / 4] } else { x[i].wrapping_add(1) }).collect();
        in_all_orders(
            &module,
            false,
            |device| {
                let (input, out) = (device.buffer(&x), device.empty(128));
                let p = ParameterBytes::new().address(input).address(out);
                let launches = vec![(shape(kernel, [grid, 1, 1], [block, 1, 1]), p)];
                Work { launches, outputs: vec![(out, 128)] }
            },
            |outputs| assert_eq!(outputs[0], want, "{kernel}"),
        );
    }
}
