//! Fully connected layer: `y = x wᵀ + b`, x: N×I, w: O×I, b: O, y: N×O. It is a 1×1 convolution of
//! 1×1 images and runs as one.

use crate::ops::conv2d::{Conv2dOptions, conv2d};
use crate::tape::{Tape, Var};
use crate::{Error, Result};

/// x wᵀ + b.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(tape: &mut Tape, x: &Var, weight: &Var, bias: Option<&Var>) -> Result<Var> {
    let (&[n, i], &[o, wi]) = (x.shape(), weight.shape()) else {
        let message = format!("N×I and O×I expected, not {:?} and {:?}", x.shape(), weight.shape());
        return Err(Error::shape("linear", message));
    };
    let x = reshape(tape, x, &[n, 1, 1, i])?;
    let weight = reshape(tape, weight, &[o, 1, 1, wi])?;
    let y = conv2d(tape, &x, &weight, bias, Conv2dOptions::default())?;
    reshape(tape, &y, &[n, o])
}

/// The same values in another shape; the gradient takes the old shape back.
///
/// # Errors
/// A shape of another number of values.
pub fn reshape(tape: &mut Tape, x: &Var, shape: &[usize]) -> Result<Var> {
    let old = x.shape().to_vec();
    let value = x.value().reshape(shape)?;
    Ok(tape.record("reshape", value, &[x], move |gradient| Ok(vec![Some(gradient.reshape(&old)?)])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, random};
    use crate::tensor::Tensor;

    #[test]
    fn matches_the_definition() {
        for (n, i, o) in [(1, 1, 1), (3, 7, 5), (2, 65, 17)] {
            check(
                &[random(&[n, i], 1), random(&[o, i], 2), random(&[o], 3)],
                |tape, v| linear(tape, &v[0], &v[1], Some(&v[2])),
                |v| {
                    let dot =
                        |r: usize, c: usize| (0..i).map(|k| v[0][r * i + k] * v[1][c * i + k]).sum::<f64>();
                    (0..n * o).map(|at| dot(at / o, at % o) + v[2][at % o]).collect()
                },
            );
        }
        let mut tape = Tape::new();
        let [x, w] = [[2, 3], [4, 5]].map(|s| Var::constant(Tensor::zeros(&s)));
        assert!(linear(&mut tape, &x, &w, None).is_err());
    }
}
