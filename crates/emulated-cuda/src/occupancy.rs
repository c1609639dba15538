//! How many blocks of a kernel a multiprocessor holds, from what the kernel takes.

use ptx_emulator::{Gpu, KernelInfo};

/// Registers of a thread that the driver tells of a kernel.
///
/// PTX registers are virtual; only the assembler knows. So this is the most that the kernel's own directives allow it
/// (`.maxnreg`, or what lets `.minnctapersm` blocks of `.maxntid` threads be resident), else 32 where the threads of the
/// largest block share all registers. A kernel that takes fewer may have more resident blocks on hardware, never fewer.
pub(crate) fn registers(gpu: &Gpu, kernel: &KernelInfo) -> u32 {
    const MOST: u32 = 255;
    let own = kernel.max_registers.unwrap_or(MOST).min(MOST);
    let threads = max_threads(gpu, kernel).next_multiple_of(32);
    let blocks = kernel.min_blocks.unwrap_or(1).max(1);
    // A warp takes registers in units of 256, that is 8 a thread.
    let share = gpu.registers_per_multiprocessor / (threads * blocks) / 8 * 8;
    own.min(share).max(1)
}

/// Threads that a block of the kernel may have.
pub(crate) fn max_threads(gpu: &Gpu, kernel: &KernelInfo) -> u32 {
    let declared = kernel.required_threads.or(kernel.max_threads);
    declared.map_or(gpu.threads_per_block, |[x, y, z]| x * y * z).clamp(1, gpu.threads_per_block)
}

/// Blocks of `threads` threads resident on a multiprocessor.
pub(crate) fn resident_blocks(gpu: &Gpu, kernel: &KernelInfo, threads: u32, dynamic_shared: u64) -> u32 {
    if threads > max_threads(gpu, kernel) {
        return 0;
    }
    let shared = u64::from(kernel.shared_bytes) + dynamic_shared;
    let Ok(shared) = u32::try_from(shared) else { return 0 };
    gpu.resident_blocks(threads, shared, registers(gpu, kernel))
}

/// The block size with the most resident threads, and the blocks that fill the GPU with it.
pub(crate) fn best_block(
    gpu: &Gpu,
    kernel: &KernelInfo,
    limit: u32,
    dynamic_shared: impl Fn(u32) -> u64,
) -> (u32, u32) {
    let most = max_threads(gpu, kernel);
    let limit = if limit == 0 { most } else { limit.min(most) };
    let mut best = (0, 0, 0);
    // Multiples of a warp, and the limit itself; ties go to the larger block, as the driver's do.
    for threads in (32..=limit).step_by(32).chain((!limit.is_multiple_of(32)).then_some(limit)) {
        let blocks = resident_blocks(gpu, kernel, threads, dynamic_shared(threads));
        if blocks * threads >= best.0 && blocks > 0 {
            best = (blocks * threads, threads, blocks);
        }
    }
    (best.2 * gpu.multiprocessors, best.1)
}

/// Dynamic shared memory that a block may take when `blocks` of them are to be resident.
pub(crate) fn dynamic_shared(gpu: &Gpu, kernel: &KernelInfo, blocks: u32) -> u32 {
    let share = gpu.shared_per_multiprocessor / blocks.max(1);
    let share = share.saturating_sub(gpu.shared_reserved_per_block + kernel.shared_bytes);
    share.min(gpu.shared_per_block.saturating_sub(kernel.shared_bytes)) / 128 * 128
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(shared: u32, max_threads: Option<u32>, min_blocks: Option<u32>) -> KernelInfo {
        KernelInfo {
            name: "k".into(),
            ptx_line: 1,
            parameters: Vec::new(),
            parameter_bytes: 0,
            shared_bytes: shared,
            uses_dynamic_shared: true,
            local_bytes: 0,
            registers: Default::default(),
            instructions: 1,
            max_threads: max_threads.map(|t| [t, 1, 1]),
            required_threads: None,
            min_blocks,
            max_registers: None,
            target: "sm_80".into(),
            ptx_version: (7, 0),
        }
    }

    #[test]
    fn launch_bounds_give_the_registers() {
        let gpu = Gpu::a100();
        // 65,536 registers for 2 blocks of 256 threads: 128 each; 1 block of 256: capped at 255.
        assert_eq!(registers(&gpu, &kernel(0, Some(256), Some(2))), 128);
        assert_eq!(registers(&gpu, &kernel(0, Some(256), None)), 255);
        assert_eq!(registers(&gpu, &kernel(0, None, None)), 64);
    }

    #[test]
    fn shared_memory_and_threads_limit_residence() {
        let gpu = Gpu::a100();
        let k = kernel(16 << 10, Some(256), Some(4));
        // 164 KB hold nine blocks of 16 + 1 KB, registers four.
        assert_eq!(resident_blocks(&gpu, &k, 256, 0), 4);
        // 64 + 1 KB: two.
        assert_eq!(resident_blocks(&gpu, &k, 256, 48 << 10), 2);
        assert_eq!(resident_blocks(&gpu, &k, 257, 0), 0);
        assert_eq!(resident_blocks(&gpu, &k, 256, 200 << 10), 0);
        assert_eq!(best_block(&gpu, &k, 0, |_| 0), (4 * 108, 256));
        assert_eq!(best_block(&gpu, &k, 100, |_| 0).1, 100 / 32 * 32);
        assert_eq!(dynamic_shared(&gpu, &k, 1), (163 - 16) << 10);
        assert_eq!(dynamic_shared(&gpu, &k, 4), (41 - 17) << 10);
    }
}
