//! Convolution as an implicit matrix product on the CPU.
//!
//! Rows of the product are output pixels, columns are output channels, and the sum runs over the window
//! and the input channels. The matrix of windows is never built: a row is the address of its window's
//! first value in a zero-padded copy of the input (the input itself where nothing is padded), and a
//! window is a list of contiguous runs at fixed offsets from there. Weights are packed once a call into
//! panels of 8 to 64 columns.
//!
//! Sums are cut into blocks of [`SUM_BLOCK`] terms so that a panel's block stays in the second-level
//! cache; partial sums are carried in memory between blocks, which does not change the chain of fused
//! multiply-adds. Rows are cut into chunks over the threads; each output belongs to one chunk, so the
//! number of threads does not show in the result.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use super::simd::{ForwardTile, Isa, OuterTile, forward_kernel, outer_kernels, tile_rows};

/// Terms of the sum per block: 64 columns of them are 96 KiB.
const SUM_BLOCK: usize = 384;
/// Pixels per block of the weights' gradient.
const PIXEL_BLOCK: usize = 128;

/// Shape of a convolution whose sizes have been checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    /// N, H, W, I of the input.
    pub input: [usize; 4],
    /// KH, KW.
    pub kernel: [usize; 2],
    /// N, H', W', O of the output.
    pub output: [usize; 4],
    pub stride: usize,
    pub padding: usize,
    pub dilation: usize,
}

/// Rows of the product: image, row and column counts, and how far each step goes in input and output.
struct Rows {
    counts: [usize; 3],
    input_steps: [usize; 3],
    output_steps: [usize; 3],
    output_start: usize,
}

impl Rows {
    fn len(&self) -> usize {
        self.counts.iter().product()
    }

    /// Calls `each(input offset, output offset)` for a range of rows.
    fn visit(&self, range: Range<usize>, mut each: impl FnMut(usize, usize)) {
        let [_, h, w] = self.counts;
        let (mut x, mut y, mut n) = (range.start % w, range.start / w % h, range.start / (w * h));
        for _ in range {
            let at = |steps: &[usize; 3]| n * steps[0] + y * steps[1] + x * steps[2];
            each(at(&self.input_steps), self.output_start + at(&self.output_steps));
            x += 1;
            if x == w {
                (x, y) = (0, y + 1);
                if y == h {
                    (y, n) = (0, n + 1);
                }
            }
        }
    }
}

/// A view of N×H×W×C data with room around it.
struct Padded<'a> {
    data: Cow<'a, [f32]>,
    /// Values from one image, row, pixel to the next.
    steps: [usize; 3],
}

/// The window of `data` that begins `top` rows above and `left` columns left of it (below and right where
/// negative) and has `rows`×`columns` pixels, zero outside. Borrowed where nothing is outside.
fn pad<'a>(
    data: &'a [f32],
    [n, h, w, c]: [usize; 4],
    [top, left]: [isize; 2],
    [rows, columns]: [usize; 2],
) -> Padded<'a> {
    if top == 0 && left == 0 && rows <= h && columns <= w {
        return Padded { data: Cow::Borrowed(data), steps: [h * w * c, w * c, c] };
    }
    let row = columns * c;
    let mut out = vec![0f32; n * rows * row];
    // Columns of the source that fall into the window.
    let first = (-left).max(0) as usize;
    let last = ((columns as isize - left).max(0) as usize).min(w);
    if last > first && row > 0 {
        let to = (first as isize + left) as usize * c;
        out.par_chunks_mut(row).enumerate().with_min_len(8).for_each(|(i, out)| {
            let y = (i % rows) as isize - top;
            if (0..h as isize).contains(&y) {
                let from = ((i / rows) * h + y as usize) * w;
                let from = &data[(from + first) * c..(from + last) * c];
                out[to..to + from.len()].copy_from_slice(from);
            }
        });
    }
    Padded { data: Cow::Owned(out), steps: [rows * row, row, c] }
}

