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

/// What a GPU does at most in a second: the ground of every bound.
pub struct Rates {
    /// The GPU.
    pub name: &'static str,
    /// TFLOP/s of multiply-adds outside the tensor cores.
    pub f32: f64,
    /// TFLOP/s of the tensor cores, dense, f32 sums.
    pub tf32: f64,
    /// Likewise on bf16.
    pub bf16: f64,
    /// TB/s of device memory.
    pub memory: f64,
}

/// NVIDIA's data sheets; H200: bf16 and copies as measured (an 8192³ product, a large copy), tf32 half of that bf16.
pub const RATES: [Rates; 4] = [
    Rates { name: "A100", f32: 19.5, tf32: 156.0, bf16: 312.0, memory: 2.0 },
    Rates { name: "H100", f32: 67.0, tf32: 495.0, bf16: 989.0, memory: 3.35 },
    Rates { name: "H200", f32: 67.0, tf32: 395.0, bf16: 790.0, memory: 4.3 },
    Rates { name: "RTX 4090", f32: 82.6, tf32: 83.0, bf16: 165.0, memory: 1.0 },
];

impl Rates {
    /// Seconds that so many operations in a precision (`f32`, `tf32`, `bf16`) and so many bytes take at least.
    ///
    /// # Errors
    /// Another precision.
    pub fn bound(&self, precision: &str, flops: u64, bytes: u64) -> Result<f64, String> {
        let peak = match precision {
            "f32" => self.f32,
            "tf32" => self.tf32,
            "bf16" => self.bf16,
            _ => return Err(format!("no rate for `{precision}`")),
        };
        Ok((flops as f64 / peak).max(bytes as f64 / self.memory) * 1e-12)
    }
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
        let a100 = &RATES[0];
        assert_eq!(a100.bound("bf16", 312_000_000, 2_000).unwrap(), 1e-6);
        assert_eq!(a100.bound("bf16", 312_000_000, 4_000_000).unwrap(), 2e-6);
        assert_eq!(a100.bound("f32", 19_500_000, 0).unwrap(), 1e-6);
        assert!(a100.bound("f16", 1, 1).is_err());
    }
}
