//! Photographs: in memory, from JPEG and PNG files, and to them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::atomic::write_atomically;
use super::{exif, jpeg, read_file, reserve};
use crate::{Error, Result};

/// Pixels beyond which a photograph or mask is refused before memory is taken for it: 64 megapixels.
pub const MAX_PIXELS: usize = 64 << 20;

/// What to do with a photograph's orientation tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exif {
    /// Turn the photograph upright, as viewers show it.
    Apply,
    /// Leave the stored pixels as they are: masks drawn on them fit.
    Ignore,
}

/// An RGB photograph, 8 bits a sample, rows from the top, `pixels[(y * width + x) * 3 + channel]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Interleaved samples, `height * width * 3` of them.
    pub pixels: Vec<u8>,
}

impl RgbImage {
    /// Wraps samples; fails when their number is not `width * height * 3`.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Result<Self> {
        if pixels.len() != width * height * 3 {
            let message = format!("{} samples for {width}×{height} RGB", pixels.len());
            return Err(Error::shape("image", message));
        }
        Ok(Self { width, height, pixels })
    }

    /// The three samples at (x, y).
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let at = (y * self.width + x) * 3;
        [self.pixels[at], self.pixels[at + 1], self.pixels[at + 2]]
    }
}

/// A class index per pixel: 0 background, 255 ignored or neutral; rows from the top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMap {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width` class indices.
    pub labels: Vec<u8>,
}

/// The label of pixels that take no part: ignored in ground truth, neutral in affinity labels.
pub const IGNORE: u8 = 255;

impl LabelMap {
    /// Wraps labels; fails when their number is not `width * height`.
    pub fn new(width: usize, height: usize, labels: Vec<u8>) -> Result<Self> {
        if labels.len() != width * height {
            return Err(Error::shape("labels", format!("{} labels for {width}×{height}", labels.len())));
        }
        Ok(Self { width, height, labels })
    }

    /// Fails where a label is neither one of `classes` classes nor [`IGNORE`].
    pub fn check_classes(&self, classes: usize) -> Result<()> {
        match self.labels.iter().find(|&&label| label != IGNORE && usize::from(label) >= classes) {
            Some(label) => Err(Error::invalid(format!("label {label}, and there are {classes} classes"))
                .remedy("check the class list (--classes); labels are class indices, or 255 for ignore")),
            None => Ok(()),
        }
    }
}

/// Reads a JPEG or PNG photograph of at most [`MAX_PIXELS`] as 8-bit RGB.
///
/// Grey is replicated, palettes become colours, 16-bit samples are rounded, CMYK is converted (as Adobe
/// stores it: inverted), and alpha is dropped with a warning.
///
/// # Errors
/// A file that is neither, is cut off, is damaged, or is too large; a JPEG in YCCK.
pub fn read_rgb(path: &Path, exif: Exif) -> Result<RgbImage> {
    read_rgb_limited(path, exif, MAX_PIXELS)
}

/// As [`read_rgb`], with another limit on the number of pixels.
pub fn read_rgb_limited(path: &Path, exif: Exif, max_pixels: usize) -> Result<RgbImage> {
    decode(path, &read_file(path)?, exif, max_pixels)
}

/// Decodes a photograph from memory; `path` is for the errors and warnings.
pub(crate) fn decode(path: &Path, bytes: &[u8], exif: Exif, max_pixels: usize) -> Result<RgbImage> {
    decode_any(path, bytes, exif, max_pixels).map_err(|e| e.or_remedy(super::DAMAGED))
}

fn decode_any(path: &Path, bytes: &[u8], exif: Exif, max_pixels: usize) -> Result<RgbImage> {
    let (image, orientation) = if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        decode_png(path, bytes, max_pixels)?
    } else if bytes.starts_with(b"\xff\xd8") {
        decode_jpeg(path, bytes, max_pixels)?
    } else if bytes.is_empty() {
        return Err(Error::malformed(path, "the file is empty")
            .remedy("fetch the file again, or take it out of the list"));
    } else {
        return Err(Error::malformed(path, "neither a JPEG nor a PNG file")
            .remedy("convert the photograph to JPEG or PNG, or take it out of the list"));
    };
    match exif {
        Exif::Apply => upright(path, image, orientation.unwrap_or(1)),
        Exif::Ignore => {
            static TOLD: std::sync::Once = std::sync::Once::new();
            if orientation.is_some_and(|o| o != 1) {
                TOLD.call_once(|| {
                    log::warn!(
                        "{}: orientation tags are ignored, as masks are drawn on the stored pixels; \
                         --exif apply turns photographs upright (told once)",
                        crate::show_path(path)
                    );
                });
            }
            Ok(image)
        }
    }
}

