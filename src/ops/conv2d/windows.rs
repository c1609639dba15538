//! The rows of the implicit matrix of windows: read where they lie, or copied out a block at a time.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::simd::Terms;

/// The windows of N×H×W×C data. A row of the matrix belongs to one window (one output pixel); its terms run
/// over the taps and, innermost, the channels. Outside the data every value is 0.
pub(super) struct Windows<'a> {
    pub data: &'a [f32],
    /// N, H, W, C.
    pub shape: [usize; 4],
    /// Images, rows and columns of windows.
    pub counts: [usize; 3],
    /// Pixels of the data from one window to the next.
    pub step: usize,
    /// Pixels from (row, column) · step to each tap.
    pub taps: Vec<[isize; 2]>,
}

/// Consecutive terms that are consecutive values of one row of pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    /// Pixel rows from the window's position.
    dy: isize,
    /// Values from the window's position in its pixel row.
    start: isize,
    length: usize,
}

impl Windows<'_> {
    /// Rows of the matrix.
    pub(super) fn rows(&self) -> usize {
        self.counts.iter().product()
    }

    /// Terms of a row.
    pub(super) fn terms(&self) -> usize {
        self.taps.len() * self.shape[3]
    }

    /// A range of terms as segments, in order; the taps of a window's row are one where not dilated.
    pub(super) fn segments(&self, terms: Range<usize>) -> Vec<Segment> {
        let channels = self.shape[3];
        let mut segments: Vec<Segment> = Vec::new();
        let mut term = terms.start;
        while term < terms.end {
            let ([dy, dx], channel) = (self.taps[term / channels], term % channels);
            let length = (channels - channel).min(terms.end - term);
            let start = dx * channels as isize + channel as isize;
            term += length;
            match segments.last_mut() {
                Some(last) if last.dy == dy && last.start + last.length as isize == start => {
                    last.length += length;
                }
                _ => segments.push(Segment { dy, start, length }),
            }
        }
        segments
    }

    /// Copies the segments of a range of rows: one row every `stride` values of `to`.
    pub(super) fn copy(&self, rows: Range<usize>, segments: &[Segment], to: &mut [f32], stride: usize) {
        let [_, h, w, c] = self.shape;
        let [_, count_y, count_x] = self.counts;
        let (mut x, mut y) = (rows.start % count_x, rows.start / count_x % count_y);
        let mut image = rows.start / (count_x * count_y);
        let width = (w * c) as isize;
        for to in to.chunks_mut(stride).take(rows.len()) {
            let mut at = 0;
            for segment in segments {
                let to = &mut to[at..at + segment.length];
                at += segment.length;
                let row = (y * self.step) as isize + segment.dy;
                let start = (x * self.step * c) as isize + segment.start;
                let end = start + segment.length as isize;
                if row < 0 || row >= h as isize || start >= width || end <= 0 {
                    to.fill(0.0);
                    continue;
                }
                let row = &self.data[(image * h + row as usize) * w * c..][..w * c];
                if start >= 0 && end <= width {
                    copy_run(to, &row[start as usize..end as usize]);
                } else {
                    // Columns of padding on the left, the right or both.
                    let left = (-start).max(0) as usize;
                    let from = &row[start.max(0) as usize..end.min(width) as usize];
                    to[..left].fill(0.0);
                    to[left..left + from.len()].copy_from_slice(from);
                    to[left + from.len()..].fill(0.0);
                }
            }
            x += 1;
            if x == count_x {
                (x, y) = (0, y + 1);
                if y == count_y {
                    (y, image) = (0, image + 1);
                }
            }
        }
    }
}

/// The data of windows with every pixel that a tap of any of them reaches: a window's terms are then the same
/// offsets from its source, and the kernels read them where they lie.
pub(super) struct Padded<'a> {
    data: &'a [f32],
    /// The data with its padding, unless there is none.
    copy: Option<Lines>,
    /// Rows of pixels and pixels in a row.
    size: [usize; 2],
    channels: usize,
    /// Pixels of padding above and on the left.
    before: [usize; 2],
    counts: [usize; 3],
    step: usize,
}

/// Values of a padded copy at most (64 MiB): beyond that it costs more than it saves.
const PADDED_LIMIT: usize = 1 << 24;

thread_local! {
    /// The last padded copy, kept since fresh memory costs a page fault for every 4 KiB.
    static SPARE: RefCell<Lines> = RefCell::default();
}

