//! Vector registers of NEON.

use super::Neon;
use crate::isa::Vector;
use crate::isa::intrinsics::{intrinsics, operators};
use core::arch::aarch64::*;
use core::arch::asm;
use core::ops::Neg;

/// Four floats. The field is private to `neon`: only a holder of [`Neon`] can make one.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct F32x4(pub(super) float32x4_t);

operators!(F32x4: Add::add by vaddq_f32, Sub::sub by vsubq_f32, Mul::mul by vmulq_f32, Div::div by vdivq_f32);

impl Neg for F32x4 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        // SAFETY: a value of this type proves NEON.
        Self(unsafe { vnegq_f32(self.0) })
    }
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
    // SAFETY: every caller holds a value of `F32x4` or a token, which prove NEON.
    F32x4(unsafe { vreinterpretq_f32_s32(v) })
}

#[inline(always)]
fn ufloat(v: uint32x4_t) -> F32x4 {
    // SAFETY: every caller holds a value of `F32x4` or a token, which prove NEON.
    F32x4(unsafe { vreinterpretq_f32_u32(v) })
}

impl Vector<Neon> for F32x4 {
    const LANES: usize = 4;
    type Mask = uint32x4_t;

    #[inline(always)]
    unsafe fn load_ptr(_: Neon, p: *const f32) -> Self {
        // SAFETY: `p` is valid for reads of `LANES` floats (precondition of `load_ptr`).
        Self(unsafe { vld1q_f32(p) })
    }

    #[inline(always)]
    unsafe fn store_ptr(self, p: *mut f32) {
        // SAFETY: `p` is valid for writes of `LANES` floats (precondition of `store_ptr`).
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
        // SAFETY: `p` is valid for reads of `LANES` numbers of 16 bits (precondition of `load_u16`).
        ufloat(unsafe { vmovl_u16(vld1_u16(p)) })
    }

    #[inline(always)]
    unsafe fn store_u16(self, p: *mut u16) {
        // SAFETY: `p` is valid for writes of `LANES` numbers of 16 bits (precondition of `store_u16`).
        unsafe { vst1_u16(p, vmovn_u32(uint(self))) }
    }

    #[inline(always)]
    unsafe fn load_i8(_: Neon, p: *const i8) -> Self {
        // SAFETY: `p` is valid for reads of `LANES` bytes (precondition of `load_i8`).
        unsafe {
            let bytes = vreinterpret_s8_s32(vdup_n_s32(p.cast::<i32>().read_unaligned()));
            float(vmovl_s16(vget_low_s16(vmovl_s8(bytes))))
        }
    }

    #[inline(always)]
    unsafe fn store_u8(self, p: *mut u8) {
        // SAFETY: `p` is valid for writes of `LANES` bytes (precondition of `store_u8`).
        unsafe {
            let halves = vmovn_u32(uint(self));
            let bytes = vmovn_u16(vcombine_u16(halves, halves));
            p.cast::<u32>().write_unaligned(vget_lane_u32::<0>(vreinterpret_u32_u8(bytes)));
        }
    }

    #[inline(always)]
    unsafe fn load_f16(_: Neon, p: *const u16) -> Self {
        let wide: float32x4_t;
        // Assembly, because the intrinsic is newer than `rust-version`.
        // SAFETY: `p` is valid for reads of `LANES` numbers of 16 bits (precondition of `load_f16`). The token proves
        // NEON, and the instruction accesses its operand registers only.
        unsafe {
            asm!(
                "fcvtl {wide:v}.4s, {half:v}.4h",
                half = in(vreg) vld1_u16(p),
                wide = lateout(vreg) wide,
                options(pure, nomem, nostack),
            );
        }
        Self(wide)
    }

    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16) {
        let half: uint16x4_t;
        // Assembly, because the intrinsic is newer than `rust-version`.
        // SAFETY: `p` is valid for writes of `LANES` numbers of 16 bits (precondition of `store_f16`). A value of this
        // type proves NEON, and the instruction accesses its operand registers only.
        unsafe {
            asm!(
                "fcvtn {half:v}.4h, {wide:v}.4s",
                wide = in(vreg) self.0,
                half = lateout(vreg) half,
                options(pure, nomem, nostack),
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

    // A comparison and a choice: FMIN and FMAX return NaN if one operand is NaN, against the contract.
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
        // SAFETY: a value of this type proves NEON.
        unsafe { vgetq_lane_f32::<0>(all.0) }
    }

    #[inline(always)]
    fn lookup(self, _: Neon, table: &[f32]) -> Self {
        assert!(table.len() >= Self::TABLE);
        // SAFETY: `table` holds the 8 floats of the loads (checked above). A value of this type proves NEON.
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
        fn mul_even_bits(self: Self, b: Self) -> Self {
            {
                let even = |v: Self| vmovn_u64(vreinterpretq_u64_f32(v.0));
                Self(vreinterpretq_f32_u64(vmull_u32(even(self), even(b))))
            }
        }
        fn lt_bits(self: Self, b: Self) -> uint32x4_t { vcltq_u32(uint(self), uint(b)) }
        fn int_to_float(self: Self) -> Self { Self(vcvtq_f32_s32(int(self))) }
        fn float_to_int(self: Self) -> Self { float(vcvtnq_s32_f32(self.0)) }
        fn swap_pairs(self: Self) -> Self { Self(vrev64q_f32(self.0)) }
        fn sum(self: Self) -> f32 { vpadds_f32(vadd_f32(vget_low_f32(self.0), vget_high_f32(self.0))) }
    }
}
