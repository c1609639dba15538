//! Exact arithmetic on numbers of the form ± mantissa · 2^exponent, and its rounding to any binary format: what IEEE 754
//! and PTX define floating-point instructions by. Slow and plain.

use std::cmp::Ordering;

/// A natural number, 32 bits a digit, the lowest first, no zero at the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Natural(Vec<u32>);

impl Natural {
    pub fn from(mut value: u128) -> Self {
        let mut digits = Vec::new();
        while value > 0 {
            digits.push(value as u32);
            value >>= 32;
        }
        Self(digits)
    }

    pub fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    /// Bits up to the highest that is set.
    pub fn bits(&self) -> i32 {
        self.0.last().map_or(0, |top| self.0.len() as i32 * 32 - top.leading_zeros() as i32)
    }

    fn bit(&self, at: i32) -> bool {
        at >= 0 && self.0.get(at as usize / 32).is_some_and(|d| d >> (at % 32) & 1 == 1)
    }

    fn shifted_left(&self, by: i32) -> Self {
        let mut digits = vec![0; by as usize / 32];
        let mut carry = 0u64;
        for digit in &self.0 {
            carry |= u64::from(*digit) << (by % 32);
            digits.push(carry as u32);
            carry >>= 32;
        }
        digits.push(carry as u32);
        Self(digits).trimmed()
    }

    fn trimmed(mut self) -> Self {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        self
    }

    fn plus(&self, other: &Self) -> Self {
        let mut carry = 0u64;
        let length = self.0.len().max(other.0.len()) + 1;
        let digit = |n: &Self, i: usize| u64::from(n.0.get(i).copied().unwrap_or(0));
        let sum = (0..length).map(|i| {
            carry += digit(self, i) + digit(other, i);
            let low = carry as u32;
            carry >>= 32;
            low
        });
        Self(sum.collect()).trimmed()
    }

    /// `self - other`, where `other` is not larger.
    fn minus(&self, other: &Self) -> Self {
        let mut borrow = 0i64;
        let difference = self.0.iter().enumerate().map(|(i, d)| {
            let mut v = i64::from(*d) - i64::from(other.0.get(i).copied().unwrap_or(0)) - borrow;
            borrow = i64::from(v < 0);
            v += borrow << 32;
            v as u32
        });
        Self(difference.collect()).trimmed()
    }

    fn times(&self, other: &Self) -> Self {
        let mut digits = vec![0u32; self.0.len() + other.0.len() + 1];
        for (i, a) in self.0.iter().enumerate() {
            let mut carry = 0u64;
            for (j, b) in other.0.iter().enumerate() {
                carry += u64::from(digits[i + j]) + u64::from(*a) * u64::from(*b);
                digits[i + j] = carry as u32;
                carry >>= 32;
            }
            digits[i + other.0.len()] = carry as u32;
        }
        Self(digits).trimmed()
    }

    fn order(&self, other: &Self) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }
}

/// ± mantissa · 2^exponent; a zero keeps its sign.
#[derive(Clone, Debug)]
pub struct Exact {
    pub negative: bool,
    pub mantissa: Natural,
    pub exponent: i32,
}

/// A number, an infinity, or no number.
#[derive(Clone, Debug)]
pub enum Value {
    Nan,
    Infinite { negative: bool },
    Finite(Exact),
}

/// The four roundings of PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    Nearest,
    Zero,
    Down,
    Up,
}

impl Rounding {
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::Nearest, "rn"), (Self::Zero, "rz"), (Self::Down, "rm"), (Self::Up, "rp")];

    /// Whether the magnitude is to go up by one unit, given what was cut off against half a unit.
    fn away(self, negative: bool, odd: bool, rest: Rest) -> bool {
        match self {
            Self::Nearest => rest == Rest::AboveHalf || rest == Rest::Half && odd,
            Self::Zero => false,
            Self::Down => negative && rest != Rest::Nothing,
            Self::Up => !negative && rest != Rest::Nothing,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Nothing,
    BelowHalf,
    Half,
    AboveHalf,
}

/// A binary interchange format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Name in PTX.
    pub name: &'static str,
    /// Bits of the exponent.
    pub exponent: u32,
    /// Bits of the mantissa that are stored.
    pub mantissa: u32,
}

pub const F16: Format = Format { name: "f16", exponent: 5, mantissa: 10 };
pub const BF16: Format = Format { name: "bf16", exponent: 8, mantissa: 7 };
pub const F32: Format = Format { name: "f32", exponent: 8, mantissa: 23 };
pub const F64: Format = Format { name: "f64", exponent: 11, mantissa: 52 };
/// tf32: the upper 19 bits of an f32.
pub const TF32: Format = Format { name: "tf32", exponent: 8, mantissa: 10 };

