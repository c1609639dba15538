//! Shared memory's shadow: who wrote and who read each few bytes last.

use std::collections::HashMap;

use super::clock::Clock;
use super::global::{Access, Did};

/// A copy by `cp.async` is on its way here.
const PENDING: u64 = 1 << 63;
/// Written by an atomic.
const ATOMIC: u64 = 1 << 62;
/// Belongs to no variable.
const GAP: u64 = !0;
/// Instruction numbers from here on are kept as this, "unknown".
const NO_INST: u64 = 0xff_ffff;

/// Last writer `pending:1 atomic:1 warp:6 time:32 instruction:24` (0: never written) and readers since
/// `warps:32 time:16 instruction:16`.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    writer: u64,
    readers: u64,
}

/// Who changed a cell by atomics since the last plain write.
#[derive(Debug)]
struct Atomics {
    /// By warp: when last (0: not), and by which instruction.
    at: [(u32, u32); 32],
    /// Warps that have looked at the latest value: all these atomics come before what they do now.
    observers: u32,
}

/// A fault that the shadow knows of; the instruction is the other party's, where it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Unset,
    Pending,
    /// Between two variables.
    Outside,
    /// The other warp, what it did, its instruction.
    Race(u32, Did, Option<u32>),
}

/// Shadow of a block's shared memory.
#[derive(Debug, Default)]
pub(crate) struct SharedShadow {
    cells: Vec<Cell>,
    /// log₂ of the bytes of a cell.
    shift: u32,
    window: u32,
    /// By cell; of cells whose writer is not [`ATOMIC`] what is here is out of date.
    atomics: HashMap<usize, Atomics>,
    /// Copies on their way.
    pub pending: u32,
}

/// One warp's instruction, as it is written into cells.
#[derive(Clone, Copy)]
pub(crate) struct Stamp {
    me: u32,
    full: u32,
    writer: u64,
    readers: u64,
}

impl SharedShadow {
    /// Starts again: nothing is written, and only `ranges` (first byte, past the last; in order) belong to variables.
    pub fn start(&mut self, bytes: u32, grain: u32, ranges: &[(u32, u32)]) {
        self.shift = grain.trailing_zeros();
        self.window = 0;
        self.pending = 0;
        self.atomics.clear();
        self.cells.clear();
        self.cells.resize((bytes as usize >> self.shift) + 1, Cell::default());
        let mut end = 0;
        for (first, past) in ranges {
            let gap = (end as usize).div_ceil(grain as usize)..(*first as usize >> self.shift);
            for cell in gap {
                self.cells[cell].writer = GAP;
            }
            end = *past;
        }
    }

    /// The stamp of an instruction; to be made anew for each.
    pub fn stamp(&mut self, clock: &Clock, me: u32, inst: u32) -> Stamp {
        if clock.time >> 16 != self.window {
            // Readers' times would be ambiguous: forget them. That may miss a race, never invent one.
            self.window = clock.time >> 16;
            self.cells.iter_mut().for_each(|c| c.readers = 0);
        }
        let (me64, time) = (u64::from(me), u64::from(clock.time));
        Stamp {
            me,
            full: clock.full(me),
            writer: me64 << 56 | time << 24 | u64::from(inst).min(NO_INST),
            readers: 1 << (32 + me64) | (time & 0xffff) << 16 | u64::from(inst).min(0xffff),
        }
    }

    /// Cells of `bytes` bytes at `offset`.
    #[inline(always)]
    fn range(&self, offset: u32, bytes: u32) -> std::ops::RangeInclusive<usize> {
        (offset >> self.shift) as usize..=((offset + bytes - 1) >> self.shift) as usize
    }

    /// A read by one lane.
    #[inline(always)]
    pub fn read(&mut self, s: &Stamp, clock: &Clock, offset: u32, bytes: u32) -> Option<Fault> {
        let mut fault = None;
        let window = self.window << 16;
        let range = self.range(offset, bytes);
        for index in range {
            let cell = &mut self.cells[index];
            let since = window | (cell.readers >> 16 & 0xffff) as u32;
            cell.readers = if since < s.full { s.readers } else { cell.readers | 1 << (32 + s.me) };
            if cell.readers << 32 == 0 {
                cell.readers = s.readers;
            }
            let w = cell.writer;
            let time = (w >> 24) as u32;
            let others = w & ATOMIC != 0 || (w >> 56) as u32 & 63 != s.me;
            if w == 0 || w & PENDING != 0 || (time >= s.full && others) {
                fault = fault.or(self.suspect(index, w, s, clock));
            }
        }
        fault
    }

