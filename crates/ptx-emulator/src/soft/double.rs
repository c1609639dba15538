//! f64 arithmetic in the directed roundings, in integers: a finite number is ± digits · 2^exponent, results are formed
//! with more digits than f64 has and a last one that stands for all that was cut off, and are rounded once. So they are
//! exact everywhere, subnormal numbers and overflow included. What has no digits to round (NaN, infinities, division by
//! zero) is left to the CPU.

use super::Rounding;

/// Digits of an f64, the leading one included.
const DIGITS: i32 = 53;
/// Exponent of the last digit of the smallest numbers.
const LEAST: i32 = -1074;
/// Exponent of the last digit of the largest numbers.
const MOST: i32 = 971;

/// ± digits · 2^exponent.
#[derive(Clone, Copy)]
struct Number {
    negative: bool,
    digits: u128,
    exponent: i32,
}

impl Number {
    /// A finite f64.
    fn of(x: f64) -> Self {
        let bits = x.to_bits();
        let (biased, fraction) = ((bits >> 52 & 0x7ff) as i32, bits & ((1 << 52) - 1));
        let digits = if biased == 0 { fraction } else { fraction | 1 << 52 };
        Self { negative: bits >> 63 != 0, digits: digits.into(), exponent: LEAST + (biased - 1).max(0) }
    }

    fn times(self, other: Self) -> Self {
        Self {
            negative: self.negative != other.negative,
            digits: self.digits * other.digits,
            exponent: self.exponent + other.exponent,
        }
    }

    /// Exponent just above the leading digit.
    fn top(self) -> i32 {
        self.exponent + 128 - self.digits.leading_zeros() as i32
    }

    /// The same number with its last digit at `exponent`; digits below it are cut off, and show in the last one.
    fn at(self, exponent: i32) -> u128 {
        let by = self.exponent - exponent;
        if by >= 0 {
            return self.digits << by;
        }
        let by = by.unsigned_abs();
        if by > 127 {
            return u128::from(self.digits != 0);
        }
        let kept = self.digits >> by;
        kept | u128::from(kept << by != self.digits)
    }

    /// The sum. Each of the two has at most 106 digits. An exact zero is +0, or −0 when rounding down; a sum of two zeros
    /// of one sign keeps it.
    fn plus(self, other: Self, rounding: Rounding) -> Self {
        if self.digits == 0 && other.digits == 0 {
            let negative =
                if self.negative == other.negative { self.negative } else { rounding == Rounding::Down };
            return Self { negative, digits: 0, exponent: 0 };
        }
        if self.digits == 0 {
            return other;
        }
        if other.digits == 0 {
            return self;
        }
        // The larger's leading digit comes to bit 124: one is left for the carry, and 18 below its last. The smaller loses
        // digits only where it lies so far below that no leading digits cancel.
        let exponent = self.top().max(other.top()) - 125;
        let (a, b) = (self.at(exponent), other.at(exponent));
        if self.negative == other.negative {
            return Self { negative: self.negative, digits: a + b, exponent };
        }
        let negative = match a.cmp(&b) {
            std::cmp::Ordering::Greater => self.negative,
            std::cmp::Ordering::Less => other.negative,
            std::cmp::Ordering::Equal => rounding == Rounding::Down,
        };
        Self { negative, digits: a.abs_diff(b), exponent }
    }

    /// The nearest f64 in a direction.
    fn round(self, rounding: Rounding) -> f64 {
        let sign = u64::from(self.negative) << 63;
        if self.digits == 0 {
            return f64::from_bits(sign);
        }
        let unit = (self.top() - DIGITS).max(LEAST);
        let by = unit - self.exponent;
        let (kept, up) = if by <= 0 {
            (self.digits << -by, false)
        } else {
            // A half and one for the rest, below the digits that are kept.
            let with_rest = self.at(unit - 2);
            let (kept, rest) = (with_rest >> 2, with_rest & 3);
            let up = match rounding {
                Rounding::Nearest => rest > 2 || (rest == 2 && kept & 1 != 0),
                Rounding::Away => rest >= 2,
                Rounding::Zero => false,
                Rounding::Down => self.negative && rest != 0,
                Rounding::Up => !self.negative && rest != 0,
            };
            (kept, up)
        };
        // A leading digit, where there is one, adds one to the exponent's field, and so does a carry.
        let magnitude = ((unit - LEAST) as u64) << 52;
        let magnitude = magnitude + kept as u64 + u64::from(up);
        let infinity = 0x7ff_u64 << 52;
        if unit > MOST || magnitude >= infinity {
            let finite = match rounding {
                Rounding::Nearest | Rounding::Away => false,
                Rounding::Zero => true,
                Rounding::Down => !self.negative,
                Rounding::Up => self.negative,
            };
            return f64::from_bits(sign | (infinity - u64::from(finite)));
        }
        f64::from_bits(sign | magnitude)
    }
}

