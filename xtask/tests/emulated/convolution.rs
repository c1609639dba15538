use super::{difference, in_any_order, line, random, wide};
use ptx_emulator::ParameterBytes;
use xtask::emulated::{Machine, Shape, to_bf16};

#[derive(Debug, Clone, Copy)]
struct Case {
    n: usize,
    h: usize,
    w: usize,
    i: usize,
    o: usize,
    kernel: (usize, usize),
    stride: usize,
    padding: usize,
    dilation: usize,
}

impl Case {
    fn out(&self) -> (usize, usize) {
        let size = |size: usize, kernel: usize| {
            (size + 2 * self.padding - self.dilation * (kernel - 1) - 1) / self.stride + 1
        };
        (size(self.h, self.kernel.0), size(self.w, self.kernel.1))
    }
    fn taps(&self) -> usize {
        self.kernel.0 * self.kernel.1
    }
    fn rows(&self) -> usize {
        self.n * self.out().0 * self.out().1
    }
    fn append(&self, mut p: ParameterBytes) -> ParameterBytes {
        let (oh, ow) = self.out();
        let all = [
            self.n,
            self.h,
            self.w,
            self.i,
            oh,
            ow,
            self.o,
            self.kernel.0,
            self.kernel.1,
            self.stride,
            self.padding,
            self.dilation,
        ];
        for value in all {
            p = p.i32(value as i32);
        }
        p
    }
    /// Calls `f(output pixel, tap, input pixel)` wherever a tap lies inside.
    fn meetings(&self, mut f: impl FnMut(usize, usize, usize)) {
        let (oh, ow) = self.out();
        for row in 0..self.rows() {
            let (q, p, n) = (row % ow, row / ow % oh, row / ow / oh);
            for tap in 0..self.taps() {
                let y = p * self.stride + tap / self.kernel.1 * self.dilation;
                let x = q * self.stride + tap % self.kernel.1 * self.dilation;
                if (self.padding..self.h + self.padding).contains(&y)
                    && (self.padding..self.w + self.padding).contains(&x)
                {
                    f(row, tap, (n * self.h + y - self.padding) * self.w + x - self.padding);
                }
            }
        }
    }
    fn forward(&self, x: &[f32], w: &[f32], bias: &[f32], add: &[f32]) -> Vec<f64> {
        let mut y: Vec<f64> =
            add.iter().enumerate().map(|(at, a)| f64::from(*a) + f64::from(bias[at % self.o])).collect();
        self.meetings(|row, tap, pixel| {
            for o in 0..self.o {
                let terms = (0..self.i).map(|i| {
                    f64::from(x[pixel * self.i + i]) * f64::from(w[(o * self.taps() + tap) * self.i + i])
                });
                y[row * self.o + o] += terms.sum::<f64>();
            }
        });
        y
    }
    /// dx (with `add`) and dw.
    fn backward(&self, x: &[f32], w: &[f32], dy: &[f32], add: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let (mut dx, mut dw) = (wide(add), vec![0f64; w.len()]);
        self.meetings(|row, tap, pixel| {
            for o in 0..self.o {
                let g = f64::from(dy[row * self.o + o]);
                for i in 0..self.i {
                    let (at_x, at_w) = (pixel * self.i + i, (o * self.taps() + tap) * self.i + i);
                    dx[at_x] += g * f64::from(w[at_w]);
                    dw[at_w] += g * f64::from(x[at_x]);
                }
            }
        });
        (dx, dw)
    }
}

/// Odd sizes, one pixel, tiles ± 1, channels in and out of 16-byte pieces, strides above and below the kernel, dilations
/// that share a factor with the stride.
const CASES: [Case; 8] = [
    Case { n: 1, h: 5, w: 7, i: 3, o: 5, kernel: (3, 3), stride: 1, padding: 1, dilation: 1 },
    Case { n: 2, h: 9, w: 11, i: 17, o: 19, kernel: (3, 3), stride: 2, padding: 1, dilation: 1 },
    Case { n: 1, h: 12, w: 11, i: 16, o: 8, kernel: (3, 3), stride: 1, padding: 2, dilation: 2 },
    Case { n: 2, h: 5, w: 13, i: 40, o: 129, kernel: (1, 1), stride: 1, padding: 0, dilation: 1 },
    Case { n: 1, h: 8, w: 9, i: 8, o: 33, kernel: (3, 3), stride: 2, padding: 2, dilation: 2 },
    Case { n: 1, h: 9, w: 8, i: 5, o: 6, kernel: (2, 3), stride: 3, padding: 0, dilation: 1 },
    Case { n: 1, h: 10, w: 9, i: 8, o: 8, kernel: (3, 3), stride: 4, padding: 3, dilation: 6 },
    Case { n: 1, h: 1, w: 1, i: 1, o: 1, kernel: (1, 1), stride: 1, padding: 0, dilation: 1 },
];

