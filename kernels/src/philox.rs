//! Random bits as a function: Philox4x32-10.
//!
//! ```text
//! (c0, c1, c2, c3) -> (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0))
//!
//! ten times; in between k0 += W0, k1 += W1.  hi, lo: halves of the product of 64 bits
//! ```
//! Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Constants are those of the
//! authors' Random123. Nothing is stored: a resumed run, another number of threads and the backward pass get equal bits.
//!
//! [`RandomBits`] gives 32 bits to each element (row, column) of a site in a step:
//!
//! ```text
//! key       (low half of seed, high half of seed)
//! counter   (16 floor(column / 64) + column mod 16, row, site, step)
//! bits      word floor(column / 16) mod 4 of the result
//!
//! column   |  0 .. 15 | 16 .. 31 | 32 .. 47 | 48 .. 63 | 64 .. 79 | ..
//! c0       |  0 .. 15 |  0 .. 15 |  0 .. 15 |  0 .. 15 | 16 .. 31 | ..
//! word     |     0    |     1    |     2    |     3    |     0    | ..
//! ```
//! 16 counters give 4 words each, for a span of 64 columns, and every vector of up to 16 lanes holds one word of
//! consecutive counters. So no result is moved between lanes.
//!
//! Products of 64 bits exist for even lanes only. Two states run side by side: the counters of the even lanes, and the
//! counters of the odd lanes moved down by one lane. Odd lanes of a state hold garbage. Each round takes two products,
//! two exchanges of lanes and four exclusive ors.

use crate::isa::{Isa, MAX_LANES, Vector};

/// Multipliers of c0 and c2.
const M: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];

/// Increments of the key: the golden ratio, and sqrt(3) - 1.
const W: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];

/// Rounds; the authors found no flaw from 7 on.
const ROUNDS: usize = 10;

/// Philox4x32-10 of a counter and a key.
///
/// ```
/// use tilewright_kernels::philox4x32_10;
/// assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
/// ```
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter, key);
    for _ in 0..ROUNDS {
        let (p0, p1) = (u64::from(M[0]) * u64::from(c[0]), u64::from(M[1]) * u64::from(c[2]));
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
        k = next(k);
    }
    c
}

/// Random bits of one place of a model in one step of its training: a function of the row and the column.
///
/// The module's file, `philox.rs`, defines how they form counter and key of [`philox4x32_10`].
///
/// ```
/// use tilewright_kernels::{RandomBits, philox4x32_10};
/// let bits = RandomBits { seed: 7 << 32 | 5, step: 3, site: 2 };
/// assert_eq!(bits.at(9, 64 + 16 + 1), philox4x32_10([16 + 1, 9, 2, 3], [5, 7])[1]);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RandomBits {
    /// Seed of the run.
    pub seed: u64,
    /// Step of the run.
    pub step: u32,
    /// Place in the model: a number of its own for each use of random bits in a step.
    pub site: u32,
}

/// Columns whose bits are computed together.
pub(crate) const SPAN: usize = 64;

/// Counters of a span.
const COUNTERS: usize = SPAN / 4;

impl RandomBits {
    /// Bits of an element.
    pub fn at(self, row: u32, column: u32) -> u32 {
        let (span, within) = (column / SPAN as u32, column % SPAN as u32);
        let c0 = COUNTERS as u32 * span + within % COUNTERS as u32;
        philox4x32_10([c0, row, self.site, self.step], self.key())[(within / COUNTERS as u32) as usize]
    }

    fn key(self) -> [u32; 2] {
        [self.seed as u32, (self.seed >> 32) as u32]
    }

    /// Prepares vectors for [`BitLanes::span`].
    #[inline(always)]
    pub(crate) fn lanes<I: Isa>(self, isa: I) -> BitLanes<I> {
        let bits = |v: u32| I::V::splat_bits(isa, v);
        let numbers = I::V::load(isa, &LANE_NUMBERS);
        let mut keys = [[bits(0); 2]; ROUNDS];
        let mut key = self.key();
        for keys in &mut keys {
            *keys = [bits(key[0]), bits(key[1])];
            key = next(key);
        }
        BitLanes {
            numbers,
            even: numbers.and_bits(bits(1)).lt_bits(bits(1)),
            site: bits(self.site),
            step: bits(self.step),
            keys,
        }
    }
}

