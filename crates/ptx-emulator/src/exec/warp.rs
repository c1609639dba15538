//! A warp: its registers, its stack of diverged paths, and the loop that runs it.

use std::collections::VecDeque;

use super::cx::{Cx, RunError, lanes};
use super::launched::Launched;
use crate::code::{Control, FALL_FIRST, Inst, NEGATED, NONE, NOWHERE};
use crate::finding::{FindingKind, Space};

/// Lanes that go on at `pc` until they reach `meet`, where those below them on the stack wait.
#[derive(Clone, Copy, Debug)]
struct Path {
    pc: u32,
    meet: u32,
    mask: u32,
}

/// Bytes on their way from global to shared memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copying {
    pub lane: u8,
    pub bytes: u8,
    pub offset: u32,
    pub data: [u8; 16],
}

/// Why a warp pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// At a barrier: its number, threads (0: all), instruction, whether it waits.
    Barrier {
        barrier: u32,
        threads: u32,
        pc: u32,
        waits: bool,
    },
    /// Its turn is over.
    Slice,
    Done,
    Failed(RunError),
}

/// A warp's state; reused from block to block.
#[derive(Debug, Default)]
pub(crate) struct Warp {
    pub number: u32,
    /// Rows, in chunks for their alignment.
    registers: Vec<u64>,
    predicates: Vec<u32>,
    stack: Vec<Path>,
    /// Lanes that exist.
    pub born: u32,
    /// Lanes that exist and have not left.
    pub alive: u32,
    executed: u64,
    /// By tracked register: lanes in which it was set.
    tracked: Vec<u32>,
    /// `threadIdx` by axis.
    pub thread: [[u32; 32]; 3],
    /// Local memory, lane after lane, and a bit a byte for what was written.
    pub local: Vec<u64>,
    pub local_written: Vec<u8>,
    /// Copies since the last commit, and committed groups.
    pub copies: Vec<Copying>,
    pub groups: VecDeque<Vec<Copying>>,
    /// Empty groups, for their room.
    pub spare_groups: Vec<Vec<Copying>>,
    /// `bar.red` in progress: predicate's mask as it arrived.
    pub vote: Option<u32>,
    /// Result of the last `bar.red`.
    pub vote_result: u32,
}

impl Warp {
    /// Prepares the warp for the block's start.
    pub fn start(&mut self, launch: &Launched<'_>, number: u32) {
        let code = launch.code;
        self.number = number;
        // What rows held before does not matter: reads of unset registers are found by other means. They are set all the
        // same, so that a kernel that reads them behaves the same each time.
        self.registers.clear();
        self.registers.resize(code.register_words.div_ceil(2), u64::MAX);
        self.predicates.clear();
        self.predicates.resize(code.predicates, 0);
        self.tracked.clear();
        self.tracked.resize(code.tracked.len(), 0);
        let first = number * 32;
        let count = launch.threads.saturating_sub(first).min(32);
        self.born = if count == 32 { !0 } else { (1 << count) - 1 };
        self.alive = self.born;
        for l in 0..32 {
            let t = first + l as u32;
            let [x, y, _] = launch.block;
            self.thread[0][l] = t % x;
            self.thread[1][l] = t / x % y;
            self.thread[2][l] = t / x / y;
        }
        self.stack.clear();
        self.stack.push(Path { pc: 0, meet: NOWHERE, mask: self.alive });
        self.executed = 0;
        let local = code.local_bytes as usize * 4;
        if local > 0 {
            self.local.clear();
            self.local.resize(local, u64::MAX);
            self.local_written.clear();
            self.local_written.resize(local, 0);
        }
        self.copies.clear();
        self.groups.clear();
        self.vote = None;
    }

    pub fn pointers(&mut self) -> (*mut u32, *mut u32) {
        (self.registers.as_mut_ptr().cast(), self.predicates.as_mut_ptr())
    }
}

/// Lanes in which the guard holds.
#[inline(always)]
unsafe fn guarded(cx: &Cx<'_>, inst: &Inst, active: u32) -> u32 {
    if inst.guard == NONE {
        return active;
    }
    // SAFETY: the guard is a predicate of the warp.
    let holds = unsafe { cx.pred(inst.guard & !NEGATED) };
    active & if inst.guard & NEGATED != 0 { !holds } else { holds }
}

