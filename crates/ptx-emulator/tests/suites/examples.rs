//! The figures of docs/kernels-without-a-gpu.md.

use ptx_emulator::{Counters, FindingKind, Gpu, Module, Options, ParameterBytes, Report};

use crate::support::{Device, Shape};

fn tutorial() -> Module {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/tutorial.ptx");
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    Module::parse(&text, "tutorial.ptx").unwrap_or_else(|e| panic!("{e}"))
}

/// Counts of one transposition of 1024 × 1024, whose result is compared.
fn transpose(kernel: &str) -> Counters {
    const SIDE: u32 = 1024;
    let mut device = Device::new(&tutorial());
    let input: Vec<f32> = (0..SIDE * SIDE).map(|i| i as f32).collect();
    let (from, to) = (device.f32s(&input), device.empty(4 * input.len()));
    let shape = Shape { kernel, grid: [32, 32, 1], block: [32, 8, 1], shared: 0 };
    let parameters = ParameterBytes::new().address(from).address(to).u32(SIDE).u32(SIDE);
    let report: Report = device.launch(&shape, &parameters, &Options::default());
    assert!(report.findings.is_empty(), "{}", report.findings[0]);
    let got = device.read(to, 4 * input.len());
    let right = got.chunks_exact(4).enumerate().all(|(i, bytes)| {
        let want = input[i % SIDE as usize * SIDE as usize + i / SIDE as usize];
        bytes == want.to_le_bytes()
    });
    assert!(right, "{kernel}");
    report.counters
}

#[test]
fn transposition_in_three_steps() {
    let steps = ["transpose_naive", "transpose_tiled", "transpose_padded"].map(transpose);
    assert_eq!(steps.each_ref().map(|c| c.global_loads.sectors), [131_072; 3]);
    assert_eq!(steps.each_ref().map(|c| c.global_stores.sectors), [1_048_576, 131_072, 131_072]);
    assert_eq!(steps.each_ref().map(|c| c.shared_loads.wavefronts), [0, 1_048_576, 32_768]);
    assert_eq!(steps.each_ref().map(|c| c.shared_stores.wavefronts), [0, 32_768, 32_768]);
    assert_eq!(steps.each_ref().map(|c| c.executed.warp), [524_288, 843_776, 843_776]);
    let bounds = steps.each_ref().map(|c| c.lower_bound(&Gpu::a100()));
    let names = bounds.each_ref().map(|b| b.resource());
    assert_eq!(names, ["global sectors at L1", "shared memory", "instruction issue"]);
    let nanoseconds = bounds.each_ref().map(|b| (b.seconds() * 1e9).round());
    assert_eq!(nanoseconds, [3873.0, 7101.0, 1385.0]);
}

#[test]
fn the_sum_has_its_race() {
    let mut device = Device::new(&tutorial());
    let (input, out) = (device.f32s(&[1.0; 256]), device.empty(4));
    let shape = Shape { kernel: "sum_with_a_race", grid: [1; 3], block: [256, 1, 1], shared: 0 };
    let parameters = ParameterBytes::new().address(input).address(out).u32(256);
    let report = device.launch(&shape, &parameters, &Options::default());
    let all: Vec<_> = report.findings.iter().map(|f| (f.kind, f.line)).collect();
    assert_eq!(all, [(FindingKind::SharedRace, 51)]);
}
