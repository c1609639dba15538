//! What a training step is made of beside products: maps of 2 images, 16×16 pixels, 32 channels.

use super::{Launch, Work, line, of, values, with};
use xtask::emulated::{Machine, Shape};

/// All of it. Operations are few to a byte: the bounds are those of memory, and the FLOP counted are those needed.
pub fn of_training(machine: &mut Machine) -> Vec<Launch> {
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
    let block_counts = machine.ints(&[256; 200]);
    let by_channel = |y: usize| Shape { grid: [1, y as u32, 1], threads: 256, shared: 0 };
    let four = line(count, 1024);
    // A table of one entry: w, g, two tensors of state; count, first block; rate, decay, shrink, momentum, v_hat.
    let mut entry: Vec<u8> = [target, g, x, y].iter().flat_map(|a| a.to_le_bytes()).collect();
    entry.extend([count as i32, 0].iter().flat_map(|v| v.to_le_bytes()));
    entry.extend([0.1f32, 0.01, 1.0, 0.9, 1.5].iter().flat_map(|v| v.to_le_bytes()));
    entry.extend([0; 4]);
    let (table, bad) = (machine.bytes(&entry), machine.ints(&[0, 0]));
    let stop = machine.ints(&[0]);
    let optimiser = || of(&[table, bad, stop]).i32(1);
    let adam = [0.9f32, 0.1, 0.999, 0.001].iter().fold(optimiser(), |p, v| p.f32(*v));
    // 16×16 to 32×32 and its like: each output has two sources an axis.
    let taps: Vec<i32> = (0..32).flat_map(|p| [p / 2, (p / 2 + 1).min(15), 0x3e80_0000]).collect();
    let spans: Vec<i32> = (0..16).flat_map(|p| [(2 * p - 2).max(0), 2 * p + 2]).collect();
    let (taps, spans) = (machine.ints(&taps), machine.ints(&spans));
    let (small, large) = (machine.floats(&values(16 * 16 * 4)), machine.empty(4 * 32 * 32 * 4));
    let resized = [1, 16, 16, 4, 32, 32];
    let index = machine.ints(&[4, 5]);
    let words = [0, 1, 2, 3].iter().fold(of(&[f]).i32((images * channels) as i32), |p, v| p.i32(*v));
    let words = words.address(index);
    let narrow = machine.empty(2 * count);
    let (of_channels, of_parts, maps) = (4 * channels, 8 * ranges * channels, "2×16×16×32");
    let entry = |file, kernel, shape, parameters, words: &str, bytes: usize| {
        let work = Work { shape: words.into(), precision: "f32".into(), flops: 0, bytes: bytes as u64 };
        Launch { file, kernel, variant: None, shape, parameters, work }
    };
    vec![
        entry(
            "batch_norm",
            "batch_norm_coefficients_f32",
            line(channels, 256),
            with(of(&[a, b, c, d, f, h, i]), &[channels]),
            "32 channels",
            7 * of_channels,
        ),
        entry(
            "batch_norm",
            "batch_norm_f32",
            four,
            with(of(&[x, a, b, target]), &[count, channels, 1]),
            maps,
            8 * count + 2 * of_channels,
        ),
        entry(
            "batch_norm",
            "batch_norm_backward_f32",
            four,
            with(of(&[g, y, a, target]), &[count, channels]),
            maps,
            12 * count + of_channels,
        ),
        entry(
            "batch_norm",
            "batch_norm_moments_f32",
            by_channel(ranges),
            with(of(&[x, parts]), &[rows, channels]),
            maps,
            4 * count + of_parts,
        ),
        entry(
            "batch_norm",
            "batch_norm_statistics_f32",
            by_channel(1),
            with(of(&[x, parts, a, b, f, h, i, j, target]), &[ranges, rows, channels]),
            "32 channels, one range",
            of_parts + 8 * of_channels,
        ),
        entry(
            "batch_norm",
            "batch_norm_gradient_sums_f32",
            by_channel(ranges),
            with(of(&[g, y, x, a, b, parts]), &[rows, channels]),
            maps,
            12 * count + of_parts + 2 * of_channels,
        ),
        entry(
            "batch_norm",
            "batch_norm_gradient_f32",
            by_channel(1),
            with(of(&[parts, a, b, c, f, h, i, j]), &[ranges, rows, channels]),
            "32 channels, one range",
            of_parts + 7 * of_channels,
        ),
        entry(
            "batch_norm",
            "batch_norm_learning_backward_f32",
            four,
            with(of(&[g, y, x, a, d, e, target]), &[count, channels]),
            maps,
            16 * count + 3 * of_channels,
        ),
        entry("pointwise", "add_f32", four, with(of(&[x, y, target]), &[count]), maps, 12 * count),
        entry("pointwise", "relu_f32", four, with(of(&[x, target]), &[count]), maps, 8 * count),
        entry("pointwise", "relu_backward_f32", four, with(of(&[g, y, target]), &[count]), maps, 12 * count),
        entry("pointwise", "elu_f32", four, with(of(&[x, target]), &[count]), maps, 8 * count),
        entry("pointwise", "elu_backward_f32", four, with(of(&[g, y, target]), &[count]), maps, 12 * count),
        entry("pointwise", "scale_by_f32", four, with(of(&[x, a, b, target]), &[count]), maps, 8 * count + 8),
        entry(
            "dropout",
            "dropout_factors_f32",
            line(images * channels, 256),
            words.f32(0.5).f32(2.0),
            "64 maps",
            images * of_channels,
        ),
        entry(
            "dropout",
            "dropout_maps_f32",
            four,
            with(of(&[x, a, target]), &[count, pixels * channels, channels]),
            maps,
            8 * count + images * of_channels,
        ),
        entry(
            "concat",
            "copy_channels_f32",
            line(rows * 16, 1024),
            with(of(&[x, target]), &[rows, 16, channels, 8, channels, 16, 4]),
            "512 pixels, 16 of 32 channels",
            2 * 4 * 16 * rows,
        ),
        entry(
            "pooling",
            "global_average_f32",
            by_channel(images),
            with(of(&[x, f]), &[pixels, channels]),
            maps,
            4 * count + images * of_channels,
        ),
        entry(
            "pooling",
            "global_average_backward_f32",
            four,
            with(of(&[a, target]), &[count, pixels, channels]),
            maps,
            4 * count + images * of_channels,
        ),
        entry(
            "pooling",
            "average_pooling_f32",
            line(count / 4, 256),
            with(of(&[x, target]), &[2, 16, 16, channels, 2]),
            "2×16×16×32, by 2",
            5 * count,
        ),
        entry(
            "pooling",
            "average_pooling_backward_f32",
            line(count, 256),
            with(of(&[x, target]), &[2, 16, 16, channels, 2]),
            "2×16×16×32, by 2",
            5 * count,
        ),
        entry(
            "resize",
            "bilinear_resize_f32",
            line(4096, 256),
            with(of(&[small, taps, taps, large]), &resized),
            "16×16×4 to 32×32×4",
            4 * (1024 + 4096) + 2 * 12 * 32,
        ),
        entry(
            "resize",
            "bilinear_resize_backward_f32",
            line(1024, 256),
            with(of(&[large, taps, taps, spans, spans, target]), &resized),
            "32×32×4 to 16×16×4",
            4 * (1024 + 4096) + 2 * 12 * 32 + 2 * 8 * 16,
        ),
        entry(
            "losses",
            "multi_label_soft_margin_f32",
            by_channel(1),
            with(of(&[a, b, f, sums]), &[images * channels]),
            "64 logits",
            12 * images * channels + 4,
        ),
        entry(
            "losses",
            "softmax_cross_entropy_f32",
            line(rows, 256),
            with(of(&[x, labels, target, sums, sums + 128]), &[rows, channels]),
            "512 pixels, 32 classes",
            8 * count + rows + 16,
        ),
        entry(
            "losses",
            "mean_of_blocks_f32",
            by_channel(1),
            with(of(&[x, block_counts, sums, sums + 128]), &[200]),
            "200 blocks",
            8 * 200 + 8,
        ),
        entry(
            "reduce",
            "sum_rows_f32",
            by_channel(ranges),
            with(of(&[x, parts]), &[rows, channels]),
            maps,
            4 * count + of_parts / 2,
        ),
        entry(
            "optimizer",
            "note_not_finite_f32",
            Shape { grid: [1, 1, 1], threads: 32, shared: 0 },
            of(&[x, stop]),
            "one loss",
            4,
        ),
        entry("optimizer", "sgd_table_f32", line(count, 4096), optimiser(), "16,384 values", 20 * count),
        entry("optimizer", "adam_table_f32", line(count, 4096), adam, "16,384 values", 28 * count),
        entry("optimizer", "blend_table_f32", line(count, 4096), optimiser(), "16,384 values", 12 * count),
        entry("pointwise", "to_bf16", four, with(of(&[x, narrow]), &[count]), maps, 6 * count),
        entry("pointwise", "from_bf16", four, with(of(&[narrow, target]), &[count]), maps, 6 * count),
        entry(
            "reduce",
            "sum_serial_f32",
            Shape { grid: [1, 1, 1], threads: 1, shared: 0 },
            with(of(&[x, sums]), &[count]),
            "16,384 values",
            4 * count + 4,
        ),
        entry(
            "reduce",
            "sum_blocks_f32",
            line(count, 4096),
            with(of(&[x, sums]), &[count]),
            "16,384 values",
            4 * count + 16,
        ),
        entry(
            "reduce",
            "sum_parts_f32",
            line(count / 4, 256),
            with(of(&[x, target]), &[4, count / 4]),
            "4 parts of 4,096 values",
            5 * count,
        ),
    ]
}