/// Runs the warp until it pauses, at most `slice` instructions.
pub(crate) fn run(cx: &mut Cx<'_>, slice: u64) -> Pause {
    let launch = cx.launch;
    let insts = &launch.code.insts[..];
    let counting = launch.counting;
    let checking = launch.checks.initialised;
    let Some(Path { mut pc, mut meet, mask: mut active }) = cx.warp.stack.pop() else { return Pause::Done };
    let mut left = slice;
    loop {
        if pc == meet || active == 0 {
            loop {
                let Some(path) = cx.warp.stack.pop() else { return Pause::Done };
                active = path.mask & cx.warp.alive;
                (pc, meet) = (path.pc, path.meet);
                if active != 0 {
                    break;
                }
            }
            continue;
        }
        let inst = &insts[pc as usize];
        // SAFETY: operands are rows and predicates of this kernel, see `Handler`.
        let mask = unsafe { guarded(cx, inst, active) };
        if counting {
            let tally = &mut cx.worker.tallies[pc as usize];
            tally.warp += 1;
            tally.lanes += u64::from(mask.count_ones());
        }
        cx.mask = mask;
        cx.pc = pc;
        if checking && inst.checks_unset {
            check_unset(cx);
        }
        match inst.control {
            Control::Plain => {
                if mask != 0 {
                    // SAFETY: as above; the handler was chosen for this CPU.
                    unsafe { (inst.handler)(cx, inst) };
                    if inst.sets_tracked {
                        set_tracked(cx, mask);
                    }
                }
                pc += 1;
            }
            Control::Branch => {
                let rest = active & !mask;
                if rest == 0 {
                    pc = inst.target;
                } else if mask == 0 {
                    pc += 1;
                } else {
                    if counting {
                        cx.worker.tallies[pc as usize].divergent += 1;
                    }
                    let stack = &mut cx.warp.stack;
                    if inst.meet != meet {
                        stack.push(Path { pc: inst.meet, meet, mask: active });
                    }
                    // A side that starts where both meet waits there already.
                    let mut sides = [(pc + 1, rest), (inst.target, mask)];
                    if inst.flags & FALL_FIRST != 0 {
                        sides.swap(0, 1);
                    }
                    active = 0;
                    for (start, lanes) in sides.into_iter().filter(|side| side.0 != inst.meet) {
                        if active != 0 {
                            stack.push(Path { pc, meet: inst.meet, mask: active });
                        }
                        (pc, meet, active) = (start, inst.meet, lanes);
                    }
                }
            }
            Control::Table => {
                if mask != active && mask == 0 {
                    pc += 1;
                } else {
                    // SAFETY: the index is a 32-bit row.
                    let index = unsafe { *cx.get::<u32>(inst.a) };
                    let table = &launch.code.tables[inst.target as usize];
                    let place = |l: usize| index[l].min(table.len() as u32 - 1);
                    let first = place(active.trailing_zeros() as usize);
                    let mut rest = active;
                    if lanes(active).all(|l| place(l) == first) {
                        pc = table[first as usize];
                        left = left.saturating_sub(1);
                        continue;
                    }
                    if counting {
                        cx.worker.tallies[pc as usize].divergent += 1;
                    }
                    if inst.meet != meet {
                        cx.warp.stack.push(Path { pc: inst.meet, meet, mask: active });
                    }
                    while rest != 0 {
                        let chosen = table[place(rest.trailing_zeros() as usize) as usize];
                        let side = lanes(rest)
                            .filter(|l| table[place(*l) as usize] == chosen)
                            .fold(0, |side, l| side | 1_u32 << l);
                        rest &= !side;
                        if chosen != inst.meet {
                            cx.warp.stack.push(Path { pc: chosen, meet: inst.meet, mask: side });
                        }
                    }
                    active = 0;
                }
            }
            Control::Exit => {
                if counting && mask != 0 && mask != active {
                    cx.worker.tallies[pc as usize].divergent += 1;
                }
                cx.warp.alive &= !mask;
                active &= !mask;
                pc += 1;
            }
            Control::Trap => {
                if mask != 0 {
                    return Pause::Failed(RunError::Trap);
                }
                pc += 1;
            }
            Control::Barrier | Control::Arrive => {
                if mask != 0 {
                    cx.warp.stack.push(Path { pc: pc + 1, meet, mask: active });
                    cx.warp.executed += slice - left;
                    return at_barrier(cx, inst);
                }
                pc += 1;
            }
        }
        left = left.wrapping_sub(1);
        if left == 0 || left > slice {
            cx.warp.stack.push(Path { pc, meet, mask: active });
            cx.warp.executed += slice;
            if cx.warp.executed >= launch.instruction_limit {
                let limit = launch.instruction_limit;
                let mask = active.max(1);
                cx.report(FindingKind::Deadlock, Space::Register, mask, || {
                    format!("a warp has executed {limit} instructions without an end: it waits for ever")
                });
                return Pause::Failed(RunError::Deadlock);
            }
            return Pause::Slice;
        }
    }
}

