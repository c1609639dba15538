//! `cvt`: between integers, floats and narrow floats, with all roundings.

use super::{Map1, Map2, map, map1, map2, slow1, slow2};
use crate::code::Handler;
use crate::soft::{self, BF16, F16, NAN32, Rounding, TF32, bits32};

/// A type that `cvt` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Unsigned(u32),
    Signed(u32),
    F16,
    Bf16,
    Tf32,
    F32,
    F64,
}

impl Kind {
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "u8" | "b8" => Self::Unsigned(8),
            "u16" | "b16" => Self::Unsigned(16),
            "u32" | "b32" => Self::Unsigned(32),
            "u64" | "b64" => Self::Unsigned(64),
            "s8" => Self::Signed(8),
            "s16" => Self::Signed(16),
            "s32" => Self::Signed(32),
            "s64" => Self::Signed(64),
            "f16" => Self::F16,
            "bf16" => Self::Bf16,
            "tf32" => Self::Tf32,
            "f32" => Self::F32,
            "f64" => Self::F64,
            _ => return None,
        })
    }

    pub fn bits(self) -> u32 {
        match self {
            Self::Unsigned(n) | Self::Signed(n) => n,
            Self::F16 | Self::Bf16 => 16,
            Self::Tf32 | Self::F32 => 32,
            Self::F64 => 64,
        }
    }

    pub fn is_float(self) -> bool {
        !matches!(self, Self::Unsigned(_) | Self::Signed(_))
    }

    fn code(self) -> i64 {
        match self {
            Self::Unsigned(n) => i64::from(n.trailing_zeros()) - 3,
            Self::Signed(n) => i64::from(n.trailing_zeros()) + 1,
            Self::F16 => 8,
            Self::Bf16 => 9,
            Self::Tf32 => 10,
            Self::F32 => 11,
            Self::F64 => 12,
        }
    }

    fn from_code(code: i64) -> Self {
        match code & 15 {
            n @ 0..4 => Self::Unsigned(8 << n),
            n @ 4..8 => Self::Signed(8 << (n - 4)),
            8 => Self::F16,
            9 => Self::Bf16,
            10 => Self::Tf32,
            11 => Self::F32,
            _ => Self::F64,
        }
    }
}

const FTZ: i64 = 1 << 11;
const SAT: i64 = 1 << 12;
const INTEGRAL: i64 = 1 << 13;
const RELU: i64 = 1 << 14;

/// What a `cvt` does, packed into an instruction's number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    pub to: Kind,
    pub from: Kind,
    pub rounding: Rounding,
    /// Rounds to an integral value (`.rni` and the like).
    pub integral: bool,
    pub ftz: bool,
    pub sat: bool,
    pub relu: bool,
}

impl Spec {
    pub fn pack(self) -> i64 {
        let flag = |on: bool, bit: i64| if on { bit } else { 0 };
        self.to.code()
            | self.from.code() << 4
            | (self.rounding as i64) << 8
            | flag(self.ftz, FTZ)
            | flag(self.sat, SAT)
            | flag(self.integral, INTEGRAL)
            | flag(self.relu, RELU)
    }
}

fn extend(x: u64, kind: Kind) -> i128 {
    let shift = 64 - kind.bits();
    if matches!(kind, Kind::Signed(_)) {
        i128::from((x << shift) as i64 >> shift)
    } else {
        i128::from(x << shift >> shift)
    }
}

fn mask(bits: u32) -> u64 {
    if bits == 64 { !0 } else { (1 << bits) - 1 }
}

/// An integer as the register holds it: cut off, and of 8 bits extended by its sign to the 16 of the smallest register.
fn held(value: i128, to: Kind) -> u64 {
    match to {
        Kind::Signed(8) => u64::from(i16::from(value as i8) as u16),
        _ => value as u64 & mask(to.bits()),
    }
}

fn limits(kind: Kind) -> (i128, i128) {
    match kind {
        Kind::Signed(n) => (-(1_i128 << (n - 1)), (1_i128 << (n - 1)) - 1),
        k => (0, (1_i128 << k.bits()) - 1),
    }
}

