use proptest::prelude::*;

use super::*;
use crate::ops::affinity::{BorderRule, Pairs, Reduction, affinities};
use crate::ops::testing::{assert_close, random};

fn grid(h: usize, w: usize, border: BorderRule, seed: u64) -> (Tensor, Stencil) {
    let mut features = random(&[1, h, w, 3], seed);
    features.data_mut().iter_mut().for_each(|v| *v *= 0.1);
    let pairs = Pairs { stencil: Stencil::default(), reduction: Reduction::Sum, border };
    (affinities(&features, &pairs).unwrap(), pairs.stencil)
}

/// T as a dense f64 matrix, from the definition.
fn dense(affinities: &Tensor, stencil: &Stencil, h: usize, w: usize, beta: f64) -> Vec<Vec<f64>> {
    let n = h * w;
    let mut t = vec![vec![0f64; n]; n];
    for (p, &(dy, dx)) in stencil.offsets().iter().enumerate() {
        for i in 0..n {
            let v = affinities.data()[p * n + i];
            if !v.is_nan() {
                let j = ((i / w + dy) * w).wrapping_add_signed(dx) + i % w;
                t[i][j] = f64::from(v).powf(beta);
                t[j][i] = t[i][j];
            }
        }
    }
    for (i, row) in t.iter_mut().enumerate() {
        row[i] = 1.0;
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|v| *v /= sum);
    }
    t
}

fn square(t: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let n = t.len();
    (0..n).map(|i| (0..n).map(|j| (0..n).map(|k| t[i][k] * t[k][j]).sum()).collect()).collect()
}

#[test]
fn matches_powers_of_the_dense_matrix() {
    for (h, w, border) in [
        (1, 1, BorderRule::Full),
        (1, 7, BorderRule::Full),
        (5, 3, BorderRule::Full),
        (9, 11, BorderRule::Psa),
    ] {
        let (a, stencil) = grid(h, w, border, 1);
        let maps = random(&[2, h, w], 2);
        let transition = Transition::new(&a, &stencil, 8.0).unwrap();
        let frames = transition.walk_frames(&maps, &[0, 1, 2, 4, 8, 16, 32, 64, 128, 256]).unwrap();
        assert_eq!(frames[0], maps);
        let mut power = dense(&a, &stencil, h, w, 8.0);
        for (doubling, frame) in frames[1..].iter().enumerate() {
            let expected: Vec<f64> = maps
                .data()
                .chunks(h * w)
                .flat_map(|m| {
                    power
                        .iter()
                        .map(move |row| row.iter().zip(m).map(|(t, &m)| t * f64::from(m)).sum::<f64>())
                })
                .collect();
            // A step rounds 69 products; means of means do not grow the error beyond the sum of steps.
            let tolerance = 1e-6 * f64::from(1 << doubling) + 1e-5;
            assert_close("walk", frame.data(), &expected, tolerance);
            power = square(&power);
        }
        assert_eq!(transition.walk(&maps, 8).unwrap(), frames[4]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn a_step_takes_means(h in 1usize..12, w in 1usize..12, steps in 0usize..20, seed in 0u64..100) {
        let (a, stencil) = grid(h, w, BorderRule::Full, seed);
        let transition = Transition::new(&a, &stencil, 4.0).unwrap();
        let ones = transition.walk(&Tensor::full(&[1, h, w], 1.0), steps).unwrap();
        prop_assert!(ones.data().iter().all(|v| (v - 1.0).abs() < 1e-5));
        let map = random(&[1, h, w], seed + 1);
        let range = |t: &Tensor| t.data().iter().fold((f32::MAX, f32::MIN), |(l, u), v| (l.min(*v), u.max(*v)));
        let ((low, high), (l, u)) = (range(&map), range(&transition.walk(&map, steps).unwrap()));
        prop_assert!(l >= low - 1e-5 && u <= high + 1e-5);
    }
}

#[test]
fn refuses_what_is_not_an_affinity() {
    let (a, stencil) = grid(3, 4, BorderRule::Full, 1);
    let mut wrong = a.clone();
    wrong.data_mut()[0] = 1.5;
    assert!(Transition::new(&wrong, &stencil, 8.0).is_err());
    assert!(Transition::new(&a, &stencil, 0.0).is_err());
    assert!(Transition::new(&a, &Stencil::new(4, false).unwrap(), 8.0).is_err());
    let t = Transition::new(&a, &stencil, 8.0).unwrap();
    assert!(t.walk(&Tensor::zeros(&[1, 4, 3]), 1).is_err());
    assert!(t.walk(&Tensor::full(&[1, 3, 4], f32::NAN), 1).is_err());
    assert!(t.walk_frames(&Tensor::zeros(&[1, 3, 4]), &[2, 1]).is_err());
}
