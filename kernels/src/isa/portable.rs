//! The portable backend: vectors of the crate `wide`, for CPUs without another backend.
//!
//! ```text
//! data  operations on vectors of 4 lanes   k-group    tile  registers of SSE2
//! f32   mul_add: mulps, addps              1 k-step   6x8   12 sums + 2 of B + 1 of A + 1 product = 16
//! i16   six shifts, two i32 products       2 k-steps  4x8   8 sums + 2 of B + 1 of A + 5 for products = 16
//! ```
//!
//! 6 rows are the most that fit the 16 registers of SSE2, which has no fused multiply-add: 7 would need 18.

use super::tile::for_rows;
use super::{Dot, Isa, Tile, Unavailable, Vector, sealed::SealedIsa};
use core::ops::{Add, Div, Mul, Neg, Sub};
use half::f16;
use wide::{f32x4, i32x4, u32x4};

/// Token of the portable backend. It proves nothing: every CPU that the program is compiled for runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portable;

/// Four floats.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct F32x4(f32x4);

impl SealedIsa for Portable {}

impl Isa for Portable {
    type V = F32x4;
    type Bf16 = Unavailable;
    type Int8 = Unavailable;
    type DotInt8 = Unavailable;
    const NAME: &'static str = "portable";
    const MR: usize = 6;
    const NR: usize = 8;

    fn detect() -> Option<Self> {
        Some(Self)
    }

    #[inline(always)]
    fn bf16(self) -> Option<Self::Bf16> {
        None
    }

    #[inline(always)]
    fn dot_int8(self) -> Option<Self::DotInt8> {
        None
    }

    #[inline(always)]
    fn int8(self) -> Option<Self::Int8> {
        None
    }

    #[inline(always)]
    fn run<R>(self, f: impl FnOnce() -> R) -> R {
        // Compiled once, as on the other instruction sets: rayon calls the same work in several ways.
        #[inline(never)]
        fn enabled<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        enabled(f)
    }

    #[inline(always)]
    unsafe fn dot_tile<D: Dot<Self>>(self, dot: D, tile: Tile<D::Operand, D::Sum>) {
        for_rows!(self, dot, tile, 2, [6 5 4 3 2 1])
    }

    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        let mut rows = [f32x4::ZERO; 4];
        for (i, row) in rows.iter_mut().enumerate() {
            // SAFETY: `src` is valid for reads of 4 rows of 4 floats, `src_stride` apart (precondition of
            // `transpose`).
            *row = unsafe { F32x4::load_ptr(self, src.add(i * src_stride)) }.0;
        }
        for (i, row) in f32x4::transpose(rows).into_iter().enumerate() {
            // SAFETY: `dst` is valid for writes of 4 rows of 4 floats, `dst_stride` apart (precondition of
            // `transpose`).
            unsafe { F32x4(row).store_ptr(dst.add(i * dst_stride)) }
        }
    }

    #[inline(always)]
    fn prefetch(self, _: *const f32) {}
}

/// Implements an operator by that of `wide`.
macro_rules! operator {
    ($trait:ident, $method:ident) => {
        impl $trait for F32x4 {
            type Output = Self;
            #[inline(always)]
            fn $method(self, b: Self) -> Self {
                Self($trait::$method(self.0, b.0))
            }
        }
    };
}
operator!(Add, add);
operator!(Sub, sub);
operator!(Mul, mul);
operator!(Div, div);

impl Neg for F32x4 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self(self.0 ^ f32x4::splat(-0.0))
    }
}

#[inline(always)]
fn int(v: F32x4) -> i32x4 {
    i32x4::new(v.0.to_array().map(|x| x.to_bits().cast_signed()))
}

#[inline(always)]
fn uint(v: F32x4) -> u32x4 {
    u32x4::new(v.0.to_array().map(f32::to_bits))
}

