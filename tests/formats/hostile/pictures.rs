//! Photographs and label PNGs.

use seedwalk::formats::image::{RgbImage, encode_jpeg, encode_png};

use super::Reader::{Mask, Photograph};
use super::{Case, case};
use crate::allocator::measured;
use crate::writers::*;

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = cat(&[kind, data]);
    cat(&[&(data.len() as u32).to_be_bytes(), &body, &crc32(&body).to_be_bytes()])
}

fn ihdr(width: u32, height: u32, depth: u8, colour: u8) -> Vec<u8> {
    chunk(b"IHDR", &cat(&[&width.to_be_bytes(), &height.to_be_bytes(), &[depth, colour, 0, 0, 0]]))
}

/// A zlib stream of stored blocks.
fn stored(data: &[u8]) -> Vec<u8> {
    let (a, b) = data.iter().fold((1u32, 0u32), |(a, b), &v| {
        let a = (a + u32::from(v)) % 65521;
        (a, (b + a) % 65521)
    });
    let mut out = vec![0x78, 0x01];
    for (i, block) in data.chunks(0xffff).enumerate() {
        let last = (i + 1) * 0xffff >= data.len();
        let length = block.len() as u16;
        out.extend(cat(&[&[u8::from(last)], &length.to_le_bytes(), &(!length).to_le_bytes(), block]));
    }
    cat(&[&out, &(b << 16 | a).to_be_bytes()])
}

/// A PNG of these chunks.
fn png(chunks: &[Vec<u8>]) -> Vec<u8> {
    cat(&[SIGNATURE, &chunks.concat(), &chunk(b"IEND", &[])])
}

fn small() -> RgbImage {
    RgbImage::new(16, 16, (0..16 * 16 * 3).map(|i| (i * 7 % 256) as u8).collect()).unwrap()
}

/// A JPEG whose bytes from the start of its frame on are changed.
fn jpeg(lie: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut b = encode_jpeg(&small(), 90).unwrap();
    let frame = b.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    lie(&mut b[frame..]);
    b
}

