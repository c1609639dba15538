//! `mma`.
//!
//! Fragments follow the PTX ISA, "Matrix Fragments for mma": with g = lane ÷ 4 and t = lane mod 4, a register of A holds
//! consecutive k of row g (or g + 8), a register of B consecutive k of column g, and C and D hold columns 2t, 2t + 1 of rows
//! g and g + 8. Products are exact in f32 (bf16, f16, tf32 operands have at most 11 digits) and are added one by one in the
//! order of k, each sum rounded to f32; tensor cores add in another way, so the last digits differ.

use super::super::cx::{Cx, Row};
use super::super::dispatch::{handler, slow_handler};
use super::warp::whole_warp;
use crate::code::Inst;
use crate::soft;

/// What the elements of A and B are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    F16,
    Bf16,
    Tf32,
    F64,
    S8,
    U8,
    S4,
    U4,
    /// Single bits, of which the products' ones are counted.
    B1,
}

const ELEMENTS: [Element; 9] = [
    Element::F16,
    Element::Bf16,
    Element::Tf32,
    Element::F64,
    Element::S8,
    Element::U8,
    Element::S4,
    Element::U4,
    Element::B1,
];

impl Element {
    pub fn named(ty: &str) -> Option<Self> {
        let names = ["f16", "bf16", "tf32", "f64", "s8", "u8", "s4", "u4", "b1"];
        names.iter().position(|n| *n == ty).map(|at| ELEMENTS[at])
    }

    /// Sums are 32-bit integers.
    pub fn is_integer(self) -> bool {
        matches!(self, Self::S8 | Self::U8 | Self::S4 | Self::U4 | Self::B1)
    }

    /// Elements in a register.
    fn per_register(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::Tf32 | Self::F64 => 1,
            Self::S8 | Self::U8 => 4,
            Self::S4 | Self::U4 => 8,
            Self::B1 => 32,
        }
    }
}

/// How a product is laid out: `imm` of the instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub m: usize,
    pub k: usize,
    pub a: Element,
    pub b: Element,
    /// C and D are f16.
    pub narrow: [bool; 2],
    /// Integer sums saturate.
    pub saturates: bool,
    /// Bits are multiplied by exclusive or.
    pub xor: bool,
    /// A, and B, are given by columns: four small products, `m8n8k4` of f16.
    pub columns: [bool; 2],
}

impl Shape {
    pub fn pack(self) -> i64 {
        let flags =
            [self.narrow[0], self.narrow[1], self.saturates, self.xor, self.columns[0], self.columns[1]];
        let code = |e: Element| ELEMENTS.iter().position(|x| *x == e).unwrap_or(0) as i64;
        let flags = flags.iter().rev().fold(0, |bits, on| bits << 1 | i64::from(*on));
        self.m as i64 | (self.k as i64) << 8 | code(self.a) << 20 | code(self.b) << 24 | flags << 28
    }

    fn unpack(x: i64) -> Self {
        let element = |code: i64| ELEMENTS[(code & 15) as usize % ELEMENTS.len()];
        let flag = |at: u32| x >> (28 + at) & 1 != 0;
        Self {
            m: (x & 255) as usize,
            k: (x >> 8 & 4095) as usize,
            a: element(x >> 20),
            b: element(x >> 24),
            narrow: [flag(0), flag(1)],
            saturates: flag(2),
            xor: flag(3),
            columns: [flag(4), flag(5)],
        }
    }

    /// Four products of `m8n8k4`, each by eight lanes.
    fn is_quads(self) -> bool {
        self.a == Element::F16 && self.k == 4
    }

    /// Registers of A, B, C, and D.
    pub fn registers(self) -> [usize; 4] {
        if self.is_quads() {
            return [2, 2, if self.narrow[0] { 4 } else { 8 }, if self.narrow[1] { 4 } else { 8 }];
        }
        let b = self.k / (4 * self.a.per_register());
        let sums = |narrow: bool| self.m / 8 * if narrow { 1 } else { 2 };
        [b * self.m / 8, b, sums(self.narrow[0]), sums(self.narrow[1])]
    }

    /// Operations of one instruction: a multiplication and an addition each count.
    pub fn operations(self) -> u32 {
        let each = 2 * self.m * 8 * self.k;
        (if self.is_quads() { 4 * each } else { each }) as u32
    }
}

/// A register's values as f32, as they lie: with PER values a lane, value `4·PER·g + j` is the j-th of row g's (of B column
/// g's) run of 4·PER.
#[inline(always)]
fn values<const PER: usize>(row: &Row, element: Element) -> [f32; 64] {
    let mut out = [0.0; 64];
    match element {
        Element::F16 => {
            for j in 0..64 {
                out[j] = soft::f16_to_f32(row[j / 2] >> (j % 2 * 16) & 0xffff);
            }
        }
        Element::Bf16 => {
            for j in 0..64 {
                out[j] = f32::from_bits(row[j / 2] >> (j % 2 * 16) << 16);
            }
        }
        _ => {
            // tf32: the lower 13 digits are not looked at.
            for l in 0..32 {
                out[l] = f32::from_bits(row[l] & 0xffff_e000);
            }
        }
    }
    out
}

