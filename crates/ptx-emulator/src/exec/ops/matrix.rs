//! `ldmatrix`, `stmatrix` and `mma`.
//!
//! Fragments follow the PTX ISA, "Matrix Fragments for mma": with g = lane ÷ 4 and t = lane mod 4, a register of A holds
//! consecutive k of row g (or g + 8), a register of B consecutive k of column g, and C and D hold columns 2t, 2t + 1 of rows
//! g and g + 8. Products are exact in f32 (bf16, f16, tf32 operands have at most 11 digits) and are added one by one in the
//! order of k, each sum rounded to f32; tensor cores add in another way, so the last digits differ.

use super::super::cx::{Cx, Row};
use super::super::dispatch::handler;
use super::address::{inside, offsets};
use super::check::{check_shared_read, check_shared_write};
use super::memory::{count_shared, shared_base};
use super::warp::whole_warp;
use crate::code::Inst;
use crate::finding::Space;
use crate::soft;

/// `.trans`.
pub(crate) const TRANSPOSED: u16 = 1 << 12;

handler! {
    /// `ldmatrix`: `lanes` matrices of 8 × 8 values of 16 bits; lane 8m + r gives the address of row r of matrix m.
    load_matrix |cx, i| {
        whole_warp(cx, i);
        let count = i.lanes as usize;
        let at = offsets(cx, i);
        let ok = rows(cx, &at, count);
        check_shared_read(cx, &at, ok, 16);
        let base = shared_base(cx);
        for m in 0..count {
            let mut tile = [[0_u16; 8]; 8];
            for r in 0..8 {
                if ok >> (8 * m + r) & 1 != 0 {
                    // SAFETY: the row is inside the block's shared memory and aligned to 16 bytes.
                    tile[r] = unsafe { base.add(at[8 * m + r] as usize).cast::<[u16; 8]>().read() };
                }
            }
            let mut d = [0_u32; 32];
            for l in 0..32 {
                let (g, t) = (l / 4, l % 4 * 2);
                let (low, high) = if i.flags & TRANSPOSED != 0 { (tile[t][g], tile[t + 1][g]) } else { (tile[g][t], tile[g][t + 1]) };
                d[l] = u32::from(low) | u32::from(high) << 16;
            }
            cx.put(i.more[m], &d);
        }
    }
}

handler! {
    /// `stmatrix`: the reverse.
    store_matrix |cx, i| {
        whole_warp(cx, i);
        let count = i.lanes as usize;
        let at = offsets(cx, i);
        let ok = rows(cx, &at, count);
        check_shared_write(cx, &at, ok, 16, false, |_, _| false);
        let base = shared_base(cx);
        for m in 0..count {
            let d = *cx.get::<u32>(i.more[m]);
            let mut tile = [[0_u16; 8]; 8];
            for l in 0..32 {
                let (g, t) = (l / 4, l % 4 * 2);
                let (low, high) = (d[l] as u16, (d[l] >> 16) as u16);
                if i.flags & TRANSPOSED != 0 {
                    (tile[t][g], tile[t + 1][g]) = (low, high);
                } else {
                    (tile[g][t], tile[g][t + 1]) = (low, high);
                }
            }
            for r in 0..8 {
                if ok >> (8 * m + r) & 1 != 0 {
                    // SAFETY: the row is inside the block's shared memory and aligned to 16 bytes.
                    unsafe { base.add(at[8 * m + r] as usize).cast::<[u16; 8]>().write(tile[r]) };
                }
            }
        }
    }
}

/// Lanes that give a row's address, where it is good.
fn rows(cx: &mut Cx<'_>, at: &Row, count: usize) -> u32 {
    let all = cx.mask;
    cx.mask &= ((1_u64 << (8 * count)) - 1) as u32;
    if cx.launch.counting {
        count_shared(cx, at, 16);
    }
    let ok = inside(cx, at, 16, cx.launch.shared_bytes, Space::Shared);
    cx.mask = all;
    ok
}

