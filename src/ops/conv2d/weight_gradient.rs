//! The weights' gradient: a product whose sum runs over pixels.

use std::ops::Range;

use rayon::prelude::*;

use super::cpu::Geometry;
use super::product::{Output, panels};
use super::simd::{Isa, Tile, outer_heights, outer_kernel};
use super::windows::{Lines, Windows, copy_run};

/// Pixels per block: 32 columns of them take 24 KiB, half of a first-level cache.
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

/// One task: some rows, some panels, a range of pixels.
struct Unit<'a> {
    rows: Range<usize>,
    panels: &'a [(usize, usize)],
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
    let covered = |columns: usize| panels(isa, columns).iter().map(|(_, width)| width).sum::<usize>();
    // A row that no tile of several takes costs as much as four.
    let cost = |rows: usize, columns: usize| covered(columns) * (rows + 3 * (rows % 4));
    let outputs_are_rows = cost(o, terms) <= cost(terms, o);
    let (outputs, windows) = (Factor::Gradient(gradient, o), Factor::Windows(&windows));
    let (left, right, rows, columns) =
        if outputs_are_rows { (outputs, windows, o, terms) } else { (windows, outputs, terms, o) };

    let layout = panels(isa, columns);
    let size = rows * covered(columns);
    // Ranges of pixels: enough to spread narrow layers over many threads, few where the sums are large.
    let splits = (pixels / 1024).clamp(1, 16).min((1usize << 22).div_ceil(size));
    let per_split = pixels.div_ceil(splits);
    let mut sums = vec![0f32; splits * size];
    let heights = outer_heights(isa);
    let groups = rows.div_ceil(UNIT_ROWS);
    let group = rows.div_ceil(groups).next_multiple_of(heights[0]);
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
    let work = |buffers: &mut Buffers, unit: Unit| {
        let last = ((unit.split + 1) * per_split).min(pixels);
        for at in (unit.split * per_split..last).step_by(PIXEL_BLOCK) {
            let block = at..(at + PIXEL_BLOCK).min(last);
            buffers.pack_left(&left, block.clone(), unit.rows.clone(), heights);
            for &(first, width) in unit.panels {
                let valid = width.min(columns - first);
                // Beyond the valid columns lies what another panel left; its sums are never read.
                let packed = buffers.right.at_least(PIXEL_BLOCK * WIDEST);
                right.copy(block.clone(), first..first + valid, packed, width);
                let places: [usize; TALLEST] = std::array::from_fn(|row| row * width);
                // A split's sums: panel by panel, row by row.
                let panel = unit.split * size + first * rows;
                for_each_tile(unit.rows.clone(), heights, |row, height| {
                    let tile = Tile {
                        left: buffers.left[(row - unit.rows.start) * block.len()..].as_ptr(),
                        right: buffers.right.values().as_ptr(),
                        terms: block.len(),
                        start: (at == unit.split * per_split).then_some(NO_SUMS.as_ptr()),
                        out: output.pointer().wrapping_add(panel + row * width),
                        targets: &places[..height],
                    };
                    // SAFETY: `left` and `right` hold the block's pixels, the sums the panel's rows, which are
                    // this unit's alone; the kernel is one that `isa` allows.
                    unsafe { outer_kernel(isa, width, height)(&tile) };
                });
            }
        }
    };
    units.into_par_iter().for_each_init(Buffers::default, work);
    // out[output][term] from sums[split][panel][row][column].
    out.par_chunks_mut(terms).enumerate().with_min_len(8).for_each(|(o, out)| {
        for split in sums.chunks_exact(size) {
            if outputs_are_rows {
                for &(first, width) in &layout {
                    let valid = width.min(columns - first);
                    let row = &split[first * rows + o * width..][..valid];
                    out[first..first + valid].iter_mut().zip(row).for_each(|(a, b)| *a += b);
                }
            } else if let Some(&(first, width)) = layout.iter().rev().find(|(first, _)| *first <= o) {
                for (term, out) in out.iter_mut().enumerate() {
                    *out += split[first * rows + term * width + o - first];
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
    /// A panel's columns, pixel by pixel.
    right: Lines,
}

impl Buffers {
    /// Packs some rows of a block of pixels. In place, a pixel's rows would lie so far from the next pixel's,
    /// by a power of two, that they would all fall into the same few lines of the cache.
    fn pack_left(&mut self, factor: &Factor, block: Range<usize>, rows: Range<usize>, heights: [usize; 3]) {
        let count = block.len();
        self.left.resize(rows.len() * PIXEL_BLOCK, 0.0);
        self.pixel.resize(rows.len() * PIXELS_AT_ONCE, 0.0);
        for first in block.clone().step_by(PIXELS_AT_ONCE) {
            let pixels = first..(first + PIXELS_AT_ONCE).min(block.end);
            factor.copy(pixels.clone(), rows.clone(), &mut self.pixel, rows.len());
            for (pixel, from) in pixels.zip(self.pixel.chunks_exact(rows.len())) {
                let pixel = pixel - block.start;
                for_each_tile(0..rows.len(), heights, |row, height| {
                    let to = row * count + pixel * height;
                    copy_run(&mut self.left[to..to + height], &from[row..row + height]);
                });
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
