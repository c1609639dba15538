//! `setp`, `set`, `selp`, `slct`, and logic of predicates.

use super::super::cx::Cx;
use super::super::cx::Lane;
use super::super::dispatch::{handler, slow_handler};
use crate::code::{Handler, Inst, NONE};
use crate::soft;

/// A comparison of two lanes.
pub(crate) trait Cmp {
    type A: Lane;
    fn holds(a: Self::A, b: Self::A) -> bool;
}

/// How two masks are combined, in the low bits of an instruction's flags.
pub(crate) const AND: u16 = 1;
pub(crate) const OR: u16 = 2;
pub(crate) const XOR: u16 = 3;
/// `set`: the result is 1.0, not all ones.
pub(crate) const FLOAT: u16 = 4;

fn combine(p: u32, q: u32, how: u16) -> u32 {
    match how & 3 {
        AND => p & q,
        OR => p | q,
        XOR => p ^ q,
        _ => p,
    }
}

handler! {
    /// `setp`: `d` the predicate, `d2` its opposite, `c` a predicate to combine with.
    setp<C: Cmp> |cx, i| {
        let (a, b) = (cx.get::<C::A>(i.a), cx.get::<C::A>(i.b));
        let mut p = 0;
        for l in 0..32 {
            p |= u32::from(C::holds(a[l], b[l])) << l;
        }
        let q = if i.c == NONE { 0 } else { cx.pred(i.c) };
        if i.d != NONE {
            cx.put_pred(i.d, combine(p, q, i.flags));
        }
        if i.d2 != NONE {
            cx.put_pred(i.d2, combine(!p, q, i.flags));
        }
    }
}

slow_handler! {
    /// `setp` of any comparison, by the number that [`relation`] gives.
    setp_any |cx, i| {
        let p = holding(cx, i, |v| v);
        let q = if i.c == NONE { 0 } else { cx.pred(i.c) };
        cx.put_pred(i.d, combine(p, q, i.flags));
        if i.d2 != NONE {
            cx.put_pred(i.d2, combine(!p, q, i.flags));
        }
    }
}

slow_handler! {
    /// `setp` of two values in a register: `d` for the lower, `d2` for the upper, both combined with `c`.
    setp_pair |cx, i| {
        let (p, q) = (holding(cx, i, |v| v & 0xffff), holding(cx, i, |v| v >> 16));
        let with = if i.c == NONE { 0 } else { cx.pred(i.c) };
        cx.put_pred(i.d, combine(p, with, i.flags));
        cx.put_pred(i.d2, combine(q, with, i.flags));
    }
}

slow_handler! {
    /// `set`: ones (or 1.0) where it holds.
    set |cx, i| {
        let p = holding(cx, i, |v| v);
        let q = if i.c == NONE { 0 } else { cx.pred(i.c) };
        let p = combine(p, q, i.flags);
        let one = if i.flags & FLOAT != 0 { 1.0_f32.to_bits() } else { !0 };
        let mut r = [0_u32; 32];
        for l in 0..32 {
            r[l] = if p >> l & 1 != 0 { one } else { 0 };
        }
        cx.put(i.d, &r);
    }
}

/// What two numbers of any type can be to each other, as bits.
const LESS: i64 = 1;
const EQUAL: i64 = 2;
const GREATER: i64 = 4;
const UNORDERED: i64 = 8;

/// Names of the types; the place of one is its number, `holding` knows it.
const TYPES: [&str; 15] = [
    "u16", "b16", "u32", "b32", "u64", "b64", "s16", "s32", "s64", "f16", "f16.ftz", "bf16", "f32",
    "f32.ftz", "f64",
];

/// The number of a comparison: its type, and in the upper half-byte what must hold.
pub(crate) fn relation(cmp: &str, ty: &str, ftz: bool) -> Option<i64> {
    let float = ty.contains('f');
    let name = if ftz { format!("{ty}.ftz") } else { ty.to_owned() };
    let kind = TYPES.iter().position(|t| *t == name)?;
    let unordered = if cmp.ends_with('u') { UNORDERED } else { 0 };
    let holds = match cmp.trim_end_matches('u') {
        _ if unordered != 0 && !float => return None,
        "eq" => EQUAL,
        "ne" => LESS | GREATER,
        _ if ty.starts_with('b') && !float => return None,
        "lt" => LESS,
        "le" => LESS | EQUAL,
        "gt" => GREATER,
        "ge" => GREATER | EQUAL,
        "lo" if ty.starts_with('u') => LESS,
        "ls" if ty.starts_with('u') => LESS | EQUAL,
        "hi" if ty.starts_with('u') => GREATER,
        "hs" if ty.starts_with('u') => GREATER | EQUAL,
        "num" if float => LESS | EQUAL | GREATER,
        "nan" if float => UNORDERED,
        _ => return None,
    };
    Some(kind as i64 | (holds | unordered) << 4)
}

