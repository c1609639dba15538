//! What a handler sees: the registers of a warp, its block, and where to report.

use std::collections::HashMap;

use super::block::Block;
use super::launched::Launched;
use super::warp::Warp;
use crate::code::{CONSTANT, NONE};
use crate::finding::{FindingKind, Space};

/// 32 lanes of 32 bits.
pub(crate) type Row = [u32; 32];
/// 32 lanes of 64 bits.
pub(crate) type Row64 = [u64; 32];

/// Why a block ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunError {
    Deadlock,
    Trap,
}

/// Counts that add up field by field.
macro_rules! counts {
    ($(#[$doc:meta])* $name:ident { $($field:ident),* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default)]
        pub(crate) struct $name {
            $(pub $field: u64),*
        }

        impl std::ops::AddAssign<&$name> for $name {
            fn add_assign(&mut self, other: &$name) {
                $(self.$field += other.$field;)*
            }
        }
    };
}

counts! {
    /// What an instruction did, summed over warps.
    Tally { warp, lanes, divergent, requests, shared_requests, sectors, bytes, wavefronts, ideal, shared_bytes }
}

/// A finding without its text about the instruction.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub block: u64,
    pub warp: u32,
    pub lane: u32,
    pub message: String,
    pub count: u64,
}

/// Key of a finding: instruction, kind, space.
pub(crate) type FoundKey = (u32, FindingKind, Space);

/// What one thread of the emulator gathers over the blocks it runs.
#[derive(Default)]
pub(crate) struct Worker {
    pub tallies: Vec<Tally>,
    pub found: HashMap<FoundKey, Found>,
    pub blocks: u64,
    pub warps: u64,
    pub stop: Option<RunError>,
}

impl Worker {
    pub fn report(
        &mut self,
        key: FoundKey,
        at: (u64, u32, u32),
        count: u64,
        message: impl FnOnce() -> String,
    ) {
        let (block, warp, lane) = at;
        match self.found.get_mut(&key) {
            Some(found) => {
                found.count += count;
                if block < found.block {
                    *found = Found { block, warp, lane, message: message(), count: found.count };
                }
            }
            None => {
                self.found.insert(key, Found { block, warp, lane, message: message(), count });
            }
        }
    }

    /// Adds what another worker gathered. The result does not depend on how blocks were shared out.
    pub fn merge(mut self, other: Self) -> Self {
        if self.tallies.is_empty() {
            self.tallies = vec![Tally::default(); other.tallies.len()];
        }
        self.tallies.iter_mut().zip(&other.tallies).for_each(|(a, b)| *a += b);
        for (key, found) in other.found {
            match self.found.get_mut(&key) {
                Some(mine) => {
                    let count = mine.count + found.count;
                    if found.block < mine.block {
                        *mine = found;
                    }
                    mine.count = count;
                }
                None => {
                    self.found.insert(key, found);
                }
            }
        }
        self.blocks += other.blocks;
        self.warps += other.warps;
        self.stop = self.stop.or(other.stop);
        self
    }
}

/// The state that handlers work on.
pub(crate) struct Cx<'a> {
    pub launch: &'a Launched<'a>,
    pub worker: &'a mut Worker,
    pub block: &'a mut Block,
    pub warp: &'a mut Warp,
    pub regs: *mut u32,
    pub preds: *mut u32,
    pub constants: *const u32,
    /// Lanes that take part in the current instruction.
    pub mask: u32,
    /// Number of the current instruction.
    pub pc: u32,
}

/// A type that a row holds 32 of.
pub(crate) trait Lane: Copy + Default {
    fn to_u64(self) -> u64;
}

impl Lane for u32 {
    #[inline(always)]
    fn to_u64(self) -> u64 {
        u64::from(self)
    }
}

impl Lane for u64 {
    #[inline(always)]
    fn to_u64(self) -> u64 {
        self
    }
}

