//! Decoded kernels: what the interpreter runs.

mod allocate;
mod flow;
mod liveness;

use std::collections::HashMap;

use crate::counters::InstructionClass;
use crate::exec::Cx;
use crate::ptx::Class;

pub(crate) use allocate::allocate;
pub(crate) use flow::{FALL_FIRST, leave_early, reconvergence};
pub(crate) use liveness::{Liveness, unset_reads};

/// No operand.
pub(crate) const NONE: u32 = u32::MAX;
/// Set in operands that are rows of the table of constants.
pub(crate) const CONSTANT: u32 = 1 << 31;
/// Set in [`Inst::guard`] when the guard is negated.
pub(crate) const NEGATED: u32 = 1 << 30;
/// A program counter that is never reached: lanes that wait for it have left the kernel.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// Executes an instruction for the lanes of `cx.mask`.
///
/// # Safety
/// `Inst`'s operands must be rows of the warp's register file and of the kernel's constants, as the decoder made them, and
/// the CPU must have the features that the handler was chosen for.
pub(crate) type Handler = unsafe fn(&mut Cx<'_>, &Inst);

/// How the interpreter's loop treats an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// Calls the handler.
    Plain,
    /// Goes to `target` in lanes whose guard holds.
    Branch,
    /// Goes to `tables[target][a]`.
    Table,
    /// Ends lanes.
    Exit,
    /// `bar.sync`, `bar.red`: `a` the barrier, `b` the number of threads.
    Barrier,
    /// `bar.arrive`.
    Arrive,
    /// Fails the launch.
    Trap,
}

/// An instruction; operands are indices of rows (in units of 4 bytes) or of predicates.
#[derive(Clone, Debug)]
pub(crate) struct Inst {
    pub handler: Handler,
    pub control: Control,
    /// Bits that the handler's family defines.
    pub flags: u16,
    /// Reads registers that may be unset: indices in [`Code::unset_reads`].
    pub checks_unset: bool,
    /// Writes registers whose setting is tracked.
    pub sets_tracked: bool,
    /// Only hands a register on, set or not.
    pub is_copy: bool,
    /// Elements of a vector access.
    pub lanes: u8,
    /// How many of `more` are results.
    pub more_defs: u8,
    pub guard: u32,
    /// Results.
    pub d: u32,
    pub d2: u32,
    /// Sources.
    pub a: u32,
    pub b: u32,
    pub c: u32,
    pub e: u32,
    pub target: u32,
    /// Where lanes meet again after a branch.
    pub meet: u32,
    pub imm: i64,
    /// Further results, then further sources.
    pub more: Box<[u32]>,
}

impl Inst {
    pub fn new(handler: Handler) -> Self {
        Self {
            handler,
            control: Control::Plain,
            flags: 0,
            checks_unset: false,
            sets_tracked: false,
            is_copy: false,
            lanes: 1,
            more_defs: 0,
            guard: NONE,
            d: NONE,
            d2: NONE,
            a: NONE,
            b: NONE,
            c: NONE,
            e: NONE,
            target: 0,
            meet: NOWHERE,
            imm: 0,
            more: Box::default(),
        }
    }

    /// Registers that it writes.
    pub fn defs(&self) -> impl Iterator<Item = u32> + '_ {
        [self.d, self.d2]
            .into_iter()
            .chain(self.more[..self.more_defs as usize].iter().copied())
            .filter(|r| *r != NONE && r & CONSTANT == 0)
    }

    /// Registers that it reads, the guard among them.
    pub fn uses(&self) -> impl Iterator<Item = u32> + '_ {
        let guard = if self.guard == NONE { NONE } else { self.guard & !NEGATED };
        [guard, self.a, self.b, self.c, self.e]
            .into_iter()
            .chain(self.more[self.more_defs as usize..].iter().copied())
            .filter(|r| *r != NONE && r & CONSTANT == 0)
    }

    /// All operands that are registers, to be renamed.
    pub fn registers_mut(&mut self) -> impl Iterator<Item = &mut u32> {
        [&mut self.d, &mut self.d2, &mut self.a, &mut self.b, &mut self.c, &mut self.e]
            .into_iter()
            .chain(self.more.iter_mut())
            .filter(|r| **r != NONE && **r & CONSTANT == 0)
    }
}

/// What an instruction computes, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    None,
    /// Operations of one lane.
    F16(u32),
    F32(u32),
    F64(u32),
    /// Operations of one warp.
    TensorF16(u32),
    TensorTf32(u32),
    TensorInt(u32),
}

/// Which of the memory counters an instruction feeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    None,
    Load,
    Store,
}

/// What reports say about an instruction.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    pub ptx_line: u32,
    /// Index in [`Code::files`] and line.
    pub source: Option<(u32, u32)>,
    pub text: String,
    pub class: InstructionClass,
    pub work: Work,
    pub traffic: Traffic,
}

/// A decoded kernel.
#[derive(Debug, Default)]
pub(crate) struct Code {
    pub insts: Vec<Inst>,
    pub notes: Vec<Note>,
    pub files: HashMap<u32, String>,
    /// Jump tables.
    pub tables: Vec<Vec<u32>>,
    /// Rows of constants.
    pub constants: Vec<u32>,
    /// Constants that are addresses of module variables: row, variable, addend.
    pub relocations: Vec<(u32, String, u64)>,
    /// Rows of the register file, in units of 4 bytes.
    pub register_words: usize,
    pub predicates: usize,
    /// Class of each virtual register.
    pub classes: Vec<Class>,
    pub names: Vec<String>,
    /// Virtual registers read where they may be unset, by instruction: the register's number among the tracked ones.
    pub unset_reads: HashMap<u32, Vec<u32>>,
    /// Tracked registers written, by instruction.
    pub tracked_writes: HashMap<u32, Vec<u32>>,
    /// Copies between registers, by instruction: tracked source, if it is one.
    pub tracked_copies: HashMap<u32, Option<u32>>,
    /// Names of the tracked registers.
    pub tracked: Vec<String>,
    /// Static shared memory: bytes, and first byte of dynamic shared memory.
    pub shared_bytes: u32,
    pub dynamic_start: u32,
    /// Bytes of shared memory that belong to a variable: first, past the last.
    pub shared_ranges: Vec<(u32, u32)>,
    pub local_bytes: u32,
    /// Bytes of the smallest access to shared and to global memory: grain of the race checks.
    pub shared_grain: u32,
    pub global_grain: u32,
    /// Some global memory is changed by atomics, or by stores meant to be seen by others.
    pub global_atomics: bool,
    /// The order of blocks may show in the results.
    pub ordered: bool,
    /// Barriers that not all warps take part in.
    pub partial_barriers: bool,
}
