//! Bilinear resize with half-pixel centres: output pixel p lies at (p + ½)·H/H' − ½ of the input, and
//! positions beyond the outermost centres take the outermost value (`align_corners = false`).

mod cuda;

use rayon::prelude::*;

use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// For each output position the two input positions and the weight of the second.
fn taps(from: usize, to: usize) -> Vec<(usize, usize, f32)> {
    let step = from as f64 / to as f64;
    (0..to)
        .map(|p| {
            let at = ((p as f64 + 0.5) * step - 0.5).clamp(0.0, (from - 1) as f64);
            let low = at as usize;
            (low, (low + 1).min(from - 1), (at - low as f64) as f32)
        })
        .collect()
}

/// Resizes H×W×C values to H'×W'×C.
///
/// # Errors
/// A size of 0; a number of values other than H·W·C.
pub fn bilinear_resize_plane(
    data: &[f32],
    h: usize,
    w: usize,
    c: usize,
    height: usize,
    width: usize,
) -> Result<Vec<f32>> {
    if [h, w, c, height, width].contains(&0) || data.len() != h * w * c {
        let message = format!("{} values as {h}×{w}×{c} to {height}×{width}", data.len());
        return Err(Error::shape("bilinear_resize", message));
    }
    let (rows, columns) = (taps(h, height), taps(w, width));
    let mut out = vec![0f32; height * width * c];
    // Rows are blended first, so that each output row reads one blended row.
    let mut blended = vec![0f32; w * c];
    for (out, &(y0, y1, fy)) in out.chunks_exact_mut(width * c).zip(&rows) {
        let (above, below) = (&data[y0 * w * c..][..w * c], &data[y1 * w * c..][..w * c]);
        for ((b, a), z) in blended.iter_mut().zip(above).zip(below) {
            *b = a + fy * (z - a);
        }
        for (out, &(x0, x1, fx)) in out.chunks_exact_mut(c).zip(&columns) {
            let (left, right) = (&blended[x0 * c..][..c], &blended[x1 * c..][..c]);
            for ((o, l), r) in out.iter_mut().zip(left).zip(right) {
                *o = l + fx * (r - l);
            }
        }
    }
    Ok(out)
}

/// Resizes maps N×H×W×C to N×H'×W'×C. The gradient is the transpose: each output's gradient goes to its
/// four sources by their weights.
///
/// # Errors
/// An input that is not N×H×W×C; a size of 0.
pub fn bilinear_resize(tape: &mut Tape, x: &Var, height: usize, width: usize) -> Result<Var> {
    let [n, h, w, c] = x.value().nhwc("bilinear_resize")?;
    if [n, h, w, c, height, width].contains(&0) {
        return Err(Error::shape("bilinear_resize", format!("{:?} to {height}×{width}", x.shape())));
    }
    if let Some(gpu) = x.value().gpu() {
        return cuda::on_tape(gpu, tape, x, [n, h, w, c], height, width);
    }
    let images: Vec<Vec<f32>> = x
        .value()
        .data()
        .par_chunks_exact(h * w * c)
        .map(|image| bilinear_resize_plane(image, h, w, c, height, width))
        .collect::<Result<_>>()?;
    let value = Tensor::new(&[n, height, width, c], images.concat())?;
    Ok(tape.record("bilinear_resize", value, &[x], move |gradient| {
        let (rows, columns) = (taps(h, height), taps(w, width));
        let mut dx = vec![0f32; n * h * w * c];
        let images =
            dx.par_chunks_exact_mut(h * w * c).zip(gradient.data().par_chunks_exact(height * width * c));
        images.for_each(|(dx, g)| {
            let mut row = vec![0f32; w * c];
            for (g, &(y0, y1, fy)) in g.chunks_exact(width * c).zip(&rows) {
                row.fill(0.0);
                for (g, &(x0, x1, fx)) in g.chunks_exact(c).zip(&columns) {
                    for (i, g) in g.iter().enumerate() {
                        row[x0 * c + i] += (1.0 - fx) * g;
                        row[x1 * c + i] += fx * g;
                    }
                }
                for (i, r) in row.iter().enumerate() {
                    dx[y0 * w * c + i] += (1.0 - fy) * r;
                    dx[y1 * w * c + i] += fy * r;
                }
            }
        });
        Ok(vec![Some(Tensor::new(&[n, h, w, c], dx)?)])
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, random};

    fn reference(x: &[f64], [n, h, w, c]: [usize; 4], height: usize, width: usize) -> Vec<f64> {
        let mut out = Vec::new();
        for at in 0..n * height * width * c {
            let (ch, q, p, image) =
                (at % c, at / c % width, at / c / width % height, at / c / width / height);
            let position = |p: usize, from: usize, to: usize| {
                ((p as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0).min(from as f64 - 1.0)
            };
            let (y, x0) = (position(p, h, height), position(q, w, width));
            let mut sum = 0.0;
            for r in 0..h {
                for s in 0..w {
                    // The hat function around each source pixel is the definition of linear interpolation.
                    let weight =
                        (1.0 - (y - r as f64).abs()).max(0.0) * (1.0 - (x0 - s as f64).abs()).max(0.0);
                    sum += weight * x[((image * h + r) * w + s) * c + ch];
                }
            }
            out.push(sum);
        }
        out
    }

    #[test]
    fn matches_the_definition() {
        for (shape, height, width) in
            [([1, 1, 1, 1], 3, 2), ([2, 3, 5, 2], 7, 4), ([1, 4, 4, 3], 8, 8), ([1, 9, 7, 1], 2, 1)]
        {
            check(
                &[random(&shape, 1)],
                |tape, v| bilinear_resize(tape, &v[0], height, width),
                |v| reference(&v[0], shape, height, width),
            );
        }
        assert!(bilinear_resize_plane(&[1.0], 1, 1, 1, 0, 4).is_err());
        assert!(bilinear_resize_plane(&[1.0; 3], 1, 2, 1, 2, 4).is_err());
    }
}