/// Sums as f32, eight rows of eight: columns 2t and 2t + 1 of row g are those of lane 4g + t.
type Sums = [f32; 64];

/// Products of f16, bf16 or tf32 matrices: d = a·b + c with 16 rows, 8 columns, k of K, and PER values a register. All
/// extents are constants, so that the loops over columns become vectors, and the sums of eight rows stay in registers.
#[inline(always)]
unsafe fn product<const K: usize, const PER: usize>(cx: &mut Cx<'_>, i: &Inst, shape: Shape) {
    let run = 4 * PER;
    let runs = K / run;
    let (results, sources) = i.more.split_at(i.more_defs as usize);
    let sums = &sources[3 * runs..];
    let mut b = [[0.0_f32; 8]; K];
    // SAFETY: as for handlers.
    unsafe {
        for r in 0..runs {
            let v = values::<PER>(cx.get::<u32>(sources[2 * runs + r]), shape.b);
            for j in 0..run {
                for g in 0..8 {
                    b[r * run + j][g] = v[g * run + j];
                }
            }
        }
        // Rows g, then rows g + 8.
        for half in 0..2 {
            let mut c: Sums = [0.0; 64];
            if shape.narrow[0] {
                c = values::<2>(cx.get::<u32>(sums[half]), Element::F16);
            } else {
                let (even, odd) = (cx.get::<u32>(sums[2 * half]), cx.get::<u32>(sums[2 * half + 1]));
                for l in 0..32 {
                    c[2 * l] = f32::from_bits(even[l]);
                    c[2 * l + 1] = f32::from_bits(odd[l]);
                }
            }
            for r in 0..runs {
                // Registers of A alternate between the rows, then go on in k.
                let a = values::<PER>(cx.get::<u32>(sources[2 * r + half]), shape.a);
                for j in 0..run {
                    let b = &b[r * run + j];
                    for g in 0..8 {
                        for n in 0..8 {
                            c[8 * g + n] = a[g * run + j].mul_add(b[n], c[8 * g + n]);
                        }
                    }
                }
            }
            if shape.narrow[1] {
                let mut d = [0_u32; 32];
                for l in 0..32 {
                    let half = |x: f32| soft::f32_to_f16(x.to_bits());
                    d[l] = half(c[2 * l]) | half(c[2 * l + 1]) << 16;
                }
                cx.put(results[half], &d);
            } else {
                for h in 0..2 {
                    let mut d = [0_u32; 32];
                    for l in 0..32 {
                        d[l] = soft::bits32(c[2 * l + h]);
                    }
                    cx.put(results[2 * half + h], &d);
                }
            }
        }
    }
}

handler! {
    /// `mma` of f16, bf16, tf32: `more` D, then A, B, C.
    mma |cx, i| {
        whole_warp(cx, i);
        let shape = Shape::unpack(i.imm);
        match (shape.k, shape.a) {
            (16, _) => product::<16, 2>(cx, i, shape),
            (8, Element::Tf32) => product::<8, 1>(cx, i, shape),
            (8, _) => product::<8, 2>(cx, i, shape),
            _ => product::<4, 1>(cx, i, shape),
        }
    }
}

/// A row and a column of a small matrix.
type Place = (usize, usize);

/// Where `m8n8k4` keeps value `i` of lane `l` (PTX ISA, "Matrix Fragments for mma.m8n8k4 with .f16"): of A, of B, of
/// sums in f16, of sums in f32. Lanes 4q … 4q + 3 and 16 + 4q … 16 + 4q + 3 work on product q.
fn quad_place(what: usize, by_columns: bool, l: usize, i: usize) -> Place {
    let (t, high) = (l % 4, if l < 16 { 0 } else { 4 });
    match (what, by_columns) {
        (0, false) => (t + high, i),
        (0, true) => (i + high, t),
        (1, false) => (t, i + high),
        (1, true) => (i, t + high),
        (2, _) => (t + high, i),
        _ => ((l & 1) + (i & 2) + high, (i & 4) + (l & 2) + (i & 1)),
    }
}

