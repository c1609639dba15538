use super::{difference, in_any_order, line, random};
use ptx_emulator::ParameterBytes;
use xtask::emulated::{Machine, Shape};

#[test]
fn a_vector_is_summed_in_a_tree() {
    for count in [1usize, 3, 255, 4096, 4097, 10_001] {
        let x = random(count, 1);
        let sum = in_any_order(|machine: &mut Machine| {
            let blocks = count.div_ceil(4096);
            let (values, parts, out) = (machine.floats(&x), machine.empty(4 * blocks), machine.empty(4));
            let p = ParameterBytes::new().address(values).address(parts).i32(count as i32);
            machine.launch("reduce", "sum_blocks_f32", line(blocks, 256), &p).unwrap();
            let p = ParameterBytes::new().address(parts).address(out).i32(blocks as i32);
            machine.launch("reduce", "sum_serial_f32", line(1, 1), &p).unwrap();
            machine.read_floats(out, 1)[0]
        });
        let exact: f64 = x.iter().map(|v| f64::from(*v)).sum();
        let size: f64 = x.iter().map(|v| f64::from(v.abs())).sum();
        // Depth of the tree: 4 sums of 4, 5 levels of a warp, 8 warps, the blocks.
        assert!((f64::from(sum) - exact).abs() <= 24.0 * 6e-8 * size, "{count}: {sum} for {exact}");
    }
}

#[test]
fn columns_are_summed_by_ranges_of_rows() {
    for (rows, columns) in [(1usize, 1usize), (700, 37), (512, 32), (1025, 3)] {
        let x = random(rows * columns, 2);
        let sums = in_any_order(|machine: &mut Machine| {
            let ranges = rows.div_ceil(512);
            let (values, parts, out) =
                (machine.floats(&x), machine.empty(4 * ranges * columns), machine.empty(4 * columns));
            let p = ParameterBytes::new().address(values).address(parts).i32(rows as i32).i32(columns as i32);
            let shape =
                Shape { grid: [columns.div_ceil(32) as u32, ranges as u32, 1], threads: 256, shared: 0 };
            machine.launch("reduce", "sum_rows_f32", shape, &p).unwrap();
            let p = ParameterBytes::new().address(parts).address(out).i32(ranges as i32).i32(columns as i32);
            machine.launch("reduce", "sum_parts_f32", line(columns.div_ceil(256), 256), &p).unwrap();
            machine.read_floats(out, columns)
        });
        let exact: Vec<f64> =
            (0..columns).map(|c| (0..rows).map(|r| f64::from(x[r * columns + c])).sum()).collect();
        // 64 values a thread, 8 threads, the ranges; sums of signed values lose digits, so the size of the terms counts.
        for (c, sum) in sums.iter().enumerate() {
            let size: f64 = (0..rows).map(|r| f64::from(x[r * columns + c].abs())).sum();
            assert!((f64::from(*sum) - exact[c]).abs() <= 75.0 * 6e-8 * size, "{rows}×{columns} at {c}");
        }
    }
}

