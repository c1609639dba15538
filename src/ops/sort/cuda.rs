//! The radix sort on a GPU: how the kernels of `kernels/sort.cu` are launched.

use std::sync::Arc;

use crate::device::cuda::{Argument, DeviceBuffer, Geometry, Gpu, blocks, sizes};
use crate::{Error, Result};

/// Keys that a block takes, and digits that it tells apart, as in the kernels.
const TILE: usize = 4096;
const DIGITS: usize = 256;
const DIGIT_BITS: u32 = 8;

/// Keys in order.
pub(crate) struct Sorted {
    /// The most significant word of each, in order.
    pub first_word: DeviceBuffer<u32>,
    /// Numbers of the keys, in order.
    pub order: DeviceBuffer<u32>,
}

/// Passes over a word whose low `bits` may differ from 0, and the bits of a digit in each.
pub(crate) fn passes(bits: u32) -> (u32, u32) {
    let passes = bits.div_ceil(DIGIT_BITS).max(1);
    (passes, bits.div_ceil(passes).max(1))
}

/// Sorts `count` keys: `words` bits.len()×count, the most significant word first.
///
/// # Errors
/// The device's; more keys than 32-bit indices can name.
pub(crate) fn sort(words: &DeviceBuffer<u32>, bits: &[u32]) -> Result<Sorted> {
    let (gpu, count) = (words.gpu(), words.len() / bits.len().max(1));
    if bits.is_empty() || count == 0 || words.len() != bits.len() * count || bits.iter().any(|b| *b > 32) {
        let message = format!("{} words are no keys of {bits:?} bits", words.len());
        return Err(Error::shape("sort", message));
    }
    Argument::size(words.len())?;
    let tiles = count.div_ceil(TILE);
    let key = || gpu.allocate::<u32>("the sort's keys", count);
    let value = || gpu.allocate::<u32>("the sort's order", count);
    // Source and target of a pass, which swap.
    let (mut keys, mut order) = ([key()?, key()?], [value()?, value()?]);
    let counts = gpu.allocate::<u32>("the sort's counts", tiles * DIGITS)?;
    let totals = gpu.allocate::<u32>("the sort's digits", DIGITS)?;
    let by_tile = Geometry { grid: [blocks(count, TILE)?, 1, 1], threads: 256, shared: 0 };
    let [number, rows] = sizes([count, tiles])?;
    let mut fresh = true;
    for (word, &bits) in bits.iter().enumerate().rev() {
        // The first word's first pass reads the words themselves, each key being its own value.
        let mut in_place = fresh;
        if !fresh {
            let arguments = [Argument::part(words, word * count), (&order[0]).into(), (&keys[0]).into()];
            let arguments = [&arguments[..], &[number]].concat();
            // SAFETY: the order names keys below `count`.
            unsafe { gpu.launch("sort_gather_u32", Geometry::line(count, 256)?, &arguments)? };
        }
        let (passes, digit) = passes(bits);
        for pass in 0..passes {
            let source = if in_place { Argument::part(words, word * count) } else { (&keys[0]).into() };
            let values = if fresh { Argument::NONE } else { (&order[0]).into() };
            let cut = [number, Argument::I32((pass * digit) as i32), Argument::U32((1 << digit) - 1)];
            let arguments = [&[source, (&counts).into()][..], &cut].concat();
            // SAFETY: `count` keys, 256 counts a block.
            unsafe { gpu.launch("sort_histogram_u32", by_tile, &arguments)? };
            let offsets = Geometry { grid: [(DIGITS / 32) as u32, 1, 1], threads: 1024, shared: 0 };
            // SAFETY: as above; 256 totals.
            unsafe { gpu.launch("sort_offsets_u32", offsets, &[(&counts).into(), (&totals).into(), rows])? };
            // Keys are read again by the next pass of this word, and those of the most significant by the caller.
            let wanted = pass + 1 < passes || word == 0;
            let keys_out = if wanted { (&keys[1]).into() } else { Argument::NONE };
            let arguments =
                [source, values, (&counts).into(), (&totals).into(), keys_out, (&order[1]).into()];
            let arguments = [&arguments[..], &cut].concat();
            // SAFETY: as above; sources and targets are different buffers of `count` elements.
            unsafe { gpu.launch("sort_scatter_u32", by_tile, &arguments)? };
            keys.swap(0, 1);
            order.swap(0, 1);
            (fresh, in_place) = (false, false);
        }
    }
    let ([first_word, _], [order, _]) = (keys, order);
    Ok(Sorted { first_word, order })
}

/// values[i] becomes Σ of those before it, the last that of all: `count` values and room for one more.
///
/// # Errors
/// The device's.
pub(crate) fn prefix_sums(values: &DeviceBuffer<u32>) -> Result<()> {
    let count = Argument::size(values.len() - 1)?;
    let one = Geometry { grid: [1, 1, 1], threads: 1024, shared: 0 };
    // SAFETY: `count` values and one.
    unsafe { values.gpu().launch("scan_u32", one, &[values.into(), count]) }
}

/// The stable order of keys: `words[w]` has word w of each, of which only the low `bits[w]` may differ from 0.
///
/// # Errors
/// Words of different lengths; the device's.
pub fn order(gpu: &Arc<Gpu>, words: &[Vec<u32>], bits: &[u32]) -> Result<Vec<u32>> {
    if words.len() != bits.len() || words.iter().any(|w| w.len() != words[0].len()) {
        return Err(Error::shape("sort", "a number of bits and of keys for each word expected"));
    }
    if words.iter().all(Vec::is_empty) {
        return Ok(Vec::new());
    }
    let sorted = sort(&gpu.upload("the keys", &words.concat())?, bits)?;
    gpu.download(&sorted.order)
}