/// Lanes in which the comparison of the instruction's number holds for `part` of its sources.
unsafe fn holding(cx: &Cx<'_>, i: &Inst, part: fn(u64) -> u64) -> u32 {
    let kind = i.imm & 15;
    let wide = matches!(kind, 4 | 5 | 8 | 14);
    let bits = |x: u32, l: usize| {
        // SAFETY: as for handlers; 64-bit types have rows of 64 bits.
        part(unsafe { cx.lane(x, l, wide) })
    };
    let signed = |bits: u64| match kind {
        6 => i64::from(bits as i16),
        7 => i64::from(bits as i32),
        _ => bits as i64,
    };
    let float = |bits: u64| match kind {
        10 if bits & 0x7c00 == 0 => 0.0,
        9 | 10 => f64::from(soft::f16_to_f32(bits as u32 & 0xffff)),
        11 => f64::from(soft::bf16_to_f32(bits as u32 & 0xffff)),
        13 if bits & 0x7f80_0000 == 0 => 0.0,
        12 | 13 => f64::from(f32::from_bits(bits as u32)),
        _ => f64::from_bits(bits),
    };
    let mut p = 0;
    for l in 0..32 {
        let (a, b) = (bits(i.a, l), bits(i.b, l));
        let order = match kind {
            0..6 => Some(a.cmp(&b)),
            6..9 => Some(signed(a).cmp(&signed(b))),
            _ => float(a).partial_cmp(&float(b)),
        };
        let relation = match order {
            Some(std::cmp::Ordering::Less) => LESS,
            Some(std::cmp::Ordering::Equal) => EQUAL,
            Some(std::cmp::Ordering::Greater) => GREATER,
            None => UNORDERED,
        };
        p |= u32::from(i.imm >> 4 & relation != 0) << l;
    }
    p
}

handler! {
    /// `selp`: `a` where the predicate `c` holds, else `b`.
    selp<L: Lane> |cx, i| {
        let (a, b) = (cx.get::<L>(i.a), cx.get::<L>(i.b));
        let p = cx.pred(i.c);
        let mut r = [L::default(); 32];
        for l in 0..32 {
            r[l] = if p >> l & 1 != 0 { a[l] } else { b[l] };
        }
        cx.put(i.d, &r);
    }
}

handler! {
    /// `slct`: `a` where `c` ≥ 0 (as an integer, or as f32 with [`FLOAT`]), else `b`.
    slct<L: Lane> |cx, i| {
        let (a, b, c) = (cx.get::<L>(i.a), cx.get::<L>(i.b), cx.get::<u32>(i.c));
        let mut r = [L::default(); 32];
        for l in 0..32 {
            let first = if i.flags & FLOAT != 0 { f32::from_bits(c[l]) >= 0.0 } else { (c[l] as i32) >= 0 };
            r[l] = if first { a[l] } else { b[l] };
        }
        cx.put(i.d, &r);
    }
}

handler! {
    /// Logic of predicates: `d = a op b`; without `b` a copy, negated with [`FLOAT`].
    logic |cx, i| {
        let a = cx.pred(i.a);
        let r = if i.b == NONE { a } else { combine(a, cx.pred(i.b), i.flags) };
        cx.put_pred(i.d, if i.flags & FLOAT != 0 { !r } else { r });
    }
}

handler! {
    /// `testp`: `imm` the sort, `flags` 1 for f64.
    testp |cx, i| {
        const NAMES: [&str; 6] = ["finite", "infinite", "number", "notanumber", "normal", "subnormal"];
        let name = NAMES[i.imm as usize % 6];
        let mut p = 0;
        for l in 0..32 {
            let (x, subnormal) = if i.flags & 1 != 0 {
                let x = f64::from_bits(cx.get::<u64>(i.a)[l]);
                (x, x.is_subnormal())
            } else {
                let x = f32::from_bits(cx.get::<u32>(i.a)[l]);
                (f64::from(x), x.is_subnormal())
            };
            p |= u32::from(super::special::test(name, x, subnormal) == Some(true)) << l;
        }
        cx.put_pred(i.d, p);
    }
}

macro_rules! cmps {
    ($($name:ident: $t:ty = |$a:ident, $b:ident| $e:expr;)*) => { $(
        pub(crate) struct $name;
        impl Cmp for $name {
            type A = $t;
            #[inline(always)]
            fn holds($a: $t, $b: $t) -> bool { $e }
        }
    )* };
}

