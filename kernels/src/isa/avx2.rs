//! AVX2 with FMA and F16C.
//!
//! ```text
//! data  instruction        k-group    CPUID                         tile   ymm registers
//! f32   vfmadd231ps        1 k-step   FMA       leaf 1 ECX[12]      6x16   12 sums + 2 of B + 2 of A = 16
//! int8  {vex} vpdpbusd     4 k-steps  AVX-VNNI  leaf 7.1 EAX[4]     6x16   12 sums + 2 of B + 2 of A = 16
//! i16   vpmaddwd, vpaddd   2 k-steps  AVX2      leaf 7.0 EBX[5]     4x16   8 sums + 2 of B + 2 of A + 4 products = 16
//!
//! f32 per k-step: 12 vfmadd231ps (2/cycle), 2 loads, 6 vbroadcastss: 6 cycles, 8 of 12 load slots
//! ```
//!
//! 6 rows are the most that fit: 7 would need 14 + 2 + 1 = 17 registers. 12 sums hide the latency of the
//! multiply-adds: 4 to 5 cycles at 2 per cycle take 8 to 10 chains.

use super::intrinsics::{intrinsics, operators};
use super::tile::for_rows;
use super::{Dot, Int8Quad, Isa, OuterProduct, Tile, Unavailable, Vector, probe, sealed::SealedIsa};
use core::arch::asm;
use core::arch::x86_64::*;
use core::ops::Neg;

/// Proof that the CPU and the operating system support AVX2, FMA and F16C; and a record whether they support
/// AVX-VNNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2 {
    /// AVX-VNNI: `vpdpbusd` without AVX-512.
    vnni: bool,
}

impl Avx2 {
    /// Returns the token without extensions, if this CPU has any to leave out.
    pub(crate) fn plain() -> Option<Self> {
        let plain = Self { vnni: false };
        Self::detect().filter(|&all| all != plain).map(|_| plain)
    }
}

/// `vpdpbusd` on k-groups of four int8: exact.
#[derive(Clone, Copy, Debug)]
pub struct DotInt8(());

impl Dot<Avx2> for DotInt8 {
    type Operand = Int8Quad;
    type Sum = i32;
    const INSTRUCTION: &'static str = "vpdpbusd";

    #[inline(always)]
    fn dot(self, a: F32x8, b: F32x8, sum: F32x8) -> F32x8 {
        // SAFETY: a value of this type proves AVX-VNNI; a value of `F32x8` proves AVX2.
        F32x8(unsafe { vpdpbusd(a.0, b.0, sum.0) })
    }
}

