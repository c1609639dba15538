//! Integer and bit arithmetic. Registers of 16 bits hold their value zero-extended in a lane of 32.

use super::{Map2, Map4, map, map1, map2, map3, map4, slow1, slow2, slow3};
use crate::code::Handler;

fn s16(x: u32) -> i32 {
    i32::from(x as u16 as i16)
}

fn s24(x: u32) -> i64 {
    i64::from((x << 8) as i32 >> 8)
}

fn low(x: u32) -> u32 {
    x & 0xffff
}

map! {
    Neg16: u32 => u32 = |a| low(a.wrapping_neg());
    Neg32: u32 => u32 = |a| a.wrapping_neg();
    Neg64: u64 => u64 = |a| a.wrapping_neg();
    Abs16: u32 => u32 = |a| low(s16(a).unsigned_abs());
    Abs32: u32 => u32 = |a| (a as i32).unsigned_abs();
    Abs64: u64 => u64 = |a| (a as i64).unsigned_abs();
    Not16: u32 => u32 = |a| low(!a);
    Not32: u32 => u32 = |a| !a;
    Not64: u64 => u64 = |a| !a;
    Cnot32: u32 => u32 = |a| u32::from(a == 0);
    Cnot64: u64 => u64 = |a| u64::from(a == 0);
    Popc32: u32 => u32 = |a| a.count_ones();
    Popc64: u64 => u32 = |a| a.count_ones();
    Clz32: u32 => u32 = |a| a.leading_zeros();
    Clz64: u64 => u32 = |a| a.leading_zeros();
    Brev32: u32 => u32 = |a| a.reverse_bits();
    Brev64: u64 => u64 = |a| a.reverse_bits();
    FindU32: u32 => u32 = |a| if a == 0 { !0 } else { 31 - a.leading_zeros() };
    FindS32: u32 => u32 = |a| { let a = if (a as i32) < 0 { !a } else { a }; if a == 0 { !0 } else { 31 - a.leading_zeros() } };
    FindU64: u64 => u32 = |a| if a == 0 { !0 } else { 63 - a.leading_zeros() };
    FindS64: u64 => u32 = |a| { let a = if (a as i64) < 0 { !a } else { a }; if a == 0 { !0 } else { 63 - a.leading_zeros() } };
    ShiftAmountU64: u64 => u32 = |a| if a == 0 { !0 } else { a.leading_zeros() };
    ShiftAmountS64: u64 => u32 = |a| { let a = if (a as i64) < 0 { !a } else { a }; if a == 0 { !0 } else { a.leading_zeros() } };
    ShiftAmountU32: u32 => u32 = |a| if a == 0 { !0 } else { a.leading_zeros() };
    ShiftAmountS32: u32 => u32 = |a| { let a = if (a as i32) < 0 { !a } else { a }; if a == 0 { !0 } else { a.leading_zeros() } };
}

