//! The approximate functions, within the error that the PTX ISA states for each ("Floating Point Instructions"), and exactly
//! at the special values that it tabulates.

use super::exact::{F16, F32, Format};
use super::{Row, Want, check, float_cases, to_f64};

/// An approximate function of one f32.
struct Function {
    name: &'static str,
    /// The function in f64.
    exact: fn(f64) -> f64,
    /// Absolute error at a place whose exact value is given; `None` where the ISA states none.
    error: fn(f64, f64) -> Option<f64>,
}

fn power(exponent: f64) -> f64 {
    exponent.exp2()
}

/// Rounding a result to f32 costs half a unit, which the stated errors include; of subnormals a unit is 2⁻¹⁴⁹.
fn relative(bound: f64, value: f64) -> Option<f64> {
    Some((value.abs() * bound).max(power(-149.0)))
}

const FUNCTIONS: [Function; 8] = [
    Function { name: "rcp.approx", exact: |x| 1.0 / x, error: |_, y| relative(power(-23.0), y) },
    Function { name: "sqrt.approx", exact: f64::sqrt, error: |_, y| relative(power(-23.0), y) },
    Function { name: "rsqrt.approx", exact: |x| 1.0 / x.sqrt(), error: |_, y| relative(power(-22.9), y) },
    Function { name: "ex2.approx", exact: f64::exp2, error: |_, y| relative(power(-22.0), y) },
    Function {
        name: "lg2.approx",
        exact: f64::log2,
        error: |x, y| if (0.5..2.0).contains(&x) { Some(power(-22.0)) } else { relative(power(-22.0), y) },
    },
    Function {
        name: "sin.approx",
        exact: f64::sin,
        error: |x, _| (x.abs() <= std::f64::consts::TAU).then(|| power(-20.5)),
    },
    Function {
        name: "cos.approx",
        exact: f64::cos,
        error: |x, _| (x.abs() <= std::f64::consts::TAU).then(|| power(-20.5)),
    },
    Function { name: "tanh.approx", exact: f64::tanh, error: |_, y| relative(power(-11.0), y) },
];

/// What a function may give for an f32.
fn wanted(f: &Function, ftz: bool, bits: u64) -> Want {
    let bits = if ftz && F32.is_subnormal(bits) { bits & F32.sign() } else { bits };
    let x = to_f64(F32, bits);
    let y = (f.exact)(x);
    if y.is_nan() {
        return Want::Nan(F32);
    }
    let Some(error) = (f.error)(x, y) else { return Want::Anything };
    let most = f64::from(f32::MAX);
    if y.abs() > most {
        let infinity = F32.infinity() | if y < 0.0 { F32.sign() } else { 0 };
        let largest = infinity - 1;
        return if y.is_infinite() || y.abs() > most * 1.000_001 {
            Want::Bits(infinity)
        } else {
            Want::Either(infinity, largest)
        };
    }
    if ftz && y.abs() < power(-126.0) * 1.000_001 {
        // Flushed, or just large enough not to be.
        return Want::Near { format: F32, value: y, error: power(-126.0) * 1.000_001 };
    }
    Want::Near { format: F32, value: y, error }
}

/// Floats in the range where the functions do something.
fn moderate(format: Format) -> Vec<Vec<u64>> {
    let mut random = crate::support::Random(5);
    let all = (0..3000).map(|_| {
        let x = (f64::from(random.u32()) / 2f64.powi(31) - 1.0)
            * [0.01, 1.0, 6.25, 100.0][random.u32() as usize % 4];
        let super::exact::Value::Finite(v) = super::exact::F64.decode(x.to_bits()) else {
            unreachable!("a finite number")
        };
        vec![format.round(&v, super::exact::Rounding::Nearest).0]
    });
    all.collect()
}

#[test]
fn of_f32() {
    let mut cases = float_cases(F32, 1);
    cases.extend(moderate(F32));
    let mut rows = Vec::new();
    for f in &FUNCTIONS {
        for ftz in [false, true] {
            if ftz && f.name == "tanh.approx" {
                continue;
            }
            rows.push(Row {
                text: format!("{}{}.f32 {{d}}, {{a}};", f.name, if ftz { ".ftz" } else { "" }),
                inputs: vec![32],
                output: 32,
                want: Box::new(move |v| wanted(f, ftz, v[0])),
                cases: &cases,
            });
        }
    }
    check(&rows);
}

/// `div.approx` and `div.full`: two units in the last place, for divisors between 2⁻¹²⁶ and 2¹²⁶.
#[test]
fn division() {
    let cases = float_cases(F32, 2);
    let mut rows = Vec::new();
    for name in ["div.approx", "div.full"] {
        for ftz in [false, true] {
            rows.push(Row {
                text: format!("{name}{}.f32 {{d}}, {{a}}, {{b}};", if ftz { ".ftz" } else { "" }),
                inputs: vec![32; 2],
                output: 32,
                want: Box::new(|v| {
                    let (x, y) = (to_f64(F32, v[0]), to_f64(F32, v[1]));
                    let quotient = x / y;
                    let normal = |v: f64| v.abs() >= power(-125.0) && v.abs() <= power(126.0);
                    match (quotient.is_nan(), normal(y)) {
                        (true, _) => Want::Nan(F32),
                        (_, true) if quotient == 0.0 || normal(quotient) && normal(x) => {
                            Want::Near { format: F32, value: quotient, error: quotient.abs() * power(-22.0) }
                        }
                        _ => Want::Anything,
                    }
                }),
                cases: &cases,
            });
        }
    }
    check(&rows);
}

/// f16: `ex2` within 2^-9.9 of the value, `tanh` within 2^-10.987 absolutely.
#[test]
fn of_f16() {
    let mut cases = float_cases(F16, 1);
    cases.extend(moderate(F16));
    let half = |bits: u64, exact: fn(f64) -> f64, error: fn(f64) -> f64| {
        let y = exact(to_f64(F16, bits));
        if y.is_nan() {
            return Want::Nan(F16);
        }
        if y > 65504.0 * 1.001 {
            return Want::Bits(F16.infinity());
        }
        if y > 65504.0 * 0.999 {
            return Want::Anything;
        }
        Want::Near { format: F16, value: y, error: error(y).max(power(-24.0)) }
    };
    check(&[
        Row {
            text: "ex2.approx.f16 {d}, {a};".to_owned(),
            inputs: vec![16],
            output: 16,
            want: Box::new(move |v| half(v[0], f64::exp2, |y| y.abs() * power(-9.9))),
            cases: &cases,
        },
        Row {
            text: "tanh.approx.f16 {d}, {a};".to_owned(),
            inputs: vec![16],
            output: 16,
            want: Box::new(move |v| half(v[0], f64::tanh, |_| power(-10.987))),
            cases: &cases,
        },
    ]);
}
