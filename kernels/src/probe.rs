//! What a core can do at best: the yardsticks that measurements are given in shares of.

use crate::backend::Kernel;
use crate::isa::{Isa, Vector};
use core::hint::black_box;

/// Multiplies and adds in registers, in chains that do not wait for each other: the f32 peak.
///
/// Its output is the number of floating-point operations done, two to a multiply-add.
///
/// ```
/// use tilewright_kernels::{Backend, probe::Peak};
/// let started = std::time::Instant::now();
/// let flops = Backend::best().run(Peak { steps: 1000 });
/// println!("{:.0} GFLOP/s", flops as f64 / started.elapsed().as_nanos() as f64);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// Length of each chain.
    pub steps: usize,
}

impl Kernel for Peak {
    type Output = u64;

    crate::backend::compile_here!();

    fn reference(self) -> u64 {
        let (factor, term) = black_box((0.5f64, 1.0));
        let mut chain = black_box(1.0);
        for _ in 0..self.steps {
            chain = chain * factor + term;
        }
        black_box(chain);
        2 * self.steps as u64
    }

    fn eval<I: Isa>(self, isa: I) -> u64 {
        // Four cycles of latency times four ports is the most that is known; the chains, the factor
        // and the term must fit the registers, of which AVX2 and SSE2 have 16.
        if I::MR * I::NR / I::V::LANES >= 16 {
            chains::<I, 16>(isa, self.steps)
        } else {
            chains::<I, 12>(isa, self.steps)
        }
    }
}

/// `C` chains of `steps` multiply-adds.
fn chains<I: Isa, const C: usize>(isa: I, steps: usize) -> u64 {
    isa.run(
        #[inline(always)]
        || {
            // Converges to 2: neither denormal nor infinite, and unknown to the compiler.
            let (factor, term) = black_box((0.5, 1.0));
            let (factor, term) = (I::V::splat(isa, factor), I::V::splat(isa, term));
            let mut chains = [I::V::splat(isa, black_box(1.0)); C];
            for _ in 0..steps {
                for chain in &mut chains {
                    *chain = chain.mul_add(factor, term);
                }
            }
            let mut total = I::V::splat(isa, 0.0);
            for chain in chains {
                total = total + chain;
            }
            black_box(total.sum());
        },
    );
    2 * (steps * C * I::V::LANES) as u64
}

/// Reads a slice from end to end, `passes` times: the bandwidth of the cache or memory it fits in.
///
/// Its output is the number of bytes read.
#[derive(Clone, Copy, Debug)]
pub struct Read<'a> {
    /// What is read.
    pub data: &'a [f32],
    /// How many times.
    pub passes: usize,
}

impl Read<'_> {
    fn bytes(&self) -> u64 {
        (self.passes * size_of_val(self.data)) as u64
    }
}

impl Kernel for Read<'_> {
    type Output = u64;

    crate::backend::compile_here!();

    fn reference(self) -> u64 {
        for _ in 0..self.passes {
            black_box(black_box(self.data).iter().map(|&x| f64::from(x)).sum::<f64>());
        }
        self.bytes()
    }

    fn eval<I: Isa>(self, isa: I) -> u64 {
        isa.run(
            #[inline(always)]
            || {
                // Eight sums: two loads a cycle into additions of four cycles.
                let mut sums = [I::V::splat(isa, 0.0); 8];
                for _ in 0..self.passes {
                    for block in black_box(self.data).chunks(8 * I::V::LANES) {
                        if block.len() == 8 * I::V::LANES {
                            for (sum, x) in sums.iter_mut().zip(block.chunks_exact(I::V::LANES)) {
                                *sum = *sum + I::V::load(isa, x);
                            }
                        } else {
                            for x in block.chunks(I::V::LANES) {
                                sums[0] = sums[0] + I::V::load_partial(isa, x, 0.0);
                            }
                        }
                    }
                }
                let mut total = I::V::splat(isa, 0.0);
                for sum in sums {
                    total = total + sum;
                }
                black_box(total.sum());
            },
        );
        self.bytes()
    }
}