#[inline(always)]
fn float(v: i32x4) -> F32x4 {
    F32x4(f32x4::new(v.to_array().map(|x| f32::from_bits(x.cast_unsigned()))))
}

impl Vector<Portable> for F32x4 {
    const LANES: usize = 4;
    const FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
    type Mask = f32x4;

    #[inline(always)]
    fn splat(_: Portable, x: f32) -> Self {
        Self(f32x4::splat(x))
    }

    #[inline(always)]
    unsafe fn load_ptr(_: Portable, p: *const f32) -> Self {
        // SAFETY: `p` is valid for reads of `LANES` floats (precondition of `load_ptr`); `[f32; 4]` has the alignment
        // of `f32`.
        Self(f32x4::new(unsafe { p.cast::<[f32; 4]>().read() }))
    }

    #[inline(always)]
    unsafe fn store_ptr(self, p: *mut f32) {
        // SAFETY: `p` is valid for writes of `LANES` floats (precondition of `store_ptr`).
        unsafe { p.cast::<[f32; 4]>().write(self.0.to_array()) }
    }

    #[inline(always)]
    fn load_partial(_: Portable, src: &[f32], fill: f32) -> Self {
        let mut lanes = [fill; 4];
        let n = src.len().min(4);
        lanes[..n].copy_from_slice(&src[..n]);
        Self(f32x4::new(lanes))
    }

    #[inline(always)]
    fn store_partial(self, dst: &mut [f32]) {
        let n = dst.len().min(4);
        dst[..n].copy_from_slice(&self.0.to_array()[..n]);
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Self(self.0.mul_add(b.0, c.0))
    }

    #[inline(always)]
    fn min(self, b: Self) -> Self {
        self.select(self.lt(b), b)
    }

    #[inline(always)]
    fn max(self, b: Self) -> Self {
        self.select(b.lt(self), b)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(self.0.abs())
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(self.0.sqrt())
    }

    #[inline(always)]
    fn round(self) -> Self {
        // On SSE2, `wide` rounds through integers, which have no -0: restore the sign.
        Self(self.0.round_ties_even() | (self.0 & f32x4::splat(-0.0)))
    }

    #[inline(always)]
    fn lt(self, b: Self) -> f32x4 {
        self.0.simd_lt(b.0)
    }

    #[inline(always)]
    fn le(self, b: Self) -> f32x4 {
        self.0.simd_le(b.0)
    }

    #[inline(always)]
    fn eq(self, b: Self) -> f32x4 {
        self.0.simd_eq(b.0)
    }

    #[inline(always)]
    fn select(self, mask: f32x4, other: Self) -> Self {
        Self(mask.bitselect(self.0, other.0))
    }

    #[inline(always)]
    fn any(mask: f32x4) -> bool {
        mask.any()
    }

    #[inline(always)]
    fn keep(self, mask: f32x4) -> Self {
        Self(self.0 & mask)
    }

    #[inline(always)]
    fn and_bits(self, b: Self) -> Self {
        Self(self.0 & b.0)
    }

    #[inline(always)]
    fn or_bits(self, b: Self) -> Self {
        Self(self.0 | b.0)
    }

    #[inline(always)]
    fn xor_bits(self, b: Self) -> Self {
        Self(self.0 ^ b.0)
    }

    #[inline(always)]
    fn add_bits(self, b: Self) -> Self {
        float(int(self) + int(b))
    }

    #[inline(always)]
    fn sub_bits(self, b: Self) -> Self {
        float(int(self) - int(b))
    }

    #[inline(always)]
    fn shl_bits<const N: u32>(self) -> Self {
        float(int(self) << N)
    }

    #[inline(always)]
    fn shr_bits<const N: u32>(self) -> Self {
        float(i32x4::new((uint(self) >> N).to_array().map(u32::cast_signed)))
    }

