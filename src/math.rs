//! Exponential, logarithm, power and cosine whose results are the same on every machine.
//!
//! IEEE 754 fixes sums, products, quotients and square roots to the last bit, and leaves these functions
//! to mathematical libraries, which differ from one another and choose by the CPU's model. Whatever
//! reaches a file goes through this module instead: it uses f64 sums, products and quotients alone, so a
//! seed names the same bytes everywhere. Nothing is fused: Rust never contracts `a * b + c`.
//!
//! The functions of f32 compute in f64 and round once. `ulp` below is a unit in the last place of the result; ½ is
//! the least that rounding allows. Bounds are those of the series' remainders plus the roundings of f64, and
//! the tests hold the functions to them against the standard library's f64.
//!
//! | function | largest error |
//! |---|---|
//! | [`exp`], [`exp_m1`], [`ln`], [`ln_1p`], [`powf`] (f32) | 0.501 ulp of f32 |
//! | [`exp_f64`], [`exp_m1_f64`], [`ln_f64`], [`ln_1p_f64`] | 2, 3, 2 and 3 ulp of f64 |
//! | [`powf_f64`] | relative 2⁻⁵² · (3 + 2·\|y ln x\|) |
//! | [`cos_turns`] | absolute 2⁻⁵¹ |
//!
//! No function has a branch or a table, only selections, so loops over slices can become vectors.

/// 1.5·2⁵². What is added to it is rounded to the nearest integer, which then stands in the sum's lowest
/// bits, in two's complement.
const ROUNDER: f64 = 6_755_399_441_055_744.0;
/// ln 2 to 33 bits: its product with an integer below 2²⁰ is exact.
const LN_2_HIGH: f64 = f64::from_bits(0x3FE6_2E42_FEE0_0000);
/// ln 2 − [`LN_2_HIGH`].
const LN_2_LOW: f64 = f64::from_bits(0x3DEA_39EF_3579_3C76);

/// eˣ. Overflows to ∞ and underflows gradually to 0, as rounding of the exact value does.
#[inline]
pub fn exp(x: f32) -> f32 {
    let (scale, tail) = exp_parts_f32(x);
    (scale * tail + scale) as f32
}

/// eˣ − 1, exact in its leading digits near 0, too.
#[inline]
pub fn exp_m1(x: f32) -> f32 {
    let (scale, tail) = exp_parts_f32(x);
    // Where x is within ½ ln 2 of 0, scale is 1, and nothing cancels.
    let y = (scale * tail + (scale - 1.0)) as f32;
    // −0 stays −0.
    if x == 0.0 { x } else { y }
}

/// 2ⁿ and eʳ − 1 with x = n ln 2 + r and |r| ≤ ½ ln 2, as precise as results of f32 need: Taylor's series to r⁹. The
/// remainder, r¹⁰/10!, is 7·10⁻¹² at most and less near 0: a ten-thousandth of an ulp. NaN goes through.
#[inline]
fn exp_parts_f32(x: f32) -> (f64, f64) {
    // Within these limits lies all that is neither 0 nor ∞ in f32.
    let x = f64::from(x).clamp(-110.0, 100.0);
    let shifted = x * std::f64::consts::LOG2_E + ROUNDER;
    let r = x - (shifted - ROUNDER) * std::f64::consts::LN_2;
    let scale = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    // In pairs (Estrin's scheme), so that the processor need not wait for each product.
    let r2 = r * r;
    let low = (1.0 / 2.0 + r * (1.0 / 6.0)) + r2 * (1.0 / 24.0 + r * (1.0 / 120.0));
    let high = (1.0 / 720.0 + r * (1.0 / 5_040.0)) + r2 * (1.0 / 40_320.0 + r * (1.0 / 362_880.0));
    (scale, r + r2 * (low + r2 * r2 * high))
}

/// The natural logarithm: −∞ at ±0, NaN below 0.
#[inline]
pub fn ln(x: f32) -> f32 {
    ln_f64(f64::from(x)) as f32
}

/// ln(1 + x), exact in its leading digits near 0, too; −∞ at −1, NaN below.
#[inline]
pub fn ln_1p(x: f32) -> f32 {
    let y = ln_1p_f64(f64::from(x)) as f32;
    if x == 0.0 { x } else { y }
}

/// xʸ for x ≥ 0; NaN for x < 0, whatever y is (but x⁰ is 1 for every x).
#[inline]
pub fn powf(x: f32, y: f32) -> f32 {
    powf_f64(f64::from(x), f64::from(y)) as f32
}

