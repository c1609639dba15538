//! The GPU generations that kernels are assembled for, and how many warps of a kernel an SM can hold.
//!
//! Limits: *CUDA C++ Programming Guide*, table of technical specifications per compute capability.

/// One generation.
pub struct Gpu {
    /// 75 for sm_75.
    pub generation: u32,
    /// A GPU of it.
    pub example: &'static str,
    shared: u32,
    shared_of_block: u32,
    /// Shared memory that the system takes of each block.
    reserved: u32,
    warps: u32,
    blocks: u32,
}

/// All that the gate assembles for.
pub const GPUS: [Gpu; 7] = [
    gpu(75, "T4", 64, 64, 0, 32, 16),
    gpu(80, "A100", 164, 163, 1024, 64, 32),
    gpu(86, "RTX 3090", 100, 99, 1024, 48, 16),
    gpu(89, "RTX 4090", 100, 99, 1024, 48, 24),
    gpu(90, "H100, H200", 228, 227, 1024, 64, 32),
    gpu(100, "B200", 228, 227, 1024, 64, 32),
    gpu(120, "RTX 5090", 100, 99, 1024, 48, 24),
];

const fn gpu(
    generation: u32,
    example: &'static str,
    shared_kb: u32,
    block_kb: u32,
    reserved: u32,
    warps: u32,
    blocks: u32,
) -> Gpu {
    Gpu {
        generation,
        example,
        shared: shared_kb * 1024,
        shared_of_block: block_kb * 1024,
        reserved,
        warps,
        blocks,
    }
}

const REGISTERS: u32 = 65536;

impl Gpu {
    /// `sm_75` and so on.
    pub fn name(&self) -> String {
        format!("sm_{}", self.generation)
    }

    /// Blocks of a kernel that one SM holds at once; 0 if one is too many.
    pub fn blocks(&self, threads: u32, registers: u32, shared: u32) -> u32 {
        let warps = threads.div_ceil(32);
        if shared > self.shared_of_block || warps == 0 {
            return 0;
        }
        // Registers are handed out to warps in pieces of 256, warps in fours (one for each scheduler).
        let of_warp = (registers * 32).next_multiple_of(256).max(256);
        let by_registers = (REGISTERS / of_warp / 4 * 4) / warps.next_multiple_of(4);
        let of_block = (shared + self.reserved).next_multiple_of(128);
        let by_shared = self.shared.checked_div(of_block).unwrap_or(self.blocks);
        by_registers.min(by_shared).min(self.warps / warps).min(self.blocks)
    }

    /// Warps that an SM can hold at all.
    pub fn warps(&self) -> u32 {
        self.warps
    }
}

/// GPUs that bounds are given for. Their rates stand in the emulator's table of GPUs, by these names.
pub const RATED: [&str; 4] = ["A100", "H100", "H200", "RTX 4090"];

/// What a GPU does at most: FLOP/s in f32, tf32 and bf16, bytes a second.
///
/// # Errors
/// The emulator's table has no such GPU.
pub fn rates(name: &str) -> Result<[f64; 4], String> {
    let gpu = ptx_emulator::Gpu::named(name).ok_or_else(|| format!("no rates for a GPU {name}"))?;
    Ok([gpu.f32_flops, gpu.tensor_tf32_flops, gpu.tensor_f16_flops, gpu.memory_bandwidth])
}

/// Seconds that so many operations in a precision (`f32`, `tf32`, `bf16`) and so many bytes take at least.
///
/// # Errors
/// Another precision, another GPU.
pub fn bound(name: &str, precision: &str, flops: u64, bytes: u64) -> Result<f64, String> {
    let [f32, tf32, bf16, memory] = rates(name)?;
    let peak = match precision {
        "f32" => f32,
        "tf32" => tf32,
        "bf16" => bf16,
        _ => return Err(format!("no rate for `{precision}`")),
    };
    Ok((flops as f64 / peak).max(bytes as f64 / memory))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(generation: u32) -> &'static Gpu {
        GPUS.iter().find(|gpu| gpu.generation == generation).unwrap()
    }

    #[test]
    fn each_limit_limits() {
        // Registers: 128 × 256 threads is half of the file.
        assert_eq!(of(80).blocks(256, 128, 0), 2);
        assert_eq!(of(80).blocks(256, 129, 0), 1);
        // Shared memory: 64 KB a block and the reserved KB, in 164 and in 100.
        assert_eq!(of(80).blocks(256, 32, 64 * 1024), 2);
        assert_eq!(of(86).blocks(256, 32, 64 * 1024), 1);
        assert_eq!(of(75).blocks(256, 32, 65 * 1024), 0);
        // Warps and blocks.
        assert_eq!(of(80).blocks(1024, 32, 0), 2);
        assert_eq!(of(75).blocks(32, 16, 0), 16);
        // Odd numbers of warps are rounded to fours where registers are handed out: 65536 / (255·32 → 8192) = 8 → 2 × 4.
        assert_eq!(of(90).blocks(96, 255, 0), 2);
    }

    #[test]
    fn the_slower_of_arithmetic_and_memory_bounds() {
        let near = |found: Result<f64, String>, expected: f64| (found.unwrap() / expected - 1.0).abs() < 1e-9;
        assert!(near(bound("A100", "bf16", 312_000_000, 2_000), 1e-6));
        assert!(near(bound("A100", "bf16", 312_000_000, 4_078_000), 2e-6));
        assert!(near(bound("A100", "f32", 19_500_000, 0), 1e-6));
        assert!(near(bound("H200", "tf32", 1, 4_800_000), 1e-6));
        assert!(bound("A100", "f16", 1, 1).is_err());
        assert!(RATED.iter().all(|name| rates(name).is_ok()) && rates("voodoo").is_err());
    }
}
