//! Checks of accesses: written before? raced? copied in time?

use std::sync::atomic::Ordering::Relaxed;

use super::super::cx::{Cx, Row, lanes};
use super::super::launched::View;
use super::address::Group;
use crate::check::global::{Access, Did, Order, Rival, Shadow, Stamp};
use crate::check::shared::Fault;
use crate::finding::{FindingKind, Space};

/// Bits of an aligned access of up to 8 bytes in its byte of the map.
#[inline(always)]
fn bits(offset: u64, bytes: u32) -> u8 {
    (((1_u32 << bytes.min(8)) - 1) << (offset & 7)) as u8
}

/// Checks reads for bytes never written, and all accesses for races.
#[inline(always)]
pub(crate) fn check_global(
    cx: &mut Cx<'_>,
    group: &Group,
    bytes: u32,
    how: Access,
    same: impl Fn(&Cx<'_>, usize) -> bool,
) {
    let launch = cx.launch;
    let view = &launch.views[group.view];
    let reads = !matches!(how, Access::Write | Access::Signal);
    if reads && launch.checks.initialised && !view.written.is_null() {
        let mut unset = 0;
        for l in lanes(group.mask) {
            let offset = group.offsets[l];
            let want = bits(offset, bytes);
            for k in 0..bytes.div_ceil(8) as usize {
                // SAFETY: the map has a byte for each eight bytes of the allocation, which the access lies in.
                let have = unsafe { (*view.written.add((offset >> 3) as usize + k)).load(Relaxed) };
                unset |= u32::from(have & want != want) << l;
            }
        }
        if unset != 0 {
            let offset = group.offsets[unset.trailing_zeros() as usize];
            cx.report(FindingKind::UninitialisedRead, Space::Global, unset, || {
                format!(
                    "{bytes} bytes at offset {offset} of an allocation of {} bytes, never written",
                    view.bytes
                )
            });
        }
    }
    if launch.checks.global_races {
        races(cx, group, bytes, how, same);
    }
}

#[inline(always)]
fn races(cx: &mut Cx<'_>, group: &Group, bytes: u32, how: Access, same: impl Fn(&Cx<'_>, usize) -> bool) {
    let launch = cx.launch;
    let view = &launch.views[group.view];
    // Atomics count as accesses when they have published.
    if matches!(how, Access::Read | Access::Write) {
        cx.block.clock.access(cx.warp.number);
    }
    let code = launch.code;
    let new = || Shadow::new(view.base, view.bytes, code.global_grain, code.global_atomics, launch.parallel);
    let shadow = view.shadow.get_or_init(new);
    shadow.prefetch(lanes(group.mask).map(|l| group.offsets[l]));
    let stamp = Stamp::new(cx.block.number, cx.warp.number, &cx.block.clock, cx.pc);
    let mut found: Option<(usize, Rival)> = None;
    let mut raced = 0;
    {
        let order = Order { clock: &cx.block.clock, sync: launch.code.ordered.then_some(&launch.sync) };
        for l in lanes(group.mask) {
            if let Some(rival) = shadow.access(&stamp, order, group.offsets[l], bytes, how, || same(cx, l)) {
                raced |= 1 << l;
                found = found.or(Some((l, rival)));
            }
        }
    }
    if let Some((lane, rival)) = found {
        let offset = group.offsets[lane];
        cx.report(FindingKind::GlobalRace, Space::Global, raced, || {
            let (did, other) = (does(how), done(rival.did));
            let place = launch.place(rival.inst);
            let [x, y, z] = launch.block_index(rival.block);
            format!(
                "{did} {bytes} bytes at offset {offset} of an allocation of {} bytes, {other} by block ({x}, {y}, {z}), warp {}{place}, with nothing between that orders the two",
                view.bytes, rival.warp
            )
        });
    }
}

/// What an access does, for messages.
fn does(how: Access) -> &'static str {
    match how {
        Access::Read | Access::Poll => "reads",
        Access::Write | Access::Signal => "writes",
        Access::Atomic { .. } => "changes by an atomic",
    }
}

/// What was done to bytes, for messages.
pub(crate) fn done(did: Did) -> &'static str {
    match did {
        Did::Read => "read",
        Did::Wrote => "written",
        Did::Changed => "changed by an atomic",
    }
}

/// Notes that lanes write bytes.
#[inline(always)]
pub(crate) fn mark_written(view: &View, group: &Group, bytes: u32) {
    if view.written.is_null() {
        return;
    }
    // SAFETY: the flag lives in the allocation, which the launch has borrowed; it is there where the map is.
    let touched = unsafe { &*view.touched };
    if !touched.load(Relaxed) {
        touched.store(true, Relaxed);
    }
    for l in lanes(group.mask) {
        let offset = group.offsets[l];
        let want = bits(offset, bytes);
        for k in 0..bytes.div_ceil(8) as usize {
            // SAFETY: the map has a byte for each eight bytes of the allocation, which the access lies in.
            let byte = unsafe { &*view.written.add((offset >> 3) as usize + k) };
            if byte.load(Relaxed) & want != want {
                byte.fetch_or(want, Relaxed);
            }
        }
    }
}