/// Returns `sum` plus the dot products of `a` and `b`.
///
/// The intrinsic needs a target feature that [`Isa::run`] does not enable: it would become a call. Without the
/// prefix `{vex}`, an assembler may choose the encoding of AVX-512.
///
/// # Safety
/// This CPU supports AVX2 and AVX-VNNI.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn vpdpbusd(a: __m256, b: __m256, mut sum: __m256) -> __m256 {
    // SAFETY: this CPU supports AVX2 and AVX-VNNI (precondition of `vpdpbusd`). The instruction accesses its operand
    // registers only.
    unsafe {
        asm!(
            "{{vex}} vpdpbusd {sum}, {a}, {b}",
            sum = inout(ymm_reg) sum, a = in(ymm_reg) a, b = in(ymm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// Eight floats. The field is private: only a holder of [`Avx2`] can make one.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct F32x8(__m256);

impl SealedIsa for Avx2 {}

impl Isa for Avx2 {
    type V = F32x8;
    type Bf16 = Unavailable;
    type Int8 = OuterProduct<DotInt8>;
    type DotInt8 = DotInt8;
    const NAME: &'static str = "avx2";
    const MR: usize = 6;
    const NR: usize = 16;

    fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        all.then(|| Self { vnni: is_x86_feature_detected!("avxvnni") })
    }

    #[inline(always)]
    fn bf16(self) -> Option<Self::Bf16> {
        None
    }

    #[inline(always)]
    fn dot_int8(self) -> Option<Self::DotInt8> {
        self.vnni.then_some(DotInt8(()))
    }

    #[inline(always)]
    fn int8(self) -> Option<Self::Int8> {
        self.vnni.then_some(OuterProduct(DotInt8(())))
    }

    #[inline(always)]
    fn run<R>(self, f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn enabled<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        // SAFETY: the token proves the features that `enabled` requires.
        unsafe { enabled(f) }
    }

    #[inline(always)]
    unsafe fn dot_tile<D: Dot<Self>>(self, dot: D, tile: Tile<D::Operand, D::Sum>) {
        for_rows!(self, dot, tile, 2, [6 5 4 3 2 1])
    }

    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        // SAFETY: `src` is valid for reads of 8 rows of 8 floats, `src_stride` apart, and `dst` for writes of 8 rows
        // of 8 floats, `dst_stride` apart (preconditions of `transpose`).
        unsafe { self.columns(src, src_stride, |i, v| v.store_ptr(dst.add(i * dst_stride))) }
    }

    #[inline(always)]
    unsafe fn columns(self, src: *const f32, src_stride: usize, mut f: impl FnMut(usize, F32x8)) {
        // SAFETY: `src` is valid for reads of 8 rows of 8 floats, `src_stride` apart (precondition of `columns`).
        // The token proves AVX2.
        unsafe {
            // Make four columns at a time. Inserts from memory place the 128-bit halves without a shuffle; a 4 x 4
            // transposition within the halves remains.
            let half = |row: usize, column: usize| _mm_loadu_ps(src.add(row * src_stride + column));
            let row = |i: usize, column: usize| {
                _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(half(i, column)), half(4 + i, column))
            };
            for c in [0, 4] {
                let r = [row(0, c), row(1, c), row(2, c), row(3, c)];
                let low = [_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpacklo_ps(r[2], r[3])];
                let high = [_mm256_unpackhi_ps(r[0], r[1]), _mm256_unpackhi_ps(r[2], r[3])];
                f(c, F32x8(_mm256_shuffle_ps::<0x44>(low[0], low[1])));
                f(c + 1, F32x8(_mm256_shuffle_ps::<0xee>(low[0], low[1])));
                f(c + 2, F32x8(_mm256_shuffle_ps::<0x44>(high[0], high[1])));
                f(c + 3, F32x8(_mm256_shuffle_ps::<0xee>(high[0], high[1])));
            }
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
        // SAFETY: the token proves AVX2, which `read_ymm` requires.
        unsafe { probe::read_by(probe::read_ymm, data, passes) }
    }
}

operators!(F32x8: Add::add by _mm256_add_ps, Sub::sub by _mm256_sub_ps, Mul::mul by _mm256_mul_ps, Div::div by _mm256_div_ps);

impl Neg for F32x8 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        // SAFETY: a value of this type proves AVX2.
        Self(unsafe { _mm256_xor_ps(self.0, _mm256_set1_ps(-0.0)) })
    }
}

#[inline(always)]
fn int(v: F32x8) -> __m256i {
    // SAFETY: a value of this type proves AVX2.
    unsafe { _mm256_castps_si256(v.0) }
}

#[inline(always)]
fn float(v: __m256i) -> F32x8 {
    // SAFETY: every caller holds a value of `F32x8` or a token, which prove AVX2.
    F32x8(unsafe { _mm256_castsi256_ps(v) })
}

/// Returns the mask of the first `n` lanes, read from a sliding window over ones and zeros.
#[inline(always)]
fn first(n: usize) -> __m256i {
    const WINDOW: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the offset 8 - min(n, 8) is in 0..=8, so 8 of the 16 entries follow it. Every caller holds a token or a
    // value of `F32x8`, which prove AVX2.
    unsafe { _mm256_loadu_si256(WINDOW.as_ptr().add(8 - n.min(8)).cast()) }
}