#[test]
fn value_by_value_kernels_match_f64_at_every_count_and_number_of_channels() {
    for (count, channels) in [(1usize, 1usize), (7, 3), (1024, 8), (2051, 37)] {
        let [x, y, g] = [1, 2, 3].map(|seed| random(count, seed));
        let [scale, shift, mean] = [4, 5, 6].map(|seed| random(channels, seed));
        let variance: Vec<f32> = random(channels, 7).iter().map(|v| v.abs()).collect();
        let outputs = in_any_order(|machine: &mut Machine| {
            let [scale, shift, mean, variance] =
                [&scale, &shift, &mean, &variance].map(|v| machine.floats(v));
            let [x, y, g] = [&x, &y, &g].map(|v| machine.floats(v));
            let [inverse, a, b] = [0; 3].map(|_| machine.empty(4 * channels));
            let of = |addresses: &[u64]| addresses.iter().fold(ParameterBytes::new(), |p, v| p.address(*v));
            let p = of(&[scale, shift, mean, variance, inverse, a, b]).i32(channels as i32);
            machine
                .launch("batch_norm", "batch_norm_coefficients_f32", line(channels.div_ceil(256), 256), &p)
                .unwrap();
            let (count32, channels32) = (count as i32, channels as i32);
            let mut run = |kernel: &str, parameters: &dyn Fn(u64) -> ParameterBytes| {
                let out = machine.empty(4 * count);
                let file = if kernel.starts_with("batch_norm") { "batch_norm" } else { "pointwise" };
                machine.launch(file, kernel, line(count.div_ceil(1024), 256), &parameters(out)).unwrap();
                machine.read_floats(out, count)
            };
            vec![
                run("batch_norm_f32", &|z| of(&[x, a, b, z]).i32(count32).i32(channels32).i32(0)),
                run("batch_norm_f32", &|z| of(&[x, a, b, z]).i32(count32).i32(channels32).i32(1)),
                run("batch_norm_backward_f32", &|z| of(&[g, y, a, z]).i32(count32).i32(channels32)),
                run("batch_norm_backward_f32", &|z| of(&[g, 0, a, z]).i32(count32).i32(channels32)),
                run("add_f32", &|z| of(&[x, y, z]).i32(count32)),
                run("relu_f32", &|z| of(&[x, z]).i32(count32)),
                run("elu_f32", &|z| of(&[x, z]).i32(count32)),
                run("relu_backward_f32", &|z| of(&[g, y, z]).i32(count32)),
                run("elu_backward_f32", &|z| of(&[g, y, z]).i32(count32)),
            ]
        });
        let each = |f: &dyn Fn(usize, f64, f64, f64) -> f64| -> Vec<f64> {
            (0..count).map(|i| f(i % channels, x[i].into(), y[i].into(), g[i].into())).collect()
        };
        let a = |c: usize| f64::from(scale[c]) / (f64::from(variance[c]) + 1e-5).sqrt();
        let normal = |c: usize, x: f64| a(c) * (x - f64::from(mean[c])) + f64::from(shift[c]);
        let expected = [
            each(&|c, x, _, _| normal(c, x)),
            each(&|c, x, _, _| normal(c, x).max(0.0)),
            each(&|c, _, y, g| if y > 0.0 { a(c) * g } else { 0.0 }),
            each(&|c, _, _, g| a(c) * g),
            each(&|_, x, y, _| x + y),
            each(&|_, x, _, _| x.max(0.0)),
            each(&|_, x, _, _| if x > 0.0 { x } else { x.exp_m1() }),
            each(&|_, _, y, g| if y > 0.0 { g } else { 0.0 }),
            each(&|_, _, y, g| if y > 0.0 { g } else { g * (y + 1.0) }),
        ];
        // Four roundings; a·x and b may cancel, by the sizes drawn here not beyond a digit.
        for (kernel, (output, expected)) in outputs.iter().zip(&expected).enumerate() {
            let error = difference(output, expected);
            assert!(error < 2e-6, "{count} values, {channels} channels, output {kernel}: {error}");
        }
    }
}

/// A table of one entry: w, g and two tensors of state, of so many values; rate, decay, shrink, momentum; Adam's v_hat, which
/// no other kernel reads.
fn table(
    machine: &mut Machine,
    addresses: [u64; 4],
    count: usize,
    [rate, decay, shrink, momentum]: [f32; 4],
) -> u64 {
    let mut bytes: Vec<u8> = addresses.iter().flat_map(|a| a.to_le_bytes()).collect();
    bytes.extend([count as i32, 0].iter().flat_map(|v| v.to_le_bytes()));
    bytes.extend([rate, decay, shrink, momentum, V_HAT].iter().flat_map(|v| v.to_le_bytes()));
    bytes.extend([0; 4]);
    machine.bytes(&bytes)
}

const V_HAT: f32 = 1.5;

