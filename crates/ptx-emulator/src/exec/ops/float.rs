//! f32 and f64 arithmetic. What rounds to nearest without further modifiers has its own function; all else goes through
//! one that reads rounding, `.ftz` and `.sat` from the instruction.

use super::{Map1, Map2, Map3, map, map1, map2, map3, slow1, slow2, slow3};
use crate::code::Handler;
use crate::soft::{self, NAN32, Rounding, bits32, double};

/// Flags in the instruction's number, above the direction of rounding (three bits).
pub(crate) const FTZ: i64 = 1 << 3;
pub(crate) const SAT: i64 = 1 << 4;
/// `min.NaN`: a NaN makes the result NaN.
pub(crate) const NAN: i64 = 1 << 5;

fn f(x: u32) -> f32 {
    f32::from_bits(x)
}

fn d(x: u64) -> f64 {
    f64::from_bits(x)
}

/// Flushes subnormals, where asked for.
#[inline(always)]
pub(crate) fn flush(x: u32, imm: i64) -> u32 {
    if imm & FTZ != 0 && x & 0x7f80_0000 == 0 { x & 0x8000_0000 } else { x }
}

/// Clamps to [0, 1], NaN to 0, where asked for; then flushes.
#[inline(always)]
pub(crate) fn finish(x: f32, imm: i64) -> u32 {
    if imm & SAT != 0 {
        let clamped = if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) };
        return flush(clamped.to_bits() & 0x7fff_ffff, imm);
    }
    flush(bits32(x), imm)
}

fn wide(x: u32, imm: i64) -> f64 {
    f64::from(f(flush(x, imm)))
}

map! {
    AbsF32: u32 => u32 = |a| a & 0x7fff_ffff;
    NegF32: u32 => u32 = |a| a ^ 0x8000_0000;
    AbsF64: u64 => u64 = |a| a & !(1 << 63);
    NegF64: u64 => u64 = |a| a ^ (1 << 63);
    SqrtF32: u32 => u32 = |a| bits32(f(a).sqrt());
    RcpF32: u32 => u32 = |a| bits32(1.0 / f(a));
    SqrtF64: u64 => u64 = |a| d(a).sqrt().to_bits();
    RcpF64: u64 => u64 = |a| (1.0 / d(a)).to_bits();
}

map! {
    AddF32: u32, u32 => u32 = |a, b| bits32(f(a) + f(b));
    SubF32: u32, u32 => u32 = |a, b| bits32(f(a) - f(b));
    MulF32: u32, u32 => u32 = |a, b| bits32(f(a) * f(b));
    DivF32: u32, u32 => u32 = |a, b| bits32(f(a) / f(b));
    AddF64: u64, u64 => u64 = |a, b| (d(a) + d(b)).to_bits();
    SubF64: u64, u64 => u64 = |a, b| (d(a) - d(b)).to_bits();
    MulF64: u64, u64 => u64 = |a, b| (d(a) * d(b)).to_bits();
    DivF64: u64, u64 => u64 = |a, b| (d(a) / d(b)).to_bits();
    MinF64: u64, u64 => u64 = |a, b| pick64(a, b, false);
    MaxF64: u64, u64 => u64 = |a, b| pick64(a, b, true);
    CopySign32: u32, u32 => u32 = |a, b| (a & 0x8000_0000) | (b & 0x7fff_ffff);
    CopySign64: u64, u64 => u64 = |a, b| (a & 1 << 63) | (b & !(1 << 63));
}

map! {
    FmaF32: u32, u32, u32 => u32 = |a, b, c, _| bits32(f(a).mul_add(f(b), f(c)));
    FmaF64: u64, u64, u64 => u64 = |a, b, c, _| d(a).mul_add(d(b), d(c)).to_bits();
    FmaAnyF32: u32, u32, u32 => u32 = |a, b, c, imm| {
        let r = Rounding::from_code(imm);
        finish(soft::round32(soft::fma_odd(wide(a, imm), wide(b, imm), wide(c, imm), r), r), imm)
    };
    FmaAnyF64: u64, u64, u64 => u64 = |a, b, c, imm| {
        double::fma(d(a), d(b), d(c), Rounding::from_code(imm)).to_bits()
    };
}

