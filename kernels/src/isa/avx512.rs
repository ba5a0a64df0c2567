//! AVX-512 (F, BW, DQ, VL).
//!
//! ```text
//! f32 tile 14x32: 28 accumulators + 2 of B + 2 broadcasts of A = 32 registers of 16 lanes
//! per k-step: 28 vfmadd231ps (2/cycle), 2 loads, 14 vbroadcastss: 14 cycles, 16 of 28 load slots
//! ```

use super::amx::Amx;
use super::intrinsics::{intrinsics, operators};
use super::tile::for_rows;
use super::{Dot, Isa, Tile, Vector, probe, sealed::Sealed};
use core::arch::x86_64::*;
use core::ops::Neg;

mod halves;
mod microkernel;

pub use microkernel::{Bf16, DotInt8, Int8};

/// The upper halves of sixteen lanes, then whatever.
static UPPER: [u16; 32] = {
    let mut halves = [0; 32];
    let mut i = 0;
    while i < 16 {
        halves[i] = 2 * i as u16 + 1;
        i += 1;
    }
    halves
};

/// Proof that AVX-512 F, BW, DQ and VL may be used, by the CPU and by the operating system; and which
/// of their extensions may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512 {
    /// `vpdpbusd`.
    vnni: bool,
    /// `vdpbf16ps`, and that it is faster than widening.
    bf16: bool,
    /// The tiles of AMX.
    amx: Option<Amx>,
}

impl Avx512 {
    /// The token with AMX, where the operating system gives the permission. Asks for it.
    pub(crate) fn amx() -> Option<Self> {
        // One row of int8 is multiplied by VNNI.
        let all = Self::detect().filter(|found| found.vnni)?;
        Some(Self { amx: Some(Amx::detect()?), ..all })
    }

    /// The token without extensions, if there are any to leave out.
    pub(crate) fn plain() -> Option<Self> {
        let plain = Self { vnni: false, bf16: false, amx: None };
        Self::detect().filter(|&all| all != plain).map(|_| plain)
    }
}

/// Sixteen floats. The field is private: only a holder of [`Avx512`] can make one.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct F32x16(__m512);

impl Sealed for Avx512 {}

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
        // SAFETY: the token proves the features.
        unsafe { enabled(f) }
    }

    #[inline(always)]
    unsafe fn dot_tile<D: Dot<Self>>(self, dot: D, tile: Tile<D::Operand, D::Sum>) {
        for_rows!(self, dot, tile, 2, [14 13 12 11 10 9 8 7 6 5 4 3 2 1])
    }

    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        // SAFETY: `src` is valid for reads of `LANES` floats at each of `LANES` rows `src_stride` apart, and
        // `dst` for writes likewise; they do not overlap (precondition of `transpose`). Pointers are valid
        // for 16 rows of 16; the token proves the features.
        unsafe {
            for (i, v) in transposed(src, src_stride).into_iter().enumerate() {
                v.store_ptr(dst.add(i * dst_stride));
            }
        }
    }

    #[inline(always)]
    unsafe fn columns(self, src: *const f32, src_stride: usize, mut f: impl FnMut(usize, F32x16)) {
        // SAFETY: `src` is valid for reads of `LANES` floats at each of `LANES` rows `src_stride` apart
        // (precondition of `columns`). Pointer is valid for 16 rows of 16; the token proves the features.
        for (i, v) in unsafe { transposed(src, src_stride) }.into_iter().enumerate() {
            f(i, v);
        }
    }

    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        // SAFETY: a prefetch of any address is harmless.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }

    #[inline(always)]
    fn read(self, data: &[f32], passes: usize) -> u64 {
        // SAFETY: the token proves the instructions.
        unsafe { probe::read_by(probe::read_zmm, data, passes) }
    }
}

