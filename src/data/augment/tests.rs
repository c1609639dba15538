use proptest::prelude::*;

use super::*;
use crate::rng::Purpose;

fn stream(index: u64) -> Stream {
    Stream::new(3, Purpose::Augmentation, 0, index)
}

fn noise_image(width: usize, height: usize, seed: u64) -> RgbImage {
    let mut random = Stream::new(seed, Purpose::Test, 0, 0);
    let pixels = (0..width * height * 3).map(|_| random.next_u32() as u8).collect();
    RgbImage { width, height, pixels }
}

/// Keys' kernel with a = −½, and the separable resampling that it defines, in f64.
fn cubic_reference(image: &RgbImage, width: usize, height: usize) -> Vec<f64> {
    fn kernel(x: f64) -> f64 {
        let x = x.abs();
        if x < 1.0 {
            (1.5 * x - 2.5) * x * x + 1.0
        } else if x < 2.0 {
            ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
        } else {
            0.0
        }
    }
    fn weights(source: usize, target: usize) -> Vec<Vec<f64>> {
        let ratio = source as f64 / target as f64;
        let stretch = ratio.max(1.0);
        (0..target)
            .map(|i| {
                let centre = (i as f64 + 0.5) * ratio;
                let w: Vec<f64> = (0..source).map(|j| kernel((j as f64 + 0.5 - centre) / stretch)).collect();
                let sum: f64 = w.iter().sum();
                w.into_iter().map(|v| v / sum).collect()
            })
            .collect()
    }
    let (columns, rows) = (weights(image.width, width), weights(image.height, height));
    let mut out = Vec::with_capacity(width * height * 3);
    for row in &rows {
        for column in &columns {
            for c in 0..3 {
                let mut sum = 0.0;
                for (y, wy) in row.iter().enumerate() {
                    let line: f64 = column
                        .iter()
                        .enumerate()
                        .map(|(x, wx)| wx * f64::from(image.pixels[(y * image.width + x) * 3 + c]))
                        .sum();
                    sum += wy * line;
                }
                out.push(sum.clamp(0.0, 255.0));
            }
        }
    }
    out
}

#[test]
fn cubic_resize_follows_its_definition() {
    for (w, h, tw, th) in [(1, 1, 5, 3), (17, 13, 17, 29), (17, 13, 7, 5), (31, 9, 60, 18), (40, 40, 13, 1)] {
        // Smooth content, as the 8-bit value between the two passes is cut to 0–255, which noise reaches.
        let mut image = noise_image(w, h, 5);
        image.pixels.iter_mut().for_each(|v| *v = 64 + *v / 2);
        let got = resize_cubic(&image, tw, th).unwrap();
        let expected = cubic_reference(&image, tw, th);
        assert_eq!((got.width, got.height), (tw, th));
        for (got, expected) in got.pixels.iter().zip(expected) {
            // Half a step of rounding after the first pass, spread by weights of absolute sum at most
            // 1.25 a pass, and half a step after the second: below 1.25.
            assert!((f64::from(*got) - expected).abs() < 1.25, "{w}×{h} → {tw}×{th}: {got} {expected}");
        }
    }
    assert!(resize_cubic(&noise_image(4, 4, 1), 0, 3).is_err());
}

#[test]
fn nearest_and_mirror() {
    let map = LabelMap { width: 3, height: 2, labels: vec![1, 2, 3, 4, 5, 6] };
    assert_eq!(resize_nearest(&map, 6, 2).labels, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]);
    assert_eq!(resize_nearest(&map, 1, 1).labels, [5]);
    assert_eq!(mirror_labels(&map).labels, [3, 2, 1, 6, 5, 4]);
    let image = noise_image(5, 3, 2);
    assert_eq!(mirror(&image).pixel(0, 2), image.pixel(4, 2));
    assert_eq!(mirror(&mirror(&image)), image);
}

#[test]
fn normalising_is_imagenets() {
    let image = RgbImage { width: 1, height: 1, pixels: vec![255, 0, 128] };
    let tensor = normalize(&image);
    assert_eq!(tensor.shape(), [1, 1, 1, 3]);
    for (c, v) in [1.0, 0.0, 128.0 / 255.0].into_iter().enumerate() {
        let expected = (v - f64::from(MEAN[c])) / f64::from(STD[c]);
        // Three roundings of values below 3.
        assert!((f64::from(tensor.data()[c]) - expected).abs() < 3.0 * 3.0 * f64::from(f32::EPSILON));
    }
}

