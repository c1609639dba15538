//! The dense CRF's kernels at a fixed shape: 16×16 pixels, 21 labels. Each runs on what those before it have made.

use super::{Launch, Work, of, with};
use crate::Result;
use ptx_emulator::ParameterBytes;
use xtask::emulated::{Machine, Shape};

/// Launches a kernel and keeps what it counts, in place of what it counted before.
pub type Run<'a> = dyn FnMut(&mut Machine, Launch) -> Result<()> + 'a;

const WIDTH: usize = 16;
const PIXELS: usize = WIDTH * WIDTH;
const VERTICES: usize = 6;
const ENTRIES: usize = PIXELS * VERTICES;
const LABELS: usize = 21;
const PIECES: usize = LABELS.div_ceil(4);
/// Bits of a key's fields, and its least values: as wide as these colours need.
const FIELD: u32 = 5;
const LOW: i32 = -8;
/// √(2/3)·(d + 1)/√((i + 1)(i + 2)).
const SCALES: [f32; 5] = [3.464_101_6, 2.0, std::f32::consts::SQRT_2, 1.095_445_1, 0.894_427_2];

fn line(count: usize) -> Shape {
    Shape { grid: [count.div_ceil(256) as u32, 1, 1], threads: 256, shared: 0 }
}

/// Scales, least values, words and shifts of D fields, and the vertex number's shift.
fn layout<const D: usize>(scales: [f32; D]) -> Vec<i32> {
    let scales = scales.iter().map(|s| s.to_bits() as i32);
    let shifts = (0..D as i32).map(|i| i * FIELD as i32);
    scales.chain([LOW; D]).chain([0; D]).chain(shifts).chain([(D as u32 * FIELD) as i32]).collect()
}

/// What a step along each axis, forth and back, adds to a key of one word: without and with a turn of the vertex number.
fn steps() -> Vec<i32> {
    let r = 1 << (5 * FIELD);
    let all: i32 = (0..5).map(|i| 1 << (i * FIELD)).sum();
    let of_axis = |axis: u32| if axis < 5 { 1 << (axis * FIELD) } else { 0 };
    (0..6u32)
        .flat_map(|axis| [-1i32, 1].map(|sign| (axis, sign)))
        .flat_map(|(axis, sign)| {
            let own = of_axis(axis);
            [sign * r - sign * own, -sign * 5 * r + sign * (all - own)]
        })
        .collect()
}

/// What a kernel has to do on a lattice of so many points (not yet known while it is built).
fn launch(
    file: &'static str,
    kernel: &'static str,
    shape: Shape,
    parameters: ParameterBytes,
    size: usize,
) -> Launch {
    // Bytes of a piece of every pixel and lattice point; of a weight and a vertex each entry.
    let (values, points, entries) = (16 * PIECES * PIXELS, 16 * PIECES * (size + 1), 8 * ENTRIES);
    let blocks = ENTRIES.div_ceil(256);
    let planes = 4 * LABELS * PIXELS;
    let bytes = match kernel {
        "crf_embed_positions_f32" => 8 * 3 * PIXELS,
        "crf_embed_colours_f32" => 3 * PIXELS + entries,
        "sort_histogram_u32" => 4 * ENTRIES + 4 * 128,
        "sort_offsets_u32" => 8 * 128,
        "sort_scatter_u32" => 16 * ENTRIES,
        "sort_gather_u32" => 12 * ENTRIES,
        "crf_heads_u32" => 4 * ENTRIES + 4 * blocks,
        "scan_u32" => 8 * blocks,
        "crf_points_u32" => 24 * ENTRIES + 8 * size,
        "crf_neighbours_u32" => 4 * size + 8 * VERTICES * size,
        "crf_chunks_u32" => 12 * size,
        "crf_normalizer_f32" => 4 * PIXELS + entries,
        "crf_unary_f32" => planes + values,
        "crf_softmax_f32" => 2 * values,
        "crf_splat_f32" | "crf_splat_chunks_f32" => values + 4 * PIXELS + entries + points,
        "crf_add_chunks_f32" => 2 * points,
        "crf_blur_f32" => 2 * points + 8 * size,
        "crf_slice_f32" | "crf_update_f32" | "crf_update_wide_f32" => {
            2 * values + 4 * PIXELS + entries + points
        }
        "crf_planes_f32" => 2 * planes,
        _ => 0,
    };
    let shape_in_words = if file == "sort" { "1,536 keys" } else { "16×16, 21 labels" };
    let work = Work { shape: shape_in_words.into(), precision: "f32".into(), flops: 0, bytes: bytes as u64 };
    Launch { file, kernel, variant: None, shape, parameters, work }
}