/// What the elements of A and B are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    F16,
    Bf16,
    Tf32,
    F64,
    S8,
    U8,
}

/// How a product is laid out: `imm` of the instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub m: usize,
    pub k: usize,
    pub a: Element,
    pub b: Element,
    /// C and D are f16.
    pub narrow: bool,
    pub saturates: bool,
}

impl Shape {
    pub fn pack(self) -> i64 {
        self.m as i64
            | (self.k as i64) << 8
            | (self.a as i64) << 16
            | (self.b as i64) << 20
            | i64::from(self.narrow) << 24
            | i64::from(self.saturates) << 25
    }

    fn unpack(x: i64) -> Self {
        let element = |code: i64| match code & 15 {
            0 => Element::F16,
            1 => Element::Bf16,
            2 => Element::Tf32,
            3 => Element::F64,
            4 => Element::S8,
            _ => Element::U8,
        };
        Self {
            m: (x & 255) as usize,
            k: (x >> 8 & 255) as usize,
            a: element(x >> 16),
            b: element(x >> 20),
            narrow: x >> 24 & 1 != 0,
            saturates: x >> 25 & 1 != 0,
        }
    }

    /// Values of k in one register of A or B.
    fn per_register(self) -> usize {
        match self.a {
            Element::F16 | Element::Bf16 => 2,
            Element::Tf32 | Element::F64 => 1,
            Element::S8 | Element::U8 => 4,
        }
    }

    /// Registers of A, B, and C.
    pub fn registers(self) -> (usize, usize, usize) {
        let b = self.k / (4 * self.per_register());
        (b * self.m / 8, b, self.m / 8 * if self.narrow { 1 } else { 2 })
    }
}

/// A register's two, or one, values as f32.
#[inline(always)]
fn values(row: &Row, element: Element) -> [[f32; 32]; 2] {
    let mut out = [[0.0; 32]; 2];
    match element {
        Element::F16 => {
            for l in 0..32 {
                out[0][l] = soft::f16_to_f32(row[l] & 0xffff);
                out[1][l] = soft::f16_to_f32(row[l] >> 16);
            }
        }
        Element::Bf16 => {
            for l in 0..32 {
                out[0][l] = f32::from_bits(row[l] << 16);
                out[1][l] = f32::from_bits(row[l] & 0xffff_0000);
            }
        }
        _ => {
            // tf32: the lower 13 digits are not looked at.
            for l in 0..32 {
                out[0][l] = f32::from_bits(row[l] & 0xffff_e000);
            }
        }
    }
    out
}

