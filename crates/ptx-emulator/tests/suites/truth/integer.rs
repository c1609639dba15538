//! Integer and bit instructions, in 128-bit arithmetic.

use super::{Row, Want, check, integer_cases};

/// A value of `bits` bits read as signed or unsigned.
fn read(value: u64, bits: u32, signed: bool) -> i128 {
    let all = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    let value = value & all;
    if signed && value >> (bits - 1) & 1 == 1 { i128::from(value) - (1 << bits) } else { i128::from(value) }
}

/// The low `bits` bits.
fn low(value: i128, bits: u32) -> u64 {
    if bits == 64 { value as u64 } else { value as u64 & ((1 << bits) - 1) }
}

/// Rows for the given types of one instruction: `function` gets the inputs as numbers and the width.
fn typed<'a>(
    text: &str,
    types: &[&str],
    arity: usize,
    cases: &'a [(u32, usize, Vec<Vec<u64>>)],
    function: impl Fn(&[i128], u32) -> Want + Copy + 'a,
) -> Vec<Row<'a>> {
    types
        .iter()
        .map(|name| {
            let (signed, bits) = (name.starts_with('s'), name[1..].parse::<u32>().expect("a width"));
            let arguments = ["", "{a}", "{a}, {b}", "{a}, {b}, {c}"][arity];
            Row {
                text: format!("{text}.{name} {{d}}, {arguments};"),
                inputs: vec![bits; arity],
                output: bits,
                want: Box::new(move |case| {
                    let values: Vec<i128> = case.iter().map(|v| read(*v, bits, signed)).collect();
                    function(&values, bits)
                }),
                cases: find(cases, bits, arity),
            }
        })
        .collect()
}

fn find(cases: &[(u32, usize, Vec<Vec<u64>>)], bits: u32, arity: usize) -> &[Vec<u64>] {
    &cases.iter().find(|c| (c.0, c.1) == (bits, arity)).expect("all widths and arities").2
}

fn all_cases() -> Vec<(u32, usize, Vec<Vec<u64>>)> {
    let mut all = Vec::new();
    for bits in [16, 32, 64] {
        for arity in 1..=3 {
            all.push((bits, arity, integer_cases(&vec![bits; arity])));
        }
    }
    all
}

const ALL: [&str; 6] = ["u16", "s16", "u32", "s32", "u64", "s64"];

