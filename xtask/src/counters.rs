//! What each kernel does at a fixed shape, counted by the emulator: exact, so compared with `==`.

use crate::Result;
use crate::counted_crf::crf;
use ptx_emulator::{Counters, ParameterBytes};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use xtask::emulated::{Machine, Shape};

/// Counts of one launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    warp_instructions: u64,
    lane_instructions: u64,
    global_load_sectors: u64,
    global_store_sectors: u64,
    shared_wavefronts: u64,
    /// Fewest that the same bytes could take: the rest are bank conflicts.
    ideal_wavefronts: u64,
    barriers: u64,
    divergent_branches: u64,
    f32_flops: u64,
    tensor_flops: u64,
}

impl Counts {
    fn of(c: &Counters) -> Self {
        Self {
            warp_instructions: c.executed.warp,
            lane_instructions: c.executed.lanes,
            global_load_sectors: c.global_loads.sectors,
            global_store_sectors: c.global_stores.sectors,
            shared_wavefronts: c.shared_loads.wavefronts + c.shared_stores.wavefronts,
            ideal_wavefronts: c.shared_loads.ideal_wavefronts + c.shared_stores.ideal_wavefronts,
            barriers: c.barriers,
            divergent_branches: c.divergent_branches,
            f32_flops: c.f32_flops,
            tensor_flops: c.tensor_f16_flops + c.tensor_tf32_flops,
        }
    }
}

/// Compares with `kernels/counters.json`, or writes it.
///
/// # Errors
/// A kernel with findings; a difference, with both numbers; a file that cannot be read or written.
pub fn counters(root: &Path, update: bool) -> Result<()> {
    let path = root.join("kernels/counters.json");
    let now = measure()?;
    if update {
        let lines = now.iter().map(|(name, counts)| {
            format!("\"{name}\":{}", serde_json::to_string(counts).expect("numbers are JSON"))
        });
        let text = format!("{{\n{}\n}}\n", lines.collect::<Vec<_>>().join(",\n"));
        return std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()));
    }
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let approved = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let findings = differences(&approved, &now);
    if findings.is_empty() { Ok(()) } else { Err(findings.join("\n")) }
}

fn differences(approved: &BTreeMap<String, Counts>, now: &BTreeMap<String, Counts>) -> Vec<String> {
    let mut findings = Vec::new();
    for (name, counts) in now {
        let Some(old) = approved.get(name) else {
            findings.push(format!("{name}: not in counters.json"));
            continue;
        };
        let json = |counts| serde_json::to_value(counts).expect("numbers are JSON");
        let (old, new) = (json(old), json(counts));
        for (field, value) in
            old.as_object().into_iter().flatten().filter(|(field, value)| new[*field] != **value)
        {
            findings.push(format!("{name}: {field} {value} → {}", new[field]));
        }
    }
    findings.extend(
        approved
            .keys()
            .filter(|name| !now.contains_key(*name))
            .map(|name| format!("{name}: in counters.json only")),
    );
    findings
}

