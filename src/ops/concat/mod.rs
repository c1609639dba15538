//! Concatenation along the channels: N×H×W×C₁, N×H×W×C₂, … → N×H×W×ΣC.

mod cuda;

use crate::tape::{Tape, Var};
use crate::tensor::{Tensor, place};
use crate::{Error, Result};

/// Joins maps of one size along the channels; each input's gradient is its slice of the output's.
///
/// # Errors
/// No input, or inputs whose N, H, W differ.
pub fn concat(tape: &mut Tape, inputs: &[&Var]) -> Result<Var> {
    let Some(first) = inputs.first() else { return Err(Error::shape("concat", "no inputs")) };
    let [n, h, w, _] = first.value().nhwc("concat")?;
    let mut widths = Vec::with_capacity(inputs.len());
    for input in inputs {
        let [n2, h2, w2, c] = input.value().nhwc("concat")?;
        if [n, h, w] != [n2, h2, w2] {
            return Err(Error::shape("concat", format!("{:?} and {:?}", first.shape(), input.shape())));
        }
        widths.push(c);
    }
    let total: usize = widths.iter().sum();
    let needs: Vec<bool> = inputs.iter().map(|v| v.needs_gradient()).collect();
    let values: Vec<&Tensor> = inputs.iter().map(|v| v.value()).collect();
    if let Some(gpu) = place("concat", &values)? {
        let value = cuda::join(gpu, &values, &widths, [n, h, w, total])?;
        return Ok(tape.record("concat", value, inputs, move |gradient| {
            let mut start = 0;
            let slices = widths.into_iter().zip(needs).map(|(width, needs)| {
                start += width;
                needs.then(|| cuda::slice(&gradient, start - width, width)).transpose()
            });
            slices.collect()
        }));
    }
    let mut data = Vec::with_capacity(n * h * w * total);
    for pixel in 0..n * h * w {
        for (input, c) in inputs.iter().zip(&widths) {
            data.extend_from_slice(&input.value().data()[pixel * c..][..*c]);
        }
    }
    let value = Tensor::new(&[n, h, w, total], data)?;
    Ok(tape.record("concat", value, inputs, move |gradient| {
        let mut start = 0;
        let mut slices = Vec::with_capacity(widths.len());
        for (c, needs) in widths.into_iter().zip(needs) {
            slices.push(if needs {
                let mut data = Vec::with_capacity(n * h * w * c);
                for row in gradient.data().chunks_exact(total.max(1)) {
                    data.extend_from_slice(&row[start..start + c]);
                }
                Some(Tensor::new(&[n, h, w, c], data)?)
            } else {
                None
            });
            start += c;
        }
        Ok(slices)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, random};

    #[test]
    fn joins_pixel_by_pixel() {
        check(
            &[random(&[2, 1, 3, 2], 1), random(&[2, 1, 3, 5], 2), random(&[2, 1, 3, 1], 3)],
            |tape, v| concat(tape, &[&v[0], &v[1], &v[2]]),
            |v| {
                (0..6)
                    .flat_map(|p| {
                        [&v[0][2 * p..2 * p + 2], &v[1][5 * p..5 * p + 5], &v[2][p..p + 1]].concat()
                    })
                    .collect()
            },
        );
        let mut tape = Tape::new();
        let a = Var::constant(Tensor::zeros(&[1, 2, 2, 1]));
        let b = Var::constant(Tensor::zeros(&[1, 2, 3, 1]));
        assert!(concat(&mut tape, &[&a, &b]).is_err());
        assert!(concat(&mut tape, &[]).is_err());
    }
}
