//! The two contracts between algorithms and instruction sets.
//!
//! [`Isa`] is a token: a value of it exists only where its instructions may be executed, so whoever
//! holds one may use them. [`Vector`] is one register of `f32` lanes of that instruction set. An
//! algorithm is written once, generic over both; a file in `isa/` implements them for one
//! instruction set, together with the register tiles that only that instruction set can decide.
//!
//! Two rules make generic code compile to the instructions it names:
//!
//! 1. It runs inside [`Isa::run`], the one function that carries `#[target_feature]`. Threads are
//!    split outside of it, and every task enters it by itself: a closure handed to another thread
//!    does not inherit the features, and its intrinsics would become calls.
//! 2. Everything under it is `#[inline(always)]`, closures included.

pub use multiply::{Broadcast, Dot, F32, I16, Multiply, Unavailable, WORDS};

use core::fmt::Debug;
use core::ops::{Add, Div, Mul, Neg, Sub};

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod lanes;
mod multiply;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod portable;
pub(crate) mod probe;
#[cfg(test)]
mod tests;
pub(crate) mod tile;

pub(crate) mod sealed {
    /// Implemented only in this crate: an [`Isa`](super::Isa) is a promise about the CPU.
    pub trait Sealed {}
}

/// An instruction set whose presence has been detected: a zero-sized proof.
///
/// Only this crate implements it; [`Backend`](crate::Backend) is how a program obtains one.
pub trait Isa: sealed::Sealed + Copy + Send + Sync + Debug + 'static {
    /// One vector register.
    type V: Vector<Self>;

    /// The name in [`Backend::name`](crate::Backend::name) and in `TILEWRIGHT_ISA`.
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
    type Bf16: Multiply<Self>;

    /// Words that are quads of int8.
    type Int8: Multiply<Self>;

    /// Words that are quads of int8, by an instruction on vectors.
    type Bytes: Dot<Self>;

    /// The instruction on vectors that multiplies quads of int8: the first of its factors unsigned, unless
    /// [`Dot::SIGNED`], the second signed.
    fn bytes(self) -> Option<Self::Bytes>;

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
        // SAFETY: the caller's.
        unsafe { self.dot_tile(F32, tile) }
    }

    /// The same for words that `dot` multiplies.
    ///
    /// # Safety
    /// The bullets under [`Tile`] hold, with words for floats.
    unsafe fn dot_tile<D: Dot<Self>>(self, dot: D, tile: Tile);

    /// Writes the transpose of the `LANES` x `LANES` block at `src` to `dst`.
    ///
    /// # Safety
    /// `src` is valid for reads of `LANES` floats at each of `LANES` rows `src_stride` apart, and
    /// `dst` for writes likewise; they do not overlap.
    unsafe fn transpose(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize);

    /// Calls `f(i, column i)` for each column of the `LANES` x `LANES` block at `src`, from the first on:
    /// its transpose, in registers where these suffice.
    ///
    /// # Safety
    /// `src` is valid for reads of `LANES` floats at each of `LANES` rows `src_stride` apart.
    #[inline(always)]
    unsafe fn columns(self, src: *const f32, src_stride: usize, mut f: impl FnMut(usize, Self::V)) {
        /// Most lanes of any instruction set.
        const MAX_LANES: usize = 16;
        let mut block = [0.0; MAX_LANES * MAX_LANES];
        let lanes = Self::V::LANES;
        // SAFETY: the caller's; the block has room.
        unsafe { self.transpose(src, src_stride, block.as_mut_ptr(), lanes) };
        for (i, column) in block.chunks_exact(lanes).take(lanes).enumerate() {
            f(i, Self::V::load(self, column));
        }
    }

    /// Asks for the cache line at `p` to be brought into L2; any address is allowed.
    fn prefetch(self, p: *const f32);

    /// Reads `data` from end to end, `passes` times, as fast as this instruction set can, and returns
    /// how many bytes that were: see [`Read`](crate::probe::Read).
    #[inline(always)]
    fn read(self, data: &[f32], passes: usize) -> u64 {
        probe::read_sums(self, data, passes)
    }
}

