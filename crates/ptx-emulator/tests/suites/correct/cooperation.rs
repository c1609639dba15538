//! Warps and blocks that work together (`correct/cooperation.cu`).

use ptx_emulator::ParameterBytes;

use super::{Work, f32s, in_all_orders, random_f32s, random_u32s, shape, sweeps, u32s};
use crate::support::module;

/// An argument of a kernel of this file.
enum Argument<'a> {
    Input(&'a [u32]),
    /// A buffer that is looked at in the end: what it holds before, or how many words nobody has written.
    Changed(&'a [u32]),
    Output(usize),
    Number(u32),
}

/// Runs a kernel of this file in all orders; in the end its buffers that are looked at must hold `want`, one after another.
fn expect(kernel: &str, blocks: u32, threads: u32, arguments: &[Argument<'_>], want: &[&[u32]]) {
    let module = module("correct/ptx/cooperation.ptx");
    in_all_orders(
        &module,
        false,
        |device| {
            let mut outputs = Vec::new();
            let parameters = arguments.iter().fold(ParameterBytes::new(), |p, argument| match argument {
                Argument::Input(words) => p.address(device.u32s(words)),
                Argument::Changed(words) => {
                    outputs.push((device.u32s(words), 4 * words.len()));
                    p.address(outputs[outputs.len() - 1].0)
                }
                Argument::Output(words) => {
                    outputs.push((device.empty(4 * words), 4 * words));
                    p.address(outputs[outputs.len() - 1].0)
                }
                Argument::Number(n) => p.u32(*n),
            });
            Work { launches: vec![(shape(kernel, [blocks, 1, 1], [threads, 1, 1]), parameters)], outputs }
        },
        |outputs| {
            let got: Vec<Vec<u32>> = outputs.iter().map(|o| u32s(o)).collect();
            assert_eq!(got, want, "{kernel}");
        },
    );
}

#[test]
fn histograms() {
    let module = module("correct/ptx/cooperation.ptx");
    let x = random_u32s(25, 1500);
    let mut want = vec![0; 64];
    x.iter().for_each(|v| want[(*v & 63) as usize] += 1);
    for (kernel, grid) in [("histogram_shared", 3), ("histogram_match", 12)] {
        in_all_orders(
            &module,
            false,
            |device| {
                let (input, bins) = (device.u32s(&x), device.u32s(&[0; 64]));
                let p = ParameterBytes::new().address(input).address(bins).u32(1500);
                let launches = vec![(shape(kernel, [grid, 1, 1], [128, 1, 1]), p)];
                Work { launches, outputs: vec![(bins, 256)] }
            },
            |outputs| assert_eq!(u32s(&outputs[0]), want, "{kernel}"),
        );
    }
}

#[test]
fn persistent_blocks_take_rows() {
    let module = module("correct/ptx/cooperation.ptx");
    let (rows, width) = (11, 50);
    let x = random_f32s(26, rows * width);
    let want: Vec<f32> = x.iter().enumerate().map(|(i, v)| v * (i / width + 1) as f32).collect();
    in_all_orders(
        &module,
        false,
        |device| {
            let (input, out, next) = (device.f32s(&x), device.empty(4 * x.len()), device.u32s(&[0]));
            let p = ParameterBytes::new().address(input).address(out).address(next);
            let p = p.u32(rows as u32).u32(width as u32);
            Work {
                launches: vec![(shape("persistent_rows", [3, 1, 1], [64, 1, 1]), p)],
                outputs: vec![(out, 4 * x.len())],
            }
        },
        |outputs| assert_eq!(f32s(&outputs[0]), want),
    );
}

#[test]
fn warps_with_named_barriers() {
    let module = module("correct/ptx/cooperation.ptx");
    let x = random_f32s(27, 32 * 7);
    let want: Vec<f32> = (0..32).map(|lane| (0..7).map(|k| x[k * 32 + 31 - lane]).sum()).collect();
    in_all_orders(
        &module,
        false,
        |device| {
            let (input, out) = (device.f32s(&x), device.empty(128));
            let p = ParameterBytes::new().address(input).address(out).u32(7);
            let launches = vec![(shape("queue_of_two_slots", [1, 1, 1], [64, 1, 1]), p)];
            Work { launches, outputs: vec![(out, 128)] }
        },
        |outputs| assert_eq!(f32s(&outputs[0]), want),
    );

    let x = random_f32s(28, 128);
    let mut want = x.clone();
    for (half, v) in want.chunks_mut(64).enumerate() {
        for _ in 0..4 + half {
            let old = v.to_vec();
            (0..64).for_each(|t| v[t] += old[(t + 33) % 64]);
        }
    }
    in_all_orders(
        &module,
        false,
        |device| {
            let (input, out) = (device.f32s(&x), device.empty(512));
            let p = ParameterBytes::new().address(input).address(out);
            let launches = vec![(shape("halves_on_their_own", [1, 1, 1], [128, 1, 1]), p)];
            Work { launches, outputs: vec![(out, 512)] }
        },
        |outputs| assert_eq!(f32s(&outputs[0]), want),
    );
}

#[test]
fn list_under_a_lock() {
    let module = module("correct/ptx/cooperation.ptx");
    in_all_orders(
        &module,
        false,
        |device| {
            let (lock, length, list) = (device.u32s(&[0]), device.u32s(&[0]), device.empty(48));
            let p = ParameterBytes::new().address(lock).address(length).address(list);
            Work {
                launches: vec![(shape("list_under_a_lock", [3, 1, 1], [128, 1, 1]), p)],
                outputs: vec![(lock, 4), (length, 4), (list, 48)],
            }
        },
        |outputs| {
            assert_eq!((u32s(&outputs[0])[0], u32s(&outputs[1])[0]), (0, 12));
            let mut list = u32s(&outputs[2]);
            list.sort_unstable();
            assert_eq!(list, (0..12).collect::<Vec<u32>>());
        },
    );
}

#[test]
fn barrier_over_the_grid() {
    let module = module("correct/ptx/cooperation.ptx");
    let x = random_f32s(29, 100);
    let want = sweeps(&x, 5);
    in_all_orders(
        &module,
        true,
        |device| {
            let (a, b, arrived) = (device.f32s(&x), device.empty(400), device.u32s(&[0]));
            let p = ParameterBytes::new().address(a).address(b).address(arrived).u32(100).u32(5);
            Work {
                launches: vec![(shape("sweeps_with_a_grid_barrier", [4, 1, 1], [32, 1, 1]), p)],
                outputs: vec![(b, 400)],
            }
        },
        |outputs| assert_eq!(f32s(&outputs[0]), want),
    );
}

#[test]
fn message_between_blocks() {
    let module = module("correct/ptx/cooperation.ptx");
    let x = random_u32s(30, 64);
    let want: Vec<u32> = x.iter().rev().map(|v| v.wrapping_mul(3)).collect();
    in_all_orders(
        &module,
        true,
        |device| {
            let (input, mail, out) = (device.u32s(&x), device.empty(256), device.empty(256));
            let flag = device.u32s(&[0]);
            let p = ParameterBytes::new().address(input).address(mail).address(flag).address(out);
            let launches = vec![(shape("message_between_blocks", [2, 1, 1], [64, 1, 1]), p)];
            Work { launches, outputs: vec![(out, 256)] }
        },
        |outputs| assert_eq!(u32s(&outputs[0]), want),
    );
}

/// `paths_that_meet_again` for one number.
fn path(x: u32) -> u32 {
    let v = x % 1000 + 1;
    let steps = [1, 3, 5, 7];
    let mut seen = [0u32; 4];
    for k in 0..v % 7 {
        seen[((v + k) & 3) as usize] += steps[(k & 3) as usize];
    }
    let (mut c, mut length) = (v, 0u32);
    while c > 1 {
        c = if c & 1 == 1 { 3 * c + 1 } else { c / 2 };
        length += 1;
    }
    match v & 3 {
        0 => length.wrapping_add(seen[0]),
        1 => length ^ seen[(v >> 2 & 3) as usize],
        2 => length.wrapping_mul(3).wrapping_sub(seen[3]),
        _ => length.wrapping_sub(seen[3]),
    }
}

#[test]
fn divergent_paths_calls_and_local_arrays() {
    let module = module("correct/ptx/cooperation.ptx");
    let x = random_u32s(31, 500);
    let want: Vec<u32> = x.iter().map(|v| path(*v)).collect();
    in_all_orders(
        &module,
        false,
        |device| {
            let (input, out) = (device.u32s(&x), device.empty(2000));
            let p = ParameterBytes::new().address(input).address(out).u32(500);
            Work {
                launches: vec![(shape("paths_that_meet_again", [4, 1, 1], [128, 1, 1]), p)],
                outputs: vec![(out, 2000)],
            }
        },
        |outputs| assert_eq!(u32s(&outputs[0]), want),
    );
}

use Argument::{Changed, Input, Number, Output};

fn sums(x: &[u32], each: usize) -> Vec<u32> {
    x.chunks(each).map(|part| part.iter().fold(0, |s: u32, v| s.wrapping_add(*v))).collect()
}

#[test]
fn last_warp_and_last_block_by_tickets() {
    let x = random_u32s(32, 2 * 3 * 256);
    expect("sum_by_the_last_warp", 3, 256, &[Input(&x), Output(6)], &[&sums(&x, 256)]);
    let x = random_u32s(33, 5 * 128);
    let arguments = [Input(&x), Output(20), Changed(&[0]), Output(1)];
    expect("sum_by_the_last_block_and_reset", 5, 128, &arguments, &[&sums(&x, 32), &[0], &sums(&x, 5 * 128)]);
}

#[test]
fn message_between_warps() {
    let x = random_u32s(34, 32);
    let want: Vec<u32> = x.iter().rev().map(|v| v.wrapping_mul(5)).collect();
    expect("message_between_warps", 1, 64, &[Input(&x), Output(32)], &[&want]);
}

#[test]
fn counter_under_a_lock_of_warps_and_blocks() {
    let arguments = [Changed(&[0]), Changed(&[0, 0, 0, 0])];
    expect("counter_under_a_lock", 3, 128, &arguments, &[&[0], &[12, 4, 4, 4]]);
}

#[test]
fn counts_of_groups_of_warps() {
    let x = random_u32s(35, 128);
    let odd = |part: &[u32]| part.iter().map(|v| v & 1).sum::<u32>();
    let want = [vec![odd(&x[..64]); 64], vec![odd(&x[64..]); 64]].concat();
    expect("counts_of_groups", 1, 128, &[Input(&x), Output(128)], &[&want]);
}

/// Lanes that have returned count as arrived: 100 of 128 threads are left, four of the last warp.
#[test]
fn barrier_after_an_early_return() {
    let x = random_u32s(36, 100);
    let want: Vec<u32> = x.iter().map(|v| v.wrapping_add(1)).collect();
    expect("barrier_after_an_early_return", 1, 128, &[Input(&x), Output(100), Number(100)], &[&want]);
}

/// Lanes meet again behind a loop, although no block but that of a guarded return leads to the kernel's end. With three
/// elements lanes 3 to 31 skip the loop; they must not come to the barrier alone.
#[test]
fn barrier_in_a_loop_that_a_return_ends() {
    for n in [3, 40, 64] {
        let x = random_u32s(37, n);
        let want: Vec<u32> = x.iter().rev().map(|v| v.wrapping_add(4)).collect();
        let arguments = [Input(&x), Output(n), Number(n as u32), Number(5)];
        expect("barrier_in_a_loop_without_end", 1, 64, &arguments, &[&want]);
    }
}
