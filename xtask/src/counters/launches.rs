//! The products and the fields: convolution, affinity, walk.

use super::{Launch, Work, line, of, values, with};
use ptx_emulator::ParameterBytes;
use xtask::emulated::{Machine, Shape};

/// A 16×16 grid throughout.
const SIDE: usize = 16;
const PIXELS: usize = SIDE * SIDE;
/// Channels of the convolution's input and of the features.
const INPUTS: usize = 32;
const OUTPUTS: usize = 64;
const TAPS: usize = 9;

fn work(shape: &str, precision: &str, flops: usize, bytes: usize) -> Work {
    Work { shape: shape.into(), precision: precision.into(), flops: flops as u64, bytes: bytes as u64 }
}

/// 16×16 pixels of 32 channels to 64, 3×3: every rung, forward and for the weight.
pub fn convolution(machine: &mut Machine) -> Vec<Launch> {
    let (x, w, dy) = (values(PIXELS * INPUTS), values(OUTPUTS * TAPS * INPUTS), values(PIXELS * OUTPUTS));
    let wide = [machine.floats(&x), machine.floats(&w), machine.floats(&dy)];
    let narrow = [machine.bf16(&x), machine.bf16(&w), machine.bf16(&dy)];
    let target = machine.empty(4 * 2 * w.len());
    let geometry = |p: ParameterBytes| with(p, &[1, SIDE, SIDE, INPUTS, SIDE, SIDE, OUTPUTS, 3, 3, 1, 1, 1]);
    // No bias, no shortcut, no second target with its scale and shift.
    let forward = |[x, w, _]: [u64; 3]| geometry(of(&[x, w, 0, 0, target, 0, 0, 0]));
    // The second target alone, by what serves as its scale and shift: the first of the gradient's values.
    let normalised = geometry(of(&[wide[0], wide[1], 0, 0, 0, wide[2], wide[2], target])).i32(0);
    let weight = |[x, _, dy]: [u64; 3]| geometry(of(&[x, dy, target])).i32(128);
    let transposed = |w: u64| with(of(&[w, target]), &[OUTPUTS, TAPS, INPUTS]);
    let grid = |x: u32, y: u32, z: u32, shared: u32| Shape { grid: [x, y, z], threads: 256, shared };
    let (tiles, taps) = (grid(16, 4, 1, 0), TAPS as u32);

    // A multiplication and an addition for each tap on the map: 46 of 48 each way.
    let flops = 2 * 46 * 46 * INPUTS * OUTPUTS;
    let bytes = |x_bytes, w_bytes, y_bytes| x.len() * x_bytes + w.len() * w_bytes + dy.len() * y_bytes;
    let product = |precision: &str, bytes| work("16×16×32→64, 3×3", precision, flops, bytes);
    let gradient = |precision: &str, of_value| {
        let bytes = bytes(of_value, 8, of_value);
        work("16×16×32→64, 3×3, two ranges", precision, flops, bytes)
    };
    let transpose = |of_value: usize| work("64×3×3×32", "f32", 0, 2 * of_value * w.len());
    let entry = |file, kernel, shape, parameters, work| Launch {
        file,
        kernel,
        variant: None,
        shape,
        parameters,
        work,
    };
    let f32s = product("f32", bytes(4, 4, 4));
    vec![
        entry("conv2d", "conv2d_forward_direct_f32", line(dy.len(), 256), forward(wide), f32s.clone()),
        entry("conv2d", "conv2d_tiled_f32", tiles, forward(wide).i32(0), f32s.clone()),
        entry("conv2d", "conv2d_blocks_f32", grid(2, 1, 1, 0), forward(wide).i32(0), f32s.clone()),
        entry("conv2d_tf32", "conv2d_async_f32", grid(2, 1, 1, 0), forward(wide).i32(0), f32s),
        entry(
            "conv2d_tf32",
            "conv2d_mma_tf32",
            grid(2, 1, 1, 48 << 10),
            forward(wide).i32(0),
            product("tf32", bytes(4, 4, 4)),
        ),
        Launch {
            file: "conv2d_tf32",
            kernel: "conv2d_mma_tf32",
            variant: Some("with the normalisation that follows"),
            shape: grid(2, 1, 1, 48 << 10),
            parameters: normalised,
            work: product("tf32", bytes(4, 4, 4) + 8 * OUTPUTS),
        },
        entry(
            "conv2d_bf16",
            "conv2d_mma_bf16",
            grid(2, 1, 1, 64 << 10),
            forward(narrow).i32(0),
            product("bf16", bytes(2, 2, 2)),
        ),
        entry(
            "conv2d_bf16",
            "conv2d_mma_bf16_f32",
            grid(2, 1, 1, 64 << 10),
            forward(narrow).i32(0),
            product("bf16", bytes(2, 2, 4)),
        ),
        entry("conv2d", "conv2d_weight_tiled_f32", grid(4, 2 * taps, 2, 0), weight(wide), gradient("f32", 4)),
        entry(
            "conv2d_weight",
            "conv2d_weight_async_f32",
            grid(1, taps, 2, 48 << 10),
            weight(wide),
            gradient("f32", 4),
        ),
        entry(
            "conv2d_weight",
            "conv2d_weight_mma_tf32",
            grid(1, taps, 2, 48 << 10),
            weight(wide),
            gradient("tf32", 4),
        ),
        entry(
            "conv2d_weight",
            "conv2d_weight_mma_bf16",
            grid(1, taps, 2, 48 << 10),
            weight(narrow),
            gradient("bf16", 2),
        ),
        entry(
            "conv2d",
            "conv2d_transpose_weight_f32",
            grid(1, 2, taps, 0),
            transposed(wide[1]),
            transpose(4),
        ),
        entry(
            "conv2d",
            "conv2d_transpose_weight_bf16",
            grid(1, 2, taps, 0),
            transposed(narrow[1]),
            transpose(2),
        ),
    ]
}

