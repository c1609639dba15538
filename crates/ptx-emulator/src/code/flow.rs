//! Where diverged lanes meet again: the immediate post-dominator of each branch.

use super::{Control, Inst, NOWHERE};

/// In [`Inst::flags`] of a branch: the lanes that fall through go first.
pub(crate) const FALL_FIRST: u16 = 1 << 15;

/// Successors of the instruction at `at`; leaving the kernel is none.
pub(crate) fn successors(insts: &[Inst], tables: &[Vec<u32>], at: usize) -> Vec<usize> {
    let inst = &insts[at];
    let next = at + 1;
    let falls = |mut all: Vec<usize>| {
        if next < insts.len() && !all.contains(&next) {
            all.push(next);
        }
        all
    };
    match inst.control {
        Control::Branch if inst.guard == super::NONE => vec![inst.target as usize],
        Control::Branch => falls(vec![inst.target as usize]),
        Control::Table => {
            let mut all: Vec<usize> = tables[inst.target as usize].iter().map(|t| *t as usize).collect();
            all.sort_unstable();
            all.dedup();
            if inst.guard == super::NONE { all } else { falls(all) }
        }
        Control::Exit | Control::Trap if inst.guard == super::NONE => Vec::new(),
        _ => falls(Vec::new()),
    }
}

/// Basic blocks: first instruction of each, in order.
pub(crate) fn leaders(insts: &[Inst], tables: &[Vec<u32>]) -> Vec<usize> {
    let mut is_leader = vec![false; insts.len()];
    if let Some(first) = is_leader.first_mut() {
        *first = true;
    }
    for at in 0..insts.len() {
        if matches!(insts[at].control, Control::Branch | Control::Table | Control::Exit | Control::Trap) {
            for s in successors(insts, tables, at) {
                is_leader[s] = true;
            }
            if at + 1 < insts.len() {
                is_leader[at + 1] = true;
            }
        }
    }
    (0..insts.len()).filter(|i| is_leader[*i]).collect()
}

/// The control-flow graph over basic blocks.
pub(crate) struct Graph {
    pub leaders: Vec<usize>,
    pub successors: Vec<Vec<usize>>,
    pub predecessors: Vec<Vec<usize>>,
}

impl Graph {
    pub fn new(insts: &[Inst], tables: &[Vec<u32>]) -> Self {
        let leaders = leaders(insts, tables);
        let mut block_of = vec![0; insts.len()];
        for (b, first) in leaders.iter().enumerate() {
            let end = leaders.get(b + 1).copied().unwrap_or(insts.len());
            block_of[*first..end].fill(b);
        }
        let mut graph = Self {
            successors: vec![Vec::new(); leaders.len()],
            predecessors: vec![Vec::new(); leaders.len()],
            leaders,
        };
        for b in 0..graph.leaders.len() {
            let last = graph.end(b, insts.len()) - 1;
            for s in successors(insts, tables, last) {
                graph.successors[b].push(block_of[s]);
                graph.predecessors[block_of[s]].push(b);
            }
        }
        graph
    }

    /// Past the last instruction of block `b`.
    pub fn end(&self, b: usize, insts: usize) -> usize {
        self.leaders.get(b + 1).copied().unwrap_or(insts)
    }
}