/// Fails when an image has no pixels or more than `max_pixels`.
pub(super) fn check_size(path: &Path, width: usize, height: usize, max_pixels: usize) -> Result<()> {
    match width.checked_mul(height) {
        Some(0) => Err(Error::malformed(path, format!("{width}×{height}: there are no pixels"))),
        Some(pixels) if pixels <= max_pixels => Ok(()),
        _ => Err(Error::malformed(
            path,
            format!("{width}×{height} pixels are more than the {max_pixels} allowed"),
        )
        .remedy("scale the image down, or take it out of the list")),
    }
}

/// Fails when a file is too small to hold what its header promises, before memory is taken for that.
///
/// Deflate makes at most 1032 bytes of one (RFC 1951: 258 bytes for two bits), and a JPEG needs a bit for each
/// block of 64 pixels (ITU-T T.81: the shortest code of the difference of two DC coefficients).
pub(super) fn check_plausible(path: &Path, promised: u128, most_of_a_byte: u128, bytes: &[u8]) -> Result<()> {
    if promised <= most_of_a_byte * bytes.len() as u128 {
        return Ok(());
    }
    let message = format!("the file is cut off: {} bytes cannot hold what its header promises", bytes.len());
    Err(Error::malformed(path, message).remedy("fetch the file again"))
}

/// Bytes that a byte of a PNG can become.
pub(super) const DEFLATE: u128 = 1032;

/// Pixels that a byte of a JPEG can become.
const HUFFMAN: u128 = 512;

/// What the PNG decoder says, with a remedy where the file is cut off.
pub(super) fn png_failure(path: &Path, error: &png::DecodingError) -> Error {
    let cut =
        matches!(error, png::DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof);
    if cut {
        return Error::malformed(path, "the PNG file is cut off").remedy("fetch the file again");
    }
    Error::malformed(path, format!("not a sound PNG file: {error}"))
}

/// Refuses a palette that is none: the decoder (png 0.18.1) would read beyond it.
fn check_palette(path: &Path, info: &png::Info<'_>) -> Result<()> {
    let Some(palette) = info.palette.as_ref().filter(|_| info.color_type == png::ColorType::Indexed) else {
        return Ok(());
    };
    if palette.len().is_multiple_of(3) {
        return Ok(());
    }
    Err(Error::malformed(path, format!("not a sound PNG file: a palette of {} bytes", palette.len())))
}

fn decode_png(path: &Path, bytes: &[u8], max_pixels: usize) -> Result<(RgbImage, Option<u8>)> {
    let fail = |e| png_failure(path, &e);
    let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::EXPAND);
    // Both may be compressed and are of no use here.
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(fail)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    check_size(path, width, height, max_pixels)?;
    let stored = reader.info().raw_row_length_from_width(width as u32) as u128 * height as u128;
    check_plausible(path, stored, DEFLATE, bytes)?;
    check_palette(path, reader.info())?;
    let (colour, depth) = reader.output_color_type();
    let channels = colour.samples();
    let bytes_per_sample = if depth == png::BitDepth::Sixteen { 2 } else { 1 };
    let size = width * height * channels * bytes_per_sample;
    let mut samples = reserve(path, size)?;
    samples.resize(size, 0);
    reader.next_frame(&mut samples).map_err(fail)?;
    reader.finish().map_err(fail)?;
    let orientation = reader.info().exif_metadata.as_deref().and_then(exif::orientation);
    if bytes_per_sample == 2 {
        // In place: pair i lies at 2i ≥ i.
        for i in 0..samples.len() / 2 {
            let value = u32::from(u16::from_be_bytes([samples[2 * i], samples[2 * i + 1]]));
            samples[i] = ((value * 255 + 32_767) / 65_535) as u8;
        }
        samples.truncate(samples.len() / 2);
    }
    if matches!(channels, 2 | 4) {
        log::warn!("{}: transparency is dropped", crate::show_path(path));
    }
    let pixels = match channels {
        3 => samples,
        _ => {
            let mut pixels = reserve(path, width * height * 3)?;
            for pixel in samples.chunks_exact(channels) {
                let grey = channels < 3;
                pixels.extend([pixel[0], pixel[usize::from(!grey)], pixel[if grey { 0 } else { 2 }]]);
            }
            pixels
        }
    };
    Ok((RgbImage::new(width, height, pixels).map_err(|e| e.in_file(path))?, orientation))
}

