//! The weights' gradient: a product whose sum runs over pixels.

use std::ops::Range;

use rayon::prelude::*;

use super::cpu::Geometry;
use super::product::{NARROW, Output, panels};
use super::simd::{Isa, Terms, Tile, outer_heights, outer_kernel};
use super::windows::{LINE, Lines, Padded, Windows, copy_run};

/// Pixels per block: 32 columns of them take 24 KiB, half of a first-level cache; the columns of a unit's panels
/// at most 408 KiB of the second level.
const PIXEL_BLOCK: usize = 192;
/// Rows of a unit at most: a block of pixels of them takes 576 KiB.
const UNIT_ROWS: usize = 768;
/// Panels of a unit at most: enough to share the packing of the rows.
const UNIT_PANELS: usize = 16;
/// Columns of the widest panel.
const WIDEST: usize = 32;
/// Rows of the highest tile.
const TALLEST: usize = 12;
const NO_SUMS: [f32; WIDEST] = [0.0; WIDEST];

/// One factor of the product: for each pixel a row of values.
enum Factor<'a> {
    Gradient(&'a [f32], usize),
    Windows(&'a Windows<'a>),
}

impl Factor<'_> {
    /// Copies some columns of some pixels: a pixel every `stride` values of `to`.
    fn copy(&self, pixels: Range<usize>, columns: Range<usize>, to: &mut [f32], stride: usize) {
        match self {
            Self::Gradient(data, width) => {
                for (pixel, to) in pixels.zip(to.chunks_mut(stride)) {
                    copy_run(&mut to[..columns.len()], &data[pixel * width..][columns.clone()]);
                }
            }
            Self::Windows(windows) => windows.copy(pixels, &windows.segments(columns), to, stride),
        }
    }
}

/// Some columns of the product.
struct Panel {
    /// Its first column.
    first: usize,
    /// Columns that its kernel computes.
    width: usize,
    /// Columns that exist.
    valid: usize,
    /// Columns computed by the panels before it.
    start: usize,
}

/// Panels over runs of columns: none crosses from one run to the next.
fn layout_of(isa: Isa, runs: impl Iterator<Item = usize>) -> Vec<Panel> {
    let (mut layout, mut first, mut start) = (Vec::new(), 0, 0);
    for run in runs {
        for (at, width) in panels(isa, run) {
            layout.push(Panel { first: first + at, width, valid: width.min(run - at), start });
            start += width;
        }
        first += run;
    }
    layout
}

/// Columns that the panels' kernels compute.
fn covered(layout: &[Panel]) -> usize {
    layout.last().map_or(0, |panel| panel.start + panel.width)
}

/// How the kernels get at the two factors.
enum Access<'a> {
    /// Blocks of pixels are copied, each factor in the order in which it is read.
    Packed { left: Factor<'a>, right: Factor<'a> },
    /// Both are read where they lie.
    InPlace { padded: &'a Padded<'a>, gradient: &'a [f32], sources: Vec<usize>, columns: Vec<usize> },
}

/// The product that a weight gradient is.
struct Product<'a> {
    isa: Isa,
    access: Access<'a>,
    /// Whether rows are output channels and columns the windows' terms; else the other way round.
    outputs_are_rows: bool,
    rows: usize,
    layout: Vec<Panel>,
    outputs: usize,
}

