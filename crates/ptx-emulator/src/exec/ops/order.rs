//! What fences and atomics say about the order of warps and blocks, for the race checks.
//!
//! A warp learns what others have published at a location *before* its own access there is judged, and publishes *after*
//! it: only what came before the fence is published, not the access itself.

use super::super::cx::{Cx, Row64, lanes};
use super::address::{OBSERVES, RELEASES};
use crate::check::global::Access;
use crate::check::sync::word_number;
use crate::code::Inst;

/// Added to offsets in shared memory, to tell them from global addresses.
pub(crate) const SHARED: u64 = 1 << 63;

/// Places that lanes access, each once where neighbours share it.
fn places(at: &Row64, mask: u32, tag: u64) -> impl Iterator<Item = u64> + '_ {
    let mut last = None;
    lanes(mask).map(move |l| at[l] | tag).filter(move |place| last.replace(*place) != Some(*place))
}

fn is_wanted(cx: &Cx<'_>) -> bool {
    let checks = &cx.launch.checks;
    checks.global_races || checks.shared_races
}

/// Blocks synchronise with each other through global memory, in kernels that run on one thread.
fn between_blocks(cx: &Cx<'_>, tag: u64) -> bool {
    tag != SHARED && cx.launch.code.ordered && cx.launch.checks.global_races
}

/// The warp is about to access what others may have published something at; `tag` is [`SHARED`] or 0.
pub(crate) fn learn(cx: &mut Cx<'_>, i: &Inst, how: Access, at: &Row64, mask: u32, tag: u64) {
    if !is_wanted(cx) {
        return;
    }
    let observes = i.flags & OBSERVES != 0;
    if observes {
        for place in places(at, mask, tag) {
            cx.block.clock.learn(cx.warp.number, place);
        }
    }
    if between_blocks(cx, tag) {
        let block = word_number(cx.block.number);
        for place in places(at, mask, tag) {
            cx.launch.sync.meet(block, place, how != Access::Poll, observes);
        }
    }
}

/// The warp has changed what others may look at.
pub(crate) fn publish(cx: &mut Cx<'_>, i: &Inst, at: &Row64, mask: u32, tag: u64) {
    if !is_wanted(cx) {
        return;
    }
    if i.flags & RELEASES != 0 {
        fence(cx, true);
    }
    let number = cx.warp.number;
    for place in places(at, mask, tag) {
        cx.block.clock.publish(number, place);
    }
    if between_blocks(cx, tag) {
        let (own, all) = cx.block.clock.for_blocks(number);
        let block = word_number(cx.block.number);
        for place in places(at, mask, tag) {
            cx.launch.sync.publish(block, place, number, own, all);
        }
    }
    cx.block.clock.access(number);
}

/// A fence for the warp's block, or also for others.
pub(crate) fn fence(cx: &mut Cx<'_>, for_all: bool) {
    cx.block.clock.fence(cx.warp.number, for_all);
}
