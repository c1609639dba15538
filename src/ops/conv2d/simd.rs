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
            Self::Avx512 => &[32, 16, 8],
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => &[16, 8],
            Self::Plain => &[16, 8],
        }
    }
}

/// Terms of a block of the forward product: 32 columns of them take 32 KiB.
pub(super) const SUM_BLOCK: usize = 256;
/// Values from one row of a block of windows to the next. Not a power of two, so that the rows of a tile
/// fall into different lines of the first-level cache.
pub(super) const LEFT_STRIDE: usize = SUM_BLOCK + 16;

/// What a micro-tile works on: as many rows as there are targets, times one panel of columns.
///
/// Row r of the left factor has its terms at `left + sources[r] + segment.left + k·left_step`, the right factor
/// at `right + segment.right + k·right_step`, for k < `segment.count` of each segment in turn.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// First factor.
    pub left: *const f32,
    /// Offset of each row in `left`.
    pub sources: &'a [usize],
    /// Second factor: for each term the panel's columns.
    pub right: *const f32,
    /// The terms of the sum.
    pub segments: &'a [Terms],
    /// Values of the left factor from one term to the next; the forward kernels take it to be 1.
    pub left_step: usize,
    /// Values of the right factor from one term to the next; the forward kernels take it to be the panel's
    /// width.
    pub right_step: usize,
    /// What each row's sums start from: the panel's columns. Without it they go on from `out`.
    pub start: Option<*const f32>,
    /// Results.
    pub out: *mut f32,
    /// Offset of each row in `out`.
    pub targets: &'a [usize],
}

/// Consecutive terms of a sum, evenly spaced in both factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    /// Values from a row's source to the first term.
    pub left: usize,
    /// Values from the start of the right factor to the first term; the forward kernels read on from the
    /// segment before.
    pub right: usize,
    /// How many.
    pub count: usize,
}

/// out[targets[r] + c] ← start + Σ_k left[r][k] · right[k][c], k ascending. `DENSE` fixes the steps to those of
/// packed weights: 1 and the panel's width.
#[inline(always)]
unsafe fn multiply<S: Vector, const MR: usize, const V: usize, const DENSE: bool>(tile: &Tile) {
    // SAFETY: the caller vouches for the terms of MR rows of the left factor, as many terms of the panel's
    // width of the right one, MR targets with the panel's width of values at each.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; MR];
        for r in 0..MR {
            let from = match tile.start {
                Some(start) => start,
                None => tile.out.add(*tile.targets.get_unchecked(r)).cast_const(),
            };
            for v in 0..V {
                sums[r][v] = S::load(from.add(v * S::LANES));
            }
        }
        let rows: [*const f32; MR] = std::array::from_fn(|r| tile.left.add(*tile.sources.get_unchecked(r)));
        let (left_step, right_step) =
            if DENSE { (1, V * S::LANES) } else { (tile.left_step, tile.right_step) };
        let mut right = tile.right;
        for terms in tile.segments {
            let mut at = terms.left;
            if !DENSE {
                right = tile.right.add(terms.right);
            }
            for _ in 0..terms.count {
                let columns: [S; V] = std::array::from_fn(|v| S::load(right.add(v * S::LANES)));
                for r in 0..MR {
                    let x = S::splat(*rows[r].add(at));
                    for v in 0..V {
                        sums[r][v] = sums[r][v].add_product(x, columns[v]);
                    }
                }
                at += left_step;
                right = right.wrapping_add(right_step);
            }
        }
        for r in 0..MR {
            for v in 0..V {
                sums[r][v].store(tile.out.add(*tile.targets.get_unchecked(r) + v * S::LANES));
            }
        }
    }
}

