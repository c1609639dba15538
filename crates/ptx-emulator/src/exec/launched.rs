//! What all blocks of a launch share.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8};

use super::Cx;
use crate::check::global::Shadow;
use crate::code::{Code, Inst};
use crate::launch::{Checks, Launch};
use crate::memory::{FIRST_BUFFER, LoadedModule, Memory, WINDOW_SHIFT};
use crate::module::KernelInfo;

/// An allocation as kernels see it.
pub(crate) struct View {
    pub base: u64,
    pub bytes: u64,
    pub pointer: *mut u8,
    pub freed: bool,
    /// One bit a byte; null where all bytes are known to be written.
    pub written: *const AtomicU8,
    /// Set when bytes are written; null with `written`.
    pub touched: *const AtomicBool,
    /// Who accessed which bytes during the launch.
    pub shadow: OnceLock<Shadow>,
}

/// What all blocks of a launch share.
pub(crate) struct Launched<'a> {
    pub code: &'a Code,
    pub constants: Vec<u32>,
    pub views: Vec<View>,
    pub host: Vec<(u64, u64, u64)>,
    pub parameters: &'a [u8],
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub threads: u32,
    /// Static and dynamic shared memory in bytes.
    pub shared_bytes: u32,
    pub shared_ranges: Vec<(u32, u32)>,
    pub checks: Checks,
    /// Some check needs shared memory's shadow.
    pub shared_shadow: bool,
    pub counting: bool,
    pub seed: Option<u64>,
    /// Several threads run blocks.
    pub parallel: bool,
    pub instruction_limit: u64,
    pub sync: crate::check::sync::Sync,
}

// SAFETY: the pointers of the views are to memory that `Memory` keeps alive and, being mutably borrowed by the launch,
// gives to nobody else; threads access it through atomics only.
unsafe impl Send for Launched<'_> {}
// SAFETY: as above.
unsafe impl Sync for Launched<'_> {}

impl<'a> Launched<'a> {
    pub fn new(
        launch: &'a Launch<'a>,
        code: &'a Code,
        module: &LoadedModule,
        memory: &mut Memory,
        parallel: bool,
    ) -> Self {
        // Bit patterns of 64-bit rows: both halves of each lane are set.
        let mut constants = code.constants.clone();
        for (row, symbol, addend) in &code.relocations {
            let address = module.variable(symbol).map_or(0, |v| v.0).wrapping_add(*addend);
            for lane in 0..32 {
                let at = *row as usize + 2 * lane;
                constants[at] = address as u32;
                constants[at + 1] = (address >> 32) as u32;
            }
        }
        let views = memory
            .buffers
            .iter()
            .map(|b| {
                b.refresh();
                View {
                    base: b.base(),
                    bytes: b.bytes(),
                    pointer: b.pointer(),
                    freed: b.is_freed(),
                    written: if b.is_complete() { std::ptr::null() } else { b.written_bits().as_ptr() },
                    touched: if b.is_complete() { std::ptr::null() } else { b.touched() },
                    shadow: OnceLock::new(),
                }
            })
            .collect();
        let shared_bytes = code.dynamic_start.max(code.shared_bytes) + launch.dynamic_shared;
        let mut shared_ranges = code.shared_ranges.clone();
        if launch.dynamic_shared > 0 {
            shared_ranges.push((code.dynamic_start, code.dynamic_start + launch.dynamic_shared));
        }
        Self {
            code,
            constants,
            views,
            host: memory.host_ranges(),
            parameters: launch.parameters,
            grid: launch.grid,
            block: launch.block,
            threads: launch.block.iter().product(),
            shared_bytes,
            shared_ranges,
            checks: launch.options.checks,
            shared_shadow: {
                let checks = &launch.options.checks;
                checks.shared_races || checks.initialised || checks.async_copies
            },
            counting: launch.options.counters,
            seed: launch.options.seed,
            parallel,
            instruction_limit: launch.options.instruction_limit,
            sync: crate::check::sync::Sync::default(),
        }
    }

