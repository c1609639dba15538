//! Operations across the lanes of a warp, and fences.

use super::super::cx::{Cx, Row, lanes};
use super::super::dispatch::handler;
use crate::code::{Inst, NONE};
use crate::finding::{FindingKind, Space};
use crate::memory::window_of;

/// Reports member masks that do not name exactly the lanes that take part. Lanes that have left the kernel may be named;
/// those that a block of another size than whole warps never had only with `also_unborn`.
fn check_members(cx: &mut Cx<'_>, members: &Row, also_unborn: bool) {
    if !cx.launch.checks.masks {
        return;
    }
    let mask = cx.mask;
    let wrong = if also_unborn { cx.warp.alive } else { cx.warp.alive | !cx.warp.born } & !mask;
    let mut bad = 0;
    for l in lanes(mask) {
        let named = members[l];
        bad |= u32::from(named >> l & 1 == 0 || named & wrong != 0) << l;
    }
    if bad != 0 {
        let named = members[bad.trailing_zeros() as usize];
        cx.report(FindingKind::BadMask, Space::Register, bad, || {
            format!("the member mask names lanes {named:#010x}, lanes {mask:#010x} take part")
        });
    }
}

/// The member mask operand as a row.
unsafe fn members(cx: &mut Cx<'_>, x: u32) -> Row {
    // SAFETY: as for handlers.
    let row = unsafe { *cx.get::<u32>(x) };
    check_members(cx, &row, false);
    row
}

handler! {
    /// `shfl.sync`: `imm` 0 up, 1 down, 2 bfly, 3 idx; `a` value, `b` lane or distance, `c` clamp and segment, `e` members.
    shuffle |cx, i| {
        let named = members(cx, i.e);
        let (a, b, c) = (*cx.get::<u32>(i.a), *cx.get::<u32>(i.b), *cx.get::<u32>(i.c));
        let mut r = a;
        let mut p = 0;
        let mut absent = 0;
        for l in 0..32 {
            let lane = l as i32;
            let (distance, clamp, segment) = ((b[l] & 31) as i32, (c[l] & 31) as i32, (c[l] >> 8 & 31) as i32);
            let last = (lane & segment) | (clamp & !segment);
            let first = lane & segment;
            let (from, valid) = match i.imm {
                0 => (lane - distance, lane - distance >= last),
                1 => (lane + distance, lane + distance <= last),
                2 => (lane ^ distance, lane ^ distance <= last),
                _ => {
                    let from = first | (distance & !segment);
                    (from, from <= last)
                }
            };
            let from = if valid { from & 31 } else { lane };
            p |= u32::from(valid) << l;
            r[l] = a[from as usize];
            let missing = valid && (cx.mask >> from & 1 == 0 || named[l] >> from & 1 == 0);
            absent |= u32::from(missing) << l;
        }
        absent &= cx.mask;
        if absent != 0 && cx.launch.checks.masks {
            cx.report(FindingKind::BadMask, Space::Register, absent, || {
                "the lane that is read from does not take part".to_owned()
            });
        }
        if i.d != NONE {
            cx.put(i.d, &r);
        }
        if i.d2 != NONE {
            cx.put_pred(i.d2, p);
        }
    }
}

handler! {
    /// `vote.sync`: `imm` 0 all, 1 any, 2 uni, 3 ballot; `a` predicate, `e` members.
    vote |cx, i| {
        let named = members(cx, i.e);
        let p = cx.pred(i.a) & cx.mask;
        let mut answer = 0;
        let mut ballots = [0_u32; 32];
        for l in lanes(cx.mask) {
            let asked = named[l] & cx.mask;
            let yes = p & named[l];
            ballots[l] = yes;
            let holds = match i.imm {
                0 => yes == asked,
                1 => yes != 0,
                _ => yes == asked || yes == 0,
            };
            answer |= u32::from(holds) << l;
        }
        if i.imm == 3 {
            cx.put(i.d, &ballots);
        } else {
            cx.put_pred(i.d, answer);
        }
    }
}

