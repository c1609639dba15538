//! The lattices that the GPU builds against the CPU's, table by table, on the emulated GPU: every check is on there, and
//! what it finds is an error of the launch.

use super::super::tests::{mean_field_of, picture, scores};
use super::super::{CrfOptions, Kernel, kernels};
use super::lattice::layout;
use super::*;
use crate::device::cuda::emulated_alone;
use crate::formats::image::RgbImage;
use crate::ops::testing::assert_close;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Points, lists, weights and neighbours are the same sets; their numbers are others.
fn check_tables(what: &str, gpu: &Arc<Gpu>, found: &Lattice, kernel: &Kernel, splat: Splat) {
    let expected = kernel.lattice.tables();
    let (pixels, vertices, size) = (kernel.normalizer.len(), expected.vertices, expected.size);
    assert_eq!((found.vertices, found.size), (vertices, size), "{what}");
    let read = |buffer| gpu.download::<u32>(buffer).unwrap();
    let vertex = read(&found.vertex);
    // The CPU's number of each point here, and the other way round; they must be one to one.
    let (mut theirs, mut ours) = (vec![u32::MAX; size + 1], vec![u32::MAX; size + 1]);
    (theirs[size], ours[size]) = (size as u32, size as u32);
    for (pixel, of_pixel) in expected.vertex.chunks_exact(vertices).enumerate() {
        for (v, &point) in of_pixel.iter().enumerate() {
            let here = vertex[v * pixels + pixel];
            let known = (&mut theirs[here as usize], &mut ours[point as usize]);
            if *known.0 == u32::MAX && *known.1 == u32::MAX {
                (*known.0, *known.1) = (point, here);
            }
            assert_eq!((*known.0, *known.1), (point, here), "{what}: pixel {pixel}, vertex {v}");
        }
    }
    let weight = gpu.download(&found.weight).unwrap();
    for (entry, expected) in expected.weight.iter().enumerate() {
        let found = weight[entry % vertices * pixels + entry / vertices];
        assert_eq!(found.to_bits(), expected.to_bits(), "{what}: weight {entry}, {found} for {expected}");
    }
    let (starts, entries) = (read(&found.starts), read(&found.entries));
    assert_eq!(starts[size] as usize, pixels * vertices, "{what}");
    for (point, &their) in theirs[..size].iter().enumerate() {
        let list = &entries[2 * starts[point] as usize..2 * starts[point + 1] as usize];
        let range = expected.starts[their as usize] as usize..expected.starts[their as usize + 1] as usize;
        let expected = expected.touching[range].iter().flat_map(|(pixel, weight)| [*pixel, weight.to_bits()]);
        assert!(list.iter().copied().eq(expected), "{what}: list of point {point}");
    }
    for (at, pair) in read(&found.neighbours).chunks_exact(2).enumerate() {
        let (axis, point) = (at / size, at % size);
        let expected = expected.neighbours[axis * size + theirs[point] as usize];
        let found = [pair[0], pair[1]].map(|n| theirs[n as usize]);
        assert_eq!(found, expected, "{what}: axis {axis}, point {point}");
    }
    let normalizer = gpu.download(&found.normalizer).unwrap();
    match splat {
        // The same operations in the same order.
        Splat::Lists => assert!(bits(&normalizer) == bits(&kernel.normalizer), "{what}: normaliser"),
        Splat::Chunks => {
            for (found, expected) in normalizer.iter().zip(&*kernel.normalizer) {
                // Sums of positive weights in another order: up to an ε a term, of 2,400 here, halved by the root.
                let bound = 1e-4 * expected;
                assert!((found - expected).abs() <= bound, "{what}: normaliser {found} for {expected}");
            }
        }
    }
}

#[test]
fn lattices_built_on_the_gpu_are_the_cpus() {
    let (gpu, _alone) = emulated_alone();
    let noise = |h: usize, w: usize| {
        let word = |i: usize| (i as u32).wrapping_mul(0x9e37_79b9).rotate_left(13).wrapping_mul(0x85eb_ca6b);
        RgbImage::new(w, h, (0..h * w * 3).map(|i| (word(i) >> 24) as u8).collect()).unwrap()
    };
    let plain = |h: usize, w: usize| RgbImage::new(w, h, vec![137; h * w * 3]).unwrap();
    let defaults = CrfOptions::default();
    let mut narrow = defaults;
    (narrow.gaussian.sigma_xy, narrow.bilateral.sigma_xy, narrow.bilateral.sigma_rgb) = (0.31, 2.0, 1.7);
    // Coordinates that need keys of several words.
    let mut least = defaults;
    (least.gaussian.sigma_xy, least.bilateral.sigma_xy, least.bilateral.sigma_rgb) = (0.01, 0.01, 0.01);
    for (name, image, options) in [
        ("one pixel", plain(1, 1), defaults),
        ("a row", noise(1, 37), defaults),
        ("a column of noise", noise(23, 1), narrow),
        ("one colour", plain(40, 60), defaults),
        ("a picture", picture(31, 29, 4), defaults),
        ("a picture, narrow", picture(17, 16, 4), narrow),
        ("noise", noise(19, 23), defaults),
        ("noise, least", noise(7, 11), least),
    ] {
        let crf = DenseCrf::of(&image, &options).unwrap();
        let expected = kernels(&crf.picture, &options, &[]);
        for (rung, splat) in [(1, Splat::Lists), (3, Splat::Chunks)] {
            forget_positions(&gpu);
            let filters = crf.filters(&gpu, &LADDER[rung]).unwrap();
            for (filter, kernel) in filters.filters.iter().zip(&expected) {
                let lattice = filter.as_ref().unwrap().lattice();
                let what = format!("{name}, {} vertices, {splat:?}", lattice.vertices);
                check_tables(&what, &gpu, lattice, kernel, splat);
            }
        }
    }
}

