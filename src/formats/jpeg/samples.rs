//! From coefficients to pixels, in the whole numbers of the Independent JPEG Group's library, so that every level is the
//! one that Pillow, OpenCV and all that are built on that library give: the accurate integer transform (Loeffler,
//! Ligtenberg and Moschytz 1989), chroma interpolated by a triangle, BT.601 with 16 bits behind the point.

use super::entropy::Block;

/// Bits behind the point of the transform's factors, and of what goes from columns to rows.
const FACTOR_BITS: u32 = 13;
const PASS_BITS: u32 = 2;

/// round(x · 2¹³)
const fn factor(x: f64) -> i32 {
    (x * (1u32 << FACTOR_BITS) as f64 + 0.5) as i32
}

/// The inverse cosine transform of eight values times √8 · 2¹³, even and odd parts by themselves.
fn transform(v: [i32; 8]) -> [i32; 8] {
    let mul = |a: i32, f: f64| a.wrapping_mul(factor(f));
    let add = i32::wrapping_add;
    let sub = i32::wrapping_sub;
    let turned = mul(add(v[2], v[6]), 0.541196100);
    let even2 = sub(turned, mul(v[6], 1.847759065));
    let even3 = add(turned, mul(v[2], 0.765366865));
    let even0 = add(v[0], v[4]).wrapping_shl(FACTOR_BITS);
    let even1 = sub(v[0], v[4]).wrapping_shl(FACTOR_BITS);
    let even = [add(even0, even3), add(even1, even2), sub(even1, even2), sub(even0, even3)];
    let all = mul(add(add(v[7], v[3]), add(v[5], v[1])), 1.175875602);
    let z1 = mul(add(v[7], v[1]), 0.899976223);
    let z2 = mul(add(v[5], v[3]), 2.562915447);
    let z3 = sub(all, mul(add(v[7], v[3]), 1.961570560));
    let z4 = sub(all, mul(add(v[5], v[1]), 0.390180644));
    let odd = [
        add(sub(mul(v[1], 1.501321110), z1), z4),
        add(sub(mul(v[3], 3.072711026), z2), z3),
        add(sub(mul(v[5], 2.053119869), z2), z4),
        add(sub(mul(v[7], 0.298631336), z1), z3),
    ];
    std::array::from_fn(|i| if i < 4 { add(even[i], odd[i]) } else { sub(even[7 - i], odd[7 - i]) })
}

/// value / 2^bits, rounded.
fn descale(value: i32, bits: u32) -> i32 {
    value.wrapping_add(1 << (bits - 1)) >> bits
}

/// The 8×8 samples of a block, into `plane` from `at` on in rows of `stride`.
pub(super) fn inverse(block: &Block, quantizer: &[u16; 64], plane: &mut [u8], at: usize, stride: usize) {
    let value = |i: usize| i32::from(block[i]).wrapping_mul(i32::from(quantizer[i]));
    let mut rows = [[0i32; 8]; 8];
    for x in 0..8 {
        let column = transform(std::array::from_fn(|y| value(8 * y + x)));
        for y in 0..8 {
            rows[y][x] = descale(column[y], FACTOR_BITS - PASS_BITS);
        }
    }
    for (y, row) in rows.into_iter().enumerate() {
        let out = &mut plane[at + y * stride..][..8];
        for (out, v) in out.iter_mut().zip(transform(row)) {
            *out = (descale(v, FACTOR_BITS + PASS_BITS + 3) + 128).clamp(0, 255) as u8;
        }
    }
}

/// Samples of one component at its own resolution, as much of them as belong to the picture.
pub(super) struct Plane<'a> {
    pub samples: &'a [u8],
    pub stride: usize,
    pub width: usize,
    pub height: usize,
    /// How many times finer the picture is.
    pub across: usize,
    pub down: usize,
}

impl Plane<'_> {
    fn at(&self, y: usize) -> &[u8] {
        &self.samples[y.min(self.height - 1) * self.stride..][..self.width]
    }

    /// Row `y` of the picture into `out`, which has `across · width` samples. A chroma sample lies between the pixels
    /// that it is of: ¾ of the nearer and ¼ of the farther one in each direction; the rounding alternates.
    pub fn row(&self, y: usize, out: &mut [u8]) {
        let near = self.at(y / self.down);
        let far = || self.at(if y.is_multiple_of(2) { (y / 2).saturating_sub(1) } else { y / 2 + 1 });
        let mixed = |a: u8, b: u8| 3 * u32::from(a) + u32::from(b);
        match (self.across, self.down) {
            (1, 1) => out.copy_from_slice(near),
            (1, 2) => {
                let round = 1 + (y % 2) as u32;
                for ((out, a), b) in out.iter_mut().zip(near).zip(far()) {
                    *out = ((mixed(*a, *b) + round) >> 2) as u8;
                }
            }
            (2, 1) if self.width > 2 => {
                let wide = |x: usize| u32::from(near[x]);
                widen(self.width, out, wide, [0, 1, 2, 0], 2);
            }
            (2, 2) if self.width > 2 => {
                let far = far();
                widen(self.width, out, |x| mixed(near[x], far[x]), [8, 8, 7, 7], 4);
            }
            (across, _) => {
                for (out, sample) in out.chunks_exact_mut(across).zip(near) {
                    out.fill(*sample);
                }
            }
        }
    }
}

/// Twice as many samples as `value` gives: (3·here + beside + round) / 2^shift; at both ends 4·here. `round` is that of
/// the first, of left halves, of right halves, of the last.
fn widen(width: usize, out: &mut [u8], value: impl Fn(usize) -> u32, round: [u32; 4], shift: u32) {
    let mut last = value(0);
    let mut here = last;
    for x in 0..width {
        let next = if x + 1 < width { value(x + 1) } else { here };
        let left = if x == 0 { 4 * here + round[0] } else { 3 * here + last + round[1] };
        let right = if x + 1 == width { 4 * here + round[3] } else { 3 * here + next + round[2] };
        out[2 * x] = (left >> shift) as u8;
        out[2 * x + 1] = (right >> shift) as u8;
        (last, here) = (here, next);
    }
}

/// round(x · 2¹⁶)
const fn fixed(x: f64) -> i32 {
    (x * 65536.0 + 0.5) as i32
}

/// A row of luma and chroma as RGB (ITU-R BT.601 at full range, as JFIF 1.02 has it).
pub(super) fn to_rgb(luma: &[u8], blue: &[u8], red: &[u8], out: &mut [u8]) {
    const HALF: i32 = 1 << 15;
    for (((out, y), cb), cr) in out.chunks_exact_mut(3).zip(luma).zip(blue).zip(red) {
        let (y, cb, cr) = (i32::from(*y), i32::from(*cb) - 128, i32::from(*cr) - 128);
        let level = |v: i32| v.clamp(0, 255) as u8;
        out[0] = level(y + ((fixed(1.402) * cr + HALF) >> 16));
        out[1] = level(y + ((HALF - fixed(0.34414) * cb - fixed(0.71414) * cr) >> 16));
        out[2] = level(y + ((fixed(1.772) * cb + HALF) >> 16));
    }
}