fn decode_jpeg(path: &Path, bytes: &[u8], max_pixels: usize) -> Result<(RgbImage, Option<u8>)> {
    let damaged = |why: &str| {
        let message = format!("the JPEG file is cut off or damaged: {why}");
        Error::malformed(path, message).remedy("fetch the file again")
    };
    let header = exif::jpeg_header(bytes).ok_or_else(|| damaged("there is no frame"))?;
    let (width, height) = (header.width, header.height);
    check_size(path, width, height, max_pixels)?;
    check_plausible(path, width as u128 * height as u128, HUFFMAN, bytes)?;
    match (header.components, header.adobe_transform) {
        (1 | 3, _) => {}
        (4, Some(2)) => {
            return Err(Error::malformed(path, "JPEG in the colour space YCCK, which is not supported")
                .remedy("convert the photograph to RGB"));
        }
        (4, _) => {}
        (n, _) => return Err(Error::malformed(path, format!("a JPEG of {n} components is no photograph"))),
    }
    // The decoder stops at an end within the data; an end behind them shows here.
    if !header.complete {
        return Err(damaged("the end-of-image marker is missing"));
    }
    let picture = jpeg::decode(bytes, max_pixels).map_err(damaged)?;
    if (picture.width, picture.height) != (width, height) {
        return Err(damaged("its markers contradict each other"));
    }
    let samples = match picture.channels {
        3 => picture.samples,
        channels => {
            let mut pixels = reserve(path, width * height * 3)?;
            for pixel in picture.samples.chunks_exact(channels) {
                match *pixel {
                    // Inks are stored inverted; what light the black leaves, the others dim.
                    [c, m, y, k] => pixels.extend([c, m, y].map(|ink| k - product(255 - ink, k))),
                    _ => pixels.extend([pixel[0]; 3]),
                }
            }
            pixels
        }
    };
    Ok((RgbImage::new(width, height, samples).map_err(|e| e.in_file(path))?, header.orientation))
}

/// a·b/255, rounded.
fn product(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    (((product >> 8) + product) >> 8) as u8
}

/// Undoes an EXIF orientation (EXIF 2.3, §4.6.4): 2, 4 mirror, 3 half turn, 6, 8 quarter turns, 5, 7 both.
fn upright(path: &Path, image: RgbImage, orientation: u8) -> Result<RgbImage> {
    if !(2..=8).contains(&orientation) {
        return Ok(image);
    }
    let (w, h) = (image.width, image.height);
    let (width, height) = if orientation >= 5 { (h, w) } else { (w, h) };
    let mut pixels = reserve(path, image.pixels.len())?;
    for y in 0..height {
        for x in 0..width {
            let (sx, sy) = match orientation {
                2 => (w - 1 - x, y),
                3 => (w - 1 - x, h - 1 - y),
                4 => (x, h - 1 - y),
                5 => (y, x),
                6 => (y, h - 1 - x),
                7 => (w - 1 - y, h - 1 - x),
                _ => (w - 1 - y, x),
            };
            pixels.extend_from_slice(&image.pixel(sx, sy));
        }
    }
    RgbImage::new(width, height, pixels)
}

/// A photograph as the bytes of an RGB PNG.
///
/// # Errors
/// An image without pixels or beyond [`MAX_PIXELS`].
pub fn encode_png(image: &RgbImage) -> Result<Vec<u8>> {
    check_size(Path::new("PNG"), image.width, image.height, MAX_PIXELS)?;
    let fail = |e: png::EncodingError| Error::invalid(format!("cannot encode a PNG: {e}"));
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, image.width as u32, image.height as u32);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().map_err(fail)?;
    writer.write_image_data(&image.pixels).map_err(fail)?;
    writer.finish().map_err(fail)?;
    Ok(bytes)
}

/// Writes a photograph as PNG; complete or absent.
///
/// # Errors
/// As [`encode_png`]; a folder that cannot be written.
pub fn write_png(path: &Path, image: &RgbImage) -> Result<()> {
    let bytes = encode_png(image).map_err(|e| e.in_file(path))?;
    write_atomically(path, |w| w.write_all(&bytes))
}

/// A photograph as the bytes of a baseline JPEG of `quality` 1–100.
///
/// # Errors
/// An image without pixels, or with a side beyond 65535.
pub fn encode_jpeg(image: &RgbImage, quality: u8) -> Result<Vec<u8>> {
    let side = |n: usize| u16::try_from(n).ok().filter(|&n| n > 0);
    let (Some(width), Some(height)) = (side(image.width), side(image.height)) else {
        let message = format!("{}×{}: a JPEG's sides are 1 to 65535", image.width, image.height);
        return Err(Error::shape("encode JPEG", message));
    };
    let mut bytes = Vec::new();
    jpeg_encoder::Encoder::new(&mut bytes, quality.clamp(1, 100))
        .encode(&image.pixels, width, height, jpeg_encoder::ColorType::Rgb)
        .map_err(|e| Error::invalid(format!("cannot encode a JPEG: {e}")))?;
    Ok(bytes)
}

/// Writes a photograph as JPEG; complete or absent.
///
/// # Errors
/// As [`encode_jpeg`]; a folder that cannot be written.
pub fn write_jpeg(path: &Path, image: &RgbImage, quality: u8) -> Result<()> {
    let bytes = encode_jpeg(image, quality).map_err(|e| e.in_file(path))?;
    write_atomically(path, |w| w.write_all(&bytes))
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