#[test]
fn sums_products_quotients() {
    let cases = all_cases();
    let mut rows = Vec::new();
    rows.extend(typed("add", &ALL, 2, &cases, |v, n| Want::Bits(low(v[0] + v[1], n))));
    rows.extend(typed("sub", &ALL, 2, &cases, |v, n| Want::Bits(low(v[0] - v[1], n))));
    let clamp = |v: i128| v.clamp(i128::from(i32::MIN), i128::from(i32::MAX));
    rows.extend(typed("add.sat", &["s32"], 2, &cases, move |v, n| Want::Bits(low(clamp(v[0] + v[1]), n))));
    rows.extend(typed("sub.sat", &["s32"], 2, &cases, move |v, n| Want::Bits(low(clamp(v[0] - v[1]), n))));
    rows.extend(typed("mul.lo", &ALL, 2, &cases, |v, n| Want::Bits(low(v[0].wrapping_mul(v[1]), n))));
    rows.extend(typed("mul.hi", &["u16", "s16", "u32", "s32", "s64"], 2, &cases, |v, n| {
        Want::Bits(low((v[0] * v[1]) >> n, n))
    }));
    // The product of two u64 does not fit i128, it does u128.
    rows.extend(typed("mul.hi", &["u64"], 2, &cases, |v, _| {
        Want::Bits(((v[0] as u128 * v[1] as u128) >> 64) as u64)
    }));
    rows.extend(typed("mad.lo", &ALL, 3, &cases, |v, n| {
        Want::Bits(low(v[0].wrapping_mul(v[1]).wrapping_add(v[2]), n))
    }));
    rows.extend(typed("mad.hi", &["u16", "s16", "u32", "s32", "s64"], 3, &cases, |v, n| {
        Want::Bits(low(((v[0] * v[1]) >> n) + v[2], n))
    }));
    rows.extend(typed("mad.hi", &["u64"], 3, &cases, |v, _| {
        Want::Bits((((v[0] as u128 * v[1] as u128) >> 64) as u64).wrapping_add(v[2] as u64))
    }));
    rows.extend(typed("mad.hi.sat", &["s32"], 3, &cases, move |v, n| {
        Want::Bits(low(clamp(((v[0] * v[1]) >> n) + v[2]), n))
    }));
    let undefined = |v: &[i128], n: u32| v[1] == 0 || v[1] == -1 && v[0] == -(1 << (n - 1));
    rows.extend(typed("div", &ALL, 2, &cases, move |v, n| {
        if undefined(v, n) { Want::Anything } else { Want::Bits(low(v[0] / v[1], n)) }
    }));
    rows.extend(typed("rem", &ALL, 2, &cases, move |v, n| {
        if undefined(v, n) { Want::Anything } else { Want::Bits(low(v[0] % v[1], n)) }
    }));
    rows.extend(typed("min", &ALL, 2, &cases, |v, n| Want::Bits(low(v[0].min(v[1]), n))));
    rows.extend(typed("max", &ALL, 2, &cases, |v, n| Want::Bits(low(v[0].max(v[1]), n))));
    rows.extend(typed("abs", &["s16", "s32", "s64"], 1, &cases, |v, n| Want::Bits(low(v[0].abs(), n))));
    rows.extend(typed("neg", &["s16", "s32", "s64"], 1, &cases, |v, n| Want::Bits(low(-v[0], n))));
    rows.extend(typed("sad", &ALL, 3, &cases, |v, n| Want::Bits(low((v[0] - v[1]).abs() + v[2], n))));
    check(&rows);
}

#[test]
fn wide_and_24_bit_products() {
    let cases = all_cases();
    let wide = [(16, integer_cases(&[16, 16, 32])), (32, integer_cases(&[32, 32, 64]))];
    let mut rows = Vec::new();
    for (name, bits, signed) in [("u16", 16, false), ("s16", 16, true), ("u32", 32, false), ("s32", 32, true)]
    {
        rows.push(Row {
            text: format!("mul.wide.{name} {{d}}, {{a}}, {{b}};"),
            inputs: vec![bits; 2],
            output: bits * 2,
            want: Box::new(move |v| {
                Want::Bits(low(read(v[0], bits, signed) * read(v[1], bits, signed), bits * 2))
            }),
            cases: find(&cases, bits, 2),
        });
        rows.push(Row {
            text: format!("mad.wide.{name} {{d}}, {{a}}, {{b}}, {{c}};"),
            inputs: vec![bits, bits, bits * 2],
            output: bits * 2,
            want: Box::new(move |v| {
                let product = read(v[0], bits, signed) * read(v[1], bits, signed);
                Want::Bits(low(product + i128::from(v[2]), bits * 2))
            }),
            cases: &wide.iter().find(|w| w.0 == bits).expect("both widths").1,
        });
    }
    for (name, signed) in [("u32", false), ("s32", true)] {
        let product = move |v: &[u64]| read(v[0], 24, signed) * read(v[1], 24, signed);
        rows.push(Row {
            text: format!("mul24.lo.{name} {{d}}, {{a}}, {{b}};"),
            inputs: vec![32; 2],
            output: 32,
            want: Box::new(move |v| Want::Bits(low(product(v), 32))),
            cases: find(&cases, 32, 2),
        });
        // Bits 16 to 47 of the product.
        rows.push(Row {
            text: format!("mul24.hi.{name} {{d}}, {{a}}, {{b}};"),
            inputs: vec![32; 2],
            output: 32,
            want: Box::new(move |v| Want::Bits(low(product(v) >> 16, 32))),
            cases: find(&cases, 32, 2),
        });
        rows.push(Row {
            text: format!("mad24.hi.{name} {{d}}, {{a}}, {{b}}, {{c}};"),
            inputs: vec![32; 3],
            output: 32,
            want: Box::new(move |v| Want::Bits(low((product(v) >> 16) + i128::from(v[2]), 32))),
            cases: find(&cases, 32, 3),
        });
        if signed {
            rows.push(Row {
                text: format!("mad24.hi.sat.{name} {{d}}, {{a}}, {{b}}, {{c}};"),
                inputs: vec![32; 3],
                output: 32,
                want: Box::new(move |v| {
                    let sum = i128::from((product(v) >> 16) as i32) + read(v[2], 32, true);
                    Want::Bits(low(sum.clamp(i128::from(i32::MIN), i128::from(i32::MAX)), 32))
                }),
                cases: find(&cases, 32, 3),
            });
        }
        rows.push(Row {
            text: format!("mad24.lo.{name} {{d}}, {{a}}, {{b}}, {{c}};"),
            inputs: vec![32; 3],
            output: 32,
            want: Box::new(move |v| Want::Bits(low(product(v) + i128::from(v[2]), 32))),
            cases: find(&cases, 32, 3),
        });
    }
    check(&rows);
}

