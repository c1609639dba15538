//! The micro-kernels of the convolution, written once over a vector type and compiled for AVX-512, for
//! AVX2 with FMA, and for whatever else there is.
//!
//! Every path computes each output as one chain of fused multiply-adds in the same order, so their
//! results are equal bit for bit; the vector's width only says how many outputs advance together.

/// A vector of f32 lanes.
///
/// # Safety
/// All functions may be called only on a processor that has the instructions of the implementing type;
/// pointers must be valid for `LANES` values (unaligned).
pub(super) unsafe trait Vector: Copy {
    /// Number of lanes.
    const LANES: usize;
    /// The same value in every lane.
    unsafe fn splat(value: f32) -> Self;
    /// Loads `LANES` values.
    unsafe fn load(from: *const f32) -> Self;
    /// Stores `LANES` values.
    unsafe fn store(self, to: *mut f32);
    /// self + a·b with one rounding.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
}

/// Eight lanes of plain f32, for processors without a path of their own.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; 8]);

// SAFETY: needs no instructions beyond the target's own; reads and writes exactly eight values.
unsafe impl Vector for Plain {
    const LANES: usize = 8;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for eight values.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for eight values.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn add_product(mut self, a: Self, b: Self) -> Self {
        for lane in 0..8 {
            self.0[lane] = a.0[lane].mul_add(b.0[lane], self.0[lane]);
        }
        self
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use std::arch::x86_64::*;

    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512(__m512);
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(__m256);

    // SAFETY: callers run these only where AVX-512F is present; 16 values are read or written.
    unsafe impl Vector for Avx512 {
        const LANES: usize = 16;
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            Self(unsafe { _mm512_set1_ps(value) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            Self(unsafe { _mm512_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
        }
    }

    // SAFETY: callers run these only where AVX2 and FMA are present; 8 values are read or written.
    unsafe impl Vector for Avx2 {
        const LANES: usize = 8;
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            Self(unsafe { _mm256_set1_ps(value) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            Self(unsafe { _mm256_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm256_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            Self(unsafe { _mm256_fmadd_ps(a.0, b.0, self.0) })
        }
    }
}

/// The instruction set that the kernels are run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    /// 16 lanes, 32 registers.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 8 lanes, 16 registers.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the compiler makes of eight lanes of f32.
    Plain,
}

impl Isa {
    /// The best path of this processor.
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Plain
    }

    /// Widths of the column panels that this path has kernels for, widest first.
    pub(super) fn panel_widths(self) -> &'static [usize] {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => &[64, 32, 16, 8],
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => &[16, 8],
            Self::Plain => &[16, 8],
        }
    }
}

/// Rows of a micro-tile for a panel of `width` columns: as many as the registers hold.
pub(super) fn tile_rows(isa: Isa, width: usize) -> usize {
    match (isa, width) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, 64) => 6,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, _) => 12,
        (_, 16) => 6,
        _ => 12,
    }
}

/// What a forward micro-tile works on: `rows ≤ MR` output pixels times one panel of columns.
pub(super) struct ForwardTile<'a> {
    /// Padded input.
    pub input: *const f32,
    /// Offset of each row's window in `input`.
    pub bases: &'a [usize],
    /// (offset within the window, length) of the contiguous runs of the sum, in order.
    pub runs: &'a [(usize, usize)],
    /// Packed weights: for each term of the sum, the panel's columns.
    pub weights: *const f32,
    /// Start values and results: rows of the panel's width.
    pub sums: *mut f32,
}

/// sums[r][c] ← sums[r][c] + Σ_k input[bases[r] + k] · weights[k][c], k in the order of the runs.
#[inline(always)]
unsafe fn forward<S: Vector, const MR: usize, const V: usize>(tile: &ForwardTile) {
    let width = V * S::LANES;
    // SAFETY: the caller vouches for MR bases, for the runs within the input from each of them, for as
    // many rows of weights as the runs are long, and for MR rows of sums.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; MR];
        for r in 0..MR {
            for v in 0..V {
                sums[r][v] = S::load(tile.sums.add(r * width + v * S::LANES));
            }
        }
        let mut weights = tile.weights;
        for &(offset, length) in tile.runs {
            let start = tile.input.add(offset);
            let rows: [*const f32; MR] = std::array::from_fn(|r| start.add(*tile.bases.get_unchecked(r)));
            for k in 0..length {
                let columns: [S; V] = std::array::from_fn(|v| S::load(weights.add(v * S::LANES)));
                for r in 0..MR {
                    let x = S::splat(*rows[r].add(k));
                    for v in 0..V {
                        sums[r][v] = sums[r][v].add_product(x, columns[v]);
                    }
                }
                weights = weights.add(width);
            }
        }
        for r in 0..MR {
            for v in 0..V {
                sums[r][v].store(tile.sums.add(r * width + v * S::LANES));
            }
        }
    }
}

/// What a micro-tile of the weights' gradient works on: `MR` rows times one panel of columns, summed
/// over pixels.
pub(super) struct OuterTile<'a> {
    /// First factor and, per pixel, where its `MR` values start.
    pub left: *const f32,
    pub left_bases: &'a [usize],
    /// Second factor: for each pixel the panel's columns, one after the other.
    pub right: *const f32,
    /// Start values and results: rows of the panel's width.
    pub sums: *mut f32,
}

