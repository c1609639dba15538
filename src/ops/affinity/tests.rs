use super::*;
use crate::ops::testing::{assert_close, check_within, random};

fn pairs(reduction: Reduction, border: BorderRule) -> Pairs {
    Pairs { stencil: Stencil::default(), reduction, border }
}

/// (first pixel, second pixel, plane) of every pair, from the definition.
fn all_pairs(h: usize, w: usize, border: BorderRule) -> Vec<(usize, usize, usize)> {
    let mut offsets: Vec<(i64, i64)> = (1..5).map(|dx| (0, dx)).collect();
    offsets.extend(
        (1..5).flat_map(|dy| (-4..5).map(move |dx| (dy, dx))).filter(|(dy, dx)| dx * dx + dy * dy < 25),
    );
    let (h, w) = (h as i64, w as i64);
    let mut found = Vec::new();
    for (plane, (dy, dx)) in offsets.into_iter().enumerate() {
        for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
            let inside = (0..h).contains(&(y + dy)) && (0..w).contains(&(x + dx));
            let allowed = border == BorderRule::Full || (y < h - 4 && (4..w - 4).contains(&x));
            if inside && allowed {
                found.push(((y * w + x) as usize, ((y + dy) * w + x + dx) as usize, plane));
            }
        }
    }
    found
}

fn distance64(f: &[f64], i: usize, j: usize, k: usize, reduction: Reduction) -> f64 {
    let sum: f64 = (0..k).map(|c| (f[i * k + c] - f[j * k + c]).abs()).sum();
    if reduction == Reduction::Mean { sum / k as f64 } else { sum }
}

#[test]
fn the_stencil_has_34_offsets_in_order() {
    let stencil = Stencil::default();
    assert_eq!(stencil.len(), 34);
    assert_eq!(stencil.offsets()[..6], [(0, 1), (0, 2), (0, 3), (0, 4), (1, -4), (1, -3)]);
    assert_eq!(stencil.offsets()[33], (4, 2));
    // 5² = 3² + 4² = 5² + 0²: ≤ adds (0,5), (5,0) and four with 3 and 4.
    assert_eq!(Stencil::new(5, true).unwrap().len(), 40);
    assert!(
        Stencil::new(1, false).is_err() && Stencil::new(1, true).is_ok() && Stencil::new(65, true).is_err()
    );
}

#[test]
fn affinities_match_the_definition() {
    for (shape, border) in [
        ([1, 1, 1, 3], BorderRule::Full),
        ([1, 1, 7, 1], BorderRule::Full),
        ([2, 6, 9, 13], BorderRule::Full),
        ([1, 9, 11, 8], BorderRule::Psa),
    ] {
        for reduction in [Reduction::Sum, Reduction::Mean] {
            let [n, h, w, k] = shape;
            let mut features = random(&shape, 1);
            features.data_mut().iter_mut().for_each(|v| *v *= 0.2);
            let f: Vec<f64> = features.data().iter().map(|&v| f64::from(v)).collect();
            let actual = affinities(&features, &pairs(reduction, border)).unwrap();
            assert_eq!(actual.shape(), [n, 34, h, w]);
            let mut seen = 0;
            for image in 0..n {
                for (i, j, plane) in all_pairs(h, w, border) {
                    let expected = (-distance64(&f[image * h * w * k..], i, j, k, reduction)).exp();
                    assert_close(
                        "affinity",
                        &[actual.data()[(image * 34 + plane) * h * w + i]],
                        &[expected],
                        1e-5,
                    );
                    seen += 1;
                }
            }
            assert_eq!(actual.data().iter().filter(|v| !v.is_nan()).count(), seen);
        }
    }
}

fn labels(count: usize) -> Vec<u8> {
    (0..count).map(|p| [0, 0, 1, 1, 2, IGNORE, 0][p * 5 % 7]).collect()
}

