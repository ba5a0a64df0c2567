//! How AVX-512 multiplies words: by its extensions, or by the tiles of AMX.

use super::{Avx512, F32x16};
use crate::isa::amx::{Amx, KGroup};
use crate::isa::{Bf16Pair, Dot, Int8Quad, Isa, Microkernel, OuterProduct, Tile};
use core::arch::asm;
use core::arch::x86_64::*;

/// How pairs of bf16 are multiplied. The two round differently.
#[derive(Clone, Copy, Debug)]
pub enum Bf16 {
    /// `tdpbf16ps`.
    Amx(Amx),
    /// `vdpbf16ps`.
    Dot(DotBf16),
}

impl Bf16 {
    /// The way that `isa` has, if any.
    #[inline(always)]
    pub(super) fn of(isa: Avx512) -> Option<Self> {
        isa.amx.map(Self::Amx).or(isa.bf16.then_some(Self::Dot(DotBf16(()))))
    }
}

impl Microkernel<Avx512> for Bf16 {
    type Operand = Bf16Pair;
    type Sum = f32;

    #[inline(always)]
    fn instruction(self) -> &'static str {
        match self {
            Self::Amx(_) => KGroup::Bf16.instruction(),
            Self::Dot(_) => DotBf16::INSTRUCTION,
        }
    }

    #[inline(always)]
    fn rows(self) -> usize {
        match self {
            Self::Amx(_) => Amx::ROWS,
            Self::Dot(_) => Avx512::MR,
        }
    }

    #[inline(always)]
    unsafe fn run(self, isa: Avx512, tile: Tile<Bf16Pair, f32>) {
        // SAFETY: the caller of `run` guarantees its preconditions, which are those of this call.
        unsafe {
            match self {
                Self::Amx(amx) => amx.run(KGroup::Bf16, tile),
                Self::Dot(dot) => OuterProduct(dot).run(isa, tile),
            }
        }
    }

    #[inline(always)]
    unsafe fn gemv(self, isa: Avx512, tile: Tile<Bf16Pair, f32>, panel_stride: usize) {
        // SAFETY: the caller of `gemv` guarantees its preconditions, which are those of this call.
        unsafe {
            match self {
                Self::Amx(amx) => amx.bf16_gemv(tile, panel_stride),
                Self::Dot(dot) => OuterProduct(dot).gemv(isa, tile, panel_stride),
            }
        }
    }
}

/// How quads of int8 are multiplied. Both are exact, so that either may take any row.
#[derive(Clone, Copy, Debug)]
pub enum Int8 {
    /// `tdpbusd`; one row alone, which would fill a sixteenth of its tile, as below.
    Amx(Amx, DotInt8),
    /// `vpdpbusd`.
    Dot(DotInt8),
}

impl Int8 {
    /// The way that `isa` has, if any.
    #[inline(always)]
    pub(super) fn of(isa: Avx512) -> Option<Self> {
        let dot = DotInt8::of(isa)?;
        Some(isa.amx.map_or(Self::Dot(dot), |amx| Self::Amx(amx, dot)))
    }
}

impl Microkernel<Avx512> for Int8 {
    type Operand = Int8Quad;
    type Sum = i32;

    #[inline(always)]
    fn instruction(self) -> &'static str {
        match self {
            Self::Amx(..) => KGroup::Int8.instruction(),
            Self::Dot(_) => DotInt8::INSTRUCTION,
        }
    }

    #[inline(always)]
    fn rows(self) -> usize {
        match self {
            Self::Amx(..) => Amx::ROWS,
            Self::Dot(_) => Avx512::MR,
        }
    }

    #[inline(always)]
    unsafe fn run(self, isa: Avx512, tile: Tile<Int8Quad, i32>) {
        // SAFETY: the caller of `run` guarantees its preconditions, which are those of this call.
        unsafe {
            match self {
                Self::Amx(amx, _) => amx.run(KGroup::Int8, tile),
                Self::Dot(dot) => OuterProduct(dot).run(isa, tile),
            }
        }
    }

    #[inline(always)]
    unsafe fn gemv(self, isa: Avx512, tile: Tile<Int8Quad, i32>, panel_stride: usize) {
        let (Self::Amx(_, dot) | Self::Dot(dot)) = self;
        // SAFETY: the caller of `gemv` guarantees its preconditions, which are those of this call.
        unsafe { OuterProduct(dot).gemv(isa, tile, panel_stride) }
    }
}

/// Pairs of bf16 by `vdpbf16ps`: sums of two products, each rounded to nearest even as if by a fused
/// multiply-add, odd k-steps first; denormals are taken, and returned, as zeros.
#[derive(Clone, Copy, Debug)]
pub struct DotBf16(());

impl Dot<Avx512> for DotBf16 {
    type Operand = Bf16Pair;
    type Sum = f32;
    const INSTRUCTION: &'static str = "vdpbf16ps";

    #[inline(always)]
    fn dot(self, a: F32x16, b: F32x16, sum: F32x16) -> F32x16 {
        // SAFETY: a value of this type proves the instruction.
        F32x16(unsafe { vdpbf16ps(a.0, b.0, sum.0) })
    }
}

/// Quads of int8 by `vpdpbusd`: exact.
#[derive(Clone, Copy, Debug)]
pub struct DotInt8(());

impl DotInt8 {
    /// The instruction, if `isa` has it.
    #[inline(always)]
    pub(super) fn of(isa: Avx512) -> Option<Self> {
        isa.vnni.then_some(Self(()))
    }
}

impl Dot<Avx512> for DotInt8 {
    type Operand = Int8Quad;
    type Sum = i32;
    const INSTRUCTION: &'static str = "vpdpbusd";

    #[inline(always)]
    fn dot(self, a: F32x16, b: F32x16, sum: F32x16) -> F32x16 {
        // SAFETY: a value of this type proves the instruction.
        F32x16(unsafe { vpdpbusd(a.0, b.0, sum.0) })
    }
}

/// An instruction `sum = f(a, b, sum)` of an extension. Its intrinsic needs a target feature that
/// [`Isa::run`] does not enable, for not every CPU that has AVX-512 has it, and would become a call.
macro_rules! extension {
    ($($name:ident)*) => {$(
        /// # Safety
        /// This CPU has AVX-512 and the instruction.
        #[target_feature(enable = "avx512f")]
        #[inline]
        unsafe fn $name(a: __m512, b: __m512, mut sum: __m512) -> __m512 {
            // SAFETY: this CPU has the instruction (precondition of the function).
            unsafe {
                asm!(
                    concat!(stringify!($name), " {sum}, {a}, {b}"),
                    sum = inout(zmm_reg) sum, a = in(zmm_reg) a, b = in(zmm_reg) b,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            sum
        }
    )*};
}
extension!(vdpbf16ps vpdpbusd);

/// True if `vdpbf16ps` beats two fused multiply-adds. On AMD it does: Zen 4 runs it at the rate of one. On Intel
/// it does not: Sapphire Rapids runs it at a quarter of that rate.
pub(super) fn dot_bf16_is_fast() -> bool {
    #[allow(unused_unsafe, reason = "the intrinsic has become safe")]
    // SAFETY: every x86-64 has the instruction.
    let vendor = unsafe { __cpuid(0) };
    is_x86_feature_detected!("avx512bf16")
        && [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
}
