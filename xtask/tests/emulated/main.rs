//! The committed kernels on the PTX emulator, all checks on: no finding, results next to an f64 reference, the same bits
//! whatever the order of blocks and warps.

mod affinity;
mod convolution;
mod sums;
mod walk;

use xtask::emulated::{Machine, Shape};

/// Grid of one dimension.
fn line(blocks: usize, threads: u32) -> Shape {
    Shape { grid: [blocks as u32, 1, 1], threads, shared: 0 }
}

/// Values in [−1, 1), the same for a seed: a linear congruential generator's upper bits.
fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as i64 - (1 << 23)) as f32 / (1 << 23) as f32
    };
    (0..count).map(|_| next()).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// ‖a − b‖ / ‖b‖.
fn difference(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares = |f: &dyn Fn(usize) -> f64| (0..a.len()).map(|i| f(i).powi(2)).sum::<f64>();
    (squares(&|i| f64::from(a[i]) - b[i]) / squares(&|i| b[i]).max(1e-300)).sqrt()
}

/// Runs on two machines, one with shuffled blocks and warps: both must give these bits.
fn in_any_order<T: PartialEq + std::fmt::Debug>(run: impl Fn(&mut Machine) -> T) -> T {
    let natural = run(&mut Machine::new(None));
    assert!(natural == run(&mut Machine::new(Some(7))), "the order of blocks and warps changes the bits");
    natural
}

/// (dy, dx) of the stencil of radius 5, 34 of them.
fn stencil() -> Vec<(usize, isize)> {
    let all = (0..5usize).flat_map(|dy| (-4..5isize).map(move |dx| (dy, dx)));
    all.filter(|&(dy, dx)| (dy > 0 || dx > 0) && (dy * dy) as isize + dx * dx < 25).collect()
}

fn flat(stencil: &[(usize, isize)]) -> Vec<i32> {
    stencil.iter().flat_map(|&(dy, dx)| [dy as i32, dx as i32]).collect()
}