/// f32 sums of k terms: each of them rounds, and errors add like a random walk (times 4).
fn f32_tolerance(terms: usize) -> f64 {
    (terms as f64).sqrt() * 6e-8 * 4.0
}
/// Both operands rounded to 11 bits, each by at most 2^−11.
const TF32: f64 = 2.0 / 2048.0;
/// One rounding to bf16's 8 bits, at most 2^−9, of the addend and of the result.
const BF16: f64 = 2.0 / 512.0;

fn tile(rows: usize, columns: usize, phases: usize, shared: u32) -> Shape {
    Shape {
        grid: [rows.div_ceil(128) as u32, columns.div_ceil(128) as u32, phases as u32],
        threads: 256,
        shared,
    }
}

struct Data {
    x: Vec<f32>,
    w: Vec<f32>,
    bias: Vec<f32>,
    add: Vec<f32>,
    dy: Vec<f32>,
    add_x: Vec<f32>,
}

fn data(c: &Case) -> Data {
    let of = |count, seed| random(count, seed + c.h as u64);
    let (x, y, w) = (c.n * c.h * c.w * c.i, c.rows() * c.o, c.o * c.taps() * c.i);
    Data { x: of(x, 1), w: of(w, 2), bias: of(c.o, 3), add: of(y, 4), dy: of(y, 5), add_x: of(x, 6) }
}

#[test]
fn forward_f32_rungs_match_f64_and_each_other_bit_for_bit() {
    for c in CASES {
        let d = data(&c);
        let rungs = [
            ("conv2d", "conv2d_forward_direct_f32", line((c.rows() * c.o).div_ceil(256), 256)),
            (
                "conv2d",
                "conv2d_tiled_f32",
                Shape {
                    grid: [c.rows().div_ceil(16) as u32, c.o.div_ceil(16) as u32, 1],
                    threads: 256,
                    shared: 0,
                },
            ),
            ("conv2d", "conv2d_blocks_f32", tile(c.rows(), c.o, 1, 0)),
            ("conv2d_tf32", "conv2d_async_f32", tile(c.rows(), c.o, 1, 0)),
            ("conv2d_tf32", "conv2d_mma_tf32", tile(c.rows(), c.o, 1, 48 * 1024)),
        ];
        let outputs = in_any_order(|machine: &mut Machine| {
            let buffers = [&d.x, &d.w, &d.bias, &d.add].map(|v| machine.floats(v));
            let mut outputs = Vec::new();
            for (rung, (file, kernel, shape)) in rungs.into_iter().enumerate() {
                let y = machine.empty(4 * c.rows() * c.o);
                let mut p = buffers.iter().fold(ParameterBytes::new(), |p, b| p.address(*b)).address(y);
                p = [0; 3].into_iter().fold(p, ParameterBytes::address);
                p = c.append(p);
                if rung >= 1 {
                    p = p.i32(0);
                }
                machine.launch(file, kernel, shape, &p).unwrap_or_else(|e| panic!("{c:?}: {e}"));
                outputs.push(machine.read_floats(y, c.rows() * c.o));
            }
            outputs
        });
        let reference = c.forward(&d.x, &d.w, &d.bias, &d.add);
        let error = difference(&outputs[0], &reference);
        assert!(error < f32_tolerance(c.taps() * c.i + 2), "{c:?}: {error}");
        for (rung, output) in outputs.iter().enumerate().take(4) {
            assert!(output == &outputs[0], "{c:?}: rung {rung} differs from rung 0");
        }
        let error = difference(&outputs[4], &reference);
        assert!(error < TF32, "{c:?} in tf32: {error}");
    }
}

#[test]
fn forward_bf16_matches_f64_on_rounded_operands() {
    for c in CASES {
        let d = data(&c);
        let (narrow, exact) = in_any_order(|machine: &mut Machine| {
            let (x, w, bias) = (machine.bf16(&d.x), machine.bf16(&d.w), machine.floats(&d.bias));
            let (add, add_wide) = (machine.bf16(&d.add), machine.floats(&d.add));
            let (y, y_wide) = (machine.empty(2 * c.rows() * c.o), machine.empty(4 * c.rows() * c.o));
            for (kernel, add, y) in [("conv2d_mma_bf16", add, y), ("conv2d_mma_bf16_f32", add_wide, y_wide)] {
                let p = ParameterBytes::new().address(x).address(w).address(bias).address(add).address(y);
                let p = [0; 3].into_iter().fold(p, ParameterBytes::address);
                let shape = tile(c.rows(), c.o, 1, 64 * 1024);
                machine
                    .launch("conv2d_bf16", kernel, shape, &c.append(p).i32(0))
                    .unwrap_or_else(|e| panic!("{c:?}: {e}"));
            }
            (machine.read_bf16(y, c.rows() * c.o), machine.read_floats(y_wide, c.rows() * c.o))
        });
        let rounded = |v: &[f32]| v.iter().map(|v| to_bf16(*v)).collect::<Vec<_>>();
        let reference = c.forward(&rounded(&d.x), &rounded(&d.w), &d.bias, &d.add);
        let error = difference(&exact, &reference);
        assert!(error < f32_tolerance(c.taps() * c.i + 2), "{c:?}: {error}");
        let error = difference(&narrow, &reference);
        assert!(error < BF16, "{c:?}: {error}");
    }
}