#[test]
fn without_change_a_crop_is_the_normalised_image() {
    let image = noise_image(24, 24, 9);
    let recipe =
        Recipe { scale: Scale::Keep, mirror: false, jitter: Jitter::NONE, crop: 24, padding: Padding::Mean };
    let made = recipe.apply(&image, None, &mut stream(0)).unwrap();
    assert_eq!(made.image.data(), normalize(&image).data());
    assert!(made.labels.is_none());
}

/// An image that tells where each pixel came from, and labels alike.
fn coordinates(width: usize, height: usize) -> (RgbImage, LabelMap) {
    let at = |i: usize| (i % width, i / width);
    let pixels = (0..width * height).flat_map(|i| [at(i).0 as u8 + 1, at(i).1 as u8 + 1, 200]).collect();
    let labels = (0..width * height).map(|i| ((at(i).0 + 3 * at(i).1) % 200) as u8).collect();
    (RgbImage { width, height, pixels }, LabelMap { width, height, labels })
}

#[test]
fn image_and_labels_move_together() {
    for (width, height, crop) in [(40, 30, 24), (15, 50, 24), (9, 7, 24), (24, 24, 24), (1, 1, 3)] {
        let (image, labels) = coordinates(width, height);
        let recipe = Recipe { jitter: Jitter::NONE, ..Recipe::affinity(crop) };
        for index in 0..20 {
            let made = recipe.apply(&image, Some(&labels), &mut stream(index)).unwrap();
            let (data, map) = (made.image.data(), made.labels.unwrap());
            let mut inside = 0;
            for (pixel, &label) in data.chunks_exact(3).zip(&map.labels) {
                let value = |c: usize| ((pixel[c] * STD[c] + MEAN[c]) * 255.0).round() as usize;
                if label == IGNORE {
                    assert_eq!([value(0), value(1), value(2)], [0, 0, 0], "black outside");
                } else {
                    assert_eq!(value(2), 200);
                    assert_eq!(usize::from(label), (value(0) - 1 + 3 * (value(1) - 1)) % 200);
                    inside += 1;
                }
            }
            assert_eq!(inside, width.min(crop) * height.min(crop));
        }
    }
}

#[test]
fn recipes_draw_their_sizes_and_pad_with_their_colour() {
    let image = noise_image(100, 50, 4);
    let (mut narrow, mut wide) = (usize::MAX, 0);
    for index in 0..60 {
        let made = Recipe::cam(448).apply(&image, None, &mut stream(index)).unwrap();
        assert_eq!(made.image.shape(), [1, 448, 448, 3]);
        let seen = made.image.data().chunks_exact(448 * 3);
        let columns =
            seen.map(|row| row.chunks_exact(3).filter(|p| **p != [0.0; 3]).count()).max().unwrap_or(0);
        narrow = narrow.min(columns);
        wide = wide.max(columns);
    }
    assert!((256..290).contains(&narrow) && wide == 448, "{narrow} to {wide} columns");
    assert_eq!(Recipe::cam(448).scale, Scale::LongSide { min: 256, max: 512 });
    assert_eq!(Recipe::segmentation(321).scale, Scale::Factor { min: 0.5, max: 1.5 });
}

#[test]
fn the_stream_alone_decides() {
    let (image, labels) = coordinates(61, 47);
    let recipe = Recipe::segmentation(32);
    let make = |index| recipe.apply(&image, Some(&labels), &mut stream(index)).unwrap();
    let one_by_one: Vec<_> = (0..12).map(make).collect();
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let together: Vec<_> = pool.install(|| {
            use rayon::prelude::*;
            (0..12u64).into_par_iter().map(make).collect()
        });
        for (a, b) in one_by_one.iter().zip(&together) {
            assert_eq!(a.image.data(), b.image.data());
            assert_eq!(a.labels, b.labels);
        }
    }
    assert_ne!(one_by_one[0].image.data(), one_by_one[1].image.data());
}

