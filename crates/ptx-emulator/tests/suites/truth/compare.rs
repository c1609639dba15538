//! Comparisons and selections.

use super::exact::{BF16, F16, F32, F64, Format};
use super::{Row, Want, check, float_cases, integer_cases, to_f64};

/// How two numbers compare: `None` when one is no number.
fn holds(comparison: &str, order: Option<std::cmp::Ordering>) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let Some(order) = order else {
        // Ordered comparisons fail with a NaN, those that end in u hold.
        return matches!(comparison, "equ" | "neu" | "ltu" | "leu" | "gtu" | "geu" | "nan");
    };
    match comparison.strip_suffix('u').unwrap_or(comparison) {
        "eq" => order == Equal,
        "ne" => order != Equal,
        "lt" | "lo" => order == Less,
        "le" | "ls" => order != Greater,
        "gt" | "hi" => order == Greater,
        "ge" | "hs" => order != Less,
        "num" => true,
        _ => false,
    }
}

fn order(format: Format, a: u64, b: u64) -> Option<std::cmp::Ordering> {
    to_f64(format, a).partial_cmp(&to_f64(format, b))
}

const FLOATS: [&str; 14] =
    ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];

#[test]
fn floats_ordered_and_unordered() {
    let all: Vec<_> = [F32, F64, F16, BF16].map(|f| (f, float_cases(f, 2))).into();
    let mut rows = Vec::new();
    for (format, cases) in &all {
        for comparison in FLOATS {
            for ftz in [false, true] {
                if ftz && *format != F32 && *format != F16 {
                    continue;
                }
                let suffix = if ftz { ".ftz" } else { "" };
                let flush = move |v: u64| if ftz && format.is_subnormal(v) { v & format.sign() } else { v };
                rows.push(Row {
                    text: format!(
                        "setp.{comparison}{suffix}.{} {{p}}, {{a}}, {{b}}; selp.u32 {{d}}, 1, 0, {{p}};",
                        format.name
                    ),
                    inputs: vec![format.width(); 2],
                    output: 32,
                    want: Box::new(move |v| {
                        Want::Bits(u64::from(holds(comparison, order(*format, flush(v[0]), flush(v[1])))))
                    }),
                    cases,
                });
            }
        }
    }
    check(&rows);
}

/// Two comparisons at once: the lower halves give the first predicate, the upper ones the second.
#[test]
fn pairs_of_halves() {
    let all: Vec<_> = [F16, BF16]
        .map(|format| {
            let cases = float_cases(format, 2);
            let other = cases.iter().rev().cycle().skip(11);
            let both = cases.iter().zip(other).map(|(v, w)| vec![v[0] | w[0] << 16, v[1] | w[1] << 16]);
            (format, both.collect::<Vec<_>>())
        })
        .into();
    let mut rows = Vec::new();
    for (format, cases) in &all {
        for comparison in FLOATS {
            for ftz in [false, true] {
                if ftz && *format != F16 {
                    continue;
                }
                let suffix = if ftz { ".ftz" } else { "" };
                let flush = move |v: u64| if ftz && format.is_subnormal(v) { v & format.sign() } else { v };
                rows.push(Row {
                    text: format!(
                        "setp.{comparison}{suffix}.{}x2 {{p}}|{{q}}, {{a}}, {{b}}; selp.u32 {{r}}, 1, 0, {{p}}; \
                         selp.u32 {{s}}, 2, 0, {{q}}; or.b32 {{d}}, {{r}}, {{s}};",
                        format.name
                    ),
                    inputs: vec![32; 2],
                    output: 32,
                    want: Box::new(move |v| {
                        let half = |shift: u32| {
                            let [a, b] = [v[0], v[1]].map(|x| flush(x >> shift & 0xffff));
                            u64::from(holds(comparison, order(*format, a, b)))
                        };
                        Want::Bits(half(0) | half(16) << 1)
                    }),
                    cases,
                });
            }
        }
    }
    check(&rows);
}

