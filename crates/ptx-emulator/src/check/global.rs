//! Global memory's shadow: races between blocks of a launch, and between warps of a block.
//!
//! Blocks may run at the same time on several threads, so what a cell says must not depend on who came first. Each cell
//! keeps the writer and the reader of lowest block number, and who changed it by an atomic, and whether there was another
//! block; whether blocks raced is then a property of the launch, and is read off the cells when it has ended. Kernels whose
//! blocks synchronise with each other (through what atomics return) run on one thread in a fixed order; for them each
//! access is judged at once, with the order that fences and atomics establish ([`Sync`]).
//!
//! Atomics do not race with each other, but with plain accesses that nothing orders. Stores meant to be seen (volatile,
//! relaxed, release) are as atomics; loads meant to see them race with plain stores only.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::clock::Clock;
use super::sync::{Sync, word_number};

/// There was an access of the same sort by another block.
const MANY: u64 = 1 << 63;
const BLOCK_SHIFT: u32 = 38;
const WARP_SHIFT: u32 = 33;
const TIME_SHIFT: u32 = 18;
/// Times from here on are not kept: accesses count as ordered.
const LATE: u32 = 0x7fff;
const NO_INST: u64 = 0x3_ffff;

/// `many:1 block+1:25 warp:5 time:15 instruction:18`; 0: nobody.
#[derive(Debug, Default)]
struct Cell {
    writer: AtomicU64,
    reader: AtomicU64,
}

/// Shadow of an allocation.
#[derive(Debug)]
pub(crate) struct Shadow {
    cells: Box<[Cell]>,
    /// Who changed a cell by an atomic, of kernels that have them.
    atomics: Option<Box<[AtomicU64]>>,
    /// Address of the first byte.
    base: u64,
    shift: u32,
    /// Several threads use it.
    parallel: bool,
    raced: AtomicBool,
}

/// One warp's instruction.
#[derive(Clone, Copy)]
pub(crate) struct Stamp {
    /// As words number blocks.
    block: u64,
    warp: u32,
    word: u64,
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    /// An atomic; whether its result is looked at.
    Atomic {
        observes: bool,
    },
    /// A store meant to be seen by others.
    Signal,
    /// A load meant to see what others store.
    Poll,
}

/// What the other party of a race did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Did {
    Wrote,
    Read,
    /// By an atomic, or a store meant to be seen.
    Changed,
}

impl Access {
    /// Whether two accesses race, if nothing orders them.
    fn conflicts(self, other: Did) -> bool {
        match self {
            Self::Read => other != Did::Read,
            Self::Write => true,
            Self::Atomic { .. } | Self::Signal => other != Did::Changed,
            Self::Poll => other == Did::Wrote,
        }
    }
}

/// The other party of a race: block number, warp, what it did, its instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rival {
    pub block: u64,
    pub warp: u32,
    pub did: Did,
    pub inst: Option<u32>,
}

/// A race between blocks, found when the launch has ended: byte offset, a plain access and the other one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockRace {
    pub offset: u64,
    pub plain: Rival,
    /// `None` when only the lowest of several writers is known.
    pub other: Option<Rival>,
}

impl Stamp {
    pub fn new(block: u64, warp: u32, clock: &Clock, inst: u32) -> Self {
        let time = if clock.time >= LATE { 0 } else { clock.time };
        let number = word_number(block);
        let word = number << BLOCK_SHIFT
            | u64::from(warp) << WARP_SHIFT
            | u64::from(time) << TIME_SHIFT
            | u64::from(inst).min(NO_INST);
        Self { block: number, warp, word }
    }
}

fn block_of(word: u64) -> u64 {
    word >> BLOCK_SHIFT & 0x1ff_ffff
}

fn warp_of(word: u64) -> u32 {
    (word >> WARP_SHIFT) as u32 & 31
}

fn time_of(word: u64) -> u32 {
    (word >> TIME_SHIFT) as u32 & LATE
}

fn rival(word: u64, did: Did) -> Rival {
    let inst = word & NO_INST;
    let inst = (inst != NO_INST).then_some(inst as u32);
    Rival { block: block_of(word).wrapping_sub(1), warp: warp_of(word), did, inst }
}

/// What is all zeros when it is empty.
trait Zeroed {}
impl Zeroed for Cell {}
impl Zeroed for AtomicU64 {}

