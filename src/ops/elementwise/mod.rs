//! Element by element: y = a + b.

pub(crate) mod cuda;

use rayon::prelude::*;

use crate::tape::{Tape, Var};
use crate::tensor::{CHUNK, Tensor, place};
use crate::{Error, Result};

/// Sum of two tensors of one shape; the gradient goes to both unchanged.
///
/// # Errors
/// Shapes or places that differ.
pub fn add(tape: &mut Tape, a: &Var, b: &Var) -> Result<Var> {
    if a.shape() != b.shape() {
        return Err(Error::shape("add", format!("{:?} and {:?}", a.shape(), b.shape())));
    }
    let value = match place("add", &[a.value(), b.value()])? {
        None => add_on_cpu(a.value(), b.value())?,
        Some(_) => cuda::add(a.value(), b.value())?,
    };
    let (needs_a, needs_b) = (a.needs_gradient(), b.needs_gradient());
    Ok(tape.record("add", value, &[a, b], move |gradient| {
        let for_a = needs_a.then(|| gradient.clone());
        Ok(vec![for_a, needs_b.then_some(gradient)])
    }))
}

fn add_on_cpu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let mut out = vec![0.0; a.len()];
    out.par_chunks_mut(CHUNK).zip(a.data().par_chunks(CHUNK).zip(b.data().par_chunks(CHUNK))).for_each(
        |(out, (a, b))| {
            for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                *out = a + b;
            }
        },
    );
    Tensor::new(a.shape(), out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, random};

    #[test]
    fn add_matches_reference() {
        for shape in [vec![1], vec![2, 3, 5, 7], vec![0, 4]] {
            check(
                &[random(&shape, 1), random(&shape, 2)],
                |tape, v| add(tape, &v[0], &v[1]),
                |x| x[0].iter().zip(&x[1]).map(|(a, b)| a + b).collect(),
            );
        }
        let mut tape = Tape::new();
        let (a, b) = (Var::constant(Tensor::zeros(&[2])), Var::constant(Tensor::zeros(&[3])));
        assert!(add(&mut tape, &a, &b).is_err());
    }
}
