//! Layer normalisation of rows (Ba, Kiros, Hinton 2016, arXiv:1607.06450).
//!
//! ```text
//! y = (x - mean) / sqrt(var + eps) * weight + bias,  mean = sum(x) / n,  var = sum((x - mean)^2) / n
//! ```
//!
//! x, y and residual are \[rows, n\]; weight and bias \[n\]. A row that holds NaN or an infinity is NaN. Without rows
//! or columns nothing is written.
//!
//! `sum(x^2) / n - mean^2` loses all digits if the mean is large against sigma, so the row is centred first. It is
//! centred on a pivot, the mean of its first elements, which takes no pass of its own:
//!
//! ```text
//! p = mean of the first 64 elements
//! pass 1   d = sum(x - p) / n,  s = sum((x - p)^2) / n         mean = p + d, var = s - d^2
//!          if d^2 > s / 4: p += d, and pass 1 again            first elements differ from the others
//! pass 2   y = ((x - p) r - d r) weight + bias,  r = 1 / sqrt(s - d^2 + eps)
//! ```
//!
//! This is the corrected two-pass algorithm of Chan, Golub and LeVeque (The American Statistician 37, 1983): d removes
//! the error of the pivot. With d^2 <= s / 4 the difference s - d^2 loses at most a factor of 4/3, so the error does
//! not grow with mean / sigma.
//!
//! Pass 1 of each row runs within pass 2 of the row before. Pass 2 waits for stores, and pass 1 for its sums; together
//! they take hardly longer than pass 2 alone.

mod backward;

use crate::backend::Kernel;
use crate::element::{Element, from_f64, to_f64};
use crate::error::Error;
use crate::isa::{Isa, Vector};
use crate::lanes::{GROUPS, RowSlices, accumulators, map_with, read, sum, total};
use crate::residual::{IN_RANGE, NormInput};
use crate::rows::{self, PerRow, RowTask, Rows, expect_columns, expect_eps};
use crate::scratch;
use crate::view::ViewMut;
pub use backward::{LayerNormBackward, layer_norm_backward};

/// y = (x - mean) / sqrt(variance + eps) * weight + bias, for each row.
///
/// With a `residual`, the kernel first computes residual += x, rounds it once to its type and stores it. y then
/// normalises the stored residual instead of x.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if a row is not contiguous or `eps` is
/// negative or NaN.
///
/// # Numerics
/// With u = 2^-24 and z = y before weight and bias, the error of y is at most
/// u ((n / 10 + 24) (1 + |z|) |weight| + 2 |y| + 2 |bias|), whatever the ratio of mean to sigma.
/// A row that holds NaN or an infinity is NaN.
/// The mean errs by at most u (|mean| + (n / 13 + 12) sigma), the inverse deviation by (n / 20 + 16) u of itself.
///
/// ```
/// use tilewright_kernels::{Backend, LayerNorm, Rows, View, ViewMut};
/// let (x, mut y, mut mean) = ([1., 3., 10., 30.], [0.; 4], [0.; 2]);
/// let rows = Rows::Into(View::new(&x, [2, 2])?, ViewMut::new(&mut y, [2, 2])?);
/// let norm = LayerNorm { bias: Some(&[0., 5.]), mean: Some(&mut mean), ..LayerNorm::new(rows, 0.) };
/// Backend::best().run(norm)?;
/// assert_eq!((y, mean), ([-1., 6., -1., 6.], [2., 20.]));
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct LayerNorm<'a, T = f32> {
    /// x and y, \[rows, n\].
    pub rows: Rows<'a, T>,
    /// Residual \[rows, n\], replaced by residual + x, which is then normalised.
    pub residual: Option<ViewMut<'a, 2, T>>,
    /// Weight \[n\]; ones if `None`.
    pub weight: Option<&'a [f32]>,
    /// Bias \[n\]; zeros if `None`.
    pub bias: Option<&'a [f32]>,
    /// Added to the variance.
    pub eps: f32,
    /// Mean of each row, if wanted: \[rows\].
    pub mean: Option<&'a mut [f32]>,
    /// 1 / sqrt(variance + eps) of each row, if wanted: \[rows\].
    pub inverse_deviation: Option<&'a mut [f32]>,
}

impl<'a, T> LayerNorm<'a, T> {
    /// The norm of `rows` alone: no residual, weight, bias or output but y.
    pub fn new(rows: Rows<'a, T>, eps: f32) -> Self {
        Self { rows, residual: None, weight: None, bias: None, eps, mean: None, inverse_deviation: None }
    }
}

/// Elements whose mean is the pivot. One step of the widest vectors sums them, and they are enough that an outlier
/// among them seldom moves the pivot by half a sigma.
const PIVOT: usize = 64;

