//! The contract of one register of floats: what an instruction set does with its lanes.

use core::fmt::Debug;
use core::ops::{Add, Div, Mul, Neg, Sub};

/// A register of `LANES` floats.
///
/// Methods that make a vector from nothing take the token `I`; the others need none, for a vector
/// that exists proves that its instructions do. Operations on "bits" treat lanes as `u32`/`i32`.
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

    /// The result of a lane-wise comparison.
    type Mask: Copy;

    /// All lanes `x`.
    fn splat(isa: I, x: f32) -> Self;

    /// All lanes the float with these bits.
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

    /// The first `LANES` elements of `src`.
    ///
    /// # Panics
    /// If `src` is shorter. (Behind `chunks_exact(LANES)` the check is compiled away.)
    #[inline(always)]
    fn load(isa: I, src: &[f32]) -> Self {
        assert!(src.len() >= Self::LANES);
        // SAFETY: the length was checked.
        unsafe { Self::load_ptr(isa, src.as_ptr()) }
    }

    /// Stores all lanes to the front of `dst`.
    ///
    /// # Panics
    /// If `dst` is shorter than `LANES`.
    #[inline(always)]
    fn store(self, dst: &mut [f32]) {
        assert!(dst.len() >= Self::LANES);
        // SAFETY: the length was checked.
        unsafe { self.store_ptr(dst.as_mut_ptr()) }
    }

    /// The first `min(src.len(), LANES)` elements of `src`; the other lanes are `fill`.
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

    /// The nearest integral value of the same sign, ties to even.
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

    /// Lanes as i32: wrapping product.
    fn mul_bits(self, b: Self) -> Self;

    /// Bitwise and.
    fn and_bits(self, b: Self) -> Self;

    /// Bitwise or.
    fn or_bits(self, b: Self) -> Self;

    /// Bitwise exclusive or.
    fn xor_bits(self, b: Self) -> Self;

    /// Lanes as i32: wrapping sum.
    fn add_bits(self, b: Self) -> Self;

    /// Lanes as i32: wrapping difference.
    fn sub_bits(self, b: Self) -> Self;

    /// Lanes as u32: shifted left by `N`.
    fn shl_bits<const N: u32>(self) -> Self;

    /// Lanes as u32: shifted right by `N`, zeros in.
    fn shr_bits<const N: u32>(self) -> Self;

    /// The value of each i32 lane as a float, rounded to nearest even.
    fn int_to_float(self) -> Self;

    /// The low four bits of every lane, less `bias`, as a float.
    #[inline(always)]
    fn low_four_bits(self, isa: I, bias: f32) -> Self {
        self.and_bits(Self::splat_bits(isa, 15)).int_to_float() - Self::splat(isa, bias)
    }

    /// The nearest i32 of each lane, ties to even, as bits; unspecified out of range.
    fn float_to_int(self) -> Self;

    /// `self * 2^n` for integral `n` in [-252, 252] and `self` in [1/4, 4], rounded once, denormal
    /// results included.
    #[inline(always)]
    fn scale_by_pow2(self, isa: I, n: Self) -> Self {
        // Two factors of half the exponent each: both are normal numbers, and only the second product
        // can round. Adding 1.5 * 2^23 leaves an integer, rounded, in the low bits of the sum: with
        // the bias of the exponent there, a shift makes it a power of two.
        let integer = 12_582_912.0;
        let half = n.mul_add(Self::splat(isa, 0.5), Self::splat(isa, integer + 127.0));
        let whole = n + Self::splat(isa, integer + 254.0);
        self * half.shl_bits::<23>() * whole.sub_bits(half).shl_bits::<23>()
    }

    /// As above, for n in \[-190, 0\]: results may be denormal.
    #[inline(always)]
    fn scale_down_by_pow2(self, isa: I, n: Self) -> Self {
        // Multiply by 2^(n + 64), then by 2^-64: only the second product can round.
        let biased = n + Self::splat(isa, 12_582_912.0 + 127.0 + 64.0);
        self * biased.shl_bits::<23>() * Self::splat(isa, 1.0 / (1u128 << 64) as f32)
    }

    /// Difference of `self` to the nearest multiple of 2^-`BITS`, ties to even; exact. For `BITS` of 0 and 2 and
    /// magnitudes below 2^20.
    #[inline(always)]
    fn residue<const BITS: u32>(self, isa: I) -> Self {
        // One ULP of this number is the multiple to round to.
        let multiples = Self::splat(isa, 12_582_912.0 / (1 << BITS) as f32);
        self - ((self + multiples) - multiples)
    }

    /// The smaller of `most` and the magnitude; `most` of NaN.
    #[inline(always)]
    fn abs_up_to(self, most: Self) -> Self {
        self.abs().min(most)
    }

    /// The `LANES` numbers at `p`, each in the low half of its lane, zeros above.
    ///
    /// # Safety
    /// `p` is valid for reads of `LANES` numbers of 16 bits.
    unsafe fn load_u16(isa: I, p: *const u16) -> Self;

    /// Stores the low half of each lane at `p`.
    ///
    /// # Safety
    /// `p` is valid for writes of `LANES` numbers of 16 bits.
    unsafe fn store_u16(self, p: *mut u16);

    /// The `LANES` whole numbers at `p`, each as the i32 of its lane.
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

    /// Stores the nearest f16 of each lane at `p`, ties to even; denormals are kept, NaN stay NaN.
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
        // SAFETY: `p` is valid for reads of `LANES` numbers of 16 bits (precondition of `load_bf16`). A bf16
        // is the upper half of an f32.
        unsafe { Self::load_u16(isa, p).shl_bits::<16>() }
    }

    /// Stores the nearest bf16 of each lane at `p`, ties to even; denormals are kept, NaN stay NaN.
    ///
    /// # Safety
    /// `p` is valid for writes of `LANES` numbers of 16 bits.
    #[inline(always)]
    unsafe fn store_bf16(self, isa: I, p: *mut u16) {
        // SAFETY: `p` is valid for writes of `LANES` numbers of 16 bits (precondition of `store_bf16`).
        unsafe { bf16_bits(isa, self).store_u16(p) }
    }

    /// Loads `2 LANES` bf16 from `p`, exactly, in the cheapest order of this instruction set.
    /// [`store_bf16_pair`](Self::store_bf16_pair) restores the order: use both for elementwise functions.
    ///
    /// # Safety
    /// `p` is valid for reads of `2 LANES` numbers of 16 bits.
    #[inline(always)]
    unsafe fn load_bf16_pair(isa: I, p: *const u16) -> [Self; 2] {
        // SAFETY: `p` is valid for reads of `2 LANES` numbers of 16 bits (precondition of `load_bf16_pair`).
        unsafe { [Self::load_bf16(isa, p), Self::load_bf16(isa, p.add(Self::LANES))] }
    }

    /// Stores the nearest bf16 of each lane at `p`, as [`store_bf16`](Self::store_bf16) does, in the order
    /// of [`load_bf16_pair`](Self::load_bf16_pair). The lower halves of NaN must be zeros, as they are in
    /// all that arithmetic makes of bf16.
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

    /// Lanes as pairs of i16: `sum`, as i32, plus the two products of `self` and `b`, wrapping.
    fn dot_i16(self, b: Self, sum: Self) -> Self;

    /// Entries of a table for [`lookup`](Self::lookup): 8 or 32.
    const TABLE: usize = 8;

    /// `table[i % TABLE]`, for the bits i of each lane.
    ///
    /// # Panics
    /// If the table is shorter than `TABLE`.
    #[inline(always)]
    fn lookup(self, isa: I, table: &[f32]) -> Self {
        let mut lanes = [0.0; 4];
        self.store(&mut lanes);
        Self::load(isa, &lanes.map(|i| table[i.to_bits() as usize % 8]))
    }

    /// Lanes 2i and 2i+1 exchanged.
    fn swap_pairs(self) -> Self;

    /// Sum of the lanes, in a fixed order.
    fn sum(self) -> f32;

    /// Largest lane by [`max`](Self::max) in a fixed order.
    fn maximum(self) -> f32;
}

/// Rounds each lane to the nearest bf16, ties to even; its bits are the lower half of the lane.
#[inline(always)]
pub(crate) fn bf16_bits<I: Copy, V: Vector<I>>(isa: I, v: V) -> V {
    // Add half of the last bit that stays, less one where that bit is even. A carry into the exponent is
    // right, up to infinity. A NaN could become infinity or zero: truncate it and make it quiet.
    let even = v.shr_bits::<16>().and_bits(V::splat_bits(isa, 1));
    let rounded = v.add_bits(V::splat_bits(isa, 0x7fff)).add_bits(even);
    let quiet = v.or_bits(V::splat_bits(isa, 0x0040_0000));
    rounded.select(v.eq(v), quiet).shr_bits::<16>()
}
