use super::*;
use proptest::prelude::*;

const P: &str = "photo";

fn gradient(width: usize, height: usize) -> RgbImage {
    let pixel = |i: usize| {
        let (x, y) = (i % width, i / width);
        [(x * 255 / width) as u8, (y * 255 / height) as u8, ((x + y) % 256) as u8]
    };
    RgbImage::new(width, height, (0..width * height).flat_map(pixel).collect()).unwrap()
}

fn read(bytes: &[u8], exif: Exif) -> Result<RgbImage> {
    decode(Path::new(P), bytes, exif, MAX_PIXELS)
}

fn jpeg(
    width: usize,
    height: usize,
    setup: impl FnOnce(&mut jpeg_encoder::Encoder<&mut Vec<u8>>),
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 95);
    setup(&mut encoder);
    let image = gradient(width, height);
    encoder.encode(&image.pixels, width as u16, height as u16, jpeg_encoder::ColorType::Rgb).unwrap();
    bytes
}

fn mean_difference(a: &RgbImage, b: &RgbImage) -> f64 {
    assert_eq!((a.width, a.height), (b.width, b.height));
    let sum: i64 = a.pixels.iter().zip(&b.pixels).map(|(a, b)| i64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.pixels.len() as f64
}

fn png(
    colour: png::ColorType,
    depth: png::BitDepth,
    width: u32,
    data: &[u8],
    extra: &[(&[u8; 4], &[u8])],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, 1);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    if colour == png::ColorType::Indexed {
        encoder.set_palette(vec![1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }
    let mut writer = encoder.write_header().unwrap();
    for (name, data) in extra {
        writer.write_chunk(png::chunk::ChunkType(**name), data).unwrap();
    }
    writer.write_image_data(data).unwrap();
    writer.finish().unwrap();
    bytes
}

#[test]
fn sides_of_any_length_run() {
    for (w, h) in [(1, 1), (1, 5000), (5000, 1), (7, 13), (17, 16), (64, 65)] {
        let image = gradient(w, h);
        assert_eq!(read(&encode_png(&image).unwrap(), Exif::Apply).unwrap(), image);
        let jpeg = read(&encode_jpeg(&image, 95).unwrap(), Exif::Apply).unwrap();
        assert_eq!((jpeg.width, jpeg.height), (w, h));
    }
    let smooth = gradient(96, 80);
    // Quantisation steps at quality 95 are at most 12: half of one, spread over a block, is below 3 a sample.
    assert!(mean_difference(&read(&encode_jpeg(&smooth, 95).unwrap(), Exif::Ignore).unwrap(), &smooth) < 3.0);
}

#[test]
fn every_cut_jpeg_is_refused() {
    let grey = {
        let mut bytes = Vec::new();
        let pixels: Vec<u8> = (0..40 * 24).map(|i| (i % 251) as u8).collect();
        jpeg_encoder::Encoder::new(&mut bytes, 80)
            .encode(&pixels, 40, 24, jpeg_encoder::ColorType::Luma)
            .unwrap();
        bytes
    };
    let baseline = jpeg(40, 24, |_| {});
    let progressive = jpeg(40, 24, |e| e.set_progressive(true));
    let restarts = jpeg(40, 24, |e| e.set_restart_interval(2));
    let subsampled = jpeg(40, 24, |e| e.set_sampling_factor(jpeg_encoder::SamplingFactor::F_2_2));
    for (name, bytes) in [
        ("grey", grey),
        ("baseline", baseline),
        ("progressive", progressive),
        ("restarts", restarts),
        ("4:2:0", subsampled),
    ] {
        let whole = read(&bytes, Exif::Ignore).unwrap();
        assert_eq!((whole.width, whole.height), (40, 24), "{name}");
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut], Exif::Ignore).is_err(), "{name} cut to {cut} of {}", bytes.len());
        }
    }
}

#[test]
fn every_cut_png_is_refused() {
    let bytes = encode_png(&gradient(20, 9)).unwrap();
    for cut in 0..bytes.len() {
        assert!(read(&bytes[..cut], Exif::Ignore).is_err(), "cut to {cut} of {}", bytes.len());
    }
}

#[test]
fn odd_pngs_become_rgb() {
    use png::{BitDepth::*, ColorType::*};
    let get = |colour, depth, data: &[u8], width| {
        read(&png(colour, depth, width, data, &[]), Exif::Ignore).unwrap().pixels
    };
    assert_eq!(get(Grayscale, Eight, &[9, 200], 2), [9, 9, 9, 200, 200, 200]);
    assert_eq!(get(Grayscale, One, &[0b0100_0000], 2), [0, 0, 0, 255, 255, 255]);
    assert_eq!(get(GrayscaleAlpha, Eight, &[9, 0], 1), [9, 9, 9]);
    assert_eq!(get(Rgba, Eight, &[1, 2, 3, 0], 1), [1, 2, 3]);
    assert_eq!(get(Indexed, Eight, &[2, 0], 2), [7, 8, 9, 1, 2, 3]);
    // 16 bits: 0x0080/257 = 0.498 rounds down, 0x0081/257 = 0.502 rounds up.
    assert_eq!(get(Rgb, Sixteen, &[0, 0x80, 0, 0x81, 0xff, 0xff], 1), [0, 1, 255]);
}

