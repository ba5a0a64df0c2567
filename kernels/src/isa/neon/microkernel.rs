//! Microkernels of NEON for bf16 and int8, by its extensions.
//!
//! ```text
//! data  instruction                 k-group    feature   cpuinfo   tile   registers
//! f32   fmla by lane                1 k-step   NEON      asimd     6x16   24 sums + 6 of A + 2 of B = 32
//! bf16  bfmmla                      2 k-steps  BF16      bf16      6x16   24 sums + 6 of A + 2 of B = 32
//! int8  smmla                       4 k-steps  I8MM      i8mm      6x16   24 sums + 6 of A + 2 of B = 32
//!       sdot by lane                4 k-steps  DotProd   asimddp   6x16   24 sums + 6 of A + 2 of B = 32
//! i16   smull, smull2, addp, add    2 k-steps  NEON      asimd     4x16   16 sums + 4 of B + 1 of A + products
//! ```
//!
//! `tiles.rs` explains the size of the tile and holds the loops.
//!
//! The intrinsics of the extensions are unstable. They would also need target features that
//! [`Isa::run`](crate::isa::Isa::run) does not enable. So each instruction is one line of assembly.

use super::{F32x4, Neon, tiles};
use crate::isa::tile::gemv_panels;
use crate::isa::{A_STRIDE, Bf16Pair, Dot, Int8Quad, Microkernel, Tile};
use core::arch::asm;

/// Executes an instruction `sum = f(a, b, sum)` of an extension.
macro_rules! instruction {
    ($extension:literal, $text:literal, $a:expr, $b:expr, $sum:expr $(, $lane:ident)?) => {{
        let mut sum = $sum.0;
        // SAFETY: the macro is used in methods of a type whose values prove the instruction, which accesses its operand
        // registers only.
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

/// `bfmmla` on k-groups of two bf16: two `bfdot` in sequence for each sum.
///
/// FPCR.EBF is 0 unless a program sets it. While it is 0, denormal operands and results are flushed to zero. The
/// instruction adds the two products of a k-group, then adds the result to the sum. Both additions round to odd:
/// to one of the two neighbours of the exact value. A sum of k k-steps is within (k + 2) u sum|a b| of exact, to
/// first order, plus 2^-126 for each of its up to 2 k operations whose result is denormal.
#[derive(Clone, Copy, Debug)]
pub struct Bf16(());

impl Bf16 {
    /// Returns the microkernel, if `isa` supports it.
    #[inline(always)]
    pub(super) fn of(isa: Neon) -> Option<Self> {
        isa.bf16.then_some(Self(()))
    }
}

impl tiles::ByPairs for Bf16 {
    type Operand = Bf16Pair;
    type Sum = f32;
    #[inline(always)]
    fn dot_pairs(self, a: F32x4, b: F32x4, sum: F32x4) -> F32x4 {
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
        // SAFETY: the bullets under `Tile` hold, for k-groups, and k is a multiple of K_GROUPS (preconditions of `run`).
        unsafe { tiles::by_pairs(isa, self, tile) }
    }

    #[inline(always)]
    unsafe fn gemv(self, isa: Neon, tile: Tile<Bf16Pair, f32>, panel_stride: usize) {
        // SAFETY: the bullets under `Tile` hold for one row and each panel, and k is a multiple of K_GROUPS
        // (preconditions of `gemv`).
        unsafe { tiles::gemv_by_pairs(isa, self, tile, panel_stride) }
    }
}

/// Microkernel of int8, signed in A and B. Its variants are exact.
#[derive(Clone, Copy, Debug)]
pub enum Int8 {
    /// `smmla`.
    Smmla(Smmla),
    /// `sdot`.
    Sdot(Sdot),
}

impl Int8 {
    /// Returns the faster variant that `isa` supports, if any.
    #[inline(always)]
    pub(super) fn of(isa: Neon) -> Option<Self> {
        let smmla = isa.i8mm.then_some(Self::Smmla(Smmla(())));
        smmla.or(Sdot::of(isa).map(Self::Sdot))
    }
}

/// `smmla` on k-groups of four int8.
#[derive(Clone, Copy, Debug)]
pub struct Smmla(());

impl tiles::ByPairs for Smmla {
    type Operand = Int8Quad;
    type Sum = i32;
    #[inline(always)]
    fn dot_pairs(self, a: F32x4, b: F32x4, sum: F32x4) -> F32x4 {
        instruction!("i8mm", "smmla {sum:v}.4s, {a:v}.16b, {b:v}.16b", a, b, sum)
    }

    four_k_groups!("i8mm" "smmla" ".16b");
}

/// `sdot` on k-groups of four int8.
#[derive(Clone, Copy, Debug)]
pub struct Sdot(());

impl Sdot {
    /// Returns the instruction, if `isa` supports it.
    #[inline(always)]
    pub(super) fn of(isa: Neon) -> Option<Self> {
        isa.dotprod.then_some(Self(()))
    }
}

impl tiles::ByLane for Sdot {
    #[inline(always)]
    fn dot_lane<const P: i32>(self, a: F32x4, b: F32x4, sum: F32x4) -> F32x4 {
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
        // SAFETY: the bullets under `Tile` hold, for k-groups, and k is a multiple of K_GROUPS (preconditions of `run`).
        unsafe {
            match self {
                Self::Smmla(variant) => tiles::by_pairs(isa, variant, tile),
                Self::Sdot(variant) => tiles::by_lane(isa, variant, tile),
            }
        }
    }

    #[inline(always)]
    unsafe fn gemv(self, isa: Neon, tile: Tile<Int8Quad, i32>, panel_stride: usize) {
        // SAFETY: the bullets under `Tile` hold for one row and each panel, and k is a multiple of K_GROUPS
        // (preconditions of `gemv`).
        unsafe {
            match self {
                Self::Smmla(variant) => tiles::gemv_by_pairs(isa, variant, tile, panel_stride),
                Self::Sdot(variant) => gemv_panels(isa, variant, tile, panel_stride),
            }
        }
    }
}
