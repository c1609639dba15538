//! `setp`, `set`, `selp`, `slct`, and logic of predicates.

use super::super::cx::Lane;
use super::super::dispatch::handler;
use crate::code::{Handler, NONE};
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

handler! {
    /// `setp` of two values in a register: `d` for the lower, `d2` for the upper, both combined with `c`.
    setp_pair<C: Cmp<A = u32>> |cx, i| {
        let (a, b) = (cx.get::<u32>(i.a), cx.get::<u32>(i.b));
        let (mut p, mut q) = (0, 0);
        for l in 0..32 {
            p |= u32::from(C::holds(a[l] & 0xffff, b[l] & 0xffff)) << l;
            q |= u32::from(C::holds(a[l] >> 16, b[l] >> 16)) << l;
        }
        let with = if i.c == NONE { 0 } else { cx.pred(i.c) };
        cx.put_pred(i.d, combine(p, with, i.flags));
        cx.put_pred(i.d2, combine(q, with, i.flags));
    }
}

handler! {
    /// `set`: ones (or 1.0) where it holds.
    set<C: Cmp> |cx, i| {
        let (a, b) = (cx.get::<C::A>(i.a), cx.get::<C::A>(i.b));
        let q = if i.c == NONE { 0 } else { cx.pred(i.c) };
        let one = if i.flags & FLOAT != 0 { 1.0_f32.to_bits() } else { !0 };
        let mut r = [0_u32; 32];
        for l in 0..32 {
            let p = u32::from(C::holds(a[l], b[l]));
            r[l] = if combine(p, q >> l & 1, i.flags) != 0 { one } else { 0 };
        }
        cx.put(i.d, &r);
    }
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
    LtS16: u32 = |a, b| (a as i16) < b as i16;
    LeS16: u32 = |a, b| a as i16 <= b as i16;
    GtS16: u32 = |a, b| a as i16 > b as i16;
    GeS16: u32 = |a, b| a as i16 >= b as i16;
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

/// A float type as a row holds it.
pub(crate) trait Float {
    type A: Lane;
    fn value(bits: Self::A) -> f64;
}

pub(crate) struct Single;
impl Float for Single {
    type A = u32;
    #[inline(always)]
    fn value(bits: u32) -> f64 {
        f64::from(f32::from_bits(bits))
    }
}

/// f32 whose subnormals count as zero.
pub(crate) struct Flushed;
impl Float for Flushed {
    type A = u32;
    #[inline(always)]
    fn value(bits: u32) -> f64 {
        if bits & 0x7f80_0000 == 0 { 0.0 } else { f64::from(f32::from_bits(bits)) }
    }
}

pub(crate) struct Double;
impl Float for Double {
    type A = u64;
    #[inline(always)]
    fn value(bits: u64) -> f64 {
        f64::from_bits(bits)
    }
}

pub(crate) struct Half;
impl Float for Half {
    type A = u32;
    fn value(bits: u32) -> f64 {
        f64::from(soft::f16_to_f32(bits & 0xffff))
    }
}

/// f16 whose subnormals count as zero.
pub(crate) struct FlushedHalf;
impl Float for FlushedHalf {
    type A = u32;
    fn value(bits: u32) -> f64 {
        if bits & 0x7c00 == 0 { 0.0 } else { Half::value(bits) }
    }
}

pub(crate) struct Brain;
impl Float for Brain {
    type A = u32;
    fn value(bits: u32) -> f64 {
        f64::from(soft::bf16_to_f32(bits & 0xffff))
    }
}

/// One of them is NaN.
#[inline(always)]
fn unordered(a: f64, b: f64) -> bool {
    a.is_nan() || b.is_nan()
}

/// A comparison of floats.
pub(crate) trait Order {
    fn holds(a: f64, b: f64) -> bool;
}

macro_rules! orders {
    ($($name:ident = |$a:ident, $b:ident| $e:expr;)*) => { $(
        pub(crate) struct $name;
        impl Order for $name {
            #[inline(always)]
            fn holds($a: f64, $b: f64) -> bool { $e }
        }
    )* };
}

orders! {
    Eq = |a, b| a == b;
    Ne = |a, b| a != b && !unordered(a, b);
    Lt = |a, b| a < b;
    Le = |a, b| a <= b;
    Gt = |a, b| a > b;
    Ge = |a, b| a >= b;
    Equ = |a, b| a == b || unordered(a, b);
    Neu = |a, b| a != b;
    Ltu = |a, b| a < b || unordered(a, b);
    Leu = |a, b| a <= b || unordered(a, b);
    Gtu = |a, b| a > b || unordered(a, b);
    Geu = |a, b| a >= b || unordered(a, b);
    Num = |a, b| !unordered(a, b);
    Nan = |a, b| unordered(a, b);
}

pub(crate) struct Of<O, F>(std::marker::PhantomData<(O, F)>);
impl<O: Order, F: Float> Cmp for Of<O, F> {
    type A = F::A;
    #[inline(always)]
    fn holds(a: F::A, b: F::A) -> bool {
        O::holds(F::value(a), F::value(b))
    }
}

fn chosen<C: Cmp>(is_set: bool) -> Handler {
    if is_set { set::<C>() } else { setp::<C>() }
}

/// `$make::<Of<order, $f>>($args)` for the order of a name.
macro_rules! by_order {
    ($cmp:expr, $f:ty, $make:ident($($args:expr),*)) => {
        Some(match $cmp {
            "eq" => $make::<Of<Eq, $f>>($($args),*),
            "ne" => $make::<Of<Ne, $f>>($($args),*),
            "lt" => $make::<Of<Lt, $f>>($($args),*),
            "le" => $make::<Of<Le, $f>>($($args),*),
            "gt" => $make::<Of<Gt, $f>>($($args),*),
            "ge" => $make::<Of<Ge, $f>>($($args),*),
            "equ" => $make::<Of<Equ, $f>>($($args),*),
            "neu" => $make::<Of<Neu, $f>>($($args),*),
            "ltu" => $make::<Of<Ltu, $f>>($($args),*),
            "leu" => $make::<Of<Leu, $f>>($($args),*),
            "gtu" => $make::<Of<Gtu, $f>>($($args),*),
            "geu" => $make::<Of<Geu, $f>>($($args),*),
            "num" => $make::<Of<Num, $f>>($($args),*),
            "nan" => $make::<Of<Nan, $f>>($($args),*),
            _ => return None,
        })
    };
}

fn float<F: Float>(cmp: &str, is_set: bool) -> Option<Handler> {
    by_order!(cmp, F, chosen(is_set))
}

/// The handler of `setp.<cmp>.f16x2` or `.bf16x2`.
pub(crate) fn pair(cmp: &str, ty: &str, ftz: bool) -> Option<Handler> {
    match ty {
        "f16x2" if ftz => by_order!(cmp, FlushedHalf, setp_pair()),
        "f16x2" => by_order!(cmp, Half, setp_pair()),
        "bf16x2" => by_order!(cmp, Brain, setp_pair()),
        _ => None,
    }
}

/// The handler of `setp.<cmp>.<ty>` or `set.<cmp>.….<ty>`.
pub(crate) fn comparison(cmp: &str, ty: &str, ftz: bool, is_set: bool) -> Option<Handler> {
    match ty {
        "f32" if ftz => return float::<Flushed>(cmp, is_set),
        "f32" => return float::<Single>(cmp, is_set),
        "f64" => return float::<Double>(cmp, is_set),
        "f16" if ftz => return float::<FlushedHalf>(cmp, is_set),
        "f16" => return float::<Half>(cmp, is_set),
        "bf16" => return float::<Brain>(cmp, is_set),
        _ => {}
    }
    Some(match (cmp, ty) {
        ("eq", "b16" | "u16" | "s16" | "b32" | "u32" | "s32") => chosen::<Eq32>(is_set),
        ("ne", "b16" | "u16" | "s16" | "b32" | "u32" | "s32") => chosen::<Ne32>(is_set),
        ("lt", "s16") => chosen::<LtS16>(is_set),
        ("le", "s16") => chosen::<LeS16>(is_set),
        ("gt", "s16") => chosen::<GtS16>(is_set),
        ("ge", "s16") => chosen::<GeS16>(is_set),
        ("lt", "s32") => chosen::<LtS32>(is_set),
        ("le", "s32") => chosen::<LeS32>(is_set),
        ("gt", "s32") => chosen::<GtS32>(is_set),
        ("ge", "s32") => chosen::<GeS32>(is_set),
        ("lt" | "lo", "u16" | "u32") => chosen::<LtU32>(is_set),
        ("le" | "ls", "u16" | "u32") => chosen::<LeU32>(is_set),
        ("gt" | "hi", "u16" | "u32") => chosen::<GtU32>(is_set),
        ("ge" | "hs", "u16" | "u32") => chosen::<GeU32>(is_set),
        ("eq", "b64" | "u64" | "s64") => chosen::<Eq64>(is_set),
        ("ne", "b64" | "u64" | "s64") => chosen::<Ne64>(is_set),
        ("lt", "s64") => chosen::<LtS64>(is_set),
        ("le", "s64") => chosen::<LeS64>(is_set),
        ("gt", "s64") => chosen::<GtS64>(is_set),
        ("ge", "s64") => chosen::<GeS64>(is_set),
        ("lt" | "lo", "u64") => chosen::<LtU64>(is_set),
        ("le" | "ls", "u64") => chosen::<LeU64>(is_set),
        ("gt" | "hi", "u64") => chosen::<GtU64>(is_set),
        ("ge" | "hs", "u64") => chosen::<GeU64>(is_set),
        _ => return None,
    })
}
