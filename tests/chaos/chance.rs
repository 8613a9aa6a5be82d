//! Random numbers from a seed, the same on every machine.

use std::ops::Range;

/// A `SplitMix64` series, <https://prng.di.unimi.it/splitmix64.c>.
#[derive(Debug, Clone)]
pub(crate) struct Chance {
    state: u64,
}

impl Chance {
    /// The series of a seed for one purpose; those of different purposes have nothing to do with each other.
    pub(crate) fn new(seed: u64, purpose: u64) -> Self {
        let mut chance = Self {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ purpose.wrapping_mul(0xd1b5_4a32_d192_ed03),
        };
        chance.next();
        chance
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of a range.
    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.within(0..times) == 0
    }

    /// One of several.
    pub(crate) fn pick<'a, T>(&mut self, several: &'a [T]) -> &'a T {
        let at = self.within(0..several.len() as u64);
        &several[usize::try_from(at).unwrap_or_default()]
    }

    /// Puts several into a random order.
    pub(crate) fn shuffle<T>(&mut self, several: &mut [T]) {
        for at in (1..several.len()).rev() {
            let other = usize::try_from(self.within(0..at as u64 + 1)).unwrap_or_default();
            several.swap(at, other);
        }
    }
}