/// The smaller or larger of two f32: −0 below +0; a NaN loses.
#[inline(always)]
pub(crate) fn pick32(a: u32, b: u32, larger: bool) -> u32 {
    let (x, y) = (f(a), f(b));
    let tie = if larger { a & b } else { a | b };
    let first = if larger { x > y } else { x < y };
    let second = if larger { y > x } else { y < x };
    let number = if first {
        a
    } else if second {
        b
    } else {
        tie
    };
    let number = if x.is_nan() {
        b
    } else if y.is_nan() {
        a
    } else {
        number
    };
    if x.is_nan() && y.is_nan() { NAN32 } else { number }
}

fn pick64(a: u64, b: u64, larger: bool) -> u64 {
    let (x, y) = (d(a), d(b));
    if x.is_nan() {
        return if y.is_nan() { f64::NAN.to_bits() } else { b };
    }
    if y.is_nan() {
        return a;
    }
    let first = if larger { x > y } else { x < y };
    if first {
        a
    } else if x == y {
        if larger { a & b } else { a | b }
    } else {
        b
    }
}

macro_rules! any {
    ($($name:ident($($x:ident),*) $t:ty, $trait:ident { $($assoc:ident),* } = |$imm:ident, $r:ident| $e:expr;)*) => { $(
        pub(crate) struct $name;
        impl $trait for $name {
            $(type $assoc = $t;)*
            #[inline(always)]
            fn f($($x: $t,)* $imm: i64) -> $t {
                let $r = Rounding::from_code($imm);
                $e
            }
        }
    )* };
}

any! {
    AddAnyF32(a, b) u32, Map2 { A, B, D } = |imm, r| finish(soft::round32(soft::add_odd(wide(a, imm), wide(b, imm), r), r), imm);
    SubAnyF32(a, b) u32, Map2 { A, B, D } = |imm, r| finish(soft::round32(soft::add_odd(wide(a, imm), -wide(b, imm), r), r), imm);
    MulAnyF32(a, b) u32, Map2 { A, B, D } = |imm, r| finish(soft::round32(wide(a, imm) * wide(b, imm), r), imm);
    DivAnyF32(a, b) u32, Map2 { A, B, D } = |imm, r| finish(soft::round32(soft::div_odd(wide(a, imm), wide(b, imm)), r), imm);
    AddAnyF64(a, b) u64, Map2 { A, B, D } = |imm, r| double::add(d(a), d(b), r).to_bits();
    SubAnyF64(a, b) u64, Map2 { A, B, D } = |imm, r| double::add(d(a), -d(b), r).to_bits();
    MulAnyF64(a, b) u64, Map2 { A, B, D } = |imm, r| double::mul(d(a), d(b), r).to_bits();
    DivAnyF64(a, b) u64, Map2 { A, B, D } = |imm, r| double::div(d(a), d(b), r).to_bits();
    SqrtAnyF32(a) u32, Map1 { A, D } = |imm, r| finish(soft::round32(soft::sqrt_odd(wide(a, imm)), r), imm);
    RcpAnyF32(a) u32, Map1 { A, D } = |imm, r| finish(soft::round32(soft::div_odd(1.0, wide(a, imm)), r), imm);
    SqrtAnyF64(a) u64, Map1 { A, D } = |imm, r| double::sqrt(d(a), r).to_bits();
    RcpAnyF64(a) u64, Map1 { A, D } = |imm, r| double::div(1.0, d(a), r).to_bits();
}

macro_rules! plain_with_flags {
    ($($name:ident($($x:ident),*), $trait:ident { $($assoc:ident),* } = |$imm:ident| $e:expr;)*) => { $(
        pub(crate) struct $name;
        impl $trait for $name {
            $(type $assoc = u32;)*
            #[inline(always)]
            fn f($($x: u32,)* $imm: i64) -> u32 {
                $(let $x = flush($x, $imm);)*
                $e
            }
        }
    )* };
}