#[test]
fn integers_signed_and_unsigned() {
    let all: Vec<_> = [16, 32, 64].map(|bits| (bits, integer_cases(&[bits, bits]))).into();
    let mut rows = Vec::new();
    for (bits, cases) in &all {
        for kind in ["u", "s", "b"] {
            let comparisons: &[&str] = match kind {
                "b" => &["eq", "ne"],
                "s" => &["eq", "ne", "lt", "le", "gt", "ge"],
                _ => &["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"],
            };
            for comparison in comparisons {
                rows.push(Row {
                    text: format!(
                        "setp.{comparison}.{kind}{bits} {{p}}, {{a}}, {{b}}; selp.u32 {{d}}, 1, 0, {{p}};"
                    ),
                    inputs: vec![*bits; 2],
                    output: 32,
                    want: Box::new(move |v| {
                        let signed = |v: u64| (v << (64 - bits)) as i64;
                        let order =
                            if kind == "s" { signed(v[0]).cmp(&signed(v[1])) } else { v[0].cmp(&v[1]) };
                        Want::Bits(u64::from(holds(comparison, Some(order))))
                    }),
                    cases,
                });
            }
        }
    }
    check(&rows);
}

/// Both results of `setp`, combined with a predicate; `set` with its two kinds of result; `selp` and `slct`.
#[test]
fn combined_results_and_selections() {
    let (two, three) = (integer_cases(&[32, 32]), integer_cases(&[32, 32, 32]));
    let floats = float_cases(F32, 2);
    let mixed: Vec<Vec<u64>> =
        two.iter().zip(floats.iter().cycle()).map(|(v, f)| vec![v[0], v[1], f[0]]).collect();
    let selections = [16, 32, 64].map(|bits| (bits, integer_cases(&[bits, bits, 32])));
    let mut rows = Vec::new();
    for (operation, function) in
        [("and", (|a, b| a & b) as fn(bool, bool) -> bool), ("or", |a, b| a | b), ("xor", |a, b| a ^ b)]
    {
        for (negated, mark) in [(false, ""), (true, "!")] {
            rows.push(Row {
                text: format!(
                    "setp.ge.s32 {{q}}, {{c}}, 0; setp.lt.{operation}.u32 {{p}}|{{q}}, {{a}}, {{b}}, {mark}{{q}}; \
                     selp.u32 {{r}}, 1, 0, {{p}}; selp.u32 {{s}}, 2, 0, {{q}}; or.b32 {{d}}, {{r}}, {{s}};"
                ),
                inputs: vec![32; 3],
                output: 32,
                want: Box::new(move |v| {
                    let (less, q) = (v[0] < v[1], ((v[2] as i32) >= 0) != negated);
                    Want::Bits(u64::from(function(less, q)) | u64::from(function(!less, q)) << 1)
                }),
                cases: &three,
            });
        }
    }
    rows.push(Row {
        text: "set.lt.u32.s32 {d}, {a}, {b};".to_owned(),
        inputs: vec![32; 2],
        output: 32,
        want: Box::new(|v| Want::Bits(if (v[0] as i32) < v[1] as i32 { 0xffff_ffff } else { 0 })),
        cases: &two,
    });
    rows.push(Row {
        text: "set.geu.f32.f32 {d}, {a}, {b};".to_owned(),
        inputs: vec![32; 2],
        output: 32,
        want: Box::new(|v| Want::Bits(if holds("geu", order(F32, v[0], v[1])) { F32.one() } else { 0 })),
        cases: &floats,
    });
    rows.push(Row {
        text: "slct.u32.s32 {d}, {a}, {b}, {c};".to_owned(),
        inputs: vec![32; 3],
        output: 32,
        want: Box::new(|v| Want::Bits(if v[2] as i32 >= 0 { v[0] } else { v[1] })),
        cases: &three,
    });
    rows.push(Row {
        text: "slct.u32.f32 {d}, {a}, {b}, {c};".to_owned(),
        inputs: vec![32; 3],
        output: 32,
        // -0 is at least 0; no number is not.
        want: Box::new(|v| Want::Bits(if to_f64(F32, v[2]) >= 0.0 { v[0] } else { v[1] })),
        cases: &mixed,
    });
    for (bits, cases) in &selections {
        rows.push(Row {
            text: format!("setp.gt.s32 {{p}}, {{c}}, 40; selp.b{bits} {{d}}, {{a}}, {{b}}, {{p}};"),
            inputs: vec![*bits, *bits, 32],
            output: *bits,
            want: Box::new(|v| Want::Bits(if v[2] as i32 > 40 { v[0] } else { v[1] })),
            cases,
        });
    }
    check(&rows);
}