impl Vector<Avx2> for F32x8 {
    const LANES: usize = 8;
    type Mask = __m256;

    #[inline(always)]
    unsafe fn load_ptr(_: Avx2, p: *const f32) -> Self {
        // SAFETY: `p` is valid for reads of `LANES` floats (precondition of `load_ptr`).
        Self(unsafe { _mm256_loadu_ps(p) })
    }

    #[inline(always)]
    unsafe fn store_ptr(self, p: *mut f32) {
        // SAFETY: `p` is valid for writes of `LANES` floats (precondition of `store_ptr`).
        unsafe { _mm256_storeu_ps(p, self.0) }
    }

    #[inline(always)]
    fn load_partial(_: Avx2, src: &[f32], fill: f32) -> Self {
        let mask = first(src.len());
        // SAFETY: the load reads the lanes of the mask only, which lie in `src`. The token proves AVX2.
        unsafe {
            let read = _mm256_maskload_ps(src.as_ptr(), mask);
            Self(_mm256_blendv_ps(_mm256_set1_ps(fill), read, _mm256_castsi256_ps(mask)))
        }
    }

    #[inline(always)]
    fn store_partial(self, dst: &mut [f32]) {
        // SAFETY: the store writes the lanes of the mask only, which lie in `dst`. A value of this type proves AVX2.
        unsafe { _mm256_maskstore_ps(dst.as_mut_ptr(), first(dst.len()), self.0) }
    }

    #[inline(always)]
    fn shl_bits<const N: u32>(self) -> Self {
        // SAFETY: a value of this type proves AVX2.
        float(unsafe { _mm256_sll_epi32(int(self), _mm_cvtsi32_si128(N as i32)) })
    }

    #[inline(always)]
    fn shr_bits<const N: u32>(self) -> Self {
        // SAFETY: a value of this type proves AVX2.
        float(unsafe { _mm256_srl_epi32(int(self), _mm_cvtsi32_si128(N as i32)) })
    }