map! {
    Add16: u32, u32 => u32 = |a, b| low(a.wrapping_add(b));
    Add32: u32, u32 => u32 = |a, b| a.wrapping_add(b);
    Add64: u64, u64 => u64 = |a, b| a.wrapping_add(b);
    AddSat32: u32, u32 => u32 = |a, b| (a as i32).saturating_add(b as i32) as u32;
    Sub16: u32, u32 => u32 = |a, b| low(a.wrapping_sub(b));
    Sub32: u32, u32 => u32 = |a, b| a.wrapping_sub(b);
    Sub64: u64, u64 => u64 = |a, b| a.wrapping_sub(b);
    SubSat32: u32, u32 => u32 = |a, b| (a as i32).saturating_sub(b as i32) as u32;
    Mul16: u32, u32 => u32 = |a, b| low(a.wrapping_mul(b));
    Mul32: u32, u32 => u32 = |a, b| a.wrapping_mul(b);
    Mul64: u64, u64 => u64 = |a, b| a.wrapping_mul(b);
    MulHiU16: u32, u32 => u32 = |a, b| low(a.wrapping_mul(b) >> 16);
    MulHiS16: u32, u32 => u32 = |a, b| low((s16(a).wrapping_mul(s16(b)) >> 16) as u32);
    MulHiU32: u32, u32 => u32 = |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32;
    MulHiS32: u32, u32 => u32 = |a, b| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32;
    MulHiU64: u64, u64 => u64 = |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64;
    MulHiS64: u64, u64 => u64 = |a, b| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64;
    MulWideU16: u32, u32 => u32 = |a, b| low(a).wrapping_mul(low(b));
    MulWideS16: u32, u32 => u32 = |a, b| s16(a).wrapping_mul(s16(b)) as u32;
    MulWideU32: u32, u32 => u64 = |a, b| u64::from(a) * u64::from(b);
    MulWideS32: u32, u32 => u64 = |a, b| (i64::from(a as i32) * i64::from(b as i32)) as u64;
    Mul24LoU: u32, u32 => u32 = |a, b| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff);
    Mul24LoS: u32, u32 => u32 = |a, b| (((a << 8) as i32 >> 8).wrapping_mul((b << 8) as i32 >> 8)) as u32;
    // Bits 16 to 47 of the product.
    Mul24HiU: u32, u32 => u32 = |a, b| ((u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff)) >> 16) as u32;
    Mul24HiS: u32, u32 => u32 = |a, b| ((s24(a) * s24(b)) >> 16) as u32;
    // Division by zero gives all ones, as GPUs do; PTX leaves it open.
    DivU16: u32, u32 => u32 = |a, b| low(a.checked_div(b).unwrap_or(!0));
    DivS16: u32, u32 => u32 = |a, b| if b == 0 { 0xffff } else { low(s16(a).wrapping_div(s16(b)) as u32) };
    DivU32: u32, u32 => u32 = |a, b| a.checked_div(b).unwrap_or(!0);
    DivS32: u32, u32 => u32 = |a, b| if b == 0 { !0 } else { (a as i32).wrapping_div(b as i32) as u32 };
    DivU64: u64, u64 => u64 = |a, b| a.checked_div(b).unwrap_or(!0);
    DivS64: u64, u64 => u64 = |a, b| if b == 0 { !0 } else { (a as i64).wrapping_div(b as i64) as u64 };
    RemU16: u32, u32 => u32 = |a, b| low(a.checked_rem(b).unwrap_or(a));
    RemS16: u32, u32 => u32 = |a, b| if b == 0 { a } else { low(s16(a).wrapping_rem(s16(b)) as u32) };
    RemU32: u32, u32 => u32 = |a, b| a.checked_rem(b).unwrap_or(a);
    RemS32: u32, u32 => u32 = |a, b| if b == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u32 };
    RemU64: u64, u64 => u64 = |a, b| a.checked_rem(b).unwrap_or(a);
    RemS64: u64, u64 => u64 = |a, b| if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 };
    MinS16: u32, u32 => u32 = |a, b| if s16(a) < s16(b) { a } else { b };
    MaxS16: u32, u32 => u32 = |a, b| if s16(a) > s16(b) { a } else { b };
    MinU32: u32, u32 => u32 = |a, b| a.min(b);
    MaxU32: u32, u32 => u32 = |a, b| a.max(b);
    MinS32: u32, u32 => u32 = |a, b| (a as i32).min(b as i32) as u32;
    MaxS32: u32, u32 => u32 = |a, b| (a as i32).max(b as i32) as u32;
    MinU64: u64, u64 => u64 = |a, b| a.min(b);
    MaxU64: u64, u64 => u64 = |a, b| a.max(b);
    MinS64: u64, u64 => u64 = |a, b| (a as i64).min(b as i64) as u64;
    MaxS64: u64, u64 => u64 = |a, b| (a as i64).max(b as i64) as u64;
    And32: u32, u32 => u32 = |a, b| a & b;
    And64: u64, u64 => u64 = |a, b| a & b;
    Or32: u32, u32 => u32 = |a, b| a | b;
    Or64: u64, u64 => u64 = |a, b| a | b;
    Xor32: u32, u32 => u32 = |a, b| a ^ b;
    Xor64: u64, u64 => u64 = |a, b| a ^ b;
    // Shifts by more than the width give zeros (or signs).
    Shl16: u32, u32 => u32 = |a, b| if b > 15 { 0 } else { low(a << b) };
    Shl32: u32, u32 => u32 = |a, b| if b > 31 { 0 } else { a << b };
    Shl64: u64, u32 => u64 = |a, b| if b > 63 { 0 } else { a << b };
    ShrU16: u32, u32 => u32 = |a, b| if b > 15 { 0 } else { a >> b };
    ShrU32: u32, u32 => u32 = |a, b| if b > 31 { 0 } else { a >> b };
    ShrU64: u64, u32 => u64 = |a, b| if b > 63 { 0 } else { a >> b };
    ShrS16: u32, u32 => u32 = |a, b| low((s16(a) >> b.min(15)) as u32);
    ShrS32: u32, u32 => u32 = |a, b| ((a as i32) >> b.min(31)) as u32;
    ShrS64: u64, u32 => u64 = |a, b| ((a as i64) >> b.min(63)) as u64;
    Bmsk: u32, u32 => u32 = |a, b| {
        let (from, to) = (a.min(32), a.saturating_add(b).min(32));
        (((1_u64 << to) - 1) & !((1_u64 << from) - 1)) as u32
    };
}