fn loss64(
    f: &[f64],
    shape: [usize; 4],
    labels: &[u8],
    reduction: Reduction,
    border: BorderRule,
    form: LossForm,
) -> f64 {
    let [n, h, w, k] = shape;
    let epsilon = if form == LossForm::Psa { 1e-5f32 as f64 } else { 0.0 };
    let mut parts = [(0f64, 0f64); 3];
    for image in 0..n {
        for (i, j, _) in all_pairs(h, w, border) {
            let (a, b) = (labels[image * h * w + i], labels[image * h * w + j]);
            if a == IGNORE || b == IGNORE {
                continue;
            }
            let affinity = (-distance64(&f[image * h * w * k..], i, j, k, reduction)).exp();
            let (kind, term) = match (a == b, a) {
                (true, 0) => (0, -(affinity + epsilon).ln()),
                (true, _) => (1, -(affinity + epsilon).ln()),
                _ => (2, -(1.0 + epsilon - affinity).ln()),
            };
            parts[kind].0 += term;
            parts[kind].1 += 1.0;
        }
    }
    let mean = parts.map(
        |(sum, count)| if form == LossForm::Psa { sum / (count + epsilon) } else { sum / count.max(1.0) },
    );
    (mean[0] + mean[1] + 2.0 * mean[2]) * if form == LossForm::Psa { 0.25 } else { 1.0 }
}

#[test]
fn the_loss_matches_the_definition_and_its_differences() {
    for (shape, border) in
        [([1, 2, 3, 1], BorderRule::Full), ([2, 3, 5, 9], BorderRule::Full), ([1, 6, 10, 2], BorderRule::Psa)]
    {
        for reduction in [Reduction::Sum, Reduction::Mean] {
            for form in [LossForm::Paper, LossForm::Psa] {
                let labels = labels(shape[0] * shape[1] * shape[2]);
                check_within(
                    1e-4,
                    &[random(&shape, 2)],
                    |tape, v| Ok(affinity_loss(tape, &v[0], &labels, &pairs(reduction, border), form)?.0),
                    |v| vec![loss64(&v[0], shape, &labels, reduction, border, form)],
                );
            }
        }
    }
}

#[test]
fn nearly_equal_features_keep_their_digits() {
    // Two pixels of different classes at distance 1e-4: 1 − W = 9.9995e-5, which 1 − exp(−d) in f32
    // would get wrong in the third digit.
    let mut tape = Tape::new();
    let f = tape.leaf(Tensor::new(&[1, 1, 2, 1], vec![0.0, 1e-4]).unwrap());
    let (loss, parts) =
        affinity_loss(&mut tape, &f, &[0, 1], &pairs(Reduction::Sum, BorderRule::Full), LossForm::Paper)
            .unwrap();
    assert_eq!(parts.wait().unwrap().counts, [0, 0, 1]);
    approx::assert_relative_eq!(loss.value().item().unwrap(), 2.0 * 9.21039, max_relative = 1e-5);
}

#[test]
fn equal_features_of_different_classes_give_a_finite_loss() {
    for form in [LossForm::Paper, LossForm::Psa] {
        let mut tape = Tape::new();
        let f = tape.leaf(Tensor::zeros(&[1, 1, 2, 1]));
        let (loss, _) =
            affinity_loss(&mut tape, &f, &[0, 1], &pairs(Reduction::Sum, BorderRule::Full), form).unwrap();
        assert!(loss.value().is_finite());
        assert!(tape.backward(&loss, Tensor::scalar(1.0)).unwrap().take(&f).unwrap().is_finite());
    }
}

#[test]
fn nothing_labelled_is_zero_and_a_small_grid_an_error_under_psa() {
    let mut tape = Tape::new();
    let f = tape.leaf(random(&[1, 4, 9, 2], 1));
    let run = |tape: &mut Tape, rule| {
        affinity_loss(tape, &f, &[IGNORE; 36], &pairs(Reduction::Mean, rule), LossForm::Psa)
    };
    let (loss, parts) = run(&mut tape, BorderRule::Full).unwrap();
    assert_eq!((loss.value().item().unwrap(), parts.wait().unwrap().counts), (0.0, [0; 3]));
    let error = run(&mut tape, BorderRule::Psa).unwrap_err();
    assert!(error.to_string().contains("no pairs"), "{error}");
    assert!(
        affinity_loss(&mut tape, &f, &[0], &pairs(Reduction::Mean, BorderRule::Full), LossForm::Psa).is_err()
    );
}

#[test]
fn threads_do_not_show() {
    let run = |threads: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let mut tape = Tape::new();
            let f = tape.leaf(random(&[2, 13, 11, 5], 3));
            let (loss, _) = affinity_loss(
                &mut tape,
                &f,
                &labels(2 * 143),
                &pairs(Reduction::Sum, BorderRule::Full),
                LossForm::Paper,
            )
            .unwrap();
            let value = loss.value().item().unwrap();
            (value, tape.backward(&loss, Tensor::scalar(1.0)).unwrap().take(&f).unwrap())
        })
    };
    assert!(run(1) == run(2) && run(1) == run(3));
}