impl<'a> Product<'a> {
    /// The product with both factors in place, where they are narrow.
    fn in_place(
        isa: Isa,
        windows: &Windows,
        padded: &'a Padded<'a>,
        gradient: &'a [f32],
        o: usize,
    ) -> Option<Self> {
        let terms = windows.terms();
        let runs = padded.runs(&windows.taps, 0..terms);
        let by_terms = layout_of(isa, runs.iter().map(|run| run.count));
        let by_outputs = layout_of(isa, std::iter::once(o));
        let offsets = (0..terms).map(|term| padded.offset(&windows.taps, term)).collect();
        let outputs_are_rows = cost(o, &by_terms) <= cost(terms, &by_outputs);
        let (layout, rows) = if outputs_are_rows { (by_terms, o) } else { (by_outputs, terms) };
        // A panel's last columns may be read only where something follows.
        let may_read_on = outputs_are_rows && padded.is_copy();
        if !may_read_on && layout.iter().any(|panel| panel.valid < panel.width) {
            return None;
        }
        let outputs: Vec<usize> = (0..o).collect();
        let (sources, columns) = if outputs_are_rows { (outputs, offsets) } else { (offsets, outputs) };
        let access = Access::InPlace { padded, gradient, sources, columns };
        Some(Self { isa, access, outputs_are_rows, rows, layout, outputs: o })
    }

    /// The product of copied blocks.
    fn packed(isa: Isa, windows: &'a Windows<'a>, gradient: &'a [f32], o: usize) -> Self {
        let terms = windows.terms();
        let (by_terms, by_outputs) = (layout_of(isa, [terms].into_iter()), layout_of(isa, [o].into_iter()));
        let outputs_are_rows = cost(o, &by_terms) <= cost(terms, &by_outputs);
        let (gradient, windows) = (Factor::Gradient(gradient, o), Factor::Windows(windows));
        let (left, right, layout, rows) = if outputs_are_rows {
            (gradient, windows, by_terms, o)
        } else {
            (windows, gradient, by_outputs, terms)
        };
        Self { isa, access: Access::Packed { left, right }, outputs_are_rows, rows, layout, outputs: o }
    }

    /// Adds the products of a block of pixels to the sums of some rows and panels; `first` starts them.
    ///
    /// # Safety
    /// `sums` must have room for the rows of all panels, and nobody else may use those of this unit.
    unsafe fn add_block(
        &self,
        buffers: &mut Buffers,
        unit: &Unit,
        block: Range<usize>,
        first: bool,
        sums: *mut f32,
    ) {
        let heights = outer_heights(self.isa);
        let places = |width: usize| -> [usize; TALLEST] { std::array::from_fn(|row| row * width) };
        let start = first.then_some(NO_SUMS.as_ptr());
        match &self.access {
            Access::Packed { left, right } => {
                buffers.pack_left(left, block.clone(), unit.rows.clone(), heights);
                let (Some(first), Some(last)) = (unit.panels.first(), unit.panels.last()) else { return };
                let segments = [Terms { left: 0, right: 0, count: block.len() }];
                let sources: [usize; TALLEST] = std::array::from_fn(|row| row);
                // An odd number of cache lines from pixel to pixel, so that a panel's columns fall into different
                // lines of the first-level cache. Beyond the valid columns lies what was there before; its sums
                // are never read.
                let pitch = ((last.first + last.width - first.first).div_ceil(LINE) | 1) * LINE;
                let packed = buffers.right.at_least(PIXEL_BLOCK * pitch);
                right.copy(block.clone(), first.first..last.first + last.valid, packed, pitch);
                for panel in unit.panels {
                    let places = places(panel.width);
                    for_each_tile(unit.rows.clone(), heights, |row, height| {
                        let tile = Tile {
                            left: buffers.left[(row - unit.rows.start) * block.len()..].as_ptr(),
                            sources: &sources[..height],
                            right: buffers.right.values()[panel.first - first.first..].as_ptr(),
                            segments: &segments,
                            left_step: height,
                            right_step: pitch,
                            start,
                            out: sums.wrapping_add(panel.start * self.rows + row * panel.width),
                            targets: &places[..height],
                        };
                        // SAFETY: `left` and `right` hold the block's pixels, and the caller vouches for the
                        // sums; the kernel is one that `isa` allows.
                        unsafe { outer_kernel(self.isa, panel.width, height)(&tile) };
                    });
                }
            }
            Access::InPlace { padded, gradient, sources, columns } => {
                let (outputs, pitch) = (self.outputs, padded.pitch());
                let segments = runs_of_pixels(padded, block, outputs, self.outputs_are_rows);
                let (of_outputs, of_terms) =
                    ((gradient.as_ptr(), outputs), (padded.values().as_ptr(), pitch));
                let ((left, left_step), (right, right_step)) =
                    if self.outputs_are_rows { (of_outputs, of_terms) } else { (of_terms, of_outputs) };
                for panel in unit.panels {
                    let places = places(panel.width);
                    for_each_tile(unit.rows.clone(), heights, |row, height| {
                        let tile = Tile {
                            left,
                            sources: &sources[row..row + height],
                            right: right.wrapping_add(columns[panel.first]),
                            segments: &segments,
                            left_step,
                            right_step,
                            start,
                            out: sums.wrapping_add(panel.start * self.rows + row * panel.width),
                            targets: &places[..height],
                        };
                        // SAFETY: every pixel of the block has its gradient and all terms of its window, a panel's
                        // columns are consecutive, and beyond the last a padded copy goes on; as above.
                        unsafe { outer_kernel(self.isa, panel.width, height)(&tile) };
                    });
                }
            }
        }
    }
}

