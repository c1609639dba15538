//! Global average pooling, N×H×W×C → N×C, and average pooling over blocks, N×H×W×C → N×⌈H/k⌉×⌈W/k⌉×C.

mod cuda;

use rayon::prelude::*;

use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Pixels whose sums are taken in f32 before they are joined in f64.
const RANGE: usize = 256;

/// `y[n,c] = mean over h, w of x[n,h,w,c]`.
///
/// # Errors
/// An input that is not N×H×W×C, or has no pixels.
pub fn global_average_pooling(tape: &mut Tape, x: &Var) -> Result<Var> {
    let [n, h, w, c] = x.value().nhwc("global_average_pooling")?;
    let pixels = h * w;
    if pixels == 0 || c == 0 {
        return Err(Error::shape("global_average_pooling", format!("{:?} has no values", x.shape())));
    }
    if let Some(gpu) = x.value().gpu() {
        return cuda::global_average(gpu, tape, x, [n, h, w, c]);
    }
    let mut y = Vec::with_capacity(n * c);
    for image in x.value().data().chunks_exact(pixels * c) {
        let mut total = vec![0f64; c];
        for range in image.chunks(RANGE * c) {
            let mut sum = vec![0f32; c];
            range.chunks_exact(c).for_each(|row| sum.iter_mut().zip(row).for_each(|(s, v)| *s += v));
            total.iter_mut().zip(sum).for_each(|(t, s)| *t += f64::from(s));
        }
        y.extend(total.into_iter().map(|t| (t / pixels as f64) as f32));
    }
    let value = Tensor::new(&[n, c], y)?;
    Ok(tape.record("global_average_pooling", value, &[x], move |gradient| {
        let mut dx = vec![0f32; n * pixels * c];
        for (image, row) in dx.chunks_exact_mut(pixels * c).zip(gradient.data().chunks_exact(c)) {
            let row: Vec<f32> = row.iter().map(|g| g / pixels as f32).collect();
            image.par_chunks_exact_mut(c).with_min_len(64).for_each(|dx| dx.copy_from_slice(&row));
        }
        Ok(vec![Some(Tensor::new(&[n, h, w, c], dx)?)])
    }))
}

/// Mean over k×k blocks, as if the maps were padded with zeros at the right and bottom to a multiple of
/// k: each sum is divided by k², whatever part of its block lies outside.
///
/// # Errors
/// An input that is not N×H×W×C; k = 0.
pub fn average_pooling(tape: &mut Tape, x: &Var, k: usize) -> Result<Var> {
    let [n, h, w, c] = x.value().nhwc("average_pooling")?;
    if k == 0 {
        return Err(Error::invalid("pooling over blocks of 0 pixels"));
    }
    if let Some(gpu) = x.value().gpu() {
        return cuda::average(gpu, tape, x, [n, h, w, c], k);
    }
    let (oh, ow) = (h.div_ceil(k), w.div_ceil(k));
    let factor = 1.0 / (k * k) as f32;
    let block = move |pixel: usize| {
        let (image, y, x) = (pixel / (h * w), pixel / w % h, pixel % w);
        ((image * oh + y / k) * ow + x / k) * c
    };
    let mut sums = vec![0f32; n * oh * ow * c];
    for (pixel, row) in x.value().data().chunks_exact(c.max(1)).enumerate() {
        sums[block(pixel)..][..c].iter_mut().zip(row).for_each(|(s, v)| *s += v);
    }
    sums.iter_mut().for_each(|s| *s *= factor);
    let value = Tensor::new(&[n, oh, ow, c], sums)?;
    Ok(tape.record("average_pooling", value, &[x], move |gradient| {
        let mut dx = Vec::with_capacity(n * h * w * c);
        for pixel in 0..n * h * w {
            dx.extend(gradient.data()[block(pixel)..][..c].iter().map(|g| g * factor));
        }
        Ok(vec![Some(Tensor::new(&[n, h, w, c], dx)?)])
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, random};

    #[test]
    fn both_match_the_definition() {
        for [n, h, w, c] in [[1, 1, 1, 1], [2, 3, 5, 7], [1, 17, 19, 2]] {
            let x = random(&[n, h, w, c], 1);
            check(
                std::slice::from_ref(&x),
                |tape, v| global_average_pooling(tape, &v[0]),
                |v| {
                    let mean = |at: usize| {
                        let image = &v[0][at / c * h * w * c..][..h * w * c];
                        image.iter().skip(at % c).step_by(c).sum::<f64>() / (h * w) as f64
                    };
                    (0..n * c).map(mean).collect()
                },
            );
            for k in [1, 2, 8] {
                check(
                    std::slice::from_ref(&x),
                    |tape, v| average_pooling(tape, &v[0], k),
                    |v| {
                        let (oh, ow) = (h.div_ceil(k), w.div_ceil(k));
                        let mut y = vec![0.0; n * oh * ow * c];
                        for (at, value) in v[0].iter().enumerate() {
                            let (ch, x, y0, i) = (at % c, at / c % w, at / c / w % h, at / c / w / h);
                            y[((i * oh + y0 / k) * ow + x / k) * c + ch] += value / (k * k) as f64;
                        }
                        y
                    },
                );
            }
        }
        let mut tape = Tape::new();
        let empty = Var::constant(Tensor::zeros(&[1, 0, 3, 2]));
        assert!(global_average_pooling(&mut tape, &empty).is_err());
    }
}
