//! Optimiser steps on a GPU, all parameters in one launch: the launchers of `kernels/optimizer.cu`.

use std::sync::Arc;

use crate::Result;
use crate::device::cuda::{Argument, DeviceBuffer, Geometry, Gpu, Reading, blocks};
use crate::tensor::Tensor;

/// Values of one entry that a block takes.
const RANGE: usize = 4096;
/// 32-bit words of an entry of the kernels' table.
pub(crate) const WORDS: usize = 16;

/// One tensor's part in a launch: addresses on the device, 0 for none, and what is done with it. What the fields mean is
/// the kernels' to say.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Entry {
    /// The tensor that changes, what it changes by, its state.
    pub addresses: [u64; 4],
    /// Values of each.
    pub count: usize,
    pub rate: f32,
    pub decay: f32,
    pub shrink: f32,
    pub momentum: f32,
    pub v_hat: f32,
}

/// How many values that came in and how many that went out were no numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bad {
    pub gradients: u32,
    pub values: u32,
}

/// Set on a GPU by the first loss that is no number: from there on no step changes anything. The host, which learns of
/// the loss late, then finds all as the step found it.
pub(crate) struct Stop(DeviceBuffer<u32>);

impl Stop {
    /// One that is not set.
    ///
    /// # Errors
    /// The device's.
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self> {
        Ok(Self(gpu.zeros("the mark of a bad loss", 1)?))
    }

    /// Sets it where the loss, a scalar on the same GPU, is no number.
    ///
    /// # Errors
    /// The device's; a loss that is not there.
    pub fn look_at(&self, loss: &Tensor) -> Result<()> {
        let geometry = Geometry { grid: [1, 1, 1], threads: 32, shared: 0 };
        // SAFETY: one number, one mark.
        unsafe {
            self.0.gpu().launch("note_not_finite_f32", geometry, &[loss.buffer()?.into(), (&self.0).into()])
        }
    }
}

/// The entries as the kernels' table has them, [`WORDS`] each.
///
/// # Errors
/// An entry of more values than a kernel counts.
pub(crate) fn words(entries: &[Entry]) -> Result<Vec<u32>> {
    let mut words: Vec<u32> = Vec::with_capacity(entries.len() * WORDS);
    let mut first_block = 0;
    for entry in entries {
        words.extend(entry.addresses.iter().flat_map(|a| [*a as u32, (a >> 32) as u32]));
        Argument::size(entry.count)?;
        words.extend([entry.count as u32, blocks(first_block, 1)?]);
        let numbers = [entry.rate, entry.decay, entry.shrink, entry.momentum, entry.v_hat];
        words.extend(numbers.map(f32::to_bits));
        words.push(0);
        first_block += entry.count.div_ceil(RANGE);
    }
    Ok(words)
}

/// Runs a kernel over the table of these entries; `more` are its arguments after the table. What was no number, an entry
/// each. Nothing is done once `stop` is set.
///
/// # Errors
/// The device's.
///
/// # Safety
/// The table's words are the entries', at the latest when the kernel runs. Their addresses are buffers of this GPU with as
/// many values as the kernel takes of each, or 0 where it takes none, and no two of those that it writes are one.
pub(crate) unsafe fn launch(
    kernel: &'static str,
    table: &DeviceBuffer<u32>,
    entries: &[Entry],
    stop: Option<&Stop>,
    more: &[Argument<'_>],
) -> Result<Reading<Vec<Bad>>> {
    let gpu = table.gpu();
    let counts = gpu.zeros::<u32>("counts of bad values", 2 * entries.len())?;
    let stop = stop.map_or(Argument::NONE, |stop| (&stop.0).into());
    let count = Argument::size(entries.len())?;
    let arguments = [&[table.into(), (&counts).into(), stop, count][..], more].concat();
    let all = entries.iter().map(|entry| entry.count.div_ceil(RANGE)).sum();
    let geometry = Geometry { grid: [blocks(all, 1)?, 1, 1], threads: 256, shared: 0 };
    // SAFETY: the table is laid out as the kernel's entries are, two counts each; the rest by this function's contract.
    unsafe { gpu.launch(kernel, geometry, &arguments)? };
    let bad = |&[gradients, values]: &[u32; 2]| Bad { gradients, values };
    Ok(Reading::of(Arc::new(counts), move |counts| counts.as_chunks::<2>().0.iter().map(bad).collect()))
}
