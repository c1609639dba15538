//! `ld` and `st`.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::super::cx::{Cx, Row, Row64, lanes};
use super::super::dispatch::handler;
use super::address::{
    LONG, SIGNED, SIZE, STRONG, SYNC, Window, addresses, by_allocation, by_window, inside, offsets,
    offsets_in, sectors, wavefronts,
};
use super::check::{
    check_global, check_local, check_shared_read, check_shared_sync, check_shared_write, mark_local,
    mark_written,
};
use super::order;
use crate::check::global::Access;
use crate::code::Inst;
use crate::finding::Space;
use crate::memory::{LOCAL, PARAM, SHARED};

/// Bytes of a whole access of one lane.
#[inline(always)]
fn bytes_of(i: &Inst) -> u32 {
    u32::from(i.lanes) << (i.flags & SIZE)
}

/// Reads an element of `1 << size` bytes. In device memory others may write meanwhile: the access is atomic.
#[inline(always)]
unsafe fn read(pointer: *const u8, size: u16) -> u64 {
    // SAFETY: the caller has checked bounds and alignment.
    unsafe {
        match size {
            0 => u64::from(AtomicU8::from_ptr(pointer.cast_mut()).load(Relaxed)),
            1 => u64::from(AtomicU16::from_ptr(pointer.cast_mut().cast()).load(Relaxed)),
            2 => u64::from(AtomicU32::from_ptr(pointer.cast_mut().cast()).load(Relaxed)),
            _ => AtomicU64::from_ptr(pointer.cast_mut().cast()).load(Relaxed),
        }
    }
}

#[inline(always)]
unsafe fn write(pointer: *mut u8, size: u16, value: u64) {
    // SAFETY: the caller has checked bounds and alignment.
    unsafe {
        match size {
            0 => AtomicU8::from_ptr(pointer).store(value as u8, Relaxed),
            1 => AtomicU16::from_ptr(pointer.cast()).store(value as u16, Relaxed),
            2 => AtomicU32::from_ptr(pointer.cast()).store(value as u32, Relaxed),
            _ => AtomicU64::from_ptr(pointer.cast()).store(value, Relaxed),
        }
    }
}

/// Loads the instruction's elements from each lane's pointer into its result rows.
#[inline(always)]
unsafe fn load(cx: &mut Cx<'_>, i: &Inst, pointers: &[*mut u8; 32], mask: u32) {
    let size = i.flags & SIZE;
    // SAFETY: `mask` has only lanes whose pointers are valid.
    unsafe {
        for k in 0..i.lanes as usize {
            let d = i.more[k];
            if i.flags & LONG != 0 {
                let mut r = [0_u64; 32];
                let shift = 64 - (8 << size);
                for l in lanes(mask) {
                    let x = read(pointers[l].add(k << size), size);
                    r[l] = if i.flags & SIGNED != 0 { ((x << shift) as i64 >> shift) as u64 } else { x };
                }
                cx.put(d, &r);
                continue;
            }
            let mut r: Row = [0; 32];
            if size == 2 && mask == !0 {
                for l in 0..32 {
                    r[l] = read(pointers[l].add(4 * k), 2) as u32;
                }
            } else if size == 2 {
                for l in lanes(mask) {
                    r[l] = read(pointers[l].add(4 * k), 2) as u32;
                }
            } else {
                let shift = 32_u32.saturating_sub(8 << size);
                for l in lanes(mask) {
                    let x = read(pointers[l].add(k << size), size) as u32;
                    r[l] = if i.flags & SIGNED != 0 { ((x << shift) as i32 >> shift) as u32 } else { x };
                }
            }
            cx.put(d, &r);
        }
    }
}

/// Stores the instruction's elements to each lane's pointer.
#[inline(always)]
unsafe fn store(cx: &Cx<'_>, i: &Inst, pointers: &[*mut u8; 32], mask: u32) {
    let size = i.flags & SIZE;
    // SAFETY: `mask` has only lanes whose pointers are valid.
    unsafe {
        for k in 0..i.lanes as usize {
            if i.flags & LONG != 0 {
                let v = cx.get::<u64>(i.more[k]);
                for l in lanes(mask) {
                    write(pointers[l].add(k << size), size, v[l]);
                }
            } else {
                let v = cx.get::<u32>(i.more[k]);
                for l in lanes(mask) {
                    write(pointers[l].add(k << size), size, u64::from(v[l]));
                }
            }
        }
    }
}

/// Whether a store changes nothing in one lane.
unsafe fn unchanged(cx: &Cx<'_>, i: &Inst, pointer: *mut u8, l: usize) -> bool {
    let size = i.flags & SIZE;
    (0..i.lanes as usize).all(|k| {
        // SAFETY: the lane's pointer is valid.
        unsafe {
            let value = cx.lane(i.more[k], l, i.flags & LONG != 0);
            let mask = if size >= 3 { !0 } else { (1_u64 << (8 << size)) - 1 };
            read(pointer.add(k << size), size) == value & mask
        }
    })
}

