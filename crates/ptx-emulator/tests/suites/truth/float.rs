//! Arithmetic of f32, f64, f16 and bf16.

use super::exact::{BF16, Exact, F16, F32, F64, Format, Rounding, Value};
use super::{Row, Want, check, float_cases};

/// Modifiers of an instruction.
#[derive(Clone, Copy, Default)]
struct Modifiers {
    ftz: bool,
    sat: bool,
    relu: bool,
}

impl Modifiers {
    /// An input as the instruction sees it.
    fn input(self, format: Format, bits: u64) -> u64 {
        if self.ftz && format.is_subnormal(bits) { bits & format.sign() } else { bits }
    }

    /// What an exact result becomes.
    fn output(self, format: Format, value: &Value, rounding: Rounding) -> Want {
        let (bits, tiny) = match value {
            Value::Nan if self.sat => return Want::Bits(0),
            Value::Nan => return Want::Nan(format),
            Value::Infinite { negative } => {
                (format.infinity() | if *negative { format.sign() } else { 0 }, false)
            }
            Value::Finite(exact) => format.round(exact, rounding),
        };
        let negative = bits & format.sign() != 0;
        let zero = bits & format.sign();
        if (self.sat || self.relu) && negative {
            // Whether a clamped -0 keeps its sign is not stated.
            return if bits == format.sign() { Want::Either(0, bits) } else { Want::Bits(0) };
        }
        if self.sat && bits > format.one() {
            return Want::Bits(format.one());
        }
        if self.ftz && format.is_subnormal(bits) {
            return Want::Bits(zero);
        }
        if self.ftz && tiny && bits != zero {
            // Below the smallest normal number before rounding, not after: which of the two counts is not stated.
            return Want::Either(zero, bits);
        }
        Want::Bits(bits)
    }
}

fn plus(a: &Value, b: &Value, rounding: Rounding) -> Value {
    match (a, b) {
        (Value::Nan, _) | (_, Value::Nan) => Value::Nan,
        (Value::Infinite { negative: x }, Value::Infinite { negative: y }) if x != y => Value::Nan,
        (Value::Infinite { negative }, _) | (_, Value::Infinite { negative }) => {
            Value::Infinite { negative: *negative }
        }
        (Value::Finite(x), Value::Finite(y)) => Value::Finite(x.plus(y, rounding)),
    }
}

fn is_negative(v: &Value) -> bool {
    match v {
        Value::Nan => false,
        Value::Infinite { negative } => *negative,
        Value::Finite(x) => x.negative,
    }
}

fn times(a: &Value, b: &Value) -> Value {
    let negative = is_negative(a) != is_negative(b);
    match (a, b) {
        (Value::Nan, _) | (_, Value::Nan) => Value::Nan,
        (Value::Finite(x), Value::Finite(y)) => Value::Finite(x.times(y)),
        (Value::Finite(x), _) | (_, Value::Finite(x)) if x.mantissa.is_zero() => Value::Nan,
        _ => Value::Infinite { negative },
    }
}

fn over(a: &Value, b: &Value) -> Value {
    let negative = is_negative(a) != is_negative(b);
    let zero = Exact { negative, ..Exact::integer(0) };
    match (a, b) {
        (Value::Nan, _) | (_, Value::Nan) | (Value::Infinite { .. }, Value::Infinite { .. }) => Value::Nan,
        (Value::Infinite { .. }, _) => Value::Infinite { negative },
        (_, Value::Infinite { .. }) => Value::Finite(zero),
        (Value::Finite(x), Value::Finite(y)) => match (x.mantissa.is_zero(), y.mantissa.is_zero()) {
            (true, true) => Value::Nan,
            (false, true) => Value::Infinite { negative },
            _ => Value::Finite(x.over(y)),
        },
    }
}

fn root(a: &Value) -> Value {
    match a {
        Value::Finite(x) if !x.negative || x.mantissa.is_zero() => Value::Finite(x.root()),
        Value::Infinite { negative: false } => a.clone(),
        _ => Value::Nan,
    }
}

fn negated(format: Format, bits: u64) -> u64 {
    bits ^ format.sign()
}

