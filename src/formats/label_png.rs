//! Label masks: 8-bit palette PNG in the colour map of PASCAL VOC, 0 background, 255 ignored.
//!
//! The indices are the labels; the colours are for people. A folder of masks also keeps the class list
//! that the labels count in, `classes.txt`, a name a line, background first.

use std::path::{Path, PathBuf};

use super::atomic::write_atomically;
use super::image::{DEFLATE, LabelMap, MAX_PIXELS, check_plausible, check_size, png_failure};
use super::{read_file, reserve};
use crate::{Error, Result};

/// The colour of a label in PASCAL VOC's map: bit 7−j of a channel is bit 3j+channel of the label
/// (VOC development kit, `VOClabelcolormap`).
pub fn voc_colour(label: u8) -> [u8; 3] {
    std::array::from_fn(|channel| {
        (0..3).map(|j| ((u32::from(label) >> (3 * j + channel)) as u8 & 1) << (7 - j)).sum()
    })
}

/// A mask as the bytes of a palette PNG. `path` is for the error.
fn encode(path: &Path, map: &LabelMap) -> Result<Vec<u8>> {
    check_size(path, map.width, map.height, MAX_PIXELS)?;
    let fail = |e: png::EncodingError| Error::malformed(path, format!("cannot encode the mask: {e}"));
    let palette: Vec<u8> = (0..=255).flat_map(voc_colour).collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, map.width as u32, map.height as u32);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(palette);
    let mut writer = encoder.write_header().map_err(fail)?;
    writer.write_image_data(&map.labels).map_err(fail)?;
    writer.finish().map_err(fail)?;
    Ok(bytes)
}

/// Writes a mask; complete or absent.
///
/// # Errors
/// A mask without pixels, a folder that cannot be written.
pub fn write_labels(path: &Path, map: &LabelMap) -> Result<()> {
    let bytes = encode(path, map)?;
    write_atomically(path, |w| w.write_all(&bytes))
}

/// Reads the indices of a palette PNG, or the values of an 8-bit grey one.
///
/// # Errors
/// A file that is no PNG, is cut off or larger than [`MAX_PIXELS`]; a PNG in colours or of 16 bits, which
/// carries no labels.
pub fn read_labels(path: &Path) -> Result<LabelMap> {
    decode(path, &read_file(path)?)
}

/// Reads a mask from memory; `path` is for the errors.
pub(crate) fn decode(path: &Path, bytes: &[u8]) -> Result<LabelMap> {
    decode_indices(path, bytes).map_err(|e| e.or_remedy(super::DAMAGED))
}

fn decode_indices(path: &Path, bytes: &[u8]) -> Result<LabelMap> {
    let fail = |e| png_failure(path, &e);
    let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
    // Both may be compressed and are of no use here.
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(fail)?;
    let info = reader.info();
    let (width, height, depth) = (info.width as usize, info.height as usize, info.bit_depth as usize);
    check_size(path, width, height, MAX_PIXELS)?;
    match (info.color_type, depth) {
        (png::ColorType::Indexed, _) | (png::ColorType::Grayscale, 8) => {}
        (colour, depth) => {
            return Err(Error::malformed(
                path,
                format!("a label mask has one class index a pixel; this PNG is {colour:?}, {depth} bits"),
            )
            .remedy(
                "masks are 8-bit palette or 8-bit grey PNGs; convert coloured masks to class indices first",
            ));
        }
    }
    let row = (width * depth).div_ceil(8);
    check_plausible(path, row as u128 * height as u128, DEFLATE, bytes)?;
    let mut packed = reserve(path, row * height)?;
    packed.resize(row * height, 0);
    reader.next_frame(&mut packed).map_err(fail)?;
    reader.finish().map_err(fail)?;
    let labels = if depth == 8 {
        packed
    } else {
        let mut labels = reserve(path, width * height)?;
        for row in packed.chunks_exact(row) {
            // Pixels fill a byte from its high bits (PNG, §7.2).
            labels.extend((0..width).map(|x| {
                let bit = x * depth;
                (row[bit / 8] >> (8 - depth - bit % 8)) & ((1 << depth) - 1)
            }));
        }
        labels
    };
    LabelMap::new(width, height, labels).map_err(|e| e.in_file(path))
}

fn class_list_path(folder: &Path) -> PathBuf {
    folder.join("classes.txt")
}

