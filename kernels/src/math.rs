//! Elementary functions on vectors: exp, log, erf and tanh to at most 1 ULP, and a faster exp.
//!
//! No function branches, and no lane depends on its neighbours. So the tail of a row, padded to a full vector, gets the
//! bits that it would get inside a vector. NaN stays NaN. Denormal arguments count in full. Denormal results
//! are rounded like others; only [`exp_fast`] and [`exp2_coarse`] flush them to zero.
//!
//! `tests/math.rs` holds every backend to these bounds: 1 ULP for [`exp`], [`log`], [`erf`] and [`tanh`], 6 ULP for
//! [`exp_fast`], and 52 ULP for [`exp2_coarse`], whose results are rounded to 8 bits. It tests every 4099th argument
//! and those near powers of two; `tilewright verify --exhaustive` walks all 2^32. Worst errors over all arguments, in
//! ULP:
//!
//! | function              | avx512, avx2 | portable, without FMA |
//! |-----------------------|--------------|-----------------------|
//! | [`exp`]               | 0.891        | 0.930                 |
//! | [`log`]               | 0.903        | 0.893                 |
//! | [`erf`]               | 0.982        | 0.982                 |
//! | [`tanh`]              | 0.959        | 0.959                 |
//! | [`exp_fast`], x <= 0  | 4.73         | 2.26                  |
//! | [`exp_fast`], x <= 88 | 5.33         | 2.26                  |
//!
//! Errors of [`exp_fast`] are for x >= -87: it flushes smaller results. NEON has not been walked.
//!
//! Polynomials are weighted minimax fits of the relative error of the result (Remez exchange in extended precision).
//! Coefficients were rounded to f32 one by one from the lowest degree up, and the others were fitted again each time.
//! The error of a fit is below a tenth of an ULP unless its function says otherwise. Method: J.-M. Muller, *Elementary
//! Functions*, 3rd ed., chapters 3 and 11.

use crate::isa::{Isa, Vector};
use core::f32::consts::{LN_2, LOG2_E};

/// 1.5 * 2^23. Adding a float of moderate size rounds it to an integer, in two's complement in the low bits of the sum.
const INTEGER: f32 = 12_582_912.0;

/// ln 2 to 14 bits: its product with an integer of 10 bits is exact.
const LN_2_HIGH: f32 = 0.693_145_75;

/// ln 2 - `LN_2_HIGH`.
const LN_2_LOW: f32 = 1.428_606_8e-6;

/// `a * b + c`, rounded about once on every instruction set.
///
/// Without a fused instruction, the errors of product and sum are computed exactly and added: T. Dekker, "A
/// floating-point technique for extending the available precision", 1971, and D. Knuth's two-sum.
#[inline(always)]
fn fused<I: Isa>(isa: I, a: I::V, b: I::V, c: I::V) -> I::V {
    if I::V::FUSED {
        return a.mul_add(b, c);
    }
    let product = a * b;
    let high = |v: I::V| v.and_bits(I::V::splat_bits(isa, 0xffff_f000));
    let (a1, b1) = (high(a), high(b));
    let (a2, b2) = (a - a1, b - b1);
    let product_error = ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2;
    let sum = product + c;
    let d = sum - product;
    let sum_error = (product - (sum - d)) + (c - d);
    sum + (product_error + sum_error)
}

/// `x + x * factor` for |x| <= 1, rounded about once.
#[inline(always)]
fn add_scaled<I: Isa>(isa: I, x: I::V, factor: I::V) -> I::V {
    if I::V::FUSED {
        return x.mul_add(factor, x);
    }
    // Scaling up keeps all parts of the product above the smallest denormal.
    let (up, down) = (I::V::splat(isa, 2.0f32.powi(64)), I::V::splat(isa, 2.0f32.powi(-64)));
    let x = x * up;
    fused(isa, x, factor, x) * down
}

/// The polynomial with these coefficients, highest degree first.
#[inline(always)]
fn polynomial<I: Isa, const N: usize>(isa: I, x: I::V, coefficients: [f32; N]) -> I::V {
    let mut p = I::V::splat(isa, coefficients[0]);
    for c in &coefficients[1..] {
        p = p.mul_add(x, I::V::splat(isa, *c));
    }
    p
}

