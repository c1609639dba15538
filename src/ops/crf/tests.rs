use std::collections::HashMap;

use super::*;
use crate::ops::testing::{assert_close, random};
use crate::rng::{Purpose, Stream};

pub(super) fn picture(h: usize, w: usize, seed: u64) -> RgbImage {
    let mut stream = Stream::new(seed, Purpose::Test, 0, 0);
    // Smooth ramps with noise, so that neighbours are similar as in photographs.
    let pixels = (0..h * w * 3)
        .map(|i| ((i / 3 % w) * 5 + (i / 3 / w) * 3 + i % 3 * 40 + stream.below(30) as usize).min(255) as u8)
        .collect();
    RgbImage::new(w, h, pixels).unwrap()
}

pub(super) fn scores(labels: usize, h: usize, w: usize) -> Tensor {
    let mut t = random(&[labels, h, w], 5);
    t.data_mut().iter_mut().for_each(|v| *v = 1.0 / (1.0 + (-*v).exp()));
    t
}

/// Points of both kernels, in units of their deviations.
fn points(image: &RgbImage, options: &CrfOptions) -> [Vec<Vec<f64>>; 2] {
    let place = |p: usize, s: f64| vec![(p % image.width) as f64 / s, (p / image.width) as f64 / s];
    let n = image.width * image.height;
    let first = (0..n).map(|p| place(p, options.gaussian.sigma_xy)).collect();
    let second = (0..n).map(|p| {
        let mut point = place(p, options.bilateral.sigma_xy);
        let colour = image.pixel(p % image.width, p / image.width);
        point.extend(colour.map(|v| f64::from(v) / options.bilateral.sigma_rgb));
        point
    });
    [first, second.collect()]
}

/// Values at the points to filtered values.
type Filter = Box<dyn Fn(&[f64]) -> Vec<f64>>;

/// Mean field in f64 with any filter.
fn mean_field(scores: &Tensor, options: &CrfOptions, filters: &[(f64, Filter)]) -> Vec<f64> {
    let (labels, n) = (scores.shape()[0], scores.shape()[1] * scores.shape()[2]);
    let unary: Vec<f64> = scores.data().iter().map(|&p| f64::from(p).clamp(1e-5, 1.0).ln()).collect();
    let softmax = |energy: &[f64]| {
        let mut q = vec![0.0; energy.len()];
        for p in 0..n {
            let sum: f64 = (0..labels).map(|l| energy[l * n + p].exp()).sum();
            (0..labels).for_each(|l| q[l * n + p] = energy[l * n + p].exp() / sum);
        }
        q
    };
    let mut q = softmax(&unary);
    for _ in 0..options.iterations {
        let mut energy = unary.clone();
        for (weight, filter) in filters {
            let normal: Vec<f64> = filter(&vec![1.0; n]).iter().map(|k| 1.0 / (k + 1e-20).sqrt()).collect();
            for l in 0..labels {
                let scaled: Vec<f64> = (0..n).map(|p| normal[p] * q[l * n + p]).collect();
                for (p, message) in filter(&scaled).into_iter().enumerate() {
                    energy[l * n + p] += weight * normal[p] * message;
                }
            }
        }
        q = softmax(&energy);
    }
    q
}

/// The definition: every pixel with every other.
fn exact(points: Vec<Vec<f64>>) -> Filter {
    Box::new(move |values| {
        let kernel =
            |a: &[f64], b: &[f64]| (-0.5 * a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>()).exp();
        points.iter().map(|a| points.iter().zip(values).map(|(b, v)| kernel(a, b) * v).sum()).collect()
    })
}