#[test]
fn transparent_palette_entries_lose_their_alpha() {
    let bytes = png(png::ColorType::Indexed, png::BitDepth::Eight, 1, &[1], &[(b"tRNS", &[0, 0, 0])]);
    assert_eq!(read(&bytes, Exif::Ignore).unwrap().pixels, [4, 5, 6]);
}

#[test]
fn cmyk_is_converted_ycck_refused() {
    let encode = |colour| {
        let mut bytes = Vec::new();
        let pixels: Vec<u8> = [255u8, 128, 0, 200].repeat(64);
        jpeg_encoder::Encoder::new(&mut bytes, 100).encode(&pixels, 8, 8, colour).unwrap();
        bytes
    };
    let image = read(&encode(jpeg_encoder::ColorType::Cmyk), Exif::Ignore).unwrap();
    // The encoder inverts as Adobe does, so ink 255 is none of the light: (0, 127, 255)·(255−200)/255.
    let want = [0u8, 27, 55];
    for pixel in image.pixels.chunks(3) {
        assert!(pixel.iter().zip(want).all(|(a, b)| a.abs_diff(b) <= 2), "{pixel:?}");
    }
    let e = read(&encode(jpeg_encoder::ColorType::CmykAsYcck), Exif::Ignore).unwrap_err();
    assert!(e.message().contains("YCCK"));
}

#[test]
fn a_bomb_is_refused_by_its_header() {
    let mut bytes = encode_png(&gradient(2, 2)).unwrap();
    bytes[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    assert!(read(&bytes, Exif::Ignore).is_err());
    let mut bytes = jpeg(16, 16, |_| {});
    let frame = bytes.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    bytes[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    assert!(read(&bytes, Exif::Ignore).unwrap_err().message().contains("65535×65535"));
    let png = encode_png(&gradient(11, 10)).unwrap();
    assert!(decode(Path::new(P), &png, Exif::Ignore, 109).is_err());
    assert!(decode(Path::new(P), &png, Exif::Ignore, 110).is_ok());
}

#[test]
fn orientation_is_applied_only_when_asked() {
    let stored = gradient(32, 16);
    for orientation in 1..=8u8 {
        let tiff = exif::tests::tiff(orientation % 2 == 0, orientation.into());
        let bytes = jpeg(32, 16, |e| e.add_exif_metadata(&tiff).unwrap());
        let ignored = read(&bytes, Exif::Ignore).unwrap();
        let applied = read(&bytes, Exif::Apply).unwrap();
        assert!(mean_difference(&ignored, &stored) < 3.0);
        assert_eq!(applied.width, if orientation < 5 { 32 } else { 16 });
        // Where the stored top left corner goes: EXIF's "0th row, 0th column" table.
        let (x, y) = match orientation {
            1 | 5 => (0, 0),
            2 | 6 => (applied.width - 1, 0),
            3 | 7 => (applied.width - 1, applied.height - 1),
            _ => (0, applied.height - 1),
        };
        assert_eq!(applied.pixel(x, y), ignored.pixel(0, 0), "{orientation}");
        // And the stored top right corner.
        let (x, y) = match orientation {
            1 | 8 => (if orientation == 1 { 31 } else { 0 }, 0),
            2 => (0, 0),
            3 | 7 => (if orientation == 3 { 0 } else { 15 }, if orientation == 3 { 15 } else { 0 }),
            4 => (31, 15),
            5 => (0, 31),
            _ => (15, 31),
        };
        assert_eq!(applied.pixel(x, y), ignored.pixel(31, 0), "{orientation}");
    }
    let tiff = exif::tests::tiff(false, 3);
    let bytes = png(png::ColorType::Grayscale, png::BitDepth::Eight, 2, &[1, 2], &[(b"eXIf", &tiff)]);
    assert_eq!(read(&bytes, Exif::Apply).unwrap().pixels, [2, 2, 2, 1, 1, 1]);
}

#[test]
fn other_files_are_refused_with_a_remedy() {
    assert!(read(b"GIF89a", Exif::Apply).unwrap_err().how_to_mend().is_some());
    assert!(read(b"", Exif::Apply).unwrap_err().message().contains("empty"));
    let dir = tempfile::tempdir().unwrap();
    assert!(read_rgb(dir.path(), Exif::Apply).unwrap_err().message().contains("folder"));
    assert!(read_rgb(&dir.path().join("absent"), Exif::Apply).is_err());
    let path = dir.path().join("x.png");
    write_png(&path, &gradient(3, 2)).unwrap();
    assert_eq!(read_rgb(&path, Exif::Apply).unwrap(), gradient(3, 2));
    write_jpeg(&path, &gradient(3, 2), 90).unwrap();
    assert_eq!(read_rgb(&path, Exif::Apply).unwrap().width, 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn damaged_photographs_never_panic(
        kind in 0..3,
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = match kind {
            0 => jpeg(24, 17, |_| {}),
            1 => jpeg(24, 17, |e| e.set_progressive(true)),
            _ => encode_png(&gradient(24, 17)).unwrap(),
        };
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = decode(Path::new(P), &bytes, Exif::Apply, 1 << 20);
    }
}
