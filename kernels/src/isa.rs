//! Instruction sets: the ground floor, which imports nothing else of this crate.
//!
//! [`Isa`] is a token. A value exists only where the CPU may execute the instructions, so holding one is the
//! proof. [`Vector`] is one register of `f32` lanes. Algorithms are written once, generic over both. A file
//! in `isa/` implements both for one instruction set, and the microkernels that are written by hand for it.
//!
//! Two rules make generic code compile to the instructions that it names:
//!
//! 1. It runs inside [`Isa::run`], the one function with `#[target_feature]`. Split threads outside of
//!    `run` and enter `run` in every task: a closure that another thread runs does not inherit the
//!    features, and its intrinsics become calls.
//! 2. Every function and closure below `run` is `#[inline(always)]`.

pub use lane::{Bf16Pair, I16Pair, Int8Quad, Lane};
pub use microkernel::{Dot, F32, I16, K_GROUPS, Microkernel, OuterProduct, Unavailable};
pub use vector::Vector;
pub(crate) use vector::bf16_bits;

use core::fmt::Debug;

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod intrinsics;
mod lane;
mod microkernel;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod portable;
pub(crate) mod probe;
pub(crate) mod tile;
mod vector;

pub(crate) mod sealed {
    /// Implemented only in this crate: an [`Isa`](super::Isa) is a promise about the CPU.
    pub trait Sealed {}
}

/// An instruction set whose presence has been detected: a zero-sized proof.
///
/// Only this crate implements it; a `Backend` of this crate hands them out.
pub trait Isa: sealed::Sealed + Copy + Send + Sync + Debug + 'static {
    /// One vector register.
    type V: Vector<Self>;

    /// Name, as in `TILEWRIGHT_ISA`.
    const NAME: &'static str;

    /// Most rows of C that one register tile holds.
    const MR: usize;

    /// Columns of C in one register tile, an even number of vectors; the width of a packed panel.
    const NR: usize;

    /// The token, if this CPU and its operating system support everything that the backend uses.
    fn detect() -> Option<Self>;

    /// Calls `f` with this instruction set enabled. `f`, and all that it calls and that should use
    /// the instruction set, must be `#[inline(always)]`.
    fn run<R>(self, f: impl FnOnce() -> R) -> R;

    /// Words that are pairs of bf16.
    type Bf16: Microkernel<Self>;

    /// Words that are quads of int8.
    type Int8: Microkernel<Self>;

    /// Words that are quads of int8, by an instruction on vectors.
    type DotInt8: Dot<Self>;

    /// The instruction on vectors that multiplies quads of int8: the first of its factors unsigned, unless
    /// [`Dot::SIGNED`], the second signed.
    fn dot_int8(self) -> Option<Self::DotInt8>;

    /// The fastest way of this CPU to multiply pairs of bf16, where that beats widening them to f32.
    fn bf16(self) -> Option<Self::Bf16>;

    /// The fastest way of this CPU to multiply quads of int8.
    fn int8(self) -> Option<Self::Int8>;

    /// The register tile: multiplies `rows` rows of A with one panel of B.
    ///
    /// # Safety
    /// The bullets under [`Tile`] hold.
    #[inline(always)]
    unsafe fn gemm_tile(self, tile: Tile) {
        // SAFETY: The bullets under [`Tile`] hold (precondition of `gemm_tile`).
        unsafe { self.dot_tile(F32, tile) }
    }

    /// As [`gemm_tile`](Self::gemm_tile), for operands packed in the k-groups of `dot`.
    ///
    /// # Safety
    /// The bullets under [`Tile`] hold, with k-groups in place of floats.
    unsafe fn dot_tile<D: Dot<Self>>(self, dot: D, tile: Tile<D::Operand, D::Sum>);

    /// Writes the transpose of the `LANES` x `LANES` block at `src` to `dst`.
    ///
    /// # Safety
    /// `src` is valid for reads of `LANES` floats at each of `LANES` rows, `src_stride` apart. `dst` is valid
    /// for writes of as many, `dst_stride` apart. The blocks do not overlap.
    unsafe fn transpose(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize);

    /// Calls `f(i, column i)` for each column of the `LANES` x `LANES` block at `src`, from the first on:
    /// its transpose, in registers where these suffice.
    ///
    /// # Safety
    /// `src` is valid for reads of `LANES` floats at each of `LANES` rows `src_stride` apart.
    #[inline(always)]
    unsafe fn columns(self, src: *const f32, src_stride: usize, mut f: impl FnMut(usize, Self::V)) {
        let mut block = [0.0; MAX_LANES * MAX_LANES];
        let lanes = Self::V::LANES;
        // SAFETY: `src` is valid for reads of `LANES` floats at each of `LANES` rows `src_stride` apart
        // (precondition of `columns`). The block has room.
        unsafe { self.transpose(src, src_stride, block.as_mut_ptr(), lanes) };
        for (i, column) in block.chunks_exact(lanes).take(lanes).enumerate() {
            f(i, Self::V::load(self, column));
        }
    }

    /// Asks for the cache line at `p` to be brought into L2; any address is allowed.
    fn prefetch(self, p: *const f32);

    /// Reads `data` from end to end, `passes` times, as fast as this instruction set can, and returns
    /// how many bytes that were.
    #[inline(always)]
    fn read(self, data: &[f32], passes: usize) -> u64 {
        probe::read_sums(self, data, passes)
    }
}