/// (first column, width) of the panels that cover `columns`: widest first, the last one may reach beyond.
fn panels(isa: Isa, columns: usize) -> Vec<(usize, usize)> {
    let widths = isa.panel_widths();
    let narrowest = widths[widths.len() - 1];
    let mut found = Vec::new();
    let mut at = 0;
    while at < columns {
        let left = columns - at;
        let width = widths.iter().copied().find(|&w| w <= left).unwrap_or(narrowest);
        found.push((at, width));
        at += width;
    }
    found
}

/// Weights in panels: for each panel, for each term of the sum, the panel's columns (zero beyond the last).
struct Packed {
    data: Vec<f32>,
    /// (first column, width, start in `data`).
    panels: Vec<(usize, usize, usize)>,
    columns: usize,
}

/// Packs `terms`×`columns` weights; `weight(term, column)` is read once for each.
fn pack(isa: Isa, terms: usize, columns: usize, weight: impl Fn(usize, usize) -> f32 + Sync) -> Packed {
    let layout = panels(isa, columns);
    let total: usize = layout.iter().map(|(_, width)| width * terms).sum();
    let mut data = vec![0f32; total];
    let mut rest = data.as_mut_slice();
    let mut pieces = Vec::with_capacity(layout.len());
    let mut list = Vec::with_capacity(layout.len());
    let mut start = 0;
    for (first, width) in layout {
        let (piece, tail) = rest.split_at_mut(width * terms);
        rest = tail;
        list.push((first, width, start));
        start += width * terms;
        pieces.push((first, width, piece));
    }
    let fill = |(first, width, piece): (usize, usize, &mut [f32])| {
        let valid = width.min(columns - first);
        for (term, row) in piece.chunks_exact_mut(width).enumerate() {
            for (c, value) in row[..valid].iter_mut().enumerate() {
                *value = weight(term, first + c);
            }
        }
    };
    if total > 1 << 16 {
        pieces.into_par_iter().for_each(fill);
    } else {
        pieces.into_iter().for_each(fill);
    }
    Packed { data, panels: list, columns }
}

/// A pointer that threads write disjoint outputs through.
#[derive(Clone, Copy)]
struct Output(*mut f32);
// SAFETY: every row of a product is written by one thread, and rows do not overlap.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    /// Writes a row of values at an offset.
    ///
    /// # Safety
    /// The row lies within the buffer and no other thread writes to it.
    #[inline(always)]
    unsafe fn write(self, at: usize, row: &[f32]) {
        // SAFETY: the caller's promise.
        let to = unsafe { std::slice::from_raw_parts_mut(self.0.add(at), row.len()) };
        copy_short(to, row);
    }
}

/// Copies a few values, eight at a time: a call to memcpy would take longer than the copy.
#[inline(always)]
fn copy_short(to: &mut [f32], from: &[f32]) {
    let (to_eights, to_rest) = to.as_chunks_mut::<8>();
    let (from_eights, from_rest) = from.as_chunks::<8>();
    for (to, from) in to_eights.iter_mut().zip(from_eights) {
        *to = *from;
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to = *from;
    }
}

/// The `R` values at each base, one after the other.
fn gather<const R: usize>(to: &mut [f32], from: &[f32], bases: &[usize]) {
    for (to, &base) in to.as_chunks_mut::<R>().0.iter_mut().zip(bases) {
        *to = std::array::from_fn(|r| from[base + r]);
    }
}

/// Blocks of at most [`SUM_BLOCK`] terms: (first term, runs).
fn sum_blocks(runs: &[(usize, usize)]) -> Vec<(usize, Vec<(usize, usize)>)> {
    let mut blocks: Vec<(usize, Vec<(usize, usize)>)> = Vec::new();
    let (mut term, mut room) = (0, 0);
    for &(offset, length) in runs {
        let mut done = 0;
        while done < length {
            if room == 0 {
                blocks.push((term, Vec::new()));
                room = SUM_BLOCK;
            }
            let take = room.min(length - done);
            let runs = &mut blocks.last_mut().expect("a block was pushed above").1;
            match runs.last_mut() {
                // Neighbouring runs join: the columns of a window row are contiguous when not dilated.
                Some((start, joined)) if *start + *joined == offset + done => *joined += take,
                _ => runs.push((offset + done, take)),
            }
            (done, term, room) = (done + take, term + take, room - take);
        }
    }
    blocks
}

