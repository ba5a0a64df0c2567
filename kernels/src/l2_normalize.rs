//! Normalisation of rows to Euclidean length 1, as of sentence embeddings (Reimers, Gurevych 2019, Sentence-BERT,
//! arXiv:1908.10084).
//!
//! ```text
//! y = x / max(sqrt(sum(x^2)), eps)
//! ```
//!
//! x and y are \[rows, n\]. A row that holds NaN is NaN. In a row that holds an infinity, infinities become NaN, and
//! finite elements 0. Without rows or columns nothing is written.

mod backward;

use crate::backend::Kernel;
use crate::element::{Element, from_f64, to_f64};
use crate::error::Error;
use crate::isa::{Isa, Vector};
use crate::lanes::{RowSlices, accumulators, read, scale, total};
use crate::residual::IN_RANGE;
use crate::rows::{self, RowTask, Rows, expect_eps};
pub use backward::{L2NormalizeBackward, l2_normalize_backward};

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
/// Backend::best().run(L2Normalize::new(Rows::InPlace(ViewMut::new(&mut x, [1, 2])?), 1e-12))?;
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

impl<'a, T> L2Normalize<'a, T> {
    /// The normalisation of `rows`.
    pub fn new(rows: Rows<'a, T>, eps: f32) -> Self {
        Self { rows, eps }
    }

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
            let y = l2_normalize(&to_f64(row.input()), self.eps.into());
            from_f64(&y, row.output());
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        rows::run(isa, self);
        Ok(())
    }
}

/// L2 normalisation of one row, in f64.
pub fn l2_normalize(x: &[f64], eps: f64) -> Vec<f64> {
    let norm = x.iter().map(|x| x.powi(2)).sum::<f64>().sqrt();
    // `max` would ignore a norm of NaN.
    let divisor = if norm < eps { eps } else { norm };
    x.iter().map(|x| x / divisor).collect()
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
            scale(isa, &mut row, 1.0 / square.sqrt().max(self.eps));
        }
    }
}