/// Stores the class list that a folder's masks count in, background first. A list that is there already
/// must be the same.
///
/// # Errors
/// Another list is there: the folder's masks count in other classes; a folder that cannot be written.
pub fn write_class_list(folder: &Path, names: &[String]) -> Result<()> {
    if let Some(stored) = read_class_list(folder)? {
        if stored == names {
            return Ok(());
        }
        let message =
            format!("the folder's class list is [{}], not [{}]", stored.join(", "), names.join(", "));
        return Err(Error::invalid(message)
            .in_file(class_list_path(folder))
            .remedy("choose another output folder, or pass the class file that this one was made with"));
    }
    let mut text = names.join("\n");
    text.push('\n');
    write_atomically(&class_list_path(folder), |w| w.write_all(text.as_bytes()))
}

/// The class list stored in a folder of masks, if one is.
///
/// # Errors
/// A list that cannot be read.
pub fn read_class_list(folder: &Path) -> Result<Option<Vec<String>>> {
    let path = class_list_path(folder);
    if !path.exists() {
        return Ok(None);
    }
    let text = String::from_utf8(read_file(&path)?).map_err(|e| {
        Error::malformed(&path, "the list is not UTF-8 text").at_offset(e.utf8_error().valid_up_to() as u64)
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    Ok(Some(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_string).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn colours_are_vocs() {
        let known = [
            (0, [0, 0, 0]),
            (1, [128, 0, 0]),
            (2, [0, 128, 0]),
            (7, [128, 128, 128]),
            (8, [64, 0, 0]),
            (15, [192, 128, 128]),
            (20, [0, 64, 128]),
            (255, [224, 224, 192]),
        ];
        for (label, colour) in known {
            assert_eq!(voc_colour(label), colour, "{label}");
        }
    }

    fn any_map() -> impl Strategy<Value = LabelMap> {
        (1usize..20, 1usize..20).prop_flat_map(|(width, height)| {
            proptest::collection::vec(any::<u8>(), width * height).prop_map(move |labels| LabelMap {
                width,
                height,
                labels,
            })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn masks_survive_the_round_trip(map in any_map()) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("sub/mask.png");
            write_labels(&path, &map).unwrap();
            prop_assert_eq!(read_labels(&path).unwrap(), map);
        }

        #[test]
        fn damaged_masks_are_errors_not_panics(map in any_map(), cut in 0.0f64..1.0, flip: (prop::sample::Index, u8)) {
            let path = Path::new("mask.png");
            let bytes = encode(path, &map).unwrap();
            let cut = (bytes.len() as f64 * cut) as usize;
            prop_assert!(decode(path, &bytes[..cut]).is_err());
            let mut flipped = bytes.clone();
            flipped[flip.0.index(bytes.len())] ^= flip.1;
            let _ = decode(path, &flipped);
        }
    }

    fn png_bytes(width: u32, colour: png::ColorType, depth: png::BitDepth, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, 1);
        encoder.set_color(colour);
        encoder.set_depth(depth);
        if colour == png::ColorType::Indexed {
            encoder.set_palette(vec![0; 12]);
        }
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(data).unwrap();
        writer.finish().unwrap();
        bytes
    }

    #[test]
    fn packed_palettes_and_grey_are_read_colours_refused() {
        use png::{BitDepth::*, ColorType::*};
        let path = Path::new("m.png");
        let read = |colour, depth, width, data: &[u8]| decode(path, &png_bytes(width, colour, depth, data));
        assert_eq!(read(Indexed, Two, 5, &[0b00_01_10_11, 0b01_00_00_00]).unwrap().labels, [0, 1, 2, 3, 1]);
        assert_eq!(read(Indexed, Four, 3, &[0x12, 0x30]).unwrap().labels, [1, 2, 3]);
        assert_eq!(read(Grayscale, Eight, 2, &[7, 255]).unwrap().labels, [7, 255]);
        for (colour, depth, bytes) in
            [(Rgb, Eight, 3), (Rgba, Eight, 4), (Grayscale, Sixteen, 2), (Grayscale, Four, 1)]
        {
            let e = read(colour, depth, 1, &vec![0; bytes]).unwrap_err();
            assert!(e.how_to_mend().unwrap().contains("palette"), "{e}");
        }
    }

    #[test]
    fn a_folder_keeps_one_class_list() {
        let dir = tempfile::tempdir().unwrap();
        let list = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(read_class_list(dir.path()).unwrap(), None);
        write_class_list(dir.path(), &list(&["background", "tv monitor"])).unwrap();
        write_class_list(dir.path(), &list(&["background", "tv monitor"])).unwrap();
        assert_eq!(read_class_list(dir.path()).unwrap().unwrap(), list(&["background", "tv monitor"]));
        let e = write_class_list(dir.path(), &list(&["background", "cat"])).unwrap_err();
        assert!(e.message().contains("tv monitor") && e.message().contains("cat"));
    }
}