/// a + b.
pub(crate) fn add(a: f64, b: f64, rounding: Rounding) -> f64 {
    if !(a.is_finite() && b.is_finite()) {
        return a + b;
    }
    Number::of(a).plus(Number::of(b), rounding).round(rounding)
}

/// a·b.
pub(crate) fn mul(a: f64, b: f64, rounding: Rounding) -> f64 {
    if !(a.is_finite() && b.is_finite()) {
        return a * b;
    }
    Number::of(a).times(Number::of(b)).round(rounding)
}

/// a·b + c.
pub(crate) fn fma(a: f64, b: f64, c: f64, rounding: Rounding) -> f64 {
    if !(a.is_finite() && b.is_finite() && c.is_finite()) {
        return a.mul_add(b, c);
    }
    Number::of(a).times(Number::of(b)).plus(Number::of(c), rounding).round(rounding)
}

/// a ÷ b.
pub(crate) fn div(a: f64, b: f64, rounding: Rounding) -> f64 {
    if !(a.is_finite() && b.is_finite()) || a == 0.0 || b == 0.0 {
        return a / b;
    }
    let (x, y) = (Number::of(a), Number::of(b));
    // 126 digits over at most 53 leave at least 73.
    let shift = x.digits.leading_zeros() as i32 - 2;
    let dividend = x.digits << shift;
    let quotient = dividend / y.digits;
    Number {
        negative: x.negative != y.negative,
        digits: quotient << 1 | u128::from(quotient * y.digits != dividend),
        exponent: x.exponent - shift - y.exponent - 1,
    }
    .round(rounding)
}

/// √a.
pub(crate) fn sqrt(a: f64, rounding: Rounding) -> f64 {
    if !(a > 0.0 && a.is_finite()) {
        return a.sqrt();
    }
    let x = Number::of(a);
    // An even exponent, and 126 or 127 digits, of which the root has half.
    let shift = x.digits.leading_zeros() as i32 - 1;
    let shift = shift - ((x.exponent - shift) & 1);
    let square = x.digits << shift;
    let root = square.isqrt();
    Number {
        negative: false,
        digits: root << 1 | u128::from(root * root != square),
        exponent: (x.exponent - shift) / 2 - 1,
    }
    .round(rounding)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// To nearest, the CPU does the same.
    #[test]
    fn agrees_with_the_cpu() {
        let mut state = 7_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state ^ state >> 29
        };
        let nearest = Rounding::Nearest;
        for round in 0..400_000 {
            let (a, mut b, c) = (next(), next(), next());
            if round % 2 == 0 {
                // Near each other, or near the ends.
                b = (a ^ next() >> 12).wrapping_add(next() >> 58 << 52);
            }
            let (a, b) =
                (f64::from_bits(a), f64::from_bits(if round % 5 == 0 { b & !(0x7f_u64 << 56) } else { b }));
            let c = if round % 3 == 0 {
                -(a * b) * (1.0 + f64::from_bits(0x3ca0_0000_0000_0000 ^ (c & 3) << 62))
            } else {
                f64::from_bits(c)
            };
            let same = |x: f64, y: f64, what: &str| {
                assert!(
                    x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan()),
                    "{what} of {a:e} {b:e} {c:e}: {x:e}, not {y:e}"
                );
            };
            same(add(a, b, nearest), a + b, "sum");
            same(mul(a, b, nearest), a * b, "product");
            same(fma(a, b, c, nearest), a.mul_add(b, c), "fma");
            same(div(a, b, nearest), a / b, "quotient");
            same(sqrt(a, nearest), a.sqrt(), "root");
        }
    }

    #[test]
    fn directions_at_the_ends() {
        let (tiny, least) = (f64::from_bits(1), f64::MIN_POSITIVE);
        assert_eq!(mul(tiny, 0.5, Rounding::Up), tiny);
        assert_eq!(mul(tiny, 0.5, Rounding::Down).to_bits(), 0);
        assert_eq!(mul(-tiny, tiny, Rounding::Up).to_bits(), 1 << 63);
        assert_eq!(fma(tiny, tiny, least, Rounding::Up), least.next_up());
        assert_eq!(fma(-tiny, tiny, least, Rounding::Zero), least.next_down());
        assert_eq!(add(f64::MAX, f64::MAX, Rounding::Zero), f64::MAX);
        assert_eq!(add(f64::MAX, tiny, Rounding::Up), f64::INFINITY);
        assert_eq!(add(-f64::MAX, -tiny, Rounding::Up), -f64::MAX);
        assert_eq!(add(1.0, -1.0, Rounding::Down).to_bits(), 1 << 63);
        assert_eq!(div(1.0, 3.0, Rounding::Up), (1.0_f64 / 3.0).next_up());
        assert_eq!(div(tiny, 3.0, Rounding::Up), tiny);
        assert_eq!(sqrt(tiny, Rounding::Down), tiny.sqrt());
        assert_eq!(sqrt(2.0, Rounding::Up), std::f64::consts::SQRT_2);
        assert_eq!(sqrt(2.0, Rounding::Zero), std::f64::consts::SQRT_2.next_down());
    }
}