/// Runs all of them.
pub fn crf(machine: &mut Machine, run: &mut Run<'_>) -> Result<()> {
    let colours: Vec<u8> =
        (0..PIXELS * 3).map(|i| ((i / 3 % WIDTH) * 3 + i % 3 * 8 + i * 37 % 5) as u8).collect();
    let colours = machine.bytes(&colours);
    let [keys, weights, order, vertex] = [0; 4].map(|_| machine.empty(4 * ENTRIES));
    let plane = machine.ints(&layout::<2>([SCALES[0] / 2.0, SCALES[1] / 2.0]));
    let p = with(of(&[plane, keys, weights]), &[WIDTH, PIXELS, 1]).f32(3.0);
    run(machine, launch("crf_lattice", "crf_embed_positions_f32", line(PIXELS), p, 0))?;
    let packing = machine.ints(&layout::<5>(SCALES));
    let p = with(of(&[packing, colours, keys, weights]), &[WIDTH, PIXELS, 1]).f32(80.0).f32(13.0);
    run(machine, launch("crf_lattice", "crf_embed_colours_f32", line(PIXELS), p, 0))?;

    // Four passes of seven bits; counts are kept of the last.
    let (counts, totals) = (machine.empty(4 * 256), machine.empty(4 * 256));
    let [other_keys, other_order] = [0; 2].map(|_| machine.empty(4 * ENTRIES));
    let (mut from, mut to) = ([keys, 0], [other_keys, other_order]);
    for pass in 0..4 {
        let cut = |p: ParameterBytes| with(p, &[ENTRIES, pass * 7, 127]);
        run(machine, launch("sort", "sort_histogram_u32", line(1), cut(of(&[from[0], counts])), 0))?;
        let columns = Shape { grid: [8, 1, 1], threads: 1024, shared: 0 };
        run(machine, launch("sort", "sort_offsets_u32", columns, with(of(&[counts, totals]), &[1]), 0))?;
        let p = cut(of(&[from[0], from[1], counts, totals, to[0], to[1]]));
        run(machine, launch("sort", "sort_scatter_u32", line(1), p, 0))?;
        from = if pass == 0 { [keys, order] } else { from };
        std::mem::swap(&mut from, &mut to);
    }
    let [sorted, order] = from;
    let gathered = machine.empty(4 * ENTRIES);
    run(
        machine,
        launch(
            "sort",
            "sort_gather_u32",
            line(ENTRIES),
            with(of(&[weights, order, gathered]), &[ENTRIES]),
            0,
        ),
    )?;

    let blocks = ENTRIES.div_ceil(256);
    let heads = machine.empty(4 * (blocks + 1));
    run(
        machine,
        launch("crf_lattice", "crf_heads_u32", line(ENTRIES), with(of(&[sorted, heads]), &[ENTRIES, 1]), 0),
    )?;
    let one = Shape { grid: [1, 1, 1], threads: 1024, shared: 0 };
    run(machine, launch("sort", "scan_u32", one, with(of(&[heads]), &[blocks]), 0))?;
    let size = machine.read(heads + 4 * blocks as u64, 4);
    let size = u32::from_le_bytes([size[0], size[1], size[2], size[3]]) as usize;
    let (starts, entries) = (machine.empty(4 * (size + 1)), machine.empty(8 * ENTRIES));
    let (points, neighbours) = (machine.empty(4 * size), machine.empty(8 * VERTICES * size));
    let tables = [sorted, order, weights, heads, starts, entries, vertex, points];
    let p = with(of(&tables), &[ENTRIES, 1, PIXELS, size]);
    run(machine, launch("crf_lattice", "crf_points_u32", line(ENTRIES), p, size))?;
    let steps = machine.ints(&steps());
    let p = with(of(&[points, steps, neighbours]), &[size, 1, VERTICES, 5 * FIELD as usize]);
    run(machine, launch("crf_lattice", "crf_neighbours_u32", line(VERTICES * size), p, size))?;
    let room = ENTRIES / 32 + size;
    let chunks = machine.empty(8 * room);
    run(
        machine,
        launch("crf_lattice", "crf_chunks_u32", line(size), with(of(&[starts, chunks]), &[size]), size),
    )?;

    let [unary, q, energy] = [0; 3].map(|_| machine.empty(16 * PIECES * PIXELS));
    let [lattice, blurred] = [0; 2].map(|_| machine.empty(16 * PIECES * (size + 1)));
    let (normalizer, of_chunks) = (machine.empty(4 * PIXELS), machine.empty(16 * PIECES * room));
    // K·1, for the normaliser: one piece, without a Q.
    let by_point = |pieces: usize| line((size + 1) * pieces);
    let ones = with(of(&[0, 0, starts, entries, lattice]), &[size, 1]);
    run(machine, launch("crf", "crf_splat_f32", by_point(1), ones, size))?;
    let p = with(of(&[lattice, vertex, weights, normalizer]), &[PIXELS, VERTICES]).f32(32.0 / 33.0);
    run(machine, launch("crf_lattice", "crf_normalizer_f32", line(PIXELS), p, size))?;

    let scores: Vec<f32> = (0..LABELS * PIXELS).map(|i| ((i * 37) % 64) as f32 / 64.0).collect();
    let scores = machine.floats(&scores);
    let shape = [PIXELS, LABELS, 4 * PIECES];
    let p = with(of(&[scores, unary]), &shape);
    run(machine, launch("crf", "crf_unary_f32", line(PIECES * PIXELS), p, size))?;
    let warps = Shape { grid: [PIXELS.div_ceil(8) as u32, 1, 1], threads: 256, shared: 0 };
    run(machine, launch("crf", "crf_softmax_f32", warps, with(of(&[unary, q]), &shape), size))?;
    let p = with(of(&[q, normalizer, starts, entries, lattice]), &[size, PIECES]);
    run(machine, launch("crf", "crf_splat_f32", by_point(PIECES), p, size))?;
    let p = with(of(&[q, normalizer, chunks, entries, of_chunks]), &[room, PIECES]);
    run(machine, launch("crf", "crf_splat_chunks_f32", line(room * PIECES), p, size))?;
    let p = with(of(&[of_chunks, starts, lattice]), &[size, PIECES]);
    run(machine, launch("crf", "crf_add_chunks_f32", by_point(PIECES), p, size))?;
    let p = with(of(&[lattice, neighbours, blurred]), &[size, PIECES, 0]);
    run(machine, launch("crf", "crf_blur_f32", by_point(PIECES), p, size))?;
    let p = with(of(&[unary, blurred, vertex, weights, normalizer, energy]), &[PIXELS, VERTICES, PIECES]);
    run(machine, launch("crf", "crf_slice_f32", line(PIXELS * PIECES), p.f32(32.0 / 33.0).f32(10.0), size))?;
    // Eight lanes a pixel, one kernel; then as if there were more than 128 labels.
    let kernel = |p: ParameterBytes, tables: &[u64]| tables.iter().fold(p, |p, a| p.address(*a));
    let both = kernel(of(&[unary]), &[0; 4]).f32(0.0).f32(0.0);
    let both = kernel(both, &[blurred, vertex, weights, normalizer]).f32(32.0 / 33.0).f32(10.0);
    let update = |lanes_log2| with(both.clone().address(q), &[PIXELS, LABELS, PIECES, lanes_log2]);
    run(machine, launch("crf", "crf_update_f32", line(PIXELS * 8), update(3), size))?;
    run(machine, launch("crf", "crf_update_wide_f32", line(PIXELS * 4), update(2), size))?;
    let out = machine.empty(4 * LABELS * PIXELS);
    run(machine, launch("crf", "crf_planes_f32", line(PIECES * PIXELS), with(of(&[q, out]), &shape), size))
}
