//! Every kernel loads: the driver takes the PTX and makes machine code of it that keeps its registers in registers.

use std::time::Instant;

use seedwalk::device::cuda::{KernelResources, kernel_names};
use serde_json::{Value, json};

use super::Alone;

#[test]
fn every_kernel_loads_and_keeps_its_registers() {
    let alone = Alone::new();
    let mut kernels = serde_json::Map::new();
    let mut slowest = (0.0, "");
    let (mut spilling, started) = (Vec::new(), Instant::now());
    for name in kernel_names() {
        // A file is compiled with its first kernel; the driver keeps what it compiled for the next process.
        let before = Instant::now();
        let KernelResources { registers, local_bytes, shared_bytes, threads } =
            alone.gpu.kernel_resources(name).unwrap();
        let seconds = before.elapsed().as_secs_f64();
        if seconds > slowest.0 {
            slowest = (seconds, name);
        }
        assert!(registers > 0 && threads > 0, "{name}: {registers} registers, {threads} threads");
        if local_bytes > 0 {
            spilling.push(format!("{name}: {local_bytes} bytes"));
        }
        kernels.insert(
            name.into(),
            json!({ "registers": registers, "local_bytes": local_bytes, "shared_bytes": shared_bytes, "threads": threads }),
        );
    }
    let (major, minor) = alone.gpu.compute_capability();
    let fact = json!({
        "gpu": alone.gpu.name(), "compute_capability": format!("{major}.{minor}"),
        "multiprocessors": alone.gpu.multiprocessors(), "shared_per_block": alone.gpu.shared_per_block(),
        "loading_seconds": started.elapsed().as_secs_f64(), "slowest_file_seconds": slowest.0,
        "kernels": Value::Object(kernels),
    });
    println!("fact: {fact}");
    assert!(spilling.is_empty(), "in memory, not in registers: {spilling:?}");
}
