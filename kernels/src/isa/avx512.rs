//! AVX-512 (F, BW, DQ, VL).
//!
//! ```text
//! f32 microkernel 14x32
//!   registers    28 accumulators + 2 of B + 2 broadcasts of A = 32 of 16 lanes
//!   per k-step   28 vfmadd231ps (2/cycle), 2 loads, 14 vbroadcastss: 14 cycles, 16 of 28 load slots
//! ```
//!
//! 14 rows are the most that fit: 15 would need 30 + 2 + 1 = 33 registers. 28 accumulators hide the latency of the
//! multiply-adds: 4 cycles at 2 per cycle take 8 chains.

use super::amx::Amx;
use super::tile::for_rows;
use super::{Dot, Isa, Tile, Vector, probe, sealed::SealedIsa};
use core::arch::asm;
use core::arch::x86_64::*;

mod halves;
mod microkernel;
mod vector;

pub use microkernel::{Bf16, DotInt8, Int8};
pub use vector::F32x16;

/// Proof that the CPU and the operating system support AVX-512 F, BW, DQ and VL, with AVX2, FMA and F16C; and a record
/// of the extensions that they support.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512 {
    /// `vpdpbusd`.
    vnni: bool,
    /// `vdpbf16ps`, where it is faster than widening bf16 to f32.
    bf16: bool,
    /// AMX.
    amx: Option<Amx>,
}

impl Avx512 {
    /// Returns the token with AMX, if the operating system permits it. Requests the permission.
    pub(crate) fn amx() -> Option<Self> {
        // `Int8::Amx` multiplies a single row by `vpdpbusd`.
        let all = Self::detect().filter(|found| found.vnni)?;
        Some(Self { amx: Some(Amx::detect()?), ..all })
    }

    /// Returns the token without extensions, if this CPU has any to leave out.
    pub(crate) fn plain() -> Option<Self> {
        let plain = Self { vnni: false, bf16: false, amx: None };
        Self::detect().filter(|&all| all != plain).map(|_| plain)
    }
}

impl SealedIsa for Avx512 {}

impl Isa for Avx512 {
    type V = F32x16;
    type Bf16 = Bf16;
    type Int8 = Int8;
    type DotInt8 = DotInt8;
    const NAME: &'static str = "avx512";
    const MR: usize = 14;
    const NR: usize = 32;

    fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        all.then(|| Self {
            vnni: is_x86_feature_detected!("avx512vnni"),
            bf16: microkernel::dot_bf16_is_fast(),
            amx: None,
        })
    }

    #[inline(always)]
    fn bf16(self) -> Option<Self::Bf16> {
        Bf16::of(self)
    }

    #[inline(always)]
    fn dot_int8(self) -> Option<Self::DotInt8> {
        DotInt8::of(self)
    }

    #[inline(always)]
    fn int8(self) -> Option<Self::Int8> {
        Int8::of(self)
    }

    #[inline(always)]
    fn run<R>(self, f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        fn enabled<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        // SAFETY: the token proves the features that `enabled` requires.
        unsafe { enabled(f) }
    }

    #[inline(always)]
    unsafe fn dot_tile<D: Dot<Self>>(self, dot: D, tile: Tile<D::Operand, D::Sum>) {
        for_rows!(self, dot, tile, 2, [14 13 12 11 10 9 8 7 6 5 4 3 2 1])
    }

    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        // SAFETY: `src` is valid for reads of 16 rows of 16 floats, `src_stride` apart, and `dst` for writes of
        // 16 rows of 16 floats, `dst_stride` apart (preconditions of `transpose`). The token proves AVX-512.
        unsafe {
            self.transpose_vectors(
                #[inline(always)]
                |i| F32x16::load_ptr(self, src.add(i * src_stride)),
                dst,
                dst_stride,
            );
        }
    }

    #[inline(always)]
    unsafe fn transpose_vectors(self, row: impl Fn(usize) -> F32x16, dst: *mut f32, dst_stride: usize) {
        for (i, v) in transposed(row).into_iter().enumerate() {
            // SAFETY: `dst` is valid for writes of 16 rows of 16 floats, `dst_stride` apart (precondition of
            // `transpose_vectors`).
            unsafe { v.store_ptr(dst.add(i * dst_stride)) };
        }
    }

    #[inline(always)]
    unsafe fn columns(self, src: *const f32, src_stride: usize, mut f: impl FnMut(usize, F32x16)) {
        let columns = transposed(
            #[inline(always)]
            |row| {
                // SAFETY: `src` is valid for reads of 16 rows of 16 floats, `src_stride` apart (precondition of
                // `columns`).
                unsafe { F32x16::load_ptr(self, src.add(row * src_stride)) }
            },
        );
        for (i, v) in columns.into_iter().enumerate() {
            f(i, v);
        }
    }

    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        // SAFETY: a prefetch accesses no memory that the program observes: any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }

    #[inline(always)]
    fn prefetch_write(self, p: *const u8) {
        // `_mm_prefetch` makes it a prefetch for reads unless the compiler knows the CPU. Without PRFCHW, the
        // instruction does nothing.
        // SAFETY: a prefetch accesses no memory that the program observes: any address is allowed.
        unsafe { asm!("prefetchw [{}]", in(reg) p.addr(), options(nomem, nostack, preserves_flags)) }
    }

    #[inline(always)]
    fn read(self, data: &[f32], passes: usize) -> u64 {
        // SAFETY: the token proves AVX-512, which `read_zmm` requires.
        unsafe { probe::read_by(probe::read_zmm, data, passes) }
    }
}