slow_handler! {
    /// `mma.m8n8k4` of f16: four products, each of eight lanes; `more` D, then A, B, C.
    mma_quads |cx, i| {
        whole_warp(cx, i);
        let shape = Shape::unpack(i.imm);
        let (results, sources) = i.more.split_at(i.more_defs as usize);
        let half = |row: &Row, l: usize, i: usize| soft::f16_to_f32(row[l] >> (16 * i) & 0xffff);
        let (mut a, mut b, mut c) = ([[[0.0_f32; 4]; 8]; 4], [[[0.0_f32; 8]; 4]; 4], [[[0.0_f32; 8]; 8]; 4]);
        for l in 0..32 {
            let q = l % 16 / 4;
            for v in 0..4 {
                let (m, k) = quad_place(0, shape.columns[0], l, v);
                a[q][m][k] = half(cx.get::<u32>(sources[v / 2]), l, v % 2);
                let (k, n) = quad_place(1, shape.columns[1], l, v);
                b[q][k][n] = half(cx.get::<u32>(sources[2 + v / 2]), l, v % 2);
            }
            for v in 0..8 {
                let (m, n) = quad_place(if shape.narrow[0] { 2 } else { 3 }, false, l, v);
                c[q][m][n] = if shape.narrow[0] {
                    half(cx.get::<u32>(sources[4 + v / 2]), l, v % 2)
                } else {
                    f32::from_bits(cx.get::<u32>(sources[4 + v])[l])
                };
            }
        }
        for q in 0..4 {
            for m in 0..8 {
                for k in 0..4 {
                    for n in 0..8 {
                        c[q][m][n] = a[q][m][k].mul_add(b[q][k][n], c[q][m][n]);
                    }
                }
            }
        }
        for (r, result) in results.iter().enumerate() {
            let mut d = [0_u32; 32];
            for l in 0..32 {
                let at = |what: usize, v: usize| {
                    let (m, n) = quad_place(what, false, l, v);
                    c[l % 16 / 4][m][n]
                };
                d[l] = if shape.narrow[1] {
                    let half = |v: usize| soft::f32_to_f16(at(2, v).to_bits());
                    half(2 * r) | half(2 * r + 1) << 16
                } else {
                    soft::bits32(at(3, r))
                };
            }
            cx.put(*result, &d);
        }
    }
}

/// The sum of the products of two registers' elements.
fn dot(x: u32, y: u32, shape: Shape) -> i64 {
    if shape.a == Element::B1 {
        return i64::from(if shape.xor { x ^ y } else { x & y }.count_ones());
    }
    let per = shape.a.per_register();
    let bits = 32 / per as u32;
    let value = |word: u32, h: u32, e: Element| {
        let top = word << (32 - bits * (h + 1));
        if matches!(e, Element::S8 | Element::S4) {
            i64::from(top as i32 >> (32 - bits))
        } else {
            i64::from(top >> (32 - bits))
        }
    };
    (0..per as u32).map(|h| value(x, h, shape.a) * value(y, h, shape.b)).sum()
}

slow_handler! {
    /// `mma` of integers of 8, 4 or 1 bits, with 32-bit sums that wrap (or saturate).
    mma_integer |cx, i| {
        whole_warp(cx, i);
        let shape = Shape::unpack(i.imm);
        let [na, nb, nc, _] = shape.registers();
        let (results, sources) = i.more.split_at(i.more_defs as usize);
        // Words of up to 32 elements: 8 of them along k at most.
        let (mut a, mut b, mut c) = ([[0_u32; 8]; 16], [[0_u32; 8]; 8], [[0_i64; 8]; 16]);
        let tall = shape.m / 8;
        for r in 0..na {
            let row = cx.get::<u32>(sources[r]);
            for l in 0..32 {
                a[l / 4 + r % tall * 8][l % 4 + r / tall * 4] = row[l];
            }
        }
        for r in 0..nb {
            let row = cx.get::<u32>(sources[na + r]);
            for l in 0..32 {
                b[l / 4][l % 4 + r * 4] = row[l];
            }
        }
        for r in 0..nc {
            let row = cx.get::<u32>(sources[na + nb + r]);
            for l in 0..32 {
                c[l / 4 + r / 2 * 8][l % 4 * 2 + r % 2] = i64::from(row[l] as i32);
            }
        }
        for m in 0..shape.m {
            for n in 0..8 {
                c[m][n] += (0..4 * nb).map(|w| dot(a[m][w], b[n][w], shape)).sum::<i64>();
            }
        }
        for (r, result) in results.iter().enumerate() {
            let mut row = [0_u32; 32];
            for l in 0..32 {
                let sum = c[l / 4 + r / 2 * 8][l % 4 * 2 + r % 2];
                row[l] = if shape.saturates { sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u32 } else { sum as u32 };
            }
            cx.put(*result, &row);
        }
    }
}

slow_handler! {
    /// `mma.m8n8k4` of f64.
    mma_double |cx, i| {
        whole_warp(cx, i);
        let sources = &i.more[2..];
        let (a, b) = (*cx.get::<u64>(sources[0]), *cx.get::<u64>(sources[1]));
        let mut d = [*cx.get::<u64>(sources[2]), *cx.get::<u64>(sources[3])];
        for l in 0..32 {
            for (h, d) in d.iter_mut().enumerate() {
                let column = l % 4 * 2 + h;
                let sum = (0..4).fold(f64::from_bits(d[l]), |sum, k| {
                    f64::from_bits(a[l / 4 * 4 + k]).mul_add(f64::from_bits(b[column * 4 + k]), sum)
                });
                d[l] = sum.to_bits();
            }
        }
        cx.put(i.more[0], &d[0]);
        cx.put(i.more[1], &d[1]);
    }
}