/// Pixels whose windows lie evenly spaced.
fn runs_of_pixels(padded: &Padded, block: Range<usize>, o: usize, outputs_are_rows: bool) -> Vec<Terms> {
    let mut runs: Vec<Terms> = Vec::new();
    for pixel in block {
        let (gradient, window) = (pixel * o, padded.source(pixel));
        let (left, right) = if outputs_are_rows { (gradient, window) } else { (window, gradient) };
        match runs.last_mut() {
            Some(run) if window == padded.source(pixel - run.count) + run.count * padded.pitch() => {
                run.count += 1;
            }
            _ => runs.push(Terms { left, right, count: 1 }),
        }
    }
    runs
}

/// Values computed: a row that no tile of several takes costs as much as four.
fn cost(rows: usize, layout: &[Panel]) -> usize {
    covered(layout) * (rows + 3 * (rows % 4))
}

/// One task: some rows, some panels, a range of pixels.
struct Unit<'a> {
    rows: Range<usize>,
    panels: &'a [Panel],
    split: usize,
}

/// Gradient of the weight, O×KH×KW×I.
///
/// O rows and as many columns as a window has terms, or the other way round, whichever fills the vectors
/// better. The pixels are cut into a number of ranges that depends on the shape alone; their sums are added
/// in order.
pub(super) fn backward_weight(isa: Isa, g: &Geometry, input: &[f32], gradient: &[f32]) -> Vec<f32> {
    let (windows, o) = (g.windows(input), g.output[3]);
    let (pixels, terms) = (windows.rows(), windows.terms());
    let mut out = vec![0f32; o * terms];
    if out.is_empty() || pixels == 0 {
        return out;
    }
    assert!(gradient.len() >= pixels * o, "a gradient for every output");
    let narrow = windows.shape[3].max(o) <= NARROW;
    let padded = if narrow { windows.padded() } else { None };
    let product = padded
        .as_ref()
        .and_then(|padded| Product::in_place(isa, &windows, padded, gradient, o))
        .unwrap_or_else(|| Product::packed(isa, &windows, gradient, o));

    let (rows, layout) = (product.rows, &product.layout);
    let size = rows * covered(layout);
    // Ranges of pixels: enough to spread narrow layers over many threads, few where the sums are large. They
    // may not depend on the panels, which differ between instruction sets.
    let splits = (pixels / 1024).clamp(1, 16).min((1usize << 22).div_ceil(o * terms));
    let per_split = pixels.div_ceil(splits);
    let mut sums = vec![0f32; splits * size];
    let groups = rows.div_ceil(UNIT_ROWS);
    let group = rows.div_ceil(groups).next_multiple_of(outer_heights(isa)[0]);
    // How the work is dealt out does not change what is added to what, so the threads may show here.
    let unit_panels =
        (layout.len() * groups * splits / (rayon::current_num_threads() * 4)).clamp(1, UNIT_PANELS);
    let mut units = Vec::new();
    for split in 0..splits {
        for first in (0..rows).step_by(group) {
            let rows = first..(first + group).min(rows);
            units.extend(layout.chunks(unit_panels).map(|panels| Unit { rows: rows.clone(), panels, split }));
        }
    }
    let output = Output(sums.as_mut_ptr());
    units.into_par_iter().for_each_init(Buffers::default, |buffers, unit| {
        let first = unit.split * per_split;
        let last = (first + per_split).min(pixels);
        let sums = output.pointer().wrapping_add(unit.split * size);
        for at in (first..last).step_by(PIXEL_BLOCK) {
            let block = at..(at + PIXEL_BLOCK).min(last);
            // SAFETY: a split's sums hold the rows of all panels, and those of a unit are its own.
            unsafe { product.add_block(buffers, &unit, block, at == first, sums) };
        }
    });
    // out[output][term] from sums[split][panel][row][column].
    out.par_chunks_mut(terms).enumerate().with_min_len(8).for_each(|(o, out)| {
        for split in sums.chunks_exact(size) {
            if product.outputs_are_rows {
                for panel in layout {
                    let row = &split[panel.start * rows + o * panel.width..][..panel.valid];
                    let out = &mut out[panel.first..panel.first + panel.valid];
                    out.iter_mut().zip(row).for_each(|(a, b)| *a += b);
                }
            } else if let Some(panel) = layout.iter().rev().find(|panel| panel.first <= o) {
                for (term, out) in out.iter_mut().enumerate() {
                    *out += split[panel.start * rows + term * panel.width + o - panel.first];
                }
            }
        }
    });
    out
}

