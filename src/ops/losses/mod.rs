//! Losses on logits.
//!
//! * multi-label soft margin: `−mean[ t·log σ(s) + (1−t)·log σ(−s) ]` over batch and classes;
//! * softmax cross-entropy: `−mean log softmax(s)[label]` over the labelled pixels.

mod cuda;

use rayon::prelude::*;

use crate::device::cuda::Given;
use crate::formats::image::IGNORE;
use crate::math;
use crate::tape::{Tape, Var};
use crate::tensor::{Tensor, place};
use crate::{Error, Result};

/// Pixels whose losses are summed before they are joined with the others'.
const RANGE: usize = 1024;

/// Multi-label soft margin loss of logits N×C against targets N×C (0 or 1), a scalar.
///
/// With softplus(z) = log(1 + eᶻ) = max(z, 0) + log1p(e^−|z|) a term is softplus(s) − t·s, which neither
/// overflows nor loses digits at |s| = 100; the gradient is (σ(s) − t)/(N·C).
///
/// # Errors
/// Shapes that differ, or no values.
pub fn multi_label_soft_margin(tape: &mut Tape, logits: &Var, targets: &Tensor) -> Result<Var> {
    let count = logits.value().len();
    if logits.shape() != targets.shape() || count == 0 {
        let message = format!("logits {:?}, targets {:?}", logits.shape(), targets.shape());
        return Err(Error::shape("multi_label_soft_margin", message));
    }
    if let Some(gpu) = place("multi_label_soft_margin", &[logits.value(), targets])? {
        return cuda::soft_margin(gpu, tape, logits, targets);
    }
    let mut sum = 0f64;
    let mut slope = Vec::with_capacity(count);
    for (&s, &t) in logits.value().data().iter().zip(targets.data()) {
        let (s, t) = (f64::from(s), f64::from(t));
        let tail = math::exp_f64(-s.abs());
        // With the target folded into the first part, a confident right answer keeps its small loss.
        sum += if s > 0.0 { (1.0 - t) * s } else { -t * s } + math::ln_1p_f64(tail);
        // σ(s) or, for s > 0, 1 − σ(s): nothing cancels where the answer is right and confident.
        let small = tail / (1.0 + tail);
        let difference = if s > 0.0 { (1.0 - t) - small } else { small - t };
        slope.push((difference / count as f64) as f32);
    }
    let shape = logits.shape().to_vec();
    Ok(tape.record(
        "multi_label_soft_margin",
        Tensor::scalar((sum / count as f64) as f32),
        &[logits],
        move |g| {
            let g = g.item()?;
            Ok(vec![Some(Tensor::new(&shape, slope.into_iter().map(|v| g * v).collect())?)])
        },
    ))
}

/// Softmax over the last axis.
///
/// # Errors
/// A tensor without a last axis, or one of length 0.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let Some(&c) = x.shape().last().filter(|c| **c > 0) else {
        return Err(Error::shape("softmax", format!("{:?} has no classes", x.shape())));
    };
    let mut y = x.clone();
    y.data_mut().par_chunks_mut(RANGE * c).for_each(|rows| rows.chunks_exact_mut(c).for_each(softmax_row));
    Ok(y)
}

fn softmax_row(row: &mut [f32]) {
    let largest = row.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    let mut sum = 0f32;
    for v in row.iter_mut() {
        *v = math::exp(*v - largest);
        sum += *v;
    }
    row.iter_mut().for_each(|v| *v /= sum);
}

