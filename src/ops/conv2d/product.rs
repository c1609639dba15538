//! The product of windows and packed weights.
//!
//! Sums are cut into blocks of [`SUM_BLOCK`] terms and rows into chunks, so that a chunk's block of windows
//! stays in the second-level cache while all panels of weights pass by, and a panel's block in the first-level
//! cache while all tiles of the chunk pass by. Partial sums wait in the output between blocks, which does
//! not change the chain of fused multiply-adds. Each output belongs to one chunk, so the number of threads
//! does not show in the result.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::simd::{Isa, LEFT_STRIDE, SUM_BLOCK, Terms, Tile, forward_kernel};
use super::windows::{Lines, Padded, Segment, Windows, copy_run};

/// Rows of a chunk at most: their block of windows takes 420 KiB.
const CHUNK_ROWS: usize = 384;
/// A multiple of every tile's rows.
const TILE_ROWS: usize = 12;
/// Channels up to which windows are read where they lie.
pub(super) const NARROW: usize = 128;
/// Columns of the widest panel.
const WIDEST: usize = 32;

/// (first column, width) of the panels that cover `columns`: widest first, the last one may reach beyond.
pub(super) fn panels(isa: Isa, columns: usize) -> Vec<(usize, usize)> {
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
pub(super) struct Packed {
    data: Lines,
    /// (first column, width, start in `data`).
    panels: Vec<(usize, usize, usize)>,
    columns: usize,
    terms: usize,
}

impl Packed {
    /// Packs the weights of `columns` columns: that of a term and a column is at
    /// `terms[term] + column · column_step`; `terms` ascend.
    pub(super) fn new(isa: Isa, weight: &[f32], terms: &[usize], column_step: usize, columns: usize) -> Self {
        let layout = panels(isa, columns);
        let total: usize = layout.iter().map(|(_, width)| width * terms.len()).sum();
        let mut data = SPARE.with(RefCell::take);
        let mut rest = data.at_least(total);
        let mut pieces = Vec::with_capacity(layout.len());
        let mut list = Vec::with_capacity(layout.len());
        let mut start = 0;
        for (first, width) in layout {
            let (piece, tail) = rest.split_at_mut(width * terms.len());
            rest = tail;
            list.push((first, width, start));
            start += width * terms.len();
            pieces.push((first, width, piece));
        }
        const AT_ONCE: usize = 16;
        let fill = |(first, width, piece): (usize, usize, &mut [f32])| {
            let valid = width.min(columns - first);
            if valid < width {
                piece.fill(0.0);
            }
            if column_step == 1 {
                for (row, term) in piece.chunks_exact_mut(width).zip(terms) {
                    copy_run(&mut row[..valid], &weight[term + first..][..valid]);
                }
                return;
            }
            // A few terms at a time, so that each cache line of the weights is fetched once.
            for (rows, terms) in piece.chunks_mut(AT_ONCE * width).zip(terms.chunks(AT_ONCE)) {
                let together = terms.len() == AT_ONCE && terms[AT_ONCE - 1] == terms[0] + AT_ONCE - 1;
                for column in 0..valid {
                    let weight = &weight[(first + column) * column_step..];
                    let rows = rows.chunks_exact_mut(width);
                    match weight[terms[0]..].first_chunk::<AT_ONCE>() {
                        Some(from) if together => rows.zip(from).for_each(|(row, v)| row[column] = *v),
                        _ => rows.zip(terms).for_each(|(row, term)| row[column] = weight[*term]),
                    }
                }
            }
        };
        if total > 1 << 16 {
            pieces.into_par_iter().for_each(fill);
        } else {
            pieces.into_iter().for_each(fill);
        }
        Self { data, panels: list, columns, terms: terms.len() }
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        SPARE.with(|spare| spare.replace(std::mem::take(&mut self.data)));
    }
}

thread_local! {
    /// The last packed weights' memory, kept since fresh memory costs a page fault for every 4 KiB.
    static SPARE: RefCell<Lines> = RefCell::default();
}

/// Where the rows of a product go: the offset of row (image, y, x) is start + its product with `steps`.
pub(super) struct Placement {
    pub start: usize,
    pub steps: [usize; 3],
}

/// A pointer that threads write disjoint outputs through.
#[derive(Clone, Copy)]
pub(super) struct Output(pub *mut f32);
// SAFETY: every output is written by one thread.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    /// The pointer (a method, so that closures capture the whole of this).
    pub(super) fn pointer(self) -> *mut f32 {
        self.0
    }
}

