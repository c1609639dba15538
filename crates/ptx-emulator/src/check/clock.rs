//! Which accesses of one warp come before which of another: a logical clock for each block.
//!
//! The clock advances when a barrier completes, when a warp arrives at one without waiting, and at fences: a warp that has
//! passed a fence publishes what it did before to the location of its next atomic, and a warp that looks at that location
//! by an atomic learns it (between blocks this is the business of [`super::sync::Sync`]). `seen(me, other)` is the time before which all that `other` did comes before
//! what `me` does now.

use std::collections::HashMap;

/// A block's clock.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// Now, from 1.
    pub time: u32,
    warps: usize,
    /// `warps × warps`.
    seen: Vec<u32>,
    /// By warp: all that any warp did before this time comes before what the warp does now.
    full: Vec<u32>,
    /// By location: what was published there, as `seen` of the warps that did.
    published: HashMap<u64, Vec<u32>>,
    /// By warp: time of its last fence (0: none), and of its last that reaches other blocks.
    fences: Vec<(u32, u32)>,
    /// There was an access since the clock last advanced for a fence.
    accessed: bool,
    /// Warps that have accessed memory since their last fence that reaches other blocks.
    unfenced: u32,
}

impl Clock {
    /// Starts again for a block of `warps` warps.
    pub fn start(&mut self, warps: usize) {
        self.time = 1;
        self.warps = warps;
        self.seen.clear();
        self.seen.resize(warps * warps, 1);
        self.full.clear();
        self.full.resize(warps, 1);
        self.published.clear();
        self.fences.clear();
        self.fences.resize(warps, (0, 0));
        self.accessed = false;
        self.unfenced = 0;
    }

    /// Notes that `me` accesses memory now.
    #[inline(always)]
    pub fn access(&mut self, me: u32) {
        self.accessed = true;
        self.unfenced |= 1 << me;
    }

    /// A fence of `me`, for the block or also for others: all accesses so far have an earlier time.
    pub fn fence(&mut self, me: u32, for_all: bool) {
        if std::mem::take(&mut self.accessed) {
            self.time += 1;
        }
        let fences = &mut self.fences[me as usize];
        fences.0 = self.time;
        if for_all {
            fences.1 = self.time;
            self.unfenced &= !(1 << me);
        }
    }

    /// `me` publishes at `location` what it did before its last fence, and what it knew of others.
    pub fn publish(&mut self, me: u32, location: u64) {
        let (n, time) = (self.warps, self.fences[me as usize].0);
        if time == 0 {
            return;
        }
        let there = self.published.entry(location).or_insert_with(|| vec![0; n]);
        let mine = &self.seen[me as usize * n..][..n];
        there.iter_mut().zip(mine).for_each(|(t, m)| *t = (*t).max(*m));
        there[me as usize] = there[me as usize].max(time);
    }

    /// What `me` may publish to other blocks: what it did before the first time, and what all warps of its block did before
    /// the second. Of other warps that is what `me` knows, and a fence of theirs, or its own, came after.
    pub fn for_blocks(&self, me: u32) -> (u32, u32) {
        // Who has done nothing since its fence has all behind it.
        let fenced = |w: usize| if self.unfenced >> w & 1 != 0 { self.fences[w].1 } else { self.time };
        let me = me as usize;
        let row = &self.seen[me * self.warps..][..self.warps];
        let of = |(w, seen): (usize, &u32)| {
            if w == me { fenced(w) } else { fenced(w).max(self.fences[me].1).min(*seen) }
        };
        (fenced(me), row.iter().enumerate().map(of).min().unwrap_or(0))
    }

    /// `me` looks at `location` and learns what is published there.
    pub fn learn(&mut self, me: u32, location: u64) {
        if self.published.is_empty() {
            return;
        }
        if let Some(there) = self.published.get(&location) {
            let n = self.warps;
            let mine = &mut self.seen[me as usize * n..][..n];
            mine.iter_mut().zip(there).for_each(|(m, t)| *m = (*m).max(*t));
        }
    }

    /// Whether what `other` did at `time` comes before what `me` does now.
    #[inline(always)]
    pub fn ordered(&self, me: u32, other: u32, time: u32) -> bool {
        me == other
            || time < self.full[me as usize]
            || time < self.seen[me as usize * self.warps + other as usize]
    }

    /// See [`Clock::full`].
    #[inline(always)]
    pub fn full(&self, me: u32) -> u32 {
        self.full[me as usize]
    }

    /// A barrier completed: `waiting` warps go on, after all that `arrived` warps did before their time of arrival.
    pub fn barrier(&mut self, waiting: u32, arrived: &[Option<u32>]) {
        self.time += 1;
        let n = self.warps;
        let mut joined = vec![0; n];
        for (p, at) in arrived.iter().enumerate().take(n) {
            if let Some(at) = *at {
                for x in 0..n {
                    joined[x] = self.seen[p * n + x].max(joined[x]);
                }
                joined[p] = joined[p].max(if waiting >> p & 1 != 0 { self.time } else { at });
            }
        }
        let full = joined.iter().copied().min().unwrap_or(0);
        for w in (0..n).filter(|w| waiting >> w & 1 != 0) {
            for x in 0..n {
                let seen = &mut self.seen[w * n + x];
                *seen = joined[x].max(*seen);
            }
            self.full[w] = full.max(self.full[w]);
        }
    }

    /// Advances by one and tells the new time.
    pub fn tick(&mut self) -> u32 {
        self.time += 1;
        self.time
    }
}
