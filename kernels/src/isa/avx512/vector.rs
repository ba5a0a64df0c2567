//! Vector registers of AVX-512.

use super::{Avx512, halves};
use crate::isa::Vector;
use crate::isa::intrinsics::{intrinsics, operators};
use core::arch::x86_64::*;
use core::ops::Neg;

/// Sixteen floats. The field is private to `avx512`: only a holder of [`Avx512`] can make one.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct F32x16(pub(super) __m512);

/// `vpermw` indices that gather the upper halves of sixteen lanes in the lower half of a vector; its upper half is
/// unspecified.
static UPPER: [u16; 32] = {
    let mut halves = [0; 32];
    let mut i = 0;
    while i < 16 {
        halves[i] = 2 * i as u16 + 1;
        i += 1;
    }
    halves
};

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
    // SAFETY: every caller holds a value of `F32x16` or a token, which prove AVX-512.
    F32x16(unsafe { _mm512_castsi512_ps(v) })
}

/// Returns the mask of the first `n` lanes.
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
        // SAFETY: the load reads the lanes of the mask only, which lie in `src`. The token proves AVX-512.
        Self(unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(fill), first(src.len()), src.as_ptr()) })
    }

    #[inline(always)]
    fn store_partial(self, dst: &mut [f32]) {
        // SAFETY: the store writes the lanes of the mask only, which lie in `dst`. A value of this type proves AVX-512.
        unsafe { _mm512_mask_storeu_ps(dst.as_mut_ptr(), first(dst.len()), self.0) }
    }

    #[inline(always)]
    fn low_four_bits(self, _: Avx512, bias: f32) -> Self {
        let mut table = [0.0; 16];
        for (q, entry) in table.iter_mut().enumerate() {
            *entry = q as f32 - bias;
        }
        // SAFETY: the token proves AVX-512. `table` holds the 16 floats of the load.
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
        // SAFETY: `p` is valid for reads of `LANES` numbers of 16 bits (precondition of `load_bf16`). The token
        // proves AVX-512.
        float(unsafe { halves::upper(_mm256_loadu_si256(p.cast())) })
    }

    #[inline(always)]
    unsafe fn store_bf16(self, _: Avx512, p: *mut u16) {
        // `bf16_bits` in six instructions instead of nine, which matters: bf16 row kernels do little else. A mask
        // holds the odd bit, `vfixupimmps` makes NaN quiet (classes 0 and 1 of its table), and `vpermw` gathers the
        // upper halves.
        // SAFETY: `p` is valid for writes of `LANES` numbers of 16 bits (precondition of `store_bf16`). `UPPER`
        // holds the 64 bytes of the load. A value of this type proves AVX-512 F, BW and DQ.
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
        // The first vector holds the even numbers, the second the odd ones.
        // SAFETY: `p` is valid for reads of `2 LANES` numbers of 16 bits (precondition of `load_bf16_pair`).
        // The token proves AVX-512.
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
        // SAFETY: `table` holds the 32 floats of the loads (checked above). A value of this type proves AVX-512.
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
        fn mul_even_bits(self: Self, b: Self) -> Self { float(_mm512_mul_epu32(int(self), int(b))) }
        fn lt_bits(self: Self, b: Self) -> __mmask16 { _mm512_cmplt_epu32_mask(int(self), int(b)) }
        fn int_to_float(self: Self) -> Self { Self(_mm512_cvtepi32_ps(int(self))) }
        fn float_to_int(self: Self) -> Self { float(_mm512_cvtps_epi32(self.0)) }
        fn scale_by_pow2(self: Self, _isa: Avx512, n: Self) -> Self { Self(_mm512_scalef_ps(self.0, n.0)) }
        fn scale_down_by_pow2(self: Self, _isa: Avx512, n: Self) -> Self { Self(_mm512_scalef_ps(self.0, n.0)) }
        fn swap_pairs(self: Self) -> Self { Self(_mm512_permute_ps::<0b10_11_00_01>(self.0)) }
        fn sum(self: Self) -> f32 { _mm512_reduce_add_ps(self.0) }
        fn maximum(self: Self) -> f32 { _mm512_reduce_max_ps(self.0) }
    }
}
