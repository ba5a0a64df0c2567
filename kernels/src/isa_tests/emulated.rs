//! Steps of instructions that round in ways of their own, in scalar arithmetic.

/// The two numbers of a word of bf16.
pub(crate) fn halves(word: u32) -> [f32; 2] {
    [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)]
}

fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// A fused multiply-add that takes and returns denormals as zeros.
pub(crate) fn fma(a: f32, b: f32, sum: f32) -> f32 {
    flush(flush(a).mul_add(flush(b), flush(sum)))
}

/// A sum that does.
pub(crate) fn add(a: f32, b: f32) -> f32 {
    flush(flush(a) + flush(b))
}

/// A sum that does, rounded to odd: where it is not exact, the one of its two neighbours whose last bit is 1.
fn add_to_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    if !sum.is_finite() {
        return sum;
    }
    // What `sum` lost (Knuth).
    let (bb, aa) = (sum - a, sum - (sum - a));
    let lost = (a - aa) + (b - bb);
    let mut bits = sum.to_bits();
    if lost != 0.0 && bits & 1 == 0 {
        bits = if (lost > 0.0) == (sum > 0.0) { bits + 1 } else { bits - 1 };
    }
    // Of the 52 bits behind the point, 23 are of the f32.
    let below = (1 << 29) - 1;
    let rounded = f64::from_bits(bits & !below | u64::from(bits & below != 0) << 29);
    f64::from(flush(rounded as f32))
}

/// `sum` and the products of two words, as BFDOT of the Arm Architecture Reference Manual, FPCR.EBF being 0.
pub(crate) fn bfdot(a: u32, b: u32, sum: f32) -> f32 {
    let ([a0, a1], [b0, b1]) = (halves(a).map(flush), halves(b).map(flush));
    let product = |a: f32, b: f32| f64::from(flush(a * b));
    add_to_odd(f64::from(flush(sum)), add_to_odd(product(a0, b0), product(a1, b1))) as f32
}
