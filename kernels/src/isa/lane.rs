//! Types of 32-bit lanes: operands (k-groups) and sums of the microkernels.
//!
//! ```text
//! operand     k-group w of one row or column       sum of products
//! f32         k-step w                             f32 += a b
//! Bf16Pair    k-steps 2w, 2w+1                     f32 += a0 b0 + a1 b1
//! I16Pair     k-steps 2w, 2w+1                     i32 += a0 b0 + a1 b1
//! Int8Quad    k-steps 4w .. 4w+3                   i32 += a0 b0 + a1 b1 + a2 b2 + a3 b3
//! ```
//!
//! Packed memory is `[f32]` for every lane type, and a [`Vector`] holds the bits of any of them. A pointer gets
//! its lane type once, where a [`Tile`](super::Tile) is made.

use super::{Isa, Vector};
use core::fmt::Debug;

mod sealed {
    /// Supertrait of [`Lane`](super::Lane) that other crates cannot implement.
    pub trait SealedLane {}
}

/// Type of a 32-bit lane of a vector register. Every bit pattern is a value.
pub trait Lane: sealed::SealedLane + Copy + Debug + Send + Sync + 'static {}

macro_rules! lanes {
    ($($lane:ty),*) => {$(
        const _: () = assert!(size_of::<$lane>() == 4 && align_of::<$lane>() == 4);
        impl sealed::SealedLane for $lane {}
        impl Lane for $lane {}
    )*};
}
lanes!(f32, i32, Bf16Pair, I16Pair, Int8Quad);

/// A k-group of two bf16; the even k-step is the low half.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Bf16Pair(u32);

/// A k-group of two i16; the even k-step is the low half.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct I16Pair(u32);

/// A k-group of four int8; the first k-step is the low byte.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Int8Quad(u32);

/// Loads the bits of `LANES` lanes at `p`.
///
/// # Safety
/// `p` is valid for reads of `LANES` lanes.
#[inline(always)]
pub(super) unsafe fn load<I: Isa, T: Lane>(isa: I, p: *const T) -> I::V {
    // SAFETY: `p` is valid for reads of `LANES` lanes (precondition of `load`) of the size of an f32.
    unsafe { I::V::load_ptr(isa, p.cast()) }
}

/// Stores the bits of `v` as `LANES` lanes at `p`.
///
/// # Safety
/// `p` is valid for writes of `LANES` lanes.
#[inline(always)]
pub(super) unsafe fn store<I: Isa, T: Lane>(v: I::V, p: *mut T) {
    // SAFETY: `p` is valid for writes of `LANES` lanes (precondition of `store`) of the size of an f32.
    unsafe { v.store_ptr(p.cast()) }
}

/// Copies the bits of the lane at `p` to all lanes of a vector.
///
/// # Safety
/// `p` is valid for reads.
#[inline(always)]
pub(super) unsafe fn broadcast<I: Isa, T: Lane>(isa: I, p: *const T) -> I::V {
    // SAFETY: `p` is valid for reads (precondition of `broadcast`) of a lane, which has the size of an f32.
    I::V::splat(isa, unsafe { *p.cast() })
}