#[test]
fn shifts_beyond_the_width() {
    let shifts = [16, 32, 64].map(|bits| (bits, integer_cases(&[bits, 32])));
    let three = integer_cases(&[32, 32, 32]);
    let mut rows = Vec::new();
    for (bits, cases) in &shifts {
        let bits = *bits;
        let forms: [(String, fn(u64, u64, u32) -> u64); 3] = [
            (
                format!("shl.b{bits}"),
                |v, by, n| if by >= u64::from(n) { 0 } else { low(i128::from(v) << by, n) },
            ),
            (format!("shr.u{bits}"), |v, by, n| if by >= u64::from(n) { 0 } else { v >> by }),
            (format!("shr.s{bits}"), |v, by, n| low(read(v, n, true) >> by.min(100), n)),
        ];
        for (name, function) in forms {
            rows.push(Row {
                text: format!("{name} {{d}}, {{a}}, {{b}};"),
                inputs: vec![bits, 32],
                output: bits,
                want: Box::new(move |v| Want::Bits(function(v[0], v[1], bits))),
                cases,
            });
        }
    }
    for (direction, mode) in [("l", "wrap"), ("l", "clamp"), ("r", "wrap"), ("r", "clamp")] {
        rows.push(Row {
            text: format!("shf.{direction}.{mode}.b32 {{d}}, {{a}}, {{b}}, {{c}};"),
            inputs: vec![32; 3],
            output: 32,
            want: Box::new(move |v| {
                let by = if mode == "wrap" { v[2] & 31 } else { v[2].min(32) };
                // a is the low word, b the high one; to the left the high word is the result, to the right the low one.
                let both = i128::from(v[0] | v[1] << 32);
                Want::Bits(if direction == "l" { low((both << by) >> 32, 32) } else { low(both >> by, 32) })
            }),
            cases: &three,
        });
    }
    check(&rows);
}

#[test]
fn logic() {
    let cases = all_cases();
    let few: Vec<Vec<u64>> = find(&cases, 32, 3).iter().rev().take(128).cloned().collect();
    let mut rows = Vec::new();
    let two: [(&str, fn(u64, u64) -> u64); 3] =
        [("and", |a, b| a & b), ("or", |a, b| a | b), ("xor", |a, b| a ^ b)];
    for bits in [16, 32, 64] {
        for (name, function) in two {
            rows.push(Row {
                text: format!("{name}.b{bits} {{d}}, {{a}}, {{b}};"),
                inputs: vec![bits; 2],
                output: bits,
                want: Box::new(move |v| Want::Bits(function(v[0], v[1]))),
                cases: find(&cases, bits, 2),
            });
        }
        rows.push(Row {
            text: format!("not.b{bits} {{d}}, {{a}};"),
            inputs: vec![bits],
            output: bits,
            want: Box::new(move |v| Want::Bits(low(!i128::from(v[0]), bits))),
            cases: find(&cases, bits, 1),
        });
        rows.push(Row {
            text: format!("cnot.b{bits} {{d}}, {{a}};"),
            inputs: vec![bits],
            output: bits,
            want: Box::new(|v| Want::Bits(u64::from(v[0] == 0))),
            cases: find(&cases, bits, 1),
        });
    }
    for table in 0..256u64 {
        rows.push(Row {
            text: format!("lop3.b32 {{d}}, {{a}}, {{b}}, {{c}}, {table};"),
            inputs: vec![32; 3],
            output: 32,
            want: Box::new(move |v| {
                let bit = |at: u32| {
                    let index = (v[0] >> at & 1) << 2 | (v[1] >> at & 1) << 1 | v[2] >> at & 1;
                    (table >> index & 1) << at
                };
                Want::Bits((0..32).map(bit).sum())
            }),
            cases: &few,
        });
    }
    check(&rows);
}

