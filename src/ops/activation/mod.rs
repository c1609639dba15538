//! ReLU and ELU, element by element.

mod cuda;

use rayon::prelude::*;

use crate::Result;
use crate::tape::{Tape, Var};
use crate::tensor::{CHUNK, Tensor};

/// max(0, x); a NaN comes through.
pub fn relu(tape: &mut Tape, x: &Var) -> Result<Var> {
    if x.value().gpu().is_some() {
        return cuda::on_tape(tape, "relu", ["relu_f32", "relu_backward_f32"], x);
    }
    let y = map(x.value(), |v| if v < 0.0 { 0.0 } else { v })?;
    let kept = y.clone();
    Ok(tape.record("relu", y, &[x], move |mut gradient| {
        scale_by(&mut gradient, &kept, |y| if y > 0.0 { 1.0 } else { 0.0 });
        Ok(vec![Some(gradient)])
    }))
}

/// ELU with α = 1: x for x > 0, eˣ − 1 below (Clevert et al. 2016). The slope below 0 is eˣ = y + 1.
pub fn elu(tape: &mut Tape, x: &Var) -> Result<Var> {
    if x.value().gpu().is_some() {
        return cuda::on_tape(tape, "elu", ["elu_f32", "elu_backward_f32"], x);
    }
    let y = map(x.value(), |v| if v > 0.0 { v } else { crate::math::exp_m1(v) })?;
    let kept = y.clone();
    Ok(tape.record("elu", y, &[x], move |mut gradient| {
        scale_by(&mut gradient, &kept, |y| if y > 0.0 { 1.0 } else { y + 1.0 });
        Ok(vec![Some(gradient)])
    }))
}

fn map(x: &Tensor, f: impl Fn(f32) -> f32 + Sync) -> Result<Tensor> {
    let mut y = vec![0f32; x.len()];
    y.par_chunks_mut(CHUNK).zip(x.data().par_chunks(CHUNK)).for_each(|(y, x)| {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = f(*x));
    });
    Tensor::new(x.shape(), y)
}

fn scale_by(gradient: &mut Tensor, y: &Tensor, slope: impl Fn(f32) -> f32 + Sync) {
    gradient.data_mut().par_chunks_mut(CHUNK).zip(y.data().par_chunks(CHUNK)).for_each(|(g, y)| {
        g.iter_mut().zip(y).for_each(|(g, y)| *g *= slope(*y));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, random};

    #[test]
    fn both_match_the_definition() {
        for shape in [vec![1], vec![2, 3, 5, 7]] {
            let x = random(&shape, 1);
            check(
                std::slice::from_ref(&x),
                |tape, v| relu(tape, &v[0]),
                |v| v[0].iter().map(|x| x.max(0.0)).collect(),
            );
            let reference = |x: &f64| if *x > 0.0 { *x } else { x.exp_m1() };
            check(&[x], |tape, v| elu(tape, &v[0]), |v| v[0].iter().map(reference).collect());
        }
    }

    #[test]
    fn small_negative_values_keep_their_digits() {
        let mut tape = Tape::inference();
        let x = Var::constant(Tensor::full(&[1], -1e-6));
        approx::assert_relative_eq!(
            elu(&mut tape, &x).unwrap().value().data()[0],
            -1e-6,
            max_relative = 1e-5
        );
        let nan = Var::constant(Tensor::full(&[1], f32::NAN));
        assert!(relu(&mut tape, &nan).unwrap().value().data()[0].is_nan());
    }
}