/// A warp arrives at a barrier.
#[cold]
fn at_barrier(cx: &mut Cx<'_>, inst: &Inst) -> Pause {
    let (mask, alive) = (cx.mask, cx.warp.alive);
    if cx.launch.checks.barriers && mask != alive {
        let away = alive & !mask;
        cx.report(FindingKind::DivergentBarrier, Space::Register, mask, || {
            format!("lanes {mask:#010x} reach the barrier, lanes {away:#010x} of the warp do not")
        });
    }
    let (barrier, threads) = barrier_operands(cx, inst);
    if inst.c != NONE {
        // SAFETY: a predicate of the warp.
        let p = unsafe { cx.pred(inst.c) };
        cx.warp.vote = Some(if inst.flags & 1 != 0 { !p } else { p } & mask);
    }
    Pause::Barrier { barrier, threads, pc: cx.pc, waits: inst.control == Control::Barrier }
}

/// The barrier's number, and how many threads it is for (0: all). What PTX forbids is reported and mended.
fn barrier_operands(cx: &mut Cx<'_>, inst: &Inst) -> (u32, u32) {
    let mask = cx.mask;
    let lane = mask.trailing_zeros() as usize;
    // SAFETY: both operands are 32-bit rows where they exist.
    let [numbers, counts] =
        [inst.a, inst.b].map(|x| if x == NONE { None } else { Some(unsafe { *cx.get::<u32>(x) }) });
    let number = numbers.map_or(0, |n| n[lane]);
    let count = counts.map(|n| n[lane]);
    if cx.launch.checks.barriers {
        let kind = FindingKind::DivergentBarrier;
        let differ = |row: Option<[u32; 32]>| row.is_some_and(|row| lanes(mask).any(|l| row[l] != row[lane]));
        if differ(numbers) || differ(counts) {
            cx.report(kind, Space::Register, mask, || {
                "lanes of one warp name different barriers, or counts of threads".to_owned()
            });
        }
        if number > 15 {
            cx.report(kind, Space::Register, mask, || {
                format!("barrier {number}; a block has 16, from 0 to 15")
            });
        }
        if let Some(count) = count
            && (count == 0 || count % 32 != 0)
        {
            cx.report(kind, Space::Register, mask, || {
                format!("a barrier for {count} threads; it must be for whole warps of 32, at least one")
            });
        }
    }
    (number & 15, count.map_or(0, |n| n.clamp(1, 1024).next_multiple_of(32)))
}

/// Reports registers that the instruction reads in lanes where nothing has set them.
#[cold]
fn check_unset(cx: &mut Cx<'_>) {
    let launch = cx.launch;
    for r in launch.code.unset_reads.get(&cx.pc).into_iter().flatten() {
        let unset = cx.mask & !cx.warp.tracked[*r as usize];
        if unset != 0 {
            let name = &launch.code.tracked[*r as usize];
            cx.report(FindingKind::UninitialisedRead, Space::Register, unset, || {
                format!("register {name} is read before it is set")
            });
            // Once a lane is enough.
            cx.warp.tracked[*r as usize] |= unset;
        }
    }
}

#[cold]
fn set_tracked(cx: &mut Cx<'_>, mask: u32) {
    let code = cx.launch.code;
    let known = match code.tracked_copies.get(&cx.pc) {
        Some(Some(source)) => cx.warp.tracked[*source as usize],
        _ => !0,
    };
    for r in code.tracked_writes.get(&cx.pc).into_iter().flatten() {
        let tracked = &mut cx.warp.tracked[*r as usize];
        *tracked = (*tracked & !mask) | (known & mask);
    }
}
