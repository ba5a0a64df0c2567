//! NEON (AArch64 Advanced SIMD).
//!
//! ```text
//! f32 tile 6x16: 24 accumulators + 6 of A + 2 of B = 32 registers of 4 lanes
//! per 4 k-steps: 96 fmla by lane, 6 ldr of A (4 k-steps of a row each), 8 ldp of B, 9 others
//!
//! cycles for them by llvm-mca 22    FMA-port bound    found
//!   neoverse-v2 (4 ports)           24                24.0
//!   neoverse-v1 (4 ports)           24                24.0
//!   neoverse-n1 (2 ports)           48                51.0, of 3-wide dispatch in its model
//! ```
//!
//! A row of A is read four k-steps at a time and multiplied by lane, as KleidiAI does, which takes a
//! quarter of the loads of a broadcast. 24 sums are 6 cycles of work for four ports, more than the 4
//! of an fmla's latency; 8x8 would have just 4, and 7x12 an odd number of vectors, which a gated
//! panel could not halve. `.ci/neon-tile` repeats the figures on what the compiler made.

use super::tile::for_rows;
use super::{A_STRIDE, Dot, Isa, Tile, Unavailable, Vector, probe, sealed::Sealed};
use core::arch::aarch64::*;
use core::arch::asm;
use core::ops::{Add, Div, Mul, Neg, Sub};
use std::arch::is_aarch64_feature_detected;

/// Proof that NEON may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neon(());

/// Four floats. The field is private: only a holder of [`Neon`] can make one.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct F32x4(float32x4_t);

impl Sealed for Neon {}

impl Isa for Neon {
    type V = F32x4;
    type Bf16 = Unavailable;
    type Int8 = Unavailable;
    type Bytes = Unavailable;
    const NAME: &'static str = "neon";
    const MR: usize = 6;
    const NR: usize = 16;

    fn detect() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then_some(Self(()))
    }

    #[inline(always)]
    fn bf16(self) -> Option<Self::Bf16> {
        None
    }

    #[inline(always)]
    fn bytes(self) -> Option<Self::Bytes> {
        None
    }

    #[inline(always)]
    fn int8(self) -> Option<Self::Int8> {
        None
    }

    #[inline(always)]
    fn run<R>(self, f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "neon")]
        fn enabled<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        // SAFETY: the token proves the feature.
        unsafe { enabled(f) }
    }

    #[inline(always)]
    unsafe fn gemm_tile(self, tile: Tile) {
        // SAFETY: `rows` is the constant of its arm; the caller keeps the contract of `Tile`.
        unsafe {
            match tile.rows {
                6 => gemm_f32_6x16::<6>(self, tile),
                5 => gemm_f32_6x16::<5>(self, tile),
                4 => gemm_f32_6x16::<4>(self, tile),
                3 => gemm_f32_6x16::<3>(self, tile),
                2 => gemm_f32_6x16::<2>(self, tile),
                1 => gemm_f32_6x16::<1>(self, tile),
                _ => unreachable!("a tile has 1..=MR rows"),
            }
        }
    }

    #[inline(always)]
    unsafe fn dot_tile<D: Dot<Self>>(self, dot: D, tile: Tile) {
        for_rows!(self, dot, tile, 4, [6 5 4 3 2 1])
    }

    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        // SAFETY: the caller's pointers are valid for 4 rows of 4; the token proves the feature.
        unsafe {
            let r: [_; 4] = core::array::from_fn(|i| vld1q_f32(src.add(i * src_stride)));
            // Pairs of floats, then pairs of doubles.
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
        // SAFETY: a prefetch of any address is harmless.
        unsafe { asm!("prfm pldl2keep, [{}]", in(reg) p, options(nostack, preserves_flags, readonly)) }
    }

    #[inline(always)]
    fn read(self, data: &[f32], passes: usize) -> u64 {
        // SAFETY: the token proves the instructions.
        unsafe { probe::read_by(probe::read_q, data, passes) }
    }
}

