//! Puts virtual registers into as few rows as their lives allow, so that a warp's register file stays in the cache.

use super::{Code, Liveness, NEGATED, NONE};
use crate::ptx::Class;

/// Words of a row of 32 lanes.
const ROW: u32 = 32;

/// Replaces virtual registers by rows (linear scan over their spans, Poletto and Sarkar 1999) and predicates by their index.
pub(crate) fn allocate(code: &mut Code) {
    let live = Liveness::new(&code.insts, &code.tables, code.classes.len());
    let mut order: Vec<u32> =
        (0..code.classes.len() as u32).filter(|r| live.spans[*r as usize].is_some()).collect();
    order.sort_by_key(|r| (live.spans[*r as usize], *r));
    let mut place = vec![NONE; code.classes.len()];
    // Ends and places in use, free places, next new place; for predicates, rows of 32 bits, rows of 64 bits.
    let mut pools: [Pool; 3] = Default::default();
    for r in order {
        let Some((first, last)) = live.spans[r as usize] else { continue };
        let pool = &mut pools[kind(code.classes[r as usize])];
        place[r as usize] = pool.take(first, last);
    }
    let [predicates, narrow, wide] = pools;
    let wide_start = narrow.next * ROW;
    for r in 0..place.len() {
        if place[r] != NONE {
            place[r] = match code.classes[r] {
                Class::Pred => place[r],
                Class::B16 | Class::B32 => place[r] * ROW,
                Class::B64 => wide_start + place[r] * 2 * ROW,
            };
        }
    }
    for inst in &mut code.insts {
        inst.registers_mut().for_each(|r| *r = place[*r as usize]);
        if inst.guard != NONE {
            inst.guard = place[(inst.guard & !NEGATED) as usize] | (inst.guard & NEGATED);
        }
    }
    code.register_words = (wide_start + wide.next * 2 * ROW) as usize;
    code.predicates = predicates.next as usize;
}

fn kind(class: Class) -> usize {
    match class {
        Class::Pred => 0,
        Class::B16 | Class::B32 => 1,
        Class::B64 => 2,
    }
}

#[derive(Default)]
struct Pool {
    /// By end, so that the first to end is found first.
    busy: std::collections::BTreeSet<(u32, u32)>,
    free: Vec<u32>,
    next: u32,
}

impl Pool {
    fn take(&mut self, first: u32, last: u32) -> u32 {
        while let Some(&(end, place)) = self.busy.first() {
            // A result never shares a row with a source of the same instruction: handlers may write before they read on.
            if end >= first {
                break;
            }
            self.busy.pop_first();
            self.free.push(place);
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        self.busy.insert((last, place));
        place
    }
}