impl<T: Element> Kernel for LayerNorm<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::layer_norm);

    fn reference(self) -> Self::Output {
        let Self { rows, residual, weight, bias, eps, mean, inverse_deviation } = self;
        let input = NormInput { rows, residual };
        let mut statistics = Statistics { mean: PerRow(mean), inverse_deviation: PerRow(inverse_deviation) };
        let [_, n] = check(&input, weight, bias, eps, &statistics)?;
        let (weight, bias) = (weight.map(to_f64), bias.map(to_f64));
        for (i, mut row) in input.define().enumerate().filter(|_| n > 0) {
            let x = to_f64(row.input());
            let (y, mean, r) = layer_norm(&x, weight.as_deref(), bias.as_deref(), eps.into());
            from_f64(&y, row.output());
            statistics.set(i, mean as f32, r as f32);
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        let Self { rows, residual, weight, bias, eps, mean, inverse_deviation } = self;
        let input = NormInput { rows, residual };
        let statistics = Statistics { mean: PerRow(mean), inverse_deviation: PerRow(inverse_deviation) };
        let [rows, n] = check(&input, weight, bias, eps, &statistics)?;
        if rows == 0 {
            return Ok(());
        }
        // Ones and zeros replace an absent weight and bias: their loads are free beside the stores.
        scratch::with(2 * n, |spare| {
            let (ones, zeros) = spare.split_at_mut(n);
            let weight = weight.unwrap_or_else(|| {
                ones.fill(1.0);
                ones
            });
            let bias = bias.unwrap_or_else(|| {
                zeros.fill(0.0);
                zeros
            });
            rows::run(isa, Affine { input, weight, bias, eps, statistics });
        });
        Ok(())
    }
}

fn check<T: Element>(
    input: &NormInput<'_, T>,
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
    statistics: &Statistics<'_>,
) -> Result<[usize; 2], Error> {
    let shape = input.check("LayerNorm.rows", "LayerNorm.residual")?;
    expect_columns("LayerNorm.weight", weight, shape[1])?;
    expect_columns("LayerNorm.bias", bias, shape[1])?;
    expect_eps("LayerNorm.eps", eps)?;
    statistics.mean.check("LayerNorm.mean", shape[0])?;
    statistics.inverse_deviation.check("LayerNorm.inverse_deviation", shape[0])?;
    Ok(shape)
}

/// Layer norm of one row, in f64: y, the mean, and 1 / sqrt(variance + eps).
pub fn layer_norm(x: &[f64], weight: Option<&[f64]>, bias: Option<&[f64]>, eps: f64) -> (Vec<f64>, f64, f64) {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    let sigma = (variance + eps).sqrt();
    let y = |(j, x): (usize, &f64)| {
        (x - mean) / sigma * weight.map_or(1.0, |w| w[j]) + bias.map_or(0.0, |b| b[j])
    };
    (x.iter().enumerate().map(y).collect(), mean, 1.0 / sigma)
}

/// Optional outputs for each row.
struct Statistics<'a> {
    mean: PerRow<'a>,
    inverse_deviation: PerRow<'a>,
}

impl Statistics<'_> {
    fn split_at(self, mid: usize) -> (Self, Self) {
        let (low, high) = self.mean.split_at(mid);
        let (low_inverse, high_inverse) = self.inverse_deviation.split_at(mid);
        (
            Self { mean: low, inverse_deviation: low_inverse },
            Self { mean: high, inverse_deviation: high_inverse },
        )
    }

    #[inline(always)]
    fn set(&mut self, i: usize, mean: f32, inverse_deviation: f32) {
        self.mean.set(i, mean);
        self.inverse_deviation.set(i, inverse_deviation);
    }
}

/// A checked layer norm with all its parameters.
struct Affine<'a, T> {
    input: NormInput<'a, T>,
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    statistics: Statistics<'a>,
}

impl<T: Element> RowTask for Affine<'_, T> {
    fn shape(&self) -> [usize; 2] {
        self.input.rows.shape()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let Self { input, statistics, .. } = self;
        let (low, high) = input.split_at(mid);
        let (low_statistics, high_statistics) = statistics.split_at(mid);
        (
            Self { input: low, statistics: low_statistics, ..self },
            Self { input: high, statistics: high_statistics, ..self },
        )
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        let Self { input, weight, bias, eps, mut statistics } = self;
        let mut rows = input.into_iter(isa);
        let Some(mut row) = rows.next() else { return };
        let mut moments = Moments::of(isa, row.input(), pivot(isa, row.input()));
        for i in 0.. {
            let next = rows.next();
            // After the last row, the weight serves as the next row: it has the same length.
            let next_input = next.as_ref().map_or(T::stand_in(weight), RowSlices::input);
            moments = moments.centred(isa, row.input());
            let square = moments.variance() + eps;
            moments = if IN_RANGE.contains(&square) {
                let r = 1.0 / square.sqrt();
                statistics.set(i, moments.pivot + moments.mean, r);
                write(isa, &mut row, weight, bias, moments, r, next_input)
            } else {
                let (mean, r) = normalize_wide(&mut row, weight, bias, eps);
                statistics.set(i, mean, r);
                Moments::of(isa, next_input, pivot(isa, next_input))
            };
            match next {
                Some(next) => row = next,
                None => return,
            }
        }
    }
}