/// e^x.
///
/// ```text
/// n = round(x / ln 2)      r = x - n ln 2 in [-ln 2 / 2, ln 2 / 2]      e^x = 2^n e^r
/// ```
/// e^r is a polynomial of degree 6 that starts with 1 + r. n ln 2 is subtracted in two parts: W. Cody and W. Waite,
/// *Software Manual for the Elementary Functions*, 1980.
#[inline(always)]
pub fn exp<I: Isa>(isa: I, x: I::V) -> I::V {
    let c = |v: f32| I::V::splat(isa, v);
    // At these bounds the result is infinite or 0 already. As first operands, the bounds let NaN pass.
    let x = c(89.0).min(c(-104.0).max(x));
    let n = x.mul_add(c(LOG2_E), c(INTEGER)) - c(INTEGER);
    exp_reduced(isa, x, n).scale_by_pow2(isa, n)
}

/// e^x for x <= 0, with the bits of [`exp`]. For x > 0 the result is unspecified; NaN gives NaN.
///
/// It skips the scaling that only larger arguments need: a fifth of the work where no instruction scales by powers of
/// two.
#[inline(always)]
pub(crate) fn exp_down<I: Isa>(isa: I, x: I::V) -> I::V {
    let c = |v: f32| I::V::splat(isa, v);
    let x = c(-104.0).max(x);
    let n = x.mul_add(c(LOG2_E), c(INTEGER)) - c(INTEGER);
    exp_reduced(isa, x, n).scale_down_by_pow2(isa, n)
}

/// e^x - 1 for x <= 0, within 2 ULP. For x > 0 the result is unspecified; NaN gives NaN.
///
/// ```text
/// e^x - 1 = 2^n (e^r - 1) + (2^n - 1)
/// ```
/// For n = 0, up to -ln 2 / 2, nothing cancels. For n < 0 the second term is at most -1/2.
#[inline(always)]
pub(crate) fn exp_m1_down<I: Isa>(isa: I, x: I::V) -> I::V {
    let c = |v: f32| I::V::splat(isa, v);
    // At this bound the result is -1 already.
    let x = c(-18.0).max(x);
    let integer = c(INTEGER + 127.0);
    let biased = x.mul_add(c(LOG2_E), integer);
    let (p, r) = exp_factors(isa, x, biased - integer);
    let power = biased.shl_bits::<23>();
    (p * r).mul_add(power, power - c(1.0))
}

/// ln(1 + u) for u in \[0, 1\], within 2 ULP. For other numbers the result is unspecified; NaN gives NaN.
///
/// ```text
/// ln(1 + u) = 2 atanh z = 2 (z + z^3 Q(z^2)),  z = u / (2 + u) in [0, 1/3]      Q of degree 3
/// ```
#[inline(always)]
pub(crate) fn ln_1p_of_unit<I: Isa>(isa: I, u: I::V) -> I::V {
    let z = u / (I::V::splat(isa, 2.0) + u);
    let z2 = z * z;
    let q = polynomial(isa, z2, [0.140_138_27, 0.139_992_37, 0.200_108_7, 0.333_332_06]);
    let twice = z + z;
    (twice * z2).mul_add(q, twice)
}

/// e^(x - n ln 2), for the integer n nearest to x / ln 2.
#[inline(always)]
fn exp_reduced<I: Isa>(isa: I, x: I::V, n: I::V) -> I::V {
    let (p, r) = exp_factors(isa, x, n);
    fused(isa, p, r, I::V::splat(isa, 1.0))
}

/// p and r with e^r = 1 + p r, r = x - n ln 2, for the integer n nearest to x / ln 2.
#[inline(always)]
fn exp_factors<I: Isa>(isa: I, x: I::V, n: I::V) -> (I::V, I::V) {
    let c = |v: f32| I::V::splat(isa, v);
    let r = n.mul_add(c(-LN_2_HIGH), x);
    let r = n.mul_add(c(-LN_2_LOW), r);
    let p =
        polynomial(isa, r, [0.001_383_906_3, 0.008_369_201, 0.041_668_102, 0.166_665_17, 0.499_999_94, 1.0]);
    (p, r)
}