/// So many empty cells, untouched by this process until they are used.
fn zeroed<T: Zeroed>(count: usize) -> Box<[T]> {
    // A slice of cells cannot exceed the address space: allocations have fewer than 2³⁵ bytes.
    let layout = std::alloc::Layout::array::<T>(count).expect("the layout fits the address space");
    // SAFETY: there is at least one cell, so the layout is not empty; a cell is one or two atomic integers, for which all
    // zeros is a value; the box frees with the same layout.
    unsafe {
        let first = std::alloc::alloc_zeroed(layout).cast::<T>();
        if first.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        Box::from_raw(std::ptr::slice_from_raw_parts_mut(first, count))
    }
}

/// A cell's words: writer, reader, who changed it by an atomic.
type Words = (u64, u64, u64);

impl Shadow {
    /// For an allocation of `bytes` at `base`, of which kernels access `grain` at least; whether they have atomics, and
    /// whether several threads run them.
    pub fn new(base: u64, bytes: u64, grain: u32, atomics: bool, parallel: bool) -> Self {
        let shift = grain.trailing_zeros();
        let count = (bytes >> shift) as usize + 1;
        // Zeroed pages come from the system without being touched: memory is taken only where kernels go.
        let atomics = atomics.then(|| zeroed(count));
        Self { cells: zeroed(count), atomics, base, shift, parallel, raced: AtomicBool::new(false) }
    }

    #[inline(always)]
    fn range(&self, offset: u64, bytes: u32) -> std::ops::RangeInclusive<usize> {
        (offset >> self.shift) as usize..=((offset + u64::from(bytes) - 1) >> self.shift) as usize
    }

    /// Asks for the cells of lanes' accesses before they are looked at one by one, so that they come from memory together.
    #[inline(always)]
    pub fn prefetch(&self, offsets: impl Iterator<Item = u64>) {
        let mut last = usize::MAX;
        for offset in offsets {
            let index = (offset >> self.shift) as usize;
            // Four cells share a line.
            if index / 4 != last {
                last = index / 4;
                crate::memory::prefetch(self.cells.as_ptr().wrapping_add(index));
            }
        }
    }

    #[inline(always)]
    fn words(&self, index: usize, order: std::sync::atomic::Ordering) -> Words {
        let cell = &self.cells[index];
        let changed = self.atomics.as_ref().map_or(0, |a| a[index].load(order));
        (cell.writer.load(order), cell.reader.load(order), changed)
    }

    /// An access by one lane; tells whom it races with, if that can be told now. `same`: a write that changes nothing.
    #[inline(always)]
    pub fn access(
        &self,
        s: &Stamp,
        order: Order<'_>,
        offset: u64,
        bytes: u32,
        how: Access,
        same: impl Fn() -> bool,
    ) -> Option<Rival> {
        let mut found = None;
        for index in self.range(offset, bytes) {
            let words = self.words(index, Relaxed);
            let (w, r, a) = words;
            // The usual cases: an access to what only this warp touches; a read of what nobody writes, by anybody.
            let quiet = |x: u64| x == 0 || (x ^ s.word) >> WARP_SHIFT == 0;
            match how {
                Access::Read if quiet(w) && quiet(a) => {
                    // On record, or a higher block than one of several on record.
                    let unwritten = w | a == 0 && order.sync.is_none();
                    let known = (r & MANY != 0 && block_of(r) < s.block || r == s.word | MANY) && unwritten;
                    if r == s.word || known {
                        continue;
                    }
                    if quiet(r) || unwritten {
                        self.record(&self.cells[index].reader, s, index);
                        continue;
                    }
                }
                Access::Write if quiet(w) && quiet(r) && quiet(a) => {
                    if w != s.word {
                        self.record(&self.cells[index].writer, s, index);
                    }
                    continue;
                }
                _ => {}
            }
            let rival = self.judge(index, s, order, words, how, &same);
            found = found.or(rival);
        }
        found
    }

