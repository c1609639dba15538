//! A block: its shared memory, its barriers, and the turns its warps take.

use super::cx::{Cx, RunError, Tally, Worker};
use super::launched::Launched;
use super::shuffle;
use super::warp::{self, Pause, Warp};
use crate::check::clock::Clock;
use crate::check::shared::SharedShadow;
use crate::finding::{FindingKind, Space};

/// Instructions that a warp executes before the next has its turn (unless a barrier comes first): kernels whose warps
/// wait for each other by polling need turns.
const SLICE: u64 = 1 << 15;

/// One of a block's 16 barriers.
#[derive(Clone, Debug, Default)]
struct Barrier {
    /// By warp: time of arrival.
    arrived: Vec<Option<u32>>,
    waiting: u32,
    threads: u32,
    /// Threads to wait for; 0 for all.
    needed: u32,
    pc: Option<u32>,
    votes: u32,
    all: bool,
    any: bool,
}

/// A block's own state, apart from its warps.
#[derive(Debug, Default)]
pub(crate) struct Block {
    pub number: u64,
    pub index: [u32; 3],
    pub shared: Vec<u64>,
    pub shadow: SharedShadow,
    pub clock: Clock,
    barriers: Vec<Barrier>,
    warps: u32,
    /// Warps that have not ended.
    live: u32,
    waiting: u32,
}

/// Room for one block at a time.
pub(crate) struct Room {
    block: Block,
    warps: Vec<Warp>,
    order: Vec<usize>,
}

impl Room {
    pub fn new(launch: &Launched<'_>) -> Self {
        let warps = launch.threads.div_ceil(32) as usize;
        let warps: Vec<Warp> = std::iter::repeat_with(Warp::default).take(warps).collect();
        Self { block: Block::default(), order: (0..warps.len()).collect(), warps }
    }

    fn start(&mut self, launch: &Launched<'_>, number: u64) {
        let b = &mut self.block;
        b.number = number;
        b.index = launch.block_index(number);
        b.shared.clear();
        b.shared.resize((launch.shared_bytes as usize).div_ceil(8), u64::MAX);
        b.warps = self.warps.len() as u32;
        b.live = if b.warps == 32 { !0 } else { (1 << b.warps) - 1 };
        b.waiting = 0;
        b.clock.start(self.warps.len());
        if launch.shared_shadow {
            b.shadow.start(launch.shared_bytes, launch.code.shared_grain, &launch.shared_ranges);
        }
        b.barriers.clear();
        b.barriers
            .resize(16, Barrier { arrived: vec![None; self.warps.len()], all: true, ..Barrier::default() });
        for (n, warp) in self.warps.iter_mut().enumerate() {
            warp.start(launch, n as u32);
        }
        self.order.sort_unstable();
        if let Some(seed) = launch.seed {
            shuffle(&mut self.order, seed ^ number.wrapping_mul(0x2545_f491_4f6c_dd1d));
        }
    }

    /// Gives each warp that can run its turn. `Ok(true)` when the block has ended.
    fn turn(&mut self, launch: &Launched<'_>, worker: &mut Worker) -> Result<bool, RunError> {
        let mut ran = false;
        for n in 0..self.order.len() {
            let n = self.order[n];
            let bit = 1 << n;
            if self.block.live & bit == 0 || self.block.waiting & bit != 0 {
                continue;
            }
            ran = true;
            let (regs, preds) = self.warps[n].pointers();
            let constants = launch.constants.as_ptr();
            let (block, warp) = (&mut self.block, &mut self.warps[n]);
            let mut cx = Cx { launch, worker, block, warp, regs, preds, constants, mask: 0, pc: 0 };
            match warp::run(&mut cx, SLICE) {
                Pause::Slice => {}
                Pause::Failed(error) => return Err(error),
                Pause::Done => self.warp_ends(launch, n),
                Pause::Barrier { barrier, threads, pc, waits } => {
                    self.arrive(launch, worker, n, (barrier, threads, pc, waits));
                }
            }
        }
        if self.block.live == 0 {
            return Ok(true);
        }
        if !ran {
            self.report_deadlock(launch, worker);
            return Err(RunError::Deadlock);
        }
        Ok(false)
    }

    fn warp_ends(&mut self, launch: &Launched<'_>, n: usize) {
        self.block.live &= !(1 << n);
        for number in 0..self.block.barriers.len() {
            self.complete(launch, number);
        }
    }