/// sums[r][c] ← sums[r][c] + Σ_p left[left_bases[p] + r] · right[p][c], p ascending.
#[inline(always)]
unsafe fn outer<S: Vector, const MR: usize, const V: usize>(tile: &OuterTile) {
    let width = V * S::LANES;
    // SAFETY: the caller vouches for MR values from each base, as many rows of `right`, MR rows of sums.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; MR];
        for r in 0..MR {
            for v in 0..V {
                sums[r][v] = S::load(tile.sums.add(r * width + v * S::LANES));
            }
        }
        let mut right = tile.right;
        for &base in tile.left_bases {
            let left = tile.left.add(base);
            let columns: [S; V] = std::array::from_fn(|v| S::load(right.add(v * S::LANES)));
            for r in 0..MR {
                let x = S::splat(*left.add(r));
                for v in 0..V {
                    sums[r][v] = sums[r][v].add_product(x, columns[v]);
                }
            }
            right = right.add(width);
        }
        for r in 0..MR {
            for v in 0..V {
                sums[r][v].store(tile.sums.add(r * width + v * S::LANES));
            }
        }
    }
}

macro_rules! entry {
    ($name:ident, $kernel:ident, $tile:ident, $vector:ty, $rows:literal, $vectors:literal $(, $feature:literal)?) => {
        $(#[target_feature(enable = $feature)])?
        unsafe fn $name(tile: &$tile) {
            // SAFETY: passed on to the caller.
            unsafe { $kernel::<$vector, $rows, $vectors>(tile) }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod entries {
    use super::x86::{Avx2, Avx512};
    use super::{ForwardTile, OuterKernels, OuterTile, forward, outer};
    entry!(forward_512_64, forward, ForwardTile, Avx512, 6, 4, "avx512f");
    entry!(forward_512_32, forward, ForwardTile, Avx512, 12, 2, "avx512f");
    entry!(forward_512_16, forward, ForwardTile, Avx512, 12, 1, "avx512f");
    entry!(forward_512_8, forward, ForwardTile, Avx2, 12, 1, "avx512f,avx2,fma");
    entry!(forward_256_16, forward, ForwardTile, Avx2, 6, 2, "avx2,fma");
    entry!(forward_256_8, forward, ForwardTile, Avx2, 12, 1, "avx2,fma");
    entry!(outer_512_64, outer, OuterTile, Avx512, 6, 4, "avx512f");
    entry!(outer_512_32, outer, OuterTile, Avx512, 8, 2, "avx512f");
    entry!(outer_512_16, outer, OuterTile, Avx512, 8, 1, "avx512f");
    entry!(outer_512_8, outer, OuterTile, Avx2, 8, 1, "avx512f,avx2,fma");
    entry!(outer_256_16, outer, OuterTile, Avx2, 4, 2, "avx2,fma");
    entry!(outer_256_8, outer, OuterTile, Avx2, 8, 1, "avx2,fma");
    entry!(single_64, outer, OuterTile, Avx512, 1, 4, "avx512f");
    entry!(single_32, outer, OuterTile, Avx512, 1, 2, "avx512f");
    entry!(single_16, outer, OuterTile, Avx512, 1, 1, "avx512f");
    entry!(single_8, outer, OuterTile, Avx2, 1, 1, "avx2,fma");

    pub(super) fn forward_of(avx512: bool, width: usize) -> unsafe fn(&ForwardTile) {
        match (avx512, width) {
            (true, 64) => forward_512_64,
            (true, 32) => forward_512_32,
            (true, 16) => forward_512_16,
            (true, _) => forward_512_8,
            (false, 16) => forward_256_16,
            (false, _) => forward_256_8,
        }
    }

    pub(super) fn outer_of(avx512: bool, width: usize) -> OuterKernels {
        match (avx512, width) {
            (true, 64) => [(6, outer_512_64), (1, single_64)],
            (true, 32) => [(8, outer_512_32), (1, single_32)],
            (true, 16) => [(8, outer_512_16), (1, single_16)],
            (true, _) => [(8, outer_512_8), (1, single_8)],
            (false, 16) => [(4, outer_256_16), (1, plain_width_16)],
            (false, _) => [(8, outer_256_8), (1, single_8)],
        }
    }
    entry!(plain_width_16, outer, OuterTile, Avx2, 1, 2, "avx2,fma");
}

entry!(forward_plain_16, forward, ForwardTile, Plain, 6, 2);
entry!(forward_plain_8, forward, ForwardTile, Plain, 12, 1);
entry!(outer_plain_16, outer, OuterTile, Plain, 4, 2);
entry!(outer_plain_8, outer, OuterTile, Plain, 8, 1);
entry!(single_plain_16, outer, OuterTile, Plain, 1, 2);
entry!(single_plain_8, outer, OuterTile, Plain, 1, 1);

/// (rows, kernel), most rows first, the last with one row.
pub(super) type OuterKernels = [(usize, unsafe fn(&OuterTile)); 2];

/// The forward kernel of a panel width; it works on [`tile_rows`] rows.
pub(super) fn forward_kernel(isa: Isa, width: usize) -> unsafe fn(&ForwardTile) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => entries::forward_of(true, width),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => entries::forward_of(false, width),
        Isa::Plain if width == 16 => forward_plain_16,
        Isa::Plain => forward_plain_8,
    }
}

/// The weight-gradient kernels of a panel width: (rows, kernel), most rows first, the last with one row.
pub(super) fn outer_kernels(isa: Isa, width: usize) -> OuterKernels {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => entries::outer_of(true, width),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => entries::outer_of(false, width),
        Isa::Plain if width == 16 => [(4, outer_plain_16), (1, single_plain_16)],
        Isa::Plain => [(8, outer_plain_8), (1, single_plain_8)],
    }
}
