//! Tensor-core instructions against a plain product, and the matrix loads and stores around them. The layouts of the
//! fragments are those of the PTX ISA ("Matrix multiply-accumulate operation using mma instruction").

use ptx_emulator::{Module, Options, ParameterBytes};

use super::HEAD;
use super::exact::{BF16, Exact, F16, F32, F64, Format, Rounding};
use crate::support::{Device, Random, Shape};

/// The element type of a matrix.
#[derive(Clone, Copy, PartialEq)]
enum Element {
    Float(Format),
    Integer { name: &'static str, bits: u32, signed: bool },
}

impl Element {
    fn name(self) -> &'static str {
        match self {
            Self::Float(F32) => "f32",
            Self::Float(f) => f.name,
            Self::Integer { name, .. } => name,
        }
    }

    /// Bits in a register: tf32 takes a whole one.
    fn bits(self) -> u32 {
        match self {
            Self::Float(f) => f.width().next_power_of_two(),
            Self::Integer { bits, .. } => bits,
        }
    }

    fn encode(self, value: i64) -> u64 {
        match self {
            Self::Float(f) if f.name == "tf32" => {
                F32.round(&Exact::integer(value.into()), Rounding::Nearest).0
            }
            Self::Float(f) => f.round(&Exact::integer(value.into()), Rounding::Nearest).0,
            Self::Integer { bits, .. } if bits < 64 => value as u64 & ((1 << bits) - 1),
            Self::Integer { .. } => value as u64,
        }
    }

    /// Small numbers, of which all sums are exact in the accumulator.
    fn random(self, random: &mut Random) -> i64 {
        let v = random.u32();
        match self {
            Self::Float(_) => i64::from(v % 5) - 2,
            Self::Integer { bits, signed, .. } => {
                let v = i64::from(v) & ((1 << bits) - 1);
                if signed { v - (1 << (bits - 1)) } else { v }
            }
        }
    }
}

const TF32: Element = Element::Float(super::exact::TF32);
const S32: Element = Element::Integer { name: "s32", bits: 32, signed: true };
const fn integer(name: &'static str, bits: u32, signed: bool) -> Element {
    Element::Integer { name, bits, signed }
}

/// One form of `mma.sync`.
struct Form {
    shape: [u32; 3],
    a: Element,
    b: Element,
    /// Accumulators, in and out.
    c: Element,
    /// Suffix behind the types.
    suffix: &'static str,
}

/// How many neighbouring elements of a row of A (of a column of B) a lane holds in one register's worth: the run that the
/// layouts repeat over rows and columns.
fn run(element: Element) -> u32 {
    (32 / element.bits()).max(1)
}

/// Row and column of element `i` of lane `lane`'s part of A, m × k.
fn place_a([m, ..]: [u32; 3], element: Element, lane: u32, i: u32) -> (u32, u32) {
    let (group, thread, run) = (lane / 4, lane % 4, run(element));
    // Registers go down the rows first (where there are 16), then right along k.
    let (register, within) = (i / run, i % run);
    let halves = m / 8;
    let (row, right) = (group + 8 * (register % halves), register / halves);
    (row, right * 4 * run + thread * run + within)
}

/// Row and column of element `i` of B, k × n.
fn place_b(element: Element, lane: u32, i: u32) -> (u32, u32) {
    let (group, thread, run) = (lane / 4, lane % 4, run(element));
    let (register, within) = (i / run, i % run);
    (register * 4 * run + thread * run + within, group)
}

/// Row and column of element `i` of C, m × n.
fn place_c(lane: u32, i: u32) -> (u32, u32) {
    (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2)
}

/// A lane's elements packed into registers of 32 bits (64 for f64).
fn pack(element: Element, values: impl Iterator<Item = i64>) -> Vec<u64> {
    let encoded: Vec<u64> = values.map(|v| element.encode(v)).collect();
    let (bits, run) = (element.bits(), run(element) as usize);
    encoded
        .chunks(run)
        .map(|chunk| chunk.iter().enumerate().fold(0, |word, (i, v)| word | v << (bits * i as u32)))
        .collect()
}

