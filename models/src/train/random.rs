//! Random numbers as a function of (seed, epoch, index, purpose): Philox4x32-10 by counters.
//!
//! ```text
//! key       (low half of seed, high half of seed)
//! counter   (block, low half of index, purpose << 24 | bits 32..56 of index, epoch)
//! ```
//! Each block gives four words of 32 bits. A generator lives as long as one example, so a run saves no state, and the
//! order in which threads make examples changes nothing.
//!
//! Purposes are at least 0x80. [`RandomBits`](tilewright_kernels::RandomBits) puts a site where the purpose is, so a
//! run whose sites stay below 2^31 shares no counter with it.
//!
//! The crate `rand` may change the values of its distributions between minor versions. The few distributions that the
//! objectives need are defined here.

use tilewright_kernels::philox4x32_10;

/// Use of random numbers. Each use has numbers of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// Order of examples.
    Order = 0x80,
    /// Order of documents.
    Documents = 0x81,
    /// Target length of a document's examples.
    Length = 0x82,
    /// Choice of an example's tokens.
    Tokens = 0x83,
    /// Noise of an example: masks, spans, permutations.
    Noise = 0x84,
}

/// Generator of one (seed, epoch, index, purpose).
///
/// ```
/// use tilewright::train::random::{Draws, Purpose};
/// let draws = || Draws::new(7, 0, 3, Purpose::Noise);
/// assert_eq!(draws().uniform(), draws().uniform());
/// assert!(draws().below(6) < 6);
/// ```
#[derive(Clone, Debug)]
pub struct Draws {
    key: [u32; 2],
    /// Counter of the next block.
    counter: [u32; 4],
    words: [u32; 4],
    /// Words of `words` that were drawn.
    drawn: usize,
}

impl Draws {
    /// Starts the numbers of an index below 2^56.
    pub fn new(seed: u64, epoch: u32, index: u64, purpose: Purpose) -> Self {
        debug_assert!(index >> 56 == 0, "index {index}");
        let high = (purpose as u32) << 24 | (index >> 32) as u32 & 0xff_ffff;
        Self {
            key: [seed as u32, (seed >> 32) as u32],
            counter: [0, index as u32, high, epoch],
            words: [0; 4],
            drawn: 4,
        }
    }

    /// Draws 32 bits.
    pub fn word(&mut self) -> u32 {
        if self.drawn == self.words.len() {
            self.words = philox4x32_10(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.drawn = 0;
        }
        self.drawn += 1;
        self.words[self.drawn - 1]
    }

    /// Draws 64 bits.
    pub fn bits(&mut self) -> u64 {
        u64::from(self.word()) | u64::from(self.word()) << 32
    }

    /// Draws a multiple of 2^-53 in \[0, 1), each with equal probability.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * 2f64.powi(-53)
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// Draws a number of `0..n`, each with equal probability: the high half of n times 64 bits, where products whose
    /// low half is below 2^64 mod n are drawn again (Lemire, "Fast random integer generation in an interval", 2019).
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "no number is below 0");
        let n = n as u64;
        let excess = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.bits()) * u128::from(n);
            if product as u64 >= excess {
                return (product >> 64) as usize;
            }
        }
    }

    /// Draws a number of `first..=last`, each with equal probability.
    ///
    /// # Panics
    /// If `last` is below `first`.
    pub fn between(&mut self, first: usize, last: usize) -> usize {
        first + self.below(last + 1 - first)
    }

    /// Draws from the Poisson distribution of mean `lambda`, for the small means of span lengths.
    ///
    /// Inversion: the least k with a uniform number below P(0) + .. + P(k). It takes one number and about `lambda`
    /// additions, and the sum in f64 is off by less than 2^-50 for means up to 100. Larger means would need another
    /// method, because e^-lambda underflows.
    ///
    /// # Panics
    /// If `lambda` is not in 0..=[`MAX_MEAN`].
    pub fn poisson(&mut self, lambda: f64) -> usize {
        assert!((0.0..=MAX_MEAN).contains(&lambda), "mean {lambda}");
        let u = self.uniform();
        let (mut k, mut p) = (0, (-lambda).exp());
        let mut sum = p;
        // The sum may round to a value below the largest `u`; p > 0 ends the search there.
        while u >= sum && p > 0.0 {
            k += 1;
            p *= lambda / k as f64;
            sum += p;
        }
        k
    }

    /// Moves a uniformly random subset of `n` items, in uniformly random order, to the front: the first `n` steps of
    /// the shuffle of Fisher and Yates. Shuffles all items if `n` is their number.
    pub fn choose<T>(&mut self, items: &mut [T], n: usize) {
        for i in 0..n.min(items.len()) {
            let other = self.between(i, items.len() - 1);
            items.swap(i, other);
        }
    }

    /// Shuffles items, each order with equal probability.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        self.choose(items, items.len());
    }

    /// A random permutation of `0..n`.
    pub fn permutation(&mut self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        self.shuffle(&mut order);
        order
    }
}