/// Softmax cross-entropy of logits N×h×w×C against a label per pixel, averaged over the pixels whose
/// label is not [`IGNORE`]; without any it is 0 and has no gradient.
///
/// # Errors
/// A number of labels other than N·h·w; a label that is no class.
pub fn softmax_cross_entropy<'a>(
    tape: &mut Tape,
    logits: &Var,
    labels: impl Into<Given<'a, u8>>,
) -> Result<Var> {
    let given: Given<'_, u8> = labels.into();
    let labels = given.values();
    let [n, h, w, c] = logits.value().nhwc("softmax_cross_entropy")?;
    if labels.len() != n * h * w {
        let message = format!("{} labels for logits {:?}", labels.len(), logits.shape());
        return Err(Error::shape("softmax_cross_entropy", message));
    }
    if let Some(label) = labels.iter().find(|l| **l != IGNORE && usize::from(**l) >= c) {
        return Err(Error::invalid(format!("label {label} with {c} classes")));
    }
    let labelled = labels.iter().filter(|l| **l != IGNORE).count();
    if labelled == 0 {
        return Ok(Var::constant(Tensor::scalar(0.0).to_place(logits.value().gpu(), "the loss")?));
    }
    if let Some(gpu) = logits.value().gpu() {
        return cuda::cross_entropy(gpu, tape, logits, given);
    }
    // Probabilities, minus 1 at the label: the gradient up to the factor 1/labelled.
    let mut slope = logits.value().clone();
    let parts: Vec<f64> = slope
        .data_mut()
        .par_chunks_mut(RANGE * c)
        .zip(labels.par_chunks(RANGE))
        .map(|(rows, labels)| {
            let mut sum = 0f64;
            for (row, &label) in rows.chunks_exact_mut(c).zip(labels) {
                if label == IGNORE {
                    row.fill(0.0);
                    continue;
                }
                let largest = row.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
                let at_label = row[usize::from(label)] - largest;
                let total: f64 = row.iter().map(|v| f64::from(math::exp(v - largest))).sum();
                sum += math::ln_f64(total) - f64::from(at_label);
                softmax_row(row);
                row[usize::from(label)] -= 1.0;
            }
            sum
        })
        .collect();
    let loss = parts.iter().sum::<f64>() / labelled as f64;
    Ok(tape.record("softmax_cross_entropy", Tensor::scalar(loss as f32), &[logits], move |g| {
        let factor = g.item()? / labelled as f32;
        slope.data_mut().par_iter_mut().with_min_len(RANGE).for_each(|v| *v *= factor);
        Ok(vec![Some(slope)])
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, random};

    #[test]
    fn soft_margin_matches_the_definition() {
        for shape in [[1, 1], [3, 7]] {
            let mut targets = random(&shape, 2);
            targets.data_mut().iter_mut().for_each(|t| *t = if *t > 0.0 { 1.0 } else { 0.0 });
            let t: Vec<f64> = targets.data().iter().map(|&t| f64::from(t)).collect();
            check(
                &[random(&shape, 1)],
                |tape, v| multi_label_soft_margin(tape, &v[0], &targets),
                |v| {
                    let log_sigmoid = |s: f64| -(-s).exp().ln_1p();
                    let term = |(s, t): (&f64, &f64)| t * log_sigmoid(*s) + (1.0 - t) * log_sigmoid(-s);
                    vec![-v[0].iter().zip(&t).map(term).sum::<f64>() / t.len() as f64]
                },
            );
        }
    }

    #[test]
    fn soft_margin_keeps_its_digits_at_a_hundred() {
        for (s, t, expected) in [(100.0, 1.0, 3.7200760e-44), (100.0, 0.0, 100.0), (-100.0, 1.0, 100.0)] {
            let mut tape = Tape::new();
            let logit = tape.leaf(Tensor::full(&[1, 1], s));
            let loss = multi_label_soft_margin(&mut tape, &logit, &Tensor::full(&[1, 1], t)).unwrap();
            let value = f64::from(loss.value().item().unwrap());
            // e^−100 is a subnormal f32: two digits are all it can hold.
            assert!((value - expected).abs() <= 0.05 * expected, "{value} instead of {expected}");
            let gradient = tape.backward(&loss, Tensor::scalar(1.0)).unwrap().take(&logit).unwrap();
            assert!(gradient.is_finite());
        }
    }

    #[test]
    fn cross_entropy_matches_the_definition_and_ignores() {
        for [n, h, w, c] in [[1, 1, 1, 1], [2, 3, 5, 4], [1, 33, 37, 3]] {
            let labels: Vec<u8> =
                (0..n * h * w).map(|p| if p % 5 == 3 { IGNORE } else { (p * 7 % c) as u8 }).collect();
            if n * h * w > 100 {
                // Several ranges; differences of every logit would take long, so the value alone.
                let x = random(&[n, h, w, c], 3);
                let mut tape = Tape::inference();
                let loss = softmax_cross_entropy(&mut tape, &Var::constant(x.clone()), &labels).unwrap();
                let wide: Vec<f64> = x.data().iter().map(|&v| f64::from(v)).collect();
                approx::assert_relative_eq!(
                    f64::from(loss.value().item().unwrap()),
                    entropy(&wide, &labels, c),
                    max_relative = 1e-5
                );
                continue;
            }
            check(
                &[random(&[n, h, w, c], 1)],
                |tape, v| softmax_cross_entropy(tape, &v[0], &labels),
                |v| vec![entropy(&v[0], &labels, c)],
            );
        }
    }

    fn entropy(x: &[f64], labels: &[u8], c: usize) -> f64 {
        let mut sum = 0.0;
        for (row, label) in x.chunks(c).zip(labels).filter(|(_, l)| **l != IGNORE) {
            sum += row.iter().map(|v| v.exp()).sum::<f64>().ln() - row[usize::from(*label)];
        }
        sum / labels.iter().filter(|l| **l != IGNORE).count() as f64
    }

    #[test]
    fn nothing_labelled_is_zero_and_a_strange_label_an_error() {
        let mut tape = Tape::new();
        let x = tape.leaf(random(&[1, 2, 2, 3], 1));
        let loss = softmax_cross_entropy(&mut tape, &x, &[IGNORE; 4]).unwrap();
        assert!(!loss.needs_gradient() && loss.value().item().unwrap() == 0.0);
        assert!(softmax_cross_entropy(&mut tape, &x, &[0, 1, 2, 3]).is_err());
        assert!(softmax_cross_entropy(&mut tape, &x, &[0]).is_err());
    }

    #[test]
    fn softmax_sums_to_one_at_any_size() {
        let x = Tensor::new(&[2, 3], vec![1000.0, 999.0, -1000.0, 0.0, 0.0, 0.0]).unwrap();
        let y = softmax(&x).unwrap();
        approx::assert_relative_eq!(y.data()[0], 1.0 / (1.0 + (-1f32).exp()), max_relative = 1e-6);
        assert_eq!(y.data()[3..], [1.0 / 3.0; 3]);
    }
}