/// eˣ; below e⁻⁷⁰⁸, the end of f64's normal values, the result is 0.
#[inline]
pub fn exp_f64(x: f64) -> f64 {
    let (half, tail) = exp_parts(x);
    beyond(x, 2.0 * (half * tail + half), 0.0)
}

/// eˣ − 1.
#[inline]
pub fn exp_m1_f64(x: f64) -> f64 {
    let (half, tail) = exp_parts(x);
    beyond(x, 2.0 * (half * tail + (half - 0.5)), -1.0)
}

/// The result of an exponential beyond the range of [`exp_parts`].
#[inline]
fn beyond(x: f64, y: f64, lowest: f64) -> f64 {
    let y = if x < -708.0 { lowest } else { y };
    let y = if x > 709.782_712_893_384 { f64::INFINITY } else { y };
    if x.is_nan() { x } else { y }
}

/// 2ⁿ⁻¹ and eʳ − 1, where x = n ln 2 + r and |r| ≤ ½ ln 2, for x from −708 to 709.78.
#[inline]
fn exp_parts(x: f64) -> (f64, f64) {
    let x = x.clamp(-708.0, 709.782_712_893_384);
    let shifted = x * std::f64::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    // n goes from −1021 to 1024: half of the power is always a normal number.
    let half = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1022 << 52));
    (half, r + r * r * exp_series(r))
}

/// (eʳ − 1 − r)/r² for |r| ≤ ½ ln 2: Taylor's series to r¹¹. The remainder, r¹²/14!, is below 4·10⁻¹⁷.
#[inline]
fn exp_series(r: f64) -> f64 {
    const INVERSE_FACTORIALS: [f64; 12] = [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        1.0 / 2.0,
    ];
    INVERSE_FACTORIALS.iter().fold(0.0, |sum, c| sum * r + c)
}

/// The natural logarithm: −∞ at ±0, NaN below 0.
#[inline]
pub fn ln_f64(x: f64) -> f64 {
    // A subnormal is brought among the normal numbers first.
    let tiny = x < f64::MIN_POSITIVE;
    let (x_normal, offset) = if tiny { (x * 18_014_398_509_481_984.0, -54.0) } else { (x, 0.0) };
    // x = 2ⁿ m with m from √½ to √2: √½'s bits are subtracted, so that n is the exponent of what is left.
    const SQRT_HALF_BITS: u64 = 0x3FE6_A09E_667F_3BCD;
    let bits = x_normal.to_bits().wrapping_sub(SQRT_HALF_BITS);
    let n = ((bits as i64) >> 52) as i32;
    let m = f64::from_bits((bits & ((1 << 52) - 1)).wrapping_add(SQRT_HALF_BITS));
    let n = f64::from(n) + offset;
    // ln m = 2 artanh s = 2 (s + s³/3 + …) with s = f/(2 + f), f = m − 1, which is exact. As 2s = f − s f,
    // the largest term enters without rounding.
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let tail = z * artanh_series(z);
    let y = n * LN_2_HIGH + (f - (s * (f - 2.0 * tail) - n * LN_2_LOW));
    let y = if x == f64::INFINITY { x } else { y };
    let y = if x == 0.0 { f64::NEG_INFINITY } else { y };
    if x < 0.0 || x.is_nan() { f64::NAN } else { y }
}

/// (artanh s − s)/s³ with z = s² ≤ 0.0295: the series to z⁹. The remainder, z¹⁰/23 · 1.04, is below 3·10⁻¹⁷.
#[inline]
fn artanh_series(z: f64) -> f64 {
    const INVERSE_ODD: [f64; 10] = [
        1.0 / 21.0,
        1.0 / 19.0,
        1.0 / 17.0,
        1.0 / 15.0,
        1.0 / 13.0,
        1.0 / 11.0,
        1.0 / 9.0,
        1.0 / 7.0,
        1.0 / 5.0,
        1.0 / 3.0,
    ];
    INVERSE_ODD.iter().fold(0.0, |sum, c| sum * z + c)
}

/// ln(1 + x).
#[inline]
pub fn ln_1p_f64(x: f64) -> f64 {
    // What rounding 1 + x lost comes back to first order (the rest is its square, below 2⁻¹⁰⁶).
    let whole = 1.0 + x;
    let lost = if x.abs() < 1.0 { x - (whole - 1.0) } else { 1.0 - (whole - x) };
    let y = ln_f64(whole) + lost / whole;
    if whole == 0.0 || whole == f64::INFINITY { ln_f64(whole) } else { y }
}