/// One exact function of up to three inputs.
type Function = fn(&[Value], Rounding) -> Value;

fn row<'a>(
    name: &str,
    arguments: &str,
    format: Format,
    rounding: Rounding,
    modifiers: Modifiers,
    function: Function,
    cases: &'a [Vec<u64>],
) -> Row<'a> {
    let mut text = name.to_owned();
    for (on, modifier) in [(modifiers.ftz, ".ftz"), (modifiers.sat, ".sat"), (modifiers.relu, ".relu")] {
        if on {
            text += modifier;
        }
    }
    Row {
        text: format!("{text}.{} {{d}}, {arguments};", format.name),
        inputs: vec![format.width(); arguments.split(", ").count()],
        output: format.width(),
        want: Box::new(move |case| {
            let values: Vec<Value> =
                case.iter().map(|v| format.decode(modifiers.input(format, *v))).collect();
            let result = function(&values, rounding);
            modifiers.output(format, &result, rounding)
        }),
        cases,
    }
}

const ADD: Function = |v, rounding| plus(&v[0], &v[1], rounding);
const MUL: Function = |v, _| times(&v[0], &v[1]);
const FMA: Function = |v, rounding| plus(&times(&v[0], &v[1]), &v[2], rounding);
const SUB: Function = |v, rounding| {
    let flipped = match &v[1] {
        Value::Finite(x) => Value::Finite(Exact { negative: !x.negative, ..x.clone() }),
        Value::Infinite { negative } => Value::Infinite { negative: !negative },
        Value::Nan => Value::Nan,
    };
    plus(&v[0], &flipped, rounding)
};
const DIV: Function = |v, _| over(&v[0], &v[1]);
const RCP: Function = |v, _| over(&Value::Finite(Exact::integer(1)), &v[0]);
const SQRT: Function = |v, _| root(&v[0]);

/// Rows of f32 and f64 in all roundings; f32 with `.ftz` and `.sat` too.
fn rounded<'a>(
    name: &str,
    arguments: &str,
    function: Function,
    sat: bool,
    f32s: &'a [Vec<u64>],
    f64s: &'a [Vec<u64>],
) -> Vec<Row<'a>> {
    let mut rows = Vec::new();
    for (rounding, suffix) in Rounding::ALL {
        let name = format!("{name}.{suffix}");
        for (ftz, sat) in [(false, false), (true, false), (false, sat), (true, sat)] {
            rows.push(row(
                &name,
                arguments,
                F32,
                rounding,
                Modifiers { ftz, sat, relu: false },
                function,
                f32s,
            ));
        }
        rows.push(row(&name, arguments, F64, rounding, Modifiers::default(), function, f64s));
    }
    rows
}

#[test]
fn add_sub_mul_in_all_roundings() {
    let (f32s, f64s) = (float_cases(F32, 2), float_cases(F64, 2));
    let mut rows = Vec::new();
    for (name, function) in [("add", ADD), ("sub", SUB), ("mul", MUL)] {
        rows.extend(rounded(name, "{a}, {b}", function, true, &f32s, &f64s));
        // Without a rounding: to nearest.
        rows.push(row(name, "{a}, {b}", F32, Rounding::Nearest, Modifiers::default(), function, &f32s));
        rows.push(row(name, "{a}, {b}", F64, Rounding::Nearest, Modifiers::default(), function, &f64s));
    }
    check(&rows);
}

#[test]
fn fma_and_mad_in_all_roundings() {
    let (f32s, f64s) = (float_cases(F32, 3), float_cases(F64, 3));
    let mut rows = rounded("fma", "{a}, {b}, {c}", FMA, true, &f32s, &f64s);
    rows.push(row("mad.rn", "{a}, {b}, {c}", F32, Rounding::Nearest, Modifiers::default(), FMA, &f32s));
    rows.push(row("mad.rn", "{a}, {b}, {c}", F64, Rounding::Nearest, Modifiers::default(), FMA, &f64s));
    check(&rows);
}