/// An integer as f64, rounded to odd where f64 has too few digits.
fn integer_odd(x: i128) -> f64 {
    let y = x as f64;
    let residue = x - y as i128;
    if residue == 0 || y.to_bits() & 1 != 0 {
        return y;
    }
    if (residue > 0) == (y > 0.0) { f64::from_bits(y.to_bits() + 1) } else { f64::from_bits(y.to_bits() - 1) }
}

fn integer_to_f64(x: i128, rounding: Rounding) -> f64 {
    let y = x as f64;
    match ((y as i128).cmp(&x), rounding) {
        (std::cmp::Ordering::Greater, Rounding::Down) => y.next_down(),
        (std::cmp::Ordering::Less, Rounding::Up) => y.next_up(),
        (std::cmp::Ordering::Greater, Rounding::Zero) if y > 0.0 => y.next_down(),
        (std::cmp::Ordering::Less, Rounding::Zero) if y < 0.0 => y.next_up(),
        _ => y,
    }
}

fn to_integral(x: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Nearest => x.round_ties_even(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
        Rounding::Away => x.round(),
    }
}

/// One lane of any `cvt`.
fn convert(x: u64, imm: i64) -> u64 {
    let (to, from) = (Kind::from_code(imm), Kind::from_code(imm >> 4));
    let rounding = Rounding::from_code(imm >> 8);
    if !from.is_float() {
        let value = extend(x, from);
        return match to {
            Kind::F64 => integer_to_f64(value, rounding).to_bits(),
            Kind::Unsigned(_) | Kind::Signed(_) if imm & SAT != 0 => {
                let (least, most) = limits(to);
                held(value.clamp(least, most), to)
            }
            Kind::Unsigned(_) | Kind::Signed(_) => held(value, to),
            _ => from_f64(integer_odd(value), to, rounding, imm),
        };
    }
    let value = match from {
        Kind::F16 => f64::from(soft::f16_to_f32(x as u32)),
        Kind::Bf16 => f64::from(soft::bf16_to_f32(x as u32)),
        Kind::F64 => f64::from_bits(x),
        _ => {
            let x = x as u32;
            let flushed = if imm & FTZ != 0 && x & 0x7f80_0000 == 0 { x & 0x8000_0000 } else { x };
            f64::from(f32::from_bits(flushed))
        }
    };
    if !to.is_float() {
        let (least, most) = limits(to);
        if value.is_nan() {
            // PTX ISA, "cvt": zero, but the top bit alone from f64 or to 64 bits.
            let wide = from == Kind::F64 || to.bits() == 64;
            return if wide { held(1 << (to.bits() - 1), to) } else { 0 };
        }
        return held((to_integral(value, rounding) as i128).clamp(least, most), to);
    }
    let value = if imm & INTEGRAL != 0 { to_integral(value, rounding) } else { value };
    from_f64(value, to, rounding, imm)
}

fn from_f64(value: f64, to: Kind, rounding: Rounding, imm: i64) -> u64 {
    let value =
        if imm & SAT != 0 { if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) + 0.0 } } else { value };
    let value = if imm & RELU != 0 && value < 0.0 { 0.0 } else { value };
    match to {
        Kind::F64 => value.to_bits(),
        Kind::F16 => u64::from(soft::round_narrow(value, F16, rounding)),
        Kind::Bf16 => u64::from(soft::round_narrow(value, BF16, rounding)),
        Kind::Tf32 if value.is_nan() => u64::from(NAN32),
        Kind::Tf32 => u64::from(soft::round_narrow(value, TF32, rounding)) << 13,
        _ => {
            let bits = bits32(soft::round32(value, rounding));
            u64::from(if imm & FTZ != 0 && bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
        }
    }
}

macro_rules! any {
    ($($name:ident: $a:ty => $d:ty;)*) => { $(
        pub(crate) struct $name;
        impl Map1 for $name {
            type A = $a;
            type D = $d;
            fn f(a: $a, imm: i64) -> $d {
                convert(u64::from(a), imm) as $d
            }
        }
    )* };
}

any! {
    Any3232: u32 => u32;
    Any3264: u32 => u64;
    Any6432: u64 => u32;
    Any6464: u64 => u64;
}

fn f(x: u32) -> f32 {
    f32::from_bits(x)
}