    fn arrive(
        &mut self,
        launch: &Launched<'_>,
        worker: &mut Worker,
        n: usize,
        (number, threads, pc, waits): (u32, u32, u32, bool),
    ) {
        let time = if waits { self.block.clock.time } else { self.block.clock.tick() };
        let bit = 1_u32 << n;
        let block_number = self.block.number;
        let barrier = &mut self.block.barriers[number as usize];
        let place = |pc: u32| {
            let note = &launch.code.notes[pc as usize];
            format!("`{}` at line {}", note.text, note.source.map_or(note.ptx_line, |s| s.1))
        };
        if launch.checks.barriers
            && let Some(other) = barrier.pc
            && (barrier.needed != threads || (threads == 0 && other != pc && barrier.waiting != 0))
        {
            let key = (pc, FindingKind::DivergentBarrier, Space::Register);
            worker.report(key, (block_number, n as u32, 0), 32, || {
                let others = barrier.waiting;
                format!("warps {others:#x} of the block wait for barrier {number} at {}, this warp comes from elsewhere", place(other))
            });
        }
        barrier.pc.get_or_insert(pc);
        barrier.needed = threads;
        barrier.arrived[n] = Some(time);
        barrier.threads += 32;
        if let Some(vote) = self.warps[n].vote.take() {
            let lanes = self.warps[n].alive;
            barrier.votes += vote.count_ones();
            barrier.all &= vote == lanes;
            barrier.any |= vote != 0;
        }
        if waits {
            barrier.waiting |= bit;
            self.block.waiting |= bit;
        }
        self.complete(launch, number as usize);
    }

    /// Lets the warps go on that wait for a barrier, if all have arrived.
    fn complete(&mut self, launch: &Launched<'_>, number: usize) {
        let block = &mut self.block;
        let barrier = &mut block.barriers[number];
        if barrier.pc.is_none() {
            return;
        }
        let missing = |b: &Barrier| {
            (0..block.warps).any(|w| block.live >> w & 1 != 0 && b.arrived[w as usize].is_none())
        };
        let done = if barrier.needed == 0 { !missing(barrier) } else { barrier.threads >= barrier.needed };
        if !done {
            return;
        }
        if barrier.needed == 0 {
            // Warps that have ended came before, too.
            for w in 0..block.warps as usize {
                if block.live >> w & 1 == 0 {
                    barrier.arrived[w] = Some(block.clock.time + 1);
                }
            }
        }
        block.clock.barrier(barrier.waiting, &barrier.arrived);
        for w in 0..block.warps as usize {
            if barrier.waiting >> w & 1 != 0 {
                let warp = &mut self.warps[w];
                let kind = barrier.pc.map_or(0, |pc| launch.code.insts[pc as usize].imm);
                warp.vote_result = match kind {
                    1 => u32::from(barrier.all),
                    2 => u32::from(barrier.any),
                    _ => barrier.votes,
                };
            }
        }
        block.waiting &= !barrier.waiting;
        let warps = block.warps as usize;
        *barrier = Barrier { arrived: vec![None; warps], all: true, ..Barrier::default() };
    }

    fn report_deadlock(&self, launch: &Launched<'_>, worker: &mut Worker) {
        for (number, barrier) in self.block.barriers.iter().enumerate() {
            let Some(pc) = barrier.pc.filter(|_| barrier.waiting != 0) else { continue };
            let warp = barrier.waiting.trailing_zeros();
            let key = (pc, FindingKind::Deadlock, Space::Register);
            let (waiting, live) = (barrier.waiting, self.block.live);
            let needed = if barrier.needed == 0 { launch.threads } else { barrier.needed };
            worker.report(key, (self.block.number, warp, 0), u64::from(waiting.count_ones()) * 32, || {
                format!(
                    "warps {waiting:#x} wait for ever at barrier {number}, which needs {needed} threads; warps {live:#x} have not ended"
                )
            });
        }
    }
}

/// Runs blocks one after the other.
pub(crate) fn run_blocks(
    launch: &Launched<'_>,
    room: &mut Room,
    blocks: impl Iterator<Item = u64>,
) -> Worker {
    let mut worker = new_worker(launch);
    for number in blocks {
        room.start(launch, number);
        worker.blocks += 1;
        worker.warps += room.warps.len() as u64;
        loop {
            match room.turn(launch, &mut worker) {
                Ok(true) => break,
                Ok(false) => {}
                Err(stop) => {
                    worker.stop = Some(stop);
                    return worker;
                }
            }
        }
    }
    worker
}

/// Runs all blocks in turns, so that they may wait for each other.
pub(crate) fn run_together(launch: &Launched<'_>, count: u64) -> Worker {
    let mut worker = new_worker(launch);
    let mut rooms: Vec<(Room, bool)> = (0..count).map(|_| (Room::new(launch), false)).collect();
    let mut order: Vec<u64> = (0..count).collect();
    if let Some(seed) = launch.seed {
        shuffle(&mut order, seed);
    }
    for (number, (room, _)) in rooms.iter_mut().enumerate() {
        room.start(launch, number as u64);
        worker.blocks += 1;
        worker.warps += room.warps.len() as u64;
    }
    let mut left = count;
    while left > 0 {
        for number in &order {
            let (room, ended) = &mut rooms[*number as usize];
            if *ended {
                continue;
            }
            match room.turn(launch, &mut worker) {
                Ok(true) => {
                    *ended = true;
                    left -= 1;
                }
                Ok(false) => {}
                Err(stop) => {
                    worker.stop = Some(stop);
                    return worker;
                }
            }
        }
    }
    worker
}

fn new_worker(launch: &Launched<'_>) -> Worker {
    Worker { tallies: vec![Tally::default(); launch.code.insts.len()], ..Worker::default() }
}