#[test]
fn division_and_roots_in_all_roundings() {
    let (two32, two64) = (float_cases(F32, 2), float_cases(F64, 2));
    let (one32, one64) = (float_cases(F32, 1), float_cases(F64, 1));
    let mut rows = rounded("div", "{a}, {b}", DIV, false, &two32, &two64);
    rows.extend(rounded("rcp", "{a}", RCP, false, &one32, &one64));
    rows.extend(rounded("sqrt", "{a}", SQRT, false, &one32, &one64));
    check(&rows);
}

#[test]
fn half_precision() {
    let halves: Vec<_> = [F16, BF16].map(|f| (f, float_cases(f, 2), float_cases(f, 3))).into();
    let mut rows = Vec::new();
    for (format, two, three) in &halves {
        let nearest = Rounding::Nearest;
        let choices = |ftz, sat, relu| Modifiers { ftz, sat, relu };
        let plain = Modifiers::default();
        for (name, function) in [("add", ADD), ("sub", SUB), ("mul", MUL)] {
            rows.push(row(&format!("{name}.rn"), "{a}, {b}", *format, nearest, plain, function, two));
            if *format == F16 {
                rows.push(row(name, "{a}, {b}", F16, nearest, choices(true, false, false), function, two));
                rows.push(row(name, "{a}, {b}", F16, nearest, choices(false, true, false), function, two));
            }
        }
        rows.push(row("fma.rn", "{a}, {b}, {c}", *format, nearest, plain, FMA, three));
        if *format == F16 {
            rows.push(row("fma.rn", "{a}, {b}, {c}", F16, nearest, choices(true, false, false), FMA, three));
            rows.push(row("fma.rn", "{a}, {b}, {c}", F16, nearest, choices(false, true, false), FMA, three));
        }
        rows.push(row("fma.rn", "{a}, {b}, {c}", *format, nearest, choices(false, false, true), FMA, three));
    }
    check(&rows);
}

/// Two halves in one register: each half as the scalar instruction gives it.
#[test]
fn packed_halves() {
    let all: Vec<_> = [F16, BF16]
        .map(|format| {
            let packed = |arity: usize| -> Vec<Vec<u64>> {
                let cases = float_cases(format, arity);
                let other = cases.iter().rev().cycle().skip(17);
                cases
                    .iter()
                    .zip(other)
                    .map(|(low, high)| low.iter().zip(high).map(|(l, h)| l | h << 16).collect())
                    .collect()
            };
            (format, packed(2), packed(3))
        })
        .into();
    let mut rows = Vec::new();
    for (format, two, three) in &all {
        let operations: [(&str, &str, Function, &Vec<Vec<u64>>); 4] = [
            ("add.rn", "{a}, {b}", ADD, two),
            ("sub.rn", "{a}, {b}", SUB, two),
            ("mul.rn", "{a}, {b}", MUL, two),
            ("fma.rn", "{a}, {b}, {c}", FMA, three),
        ];
        for (name, arguments, function, cases) in operations {
            // A half that is no number is the canonical NaN, 0x7fff.
            let half = move |case: &[u64], shift: u32| {
                let values: Vec<Value> = case.iter().map(|v| format.decode(v >> shift & 0xffff)).collect();
                match Modifiers::default().output(
                    *format,
                    &function(&values, Rounding::Nearest),
                    Rounding::Nearest,
                ) {
                    Want::Bits(bits) => bits,
                    _ => 0x7fff,
                }
            };
            rows.push(Row {
                text: format!("{name}.{}x2 {{d}}, {arguments};", format.name),
                inputs: vec![32; arguments.split(", ").count()],
                output: 32,
                want: Box::new(move |case| Want::Bits(half(case, 0) | half(case, 16) << 16)),
                cases,
            });
        }
    }
    check(&rows);
}

/// `min` or `max` as PTX states them: a NaN gives way to a number, -0 is below +0, `.NaN` lets a NaN win.
fn extreme(format: Format, largest: bool, nan_wins: bool, a: u64, b: u64) -> Want {
    let (x, y) = (format.is_nan(a), format.is_nan(b));
    if x && y || nan_wins && (x || y) {
        return Want::Nan(format);
    }
    if x || y {
        return Want::Bits(if x { b } else { a });
    }
    // Sign and magnitude as an integer that orders as the numbers do, -0 below +0.
    let key = |v: u64| if v & format.sign() != 0 { -1 - (v & !format.sign()) as i128 } else { i128::from(v) };
    Want::Bits(if (key(a) > key(b)) == largest { a } else { b })
}