/// Bytes of a cache line.
pub const LINE: usize = 64;

/// Floats of a cache line.
pub const LINE_FLOATS: usize = LINE / size_of::<f32>();

/// Most lanes of a vector of any instruction set.
pub(crate) const MAX_LANES: usize = 16;

/// Longest block of k-steps that a microkernel multiplies at once, KC of the BLIS papers.
///
/// A microkernel's prologue and epilogue cost about 100 cycles, 3% of 256 k-steps. `KC * NR` floats of B
/// (48 KiB for the widest tile) need not stay in L1: the microkernel reads them in order, at a fifth of
/// L2's bandwidth. Measured against 256, large products are 1% (AVX-512) to 2% (AVX2) faster.
pub const KC: usize = 384;

/// Floats from one row of A to the next in a [`Tile`].
///
/// A compile-time constant: a microkernel addresses all rows from one pointer. [`KC`] plus one cache line
/// spreads the rows over the sets of L1; a power of two would map all rows to one set.
pub const A_STRIDE: usize = KC + LINE_FLOATS;

/// Arguments of [`Isa::gemm_tile`]: C\[i, j\] = (accumulate ? C\[i, j\] : 0) + sum over p of
/// A\[i, p\] B\[p, j\], for i < rows, j < NR, p < k, each sum one chain of fused multiply-adds with p
/// ascending, so that no choice of tile, block or path changes a bit of it.
///
/// # Safety
/// - `1 <= rows <= MR`;
/// - `a + i * A_STRIDE + p` is valid for reads;
/// - `b + p * b_stride + j` is valid for reads;
/// - `c + i * c_stride + j` is valid for writes, and for reads of initialised values;
/// - nothing written overlaps anything read from A or B.
#[derive(Clone, Copy, Debug)]
pub struct Tile<Operand = f32, Sum = f32> {
    /// Rows of A and C.
    pub rows: usize,
    /// Length of the sums.
    pub k: usize,
    /// A, rows `A_STRIDE` apart, unit stride along k.
    pub a: *const Operand,
    /// B, k-steps `b_stride` apart, unit stride along n.
    pub b: *const Operand,
    /// Distance between k-steps of B: `NR` in a packed panel.
    pub b_stride: usize,
    /// C, unit stride along n.
    pub c: *mut Sum,
    /// Distance between rows of C.
    pub c_stride: usize,
    /// True if the sums start from C, false if from zero.
    pub accumulate: bool,
    /// Memory to prefetch during the sums.
    pub prefetch: Prefetch,
}

impl Tile {
    /// The arguments of a microkernel for other lanes, in the same memory.
    #[inline(always)]
    pub fn typed<Operand: Lane, Sum: Lane>(self) -> Tile<Operand, Sum> {
        let Self { rows, k, a, b, b_stride, c, c_stride, accumulate, prefetch } = self;
        Tile { rows, k, a: a.cast(), b: b.cast(), b_stride, c: c.cast(), c_stride, accumulate, prefetch }
    }
}

/// Memory that is prefetched while a [`Tile`] is computed, in several streams, because the hardware's
/// own prefetchers do not cross pages and so run ahead in several (12 GB/s from memory, not 10).
#[derive(Clone, Copy, Debug)]
pub struct Prefetch {
    /// The first line of the first stream; any address is allowed.
    pub from: *const f32,
    /// Floats from stream to stream.
    pub stride: usize,
    /// Floats that every stream advances in four k-steps.
    pub step: usize,
}

impl Prefetch {
    /// Streams of a tile of `rows` rows; four k-steps prefetch one line of each stream.
    ///
    /// A tile of few rows has issue slots to spare: it prefetches as much as it reads of B. A taller tile
    /// prefetches half as much, which covers a panel if at least three tiles pass it.
    #[inline(always)]
    pub const fn streams<I: Isa>(rows: usize) -> usize {
        let lines = 4 * I::NR / LINE_FLOATS;
        if rows <= I::MR * 4 / 7 { lines } else { lines.div_ceil(2) }
    }

    /// The share of one of `tiles` tiles of `rows` rows and `k` k-steps in these floats.
    #[inline(always)]
    pub fn share<I: Isa>(
        (from, floats): (*const f32, usize),
        [rows, k]: [usize; 2],
        tile: usize,
        tiles: usize,
    ) -> Self {
        let stride = floats / Self::streams::<I>(rows);
        let step = stride.div_ceil(tiles * (k / 4).max(1)).min(LINE_FLOATS);
        Self { from: from.wrapping_add(tile * (k / 4) * step), stride, step }
    }

    /// Nothing but a line that is in use anyway.
    pub fn none(line: *const f32) -> Self {
        Self { from: line, stride: 0, step: 0 }
    }

    /// Prefetches the next line of each stream, for a tile of `R` rows: without a branch, which would
    /// cost as much as the prefetches.
    #[inline(always)]
    pub fn advance<I: Isa, const R: usize>(&mut self, isa: I) {
        for stream in 0..Self::streams::<I>(R) {
            isa.prefetch(self.from.wrapping_add(stream * self.stride));
        }
        self.from = self.from.wrapping_add(self.step);
    }
}