/// Faster e^x for x <= 88, for softmax, whose arguments are at most 0. For larger x the result is unspecified. e^0 is
/// exactly 1, and e^-infinity exactly 0.
///
/// The polynomial has degree 5, and ln 2 one part (two without fused multiply-adds). The error is about 2 ULP near 0
/// and grows with |x|, because the rounding error of ln 2 does: to 4.7 ULP at -87 and 5.3 ULP at 88. Results below
/// 2^-126 are flushed to 0, or are denormal between 2^-126.5 and 2^-126.
#[inline(always)]
pub fn exp_fast<I: Isa>(isa: I, x: I::V) -> I::V {
    let c = |v: f32| I::V::splat(isa, v);
    // -88 / ln 2 rounds to -127, whose biased exponent is 0: smaller x give 0.
    let x = c(-88.0).max(x);
    let integer = c(INTEGER + 127.0);
    let biased = x.mul_add(c(LOG2_E), integer);
    let n = biased - integer;
    let r = if I::V::FUSED {
        n.mul_add(c(-LN_2), x)
    } else {
        n.mul_add(c(-LN_2_LOW), n.mul_add(c(-LN_2_HIGH), x))
    };
    let p = polynomial(isa, r, [0.008_289_205, 0.041_898_18, 0.166_676_54, 0.499_991_48, 0.999_999_7, 1.0]);
    p * biased.shl_bits::<23>()
}

/// Coarse 2^x for x <= 0.5, for results of which 8 bits are kept. For larger x the result is unspecified; NaN gives
/// NaN. 2^0 is exactly 1, and 2^-infinity exactly 0.
///
/// The relative error is at most 3.1e-6 (2^-18.3), from a polynomial of degree 4 and its roundings: the reduction of x
/// is exact. Results below 2^-126 are flushed like those of [`exp_fast`].
#[inline(always)]
pub fn exp2_coarse<I: Isa>(isa: I, x: I::V) -> I::V {
    let c = |v: f32| I::V::splat(isa, v);
    // The biased exponent of -127 is 0: smaller x give 0.
    let x = c(-127.0).max(x);
    let integer = c(INTEGER + 127.0);
    let biased = x + integer;
    let r = x - (biased - integer);
    let p = polynomial(isa, r, [0.009_582_853, 0.055_906_426, 0.240_241, 0.693_124_2, 1.0]);
    p * biased.shl_bits::<23>()
}

/// Natural logarithm. log 0 is -infinity; the logarithm of a negative number is NaN.
///
/// ```text
/// x = 2^e (1 + f), 1 + f in [2/3, 4/3)      ln x = e ln 2 + f - f^2/2 + f^3 P(f)
/// ```
/// P has degree 8. ln 2 has two parts, as in [`exp`].
#[inline(always)]
pub fn log<I: Isa>(isa: I, x: I::V) -> I::V {
    let c = |v: f32| I::V::splat(isa, v);
    let bits = |v: u32| I::V::splat_bits(isa, v);
    let denormal = x.lt(c(f32::MIN_POSITIVE));
    let normal = (x * c((1 << 23) as f32)).select(denormal, x);
    // Subtracting the bits of 2/3 leaves e in the exponent field; adding 128 keeps it positive.
    let exponent = normal.sub_bits(bits((2.0f32 / 3.0).to_bits())).add_bits(bits(128 << 23)).shr_bits::<23>();
    let f = normal.sub_bits(exponent.shl_bits::<23>()).add_bits(bits(128 << 23)) - c(1.0);
    let e = exponent.int_to_float() - c(128.0 + 23.0).select(denormal, c(128.0));
    let p = polynomial(
        isa,
        f,
        [
            0.117_282_87,
            -0.128_826_54,
            0.108_220_59,
            -0.121_878_57,
            0.142_989_53,
            -0.166_800_86,
            0.199_997_65,
            -0.249_998_11,
            0.333_333_34,
            -0.5,
        ],
    );
    let y = e.mul_add(c(LN_2_LOW), (f * f).mul_add(p, f));
    let y = e.mul_add(c(LN_2_HIGH), y);
    let y = x.select(x.eq(c(f32::INFINITY)), y);
    let y = c(f32::NEG_INFINITY).select(x.eq(c(0.0)), y);
    y.select(c(0.0).le(x), c(f32::NAN))
}

