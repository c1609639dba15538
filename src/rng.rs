//! Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, *Parallel Random
//! Numbers: As Easy as 1, 2, 3*, SC 2011).
//!
//! A block of four 32-bit words is a pure function of a 64-bit key and a 128-bit counter, so a value
//! depends on *what* is drawn, never on the order in which threads draw it, and a GPU kernel gets the
//! same bits. A [`Stream`] is named by (seed, stage, epoch, index).

/// The ten-round Philox4x32 function.
pub fn philox4x32(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    const M: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const W: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let (mut c, mut k) = (counter, key);
    for _ in 0..10 {
        let p0 = u64::from(M[0]) * u64::from(c[0]);
        let p1 = u64::from(M[1]) * u64::from(c[2]);
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
        k = [k[0].wrapping_add(W[0]), k[1].wrapping_add(W[1])];
    }
    c
}

/// What random numbers are drawn for; keeps the streams of different uses apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Initial weights; index: the parameter's position.
    Initialisation = 1,
    /// The order of samples in an epoch.
    Shuffle = 2,
    /// Augmentation; index: the sample.
    Augmentation = 3,
    /// Channel dropout; index: step and layer.
    Dropout = 4,
    /// The generated data set; index: the image.
    Synthesis = 5,
    /// Tests and benchmarks.
    Test = 6,
}

/// A stream of random numbers, restartable from its name alone.
#[derive(Debug, Clone)]
pub struct Stream {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

/// Consecutive words of a [`Stream`]: word i is word `i % 4` of the Philox block of `key` and the counter
/// `[i / 4, counter…]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Words {
    /// The key.
    pub key: [u32; 2],
    /// The counter's upper three words.
    pub counter: [u32; 3],
    /// Number of the first word.
    pub first: u64,
}

impl Stream {
    /// The stream named (seed, purpose, epoch, index).
    ///
    /// Seed and purpose make the key, so that two purposes never share a block; epoch and index are
    /// the upper words of the counter; 2³² blocks of four words follow.
    pub fn new(seed: u64, purpose: Purpose, epoch: u32, index: u64) -> Self {
        // One Philox call mixes the purpose into the key: 64 bits of seed do not leave room for it.
        let k = philox4x32([seed as u32, (seed >> 32) as u32], [purpose as u32, 0, 0, 0x5EED]);
        Self {
            key: [k[0], k[1]],
            counter: [0, epoch, index as u32, (index >> 32) as u32],
            block: [0; 4],
            used: 4,
        }
    }

    /// Takes the next `count` words without making them: a GPU does. They are words `first` and following of the
    /// stream, four a block.
    pub fn take_words(&mut self, count: usize) -> Words {
        let first = u64::from(self.counter[0]) * 4 - (4 - self.used as u64);
        let next = first + count as u64;
        self.counter[0] = (next / 4) as u32;
        self.used = 4;
        for _ in 0..next % 4 {
            self.next_u32();
        }
        let [_, counter @ ..] = self.counter;
        Words { key: self.key, counter, first }
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox4x32(self.key, self.counter);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// Uniform in [0, 1) with 24 bits.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in [low, high).
    pub fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    /// Uniform integer in 0..bound, `bound` ≥ 1, unbiased (Lemire's multiply and reject).
    pub fn below(&mut self, bound: u32) -> u32 {
        debug_assert!(bound > 0);
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u64::from(self.next_u32()) * u64::from(bound);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f32) -> bool {
        self.uniform() < p
    }

    /// Standard normal (Box–Muller, one of the pair).
    pub fn normal(&mut self) -> f32 {
        // 1 − u is in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * crate::math::ln_f64(1.0 - f64::from(self.uniform()))).sqrt();
        (radius * crate::math::cos_turns(f64::from(self.uniform()))) as f32
    }

    /// Shuffles `items` (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u32 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_taken_are_those_that_would_have_been_drawn() {
        for before in 0..6 {
            for count in 0..10 {
                let mut drawn = Stream::new(5, Purpose::Test, 2, 3);
                let mut taken = drawn.clone();
                (0..before).for_each(|_| assert_eq!(drawn.next_u32(), taken.next_u32()));
                let words = taken.take_words(count);
                assert_eq!(words.first, before);
                for i in words.first..words.first + count as u64 {
                    let [a, b, c] = words.counter;
                    let block = philox4x32(words.key, [(i / 4) as u32, a, b, c]);
                    assert_eq!(drawn.next_u32(), block[(i % 4) as usize], "{before} {count}");
                }
                assert_eq!(drawn.next_u32(), taken.next_u32(), "{before} {count}");
            }
        }
    }

    #[test]
    fn known_answers() {
        // From the Random123 distribution's kat_vectors, philox4x32 10.
        assert_eq!(philox4x32([0; 2], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32([u32::MAX; 2], [u32::MAX; 4]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32([0xa409_3822, 0x299f_31d0], [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn streams_differ_and_restart() {
        let draw = |p, e, i| Stream::new(7, p, e, i).next_u32();
        let base = draw(Purpose::Shuffle, 1, 2);
        assert_eq!(base, draw(Purpose::Shuffle, 1, 2));
        assert_ne!(base, draw(Purpose::Dropout, 1, 2));
        assert_ne!(base, draw(Purpose::Shuffle, 2, 2));
        assert_ne!(base, draw(Purpose::Shuffle, 1, 3));
    }

    #[test]
    fn moments() {
        let mut s = Stream::new(1, Purpose::Test, 0, 0);
        let n = 200_000;
        let (mut sum, mut squares) = (0.0f64, 0.0f64);
        for _ in 0..n {
            let v = f64::from(s.normal());
            sum += v;
            squares += v * v;
        }
        // Five standard errors.
        assert!((sum / n as f64).abs() < 5.0 / (n as f64).sqrt());
        assert!((squares / n as f64 - 1.0).abs() < 5.0 * (2.0 / n as f64).sqrt());
        let mut seen = [0u32; 5];
        for _ in 0..n {
            seen[s.below(5) as usize] += 1;
        }
        let expected = n as f64 / 5.0;
        assert!(seen.iter().all(|&c| (f64::from(c) - expected).abs() < 5.0 * expected.sqrt()));
    }
}
