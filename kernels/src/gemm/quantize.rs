//! Quantization to int8, defined once for weights, activations and the reference.

/// Quantization to int8 of one row of A or one column of B:
///
/// ```text
/// q = min(max(round(x * inverse) + zero, -128), 127),    x is about (q - zero) * scale
/// ```
///
/// Products and roundings are in f32, to nearest, ties to even. NaN or infinities in the row make its scale NaN,
/// and every result that depends on the row.
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
    /// Steps per unit, about 1 / `scale`.
    pub inverse: f32,
    /// Size of one step.
    pub scale: f32,
    /// Zero point: the int8 of 0.
    pub zero: i32,
}

impl Quantized {
    /// Symmetric quantization: 0 becomes 0 and the largest magnitude 127; -128 is not used.
    ///
    /// Half a step is at most 1/254 of the largest magnitude.
    pub fn symmetric(row: impl IntoIterator<Item = f32>) -> Self {
        let (mut largest, mut special) = (0.0f32, 0.0);
        for x in row {
            largest = largest.max(x.abs());
            special += x * 0.0;
        }
        Self::of_magnitude(largest, special)
    }

    /// Asymmetric quantization: the least number, or 0, becomes -128, and the largest number, or 0, becomes 127.
    ///
    /// Half a step is at most 1/510 of the distance between the two.
    pub fn zero_point(row: impl IntoIterator<Item = f32>) -> Self {
        let (mut least, mut largest, mut special) = (0.0f32, 0.0f32, 0.0);
        for x in row {
            (least, largest) = (least.min(x), largest.max(x));
            special += x * 0.0;
        }
        Self::of_range(least, largest, special)
    }

    /// [`symmetric`](Self::symmetric), given the largest magnitude. `special` is NaN if the row has NaN or
    /// infinities, else 0.
    #[inline(always)]
    pub(super) fn of_magnitude(largest: f32, special: f32) -> Self {
        let inverse = (127.0 / largest).min(f32::MAX);
        Self { inverse, scale: 1.0 / inverse + special, zero: 0 }
    }

    /// [`zero_point`](Self::zero_point), given the least and the largest number, and `special` as in
    /// [`of_magnitude`](Self::of_magnitude). Computes with halves, because the distance may overflow.
    #[inline(always)]
    pub(super) fn of_range(least: f32, largest: f32, special: f32) -> Self {
        let inverse = (127.5 / (0.5 * largest - 0.5 * least)).min(f32::MAX);
        let zero = (-128.0 - least * inverse).round_ties_even();
        Self { inverse, scale: 1.0 / inverse + special, zero: zero as i32 }
    }

    /// The int8 of `x`.
    #[inline(always)]
    pub fn quantize(&self, x: f32) -> i8 {
        ((x * self.inverse).round_ties_even() as i32).saturating_add(self.zero).clamp(-128, 127) as i8
    }

    /// The number that an int8 stands for.
    #[inline(always)]
    pub fn dequantize(&self, q: i8) -> f32 {
        (i32::from(q) - self.zero) as f32 * self.scale
    }
}