/// Largest mean of [`Draws::poisson`].
pub const MAX_MEAN: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(index: u64) -> Draws {
        Draws::new(11, 2, index, Purpose::Noise)
    }

    /// Asserts that a share of `n` trials is within 4.5 standard errors of `p`.
    fn near(count: usize, n: usize, p: f64) {
        let (share, error) = (count as f64 / n as f64, (p * (1.0 - p) / n as f64).sqrt());
        assert!((share - p).abs() <= 4.5 * error, "{share} of {n}, expected {p} +- {error}");
    }

    #[test]
    fn words_are_those_of_philox() {
        let mut draws = Draws::new(9 << 32 | 4, 5, 6 << 32 | 7, Purpose::Order);
        let words: Vec<u32> = (0..8).map(|_| draws.word()).collect();
        for (block, words) in words.chunks(4).enumerate() {
            assert_eq!(words, philox4x32_10([block as u32, 7, 0x8000_0006, 5], [4, 9]));
        }
    }

    #[test]
    fn every_argument_changes_the_bits() {
        let first = |seed, epoch, index, purpose| Draws::new(seed, epoch, index, purpose).bits();
        let all = [
            first(1, 1, 1, Purpose::Order),
            first(2, 1, 1, Purpose::Order),
            first(1 << 40 | 1, 1, 1, Purpose::Order),
            first(1, 2, 1, Purpose::Order),
            first(1, 1, 2, Purpose::Order),
            first(1, 1, 1 << 40 | 1, Purpose::Order),
            first(1, 1, 1, Purpose::Noise),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(!all[..i].contains(a), "{i}");
        }
    }

    #[test]
    fn numbers_below_n_are_uniform() {
        let (mut draws, n) = (draws(0), 60_000);
        let mut counts = [0; 6];
        (0..n).for_each(|_| counts[draws.below(6)] += 1);
        counts.iter().for_each(|&count| near(count, n, 1.0 / 6.0));
        // A product without rejection would give the lower half of this range with probability 2/3.
        let large = usize::MAX / 4 * 3;
        let low = (0..n).filter(|_| draws.below(large) < large / 2).count();
        near(low, n, 0.5);
        assert_eq!(draws.below(1), 0);
    }

    #[test]
    fn uniform_numbers_lie_in_the_unit_interval() {
        let mut draws = draws(1);
        let all: Vec<f64> = (0..40_000).map(|_| draws.uniform()).collect();
        assert!(all.iter().all(|u| (0.0..1.0).contains(u)));
        near(all.iter().filter(|&&u| u < 0.15).count(), all.len(), 0.15);
        assert!((0..1000).all(|_| draws.chance(1.0) && !draws.chance(0.0)));
    }

    #[test]
    fn poisson_has_its_probabilities() {
        for lambda in [0.5, 3.0, 20.0] {
            let (mut draws, n) = (draws(2), 50_000);
            let mut counts = [0; 64];
            (0..n).for_each(|_| counts[draws.poisson(lambda)] += 1);
            let mut p = (-lambda).exp();
            for (k, &count) in counts.iter().enumerate() {
                if p * n as f64 > 20.0 {
                    near(count, n, p);
                }
                p *= lambda / (k + 1) as f64;
            }
        }
        assert_eq!(draws(3).poisson(0.0), 0);
    }

    #[test]
    fn permutations_are_uniform() {
        let n = 24_000;
        let mut counts = std::collections::HashMap::new();
        for index in 0..n {
            *counts.entry(draws(index).permutation(4)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 24);
        counts.values().for_each(|&count| near(count, n as usize, 1.0 / 24.0));
        assert!(draws(0).permutation(0).is_empty());
    }

    #[test]
    fn chosen_items_are_a_uniform_subset() {
        let n = 20_000;
        let mut counts = [0; 5];
        for index in 0..n {
            let mut items = [0, 1, 2, 3, 4];
            draws(index).choose(&mut items, 2);
            items[..2].iter().for_each(|&i| counts[i] += 1);
        }
        counts.iter().for_each(|&count| near(count, n as usize, 0.4));
        let mut few = [1, 2];
        draws(0).choose(&mut few, 5);
        assert_eq!(few.iter().sum::<i32>(), 3);
    }
}
