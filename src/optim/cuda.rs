//! Optimiser steps on a GPU, all parameters in one launch: the launchers of `kernels/optimizer.cu`.

use std::sync::Arc;

use crate::Result;
use crate::device::cuda::{Argument, Geometry, Gpu, blocks};

/// Values of one entry that a block takes.
const RANGE: usize = 4096;
/// 32-bit words of an entry of the kernels' table.
const WORDS: usize = 16;

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
}

/// How many values that came in and how many that went out were no numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bad {
    pub gradients: u32,
    pub values: u32,
}

/// Runs a kernel over a table; `more` are its arguments after the table. What was no number, an entry each: waits for it.
///
/// # Errors
/// The device's.
///
/// # Safety
/// The entries' addresses are buffers of this GPU with as many values as the kernel takes of each, or 0 where it takes
/// none, and no two of those that it writes are one.
pub(crate) unsafe fn launch(
    gpu: &Arc<Gpu>,
    kernel: &'static str,
    entries: &[Entry],
    more: &[Argument<'_>],
) -> Result<Vec<Bad>> {
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let mut words: Vec<u32> = Vec::with_capacity(entries.len() * WORDS);
    let mut first_block = 0;
    for entry in entries {
        words.extend(entry.addresses.iter().flat_map(|a| [*a as u32, (a >> 32) as u32]));
        Argument::size(entry.count)?;
        words.extend([entry.count as u32, blocks(first_block, 1)?]);
        words.extend([entry.rate, entry.decay, entry.shrink, entry.momentum].map(f32::to_bits));
        words.extend([0, 0]);
        first_block += entry.count.div_ceil(RANGE);
    }
    let table = gpu.upload("a table of parameters", &words)?;
    let counts = gpu.zeros::<u32>("counts of bad values", 2 * entries.len())?;
    let arguments = [&[(&table).into(), (&counts).into(), Argument::size(entries.len())?][..], more].concat();
    let geometry = Geometry { grid: [blocks(first_block, 1)?, 1, 1], threads: 256, shared: 0 };
    // SAFETY: the table is laid out as the kernel's entries are, two counts each; the rest by this function's contract.
    unsafe { gpu.launch(kernel, geometry, &arguments)? };
    let counts = gpu.download(&counts)?;
    Ok(counts.as_chunks::<2>().0.iter().map(|&[gradients, values]| Bad { gradients, values }).collect())
}