/// out[row][column] = bias[column] + Σ input[row's window] · weights[·][column].
fn product(
    isa: Isa,
    input: &[f32],
    rows: &Rows,
    runs: &[(usize, usize)],
    weights: &Packed,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    let total = rows.len();
    if total == 0 || weights.columns == 0 {
        return;
    }
    // The kernels trust these bounds; everything below follows from them.
    let reach = runs.iter().map(|(offset, length)| offset + length).max().unwrap_or(0);
    let last = |steps: &[usize; 3]| (0..3).map(|i| (rows.counts[i] - 1) * steps[i]).sum::<usize>();
    assert!(last(&rows.input_steps) + reach <= input.len(), "a window reaches beyond the input");
    assert!(
        rows.output_start + last(&rows.output_steps) + weights.columns <= out.len(),
        "a row reaches beyond the output"
    );
    let blocks = sum_blocks(runs);
    let output = Output(out.as_mut_ptr());
    // Twelve is a multiple of every tile's rows.
    let chunk = (total / (rayon::current_num_threads() * 4)).clamp(48, 768).div_ceil(12) * 12;
    (0..total.div_ceil(chunk)).into_par_iter().for_each(|i| {
        let range = i * chunk..(i * chunk + chunk).min(total);
        let count = range.len();
        let mut bases = Vec::with_capacity(count.next_multiple_of(12));
        let mut targets = Vec::with_capacity(count);
        rows.visit(range, |from, to| {
            bases.push(from);
            targets.push(to);
        });
        // The last tile's missing rows repeat a valid one; their sums are not stored.
        bases.resize(count.next_multiple_of(12), bases[0]);
        let mut sums = vec![0f32; bases.len() * weights.panels[0].1];
        for &(first, width, start) in &weights.panels {
            let valid = width.min(weights.columns - first);
            let sums = &mut sums[..bases.len() * width];
            sums.fill(0.0);
            if let Some(bias) = bias {
                let bias = &bias[first..first + valid];
                sums.chunks_exact_mut(width).for_each(|row| row[..valid].copy_from_slice(bias));
            }
            let (kernel, height) = (forward_kernel(isa, width), tile_rows(isa, width));
            for (term, runs) in &blocks {
                for (sums, bases) in sums.chunks_exact_mut(height * width).zip(bases.chunks_exact(height)) {
                    let tile = ForwardTile {
                        input: input.as_ptr(),
                        bases,
                        runs,
                        weights: weights.data[start + term * width..].as_ptr(),
                        sums: sums.as_mut_ptr(),
                    };
                    // SAFETY: bounds were asserted above; the kernel is one that `isa` allows.
                    unsafe { kernel(&tile) };
                }
            }
            for (row, &to) in sums.chunks_exact(width).zip(&targets) {
                // SAFETY: asserted above; rows of different pixels and panels do not overlap.
                unsafe { output.write(to + first, &row[..valid]) };
            }
        }
    });
}

/// Forward pass: N×H'×W'×O.
pub(super) fn forward(
    isa: Isa,
    g: &Geometry,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let [n, oh, ow, o] = g.output;
    let mut out = vec![0f32; n * oh * ow * o];
    if out.is_empty() {
        return out;
    }
    let padded = pad_input(g, input);
    let terms = g.kernel[0] * g.kernel[1] * g.input[3];
    let packed = pack(isa, terms, o, |term, column| weight[column * terms + term]);
    let rows = Rows {
        counts: [n, oh, ow],
        input_steps: window_steps(g, &padded),
        output_steps: [oh * ow * o, ow * o, o],
        output_start: 0,
    };
    let runs: Vec<_> = taps(g, &padded).map(|offset| (offset, g.input[3])).collect();
    product(isa, &padded.data, &rows, &runs, &packed, bias, &mut out);
    out
}