/// The lattice again, plainly: a map from coordinates to values, all in f64.
fn plain_lattice(points: Vec<Vec<f64>>) -> Filter {
    let d = points[0].len();
    // Barycentric coordinates from the definition: raise, then peel off the simplex vertex by vertex.
    let simplices: Vec<Vec<(Vec<i64>, f64)>> = points
        .iter()
        .map(|point| {
            let n = d as f64 + 1.0;
            let mut x = vec![0.0; d + 1];
            for (j, value) in point.iter().enumerate() {
                let j1 = j as f64 + 1.0;
                let scaled = value * (2f64 / 3.0).sqrt() * n / (j1 * (j1 + 1.0)).sqrt();
                x.iter_mut().take(j + 1).for_each(|v| *v += scaled);
                x[j + 1] -= j1 * scaled;
            }
            let mut base: Vec<i64> = x.iter().map(|v| (v / n).round() as i64 * (d as i64 + 1)).collect();
            // Move the base until its coordinates sum to 0, always where it hurts least.
            loop {
                let sum: i64 = base.iter().sum();
                let gap: Vec<f64> = (0..=d).map(|i| x[i] - base[i] as f64).collect();
                let order = |a: &usize, b: &usize| gap[*a].partial_cmp(&gap[*b]).unwrap();
                match sum.signum() {
                    0 => break,
                    1 => base[(0..=d).min_by(order).unwrap()] -= d as i64 + 1,
                    _ => base[(0..=d).max_by(order).unwrap()] += d as i64 + 1,
                }
            }
            let gap: Vec<f64> = (0..=d).map(|i| x[i] - base[i] as f64).collect();
            let mut order: Vec<usize> = (0..=d).collect();
            order.sort_by(|a, b| gap[*b].partial_cmp(&gap[*a]).unwrap());
            (0..=d)
                .map(|v| {
                    // Vertex v: +v everywhere, −(d+1) on the v coordinates with the smallest gaps.
                    let mut key: Vec<i64> = base.iter().map(|b| b + v as i64).collect();
                    order.iter().rev().take(v).for_each(|&i| key[i] -= d as i64 + 1);
                    let weight = match v {
                        0 => 1.0 - (gap[order[0]] - gap[order[d]]) / n,
                        _ => (gap[order[d - v]] - gap[order[d + 1 - v]]) / n,
                    };
                    (key, weight)
                })
                .collect()
        })
        .collect();
    Box::new(move |values| {
        let mut grid: HashMap<Vec<i64>, f64> = HashMap::new();
        for (simplex, value) in simplices.iter().zip(values) {
            simplex.iter().for_each(|(key, weight)| *grid.entry(key.clone()).or_default() += weight * value);
        }
        for axis in 0..=d {
            let step = |key: &Vec<i64>, sign: i64| {
                let moved =
                    key.iter().enumerate().map(|(i, k)| k + sign * if i == axis { d as i64 } else { -1 });
                grid.get(&moved.collect::<Vec<_>>()).copied().unwrap_or(0.0)
            };
            grid = grid.iter().map(|(k, v)| (k.clone(), v + 0.5 * (step(k, 1) + step(k, -1)))).collect();
        }
        let scale = 1.0 / (1.0 + 2f64.powi(-(d as i32)));
        simplices.iter().map(|s| scale * s.iter().map(|(k, w)| w * grid[k]).sum::<f64>()).collect()
    })
}

/// The lattice under test as a filter of f64 values.
fn fast<const D: usize, const D1: usize>(points: Vec<Vec<f64>>) -> Filter {
    let points: Vec<[f32; D]> = points.iter().map(|p| std::array::from_fn(|i| p[i] as f32)).collect();
    let lattice = Lattice::new::<D, D1>(&points, &[]);
    Box::new(move |values| {
        let values: Vec<[f32; 1]> = values.iter().map(|&v| [v as f32]).collect();
        lattice.filter(&values).into_iter().map(|[v]| f64::from(v)).collect()
    })
}

/// Random points, which lie on no boundary between simplices: there different vertices are equally right.
fn scattered(count: usize, d: usize, spread: f64) -> Vec<Vec<f64>> {
    let t = random(&[count, d], 8);
    t.data().chunks(d).map(|p| p.iter().map(|&v| spread * f64::from(v)).collect()).collect()
}