#[test]
fn counting_and_finding_bits() {
    let cases = all_cases();
    let mut rows = Vec::new();
    for bits in [32, 64] {
        let forms: [(&str, u32, fn(u64, u32) -> u64); 3] = [
            ("popc", 32, |v, _| v.count_ones().into()),
            ("clz", 32, |v, n| u64::from(v.leading_zeros() + n - 64)),
            ("brev", bits, |v, n| v.reverse_bits() >> (64 - n)),
        ];
        for (name, output, function) in forms {
            rows.push(Row {
                text: format!("{name}.b{bits} {{d}}, {{a}};"),
                inputs: vec![bits],
                output,
                want: Box::new(move |v| Want::Bits(function(v[0], bits))),
                cases: find(&cases, bits, 1),
            });
        }
        for (kind, signed) in [("u", false), ("s", true)] {
            for shift in [false, true] {
                rows.push(Row {
                    text: format!("bfind{}.{kind}{bits} {{d}}, {{a}};", if shift { ".shiftamt" } else { "" }),
                    inputs: vec![bits],
                    output: 32,
                    want: Box::new(move |v| {
                        // Of a negative number the highest bit that is not the sign.
                        let value = read(v[0], bits, signed);
                        let value = low(if value < 0 { !value } else { value }, bits);
                        if value == 0 {
                            return Want::Bits(0xffff_ffff);
                        }
                        let at = value.ilog2();
                        Want::Bits(u64::from(if shift { bits - 1 - at } else { at }))
                    }),
                    cases: find(&cases, bits, 1),
                });
            }
        }
    }
    check(&rows);
}

#[test]
fn bit_fields() {
    let fields = [32, 64].map(|bits| (bits, integer_cases(&[bits, 32, 32])));
    let mut rows = Vec::new();
    for (bits, cases) in &fields {
        let bits = *bits;
        for (kind, signed) in [("u", false), ("s", true)] {
            rows.push(Row {
                text: format!("bfe.{kind}{bits} {{d}}, {{a}}, {{b}}, {{c}};"),
                inputs: vec![bits, 32, 32],
                output: bits,
                want: Box::new(move |v| {
                    let (position, length) = (v[1] & 0xff, v[2] & 0xff);
                    // The field's sign is its top bit, or the top bit of all where the field reaches beyond it.
                    let top = (position + length).wrapping_sub(1).min(u64::from(bits - 1));
                    let sign = signed && length > 0 && v[0] >> top & 1 == 1;
                    let bit = |at: u64| {
                        let from = position + at;
                        if at < length && from < u64::from(bits) { v[0] >> from & 1 } else { u64::from(sign) }
                    };
                    Want::Bits((0..u64::from(bits)).fold(0, |d, at| d | bit(at) << at))
                }),
                cases,
            });
        }
        // The inserted value is the first input, turned, so that three inputs suffice.
        rows.push(Row {
            text: format!(
                "not.b{bits} {}, {{a}}; bfi.b{bits} {{d}}, {{a}}, {}, {{b}}, {{c}};",
                if bits == 32 { "{r}" } else { "{t}" },
                if bits == 32 { "{r}" } else { "{t}" }
            ),
            inputs: vec![bits, 32, 32],
            output: bits,
            want: Box::new(move |v| {
                let (position, length) = (v[1] & 0xff, v[2] & 0xff);
                let into = low(!i128::from(v[0]), bits);
                let bit = |at: u64| {
                    let inside = at >= position && at < position + length;
                    if inside { v[0] >> (at - position) & 1 } else { into >> at & 1 }
                };
                Want::Bits((0..u64::from(bits)).fold(0, |d, at| d | bit(at) << at))
            }),
            cases,
        });
    }
    check(&rows);
}