/// Error function: 2/sqrt(pi) times the integral of e^(-t^2) from 0 to x.
///
/// ```text
/// |x| < 1      x + x P(x^2)                             P of degree 6
/// otherwise    sign(x) (1 - 2^Q(|x|)), 1 from 3.95 on   Q ~ log2(erfc) of degree 7, Q(0) = 0
/// ```
/// 2^Q is at most 0.16 there, so its own error counts little. The split follows N. Juffa's `erff`.
#[inline(always)]
pub fn erf<I: Isa>(isa: I, x: I::V) -> I::V {
    let c = |v: f32| I::V::splat(isa, v);
    let x2 = x * x;
    let near =
        polynomial(isa, x2, [7.805_465e-5, -0.000_799_752_83, 0.005_187_138_4, -0.026_853_342, 0.112_835_79]);
    // The two largest terms are added by themselves, rounded about once: the rounding of a Horner step is too large.
    let near = fused(isa, near, x2 * x2, fused(isa, c(-0.376_126_26), x2, c(0.128_379_17)));
    let t = c(3.95).min(x.abs());
    let q = polynomial(
        isa,
        t,
        [-1.970_673e-5, 0.000_501_277_86, -0.005_401_848_3, 0.034_597_352, -0.153_640_93, -0.916_099_37],
    );
    // The exponent t (c0 + q t) is never rounded as a whole: its integer part is subtracted from c0 t first.
    let c0 = c(-1.628_353_5);
    let integer = c(INTEGER + 127.0);
    let biased = q.mul_add(t, c0).mul_add(t, integer);
    let fraction = fused(isa, q * t, t, fused(isa, c0, t, integer - biased));
    let power = polynomial(
        isa,
        fraction,
        [0.000_133_325_7, 0.001_338_792_8, 0.009_625_445, 0.055_503_663, 0.240_225_94, LN_2, 1.0],
    );
    let far = c(1.0) - power * biased.shl_bits::<23>();
    // The sign is set in both cases: -0 + -0 * factor may be +0.
    add_scaled(isa, x, near).select(t.lt(c(1.0)), far).or_bits(x.and_bits(c(-0.0)))
}

/// Hyperbolic tangent.
///
/// ```text
/// |x| < 1       x + x^3 P(x^2)                              P of degree 6
/// otherwise     sign(x) (1 - 2 / (e^2|x| + 1)), 1 from 9.1 on
/// ```
/// For |x| >= 1 the quotient is at most 0.24, so the errors of its parts count little.
#[inline(always)]
pub fn tanh<I: Isa>(isa: I, x: I::V) -> I::V {
    let c = |v: f32| I::V::splat(isa, v);
    let x2 = x * x;
    let near = polynomial(
        isa,
        x2,
        [-0.000_341_468_37, 0.002_245_755_9, -0.007_875_361, 0.021_442_728, -0.053_866_15, 0.133_321_52],
    );
    let near = fused(isa, near, x2, c(-0.333_332_87));
    let t = c(9.1).min(x.abs());
    let integer = c(INTEGER + 127.0);
    let biased = t.mul_add(c(2.0 * LOG2_E), integer);
    let power = exp_reduced(isa, t + t, biased - integer);
    let far = c(1.0) - c(2.0) / power.mul_add(biased.shl_bits::<23>(), c(1.0));
    // As in `erf`, the sign is set in both cases.
    add_scaled(isa, x, x2 * near).select(t.lt(c(1.0)), far).or_bits(x.and_bits(c(-0.0)))
}