/// [`RandomBits`] for vectors.
pub(crate) struct BitLanes<I: Isa> {
    /// Numbers of the lanes.
    numbers: I::V,
    /// Lanes of even numbers.
    even: <I::V as Vector<I>>::Mask,
    site: I::V,
    step: I::V,
    /// Keys of all rounds: a load is cheaper than an addition and a broadcast.
    keys: [[I::V; 2]; ROUNDS],
}

impl<I: Isa> BitLanes<I> {
    /// Writes the bits of the [`SPAN`] columns from `SPAN * span` on, as the bits of floats.
    #[inline(always)]
    pub(crate) fn span(&self, isa: I, row: u32, span: u32, out: &mut [f32; SPAN]) {
        let bits = |v: u32| I::V::splat_bits(isa, v);
        for first in (0..COUNTERS).step_by(I::V::LANES) {
            let c0 = self.numbers.add_bits(bits(COUNTERS as u32 * span + first as u32));
            let mut even = [c0, bits(row), self.site, self.step];
            let mut odd = [c0.swap_pairs(), bits(row), self.site, self.step];
            for &keys in &self.keys {
                (even, odd) = (round(isa, even, keys), round(isa, odd, keys));
            }
            for (word, out) in out.chunks_exact_mut(COUNTERS).enumerate() {
                even[word].select(self.even, odd[word].swap_pairs()).store(&mut out[first..]);
            }
        }
    }
}

/// One round of the even lanes.
#[inline(always)]
fn round<I: Isa>(isa: I, c: [I::V; 4], key: [I::V; 2]) -> [I::V; 4] {
    let bits = |v: u32| I::V::splat_bits(isa, v);
    let (p0, p1) = (c[0].mul_even_bits(bits(M[0])), c[2].mul_even_bits(bits(M[1])));
    [p1.swap_pairs().xor_bits(c[1]).xor_bits(key[0]), p1, p0.swap_pairs().xor_bits(c[3]).xor_bits(key[1]), p0]
}

/// The key of the next round.
fn next(key: [u32; 2]) -> [u32; 2] {
    [key[0].wrapping_add(W[0]), key[1].wrapping_add(W[1])]
}

/// Bits 0, 1, .. of the lanes of a vector.
static LANE_NUMBERS: [f32; MAX_LANES] = {
    let mut numbers = [0.0; MAX_LANES];
    let mut i = 0;
    while i < MAX_LANES {
        numbers[i] = f32::from_bits(i as u32);
        i += 1;
    }
    numbers
};

const _: () = assert!(COUNTERS.is_multiple_of(MAX_LANES));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, Kernel};

    /// Counter, key and words of Random123's `kat_vectors`.
    const KNOWN: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([!0; 4], [!0; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];

    /// The bits of a span.
    struct Span(RandomBits, u32, u32);

    impl Kernel for Span {
        type Output = Vec<u32>;

        fn reference(self) -> Vec<u32> {
            let Self(random, row, span) = self;
            (0..SPAN as u32).map(|j| random.at(row, (SPAN as u32).wrapping_mul(span) + j)).collect()
        }

        fn eval<I: Isa>(self, isa: I) -> Vec<u32> {
            let mut out = [0.0; SPAN];
            isa.run(
                #[inline(always)]
                || self.0.lanes(isa).span(isa, self.1, self.2, &mut out),
            );
            out.iter().map(|x| x.to_bits()).collect()
        }
    }

    #[test]
    fn published_vectors() {
        for (counter, key, words) in KNOWN {
            assert_eq!(philox4x32_10(counter, key), words);
            let [c0, row, site, step] = counter;
            let random = RandomBits { seed: u64::from(key[1]) << 32 | u64::from(key[0]), step, site };
            for backend in Backend::available().iter().filter(|&&b| b != Backend::REFERENCE) {
                let span = backend.run(Span(random, row, c0 / COUNTERS as u32));
                let found = [0, 1, 2, 3].map(|word| span[COUNTERS * word + c0 as usize % COUNTERS]);
                assert_eq!(found, words, "{}", backend.name());
            }
        }
    }

    #[test]
    fn vectors_compute_the_definition() {
        let mut draw = crate::random::Random::new(5);
        for _ in 0..200 {
            let random = RandomBits { seed: draw.bits(), step: draw.bits() as u32, site: draw.bits() as u32 };
            // Columns below 2^32.
            let (row, span) = (draw.bits() as u32, draw.bits() as u32 % (1 << 26));
            let expected = Backend::REFERENCE.run(Span(random, row, span));
            for backend in Backend::available() {
                assert_eq!(backend.run(Span(random, row, span)), expected, "{}", backend.name());
            }
        }
    }
}