impl<'a> Windows<'a> {
    /// The data with its padding; nothing where its copy would be too large.
    pub(super) fn padded(&self) -> Option<Padded<'a>> {
        let [n, h, w, channels] = self.shape;
        let reach = |taps: &dyn Fn(&[isize; 2]) -> isize, count: usize, length: usize| {
            let before = self.taps.iter().map(taps).min().unwrap_or(0).min(0).unsigned_abs();
            let last =
                self.taps.iter().map(taps).max().unwrap_or(0) + ((count.max(1) - 1) * self.step) as isize;
            (before, before + length.max(last.max(0) as usize + 1))
        };
        let (top, rows) = reach(&|tap| tap[0], self.counts[1], h);
        let (left, columns) = reach(&|tap| tap[1], self.counts[2], w);
        let mut padded = Padded {
            data: self.data,
            copy: None,
            size: [rows, columns],
            channels,
            before: [top, left],
            counts: self.counts,
            step: self.step,
        };
        if [rows, columns] == [h, w] {
            return Some(padded);
        }
        let length = n * rows * columns * channels;
        if length > PADDED_LIMIT {
            return None;
        }
        let mut copy = SPARE.with(RefCell::take);
        let row = columns * channels;
        let fill = |(at, to): (usize, &mut [f32])| {
            let (image, y) = (at / rows, (at % rows).wrapping_sub(top));
            if y >= h {
                return to.fill(0.0);
            }
            let from = &self.data[(image * h + y) * w * channels..][..w * channels];
            let (margin, rest) = to.split_at_mut(left * channels);
            let (inside, beyond) = rest.split_at_mut(w * channels);
            margin.fill(0.0);
            inside.copy_from_slice(from);
            beyond.fill(0.0);
        };
        let values = &mut copy.at_least(length + 2 * LINE)[..length];
        values.par_chunks_mut(row).enumerate().with_min_len((1usize << 14).div_ceil(row)).for_each(fill);
        padded.copy = Some(copy);
        Some(padded)
    }
}

impl Padded<'_> {
    /// The values; a padded copy is followed by two cache lines that may be read.
    pub(super) fn values(&self) -> &[f32] {
        self.copy.as_ref().map_or(self.data, Lines::values)
    }

    /// Whether two cache lines beyond the last value may be read.
    pub(super) fn is_copy(&self) -> bool {
        self.copy.is_some()
    }

    /// Values from one window to the next in its row.
    pub(super) fn pitch(&self) -> usize {
        self.step * self.channels
    }

    /// Where the window of a row of the matrix begins.
    pub(super) fn source(&self, row: usize) -> usize {
        let [_, count_y, count_x] = self.counts;
        let (image, y, x) = (row / (count_x * count_y), row / count_x % count_y, row % count_x);
        ((image * self.size[0] + y * self.step) * self.size[1] + x * self.step) * self.channels
    }

    /// Offset of a term of the window with these taps from the window's source.
    pub(super) fn offset(&self, taps: &[[isize; 2]], term: usize) -> usize {
        let [dy, dx] = taps[term / self.channels];
        let row = (dy + self.before[0] as isize) as usize;
        let column = (dx + self.before[1] as isize) as usize;
        (row * self.size[1] + column) * self.channels + term % self.channels
    }

    /// A range of terms as runs of consecutive values.
    pub(super) fn runs(&self, taps: &[[isize; 2]], terms: Range<usize>) -> Vec<Terms> {
        let mut runs: Vec<Terms> = Vec::new();
        let mut term = terms.start;
        while term < terms.end {
            let left = self.offset(taps, term);
            let count = (self.channels - term % self.channels).min(terms.end - term);
            match runs.last_mut() {
                Some(last) if last.left + last.count == left => last.count += count,
                _ => runs.push(Terms { left, right: 0, count }),
            }
            term += count;
        }
        runs
    }
}

impl Drop for Padded<'_> {
    fn drop(&mut self) {
        if let Some(copy) = self.copy.take() {
            SPARE.with(|spare| spare.replace(copy));
        }
    }
}

/// Copies values, eight at a time where they are few: a call to memcpy would take longer than the copy.
#[inline(always)]
pub(super) fn copy_run(to: &mut [f32], from: &[f32]) {
    if from.len() > 64 {
        to.copy_from_slice(from);
        return;
    }
    let (to_eights, to_rest) = to.as_chunks_mut::<8>();
    let (from_eights, from_rest) = from.as_chunks::<8>();
    for (to, from) in to_eights.iter_mut().zip(from_eights) {
        *to = *from;
    }
    let (to_pairs, to_rest) = to_rest.as_chunks_mut::<2>();
    let (from_pairs, from_rest) = from_rest.as_chunks::<2>();
    for (to, from) in to_pairs.iter_mut().zip(from_pairs) {
        *to = *from;
    }
    if let ([to], [from]) = (to_rest, from_rest) {
        *to = *from;
    }
}

/// A buffer that begins with a cache line: a vector that straddles two costs two loads.
#[derive(Default)]
pub(super) struct Lines(Vec<f32>);

/// Values of a cache line.
pub(super) const LINE: usize = 16;

impl Lines {
    /// `len` zeros.
    pub(super) fn zeros(len: usize) -> Self {
        Self(vec![0.0; len + LINE])
    }

    /// At least `len` values, of whatever was there.
    pub(super) fn at_least(&mut self, len: usize) -> &mut [f32] {
        if self.0.len() < len + LINE {
            *self = Self::zeros(len);
        }
        self.values_mut()
    }

    /// Values before the first cache line.
    fn skip(&self) -> usize {
        // May be more than a line, where a pointer cannot be aligned; nothing relies on it.
        self.0.as_ptr().align_offset(4 * LINE).min(LINE).min(self.0.len())
    }

    /// The values.
    pub(super) fn values(&self) -> &[f32] {
        &self.0[self.skip()..]
    }

    /// The values.
    pub(super) fn values_mut(&mut self) -> &mut [f32] {
        let skip = self.skip();
        &mut self.0[skip..]
    }
}