/// A kernel of the forward product or of the weights' gradient.
macro_rules! entry {
    ($name:ident, forward, $($rest:tt)*) => { entry!(@ $name, true, $($rest)*); };
    ($name:ident, outer, $($rest:tt)*) => { entry!(@ $name, false, $($rest)*); };
    (@ $name:ident, $dense:literal, $vector:ty, $rows:literal, $vectors:literal $(, $feature:literal)?) => {
        $(#[target_feature(enable = $feature)])?
        unsafe fn $name(tile: &Tile) {
            // SAFETY: passed on to the caller.
            unsafe { multiply::<$vector, $rows, $vectors, $dense>(tile) }
        }
    };
}

/// Runs on a tile.
pub(super) type Kernel = unsafe fn(&Tile);

#[cfg(target_arch = "x86_64")]
mod entries {
    use super::x86::{Avx2, Avx512};
    use super::{Kernel, Tile, multiply};
    entry!(forward_512_32, forward, Avx512, 12, 2, "avx512f");
    entry!(forward_512_16, forward, Avx512, 12, 1, "avx512f");
    entry!(forward_512_8, forward, Avx2, 12, 1, "avx512f,avx2,fma");
    entry!(forward_256_16, forward, Avx2, 6, 2, "avx2,fma");
    entry!(forward_256_8, forward, Avx2, 12, 1, "avx2,fma");
    entry!(outer_512_32, outer, Avx512, 12, 2, "avx512f");
    entry!(outer_512_16, outer, Avx512, 12, 1, "avx512f");
    entry!(outer_512_8, outer, Avx2, 12, 1, "avx512f,avx2,fma");
    entry!(four_512_32, outer, Avx512, 4, 2, "avx512f");
    entry!(four_512_16, outer, Avx512, 4, 1, "avx512f");
    entry!(four_512_8, outer, Avx2, 4, 1, "avx512f,avx2,fma");
    entry!(single_512_32, outer, Avx512, 1, 2, "avx512f");
    entry!(single_512_16, outer, Avx512, 1, 1, "avx512f");
    entry!(outer_256_16, outer, Avx2, 6, 2, "avx2,fma");
    entry!(outer_256_8, outer, Avx2, 6, 1, "avx2,fma");
    entry!(two_256_16, outer, Avx2, 2, 2, "avx2,fma");
    entry!(two_256_8, outer, Avx2, 2, 1, "avx2,fma");
    entry!(single_256_16, outer, Avx2, 1, 2, "avx2,fma");
    entry!(single_256_8, outer, Avx2, 1, 1, "avx2,fma");

    pub(super) fn forward_of(avx512: bool, width: usize) -> (Kernel, usize) {
        match (avx512, width) {
            (true, 32) => (forward_512_32, 12),
            (true, 16) => (forward_512_16, 12),
            (true, _) => (forward_512_8, 12),
            (false, 16) => (forward_256_16, 6),
            (false, _) => (forward_256_8, 12),
        }
    }

    pub(super) fn outer_of(avx512: bool, width: usize, height: usize) -> Kernel {
        match (avx512, width, height) {
            (true, 32, 12) => outer_512_32,
            (true, 32, 4) => four_512_32,
            (true, 32, _) => single_512_32,
            (true, 16, 12) => outer_512_16,
            (true, 16, 4) => four_512_16,
            (true, 16, _) => single_512_16,
            (true, _, 12) => outer_512_8,
            (true, _, 4) => four_512_8,
            (false, 16, 6) => outer_256_16,
            (false, 16, 2) => two_256_16,
            (false, 16, _) => single_256_16,
            (false, _, 6) => outer_256_8,
            (false, _, 2) => two_256_8,
            (_, _, _) => single_256_8,
        }
    }
}

entry!(forward_plain_16, forward, Plain, 6, 2);
entry!(forward_plain_8, forward, Plain, 12, 1);
entry!(outer_plain_16, outer, Plain, 6, 2);
entry!(outer_plain_8, outer, Plain, 6, 1);
entry!(two_plain_16, outer, Plain, 2, 2);
entry!(two_plain_8, outer, Plain, 2, 1);
entry!(single_plain_16, outer, Plain, 1, 2);
entry!(single_plain_8, outer, Plain, 1, 1);

/// The forward kernel of a panel width, and its rows: as many as the registers hold.
pub(super) fn forward_kernel(isa: Isa, width: usize) -> (Kernel, usize) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => entries::forward_of(true, width),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => entries::forward_of(false, width),
        Isa::Plain if width == 16 => (forward_plain_16, 6),
        Isa::Plain => (forward_plain_8, 12),
    }
}

/// Rows of the weight-gradient kernels, most first, the last one.
pub(super) fn outer_heights(isa: Isa) -> [usize; 3] {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => [12, 4, 1],
        _ => [6, 2, 1],
    }
}

/// The weight-gradient kernel of a panel width and one of [`outer_heights`].
pub(super) fn outer_kernel(isa: Isa, width: usize, height: usize) -> Kernel {
    match (isa, width, height) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, ..) => entries::outer_of(true, width, height),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, ..) => entries::outer_of(false, width, height),
        (Isa::Plain, 16, 6) => outer_plain_16,
        (Isa::Plain, 16, 2) => two_plain_16,
        (Isa::Plain, 16, _) => single_plain_16,
        (Isa::Plain, _, 6) => outer_plain_8,
        (Isa::Plain, _, 2) => two_plain_8,
        (Isa::Plain, ..) => single_plain_8,
    }
}
