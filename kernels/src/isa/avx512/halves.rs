//! Permutations of 16-bit halves of lanes, as single instructions that the compiler would split.

use core::arch::asm;
use core::arch::x86_64::*;

/// `vpermw` indices that repeat each of sixteen numbers: 0, 0, 1, 1, ...
static PLACES: [u16; 32] = {
    let mut places = [0; 32];
    let mut i = 0;
    while i < 32 {
        places[i] = i as u16 / 2;
        i += 1;
    }
    places
};

/// `vpermw` indices that swap the halves of sixteen lanes: 1, 0, 3, 2, ...
static SWAPPED: [u16; 32] = {
    let mut halves = [0; 32];
    let mut i = 0;
    while i < 32 {
        halves[i] = i as u16 ^ 1;
        i += 1;
    }
    halves
};

/// Places number i in the upper half of lane i, above zeros.
///
/// One instruction; the compiler makes two of its intrinsic.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn upper(numbers: __m256i) -> __m512i {
    let upper: __m512i;
    // SAFETY: the assembly accesses its operand registers only; AVX-512 F and BW are enabled. The loads read the 64 bytes
    // of a table.
    unsafe {
        asm!(
            "vpermw {upper}{{{odd}}}{{z}}, {places}, {numbers}",
            upper = lateout(zmm_reg) upper,
            odd = in(kreg) 0xaaaa_aaaa_u32,
            places = in(zmm_reg) _mm512_loadu_si512(PLACES.as_ptr().cast()),
            numbers = in(zmm_reg) _mm512_castsi256_si512(numbers),
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    upper
}

/// Gathers the upper halves of all lanes in one vector and the lower halves in another. Halves of `even` go to
/// the lower half of each lane, halves of `odd` to the upper half.
///
/// Two instructions; the compiler makes three or four of their intrinsics.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn apart(even: __m512i, odd: __m512i) -> (__m512i, __m512i) {
    let (mut upper, mut lower) = (odd, even);
    // SAFETY: the assembly accesses its operand registers only; AVX-512 F and BW are enabled. The loads read the 64 bytes
    // of a table.
    unsafe {
        asm!(
            "vpermw {upper}{{{low}}}, {swapped}, {even}",
            upper = inout(zmm_reg) upper,
            low = in(kreg) 0x5555_5555_u32,
            swapped = in(zmm_reg) _mm512_loadu_si512(SWAPPED.as_ptr().cast()),
            even = in(zmm_reg) even,
            options(pure, nomem, nostack, preserves_flags)
        );
        asm!(
            "vpermw {lower}{{{high}}}, {swapped}, {odd}",
            lower = inout(zmm_reg) lower,
            high = in(kreg) 0xaaaa_aaaa_u32,
            swapped = in(zmm_reg) _mm512_loadu_si512(SWAPPED.as_ptr().cast()),
            odd = in(zmm_reg) odd,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    (upper, lower)
}
