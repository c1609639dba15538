use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::*;

fn options(images: usize, seed: u64) -> SynthOptions {
    SynthOptions { images, seed, ..Default::default() }
}

fn with_threads<T: Send>(threads: usize, f: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

/// Draws `docs/images/synth.png`: pictures above their masks, parts in the full colour.
#[test]
#[ignore = "writes the picture of docs/data.md"]
fn draw_the_contact_sheet() {
    const COLOURS: [[u8; 3]; 7] = [
        [24, 24, 24],
        [230, 60, 60],
        [240, 210, 40],
        [70, 100, 240],
        [230, 70, 210],
        [40, 190, 90],
        [60, 215, 225],
    ];
    let options = SynthOptions { images: 10, seed: 2, size: 96, ..Default::default() };
    let (columns, rows, side) = (5, 2, options.size);
    let (width, height) = (columns * side, rows * 2 * side);
    let mut sheet = vec![0u8; width * height * 3];
    for index in 0..columns * rows {
        let scene = render(&options, index);
        let (left, top) = (index % columns * side, index / columns * 2 * side);
        for at in 0..side * side {
            let colour = COLOURS[usize::from(scene.mask.labels[at])];
            let colour = if scene.parts.labels[at] > 0 { colour } else { colour.map(|v| v / 2 + 8) };
            let (x, y) = (left + at % side, top + at / side);
            sheet[(y * width + x) * 3..][..3].copy_from_slice(&scene.image.pixel(at % side, at / side));
            sheet[((y + side) * width + x) * 3..][..3].copy_from_slice(&colour);
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/images/synth.png");
    let mut encoder = png::Encoder::new(std::fs::File::create(path).unwrap(), width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    encoder.write_header().unwrap().write_image_data(&sheet).unwrap();
}

/// Relative paths and contents of all files below a folder, sorted.
fn contents(root: &Path) -> Vec<(String, Vec<u8>)> {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                files.push((name, std::fs::read(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

#[test]
fn pixels_are_the_same_everywhere() {
    // Known answers, so that another machine, compiler or order of threads cannot change the data
    // unnoticed. A deliberate change of the drawing changes them.
    let scene = render(&options(2, 7), 0);
    assert_eq!(xxh3_64(&scene.image.pixels), KNOWN_IMAGE);
    assert_eq!(xxh3_64(&scene.mask.labels), KNOWN_MASK);
    assert_ne!(render(&options(2, 7), 1).image, scene.image);
    assert_ne!(render(&options(2, 8), 0).image, scene.image);
}

const KNOWN_IMAGE: u64 = 16_125_365_203_232_091_391;
const KNOWN_MASK: u64 = 1_401_430_291_989_429_204;

#[test]
fn files_do_not_depend_on_the_number_of_threads() {
    let made: Vec<_> = [1, 3]
        .into_iter()
        .map(|threads| {
            let folder = tempfile::tempdir().unwrap();
            with_threads(threads, || generate(folder.path(), &options(9, 5), &|_| Ok(()))).unwrap();
            contents(folder.path())
        })
        .collect();
    assert_eq!(made[0].len(), 3 * 9 + 3);
    assert!(made[0] == made[1], "1 and 3 threads wrote different files");
    let list = |name: &str| {
        let (_, bytes) = made[0].iter().find(|(n, _)| n.ends_with(name)).unwrap();
        String::from_utf8(bytes.clone()).unwrap()
    };
    assert_eq!(list("val.txt"), "000003\n000007\n");
    assert_eq!(list("train.txt").lines().count(), 7);
    assert_eq!(list("classes.txt").lines().count(), 7);
}

#[test]
fn tags_masks_and_parts_agree() {
    let options = options(150, 3);
    let (mut per_class, mut objects) = ([0usize; 7], [0usize; 4]);
    let (mut object_share, mut part_share, mut truncated) = (0.0, 0.0, 0);
    for index in 0..options.images {
        let scene = render(&options, index);
        let mut seen: Vec<usize> = scene.mask.labels.iter().map(|&l| usize::from(l)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [&[0], scene.tags.as_slice()].concat(), "image {index}");
        for (&label, &part) in scene.mask.labels.iter().zip(&scene.parts.labels) {
            assert!(part == 0 || part == label, "a part lies on another class's pixel");
        }
        for object in &scene.objects {
            let [left, top, right, bottom] = object.bounds;
            assert!(left < right && top < bottom && right < 128 && bottom < 128);
            truncated += usize::from(object.truncated);
        }
        let area = |map: &LabelMap| map.labels.iter().filter(|&&l| l > 0).count() as f64;
        object_share += area(&scene.mask) / 16384.0;
        part_share += area(&scene.parts) / area(&scene.mask);
        scene.tags.iter().for_each(|&t| per_class[t] += 1);
        objects[scene.objects.len()] += 1;
    }
    let n = options.images as f64;
    // Objects fill a quarter of the picture, parts a quarter of the three in five objects that show theirs.
    assert!((0.22..0.34).contains(&(object_share / n)), "objects fill {}", object_share / n);
    assert!((0.10..0.20).contains(&(part_share / n)), "parts fill {} of objects", part_share / n);
    // Five standard deviations round the expected 45 %, 37 %, 18 %; a crowded layout may lose an object.
    assert!(objects[0] == 0 && objects[1] > 38 && objects[2] > 30 && objects[3] > 5, "{objects:?}");
    assert!(per_class[1..].iter().all(|&c| c > 20), "{per_class:?}");
    assert!(truncated > 10, "objects cut off: {truncated}");
}

#[test]
fn bodies_tell_the_class_often_and_not_surely() {
    // The mean colour of each single object's body, given to the class whose mean is nearest (its own
    // object left out): far better than chance (1 in 6), not certain.
    let options = options(300, 11);
    let mut samples: Vec<(usize, [f64; 3])> = Vec::new();
    for index in 0..options.images {
        let scene = render(&options, index);
        let [class] = scene.tags[..] else { continue };
        let (mut sum, mut count) = ([0.0; 3], 0.0);
        for (i, pixel) in scene.image.pixels.chunks_exact(3).enumerate() {
            if scene.mask.labels[i] > 0 && scene.parts.labels[i] == 0 {
                (0..3).for_each(|c| sum[c] += f64::from(pixel[c]));
                count += 1.0;
            }
        }
        samples.push((class, sum.map(|s| s / count)));
    }
    let distance = |own: usize, class: usize| {
        let others = samples.iter().enumerate().filter(|(i, s)| *i != own && s.0 == class);
        let (mut mean, mut count) = ([0.0; 3], 0.0);
        for (_, (_, colour)) in others {
            (0..3).for_each(|c| mean[c] += colour[c]);
            count += 1.0;
        }
        (0..3).map(|c| (mean[c] / count - samples[own].1[c]).powi(2)).sum::<f64>()
    };
    let right = (0..samples.len())
        .filter(|&i| {
            let nearest = (1..=6).min_by(|&a, &b| distance(i, a).total_cmp(&distance(i, b)));
            nearest == Some(samples[i].0)
        })
        .count();
    let share = right as f64 / samples.len() as f64;
    assert!((0.6..0.95).contains(&share), "{share:.2} of {} bodies told by colour", samples.len());
}

#[test]
fn sizes_scale_and_limits_hold() {
    for size in [64, 97, 256] {
        let scene = render(&SynthOptions { images: 2, seed: 1, size, ..Default::default() }, 0);
        assert_eq!((scene.image.width, scene.image.pixels.len()), (size, size * size * 3));
        assert!(scene.mask.labels.iter().any(|&l| l > 0));
    }
    assert!(SynthOptions { size: 63, ..Default::default() }.check().is_err());
    assert!(options(1, 0).check().is_err());
    assert!(options(2, 0).is_val(1) && !options(2, 0).is_val(0));
}

#[test]
fn an_error_from_progress_ends_the_work_without_lists() {
    let folder = tempfile::tempdir().unwrap();
    let stop = |_| Err(crate::Error::new(crate::ErrorKind::Interrupted, "stop"));
    let error = generate(folder.path(), &options(4, 1), &stop).unwrap_err();
    assert_eq!(error.exit_code(), 130);
    assert!(!folder.path().join("ImageSets").exists());
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = generate(&file, &options(2, 1), &|_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Io);
    assert!(error.path().is_some_and(|p| p.starts_with(&file)));
}
