//! Microkernels of AVX-512 for bf16 and int8: its extensions, and AMX.
//!
//! ```text
//! data  instruction        k-group    CPUID                                 tile    zmm registers
//! f32   vfmadd231ps        1 k-step   AVX512F      leaf 7.0 EBX[16]         14x32   28 sums + 2 of B + 2 of A = 32
//! bf16  vdpbf16ps          2 k-steps  AVX512_BF16  leaf 7.1 EAX[5]; AMD     14x32   28 sums + 2 of B + 2 of A = 32
//!       tdpbf16ps          2 k-steps  AMX-BF16     leaf 7.0 EDX[22, 24]     32x32   `amx/tiles.rs`
//! int8  vpdpbusd           4 k-steps  AVX512_VNNI  leaf 7.0 ECX[11]         14x32   28 sums + 2 of B + 2 of A = 32
//!       tdpbusd            4 k-steps  AMX-INT8     leaf 7.0 EDX[24, 25]     32x32   `amx/tiles.rs`
//! i16   vpmaddwd, vpaddd   2 k-steps  AVX512BW     leaf 7.0 EBX[30]         12x32   24 sums + 2 of B + 2 of A
//!                                                                                   + 4 products = 32
//! ```
//!
//! `avx512.rs` explains the size of the tile. i16 leaves out two rows: `vpmaddwd` needs a register for its product.

use super::{Avx512, F32x16};
use crate::isa::amx::{Amx, KGroup};
use crate::isa::{Bf16Pair, Dot, Int8Quad, Isa, KC, L2_BYTES, Microkernel, OuterProduct, Tile};
use core::arch::asm;
use core::arch::x86_64::*;

/// Microkernel of bf16. Its variants round differently.
#[derive(Clone, Copy, Debug)]
pub enum Bf16 {
    /// `tdpbf16ps`.
    Amx(Amx),
    /// `vdpbf16ps`.
    Dot(DotBf16),
}

impl Bf16 {
    /// Returns the faster variant that `isa` supports, if any.
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

    /// Every CPU with AMX has 2 MiB.
    #[inline(always)]
    fn l2_bytes(self) -> usize {
        match self {
            Self::Amx(_) => 2 * L2_BYTES,
            Self::Dot(_) => L2_BYTES,
        }
    }

    /// AMX reads a panel's k-block, 24 KiB, from L1 for all strips but the first, beside a strip of A. With whole KC both
    /// come from L2: the backward products of 512 x 768 x 3072 took 7 to 9% longer in most pairs of runs (Sapphire Rapids).
    #[inline(always)]
    fn kc(self) -> usize {
        match self {
            Self::Amx(_) => KC / 2,
            Self::Dot(_) => KC,
        }
    }

    #[inline(always)]
    fn session<R>(self, f: impl FnOnce() -> R) -> R {
        let _session = match self {
            Self::Amx(amx) => Some(amx.session()),
            Self::Dot(_) => None,
        };
        f()
    }

    #[inline(always)]
    unsafe fn run(self, isa: Avx512, tile: Tile<Bf16Pair, f32>) {
        // SAFETY: the bullets under `Tile` hold, for k-groups (precondition of `run`).
        unsafe {
            match self {
                Self::Amx(amx) => amx.run(KGroup::Bf16, tile),
                Self::Dot(dot) => OuterProduct(dot).run(isa, tile),
            }
        }
    }

    #[inline(always)]
    unsafe fn gemv(self, isa: Avx512, tile: Tile<Bf16Pair, f32>, panel_stride: usize) {
        // SAFETY: the bullets under `Tile` hold for one row and each panel (precondition of `gemv`).
        unsafe {
            match self {
                Self::Amx(amx) => amx.bf16_gemv(tile, panel_stride),
                Self::Dot(dot) => OuterProduct(dot).gemv(isa, tile, panel_stride),
            }
        }
    }
}

/// Microkernel of int8. Its variants are exact, so the variant of a row does not change its result.
#[derive(Clone, Copy, Debug)]
pub enum Int8 {
    /// `tdpbusd`; for a single row `vpdpbusd`, because one row would fill a sixteenth of an AMX tile.
    Amx(Amx, DotInt8),
    /// `vpdpbusd`.
    Dot(DotInt8),
}

impl Int8 {
    /// Returns the faster variant that `isa` supports, if any.
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
    fn session<R>(self, f: impl FnOnce() -> R) -> R {
        let _session = match self {
            Self::Amx(amx, _) => Some(amx.session()),
            Self::Dot(_) => None,
        };
        f()
    }

    #[inline(always)]
    unsafe fn run(self, isa: Avx512, tile: Tile<Int8Quad, i32>) {
        // SAFETY: the bullets under `Tile` hold, for k-groups (precondition of `run`).
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
        // SAFETY: the bullets under `Tile` hold for one row and each panel (precondition of `gemv`).
        unsafe { OuterProduct(dot).gemv(isa, tile, panel_stride) }
    }
}

/// `vdpbf16ps` on k-groups of two bf16: a fused multiply-add of the odd k-step, then one of the even k-step. Both
/// round to nearest even, and flush denormal operands and results to zero.
#[derive(Clone, Copy, Debug)]
pub struct DotBf16(());

impl Dot<Avx512> for DotBf16 {
    type Operand = Bf16Pair;
    type Sum = f32;
    const INSTRUCTION: &'static str = "vdpbf16ps";

    #[inline(always)]
    fn dot(self, a: F32x16, b: F32x16, sum: F32x16) -> F32x16 {
        // SAFETY: a value of this type proves the instruction; a value of `F32x16` proves AVX-512.
        F32x16(unsafe { vdpbf16ps(a.0, b.0, sum.0) })
    }
}

/// `vpdpbusd` on k-groups of four int8: exact.
#[derive(Clone, Copy, Debug)]
pub struct DotInt8(());

impl DotInt8 {
    /// Returns the instruction, if `isa` supports it.
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
        // SAFETY: a value of this type proves the instruction; a value of `F32x16` proves AVX-512.
        F32x16(unsafe { vpdpbusd(a.0, b.0, sum.0) })
    }
}

/// Defines instructions `sum = f(a, b, sum)` of extensions, in assembly.
///
/// [`Isa::run`] does not enable the target features of extensions, because some CPUs with AVX-512 lack them. The
/// intrinsics would become calls.
macro_rules! extension {
    ($($name:ident)*) => {$(
        /// # Safety
        /// This CPU supports AVX-512 and the instruction.
        #[target_feature(enable = "avx512f")]
        #[inline]
        unsafe fn $name(a: __m512, b: __m512, mut sum: __m512) -> __m512 {
            // SAFETY: this CPU supports the instruction (precondition of the function), which accesses its operand
            // registers only.
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

/// True if this CPU supports `vdpbf16ps` and runs it faster than two fused multiply-adds.
///
/// Zen 4 runs it at the rate of one fused multiply-add, Sapphire Rapids at a quarter of that rate: true on AMD only.
pub(super) fn dot_bf16_is_fast() -> bool {
    #[allow(unused_unsafe, reason = "the intrinsic has become safe")]
    // SAFETY: every x86-64 CPU supports `cpuid`.
    let vendor = unsafe { __cpuid(0) };
    is_x86_feature_detected!("avx512bf16")
        && [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
}
