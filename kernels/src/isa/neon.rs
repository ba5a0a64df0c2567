//! NEON (AArch64 Advanced SIMD) and its extensions BF16, I8MM and DotProd.
//!
//! `neon/tiles.rs` explains the size of the tile.

#[macro_use]
mod pairs;
mod microkernel;
mod tiles;
mod vector;

pub use microkernel::{Bf16, Int8, Sdot};
pub use vector::F32x4;

use super::tile::for_rows;
use super::{Dot, F32, Isa, Tile, probe, sealed::SealedIsa};
use core::arch::aarch64::*;
use core::arch::asm;
use std::arch::is_aarch64_feature_detected;

/// Proof that the CPU and the operating system support NEON; and a record of the extensions that they support.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neon {
    /// BF16: `bfmmla`.
    bf16: bool,
    /// I8MM: `smmla`.
    i8mm: bool,
    /// DotProd: `sdot`.
    dotprod: bool,
}

impl Neon {
    /// Returns the token without extensions, if this CPU has any to leave out.
    pub(crate) fn plain() -> Option<Self> {
        let plain = Self { bf16: false, i8mm: false, dotprod: false };
        Self::detect().filter(|&all| all != plain).map(|_| plain)
    }

    /// Returns the token without `smmla`, for tests of the `sdot` microkernel on CPUs with both.
    #[cfg(test)]
    pub(crate) fn without_i8mm(self) -> Self {
        Self { i8mm: false, ..self }
    }
}

impl SealedIsa for Neon {}

impl Isa for Neon {
    type V = F32x4;
    type Bf16 = Bf16;
    type Int8 = Int8;
    type DotInt8 = Sdot;
    const NAME: &'static str = "neon";
    const MR: usize = 6;
    const NR: usize = 16;

    fn detect() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then(|| Self {
            bf16: is_aarch64_feature_detected!("bf16"),
            i8mm: is_aarch64_feature_detected!("i8mm"),
            dotprod: is_aarch64_feature_detected!("dotprod"),
        })
    }

    #[inline(always)]
    fn bf16(self) -> Option<Self::Bf16> {
        Bf16::of(self)
    }

    #[inline(always)]
    fn dot_int8(self) -> Option<Self::DotInt8> {
        Sdot::of(self)
    }

    #[inline(always)]
    fn int8(self) -> Option<Self::Int8> {
        Int8::of(self)
    }

    #[inline(always)]
    fn run<R>(self, f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "neon")]
        fn enabled<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        // SAFETY: the token proves NEON, the feature that `enabled` requires.
        unsafe { enabled(f) }
    }

    #[inline(always)]
    unsafe fn gemm_tile(self, tile: Tile) {
        // SAFETY: the bullets under `Tile` hold (precondition of `gemm_tile`).
        unsafe { tiles::by_lane(self, F32, tile) }
    }

    #[inline(always)]
    unsafe fn dot_tile<D: Dot<Self>>(self, dot: D, tile: Tile<D::Operand, D::Sum>) {
        for_rows!(self, dot, tile, 4, [6 5 4 3 2 1])
    }

    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        // SAFETY: `src` is valid for reads of 4 rows of 4 floats, `src_stride` apart, and `dst` for writes of 4 rows
        // of 4 floats, `dst_stride` apart (preconditions of `transpose`). The token proves NEON.
        unsafe {
            let r: [_; 4] = core::array::from_fn(|i| vld1q_f32(src.add(i * src_stride)));
            // Transpose 2 x 2 blocks of floats, then the 2 x 2 block of float pairs.
            let pairs = |v: float32x4_t| vreinterpretq_f64_f32(v);
            let (even, odd) = (pairs(vtrn1q_f32(r[0], r[1])), pairs(vtrn2q_f32(r[0], r[1])));
            let (even2, odd2) = (pairs(vtrn1q_f32(r[2], r[3])), pairs(vtrn2q_f32(r[2], r[3])));
            let columns = [
                vtrn1q_f64(even, even2),
                vtrn1q_f64(odd, odd2),
                vtrn2q_f64(even, even2),
                vtrn2q_f64(odd, odd2),
            ];
            for (i, column) in columns.into_iter().enumerate() {
                vst1q_f32(dst.add(i * dst_stride), vreinterpretq_f32_f64(column));
            }
        }
    }

    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        // SAFETY: a prefetch accesses no memory that the program observes: any address is allowed.
        unsafe { asm!("prfm pldl2keep, [{}]", in(reg) p, options(nostack, preserves_flags, readonly)) }
    }

    #[inline(always)]
    fn read(self, data: &[f32], passes: usize) -> u64 {
        // SAFETY: the token proves NEON, which `read_q` requires.
        unsafe { probe::read_by(probe::read_q, data, passes) }
    }
}