#[test]
fn after_a_loss_that_is_no_number_nothing_changes() {
    for loss in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        let [weights, stop] = in_any_order(|machine: &mut Machine| {
            let (weight, gradient) = (machine.floats(&[1.0, 2.0, 3.0]), machine.floats(&[1.0; 3]));
            let (stop, counts, loss) = (machine.ints(&[0]), machine.ints(&[0, 0]), machine.floats(&[loss]));
            let p = ParameterBytes::new().address(loss).address(stop);
            machine.launch("optimizer", "note_not_finite_f32", line(1, 32), &p).unwrap();
            for kernel in ["sgd_table_f32", "blend_table_f32"] {
                let entry = table(machine, [weight, gradient, 0, 0], 3, [1.0, 0.0, 1.0, 0.0]);
                let p = ParameterBytes::new().address(entry).address(counts).address(stop).i32(1);
                machine.launch("optimizer", kernel, line(1, 256), &p).unwrap();
            }
            [machine.read_floats(weight, 3), machine.read_floats(stop, 1)]
        });
        let stopped = !loss.is_finite();
        assert_eq!(stop[0].to_bits(), u32::from(stopped), "{loss}");
        assert_eq!(weights, if stopped { [1.0, 2.0, 3.0] } else { [1.0; 3] }, "{loss}");
    }
}

#[test]
fn optimisers_match_f64() {
    let count = 5030;
    let [w, g, m] = [1, 2, 3].map(|seed| random(count, seed));
    let v: Vec<f32> = random(count, 4).iter().map(|v| v.abs()).collect();
    let outputs = in_any_order(|machine: &mut Machine| {
        let gradient = machine.floats(&g);
        let counts = machine.ints(&[0, 0]);
        let run = |machine: &mut Machine, kernel: &str, table: u64, more: &[f32]| {
            let p = ParameterBytes::new().address(table).address(counts).address(0).i32(1);
            let p = more.iter().fold(p, |p, v| p.f32(*v));
            machine.launch("optimizer", kernel, line(count.div_ceil(4096), 256), &p).unwrap();
        };
        let (weight, velocity) = (machine.floats(&w), machine.floats(&m));
        let entry = table(machine, [weight, gradient, velocity, 0], count, [0.1, 0.01, 1.0, 0.9]);
        run(machine, "sgd_table_f32", entry, &[]);
        // The first step: velocity has not been written.
        let (first, fresh) = (machine.floats(&w), machine.empty(4 * count));
        let entry = table(machine, [first, gradient, fresh, 0], count, [0.1, 0.01, 1.0, 0.0]);
        run(machine, "sgd_table_f32", entry, &[]);
        let (adam, mean, square) = (machine.floats(&w), machine.floats(&m), machine.floats(&v));
        let entry = table(machine, [adam, gradient, mean, square], count, [0.02, 0.01, 0.98, 1.0]);
        run(machine, "adam_table_f32", entry, &[0.9, 0.1, 0.999, 0.001]);
        assert_eq!(machine.read(counts, 8), [0; 8], "all are numbers");
        [weight, velocity, first, fresh, adam, mean, square].map(|at| machine.read_floats(at, count))
    });
    let each = |f: &dyn Fn(f64, f64, f64, f64) -> f64| -> Vec<f64> {
        (0..count).map(|i| f(w[i].into(), g[i].into(), m[i].into(), v[i].into())).collect()
    };
    let mean = |w: f64, g: f64, m: f64| 0.9 * m + 0.1 * (g + 0.01 * w);
    let square = |w: f64, g: f64, v: f64| 0.999 * v + 0.001 * (g + 0.01 * w).powi(2);
    let expected = [
        each(&|w, g, m, _| w - 0.1 * (0.9 * m + g + 0.01 * w)),
        each(&|w, g, m, _| 0.9 * m + g + 0.01 * w),
        each(&|w, g, _, _| w - 0.1 * (g + 0.01 * w)),
        each(&|w, g, _, _| g + 0.01 * w),
        each(&|w, g, m, v| {
            0.98 * w - 0.02 * mean(w, g, m) / ((square(w, g, v) * f64::from(V_HAT)).sqrt() + 1e-8)
        }),
        each(&|w, g, m, _| mean(w, g, m)),
        each(&|w, g, _, v| square(w, g, v)),
    ];
    for (output, (values, expected)) in outputs.iter().zip(&expected).enumerate() {
        // Under ten roundings each.
        let error = difference(values, expected);
        assert!(error < 10.0 * 6e-8, "output {output}: {error}");
    }
}