/// Normalises a row whose moments leave the range of f32, in f64, in which squares of f32 neither overflow nor underflow.
/// Returns the mean and the inverse deviation.
#[cold]
#[inline(never)]
fn normalize_wide<T: Element>(
    row: &mut RowSlices<'_, T>,
    weight: &[f32],
    bias: &[f32],
    eps: f32,
) -> (f32, f32) {
    let n = weight.len() as f64;
    let wide = |x: &T| f64::from(x.to_f32());
    let mean = row.input().iter().map(wide).sum::<f64>() / n;
    let squares: f64 = row.input().iter().map(|x| (wide(x) - mean).powi(2)).sum();
    let r = (squares / n + f64::from(eps)).sqrt().recip();
    for (j, (weight, bias)) in weight.iter().zip(bias).enumerate() {
        let z = (wide(&row.input()[j]) - mean) * r;
        row.output()[j] = T::from_f32(z.mul_add(f64::from(*weight), f64::from(*bias)) as f32);
    }
    (mean as f32, r as f32)
}

/// Mean of the first elements.
#[inline(always)]
fn pivot<I: Isa, T: Element>(isa: I, x: &[T]) -> f32 {
    let first = &x[..x.len().min(PIVOT)];
    let sum = sum(
        isa,
        first,
        0.0,
        #[inline(always)]
        |x| x,
    );
    sum / first.len() as f32
}

/// Moments of a row around its pivot.
#[derive(Clone, Copy)]
struct Moments {
    /// p.
    pivot: f32,
    /// d, the mean of x - p.
    mean: f32,
    /// s, the mean of (x - p)^2.
    square: f32,
}

impl Moments {
    /// Pass 1 alone.
    #[inline(always)]
    fn of<I: Isa, T: Element>(isa: I, x: &[T], pivot: f32) -> Self {
        let mut sums = MomentSums::new(isa, pivot);
        read(
            isa,
            [x],
            pivot,
            #[inline(always)]
            |g, [x]| sums.add(g, x),
        );
        sums.moments(x.len())
    }

    /// Moments around the mean, if d^2 > s / 4; else `self`.
    #[inline(always)]
    fn centred<I: Isa, T: Element>(self, isa: I, x: &[T]) -> Self {
        if 4.0 * self.mean * self.mean <= self.square {
            return self;
        }
        Self::of(isa, x, self.pivot + self.mean)
    }

    /// s - d^2. Rounding could make it negative if all elements are equal, so it is at least 0. NaN if x holds an
    /// infinity.
    #[inline(always)]
    fn variance(self) -> f32 {
        let variance = self.square - self.mean * self.mean;
        // `max` would turn NaN into 0.
        if variance < 0.0 { 0.0 } else { variance }
    }
}

/// Running sums of pass 1.
struct MomentSums<I: Isa> {
    pivot: f32,
    center: I::V,
    sums: [I::V; GROUPS],
    squares: [I::V; GROUPS],
}

impl<I: Isa> MomentSums<I> {
    #[inline(always)]
    fn new(isa: I, pivot: f32) -> Self {
        let zero = accumulators(isa, 0.0);
        Self { pivot, center: I::V::splat(isa, pivot), sums: zero, squares: zero }
    }

    #[inline(always)]
    fn add(&mut self, group: usize, x: I::V) {
        let c = x - self.center;
        self.sums[group] = self.sums[group] + c;
        self.squares[group] = c.mul_add(c, self.squares[group]);
    }

    #[inline(always)]
    fn moments(self, n: usize) -> Moments {
        let n = n as f32;
        Moments { pivot: self.pivot, mean: total::<I>(self.sums) / n, square: total::<I>(self.squares) / n }
    }
}

/// Pass 2 of `row` together with pass 1 of `next`.
#[inline(always)]
fn write<I: Isa, T: Element>(
    isa: I,
    row: &mut RowSlices<'_, T>,
    weight: &[f32],
    bias: &[f32],
    moments: Moments,
    r: f32,
    next: &[T],
) -> Moments {
    let center = I::V::splat(isa, moments.pivot);
    let (scale, shift) = (I::V::splat(isa, r), I::V::splat(isa, -moments.mean * r));
    let pivot = pivot(isa, next);
    let mut sums = MomentSums::new(isa, pivot);
    map_with(
        isa,
        [row],
        [weight, bias],
        [next],
        // Lanes past the end only enter the sums: the pivot there adds 0 to them.
        pivot,
        #[inline(always)]
        |g, [x], [weight, bias], [next]| {
            sums.add(g, next);
            [(x - center).mul_add(scale, shift).mul_add(weight, bias)]
        },
    );
    sums.moments(next.len())
}