map! {
    Keep8: u32 => u32 = |a| a & 0xff;
    Keep16: u32 => u32 = |a| a & 0xffff;
    Keep32: u32 => u32 = |a| a;
    Sign8: u32 => u32 = |a| i32::from(a as i8) as u32;
    Sign16: u32 => u32 = |a| i32::from(a as i16) as u32;
    Sign8To16: u32 => u32 = |a| u32::from(i16::from(a as i8) as u16);
    Low32: u64 => u32 = |a| a as u32;
    Low16: u64 => u32 = |a| a as u32 & 0xffff;
    Widen: u32 => u64 = |a| u64::from(a);
    WidenSigned: u32 => u64 = |a| i64::from(a as i32) as u64;
    FromS32: u32 => u32 = |a| (a as i32 as f32).to_bits();
    FromU32: u32 => u32 = |a| (a as f32).to_bits();
    ToS32: u32 => u32 = |a| f(a) as i32 as u32;
    ToU32: u32 => u32 = |a| f(a) as u32;
    F32ToF64: u32 => u64 = |a| f64::from(f(a)).to_bits();
    F64ToF32: u64 => u32 = |a| bits32(f64::from_bits(a) as f32);
    HalfToF32: u32 => u32 = |a| bits32(soft::f16_to_f32(a));
    BrainToF32: u32 => u32 = |a| bits32(soft::bf16_to_f32(a));
    F32ToHalf: u32 => u32 = |a| soft::f32_to_f16(a);
    F32ToBrain: u32 => u32 = |a| soft::f32_to_bf16(a);
}

map! {
    // The first source goes to the upper half.
    PackHalf: u32, u32 => u32 = |a, b| soft::f32_to_f16(a) << 16 | soft::f32_to_f16(b);
    PackBrain: u32, u32 => u32 = |a, b| soft::f32_to_bf16(a) << 16 | soft::f32_to_bf16(b);
}

pub(crate) struct PackAny;
impl Map2 for PackAny {
    type A = u32;
    type B = u32;
    type D = u32;
    fn f(a: u32, b: u32, imm: i64) -> u32 {
        (convert(u64::from(a), imm) << 16 | convert(u64::from(b), imm)) as u32
    }
}

/// The handler of a conversion between single values.
pub(crate) fn single(spec: Spec) -> Handler {
    use Kind::{Bf16, F16, F32, F64, Signed, Unsigned};
    let plain = !spec.ftz && !spec.sat && !spec.relu && !spec.integral;
    let nearest = plain && spec.rounding == Rounding::Nearest;
    let truncating = !spec.ftz && !spec.sat && spec.rounding == Rounding::Zero;
    match (spec.to, spec.from) {
        (Signed(32) | Unsigned(32), Signed(32) | Unsigned(32)) if plain => map1::<Keep32>(),
        (Signed(32) | Unsigned(32), Unsigned(16)) if plain => map1::<Keep16>(),
        (Signed(32) | Unsigned(32), Unsigned(8)) if plain => map1::<Keep8>(),
        (Signed(16) | Unsigned(16), Signed(16) | Unsigned(16)) if plain => map1::<Keep16>(),
        (Signed(16) | Unsigned(16), Signed(32) | Unsigned(32)) if plain => map1::<Keep16>(),
        (Signed(16) | Unsigned(16), Signed(64) | Unsigned(64)) if plain => map1::<Low16>(),
        (Signed(16) | Unsigned(16), Unsigned(8)) if plain => map1::<Keep8>(),
        (Signed(16) | Unsigned(16), Signed(8)) if plain => map1::<Sign8To16>(),
        (Signed(32) | Unsigned(32), Signed(8)) if plain => map1::<Sign8>(),
        (Signed(32) | Unsigned(32), Signed(16)) if plain => map1::<Sign16>(),
        (Signed(32) | Unsigned(32), Signed(64) | Unsigned(64)) if plain => map1::<Low32>(),
        (Signed(64) | Unsigned(64), Unsigned(32)) if plain => map1::<Widen>(),
        (Signed(64) | Unsigned(64), Signed(32)) if plain => map1::<WidenSigned>(),
        (F32, Signed(32)) if nearest => map1::<FromS32>(),
        (F32, Unsigned(32)) if nearest => map1::<FromU32>(),
        (Signed(32), F32) if truncating => map1::<ToS32>(),
        (Unsigned(32), F32) if truncating => map1::<ToU32>(),
        (F64, F32) if plain => map1::<F32ToF64>(),
        (F32, F64) if nearest => map1::<F64ToF32>(),
        (F32, F16) if plain => map1::<HalfToF32>(),
        (F32, Bf16) if plain => map1::<BrainToF32>(),
        (F16, F32) if nearest => map1::<F32ToHalf>(),
        (Bf16, F32) if nearest => map1::<F32ToBrain>(),
        (to, from) => match (from.bits() == 64, to.bits() == 64) {
            (false, false) => slow1::<Any3232>(),
            (false, true) => slow1::<Any3264>(),
            (true, false) => slow1::<Any6432>(),
            (true, true) => slow1::<Any6464>(),
        },
    }
}

