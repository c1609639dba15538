//! `cvt` among all types.

use super::exact::{BF16, Exact, F16, F32, F64, Format, Rounding, TF32, Value};
use super::{Row, Want, check, float_cases, integer_cases};

/// An integer type: name, bits, whether signed.
type Integer = (&'static str, u32, bool);

const INTEGERS: [Integer; 8] = [
    ("u8", 8, false),
    ("s8", 8, true),
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];

/// Bits of the register that holds a type: there are none of 8 bits.
fn register((_, bits, _): Integer) -> u32 {
    bits.max(16)
}

fn read((_, bits, signed): Integer, value: u64) -> i128 {
    let value = if bits == 64 { value } else { value & ((1 << bits) - 1) };
    if signed && value >> (bits - 1) & 1 == 1 { i128::from(value) - (1 << bits) } else { i128::from(value) }
}

fn range((_, bits, signed): Integer) -> (i128, i128) {
    if signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// A number of a type, extended by its sign to the register that holds it.
fn extended(to: Integer, value: i128) -> u64 {
    let held = read(to, value as u64);
    match register(to) {
        64 => held as u64,
        bits => held as u64 & ((1 << bits) - 1),
    }
}

#[test]
fn between_integers() {
    let cases: Vec<_> = [16, 32, 64].map(|bits| (bits, integer_cases(&[bits]))).into();
    let mut rows = Vec::new();
    for from in INTEGERS {
        for to in INTEGERS {
            for sat in ["", ".sat"] {
                rows.push(Row {
                    text: format!("cvt{sat}.{}.{} {{d}}, {{a}};", to.0, from.0),
                    inputs: vec![register(from)],
                    output: register(to),
                    want: Box::new(move |v| {
                        let value = read(from, v[0]);
                        let (least, most) = range(to);
                        Want::Bits(extended(
                            to,
                            if sat.is_empty() { value } else { value.clamp(least, most) },
                        ))
                    }),
                    cases: &cases.iter().find(|c| c.0 == register(from)).expect("all widths").1,
                });
            }
        }
    }
    check(&rows);
}

#[test]
fn from_integers_to_floats() {
    let cases: Vec<_> = [16, 32, 64].map(|bits| (bits, integer_cases(&[bits]))).into();
    let mut rows = Vec::new();
    for from in INTEGERS {
        for to in [F16, F32, F64] {
            for (rounding, suffix) in Rounding::ALL {
                rows.push(Row {
                    text: format!("cvt.{suffix}.{}.{} {{d}}, {{a}};", to.name, from.0),
                    inputs: vec![register(from)],
                    output: to.width(),
                    want: Box::new(move |v| {
                        Want::Bits(to.round(&Exact::integer(read(from, v[0])), rounding).0)
                    }),
                    cases: &cases.iter().find(|c| c.0 == register(from)).expect("all widths").1,
                });
            }
        }
    }
    check(&rows);
}

fn flushed(format: Format, ftz: bool, bits: u64) -> u64 {
    if ftz && format.is_subnormal(bits) { bits & format.sign() } else { bits }
}

#[test]
fn from_floats_to_integers() {
    let all: Vec<_> = [F16, F32, F64].map(|f| (f, conversions(f))).into();
    let mut rows = Vec::new();
    for (from, cases) in &all {
        for to in INTEGERS {
            for (rounding, suffix) in Rounding::ALL {
                for ftz in [false, true] {
                    if ftz && *from != F32 {
                        continue;
                    }
                    let modifier = if ftz { ".ftz" } else { "" };
                    rows.push(Row {
                        text: format!("cvt.{suffix}i{modifier}.{}.{} {{d}}, {{a}};", to.0, from.name),
                        inputs: vec![from.width()],
                        output: register(to),
                        want: Box::new(move |v| {
                            let (least, most) = range(to);
                            let value = match from.decode(flushed(*from, ftz, v[0])) {
                                // No number becomes 0; the highest bit alone where 64 bits are on either side.
                                Value::Nan if *from == F64 || to.1 == 64 => {
                                    return Want::Either(0, extended(to, 1 << (to.1 - 1)));
                                }
                                Value::Nan => 0,
                                Value::Infinite { negative } => {
                                    if negative {
                                        least
                                    } else {
                                        most
                                    }
                                }
                                Value::Finite(x) => x.to_integer(rounding).clamp(least, most),
                            };
                            Want::Bits(extended(to, value))
                        }),
                        cases,
                    });
                }
            }
        }
    }
    check(&rows);
}

/// Floats, and those around the ends of the integers' ranges and halves.
fn conversions(format: Format) -> Vec<Vec<u64>> {
    let mut cases = float_cases(format, 1);
    for exponent in 0..66u32 {
        for odd in [0, 1, 2, 3, 5] {
            let value = Exact {
                negative: odd % 2 == 1,
                mantissa: super::exact::Natural::from((1 << exponent) * 4 + odd),
                exponent: -2,
            };
            let (bits, _) = format.round(&value, Rounding::Nearest);
            cases.extend([vec![bits], vec![bits ^ format.sign()], vec![bits.saturating_sub(1)]]);
        }
    }
    cases
}

#[test]
fn between_floats() {
    let all: Vec<_> = [F16, BF16, F32, F64].map(|f| (f, float_cases(f, 1))).into();
    let narrowing = [(F64, F32), (F64, F16), (F32, F16), (F32, BF16)];
    let widening = [(F16, F32), (F16, F64), (F32, F64), (BF16, F32)];
    let mut rows = Vec::new();
    for (from, to, widens) in
        narrowing.map(|(a, b)| (a, b, false)).into_iter().chain(widening.map(|(a, b)| (a, b, true)))
    {
        let cases = &all.iter().find(|c| c.0 == from).expect("all formats").1;
        let roundings: &[_] = match (widens, to == BF16) {
            (true, _) => &[(Rounding::Nearest, "")],
            (_, true) => &[(Rounding::Nearest, ".rn"), (Rounding::Zero, ".rz")],
            _ => &[
                (Rounding::Nearest, ".rn"),
                (Rounding::Zero, ".rz"),
                (Rounding::Down, ".rm"),
                (Rounding::Up, ".rp"),
            ],
        };
        for (rounding, suffix) in roundings.iter().copied() {
            for modifier in ["", ".ftz", ".sat", ".relu"] {
                let halves = from == F32 && !widens;
                let allowed = match modifier {
                    ".ftz" => (from == F32 || to == F32) && from != BF16 && to != BF16,
                    ".sat" => from != BF16 && to != BF16,
                    ".relu" => halves && matches!(rounding, Rounding::Nearest | Rounding::Zero),
                    _ => true,
                };
                if !allowed {
                    continue;
                }
                rows.push(Row {
                    text: format!("cvt{suffix}{modifier}.{}.{} {{d}}, {{a}};", to.name, from.name),
                    inputs: vec![from.width()],
                    output: to.width(),
                    want: Box::new(move |v| converted(from, to, rounding, modifier, v[0])),
                    cases,
                });
            }
        }
    }
    check(&rows);
}

/// A float in another format. `.ftz` flushes what is an f32 on either side.
fn converted(from: Format, to: Format, rounding: Rounding, modifier: &str, bits: u64) -> Want {
    let ftz = modifier == ".ftz";
    let clamps = modifier == ".sat" || modifier == ".relu";
    let (bits, tiny) = match from.decode(flushed(from, ftz && from == F32, bits)) {
        Value::Nan if modifier == ".sat" => return Want::Bits(0),
        Value::Nan => return Want::Nan(to),
        Value::Infinite { negative } => (to.infinity() | if negative { to.sign() } else { 0 }, false),
        Value::Finite(x) => to.round(&x, rounding),
    };
    let sign = bits & to.sign();
    if clamps && sign != 0 {
        return if bits == sign { Want::Either(0, sign) } else { Want::Bits(0) };
    }
    if modifier == ".sat" && bits > to.one() {
        return Want::Bits(to.one());
    }
    if ftz && to == F32 && tiny {
        return if to.is_subnormal(bits) { Want::Bits(sign) } else { Want::Either(sign, bits) };
    }
    Want::Bits(bits)
}

#[test]
fn to_whole_floats() {
    let all: Vec<_> = [F16, F32, F64].map(|f| (f, conversions(f))).into();
    let mut rows = Vec::new();
    for (format, cases) in &all {
        for (rounding, suffix) in Rounding::ALL {
            rows.push(Row {
                text: format!("cvt.{suffix}i.{0}.{0} {{d}}, {{a}};", format.name),
                inputs: vec![format.width()],
                output: format.width(),
                want: Box::new(move |v| match format.decode(v[0]) {
                    Value::Nan => Want::Nan(*format),
                    Value::Finite(x) if x.exponent < 0 => {
                        let whole = Exact::integer(x.to_integer(rounding));
                        Want::Bits(format.round(&whole, rounding).0 | v[0] & format.sign())
                    }
                    _ => Want::Bits(v[0]),
                }),
                cases,
            });
        }
    }
    check(&rows);
}

/// Two f32 become one register of two halves, the first the upper one; f32 becomes tf32, ties away from zero.
#[test]
fn packed_halves_and_tf32() {
    let (pairs, ones) = (float_cases(F32, 2), float_cases(F32, 1));
    let mut rows = Vec::new();
    for format in [F16, BF16] {
        for (rounding, suffix) in [(Rounding::Nearest, "rn"), (Rounding::Zero, "rz")] {
            for relu in ["", ".relu"] {
                rows.push(Row {
                    text: format!("cvt.{suffix}{relu}.{}x2.f32 {{d}}, {{a}}, {{b}};", format.name),
                    inputs: vec![32; 2],
                    output: 32,
                    want: Box::new(move |v| {
                        let [high, low] =
                            [v[0], v[1]].map(|bits| converted(F32, format, rounding, relu, bits));
                        let bits = |want: Want| match want {
                            Want::Bits(bits) | Want::Either(bits, _) => bits,
                            _ => 0x7fff,
                        };
                        // A clamped -0 may be either, in each half.
                        let zeros = |v: u64| !relu.is_empty() && v == F32.sign();
                        if zeros(v[0]) || zeros(v[1]) {
                            Want::Anything
                        } else {
                            Want::Bits(bits(high) << 16 | bits(low))
                        }
                    }),
                    cases: &pairs,
                });
            }
        }
    }
    rows.push(Row {
        text: "cvt.rna.tf32.f32 {d}, {a};".to_owned(),
        inputs: vec![32],
        output: 32,
        want: Box::new(|v| match F32.decode(v[0]) {
            Value::Nan => Want::Nan(F32),
            Value::Infinite { .. } => Want::Bits(v[0]),
            Value::Finite(_) => {
                // Ties away from zero: half a unit is added to the magnitude, the rest cut off.
                let unit = 1 << (F32.mantissa - TF32.mantissa);
                let magnitude = ((v[0] & !F32.sign()) + unit / 2) / unit * unit;
                Want::Bits(v[0] & F32.sign() | magnitude)
            }
        }),
        cases: &ones,
    });
    check(&rows);
}
