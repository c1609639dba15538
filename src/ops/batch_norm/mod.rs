//! Batch normalisation over the channels of N×H×W×C, with the ReLU that always follows it here fused in.
//!
//! `y = relu(γ · (x − μ)/√(σ² + ε) + β)`, ε = 1e-5 (Ioffe and Szegedy 2015, algorithm 1).
//!
//! *Frozen*: μ and σ² are given (running statistics); the gradient to x is a scale per channel.
//! *Learning*: μ and σ² (biased) are the batch's; the gradient runs through them. The statistics are
//! returned with the unbiased variance, which is what running averages are made of.
//!
//! Sums over pixels are taken in f32 over ranges of 512 pixels and joined in f64, in order.

pub(super) mod cuda;

use rayon::prelude::*;

use crate::tape::{Tape, Var};
use crate::tensor::{Tensor, place};
use crate::{Error, Result};

/// Added to the variance.
pub const EPSILON: f32 = 1e-5;
/// Pixels whose sums are taken in f32 before they are joined in f64.
const RANGE: usize = 512;

/// Where mean and variance come from.
pub enum Statistics<'a> {
    /// Given, such as running statistics.
    Frozen {
        /// C means.
        mean: &'a Tensor,
        /// C variances.
        variance: &'a Tensor,
    },
    /// The batch's own.
    Learning,
}

/// What follows the normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// max(0, ·).
    Relu,
}

/// What a learning pass saw, per channel.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchStatistics {
    /// C means.
    pub mean: Tensor,
    /// C unbiased variances (divided by the number of pixels − 1).
    pub variance: Tensor,
}

