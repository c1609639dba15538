//! What lanes do together: shuffles, votes, matches, reductions; and atomics.

use ptx_emulator::{Module, Options, ParameterBytes};

use super::exact::{F32, F64, Format, Rounding, Value};
use super::{HEAD, Row, Want, check, float_cases, integer_cases};
use crate::support::{Device, Random, Shape};

/// Runs `body` in one warp: `%r1`, `%r2`, `%r3` are the lane's words of the inputs, `%r0` and `%r4` its two results.
pub fn in_a_warp(body: &str, inputs: &[[u32; 32]; 3]) -> [[u32; 32]; 2] {
    let mut text = format!("{HEAD}.visible .entry k(.param .u64 in, .param .u64 out)\n{{\n");
    text += ".reg .pred %p<8>; .reg .b32 %r<40>; .reg .b64 %d<20>;\nmov.u32 %r8, %laneid; mul.wide.u32 %d2, %r8, 4;\n";
    text += "ld.param.u64 %d0, [in]; cvta.to.global.u64 %d0, %d0; add.u64 %d0, %d0, %d2;\n";
    text += "ld.param.u64 %d1, [out]; cvta.to.global.u64 %d1, %d1; add.u64 %d1, %d1, %d2;\n";
    text += "ld.global.u32 %r1, [%d0]; ld.global.u32 %r2, [%d0+128]; ld.global.u32 %r3, [%d0+256];\n";
    text += "mov.u32 %r0, 0; mov.u32 %r4, 0;\n";
    text += &format!("{body}\nst.global.u32 [%d1], %r0; st.global.u32 [%d1+128], %r4; ret;\n}}\n");
    let module = Module::parse(&text, "warp.ptx").unwrap_or_else(|e| panic!("{e}"));
    let mut device = Device::new(&module);
    let (input, output) = (device.u32s(inputs.as_flattened()), device.empty(256));
    let shape = Shape { kernel: "k", grid: [1; 3], block: [32, 1, 1], shared: 0 };
    let report =
        device.launch(&shape, &ParameterBytes::new().address(input).address(output), &Options::default());
    assert!(report.findings.is_empty(), "{body}: {}", report.findings[0]);
    let bytes = device.read(output, 256);
    let word = |i: usize| u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().expect("four bytes"));
    [std::array::from_fn(word), std::array::from_fn(|i| word(32 + i))]
}

fn random_words(random: &mut Random) -> [u32; 32] {
    std::array::from_fn(|_| random.u32())
}

#[test]
fn shuffles_in_all_modes_and_segments() {
    let mut random = Random(1);
    let ids: [u32; 32] = std::array::from_fn(|i| i as u32);
    for mode in ["up", "down", "bfly", "idx"] {
        for width in [32, 16, 8, 4, 2] {
            let segment = 32 - width;
            let clamp = if mode == "up" { 0 } else { 31 };
            let c = segment << 8 | clamp;
            for same in [true, false] {
                let uniform = random.u32() % 32;
                let (values, by) = (random_words(&mut random), random_words(&mut random));
                let by: [u32; 32] = by.map(|b| if same { uniform } else { b % 32 });
                let body = format!(
                    "shfl.sync.{mode}.b32 %r0|%p0, %r1, %r2, {c}, 0xffffffff; selp.u32 %r4, 1, 0, %p0;"
                );
                let [got, inside] = in_a_warp(&body, &[values, by, ids]);
                for lane in 0..32u32 {
                    let b = by[lane as usize];
                    let lowest = lane & segment;
                    let highest = (lane & segment) | (clamp & !segment);
                    let (from, valid) = match mode {
                        "up" => (
                            i64::from(lane) - i64::from(b),
                            i64::from(lane) - i64::from(b) >= i64::from(highest),
                        ),
                        "down" => (i64::from(lane + b), lane + b <= highest),
                        "bfly" => (i64::from(lane ^ b), lane ^ b <= highest),
                        _ => {
                            let from = lowest | (b & !segment & 31);
                            (i64::from(from), from <= highest)
                        }
                    };
                    let from = if valid { from as usize } else { lane as usize };
                    let at = format!("{mode}, width {width}, lane {lane}, by {b}");
                    assert_eq!(
                        (got[lane as usize], inside[lane as usize]),
                        (values[from], u32::from(valid)),
                        "{at}"
                    );
                }
            }
        }
    }
}