/// [`Isa::gemm_tile`] for exactly `R` rows.
///
/// # Safety
/// As [`Tile`], with `rows == R`; NEON may be used.
#[inline(always)]
unsafe fn gemm_f32_6x16<const R: usize>(isa: Neon, t: Tile) {
    let mut acc = [[F32x4::splat(isa, 0.0); 4]; R];
    if t.accumulate {
        for (i, row) in acc.iter_mut().enumerate() {
            for (j, v) in row.iter_mut().enumerate() {
                // SAFETY: i < rows and j < NR / 4, inside C.
                *v = unsafe { F32x4::load_ptr(isa, t.c.add(i * t.c_stride + 4 * j)) };
            }
        }
    }
    let (mut a, mut b, mut prefetch) = (t.a, t.b, t.prefetch);
    let mut av = [F32x4::splat(isa, 0.0); R];
    for _ in 0..t.k / 4 {
        prefetch.advance::<_, R>(isa);
        for (i, v) in av.iter_mut().enumerate() {
            // SAFETY: four k-steps of row i.
            *v = unsafe { F32x4::load_ptr(isa, a.add(i * A_STRIDE)) };
        }
        // SAFETY: `b` stands at the first of four k-steps.
        unsafe {
            step::<R, 0>(isa, &mut acc, &av, b);
            step::<R, 1>(isa, &mut acc, &av, b.add(t.b_stride));
            step::<R, 2>(isa, &mut acc, &av, b.add(2 * t.b_stride));
            step::<R, 3>(isa, &mut acc, &av, b.add(3 * t.b_stride));
        }
        a = a.wrapping_add(4);
        b = b.wrapping_add(4 * t.b_stride);
    }
    for _ in 0..t.k % 4 {
        for (i, v) in av.iter_mut().enumerate() {
            // SAFETY: one k-step of row i.
            *v = F32x4::splat(isa, unsafe { *a.add(i * A_STRIDE) });
        }
        // SAFETY: `b` stands at a k-step.
        unsafe { step::<R, 0>(isa, &mut acc, &av, b) };
        a = a.wrapping_add(1);
        b = b.wrapping_add(t.b_stride);
    }
    for (i, row) in acc.iter().enumerate() {
        for (j, v) in row.iter().enumerate() {
            // SAFETY: i < rows and j < NR / 4, inside C.
            unsafe { v.store_ptr(t.c.add(i * t.c_stride + 4 * j)) };
        }
    }
}

/// One k-step: `acc` += lane `P` of each row of A times the row of B at `b`.
///
/// # Safety
/// NR floats at `b` are valid for reads.
#[inline(always)]
unsafe fn step<const R: usize, const P: i32>(
    isa: Neon,
    acc: &mut [[F32x4; 4]; R],
    a: &[F32x4; R],
    b: *const f32,
) {
    for j in 0..4 {
        // SAFETY: vector j of NR / 4.
        let b = unsafe { F32x4::load_ptr(isa, b.add(4 * j)) };
        for (row, a) in acc.iter_mut().zip(a) {
            // SAFETY: the token proves NEON.
            row[j] = F32x4(unsafe { vfmaq_laneq_f32::<P>(row[j].0, b.0, a.0) });
        }
    }
}

/// One operator by one intrinsic.
macro_rules! operator {
    ($trait:ident, $method:ident, $intrinsic:ident) => {
        impl $trait for F32x4 {
            type Output = Self;
            #[inline(always)]
            fn $method(self, b: Self) -> Self {
                // SAFETY: a value of this type proves NEON.
                Self(unsafe { $intrinsic(self.0, b.0) })
            }
        }
    };
}
operator!(Add, add, vaddq_f32);
operator!(Sub, sub, vsubq_f32);
operator!(Mul, mul, vmulq_f32);
operator!(Div, div, vdivq_f32);

impl Neg for F32x4 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        // SAFETY: a value of this type proves NEON.
        Self(unsafe { vnegq_f32(self.0) })
    }
}

/// Methods that are one expression over intrinsics; a value or a token of this ISA is at hand.
macro_rules! intrinsics {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty { $body:expr })*) => {$(
        #[inline(always)]
        fn $name($($arg: $ty),*) -> $ret {
            // SAFETY: a token or a value of this type proves NEON.
            unsafe { $body }
        }
    )*};
}

#[inline(always)]
fn int(v: F32x4) -> int32x4_t {
    // SAFETY: a value of this type proves NEON.
    unsafe { vreinterpretq_s32_f32(v.0) }
}

