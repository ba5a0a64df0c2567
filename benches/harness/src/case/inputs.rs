//! Inputs of cases, aligned as the allocator of a tensor library aligns them.

use half::{bf16, f16};
use std::ops::{Deref, DerefMut};
use tilewright_kernels::random::Random;
use tilewright_kernels::{Element, RopeLayout, RopeTable};
use tilewright_peers::Dtype;

/// Numbers aligned to a page. Vectors that straddle cache lines take up to twice the time.
#[derive(Debug, Default)]
pub struct Aligned<T = f32> {
    data: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Element> Aligned<T> {
    /// Holds `f(0)`, `f(1)`, .. `f(n - 1)`.
    pub fn new(n: usize, f: impl FnMut(usize) -> T) -> Self {
        const PAGE: usize = 4096;
        let data = vec![T::default(); n + PAGE / size_of::<T>()];
        let mut new = Self { start: data.as_ptr().align_offset(PAGE), data, len: n };
        new.iter_mut().zip((0..n).map(f)).for_each(|(x, value)| *x = value);
        new
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.data[self.start..][..self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..][..self.len]
    }
}

/// Operands of a case. The operation determines the filled fields and their meaning.
#[derive(Debug, Default)]
pub struct Inputs {
    /// Activations \[m, k\]; rows; queries.
    pub x: Aligned,
    /// Weights \[n, k\]; the second operand of a row kernel; keys.
    pub y: Aligned,
    /// Values of an attention; the gradient of a product's output, \[m, n\].
    pub z: Aligned,
    /// \[columns\].
    pub weight: Aligned,
    /// \[columns\].
    pub bias: Aligned,
    /// Mean of each row of y.
    pub mean: Aligned,
    /// Inverse standard deviation of each row of y.
    pub inverse_deviation: Aligned,
    /// Ids of table rows, not in order; positions.
    pub ids: Vec<u32>,
    /// Classes of rows.
    pub labels: Vec<i64>,
    /// Angles of the positions [`ids`](Self::ids).
    pub rope: Option<RopeTable>,
}

/// The rounding of f32 to a type. Row kernels have no integer types.
fn rounding(dtype: Dtype) -> fn(f32) -> f32 {
    match dtype {
        Dtype::Bf16 => |x| bf16::from_f32(x).to_f32(),
        Dtype::F16 => |x| f16::from_f32(x).to_f32(),
        _ => |x| x,
    }
}

/// Width of the heads that `rope` rotates.
pub(super) const ROPE_DIM: usize = 64;

impl Inputs {
    pub(super) fn linear([m, k, n]: [usize; 3], dtype: Dtype) -> Self {
        let mut random = Random::new(1);
        // Whole numbers of 7 bits and a sign, over 64: exact in bf16, f16 and f32. For int8, numbers stay whole and x
        // has no sign: the instructions multiply unsigned by signed bytes.
        let mut number = |signed: bool| {
            let whole =
                random.below(if signed { 255 } else { 128 }) as f32 - if signed { 127.0 } else { 0.0 };
            if dtype == Dtype::Int8 { whole } else { whole / 64.0 }
        };
        Self {
            x: Aligned::new(m * k, |_| number(dtype != Dtype::Int8)),
            y: Aligned::new(n * k, |_| number(true)),
            ..Self::default()
        }
    }

    /// As [`linear`](Self::linear), with the gradient of the output.
    pub(super) fn linear_backward([m, k, n]: [usize; 3], dtype: Dtype) -> Self {
        let mut random = Random::new(4);
        let dy = |_| (random.below(255) as f32 - 127.0) / 64.0;
        Self { z: Aligned::new(m * n, dy), ..Self::linear([m, k, n], dtype) }
    }

    pub(super) fn attention(queries: usize, keys: usize) -> Self {
        let mut random = Random::new(2);
        Self {
            x: Aligned::new(queries, |_| random.normal()),
            y: Aligned::new(keys, |_| random.normal()),
            z: Aligned::new(keys, |_| random.normal()),
            ..Self::default()
        }
    }

    pub(super) fn rows([rows, columns]: [usize; 2], dtype: Dtype) -> Self {
        let mut random = Random::new(3);
        let round = rounding(dtype);
        let [x, y] = [(); 2].map(|()| Aligned::new(rows * columns, |_| round(random.normal())));
        // Of each row: the mean, or the mean of squares around it.
        let moment = |i: usize, center: f32, power: i32| {
            let row = &y[i * columns..][..columns];
            row.iter().map(|x| (x - center).powi(power)).sum::<f32>() / columns as f32
        };
        let mean = Aligned::new(rows, |i| moment(i, 0.0, 1));
        let inverse_deviation = Aligned::new(rows, |i| 1.0 / moment(i, mean[i], 2).sqrt());
        Self {
            x,
            y,
            mean,
            inverse_deviation,
            weight: Aligned::new(columns, |_| 1.0 + 0.1 * random.normal()),
            bias: Aligned::new(columns, |_| 0.1 * random.normal()),
            // Each row occurs once: 7919 is a prime and divides no number of rows in use.
            ids: (0..rows).map(|i| (i * 7919 % rows) as u32).collect(),
            labels: (0..rows).map(|i| (i * 7919 % columns.max(1)) as i64).collect(),
            rope: columns
                .is_multiple_of(ROPE_DIM)
                .then(|| RopeTable::new(RopeLayout::HalfSplit, rows.max(1), ROPE_DIM, 1e4)),
            ..Self::default()
        }
    }
}
