//! The GPU that is stood in for: its attributes, by the driver's numbers.

use ptx_emulator::Gpu;

use crate::status::{CUresult, Failure, Result};

/// What the driver tells about a GPU beyond what the emulator needs to know.
///
/// Sources: NVIDIA's data sheets of the A100 80GB SXM, H100 SXM5, H200 and RTX 4090 (bus width, memory clock), and the
/// CUDA C++ Programming Guide's table of compute capabilities.
struct Board {
    memory_bus_bits: i32,
    memory_clock_khz: i32,
    single_to_double: i32,
    async_engines: i32,
    ecc: bool,
}

fn board(gpu: &Gpu) -> Board {
    let data_centre = |bits, khz, engines| Board {
        memory_bus_bits: bits,
        memory_clock_khz: khz,
        single_to_double: 2,
        async_engines: engines,
        ecc: true,
    };
    match gpu.compute_capability {
        (8, 0) => data_centre(5120, 1_593_000, 3),
        (9, 0) if gpu.memory_bytes > 100 << 30 => data_centre(6144, 3_201_000, 3),
        (9, 0) => data_centre(5120, 2_619_000, 3),
        _ => Board {
            memory_bus_bits: 384,
            memory_clock_khz: 10_501_000,
            single_to_double: 64,
            async_engines: 2,
            ecc: false,
        },
    }
}

/// Value of a device attribute.
///
/// # Errors
/// Numbers that are no attribute of CUDA 12.0 are an invalid value. Limits of textures and surfaces are 0: there are none.
pub(crate) fn attribute(gpu: &Gpu, attribute: u32) -> Result<i32> {
    let board = board(gpu);
    let int = |v: u32| i32::try_from(v).unwrap_or(i32::MAX);
    let khz = (gpu.clock_hz / 1e3) as i32;
    Ok(match attribute {
        1..=3 => int(gpu.threads_per_block), // MAX_THREADS_PER_BLOCK, MAX_BLOCK_DIM_X, _Y
        4 => 64,                             // MAX_BLOCK_DIM_Z
        5 => i32::MAX,                       // MAX_GRID_DIM_X
        6 | 7 => 65535,                      // MAX_GRID_DIM_Y, _Z
        8 => int(gpu.shared_per_block_default), // MAX_SHARED_MEMORY_PER_BLOCK
        9 => 65536,                          // TOTAL_CONSTANT_MEMORY
        10 => 32,                            // WARP_SIZE
        11 => i32::MAX,                      // MAX_PITCH
        12 | 82 => int(gpu.registers_per_multiprocessor), // MAX_REGISTERS_PER_BLOCK, _PER_MULTIPROCESSOR
        13 => khz,                           // CLOCK_RATE
        14 => 512,                           // TEXTURE_ALIGNMENT
        15 | 19 | 31 | 41 => 1, // GPU_OVERLAP, CAN_MAP_HOST_MEMORY, CONCURRENT_KERNELS, UNIFIED_ADDRESSING
        16 => int(gpu.multiprocessors), // MULTIPROCESSOR_COUNT
        17 | 18 | 20 => 0,      // KERNEL_EXEC_TIMEOUT, INTEGRATED, COMPUTE_MODE
        30 => 512,              // SURFACE_ALIGNMENT
        32 => i32::from(board.ecc), // ECC_ENABLED
        33 => 1,                // PCI_BUS_ID
        36 => board.memory_clock_khz, // MEMORY_CLOCK_RATE
        37 => board.memory_bus_bits, // GLOBAL_MEMORY_BUS_WIDTH
        38 => i32::try_from(gpu.l2_bytes).unwrap_or(i32::MAX), // L2_CACHE_SIZE
        39 => int(gpu.threads_per_multiprocessor), // MAX_THREADS_PER_MULTIPROCESSOR
        40 => board.async_engines, // ASYNC_ENGINE_COUNT
        51 => 32,               // TEXTURE_PITCH_ALIGNMENT
        75 => int(gpu.compute_capability.0), // COMPUTE_CAPABILITY_MAJOR
        76 => int(gpu.compute_capability.1), // COMPUTE_CAPABILITY_MINOR
        78..=80 => 1,           // STREAM_PRIORITIES_, GLOBAL_L1_CACHE_, LOCAL_L1_CACHE_SUPPORTED
        81 => int(gpu.shared_per_multiprocessor), // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        87 => board.single_to_double, // SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
        90 => 1,                // COMPUTE_PREEMPTION_SUPPORTED
        91 => 1,                // CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM
        95 => 1,                // COOPERATIVE_LAUNCH
        97 => int(gpu.shared_per_block), // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        99 => 1,                // HOST_REGISTER_SUPPORTED
        106 => int(gpu.blocks_per_multiprocessor), // MAX_BLOCKS_PER_MULTIPROCESSOR
        111 => int(gpu.shared_reserved_per_block), // RESERVED_SHARED_MEMORY_PER_BLOCK
        115 => 1,               // MEMORY_POOLS_SUPPORTED
        // Not there: managed memory, stream memory operations, virtual memory, interprocess handles, clusters, textures.
        _ if (1..=130).contains(&attribute) => 0,
        _ => {
            return Err(Failure::new(
                CUresult::ERROR_INVALID_VALUE,
                format!("{attribute} is not a device attribute of CUDA 12.0"),
            ));
        }
    })
}