#[test]
fn votes_matches_and_reductions_of_subsets() {
    let mut random = Random(2);
    for mask in [0xffff_ffff, 0x0000_ffff, 0x8000_0001, 0x5555_5555, 1 << 17, 0x00ff_ff00] {
        let member = |lane: usize| mask >> lane & 1 == 1;
        // Few different values, so that some are equal.
        let values: [u32; 32] =
            random_words(&mut random).map(|v| (v % 3).wrapping_sub(1).wrapping_mul(0x4000_0001));
        let inputs = [values, [mask; 32], [0; 32]];
        let members: Vec<u32> = (0..32).filter(|l| member(*l)).map(|l| values[l]).collect();
        let run = |body: &str| {
            let guard = "shr.u32 %r5, %r2, %r8; and.b32 %r5, %r5, 1; setp.eq.u32 %p7, %r5, 1; setp.eq.s32 %p0, %r1, 0;";
            in_a_warp(&format!("{guard} @!%p7 bra DONE; {body} DONE:"), &inputs)
        };
        let all_lanes = |got: [u32; 32], want: &dyn Fn(usize) -> u32, what: &str| {
            for lane in (0..32).filter(|l| member(*l)) {
                assert_eq!(got[lane], want(lane), "{what}, mask {mask:#x}, lane {lane}");
            }
        };
        let same_as =
            |v: u32| (0..32).filter(|l| member(*l) && values[*l] == v).fold(0, |m, l| m | 1u32 << l);

        let zeros = same_as(0);
        all_lanes(run("vote.sync.ballot.b32 %r0, %p0, %r2;")[0], &|_| zeros, "ballot");
        all_lanes(run("vote.sync.ballot.b32 %r0, !%p0, %r2;")[0], &|_| mask & !zeros, "ballot of not");
        for (mode, want) in
            [("all", zeros == mask), ("any", zeros != 0), ("uni", zeros == mask || zeros == 0)]
        {
            let body = format!("vote.sync.{mode}.pred %p1, %p0, %r2; selp.u32 %r0, 1, 0, %p1;");
            all_lanes(run(&body)[0], &|_| u32::from(want), mode);
        }
        all_lanes(run("match.any.sync.b32 %r0, %r1, %r2;")[0], &|l| same_as(values[l]), "match any");
        let wide = "mov.b64 %d5, {%r2, %r1}; match.any.sync.b64 %r0, %d5, %r2;";
        all_lanes(run(wide)[0], &|l| same_as(values[l]), "match any of 64 bits");
        let equal = members.iter().all(|v| *v == members[0]);
        let [got, predicate] = run("match.all.sync.b32 %r0|%p1, %r1, %r2; selp.u32 %r4, 1, 0, %p1;");
        all_lanes(got, &|_| if equal { mask } else { 0 }, "match all");
        all_lanes(predicate, &|_| u32::from(equal), "match all's predicate");

        let fold = |f: fn(u32, u32) -> u32| members.iter().copied().reduce(f).expect("a mask is not empty");
        let signed = |v: u32| v as i32;
        let reductions: [(&str, u32); 8] = [
            ("add.u32", fold(u32::wrapping_add)),
            ("add.s32", fold(u32::wrapping_add)),
            ("min.u32", fold(u32::min)),
            ("max.u32", fold(u32::max)),
            ("min.s32", members.iter().copied().min_by_key(|v| signed(*v)).expect("not empty")),
            ("max.s32", members.iter().copied().max_by_key(|v| signed(*v)).expect("not empty")),
            ("and.b32", fold(|a, b| a & b)),
            ("xor.b32", fold(|a, b| a ^ b)),
        ];
        for (name, want) in reductions {
            all_lanes(run(&format!("redux.sync.{name} %r0, %r1, %r2;"))[0], &|_| want, name);
        }
        all_lanes(run("redux.sync.or.b32 %r0, %r1, %r2;")[0], &|_| fold(|a, b| a | b), "or");
        all_lanes(run("activemask.b32 %r0;")[0], &|_| mask, "activemask");
    }
}

