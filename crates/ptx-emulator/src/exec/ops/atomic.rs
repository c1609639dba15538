//! `atom` and `red`. Lanes act one after the other, the lowest first.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::super::cx::{Cx, Row, Row64, lanes};
use super::super::dispatch::handler;
use super::address::{
    LONG, OBSERVES, SIZE, Window, addresses, by_allocation, by_window, offsets, offsets_in,
};
use super::check::{check_global, check_shared_sync, mark_written};
use super::half::{Add, Brain, Half, Max as NarrowMax, Min as NarrowMin, Op};
use super::memory::{count_global, shared_pointers};
use super::order;
use crate::check::global::Access;
use crate::code::Inst;
use crate::memory::SHARED;
use crate::soft::bits32;

/// What is done with the old value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Add,
    Inc,
    Dec,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    Compare,
    AddF32,
    AddF64,
    MinSigned,
    MaxSigned,
    /// On one or two f16 or bf16.
    AddHalf(bool),
    AddBrain(bool),
    MinHalf(bool),
    MaxHalf(bool),
    MinBrain(bool),
    MaxBrain(bool),
}

const PLAIN: [Operation; 14] = [
    Operation::Add,
    Operation::Inc,
    Operation::Dec,
    Operation::Min,
    Operation::Max,
    Operation::And,
    Operation::Or,
    Operation::Xor,
    Operation::Exchange,
    Operation::Compare,
    Operation::AddF32,
    Operation::AddF64,
    Operation::MinSigned,
    Operation::MaxSigned,
];

impl Operation {
    pub fn named(name: &str, ty: &str) -> Option<Self> {
        let integer = matches!(ty, "u32" | "s32" | "u64" | "s64");
        let bits = matches!(ty, "b32" | "b64" | "u32" | "s32" | "u64" | "s64");
        let signed = ty.starts_with('s');
        Some(match name {
            "add" if integer => Self::Add,
            "add" if ty == "f32" => Self::AddF32,
            "add" if ty == "f64" => Self::AddF64,
            "add" if ty == "f16" || ty == "f16x2" => Self::AddHalf(ty == "f16x2"),
            "add" if ty == "bf16" || ty == "bf16x2" => Self::AddBrain(ty == "bf16x2"),
            "min" if ty == "f16" || ty == "f16x2" => Self::MinHalf(ty == "f16x2"),
            "max" if ty == "f16" || ty == "f16x2" => Self::MaxHalf(ty == "f16x2"),
            "min" if ty == "bf16" || ty == "bf16x2" => Self::MinBrain(ty == "bf16x2"),
            "max" if ty == "bf16" || ty == "bf16x2" => Self::MaxBrain(ty == "bf16x2"),
            "min" if integer && signed => Self::MinSigned,
            "max" if integer && signed => Self::MaxSigned,
            "min" if integer => Self::Min,
            "max" if integer => Self::Max,
            "inc" if ty == "u32" => Self::Inc,
            "dec" if ty == "u32" => Self::Dec,
            "and" if bits => Self::And,
            "or" if bits => Self::Or,
            "xor" if bits => Self::Xor,
            "exch" if bits => Self::Exchange,
            "cas" if bits || ty == "b16" => Self::Compare,
            _ => return None,
        })
    }

    /// Whether the final value depends on who comes first.
    pub fn depends_on_order(self) -> bool {
        !matches!(
            self,
            Self::Add
                | Self::Min
                | Self::Max
                | Self::MinSigned
                | Self::MaxSigned
                | Self::And
                | Self::Or
                | Self::Xor
                | Self::Inc
        )
    }

    /// A number for the instruction.
    pub fn code(self) -> u32 {
        match self {
            Self::AddHalf(two) => 16 + u32::from(two),
            Self::AddBrain(two) => 18 + u32::from(two),
            Self::MinHalf(two) => 20 + u32::from(two),
            Self::MaxHalf(two) => 22 + u32::from(two),
            Self::MinBrain(two) => 24 + u32::from(two),
            Self::MaxBrain(two) => 26 + u32::from(two),
            other => PLAIN.iter().position(|o| *o == other).unwrap_or(0) as u32,
        }
    }

    fn from_code(code: u32) -> Self {
        let two = code & 1 != 0;
        match code & !1 {
            16 => Self::AddHalf(two),
            18 => Self::AddBrain(two),
            20 => Self::MinHalf(two),
            22 => Self::MaxHalf(two),
            24 => Self::MinBrain(two),
            26 => Self::MaxBrain(two),
            _ => PLAIN[code as usize % PLAIN.len()],
        }
    }

