//! `ldmatrix` and `stmatrix`.

use super::super::cx::{Cx, Row};
use super::super::dispatch::handler;
use super::address::{inside, offsets};
use super::check::{check_shared_read, check_shared_write};
use super::memory::{count_shared, shared_base};
use super::warp::whole_warp;
use crate::finding::Space;

/// `.trans`.
pub(crate) const TRANSPOSED: u16 = 1 << 12;

handler! {
    /// `ldmatrix`: `lanes` matrices of 8 × 8 values of 16 bits; lane 8m + r gives the address of row r of matrix m.
    load_matrix |cx, i| {
        whole_warp(cx, i);
        let count = i.lanes as usize;
        let at = offsets(cx, i);
        let ok = rows(cx, &at, count);
        check_shared_read(cx, &at, ok, 16);
        let base = shared_base(cx);
        for m in 0..count {
            let mut tile = [[0_u16; 8]; 8];
            for r in 0..8 {
                if ok >> (8 * m + r) & 1 != 0 {
                    // SAFETY: the row is inside the block's shared memory and aligned to 16 bytes.
                    tile[r] = unsafe { base.add(at[8 * m + r] as usize).cast::<[u16; 8]>().read() };
                }
            }
            let mut d = [0_u32; 32];
            for l in 0..32 {
                let (g, t) = (l / 4, l % 4 * 2);
                let (low, high) = if i.flags & TRANSPOSED != 0 { (tile[t][g], tile[t + 1][g]) } else { (tile[g][t], tile[g][t + 1]) };
                d[l] = u32::from(low) | u32::from(high) << 16;
            }
            cx.put(i.more[m], &d);
        }
    }
}

handler! {
    /// `stmatrix`: the reverse.
    store_matrix |cx, i| {
        whole_warp(cx, i);
        let count = i.lanes as usize;
        let at = offsets(cx, i);
        let ok = rows(cx, &at, count);
        check_shared_write(cx, &at, ok, 16, |_, _| false);
        let base = shared_base(cx);
        for m in 0..count {
            let d = *cx.get::<u32>(i.more[m]);
            let mut tile = [[0_u16; 8]; 8];
            for l in 0..32 {
                let (g, t) = (l / 4, l % 4 * 2);
                let (low, high) = (d[l] as u16, (d[l] >> 16) as u16);
                if i.flags & TRANSPOSED != 0 {
                    (tile[t][g], tile[t + 1][g]) = (low, high);
                } else {
                    (tile[g][t], tile[g][t + 1]) = (low, high);
                }
            }
            for r in 0..8 {
                if ok >> (8 * m + r) & 1 != 0 {
                    // SAFETY: the row is inside the block's shared memory and aligned to 16 bytes.
                    unsafe { base.add(at[8 * m + r] as usize).cast::<[u16; 8]>().write(tile[r]) };
                }
            }
        }
    }
}

/// Lanes that give a row's address, where it is good.
fn rows(cx: &mut Cx<'_>, at: &Row, count: usize) -> u32 {
    let all = cx.mask;
    cx.mask &= ((1_u64 << (8 * count)) - 1) as u32;
    if cx.launch.counting {
        count_shared(cx, at, 16);
    }
    let ok = inside(cx, at, 16, cx.launch.shared_bytes, Space::Shared);
    cx.mask = all;
    ok
}