/// The transpose of 16 rows of 16 floats.
///
/// # Safety
/// The rows, `stride` apart, are valid for reads; AVX-512 may be used.
#[inline(always)]
unsafe fn transposed(src: *const f32, stride: usize) -> [F32x16; 16] {
    // SAFETY: The rows, `stride` apart, are valid for reads; AVX-512 may be used (precondition of
    // `transposed`).
    unsafe {
        // Whole rows in, whole rows out: 64 shuffles, but no cache line is touched twice, which
        // measured faster than fewer shuffles behind narrower loads.
        let r = [
            four_rows(src, stride),
            four_rows(src.add(4 * stride), stride),
            four_rows(src.add(8 * stride), stride),
            four_rows(src.add(12 * stride), stride),
        ];
        // Then the quarters themselves, as a 4 x 4 block.
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

/// Four rows of 16 floats, with the 4 x 4 block in each 128-bit quarter transposed.
///
/// # Safety
/// The rows, `stride` apart, are valid for reads; AVX-512 may be used.
#[inline(always)]
unsafe fn four_rows(src: *const f32, stride: usize) -> [__m512d; 4] {
    // SAFETY: The rows, `stride` apart, are valid for reads; AVX-512 may be used (precondition of
    // `four_rows`).
    unsafe {
        let (a, b) = (_mm512_loadu_ps(src), _mm512_loadu_ps(src.add(stride)));
        let (c, d) = (_mm512_loadu_ps(src.add(2 * stride)), _mm512_loadu_ps(src.add(3 * stride)));
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

operators!(F32x16: Add::add by _mm512_add_ps, Sub::sub by _mm512_sub_ps, Mul::mul by _mm512_mul_ps, Div::div by _mm512_div_ps);

impl Neg for F32x16 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        // SAFETY: a value of this type proves AVX-512.
        Self(unsafe { _mm512_xor_ps(self.0, _mm512_set1_ps(-0.0)) })
    }
}

#[inline(always)]
fn int(v: F32x16) -> __m512i {
    // SAFETY: a value of this type proves AVX-512.
    unsafe { _mm512_castps_si512(v.0) }
}

#[inline(always)]
fn float(v: __m512i) -> F32x16 {
    // SAFETY: callers hold a value of `F32x16`.
    F32x16(unsafe { _mm512_castsi512_ps(v) })
}

/// The mask of the first `n` lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    ((1u32 << n.min(16)) - 1) as __mmask16
}

impl Vector<Avx512> for F32x16 {
    const LANES: usize = 16;
    type Mask = __mmask16;

    #[inline(always)]
    unsafe fn load_ptr(_: Avx512, p: *const f32) -> Self {
        // SAFETY: `p` is valid for reads of `LANES` floats (precondition of `load_ptr`).
        Self(unsafe { _mm512_loadu_ps(p) })
    }

    #[inline(always)]
    unsafe fn store_ptr(self, p: *mut f32) {
        // SAFETY: `p` is valid for writes of `LANES` floats (precondition of `store_ptr`).
        unsafe { _mm512_storeu_ps(p, self.0) }
    }

    #[inline(always)]
    fn load_partial(_: Avx512, src: &[f32], fill: f32) -> Self {
        // SAFETY: masked-out lanes are not read; the others lie in `src`.
        Self(unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(fill), first(src.len()), src.as_ptr()) })
    }

    #[inline(always)]
    fn store_partial(self, dst: &mut [f32]) {
        // SAFETY: masked-out lanes are not written; the others lie in `dst`.
        unsafe { _mm512_mask_storeu_ps(dst.as_mut_ptr(), first(dst.len()), self.0) }
    }

    #[inline(always)]
    fn low_four_bits(self, _: Avx512, bias: f32) -> Self {
        let mut table = [0.0; 16];
        for (q, entry) in table.iter_mut().enumerate() {
            *entry = q as f32 - bias;
        }
        // SAFETY: the token proves the instructions. The permutation takes no other bits of an index.
        unsafe { Self(_mm512_permutexvar_ps(int(self), _mm512_loadu_ps(table.as_ptr()))) }
    }

    #[inline(always)]
    fn shl_bits<const N: u32>(self) -> Self {
        // SAFETY: a value of this type proves AVX-512.
        float(unsafe { _mm512_slli_epi32::<N>(int(self)) })
    }

    #[inline(always)]
    fn shr_bits<const N: u32>(self) -> Self {
        // SAFETY: a value of this type proves AVX-512.
        float(unsafe { _mm512_srli_epi32::<N>(int(self)) })
    }

    #[inline(always)]
    unsafe fn load_u16(_: Avx512, p: *const u16) -> Self {
        // SAFETY: `p` is valid for reads of `LANES` numbers of 16 bits (precondition of `load_u16`).
        float(unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())) })
    }

    #[inline(always)]
    unsafe fn store_u16(self, p: *mut u16) {
        // SAFETY: `p` is valid for writes of `LANES` numbers of 16 bits (precondition of `store_u16`).
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(int(self))) }
    }

    #[inline(always)]
    unsafe fn load_i8(_: Avx512, p: *const i8) -> Self {
        // SAFETY: `p` is valid for reads of `LANES` bytes (precondition of `load_i8`).
        float(unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())) })
    }

    #[inline(always)]
    unsafe fn store_u8(self, p: *mut u8) {
        // SAFETY: `p` is valid for writes of `LANES` bytes (precondition of `store_u8`).
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(int(self))) }
    }

    #[inline(always)]
    unsafe fn load_f16(_: Avx512, p: *const u16) -> Self {
        // SAFETY: `p` is valid for reads of `LANES` numbers of 16 bits (precondition of `load_f16`).
        Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) })
    }

    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16) {
        // SAFETY: `p` is valid for writes of `LANES` numbers of 16 bits (precondition of `store_f16`).
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) }
    }

    #[inline(always)]
    unsafe fn load_bf16(_: Avx512, p: *const u16) -> Self {
        // SAFETY: `p` is valid for reads of `LANES` numbers of 16 bits (precondition of `load_bf16`). A token
        // proves AVX-512.
        float(unsafe { halves::upper(_mm256_loadu_si256(p.cast())) })
    }

    #[inline(always)]
    unsafe fn store_bf16(self, _: Avx512, p: *mut u16) {
        // `bf16_bits` in six instructions instead of nine: a row kernel in bf16 does little else. The even bit
        // is a mask, one instruction makes NaN quiet (classes 0 and 1 of its table), and one gathers the
        // upper halves.
        // SAFETY: `p` is valid for writes of `LANES` numbers of 16 bits (precondition of `store_bf16`). A
        // value of this type proves the features.
        unsafe {
            let (v, bits) = (self.0, int(self));
            let odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(1 << 16));
            let down = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_mask_add_epi32(down, odd, bits, _mm512_set1_epi32(0x8000));
            let rounded = _mm512_fixupimm_ps::<0>(_mm512_castsi512_ps(rounded), v, _mm512_set1_epi32(0x22));
            let upper = _mm512_permutexvar_epi16(
                _mm512_loadu_si512(UPPER.as_ptr().cast()),
                _mm512_castps_si512(rounded),
            );
            _mm256_storeu_si256(p.cast(), _mm512_castsi512_si256(upper));
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_pair(_: Avx512, p: *const u16) -> [Self; 2] {
        // The even numbers and the odd ones.
        // SAFETY: `p` is valid for reads of `2 LANES` numbers of 16 bits (precondition of `load_bf16_pair`).
        // A token proves AVX-512.
        unsafe {
            let both = _mm512_loadu_si512(p.cast());
            let odd = _mm512_and_si512(both, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
            [float(_mm512_slli_epi32::<16>(both)), float(odd)]
        }
    }

    #[inline(always)]
    unsafe fn store_bf16_pair([even, odd]: [Self; 2], _: Avx512, p: *mut u16) {
        // Gather upper and lower halves, then round both vectors at once: add 1 to an upper half where the
        // lower half is above 0x8000, or equal to it with an odd upper half.
        // SAFETY: `p` is valid for writes of `2 LANES` numbers of 16 bits (precondition of
        // `store_bf16_pair`). A value of this type proves AVX-512.
        unsafe {
            let (upper, lower) = halves::apart(int(even), int(odd));
            // lower | (upper & 1)
            let beyond = _mm512_ternarylogic_epi32::<0b1111_1000>(lower, upper, _mm512_set1_epi16(1));
            let up = _mm512_cmpgt_epu16_mask(beyond, _mm512_set1_epi16(i16::MIN));
            let rounded = _mm512_mask_sub_epi16(upper, up, upper, _mm512_set1_epi16(-1));
            _mm512_storeu_si512(p.cast(), rounded);
        }
    }

    #[inline(always)]
    fn any(mask: __mmask16) -> bool {
        mask != 0
    }

    #[inline(always)]
    fn residue<const BITS: u32>(self, _: Avx512) -> Self {
        const { assert!(BITS == 0 || BITS == 2) };
        // SAFETY: a value of this type proves AVX-512.
        Self(unsafe {
            if BITS == 0 { _mm512_reduce_ps::<0x08>(self.0) } else { _mm512_reduce_ps::<0x28>(self.0) }
        })
    }

    const TABLE: usize = 32;

    #[inline(always)]
    fn lookup(self, _: Avx512, table: &[f32]) -> Self {
        assert!(table.len() >= Self::TABLE);
        // SAFETY: the length was checked; a value of this type proves AVX-512.
        unsafe {
            let (low, high) = (_mm512_loadu_ps(table.as_ptr()), _mm512_loadu_ps(table.as_ptr().add(16)));
            Self(_mm512_permutex2var_ps(low, int(self), high))
        }
    }

    intrinsics! {
        fn splat(_isa: Avx512, x: f32) -> Self { Self(_mm512_set1_ps(x)) }
        fn mul_add(self: Self, b: Self, c: Self) -> Self { Self(_mm512_fmadd_ps(self.0, b.0, c.0)) }
        fn min(self: Self, b: Self) -> Self { Self(_mm512_min_ps(self.0, b.0)) }
        fn max(self: Self, b: Self) -> Self { Self(_mm512_max_ps(self.0, b.0)) }
        fn abs(self: Self) -> Self { Self(_mm512_abs_ps(self.0)) }
        fn abs_up_to(self: Self, most: Self) -> Self { Self(_mm512_range_ps::<0b10_10>(self.0, most.0)) }
        fn sqrt(self: Self) -> Self { Self(_mm512_sqrt_ps(self.0)) }
        fn round(self: Self) -> Self { Self(_mm512_roundscale_ps::<0x08>(self.0)) }
        fn lt(self: Self, b: Self) -> __mmask16 { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, b.0) }
        fn le(self: Self, b: Self) -> __mmask16 { _mm512_cmp_ps_mask::<_CMP_LE_OQ>(self.0, b.0) }
        fn eq(self: Self, b: Self) -> __mmask16 { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, b.0) }
        fn select(self: Self, mask: __mmask16, other: Self) -> Self { Self(_mm512_mask_blend_ps(mask, other.0, self.0)) }
        fn keep(self: Self, mask: __mmask16) -> Self { Self(_mm512_maskz_mov_ps(mask, self.0)) }
        fn and_bits(self: Self, b: Self) -> Self { Self(_mm512_and_ps(self.0, b.0)) }
        fn or_bits(self: Self, b: Self) -> Self { Self(_mm512_or_ps(self.0, b.0)) }
        fn xor_bits(self: Self, b: Self) -> Self { Self(_mm512_xor_ps(self.0, b.0)) }
        fn add_bits(self: Self, b: Self) -> Self { float(_mm512_add_epi32(int(self), int(b))) }
        fn sub_bits(self: Self, b: Self) -> Self { float(_mm512_sub_epi32(int(self), int(b))) }
        fn dot_i16(self: Self, b: Self, sum: Self) -> Self { float(_mm512_add_epi32(int(sum), _mm512_madd_epi16(int(self), int(b)))) }
        fn mul_bits(self: Self, b: Self) -> Self { float(_mm512_mullo_epi32(int(self), int(b))) }
        fn int_to_float(self: Self) -> Self { Self(_mm512_cvtepi32_ps(int(self))) }
        fn float_to_int(self: Self) -> Self { float(_mm512_cvtps_epi32(self.0)) }
        fn scale_by_pow2(self: Self, _isa: Avx512, n: Self) -> Self { Self(_mm512_scalef_ps(self.0, n.0)) }
        fn scale_down_by_pow2(self: Self, _isa: Avx512, n: Self) -> Self { Self(_mm512_scalef_ps(self.0, n.0)) }
        fn swap_pairs(self: Self) -> Self { Self(_mm512_permute_ps::<0b10_11_00_01>(self.0)) }
        fn sum(self: Self) -> f32 { _mm512_reduce_add_ps(self.0) }
        fn maximum(self: Self) -> f32 { _mm512_reduce_max_ps(self.0) }
    }
}
