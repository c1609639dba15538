//! Which registers hold a value that is still wanted, and which may be read before they are set.

use super::flow::Graph;
use super::{Inst, NONE};

/// A set of small numbers.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    pub fn new(size: usize, full: bool) -> Self {
        Self(vec![if full { !0 } else { 0 }; size.div_ceil(64)])
    }

    pub fn has(&self, i: u32) -> bool {
        self.0[i as usize / 64] >> (i % 64) & 1 != 0
    }

    pub fn set(&mut self, i: u32, value: bool) {
        let bit = 1 << (i % 64);
        if value {
            self.0[i as usize / 64] |= bit;
        } else {
            self.0[i as usize / 64] &= !bit;
        }
    }

    fn or(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }

    fn and(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a &= b);
    }
}

/// Each register's stretch of the code: from the first to the last instruction where it is live. A register is live for a
/// lane as for a single thread: lanes write only their own part of a row, so divergence does not matter.
pub(crate) struct Liveness {
    /// By register: first and last position; `None` for registers that nothing mentions.
    pub spans: Vec<Option<(u32, u32)>>,
}

impl Liveness {
    pub fn new(insts: &[Inst], tables: &[Vec<u32>], registers: usize) -> Self {
        let graph = Graph::new(insts, tables);
        let n = graph.leaders.len();
        let mut live_in = vec![Bits::new(registers, false); n];
        let mut live_out = live_in.clone();
        let mut changed = true;
        while changed {
            changed = false;
            for b in (0..n).rev() {
                let mut live = Bits::new(registers, false);
                for s in &graph.successors[b] {
                    live.or(&live_in[*s]);
                }
                live_out[b] = live.clone();
                for at in (graph.leaders[b]..graph.end(b, insts.len())).rev() {
                    let inst = &insts[at];
                    // A guarded instruction may leave the old value in place.
                    if inst.guard == NONE {
                        inst.defs().for_each(|r| live.set(r, false));
                    }
                    inst.uses().for_each(|r| live.set(r, true));
                }
                if live != live_in[b] {
                    live_in[b] = live;
                    changed = true;
                }
            }
        }
        let mut spans: Vec<Option<(u32, u32)>> = vec![None; registers];
        let mut touch = |r: u32, at: usize| {
            let span = spans[r as usize].get_or_insert((at as u32, at as u32));
            span.0 = span.0.min(at as u32);
            span.1 = span.1.max(at as u32);
        };
        for b in 0..n {
            let (first, end) = (graph.leaders[b], graph.end(b, insts.len()));
            for r in 0..registers as u32 {
                if live_in[b].has(r) {
                    touch(r, first);
                }
                if live_out[b].has(r) {
                    touch(r, end - 1);
                }
            }
            for at in first..end {
                insts[at].uses().for_each(|r| touch(r, at));
                insts[at].defs().for_each(|r| touch(r, at));
            }
        }
        Self { spans }
    }
}

/// Reads of registers that some path reaches without setting them: (instruction, register). `is_copy` tells instructions
/// that only hand a register on; they are never at fault, but their result is as unset as their source.
pub(crate) fn unset_reads(
    insts: &[Inst],
    tables: &[Vec<u32>],
    registers: usize,
    is_copy: impl Fn(usize) -> bool,
) -> Vec<(u32, u32)> {
    let graph = Graph::new(insts, tables);
    let n = graph.leaders.len();
    let mut out = vec![Bits::new(registers, true); n];
    let start = |b: usize, out: &[Bits]| {
        let mut set = Bits::new(registers, b != 0);
        for p in &graph.predecessors[b] {
            set.and(&out[*p]);
        }
        set
    };
    let step = |set: &mut Bits, at: usize| {
        let inst = &insts[at];
        let known = !is_copy(at) || inst.uses().all(|r| set.has(r));
        if inst.guard == NONE {
            inst.defs().for_each(|r| set.set(r, known));
        } else if !known {
            inst.defs().for_each(|r| set.set(r, false));
        }
    };
    let mut changed = true;
    while changed {
        changed = false;
        for b in 0..n {
            let mut set = start(b, &out);
            for at in graph.leaders[b]..graph.end(b, insts.len()) {
                step(&mut set, at);
            }
            if set != out[b] {
                out[b] = set;
                changed = true;
            }
        }
    }
    let mut reads = Vec::new();
    for b in 0..n {
        // Code that nothing reaches has all registers set, by the convention above.
        let mut set = start(b, &out);
        for at in graph.leaders[b]..graph.end(b, insts.len()) {
            reads.extend(insts[at].uses().filter(|r| !set.has(*r)).map(|r| (at as u32, r)));
            step(&mut set, at);
        }
    }
    reads
}