/// Normalises x, N×H×W×C, with scale γ and shift β (C each). Returns y and, when learning, the batch's
/// statistics.
///
/// # Errors
/// Shapes that do not fit; learning on fewer than two values a channel.
pub fn batch_norm(
    tape: &mut Tape,
    x: &Var,
    scale: &Var,
    shift: &Var,
    statistics: Statistics<'_>,
    activation: Activation,
) -> Result<(Var, Option<BatchStatistics>)> {
    let [n, h, w, c] = x.value().nhwc("batch_norm")?;
    let pixels = n * h * w;
    let fits = |t: &Tensor| t.shape() == [c];
    let given = match &statistics {
        Statistics::Frozen { mean, variance } => fits(mean) && fits(variance),
        Statistics::Learning => true,
    };
    if !given || !fits(scale.value()) || !fits(shift.value()) {
        let message =
            format!("parameters must have {c} values each, as the input {:?} has channels", x.shape());
        return Err(Error::shape("batch_norm", message));
    }
    if matches!(statistics, Statistics::Learning) && pixels < 2 {
        let message = "at least two values a channel are needed to learn statistics";
        return Err(Error::shape("batch_norm", message));
    }
    let mut operands = vec![x.value(), scale.value(), shift.value()];
    if let Statistics::Frozen { mean, variance } = &statistics {
        operands.extend([mean, variance]);
    }
    if let Some(gpu) = place("batch_norm", &operands)? {
        return cuda::on_tape(gpu, tape, x, scale, shift, &statistics, activation);
    }
    let (mean, variance, seen) = match statistics {
        Statistics::Frozen { mean, variance } => (mean.data().to_vec(), variance.data().to_vec(), None),
        Statistics::Learning => {
            let (mean, variance) = moments(x.value().data(), c);
            let unbiased = variance.iter().map(|v| v * (pixels as f32 / (pixels - 1) as f32)).collect();
            let seen = BatchStatistics {
                mean: Tensor::new(&[c], mean.clone())?,
                variance: Tensor::new(&[c], unbiased)?,
            };
            (mean, variance, Some(seen))
        }
    };
    let inverse: Vec<f32> = variance.iter().map(|v| 1.0 / (v + EPSILON).sqrt()).collect();
    let relu = activation == Activation::Relu;
    // y = a·x + b
    let a: Vec<f32> = scale.value().data().iter().zip(&inverse).map(|(g, i)| g * i).collect();
    let b: Vec<f32> = shift.value().data().iter().zip(&a).zip(&mean).map(|((s, a), m)| s - a * m).collect();
    let mut y = vec![0f32; x.value().len()];
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    let (wide_a, wide_b) = (repeated(&a), repeated(&b));
    y.par_chunks_mut(RANGE * c).zip(x.value().data().par_chunks(RANGE * c)).for_each(|(y, x)| {
        for (y, x) in y.chunks_mut(wide_a.len()).zip(x.chunks(wide_a.len())) {
            for (((y, x), a), b) in y.iter_mut().zip(x).zip(&wide_a).zip(&wide_b) {
                // A NaN must come through; f32::max would drop it.
                let value = a * x + b;
                *y = if value < floor { floor } else { value };
            }
        }
    });
    let y = Tensor::new(x.shape(), y)?;

    let learning = seen.is_some();
    let needs = [x.needs_gradient(), scale.needs_gradient(), shift.needs_gradient()];
    // A frozen scale passes the gradient on without looking at x.
    let kept_x = (learning || needs[1]).then(|| x.value().clone());
    let kept_y = relu.then(|| y.clone());
    let record = tape.record("batch_norm", y, &[x, scale, shift], move |gradient| {
        let shape = gradient.shape().to_vec();
        let mut dx = gradient.into_data();
        if let (Some(y), None, [true, false, false]) = (&kept_y, &kept_x, needs) {
            // The usual case of fine-tuning, in one pass.
            let wide = repeated(&a);
            dx.par_chunks_mut(RANGE * c).zip(y.data().par_chunks(RANGE * c)).for_each(|(g, y)| {
                for (g, y) in g.chunks_mut(wide.len()).zip(y.chunks(wide.len())) {
                    for ((g, y), a) in g.iter_mut().zip(y).zip(&wide) {
                        *g = if *y > 0.0 { *g * a } else { 0.0 };
                    }
                }
            });
            return Ok(vec![Some(Tensor::new(&shape, dx)?), None, None]);
        }
        if let Some(y) = &kept_y {
            dx.par_chunks_mut(RANGE * c).zip(y.data().par_chunks(RANGE * c)).for_each(|(g, y)| {
                for (g, y) in g.iter_mut().zip(y) {
                    *g = if *y > 0.0 { *g } else { 0.0 };
                }
            });
        }
        drop(kept_y);
        // Per channel Σ g and Σ g·x̂.
        let (sum, product) = match &kept_x {
            Some(x) => gradient_sums(&dx, x.data(), &mean, &inverse, c),
            None if needs[2] => (channel_sums(&dx, c), vec![]),
            None => (vec![], vec![]),
        };
        if needs[0] {
            match kept_x.as_ref().filter(|_| learning) {
                None => scale_channels(&mut dx, &a),
                Some(x) => {
                    let m = (dx.len() / c) as f32;
                    // dx = a·(g − mean(g) − x̂·mean(g·x̂)) = a·g + p·x + q
                    let p: Vec<f32> = (0..c).map(|i| -a[i] * inverse[i] * (product[i] as f32 / m)).collect();
                    let q: Vec<f32> = (0..c).map(|i| -a[i] * (sum[i] as f32 / m) - p[i] * mean[i]).collect();
                    let (a, p, q) = (repeated(&a), repeated(&p), repeated(&q));
                    dx.par_chunks_mut(RANGE * c).zip(x.data().par_chunks(RANGE * c)).for_each(|(g, x)| {
                        for (g, x) in g.chunks_mut(a.len()).zip(x.chunks(a.len())) {
                            for ((((g, x), a), p), q) in g.iter_mut().zip(x).zip(&a).zip(&p).zip(&q) {
                                *g = a * *g + p * x + q;
                            }
                        }
                    });
                }
            }
        }
        let narrow = |v: Vec<f64>| Tensor::new(&[c], v.into_iter().map(|v| v as f32).collect());
        Ok(vec![
            if needs[0] { Some(Tensor::new(&shape, dx)?) } else { None },
            if needs[1] { Some(narrow(product)?) } else { None },
            if needs[2] { Some(narrow(sum)?) } else { None },
        ])
    });
    Ok((record, seen))
}

/// Values that an inner loop over channels has at least: with few channels, a pixel at a time would be more
/// loop than work.
const INNER: usize = 64;

/// A value per channel, repeated for as many pixels as an inner loop takes at a time.
fn repeated(values: &[f32]) -> Vec<f32> {
    values.repeat(INNER.div_ceil(values.len().max(1)))
}