/// out[row][column] = bias[column] + Σ window[row][·] · weights[·][column]. Writes every column of every row.
pub(super) fn product(
    isa: Isa,
    windows: &Windows,
    weights: &Packed,
    bias: Option<&[f32]>,
    placement: &Placement,
    out: &mut [MaybeUninit<f32>],
) {
    let (total, [_, count_y, count_x]) = (windows.rows(), windows.counts);
    if total == 0 || weights.columns == 0 {
        return;
    }
    let target = |row: usize| {
        let at = [row / (count_x * count_y), row / count_x % count_y, row % count_x];
        placement.start + at.iter().zip(&placement.steps).map(|(at, step)| at * step).sum::<usize>()
    };
    // The kernels trust these bounds.
    assert!(target(total - 1) + weights.columns <= out.len(), "a row reaches beyond the output");
    assert_eq!(windows.terms(), weights.terms);
    // Narrow windows are read where they lie: copying them would take a large part of the time. Wide ones
    // are copied, which costs little for each of many columns and keeps a tile's rows apart in the cache.
    let padded = if windows.shape[3] <= NARROW { windows.padded() } else { None };
    let blocks: Vec<Block> = (0..weights.terms)
        .step_by(SUM_BLOCK)
        .map(|first| {
            let terms = first..(first + SUM_BLOCK).min(weights.terms);
            match &padded {
                Some(padded) => Block { first, runs: padded.runs(&windows.taps, terms), copied: Vec::new() },
                None => Block {
                    first,
                    runs: vec![Terms { left: 0, right: 0, count: terms.len() }],
                    copied: windows.segments(terms),
                },
            }
        })
        .collect();
    // Bias of each panel, with room for the last one's width.
    let mut start_values = bias.map_or_else(|| vec![0f32; weights.columns], <[f32]>::to_vec);
    start_values.resize(weights.columns + WIDEST, 0.0);
    let output = Output(out.as_mut_ptr().cast());
    // As many chunks for each thread, none too large.
    let threads = rayon::current_num_threads();
    let chunks = total.div_ceil(threads * CHUNK_ROWS) * threads;
    let chunk = total.div_ceil(chunks).next_multiple_of(TILE_ROWS);
    (0..total.div_ceil(chunk)).into_par_iter().for_each(|i| {
        let rows = i * chunk..(i * chunk + chunk).min(total);
        let targets: Vec<usize> = rows.clone().map(target).collect();
        // The last tile's missing rows read what the last row does; their sums are not stored.
        let whole = rows.len().next_multiple_of(TILE_ROWS);
        let sources: Vec<usize> = match &padded {
            Some(padded) => (0..whole).map(|row| padded.source((rows.start + row).min(total - 1))).collect(),
            None => (0..whole).map(|row| row * LEFT_STRIDE).collect(),
        };
        with_block(|buffer| {
            if padded.is_none() {
                buffer.at_least(whole * LEFT_STRIDE);
            }
            for block in &blocks {
                if padded.is_none() {
                    windows.copy(rows.clone(), &block.copied, buffer.values_mut(), LEFT_STRIDE);
                }
                let left = padded.as_ref().map_or(buffer.values(), Padded::values).as_ptr();
                for &(first, width, start) in &weights.panels {
                    let (kernel, height) = forward_kernel(isa, width);
                    let valid = width.min(weights.columns - first);
                    for (targets, sources) in targets.chunks(height).zip(sources.chunks(height)) {
                        let tile = Tile {
                            left,
                            sources,
                            right: weights.data.values()[start + block.first * width..].as_ptr(),
                            segments: &block.runs,
                            left_step: 1,
                            right_step: width,
                            start: (block.first == 0).then(|| start_values[first..].as_ptr()),
                            out: output.pointer().wrapping_add(first),
                            targets,
                        };
                        // SAFETY: `left` has the terms of all sources, the panel its terms; targets lie within
                        // the output and belong to this chunk alone; the kernel is one that `isa` allows.
                        unsafe {
                            if targets.len() == height && valid == width {
                                kernel(&tile);
                            } else {
                                on_the_edge(&tile, kernel, height, width, valid);
                            }
                        }
                    }
                }
            }
        });
    });
}

/// A block of the sum.
struct Block {
    /// Its first term.
    first: usize,
    /// Its terms, from a row's source.
    runs: Vec<Terms>,
    /// What is copied to make the rows, where they are.
    copied: Vec<Segment>,
}

/// Runs `work` with this thread's buffer for blocks of windows.
fn with_block(work: impl FnOnce(&mut Lines)) {
    thread_local! {
        static BUFFER: RefCell<Lines> = RefCell::default();
    }
    BUFFER.with_borrow_mut(work);
}

/// Runs a kernel on a tile of which only some rows and `valid` columns exist.
///
/// # Safety
/// As for the kernel, for the rows of `tile.targets` and `valid` columns.
unsafe fn on_the_edge(tile: &Tile, kernel: unsafe fn(&Tile), height: usize, width: usize, valid: usize) {
    let mut whole = [0f32; TILE_ROWS * WIDEST];
    let places: [usize; TILE_ROWS] = std::array::from_fn(|r| r * width);
    for (&target, row) in tile.targets.iter().zip(whole.chunks_exact_mut(width)) {
        if tile.start.is_none() {
            // SAFETY: the caller vouches for `valid` values at each target.
            let from = unsafe { std::slice::from_raw_parts(tile.out.add(target), valid) };
            row[..valid].copy_from_slice(from);
        }
    }
    // SAFETY: the caller's promise, and `whole` has room for `height` rows of `width`.
    unsafe { kernel(&Tile { out: whole.as_mut_ptr(), targets: &places[..height], ..*tile }) };
    for (&target, row) in tile.targets.iter().zip(whole.chunks_exact(width)) {
        // SAFETY: the caller vouches for `valid` values at each target, and that nobody else writes there.
        let to = unsafe { std::slice::from_raw_parts_mut(tile.out.add(target), valid) };
        to.copy_from_slice(&row[..valid]);
    }
}
