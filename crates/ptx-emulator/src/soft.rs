//! Rounding that the CPU's own instructions do not offer: directed rounding, and formats below f32. That of f64 is in
//! [`double`].
//!
//! Results of f32 and narrower operations are first formed in f64, rounded *to odd* (an inexact result gets an odd last
//! digit): rounding that once more to at most 51 digits, in any direction, is the same as rounding the exact result
//! (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).

pub(crate) mod double;

/// A direction of rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Rounding {
    /// To nearest, ties to even.
    Nearest,
    Zero,
    Down,
    Up,
    /// To nearest, ties away from zero.
    Away,
}

impl Rounding {
    pub fn from_code(code: i64) -> Self {
        match code & 7 {
            0 => Self::Nearest,
            1 => Self::Zero,
            2 => Self::Down,
            3 => Self::Up,
            _ => Self::Away,
        }
    }
}

/// The f32 NaN that GPUs return.
pub(crate) const NAN32: u32 = 0x7fff_ffff;

/// Bits of an f32 result: any NaN becomes the GPU's.
#[inline(always)]
pub(crate) fn bits32(x: f32) -> u32 {
    if x.is_nan() { NAN32 } else { x.to_bits() }
}

/// `x` moved towards `residue` (the exact value minus `x`) when its last digit is even.
#[inline(always)]
fn to_odd(x: f64, residue: f64) -> f64 {
    if residue == 0.0 || !residue.is_finite() || !x.is_finite() || x.to_bits() & 1 != 0 {
        return x;
    }
    if (residue > 0.0) == (x > 0.0) {
        f64::from_bits(x.to_bits() + 1)
    } else {
        f64::from_bits(x.to_bits() - 1)
    }
}

/// What rounding of `a + b = s` lost (Knuth's two-sum).
#[inline(always)]
fn sum_residue(a: f64, b: f64, s: f64) -> f64 {
    let t = s - a;
    (a - (s - t)) + (b - t)
}

/// a + b, rounded to odd. An exact zero of unlike signs is −0 when rounding down.
#[inline(always)]
pub(crate) fn add_odd(a: f64, b: f64, rounding: Rounding) -> f64 {
    let s = a + b;
    if s == 0.0 && rounding == Rounding::Down && (a != 0.0 || a.is_sign_negative() != b.is_sign_negative()) {
        return -0.0;
    }
    to_odd(s, sum_residue(a, b, s))
}

/// a·b + c for f32 (or narrower) values, rounded to odd: the product is exact.
#[inline(always)]
pub(crate) fn fma_odd(a: f64, b: f64, c: f64, rounding: Rounding) -> f64 {
    add_odd(a * b, c, rounding)
}

/// a ÷ b rounded to odd.
#[inline(always)]
pub(crate) fn div_odd(a: f64, b: f64) -> f64 {
    let q = a / b;
    let rest = (-q).mul_add(b, a);
    to_odd(q, if b < 0.0 { -rest } else { rest })
}

/// √a rounded to odd.
#[inline(always)]
pub(crate) fn sqrt_odd(a: f64) -> f64 {
    let r = a.sqrt();
    to_odd(r, (-r).mul_add(r, a))
}

/// Rounds to f32.
pub(crate) fn round32(x: f64, rounding: Rounding) -> f32 {
    let y = x as f32;
    let wide = f64::from(y);
    let (above, below) = (wide > x, wide < x);
    match rounding {
        Rounding::Zero if (x > 0.0 && above) || (x < 0.0 && below) => {
            if x > 0.0 {
                y.next_down()
            } else {
                y.next_up()
            }
        }
        Rounding::Down if above => y.next_down(),
        Rounding::Up if below => y.next_up(),
        Rounding::Away if x.is_finite() => {
            // A tie was rounded to even; if that was towards zero, take the other.
            let other = if above { y.next_down() } else { y.next_up() };
            let tie = (f64::from(other) - x).abs() == (wide - x).abs() && wide != x;
            if tie && other.abs() > y.abs() { other } else { y }
        }
        _ => y,
    }
}

/// A 16-bit format: digits after the point, smallest normal exponent.
#[derive(Clone, Copy)]
pub(crate) struct Format {
    pub digits: u32,
    pub least: i32,
    pub infinity: u32,
}

pub(crate) const F16: Format = Format { digits: 10, least: -14, infinity: 0x7c00 };
pub(crate) const BF16: Format = Format { digits: 7, least: -126, infinity: 0x7f80 };
/// tf32 in its f32 place: 10 digits, the exponent of f32; shifted up by 13 bits.
pub(crate) const TF32: Format = Format { digits: 10, least: -126, infinity: 0x3fc00 };

