//! Findings: what a kernel does wrong, and where.

use std::fmt;

/// The kinds of faults that are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FindingKind {
    /// An access outside an allocation, a shared window or a local window.
    OutOfBounds,
    /// An address that is not a multiple of the access's size.
    Misaligned,
    /// An access to an allocation that was freed.
    UseAfterFree,
    /// A read of bytes (or of a register) that nothing has written.
    UninitialisedRead,
    /// Two warps of a block touch the same shared bytes without a barrier between, one of them writing.
    SharedRace,
    /// Two blocks of a launch, or two warps of a block, touch the same global bytes unordered, one of them writing.
    GlobalRace,
    /// A barrier that not all threads of a warp reach together, or that does not match what other warps wait for.
    DivergentBarrier,
    /// A member mask of a shuffle, vote, match or reduction that names lanes which do not take part, or leaves out one that does.
    BadMask,
    /// Data of a `cp.async` read before a wait for its group.
    MissingAsyncWait,
    /// A launch that exceeds what the GPU or the kernel allows.
    LaunchLimit,
    /// Warps that wait for ever, or a launch that passes its instruction limit.
    Deadlock,
}

impl FindingKind {
    /// All kinds, in the order of their declaration.
    pub const ALL: [Self; 11] = [
        Self::OutOfBounds,
        Self::Misaligned,
        Self::UseAfterFree,
        Self::UninitialisedRead,
        Self::SharedRace,
        Self::GlobalRace,
        Self::DivergentBarrier,
        Self::BadMask,
        Self::MissingAsyncWait,
        Self::LaunchLimit,
        Self::Deadlock,
    ];

    /// The name in reports: `out-of-bounds`, `misaligned`, and so on.
    pub fn name(self) -> &'static str {
        match self {
            Self::OutOfBounds => "out-of-bounds",
            Self::Misaligned => "misaligned",
            Self::UseAfterFree => "use-after-free",
            Self::UninitialisedRead => "uninitialised-read",
            Self::SharedRace => "shared-race",
            Self::GlobalRace => "global-race",
            Self::DivergentBarrier => "divergent-barrier",
            Self::BadMask => "bad-mask",
            Self::MissingAsyncWait => "missing-async-wait",
            Self::LaunchLimit => "launch-limit",
            Self::Deadlock => "deadlock",
        }
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where the bytes of a finding live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// Device memory (also constant memory and host memory that is mapped into the device).
    Global,
    /// A block's shared memory.
    Shared,
    /// A thread's local memory.
    Local,
    /// A register; also findings that concern no memory.
    Register,
}

impl Space {
    /// The name in reports: `global`, `shared`, `local` or `register`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Shared => "shared",
            Self::Local => "local",
            Self::Register => "register",
        }
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One fault at one instruction, with the first thread that committed it.
///
/// An instruction yields one finding of each kind and space, however many threads commit it; [`Finding::count`] says how
/// many lanes did. "First" is by block, then by the order of execution within the block, so it does not depend on how
/// many threads the emulator uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// Where the bytes are.
    pub space: Space,
    /// Kernel's name.
    pub kernel: String,
    /// Block's index in the grid.
    pub block: [u32; 3],
    /// Warp's number in the block.
    pub warp: u32,
    /// Lane in the warp, 0 to 31.
    pub lane: u32,
    /// Source file by `.loc`, or the PTX file where the PTX carries no line information.
    pub file: String,
    /// Line in [`Finding::file`], from 1; 0 for findings of the launch as a whole.
    pub line: u32,
    /// Line in the PTX text, from 1; 0 for findings of the launch as a whole.
    pub ptx_line: u32,
    /// The instruction as written in the PTX; empty for findings of the launch as a whole.
    pub instruction: String,
    /// The fault in a sentence, with addresses and sizes.
    pub message: String,
    /// How many lanes committed it during the launch.
    pub count: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.block;
        write!(f, "{} ({}): {}", self.kind, self.space, self.message)?;
        write!(f, "\n  in {}", self.kernel)?;
        // Findings of the launch as a whole have no place.
        if self.line > 0 {
            write!(f, " at {}:{}", self.file, self.line)?;
            write!(f, "\n  block ({x}, {y}, {z}), warp {}, lane {}", self.warp, self.lane)?;
        }
        if !self.instruction.is_empty() {
            write!(f, "\n  {}  (PTX line {})", self.instruction, self.ptx_line)?;
        }
        if self.count > 1 {
            write!(f, "\n  {} times in all", self.count)?;
        }
        Ok(())
    }
}