#[test]
fn the_filter_matches_the_lattice_written_plainly() {
    for (count, spread) in [(1, 1.0), (2, 0.1), (300, 1.5), (500, 20.0)] {
        let values: Vec<f64> = (0..count).map(|i| (i * 7 % 5) as f64 - 1.0).collect();
        // Sums of at most 500 terms of weights that f32 holds to 6e-8.
        let check = |fast: Vec<f64>, plain: Vec<f64>| {
            let fast: Vec<f32> = fast.into_iter().map(|v| v as f32).collect();
            assert_close("filter", &fast, &plain, 3e-5);
        };
        let points = scattered(count, 2, spread);
        check(fast::<2, 3>(points.clone())(&values), plain_lattice(points)(&values));
        let points = scattered(count, 5, spread);
        check(fast::<5, 6>(points.clone())(&values), plain_lattice(points)(&values));
    }
}

/// The mean field of an image in f64, over the lattices' own filters.
pub(super) fn mean_field_of(image: &RgbImage, scores: &Tensor, options: &CrfOptions) -> Vec<f64> {
    let [first, second] = points(image, options);
    let filters =
        [(options.gaussian.weight, fast::<2, 3>(first)), (options.bilateral.weight, fast::<5, 6>(second))];
    mean_field(scores, options, &filters)
}

#[test]
fn the_mean_field_matches_the_definition_over_the_same_filter() {
    for (h, w, labels) in [(1, 1, 1), (1, 50, 2), (7, 13, 3), (11, 9, 5), (6, 5, 9)] {
        let (image, scores) = (picture(h, w, 1), scores(labels, h, w));
        let options = CrfOptions { iterations: 3, ..CrfOptions::default() };
        let expected = mean_field_of(&image, &scores, &options);
        let actual = DenseCrf::new(&image, &options).unwrap().infer(&scores).unwrap();
        // Energies of up to w₁ + w₂ = 13 in f32, steepened by three iterations of a softmax.
        assert_close("Q", actual.data(), &expected, 1e-3);
    }
}

#[test]
fn the_normalised_filter_is_near_the_gaussian() {
    // The lattice approximates the Gaussian: its blur has finite support and ends where no point lies. The
    // normalisation takes most of that away; what remains is below a tenth of the values' range.
    let image = picture(17, 19, 2);
    let values: Vec<f64> = (0..17 * 19).map(|i| f64::from(i % 19 > 9)).collect();
    let normalised = |filter: &dyn Fn(&[f64]) -> Vec<f64>| -> Vec<f64> {
        let n: Vec<f64> = filter(&vec![1.0; values.len()]).iter().map(|k| 1.0 / k.sqrt()).collect();
        let scaled: Vec<f64> = values.iter().zip(&n).map(|(v, n)| v * n).collect();
        filter(&scaled).iter().zip(&n).map(|(v, n)| v * n).collect()
    };
    let [first, second] = points(&image, &CrfOptions::default());
    for (lattice, gaussian) in
        [(fast::<2, 3>(first.clone()), exact(first)), (fast::<5, 6>(second.clone()), exact(second))]
    {
        let (a, b) = (normalised(&*lattice), normalised(&*gaussian));
        let mean = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).sum::<f64>() / a.len() as f64;
        assert!(mean < 0.1, "mean difference {mean}");
    }
}

#[test]
fn threads_do_not_show_and_nothing_is_done_without_kernels() {
    let (image, scores) = (picture(61, 67, 3), scores(3, 61, 67));
    let run = |threads: usize| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(|| DenseCrf::new(&image, &CrfOptions::default()).unwrap().infer(&scores).unwrap())
    };
    assert!(run(1) == run(2) && run(1) == run(3));
    let mut off = CrfOptions::default();
    (off.gaussian.weight, off.bilateral.weight) = (0.0, 0.0);
    let q = DenseCrf::new(&image, &off).unwrap().infer(&scores).unwrap();
    let p = scores.data();
    let n = 61 * 67;
    approx::assert_relative_eq!(q.data()[0], p[0] / (p[0] + p[n] + p[2 * n]), max_relative = 1e-5);
}

