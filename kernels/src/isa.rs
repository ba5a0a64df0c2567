//! Instruction sets: the ground floor, which imports nothing else of this crate.
//!
//! [`Isa`] is a token: a value exists only where the CPU supports the instructions, and proves that they may be
//! used. [`Vector`] is one register of `f32` lanes. Algorithms are written once, generic over both. Each file
//! in `isa/` implements both for one instruction set, with its hand-written microkernels.
//!
//! Two rules make generic code compile to the instructions of its `Isa`:
//!
//! 1. Call it inside [`Isa::run`], the one function with `#[target_feature]`. Split threads outside of
//!    `run` and enter `run` in every task: a closure that another thread runs does not inherit the
//!    features, and its intrinsics become calls.
//! 2. Mark every function and closure below `run` `#[inline(always)]`.

pub use lane::{Bf16Pair, I16Pair, Int8Quad, Lane};
pub use microkernel::{Dot, F32, I16, K_GROUPS, L2_BYTES, Microkernel, OuterProduct, Unavailable};
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
    /// Supertrait of [`Isa`](super::Isa) that other crates cannot implement: a token is a promise about the CPU.
    pub trait SealedIsa {}
}

/// An instruction set that this CPU has been found to support: a token that proves it.
///
/// Only this crate implements `Isa`. A [`Backend`](crate::Backend) passes its token to [`Kernel::eval`](crate::Kernel::eval).
pub trait Isa: sealed::SealedIsa + Copy + Send + Sync + Debug + 'static {
    /// One vector register.
    type V: Vector<Self>;

    /// Name, as in `TILEWRIGHT_ISA`.
    const NAME: &'static str;

    /// Maximum rows of a register tile of C in f32.
    const MR: usize;

    /// Columns of a register tile of C, an even number of vectors; the width of a packed panel.
    const NR: usize;

    /// Returns the token if this CPU and its operating system support every instruction of the backend.
    fn detect() -> Option<Self>;

    /// Calls `f` with this instruction set enabled.
    ///
    /// Mark `f` `#[inline(always)]`, and every function below it that uses the instruction set.
    fn run<R>(self, f: impl FnOnce() -> R) -> R;

    /// Microkernel over k-groups of two bf16.
    type Bf16: Microkernel<Self>;

    /// Microkernel over k-groups of four int8.
    type Int8: Microkernel<Self>;

    /// Dot instruction on vectors of k-groups of four int8.
    type DotInt8: Dot<Self>;

    /// Returns the int8 dot instruction, if this CPU has one. Its first factor is unsigned unless
    /// [`Dot::SIGNED`]; its second is signed.
    fn dot_int8(self) -> Option<Self::DotInt8>;

    /// Returns the fastest bf16 microkernel of this CPU, if it beats widening bf16 to f32.
    fn bf16(self) -> Option<Self::Bf16>;

    /// Returns the fastest int8 microkernel of this CPU, if it has one.
    fn int8(self) -> Option<Self::Int8>;

    /// The f32 microkernel: multiplies `rows` rows of A by one panel of B.
    ///
    /// # Safety
    /// The bullets under [`Tile`] hold.
    #[inline(always)]
    unsafe fn gemm_tile(self, tile: Tile) {
        // SAFETY: the bullets under `Tile` hold (precondition of `gemm_tile`).
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
    /// - `src` is valid for reads of `LANES` rows of `LANES` floats, `src_stride` apart.
    /// - `dst` is valid for writes of `LANES` rows of `LANES` floats, `dst_stride` apart.
    /// - The blocks do not overlap.
    unsafe fn transpose(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize);

    /// Writes the transpose of a block, of which `row(i)` returns row i < `LANES`, to `dst`. An instruction set with
    /// enough registers transposes the block in them.
    ///
    /// # Safety
    /// `dst` is valid for writes of `LANES` rows of `LANES` floats, `dst_stride` apart.
    #[inline(always)]
    unsafe fn transpose_vectors(self, row: impl Fn(usize) -> Self::V, dst: *mut f32, dst_stride: usize) {
        let mut block = [0.0; MAX_LANES * MAX_LANES];
        let lanes = Self::V::LANES;
        for (i, to) in block.chunks_exact_mut(lanes).take(lanes).enumerate() {
            row(i).store(to);
        }
        // SAFETY: `block` holds MAX_LANES^2 floats, at least `LANES` rows of `LANES`; it is a local, so it does not
        // overlap `dst`, which is valid for writes (precondition of `transpose_vectors`).
        unsafe { self.transpose(block.as_ptr(), lanes, dst, dst_stride) };
    }

    /// Calls `f(i, column i)` for each column of the `LANES` x `LANES` block at `src`, in ascending order. An
    /// instruction set with enough registers transposes the block in them.
    ///
    /// # Safety
    /// `src` is valid for reads of `LANES` rows of `LANES` floats, `src_stride` apart.
    #[inline(always)]
    unsafe fn columns(self, src: *const f32, src_stride: usize, mut f: impl FnMut(usize, Self::V)) {
        let mut block = [0.0; MAX_LANES * MAX_LANES];
        let lanes = Self::V::LANES;
        // SAFETY: `src` is valid for reads of `LANES` rows of `LANES` floats, `src_stride` apart (precondition of
        // `columns`). `block` holds MAX_LANES^2 floats, at least `LANES` rows of `LANES`; it is a local, so it does
        // not overlap `src`.
        unsafe { self.transpose(src, src_stride, block.as_mut_ptr(), lanes) };
        for (i, column) in block.chunks_exact(lanes).take(lanes).enumerate() {
            f(i, Self::V::load(self, column));
        }
    }

    /// Prefetches the cache line at `p` into L2; any address is allowed.
    fn prefetch(self, p: *const f32);

    /// Prefetches the cache line at `p` into L1, to be written; any address is allowed.
    ///
    /// A store to a line of L3 or memory otherwise reads the line only when all stores before it are done.
    #[inline(always)]
    fn prefetch_write(self, _: *const u8) {}

    /// Reads `data` from end to end, `passes` times, by the widest loads of this instruction set; returns the
    /// bytes read.
    #[inline(always)]
    fn read(self, data: &[f32], passes: usize) -> u64 {
        probe::read_sums(self, data, passes)
    }
}