/// The distance in floats between rows of A in [`Tile`]: a compile-time constant, so that a tile
/// addresses all its rows from one pointer. It is [`KC`](crate::gemm::KC) plus one cache line, which
/// spreads the rows over the L1 sets where a power of two would put them all into one.
pub const A_STRIDE: usize = crate::gemm::KC + 16;

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
pub struct Tile {
    /// Rows of A and C.
    pub rows: usize,
    /// Length of the sums.
    pub k: usize,
    /// A, rows `A_STRIDE` apart, unit stride along k.
    pub a: *const f32,
    /// B, k-steps `b_stride` apart, unit stride along n.
    pub b: *const f32,
    /// Distance between k-steps of B: `NR` in a packed panel.
    pub b_stride: usize,
    /// C, unit stride along n.
    pub c: *mut f32,
    /// Distance between rows of C.
    pub c_stride: usize,
    /// Whether the sums start from C rather than from zero.
    pub accumulate: bool,
    /// What to prefetch meanwhile.
    pub prefetch: Prefetch,
}

/// Memory that is prefetched while a [`Tile`] is computed, in several streams, because the hardware's
/// own prefetchers do not cross pages and so run ahead in several (12 GB/s from memory, not 10).
#[derive(Clone, Copy, Debug)]
pub struct Prefetch {
    /// The first line of the first stream; any address is allowed.
    pub from: *const f32,
    /// Floats from stream to stream.
    pub stride: usize,
    /// Floats by which all streams advance in four k-steps.
    pub step: usize,
}

impl Prefetch {
    /// Streams for tiles of `rows` rows, one line of each of which is prefetched in four k-steps. Few
    /// rows leave little time, but their tile has slots to spare: they can prefetch all that they
    /// read; the others, that have to be at least three to a panel then, half of it.
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

/// Floats of a cache line.
pub const LINE_FLOATS: usize = crate::scratch::LINE / size_of::<f32>();

/// A register of `LANES` floats.
///
/// Methods that make a vector from nothing take the token `I`; the others need none, for a vector
/// that exists proves that its instructions do. Operations on "bits" treat lanes as `u32`/`i32`.
pub trait Vector<I: Copy>:
    Copy
    + Debug
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    /// Number of lanes.
    const LANES: usize;

    /// The result of a lane-wise comparison.
    type Mask: Copy;

    /// All lanes `x`.
    fn splat(isa: I, x: f32) -> Self;

    /// All lanes the float with these bits.
    #[inline(always)]
    fn splat_bits(isa: I, bits: u32) -> Self {
        Self::splat(isa, f32::from_bits(bits))
    }

    /// Loads the `LANES` floats at `p`, of any alignment.
    ///
    /// # Safety
    /// `p` is valid for reads of `LANES` floats.
    unsafe fn load_ptr(isa: I, p: *const f32) -> Self;

    /// Stores all lanes at `p`, of any alignment.
    ///
    /// # Safety
    /// `p` is valid for writes of `LANES` floats.
    unsafe fn store_ptr(self, p: *mut f32);

    /// The first `LANES` elements of `src`.
    ///
    /// # Panics
    /// If `src` is shorter. (Behind `chunks_exact(LANES)` the check is compiled away.)
    #[inline(always)]
    fn load(isa: I, src: &[f32]) -> Self {
        assert!(src.len() >= Self::LANES);
        // SAFETY: the length was checked.
        unsafe { Self::load_ptr(isa, src.as_ptr()) }
    }

    /// Stores all lanes to the front of `dst`.
    ///
    /// # Panics
    /// If `dst` is shorter than `LANES`.
    #[inline(always)]
    fn store(self, dst: &mut [f32]) {
        assert!(dst.len() >= Self::LANES);
        // SAFETY: the length was checked.
        unsafe { self.store_ptr(dst.as_mut_ptr()) }
    }