#[test]
fn backward_for_x_meets_every_tap_once_in_every_phase() {
    for c in CASES {
        let d = data(&c);
        let outputs = in_any_order(|machine: &mut Machine| {
            let buffers = [&d.dy, &d.w, &d.add_x].map(|v| machine.floats(v));
            let turned = machine.empty(4 * d.w.len());
            let p = ParameterBytes::new()
                .address(buffers[1])
                .address(turned)
                .i32(c.o as i32)
                .i32(c.taps() as i32)
                .i32(c.i as i32);
            let shape = Shape {
                grid: [c.i.div_ceil(32) as u32, c.o.div_ceil(32) as u32, c.taps() as u32],
                threads: 256,
                shared: 0,
            };
            machine
                .launch("conv2d", "conv2d_transpose_weight_f32", shape, &p)
                .unwrap_or_else(|e| panic!("{c:?}: {e}"));
            let rungs = [
                ("conv2d", "conv2d_tiled_f32", 0),
                ("conv2d", "conv2d_blocks_f32", 0),
                ("conv2d_tf32", "conv2d_async_f32", 0),
                ("conv2d_tf32", "conv2d_mma_tf32", 48 * 1024),
            ];
            rungs.map(|(file, kernel, shared)| {
                let dx = machine.empty(4 * d.x.len());
                let p = ParameterBytes::new()
                    .address(buffers[0])
                    .address(turned)
                    .address(0)
                    .address(buffers[2])
                    .address(dx);
                let p = [0; 3].into_iter().fold(p, ParameterBytes::address);
                let rows = c.n * c.h.div_ceil(c.stride) * c.w.div_ceil(c.stride);
                let mut shape = tile(rows, c.i, c.stride * c.stride, shared);
                if kernel == "conv2d_tiled_f32" {
                    (shape.grid[0], shape.grid[1]) = (rows.div_ceil(16) as u32, c.i.div_ceil(16) as u32);
                }
                machine
                    .launch(file, kernel, shape, &c.append(p).i32(1))
                    .unwrap_or_else(|e| panic!("{c:?}: {e}"));
                machine.read_floats(dx, d.x.len())
            })
        });
        let (reference, _) = c.backward(&d.x, &d.w, &d.dy, &d.add_x);
        let error = difference(&outputs[0], &reference);
        assert!(error < f32_tolerance(c.taps() * c.o + 1), "{c:?}: {error}");
        assert!(outputs[0] == outputs[1] && outputs[0] == outputs[2], "{c:?}: rungs 1, 2 and 3 differ");
        let error = difference(&outputs[3], &reference);
        assert!(error < TF32, "{c:?} in tf32: {error}");
    }
}

#[test]
fn backward_for_the_weight_adds_every_range_of_pixels() {
    for c in CASES {
        let d = data(&c);
        // Ranges that no slice divides.
        let range = 37;
        let parts = c.rows().div_ceil(range);
        let outputs = in_any_order(|machine: &mut Machine| {
            let wide = (machine.floats(&d.x), machine.floats(&d.dy));
            let narrow = (machine.bf16(&d.x), machine.bf16(&d.dy));
            let kernels = [
                ("conv2d_weight_async_f32", wide),
                ("conv2d_weight_mma_tf32", wide),
                ("conv2d_weight_mma_bf16", narrow),
            ];
            kernels.map(|(kernel, (x, dy))| {
                let (workspace, dw) = (machine.empty(4 * parts * d.w.len()), machine.empty(4 * d.w.len()));
                let p = c
                    .append(ParameterBytes::new().address(x).address(dy).address(workspace))
                    .i32(range as i32);
                let grid = [c.o.div_ceil(128) as u32, (c.taps() * c.i.div_ceil(128)) as u32, parts as u32];
                let shape = Shape { grid, threads: 256, shared: 48 * 1024 };
                machine.launch("conv2d_weight", kernel, shape, &p).unwrap_or_else(|e| panic!("{c:?}: {e}"));
                let p = ParameterBytes::new()
                    .address(workspace)
                    .address(dw)
                    .i32(parts as i32)
                    .i32(d.w.len() as i32);
                let sum = machine.launch("reduce", "sum_parts_f32", line(d.w.len().div_ceil(256), 256), &p);
                sum.unwrap_or_else(|e| panic!("{c:?}: {e}"));
                machine.read_floats(dw, d.w.len())
            })
        });
        let (_, reference) = c.backward(&d.x, &d.w, &d.dy, &d.add_x);
        let error = difference(&outputs[0], &reference);
        assert!(error < f32_tolerance(c.rows()), "{c:?}: {error}");
        let error = difference(&outputs[1], &reference);
        assert!(error < TF32, "{c:?} in tf32: {error}");
        let rounded = |v: &[f32]| v.iter().map(|v| to_bf16(*v)).collect::<Vec<_>>();
        let (_, reference) = c.backward(&rounded(&d.x), &d.w, &rounded(&d.dy), &d.add_x);
        let error = difference(&outputs[2], &reference);
        assert!(error < f32_tolerance(c.rows()), "{c:?} in bf16: {error}");
    }
}
