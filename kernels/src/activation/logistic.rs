//! Activations made of e^-|x|: the logistic function, and its relatives.
//!
//! ```text
//! e = e^-|x|    high = 1 / (1 + e)    low = e high
//!
//! sigmoid       high for x >= 0, low for x < 0                derivative  low high
//! softplus      max(x, 0) + ln(1 + e)                         derivative  sigmoid
//! SiLU          x sigmoid                                     derivative  1 - s for x >= 0, s for x < 0
//!                                                                         s = low (1 - |x| high)
//! quick GELU    SiLU(1.702 x) / 1.702
//! tanh                                                        derivative  4 e^-2|x| / (1 + e^-2|x|)^2
//! mish          x n / d                                       derivative  n / d + x 4 e (1 + e) q / d^2
//!               n = 1 + 2e, d = n + 2e^2, q = e   for x >= 0
//!               n = 2e + e^2, d = n + 2, q = 1    for x < 0
//! ```
//! e is at most 1, so nothing overflows, and 1 - high is never formed: each part keeps its relative accuracy.

use crate::isa::{Isa, Vector};
use crate::math::{exp_down, ln_1p_of_unit};

/// |x| from which e^-|x| is 0. It keeps products with infinities finite.
const FAR: f32 = 104.0;

/// Lanes where x >= 0.
#[inline(always)]
fn upper<I: Isa>(isa: I, x: I::V) -> <I::V as Vector<I>>::Mask {
    I::V::splat(isa, 0.0).le(x)
}

/// Sigmoid of |x| and of -|x|.
#[inline(always)]
fn high_and_low<I: Isa>(isa: I, x: I::V) -> (I::V, I::V) {
    let e = exp_down(isa, -x.abs());
    let one = I::V::splat(isa, 1.0);
    let high = one / (one + e);
    (high, e * high)
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(super) fn sigmoid<I: Isa>(isa: I, x: I::V) -> I::V {
    let (high, low) = high_and_low(isa, x);
    high.select(upper(isa, x), low)
}

/// Derivative of [`sigmoid`].
#[inline(always)]
pub(super) fn sigmoid_derivative<I: Isa>(isa: I, x: I::V) -> I::V {
    let (high, low) = high_and_low(isa, x);
    low * high
}

/// ln(1 + e^x).
#[inline(always)]
pub(super) fn softplus<I: Isa>(isa: I, x: I::V) -> I::V {
    I::V::splat(isa, 0.0).max(x) + ln_1p_of_unit(isa, exp_down(isa, -x.abs()))
}

/// x / (1 + e^(-a x)).
#[inline(always)]
pub(super) fn swish<I: Isa>(isa: I, x: I::V, a: f32) -> I::V {
    let c = |v: f32| I::V::splat(isa, v);
    // -inf over infinity would be NaN.
    let x = c(-f32::MAX).max(x);
    x / (c(1.0) + crate::math::exp(isa, x * c(-a)))
}

/// x / (1 + e^-ax), and its derivative.
#[inline(always)]
pub(super) fn swish_with_derivative<I: Isa>(isa: I, x: I::V, a: f32) -> (I::V, I::V) {
    let c = |v: f32| I::V::splat(isa, v);
    let scaled = x * c(a);
    let t = c(FAR).min(scaled.abs());
    let (high, low) = high_and_low(isa, t);
    let slope = (t * -low).mul_add(high, low);
    let upper = upper(isa, x);
    // As in `swish`, an infinity times 0 would be NaN.
    let value = c(-f32::MAX).max(x) * high.select(upper, low);
    (value, (c(1.0) - slope).select(upper, slope))
}

/// Derivative of [`tanh`](crate::math::tanh).
#[inline(always)]
pub(super) fn tanh_derivative<I: Isa>(isa: I, x: I::V) -> I::V {
    let (high, low) = high_and_low(isa, x + x);
    I::V::splat(isa, 4.0) * low * high
}

/// x tanh(ln(1 + e^x)), and its derivative.
#[inline(always)]
pub(super) fn mish_with_derivative<I: Isa>(isa: I, x: I::V) -> (I::V, I::V) {
    let c = |v: f32| I::V::splat(isa, v);
    let upper = upper(isa, x);
    let e = exp_down(isa, -x.abs());
    let (square, twice) = (e * e, e + e);
    let n = twice + c(1.0).select(upper, square);
    let r = c(1.0) / (n + (square + square).select(upper, c(2.0)));
    let w = n * r;
    // As in `swish`, an infinity times 0 would be NaN.
    let value = c(-f32::MAX).max(x) * w;
    let near = c(-FAR).max(c(FAR).min(x));
    let bend = near * (twice + square + square) * c(2.0) * e.select(upper, c(1.0)) * r * r;
    (value, w + bend)
}
