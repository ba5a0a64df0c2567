//! Loops that keep one unit of a core busy: multiply-adds between registers, and loads. They are assembly, so
//! that no compiler changes the measured instructions.
//!
//! ```text
//! chain 0   acc += a b      acc += a b      ..      a multiply-add waits only for the previous one of
//! chain 1     acc += a b      acc += a b    ..      its chain; parallel chains hide the latency
//! ..
//! ```
//!
//! A unit is busy if the chains number at least latency x instructions per cycle:
//!
//! ```text
//!                  needed               chains
//! AVX2, AVX-512    4 to 5 x 2 = 10      12 in 16 registers, 24 in 32
//! AArch64          up to 5 x 4 = 20     24 in 32 registers
//! AMX              52 / 16 = 4          4, with 2 tiles of A and 2 of B
//! ```
//!
//! Every a and b is 1/2 (integers: 1), and so is every initial sum. Float sums grow by 1/4 until 1/4 is less than half
//! of their last place, then stay: no infinity, no denormal. Integers wrap.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub(super) use aarch64::read_q;
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{read_ymm, read_zmm};

#[cfg(target_arch = "aarch64")]
use aarch64::LOOPS as BY_HAND;
#[cfg(target_arch = "x86_64")]
use x86::LOOPS as BY_HAND;
#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
const BY_HAND: &[MultiplyAdds] = &[];

use super::LINE;
use super::{Isa, Vector, portable::Portable};
use core::hint::black_box;

/// A loop of multiply-adds: one row of the table of loops.
#[derive(Debug)]
pub(crate) struct MultiplyAdds {
    /// Data type and feature, as std names it: `f32 avx512`. A feature with two instructions gives the instruction's name.
    pub name: &'static str,
    /// Multiply-adds of one step, which is one instruction of each chain.
    each_step: u64,
    /// True if this CPU and its operating system can run the loop.
    detect: fn() -> bool,
    /// Runs a number of steps. It may be called only where `detect` returns true.
    run: unsafe fn(usize),
}

/// Proof that this CPU can run a loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detected(&'static MultiplyAdds);

impl Detected {
    /// All loops that this CPU can run.
    pub fn all() -> impl Iterator<Item = Self> {
        BY_HAND.iter().chain(PORTABLE).filter(|row| (row.detect)()).map(Self)
    }

    /// [`MultiplyAdds::name`].
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Runs `steps` steps; returns the number of operations, two for each multiply-add.
    pub fn run(self, steps: usize) -> u64 {
        // SAFETY: a value of this type proves that `detect` was true.
        unsafe { (self.0.run)(steps) };
        2 * steps as u64 * self.0.each_step
    }
}

/// Names of all loops of this architecture, whether this CPU can run them or not.
pub(crate) const NAMES: &[&str] = &{
    let mut names = [""; BY_HAND.len() + PORTABLE.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = if i < BY_HAND.len() { BY_HAND[i].name } else { PORTABLE[i - BY_HAND.len()].name };
        i += 1;
    }
    names
};

/// Number of chains of the portable loop: with a and b they leave two of SSE2's 16 registers.
const PORTABLE_CHAINS: usize = 12;

/// Multiply-adds of the portable backend, as the compiler vectorises them.
const PORTABLE: &[MultiplyAdds] = &[MultiplyAdds {
    name: "f32 portable",
    each_step: (PORTABLE_CHAINS * <Portable as Isa>::V::LANES) as u64,
    detect: || true,
    run: |steps| {
        let splat = |x| <Portable as Isa>::V::splat(Portable, x);
        // The compiler must not know the values.
        let (a, b, mut sums) = black_box((splat(0.5), splat(0.5), [splat(0.5); PORTABLE_CHAINS]));
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = a.mul_add(b, *sum);
            }
        }
        black_box(sums);
    },
}];

/// Number of streams that a slice is read in. Hardware prefetchers do not cross pages, so streams in several pages
/// keep more of them at work.
///
/// From memory, a Zen 4 core reads 22 to 24 GB/s in four streams, 15 to 19 GB/s in one, and no more in eight. From
/// caches, streams make no difference. Prefetch instructions slowed every level (memory: 15 to 18 GB/s), because they
/// take slots of loads.
const STREAMS: usize = 4;

/// Cache lines of each stream that one turn of a loop reads.
const LINES: usize = 2;

/// Four consecutive parts of a slice, which a loop reads side by side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams {
    /// Start of the first stream. It is aligned to a cache line: a load that straddles two lines takes twice as long.
    first: *const f32,
    /// Bytes from stream to stream, a multiple of the bytes of a turn.
    stride: usize,
    /// Number of turns that read all streams.
    turns: usize,
}

impl Streams {
    /// Cuts the whole turns of `data` into streams, from its first cache line on.
    fn of(data: &[f32]) -> Self {
        let skip = data.as_ptr().align_offset(LINE).min(data.len());
        let data = &data[skip..];
        let turns = size_of_val(data) / (STREAMS * LINES * LINE);
        Self { first: data.as_ptr(), stride: turns * LINES * LINE, turns }
    }

    fn bytes(&self) -> u64 {
        (STREAMS * self.stride) as u64
    }
}

/// Reads the whole turns of `data`, `passes` times, by `read`; returns the bytes read.
///
/// # Safety
/// - This CPU supports the instructions of `read`.
/// - `read` has no other precondition than that its [`Streams`] are valid for reads and have at least one turn.
#[inline(always)]
#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
pub(super) unsafe fn read_by(read: unsafe fn(Streams), data: &[f32], passes: usize) -> u64 {
    let streams = Streams::of(data);
    if streams.turns == 0 {
        return 0;
    }
    for _ in 0..passes {
        // SAFETY: the streams lie in `data` and have at least one turn (checked above). This CPU supports the
        // instructions of `read`, which has no other precondition (preconditions of `read_by`).
        unsafe { read(streams) };
    }
    passes as u64 * streams.bytes()
}

/// Reads all of `data`, `passes` times, by the vectors of any instruction set; returns the bytes read. It sums the
/// values, because the compiler would remove unused loads.
#[inline(always)]
pub(super) fn read_sums<I: Isa>(isa: I, data: &[f32], passes: usize) -> u64 {
    isa.run(
        #[inline(always)]
        || {
            // Eight chains: two loads a cycle, each added with a latency of four cycles.
            let mut sums = [I::V::splat(isa, 0.0); 8];
            for _ in 0..passes {
                for block in black_box(data).chunks(8 * I::V::LANES) {
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
            black_box(sums);
        },
    );
    (passes * size_of_val(data)) as u64
}