fn multiply(form: &Form, random: &mut Random) {
    let [m, n, k] = form.shape;
    let mut matrix = |rows: u32, columns: u32, element: Element| -> Vec<i64> {
        (0..rows * columns).map(|_| element.random(random)).collect()
    };
    let (a, b) = (matrix(m, k, form.a), matrix(k, n, form.b));
    let mut c = matrix(m, n, Element::Float(F32));
    if form.suffix == ".satfinite" {
        c.iter_mut().for_each(|v| *v *= 0x3fff_ffff);
    }
    let product = |row: u32, column: u32| {
        let term = |x: u32| {
            let (a, b) = (a[(row * k + x) as usize], b[(x * n + column) as usize]);
            if form.suffix == ".xor.popc" { a ^ b } else { a * b }
        };
        (0..k).map(term).sum::<i64>() + c[(row * n + column) as usize]
    };

    let count = |rows: u32, columns: u32| rows * columns / 32;
    let wide = form.c == Element::Float(F64);
    let words = |values: Vec<u64>| -> Vec<u32> {
        values
            .iter()
            .flat_map(|v| if wide { vec![*v as u32, (v >> 32) as u32] } else { vec![*v as u32] })
            .collect()
    };
    let mut input = Vec::new();
    let mut registers = [0; 3];
    for lane in 0..32 {
        let part_a = (0..count(m, k)).map(|i| {
            let (row, column) = place_a(form.shape, form.a, lane, i);
            a[(row * k + column) as usize]
        });
        let part_b = (0..count(k, n)).map(|i| {
            let (row, column) = place_b(form.b, lane, i);
            b[(row * n + column) as usize]
        });
        let part_c = (0..count(m, n)).map(|i| {
            let (row, column) = place_c(lane, i);
            c[(row * n + column) as usize]
        });
        let parts = [pack(form.a, part_a), pack(form.b, part_b), pack(form.c, part_c)];
        registers = parts.each_ref().map(Vec::len);
        input.extend(words(parts.concat()));
    }
    let name = format!(
        "mma.sync.aligned.m{m}n{n}k{k}.row.col{}.{}.{}.{}.{}{}",
        if form.suffix == ".satfinite" { ".satfinite" } else { "" },
        form.c.name(),
        form.a.name(),
        form.b.name(),
        form.c.name(),
        if form.suffix == ".satfinite" { "" } else { form.suffix }
    );
    let [na, nb, nc] = registers;
    let (got, counters) = apply(&name, [na, nb, nc, nc], if wide { "b64" } else { "b32" }, &input);
    let flops =
        counters.tensor_f16_flops + counters.tensor_tf32_flops + counters.tensor_int_ops + counters.f64_flops;
    assert_eq!(flops, u64::from(2 * m * n * k), "{name}: operations counted");
    for (lane, got) in got.chunks(input.len() / 32 * nc / (na + nb + nc)).enumerate() {
        let lane = lane as u32;
        let want = pack(
            form.c,
            (0..count(m, n)).map(|i| {
                let (row, column) = place_c(lane, i);
                let value = product(row, column);
                if form.suffix == ".satfinite" {
                    value.clamp(i32::MIN.into(), i32::MAX.into())
                } else {
                    value
                }
            }),
        );
        assert_eq!(got, words(want), "{name}, lane {lane}");
    }
}

#[test]
fn products_of_halves() {
    let mut random = Random(3);
    for shape in [[16, 8, 8], [16, 8, 16]] {
        for (half, c) in [(F16, F32), (F16, F16), (BF16, F32)] {
            let (a, c) = (Element::Float(half), Element::Float(c));
            multiply(&Form { shape, a, b: a, c, suffix: "" }, &mut random);
        }
    }
}

#[test]
fn products_of_tf32_and_f64() {
    let mut random = Random(4);
    for shape in [[16, 8, 4], [16, 8, 8]] {
        multiply(&Form { shape, a: TF32, b: TF32, c: Element::Float(F32), suffix: "" }, &mut random);
    }
    let double = Element::Float(F64);
    multiply(&Form { shape: [8, 8, 4], a: double, b: double, c: double, suffix: "" }, &mut random);
}

