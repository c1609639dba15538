//! Writing the generated data set's files: each complete or absent.

use std::io::Write;
use std::path::Path;

use crate::formats::image::{LabelMap, RgbImage};
use crate::{Error, Result};

/// Writes bytes beside the target, syncs and renames; makes the folder if need be.
pub(super) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    let mut file = tempfile::Builder::new()
        .prefix(".seedwalk-")
        .tempfile_in(folder)
        .map_err(|e| Error::io("write into", folder, e))?;
    file.write_all(bytes).map_err(|e| Error::io("write", path, e))?;
    file.persist(path).map_err(|e| Error::io("write", path, e.error))?;
    Ok(())
}

/// A baseline JPEG of `quality` 1–100.
pub(super) fn write_jpeg(path: &Path, image: &RgbImage, quality: u8) -> Result<()> {
    let (Ok(width), Ok(height)) = (u16::try_from(image.width), u16::try_from(image.height)) else {
        return Err(Error::shape("JPEG", format!("{}×{} is too large", image.width, image.height)));
    };
    let mut bytes = Vec::new();
    jpeg_encoder::Encoder::new(&mut bytes, quality)
        .encode(&image.pixels, width, height, jpeg_encoder::ColorType::Rgb)
        .map_err(|e| Error::malformed(path, format!("cannot encode: {e}")))?;
    write_bytes(path, &bytes)
}

/// An 8-bit palette PNG in VOC's colours.
pub(super) fn write_labels(path: &Path, map: &LabelMap) -> Result<()> {
    let fail = |e: png::EncodingError| Error::malformed(path, format!("cannot encode: {e}"));
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, map.width as u32, map.height as u32);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_palette(voc_palette());
    let mut writer = encoder.write_header().map_err(fail)?;
    writer.write_image_data(&map.labels).map_err(fail)?;
    writer.finish().map_err(fail)?;
    write_bytes(path, &bytes)
}

/// VOC's colour map: bit k of each channel comes from bit 3j + channel of the index, high bits first.
fn voc_palette() -> Vec<u8> {
    (0..256usize)
        .flat_map(|i| {
            (0..3).map(move |c| (0..3).map(|j| ((i >> (3 * j + c)) as u8 & 1) << (7 - j)).sum::<u8>())
        })
        .collect()
}

/// Photographs and masks beyond this many pixels are refused before memory is taken for them.
const MOST_PIXELS: usize = 64 << 20;

fn check_size(path: &Path, width: usize, height: usize) -> Result<()> {
    if width.checked_mul(height).is_none_or(|n| n > MOST_PIXELS || n == 0) {
        return Err(Error::malformed(path, format!("an image of {width}×{height} pixels")));
    }
    Ok(())
}

/// A JPEG or PNG as 8-bit RGB, as stored: orientation tags are not applied, alpha is dropped.
pub(super) fn read_rgb(path: &Path) -> Result<RgbImage> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    if bytes.starts_with(b"\x89PNG") {
        let (width, height, channels, samples) = decode_png(path, &bytes, true)?;
        let pixels = match channels {
            3 => samples,
            1 | 2 => samples.chunks_exact(channels).flat_map(|p| [p[0]; 3]).collect(),
            _ => samples.chunks_exact(channels).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        };
        return RgbImage::new(width, height, pixels);
    }
    let fail = |e: zune_jpeg::errors::DecodeErrors| Error::malformed(path, format!("not a photograph: {e}"));
    let options = zune_jpeg::zune_core::options::DecoderOptions::default()
        .set_strict_mode(true)
        .jpeg_set_out_colorspace(zune_jpeg::zune_core::colorspace::ColorSpace::RGB);
    let cursor = zune_jpeg::zune_core::bytestream::ZCursor::new(&bytes[..]);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(cursor, options);
    decoder.decode_headers().map_err(fail)?;
    let info = decoder.info().ok_or_else(|| Error::malformed(path, "not a photograph"))?;
    let (width, height) = (usize::from(info.width), usize::from(info.height));
    check_size(path, width, height)?;
    RgbImage::new(width, height, decoder.decode().map_err(fail)?).map_err(|e| e.in_file(path))
}

/// The palette indices (or grey values) of an 8-bit PNG.
pub(super) fn read_labels(path: &Path) -> Result<LabelMap> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let (width, height, channels, labels) = decode_png(path, &bytes, false)?;
    if channels != 1 {
        return Err(Error::malformed(path, "a mask in colours, not a palette or grey image"));
    }
    LabelMap::new(width, height, labels).map_err(|e| e.in_file(path))
}

/// Width, height, channels and 8-bit samples; palettes become colours if `expand`.
fn decode_png(path: &Path, bytes: &[u8], expand: bool) -> Result<(usize, usize, usize, Vec<u8>)> {
    let fail = |e: png::DecodingError| Error::malformed(path, format!("cannot decode: {e}"));
    let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
    if expand {
        decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    }
    let mut reader = decoder.read_info().map_err(fail)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    check_size(path, width, height)?;
    let (colours, depth) = reader.output_color_type();
    if depth != png::BitDepth::Eight {
        return Err(Error::malformed(path, format!("{depth:?} bits a sample, not 8")));
    }
    let mut samples = vec![0; width * height * colours.samples()];
    reader.next_frame(&mut samples).map_err(fail)?;
    Ok((width, height, colours.samples(), samples))
}