fn scale_channels(values: &mut [f32], factors: &[f32]) {
    let (c, wide) = (factors.len(), repeated(factors));
    values.par_chunks_mut(RANGE * c).for_each(|chunk| {
        for row in chunk.chunks_mut(wide.len()) {
            row.iter_mut().zip(&wide).for_each(|(v, f)| *v *= f);
        }
    });
}

/// Sums over the pixels of a range, per channel: `add` adds some pixels' values to as many sums, first those of
/// every pixel that has the same place in an inner loop, which are then joined in order.
fn range_sums<const K: usize>(
    len: usize,
    c: usize,
    mut add: impl FnMut(std::ops::Range<usize>, &mut [Vec<f32>; K]),
) -> [Vec<f32>; K] {
    let width = c * INNER.div_ceil(c);
    let mut sums: [Vec<f32>; K] = std::array::from_fn(|_| vec![0f32; width]);
    for at in (0..len).step_by(width) {
        add(at..(at + width).min(len), &mut sums);
    }
    sums.map(|sums| {
        let mut joined = sums[..c].to_vec();
        for rest in sums[c..].chunks_exact(c) {
            joined.iter_mut().zip(rest).for_each(|(s, v)| *s += v);
        }
        joined
    })
}

/// Joins per-range sums, computed in parallel, in f64 and in order.
fn joined<const K: usize>(ranges: Vec<[Vec<f32>; K]>, c: usize) -> [Vec<f64>; K] {
    let mut total: [Vec<f64>; K] = std::array::from_fn(|_| vec![0.0; c]);
    for range in &ranges {
        for (total, part) in total.iter_mut().zip(range) {
            total.iter_mut().zip(part).for_each(|(t, p)| *t += f64::from(*p));
        }
    }
    total
}

fn channel_sums(values: &[f32], c: usize) -> Vec<f64> {
    let ranges = values.par_chunks(RANGE * c).map(|chunk| {
        range_sums(chunk.len(), c, |at, [sum]| {
            sum.iter_mut().zip(&chunk[at]).for_each(|(s, v)| *s += v);
        })
    });
    let [sum] = joined(ranges.collect(), c);
    sum
}

/// Mean and biased variance per channel. Values are shifted by each channel's first one, so that a mean
/// far from 0 costs no digits.
fn moments(x: &[f32], c: usize) -> (Vec<f32>, Vec<f32>) {
    let origin = repeated(&x[..c]);
    let ranges = x.par_chunks(RANGE * c).map(|chunk| {
        range_sums(chunk.len(), c, |at, [sum, square]| {
            for (((s, q), x), origin) in sum.iter_mut().zip(square).zip(&chunk[at]).zip(&origin) {
                let v = x - origin;
                *s += v;
                *q += v * v;
            }
        })
    });
    let [sum, square] = joined(ranges.collect(), c);
    let m = (x.len() / c) as f64;
    let mean = (0..c).map(|i| (f64::from(origin[i]) + sum[i] / m) as f32).collect();
    let variance = (0..c).map(|i| (square[i] / m - (sum[i] / m).powi(2)).max(0.0) as f32).collect();
    (mean, variance)
}