/// Products of f16, bf16 or tf32 matrices: d = a·b + c with 16 rows, 8 columns, k of K, and PER values a register. All
/// extents are constants, so that the loops over columns become vectors.
#[inline(always)]
unsafe fn product<const K: usize, const PER: usize>(cx: &mut Cx<'_>, i: &Inst, shape: Shape) {
    let (na, nb) = (K / (2 * PER), K / (4 * PER));
    let sources = &i.more[i.more_defs as usize..];
    let mut a = [[0.0_f32; K]; 16];
    let mut b = [[0.0_f32; 8]; K];
    let mut c = [[0.0_f32; 8]; 16];
    // SAFETY: as for handlers.
    unsafe {
        for r in 0..na {
            // Registers alternate between rows g and g + 8, then go on in k.
            let (down, right) = (r % 2 * 8, r / 2 * 4 * PER);
            let v = values(cx.get::<u32>(sources[r]), shape.a);
            for g in 0..8 {
                let row = &mut a[g + down];
                for t in 0..4 {
                    for h in 0..PER {
                        row[right + t * PER + h] = v[h][4 * g + t];
                    }
                }
            }
        }
        for r in 0..nb {
            let v = values(cx.get::<u32>(sources[na + r]), shape.b);
            for t in 0..4 {
                for h in 0..PER {
                    let row = &mut b[(4 * r + t) * PER + h];
                    for g in 0..8 {
                        row[g] = v[h][4 * g + t];
                    }
                }
            }
        }
        let sums = &sources[na + nb..];
        if shape.narrow {
            for r in 0..2 {
                let v = values(cx.get::<u32>(sums[r]), Element::F16);
                for l in 0..32 {
                    c[l / 4 + 8 * r][l % 4 * 2] = v[0][l];
                    c[l / 4 + 8 * r][l % 4 * 2 + 1] = v[1][l];
                }
            }
        } else {
            for r in 0..4 {
                let row = cx.get::<u32>(sums[r]);
                for l in 0..32 {
                    c[l / 4 + r / 2 * 8][l % 4 * 2 + r % 2] = f32::from_bits(row[l]);
                }
            }
        }
        for m in 0..16 {
            let mut row = c[m];
            for k in 0..K {
                for n in 0..8 {
                    row[n] = a[m][k].mul_add(b[k][n], row[n]);
                }
            }
            c[m] = row;
        }
        if shape.narrow {
            for r in 0..2 {
                let half = |x: f32| soft::f32_to_f16(x.to_bits());
                let pair = |l: usize| {
                    let row = &c[l / 4 + 8 * r];
                    half(row[l % 4 * 2]) | half(row[l % 4 * 2 + 1]) << 16
                };
                cx.put(i.more[r], &std::array::from_fn::<u32, 32, _>(pair));
            }
        } else {
            for r in 0..4 {
                let mut row = [0_u32; 32];
                for l in 0..32 {
                    row[l] = soft::bits32(c[l / 4 + r / 2 * 8][l % 4 * 2 + r % 2]);
                }
                cx.put(i.more[r], &row);
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

handler! {
    /// `mma` of 8-bit integers, with 32-bit sums that wrap (or saturate).
    mma_integer |cx, i| {
        whole_warp(cx, i);
        let shape = Shape::unpack(i.imm);
        let (na, nb, nc) = shape.registers();
        let sources = &i.more[i.more_defs as usize..];
        let byte = |word: u32, h: usize, e: Element| {
            let b = (word >> (8 * h)) as u8;
            if e == Element::S8 { i64::from(b as i8) } else { i64::from(b) }
        };
        let (mut a, mut b, mut c) = ([[0_i64; 32]; 16], [[0_i64; 8]; 32], [[0_i64; 8]; 16]);
        let tall = shape.m / 8;
        for r in 0..na {
            let row = cx.get::<u32>(sources[r]);
            for l in 0..32 {
                for h in 0..4 {
                    a[l / 4 + r % tall * 8][(l % 4) * 4 + r / tall * 16 + h] = byte(row[l], h, shape.a);
                }
            }
        }
        for r in 0..nb {
            let row = cx.get::<u32>(sources[na + r]);
            for l in 0..32 {
                for h in 0..4 {
                    b[(l % 4) * 4 + r * 16 + h][l / 4] = byte(row[l], h, shape.b);
                }
            }
        }
        for r in 0..nc {
            let row = cx.get::<u32>(sources[na + nb + r]);
            for l in 0..32 {
                c[l / 4 + r / 2 * 8][l % 4 * 2 + r % 2] = i64::from(row[l] as i32);
            }
        }
        for k in 0..shape.k {
            for m in 0..shape.m {
                for n in 0..8 {
                    c[m][n] += a[m][k] * b[k][n];
                }
            }
        }
        for r in 0..nc {
            let mut row = [0_u32; 32];
            for l in 0..32 {
                let sum = c[l / 4 + r / 2 * 8][l % 4 * 2 + r % 2];
                row[l] = if shape.saturates { sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u32 } else { sum as u32 };
            }
            cx.put(i.more[r], &row);
        }
    }
}

handler! {
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