/// 16×16 pixels of 32 channels to 64, 3×3: every rung of convolution. Affinity, walk and CRF: a 16×16 grid.
fn measure() -> Result<BTreeMap<String, Counts>> {
    let mut machine = Machine::new(None);
    let mut all = BTreeMap::new();
    let mut run = |machine: &mut Machine,
                   name: &str,
                   file: &str,
                   kernel: &str,
                   shape: Shape,
                   p: &ParameterBytes|
     -> Result<()> {
        let report = machine.launch(file, kernel, shape, p)?;
        all.insert(name.to_owned(), Counts::of(&report.counters));
        Ok(())
    };
    let values = |count: usize| (0..count).map(|i| ((i * 37) % 64) as f32 / 64.0 - 0.5).collect::<Vec<_>>();
    let (pixels, inputs, outputs, taps) = (256usize, 32usize, 64usize, 9usize);
    let (x, w, dy) = (values(pixels * inputs), values(outputs * taps * inputs), values(pixels * outputs));
    let wide = [machine.floats(&x), machine.floats(&w), machine.floats(&dy)];
    let narrow = [machine.bf16(&x), machine.bf16(&w), machine.bf16(&dy)];
    let target = machine.empty(4 * 2 * outputs * taps * inputs);
    let geometry =
        |p: ParameterBytes| [1, 16, 16, 32, 16, 16, 64, 3, 3, 1, 1, 1].iter().fold(p, |p, v| p.i32(*v));
    let forward = |[x, w, _]: [u64; 3]| {
        let none = ParameterBytes::address;
        let p = ParameterBytes::new().address(x).address(w);
        geometry([0, 0, target, 0, 0, 0].into_iter().fold(p, none))
    };
    let shape = |x: u32, y: u32, shared: u32| Shape { grid: [x, y, 1], threads: 256, shared };
    let ladder = [
        ("conv2d", "conv2d_forward_direct_f32", shape(64, 1, 0), forward(wide)),
        ("conv2d", "conv2d_tiled_f32", shape(16, 4, 0), forward(wide).i32(0)),
        ("conv2d", "conv2d_blocks_f32", shape(2, 1, 0), forward(wide).i32(0)),
        ("conv2d_tf32", "conv2d_async_f32", shape(2, 1, 0), forward(wide).i32(0)),
        ("conv2d_tf32", "conv2d_mma_tf32", shape(2, 1, 48 << 10), forward(wide).i32(0)),
        ("conv2d_bf16", "conv2d_mma_bf16", shape(2, 1, 64 << 10), forward(narrow).i32(0)),
    ];
    for (file, kernel, shape, p) in &ladder {
        run(&mut machine, kernel, file, kernel, *shape, p)?;
    }
    // With the normalisation that follows; its coefficients are the first of the gradient's values.
    let p = ParameterBytes::new().address(wide[0]).address(wide[1]);
    let p = geometry([0, 0, 0, wide[2], wide[2], target].into_iter().fold(p, ParameterBytes::address)).i32(0);
    let (name, kernel) = ("conv2d_mma_tf32, normalised", "conv2d_mma_tf32");
    run(&mut machine, name, "conv2d_tf32", kernel, shape(2, 1, 48 << 10), &p)?;
    let p = geometry(ParameterBytes::new().address(wide[0]).address(wide[2]).address(target)).i32(128);
    let tiled = Shape { grid: [4, 2 * taps as u32, 2], threads: 256, shared: 0 };
    run(&mut machine, "conv2d_weight_tiled_f32", "conv2d", "conv2d_weight_tiled_f32", tiled, &p)?;
    for (kernel, [x, _, dy]) in [
        ("conv2d_weight_async_f32", wide),
        ("conv2d_weight_mma_tf32", wide),
        ("conv2d_weight_mma_bf16", narrow),
    ] {
        let p = geometry(ParameterBytes::new().address(x).address(dy).address(target)).i32(128);
        let shape = Shape { grid: [1, taps as u32, 2], threads: 256, shared: 48 << 10 };
        run(&mut machine, kernel, "conv2d_weight", kernel, shape, &p)?;
    }

    let stencil = (0..5i32).flat_map(|dy| (-4..5i32).map(move |dx| (dy, dx)));
    let stencil: Vec<i32> = stencil
        .filter(|&(dy, dx)| (dy > 0 || dx > 0) && dy * dy + dx * dx < 25)
        .flat_map(|(dy, dx)| [dy, dx])
        .collect();
    let offsets = machine.ints(&stencil);
    let planes = machine.empty(4 * 34 * pixels);
    let p = ParameterBytes::new().address(wide[0]).address(offsets).address(planes);
    let p = [1, 16, 16, 32, 34, 0].iter().fold(p, |p, v| p.i32(*v)).f32(1.0);
    run(
        &mut machine,
        "affinity_forward_gather_f32",
        "affinity",
        "affinity_forward_gather_f32",
        shape(34, 1, 0),
        &p,
    )?;
    let p = [16, 16, 32, 0]
        .iter()
        .fold(ParameterBytes::new().address(wide[0]).address(planes), |p, v| p.i32(*v))
        .f32(1.0);
    let tile = Shape { grid: [1, 2, 1], threads: 128, shared: 0 };
    run(&mut machine, "affinity_forward_tiled_f32", "affinity", "affinity_forward_tiled_f32", tile, &p)?;

    let pad = 4 * 16 + 2;
    let (padded, inverse) = (machine.empty(4 * 34 * (pad + pixels)), machine.empty(4 * pixels));
    let (maps, walked) = (machine.floats(&values(4 * pixels)), machine.empty(4 * 4 * pixels));
    let sizes = |p: ParameterBytes| [16, 16, 34, pad as i32].iter().fold(p, |p, v| p.i32(*v));
    let p = sizes(ParameterBytes::new().address(planes).address(offsets).address(padded).address(inverse))
        .f32(8.0);
    run(&mut machine, "walk_build_f32", "walk", "walk_build_f32", shape(2, 1, 0), &p)?;
    let p = sizes(
        ParameterBytes::new().address(padded).address(inverse).address(offsets).address(maps).address(walked),
    )
    .i32(4);
    run(&mut machine, "walk_step_f32", "walk", "walk_step_f32", shape(1, 1, 0), &p)?;
    let whole = Shape { grid: [1, 1, 1], threads: 1024, shared: (2 * (pixels + 2 * pad) * 16) as u32 };
    run(&mut machine, "walk_whole_4_f32, 8 steps", "walk", "walk_whole_4_f32", whole, &p.i32(8))?;
    for (file, kernel, shape, p) in steps_of_training(&mut machine, &values) {
        run(&mut machine, kernel, file, kernel, shape, &p)?;
    }
    crf(&mut machine, &mut |machine, file, kernel, shape, p| run(machine, kernel, file, kernel, shape, p))?;
    Ok(all)
}