fn prmt(a: u32, b: u32, selector: u32, mode: i64) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let pick = |s: u32| {
        let byte = bytes[(s & 7) as usize];
        if s & 8 != 0 { if byte & 0x80 != 0 { 0xff } else { 0 } } else { byte }
    };
    let s = selector & 3;
    let order: [u32; 4] = match mode {
        1 => [s, s + 1, s + 2, s + 3],
        2 => [s, (s + 7) % 8, (s + 6) % 8, (s + 5) % 8],
        3 => [s; 4],
        4 => [s, s.max(1), s.max(2), 3],
        5 => [0, s.min(1), s.min(2), s],
        6 => {
            let h = (s & 1) * 2;
            [h, h + 1, h, h + 1]
        }
        _ => [selector & 15, selector >> 4 & 15, selector >> 8 & 15, selector >> 12 & 15],
    };
    u32::from_le_bytes(order.map(pick))
}

fn dot4(a: u32, b: u32, c: u32, mode: i64) -> u32 {
    let value = |x: u8, signed: bool| if signed { i32::from(x as i8) } else { i32::from(x) };
    let (x, y) = (a.to_le_bytes(), b.to_le_bytes());
    (0..4).fold(c, |sum, k| {
        sum.wrapping_add(value(x[k], mode & 1 != 0).wrapping_mul(value(y[k], mode & 2 != 0)) as u32)
    })
}

/// Two products of 16-bit halves of `a` with two bytes of `b`: the lower, or with mode bit 2 the upper two.
fn dot2(a: u32, b: u32, c: u32, mode: i64) -> u32 {
    let half = |x: u32| if mode & 1 != 0 { s16(x) } else { low(x) as i32 };
    let byte = |x: u32| if mode & 2 != 0 { i32::from(x as u8 as i8) } else { i32::from(x as u8) };
    let b = if mode & 4 != 0 { b >> 16 } else { b };
    c.wrapping_add(half(a).wrapping_mul(byte(b)) as u32)
        .wrapping_add(half(a >> 16).wrapping_mul(byte(b >> 8)) as u32)
}

