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