#[test]
fn special_registers_of_lanes() {
    let forms: [(&str, fn(u32) -> u32); 6] = [
        ("%laneid", |l| l),
        ("%lanemask_eq", |l| 1 << l),
        ("%lanemask_lt", |l| (1 << l) - 1),
        ("%lanemask_le", |l| ((2u64 << l) - 1) as u32),
        ("%lanemask_gt", |l| !(((2u64 << l) - 1) as u32)),
        ("%lanemask_ge", |l| !((1 << l) - 1)),
    ];
    for (name, want) in forms {
        let [got, _] = in_a_warp(&format!("mov.u32 %r0, {name};"), &[[0; 32]; 3]);
        assert_eq!(got, std::array::from_fn(|l| want(l as u32)), "{name}");
    }
}

/// An atomic on each case's own word: the old value comes back, and the new one is there.
fn atomic_rows<'a>(
    name: &str,
    kind: &str,
    cases: &'a [Vec<u64>],
    function: impl Fn(&[u64]) -> Want + Copy + 'a,
) -> Vec<Row<'a>> {
    let bits: u32 = kind[1..].parse().expect("a width");
    let more = if name == "cas" { ", {c}" } else { "" };
    let inputs = vec![bits; cases[0].len()];
    let old = Row {
        text: format!("atom.global.{name}.{kind} {{d}}, [%d8], {{b}}{more};"),
        inputs: inputs.clone(),
        output: bits,
        want: Box::new(|v: &[u64]| Want::Bits(v[0])),
        cases,
    };
    let new = Row {
        text: format!("{} ld.global.b{bits} {{d}}, [%d8];", old.text),
        inputs: inputs.clone(),
        output: bits,
        want: Box::new(function),
        cases,
    };
    let mut rows = vec![old, new];
    if name != "cas" && name != "exch" {
        rows.push(Row {
            text: format!("red.global.{name}.{kind} [%d8], {{b}}; ld.global.b{bits} {{d}}, [%d8];"),
            inputs,
            output: bits,
            want: Box::new(function),
            cases,
        });
    }
    rows
}

#[test]
fn atomics_on_integers() {
    let all: Vec<_> = [32, 64].map(|n| (n, integer_cases(&[n, n]), integer_cases(&[n, n, n]))).into();
    let mut rows = Vec::new();
    for (bits, two, three) in &all {
        let all_bits = if *bits == 64 { u64::MAX } else { 0xffff_ffff };
        let signed = move |v: u64| (v << (64 - bits)) as i64;
        rows.extend(atomic_rows("add", &format!("u{bits}"), two, move |v| {
            Want::Bits(v[0].wrapping_add(v[1]) & all_bits)
        }));
        rows.extend(atomic_rows("min", &format!("u{bits}"), two, |v| Want::Bits(v[0].min(v[1]))));
        rows.extend(atomic_rows("max", &format!("u{bits}"), two, |v| Want::Bits(v[0].max(v[1]))));
        rows.extend(atomic_rows("min", &format!("s{bits}"), two, move |v| {
            Want::Bits(if signed(v[0]) < signed(v[1]) { v[0] } else { v[1] })
        }));
        rows.extend(atomic_rows("max", &format!("s{bits}"), two, move |v| {
            Want::Bits(if signed(v[0]) > signed(v[1]) { v[0] } else { v[1] })
        }));
        rows.extend(atomic_rows("and", &format!("b{bits}"), two, |v| Want::Bits(v[0] & v[1])));
        rows.extend(atomic_rows("or", &format!("b{bits}"), two, |v| Want::Bits(v[0] | v[1])));
        rows.extend(atomic_rows("xor", &format!("b{bits}"), two, |v| Want::Bits(v[0] ^ v[1])));
        rows.extend(atomic_rows("exch", &format!("b{bits}"), two, |v| Want::Bits(v[1])));
        rows.extend(atomic_rows("cas", &format!("b{bits}"), three, |v| {
            Want::Bits(if v[0] == v[1] { v[2] } else { v[0] })
        }));
    }
    let two = &all[0].1;
    rows.extend(atomic_rows("add", "s32", two, |v| Want::Bits(v[0].wrapping_add(v[1]) & 0xffff_ffff)));
    rows.extend(atomic_rows("inc", "u32", two, |v| Want::Bits(if v[0] >= v[1] { 0 } else { v[0] + 1 })));
    rows.extend(atomic_rows("dec", "u32", two, |v| {
        Want::Bits(if v[0] == 0 || v[0] > v[1] { v[1] } else { v[0] - 1 })
    }));
    check(&rows);
}