#[test]
fn keys_are_as_long_as_the_image_needs() {
    let bits = |w: f64, h: f64, place: f64, colour: f64| {
        let colour = 255.0 / colour;
        layout([w / place, h / place, colour, colour, colour]).unwrap().bits
    };
    // Four passes of seven bits for a photograph, as docs/kernels.md says; several words at the least deviations.
    assert_eq!(bits(499.0, 374.0, 80.0, 13.0), [28]);
    assert_eq!(layout([499.0 / 3.0, 374.0 / 3.0]).unwrap().bits, [18]);
    assert_eq!(bits(499.0, 374.0, 67.0, 3.0).len(), 2);
    assert_eq!(bits(499.0, 374.0, 0.01, 0.01).len(), 3);
    for bits in [bits(499.0, 374.0, 0.01, 0.01), bits(0.0, 0.0, 80.0, 13.0)] {
        assert!(bits.iter().all(|b| *b > 0 && *b <= 32), "{bits:?}");
    }
    let error = layout([1e7, 0.0]).unwrap_err();
    assert!(error.to_string().contains("deviations") && error.how_to_mend().is_some(), "{error}");
}

#[test]
fn steps_of_a_key_are_those_of_its_coordinates() {
    // Forth along an axis and back is nowhere, whether the vertex number turns round or not.
    let layout = layout([3.0, 2.0, 9.0, 9.0, 9.0]).unwrap();
    let words = layout.bits.len();
    let step = |axis: usize, back: usize, turns: usize| {
        let at = ((axis * 2 + back) * 2 + turns) * words;
        &layout.steps[at..at + words]
    };
    for (axis, turns) in (0..6).flat_map(|axis| [(axis, 0), (axis, 1)]) {
        for (forth, back) in step(axis, 0, turns).iter().zip(step(axis, 1, turns)) {
            assert_eq!(forth.wrapping_add(*back), 0);
        }
    }
    // All d + 1 axes together, the vertex number turning round once, are nowhere too.
    for word in 0..words {
        let sum =
            (0..6).fold(0u32, |sum, axis| sum.wrapping_add(step(axis, 0, usize::from(axis == 5))[word]));
        assert_eq!(sum, 0);
    }
}

#[test]
fn every_rung_is_near_the_mean_field_in_f64() {
    let (gpu, _alone) = emulated_alone();
    for (h, w, labels) in [(1, 1, 1), (1, 50, 2), (7, 13, 3), (11, 9, 5), (6, 5, 33)] {
        let (image, scores) = (picture(h, w, 1), scores(labels, h, w));
        let options = CrfOptions { iterations: 3, ..CrfOptions::default() };
        let expected = mean_field_of(&image, &scores, &options);
        for rung in LADDER {
            let crf = DenseCrf::of(&image, &options).unwrap();
            let found = infer(&gpu, rung, &crf, &scores).unwrap();
            // As the CPU's bound: energies of up to 13 in f32, steepened by three iterations of a softmax.
            assert_close(rung.rung.name, found.data(), &expected, 1e-3);
        }
    }
}

#[test]
fn images_beyond_32_bit_indices_are_refused_before_anything_is_allocated() {
    struct Vast;
    impl Points<2> for Vast {
        fn largest(&self) -> [f64; 2] {
            [1.0, 1.0]
        }

        fn embed(&self, _: &DeviceBuffer<u32>, _: [Argument<'_>; 2], _: usize) -> Result<()> {
            panic!("nothing may be launched");
        }
    }
    let (gpu, _alone) = emulated_alone();
    let error = Lattice::build(&gpu, &Vast, 400_000_000, Splat::Lists).err().unwrap();
    assert!(error.to_string().contains("32-bit"), "{error}");
}
