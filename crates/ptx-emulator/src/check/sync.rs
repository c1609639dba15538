//! What blocks know of each other through fences and atomics, for kernels that run on one thread.
//!
//! A block that executes a fence and then an atomic (or a store that others poll) publishes all it did before the fence; a
//! block that afterwards reads that location, by an atomic or a load meant for it, learns what was published there. Who has
//! read the latest value of a location also comes after all the atomics that made it, fence or not.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Which accesses of a block are known: those of all its warps before a time, and those of one before another, later one.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    all: u32,
    warp: u32,
    own: u32,
}

impl Seen {
    fn has(self, warp: u32, time: u32) -> bool {
        time < self.all || (warp == self.warp && time < self.own)
    }

    /// All that either knows, and perhaps more: of two warps' own times the lower one is taken to be that of all.
    fn join(&mut self, other: Self) {
        self.all = self.all.max(other.all);
        if self.warp == other.warp {
            self.own = self.own.max(other.own);
        } else {
            self.all = self.all.max(self.own.min(other.own));
            if other.own > self.own {
                (self.warp, self.own) = (other.warp, other.own);
            }
        }
    }
}

/// By block: what is known of it.
type Times = HashMap<u64, Seen>;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Sync {
    state: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// By location: what is published there.
    at: HashMap<u64, Times>,
    /// By block: what comes before what the block does now.
    of: HashMap<u64, Times>,
    /// By location: how often it was changed.
    changes: HashMap<u64, u64>,
    /// By block and location: how many of its changes the block has seen.
    observed: HashMap<(u64, u64), u64>,
}

fn join(into: &mut Times, from: &Times) {
    for (block, seen) in from {
        into.entry(*block).or_default().join(*seen);
    }
}

/// A block's number as the shadow's words and all functions of [`Sync`] have it: from 1.
pub(crate) fn word_number(block: u64) -> u64 {
    (block + 1) & 0x1ff_ffff
}

impl Sync {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what a warp of block `other` did at `time` comes before what `block` does now.
    pub fn ordered(&self, block: u64, other: u64, warp: u32, time: u32) -> bool {
        let known = self.known();
        time == 0 || known.of.get(&block).and_then(|k| k.get(&other)).is_some_and(|seen| seen.has(warp, time))
    }

    /// Whether the block has seen the latest atomic's value of a location.
    pub fn has_observed(&self, block: u64, location: u64) -> bool {
        let known = self.known();
        let seen = known.observed.get(&(block, location));
        seen.is_some() && seen == known.changes.get(&location)
    }

    /// `block` changes `location`, or looks at its value, or both.
    pub fn meet(&self, block: u64, location: u64, changes: bool, observes: bool) {
        let known = &mut *self.known();
        let count = known.changes.entry(location).or_default();
        *count += u64::from(changes);
        if observes {
            known.observed.insert((block, location), *count);
            if let Some(there) = known.at.get(&location) {
                join(known.of.entry(block).or_default(), there);
            }
        }
    }

    /// A warp of `block` publishes at `location` what it did before the time `own`, what all warps of the block did before
    /// the time `all`, and what it knew of others.
    pub fn publish(&self, block: u64, location: u64, warp: u32, own: u32, all: u32) {
        let known = &mut *self.known();
        let mine = known.of.entry(block).or_default();
        mine.entry(block).or_default().join(Seen { all, warp, own });
        join(known.at.entry(location).or_default(), mine);
    }
}