#[inline(always)]
fn uint(v: F32x4) -> uint32x4_t {
    // SAFETY: a value of this type proves NEON.
    unsafe { vreinterpretq_u32_f32(v.0) }
}

#[inline(always)]
fn float(v: int32x4_t) -> F32x4 {
    // SAFETY: callers hold a value of `F32x4`.
    F32x4(unsafe { vreinterpretq_f32_s32(v) })
}

#[inline(always)]
fn ufloat(v: uint32x4_t) -> F32x4 {
    // SAFETY: callers hold a value of `F32x4`.
    F32x4(unsafe { vreinterpretq_f32_u32(v) })
}

impl Vector<Neon> for F32x4 {
    const LANES: usize = 4;
    type Mask = uint32x4_t;

    #[inline(always)]
    unsafe fn load_ptr(_: Neon, p: *const f32) -> Self {
        // SAFETY: the caller's.
        Self(unsafe { vld1q_f32(p) })
    }

    #[inline(always)]
    unsafe fn store_ptr(self, p: *mut f32) {
        // SAFETY: the caller's.
        unsafe { vst1q_f32(p, self.0) }
    }

    #[inline(always)]
    fn load_partial(isa: Neon, src: &[f32], fill: f32) -> Self {
        if src.len() >= 4 {
            return Self::load(isa, src);
        }
        let lane = |i: usize| src.get(i).copied().unwrap_or(fill);
        let lanes = [lane(0), lane(1), lane(2), fill];
        Self::load(isa, &lanes)
    }

    #[inline(always)]
    fn store_partial(self, dst: &mut [f32]) {
        if dst.len() >= 4 {
            return self.store(dst);
        }
        let mut lanes = [0.0; 4];
        self.store(&mut lanes);
        for (to, from) in dst.iter_mut().zip(lanes) {
            *to = from;
        }
    }

    #[inline(always)]
    fn shl_bits<const N: u32>(self) -> Self {
        // SAFETY: a value of this type proves NEON.
        ufloat(unsafe { vshlq_u32(uint(self), vdupq_n_s32(N as i32)) })
    }

    #[inline(always)]
    fn shr_bits<const N: u32>(self) -> Self {
        // SAFETY: a value of this type proves NEON.
        ufloat(unsafe { vshlq_u32(uint(self), vdupq_n_s32(-(N as i32))) })
    }

    #[inline(always)]
    unsafe fn load_u16(_: Neon, p: *const u16) -> Self {
        // SAFETY: the caller's.
        ufloat(unsafe { vmovl_u16(vld1_u16(p)) })
    }

    #[inline(always)]
    unsafe fn store_u16(self, p: *mut u16) {
        // SAFETY: the caller's.
        unsafe { vst1_u16(p, vmovn_u32(uint(self))) }
    }

    #[inline(always)]
    unsafe fn load_i8(_: Neon, p: *const i8) -> Self {
        // SAFETY: the caller's.
        unsafe {
            let bytes = vreinterpret_s8_s32(vdup_n_s32(p.cast::<i32>().read_unaligned()));
            float(vmovl_s16(vget_low_s16(vmovl_s8(bytes))))
        }
    }

    #[inline(always)]
    unsafe fn store_u8(self, p: *mut u8) {
        // SAFETY: the caller's.
        unsafe {
            let words = vmovn_u32(uint(self));
            let bytes = vmovn_u16(vcombine_u16(words, words));
            p.cast::<u32>().write_unaligned(vget_lane_u32::<0>(vreinterpret_u32_u8(bytes)));
        }
    }

    #[inline(always)]
    unsafe fn load_f16(_: Neon, p: *const u16) -> Self {
        let wide: float32x4_t;
        // SAFETY: the caller's. The intrinsic is younger than `rust-version`.
        unsafe {
            asm!(
                "fcvtl {wide:v}.4s, {half:v}.4h",
                half = in(vreg) vld1_u16(p),
                wide = lateout(vreg) wide,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        Self(wide)
    }

    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16) {
        let half: uint16x4_t;
        // SAFETY: the caller's, as above.
        unsafe {
            asm!(
                "fcvtn {half:v}.4h, {wide:v}.4s",
                wide = in(vreg) self.0,
                half = lateout(vreg) half,
                options(pure, nomem, nostack, preserves_flags),
            );
            vst1_u16(p, half);
        }
    }

    #[inline(always)]
    fn dot_i16(self, b: Self, sum: Self) -> Self {
        // SAFETY: a value of this type proves NEON.
        unsafe {
            let (a, b) = (vreinterpretq_s16_f32(self.0), vreinterpretq_s16_f32(b.0));
            let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
            let high = vmull_high_s16(a, b);
            float(vaddq_s32(int(sum), vpaddq_s32(low, high)))
        }
    }

    // FMIN and FMAX return NaN where one operand is; the contract is a comparison and a choice.
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        self.select(self.lt(b), b)
    }

