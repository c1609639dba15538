//! Descriptions of GPUs: limits that a launch must keep, and rates for bounds on its time.
//!
//! Sources: NVIDIA's white papers of the Ampere (GA100), Hopper (GH100) and Ada (AD102) architectures, and the table
//! "Technical Specifications per Compute Capability" of the CUDA C++ Programming Guide.

/// What one GPU allows and how fast it can go at best.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpu {
    /// Product name.
    pub name: &'static str,
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Boost clock in Hz.
    pub clock_hz: f64,
    /// Peak f32 rate without tensor cores in FLOP/s (a fused multiply-add is two).
    pub f32_flops: f64,
    /// Peak f64 rate without tensor cores in FLOP/s.
    pub f64_flops: f64,
    /// Peak f16 rate without tensor cores in FLOP/s.
    pub f16_flops: f64,
    /// Peak dense f16 and bf16 tensor-core rate, f32 accumulation, in FLOP/s.
    pub tensor_f16_flops: f64,
    /// Peak dense tf32 tensor-core rate in FLOP/s.
    pub tensor_tf32_flops: f64,
    /// Peak dense int8 tensor-core rate in operations a second.
    pub tensor_int8_ops: f64,
    /// Peak bandwidth of device memory in bytes a second.
    pub memory_bandwidth: f64,
    /// Device memory in bytes.
    pub memory_bytes: u64,
    /// L2 cache in bytes.
    pub l2_bytes: u64,
    /// Largest shared memory of one block in bytes, after opting in.
    pub shared_per_block: u32,
    /// Largest shared memory of one block in bytes without opting in.
    pub shared_per_block_default: u32,
    /// Shared memory of one multiprocessor in bytes.
    pub shared_per_multiprocessor: u32,
    /// Shared memory that the system takes from each resident block, in bytes.
    pub shared_reserved_per_block: u32,
    /// 32-bit registers of one multiprocessor.
    pub registers_per_multiprocessor: u32,
    /// Largest number of threads in a block.
    pub threads_per_block: u32,
    /// Largest number of resident threads on a multiprocessor.
    pub threads_per_multiprocessor: u32,
    /// Largest number of resident blocks on a multiprocessor.
    pub blocks_per_multiprocessor: u32,
    /// 32-bit integer lanes of one multiprocessor.
    pub integer_lanes: u32,
    /// Special-function results of one multiprocessor a clock.
    pub special_lanes: u32,
}

const A100: Gpu = Gpu {
    name: "NVIDIA A100-SXM4-80GB",
    compute_capability: (8, 0),
    multiprocessors: 108,
    clock_hz: 1.41e9,
    f32_flops: 19.5e12,
    f64_flops: 9.7e12,
    f16_flops: 78e12,
    tensor_f16_flops: 312e12,
    tensor_tf32_flops: 156e12,
    tensor_int8_ops: 624e12,
    memory_bandwidth: 2.039e12,
    memory_bytes: 80 << 30,
    l2_bytes: 40 << 20,
    shared_per_block: 163 << 10,
    shared_per_block_default: 48 << 10,
    shared_per_multiprocessor: 164 << 10,
    shared_reserved_per_block: 1 << 10,
    registers_per_multiprocessor: 65536,
    threads_per_block: 1024,
    threads_per_multiprocessor: 2048,
    blocks_per_multiprocessor: 32,
    integer_lanes: 64,
    special_lanes: 16,
};

const H100: Gpu = Gpu {
    name: "NVIDIA H100 SXM5",
    compute_capability: (9, 0),
    multiprocessors: 132,
    clock_hz: 1.98e9,
    f32_flops: 66.9e12,
    f64_flops: 33.5e12,
    f16_flops: 133.8e12,
    tensor_f16_flops: 989.4e12,
    tensor_tf32_flops: 494.7e12,
    tensor_int8_ops: 1978.9e12,
    memory_bandwidth: 3.352e12,
    memory_bytes: 80 << 30,
    l2_bytes: 50 << 20,
    shared_per_block: 227 << 10,
    shared_per_block_default: 48 << 10,
    shared_per_multiprocessor: 228 << 10,
    shared_reserved_per_block: 1 << 10,
    registers_per_multiprocessor: 65536,
    threads_per_block: 1024,
    threads_per_multiprocessor: 2048,
    blocks_per_multiprocessor: 32,
    integer_lanes: 64,
    special_lanes: 16,
};

const H200: Gpu =
    Gpu { name: "NVIDIA H200", memory_bandwidth: 4.8e12, memory_bytes: 141_000_000_000, ..H100 };

const RTX_4090: Gpu = Gpu {
    name: "NVIDIA GeForce RTX 4090",
    compute_capability: (8, 9),
    multiprocessors: 128,
    clock_hz: 2.52e9,
    f32_flops: 82.6e12,
    f64_flops: 1.29e12,
    f16_flops: 82.6e12,
    tensor_f16_flops: 165.2e12,
    tensor_tf32_flops: 82.6e12,
    tensor_int8_ops: 660.6e12,
    memory_bandwidth: 1.008e12,
    memory_bytes: 24 << 30,
    l2_bytes: 72 << 20,
    shared_per_block: 99 << 10,
    shared_per_block_default: 48 << 10,
    shared_per_multiprocessor: 100 << 10,
    shared_reserved_per_block: 1 << 10,
    registers_per_multiprocessor: 65536,
    threads_per_block: 1024,
    threads_per_multiprocessor: 1536,
    blocks_per_multiprocessor: 24,
    integer_lanes: 64,
    special_lanes: 16,
};

impl Gpu {
    /// Names that [`Gpu::named`] knows.
    pub const NAMES: [&'static str; 4] = ["a100", "h100", "h200", "rtx4090"];

    /// The description of a GPU by its short name, see [`Gpu::NAMES`]; capitals, blanks, `-` and `_` do not matter.
    pub fn named(name: &str) -> Option<Self> {
        let plain: String =
            name.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect();
        match plain.as_str() {
            "a100" => Some(A100),
            "h100" => Some(H100),
            "h200" => Some(H200),
            "rtx4090" | "4090" => Some(RTX_4090),
            _ => None,
        }
    }

    /// NVIDIA A100 (SXM4, 80 GB), compute capability 8.0.
    pub fn a100() -> Self {
        A100
    }

    /// NVIDIA H100 (SXM5), compute capability 9.0.
    pub fn h100() -> Self {
        H100
    }

    /// NVIDIA H200, compute capability 9.0.
    pub fn h200() -> Self {
        H200
    }

    /// NVIDIA GeForce RTX 4090, compute capability 8.9.
    pub fn rtx_4090() -> Self {
        RTX_4090
    }

    /// Blocks of that shape that fit on one multiprocessor at once; 0 when not even one does.
    ///
    /// `registers` is per thread (0 where it is not known). Warps take registers in units of 256.
    pub fn resident_blocks(&self, threads: u32, shared_bytes: u32, registers: u32) -> u32 {
        let warps = threads.div_ceil(32);
        if warps == 0 || threads > self.threads_per_block || shared_bytes > self.shared_per_block {
            return 0;
        }
        let by_warps = (self.threads_per_multiprocessor / 32) / warps;
        let by_shared = self.shared_per_multiprocessor / (shared_bytes + self.shared_reserved_per_block);
        let by_registers = match (registers * 32).next_multiple_of(256) {
            0 => u32::MAX,
            a_warp => (self.registers_per_multiprocessor / a_warp) / warps,
        };
        by_warps.min(by_shared).min(by_registers).min(self.blocks_per_multiprocessor)
    }
}