    /// Index of the view that an address names, live or not.
    #[inline(always)]
    pub fn view_of(&self, address: u64) -> Option<usize> {
        let index = (address >> WINDOW_SHIFT).wrapping_sub((1 << (60 - WINDOW_SHIFT)) + FIRST_BUFFER);
        ((index as usize) < self.views.len()).then_some(index as usize)
    }

    /// The device address of a host address inside a mapping; other addresses stay as they are.
    pub fn to_device(&self, address: u64) -> u64 {
        for (first, bytes, device) in &self.host {
            if address.wrapping_sub(*first) < *bytes {
                return device + (address - first);
            }
        }
        address
    }

    /// " at `instruction` (line n)" for messages; empty for an instruction that is not known.
    pub fn place(&self, inst: Option<u32>) -> String {
        let Some(note) = inst.and_then(|i| self.code.notes.get(i as usize)) else { return String::new() };
        format!(" at `{}` (line {})", note.text, note.source.map_or(note.ptx_line, |s| s.1))
    }

    /// A block's index in the grid from its number.
    pub fn block_index(&self, number: u64) -> [u32; 3] {
        let (x, y) = (u64::from(self.grid[0]), u64::from(self.grid[1]));
        [(number % x) as u32, (number / x % y) as u32, (number / x / y) as u32]
    }
}

/// Limits that a launch exceeds, each in a sentence.
pub(crate) fn exceeded(launch: &Launch<'_>, info: &KernelInfo) -> Vec<String> {
    let gpu = &launch.options.gpu;
    let mut out = Vec::new();
    let threads: u64 = launch.block.iter().map(|n| u64::from(*n)).product();
    let [bx, by, bz] = launch.block;
    let [gx, gy, gz] = launch.grid;
    if threads == 0 || gx == 0 || gy == 0 || gz == 0 {
        out.push(format!("the grid ({gx}, {gy}, {gz}) of blocks ({bx}, {by}, {bz}) has no threads"));
    }
    if threads > u64::from(gpu.threads_per_block) || bx > 1024 || by > 1024 || bz > 64 {
        let most = gpu.threads_per_block;
        out.push(format!("a block of ({bx}, {by}, {bz}) = {threads} threads; {most} are allowed, 64 in z"));
    }
    if gx > 0x7fff_ffff || gy > 65535 || gz > 65535 {
        out.push(format!("a grid of ({gx}, {gy}, {gz}) blocks; (2147483647, 65535, 65535) are allowed"));
    }
    if let Some(required) = info.required_threads
        && required != launch.block
    {
        out.push(format!(
            "blocks of ({bx}, {by}, {bz}) threads; the kernel requires {required:?} (.reqntid)"
        ));
    }
    if let Some(most) = info.max_threads {
        let most_threads: u64 = most.iter().map(|n| u64::from(*n)).product();
        if threads > most_threads {
            out.push(format!("a block of {threads} threads; the kernel allows {most_threads} (.maxntid)"));
        }
    }
    let shared = u64::from(info.shared_bytes) + u64::from(launch.dynamic_shared);
    if shared > u64::from(gpu.shared_per_block) {
        let (most, name) = (gpu.shared_per_block, gpu.name);
        out.push(format!("{shared} bytes of shared memory a block; {name} has {most}"));
    }
    if let Some(most) = info.max_registers {
        let needed = threads.div_ceil(32) * 32 * u64::from(most);
        if needed > u64::from(gpu.registers_per_multiprocessor) {
            out.push(format!(
                "{needed} registers a block; {} has {}",
                gpu.name, gpu.registers_per_multiprocessor
            ));
        }
    }
    if launch.options.cooperative && out.is_empty() {
        let a_sm = gpu.resident_blocks(threads as u32, shared as u32, info.max_registers.unwrap_or(0));
        let room = u64::from(a_sm) * u64::from(gpu.multiprocessors);
        let blocks: u64 = launch.grid.iter().map(|n| u64::from(*n)).product();
        if blocks > room {
            out.push(format!("a cooperative launch of {blocks} blocks; {} holds {room} at once", gpu.name));
        }
    }
    out
}

impl Cx<'_> {
    /// Handler of instructions that the loop treats itself.
    ///
    /// # Safety
    /// None needed; the signature is that of all handlers.
    pub unsafe fn nothing(_: &mut Cx<'_>, _: &Inst) {}
}