map! {
    Mad16: u32, u32, u32 => u32 = |a, b, c, _| low(a.wrapping_mul(b).wrapping_add(c));
    Mad32: u32, u32, u32 => u32 = |a, b, c, _| a.wrapping_mul(b).wrapping_add(c);
    Mad64: u64, u64, u64 => u64 = |a, b, c, _| a.wrapping_mul(b).wrapping_add(c);
    MadHiU32: u32, u32, u32 => u32 = |a, b, c, _| MulHiU32::f(a, b, 0).wrapping_add(c);
    MadHiS32: u32, u32, u32 => u32 = |a, b, c, _| MulHiS32::f(a, b, 0).wrapping_add(c);
    MadHiU64: u64, u64, u64 => u64 = |a, b, c, _| MulHiU64::f(a, b, 0).wrapping_add(c);
    MadHiS64: u64, u64, u64 => u64 = |a, b, c, _| MulHiS64::f(a, b, 0).wrapping_add(c);
    MadWideU16: u32, u32, u32 => u32 = |a, b, c, _| MulWideU16::f(a, b, 0).wrapping_add(c);
    MadWideS16: u32, u32, u32 => u32 = |a, b, c, _| MulWideS16::f(a, b, 0).wrapping_add(c);
    MadWideU32: u32, u32, u64 => u64 = |a, b, c, _| MulWideU32::f(a, b, 0).wrapping_add(c);
    MadWideS32: u32, u32, u64 => u64 = |a, b, c, _| MulWideS32::f(a, b, 0).wrapping_add(c);
    Mad24LoU: u32, u32, u32 => u32 = |a, b, c, _| Mul24LoU::f(a, b, 0).wrapping_add(c);
    Mad24LoS: u32, u32, u32 => u32 = |a, b, c, _| Mul24LoS::f(a, b, 0).wrapping_add(c);
    Mad24HiU: u32, u32, u32 => u32 = |a, b, c, _| Mul24HiU::f(a, b, 0).wrapping_add(c);
    Mad24HiS: u32, u32, u32 => u32 = |a, b, c, _| Mul24HiS::f(a, b, 0).wrapping_add(c);
    Mad24HiSat: u32, u32, u32 => u32 = |a, b, c, _| (Mul24HiS::f(a, b, 0) as i32).saturating_add(c as i32) as u32;
    MadHiU16: u32, u32, u32 => u32 = |a, b, c, _| low(MulHiU16::f(a, b, 0).wrapping_add(c));
    MadHiS16: u32, u32, u32 => u32 = |a, b, c, _| low(MulHiS16::f(a, b, 0).wrapping_add(c));
    MadHiSat: u32, u32, u32 => u32 = |a, b, c, _| (MulHiS32::f(a, b, 0) as i32).saturating_add(c as i32) as u32;
    SadU16: u32, u32, u32 => u32 = |a, b, c, _| low(a.abs_diff(b).wrapping_add(c));
    SadS16: u32, u32, u32 => u32 = |a, b, c, _| low(s16(a).abs_diff(s16(b)).wrapping_add(c));
    SadU64: u64, u64, u64 => u64 = |a, b, c, _| a.abs_diff(b).wrapping_add(c);
    SadS64: u64, u64, u64 => u64 = |a, b, c, _| (a as i64).abs_diff(b as i64).wrapping_add(c);
    SadS32: u32, u32, u32 => u32 = |a, b, c, _| (a as i32).abs_diff(b as i32).wrapping_add(c);
    SadU32: u32, u32, u32 => u32 = |a, b, c, _| a.abs_diff(b).wrapping_add(c);
    Prmt: u32, u32, u32 => u32 = |a, b, c, mode| prmt(a, b, c, mode);
    Dp4a: u32, u32, u32 => u32 = |a, b, c, mode| dot4(a, b, c, mode);
    Dp2a: u32, u32, u32 => u32 = |a, b, c, mode| dot2(a, b, c, mode);
    Lop3: u32, u32, u32 => u32 = |a, b, c, lut| {
        let on = |bit: u32| if lut as u32 >> bit & 1 != 0 { !0 } else { 0 };
        (on(0) & !a & !b & !c) | (on(1) & !a & !b & c) | (on(2) & !a & b & !c) | (on(3) & !a & b & c)
            | (on(4) & a & !b & !c) | (on(5) & a & !b & c) | (on(6) & a & b & !c) | (on(7) & a & b & c)
    };
    BfeU32: u32, u32, u32 => u32 = |a, b, c, _| {
        let (at, n) = (b & 255, c & 255);
        let x = if at > 31 { 0 } else { a >> at };
        if n > 31 { x } else { x & ((1 << n) - 1) }
    };
    BfeS32: u32, u32, u32 => u32 = |a, b, c, _| bfe_signed(u64::from(a), 32, b, c) as u32;
    BfeU64: u64, u32, u32 => u64 = |a, b, c, _| {
        let (at, n) = (b & 255, c & 255);
        let x = if at > 63 { 0 } else { a >> at };
        if n > 63 { x } else { x & ((1 << n) - 1) }
    };
    BfeS64: u64, u32, u32 => u64 = |a, b, c, _| bfe_signed(a, 64, b, c);
    FunnelLClamp: u32, u32, u32 => u32 = |a, b, c, _| (pair(a, b) << c.min(32) >> 32) as u32;
    FunnelLWrap: u32, u32, u32 => u32 = |a, b, c, _| (pair(a, b) << (c & 31) >> 32) as u32;
    FunnelRClamp: u32, u32, u32 => u32 = |a, b, c, _| (pair(a, b) >> c.min(32)) as u32;
    FunnelRWrap: u32, u32, u32 => u32 = |a, b, c, _| (pair(a, b) >> (c & 31)) as u32;
}

fn pair(a: u32, b: u32) -> u64 {
    u64::from(b) << 32 | u64::from(a)
}