#[test]
fn products_of_small_integers() {
    let mut random = Random(8);
    let nibbles = [integer("u4", 4, false), integer("s4", 4, true)];
    for shape in [[8, 8, 32], [16, 8, 32], [16, 8, 64]] {
        for a in nibbles {
            for b in nibbles {
                multiply(&Form { shape, a, b, c: S32, suffix: "" }, &mut random);
                multiply(&Form { shape, a, b, c: S32, suffix: ".satfinite" }, &mut random);
            }
        }
    }
    let bit = integer("b1", 1, false);
    for shape in [[8, 8, 128], [16, 8, 128], [16, 8, 256]] {
        for suffix in [".and.popc", ".xor.popc"] {
            multiply(&Form { shape, a: bit, b: bit, c: S32, suffix }, &mut random);
        }
    }
}

/// `m8n8k4` of f16: four products by eight lanes each, A and B by rows or by columns, sums in f16 or f32.
#[test]
fn four_products_of_quads() {
    let mut random = Random(9);
    let half = |v: i64| Element::Float(F16).encode(v) as u32;
    for (by_a, by_b) in [("row", "row"), ("row", "col"), ("col", "row"), ("col", "col")] {
        for (c_type, d_type) in [("f16", "f16"), ("f16", "f32"), ("f32", "f32")] {
            let mut matrix = |count: usize| -> Vec<i64> {
                (0..4 * count).map(|_| Element::Float(F16).random(&mut random)).collect()
            };
            let (a, b, c) = (matrix(32), matrix(32), matrix(64));
            // Value i of lane l, of product q: the place that the PTX ISA gives it.
            let part = |l: usize| (l % 16 / 4, l % 4, l / 16 * 4);
            let in_a = |l: usize, i: usize| {
                let (q, t, high) = part(l);
                let (row, column) = if by_a == "row" { (t + high, i) } else { (i + high, t) };
                a[q * 32 + row * 4 + column]
            };
            let in_b = |l: usize, i: usize| {
                let (q, t, high) = part(l);
                let (row, column) = if by_b == "row" { (t, i + high) } else { (i, t + high) };
                b[q * 32 + row * 8 + column]
            };
            let place = |ty: &str, l: usize, i: usize| {
                let (q, t, high) = part(l);
                let (row, column) = if ty == "f16" {
                    (t + high, i)
                } else {
                    ((l & 1) + (i & 2) + high, (i & 4) + (l & 2) + (i & 1))
                };
                (q, row, column)
            };
            let product = |(q, row, column): (usize, usize, usize)| {
                (0..4).map(|k| a[q * 32 + row * 4 + k] * b[q * 32 + k * 8 + column]).sum::<i64>()
                    + c[q * 64 + row * 8 + column]
            };
            let packed = |ty: &str, values: &[i64]| -> Vec<u32> {
                if ty == "f32" {
                    return values.iter().map(|v| (*v as f32).to_bits()).collect();
                }
                values.chunks(2).map(|v| half(v[0]) | half(v[1]) << 16).collect()
            };
            let mut input = Vec::new();
            let mut want = Vec::new();
            for l in 0..32 {
                let values = |f: &dyn Fn(usize) -> i64, n: usize| (0..n).map(f).collect::<Vec<_>>();
                input.extend(packed("f16", &values(&|i| in_a(l, i), 4)));
                input.extend(packed("f16", &values(&|i| in_b(l, i), 4)));
                let at = |i| {
                    let (q, row, column) = place(c_type, l, i);
                    c[q * 64 + row * 8 + column]
                };
                input.extend(packed(c_type, &values(&at, 8)));
                want.extend(packed(d_type, &values(&|i| product(place(d_type, l, i)), 8)));
            }
            let count = |ty: &str| if ty == "f16" { 4 } else { 8 };
            let name = format!("mma.sync.aligned.m8n8k4.{by_a}.{by_b}.{d_type}.f16.f16.{c_type}");
            let (got, counters) = apply(&name, [2, 2, count(c_type), count(d_type)], "b32", &input);
            assert_eq!(got, want, "{name}");
            assert_eq!(counters.tensor_f16_flops, 4 * 2 * 8 * 8 * 4);
        }
    }
}