/// What a thread keeps from one unit to the next.
#[derive(Default)]
struct Buffers {
    /// Tile by tile, pixel by pixel, the tile's rows.
    left: Vec<f32>,
    /// Rows before they are dealt out to tiles.
    pixel: Vec<f32>,
    /// The panels' columns, pixel by pixel.
    right: Lines,
}

impl Buffers {
    /// Packs some rows of a block of pixels. In place, a pixel's rows would lie so far from the next pixel's,
    /// by a power of two, that they would all fall into the same few lines of the cache.
    fn pack_left(&mut self, factor: &Factor, block: Range<usize>, rows: Range<usize>, heights: [usize; 3]) {
        let count = block.len();
        self.left.resize(rows.len() * PIXEL_BLOCK, 0.0);
        let left = &mut self.left;
        let mut deal = |pixel: usize, from: &[f32]| {
            for_each_tile(0..rows.len(), heights, |row, height| {
                let to = row * count + pixel * height;
                copy_run(&mut left[to..to + height], &from[row..row + height]);
            });
        };
        match factor {
            Factor::Gradient(data, width) => {
                for (at, pixel) in block.enumerate() {
                    deal(at, &data[pixel * width..][rows.clone()]);
                }
            }
            Factor::Windows(_) => {
                self.pixel.resize(rows.len() * PIXELS_AT_ONCE, 0.0);
                for at in (0..count).step_by(PIXELS_AT_ONCE) {
                    let pixels = block.start + at..(block.start + at + PIXELS_AT_ONCE).min(block.end);
                    factor.copy(pixels.clone(), rows.clone(), &mut self.pixel, rows.len());
                    for (i, from) in self.pixel.chunks_exact(rows.len()).take(pixels.len()).enumerate() {
                        deal(at + i, from);
                    }
                }
            }
        }
    }
}

/// Pixels whose rows are fetched together.
const PIXELS_AT_ONCE: usize = 8;

/// Cuts rows into tiles, the highest first: calls `each(first row, height)`.
fn for_each_tile(rows: Range<usize>, heights: [usize; 3], mut each: impl FnMut(usize, usize)) {
    let mut row = rows.start;
    for height in heights {
        while row + height <= rows.end {
            each(row, height);
            row += height;
        }
    }
}