    /// The first `min(src.len(), LANES)` elements of `src`; the other lanes are `fill`.
    fn load_partial(isa: I, src: &[f32], fill: f32) -> Self;

    /// Stores the first `min(dst.len(), LANES)` lanes to `dst`.
    fn store_partial(self, dst: &mut [f32]);

    /// `self * b + c`, rounded once on every ISA but `portable`, where `FUSED` is false and each
    /// operation rounds.
    fn mul_add(self, b: Self, c: Self) -> Self;

    /// Whether [`mul_add`](Self::mul_add) rounds once.
    const FUSED: bool = true;

    /// `self < b ? self : b`: `b` if either is NaN.
    fn min(self, b: Self) -> Self;

    /// `self > b ? self : b`: `b` if either is NaN.
    fn max(self, b: Self) -> Self;

    /// Magnitude.
    fn abs(self) -> Self;

    /// Square root, correctly rounded.
    fn sqrt(self) -> Self;

    /// The nearest integral value of the same sign, ties to even.
    fn round(self) -> Self;

    /// `self < b`; false if either is NaN.
    fn lt(self, b: Self) -> Self::Mask;

    /// `self <= b`; false if either is NaN.
    fn le(self, b: Self) -> Self::Mask;

    /// `self == b`; false if either is NaN, so that `!(x == x)` finds NaN.
    fn eq(self, b: Self) -> Self::Mask;

    /// Lanes of `self` where the mask is set, of `other` elsewhere.
    fn select(self, mask: Self::Mask, other: Self) -> Self;

    /// Lanes of `self` where the mask is set, 0 elsewhere.
    fn keep(self, mask: Self::Mask) -> Self;

    /// Whether any lane of the mask is set.
    fn any(mask: Self::Mask) -> bool;

    /// Lanes as i32: wrapping product.
    fn mul_bits(self, b: Self) -> Self;

    /// Bitwise and.
    fn and_bits(self, b: Self) -> Self;

    /// Bitwise or.
    fn or_bits(self, b: Self) -> Self;

    /// Bitwise exclusive or.
    fn xor_bits(self, b: Self) -> Self;

    /// Lanes as i32: wrapping sum.
    fn add_bits(self, b: Self) -> Self;

    /// Lanes as i32: wrapping difference.
    fn sub_bits(self, b: Self) -> Self;

    /// Lanes as u32: shifted left by `N`.
    fn shl_bits<const N: u32>(self) -> Self;

    /// Lanes as u32: shifted right by `N`, zeros in.
    fn shr_bits<const N: u32>(self) -> Self;

    /// The value of each i32 lane as a float, rounded to nearest even.
    fn int_to_float(self) -> Self;

    /// The low four bits of every lane, less `bias`, as a float.
    #[inline(always)]
    fn low_four_bits(self, isa: I, bias: f32) -> Self {
        self.and_bits(Self::splat_bits(isa, 15)).int_to_float() - Self::splat(isa, bias)
    }

    /// The nearest i32 of each lane, ties to even, as bits; unspecified out of range.
    fn float_to_int(self) -> Self;

    /// `self * 2^n` for integral `n` in [-252, 252] and `self` in [1/4, 4], rounded once, denormal
    /// results included.
    #[inline(always)]
    fn scale_by_pow2(self, isa: I, n: Self) -> Self {
        // Two factors of half the exponent each: both are normal numbers, and only the second product
        // can round. Adding 1.5 * 2^23 leaves an integer, rounded, in the low bits of the sum: with
        // the bias of the exponent there, a shift makes it a power of two.
        let integer = 12_582_912.0;
        let half = n.mul_add(Self::splat(isa, 0.5), Self::splat(isa, integer + 127.0));
        let whole = n + Self::splat(isa, integer + 254.0);
        self * half.shl_bits::<23>() * whole.sub_bits(half).shl_bits::<23>()
    }