/// Bytes of a cache line.
pub const LINE: usize = 64;

/// Floats of a cache line.
pub const LINE_FLOATS: usize = LINE / size_of::<f32>();

/// Maximum number of lanes of a vector, over all instruction sets.
pub(crate) const MAX_LANES: usize = 16;

/// Maximum number of k-steps of one microkernel call: KC of the BLIS papers.
///
/// A microkernel's prologue and epilogue cost about 100 cycles, 3% of 256 k-steps. `KC * NR` floats of B
/// (48 KiB for the widest tile) need not stay in L1: the microkernel reads them in order, at a fifth of
/// L2's bandwidth. Measured against 256, large products are 1% (AVX-512) to 2% (AVX2) faster.
pub const KC: usize = 384;

/// Floats from one row of A to the next in a [`Tile`].
///
/// A compile-time constant, so that a microkernel addresses all rows from one pointer. [`KC`] plus one cache line
/// is 25 cache lines, an odd number: the rows spread over the sets of L1. A power of two would map all rows to
/// one set.
pub const A_STRIDE: usize = KC + LINE_FLOATS;

/// Arguments of a microkernel such as [`Isa::gemm_tile`].
///
/// ```text
/// C[i, j] = (accumulate ? C[i, j] : 0) + sum over p of A[i, p] B[p, j]     i < rows, j < NR, p < k
/// ```
///
/// In f32, each sum is one chain of [`Vector::mul_add`] with p ascending: no choice of tile, block or path
/// changes a bit of it.
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
    /// Casts the pointers to the lane types of a microkernel.
    #[inline(always)]
    pub fn typed<Operand: Lane, Sum: Lane>(self) -> Tile<Operand, Sum> {
        let Self { rows, k, a, b, b_stride, c, c_stride, accumulate, prefetch } = self;
        Tile { rows, k, a: a.cast(), b: b.cast(), b_stride, c: c.cast(), c_stride, accumulate, prefetch }
    }
}

/// Memory to prefetch while a microkernel computes a [`Tile`].
///
/// Several streams are prefetched at once: hardware prefetchers do not cross pages, but they follow several
/// streams (12 GB/s from memory, against 10 GB/s in one stream).
#[derive(Clone, Copy, Debug)]
pub struct Prefetch {
    /// First cache line of the first stream; any address is allowed.
    pub from: *const f32,
    /// Floats from one stream to the next.
    pub stride: usize,
    /// Floats that each stream advances in four k-steps.
    pub step: usize,
}

impl Prefetch {
    /// Number of streams for a tile of `rows` rows. Four k-steps prefetch one line of each stream.
    ///
    /// A short tile has issue slots to spare: it prefetches as many lines as it reads of B. A taller tile
    /// prefetches half as many lines, which covers the next panel if at least three tiles read this one.
    #[inline(always)]
    pub const fn streams<I: Isa>(rows: usize) -> usize {
        let lines = 4 * I::NR / LINE_FLOATS;
        if rows <= I::MR * 4 / 7 { lines } else { lines.div_ceil(2) }
    }

    /// Cuts the `floats` floats at `from` among `tiles` tiles of `rows` rows and `k` k-steps; returns the part of
    /// tile number `tile`.
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

    /// Prefetches only `line`, which the caller uses anyway.
    pub fn none(line: *const f32) -> Self {
        Self { from: line, stride: 0, step: 0 }
    }

    /// Prefetches the next line of each stream, for a tile of `R` rows. It does not branch: a branch would cost as
    /// much as the prefetches.
    #[inline(always)]
    pub fn advance<I: Isa, const R: usize>(&mut self, isa: I) {
        for stream in 0..Self::streams::<I>(R) {
            isa.prefetch(self.from.wrapping_add(stream * self.stride));
        }
        self.from = self.from.wrapping_add(self.step);
    }
}