impl Format {
    pub fn width(self) -> u32 {
        1 + self.exponent + self.mantissa
    }

    pub fn sign(self) -> u64 {
        1 << (self.width() - 1)
    }

    pub fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.mantissa
    }

    pub fn one(self) -> u64 {
        ((1 << (self.exponent - 1)) - 1) << self.mantissa
    }

    pub fn is_nan(self, bits: u64) -> bool {
        bits & !self.sign() > self.infinity()
    }

    pub fn is_subnormal(self, bits: u64) -> bool {
        let magnitude = bits & !self.sign();
        magnitude != 0 && magnitude < 1 << self.mantissa
    }

    /// Exponent of the smallest normal number.
    fn lowest(self) -> i32 {
        2 - (1 << (self.exponent - 1))
    }

    pub fn decode(self, bits: u64) -> Value {
        let negative = bits & self.sign() != 0;
        let magnitude = bits & (self.sign() - 1);
        if magnitude >= self.infinity() {
            return if magnitude == self.infinity() { Value::Infinite { negative } } else { Value::Nan };
        }
        let (stored, fraction) = (magnitude >> self.mantissa, magnitude & ((1 << self.mantissa) - 1));
        let mantissa = if stored == 0 { fraction } else { fraction | 1 << self.mantissa };
        let exponent = self.lowest() - self.mantissa as i32 + (stored as i32 - 1).max(0);
        Value::Finite(Exact { negative, mantissa: Natural::from(u128::from(mantissa)), exponent })
    }

    /// Rounds; the second value says whether the number lay below the smallest normal one before rounding.
    pub fn round(self, value: &Exact, rounding: Rounding) -> (u64, bool) {
        let sign = if value.negative { self.sign() } else { 0 };
        if value.mantissa.is_zero() {
            return (sign, false);
        }
        let top = value.exponent + value.mantissa.bits() - 1;
        let unit = top.max(self.lowest()) - self.mantissa as i32;
        let (kept, rest) = cut(&value.mantissa, unit - value.exponent);
        let kept = kept + u64::from(rounding.away(value.negative, kept & 1 == 1, rest));
        let magnitude = (((top - self.lowest()).max(0) as u64) << self.mantissa) + kept;
        let tiny = top < self.lowest();
        if magnitude < self.infinity() {
            return (sign | magnitude, tiny);
        }
        let to_infinity = match rounding {
            Rounding::Nearest => true,
            Rounding::Zero => false,
            Rounding::Down => value.negative,
            Rounding::Up => !value.negative,
        };
        (sign | if to_infinity { self.infinity() } else { self.infinity() - 1 }, false)
    }
}

/// The bits of a number above position `by`, and what lay below; at most 64 bits remain.
fn cut(n: &Natural, by: i32) -> (u64, Rest) {
    let mut kept = 0;
    for at in (by.max(0)..n.bits().max(by)).rev() {
        kept = kept << 1 | u64::from(n.bit(at));
    }
    if by <= 0 {
        return (kept << -by, Rest::Nothing);
    }
    let lower = (0..by - 1).any(|at| n.bit(at));
    let rest = match (n.bit(by - 1), lower) {
        (false, false) => Rest::Nothing,
        (false, true) => Rest::BelowHalf,
        (true, false) => Rest::Half,
        (true, true) => Rest::AboveHalf,
    };
    (kept, rest)
}

impl Exact {
    pub fn integer(value: i128) -> Self {
        Self { negative: value < 0, mantissa: Natural::from(value.unsigned_abs()), exponent: 0 }
    }

    /// The sum; an exact zero from numbers of different sign is +0, or -0 when rounding down.
    pub fn plus(&self, other: &Self, rounding: Rounding) -> Self {
        let exponent = self.exponent.min(other.exponent);
        let a = self.mantissa.shifted_left(self.exponent - exponent);
        let b = other.mantissa.shifted_left(other.exponent - exponent);
        if self.negative == other.negative {
            return Self { negative: self.negative, mantissa: a.plus(&b), exponent };
        }
        match a.order(&b) {
            Ordering::Equal => {
                Self { negative: rounding == Rounding::Down, mantissa: Natural::from(0), exponent }
            }
            Ordering::Greater => Self { negative: self.negative, mantissa: a.minus(&b), exponent },
            Ordering::Less => Self { negative: other.negative, mantissa: b.minus(&a), exponent },
        }
    }

    pub fn times(&self, other: &Self) -> Self {
        Self {
            negative: self.negative != other.negative,
            mantissa: self.mantissa.times(&other.mantissa),
            exponent: self.exponent + other.exponent,
        }
    }

