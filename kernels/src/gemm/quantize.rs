//! Numbers as int8: what quantisation means, once for weights, activations and the definition.

/// How the numbers of one row of A, or of one column of B, are made int8:
///
/// ```text
/// q = min(max(round(x * inverse) + zero, -128), 127),    x is about (q - zero) * scale
/// ```
///
/// with products and roundings in f32, to nearest, ties to even. A row with NaN or infinities in it has
/// a scale of NaN, and so has everything that is computed from it.
///
/// ```
/// use tilewright_kernels::gemm::Quantized;
/// let row = [0.5, -2.54, 1.0];
/// let quantized = Quantized::symmetric(row);
/// assert_eq!(row.map(|x| quantized.quantize(x)), [25, -127, 50]);
/// assert!((quantized.dequantize(50) - 1.0).abs() <= quantized.scale / 2.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantized {
    /// Steps to a unit.
    pub inverse: f32,
    /// Size of a step.
    pub scale: f32,
    /// What 0 becomes.
    pub zero: i32,
}

impl Quantized {
    /// Zero stays zero, and the largest magnitude becomes 127: -128 is not used. Half a step is at most
    /// 1/254 of that magnitude.
    pub fn symmetric(row: impl IntoIterator<Item = f32>) -> Self {
        let (mut largest, mut special) = (0.0f32, 0.0);
        for x in row {
            largest = largest.max(x.abs());
            special += x * 0.0;
        }
        Self::of_magnitude(largest, special)
    }

    /// The least number becomes -128 and the largest 127, where 0 lies between them: half a step is at
    /// most 1/510 of their distance.
    pub fn zero_point(row: impl IntoIterator<Item = f32>) -> Self {
        let (mut least, mut largest, mut special) = (0.0f32, 0.0f32, 0.0);
        for x in row {
            (least, largest) = (least.min(x), largest.max(x));
            special += x * 0.0;
        }
        Self::of_range(least, largest, special)
    }

    /// [`symmetric`](Self::symmetric) of the largest magnitude, and a number that is NaN if any was NaN
    /// or infinite, else 0.
    #[inline(always)]
    pub(super) fn of_magnitude(largest: f32, special: f32) -> Self {
        let inverse = (127.0 / largest).min(f32::MAX);
        Self { inverse, scale: 1.0 / inverse + special, zero: 0 }
    }

    /// [`zero_point`](Self::zero_point), likewise; halves, for the distance may overflow.
    #[inline(always)]
    pub(super) fn of_range(least: f32, largest: f32, special: f32) -> Self {
        let inverse = (127.5 / (0.5 * largest - 0.5 * least)).min(f32::MAX);
        let zero = (-128.0 - least * inverse).round_ties_even();
        Self { inverse, scale: 1.0 / inverse + special, zero: zero as i32 }
    }

    /// x as int8.
    #[inline(always)]
    pub fn quantize(&self, x: f32) -> i8 {
        ((x * self.inverse).round_ties_even() as i32).saturating_add(self.zero).clamp(-128, 127) as i8
    }

    /// What an int8 stands for.
    #[inline(always)]
    pub fn dequantize(&self, q: i8) -> f32 {
        (i32::from(q) - self.zero) as f32 * self.scale
    }
}