/// Bits beyond the top repeat the sign bit: the last bit of the field, or of the word where the field leaves it.
fn bfe_signed(a: u64, bits: u32, b: u32, c: u32) -> u64 {
    let (at, n) = (b & 255, c & 255);
    if n == 0 {
        return 0;
    }
    let sign = a >> (at + n - 1).min(bits - 1) & 1 != 0;
    let x = if at >= bits { 0 } else { a >> at };
    // Bits of the word that are part of the field.
    let inside = n.min(bits.saturating_sub(at));
    let keep = if inside >= 64 { !0 } else { (1_u64 << inside) - 1 };
    if sign { x | !keep } else { x & keep }
}

pub(crate) struct Bfi32;
impl Map4 for Bfi32 {
    type A = u32;
    type B = u32;
    type C = u32;
    type E = u32;
    type D = u32;
    #[inline(always)]
    fn f(a: u32, b: u32, c: u32, e: u32, _: i64) -> u32 {
        let (at, n) = (c & 255, e & 255);
        if at > 31 {
            return b;
        }
        let field = if n > 31 { !0 } else { (1 << n) - 1 };
        (b & !(field << at)) | ((a & field) << at)
    }
}

pub(crate) struct Bfi64;
impl Map4 for Bfi64 {
    type A = u64;
    type B = u64;
    type C = u32;
    type E = u32;
    type D = u64;
    #[inline(always)]
    fn f(a: u64, b: u64, c: u32, e: u32, _: i64) -> u64 {
        let (at, n) = (c & 255, e & 255);
        if at > 63 {
            return b;
        }
        let field = if n > 63 { !0 } else { (1 << n) - 1 };
        (b & !(field << at)) | ((a & field) << at)
    }
}

/// Handlers by name; the decoder picks.
pub(crate) fn unary(name: &str, ty: &str) -> Option<Handler> {
    Some(match (name, ty) {
        ("neg", "s16") => map1::<Neg16>(),
        ("neg", "s32") => map1::<Neg32>(),
        ("neg", "s64") => map1::<Neg64>(),
        ("abs", "s16") => map1::<Abs16>(),
        ("abs", "s32") => map1::<Abs32>(),
        ("abs", "s64") => map1::<Abs64>(),
        ("not", "b16") => map1::<Not16>(),
        ("not", "b32") => map1::<Not32>(),
        ("not", "b64") => map1::<Not64>(),
        ("cnot", "b16" | "b32") => slow1::<Cnot32>(),
        ("cnot", "b64") => slow1::<Cnot64>(),
        ("popc", "b32") => map1::<Popc32>(),
        ("popc", "b64") => slow1::<Popc64>(),
        ("clz", "b32") => map1::<Clz32>(),
        ("clz", "b64") => slow1::<Clz64>(),
        ("brev", "b32") => map1::<Brev32>(),
        ("brev", "b64") => slow1::<Brev64>(),
        ("bfind", "u32") => slow1::<FindU32>(),
        ("bfind", "s32") => slow1::<FindS32>(),
        ("bfind", "u64") => slow1::<FindU64>(),
        ("bfind", "s64") => slow1::<FindS64>(),
        ("bfind.shiftamt", "u32") => slow1::<ShiftAmountU32>(),
        ("bfind.shiftamt", "s32") => slow1::<ShiftAmountS32>(),
        ("bfind.shiftamt", "u64") => slow1::<ShiftAmountU64>(),
        ("bfind.shiftamt", "s64") => slow1::<ShiftAmountS64>(),
        _ => return None,
    })
}