#[test]
fn min_and_max() {
    let all: Vec<_> = [F32, F64, F16, BF16].map(|f| (f, float_cases(f, 2))).into();
    let mut rows = Vec::new();
    for (format, cases) in &all {
        for (name, largest) in [("min", false), ("max", true)] {
            for modifier in ["", ".ftz", ".NaN", ".ftz.NaN"] {
                let (ftz, nan) = (modifier.contains("ftz"), modifier.contains("NaN"));
                let allowed = match format.name {
                    "f64" => modifier.is_empty(),
                    "bf16" => !ftz,
                    _ => true,
                };
                if !allowed {
                    continue;
                }
                rows.push(Row {
                    text: format!("{name}{modifier}.{} {{d}}, {{a}}, {{b}};", format.name),
                    inputs: vec![format.width(); 2],
                    output: format.width(),
                    want: Box::new(move |case| {
                        let m = Modifiers { ftz, ..Modifiers::default() };
                        extreme(*format, largest, nan, m.input(*format, case[0]), m.input(*format, case[1]))
                    }),
                    cases,
                });
            }
        }
    }
    check(&rows);
}

#[test]
fn signs() {
    let all: Vec<_> = [F32, F64, F16, BF16].map(|f| (f, float_cases(f, 1), float_cases(f, 2))).into();
    let mut rows = Vec::new();
    for (format, cases, pairs) in &all {
        let choices: &[bool] =
            if format.name == "f32" || format.name == "f16" { &[false, true] } else { &[false] };
        for ftz in choices.iter().copied() {
            for (name, flip) in [("neg", true), ("abs", false)] {
                let suffix = if ftz { ".ftz" } else { "" };
                rows.push(Row {
                    text: format!("{name}{suffix}.{} {{d}}, {{a}};", format.name),
                    inputs: vec![format.width()],
                    output: format.width(),
                    want: Box::new(move |case| {
                        let v = Modifiers { ftz, ..Modifiers::default() }.input(*format, case[0]);
                        if format.is_nan(v) {
                            return Want::Nan(*format);
                        }
                        Want::Bits(if flip { negated(*format, v) } else { v & !format.sign() })
                    }),
                    cases,
                });
            }
        }
        if format.width() >= 32 {
            rows.push(Row {
                text: format!("copysign.{} {{d}}, {{a}}, {{b}};", format.name),
                inputs: vec![format.width(); 2],
                output: format.width(),
                want: Box::new(move |case| Want::Bits(case[0] & format.sign() | case[1] & !format.sign())),
                cases: pairs,
            });
        }
    }
    check(&rows);
}

/// `testp`: the class of a number.
#[test]
fn classes() {
    let all: Vec<_> = [F32, F64].map(|f| (f, float_cases(f, 1))).into();
    let mut rows = Vec::new();
    for (format, cases) in &all {
        for name in ["finite", "infinite", "number", "notanumber", "normal", "subnormal"] {
            rows.push(Row {
                text: format!("testp.{name}.{} {{p}}, {{a}}; selp.u32 {{d}}, 1, 0, {{p}};", format.name),
                inputs: vec![format.width()],
                output: 32,
                want: Box::new(move |case| {
                    let magnitude = case[0] & !format.sign();
                    let is = match name {
                        "finite" => magnitude < format.infinity(),
                        "infinite" => magnitude == format.infinity(),
                        "number" => magnitude <= format.infinity(),
                        "notanumber" => magnitude > format.infinity(),
                        "normal" => magnitude >= 1 << format.mantissa && magnitude < format.infinity(),
                        // Zero is neither normal nor, here, subnormal.
                        _ => format.is_subnormal(case[0]),
                    };
                    if magnitude == 0 && (name == "normal" || name == "subnormal") {
                        return Want::Anything;
                    }
                    Want::Bits(u64::from(is))
                }),
                cases,
            });
        }
    }
    check(&rows);
}
