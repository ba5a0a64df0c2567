//! Microkernels: the interface between the loops of a product and the instruction that multiplies.
//!
//! A k-group is the 32 bits of one row of A or one column of B that an instruction consumes at once.
//!
//! ```text
//! data   k-group     sum                        x86-64               requires          AArch64              requires
//! f32    1 k-step    f32 += a b                 vfmadd231ps          FMA, AVX512F      fmla                 NEON
//! bf16   2 k-steps   f32 += a0 b0 + a1 b1       tdpbf16ps            AMX-BF16          bfmmla               BF16
//!                                               vdpbf16ps            AVX512-BF16
//! i16    2 k-steps   i32 += a0 b0 + a1 b1       vpmaddwd, vpaddd     AVX2, AVX512BW    smull[2], addp, add  NEON
//! int8   4 k-steps   i32 += a0 b0 + .. + a3 b3  tdpbusd              AMX-INT8          smmla                I8MM
//!                                               vpdpbusd             AVX512-VNNI,      sdot                 DotProd
//!                                                                    AVX-VNNI
//! ```
//!
//! The portable backend has no bf16 and no int8 instruction. Where a data type has none, bf16 is widened to f32
//! and int8 to i16. Every k-group has 32 bits; so the loops, the layout of packed A and the layout of the sums
//! do not depend on the data type. The file of each instruction set opens with its register budgets.

use super::tile::gemv_panels;
use super::{I16Pair, Int8Quad, Isa, KC, Lane, Tile, Vector};
use core::fmt::Debug;

/// A microkernel: computes a tile of C from k-groups. A value proves that its instructions may be used.
pub trait Microkernel<I: Isa>: Copy + Debug + Send + Sync + 'static {
    /// Instruction that multiplies, in lower case, such as `"vpdpbusd"`; for several instructions, the data type,
    /// such as `"i16"`.
    fn instruction(self) -> &'static str;

    /// Maximum number of rows of a tile.
    fn rows(self) -> usize {
        I::MR
    }

    /// Bytes of the smallest L2 of the servers that have the instruction.
    fn l2_bytes(self) -> usize {
        L2_BYTES
    }

    /// Number of k-groups of a k-block, a divisor of [`KC`].
    fn kc(self) -> usize {
        KC
    }

    /// Calls `f`, during which this thread computes many tiles by [`run`](Self::run): AMX keeps its tiles configured.
    #[inline(always)]
    fn session<R>(self, f: impl FnOnce() -> R) -> R {
        f()
    }

    /// Number of consecutive k-groups of one column in a panel, before the next column.
    fn depth(self) -> usize {
        1
    }

    /// Type of a k-group of A or B.
    type Operand: Lane;

    /// Type of a sum.
    type Sum: Lane;

    /// True if int8 or i16 of A are signed, as those of B always are; false if unsigned.
    const SIGNED: bool = false;

    /// Computes a tile.
    ///
    /// # Safety
    /// The bullets under [`Tile`] hold, with k-groups in place of floats and [`rows`](Self::rows) in place of MR.
    /// `tile.k` counts k-groups. It is a multiple of [`K_GROUPS`]; [`OuterProduct`] takes any k.
    unsafe fn run(self, isa: I, tile: Tile<Self::Operand, Self::Sum>);

    /// Multiplies one row of A by four panels, side by side.
    ///
    /// # Safety
    /// The preconditions of [`run`](Self::run) hold with `rows == 1`, for each panel `b + q * panel_stride` and
    /// its sums `c + q * c_stride`, q < 4.
    unsafe fn gemv(self, isa: I, tile: Tile<Self::Operand, Self::Sum>, panel_stride: usize);
}

/// Bytes of the smallest L2 of current servers.
pub const L2_BYTES: usize = 1 << 20;

/// Granularity of k in k-groups: one row of an AMX tile, a cache line. Packing pads panels and rows of A with zeros
/// to a multiple.
pub const K_GROUPS: usize = 16;

/// A dot instruction on vectors: adds the dot products of k-groups to the lanes of a third vector.
pub trait Dot<I: Isa>: Copy + Debug + Send + Sync + 'static {
    /// [`Microkernel::Operand`].
    type Operand: Lane;

    /// [`Microkernel::Sum`].
    type Sum: Lane;

    /// [`Microkernel::SIGNED`].
    const SIGNED: bool = false;

    /// [`Microkernel::instruction`].
    const INSTRUCTION: &'static str;

    /// Rows of MR that a tile leaves out: their registers hold intermediate results of the instruction.
    const FEWER_ROWS: usize = 0;

    /// `sum` plus the dot product of the k-groups `a` and `b`, lane by lane.
    fn dot(self, a: I::V, b: I::V, sum: I::V) -> I::V;

    /// Computes a tile.
    ///
    /// # Safety
    /// The preconditions of [`Isa::dot_tile`] hold.
    #[inline(always)]
    unsafe fn run(self, isa: I, tile: Tile<Self::Operand, Self::Sum>) {
        // SAFETY: the preconditions of `Isa::dot_tile` hold (precondition of `run`).
        unsafe { isa.dot_tile(self, tile) }
    }
}

/// Fused multiply-add of f32, a k-group of one k-step.
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
        // SAFETY: the bullets under `Tile` hold (precondition of `run`).
        unsafe { isa.gemm_tile(tile) }
    }
}

/// Dot product of k-groups of two i16, by [`Vector::dot_i16`].
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

/// Outer-product microkernel of a dot instruction: broadcasts k-groups of A and loads vectors of B.
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
        // SAFETY: the bullets under `Tile` hold, for k-groups (precondition of `run`).
        unsafe { self.0.run(isa, tile) }
    }

    #[inline(always)]
    unsafe fn gemv(self, isa: I, tile: Tile<D::Operand, D::Sum>, panel_stride: usize) {
        // SAFETY: the bullets under `Tile` hold for one row and each panel (precondition of `gemv`).
        unsafe { gemv_panels(isa, self.0, tile, panel_stride) }
    }
}

/// Type without values: the microkernel of an instruction set that has no instruction for the data type.
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
