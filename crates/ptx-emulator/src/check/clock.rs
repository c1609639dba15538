//! Which accesses of one warp come before which of another: a logical clock for each block.
//!
//! The clock advances when a barrier completes, when a warp arrives at one without waiting, and when a block publishes what
//! it wrote (see [`super::global::Sync`]). `seen(me, other)` is the time before which all that `other` did comes before
//! what `me` does now.

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