    #[inline(never)]
    fn judge(
        &self,
        index: usize,
        s: &Stamp,
        order: Order<'_>,
        words: Words,
        how: Access,
        same: &dyn Fn() -> bool,
    ) -> Option<Rival> {
        let mut found = None;
        let (w, r, a) = words;
        let plain = matches!(how, Access::Read | Access::Write);
        let is_ordered = |x: u64| {
            if block_of(x) == s.block {
                time_of(x) == 0 || order.clock.ordered(s.warp, warp_of(x), time_of(x))
            } else {
                // Without the order of blocks, races between them are read off the cells at the end.
                order.sync.is_none_or(|sync| sync.ordered(s.block, block_of(x), warp_of(x), time_of(x)))
            }
        };
        let others = [(w, Did::Wrote), (r, Did::Read), (a, Did::Changed)];
        for (x, did) in others.into_iter().filter(|(x, did)| *x != 0 && how.conflicts(*did)) {
            // An atomic's location, as far as its address is that of the cell.
            let location = self.base + ((index as u64) << self.shift);
            let seen = |sync: &Sync| plain && did == Did::Changed && sync.has_observed(s.block, location);
            let harmless = || how == Access::Write && did != Did::Changed && same();
            if !is_ordered(x) && !order.sync.is_some_and(seen) && !harmless() {
                found = Some(rival(x, did));
            }
        }
        let cell = &self.cells[index];
        let changed = self.atomics.as_ref().map(|a| &a[index]);
        if order.sync.is_some() {
            // On one thread, the latest access is what later ones must be ordered after.
            match how {
                Access::Read => cell.reader.store(s.word, Relaxed),
                Access::Write => {
                    cell.writer.store(s.word, Relaxed);
                    cell.reader.store(0, Relaxed);
                    if let Some(changed) = changed {
                        changed.store(0, Relaxed);
                    }
                }
                // Who does not look at what another block made of the cell must not hide it.
                Access::Atomic { observes: false } | Access::Signal if a != 0 && !is_ordered(a) => {}
                Access::Atomic { .. } | Access::Signal => {
                    if let Some(changed) = changed {
                        changed.store(s.word, Relaxed);
                    }
                }
                Access::Poll => {}
            }
            return found;
        }
        match how {
            // Of blocks that write the same, one is on record.
            Access::Write if w != 0 && block_of(w) != s.block && same() => {}
            Access::Write => self.record(&cell.writer, s, index),
            Access::Read => self.record(&cell.reader, s, index),
            Access::Atomic { .. } | Access::Signal => {
                if let Some(changed) = changed {
                    self.record(changed, s, index);
                }
            }
            Access::Poll => {}
        }
        found
    }

    /// Puts an access on record, and notes whether the cell shows a race now: of two blocks that come at the same time, the
    /// later one sees both.
    #[inline(always)]
    fn record(&self, slot: &AtomicU64, s: &Stamp, index: usize) {
        put(slot, s, self.parallel);
        if raced(self.words(index, SeqCst)) {
            self.raced.store(true, Relaxed);
        }
    }

    /// Races between blocks, at most one for each pair of instructions.
    pub fn races(&self) -> Vec<BlockRace> {
        let mut seen = std::collections::HashSet::new();
        let mut out = Vec::new();
        if !self.raced.load(Relaxed) {
            return out;
        }
        for index in 0..self.cells.len() {
            let (w, r, a) = self.words(index, Relaxed);
            let offset = (index as u64) << self.shift;
            let mut add = |plain: (u64, Did), other: (u64, Did), named: bool| {
                if seen.insert((plain.0 & NO_INST, other.0 & NO_INST, other.1)) {
                    let other = named.then(|| rival(other.0, other.1));
                    out.push(BlockRace { offset, plain: rival(plain.0, plain.1), other });
                }
            };
            if w & MANY != 0 || conflict(w, r) {
                add((w, Did::Wrote), (r, Did::Read), w & MANY == 0);
            }
            for plain in [(w, Did::Wrote), (r, Did::Read)].into_iter().filter(|p| conflict(p.0, a)) {
                add(plain, (a, Did::Changed), true);
            }
        }
        out
    }
}

/// Whether two sorts of access were by different blocks.
#[inline(always)]
fn conflict(x: u64, y: u64) -> bool {
    x != 0 && y != 0 && ((x | y) & MANY != 0 || block_of(x) != block_of(y))
}

#[inline(always)]
fn raced((w, r, a): Words) -> bool {
    w & MANY != 0 || conflict(w, r) || conflict(a, w) || conflict(a, r)
}

/// Keeps the access of the lowest block, the latest of that block, and whether there were others.
#[inline(always)]
fn put(slot: &AtomicU64, s: &Stamp, parallel: bool) {
    let mut old = slot.load(Relaxed);
    loop {
        let new = if old == 0 {
            s.word
        } else if block_of(old) == s.block {
            s.word | (old & MANY)
        } else if block_of(old) < s.block {
            old | MANY
        } else {
            s.word | MANY
        };
        if new == old {
            return;
        }
        if !parallel {
            slot.store(new, Relaxed);
            return;
        }
        match slot.compare_exchange_weak(old, new, SeqCst, Relaxed) {
            Ok(_) => return,
            Err(now) => old = now,
        }
    }
}

/// What orders accesses: within the block its clock, between blocks (of kernels that run on one thread) [`Sync`].
#[derive(Clone, Copy)]
pub(crate) struct Order<'a> {
    pub clock: &'a Clock,
    pub sync: Option<&'a Sync>,
}
