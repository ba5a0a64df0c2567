//! Loops that keep one unit of a core busy: multiply-adds between registers, and loads. They are assembly, so
//! that no compiler changes the measured instructions.
//!
//! ```text
//! chain 0   acc += a b      acc += a b      ..      each waits for the one above it in its own
//! chain 1     acc += a b      acc += a b    ..      chain alone: `chains` at a time hide the latency
//! ..                                                of all but the first
//! ```
//!
//! Latency times ports is how many chains it takes: 4 to 5 cycles x 2 ports for the multiply-adds of
//! x86, of which 12 fit the 16 registers of AVX2 and 24 the 32 of AVX-512; up to 5 cycles x 4 ports on
//! aarch64, of which 24 fit; 52 cycles of latency over 16 of work for the tiles of AMX, of which 4 fit
//! with two of A and two of B.
//!
//! Every a and b is 1/2 (integers: 1), and all sums start there. They grow by 1/4 until that is less
//! than half of their last place, and stay: no infinity, no denormal. Integers wrap.

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

/// A loop of multiply-adds: a row of the table.
#[derive(Debug)]
pub(crate) struct MultiplyAdds {
    /// `f32 avx512`: the dtype, and what std calls the feature (or the instruction, where it has two).
    pub name: &'static str,
    /// Multiply-adds of one step, which is one instruction of every chain.
    each_step: u64,
    /// True if this CPU and its operating system can run the loop.
    detect: fn() -> bool,
    /// Runs a number of steps. Call it only where `detect` returns true.
    run: unsafe fn(usize),
}

/// A row whose instructions have been detected: the proof that it may be run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detected(&'static MultiplyAdds);

impl Detected {
    /// All rows that this CPU can run.
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

/// The names of all rows, those that this CPU can run or not.
pub(crate) const NAMES: &[&str] = &{
    let mut names = [""; BY_HAND.len() + PORTABLE.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = if i < BY_HAND.len() { BY_HAND[i].name } else { PORTABLE[i - BY_HAND.len()].name };
        i += 1;
    }
    names
};

/// Chains of the portable loop, which with a and b leave two of SSE2's 16 registers.
const PORTABLE_CHAINS: usize = 12;

/// Multiply-adds of the portable backend, as the compiler vectorises them.
const PORTABLE: &[MultiplyAdds] = &[MultiplyAdds {
    name: "f32 portable",
    each_step: (PORTABLE_CHAINS * <Portable as Isa>::V::LANES) as u64,
    detect: || true,
    run: |steps| {
        let splat = |x| <Portable as Isa>::V::splat(Portable, x);
        // Unknown to the compiler.
        let (a, b, mut sums) = black_box((splat(0.5), splat(0.5), [splat(0.5); PORTABLE_CHAINS]));
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = a.mul_add(b, *sum);
            }
        }
        black_box(sums);
    },
}];

/// Streams that a slice is read in: as a processor's prefetchers do not cross pages, more run ahead
/// where there are more pages to be in. From the memory of a Zen 4 it is 22 to 24 GB/s rather than 15 to
/// 19 in one stream, and no more in eight; caches do not care. Prefetch instructions made every level
/// slower (memory 15 to 18), for they take slots of loads.
const STREAMS: usize = 4;

/// Lines of each stream that one turn of a loop reads.
const LINES: usize = 2;

/// Four consecutive parts of a slice, all of them read at once by the loops below.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams {
    /// Where the first begins: at a cache line, for loads that straddle two take twice as long.
    first: *const f32,
    /// Bytes from stream to stream, a multiple of the bytes of a turn.
    stride: usize,
    /// Turns that read them all.
    turns: usize,
}

impl Streams {
    /// Whole turns of `data`, from its first cache line on.
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
/// `read` may be called: it reads `turns` turns of [`Streams`], if there are any, and needs nothing
/// else but instructions that this CPU has.
#[inline(always)]
#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
pub(super) unsafe fn read_by(read: unsafe fn(Streams), data: &[f32], passes: usize) -> u64 {
    let streams = Streams::of(data);
    if streams.turns == 0 {
        return 0;
    }
    for _ in 0..passes {
        // SAFETY: the streams lie in `data`; `read` may be called (precondition of this function).
        unsafe { read(streams) };
    }
    passes as u64 * streams.bytes()
}

/// Reads all of `data`, `passes` times, by the vectors of any instruction set. It sums the values: the compiler
/// would remove a load without a use.
#[inline(always)]
pub(super) fn read_sums<I: Isa>(isa: I, data: &[f32], passes: usize) -> u64 {
    isa.run(
        #[inline(always)]
        || {
            // Eight of them: two loads a cycle into additions of four cycles.
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