    /// The same for n in [-190, 0].
    #[inline(always)]
    fn scale_down_by_pow2(self, isa: I, n: Self) -> Self {
        // One factor of 2^(n + 64), and that off again: only the second product can round. Its exponent
        // is put into place as above.
        let biased = n + Self::splat(isa, 12_582_912.0 + 127.0 + 64.0);
        self * biased.shl_bits::<23>() * Self::splat(isa, 1.0 / (1u128 << 64) as f32)
    }

    /// The `LANES` numbers at `p`, each in the low half of its lane, zeros above.
    ///
    /// # Safety
    /// `p` is valid for reads of `LANES` numbers of 16 bits.
    unsafe fn load_u16(isa: I, p: *const u16) -> Self;

    /// Stores the low half of each lane at `p`.
    ///
    /// # Safety
    /// `p` is valid for writes of `LANES` numbers of 16 bits.
    unsafe fn store_u16(self, p: *mut u16);

    /// The `LANES` whole numbers at `p`, each as the i32 of its lane.
    ///
    /// # Safety
    /// `p` is valid for reads of `LANES` bytes.
    unsafe fn load_i8(isa: I, p: *const i8) -> Self;

    /// Stores the low byte of each lane at `p`.
    ///
    /// # Safety
    /// `p` is valid for writes of `LANES` bytes.
    unsafe fn store_u8(self, p: *mut u8);

    /// The `LANES` numbers at `p`, whose bits are those of f16: exact.
    ///
    /// # Safety
    /// `p` is valid for reads of `LANES` numbers of 16 bits.
    unsafe fn load_f16(isa: I, p: *const u16) -> Self;

    /// Stores the nearest f16 of each lane at `p`, ties to even; denormals are kept, NaN stay NaN.
    ///
    /// # Safety
    /// `p` is valid for writes of `LANES` numbers of 16 bits.
    unsafe fn store_f16(self, p: *mut u16);

    /// The `LANES` numbers at `p`, whose bits are those of bf16: exact.
    ///
    /// # Safety
    /// `p` is valid for reads of `LANES` numbers of 16 bits.
    #[inline(always)]
    unsafe fn load_bf16(isa: I, p: *const u16) -> Self {
        // SAFETY: the caller's; a bf16 is the upper half of an f32.
        unsafe { Self::load_u16(isa, p).shl_bits::<16>() }
    }

    /// Stores the nearest bf16 of each lane at `p`, ties to even; denormals are kept, NaN stay NaN.
    ///
    /// # Safety
    /// `p` is valid for writes of `LANES` numbers of 16 bits.
    #[inline(always)]
    unsafe fn store_bf16(self, isa: I, p: *mut u16) {
        // SAFETY: the caller's.
        unsafe { crate::element::bf16_bits(isa, self).store_u16(p) }
    }

    /// Lanes as pairs of i16: `sum`, as i32, plus the two products of `self` and `b`, wrapping.
    fn dot_i16(self, b: Self, sum: Self) -> Self;

    /// Entries of a table for [`lookup`](Self::lookup): 8 or 32.
    const TABLE: usize = 8;

    /// `table[i % TABLE]`, for the bits i of each lane.
    ///
    /// # Panics
    /// If the table is shorter than `TABLE`.
    #[inline(always)]
    fn lookup(self, isa: I, table: &[f32]) -> Self {
        let mut lanes = [0.0; 4];
        self.store(&mut lanes);
        Self::load(isa, &lanes.map(|i| table[i.to_bits() as usize % 8]))
    }

    /// Lanes 2i and 2i+1 exchanged.
    fn swap_pairs(self) -> Self;

    /// Sum of the lanes, in a fixed order.
    fn sum(self) -> f32;

    /// Largest lane by [`max`](Self::max) in a fixed order.
    fn maximum(self) -> f32;
}
