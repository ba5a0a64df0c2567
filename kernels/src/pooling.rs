//! Sentence embeddings from token states (Reimers, Gurevych 2019, Sentence-BERT, arXiv:1908.10084): pooling over packed
//! sequences, and L2 normalisation.
//!
//! ```text
//! Pool         y[s] = mean of x[offsets[s]..offsets[s + 1]], or its first row (CLS)
//! L2Normalize  y = x / max(sqrt(sum(x^2)), eps)
//! ```
//!
//! `Pool` reads x \[tokens, n\] and writes y \[sequences, n\]; an empty sequence is 0, and NaN and infinities of its
//! rows propagate. `L2Normalize` reads and writes \[rows, n\]. A row that holds NaN is NaN; in a row that holds an
//! infinity, infinities become NaN, and finite elements 0.

use crate::backend::Kernel;
use crate::element::Element;
use crate::error::{Error, expect_shape};
use crate::isa::{Isa, Vector};
use crate::lanes::{NONE, RowSlices, accumulators, map, read, total, widen, write_f32};
use crate::residual::IN_RANGE;
use crate::rows::{self, RowTask, Rows, expect_eps, expect_unit_rows};
use crate::view::{View, ViewMut};

/// Row that represents a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Mean of the rows of the sequence.
    Mean,
    /// First row of the sequence, where BERT has \[CLS\].
    Cls,
}

/// Pools the rows of each packed sequence into one row; an empty sequence becomes zeros.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ or the number of offsets is not sequences + 1; [`Error::Invalid`] if a row is
/// not contiguous, or the offsets do not rise from 0 to the number of tokens.
///
/// # Numerics
/// `Cls` copies. `Mean` sums each column in f32 from the first row on, and errs by at most gamma_{length + 1} of the
/// mean magnitude. In bf16 and f16 the mean is rounded once more.
///
/// ```
/// use tilewright_kernels::{Backend, Pool, Pooling, View, ViewMut};
/// let x = [1., 2., 3., 4., 5., 6.]; // two tokens, then one
/// let mut y = [0.; 4];
/// Backend::best().run(Pool {
///     x: View::new(&x, [3, 2])?,
///     offsets: &[0, 2, 3],
///     pooling: Pooling::Mean,
///     out: ViewMut::new(&mut y, [2, 2])?,
/// })?;
/// assert_eq!(y, [2., 3., 5., 6.]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Pool<'a, T = f32> {
    /// Token states \[tokens, n\], sequence after sequence.
    pub x: View<'a, 2, T>,
    /// \[sequences + 1\]: sequence s has the rows `offsets[s]..offsets[s + 1]` of x.
    pub offsets: &'a [usize],
    /// Row that represents a sequence.
    pub pooling: Pooling,
    /// y, \[sequences, n\].
    pub out: ViewMut<'a, 2, T>,
}

/// y = x / max(|x|, eps) with the Euclidean norm |x|, for each row.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if a row is not contiguous or `eps` is
/// negative or NaN.
///
/// # Numerics
/// The error of y is at most (n / 32 + 10) u |y|, u = 2^-24. A row of zeros stays zero if eps > 0. A row that holds NaN
/// is NaN. In a row that holds an infinity, infinities become NaN, and finite elements 0.
///
/// ```
/// use tilewright_kernels::{Backend, L2Normalize, Rows, ViewMut};
/// let mut x = [3., 4.];
/// Backend::best().run(L2Normalize { rows: Rows::InPlace(ViewMut::new(&mut x, [1, 2])?), eps: 1e-12 })?;
/// assert_eq!(x, [0.6, 0.8]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct L2Normalize<'a, T = f32> {
    /// x and y, \[rows, n\].
    pub rows: Rows<'a, T>,
    /// Least divisor.
    pub eps: f32,
}

impl<T> Pool<'_, T> {
    fn check(&self) -> Result<(), Error> {
        let ([tokens, n], [sequences, _]) = (self.x.shape(), self.out.shape());
        expect_unit_rows("Pool.x", self.x.has_unit_rows(), self.x.strides())?;
        expect_unit_rows("Pool.out", self.out.has_unit_rows(), self.out.strides())?;
        expect_shape("Pool.out", &self.out.shape(), &[sequences, n])?;
        expect_shape("Pool.offsets", &[self.offsets.len()], &[sequences.saturating_add(1)])?;
        let rising = self.offsets.is_sorted();
        if rising && self.offsets[0] == 0 && self.offsets[sequences] == tokens {
            return Ok(());
        }
        let why = format!("expected offsets that rise from 0 to {tokens}, found {:?}", self.offsets);
        Err(Error::Invalid { what: "Pool.offsets", why })
    }
}

impl<T: Element> Kernel for Pool<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::pool);

    fn reference(mut self) -> Self::Output {
        self.check()?;
        for (s, pair) in self.offsets.windows(2).enumerate() {
            for j in 0..self.x.shape()[1] {
                let column = (pair[0]..pair[1]).map(|t| self.x.get([t, j]));
                let y = match self.pooling {
                    _ if pair[0] == pair[1] => T::default(),
                    Pooling::Mean => {
                        let sum: f64 = column.map(|x| f64::from(x.to_f32())).sum();
                        T::from_f32((sum / (pair[1] - pair[0]) as f64) as f32)
                    }
                    Pooling::Cls => self.x.get([pair[0], j]),
                };
                self.out.set([s, j], y);
            }
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        rows::run(isa, self);
        Ok(())
    }
}

