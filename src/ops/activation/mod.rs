//! ReLU and ELU.

use crate::Result;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// max(0, x), element by element.
pub fn relu(tape: &mut Tape, x: &Var) -> Result<Var> {
    let y = Tensor::new(x.shape(), x.value().data().iter().map(|v| v.max(0.0)).collect())?;
    let kept = y.clone();
    Ok(tape.record("relu", y, &[x], move |mut gradient| {
        for (g, y) in gradient.data_mut().iter_mut().zip(kept.data()) {
            if *y <= 0.0 {
                *g = 0.0;
            }
        }
        Ok(vec![Some(gradient)])
    }))
}
