//! The least time that a GPU's peak rates allow, and what its registers allow.

use std::collections::BTreeMap;

use ptx_emulator::Gpu as Peak;

use super::Work;
use crate::device::Precision;

/// The GPUs that bounds are given for, by the names of the emulator's table, where their rates stand.
pub const PEAKS: [&str; 4] = ["A100", "H100", "H200", "RTX 4090"];

/// A bound on one GPU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// The GPU.
    pub gpu: &'static str,
    /// No execution takes less, with inputs and outputs in device memory.
    pub seconds: f64,
    /// Whether arithmetic decides, and not memory.
    pub by_arithmetic: bool,
}

/// The bounds on all GPUs of [`PEAKS`].
pub fn bounds(work: &Work) -> Vec<Bound> {
    PEAKS.iter().filter_map(|name| bound(work, name)).collect()
}

fn bound(work: &Work, gpu: &'static str) -> Option<Bound> {
    let peak = Peak::named(gpu)?;
    let rate = match work.precision {
        Precision::F32 => peak.f32_flops,
        Precision::Tf32 => peak.tensor_tf32_flops,
        Precision::Bf16 => peak.tensor_f16_flops,
    };
    let (arithmetic, memory) = (work.flops / rate, work.bytes / peak.memory_bandwidth);
    Some(Bound { gpu, seconds: arithmetic.max(memory), by_arithmetic: arithmetic > memory })
}

/// The bound on the GPU of this product name; `None` where its rates are not known.
pub fn of_gpu(work: &Work, product: &str) -> Option<Bound> {
    let plain = |text: &str| text.chars().filter(|c| c.is_ascii_alphanumeric()).collect::<String>();
    // `H100` is in `NVIDIA H100 80GB HBM3`; no name here is in another's.
    let name = PEAKS.iter().find(|name| plain(product).contains(&plain(name)))?;
    bound(work, name)
}

/// Registers a thread and warps a multiprocessor, by GPU generation (`sm_80`), as the pinned assembler made the kernel.
pub fn registers(kernel: &str) -> BTreeMap<String, (u64, u64)> {
    let baseline: serde_json::Value =
        serde_json::from_str(include_str!("../../kernels/baseline.json")).unwrap_or_default();
    let of = |figures: &serde_json::Value| Some((figures["registers"].as_u64()?, figures["warps"].as_u64()?));
    let gpus = baseline["kernels"][kernel]["gpus"].as_object().into_iter().flatten();
    gpus.filter_map(|(name, figures)| Some((name.clone(), of(figures)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_of_arithmetic_and_memory_bounds() {
        let work = Work { flops: 312e12, bytes: 1.0, precision: Precision::Bf16 };
        let all = bounds(&work);
        assert_eq!(all.iter().map(|b| b.gpu).collect::<Vec<_>>(), PEAKS);
        assert!((all[0].seconds - 1.0).abs() < 1e-9 && all[0].by_arithmetic);
        let work = Work { flops: 1.0, bytes: 4.8e12, precision: Precision::F32 };
        assert!((bounds(&work)[2].seconds - 1.0).abs() < 1e-9 && !bounds(&work)[2].by_arithmetic);
        assert_eq!(of_gpu(&work, "NVIDIA H100 80GB HBM3").unwrap().gpu, "H100");
        assert_eq!(of_gpu(&work, "NVIDIA GeForce RTX 4090").unwrap().gpu, "RTX 4090");
        assert_eq!(of_gpu(&work, "NVIDIA A100-SXM4-80GB (emulated)").unwrap().gpu, "A100");
        assert_eq!(of_gpu(&work, "Tesla T4"), None);
    }

    #[test]
    fn registers_are_those_of_the_gate() {
        let found = registers("conv2d_blocks_f32");
        assert!(found["sm_80"].0 > 32 && found["sm_90"].1 > 0, "{found:?}");
        assert!(registers("no_such_kernel").is_empty());
    }
}
