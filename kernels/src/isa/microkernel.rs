//! How words of 32 bits are multiplied: what stands between the loops of a product and an instruction.
//!
//! ```text
//! words of            A and B                         a lane of the sums
//! f32                 one f32                         f32 += a b
//! pairs of bf16       k-steps 2w, 2w+1                f32 += a0 b0 + a1 b1
//! pairs of i16        k-steps 2w, 2w+1                i32 += a0 b0 + a1 b1
//! quads of int8       k-steps 4w .. 4w+3              i32 += a0 b0 + a1 b1 + a2 b2 + a3 b3
//! ```
//!
//! A tile takes words of A that it broadcasts and words of B, a vector at a time, whatever they hold;
//! so the loops, the packed A and the sums are the same for all of them.

use super::tile::gemv_panels;
use super::{I16Pair, Int8Quad, Isa, Lane, Tile, Vector};
use core::fmt::Debug;

/// A way to multiply words: a value of it proves that its instructions may be used.
pub trait Microkernel<I: Isa>: Copy + Debug + Send + Sync + 'static {
    /// The instruction that multiplies, in lower case, or else what words are: `"vpdpbusd"`, `"i16"`.
    fn instruction(self) -> &'static str;

    /// Most rows of a tile.
    fn rows(self) -> usize {
        I::MR
    }

    /// Consecutive k-groups of one column in a panel, before the next column.
    fn depth(self) -> usize {
        1
    }

    /// A k-group of A or B.
    type Operand: Lane;

    /// A sum of products.
    type Sum: Lane;

    /// True if bytes of A are signed, as bytes of B always are; false if unsigned.
    const SIGNED: bool = false;

    /// The tile. Sums are f32, or i32 of the same bits' size.
    ///
    /// # Safety
    /// The bullets under [`Tile`] hold, with words for floats and [`rows`](Self::rows) for MR; k is a
    /// multiple of [`K_GROUPS`], or any number for [`OuterProduct`].
    unsafe fn run(self, isa: I, tile: Tile<Self::Operand, Self::Sum>);

    /// One row of A by several panels, four, side by side.
    ///
    /// # Safety
    /// As [`run`](Self::run) with one row, for each of the panels `b + q * panel_stride` and the sums
    /// `c + q * c_stride`.
    unsafe fn gemv(self, isa: I, tile: Tile<Self::Operand, Self::Sum>, panel_stride: usize);
}

/// Words that a tile's sums are made of whole multiples of: a row of an AMX tile, one cache line.
/// Panels are filled up with zeros, and so are the rows of A.
pub const K_GROUPS: usize = 16;

/// Multiplies lane by lane: by an instruction that takes three vectors.
pub trait Dot<I: Isa>: Copy + Debug + Send + Sync + 'static {
    /// [`Microkernel::Operand`].
    type Operand: Lane;

    /// [`Microkernel::Sum`].
    type Sum: Lane;

    /// [`Microkernel::SIGNED`].
    const SIGNED: bool = false;

    /// [`Microkernel::instruction`].
    const INSTRUCTION: &'static str;

    /// Rows that a tile has less than MR: intermediate results of the instruction take their registers.
    const FEWER_ROWS: usize = 0;

    /// `sum`, and the products of the word `a` and the word `b` of every lane.
    fn dot(self, a: I::V, b: I::V, sum: I::V) -> I::V;

    /// The tile.
    ///
    /// # Safety
    /// As [`Isa::dot_tile`].
    #[inline(always)]
    unsafe fn run(self, isa: I, tile: Tile<Self::Operand, Self::Sum>) {
        // SAFETY: the caller of `run` guarantees its preconditions, which are those of this call.
        unsafe { isa.dot_tile(self, tile) }
    }
}

/// Words that are floats.
#[derive(Clone, Copy, Debug)]
pub struct F32;

impl<I: Isa> Dot<I> for F32 {
    type Operand = f32;
    type Sum = f32;
    const INSTRUCTION: &'static str = "f32";

    #[inline(always)]
    fn dot(self, a: I::V, b: I::V, sum: I::V) -> I::V {
        a.mul_add(b, sum)
    }

    #[inline(always)]
    unsafe fn run(self, isa: I, tile: Tile<Self::Operand, Self::Sum>) {
        // SAFETY: the caller of `run` guarantees its preconditions, which are those of this call.
        unsafe { isa.gemm_tile(tile) }
    }
}

/// Words that are pairs of i16.
#[derive(Clone, Copy, Debug)]
pub struct I16;

impl<I: Isa> Dot<I> for I16 {
    type Operand = I16Pair;
    type Sum = i32;
    const SIGNED: bool = true;
    const INSTRUCTION: &'static str = "i16";
    const FEWER_ROWS: usize = 2;

    #[inline(always)]
    fn dot(self, a: I::V, b: I::V, sum: I::V) -> I::V {
        a.dot_i16(b, sum)
    }
}

/// Tiles of broadcast words.
#[derive(Clone, Copy, Debug)]
pub struct OuterProduct<D>(pub D);

impl<I: Isa, D: Dot<I>> Microkernel<I> for OuterProduct<D> {
    type Operand = D::Operand;
    type Sum = D::Sum;
    const SIGNED: bool = D::SIGNED;

    #[inline(always)]
    fn instruction(self) -> &'static str {
        D::INSTRUCTION
    }

    #[inline(always)]
    fn rows(self) -> usize {
        I::MR - D::FEWER_ROWS
    }

    #[inline(always)]
    unsafe fn run(self, isa: I, tile: Tile<Self::Operand, Self::Sum>) {
        // SAFETY: the caller of `run` guarantees its preconditions, which are those of this call.
        unsafe { self.0.run(isa, tile) }
    }

    #[inline(always)]
    unsafe fn gemv(self, isa: I, tile: Tile<D::Operand, D::Sum>, panel_stride: usize) {
        // SAFETY: the caller of `gemv` guarantees its preconditions, which are those of this call.
        unsafe { gemv_panels(isa, self.0, tile, panel_stride) }
    }
}

/// Type without values, for an instruction set without such an instruction.
#[derive(Clone, Copy, Debug)]
pub enum Unavailable {}

impl<I: Isa> Microkernel<I> for Unavailable {
    type Operand = Int8Quad;
    type Sum = i32;

    fn instruction(self) -> &'static str {
        match self {}
    }

    unsafe fn run(self, _: I, _: Tile<Int8Quad, i32>) {
        match self {}
    }

    unsafe fn gemv(self, _: I, _: Tile<Int8Quad, i32>, _: usize) {
        match self {}
    }
}

impl<I: Isa> Dot<I> for Unavailable {
    type Operand = Int8Quad;
    type Sum = i32;
    const INSTRUCTION: &'static str = "";

    fn dot(self, _: I::V, _: I::V, _: I::V) -> I::V {
        match self {}
    }
}