cmps! {
    Eq32: u32 = |a, b| a == b;
    Ne32: u32 = |a, b| a != b;
    LtU32: u32 = |a, b| a < b;
    LeU32: u32 = |a, b| a <= b;
    GtU32: u32 = |a, b| a > b;
    GeU32: u32 = |a, b| a >= b;
    LtS32: u32 = |a, b| (a as i32) < b as i32;
    LeS32: u32 = |a, b| a as i32 <= b as i32;
    GtS32: u32 = |a, b| a as i32 > b as i32;
    GeS32: u32 = |a, b| a as i32 >= b as i32;
    Eq64: u64 = |a, b| a == b;
    Ne64: u64 = |a, b| a != b;
    LtU64: u64 = |a, b| a < b;
    LeU64: u64 = |a, b| a <= b;
    GtU64: u64 = |a, b| a > b;
    GeU64: u64 = |a, b| a >= b;
    LtS64: u64 = |a, b| (a as i64) < b as i64;
    LeS64: u64 = |a, b| a as i64 <= b as i64;
    GtS64: u64 = |a, b| a as i64 > b as i64;
    GeS64: u64 = |a, b| a as i64 >= b as i64;
}

/// Comparisons of f32.
macro_rules! cmps_f32 {
    ($($name:ident = |$a:ident, $b:ident| $e:expr;)*) => { $(
        pub(crate) struct $name;
        impl Cmp for $name {
            type A = u32;
            #[inline(always)]
            fn holds(a: u32, b: u32) -> bool {
                let ($a, $b) = (f32::from_bits(a), f32::from_bits(b));
                $e
            }
        }
    )* };
}

#[allow(
    clippy::neg_cmp_op_on_partial_ord,
    reason = "what is not less may be no number: that is what they say"
)]
mod unordered {
    use super::Cmp;
    cmps_f32! {
        Ltu = |a, b| !(a >= b);
        Leu = |a, b| !(a > b);
        Gtu = |a, b| !(a <= b);
        Geu = |a, b| !(a < b);
    }
}
use unordered::{Geu, Gtu, Leu, Ltu};

cmps_f32! {
    Eq = |a, b| a == b;
    Ne = |a, b| a != b && !a.is_nan() && !b.is_nan();
    Lt = |a, b| a < b;
    Le = |a, b| a <= b;
    Gt = |a, b| a > b;
    Ge = |a, b| a >= b;
    Equ = |a, b| a == b || a.is_nan() || b.is_nan();
    Neu = |a, b| a != b;
}

/// The handler of a comparison that kernels are full of: integers of 32 and 64 bits, and f32.
pub(crate) fn fast(cmp: &str, ty: &str, ftz: bool) -> Option<Handler> {
    if ftz {
        return None;
    }
    Some(match (cmp, ty) {
        ("eq", "f32") => setp::<Eq>(),
        ("ne", "f32") => setp::<Ne>(),
        ("lt", "f32") => setp::<Lt>(),
        ("le", "f32") => setp::<Le>(),
        ("gt", "f32") => setp::<Gt>(),
        ("ge", "f32") => setp::<Ge>(),
        ("equ", "f32") => setp::<Equ>(),
        ("neu", "f32") => setp::<Neu>(),
        ("ltu", "f32") => setp::<Ltu>(),
        ("leu", "f32") => setp::<Leu>(),
        ("gtu", "f32") => setp::<Gtu>(),
        ("geu", "f32") => setp::<Geu>(),
        ("eq", "b16" | "u16" | "s16" | "b32" | "u32" | "s32") => setp::<Eq32>(),
        ("ne", "b16" | "u16" | "s16" | "b32" | "u32" | "s32") => setp::<Ne32>(),
        ("lt", "s32") => setp::<LtS32>(),
        ("le", "s32") => setp::<LeS32>(),
        ("gt", "s32") => setp::<GtS32>(),
        ("ge", "s32") => setp::<GeS32>(),
        ("lt" | "lo", "u16" | "u32") => setp::<LtU32>(),
        ("le" | "ls", "u16" | "u32") => setp::<LeU32>(),
        ("gt" | "hi", "u16" | "u32") => setp::<GtU32>(),
        ("ge" | "hs", "u16" | "u32") => setp::<GeU32>(),
        ("eq", "b64" | "u64" | "s64") => setp::<Eq64>(),
        ("ne", "b64" | "u64" | "s64") => setp::<Ne64>(),
        ("lt", "s64") => setp::<LtS64>(),
        ("le", "s64") => setp::<LeS64>(),
        ("gt", "s64") => setp::<GtS64>(),
        ("ge", "s64") => setp::<GeS64>(),
        ("lt" | "lo", "u64") => setp::<LtU64>(),
        ("le" | "ls", "u64") => setp::<LeU64>(),
        ("gt" | "hi", "u64") => setp::<GtU64>(),
        ("ge" | "hs", "u64") => setp::<GeU64>(),
        _ => return None,
    })
}
