//! Channel dropout: whole maps are dropped, those kept are scaled by 1/(1 − p), so that the expectation
//! stays (Tompson et al., *Efficient Object Localization Using Convolutional Networks*, CVPR 2015, §3.2).

mod cuda;

use crate::device::cuda::DeviceBuffer;
use crate::rng::Stream;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Drops each of the N·C maps of x, N×H×W×C, with probability `p`; the draws come from `stream` in the
/// order image, channel.
///
/// # Errors
/// p outside [0, 1); an input that is not N×H×W×C.
pub fn channel_dropout(tape: &mut Tape, x: &Var, p: f32, stream: &mut Stream) -> Result<Var> {
    channel_dropout_at(tape, x, p, stream, None)
}

/// As [`channel_dropout`]; on a GPU the two words of the stream's index are read from `index`, where they may change while
/// the launch stays the same.
pub(crate) fn channel_dropout_at(
    tape: &mut Tape,
    x: &Var,
    p: f32,
    stream: &mut Stream,
    index: Option<&DeviceBuffer<u32>>,
) -> Result<Var> {
    let [n, _, _, c] = x.value().nhwc("channel_dropout")?;
    if !(0.0..1.0).contains(&p) {
        return Err(Error::invalid(format!("dropout probability {p}: at least 0 and below 1 expected")));
    }
    if x.value().gpu().is_some() {
        return cuda::on_tape(tape, x, p, stream, index);
    }
    let kept = 1.0 / (1.0 - p);
    let factors: Vec<f32> = (0..n * c).map(|_| if stream.chance(p) { 0.0 } else { kept }).collect();
    let mut y = x.value().clone();
    scale_maps(&mut y, &factors, n, c);
    Ok(tape.record("channel_dropout", y, &[x], move |mut gradient| {
        scale_maps(&mut gradient, &factors, n, c);
        Ok(vec![Some(gradient)])
    }))
}

fn scale_maps(x: &mut Tensor, factors: &[f32], n: usize, c: usize) {
    let image = (x.len() / n.max(1)).max(1);
    for (image, factors) in x.data_mut().chunks_exact_mut(image).zip(factors.chunks_exact(c.max(1))) {
        for pixel in image.chunks_exact_mut(c) {
            pixel.iter_mut().zip(factors).for_each(|(v, f)| *v *= f);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, random};
    use crate::rng::Purpose;

    fn stream() -> Stream {
        Stream::new(7, Purpose::Dropout, 0, 0)
    }

    #[test]
    fn whole_maps_are_dropped_or_scaled() {
        let mut mask = Vec::new();
        let mut draws = stream();
        (0..2 * 5)
            .for_each(|_| mask.push(if draws.chance(0.4) { 0.0 } else { 1.0 / (1.0 - f64::from(0.4f32)) }));
        assert!(mask.contains(&0.0) && mask.iter().any(|&m| m > 0.0));
        check(
            &[random(&[2, 3, 1, 5], 1)],
            |tape, v| channel_dropout(tape, &v[0], 0.4, &mut stream()),
            |v| v[0].iter().enumerate().map(|(i, x)| x * mask[i / 15 * 5 + i % 5]).collect(),
        );
    }

    #[test]
    fn the_share_is_p_and_p_is_checked() {
        let x = Var::constant(Tensor::full(&[100, 1, 1, 100], 1.0));
        let mut tape = Tape::inference();
        let y = channel_dropout(&mut tape, &x, 0.3, &mut stream()).unwrap();
        let dropped = y.value().data().iter().filter(|v| **v == 0.0).count() as f64;
        // 10,000 draws: deviation 46; five of them.
        assert!((dropped - 3000.0).abs() < 230.0, "{dropped}");
        assert!(channel_dropout(&mut tape, &x, 1.0, &mut stream()).is_err());
        assert!(channel_dropout(&mut tape, &x, -0.1, &mut stream()).is_err());
    }
}