impl<T: Element> RowTask for Pool<'_, T> {
    /// Sequences, and the mean number of elements that a sequence reads: reads are the work, not writes.
    fn shape(&self) -> [usize; 2] {
        let [sequences, n] = self.out.shape();
        let tokens = match self.pooling {
            Pooling::Mean => self.offsets[sequences] - self.offsets[0],
            Pooling::Cls => sequences,
        };
        // Empty sequences are written as well, so the work is never 0.
        [sequences, n * tokens.div_ceil(sequences.max(1)).max(1)]
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let (low, high) = self.out.split_at(0, mid);
        let (low_offsets, high_offsets) = (&self.offsets[..=mid], &self.offsets[mid..]);
        (Self { offsets: low_offsets, out: low, ..self }, Self { offsets: high_offsets, out: high, ..self })
    }

    /// One row, for sums in f32 of another type.
    fn memory(&self) -> usize {
        if T::f32s(&[]).is_some() || self.pooling == Pooling::Cls { 0 } else { self.out.shape()[1] }
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, memory: &mut [f32]) {
        for (pair, out) in self.offsets.windows(2).zip(self.out.into_rows()) {
            if pair[0] == pair[1] {
                out.fill(T::default());
                continue;
            }
            let first = self.x.row([pair[0], 0]);
            if self.pooling == Pooling::Cls {
                out.copy_from_slice(first);
                continue;
            }
            write_f32(
                isa,
                out,
                memory,
                #[inline(always)]
                |out| {
                    widen(isa, first, out);
                    let out = &mut RowSlices::InPlace(out);
                    for t in pair[0] + 1..pair[1] {
                        map(
                            isa,
                            [&mut *out],
                            [self.x.row([t, 0])],
                            0.0,
                            #[inline(always)]
                            |_, [sum], [x]| [sum + x],
                        );
                    }
                    let length = I::V::splat(isa, (pair[1] - pair[0]) as f32);
                    map(
                        isa,
                        [out],
                        NONE,
                        0.0,
                        #[inline(always)]
                        |_, [sum], []| [sum / length],
                    );
                },
            );
        }
    }
}

impl<T> L2Normalize<'_, T> {
    fn check(&self) -> Result<(), Error> {
        self.rows.check("L2Normalize.rows")?;
        expect_eps("L2Normalize.eps", self.eps)
    }
}

impl<T: Element> Kernel for L2Normalize<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::l2_normalize);

    fn reference(self) -> Self::Output {
        self.check()?;
        for mut row in self.rows.into_iter() {
            define(&mut row, self.eps);
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        rows::run(isa, self);
        Ok(())
    }
}

/// Definition for one row.
fn define<T: Element>(row: &mut RowSlices<'_, T>, eps: f32) {
    let norm = row.input().iter().map(|x| f64::from(x.to_f32()).powi(2)).sum::<f64>().sqrt();
    // `max` would ignore a norm of NaN.
    let divisor = if norm < f64::from(eps) { f64::from(eps) } else { norm };
    for j in 0..row.input().len() {
        row.output()[j] = T::from_f32((f64::from(row.input()[j].to_f32()) / divisor) as f32);
    }
}

/// Normalises a row whose sum of squares leaves the range of f32, by its norm in f64, in which squares of f32 neither
/// overflow nor underflow.
#[cold]
#[inline(never)]
fn normalize_wide<T: Element>(row: &mut RowSlices<'_, T>, eps: f32) {
    let mut squares = 0.0f64;
    for x in row.input() {
        let x = f64::from(x.to_f32());
        squares = x.mul_add(x, squares);
    }
    let least = f64::from(eps) * f64::from(eps);
    // `max` would ignore a sum of NaN.
    let squares = if squares < least { least } else { squares };
    let norm = squares.sqrt();
    for j in 0..row.input().len() {
        row.output()[j] = T::from_f32((f64::from(row.input()[j].to_f32()) / norm) as f32);
    }
}

impl<T: Element> RowTask for L2Normalize<'_, T> {
    fn shape(&self) -> [usize; 2] {
        self.rows.shape()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let (low, high) = self.rows.split_at(mid);
        (Self { rows: low, ..self }, Self { rows: high, ..self })
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        for mut row in self.rows.into_iter() {
            let mut acc = accumulators(isa, 0.0);
            read(
                isa,
                [row.input()],
                0.0,
                #[inline(always)]
                |g, [x]| acc[g] = x.mul_add(x, acc[g]),
            );
            let square = total::<I>(acc);
            if !IN_RANGE.contains(&square) {
                normalize_wide(&mut row, self.eps);
                continue;
            }
            let factor = I::V::splat(isa, 1.0 / square.sqrt().max(self.eps));
            map(
                isa,
                [&mut row],
                NONE,
                0.0,
                #[inline(always)]
                |_, [x], []| [x * factor],
            );
        }
    }
}