    #[inline(always)]
    unsafe fn load_u16(_: Avx2, p: *const u16) -> Self {
        // SAFETY: `p` is valid for reads of `LANES` numbers of 16 bits (precondition of `load_u16`).
        float(unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())) })
    }

    #[inline(always)]
    unsafe fn store_u16(self, p: *mut u16) {
        // SAFETY: `p` is valid for writes of `LANES` numbers of 16 bits (precondition of `store_u16`).
        unsafe {
            // The pack saturates, so clear the upper half of each lane first.
            let low = _mm256_and_si256(int(self), _mm256_set1_epi32(0xffff));
            let halves = (_mm256_castsi256_si128(low), _mm256_extracti128_si256::<1>(low));
            _mm_storeu_si128(p.cast(), _mm_packus_epi32(halves.0, halves.1));
        }
    }

    #[inline(always)]
    unsafe fn load_i8(_: Avx2, p: *const i8) -> Self {
        // SAFETY: `p` is valid for reads of `LANES` bytes (precondition of `load_i8`).
        float(unsafe { _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())) })
    }

    #[inline(always)]
    unsafe fn store_u8(self, p: *mut u8) {
        // SAFETY: `p` is valid for writes of `LANES` bytes (precondition of `store_u8`).
        unsafe {
            let low = _mm256_and_si256(int(self), _mm256_set1_epi32(0xff));
            let halves = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256::<1>(low));
            _mm_storel_epi64(p.cast(), _mm_packus_epi16(halves, halves));
        }
    }

    #[inline(always)]
    unsafe fn load_f16(_: Avx2, p: *const u16) -> Self {
        // SAFETY: `p` is valid for reads of `LANES` numbers of 16 bits (precondition of `load_f16`).
        Self(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) })
    }

    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16) {
        // SAFETY: `p` is valid for writes of `LANES` numbers of 16 bits (precondition of `store_f16`).
        unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) }
    }

    #[inline(always)]
    fn lookup(self, _: Avx2, table: &[f32]) -> Self {
        assert!(table.len() >= Self::TABLE);
        // SAFETY: `table` holds the 8 floats of the load (checked above). A value of this type proves AVX2.
        unsafe { Self(_mm256_permutevar8x32_ps(_mm256_loadu_ps(table.as_ptr()), int(self))) }
    }

    intrinsics! {
        fn splat(_isa: Avx2, x: f32) -> Self { Self(_mm256_set1_ps(x)) }
        fn mul_add(self: Self, b: Self, c: Self) -> Self { Self(_mm256_fmadd_ps(self.0, b.0, c.0)) }
        fn min(self: Self, b: Self) -> Self { Self(_mm256_min_ps(self.0, b.0)) }
        fn max(self: Self, b: Self) -> Self { Self(_mm256_max_ps(self.0, b.0)) }
        fn abs(self: Self) -> Self { Self(_mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0)) }
        fn sqrt(self: Self) -> Self { Self(_mm256_sqrt_ps(self.0)) }
        fn round(self: Self) -> Self { Self(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)) }
        fn lt(self: Self, b: Self) -> __m256 { _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, b.0) }
        fn le(self: Self, b: Self) -> __m256 { _mm256_cmp_ps::<_CMP_LE_OQ>(self.0, b.0) }
        fn eq(self: Self, b: Self) -> __m256 { _mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, b.0) }
        fn select(self: Self, mask: __m256, other: Self) -> Self { Self(_mm256_blendv_ps(other.0, self.0, mask)) }
        fn any(mask: __m256) -> bool { _mm256_movemask_ps(mask) != 0 }
        fn keep(self: Self, mask: __m256) -> Self { Self(_mm256_and_ps(mask, self.0)) }
        fn and_bits(self: Self, b: Self) -> Self { Self(_mm256_and_ps(self.0, b.0)) }
        fn or_bits(self: Self, b: Self) -> Self { Self(_mm256_or_ps(self.0, b.0)) }
        fn xor_bits(self: Self, b: Self) -> Self { Self(_mm256_xor_ps(self.0, b.0)) }
        fn add_bits(self: Self, b: Self) -> Self { float(_mm256_add_epi32(int(self), int(b))) }
        fn sub_bits(self: Self, b: Self) -> Self { float(_mm256_sub_epi32(int(self), int(b))) }
        fn dot_i16(self: Self, b: Self, sum: Self) -> Self { float(_mm256_add_epi32(int(sum), _mm256_madd_epi16(int(self), int(b)))) }
        fn mul_bits(self: Self, b: Self) -> Self { float(_mm256_mullo_epi32(int(self), int(b))) }
        fn mul_even_bits(self: Self, b: Self) -> Self { float(_mm256_mul_epu32(int(self), int(b))) }
        fn lt_bits(self: Self, b: Self) -> __m256 {
            {
                // Only signed comparisons exist: flipping the sign bits keeps the order.
                let sign = _mm256_set1_epi32(i32::MIN);
                let (a, b) = (_mm256_xor_si256(int(self), sign), _mm256_xor_si256(int(b), sign));
                _mm256_castsi256_ps(_mm256_cmpgt_epi32(b, a))
            }
        }
        fn int_to_float(self: Self) -> Self { Self(_mm256_cvtepi32_ps(int(self))) }
        fn float_to_int(self: Self) -> Self { float(_mm256_cvtps_epi32(self.0)) }
        fn swap_pairs(self: Self) -> Self { Self(_mm256_permute_ps::<0b10_11_00_01>(self.0)) }
        fn sum(self: Self) -> f32 {
            {
                let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
            }
        }
        fn maximum(self: Self) -> f32 {
            {
                let four = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
                let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
            }
        }
    }
}