type Step = (&'static str, &'static str, Shape, ParameterBytes);

/// What a training step is made of beside products: maps of 2 images, 16×16 pixels, 32 channels.
fn steps_of_training(machine: &mut Machine, values: &dyn Fn(usize) -> Vec<f32>) -> Vec<Step> {
    let (images, pixels, channels) = (2usize, 256usize, 32usize);
    let (rows, count) = (images * pixels, images * pixels * channels);
    let ranges = rows.div_ceil(512);
    let [x, y, g] = [0; 3].map(|_| machine.floats(&values(count)));
    let target = machine.empty(4 * count);
    let ones = vec![1.0; images * channels];
    let [a, b, c, d, e] = [0; 5].map(|_| machine.floats(&ones));
    let [f, h, i, j] = [0; 4].map(|_| machine.empty(4 * images * channels));
    let parts = machine.empty(8 * ranges * channels);
    let labels = machine.bytes(&(0..rows).map(|p| (p % 5) as u8).collect::<Vec<_>>());
    let sums = machine.empty(4 * 64);
    let of = |addresses: &[u64]| addresses.iter().fold(ParameterBytes::new(), |p, v| p.address(*v));
    let with = |p: ParameterBytes, sizes: &[usize]| sizes.iter().fold(p, |p, v| p.i32(*v as i32));
    let line = |count: usize, per_block: usize| Shape {
        grid: [count.div_ceil(per_block) as u32, 1, 1],
        threads: 256,
        shared: 0,
    };
    let by_channel = |y: usize| Shape { grid: [1, y as u32, 1], threads: 256, shared: 0 };
    let four = line(count, 1024);
    // A table of one entry: w, g, two tensors of state; count, first block; rate, decay, shrink, momentum.
    let mut entry: Vec<u8> = [target, g, x, y].iter().flat_map(|a| a.to_le_bytes()).collect();
    entry.extend([count as i32, 0].iter().flat_map(|v| v.to_le_bytes()));
    entry.extend([0.1f32, 0.01, 1.0, 0.9].iter().flat_map(|v| v.to_le_bytes()));
    entry.extend([0; 8]);
    let (table, bad) = (machine.bytes(&entry), machine.ints(&[0, 0]));
    let stop = machine.ints(&[0]);
    let optimiser = || of(&[table, bad, stop]).i32(1);
    let adam = [0.9f32, 0.1, 0.999, 0.001, 1.5].iter().fold(optimiser(), |p, v| p.f32(*v));
    // 16×16 to 32×32 and its like: each output has two sources an axis.
    let taps: Vec<i32> = (0..32).flat_map(|p| [p / 2, (p / 2 + 1).min(15), 0x3e80_0000]).collect();
    let spans: Vec<i32> = (0..16).flat_map(|p| [(2 * p - 2).max(0), 2 * p + 2]).collect();
    let (taps, spans) = (machine.ints(&taps), machine.ints(&spans));
    let (small, large) = (machine.floats(&values(16 * 16 * 4)), machine.empty(4 * 32 * 32 * 4));
    let resized = [1, 16, 16, 4, 32, 32];
    let words = [0, 1, 2, 3, 4, 5].iter().fold(of(&[f]).i32((images * channels) as i32), |p, v| p.i32(*v));
    vec![
        (
            "batch_norm",
            "batch_norm_coefficients_f32",
            line(channels, 256),
            with(of(&[a, b, c, d, f, h, i]), &[channels]),
        ),
        ("batch_norm", "batch_norm_f32", four, with(of(&[x, a, b, target]), &[count, channels, 1])),
        ("batch_norm", "batch_norm_backward_f32", four, with(of(&[g, y, a, target]), &[count, channels])),
        (
            "batch_norm",
            "batch_norm_moments_f32",
            by_channel(ranges),
            with(of(&[x, parts]), &[rows, channels]),
        ),
        (
            "batch_norm",
            "batch_norm_statistics_f32",
            by_channel(1),
            with(of(&[x, parts, a, b, f, h, i, j, target]), &[ranges, rows, channels]),
        ),
        (
            "batch_norm",
            "batch_norm_gradient_sums_f32",
            by_channel(ranges),
            with(of(&[g, y, x, a, b, parts]), &[rows, channels]),
        ),
        (
            "batch_norm",
            "batch_norm_gradient_f32",
            by_channel(1),
            with(of(&[parts, a, b, c, f, h, i, j]), &[ranges, rows, channels]),
        ),
        (
            "batch_norm",
            "batch_norm_learning_backward_f32",
            four,
            with(of(&[g, y, x, a, d, e, target]), &[count, channels]),
        ),
        ("pointwise", "add_f32", four, with(of(&[x, y, target]), &[count])),
        ("pointwise", "relu_f32", four, with(of(&[x, target]), &[count])),
        ("pointwise", "relu_backward_f32", four, with(of(&[g, y, target]), &[count])),
        ("pointwise", "elu_f32", four, with(of(&[x, target]), &[count])),
        ("pointwise", "elu_backward_f32", four, with(of(&[g, y, target]), &[count])),
        ("pointwise", "scale_by_f32", four, with(of(&[x, a, target]), &[count]).f32(2.0)),
        ("dropout", "dropout_factors_f32", line(images * channels, 256), words.f32(0.5).f32(2.0)),
        (
            "dropout",
            "dropout_maps_f32",
            four,
            with(of(&[x, a, target]), &[count, pixels * channels, channels]),
        ),
        (
            "concat",
            "copy_channels_f32",
            line(rows * 16, 1024),
            with(of(&[x, target]), &[rows, 16, channels, 8, channels, 16, 4]),
        ),
        ("pooling", "global_average_f32", by_channel(images), with(of(&[x, f]), &[pixels, channels])),
        ("pooling", "global_average_backward_f32", four, with(of(&[a, target]), &[count, pixels, channels])),
        (
            "pooling",
            "average_pooling_f32",
            line(count / 4, 256),
            with(of(&[x, target]), &[2, 16, 16, channels, 2]),
        ),
        (
            "pooling",
            "average_pooling_backward_f32",
            line(count, 256),
            with(of(&[x, target]), &[2, 16, 16, channels, 2]),
        ),
        ("resize", "bilinear_resize_f32", line(4096, 256), with(of(&[small, taps, taps, large]), &resized)),
        (
            "resize",
            "bilinear_resize_backward_f32",
            line(1024, 256),
            with(of(&[large, taps, taps, spans, spans, target]), &resized),
        ),
        (
            "losses",
            "multi_label_soft_margin_f32",
            by_channel(1),
            with(of(&[a, b, f, sums]), &[images * channels]),
        ),
        (
            "losses",
            "softmax_cross_entropy_f32",
            line(rows, 256),
            with(of(&[x, labels, target, sums]), &[rows, channels]),
        ),
        ("reduce", "sum_scaled_f32", by_channel(1), with(of(&[x, sums]), &[1000]).f32(0.5)),
        ("reduce", "sum_rows_f32", by_channel(ranges), with(of(&[x, parts]), &[rows, channels])),
        (
            "optimizer",
            "note_not_finite_f32",
            Shape { grid: [1, 1, 1], threads: 32, shared: 0 },
            of(&[x, stop]),
        ),
        ("optimizer", "sgd_table_f32", line(count, 4096), optimiser()),
        ("optimizer", "adam_table_f32", line(count, 4096), adam),
        ("optimizer", "blend_table_f32", line(count, 4096), optimiser()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_count_is_named_with_both_numbers() {
        let counts = Counts::of(&Counters::default());
        let approved = BTreeMap::from([("a".to_owned(), counts), ("b".to_owned(), counts)]);
        let now = BTreeMap::from([
            ("a".to_owned(), Counts { shared_wavefronts: 5, ..counts }),
            ("c".to_owned(), counts),
        ]);
        let expected = ["a: shared_wavefronts 0 → 5", "c: not in counters.json", "b: in counters.json only"];
        assert_eq!(differences(&approved, &now), expected);
        assert!(differences(&approved, &approved).is_empty());
    }
}
