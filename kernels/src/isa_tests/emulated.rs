//! Scalar emulations of dot instructions whose rounding differs from IEEE 754 in the default mode.

/// Widens the two bf16 of a k-group.
pub(crate) fn halves(k_group: u32) -> [f32; 2] {
    [f32::from_bits(k_group << 16), f32::from_bits(k_group & 0xffff_0000)]
}

/// Flushes a denormal to a zero of its sign.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// Fused multiply-add that flushes denormal operands and results to zero.
pub(crate) fn fma(a: f32, b: f32, sum: f32) -> f32 {
    flush(flush(a).mul_add(flush(b), flush(sum)))
}

/// Sum that flushes denormal operands and results to zero.
pub(crate) fn add(a: f32, b: f32) -> f32 {
    flush(flush(a) + flush(b))
}

/// Sum rounded to odd in f32, with a denormal result flushed to zero. An inexact sum becomes the neighbour whose last
/// bit is 1.
fn add_to_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    if !sum.is_finite() {
        return sum;
    }
    // Rounding error of `sum` (TwoSum, Knuth).
    let (bb, aa) = (sum - a, sum - (sum - a));
    let lost = (a - aa) + (b - bb);
    let mut bits = sum.to_bits();
    if lost != 0.0 && bits & 1 == 0 {
        bits = if (lost > 0.0) == (sum > 0.0) { bits + 1 } else { bits - 1 };
    }
    // f32 keeps 23 of the 52 fraction bits; the low 29 decide whether the last kept bit becomes 1.
    let below = (1 << 29) - 1;
    let rounded = f64::from_bits(bits & !below | u64::from(bits & below != 0) << 29);
    f64::from(flush(rounded as f32))
}

/// `sum` plus the dot product of two k-groups: BFDOT of the Arm Architecture Reference Manual, for FPCR.EBF = 0.
pub(crate) fn bfdot(a: u32, b: u32, sum: f32) -> f32 {
    let ([a0, a1], [b0, b1]) = (halves(a).map(flush), halves(b).map(flush));
    let product = |a: f32, b: f32| f64::from(flush(a * b));
    add_to_odd(f64::from(flush(sum)), add_to_odd(product(a0, b0), product(a1, b1))) as f32
}