/// The newest PTX that a driver takes, from its version as `cuDriverGetVersion` tells it (CUDA release notes; PTX ISA, table of release notes).
pub(crate) fn newest_ptx(driver_version: i32) -> (u32, u32) {
    const TABLE: [(i32, (u32, u32)); 17] = [
        (12090, (8, 8)),
        (12080, (8, 7)),
        (12070, (8, 6)),
        (12050, (8, 5)),
        (12040, (8, 4)),
        (12030, (8, 3)),
        (12020, (8, 2)),
        (12010, (8, 1)),
        (12000, (8, 0)),
        (11080, (7, 8)),
        (11070, (7, 7)),
        (11060, (7, 6)),
        (11050, (7, 5)),
        (11040, (7, 4)),
        (11030, (7, 3)),
        (11020, (7, 2)),
        (11010, (7, 1)),
    ];
    TABLE.iter().find(|(driver, _)| driver_version >= *driver).map_or((7, 0), |e| e.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_an_a100() {
        let gpu = Gpu::a100();
        assert_eq!(attribute(&gpu, 16).unwrap(), 108);
        assert_eq!(attribute(&gpu, 97).unwrap(), 166_912);
        assert_eq!((attribute(&gpu, 75).unwrap(), attribute(&gpu, 76).unwrap()), (8, 0));
        assert_eq!(attribute(&gpu, 4).unwrap(), 64);
        assert_eq!(attribute(&gpu, 83).unwrap(), 0);
        assert!(attribute(&gpu, 0).is_err());
        assert!(attribute(&gpu, 4000).is_err());
    }

    #[test]
    fn memory_rates_of_the_boards_match_their_bandwidth() {
        for gpu in [Gpu::a100(), Gpu::h100(), Gpu::h200(), Gpu::rtx_4090()] {
            // Two transfers a clock; the H200's published figure is rounded down by 2 %.
            let rate = f64::from(attribute(&gpu, 36).unwrap()) * 1e3 * 2.0;
            let bytes = rate * f64::from(attribute(&gpu, 37).unwrap()) / 8.0;
            assert!((bytes / gpu.memory_bandwidth - 1.0).abs() < 0.03, "{}: {bytes:e}", gpu.name);
        }
    }

    #[test]
    fn a_driver_takes_the_ptx_of_its_release() {
        assert_eq!(newest_ptx(12080), (8, 7));
        assert_eq!(newest_ptx(11045), (7, 4));
        assert_eq!(newest_ptx(11000), (7, 0));
    }
}