/// xʸ for x ≥ 0; NaN for x < 0, whatever y is (but x⁰ is 1 for every x).
#[inline]
pub fn powf_f64(x: f64, y: f64) -> f64 {
    let power = exp_f64(y * ln_f64(x));
    // 1 to ±∞ is 1, where 0·∞ above is not.
    if y == 0.0 || x == 1.0 { 1.0 } else { power }
}

/// cos 2πt; NaN where t is not finite.
#[inline]
pub fn cos_turns(t: f64) -> f64 {
    // By period and evenness, t is from 0 to ½; then cos 2πt = sin 2π(¼ − t).
    let t = (t - t.round_ties_even()).abs();
    let angle = std::f64::consts::TAU * (0.25 - t);
    // Taylor's series of the sine at |a| ≤ ½π to a²³/23!; the remainder, a²⁵/25!, is below 6·10⁻²¹.
    let z = angle * angle;
    const INVERSE_FACTORIALS: [f64; 11] = [
        -1.0 / 25_852_016_738_884_976_640_000.0,
        1.0 / 51_090_942_171_709_440_000.0,
        -1.0 / 121_645_100_408_832_000.0,
        1.0 / 355_687_428_096_000.0,
        -1.0 / 1_307_674_368_000.0,
        1.0 / 6_227_020_800.0,
        -1.0 / 39_916_800.0,
        1.0 / 362_880.0,
        -1.0 / 5_040.0,
        1.0 / 120.0,
        -1.0 / 6.0,
    ];
    angle + angle * z * INVERSE_FACTORIALS.iter().fold(0.0, |sum, c| sum * z + c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Distance of an f32 from a reference, in units of the reference's last place in f32.
    fn ulps(got: f32, reference: f64) -> f64 {
        if f64::from(got) == reference || (got.is_nan() && reference.is_nan()) {
            return 0.0;
        }
        // Beyond the largest f32 the rounded value is infinite.
        let rounded = reference as f32;
        if !rounded.is_finite() || !got.is_finite() {
            return if got == rounded { 0.0 } else { f64::INFINITY };
        }
        let exponent = (reference.abs().to_bits() >> 52) as i32 - 1023;
        (f64::from(got) - reference).abs() / 2f64.powi(exponent.max(-126) - 23)
    }

    /// The same in f64, for references of the standard library (themselves off by less than 1).
    fn ulps_f64(got: f64, reference: f64) -> f64 {
        if got == reference || (got.is_nan() && reference.is_nan()) {
            return 0.0;
        }
        let unit = f64::from_bits(reference.abs().to_bits() + 1) - reference.abs();
        (got - reference).abs() / unit
    }

    /// One in 1,021 of all f32, NaNs, infinities and subnormals among them: 4.2 million.
    fn sample() -> impl Iterator<Item = f32> {
        (0..u32::MAX).step_by(1021).map(f32::from_bits)
    }

    fn largest(of: impl Fn(f32) -> (f32, f64)) -> (f64, f32) {
        sample().fold((0.0, 0.0), |worst, x| {
            let (got, reference) = of(x);
            let off = ulps(got, reference);
            if off > worst.0 { (off, x) } else { worst }
        })
    }

    #[test]
    fn functions_of_f32_are_half_an_ulp_off_at_most() {
        let worst = [
            largest(|x| (exp(x), f64::from(x).exp())),
            largest(|x| (exp_m1(x), f64::from(x).exp_m1())),
            largest(|x| (ln(x), f64::from(x).ln())),
            largest(|x| (ln_1p(x), f64::from(x).ln_1p())),
            largest(|x| (powf(x.abs(), 4.0), f64::from(x.abs()).powf(4.0))),
            largest(|x| (powf(x.abs(), 0.9), f64::from(x.abs()).powf(f64::from(0.9f32)))),
            largest(|x| (powf(x.abs(), -7.5), f64::from(x.abs()).powf(-7.5))),
        ];
        assert!(worst.iter().all(|(off, _)| *off < 0.501), "{worst:?}");
        // And it is a measure that finds a wrong bit.
        assert!(ulps(f32::from_bits(exp(1.0).to_bits() + 1), 1f64.exp()) > 0.5);
    }

    #[test]
    fn special_values() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        assert_eq!((exp(inf), exp(-inf), exp(0.0), exp(-0.0)), (inf, 0.0, 1.0, 1.0));
        assert_eq!((exp(88.8), exp(-104.0), exp(f32::MAX)), (inf, 0.0, inf));
        assert_eq!(exp(-103.9), f32::from_bits(1));
        assert_eq!((exp_m1(inf), exp_m1(-inf)), (inf, -1.0));
        assert_eq!((ln(0.0), ln(-0.0), ln(inf), ln(1.0)), (-inf, -inf, inf, 0.0));
        assert_eq!((ln_1p(-1.0), ln_1p(inf)), (-inf, inf));
        for zero in [0f32, -0.0] {
            assert_eq!(exp_m1(zero).to_bits(), zero.to_bits());
            assert_eq!(ln_1p(zero).to_bits(), zero.to_bits());
        }
        for x in [exp(nan), exp_m1(nan), ln(nan), ln(-1.0), ln(-inf), ln_1p(nan), ln_1p(-1.5), powf(nan, 2.0)]
        {
            assert!(x.is_nan());
        }
        assert_eq!((powf(0.0, 2.0), powf(0.0, 0.0), powf(0.0, -1.0)), (0.0, 1.0, inf));
        assert_eq!((powf(inf, 2.0), powf(inf, -2.0), powf(inf, 0.0)), (inf, 0.0, 1.0));
        assert_eq!((powf(1.0, inf), powf(0.5, inf), powf(2.0, -inf)), (1.0, 0.0, 0.0));
        assert!(powf(-2.0, 2.0).is_nan() && powf(2.0, nan).is_nan());
        assert_eq!((powf(-2.0, 0.0), powf(nan, 0.0), powf(1.0, nan)), (1.0, 1.0, 1.0));
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        assert_eq!((exp_f64(709.9), exp_f64(-709.0), exp_f64(inf), exp_f64(-inf)), (inf, 0.0, inf, 0.0));
        assert_eq!((exp_m1_f64(-800.0), exp_m1_f64(inf)), (-1.0, inf));
        assert_eq!((ln_f64(0.0), ln_f64(inf), ln_1p_f64(-1.0), ln_1p_f64(inf)), (-inf, inf, -inf, inf));
        assert!(
            [exp_f64(nan), ln_f64(nan), ln_1p_f64(nan), cos_turns(nan), cos_turns(inf)]
                .iter()
                .all(|x| x.is_nan())
        );
        for (t, cosine) in [(0.0, 1.0), (0.25, 0.0), (0.5, -1.0), (0.75, 0.0), (1.0, 1.0), (-3.0, 1.0)] {
            assert!((cos_turns(t) - cosine).abs() <= 2f64.powi(-51), "{t}: {}", cos_turns(t));
        }
    }

    #[test]
    fn known_answers() {
        // Bits, so that another machine or compiler cannot round otherwise unnoticed.
        let bits = [exp(-0.3), exp_m1(-0.3), ln(0.3), ln_1p(0.3), powf(0.3, 7.0)].map(f32::to_bits);
        assert_eq!(bits, [0x3F3D_A643, 0xBE84_B37A, 0xBF9A_1BC8, 0x3E86_549C, 0x3965_52DA], "{bits:X?}");
    }

    proptest! {
        #[test]
        fn functions_of_f64_keep_their_bounds(x in -708f64..709.7, y in 1e-310f64..1e300, small in -0.9f64..4.0) {
            prop_assert!(ulps_f64(exp_f64(x), x.exp()) <= 2.0);
            prop_assert!(ulps_f64(exp_m1_f64(x), x.exp_m1()) <= 3.0);
            prop_assert!(ulps_f64(exp_m1_f64(small), small.exp_m1()) <= 3.0);
            prop_assert!(ulps_f64(ln_f64(y), y.ln()) <= 2.0);
            prop_assert!(ulps_f64(ln_f64(1.0 + small), (1.0 + small).ln()) <= 2.0);
            prop_assert!(ulps_f64(ln_1p_f64(small), small.ln_1p()) <= 3.0);
            prop_assert!(ulps_f64(ln_1p_f64(small * 1e-9), (small * 1e-9).ln_1p()) <= 3.0);
        }

        #[test]
        fn powers_keep_their_bound(x in 1e-6f64..1e6, y in -40f64..40.0) {
            let reference = x.powf(y);
            let bound = 2f64.powi(-52) * (3.0 + 2.0 * (y * x.ln()).abs());
            prop_assert!((powf_f64(x, y) / reference - 1.0).abs() <= bound);
        }

        #[test]
        fn cosines_keep_their_bound(t in -8f64..8.0) {
            // The standard library's angle is rounded, so turns are reduced before it sees them.
            let reference = (std::f64::consts::TAU * (t - t.round())).cos();
            prop_assert!((cos_turns(t) - reference).abs() <= 2f64.powi(-51) + 2f64.powi(-51));
        }
    }
}