/// Per channel Σ g and Σ g·x̂ with x̂ = (x − mean)·inverse.
fn gradient_sums(g: &[f32], x: &[f32], mean: &[f32], inverse: &[f32], c: usize) -> (Vec<f64>, Vec<f64>) {
    let (mean, inverse) = (repeated(mean), repeated(inverse));
    let ranges = g.par_chunks(RANGE * c).zip(x.par_chunks(RANGE * c)).map(|(g, x)| {
        range_sums(g.len(), c, |at, [sum, product]| {
            let values = g[at.clone()].iter().zip(&x[at]).zip(mean.iter().zip(&inverse));
            for ((s, p), ((g, x), (mean, inverse))) in sum.iter_mut().zip(product).zip(values) {
                *s += g;
                *p += g * ((x - mean) * inverse);
            }
        })
    });
    let [sum, product] = joined(ranges.collect(), c);
    (sum, product)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check_within, random};

    fn moments64(x: &[f64], c: usize) -> (Vec<f64>, Vec<f64>) {
        let m = (x.len() / c) as f64;
        let mean: Vec<f64> = (0..c).map(|i| x.iter().skip(i).step_by(c).sum::<f64>() / m).collect();
        let variance =
            (0..c).map(|i| x.iter().skip(i).step_by(c).map(|v| (v - mean[i]).powi(2)).sum::<f64>() / m);
        let variance = variance.collect();
        (mean, variance)
    }

    fn reference(x: &[Vec<f64>], mean: &[f64], variance: &[f64], relu: bool) -> Vec<f64> {
        let c = mean.len();
        let y = x[0].iter().enumerate().map(|(at, v)| {
            let i = at % c;
            let y = x[1][i] * (v - mean[i]) / (variance[i] + f64::from(EPSILON)).sqrt() + x[2][i];
            if relu { y.max(0.0) } else { y }
        });
        y.collect()
    }

    #[test]
    fn learning_and_frozen_match_the_definition() {
        for (shape, seed) in [([1, 2, 1, 1], 1), ([2, 3, 5, 7], 2), ([1, 1, 3, 17], 3)] {
            let c = shape[3];
            let (mut x, scale) = (random(&shape, seed), random(&[c], seed + 10));
            // Far from zero, and away from the ReLU's kink.
            x.data_mut().iter_mut().for_each(|v| *v += 3.0);
            let shift = Tensor::full(&[c], 0.3171);
            let (mean, variance) = (random(&[c], seed + 20), Tensor::full(&[c], 1.7));
            for activation in [Activation::Identity, Activation::Relu] {
                let relu = activation == Activation::Relu;
                check_within(
                    1e-4,
                    &[x.clone(), scale.clone(), shift.clone()],
                    |tape, v| {
                        let s = Statistics::Frozen { mean: &mean, variance: &variance };
                        Ok(batch_norm(tape, &v[0], &v[1], &v[2], s, activation)?.0)
                    },
                    |v| {
                        let wide = |t: &Tensor| t.data().iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
                        reference(v, &wide(&mean), &wide(&variance), relu)
                    },
                );
                if shape[1] == 2 {
                    continue; // two values: the variance's gradient is all rounding
                }
                check_within(
                    2e-4,
                    &[x.clone(), scale.clone(), shift.clone()],
                    |tape, v| Ok(batch_norm(tape, &v[0], &v[1], &v[2], Statistics::Learning, activation)?.0),
                    |v| {
                        let (mean, variance) = moments64(&v[0], c);
                        reference(v, &mean, &variance, relu)
                    },
                );
            }
        }
    }

    #[test]
    fn statistics_are_unbiased_and_keep_their_digits_far_from_zero() {
        let x = Tensor::new(&[1, 1, 4, 1], vec![1000.0, 1001.0, 1002.0, 1003.0]).unwrap();
        let one = Var::constant(Tensor::full(&[1], 1.0));
        let mut tape = Tape::inference();
        let (_, seen) =
            batch_norm(&mut tape, &Var::constant(x), &one, &one, Statistics::Learning, Activation::Relu)
                .unwrap();
        let seen = seen.unwrap();
        assert_eq!(seen.mean.data(), [1001.5]);
        approx::assert_relative_eq!(seen.variance.data()[0], 5.0 / 3.0, max_relative = 1e-5);
    }

    #[test]
    fn threads_do_not_show_and_nan_comes_through() {
        let run = |threads: usize| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                let mut tape = Tape::new();
                let v = [random(&[3, 29, 31, 5], 1), random(&[5], 2), random(&[5], 3)].map(|t| tape.leaf(t));
                let (y, _) =
                    batch_norm(&mut tape, &v[0], &v[1], &v[2], Statistics::Learning, Activation::Relu)
                        .unwrap();
                let mut g = tape.backward(&y, random(y.shape(), 4)).unwrap();
                let mut all = vec![y.into_value()];
                all.extend(v.iter().map(|v| g.take(v).unwrap()));
                all
            })
        };
        assert_eq!(run(1), run(2));
        assert_eq!(run(1), run(3));
        let mut tape = Tape::inference();
        let one = Tensor::full(&[1], 1.0);
        let x = Var::constant(Tensor::full(&[1, 1, 1, 1], f32::NAN));
        let s = Statistics::Frozen { mean: &one, variance: &one };
        let v = Var::constant(one.clone());
        assert!(batch_norm(&mut tape, &x, &v, &v, s, Activation::Relu).unwrap().0.value().data()[0].is_nan());
    }
}