    /// The new value from the old, the operand, and the second operand of `cas`.
    fn apply(self, old: u64, b: u64, c: u64, wide: bool) -> u64 {
        let signed = |x: u64| if wide { x as i64 } else { i64::from(x as u32 as i32) };
        let halves = |f: fn(u32, u32, u32, i64) -> u32, two: bool| {
            let (x, y) = (old as u32, b as u32);
            let low = f(x & 0xffff, y & 0xffff, 0, 0);
            u64::from(if two { low | f(x >> 16, y >> 16, 0, 0) << 16 } else { low })
        };
        match self {
            Self::Add => old.wrapping_add(b),
            Self::Inc => {
                if old >= b {
                    0
                } else {
                    old + 1
                }
            }
            Self::Dec => {
                if old == 0 || old > b {
                    b
                } else {
                    old - 1
                }
            }
            Self::Min => old.min(b),
            Self::Max => old.max(b),
            Self::MinSigned => {
                if signed(b) < signed(old) {
                    b
                } else {
                    old
                }
            }
            Self::MaxSigned => {
                if signed(b) > signed(old) {
                    b
                } else {
                    old
                }
            }
            Self::And => old & b,
            Self::Or => old | b,
            Self::Xor => old ^ b,
            Self::Exchange => b,
            Self::Compare => {
                if old == b {
                    c
                } else {
                    old
                }
            }
            Self::AddF32 => u64::from(bits32(f32::from_bits(old as u32) + f32::from_bits(b as u32))),
            Self::AddF64 => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
            Self::AddHalf(two) => halves(Add::f::<Half>, two),
            Self::AddBrain(two) => halves(Add::f::<Brain>, two),
            Self::MinHalf(two) => halves(NarrowMin::f::<Half>, two),
            Self::MaxHalf(two) => halves(NarrowMax::f::<Half>, two),
            Self::MinBrain(two) => halves(NarrowMin::f::<Brain>, two),
            Self::MaxBrain(two) => halves(NarrowMax::f::<Brain>, two),
        }
    }
}

/// Replaces the value at `pointer` and returns the old one.
unsafe fn replace(pointer: *mut u8, size: u16, f: impl Fn(u64) -> u64) -> u64 {
    // SAFETY: the caller has checked bounds and alignment.
    unsafe {
        match size {
            1 => {
                let cell = AtomicU16::from_ptr(pointer.cast());
                let old = cell.fetch_update(Relaxed, Relaxed, |x| Some(f(u64::from(x)) as u16));
                u64::from(old.unwrap_or_else(|x| x))
            }
            2 => {
                let cell = AtomicU32::from_ptr(pointer.cast());
                let old = cell.fetch_update(Relaxed, Relaxed, |x| Some(f(u64::from(x)) as u32));
                u64::from(old.unwrap_or_else(|x| x))
            }
            _ => {
                let cell = AtomicU64::from_ptr(pointer.cast());
                cell.fetch_update(Relaxed, Relaxed, |x| Some(f(x))).unwrap_or_else(|x| x)
            }
        }
    }
}

/// Acts on each lane's pointer; results of lanes left out are zeros.
unsafe fn act(cx: &mut Cx<'_>, i: &Inst, pointers: &[*mut u8; 32], mask: u32) -> Row64 {
    let operation = Operation::from_code(i.target);
    let mut old: Row64 = [0; 32];
    // SAFETY: as for handlers; `mask` has only lanes whose pointers are valid.
    unsafe {
        let long = i.flags & LONG != 0;
        for l in lanes(mask) {
            let (b, c) = (cx.lane(i.b, l, long), cx.lane(i.c, l, long));
            old[l] = replace(pointers[l], i.flags & SIZE, |x| operation.apply(x, b, c, long));
        }
    }
    old
}

fn access(i: &Inst) -> Access {
    Access::Atomic { observes: i.flags & OBSERVES != 0 }
}

unsafe fn on_global(cx: &mut Cx<'_>, i: &Inst, at: &Row64) {
    let bytes = 1 << (i.flags & SIZE);
    if cx.launch.counting {
        count_global(cx, at, bytes);
    }
    let mut old: Row64 = [0; 32];
    by_allocation(cx, at, bytes, |cx, group| {
        let view = &cx.launch.views[group.view];
        order::learn(cx, i, access(i), at, group.mask, 0);
        check_global(cx, group, bytes, access(i), |_, _| false);
        order::publish(cx, i, at, group.mask, 0);
        mark_written(view, group, bytes);
        let pointers = group.offsets.map(|o| view.pointer.wrapping_add(o as usize));
        // SAFETY: the group's lanes are inside the allocation and aligned.
        let here = unsafe { act(cx, i, &pointers, group.mask) };
        for l in lanes(group.mask) {
            old[l] = here[l];
        }
    });
    // SAFETY: as for handlers.
    unsafe { cx.put_low(i.d, &old, i.flags & LONG != 0) };
}

unsafe fn on_shared(cx: &mut Cx<'_>, i: &Inst, at: &Row) {
    let bytes = 1 << (i.flags & SIZE);
    let (ok, pointers) = shared_pointers(cx, at, bytes);
    let places = at.map(u64::from);
    order::learn(cx, i, access(i), &places, ok, order::SHARED);
    check_shared_sync(cx, at, ok, bytes, access(i));
    order::publish(cx, i, &places, ok, order::SHARED);
    // SAFETY: lanes of `ok` are inside the block's shared memory and aligned.
    unsafe {
        let old = act(cx, i, &pointers, ok);
        cx.put_low(i.d, &old, i.flags & LONG != 0);
    }
}

handler! {
    /// On global memory.
    global |cx, i| {
        let at = addresses(cx, i);
        on_global(cx, i, &at);
    }
}

handler! {
    /// On shared memory.
    shared |cx, i| {
        let at = offsets(cx, i);
        on_shared(cx, i, &at);
    }
}

handler! {
    /// Through generic addresses.
    generic |cx, i| {
        let at = addresses(cx, i);
        by_window(cx, &at, |cx, window| {
            // SAFETY: as for handlers.
            unsafe {
                match window {
                    Window::Shared => on_shared(cx, i, &offsets_in(&at, SHARED)),
                    // Local memory knows no atomics: such addresses are found to lie in no allocation.
                    _ => on_global(cx, i, &at),
                }
            }
        });
    }
}
