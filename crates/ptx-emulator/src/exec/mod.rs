//! Execution: launches, blocks, warps, and the handlers of instructions by family.

mod block;
mod cx;
pub(crate) mod dispatch;
mod launched;
pub(crate) mod ops;
mod warp;

use rayon::prelude::*;

pub(crate) use cx::{Cx, RunError, Tally, Worker, lanes};
pub(crate) use launched::Launched;

use crate::error::LaunchError;
use crate::launch::{Launch, Options, Report, Stop};
use crate::memory::{LoadedModule, Memory};
use crate::report::collect;

/// Runs one launch.
pub(crate) fn run(
    launch: &Launch<'_>,
    module: &LoadedModule,
    memory: &mut Memory,
) -> Result<Report, LaunchError> {
    let data = &module.module().inner;
    let Some(index) = data.kernels.iter().position(|k| k.name == launch.kernel) else {
        let known = data.kernels.iter().map(|k| k.name.clone()).collect();
        return Err(LaunchError::UnknownKernel { name: launch.kernel.to_owned(), known });
    };
    if module.memory != memory.number() {
        return Err(LaunchError::ForeignMemory);
    }
    let info = &data.kernels[index];
    if launch.parameters.len() != info.parameter_bytes {
        return Err(LaunchError::ParameterBytes {
            expected: info.parameter_bytes,
            given: launch.parameters.len(),
        });
    }
    let excess = launched::exceeded(launch, info);
    if !excess.is_empty() {
        return Ok(collect::refused(launch, excess));
    }
    let code = &data.codes[index];
    let count = launch.grid.iter().map(|n| u64::from(*n)).product::<u64>();
    let Options { parallel, cooperative, .. } = launch.options;
    let parallel = parallel && !cooperative && !code.ordered && count > 1 && rayon::current_num_threads() > 1;
    let launched = Launched::new(launch, code, module, memory, parallel);
    let order = launch.options.seed.map(|seed| shuffled(count, seed));
    let block = |i: u64| order.as_ref().map_or(i, |o| o[i as usize]);
    let worker = if cooperative {
        block::run_together(&launched, count)
    } else if parallel {
        // Small chunks, so that threads finish together; what they gather is merged, which does not depend on the split.
        let chunk = (count / (rayon::current_num_threads() as u64 * 8)).clamp(1, 256);
        (0..count.div_ceil(chunk))
            .into_par_iter()
            .map_init(
                || block::Room::new(&launched),
                |room, c| {
                    block::run_blocks(&launched, room, (c * chunk..count.min((c + 1) * chunk)).map(block))
                },
            )
            .reduce(Worker::default, Worker::merge)
    } else {
        block::run_blocks(&launched, &mut block::Room::new(&launched), (0..count).map(block))
    };
    let stopped = worker.stop.map(|stop| match stop {
        RunError::Deadlock => Stop::Deadlock,
        RunError::Trap => Stop::Trap,
    });
    Ok(collect::report(launch, &launched, module.module().name(), worker, stopped))
}

/// Numbers of blocks in a random order.
fn shuffled(count: u64, seed: u64) -> Vec<u64> {
    let mut order: Vec<u64> = (0..count).collect();
    shuffle(&mut order, seed);
    order
}

/// Fisher and Yates's shuffle with SplitMix64 (Steele, Lea and Flood 2014).
pub(crate) fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = seed;
    for i in (1..items.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        items.swap(i, (z % (i as u64 + 1)) as usize);
    }
}