/// Applies a product in one warp to the words of each lane, lane after lane, and gives the results' words.
fn apply(name: &str, registers: [usize; 4], kind: &str, input: &[u32]) -> (Vec<u32>, ptx_emulator::Counters) {
    let words = if kind == "b64" { 2 } else { 1 };
    let size = 4 * words;
    let [na, nb, nc, nd] = registers;
    let total = na + nb + nc;
    let list = |from: usize, count: usize| {
        (from..from + count).map(|i| format!("%x{i}")).collect::<Vec<_>>().join(", ")
    };
    let mut text = format!("{HEAD}.visible .entry k(.param .u64 in, .param .u64 out)\n{{\n");
    text += &format!(".reg .b32 %r; .reg .b64 %d<4>; .reg .{kind} %x<{total}>; .reg .{kind} %y<{nd}>;\n");
    text += "ld.param.u64 %d0, [in]; ld.param.u64 %d1, [out]; cvta.to.global.u64 %d0, %d0; cvta.to.global.u64 %d1, %d1;\n";
    text += &format!("mov.u32 %r, %laneid; mul.wide.u32 %d2, %r, {}; add.u64 %d0, %d0, %d2;\n", total * size);
    text += &format!("mul.wide.u32 %d2, %r, {}; add.u64 %d1, %d1, %d2;\n", nd * size);
    for i in 0..total {
        text += &format!("ld.global.{kind} %x{i}, [%d0+{}];\n", i * size);
    }
    let results = (0..nd).map(|i| format!("%y{i}")).collect::<Vec<_>>().join(", ");
    text += &format!(
        "{name} {{{results}}}, {{{}}}, {{{}}}, {{{}}};\n",
        list(0, na),
        list(na, nb),
        list(na + nb, nc)
    );
    for i in 0..nd {
        text += &format!("st.global.{kind} [%d1+{}], %y{i};\n", i * size);
    }
    text += "ret;\n}\n";
    let module = Module::parse(&text, "mma.ptx").unwrap_or_else(|e| panic!("{e}"));
    let mut device = Device::new(&module);
    let (input, output) = (device.u32s(input), device.empty(32 * nd * size));
    let shape = Shape { kernel: "k", grid: [1; 3], block: [32, 1, 1], shared: 0 };
    let parameters = ParameterBytes::new().address(input).address(output);
    let report = device.launch(&shape, &parameters, &Options::default());
    assert!(report.findings.is_empty(), "{name}: {}", report.findings[0]);
    let bytes = device.read(output, 32 * nd * size);
    let got = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    (got, report.counters)
}

#[test]
fn products_of_integers() {
    let mut random = Random(5);
    let bytes = [integer("u8", 8, false), integer("s8", 8, true)];
    for shape in [[8, 8, 16], [16, 8, 16], [16, 8, 32]] {
        for a in bytes {
            for b in bytes {
                multiply(&Form { shape, a, b, c: S32, suffix: "" }, &mut random);
                multiply(&Form { shape, a, b, c: S32, suffix: ".satfinite" }, &mut random);
            }
        }
    }
}

/// The values that a tensor core multiplies are those of the narrow format: the lower 13 bits of a tf32 do not count.
#[test]
fn tf32_ignores_the_lower_bits() {
    let body = "mov.b32 %r20, 0x3f801fff; mov.b32 %r21, 0x3f800000; mov.b32 %r22, 0;
        mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%r30, %r31, %r32, %r33}, {%r20, %r20}, {%r21}, {%r22, %r22, %r22, %r22};
        mov.b32 %r0, %r30; mov.b32 %r4, %r33;";
    let [first, last] = super::warp::in_a_warp(body, &[[0; 32]; 3]);
    assert_eq!((first, last), ([4.0f32.to_bits(); 32], [4.0f32.to_bits(); 32]));
}

