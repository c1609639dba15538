//! The rows of the implicit matrix of windows, copied out a block at a time.

use std::ops::Range;

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
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to = *from;
    }
}

/// A buffer that begins with a cache line: a vector that straddles two costs two loads.
#[derive(Default)]
pub(super) struct Lines(Vec<f32>);

/// Values of a cache line.
const LINE: usize = 16;

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