/// Sums are rounded to nearest; of f32 in global memory subnormals are flushed, which is left open here.
#[test]
fn atomic_sums_of_floats() {
    let all: Vec<_> = [F32, F64].map(|f| (f, float_cases(f, 2))).into();
    let mut rows = Vec::new();
    for (format, cases) in &all {
        let format = *format;
        rows.extend(atomic_rows("add", format.name, cases, move |v| sum(format, v)).into_iter().skip(1));
    }
    check(&rows);
}

fn sum(format: Format, v: &[u64]) -> Want {
    let exact = match (format.decode(v[0]), format.decode(v[1])) {
        (Value::Finite(a), Value::Finite(b)) => a.plus(&b, Rounding::Nearest),
        (Value::Nan, _) | (_, Value::Nan) => return Want::Nan(format),
        (Value::Infinite { negative: a }, Value::Infinite { negative: b }) if a != b => {
            return Want::Nan(format);
        }
        (Value::Infinite { .. }, _) => return Want::Bits(v[0]),
        (_, Value::Infinite { .. }) => return Want::Bits(v[1]),
    };
    let bits = format.round(&exact, Rounding::Nearest).0;
    if v.iter().chain([&bits]).any(|b| format == F32 && format.is_subnormal(*b)) {
        return Want::Anything;
    }
    Want::Bits(bits)
}

/// 32 lanes on one word: each sum happens once, in some order.
#[test]
fn atomics_of_all_lanes_on_one_word() {
    let one = "setp.eq.u32 %p0, %r8, 0; @%p0 st.shared.u32 [word], 0; bar.warp.sync 0xffffffff;";
    let run = |body: &str| {
        in_a_warp(&format!(".shared .align 4 .b32 word; {one} {body}"), &[[1; 32], [5; 32], [0; 32]])
    };
    let [mut old, _] = run("atom.shared.add.u32 %r0, [word], %r1;");
    old.sort_unstable();
    assert_eq!(old, std::array::from_fn(|i| i as u32));
    let [mut old, _] = run("atom.shared.inc.u32 %r0, [word], %r2;");
    old.sort_unstable();
    let mut want: [u32; 32] = std::array::from_fn(|i| i as u32 % 6);
    want.sort_unstable();
    assert_eq!(old, want);
    let [old, _] = run("add.u32 %r8, %r8, 1; atom.shared.cas.b32 %r0, [word], 0, %r8;");
    assert_eq!(old.iter().filter(|v| **v == 0).count(), 1);
    let [mut old, last] = run(
        "add.u32 %r8, %r8, 1; atom.shared.exch.b32 %r0, [word], %r8; bar.warp.sync 0xffffffff; ld.shared.u32 %r4, [word];",
    );
    old.sort_unstable();
    let missing: Vec<u32> = (0..=32).filter(|v| !old.contains(v)).collect();
    assert_eq!(missing, [last[0]]);
}