#[inline(always)]
unsafe fn load_global(cx: &mut Cx<'_>, i: &Inst, at: &Row64) {
    let bytes = bytes_of(i);
    if cx.launch.counting {
        count_global(cx, at, bytes);
    }
    let all = cx.mask;
    by_allocation(cx, at, bytes, |cx, group| {
        let view = &cx.launch.views[group.view];
        if i.flags & SYNC == 0 {
            check_global(cx, group, bytes, Access::Read, |_, _| false);
        } else {
            order::learn(cx, i, Access::Poll, at, group.mask, 0);
            check_global(cx, group, bytes, Access::Poll, |_, _| false);
        }
        let pointers = group.offsets.map(|o| view.pointer.wrapping_add(o as usize));
        cx.mask = group.mask;
        // SAFETY: the group's lanes are inside the allocation and aligned.
        unsafe { load(cx, i, &pointers, group.mask) };
        cx.mask = all;
    });
}

#[inline(always)]
unsafe fn store_global(cx: &mut Cx<'_>, i: &Inst, at: &Row64) {
    let bytes = bytes_of(i);
    if cx.launch.counting {
        count_global(cx, at, bytes);
    }
    by_allocation(cx, at, bytes, |cx, group| {
        let view = &cx.launch.views[group.view];
        let pointers = group.offsets.map(|o| view.pointer.wrapping_add(o as usize));
        if i.flags & SYNC == 0 {
            // SAFETY: the group's lanes are inside the allocation and aligned.
            check_global(cx, group, bytes, Access::Write, |cx, l| unsafe {
                unchanged(cx, i, pointers[l], l)
            });
        } else {
            order::learn(cx, i, Access::Signal, at, group.mask, 0);
            check_global(cx, group, bytes, Access::Signal, |_, _| false);
            order::publish(cx, i, at, group.mask, 0);
        }
        mark_written(view, group, bytes);
        // SAFETY: as above.
        unsafe { store(cx, i, &pointers, group.mask) };
    });
}

/// Counts a request to global memory.
pub(crate) fn count_global(cx: &mut Cx<'_>, at: &Row64, bytes: u32) {
    let mask = cx.mask;
    let tally = cx.tally();
    tally.requests += 1;
    tally.sectors += sectors(at, mask);
    tally.bytes += u64::from(bytes) * u64::from(mask.count_ones());
}

/// Counts a request to shared memory.
#[inline(always)]
pub(crate) fn count_shared(cx: &mut Cx<'_>, offsets: &Row, bytes: u32) {
    let mask = cx.mask;
    let (taken, ideal) = wavefronts(offsets, mask, bytes);
    let tally = cx.tally();
    tally.shared_requests += 1;
    tally.wavefronts += taken;
    tally.ideal += ideal;
    tally.shared_bytes += u64::from(bytes) * u64::from(mask.count_ones());
}

/// A request to shared memory: counted, its lanes that are inside and aligned, and their pointers.
#[inline(always)]
pub(crate) fn shared_pointers(cx: &mut Cx<'_>, at: &Row, bytes: u32) -> (u32, [*mut u8; 32]) {
    if cx.launch.counting {
        count_shared(cx, at, bytes);
    }
    let ok = inside(cx, at, bytes, cx.launch.shared_bytes, Space::Shared);
    let base = shared_base(cx);
    (ok, at.map(|o| base.wrapping_add(o as usize)))
}

/// First byte of shared memory.
#[inline(always)]
pub(crate) fn shared_base(cx: &mut Cx<'_>) -> *mut u8 {
    cx.block.shared.as_mut_ptr().cast()
}

#[inline(always)]
unsafe fn load_shared(cx: &mut Cx<'_>, i: &Inst, at: &Row) {
    let bytes = bytes_of(i);
    let (ok, pointers) = shared_pointers(cx, at, bytes);
    if i.flags & SYNC != 0 {
        order::learn(cx, i, Access::Poll, &at.map(u64::from), ok, order::SHARED);
    }
    if i.flags & STRONG == 0 {
        check_shared_read(cx, at, ok, bytes);
    } else {
        check_shared_sync(cx, at, ok, bytes, Access::Poll);
    }
    // SAFETY: lanes of `ok` are inside the block's shared memory and aligned.
    unsafe { load(cx, i, &pointers, ok) };
}

#[inline(always)]
unsafe fn store_shared(cx: &mut Cx<'_>, i: &Inst, at: &Row) {
    let bytes = bytes_of(i);
    let (ok, pointers) = shared_pointers(cx, at, bytes);
    if i.flags & STRONG == 0 {
        // SAFETY: lanes of `ok` are inside the block's shared memory and aligned.
        check_shared_write(cx, at, ok, bytes, |cx, l| unsafe { unchanged(cx, i, pointers[l], l) });
    } else {
        check_shared_sync(cx, at, ok, bytes, Access::Signal);
    }
    if i.flags & SYNC != 0 {
        order::publish(cx, i, &at.map(u64::from), ok, order::SHARED);
    }
    // SAFETY: as above.
    unsafe { store(cx, i, &pointers, ok) };
}

