//! Elementary functions on vectors.

use crate::isa::{Isa, Vector};

/// e^x.
#[inline(always)]
pub fn exp<I: Isa>(isa: I, x: I::V) -> I::V {
    let c = |v: f32| I::V::splat(isa, v);
    // `b` if either is NaN: x stays NaN. Beyond the bounds the result is 0 or infinity.
    let x = c(89.0).min(c(-104.0).max(x));
    let n = (x * c(core::f32::consts::LOG2_E)).round();
    // ln 2 in two parts, the first short enough for n times it to be exact.
    let r = n.mul_add(c(-0.693_145_75), x);
    let r = n.mul_add(c(-1.428_606_8e-6), r);
    let mut p = c(1.0 / 5040.0);
    for k in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p.mul_add(r, c(k));
    }
    p.scale_by_pow2(isa, n)
}

/// e^x with a relaxed bound; 0 at -inf and 1 at 0 exactly.
#[inline(always)]
pub fn exp_fast<I: Isa>(isa: I, x: I::V) -> I::V {
    exp(isa, x)
}

/// Natural logarithm.
#[inline(always)]
pub fn log<I: Isa>(isa: I, x: I::V) -> I::V {
    let c = |v: f32| I::V::splat(isa, v);
    let denormal = x.lt(c(f32::MIN_POSITIVE));
    let scaled = (x * c(8_388_608.0)).select(denormal, x);
    // The exponent that leaves m in [sqrt(1/2), sqrt(2)).
    let half = I::V::splat_bits(isa, 0x3f35_04f3);
    let e = scaled.sub_bits(half).add_bits(I::V::splat_bits(isa, 64 << 23)).shr_bits::<23>();
    let e = e.sub_bits(I::V::splat_bits(isa, 64));
    let m = scaled.sub_bits(e.shl_bits::<23>());
    let e = e.int_to_float() - c(23.0).select(denormal, c(0.0));
    let f = m - c(1.0);
    // ln((1 + s) / (1 - s)) = 2 (s + s^3/3 + ..)
    let s = f / (f + c(2.0));
    let s2 = s * s;
    let mut p = c(2.0 / 11.0);
    for k in [2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0, 2.0] {
        p = p.mul_add(s2, c(k));
    }
    let y = e.mul_add(c(core::f32::consts::LN_2), s * p);
    let y = x.select(x.eq(c(f32::INFINITY)), y);
    let y = c(f32::NEG_INFINITY).select(x.eq(c(0.0)), y);
    y.select(c(0.0).le(x), c(f32::NAN))
}

/// The error function.
#[inline(always)]
pub fn erf<I: Isa>(isa: I, x: I::V) -> I::V {
    let c = |v: f32| I::V::splat(isa, v);
    let sign = x.and_bits(c(-0.0));
    let t = c(4.0).min(x.abs());
    let mut p = c(0.000_043_063_8);
    for k in [0.000_276_567_2, 0.000_152_014_3, 0.009_270_527, 0.042_282_01, 0.070_523_08, 1.0] {
        p = p.mul_add(t, c(k));
    }
    let p = p * p;
    let p = p * p;
    let p = p * p;
    let p = p * p;
    (c(1.0) - c(1.0) / p).or_bits(sign)
}

/// The hyperbolic tangent.
#[inline(always)]
pub fn tanh<I: Isa>(isa: I, x: I::V) -> I::V {
    let c = |v: f32| I::V::splat(isa, v);
    c(1.0) - c(2.0) / (exp(isa, x + x) + c(1.0))
}
