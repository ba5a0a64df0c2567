//! How NEON multiplies words: by its extensions.
//!
//! Their intrinsics are not stable, and would need target features that [`Isa::run`](crate::isa::Isa::run)
//! does not enable; so each is one line of assembly.

use super::{F32x4, Neon, tiles};
use crate::isa::tile::gemv_panels;
use crate::isa::{A_STRIDE, Bf16Pair, Dot, Int8Quad, Microkernel, Tile};
use core::arch::asm;

/// An instruction `sum = f(a, b, sum)`.
macro_rules! instruction {
    ($extension:literal, $text:literal, $a:expr, $b:expr, $sum:expr $(, $lane:ident)?) => {{
        let mut sum = $sum.0;
        // SAFETY: a value of the type that this is called on proves the instruction.
        unsafe {
            asm!(
                concat!(".arch_extension ", $extension),
                $text,
                sum = inout(vreg) sum, a = in(vreg) $a.0, b = in(vreg) $b.0,
                $($lane = const $lane,)?
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        F32x4(sum)
    }};
}

/// Pairs of bf16 by `bfmmla`: two `bfdot` in sequence for each sum.
///
/// FPCR.EBF is 0 unless a program sets it. Then denormals are read and written as zeros. The two products of
/// a k-group are added, and the result is added to the sum; both additions round to odd, to one of the two
/// neighbours of the exact value. A sum of k k-steps is within (k + 2) u sum|a b| of exact, to first order,
/// plus 2^-126 for each of its up to 2 k operations that returns a denormal.
#[derive(Clone, Copy, Debug)]
pub struct Bf16(());

impl Bf16 {
    /// The way that `isa` has, if any.
    #[inline(always)]
    pub(super) fn of(isa: Neon) -> Option<Self> {
        isa.bf16.then_some(Self(()))
    }
}

impl tiles::ByPairs for Bf16 {
    type Operand = Bf16Pair;
    type Sum = f32;
    #[inline(always)]
    fn multiply(self, a: F32x4, b: F32x4, sum: F32x4) -> F32x4 {
        instruction!("bf16", "bfmmla {sum:v}.4s, {a:v}.8h, {b:v}.8h", a, b, sum)
    }

    four_k_groups!("bf16" "bfmmla" ".8h");
}

impl Microkernel<Neon> for Bf16 {
    type Operand = Bf16Pair;
    type Sum = f32;

    #[inline(always)]
    fn instruction(self) -> &'static str {
        "bfmmla"
    }

    #[inline(always)]
    fn depth(self) -> usize {
        2
    }

    #[inline(always)]
    unsafe fn run(self, isa: Neon, tile: Tile<Bf16Pair, f32>) {
        // SAFETY: the caller of `run` guarantees its preconditions, which are those of this call.
        unsafe { tiles::by_pairs(isa, self, tile) }
    }

    #[inline(always)]
    unsafe fn gemv(self, isa: Neon, tile: Tile<Bf16Pair, f32>, panel_stride: usize) {
        // SAFETY: the caller of `gemv` guarantees its preconditions, which are those of this call.
        unsafe { tiles::gemv_by_pairs(isa, self, tile, panel_stride) }
    }
}

/// How quads of int8 are multiplied: both signed, and exact.
#[derive(Clone, Copy, Debug)]
pub enum Int8 {
    /// `smmla`.
    Smmla(Smmla),
    /// `sdot`.
    Sdot(Sdot),
}

impl Int8 {
    /// The faster way that `isa` has, if any.
    #[inline(always)]
    pub(super) fn of(isa: Neon) -> Option<Self> {
        let smmla = isa.i8mm.then_some(Self::Smmla(Smmla(())));
        smmla.or(Sdot::of(isa).map(Self::Sdot))
    }
}

/// Quads of int8 by `smmla`.
#[derive(Clone, Copy, Debug)]
pub struct Smmla(());

impl tiles::ByPairs for Smmla {
    type Operand = Int8Quad;
    type Sum = i32;
    #[inline(always)]
    fn multiply(self, a: F32x4, b: F32x4, sum: F32x4) -> F32x4 {
        instruction!("i8mm", "smmla {sum:v}.4s, {a:v}.16b, {b:v}.16b", a, b, sum)
    }

    four_k_groups!("i8mm" "smmla" ".16b");
}

/// Quads of int8 by `sdot`.
#[derive(Clone, Copy, Debug)]
pub struct Sdot(());

impl Sdot {
    /// The instruction, if `isa` has it.
    #[inline(always)]
    pub(super) fn of(isa: Neon) -> Option<Self> {
        isa.dotprod.then_some(Self(()))
    }
}

impl tiles::ByLane for Sdot {
    #[inline(always)]
    fn multiply<const P: i32>(self, a: F32x4, b: F32x4, sum: F32x4) -> F32x4 {
        instruction!("dotprod", "sdot {sum:v}.4s, {b:v}.16b, {a:v}.4b[{P}]", a, b, sum, P)
    }
}

impl Dot<Neon> for Sdot {
    type Operand = Int8Quad;
    type Sum = i32;
    const SIGNED: bool = true;
    const INSTRUCTION: &'static str = "sdot";

    #[inline(always)]
    fn dot(self, a: F32x4, b: F32x4, sum: F32x4) -> F32x4 {
        instruction!("dotprod", "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b", a, b, sum)
    }
}

impl Microkernel<Neon> for Int8 {
    type Operand = Int8Quad;
    type Sum = i32;

    const SIGNED: bool = true;

    #[inline(always)]
    fn instruction(self) -> &'static str {
        match self {
            Self::Smmla(_) => "smmla",
            Self::Sdot(_) => Sdot::INSTRUCTION,
        }
    }

    #[inline(always)]
    fn depth(self) -> usize {
        match self {
            Self::Smmla(_) => 2,
            Self::Sdot(_) => 1,
        }
    }

    #[inline(always)]
    unsafe fn run(self, isa: Neon, tile: Tile<Int8Quad, i32>) {
        // SAFETY: the caller of `run` guarantees its preconditions, which are those of this call.
        unsafe {
            match self {
                Self::Smmla(way) => tiles::by_pairs(isa, way, tile),
                Self::Sdot(way) => tiles::by_lane(isa, way, tile),
            }
        }
    }

    #[inline(always)]
    unsafe fn gemv(self, isa: Neon, tile: Tile<Int8Quad, i32>, panel_stride: usize) {
        // SAFETY: the caller of `gemv` guarantees its preconditions, which are those of this call.
        unsafe {
            match self {
                Self::Smmla(way) => tiles::gemv_by_pairs(isa, way, tile, panel_stride),
                Self::Sdot(way) => gemv_panels(isa, way, tile, panel_stride),
            }
        }
    }
}