    #[inline(always)]
    unsafe fn load_u16(_: Portable, p: *const u16) -> Self {
        // SAFETY: `p` is valid for reads of `LANES` numbers of 16 bits (precondition of `load_u16`).
        let lanes = unsafe { p.cast::<[u16; 4]>().read_unaligned() };
        float(i32x4::new(lanes.map(i32::from)))
    }

    #[inline(always)]
    unsafe fn store_u16(self, p: *mut u16) {
        // SAFETY: `p` is valid for writes of `LANES` numbers of 16 bits (precondition of `store_u16`).
        unsafe { p.cast::<[u16; 4]>().write_unaligned(int(self).to_array().map(|x| x as u16)) }
    }

    #[inline(always)]
    unsafe fn load_i8(_: Portable, p: *const i8) -> Self {
        // SAFETY: `p` is valid for reads of `LANES` bytes (precondition of `load_i8`).
        let lanes = unsafe { p.cast::<[i8; 4]>().read() };
        float(i32x4::new(lanes.map(i32::from)))
    }

    #[inline(always)]
    unsafe fn store_u8(self, p: *mut u8) {
        // SAFETY: `p` is valid for writes of `LANES` bytes (precondition of `store_u8`).
        unsafe { p.cast::<[u8; 4]>().write(int(self).to_array().map(|x| x as u8)) }
    }

    #[inline(always)]
    unsafe fn load_f16(_: Portable, p: *const u16) -> Self {
        // SAFETY: `p` is valid for reads of `LANES` numbers of 16 bits (precondition of `load_f16`).
        let lanes = unsafe { p.cast::<[u16; 4]>().read_unaligned() };
        Self(f32x4::new(lanes.map(|x| f16::from_bits(x).to_f32())))
    }

    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16) {
        let lanes = self.0.to_array().map(|x| f16::from_f32(x).to_bits());
        // SAFETY: `p` is valid for writes of `LANES` numbers of 16 bits (precondition of `store_f16`).
        unsafe { p.cast::<[u16; 4]>().write_unaligned(lanes) }
    }

    #[inline(always)]
    fn dot_i16(self, b: Self, sum: Self) -> Self {
        // Shifts sign-extend each half to i32: the high half down, the low half up and down.
        let ((a, b), sum) = ((int(self), int(b)), int(sum));
        let low = ((a << 16) >> 16) * ((b << 16) >> 16);
        float(sum + low + (a >> 16) * (b >> 16))
    }

    #[inline(always)]
    fn mul_bits(self, b: Self) -> Self {
        float(int(self) * int(b))
    }

    #[inline(always)]
    fn mul_even_bits(self, b: Self) -> Self {
        let ([a0, _, a2, _], [b0, _, b2, _]) = (self.0.to_array(), b.0.to_array());
        let product = |a: f32, b: f32| u64::from(a.to_bits()) * u64::from(b.to_bits());
        let (low, high) = (product(a0, b0), product(a2, b2));
        let halves = [low as u32, (low >> 32) as u32, high as u32, (high >> 32) as u32];
        float(i32x4::new(halves.map(u32::cast_signed)))
    }

    #[inline(always)]
    fn lt_bits(self, b: Self) -> f32x4 {
        let below = uint(self).simd_lt(uint(b));
        float(i32x4::new(below.to_array().map(u32::cast_signed))).0
    }

    #[inline(always)]
    fn int_to_float(self) -> Self {
        Self(f32x4::from_i32x4(int(self)))
    }

    #[inline(always)]
    fn float_to_int(self) -> Self {
        float(self.0.fast_round_int())
    }

    #[inline(always)]
    fn swap_pairs(self) -> Self {
        let [a, b, c, d] = self.0.to_array();
        Self(f32x4::new([b, a, d, c]))
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let [a, b, c, d] = self.0.to_array();
        (a + c) + (b + d)
    }

    #[inline(always)]
    fn maximum(self) -> f32 {
        let [a, b, c, d] = self.0.to_array();
        let max = |a: f32, b: f32| if a > b { a } else { b };
        max(max(a, c), max(b, d))
    }
}
