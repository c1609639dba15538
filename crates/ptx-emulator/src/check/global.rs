//! Global memory's shadow: races between blocks of a launch, and between warps of a block.
//!
//! Blocks may run at the same time on several threads, so what a cell says must not depend on who came first. Each cell
//! keeps the writer and the reader of lowest block number and whether there was another block; whether blocks raced is
//! then a property of the launch, and is read off the cells when it has ended. Kernels whose blocks synchronise with each
//! other (through what atomics return) run on one thread in a fixed order; for them each access is judged at once, with
//! the order that fences and atomics establish ([`Sync`]).

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::clock::Clock;

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
    shift: u32,
    raced: AtomicBool,
}

/// One warp's instruction.
#[derive(Clone, Copy)]
pub(crate) struct Stamp {
    block: u64,
    warp: u32,
    word: u64,
}

/// The other party of a race: block number, warp, what it did, its instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rival {
    pub block: u64,
    pub warp: u32,
    pub wrote: bool,
    pub inst: Option<u32>,
}

/// A race between blocks, found when the launch has ended: byte offset, the writing and the other instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockRace {
    pub offset: u64,
    pub writer: Rival,
    /// `None` when only the lowest of several writers is known.
    pub other: Option<Rival>,
}

impl Stamp {
    pub fn new(block: u64, warp: u32, clock: &Clock, inst: u32) -> Self {
        let time = if clock.time >= LATE { 0 } else { clock.time };
        let number = (block + 1) & 0x1ff_ffff;
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

fn rival(word: u64, wrote: bool) -> Rival {
    let inst = word & NO_INST;
    let inst = (inst != NO_INST).then_some(inst as u32);
    Rival { block: block_of(word).wrapping_sub(1), warp: warp_of(word), wrote, inst }
}

/// So many empty cells, untouched by this process until they are used.
fn zeroed(count: usize) -> Box<[Cell]> {
    // A slice of cells cannot exceed the address space: allocations have fewer than 2³⁵ bytes.
    let layout = std::alloc::Layout::array::<Cell>(count).expect("the layout fits the address space");
    // SAFETY: there is at least one cell, so the layout is not empty; a cell is two atomic integers, for which all zeros is a
    // value; the box frees with the same layout.
    unsafe {
        let first = std::alloc::alloc_zeroed(layout).cast::<Cell>();
        if first.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        Box::from_raw(std::ptr::slice_from_raw_parts_mut(first, count))
    }
}

impl Shadow {
    pub fn new(bytes: u64, grain: u32) -> Self {
        let shift = grain.trailing_zeros();
        let count = (bytes >> shift) as usize + 1;
        // Zeroed pages come from the system without being touched: memory is taken only where kernels go.
        let cells = zeroed(count);
        Self { cells, shift, raced: AtomicBool::new(false) }
    }

    #[inline(always)]
    fn range(&self, offset: u64, bytes: u32) -> std::ops::RangeInclusive<usize> {
        (offset >> self.shift) as usize..=((offset + u64::from(bytes) - 1) >> self.shift) as usize
    }

    /// An access by one lane; tells whom it races with, if that can be told now. `same`: a write that changes nothing.
    #[inline(always)]
    pub fn access(
        &self,
        s: &Stamp,
        order: Order<'_>,
        offset: u64,
        bytes: u32,
        write: bool,
        same: impl Fn() -> bool,
    ) -> Option<Rival> {
        let mut found = None;
        for cell in &self.cells[self.range(offset, bytes)] {
            let (w, r) = (cell.writer.load(Relaxed), cell.reader.load(Relaxed));
            let mine = if write { w } else { r };
            // The usual cases: a read of what nobody writes, by anybody; an access to what only this warp touches.
            let alone = |x: u64| x == 0 || (x & !MANY) >> WARP_SHIFT == s.word >> WARP_SHIFT && x & MANY == 0;
            if alone(w) && (!write || alone(r)) && alone(mine) {
                if mine != s.word {
                    put(if write { &cell.writer } else { &cell.reader }, s);
                }
                continue;
            }
            // What many blocks read and none writes: nothing new, as long as a lower block is on record.
            let lower = block_of(r) < s.block || r & !MANY == s.word;
            if !write && w == 0 && r & MANY != 0 && lower && order.sync.is_none() {
                continue;
            }
            let rival = self.judge(cell, s, order, (w, r), write, &same);
            found = found.or(rival);
        }
        found
    }

    #[inline(never)]
    fn judge(
        &self,
        cell: &Cell,
        s: &Stamp,
        order: Order<'_>,
        (w, r): (u64, u64),
        write: bool,
        same: &dyn Fn() -> bool,
    ) -> Option<Rival> {
        let mut found = None;
        let others = [(w, true), (r, false)];
        for (x, wrote) in others.into_iter().filter(|(x, wrote)| *x != 0 && (write || *wrote)) {
            let unordered = if block_of(x) == s.block {
                let mine = time_of(x) == 0 || order.clock.ordered(s.warp, warp_of(x), time_of(x));
                !(mine || write && same())
            } else if let Some(sync) = order.sync {
                !(sync.ordered(s.block, block_of(x), time_of(x)) || write && same())
            } else {
                false
            };
            if unordered {
                found = Some(rival(x, wrote));
            }
        }
        let slot = if write { &cell.writer } else { &cell.reader };
        let mine = if write { w } else { r };
        if order.sync.is_some() {
            // On one thread, the latest access is what later ones must be ordered after.
            slot.store(s.word, Relaxed);
            if write {
                cell.reader.store(0, Relaxed);
            }
            return found;
        }
        if write && mine != 0 && block_of(mine) != s.block && same() {
            return found;
        }
        put(slot, s);
        let (w, r) = (cell.writer.load(Relaxed), cell.reader.load(Relaxed));
        if raced(w, r) {
            self.raced.store(true, Relaxed);
        }
        found
    }

    /// Races between blocks, at most one for each pair of instructions.
    pub fn races(&self) -> Vec<BlockRace> {
        let mut seen = std::collections::HashSet::new();
        let mut out = Vec::new();
        if !self.raced.load(Relaxed) {
            return out;
        }
        for (i, cell) in self.cells.iter().enumerate() {
            let (w, r) = (cell.writer.load(Relaxed), cell.reader.load(Relaxed));
            if raced(w, r) && seen.insert((w & NO_INST, r & NO_INST)) {
                let other = if w & MANY != 0 || r == 0 { None } else { Some(rival(r, false)) };
                out.push(BlockRace { offset: (i as u64) << self.shift, writer: rival(w, true), other });
            }
        }
        out
    }
}

fn raced(w: u64, r: u64) -> bool {
    w != 0 && (w & MANY != 0 || (r != 0 && (r & MANY != 0 || block_of(r) != block_of(w))))
}

/// Keeps the access of the lowest block, the latest of that block, and whether there were others.
#[inline(always)]
fn put(slot: &AtomicU64, s: &Stamp) {
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
        match slot.compare_exchange_weak(old, new, Relaxed, Relaxed) {
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

/// What blocks know of each other through fences and atomics.
///
/// A block that executes a fence and then an atomic (or a store that others poll) publishes all it did before; a block that
/// afterwards reads that location atomically learns what was published there.
#[derive(Debug, Default)]
pub(crate) struct Sync {
    state: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// By location: block → time before which its accesses are published there.
    at: HashMap<u64, HashMap<u64, u32>>,
    /// By block: block → time before which its accesses come before what the block does now.
    of: HashMap<u64, HashMap<u64, u32>>,
}

impl Sync {
    fn ordered(&self, me: u64, other: u64, time: u32) -> bool {
        let known = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        time == 0 || known.of.get(&me).and_then(|k| k.get(&other)).is_some_and(|seen| time < *seen)
    }

    /// `block` reads `location` atomically, and, if `publishes` (its time, already advanced), writes it after a fence.
    pub fn meet(&self, block: u64, location: u64, publishes: Option<u32>) {
        let mut known = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let me = (block + 1) & 0x1ff_ffff;
        let known = &mut *known;
        let mine = known.of.entry(me).or_default();
        if let Some(there) = known.at.get(&location) {
            for (other, time) in there {
                let seen = mine.entry(*other).or_default();
                *seen = (*seen).max(*time);
            }
        }
        if let Some(time) = publishes {
            mine.insert(me, time);
            let there = known.at.entry(location).or_default();
            for (other, time) in mine.iter() {
                let seen = there.entry(*other).or_default();
                *seen = (*seen).max(*time);
            }
        }
    }
}
