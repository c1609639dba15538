//! Launching a kernel: what to run, how to run it, what comes back.

use crate::counters::Counters;
use crate::error::LaunchError;
use crate::finding::Finding;
use crate::gpu::Gpu;
use crate::memory::{LoadedModule, Memory};

/// Which faults are looked for. Accesses outside of memory, to freed memory and misaligned ones are always found and never
/// performed, as are exceeded launch limits and deadlocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Reads of global, shared and local bytes, and of registers, that nothing has written.
    pub initialised: bool,
    /// Races on shared memory between warps.
    pub shared_races: bool,
    /// Races on global memory between blocks, and between warps of a block.
    pub global_races: bool,
    /// Barriers in divergent code and mismatched barriers.
    pub barriers: bool,
    /// Member masks of shuffles, votes, matches and warp reductions.
    pub masks: bool,
    /// Data of `cp.async` read before its wait.
    pub async_copies: bool,
}

impl Checks {
    /// All checks.
    pub fn all() -> Self {
        Self {
            initialised: true,
            shared_races: true,
            global_races: true,
            barriers: true,
            masks: true,
            async_copies: true,
        }
    }

    /// Only what cannot be turned off.
    pub fn none() -> Self {
        Self {
            initialised: false,
            shared_races: false,
            global_races: false,
            barriers: false,
            masks: false,
            async_copies: false,
        }
    }
}

/// How a launch is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which faults are looked for.
    pub checks: Checks,
    /// Whether counts are taken. Without, [`Report::counters`] is all zeros.
    pub counters: bool,
    /// Order of blocks, and of warps within a block: `None` for the natural one, otherwise shuffled by this seed.
    pub seed: Option<u64>,
    /// Whether blocks may run on several threads (of the current rayon pool). The results are the same either way: a
    /// kernel whose result can depend on the order of blocks (it uses what a global atomic returns, adds floats
    /// atomically, or waits for other blocks) is run in order on one thread.
    pub parallel: bool,
    /// The GPU whose limits hold.
    pub gpu: Gpu,
    /// A cooperative launch: all blocks are resident at once, so that they may wait for each other.
    pub cooperative: bool,
    /// Instructions that one warp may execute before it is taken to wait for ever (a [`Deadlock`](crate::FindingKind::Deadlock)).
    pub instruction_limit: u64,
}

impl Default for Options {
    /// All checks, counters, natural order, parallel, the limits of an A100, 2²⁷ instructions a warp.
    fn default() -> Self {
        Self {
            checks: Checks::all(),
            counters: true,
            seed: None,
            parallel: true,
            gpu: Gpu::a100(),
            cooperative: false,
            instruction_limit: 1 << 27,
        }
    }
}

/// One launch of a kernel.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// The kernel's name.
    pub kernel: &'a str,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// The parameters' bytes, laid out as [`KernelInfo::parameters`](crate::KernelInfo::parameters) says: exactly
    /// [`KernelInfo::parameter_bytes`](crate::KernelInfo::parameter_bytes). See [`ParameterBytes`].
    pub parameters: &'a [u8],
    /// How it is run.
    pub options: Options,
}

/// Why a launch ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The launch exceeds a limit; nothing ran.
    LaunchLimit,
    /// Warps waited for ever, or passed the instruction limit.
    Deadlock,
    /// A thread executed `trap` (a failed `assert`, for instance).
    Trap,
}

/// What a launch found and counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Findings, by kernel line, kind and space.
    pub findings: Vec<Finding>,
    /// Counts.
    pub counters: Counters,
    /// `None` when all threads ran to their end.
    pub stopped: Option<Stop>,
}

impl Report {
    /// Whether a real GPU would have given up with an error: an access outside of memory, to freed memory or misaligned,
    /// or an early stop.
    pub fn faulted(&self) -> bool {
        use crate::FindingKind::{Misaligned, OutOfBounds, UseAfterFree};
        self.stopped.is_some()
            || self.findings.iter().any(|f| matches!(f.kind, OutOfBounds | Misaligned | UseAfterFree))
    }
}

impl Launch<'_> {
    /// Runs the kernel to its end on `memory`, into which `module` was loaded.
    ///
    /// # Errors
    /// When the kernel does not exist, the parameters have the wrong length, or the module was loaded elsewhere. All that
    /// the kernel itself does wrong, and limits that the launch exceeds, are findings of the report.
    pub fn run(&self, module: &LoadedModule, memory: &mut Memory) -> Result<Report, LaunchError> {
        crate::exec::run(self, module, memory)
    }
}

/// Builds a kernel's parameter bytes, each value at its natural alignment (as a C compiler and PTX lay them out).
#[derive(Clone, Debug, Default)]
pub struct ParameterBytes {
    bytes: Vec<u8>,
}

impl ParameterBytes {
    /// No parameters yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a value of `align` = its own length in bytes (1, 2, 4, 8 or 16).
    pub fn push(mut self, value: &[u8]) -> Self {
        let align = value.len().max(1);
        self.bytes.resize(self.bytes.len().next_multiple_of(align), 0);
        self.bytes.extend_from_slice(value);
        self
    }

    /// Appends a device address.
    pub fn address(self, value: u64) -> Self {
        self.push(&value.to_le_bytes())
    }

    /// Appends an unsigned 32-bit integer.
    pub fn u32(self, value: u32) -> Self {
        self.push(&value.to_le_bytes())
    }

    /// Appends a signed 32-bit integer.
    pub fn i32(self, value: i32) -> Self {
        self.push(&value.to_le_bytes())
    }

    /// Appends an f32.
    pub fn f32(self, value: f32) -> Self {
        self.push(&value.to_le_bytes())
    }

    /// The bytes so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