#[test]
fn refuses_what_does_not_fit() {
    let image = picture(3, 4, 1);
    let crf = DenseCrf::new(&image, &CrfOptions::default()).unwrap();
    assert!(crf.infer(&Tensor::zeros(&[2, 4, 3])).is_err());
    assert!(crf.infer(&Tensor::full(&[2, 3, 4], f32::NAN)).is_err());
    let mut options = CrfOptions::default();
    options.gaussian.sigma_xy = 0.0;
    assert!(DenseCrf::new(&image, &options).is_err());
    options = CrfOptions::default();
    options.bilateral.weight = -1.0;
    assert!(DenseCrf::new(&image, &options).is_err());
}

#[path = "../../../tests/parity/rule.rs"]
mod rule;

/// Largest difference of a posterior. Weights and blur are f32 on both sides, in the same order, up to some ε of
/// each sum; ten iterations of a softmax whose energies are up to 13 times the messages make a thousand times that
/// of it where a pixel's labels stay near a tie. pydensecrf moves as much when its own scores change by 1e-7.
const POSTERIORS: f32 = 1e-4;

/// pydensecrf fills the last block of 4 pixels with features of zero, whose lattice points take part in the blur.
/// One such point, a bystander, makes the same of ours.
fn pydensecrf(image: &RgbImage, scores: &Tensor) -> Tensor {
    let padding: &[[f32; 5]] = if (image.width * image.height).is_multiple_of(4) { &[] } else { &[[0.0; 5]] };
    DenseCrf::build(image, &CrfOptions::default(), padding).unwrap().infer(scores).unwrap()
}

fn labels(q: &Tensor) -> Vec<u8> {
    crate::ops::class_maps::argmax(q, &[0, 1, 2]).unwrap().labels
}

fn check(name: &str, got: &Tensor, expected: &Tensor) {
    rule::assert_near(name, got, expected, POSTERIORS);
    let share = rule::share_equal(&labels(got), &labels(expected));
    assert!(share >= 0.999, "{name}: {share} of the labels are equal");
}

/// Height and width from `24x36`.
fn size(name: &str) -> (usize, usize) {
    let (h, w) = name.split_once('x').unwrap();
    (h.parse().unwrap(), w.parse().unwrap())
}

#[test]
fn pydensecrf_on_pictures_of_any_size() {
    let padded = rule::golden("crf-padded").into_pairs().remove(0).1;
    let larger = ("45x63".to_string(), padded);
    for (name, expected) in rule::golden("crf-pictures").into_pairs().into_iter().chain([larger]) {
        let (h, w) = size(&name);
        let image = rule::image("crf", h, w);
        let scores = crate::ops::class_maps::with_background(&rule::maps(h, w), 4.0).unwrap();
        check(&name, &pydensecrf(&image, &scores), &expected);
    }
}

/// Noise is the hardest: nearly every pixel has lattice points of its own, of which few have neighbours, and labels
/// are near ties all over. There the padding shows.
#[test]
fn pydensecrf_on_noise_of_any_size() {
    let mut padding_shows = 0f32;
    for (name, expected) in rule::golden("crf-noise").into_pairs() {
        let (h, w) = size(&name);
        let pixels = rule::words("crf.noise", h * w * 3).into_iter().map(|v| (v >> 24) as u8).collect();
        let image = RgbImage::new(w, h, pixels).unwrap();
        let mut scores = rule::noise("crf.scores", &[3, h, w]);
        scores.data_mut().iter_mut().for_each(|v| *v = 0.5 + 0.5 * *v);
        let got = pydensecrf(&image, &scores);
        check(&name, &got, &expected);
        let ours = DenseCrf::new(&image, &CrfOptions::default()).unwrap().infer(&scores).unwrap();
        if (h * w).is_multiple_of(4) {
            assert!(ours == got);
        } else {
            padding_shows = padding_shows.max(rule::largest_difference(ours.data(), got.data()));
        }
    }
    assert!(padding_shows > 10.0 * POSTERIORS, "the padding makes {padding_shows:e}");
}
