//! `cp.async`: bytes are read when the copy is issued, and written to shared memory only when their group is waited for, so
//! that a missing wait shows. Groups are kept for each warp; lanes that commit apart are told from each other only by what
//! they have copied since.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};

use super::super::cx::{Cx, Row64, lanes};
use super::super::dispatch::handler;
use super::super::warp::Copying;
use super::address::{SIZE, by_allocation, inside, offsets, sectors};
use super::check::{check_global, report_shared};
use super::memory::{count_shared, shared_base};
use crate::check::global::Access;
use crate::code::NONE;
use crate::finding::Space;
use crate::memory::prefetch;

/// `c` is a predicate: where it holds the source is ignored.
pub(crate) const IGNORE: u16 = 1 << 11;

handler! {
    /// `cp.async [a + imm], [b + target], size, c`.
    copy |cx, i| {
        let bytes = 1_u32 << (i.flags & SIZE);
        let to = offsets(cx, i);
        let mut from: Row64 = [i.target as i32 as u64; 32];
        if i.b != NONE {
            let b = cx.get::<u64>(i.b);
            (0..32).for_each(|l| from[l] = from[l].wrapping_add(b[l]));
        }
        let mut sizes = [bytes; 32];
        if i.c != NONE && i.flags & IGNORE != 0 {
            let p = cx.pred(i.c);
            (0..32).for_each(|l| if p >> l & 1 != 0 { sizes[l] = 0 });
        } else if i.c != NONE {
            let c = cx.get::<u32>(i.c);
            (0..32).for_each(|l| sizes[l] = c[l].min(bytes));
        }
        let all = cx.mask;
        let whole = lanes(all).filter(|l| sizes[*l] == bytes).fold(0, |m, l| m | 1 << l);
        let partial = lanes(all & !whole).filter(|l| sizes[*l] > 0).fold(0, |m, l| m | 1 << l);
        if cx.launch.counting {
            let read: u64 = lanes(all).map(|l| u64::from(sizes[l])).sum();
            let touched = sectors(&from, whole | partial);
            let tally = cx.tally();
            tally.requests += 1;
            tally.sectors += touched;
            tally.bytes += read;
            count_shared(cx, &to, bytes);
        }
        let mut data = [[0_u8; 16]; 32];
        cx.mask = whole;
        if whole != 0 {
            by_allocation(cx, &from, bytes, |cx, group| {
                let view = &cx.launch.views[group.view];
                for l in lanes(group.mask) {
                    prefetch(view.pointer.wrapping_add(group.offsets[l] as usize));
                }
                check_global(cx, group, bytes, Access::Read, |_, _| false);
                for l in lanes(group.mask) {
                    for k in 0..(bytes / 4) as usize {
                        // SAFETY: the group's lanes are inside the allocation and aligned.
                        let word = unsafe {
                            let at = view.pointer.add(group.offsets[l] as usize + 4 * k);
                            AtomicU32::from_ptr(at.cast()).load(Relaxed)
                        };
                        data[l][4 * k..4 * k + 4].copy_from_slice(&word.to_le_bytes());
                    }
                }
            });
        }
        for k in 0..bytes as usize {
            cx.mask = lanes(partial).filter(|l| sizes[*l] as usize > k).fold(0, |m, l| m | 1 << l);
            if cx.mask == 0 {
                break;
            }
            let at = from.map(|a| a.wrapping_add(k as u64));
            by_allocation(cx, &at, 1, |cx, group| {
                let view = &cx.launch.views[group.view];
                for l in lanes(group.mask) {
                    // SAFETY: the group's lanes are inside the allocation.
                    data[l][k] = unsafe { AtomicU8::from_ptr(view.pointer.add(group.offsets[l] as usize)).load(Relaxed) };
                }
            });
        }
        cx.mask = all;
        let ok = inside(cx, &to, bytes, cx.launch.shared_bytes, Space::Shared);
        let mut fault = None;
        let shadowed = cx.launch.shared_shadow;
        let block = &mut *cx.block;
        let stamp = shadowed.then(|| block.shadow.stamp(&block.clock, cx.warp.number, cx.pc));
        for l in lanes(ok) {
            if let Some(stamp) = &stamp
                && let Some(f) = block.shadow.launch_copy(stamp, &block.clock, to[l], bytes)
            {
                fault = fault.or(Some((l, f)));
            }
            cx.warp.copies.push(Copying { lane: l as u8, bytes: bytes as u8, offset: to[l], data: data[l] });
        }
        if let Some((l, f)) = fault {
            report_shared(cx, 1 << l, to[l], bytes, f, "copies to");
        }
    }
}

handler! {
    /// `cp.async.commit_group`.
    commit |cx, _i| {
        let mask = cx.mask;
        let mut mine = cx.warp.spare_groups.pop().unwrap_or_default();
        std::mem::swap(&mut mine, &mut cx.warp.copies);
        if mask != !0 {
            // Copies of lanes that do not commit now wait on.
            let (committed, others) = mine.drain(..).partition(|c: &Copying| mask >> c.lane & 1 != 0);
            cx.warp.copies = others;
            mine = committed;
        }
        cx.warp.groups.push_back(mine);
    }
}

handler! {
    /// `cp.async.wait_group imm`; `cp.async.wait_all` with −1.
    wait |cx, i| {
        let keep = if i.imm < 0 {
            let rest = std::mem::take(&mut cx.warp.copies);
            cx.warp.groups.push_back(rest);
            0
        } else {
            i.imm as usize
        };
        while cx.warp.groups.len() > keep {
            if let Some(mut group) = cx.warp.groups.pop_front() {
                land(cx, &group);
                group.clear();
                cx.warp.spare_groups.push(group);
            }
        }
    }
}

/// Writes copies that have arrived.
fn land(cx: &mut Cx<'_>, group: &[Copying]) {
    let base = shared_base(cx);
    let shadowed = cx.launch.shared_shadow;
    let block = &mut *cx.block;
    block.clock.access(cx.warp.number);
    let stamp = shadowed.then(|| block.shadow.stamp(&block.clock, cx.warp.number, cx.pc));
    for copy in group {
        // SAFETY: the copy's range was checked when it was issued.
        unsafe {
            let to = base.add(copy.offset as usize);
            to.copy_from_nonoverlapping(copy.data.as_ptr(), copy.bytes as usize);
        }
        if let Some(stamp) = &stamp {
            block.shadow.land_copy(stamp, copy.offset, u32::from(copy.bytes));
        }
    }
}