plain_with_flags! {
    // To nearest, with `.ftz` or `.sat`: `-use_fast_math` makes all arithmetic of this kind.
    AddFlagsF32(a, b), Map2 { A, B, D } = |imm| finish(f(a) + f(b), imm);
    SubFlagsF32(a, b), Map2 { A, B, D } = |imm| finish(f(a) - f(b), imm);
    MulFlagsF32(a, b), Map2 { A, B, D } = |imm| finish(f(a) * f(b), imm);
    FmaFlagsF32(a, b, c), Map3 { A, B, C, D } = |imm| finish(f(a).mul_add(f(b), f(c)), imm);
    MinF32(a, b), Map2 { A, B, D } = |imm| if imm & NAN != 0 && (f(a).is_nan() || f(b).is_nan()) { NAN32 } else { pick32(a, b, false) };
    MaxF32(a, b), Map2 { A, B, D } = |imm| if imm & NAN != 0 && (f(a).is_nan() || f(b).is_nan()) { NAN32 } else { pick32(a, b, true) };
    AbsFlagsF32(a), Map1 { A, D } = |_imm| a & 0x7fff_ffff;
    NegFlagsF32(a), Map1 { A, D } = |_imm| a ^ 0x8000_0000;
}

/// One source; `imm` has rounding and flags.
pub(crate) fn unary(name: &str, ty: &str, imm: i64) -> Option<Handler> {
    Some(match (name, ty) {
        ("abs", "f32") if imm == 0 => map1::<AbsF32>(),
        ("neg", "f32") if imm == 0 => map1::<NegF32>(),
        ("abs", "f32") => map1::<AbsFlagsF32>(),
        ("neg", "f32") => map1::<NegFlagsF32>(),
        ("abs", "f64") => map1::<AbsF64>(),
        ("neg", "f64") => map1::<NegF64>(),
        ("sqrt", "f32") if imm == 0 => map1::<SqrtF32>(),
        ("rcp", "f32") if imm == 0 => map1::<RcpF32>(),
        ("sqrt", "f64") if imm == 0 => map1::<SqrtF64>(),
        ("rcp", "f64") if imm == 0 => map1::<RcpF64>(),
        ("sqrt", "f32") => slow1::<SqrtAnyF32>(),
        ("rcp", "f32") => slow1::<RcpAnyF32>(),
        ("sqrt", "f64") => slow1::<SqrtAnyF64>(),
        ("rcp", "f64") => slow1::<RcpAnyF64>(),
        _ => return None,
    })
}

/// Two sources.
pub(crate) fn binary(name: &str, ty: &str, imm: i64) -> Option<Handler> {
    let nearest = imm & 7 == 0;
    Some(match (name, ty) {
        ("add", "f32") if imm == 0 => map2::<AddF32>(),
        ("sub", "f32") if imm == 0 => map2::<SubF32>(),
        ("mul", "f32") if imm == 0 => map2::<MulF32>(),
        ("div", "f32") if imm == 0 => map2::<DivF32>(),
        ("add", "f32") if nearest => map2::<AddFlagsF32>(),
        ("sub", "f32") if nearest => map2::<SubFlagsF32>(),
        ("mul", "f32") if nearest => map2::<MulFlagsF32>(),
        ("add", "f32") => slow2::<AddAnyF32>(),
        ("sub", "f32") => slow2::<SubAnyF32>(),
        ("mul", "f32") => slow2::<MulAnyF32>(),
        ("div", "f32") => slow2::<DivAnyF32>(),
        ("add", "f64") if imm == 0 => map2::<AddF64>(),
        ("sub", "f64") if imm == 0 => map2::<SubF64>(),
        ("mul", "f64") if imm == 0 => map2::<MulF64>(),
        ("div", "f64") if imm == 0 => map2::<DivF64>(),
        ("add", "f64") => slow2::<AddAnyF64>(),
        ("sub", "f64") => slow2::<SubAnyF64>(),
        ("mul", "f64") => slow2::<MulAnyF64>(),
        ("div", "f64") => slow2::<DivAnyF64>(),
        ("min", "f32") => map2::<MinF32>(),
        ("max", "f32") => map2::<MaxF32>(),
        ("min", "f64") => map2::<MinF64>(),
        ("max", "f64") => map2::<MaxF64>(),
        ("copysign", "f32") => map2::<CopySign32>(),
        ("copysign", "f64") => map2::<CopySign64>(),
        _ => return None,
    })
}

/// Three sources: `fma`, `mad`.
pub(crate) fn ternary(ty: &str, imm: i64) -> Option<Handler> {
    Some(match ty {
        "f32" if imm == 0 => map3::<FmaF32>(),
        "f32" if imm & 7 == 0 => map3::<FmaFlagsF32>(),
        "f32" => slow3::<FmaAnyF32>(),
        "f64" if imm == 0 => map3::<FmaF64>(),
        "f64" => slow3::<FmaAnyF64>(),
        _ => return None,
    })
}