pub fn cases() -> Vec<Case> {
    let whole = encode_jpeg(&small(), 90).unwrap();
    let sound = encode_png(&small()).unwrap();
    let row = [0u8; 17];
    let grey = |depth| png(&[ihdr(16, 1, depth, 0), chunk(b"IDAT", &stored(&row))]);
    let side = |b: &mut [u8], height: u16, width: u16| {
        b[5..7].copy_from_slice(&height.to_be_bytes());
        b[7..9].copy_from_slice(&width.to_be_bytes());
    };
    let indexed = |palette: usize| {
        png(&[ihdr(16, 1, 8, 3), chunk(b"PLTE", &vec![7; palette]), chunk(b"IDAT", &stored(&row))])
    };
    let mut crc = sound.clone();
    crc[30] ^= 1;
    let adobe = cat(&[&whole[..2], b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x02", &whole[2..]]);
    let four = {
        // Four components in the frame, as YCCK has.
        let frame = adobe.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
        let mut b = adobe.clone();
        b[frame + 9] = 4;
        b
    };
    vec![
        case("photo-empty", Photograph, Vec::new(), "empty"),
        case("photo-text", Photograph, b"<svg onload='x()'/>".to_vec(), "neither a JPEG nor a PNG"),
        case("photo-gif", Photograph, b"GIF89a\x01\x00\x01\x00\x00\x00\x00;".to_vec(), "neither"),
        case("jpeg-only-start", Photograph, b"\xff\xd8".to_vec(), "no frame"),
        case("jpeg-half", Photograph, whole[..whole.len() / 2].to_vec(), "cut off"),
        case("jpeg-without-end", Photograph, whole[..whole.len() - 2].to_vec(), "cut off"),
        case("jpeg-last-byte", Photograph, whole[..whole.len() - 1].to_vec(), "cut off"),
        case(
            "jpeg-end-in-a-thumbnail",
            Photograph,
            cat(&[&whole[..2], b"\xff\xe1\x00\x06\xff\xd8\xff\xd9", &whole[2..whole.len() - 2]]),
            "end-of-image",
        ),
        case("jpeg-65535-squared", Photograph, jpeg(|b| side(b, 65535, 65535)), "more than"),
        case("jpeg-no-rows", Photograph, jpeg(|b| side(b, 0, 16)), "no pixels"),
        case("jpeg-no-columns", Photograph, jpeg(|b| side(b, 16, 0)), "no pixels"),
        case("jpeg-larger-than-its-data", Photograph, jpeg(|b| side(b, 4000, 4000)), "cut off"),
        case("jpeg-two-components", Photograph, jpeg(|b| b[9] = 2), "2 components"),
        case("jpeg-255-components", Photograph, jpeg(|b| b[9] = 255), "255 components"),
        case("jpeg-ycck", Photograph, four, "YCCK"),
        case("jpeg-sampling-0", Photograph, jpeg(|b| b[11] = 0), "damaged"),
        case("jpeg-sampling-15", Photograph, jpeg(|b| b[11] = 0xff), "damaged"),
        case(
            "jpeg-segment-beyond",
            Photograph,
            cat(&[b"\xff\xd8\xff\xe0\xff\xff", &whole[2..60]]),
            "no frame",
        ),
        case("jpeg-twelve-bits", Photograph, jpeg(|b| b[4] = 12), "damaged"),
        case("jpeg-lossless", Photograph, jpeg(|b| b[1] = 0xc3), "damaged"),
        case("png-only-signature", Photograph, SIGNATURE.to_vec(), "cut off"),
        case("png-half", Photograph, sound[..sound.len() / 2].to_vec(), "cut off"),
        case("png-without-end", Photograph, sound[..sound.len() - 12].to_vec(), "cut off"),
        case("png-crc", Photograph, crc, "CRC"),
        case("png-2-31-squared", Photograph, png(&[ihdr(0x7fff_ffff, 0x7fff_ffff, 8, 2)]), "limits"),
        case(
            "png-wide",
            Photograph,
            png(&[ihdr(0x7fff_ffff, 1, 8, 2), chunk(b"IDAT", &stored(&row))]),
            "limits",
        ),
        // Found by fuzzing: a hundred bytes that promise 45 megapixels.
        case(
            "png-promises-more-than-it-holds",
            Photograph,
            png(&[ihdr(9, 5_000_000, 8, 2), chunk(b"IDAT", &stored(&row))]),
            "cannot hold",
        ),
        case(
            "mask-promises-more-than-it-holds",
            Mask,
            png(&[ihdr(9, 5_000_000, 8, 0), chunk(b"IDAT", &stored(&row))]),
            "cannot hold",
        ),
        case("png-no-pixels", Photograph, png(&[ihdr(0, 5, 8, 2)]), ""),
        case("png-no-data", Photograph, png(&[ihdr(16, 16, 8, 2)]), ""),
        case(
            "png-too-little-data",
            Photograph,
            png(&[ihdr(16, 16, 8, 0), chunk(b"IDAT", &stored(&row))]),
            "",
        ),
        case("png-data-no-zlib", Photograph, png(&[ihdr(16, 1, 8, 0), chunk(b"IDAT", &row)]), "PNG"),
        case("png-chunk-of-2-32", Photograph, cat(&[SIGNATURE, &[0xff; 4], b"IHDR"]), ""),
        case("png-palette-missing", Photograph, png(&[ihdr(16, 1, 8, 3), chunk(b"IDAT", &stored(&row))]), ""),
        // Found by fuzzing: the decoder reads three bytes where one is left.
        case("png-palette-of-49-bytes", Photograph, indexed(49), "palette of 49 bytes"),
        case("png-palette-of-257", Photograph, indexed(771), "PLTE"),
        case("png-depth-3", Photograph, grey(3), ""),
        case("mask-photo", Mask, sound, "class index a pixel"),
        case(
            "mask-16-bits",
            Mask,
            png(&[ihdr(8, 1, 16, 0), chunk(b"IDAT", &stored(&row))]),
            "class index a pixel",
        ),
        case("mask-jpeg", Mask, whole, "PNG"),
        case(
            "mask-2-31",
            Mask,
            png(&[ihdr(1 << 20, 1 << 20, 8, 0), chunk(b"IDAT", &stored(&row))]),
            "more than",
        ),
        case("mask-cut", Mask, grey(8)[..40].to_vec(), "cut off"),
        case("mask-empty", Mask, Vec::new(), "cut off"),
    ]
}

/// What is compressed beside the pixels stays so: 64 MB of text in a file of 64 kB.
#[test]
fn texts_beside_a_picture_are_not_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb.png");
    let file = std::fs::File::create(&path).unwrap();
    let mut encoder = png::Encoder::new(file, 2, 1);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.add_ztxt_chunk("Comment".into(), "0".repeat(64 << 20)).unwrap();
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[3, 4]).unwrap();
    writer.finish().unwrap();
    let size = std::fs::metadata(&path).unwrap().len() as usize;
    assert!(size < 1 << 20);
    for reader in [Photograph, Mask] {
        let (result, taken) = measured(|| reader.read(&path));
        result.unwrap();
        assert!(taken.bytes < 1 << 20, "{}", taken.bytes);
    }
}