/// The handler of `cvt.rn.f16x2.f32 d, a, b` and its kin.
pub(crate) fn packed(spec: Spec) -> Handler {
    let nearest = !spec.sat && !spec.relu && spec.rounding == Rounding::Nearest;
    match spec.to {
        Kind::F16 if nearest => map2::<PackHalf>(),
        Kind::Bf16 if nearest => map2::<PackBrain>(),
        _ => slow2::<PackAny>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(to: Kind, from: Kind, rounding: Rounding) -> Spec {
        Spec { to, from, rounding, integral: false, ftz: false, sat: false, relu: false }
    }

    #[test]
    fn codes_come_back() {
        for name in
            ["u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64", "f16", "bf16", "tf32", "f32", "f64"]
        {
            let kind = Kind::named(name).unwrap();
            assert_eq!(Kind::from_code(kind.code()), kind);
        }
    }

    #[test]
    fn floats_to_integers() {
        let cvt = |x: f32, to, r| convert(u64::from(x.to_bits()), spec(to, Kind::F32, r).pack());
        assert_eq!(cvt(2.5, Kind::Signed(32), Rounding::Nearest), 2);
        assert_eq!(cvt(-2.5, Kind::Signed(32), Rounding::Down), (-3_i32) as u32 as u64);
        assert_eq!(cvt(3e9, Kind::Signed(32), Rounding::Zero), i32::MAX as u64);
        assert_eq!(cvt(-1.0, Kind::Unsigned(32), Rounding::Zero), 0);
        assert_eq!(cvt(f32::NAN, Kind::Signed(32), Rounding::Zero), 0);
        assert_eq!(cvt(f32::NAN, Kind::Signed(64), Rounding::Zero), 1 << 63);
        assert_eq!(cvt(300.0, Kind::Unsigned(8), Rounding::Zero), 255);
    }

    #[test]
    fn integers_to_floats_in_all_directions() {
        let x = (1_u64 << 24) + 1;
        let cvt = |r| f32::from_bits(convert(x, spec(Kind::F32, Kind::Unsigned(64), r).pack()) as u32);
        assert_eq!(cvt(Rounding::Nearest), 16_777_216.0);
        assert_eq!(cvt(Rounding::Up), 16_777_218.0);
        assert_eq!(cvt(Rounding::Down), 16_777_216.0);
        // Just above a tie that f64 cannot hold.
        let y = (1_u64 << 63) + (1 << 39) + 1;
        let up = convert(y, spec(Kind::F32, Kind::Unsigned(64), Rounding::Nearest).pack()) as u32;
        assert_eq!(f32::from_bits(up), 9_223_373_136_366_403_584.0);
    }

    #[test]
    fn tf32_keeps_ten_digits() {
        let cvt = |x: u32| convert(u64::from(x), spec(Kind::Tf32, Kind::F32, Rounding::Away).pack()) as u32;
        assert_eq!(cvt(0x3f80_1000), 0x3f80_2000);
        assert_eq!(cvt(0x3f80_0fff), 0x3f80_0000);
        assert_eq!(cvt(0xbf80_1000), 0xbf80_2000);
        assert_eq!(cvt(0x7fc0_0000), NAN32);
    }
}