#[test]
fn byte_permutation() {
    let cases = integer_cases(&[32, 32, 32]);
    let mut rows = Vec::new();
    let modes: [(&str, Option<fn(u64) -> [u64; 4]>); 7] = [
        ("", None),
        (".f4e", Some(|c| [c, c + 1, c + 2, c + 3])),
        (".b4e", Some(|c| [c, c + 7, c + 6, c + 5].map(|x| x % 8))),
        (".rc8", Some(|c| [c; 4])),
        (".ecl", Some(|c| [c, c.max(1), c.max(2), 3])),
        (".ecr", Some(|c| [0, c.min(1), c.min(2), c])),
        (".rc16", Some(|c| [c % 2 * 2, c % 2 * 2 + 1, c % 2 * 2, c % 2 * 2 + 1])),
    ];
    for (mode, selected) in modes {
        rows.push(Row {
            text: format!("prmt.b32{mode} {{d}}, {{a}}, {{b}}, {{c}};"),
            inputs: vec![32; 3],
            output: 32,
            want: Box::new(move |v| {
                let both = v[0] | v[1] << 32;
                let byte = |at: u64| both >> (at % 8 * 8) & 0xff;
                let bytes = match selected {
                    Some(bytes) => bytes(v[2] & 3).map(byte),
                    // The fourth bit of a selector spreads the byte's sign.
                    None => [0, 4, 8, 12].map(|at| {
                        let selector = v[2] >> at & 15;
                        let b = byte(selector & 7);
                        if selector & 8 == 0 { b } else { (b >> 7) * 0xff }
                    }),
                };
                Want::Bits(bytes.iter().enumerate().map(|(i, b)| b << (8 * i)).sum())
            }),
            cases: &cases,
        });
    }
    check(&rows);
}

#[test]
fn dot_products_of_bytes() {
    let cases = integer_cases(&[32, 32, 32]);
    let mut rows = Vec::new();
    for (a_type, b_type) in [("u32", "u32"), ("u32", "s32"), ("s32", "u32"), ("s32", "s32")] {
        let signed = [a_type == "s32", b_type == "s32"];
        rows.push(Row {
            text: format!("dp4a.{a_type}.{b_type} {{d}}, {{a}}, {{b}}, {{c}};"),
            inputs: vec![32; 3],
            output: 32,
            want: Box::new(move |v| {
                let term = |i: u64| read(v[0] >> (8 * i), 8, signed[0]) * read(v[1] >> (8 * i), 8, signed[1]);
                Want::Bits(low((0..4).map(term).sum::<i128>() + i128::from(v[2]), 32))
            }),
            cases: &cases,
        });
        for (half, shift) in [("lo", 0), ("hi", 16)] {
            rows.push(Row {
                text: format!("dp2a.{half}.{a_type}.{b_type} {{d}}, {{a}}, {{b}}, {{c}};"),
                inputs: vec![32; 3],
                output: 32,
                want: Box::new(move |v| {
                    let term = |i: u64| {
                        read(v[0] >> (16 * i), 16, signed[0]) * read(v[1] >> (shift + 8 * i), 8, signed[1])
                    };
                    Want::Bits(low((0..2).map(term).sum::<i128>() + i128::from(v[2]), 32))
                }),
                cases: &cases,
            });
        }
    }
    check(&rows);
}

