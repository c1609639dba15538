//! Pictures in a table: a contact sheet with captions and a key of colours.

use super::font;
use crate::data::augment::resize_cubic;
use crate::formats::image::RgbImage;
use crate::{Error, Result};

/// Paper of a sheet, and the ink on it.
pub(super) const PAPER: [u8; 3] = [250, 248, 243];
pub(super) const INK: [u8; 3] = [60, 58, 52];

/// What is on a sheet.
pub(super) struct Sheet<'a> {
    /// What stands over each column.
    pub captions: &'a [String],
    /// The pictures, a row as long as the captions.
    pub rows: &'a [Vec<Option<RgbImage>>],
    /// Colours and what they stand for, in lines below the pictures.
    pub key: &'a [(&'a str, [u8; 3])],
    /// Side of a picture's square in pixels.
    pub cell: usize,
}

impl Sheet<'_> {
    /// Draws it: larger pictures are shrunk into their square, smaller ones enlarged, both in proportion.
    ///
    /// # Errors
    /// No columns, rows of another length than the captions, a picture without pixels.
    pub fn draw(&self) -> Result<RgbImage> {
        let (columns, cell) = (self.captions.len(), self.cell);
        if columns == 0 || cell == 0 || self.rows.iter().any(|row| row.len() != columns) {
            let message = format!("{} rows, {columns} captions, cells of {cell}", self.rows.len());
            return Err(Error::shape("contact sheet", message));
        }
        let gap = (cell / 24).max(2);
        let widest = self.captions.iter().map(|c| text_width(c)).max().unwrap_or(1).max(1);
        let dot = (cell / widest).clamp(1, 2);
        let line = font::HEIGHT * dot + 2 * gap;
        let width = columns * (cell + gap) + gap;
        let key = self.place_key(width, gap, dot);
        let lines = key.last().map_or(0, |(_, line)| line + 1);
        let pictures = line + self.rows.len() * (cell + gap);
        let height = pictures + lines * line;
        let mut sheet = RgbImage { width, height, pixels: PAPER.repeat(width * height) };
        for (column, caption) in self.captions.iter().enumerate() {
            let free = cell.saturating_sub(text_width(caption) * dot);
            write_text(&mut sheet, caption, (gap + column * (cell + gap) + free / 2, gap), dot);
        }
        for (r, row) in self.rows.iter().enumerate() {
            for (c, picture) in row.iter().enumerate() {
                let Some(picture) = picture else { continue };
                let side = picture.width.max(picture.height).max(1);
                let scale = |n: usize| ((n * cell + side / 2) / side).max(1);
                let scaled = resize_cubic(picture, scale(picture.width), scale(picture.height))?;
                let left = gap + c * (cell + gap) + (cell - scaled.width) / 2;
                let top = line + r * (cell + gap) + (cell - scaled.height) / 2;
                for (y, line) in scaled.pixels.chunks_exact(scaled.width * 3).enumerate() {
                    sheet.pixels[((top + y) * width + left) * 3..][..line.len()].copy_from_slice(line);
                }
            }
        }
        for ((name, colour), (left, row)) in self.key.iter().zip(key) {
            let top = pictures + row * line + gap;
            let side = font::HEIGHT * dot;
            for y in top..top + side {
                let end = (left + side).min(width);
                sheet.pixels[(y * width + left) * 3..(y * width + end) * 3]
                    .copy_from_slice(&colour.repeat(end - left));
            }
            write_text(&mut sheet, name, (left + side + gap, top), dot);
        }
        Ok(sheet)
    }

    /// Left edge and line of each entry of the key; an entry that does not fit begins a line.
    fn place_key(&self, width: usize, gap: usize, dot: usize) -> Vec<(usize, usize)> {
        let (mut left, mut line) = (gap, 0);
        let place = |(name, _): &(&str, [u8; 3])| {
            let needed = (font::HEIGHT + text_width(name)) * dot + gap;
            if left > gap && left + needed + gap > width {
                (left, line) = (gap, line + 1);
            }
            let at = (left, line);
            left = (left + needed + 4 * gap).min(width.saturating_sub(1));
            at
        };
        self.key.iter().map(place).collect()
    }
}

/// Dots across a line of text.
pub(super) fn text_width(text: &str) -> usize {
    (text.chars().count() * (font::WIDTH + 1)).saturating_sub(1)
}

/// Writes a line of text in dots of `dot`² pixels; what lies beyond the picture's edge is left out.
pub(super) fn write_text(image: &mut RgbImage, text: &str, (left, top): (usize, usize), dot: usize) {
    for (n, letter) in text.chars().enumerate() {
        for (row, bits) in font::glyph(letter).into_iter().enumerate() {
            for column in (0..font::WIDTH).filter(|c| bits >> (font::WIDTH - 1 - c) & 1 == 1) {
                let (x, y) = (left + (n * (font::WIDTH + 1) + column) * dot, top + row * dot);
                for (y, x) in (y..y + dot).flat_map(|y| (x..x + dot).map(move |x| (y, x))) {
                    // A caption wider than its column ends at the picture's edge.
                    if x < image.width && y < image.height {
                        image.pixels[(y * image.width + x) * 3..][..3].copy_from_slice(&INK);
                    }
                }
            }
        }
    }
}
