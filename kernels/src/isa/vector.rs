//! The contract of one vector register: operations that every instruction set implements on its lanes.

use core::fmt::Debug;
use core::ops::{Add, Div, Mul, Neg, Sub};

/// A register of `LANES` floats.
///
/// Methods without a vector argument take the token `I`. A vector is itself a proof: only a holder of the token can
/// make one. Methods on "bits" treat lanes as `u32` or `i32`.
pub trait Vector<I: Copy>:
    Copy
    + Debug
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    /// Number of lanes.
    const LANES: usize;

    /// Result of a lane-wise comparison.
    type Mask: Copy;

    /// Returns a vector with `x` in all lanes.
    fn splat(isa: I, x: f32) -> Self;

    /// Returns a vector with the float of these bits in all lanes.
    #[inline(always)]
    fn splat_bits(isa: I, bits: u32) -> Self {
        Self::splat(isa, f32::from_bits(bits))
    }

    /// Loads the `LANES` floats at `p`, of any alignment.
    ///
    /// # Safety
    /// `p` is valid for reads of `LANES` floats.
    unsafe fn load_ptr(isa: I, p: *const f32) -> Self;

    /// Stores all lanes at `p`, of any alignment.
    ///
    /// # Safety
    /// `p` is valid for writes of `LANES` floats.
    unsafe fn store_ptr(self, p: *mut f32);

    /// Loads the first `LANES` elements of `src`.
    ///
    /// # Panics
    /// If `src` is shorter than `LANES`. (The compiler removes the check after `chunks_exact(LANES)`.)
    #[inline(always)]
    fn load(isa: I, src: &[f32]) -> Self {
        assert!(src.len() >= Self::LANES);
        // SAFETY: `src` holds `LANES` floats (checked above).
        unsafe { Self::load_ptr(isa, src.as_ptr()) }
    }

    /// Stores all lanes to the first `LANES` elements of `dst`.
    ///
    /// # Panics
    /// If `dst` is shorter than `LANES`.
    #[inline(always)]
    fn store(self, dst: &mut [f32]) {
        assert!(dst.len() >= Self::LANES);
        // SAFETY: `dst` holds `LANES` floats (checked above).
        unsafe { self.store_ptr(dst.as_mut_ptr()) }
    }

    /// Loads the first `min(src.len(), LANES)` elements of `src`; the other lanes are `fill`.
    fn load_partial(isa: I, src: &[f32], fill: f32) -> Self;

    /// Stores the first `min(dst.len(), LANES)` lanes to `dst`.
    fn store_partial(self, dst: &mut [f32]);

    /// `self * b + c`, rounded once on every ISA but `portable`, where `FUSED` is false and each
    /// operation rounds.
    fn mul_add(self, b: Self, c: Self) -> Self;

    /// True if [`mul_add`](Self::mul_add) rounds once.
    const FUSED: bool = true;

    /// `self < b ? self : b`: `b` if either is NaN.
    fn min(self, b: Self) -> Self;

    /// `self > b ? self : b`: `b` if either is NaN.
    fn max(self, b: Self) -> Self;

    /// Magnitude.
    fn abs(self) -> Self;

    /// Square root, correctly rounded.
    fn sqrt(self) -> Self;

    /// Rounds to the nearest integral value, ties to even; keeps the sign, also of zero.
    fn round(self) -> Self;

    /// `self < b`; false if either is NaN.
    fn lt(self, b: Self) -> Self::Mask;

    /// `self <= b`; false if either is NaN.
    fn le(self, b: Self) -> Self::Mask;

    /// `self == b`; false if either is NaN, so that `!(x == x)` finds NaN.
    fn eq(self, b: Self) -> Self::Mask;

    /// Lanes of `self` where the mask is set, of `other` elsewhere.
    fn select(self, mask: Self::Mask, other: Self) -> Self;

    /// Lanes of `self` where the mask is set, 0 elsewhere.
    fn keep(self, mask: Self::Mask) -> Self;

    /// True if any lane of the mask is set.
    fn any(mask: Self::Mask) -> bool;

    /// Wrapping product of i32 lanes.
    fn mul_bits(self, b: Self) -> Self;

    /// Products of 64 bits of the even u32 lanes: lane 2i of the result is the lower half of product i, lane 2i + 1 the
    /// upper half. The odd lanes of `self` and `b` do not matter.
    fn mul_even_bits(self, b: Self) -> Self;

    /// `self < b` of u32 lanes.
    fn lt_bits(self, b: Self) -> Self::Mask;

    /// Bitwise and.
    fn and_bits(self, b: Self) -> Self;

    /// Bitwise or.
    fn or_bits(self, b: Self) -> Self;

    /// Bitwise exclusive or.
    fn xor_bits(self, b: Self) -> Self;

    /// Wrapping sum of i32 lanes.
    fn add_bits(self, b: Self) -> Self;

    /// Wrapping difference of i32 lanes.
    fn sub_bits(self, b: Self) -> Self;

    /// Shifts u32 lanes left by `N`.
    fn shl_bits<const N: u32>(self) -> Self;

    /// Shifts u32 lanes right by `N`, with zeros shifted in.
    fn shr_bits<const N: u32>(self) -> Self;

    /// Converts i32 lanes to floats, rounded to nearest, ties to even.
    fn int_to_float(self) -> Self;

    /// Converts the low four bits of each lane to a float and subtracts `bias`.
    #[inline(always)]
    fn low_four_bits(self, isa: I, bias: f32) -> Self {
        self.and_bits(Self::splat_bits(isa, 15)).int_to_float() - Self::splat(isa, bias)
    }

    /// Rounds each lane to the nearest i32, ties to even; unspecified out of range.
    fn float_to_int(self) -> Self;

    /// `self * 2^n` for integral `n` in [-252, 252] and `self` in [1/4, 4], rounded once, denormal
    /// results included.
    #[inline(always)]
    fn scale_by_pow2(self, isa: I, n: Self) -> Self {
        // Multiply by two factors of half the exponent each: both are normal numbers, and only the second product
        // can round. Adding 1.5 * 2^23 leaves a rounded integer in the low bits of the sum. The integer includes the
        // exponent's bias, so a shift makes it a power of two.
        let integer = 12_582_912.0;
        let half = n.mul_add(Self::splat(isa, 0.5), Self::splat(isa, integer + 127.0));
        let whole = n + Self::splat(isa, integer + 254.0);
        self * half.shl_bits::<23>() * whole.sub_bits(half).shl_bits::<23>()
    }

    /// [`scale_by_pow2`](Self::scale_by_pow2) for `n` in \[-190, 0\]; results may be denormal.
    #[inline(always)]
    fn scale_down_by_pow2(self, isa: I, n: Self) -> Self {
        // Multiply by 2^(n + 64), then by 2^-64: only the second product can round.
        let biased = n + Self::splat(isa, 12_582_912.0 + 127.0 + 64.0);
        self * biased.shl_bits::<23>() * Self::splat(isa, 1.0 / (1u128 << 64) as f32)
    }

    /// Difference of `self` and the nearest multiple of 2^-`BITS`, ties to even; exact.
    ///
    /// `BITS` is 0 or 2, and magnitudes are below 2^20.
    #[inline(always)]
    fn residue<const BITS: u32>(self, isa: I) -> Self {
        // One ULP of this constant is 2^-BITS, so the sum rounds to a multiple of it.
        let multiples = Self::splat(isa, 12_582_912.0 / (1 << BITS) as f32);
        self - ((self + multiples) - multiples)
    }

    /// Minimum of the magnitude and `most`; `most` where `self` is NaN.
    #[inline(always)]
    fn abs_up_to(self, most: Self) -> Self {
        self.abs().min(most)
    }

    /// Loads `LANES` u16 from `p`, each to the low half of its lane; the high halves are 0.
    ///
    /// # Safety
    /// `p` is valid for reads of `LANES` numbers of 16 bits.
    unsafe fn load_u16(isa: I, p: *const u16) -> Self;

    /// Stores the low half of each lane at `p`.
    ///
    /// # Safety
    /// `p` is valid for writes of `LANES` numbers of 16 bits.
    unsafe fn store_u16(self, p: *mut u16);

    /// Loads `LANES` i8 from `p` and sign-extends them to i32 lanes.
    ///
    /// # Safety
    /// `p` is valid for reads of `LANES` bytes.
    unsafe fn load_i8(isa: I, p: *const i8) -> Self;

    /// Stores the low byte of each lane at `p`.
    ///
    /// # Safety
    /// `p` is valid for writes of `LANES` bytes.
    unsafe fn store_u8(self, p: *mut u8);

    /// Loads `LANES` f16 from `p`, exactly.
    ///
    /// # Safety
    /// `p` is valid for reads of `LANES` numbers of 16 bits.
    unsafe fn load_f16(isa: I, p: *const u16) -> Self;

    /// Rounds each lane to the nearest f16, ties to even, and stores it at `p`. Keeps denormals and NaN.
    ///
    /// # Safety
    /// `p` is valid for writes of `LANES` numbers of 16 bits.
    unsafe fn store_f16(self, p: *mut u16);

    /// Loads `LANES` bf16 from `p`, exactly.
    ///
    /// # Safety
    /// `p` is valid for reads of `LANES` numbers of 16 bits.
    #[inline(always)]
    unsafe fn load_bf16(isa: I, p: *const u16) -> Self {
        // A bf16 is the upper half of an f32.
        // SAFETY: `p` is valid for reads of `LANES` numbers of 16 bits (precondition of `load_bf16`).
        unsafe { Self::load_u16(isa, p).shl_bits::<16>() }
    }

    /// Rounds each lane to the nearest bf16, ties to even, and stores it at `p`. Keeps denormals and NaN.
    ///
    /// # Safety
    /// `p` is valid for writes of `LANES` numbers of 16 bits.
    #[inline(always)]
    unsafe fn store_bf16(self, isa: I, p: *mut u16) {
        // SAFETY: `p` is valid for writes of `LANES` numbers of 16 bits (precondition of `store_bf16`).
        unsafe { bf16_bits(isa, self).store_u16(p) }
    }

    /// Loads `2 LANES` bf16 from `p`, exactly, in the order that is cheapest for this instruction set.
    /// [`store_bf16_pair`](Self::store_bf16_pair) reverses the order: use both for elementwise functions.
    ///
    /// # Safety
    /// `p` is valid for reads of `2 LANES` numbers of 16 bits.
    #[inline(always)]
    unsafe fn load_bf16_pair(isa: I, p: *const u16) -> [Self; 2] {
        // SAFETY: `p` is valid for reads of `2 LANES` numbers of 16 bits (precondition of `load_bf16_pair`).
        unsafe { [Self::load_bf16(isa, p), Self::load_bf16(isa, p.add(Self::LANES))] }
    }

    /// Rounds and stores at `p`, as [`store_bf16`](Self::store_bf16), two vectors in the order of
    /// [`load_bf16_pair`](Self::load_bf16_pair).
    ///
    /// The lower half of a NaN must be zero, or the NaN may become a number. Arithmetic on bf16 makes only
    /// NaN whose lower half is zero.
    ///
    /// # Safety
    /// `p` is valid for writes of `2 LANES` numbers of 16 bits.
    #[inline(always)]
    unsafe fn store_bf16_pair(pair: [Self; 2], isa: I, p: *mut u16) {
        // SAFETY: `p` is valid for writes of `2 LANES` numbers of 16 bits (precondition of
        // `store_bf16_pair`).
        unsafe {
            pair[0].store_bf16(isa, p);
            pair[1].store_bf16(isa, p.add(Self::LANES));
        }
    }

    /// Dot product of i16 pairs: the i32 lane of `sum` plus the two products of `self` and `b`, wrapping.
    fn dot_i16(self, b: Self, sum: Self) -> Self;

    /// Number of entries of a table for [`lookup`](Self::lookup): 8 or 32.
    const TABLE: usize = 8;

    /// Returns `table[i % TABLE]` for each lane, where i is the lane's bits.
    ///
    /// # Panics
    /// If the table is shorter than `TABLE`.
    #[inline(always)]
    fn lookup(self, isa: I, table: &[f32]) -> Self {
        let mut lanes = [0.0; 4];
        self.store(&mut lanes);
        Self::load(isa, &lanes.map(|i| table[i.to_bits() as usize % 8]))
    }

    /// Swaps lanes 2i and 2i+1.
    fn swap_pairs(self) -> Self;

    /// Sum of the lanes, in a fixed order.
    fn sum(self) -> f32;

    /// Largest lane, by [`max`](Self::max), in a fixed order.
    fn maximum(self) -> f32;
}

/// Rounds each lane to the nearest bf16, ties to even. The lower half of a lane holds the bits.
#[inline(always)]
pub(crate) fn bf16_bits<I: Copy, V: Vector<I>>(isa: I, v: V) -> V {
    // Add half of the last kept bit, minus one if that bit is even. A carry into the exponent is right, up to
    // infinity. A NaN could become infinity or zero: truncate it and make it quiet.
    let even = v.shr_bits::<16>().and_bits(V::splat_bits(isa, 1));
    let rounded = v.add_bits(V::splat_bits(isa, 0x7fff)).add_bits(even);
    let quiet = v.or_bits(V::splat_bits(isa, 0x0040_0000));
    rounded.select(v.eq(v), quiet).shr_bits::<16>()
}