/// The input with its padding, of just the size that the windows cover.
fn pad_input<'a>(g: &Geometry, input: &'a [f32]) -> Padded<'a> {
    let extent = |out: usize, k: usize| (out - 1) * g.stride + (k - 1) * g.dilation + 1;
    let size = [extent(g.output[1], g.kernel[0]), extent(g.output[2], g.kernel[1])];
    pad(input, g.input, [g.padding as isize; 2], size)
}

/// Steps from one output pixel's window to the next.
fn window_steps(g: &Geometry, padded: &Padded) -> [usize; 3] {
    let [image, row, pixel] = padded.steps;
    [image, row * g.stride, pixel * g.stride]
}

/// Offsets of the taps within a window.
fn taps<'a>(g: &'a Geometry, padded: &'a Padded) -> impl Iterator<Item = usize> + 'a {
    let [_, row, pixel] = padded.steps;
    let [kh, kw] = g.kernel;
    (0..kh * kw).map(move |t| (t / kw) * g.dilation * row + (t % kw) * g.dilation * pixel)
}

/// Gradient of the input, N×H×W×I, from that of the output.
///
/// The pixels of the input fall into stride² phases by their position modulo the stride. Within a phase
/// the taps that reach a pixel are the same for all, and consecutive pixels see consecutive outputs: each
/// phase is a convolution with stride 1 of the output's gradient.
pub(super) fn backward_input(isa: Isa, g: &Geometry, gradient: &[f32], weight: &[f32]) -> Vec<f32> {
    let [n, h, w, i] = g.input;
    let [_, oh, ow, o] = g.output;
    let [kh, kw] = g.kernel;
    let mut out = vec![0f32; n * h * w * i];
    if out.is_empty() || gradient.is_empty() {
        return out;
    }
    // Taps of one dimension that reach phase p, with the output's index relative to the phase's.
    let reaching = |p: usize, k: usize| -> Vec<(usize, isize)> {
        let distance = |t: usize| (p + g.padding) as isize - (t * g.dilation) as isize;
        let stride = g.stride as isize;
        (0..k).filter(|&t| distance(t) % stride == 0).map(|t| (t, distance(t) / stride)).collect()
    };
    for py in 0..g.stride.min(h) {
        for px in 0..g.stride.min(w) {
            let (rows, columns) = (reaching(py, kh), reaching(px, kw));
            let count = [(h - py).div_ceil(g.stride), (w - px).div_ceil(g.stride)];
            let bounds = |list: &[(usize, isize)]| {
                let low = list.iter().map(|(_, e)| *e).min()?;
                Some((low, list.iter().map(|(_, e)| *e).max()? - low))
            };
            let (Some((top, tall)), Some((left, wide))) = (bounds(&rows), bounds(&columns)) else { continue };
            let size = [count[0] + tall as usize, count[1] + wide as usize];
            let padded = pad(gradient, [n, oh, ow, o], [-top, -left], size);
            let [_, row, pixel] = padded.steps;
            let mut list = Vec::with_capacity(rows.len() * columns.len());
            let mut runs = Vec::with_capacity(list.capacity());
            for &(ty, ey) in &rows {
                for &(tx, ex) in &columns {
                    list.push(ty * kw + tx);
                    runs.push(((ey - top) as usize * row + (ex - left) as usize * pixel, o));
                }
            }
            let packed = pack(isa, list.len() * o, i, |term, column| {
                weight[((term % o) * kh * kw + list[term / o]) * i + column]
            });
            let rows = Rows {
                counts: [n, count[0], count[1]],
                input_steps: padded.steps,
                output_steps: [h * w * i, g.stride * w * i, g.stride * i],
                output_start: (py * w + px) * i,
            };
            product(isa, &padded.data, &rows, &runs, &packed, None, &mut out);
        }
    }
    out
}