/// Handlers of two sources.
pub(crate) fn binary(name: &str, ty: &str) -> Option<Handler> {
    Some(match (name, ty) {
        ("add", "u16" | "s16") => map2::<Add16>(),
        ("add", "u32" | "s32") => map2::<Add32>(),
        ("add", "u64" | "s64") => map2::<Add64>(),
        ("add.sat", "s32") => map2::<AddSat32>(),
        ("sub", "u16" | "s16") => map2::<Sub16>(),
        ("sub", "u32" | "s32") => map2::<Sub32>(),
        ("sub", "u64" | "s64") => map2::<Sub64>(),
        ("sub.sat", "s32") => map2::<SubSat32>(),
        ("mul.lo", "u16" | "s16") => map2::<Mul16>(),
        ("mul.lo", "u32" | "s32") => map2::<Mul32>(),
        ("mul.lo", "u64" | "s64") => map2::<Mul64>(),
        ("mul.hi", "u16") => map2::<MulHiU16>(),
        ("mul.hi", "s16") => map2::<MulHiS16>(),
        ("mul.hi", "u32") => map2::<MulHiU32>(),
        ("mul.hi", "s32") => map2::<MulHiS32>(),
        ("mul.hi", "u64") => slow2::<MulHiU64>(),
        ("mul.hi", "s64") => slow2::<MulHiS64>(),
        ("mul.wide", "u16") => map2::<MulWideU16>(),
        ("mul.wide", "s16") => map2::<MulWideS16>(),
        ("mul.wide", "u32") => map2::<MulWideU32>(),
        ("mul.wide", "s32") => map2::<MulWideS32>(),
        ("mul24.lo", "u32") => slow2::<Mul24LoU>(),
        ("mul24.lo", "s32") => slow2::<Mul24LoS>(),
        ("mul24.hi", "u32") => slow2::<Mul24HiU>(),
        ("mul24.hi", "s32") => slow2::<Mul24HiS>(),
        ("div", "u16") => slow2::<DivU16>(),
        ("div", "s16") => slow2::<DivS16>(),
        ("div", "u32") => slow2::<DivU32>(),
        ("div", "s32") => slow2::<DivS32>(),
        ("div", "u64") => slow2::<DivU64>(),
        ("div", "s64") => slow2::<DivS64>(),
        ("rem", "u16") => slow2::<RemU16>(),
        ("rem", "s16") => slow2::<RemS16>(),
        ("rem", "u32") => slow2::<RemU32>(),
        ("rem", "s32") => slow2::<RemS32>(),
        ("rem", "u64") => slow2::<RemU64>(),
        ("rem", "s64") => slow2::<RemS64>(),
        ("min", "s16") => map2::<MinS16>(),
        ("max", "s16") => map2::<MaxS16>(),
        ("min", "u16" | "u32") => map2::<MinU32>(),
        ("max", "u16" | "u32") => map2::<MaxU32>(),
        ("min", "s32") => map2::<MinS32>(),
        ("max", "s32") => map2::<MaxS32>(),
        ("min", "u64") => map2::<MinU64>(),
        ("max", "u64") => map2::<MaxU64>(),
        ("min", "s64") => map2::<MinS64>(),
        ("max", "s64") => map2::<MaxS64>(),
        ("and", "b16" | "b32") => map2::<And32>(),
        ("and", "b64") => map2::<And64>(),
        ("or", "b16" | "b32") => map2::<Or32>(),
        ("or", "b64") => map2::<Or64>(),
        ("xor", "b16" | "b32") => map2::<Xor32>(),
        ("xor", "b64") => map2::<Xor64>(),
        ("shl", "b16") => map2::<Shl16>(),
        ("shl", "b32") => map2::<Shl32>(),
        ("shl", "b64") => map2::<Shl64>(),
        ("shr", "u16" | "b16") => map2::<ShrU16>(),
        ("shr", "u32" | "b32") => map2::<ShrU32>(),
        ("shr", "u64" | "b64") => map2::<ShrU64>(),
        ("shr", "s16") => map2::<ShrS16>(),
        ("shr", "s32") => map2::<ShrS32>(),
        ("shr", "s64") => map2::<ShrS64>(),
        ("bmsk.clamp", "b32") => slow2::<Bmsk>(),
        _ => return None,
    })
}

