//! Times on a GPU, as NVBench takes them: events around a batch of executions that wait behind a gate until all are
//! queued, so that the host's part is not in it; warm, with the data where the last execution left them, and cold, with the
//! second-level cache overwritten before each; repeated until the samples lie close together or the time is up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::device::Device;
use crate::device::cuda::{Gpu, Recording};
use crate::{Error, Result};

/// What was measured, in seconds of one execution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// Median of the samples, warm.
    pub median: f64,
    /// The middle half of the samples, from lowest to highest, over the median.
    pub spread: f64,
    /// Samples, each a batch of executions.
    pub samples: usize,
    /// Executions of a batch.
    pub batch: usize,
    /// Median with the second-level cache overwritten before each execution; of single executions, each between two
    /// events, which adds a few microseconds.
    pub cold: f64,
}

/// Spread at which the samples lie close enough together.
const CLOSE: f64 = 0.005;
/// Samples before that is asked.
const FEWEST: usize = 10;
/// Samples after which more would tell nothing.
const MOST: usize = 1000;
/// Launches that are queued behind a gate: a driver's queue holds about a thousand.
const BEHIND_GATE: usize = 256;
/// A batch is at least this long, where the gate allows it: an event's clock ticks in half microseconds.
const BATCH: f64 = 2e-3;
/// Part of the time for the cold samples.
const COLD: f64 = 0.25;

/// The middle of some numbers; 0 of none.
pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// The middle half, from lowest to highest, over the median; 0 of fewer than two.
pub fn spread(samples: &[f64]) -> f64 {
    let middle = median(samples);
    if middle > 0.0 { (quantile(samples, 0.75) - quantile(samples, 0.25)) / middle } else { 0.0 }
}

/// A quantile, between two samples by their distance.
fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = q * sorted.len().saturating_sub(1) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    match (sorted.get(low), sorted.get(high)) {
        (Some(a), Some(b)) => a + (b - a) * at.fract(),
        _ => 0.0,
    }
}

/// Times what was recorded, or some kernels of it, for about `time`. On the emulated GPU one sample is taken, of the
/// launches' lower bounds.
///
/// # Errors
/// Nothing to time; the driver's.
pub fn measure(
    gpu: &Arc<Gpu>,
    recording: &Recording,
    only: Option<&[&str]>,
    time: Duration,
) -> Result<Timing> {
    let launches = recording.launches(only);
    if launches == 0 {
        return Err(Error::invalid("nothing was launched: there is nothing to time"));
    }
    let emulated = gpu.device() == Device::Emulated;
    let estimate = warm_up(gpu, recording, only, emulated)?;
    let batch = match emulated {
        true => 1,
        false => ((BATCH / estimate).ceil() as usize).clamp(1, (BEHIND_GATE / launches).max(1)),
    };
    let enough = |samples: &[f64], started: Instant, part: f64| {
        emulated && !samples.is_empty()
            || samples.len() >= MOST
            || samples.len() >= FEWEST && spread(samples) < CLOSE
            || samples.len() >= 3 && started.elapsed() > time.mul_f64(part)
    };
    let (mut warm, started) = (Vec::new(), Instant::now());
    while !enough(&warm, started, 1.0 - COLD) {
        warm.push(sample(gpu, recording, only, batch)? / batch as f64);
    }
    let scratch = gpu.allocate::<u8>("what the cache is overwritten with", 2 * gpu.l2_bytes()?)?;
    let (mut cold, started) = (Vec::new(), Instant::now());
    while !enough(&cold, started, COLD) {
        let gate = gpu.gate()?;
        gpu.overwrite(&scratch)?;
        let before = gpu.mark()?;
        // More than fit behind the gate need it open.
        if launches > BEHIND_GATE {
            gate.open();
        }
        recording.queue(only)?;
        let after = gpu.mark()?;
        gate.open();
        cold.push(before.seconds_to(gpu, &after)?);
    }
    Ok(Timing {
        median: median(&warm),
        spread: spread(&warm),
        samples: warm.len(),
        batch,
        cold: median(&cold),
    })
}

/// Executes until the clocks have risen and returns about how long one execution takes.
fn warm_up(gpu: &Arc<Gpu>, recording: &Recording, only: Option<&[&str]>, emulated: bool) -> Result<f64> {
    const WARM: Duration = Duration::from_millis(30);
    let started = Instant::now();
    loop {
        let seconds = sample(gpu, recording, only, 1)?;
        if emulated || started.elapsed() > WARM {
            return Ok(seconds.max(1e-7));
        }
    }
}

/// Seconds of a batch of executions.
fn sample(gpu: &Arc<Gpu>, recording: &Recording, only: Option<&[&str]>, batch: usize) -> Result<f64> {
    let gate = gpu.gate()?;
    let before = gpu.mark()?;
    if recording.launches(only) * batch > BEHIND_GATE {
        gate.open();
    }
    for _ in 0..batch {
        recording.queue(only)?;
    }
    let after = gpu.mark()?;
    gate.open();
    before.seconds_to(gpu, &after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_samples() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(spread(&[1.0, 2.0, 3.0, 4.0, 5.0]), 2.0 / 3.0);
        assert_eq!(spread(&[2.0]), 0.0);
    }
}