/// Checks reads of shared memory.
#[inline(always)]
pub(crate) fn check_shared_read(cx: &mut Cx<'_>, at: &Row, ok: u32, bytes: u32) {
    if !cx.launch.shared_shadow {
        return;
    }
    let (me, pc) = (cx.warp.number, cx.pc);
    let block = &mut *cx.block;
    block.clock.access(me);
    let stamp = block.shadow.stamp(&block.clock, me, pc);
    let mut faults = 0;
    let mut first = None;
    for l in lanes(ok) {
        if let Some(fault) = block.shadow.read(&stamp, &block.clock, at[l], bytes) {
            faults |= 1 << l;
            first = first.or(Some((l, fault)));
        }
    }
    if let Some((lane, fault)) = first {
        report_shared(cx, faults, at[lane], bytes, fault, "reads");
    }
}

/// Checks writes of shared memory.
#[inline(always)]
pub(crate) fn check_shared_write(
    cx: &mut Cx<'_>,
    at: &Row,
    ok: u32,
    bytes: u32,
    same: impl Fn(&Cx<'_>, usize) -> bool,
) {
    if !cx.launch.shared_shadow {
        return;
    }
    let (me, pc) = (cx.warp.number, cx.pc);
    cx.block.clock.access(me);
    // The shadow steps out of the block, so that `same` may look at the rest.
    let mut shadow = std::mem::take(&mut cx.block.shadow);
    let stamp = shadow.stamp(&cx.block.clock, me, pc);
    let mut faults = 0;
    let mut first = None;
    for l in lanes(ok) {
        if let Some(fault) = shadow.write(&stamp, &cx.block.clock, at[l], bytes, || same(cx, l)) {
            faults |= 1 << l;
            first = first.or(Some((l, fault)));
        }
    }
    cx.block.shadow = shadow;
    if let Some((lane, fault)) = first {
        report_shared(cx, faults, at[lane], bytes, fault, "writes");
    }
}

/// Checks atomics, and accesses meant for other warps, in shared memory.
pub(crate) fn check_shared_sync(cx: &mut Cx<'_>, at: &Row, ok: u32, bytes: u32, how: Access) {
    if !cx.launch.shared_shadow {
        return;
    }
    let (me, pc) = (cx.warp.number, cx.pc);
    let block = &mut *cx.block;
    let stamp = block.shadow.stamp(&block.clock, me, pc);
    let mut faults = 0;
    let mut first = None;
    for l in lanes(ok) {
        if let Some(fault) = block.shadow.synchronise(&stamp, &block.clock, at[l], bytes, how) {
            faults |= 1 << l;
            first = first.or(Some((l, fault)));
        }
    }
    if let Some((lane, fault)) = first {
        report_shared(cx, faults, at[lane], bytes, fault, does(how));
    }
}

/// Reports a fault of shared memory, if its check is on.
#[cold]
pub(crate) fn report_shared(cx: &mut Cx<'_>, lanes: u32, at: u32, bytes: u32, fault: Fault, did: &str) {
    let launch = cx.launch;
    let checks = launch.checks;
    match fault {
        Fault::Unset if checks.initialised => {
            cx.report(FindingKind::UninitialisedRead, Space::Shared, lanes, || {
                format!("{bytes} bytes at shared offset {at}, never written by this block")
            });
        }
        Fault::Pending if checks.async_copies => {
            cx.report(FindingKind::MissingAsyncWait, Space::Shared, lanes, || {
                format!(
                    "{did} {bytes} bytes at shared offset {at} while a cp.async to them is not yet waited for"
                )
            });
        }
        Fault::Outside => {
            cx.report(FindingKind::OutOfBounds, Space::Shared, lanes, || {
                format!("{bytes} bytes at shared offset {at}, between two shared variables")
            });
        }
        Fault::Race(warp, did_before, inst) if checks.shared_races => {
            let other = done(did_before);
            cx.report(FindingKind::SharedRace, Space::Shared, lanes, || {
                let place = launch.place(inst);
                format!("{did} {bytes} bytes at shared offset {at}, {other} by warp {warp}{place}, without a barrier between")
            });
        }
        _ => {}
    }
}

/// Checks reads of local memory.
#[inline(always)]
pub(crate) fn check_local(cx: &mut Cx<'_>, at: &Row, ok: u32, bytes: u32) {
    if !cx.launch.checks.initialised {
        return;
    }
    let window = cx.launch.code.local_bytes as usize;
    let mut unset = 0;
    for l in lanes(ok) {
        let offset = l * window + at[l] as usize;
        let want = bits(offset as u64, bytes);
        for k in 0..bytes.div_ceil(8) as usize {
            unset |= u32::from(cx.warp.local_written[offset / 8 + k] & want != want) << l;
        }
    }
    if unset != 0 {
        let offset = at[unset.trailing_zeros() as usize];
        cx.report(FindingKind::UninitialisedRead, Space::Local, unset, || {
            format!("{bytes} bytes at local offset {offset}, never written by this thread")
        });
    }
}

/// Notes that lanes write local bytes.
#[inline(always)]
pub(crate) fn mark_local(cx: &mut Cx<'_>, at: &Row, ok: u32, bytes: u32) {
    let window = cx.launch.code.local_bytes as usize;
    for l in lanes(ok) {
        let offset = l * window + at[l] as usize;
        let want = bits(offset as u64, bytes);
        for k in 0..bytes.div_ceil(8) as usize {
            cx.warp.local_written[offset / 8 + k] |= want;
        }
    }
}