/// Sets [`Inst::meet`] of all branches: the first instruction of the immediate post-dominator's block, or [`NOWHERE`] where
/// lanes meet only by leaving the kernel. The algorithm is that of Cooper, Harvey and Kennedy ("A Simple, Fast Dominance
/// Algorithm", 2001) on the reversed graph, with one virtual exit.
pub(crate) fn reconvergence(insts: &mut [Inst], tables: &[Vec<u32>]) {
    let graph = Graph::new(insts, tables);
    let n = graph.leaders.len();
    let exit = n;
    let mut successors = without_dead_ends(&graph, insts);
    for list in &mut successors {
        if list.is_empty() {
            list.push(exit);
        }
    }
    let mut reversed = vec![Vec::new(); n + 1];
    for (b, list) in successors.iter().enumerate() {
        for s in list {
            reversed[*s].push(b);
        }
    }
    let mut number = vec![usize::MAX; n + 1];
    let mut order = post_order(&reversed, exit);
    // Blocks of endless loops never reach the exit: each loop gets an edge to it, where lanes leave it by a guarded exit if
    // they do, and otherwise from its last block. An edge from the kernel's first block would let nobody meet.
    let leaves = |b: &usize| insts[graph.end(*b, insts.len()) - 1].control == Control::Exit;
    let (leaving, staying): (Vec<usize>, Vec<usize>) = (0..n).rev().partition(leaves);
    for b in leaving.into_iter().chain(staying) {
        if !order.contains(&b) {
            successors[b].push(exit);
            reversed[exit].push(b);
            order = post_order(&reversed, exit);
        }
    }
    for (i, b) in order.iter().enumerate() {
        number[*b] = i;
    }
    let mut idom = vec![usize::MAX; n + 1];
    idom[exit] = exit;
    let mut changed = true;
    while changed {
        changed = false;
        for b in order.iter().rev().copied().filter(|b| *b != exit) {
            let mut new = usize::MAX;
            for s in successors[b].iter().copied().filter(|s| idom[*s] != usize::MAX) {
                new = if new == usize::MAX { s } else { intersect(&idom, &number, s, new) };
            }
            if idom[b] != new {
                idom[b] = new;
                changed = true;
            }
        }
    }
    for b in 0..n {
        let last = graph.end(b, insts.len()) - 1;
        let meet = idom[b];
        insts[last].meet = if meet >= n { NOWHERE } else { graph.leaders[meet] as u32 };
    }
}

/// Successors without those that only lead out of the kernel early. Lanes that leave meet nobody; the others must meet as
/// if these had never been there (a barrier after `if (error) { report(); return; }` is no divergent one). Branches with an
/// early way out on their fall-through side get [`FALL_FIRST`], so that lanes leave before others reach a barrier.
fn without_dead_ends(graph: &Graph, insts: &mut [Inst]) -> Vec<Vec<usize>> {
    let n = graph.leaders.len();
    let ends = (0..n).filter(|b| graph.successors[*b].is_empty());
    let reaching = |end: usize| {
        let mut reaches = vec![false; n];
        let mut stack = vec![end];
        while let Some(b) = stack.pop() {
            if !std::mem::replace(&mut reaches[b], true) {
                stack.extend(&graph.predecessors[b]);
            }
        }
        reaches
    };
    // The main way out is the one that most blocks reach, the last of equals.
    let main = ends.map(reaching).max_by_key(|r| r.iter().filter(|r| **r).count());
    let Some(main) = main else { return graph.successors.clone() };
    (0..n)
        .map(|b| {
            let all = &graph.successors[b];
            let kept: Vec<usize> = all.iter().copied().filter(|s| main[*s]).collect();
            if kept.is_empty() || kept.len() == all.len() {
                return all.clone();
            }
            let last = graph.end(b, insts.len()) - 1;
            if insts[last].control == Control::Branch && kept.contains(&block_at(graph, insts[last].target)) {
                insts[last].flags |= FALL_FIRST;
            }
            kept
        })
        .collect()
}

fn block_at(graph: &Graph, target: u32) -> usize {
    graph.leaders.partition_point(|l| *l <= target as usize) - 1
}

/// Branches straight to an unguarded `ret` leave at once.
pub(crate) fn leave_early(insts: &mut [Inst]) {
    for at in 0..insts.len() {
        if insts[at].control != Control::Branch {
            continue;
        }
        let mut target = insts[at].target as usize;
        let mut hops = 0;
        while insts[target].control == Control::Branch && insts[target].guard == super::NONE && hops < 8 {
            target = insts[target].target as usize;
            hops += 1;
        }
        if insts[target].control == Control::Exit && insts[target].guard == super::NONE {
            insts[at].control = Control::Exit;
        }
    }
}

fn intersect(idom: &[usize], number: &[usize], mut a: usize, mut b: usize) -> usize {
    while a != b {
        while number[a] < number[b] {
            a = idom[a];
        }
        while number[b] < number[a] {
            b = idom[b];
        }
    }
    a
}

fn post_order(edges: &[Vec<usize>], root: usize) -> Vec<usize> {
    let mut seen = vec![false; edges.len()];
    let mut order = Vec::new();
    let mut stack = vec![(root, 0)];
    seen[root] = true;
    while let Some((node, next)) = stack.pop() {
        if let Some(child) = edges[node].get(next) {
            stack.push((node, next + 1));
            if !seen[*child] {
                seen[*child] = true;
                stack.push((*child, 0));
            }
        } else {
            order.push(node);
        }
    }
    order
}