handler! {
    /// `match.sync`: `imm` 0 any, 1 all; `flags` 1 for 64 bits; `d2` whether all agree.
    matching |cx, i| {
        let named = members(cx, i.e);
        let value = if i.flags & 1 != 0 { *cx.get::<u64>(i.a) } else { cx.get::<u32>(i.a).map(u64::from) };
        let mut r = [0_u32; 32];
        let mut p = 0;
        for l in lanes(cx.mask) {
            let group = named[l] & cx.mask;
            let equal = lanes(group).filter(|o| value[*o] == value[l]).fold(0, |m, o| m | 1_u32 << o);
            let agree = equal == group;
            r[l] = if i.imm == 0 || agree { equal } else { 0 };
            p |= u32::from(agree) << l;
        }
        cx.put(i.d, &r);
        if i.d2 != NONE {
            cx.put_pred(i.d2, p);
        }
    }
}

handler! {
    /// `redux.sync`: `imm` 0 add, 1 min, 2 max, 3 and, 4 or, 5 xor; `flags` 1 signed.
    reduce |cx, i| {
        let named = members(cx, i.e);
        let a = *cx.get::<u32>(i.a);
        let signed = i.flags & 1 != 0;
        // Flipping the top bit turns the order of signed numbers into that of unsigned ones.
        let flip = if signed { 1 << 31 } else { 0 };
        let mut r = [0_u32; 32];
        for l in lanes(cx.mask) {
            let values = lanes(named[l] & cx.mask).map(|o| a[o]);
            r[l] = match i.imm {
                0 => values.fold(0, u32::wrapping_add),
                1 => values.map(|x| x ^ flip).min().unwrap_or(0) ^ flip,
                2 => values.map(|x| x ^ flip).max().unwrap_or(0) ^ flip,
                3 => values.fold(!0, |x, y| x & y),
                4 => values.fold(0, |x, y| x | y),
                _ => values.fold(0, |x, y| x ^ y),
            };
        }
        cx.put(i.d, &r);
    }
}

handler! {
    /// `activemask`.
    active |cx, i| {
        let mask = cx.mask;
        cx.put(i.d, &[mask; 32]);
    }
}

handler! {
    /// `elect.sync`: the lowest member.
    elect |cx, i| {
        let named = members(cx, i.e);
        let leader = (named[cx.mask.trailing_zeros() as usize & 31] & cx.mask).trailing_zeros();
        if i.d != NONE {
            cx.put(i.d, &[leader; 32]);
        }
        cx.put_pred(i.d2, 1_u32.checked_shl(leader).unwrap_or(0));
    }
}

handler! {
    /// `bar.warp.sync`: lanes of a warp run in step anyway; only the mask is checked. `__syncwarp()` names all 32 lanes
    /// wherever it stands, so that lanes which the block does not have are no fault here.
    sync |cx, i| {
        let named = *cx.get::<u32>(i.e);
        check_members(cx, &named, true);
    }
}

handler! {
    /// A fence; `imm` 1: one that reaches other blocks.
    fence |cx, i| {
        super::order::fence(cx, i.imm != 0);
    }
}

handler! {
    /// What a `bar.red` has found: into a row, or with `d2` into a predicate.
    voted |cx, i| {
        let found = cx.warp.vote_result;
        if i.d2 != NONE {
            cx.put_pred(i.d2, if found != 0 { !0 } else { 0 });
        } else {
            cx.put(i.d, &[found; 32]);
        }
    }
}

handler! {
    /// `isspacep`: `imm` the window's base, 0 for global memory.
    is_space |cx, i| {
        let a = cx.get::<u64>(i.a);
        let mut p = 0;
        for l in 0..32 {
            let window = window_of(a[l]);
            let holds = if i.imm == 0 { window.is_none_or(|w| w >= crate::memory::FIRST_BUFFER) } else { window == window_of(i.imm as u64) };
            p |= u32::from(holds) << l;
        }
        cx.put_pred(i.d, p);
    }
}

/// All 32 lanes must take part in an operation of the whole warp; tells whether they do.
pub(crate) fn whole_warp(cx: &mut Cx<'_>, _: &Inst) -> bool {
    let mask = cx.mask;
    if mask != !0 && cx.launch.checks.masks {
        cx.report(FindingKind::BadMask, Space::Register, mask, || {
            format!("this instruction needs all lanes of the warp, lanes {mask:#010x} take part")
        });
    }
    mask == !0
}