/// Rounds to a narrow format; `x` may already be rounded to odd. NaN becomes the GPU's, all ones but the sign.
pub(crate) fn round_narrow(x: f64, format: Format, rounding: Rounding) -> u32 {
    let Format { digits, least, infinity } = format;
    let bits = x.to_bits();
    let sign_bit = (infinity + (1 << digits)) * u32::from(bits >> 63 != 0);
    if x.is_nan() {
        return infinity | ((1 << digits) - 1);
    }
    let negative = bits >> 63 != 0;
    let inexact_up = |odd: bool, above_half: bool, half: bool, exact: bool| match rounding {
        Rounding::Nearest => above_half || (half && odd),
        Rounding::Away => above_half || half,
        Rounding::Zero => false,
        Rounding::Down => negative && !exact,
        Rounding::Up => !negative && !exact,
    };
    if x.is_infinite() {
        return sign_bit | infinity;
    }
    if x == 0.0 {
        return sign_bit;
    }
    // Subnormal f64 are below all that these formats can tell from the smallest normal f64.
    let exponent = ((bits >> 52 & 0x7ff) as i32 - 1023).max(-1022);
    let digits_in = (bits & ((1 << 52) - 1)) | 1 << 52;
    let shift = (52 - digits as i32 + (least - exponent).max(0)).min(63) as u32;
    let kept = digits_in >> shift;
    let rest = digits_in & ((1 << shift) - 1);
    let half = 1_u64 << (shift - 1);
    let up = inexact_up(kept & 1 != 0, rest > half, rest == half, rest == 0);
    let biased = (exponent - least).max(0) as u32;
    // A normal number's leading digit adds one to the exponent field, as it should.
    let magnitude = u64::from(biased) << digits;
    let magnitude = magnitude + kept + u64::from(up);
    if magnitude >= u64::from(infinity) {
        let finite = match rounding {
            Rounding::Nearest | Rounding::Away => false,
            Rounding::Zero => true,
            Rounding::Down => !negative,
            Rounding::Up => negative,
        };
        return sign_bit | (infinity - u32::from(finite));
    }
    sign_bit | magnitude as u32
}

/// An f16 as f32, exactly.
#[inline(always)]
pub(crate) fn f16_to_f32(h: u32) -> f32 {
    let sign = (h & 0x8000) << 16;
    let magnitude = (h & 0x7fff) << 13;
    // Multiplying by 2¹¹² moves the exponent and makes subnormals normal.
    let scaled = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let infinite = if h & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled.to_bits() | infinite | sign)
}

/// A bf16 as f32, exactly.
#[inline(always)]
pub(crate) fn bf16_to_f32(h: u32) -> f32 {
    f32::from_bits(h << 16)
}

/// An f32 to the nearest bf16.
#[inline(always)]
pub(crate) fn f32_to_bf16(x: u32) -> u32 {
    let rounded = (x.wrapping_add(0x7fff + (x >> 16 & 1))) >> 16;
    if x & 0x7fff_ffff > 0x7f80_0000 { 0x7fff } else { rounded }
}

/// An f32 to the nearest f16.
#[inline(always)]
pub(crate) fn f32_to_f16(x: u32) -> u32 {
    let sign = x >> 16 & 0x8000;
    let a = x & 0x7fff_ffff;
    // Below 2⁻¹⁴: adding 0.5 leaves the subnormal's digits at the bottom, rounded by the addition.
    let small = (f32::from_bits(a) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let normal = a.wrapping_sub(112 << 23).wrapping_add(0xfff + (a >> 13 & 1)) >> 13;
    let magnitude = if a < 0x3880_0000 { small } else { normal };
    let magnitude = if a >= 0x4780_0000 { 0x7c00 } else { magnitude.min(0x7c00) };
    if a > 0x7f80_0000 { 0x7fff } else { sign | magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_narrowing_is_the_slow_one() {
        let mut x = 1_u32;
        for i in 0..2_000_000_u32 {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Ties and their neighbours often.
            let y = match i % 4 {
                0 => x,
                1 => x & 0xffff_e000 | 0x1000,
                2 => (x & 0x807f_ffff) | (0x66 + (x >> 24) % 40) << 23,
                _ => (x & 0xffff_0000) | 0x8000,
            };
            let wide = f64::from(f32::from_bits(y));
            assert_eq!(f32_to_f16(y), round_narrow(wide, F16, Rounding::Nearest), "{y:#x}");
            assert_eq!(f32_to_bf16(y), round_narrow(wide, BF16, Rounding::Nearest), "{y:#x}");
        }
    }

    #[test]
    fn all_halves_come_back() {
        for h in 0..0x1_0000_u32 {
            let x = f16_to_f32(h);
            if x.is_nan() {
                assert!(h & 0x7fff > 0x7c00);
            } else {
                assert_eq!(f32_to_f16(x.to_bits()), h);
            }
            let y = bf16_to_f32(h);
            assert!(y.is_nan() || f32_to_bf16(y.to_bits()) == h);
        }
    }

    #[test]
    fn directions_bracket_the_exact_value() {
        let values = [1.0_f32, -1.0, 3.0e-8, 1.0e30, -7.5e-39, 1.1, 16_777_217.0, f32::MIN_POSITIVE];
        for a in values {
            for b in values {
                let (x, y) = (f64::from(a), f64::from(b));
                let down = round32(add_odd(x, y, Rounding::Down), Rounding::Down);
                let up = round32(add_odd(x, y, Rounding::Up), Rounding::Up);
                assert!(down == up || down.next_up() == up, "{a} {b}");
                assert!(a + b == down || a + b == up);
                let zero = round32(div_odd(x, y), Rounding::Zero);
                assert!(f64::from(zero).abs() <= (x / y).abs() * (1.0 + 1e-15));
                assert_eq!(round32(div_odd(x, y), Rounding::Nearest), a / b);
            }
        }
    }
}