/// One task of the weights' gradient: a group of taps, some panels of columns, a range of pixels.
struct Unit<'a> {
    group: usize,
    /// (first column, width) of each panel.
    panels: &'a [(usize, usize)],
    split: usize,
    /// For each panel its rows.
    sums: &'a mut [f32],
}

/// Panels of a unit: enough to share the packing of the rows, few enough to spread over the threads.
const PANELS_PER_UNIT: usize = 4;
/// Rows from which on the left factor is packed. In place, a pixel's rows are so far from the next
/// pixel's, by a power of two, that they would all fall into the same few lines of the cache.
const PACKED_ROWS: usize = 128;

/// Gradient of the weight, O×KH×KW×I.
///
/// Where the taps of a window row are contiguous (no dilation) they form one group of KW·I values, else
/// each tap is a group. A group's gradient is a product of O rows and as many columns as the group has
/// values, or the other way round, whichever fills the vectors better. The pixels are cut into a number
/// of ranges that depends on the shape alone; their sums are added in order.
pub(super) fn backward_weight(isa: Isa, g: &Geometry, input: &[f32], gradient: &[f32]) -> Vec<f32> {
    let [n, oh, ow, o] = g.output;
    let [kh, kw] = g.kernel;
    let joined = g.dilation == 1;
    let (groups, values) = if joined { (kh, kw * g.input[3]) } else { (kh * kw, g.input[3]) };
    let mut out = vec![0f32; o * groups * values];
    let pixels = n * oh * ow;
    if out.is_empty() || pixels == 0 {
        return out;
    }
    let covered = |columns: usize| panels(isa, columns).iter().map(|(_, width)| width).sum::<usize>();
    let cost = |rows: usize, columns: usize| covered(columns) * (rows + 2 * (rows % 8));
    let outputs_are_rows = cost(o, values) <= cost(values, o);
    let (rows, columns) = if outputs_are_rows { (o, values) } else { (values, o) };

    let padded = pad_input(g, input);
    let steps = window_steps(g, &padded);
    let pixel_rows = Rows {
        counts: [n, oh, ow],
        input_steps: steps,
        output_steps: [oh * ow * o, ow * o, o],
        output_start: 0,
    };
    let starts: Vec<usize> = taps(g, &padded).step_by(if joined { kw } else { 1 }).collect();
    // The kernels trust these bounds.
    let last: usize = (0..3).map(|i| (pixel_rows.counts[i] - 1) * steps[i]).sum();
    assert!(last + starts[groups - 1] + values <= padded.data.len(), "a window reaches beyond the input");
    assert_eq!(pixels * o, gradient.len());

    let layout = panels(isa, columns);
    let size = groups * rows * covered(columns);
    // Ranges of pixels: enough to spread narrow layers over many threads, few where the sums are large.
    let splits = (pixels / 1024).clamp(1, 16).min((1usize << 22).div_ceil(size));
    let per_split = pixels.div_ceil(splits);
    let mut sums = vec![0f32; splits * size];
    let mut units = Vec::with_capacity(splits * groups * layout.len());
    let mut rest = sums.as_mut_slice();
    for split in 0..splits {
        for group in 0..groups {
            for panels in layout.chunks(PANELS_PER_UNIT) {
                let area: usize = panels.iter().map(|(_, width)| rows * width).sum();
                let (piece, tail) = rest.split_at_mut(area);
                rest = tail;
                units.push(Unit { group, panels, split, sums: piece });
            }
        }
    }
    units.into_par_iter().for_each(|unit| {
        let end = ((unit.split + 1) * per_split).min(pixels);
        let mut at = unit.split * per_split;
        let (mut windows, mut outputs) = (Vec::with_capacity(PIXEL_BLOCK), Vec::with_capacity(PIXEL_BLOCK));
        // A panel's columns, gathered once a block; beyond the valid ones lies what another panel left,
        // which only reaches sums that nobody reads.
        let mut right = vec![0f32; PIXEL_BLOCK * isa.panel_widths()[0]];
        let (mut packed, mut packed_bases) = (Vec::new(), Vec::new());
        while at < end {
            let range = at..(at + PIXEL_BLOCK).min(end);
            at = range.end;
            windows.clear();
            outputs.clear();
            pixel_rows.visit(range, |from, to| {
                windows.push(from + starts[unit.group]);
                outputs.push(to);
            });
            let (from, bases, left, left_bases) = if outputs_are_rows {
                (&*padded.data, &windows, gradient, &outputs)
            } else {
                (gradient, &outputs, &*padded.data, &windows)
            };
            let count = bases.len();
            let mut packed_height = 0;
            let mut sums = &mut *unit.sums;
            for &(first, width) in unit.panels {
                let valid = width.min(columns - first);
                for (to, base) in right.chunks_exact_mut(width).zip(bases) {
                    copy_short(&mut to[..valid], &from[base + first..][..valid]);
                }
                let kernels = outer_kernels(isa, width);
                let height = kernels[0].0;
                if rows >= PACKED_ROWS && packed_height != height {
                    packed_height = height;
                    packed.resize(rows / height * height * count, 0f32);
                    for (tile, packed) in packed.chunks_exact_mut(height * count).enumerate() {
                        let left = &left[tile * height..];
                        match height {
                            4 => gather::<4>(packed, left, left_bases),
                            6 => gather::<6>(packed, left, left_bases),
                            _ => gather::<8>(packed, left, left_bases),
                        }
                    }
                    packed_bases = (0..count).map(|pixel| pixel * height).collect();
                }
                let mut row = 0;
                for (height, kernel) in kernels {
                    while row + height <= rows {
                        let in_place = height != packed_height;
                        let tile = OuterTile {
                            left: if in_place {
                                left[row..].as_ptr()
                            } else {
                                packed[row * count..].as_ptr()
                            },
                            left_bases: if in_place { left_bases } else { &packed_bases },
                            right: right.as_ptr(),
                            sums: sums[row * width..].as_mut_ptr(),
                        };
                        // SAFETY: bounds were asserted above; the kernel is one that `isa` allows.
                        unsafe { kernel(&tile) };
                        row += height;
                    }
                }
                sums = &mut sums[rows * width..];
            }
        }
    });
    // out[o][group][value] from sums[split][group][panel][row][column].
    let area = covered(columns);
    out.par_chunks_mut(groups * values).enumerate().with_min_len(8).for_each(|(o, out)| {
        for split in sums.chunks_exact(size) {
            for (group, out) in out.chunks_exact_mut(values).enumerate() {
                let group = &split[group * rows * area..][..rows * area];
                if outputs_are_rows {
                    for &(first, width) in &layout {
                        let valid = width.min(columns - first);
                        let row = &group[first * rows + o * width..][..valid];
                        out[first..first + valid].iter_mut().zip(row).for_each(|(a, b)| *a += b);
                    }
                } else {
                    let Some(&(first, width)) = layout.iter().rev().find(|(first, _)| *first <= o) else {
                        continue;
                    };
                    for (value, out) in out.iter_mut().enumerate() {
                        *out += group[first * rows + value * width + o - first];
                    }
                }
            }
        }
    });
    out
}

/// Gradient of the bias: the sum of the output's gradient over pixels, in f64 over fixed ranges.
pub(super) fn backward_bias(gradient: &[f32], o: usize) -> Vec<f32> {
    let partial: Vec<Vec<f64>> = gradient
        .par_chunks(4096 * o.max(1))
        .map(|chunk| {
            let mut sums = vec![0f64; o];
            for row in chunk.chunks_exact(o) {
                sums.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v));
            }
            sums
        })
        .collect();
    (0..o).map(|c| partial.iter().map(|p| p[c]).sum::<f64>() as f32).collect()
}