    #[inline(always)]
    fn max(self, b: Self) -> Self {
        self.select(b.lt(self), b)
    }

    #[inline(always)]
    fn maximum(self) -> f32 {
        // SAFETY: a value of this type proves NEON.
        let halves = self.max(Self(unsafe { vextq_f32::<2>(self.0, self.0) }));
        let all = halves.max(halves.swap_pairs());
        // SAFETY: as above.
        unsafe { vgetq_lane_f32::<0>(all.0) }
    }

    #[inline(always)]
    fn lookup(self, _: Neon, table: &[f32]) -> Self {
        assert!(table.len() >= Self::TABLE);
        // SAFETY: the length was checked; a value of this type proves NEON.
        unsafe {
            let bytes = uint8x16x2_t(
                vreinterpretq_u8_f32(vld1q_f32(table.as_ptr())),
                vreinterpretq_u8_f32(vld1q_f32(table.as_ptr().add(4))),
            );
            // Entry i is bytes 4i to 4i + 3.
            let first = vmulq_n_u32(vandq_u32(uint(self), vdupq_n_u32(7)), 0x0404_0404);
            let index = vaddq_u32(first, vdupq_n_u32(0x0302_0100));
            Self(vreinterpretq_f32_u8(vqtbl2q_u8(bytes, vreinterpretq_u8_u32(index))))
        }
    }

    intrinsics! {
        fn splat(_isa: Neon, x: f32) -> Self { Self(vdupq_n_f32(x)) }
        fn mul_add(self: Self, b: Self, c: Self) -> Self { Self(vfmaq_f32(c.0, self.0, b.0)) }
        fn abs(self: Self) -> Self { Self(vabsq_f32(self.0)) }
        fn sqrt(self: Self) -> Self { Self(vsqrtq_f32(self.0)) }
        fn round(self: Self) -> Self { Self(vrndnq_f32(self.0)) }
        fn lt(self: Self, b: Self) -> uint32x4_t { vcltq_f32(self.0, b.0) }
        fn le(self: Self, b: Self) -> uint32x4_t { vcleq_f32(self.0, b.0) }
        fn eq(self: Self, b: Self) -> uint32x4_t { vceqq_f32(self.0, b.0) }
        fn select(self: Self, mask: uint32x4_t, other: Self) -> Self { Self(vbslq_f32(mask, self.0, other.0)) }
        fn any(mask: uint32x4_t) -> bool { vmaxvq_u32(mask) != 0 }
        fn keep(self: Self, mask: uint32x4_t) -> Self { ufloat(vandq_u32(uint(self), mask)) }
        fn and_bits(self: Self, b: Self) -> Self { ufloat(vandq_u32(uint(self), uint(b))) }
        fn or_bits(self: Self, b: Self) -> Self { ufloat(vorrq_u32(uint(self), uint(b))) }
        fn xor_bits(self: Self, b: Self) -> Self { ufloat(veorq_u32(uint(self), uint(b))) }
        fn add_bits(self: Self, b: Self) -> Self { float(vaddq_s32(int(self), int(b))) }
        fn sub_bits(self: Self, b: Self) -> Self { float(vsubq_s32(int(self), int(b))) }
        fn mul_bits(self: Self, b: Self) -> Self { float(vmulq_s32(int(self), int(b))) }
        fn int_to_float(self: Self) -> Self { Self(vcvtq_f32_s32(int(self))) }
        fn float_to_int(self: Self) -> Self { float(vcvtnq_s32_f32(self.0)) }
        fn swap_pairs(self: Self) -> Self { Self(vrev64q_f32(self.0)) }
        fn sum(self: Self) -> f32 { vpadds_f32(vadd_f32(vget_low_f32(self.0), vget_high_f32(self.0))) }
    }
}