/// Sums, differences and products of numbers of two and three words, put together by the carry: what they are as one number.
#[test]
fn carries() {
    let words = [32, 64].map(|bits| (bits, integer_cases(&[bits, bits, bits])));
    let mut rows = Vec::new();
    for (bits, cases) in &words {
        let bits = *bits;
        let (x, y) = if bits == 32 { ("{r}", "{s}") } else { ("{t}", "{u}") };
        let all = u64::MAX >> (64 - bits);
        for kind in ["u", "s"] {
            // The carry out of a + b into c + c, of the borrow out of a − b into c − 1; `.cc` passes it on, a plain sum
            // between does not touch it.
            for (text, function) in [
                (
                    format!(
                        "add.cc.T {x}, {{a}}, {{b}}; add.T {y}, {{c}}, {{c}}; addc.T {{d}}, {{c}}, {{c}};"
                    ),
                    (|v: &[u64], n| {
                        v[2].wrapping_mul(2)
                            .wrapping_add(u64::from((u128::from(v[0]) + u128::from(v[1])) >> n != 0))
                    }) as fn(&[u64], u32) -> u64,
                ),
                (
                    format!("add.cc.T {x}, {{a}}, {{b}}; addc.cc.T {x}, {{c}}, -1; addc.T {{d}}, {{a}}, 0;"),
                    |v, n| {
                        let first = (u128::from(v[0]) + u128::from(v[1])) >> n;
                        let second = (u128::from(v[2]) + u128::from(u64::MAX >> (64 - n)) + first) >> n;
                        v[0].wrapping_add(second as u64)
                    },
                ),
                (format!("sub.cc.T {x}, {{a}}, {{b}}; subc.T {{d}}, {{c}}, 1;"), |v, _| {
                    v[2].wrapping_sub(1).wrapping_sub(u64::from(v[0] < v[1]))
                }),
                (
                    format!(
                        "sub.cc.T {x}, {{a}}, {{b}}; subc.cc.T {x}, {{c}}, {{c}}; subc.T {{d}}, {{a}}, 0;"
                    ),
                    |v, _| v[0].wrapping_sub(u64::from(v[0] < v[1])),
                ),
            ] {
                rows.push(Row {
                    text: text.replace(".T", &format!(".{kind}{bits}")),
                    inputs: vec![bits; 3],
                    output: bits,
                    want: Box::new(move |v| Want::Bits(function(v, bits) & all)),
                    cases,
                });
            }
            // a·b + c as a number of two words: the upper one.
            rows.push(Row {
                text: format!("mad.lo.cc.T {x}, {{a}}, {{b}}, {{c}}; madc.hi.T {{d}}, {{a}}, {{b}}, 0;")
                    .replace(".T", &format!(".{kind}{bits}")),
                inputs: vec![bits; 3],
                output: bits,
                want: Box::new(move |v| {
                    let signed = kind == "s";
                    let product = if bits == 64 && !signed {
                        u128::from(v[0]) * u128::from(v[1])
                    } else {
                        (read(v[0], bits, signed) * read(v[1], bits, signed)) as u128
                    };
                    let low = product as u64 & all;
                    let carry = (u128::from(low) + u128::from(v[2])) >> bits;
                    Want::Bits(((product >> bits) as u64).wrapping_add(carry as u64) & all)
                }),
                cases,
            });
            // The same through `mad.hi.cc` and `madc.lo`: the carry out of the upper half.
            rows.push(Row {
                text: format!(
                    "mad.hi.cc.T {x}, {{a}}, {{b}}, {{c}}; madc.lo.cc.T {y}, {{a}}, {{b}}, {{c}}; addc.T {{d}}, 0, 0;"
                )
                .replace(".T", &format!(".{kind}{bits}")),
                inputs: vec![bits; 3],
                output: bits,
                want: Box::new(move |v| {
                    let signed = kind == "s";
                    let product = if bits == 64 && !signed {
                        u128::from(v[0]) * u128::from(v[1])
                    } else {
                        (read(v[0], bits, signed) * read(v[1], bits, signed)) as u128
                    };
                    let (low, high) = (product as u64 & all, (product >> bits) as u64 & all);
                    let first = (u128::from(high) + u128::from(v[2])) >> bits;
                    Want::Bits(((u128::from(low) + u128::from(v[2]) + first) >> bits) as u64)
                }),
                cases,
            });
        }
    }
    check(&rows);
}