    /// Rounds to an integer.
    pub fn to_integer(&self, rounding: Rounding) -> i128 {
        if self.exponent + self.mantissa.bits() > 80 {
            return if self.negative { i128::MIN } else { i128::MAX };
        }
        let (kept, rest) = if self.exponent >= 0 {
            let shifted = self.mantissa.shifted_left(self.exponent);
            let magnitude =
                shifted.0.iter().rev().fold(0u128, |v, digit| v << 32 | u128::from(*digit)) as i128;
            return if self.negative { -magnitude } else { magnitude };
        } else {
            cut(&self.mantissa, -self.exponent)
        };
        let magnitude = i128::from(kept) + i128::from(rounding.away(self.negative, kept & 1 == 1, rest));
        if self.negative { -magnitude } else { magnitude }
    }

    fn small(&self) -> u128 {
        self.mantissa.0.iter().rev().fold(0u128, |v, digit| v << 32 | u128::from(*digit))
    }

    /// The quotient to 70 bits or more; one more bit says whether something was cut off, so that it rounds as the
    /// exact quotient does. Mantissas have at most 53 bits; the divisor is not zero.
    pub fn over(&self, other: &Self) -> Self {
        let negative = self.negative != other.negative;
        if self.mantissa.is_zero() {
            return Self { negative, mantissa: Natural::from(0), exponent: 0 };
        }
        let (mut a, b) = (self.small(), other.small());
        let shift = a.leading_zeros() as i32 - 1;
        a <<= shift;
        let (quotient, rest) = (a / b, a % b);
        let mantissa = Natural::from(quotient << 1 | u128::from(rest != 0));
        Self { negative, mantissa, exponent: self.exponent - shift - other.exponent - 1 }
    }

    /// The square root of a number that is not negative, to 62 bits or more and one that stands for the rest.
    pub fn root(&self) -> Self {
        if self.mantissa.is_zero() {
            return self.clone();
        }
        let mut a = self.small();
        let mut shift = a.leading_zeros() as i32 - 1;
        shift -= (self.exponent - shift) & 1;
        a <<= shift;
        let root = a.isqrt();
        let mantissa = Natural::from(root << 1 | u128::from(root * root != a));
        Self { negative: false, mantissa, exponent: (self.exponent - shift) / 2 - 1 }
    }
}

/// The reference itself is compared with the processor's arithmetic.
#[test]
fn agrees_with_the_processor() {
    let mut random = crate::support::Random(99);
    let finite = |format: Format, bits: u64| match format.decode(bits) {
        Value::Finite(v) => Some(v),
        _ => None,
    };
    let mut compared = 0;
    for _ in 0..20_000 {
        let a = f64::from_bits(random.bits());
        let b = match random.u32() % 3 {
            0 => f64::from_bits(random.bits()),
            _ => f64::from_bits((a.to_bits() ^ random.bits() >> 14).wrapping_add(random.bits() >> 59 << 52)),
        };
        let c = f64::from_bits((a * b).to_bits() ^ random.bits() >> 13);
        let bits = [a, b, c].map(|v| finite(F64, v.to_bits()));
        let [Some(x), Some(y), Some(z)] = bits else { continue };
        compared += 1;
        let nearest = |v: &Exact| F64.round(v, Rounding::Nearest).0;
        assert_eq!(nearest(&x.plus(&y, Rounding::Nearest)), (a + b).to_bits(), "{a:e} + {b:e}");
        assert_eq!(nearest(&x.times(&y)), (a * b).to_bits(), "{a:e} * {b:e}");
        let fused = x.times(&y).plus(&z, Rounding::Nearest);
        assert_eq!(nearest(&fused), a.mul_add(b, c).to_bits(), "{a:e} * {b:e} + {c:e}");
        if b != 0.0 {
            assert_eq!(nearest(&x.over(&y)), (a / b).to_bits(), "{a:e} / {b:e}");
        }
        if a > 0.0 {
            assert_eq!(nearest(&x.root()), a.sqrt().to_bits(), "√{a:e}");
        }
        assert_eq!(F32.round(&x, Rounding::Nearest).0, u64::from((a as f32).to_bits()), "{a:e}");
        if a.abs() < 1e20 {
            assert_eq!(x.to_integer(Rounding::Zero), a as i128, "{a:e}");
            assert_eq!(x.to_integer(Rounding::Nearest), a.round_ties_even() as i128, "{a:e}");
            assert_eq!(x.to_integer(Rounding::Down), a.floor() as i128, "{a:e}");
            assert_eq!(x.to_integer(Rounding::Up), a.ceil() as i128, "{a:e}");
        }
    }
    assert!(compared > 15_000);
}