/// An access to each lane's own local memory: counted, its lanes that are inside and aligned, and their pointers.
fn local_pointers(cx: &mut Cx<'_>, at: &Row, bytes: u32) -> (u32, [*mut u8; 32]) {
    if cx.launch.counting {
        let lanes = u64::from(cx.mask.count_ones());
        cx.tally().bytes += u64::from(bytes) * lanes;
    }
    let window = cx.launch.code.local_bytes;
    let ok = inside(cx, at, bytes, window, Space::Local);
    let base: *mut u8 = cx.warp.local.as_mut_ptr().cast();
    (ok, std::array::from_fn(|l| base.wrapping_add(l * window as usize + at[l] as usize)))
}

#[inline(always)]
unsafe fn load_local(cx: &mut Cx<'_>, i: &Inst, at: &Row) {
    let bytes = bytes_of(i);
    let (ok, pointers) = local_pointers(cx, at, bytes);
    check_local(cx, at, ok, bytes);
    // SAFETY: lanes of `ok` are inside their thread's local memory; windows are multiples of 16 bytes, so aligned offsets
    // are aligned pointers.
    unsafe { load(cx, i, &pointers, ok) };
}

#[inline(always)]
unsafe fn store_local(cx: &mut Cx<'_>, i: &Inst, at: &Row) {
    let bytes = bytes_of(i);
    let (ok, pointers) = local_pointers(cx, at, bytes);
    mark_local(cx, at, ok, bytes);
    // SAFETY: as for loads.
    unsafe { store(cx, i, &pointers, ok) };
}

handler! {
    /// Loads from global or constant memory.
    ld_global |cx, i| {
        let at = addresses(cx, i);
        load_global(cx, i, &at);
    }
}

handler! {
    /// Stores to global memory.
    st_global |cx, i| {
        let at = addresses(cx, i);
        store_global(cx, i, &at);
    }
}

handler! {
    /// Loads from shared memory.
    ld_shared |cx, i| {
        let at = offsets(cx, i);
        load_shared(cx, i, &at);
    }
}

handler! {
    /// Stores to shared memory.
    st_shared |cx, i| {
        let at = offsets(cx, i);
        store_shared(cx, i, &at);
    }
}

handler! {
    /// Loads from local memory.
    ld_local |cx, i| {
        let at = offsets(cx, i);
        load_local(cx, i, &at);
    }
}

handler! {
    /// Stores to local memory.
    st_local |cx, i| {
        let at = offsets(cx, i);
        store_local(cx, i, &at);
    }
}

handler! {
    /// Loads through generic addresses.
    ld_generic |cx, i| {
        let at = addresses(cx, i);
        by_window(cx, &at, |cx, window| {
            // SAFETY: as for handlers.
            unsafe {
                match window {
                    Window::Global => load_global(cx, i, &at),
                    Window::Shared => load_shared(cx, i, &offsets_in(&at, SHARED)),
                    Window::Local => load_local(cx, i, &offsets_in(&at, LOCAL)),
                    Window::Param => load_parameters(cx, i, &offsets_in(&at, PARAM)),
                }
            }
        });
    }
}

unsafe fn load_parameters(cx: &mut Cx<'_>, i: &Inst, at: &Row) {
    let parameters = cx.launch.parameters;
    let bytes = bytes_of(i);
    let ok = inside(cx, at, bytes, parameters.len() as u32, Space::Global);
    // The launch's bytes have no alignment of their own: each lane reads its copy.
    let mut copies = [[0_u64; 4]; 32];
    let mut pointers = [std::ptr::null_mut(); 32];
    for l in lanes(ok) {
        let to: *mut u8 = copies[l].as_mut_ptr().cast();
        // SAFETY: `inside` has checked the range; an access has at most 32 bytes.
        unsafe { parameters.as_ptr().add(at[l] as usize).copy_to_nonoverlapping(to, bytes as usize) };
        pointers[l] = to;
    }
    // SAFETY: pointers of `ok` lanes lead to their copies.
    unsafe { load(cx, i, &pointers, ok) };
}

handler! {
    /// Stores through generic addresses.
    st_generic |cx, i| {
        let at = addresses(cx, i);
        by_window(cx, &at, |cx, window| {
            // SAFETY: as for handlers.
            unsafe {
                match window {
                    Window::Global => store_global(cx, i, &at),
                    Window::Shared => store_shared(cx, i, &offsets_in(&at, SHARED)),
                    Window::Local => store_local(cx, i, &offsets_in(&at, LOCAL)),
                    // Parameters cannot be written.
                    Window::Param => {
                        let bytes = bytes_of(i);
                        inside(cx, &offsets_in(&at, PARAM), bytes, 0, crate::finding::Space::Global);
                    }
                }
            }
        });
    }
}