/// Offsets of the half-stencil of radius 5: 34.
fn stencil() -> Vec<(i32, i32)> {
    let all = (0..5i32).flat_map(|dy| (-4..5i32).map(move |dx| (dy, dx)));
    all.filter(|&(dy, dx)| (dy > 0 || dx > 0) && dy * dy + dx * dx < 25).collect()
}

/// Affinities, their loss and its gradient; then a walk on them, of 4 maps, 8 steps, or a polynomial of degree 8.
pub fn affinity_and_walk(machine: &mut Machine) -> Vec<Launch> {
    let offsets = stencil();
    let planes = offsets.len();
    let side = |d: i32| SIDE - d.unsigned_abs() as usize;
    let pairs: usize = offsets.iter().map(|&(dy, dx)| side(dy) * side(dx)).sum();
    let flat: Vec<i32> = offsets.iter().flat_map(|&(dy, dx)| [dy, dx]).collect();
    let (f, offsets) = (machine.floats(&values(PIXELS * INPUTS)), machine.ints(&flat));
    let (of_features, of_planes) = (4 * PIXELS * INPUTS, 4 * PIXELS * planes);
    let [affinities, distances, df] = [of_planes, of_planes, of_features].map(|n| machine.empty(n));
    let labels = machine.bytes(&(0..PIXELS).map(|p| [0u8, 0, 1, 1, 2, 255][p / 3 % 6]).collect::<Vec<_>>());
    let counts = machine.ints(&[0; 3]);
    let [weights, loss, parts, sums] = [12, 4, 24, 12 * planes].map(|n| machine.empty(n));
    let one = machine.floats(&[1.0]);
    let shape = "16×16×32, 34 offsets";
    let by_pair = line(planes * PIXELS, 256);
    let tile = Shape { grid: [1, 2, 1], threads: 128, shared: 0 };
    let single = |threads| Shape { grid: [1, 1, 1], threads, shared: 0 };
    let gather = |out| with(of(&[f, offsets, out]), &[1, SIDE, SIDE, INPUTS, planes, 0]).f32(1.0);
    let tiled = |out| with(of(&[f, out]), &[SIDE, SIDE, INPUTS, 0]).f32(1.0);
    // Subtract, and add the amount.
    let forward = || work(shape, "f32", 2 * pairs * INPUTS, of_features + of_planes);
    // A comparison, and an addition of the slope by its sign, for both pixels of a pair.
    let backward = || work(shape, "f32", 2 * pairs * INPUTS, 2 * of_features + of_planes);
    let entry = |kernel, shape, parameters, work| Launch {
        file: "affinity",
        kernel,
        variant: None,
        shape,
        parameters,
        work,
    };
    let of_loss =
        with(of(&[distances, labels, offsets, weights, distances, sums]), &[1, SIDE, SIDE, planes, 0]);
    let mut launches = vec![
        entry("affinity_forward_gather_f32", by_pair, gather(affinities), forward()),
        entry("affinity_forward_tiled_f32", tile, tiled(affinities), forward()),
        entry("affinity_distance_gather_f32", by_pair, gather(distances), forward()),
        entry("affinity_distance_tiled_f32", tile, tiled(distances), forward()),
        entry(
            "affinity_count_u32",
            by_pair,
            with(of(&[labels, offsets, counts]), &[1, SIDE, SIDE, planes, 0]),
            work(shape, "f32", 0, PIXELS + 8 * planes + 12),
        ),
        entry(
            "affinity_weights_f32",
            single(32),
            of(&[counts, weights]).i32(0),
            work("three kinds", "f32", 0, 24),
        ),
        entry(
            "affinity_loss_f32",
            by_pair,
            of_loss.i32(0).f32(1.0),
            work(shape, "f32", 0, 2 * of_planes + PIXELS + 12 * planes),
        ),
        entry(
            "affinity_parts_f32",
            single(256),
            with(of(&[sums, counts, loss, parts]), &[planes, 0]),
            work("34 blocks", "f32", 0, 12 * planes + 40),
        ),
        entry(
            "affinity_backward_gather_f32",
            line(PIXELS * INPUTS, 256),
            with(of(&[f, distances, offsets, one, df]), &[1, SIDE, SIDE, INPUTS, planes]),
            backward(),
        ),
        entry(
            "affinity_backward_tiled_f32",
            tile,
            with(of(&[f, distances, one, df]), &[SIDE, SIDE, INPUTS]),
            backward(),
        ),
    ];

    let (maps, steps, pad) = (4usize, 8usize, 4 * SIDE + 2);
    let of_padded = 4 * planes * (pad + PIXELS);
    let (padded, inverse) = (machine.empty(of_padded), machine.empty(4 * PIXELS));
    let (start, walked) = (machine.floats(&values(maps * PIXELS)), machine.empty(4 * maps * PIXELS));
    let coefficients = machine.floats(&values(steps + 1));
    let sizes = [SIDE, SIDE, planes, pad];
    let walk = |coefficients: &[u64]| {
        let buffers = [&[padded, inverse, offsets][..], coefficients, &[start, walked]].concat();
        with(of(&buffers), &sizes).i32(maps as i32)
    };
    let whole = |width: usize| {
        let shared = (2 * (PIXELS + 2 * pad) * 4 * width) as u32;
        Shape { grid: [maps.div_ceil(width) as u32, 1, 1], threads: 1024, shared }
    };
    // Both directions of a pair, a multiply-add a map; the pixel's own value and the division by its degree.
    let of_step = maps * (4 * pairs + 2 * PIXELS);
    let bytes = of_padded + 4 * PIXELS + 8 * maps * PIXELS;
    let words = "16×16, 34 planes, 4 maps";
    let steps_words = format!("{words}, 8 steps");
    let degree_words = format!("{words}, degree 8");
    let entry = |kernel, shape, parameters, work| Launch {
        file: "walk",
        kernel,
        variant: None,
        shape,
        parameters,
        work,
    };
    launches.push(entry(
        "walk_build_f32",
        line(pad + PIXELS, 256),
        with(of(&[affinities, offsets, padded, inverse]), &sizes).f32(8.0),
        work("16×16, 34 planes, β = 8", "f32", 0, of_planes + of_padded + 4 * PIXELS),
    ));
    launches.push(entry("walk_step_f32", line(PIXELS, 256), walk(&[]), work(words, "f32", of_step, bytes)));
    for (width, kernel) in [(2, "walk_whole_2_f32"), (4, "walk_whole_4_f32")] {
        let work = work(&steps_words, "f32", steps * of_step, bytes);
        launches.push(entry(kernel, whole(width), walk(&[]).i32(steps as i32), work));
    }
    for (width, kernel) in [(2, "walk_chebyshev_2_f32"), (4, "walk_chebyshev_4_f32")] {
        // Beside the step: 2·T x − the one before, and the sum by coefficients.
        let work = work(&degree_words, "f32", steps * (of_step + 4 * maps * PIXELS), bytes + 4 * (steps + 1));
        launches.push(entry(kernel, whole(width), walk(&[coefficients]).i32(steps as i32), work));
    }
    launches
}