/// Returns the transpose of 16 rows of 16 floats. A row proves AVX-512.
#[inline(always)]
fn transposed(row: impl Fn(usize) -> F32x16) -> [F32x16; 16] {
    // Loads of whole rows read each cache line once and need 64 shuffles. They measured faster than fewer
    // shuffles after narrower loads.
    let r = [four_rows(&row, 0), four_rows(&row, 4), four_rows(&row, 8), four_rows(&row, 12)];
    // Transpose the 128-bit quarters of the vectors, a 4 x 4 block.
    //
    // SAFETY: a row exists, so AVX-512 may be used.
    unsafe {
        let mut columns = [F32x16(_mm512_setzero_ps()); 16];
        let vector = |v: __m512d| F32x16(_mm512_castpd_ps(v));
        for i in [0, 1, 2, 3] {
            let first = [
                _mm512_shuffle_f64x2::<0x88>(r[0][i], r[1][i]),
                _mm512_shuffle_f64x2::<0x88>(r[2][i], r[3][i]),
            ];
            let second = [
                _mm512_shuffle_f64x2::<0xdd>(r[0][i], r[1][i]),
                _mm512_shuffle_f64x2::<0xdd>(r[2][i], r[3][i]),
            ];
            columns[i] = vector(_mm512_shuffle_f64x2::<0x88>(first[0], first[1]));
            columns[i + 8] = vector(_mm512_shuffle_f64x2::<0xdd>(first[0], first[1]));
            columns[i + 4] = vector(_mm512_shuffle_f64x2::<0x88>(second[0], second[1]));
            columns[i + 12] = vector(_mm512_shuffle_f64x2::<0xdd>(second[0], second[1]));
        }
        columns
    }
}

/// Takes four rows of 16 floats, from row `first` on, and transposes the 4 x 4 block in each 128-bit quarter. A row
/// proves AVX-512.
#[inline(always)]
fn four_rows(row: &impl Fn(usize) -> F32x16, first: usize) -> [__m512d; 4] {
    let (a, b, c, d) = (row(first).0, row(first + 1).0, row(first + 2).0, row(first + 3).0);
    // SAFETY: a row exists, so AVX-512 may be used.
    unsafe {
        let low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
        let high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
        let next_low = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
        let next_high = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
        [
            _mm512_unpacklo_pd(low, next_low),
            _mm512_unpackhi_pd(low, next_low),
            _mm512_unpacklo_pd(high, next_high),
            _mm512_unpackhi_pd(high, next_high),
        ]
    }
}