/// `ldmatrix`: rows are given by lanes 8j … 8j+7, in any order; a lane gets two neighbours of a row, or of a column.
#[test]
fn matrix_loads() {
    let mut random = Random(6);
    // Where row r of matrix j lies: a permutation of the 32 rows of 16 bytes.
    let mut order: Vec<u32> = (0..32).collect();
    for i in (1..32).rev() {
        order.swap(i, random.u32() as usize % (i + 1));
    }
    let addresses: [u32; 32] = std::array::from_fn(|lane| order[lane] * 16);
    for count in [1usize, 2, 4] {
        for transposed in [false, true] {
            let trans = if transposed { ".trans" } else { "" };
            let list = (0..count).map(|i| format!("%r{}", 30 + i)).collect::<Vec<_>>().join(", ");
            for part in 0..count {
                // The tile holds 0, 1, 2 … as 16-bit numbers, two a word, four words a lane.
                let body = format!(
                    ".shared .align 16 .b8 tile[512];
                    mov.u32 %r10, tile; shl.b32 %r11, %r8, 4; add.u32 %r11, %r10, %r11;
                    shl.b32 %r12, %r8, 3; add.u32 %r13, %r12, 1; shl.b32 %r13, %r13, 16; or.b32 %r12, %r12, %r13;
                    st.shared.u32 [%r11], %r12; add.u32 %r12, %r12, 0x20002; st.shared.u32 [%r11+4], %r12;
                    add.u32 %r12, %r12, 0x20002; st.shared.u32 [%r11+8], %r12;
                    add.u32 %r12, %r12, 0x20002; st.shared.u32 [%r11+12], %r12;
                    bar.warp.sync 0xffffffff; add.u32 %r11, %r10, %r1;
                    ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{list}}}, [%r11]; mov.b32 %r0, %r{};",
                    30 + part
                );
                let [got, _] = super::warp::in_a_warp(&body, &[addresses, [0; 32], [0; 32]]);
                for lane in 0..32usize {
                    let element = |row: usize, column: usize| order[part * 8 + row] * 8 + column as u32;
                    let pair = [0, 1].map(|i| {
                        let (major, minor) = (lane / 4, lane % 4 * 2 + i);
                        if transposed { element(minor, major) } else { element(major, minor) }
                    });
                    assert_eq!(
                        got[lane],
                        pair[0] | pair[1] << 16,
                        "x{count}{trans}, matrix {part}, lane {lane}"
                    );
                }
            }
        }
    }
}

/// `stmatrix` is the inverse: what was loaded is stored elsewhere, and the two tiles are the same.
#[test]
fn matrix_stores() {
    for trans in ["", ".trans"] {
        let body = format!(
            ".shared .align 16 .b8 tile[1024];
            mov.u32 %r10, tile; shl.b32 %r11, %r8, 4; add.u32 %r11, %r10, %r11;
            st.shared.u32 [%r11], %r1; st.shared.u32 [%r11+4], %r2; st.shared.u32 [%r11+8], %r3; st.shared.u32 [%r11+12], %r8;
            bar.warp.sync 0xffffffff;
            ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r30, %r31, %r32, %r33}}, [%r11];
            stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%r11+512], {{%r30, %r31, %r32, %r33}};
            bar.warp.sync 0xffffffff;
            ld.shared.u32 %r0, [%r11+516]; ld.shared.u32 %r4, [%r11+520];"
        );
        let mut random = Random(7);
        let words: [[u32; 32]; 3] = std::array::from_fn(|_| std::array::from_fn(|_| random.u32()));
        assert_eq!(super::warp::in_a_warp(&body, &words), [words[1], words[2]], "stmatrix{trans}");
    }
}

/// `cp.async` of fewer bytes than its size fills the rest with zeros.
#[test]
fn asynchronous_copies_fill_with_zeros() {
    let body = ".shared .align 16 .b8 tile[512];
        mov.u32 %r10, tile; shl.b32 %r11, %r8, 4; add.u32 %r11, %r10, %r11;
        shr.u32 %r12, %r8, 2; shl.b32 %r12, %r12, 2; mul.wide.u32 %d5, %r12, 4; ld.param.u64 %d6, [in]; add.u64 %d6, %d6, %d5;
        and.b32 %r13, %r8, 1; shl.b32 %r13, %r13, 3;
        cp.async.ca.shared.global [%r11], [%d6], 16, %r13; cp.async.wait_all;
        ld.shared.u32 %r0, [%r11]; ld.shared.u32 %r4, [%r11+8];";
    let words: [u32; 32] = std::array::from_fn(|i| 100 + i as u32);
    let [first, third] = super::warp::in_a_warp(body, &[words, [0; 32], [0; 32]]);
    // Even lanes copy no bytes, odd ones 8.
    assert_eq!(first, std::array::from_fn(|l| if l % 2 == 1 { 100 + (l as u32 / 4) * 4 } else { 0 }));
    assert_eq!(third, [0; 32]);
}