#[test]
fn jitter_matches_its_definition() {
    // One strength at a time against the formulas in f64, the factor recovered from a second draw.
    let pixels: Vec<f32> = noise_image(6, 5, 8).pixels.iter().map(|&v| f32::from(v) / 255.0).collect();
    let grey = |p: &[f32]| 0.2989 * f64::from(p[0]) + 0.587 * f64::from(p[1]) + 0.114 * f64::from(p[2]);
    let mean = pixels.chunks_exact(3).map(grey).sum::<f64>() / 30.0;
    let none = Jitter::NONE;
    let kinds = [
        Jitter { brightness: 0.3, ..none },
        Jitter { contrast: 0.3, ..none },
        Jitter { saturation: 0.3, ..none },
    ];
    for (kind, jitter) in kinds.into_iter().enumerate() {
        for index in 0..10 {
            let mut changed = pixels.clone();
            jitter.apply(&mut changed, &mut stream(index));
            let mut random = stream(index);
            let mut order = [0, 1, 2, 3];
            random.shuffle(&mut order);
            let place = order.iter().position(|&s| s == kind).unwrap();
            let draw = (0..=place).map(|_| f64::from(random.uniform())).last().unwrap();
            let factor = 0.7 + 0.6 * draw;
            for (was, now) in pixels.chunks_exact(3).zip(changed.chunks_exact(3)) {
                let towards = [0.0, mean, grey(was)][kind];
                for c in 0..3 {
                    let expected = (towards + factor * (f64::from(was[c]) - towards)).clamp(0.0, 1.0);
                    // A handful of roundings of values up to 1.3, and the strengths' own rounding.
                    assert!((f64::from(now[c]) - expected).abs() < 16.0 * f64::from(f32::EPSILON));
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn jitter_keeps_values_in_range_and_hue_keeps_value_and_chroma(seed in 0u64..1000) {
        let pixels: Vec<f32> = noise_image(7, 3, seed).pixels.iter().map(|&v| f32::from(v) / 255.0).collect();
        let mut all = pixels.clone();
        Jitter::STANDARD.apply(&mut all, &mut stream(seed));
        prop_assert!(all.iter().all(|v| (0.0..=1.0).contains(v)));
        let mut turned = pixels.clone();
        Jitter { hue: 0.5, ..Jitter::NONE }.apply(&mut turned, &mut stream(seed));
        for (was, now) in pixels.chunks_exact(3).zip(turned.chunks_exact(3)) {
            let extremes = |p: &[f32]| (p.iter().copied().fold(0.0, f32::max), p.iter().copied().fold(1.0, f32::min));
            let ((high, low), (new_high, new_low)) = (extremes(was), extremes(now));
            prop_assert!((high - new_high).abs() < 1e-5 && (low - new_low).abs() < 1e-5);
        }
    }

    #[test]
    fn any_size_makes_a_sample(width in 1usize..40, height in 1usize..40, crop in 1usize..40, index in 0u64..50) {
        let image = noise_image(width, height, index);
        for recipe in [Recipe::cam(crop), Recipe::affinity(crop), Recipe::segmentation(crop)] {
            let made = recipe.apply(&image, None, &mut stream(index)).unwrap();
            prop_assert_eq!(made.image.shape(), &[1, crop, crop, 3]);
            prop_assert!(made.image.is_finite());
        }
    }
}

#[test]
fn labels_of_another_size_are_refused() {
    let labels = LabelMap { width: 2, height: 3, labels: vec![0; 6] };
    let error = Recipe::affinity(8).apply(&noise_image(3, 2, 1), Some(&labels), &mut stream(0)).unwrap_err();
    assert!(error.message().contains("2×3") && error.message().contains("3×2"));
    let empty = RgbImage { width: 0, height: 0, pixels: vec![] };
    assert!(Recipe::cam(8).apply(&empty, None, &mut stream(0)).is_err());
}

#[test]
fn planes_move_with_the_picture_and_its_labels() {
    // Labels 1 to 254 of a picture smaller in one direction and larger in the other than the crop.
    let (w, h, crop) = (17, 9, 12);
    let map = LabelMap { width: w, height: h, labels: (0..w * h).map(|i| 1 + (i % 254) as u8).collect() };
    let plane = Tensor::new(&[1, h, w], map.labels.iter().map(|l| f32::from(*l)).collect()).unwrap();
    let recipe = Recipe::affinity(crop);
    for index in 0..20 {
        let image = noise_image(w, h, 4);
        let made = recipe.apply(&image, Some(&map), &mut stream(index)).unwrap();
        let (tensor, placement) = recipe.place(&image, &mut stream(index)).unwrap();
        assert_eq!(tensor.data(), made.image.data());
        let moved = placement.planes(&plane).unwrap();
        for (value, label) in moved.data().iter().zip(made.labels.unwrap().labels) {
            assert_eq!(*value, if label == IGNORE { 0.0 } else { f32::from(label) });
        }
        assert!(placement.planes(&Tensor::zeros(&[1, w, h])).is_err());
    }
}