    /// An atomic, or a store or load meant for other warps, by one lane.
    pub fn synchronise(
        &mut self,
        s: &Stamp,
        clock: &Clock,
        offset: u32,
        bytes: u32,
        how: Access,
    ) -> Option<Fault> {
        let changes = how != Access::Poll;
        let observes = matches!(how, Access::Poll | Access::Atomic { observes: true });
        let mut fault = None;
        for index in self.range(offset, bytes) {
            let cell = self.cells[index];
            let w = cell.writer;
            let is_atomic = w & ATOMIC != 0 && w & PENDING == 0;
            if !is_atomic && (w != 0 || how != Access::Signal) {
                fault = fault.or(self.suspect(index, w, s, clock));
            }
            if changes {
                fault = fault.or(self.read_by_others(index, s, clock));
            }
            let entry = self.atomics.entry(index).or_insert(Atomics { at: [(0, 0); 32], observers: 0 });
            if !is_atomic {
                *entry = Atomics { at: [(0, 0); 32], observers: 0 };
            }
            if changes {
                let inst = (s.writer & NO_INST) as u32;
                entry.at[s.me as usize & 31] = ((s.writer >> 24) as u32, inst);
                entry.observers = 0;
                self.cells[index] = Cell { writer: s.writer | ATOMIC, readers: 0 };
            }
            entry.observers |= u32::from(observes) << s.me;
        }
        fault
    }

    /// A plain read by another warp that nothing orders before this access.
    #[inline(always)]
    fn read_by_others(&self, index: usize, s: &Stamp, clock: &Clock) -> Option<Fault> {
        let cell = &self.cells[index];
        let others = (cell.readers >> 32) as u32 & !(1 << s.me);
        let since = self.window << 16 | (cell.readers >> 16 & 0xffff) as u32;
        if others == 0 || since < s.full {
            return None;
        }
        let racing = crate::exec::lanes(others).find(|w| !clock.ordered(s.me, *w as u32, since))?;
        let inst = cell.readers as u32 & 0xffff;
        Some(Fault::Race(racing as u32, Did::Read, (inst != 0xffff).then_some(inst)))
    }

    /// A write by one lane. `same` tells whether it changes nothing; two warps that write the same value do not race.
    #[inline(always)]
    pub fn write(
        &mut self,
        s: &Stamp,
        clock: &Clock,
        offset: u32,
        bytes: u32,
        same: impl Fn() -> bool,
    ) -> Option<Fault> {
        let mut fault = None;
        for index in self.range(offset, bytes) {
            let found = self.read_by_others(index, s, clock);
            if found.is_some() && !same() {
                fault = fault.or(found);
            }
            let w = self.cells[index].writer;
            let others = w & (ATOMIC | PENDING) != 0 || (w >> 56) as u32 & 63 != s.me;
            if w != 0 && (w & PENDING != 0 || ((w >> 24) as u32 >= s.full && others)) {
                let found = self.suspect(index, w, s, clock);
                // Two warps that write the same do not race; atomics make of it what they will.
                if found.is_some() && (w & ATOMIC != 0 || !same()) {
                    fault = fault.or(found);
                }
            }
            self.cells[index] = Cell { writer: s.writer, readers: 0 };
        }
        fault
    }

    /// A copy sets out for these bytes.
    pub fn launch_copy(&mut self, s: &Stamp, clock: &Clock, offset: u32, bytes: u32) -> Option<Fault> {
        let fault = self.write(s, clock, offset, bytes, || false);
        let range = self.range(offset, bytes);
        self.cells[range].iter_mut().for_each(|c| c.writer |= PENDING);
        self.pending += 1;
        fault
    }

    /// A copy has arrived: from now on it is a write of the warp that waited for it.
    pub fn land_copy(&mut self, s: &Stamp, offset: u32, bytes: u32) {
        let range = self.range(offset, bytes);
        self.cells[range].iter_mut().for_each(|c| c.writer = s.writer);
        self.pending = self.pending.saturating_sub(1);
    }

    /// What is wrong with an access to a cell that was last written as `w` says.
    #[cold]
    fn suspect(&self, index: usize, w: u64, s: &Stamp, clock: &Clock) -> Option<Fault> {
        if w == 0 {
            return Some(Fault::Unset);
        }
        if w == GAP {
            return Some(Fault::Outside);
        }
        if w & PENDING != 0 {
            return Some(Fault::Pending);
        }
        let (warp, time) = ((w >> 56) as u32 & 63, (w >> 24) as u32);
        if w & ATOMIC != 0
            && let Some(atomics) = self.atomics.get(&index)
        {
            if atomics.observers >> s.me & 1 != 0 {
                return None;
            }
            let unordered =
                |(warp, at): &(usize, &(u32, u32))| at.0 != 0 && !clock.ordered(s.me, *warp as u32, at.0);
            let (warp, at) = atomics.at.iter().enumerate().find(unordered)?;
            return Some(Fault::Race(warp as u32, Did::Changed, Some(at.1)));
        }
        if clock.ordered(s.me, warp, time) {
            return None;
        }
        let inst = w & NO_INST;
        Some(Fault::Race(warp, Did::Wrote, (inst != NO_INST).then_some(inst as u32)))
    }
}