/// Handlers of three sources.
pub(crate) fn ternary(name: &str, ty: &str) -> Option<Handler> {
    Some(match (name, ty) {
        ("mad.lo", "u16" | "s16") => map3::<Mad16>(),
        ("mad.lo", "u32" | "s32") => map3::<Mad32>(),
        ("mad.lo", "u64" | "s64") => map3::<Mad64>(),
        ("mad.hi", "u32") => slow3::<MadHiU32>(),
        ("mad.hi", "s32") => slow3::<MadHiS32>(),
        ("mad.hi", "u64") => slow3::<MadHiU64>(),
        ("mad.hi", "s64") => slow3::<MadHiS64>(),
        ("mad.wide", "u16") => map3::<MadWideU16>(),
        ("mad.wide", "s16") => map3::<MadWideS16>(),
        ("mad.wide", "u32") => map3::<MadWideU32>(),
        ("mad.wide", "s32") => map3::<MadWideS32>(),
        ("mad24.lo", "u32") => slow3::<Mad24LoU>(),
        ("mad24.lo", "s32") => slow3::<Mad24LoS>(),
        ("mad24.hi", "u32") => slow3::<Mad24HiU>(),
        ("mad24.hi", "s32") => slow3::<Mad24HiS>(),
        ("mad24.hi.sat", "s32") => slow3::<Mad24HiSat>(),
        ("mad.hi", "u16") => slow3::<MadHiU16>(),
        ("mad.hi", "s16") => slow3::<MadHiS16>(),
        ("mad.hi.sat", "s32") => slow3::<MadHiSat>(),
        ("sad", "u16") => slow3::<SadU16>(),
        ("sad", "s16") => slow3::<SadS16>(),
        ("sad", "u64") => slow3::<SadU64>(),
        ("sad", "s64") => slow3::<SadS64>(),
        ("sad", "u32") => slow3::<SadU32>(),
        ("sad", "s32") => slow3::<SadS32>(),
        ("prmt", "b32") => map3::<Prmt>(),
        ("dp4a", _) => map3::<Dp4a>(),
        ("dp2a", _) => slow3::<Dp2a>(),
        ("lop3", "b32") => map3::<Lop3>(),
        ("bfe", "u32") => map3::<BfeU32>(),
        ("bfe", "s32") => slow3::<BfeS32>(),
        ("bfe", "u64") => slow3::<BfeU64>(),
        ("bfe", "s64") => slow3::<BfeS64>(),
        ("shf.l.clamp", "b32") => map3::<FunnelLClamp>(),
        ("shf.l.wrap", "b32") => map3::<FunnelLWrap>(),
        ("shf.r.clamp", "b32") => map3::<FunnelRClamp>(),
        ("shf.r.wrap", "b32") => map3::<FunnelRWrap>(),
        _ => return None,
    })
}

/// `bfi`.
pub(crate) fn insert(ty: &str) -> Option<Handler> {
    Some(match ty {
        "b32" => map4::<Bfi32>(),
        "b64" => map4::<Bfi64>(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Map3;
    use super::*;

    #[test]
    fn permutations_by_mode() {
        assert_eq!(prmt(0x3322_1100, 0x7766_5544, 0x5410, 0), 0x5544_1100);
        assert_eq!(prmt(0x3322_11f0, 0, 0x0008, 0) & 0xff, 0xff);
        assert_eq!(prmt(0x3322_1100, 0x7766_5544, 1, 1), 0x4433_2211);
        assert_eq!(prmt(0x3322_1100, 0x7766_5544, 1, 2), 0x6677_0011);
        assert_eq!(prmt(0x3322_1100, 0, 2, 3), 0x2222_2222);
        assert_eq!(prmt(0x3322_1100, 0, 1, 6), 0x3322_3322);
    }

    #[test]
    fn logic_of_three_by_table() {
        for lut in 0..256_i64 {
            for bits in 0..8_u32 {
                let row = |b: u32| if bits >> b & 1 != 0 { !0 } else { 0 };
                let want = if lut >> bits & 1 != 0 { !0 } else { 0 };
                assert_eq!(Lop3::f(row(2), row(1), row(0), lut), want);
            }
        }
    }

    #[test]
    fn signed_fields() {
        assert_eq!(BfeS32::f(0x0000_00f0, 4, 4, 0), !0);
        assert_eq!(BfeS32::f(0x8000_0000, 28, 8, 0), 0xffff_fff8);
        assert_eq!(BfeS32::f(0x8000_0000, 40, 8, 0), !0);
        assert_eq!(BfeS32::f(!0, 3, 0, 0), 0);
        assert_eq!(BfeS64::f(0x8000_0000_0000_0000, 60, 4, 0), 0xffff_ffff_ffff_fff8);
    }

    #[test]
    fn dot_products() {
        assert_eq!(dot4(0xff02_0304, 0x0101_0101, 10, 3), 10 - 1 + 2 + 3 + 4);
        assert_eq!(dot4(0xff02_0304, 0x0101_0101, 10, 0), 10 + 255 + 2 + 3 + 4);
        assert_eq!(dot2(0xffff_0002, 0x0403_0201, 0, 3), 2 - 2);
        assert_eq!(dot2(0xffff_0002, 0x0403_0201, 0, 7), 2 * 3 - 4_i32 as u32);
    }
}