impl Cx<'_> {
    /// A source row.
    ///
    /// # Safety
    /// `x` must be a row of the register file or of the constants with lanes of type `L`, as the decoder made it.
    #[inline(always)]
    pub unsafe fn get<L: Lane>(&self, x: u32) -> &[L; 32] {
        // SAFETY: by the caller's promise both the row and its type are right; rows are aligned to 8 bytes.
        unsafe {
            let base = if x & CONSTANT == 0 { self.regs.cast_const() } else { self.constants };
            &*base.add((x & !CONSTANT) as usize).cast::<[L; 32]>()
        }
    }

    /// Writes a result row in the lanes of `mask`.
    ///
    /// # Safety
    /// `d` must be a row of the register file with lanes of type `L`.
    #[inline(always)]
    pub unsafe fn put<L: Lane>(&mut self, d: u32, row: &[L; 32]) {
        // SAFETY: by the caller's promise the row exists; `&mut self` makes this the only access.
        unsafe {
            let to = self.regs.add(d as usize).cast::<[L; 32]>();
            if self.mask == !0 {
                *to = *row;
            } else {
                let to = &mut *to;
                for l in 0..32 {
                    to[l] = if self.mask >> l & 1 != 0 { row[l] } else { to[l] };
                }
            }
        }
    }

    /// One lane of a source row of 64 bits (`long`) or 32; 0 for an operand that is not there.
    ///
    /// # Safety
    /// `x` must be such a row, or [`NONE`].
    #[inline(always)]
    pub unsafe fn lane(&self, x: u32, l: usize, long: bool) -> u64 {
        // SAFETY: by the caller's promise.
        unsafe {
            if x == NONE {
                0
            } else if long {
                self.get::<u64>(x)[l]
            } else {
                u64::from(self.get::<u32>(x)[l])
            }
        }
    }

    /// Writes a result row of 64 bits (`long`), or its lower halves to one of 32, in the lanes of `mask`; nothing without a
    /// target.
    ///
    /// # Safety
    /// `d` must be such a row of the register file, or [`NONE`].
    #[inline(always)]
    pub unsafe fn put_low(&mut self, d: u32, row: &Row64, long: bool) {
        // SAFETY: by the caller's promise.
        unsafe {
            if d == NONE {
            } else if long {
                self.put(d, row);
            } else {
                self.put(d, &row.map(|x| x as u32));
            }
        }
    }

    /// A predicate's mask.
    ///
    /// # Safety
    /// `p` must be a predicate of the warp, or a constant one.
    #[inline(always)]
    pub unsafe fn pred(&self, p: u32) -> u32 {
        if p & CONSTANT != 0 {
            return if p & 1 != 0 { !0 } else { 0 };
        }
        // SAFETY: by the caller's promise.
        unsafe { *self.preds.add(p as usize) }
    }

    /// Sets a predicate in the lanes of `mask`.
    ///
    /// # Safety
    /// `p` must be a predicate of the warp.
    #[inline(always)]
    pub unsafe fn put_pred(&mut self, p: u32, value: u32) {
        // SAFETY: by the caller's promise.
        unsafe {
            let to = self.preds.add(p as usize);
            *to = (*to & !self.mask) | (value & self.mask);
        }
    }

    /// Reports a fault of the current instruction in `lanes` (not none).
    #[cold]
    pub fn report(&mut self, kind: FindingKind, space: Space, lanes: u32, message: impl FnOnce() -> String) {
        let at = (self.block.number, self.warp.number, lanes.trailing_zeros());
        self.worker.report((self.pc, kind, space), at, u64::from(lanes.count_ones()), message);
    }

    /// The current instruction's tally.
    #[inline(always)]
    pub fn tally(&mut self) -> &mut Tally {
        &mut self.worker.tallies[self.pc as usize]
    }
}

/// The lanes of a mask.
#[inline(always)]
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let lane = mask.trailing_zeros();
        mask &= mask - 1;
        Some(lane as usize)
    })
}
