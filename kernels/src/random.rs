//! Random numbers that are the same on every machine and in every version: initial weights, and arguments of tests.

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts the sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Returns a number uniform in [-1, 1).
    pub fn unit(&mut self) -> f32 {
        // 24 bits: multiples of 2^-23 in [-1, 1), all of which f32 represents.
        (self.bits() >> 40) as f32 * 2f32.powi(-23) - 1.0
    }

    /// Returns a number of `0..n`, for n > 0; the bias is at most n / 2^64.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// Returns a nearly normal number of mean 0 and deviation 1: a sum of four uniform numbers. It needs no logarithm or
    /// cosine, whose results depend on the platform.
    pub fn normal(&mut self) -> f32 {
        let bits = self.bits();
        let sum: f32 = (0..4).map(|i| ((bits >> (16 * i)) & 0xffff) as f32).sum();
        // A uniform number over [0, 65535] has deviation 65536 / sqrt(12).
        (sum - 2.0 * 65535.0) * (3f32.sqrt() / 65536.0)
    }
}
