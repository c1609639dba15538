//! The machine's bounds: fused multiply-adds a second and bytes copied a second, on all of rayon's threads.

use std::time::Instant;

use rayon::prelude::*;

/// Measured bounds.
pub struct Machine {
    /// Threads.
    pub threads: usize,
    /// The widest instruction set used.
    pub instructions: &'static str,
    /// FLOP a second of independent fused multiply-adds in registers.
    pub flops: f64,
    /// (bytes read and written, bytes a second) of a parallel copy, ascending.
    pub copies: Vec<(f64, f64)>,
}

impl Machine {
    /// Takes about a second.
    pub fn measure() -> Self {
        let sizes = [18, 20, 22, 24, 26, 28, 30].map(|power| f64::from(power).exp2());
        Self {
            threads: rayon::current_num_threads(),
            instructions: widest().name,
            flops: multiply_adds(),
            copies: sizes.map(|size| (size, copy(size as usize))).to_vec(),
        }
    }

    /// Measures again what a row with this many bytes is held against, and keeps the better: whatever else
    /// runs on the machine only ever slows, so a bound is the best of the whole run.
    pub fn measure_again(&mut self, bytes: f64) {
        self.flops = self.flops.max(multiply_adds());
        let at = self.copies.iter().position(|(size, _)| *size >= bytes).unwrap_or(self.copies.len() - 1);
        let (size, speed) = &mut self.copies[at];
        *speed = speed.max(copy(*size as usize));
    }

    /// Copy speed at about a number of bytes: the next larger size measured, so that what fits into a cache
    /// is held against that cache.
    pub fn bandwidth(&self, bytes: f64) -> f64 {
        let larger = self.copies.iter().find(|(size, _)| *size >= bytes);
        larger.or(self.copies.last()).map_or(f64::NAN, |(_, speed)| *speed)
    }
}

/// Best of several: seconds of `work`.
fn best_of(times: usize, mut work: impl FnMut()) -> f64 {
    (0..times).fold(f64::INFINITY, |best, _| {
        let start = Instant::now();
        work();
        best.min(start.elapsed().as_secs_f64())
    })
}

/// Bytes a second of a copy that reads and writes `total` bytes together.
fn copy(total: usize) -> f64 {
    let half = total / 2;
    let (from, mut to) = (vec![1u8; half], vec![0u8; half]);
    let piece = half.div_ceil(rayon::current_num_threads());
    let repeats = ((1 << 26) / total).max(1);
    let seconds = best_of(5, || {
        for _ in 0..repeats {
            to.par_chunks_mut(piece)
                .zip(from.par_chunks(piece))
                .for_each(|(to, from)| to.copy_from_slice(from));
            std::hint::black_box(&mut to);
        }
    });
    (total * repeats) as f64 / seconds
}

/// Steps of a chain.
const STEPS: usize = 1 << 20;
/// Independent sums: more than latency × units of any processor that has these instructions.
const SUMS: usize = 12;

/// FLOP a second with one chain per thread.
fn multiply_adds() -> f64 {
    let Widest { lanes, chain, .. } = widest();
    let threads = rayon::current_num_threads();
    let seconds = best_of(20, || {
        rayon::broadcast(|_| std::hint::black_box(chain()));
    });
    (2 * lanes * SUMS * STEPS * threads) as f64 / seconds
}

/// The widest instructions this processor has, and a chain that keeps them busy.
struct Widest {
    name: &'static str,
    lanes: usize,
    chain: fn() -> f32,
}

fn widest() -> Widest {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature was detected above.
            return Widest { name: "AVX-512", lanes: 16, chain: || unsafe { x86::chain_512() } };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features were detected above.
            return Widest { name: "AVX2", lanes: 8, chain: || unsafe { x86::chain_256() } };
        }
    }
    Widest { name: "plain", lanes: 8, chain: plain_chain }
}

fn plain_chain() -> f32 {
    let (x, y) = (std::hint::black_box(0.5f32), std::hint::black_box(0.25f32));
    let mut sums = [[0f32; 8]; SUMS];
    for _ in 0..STEPS {
        sums.iter_mut().flatten().for_each(|s| *s = s.mul_add(x, y));
    }
    sums.iter().flatten().sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{STEPS, SUMS};
    use std::arch::x86_64::*;
    use std::hint::black_box;

    #[target_feature(enable = "avx512f")]
    pub fn chain_512() -> f32 {
        let (x, y) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(0.25)));
        let mut sums = [_mm512_setzero_ps(); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, x, y);
            }
        }
        sums.iter().map(|s| _mm512_reduce_add_ps(*s)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn chain_256() -> f32 {
        let (x, y) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(0.25)));
        let mut sums = [_mm256_setzero_ps(); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, x, y);
            }
        }
        sums.iter().map(|s| _mm256_cvtss_f32(*s)).sum()
    }
}
