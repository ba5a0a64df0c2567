//! Pooling over packed sequences: sentence embeddings from token states (Reimers, Gurevych 2019, Sentence-BERT,
//! arXiv:1908.10084).
//!
//! ```text
//! y[s] = mean of x[offsets[s]..offsets[s + 1]], or its first row (CLS)
//! ```
//!
//! x is \[tokens, n\], y \[sequences, n\]. An empty sequence is 0. NaN and infinities of the rows of a sequence
//! propagate.

mod backward;

use crate::backend::Kernel;
use crate::element::{Element, from_f64, to_f64};
use crate::error::{Error, expect_shape};
use crate::isa::{Isa, Vector};
use crate::lanes::{NONE, RowSlices, map, widen, write_f32};
use crate::rows::{self, RowTask, expect_unit_rows};
use crate::view::{View, ViewMut};
pub use backward::{PoolBackward, pool_backward};

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
/// use tilewright_kernels::{Backend, Pool, View, ViewMut};
/// let x = [1., 2., 3., 4., 5., 6.]; // two tokens, then one
/// let mut y = [0.; 4];
/// Backend::best().run(Pool::new(View::new(&x, [3, 2])?, &[0, 2, 3], ViewMut::new(&mut y, [2, 2])?))?;
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

impl<'a, T> Pool<'a, T> {
    /// Means of the sequences.
    pub fn new(x: View<'a, 2, T>, offsets: &'a [usize], out: ViewMut<'a, 2, T>) -> Self {
        Self { x, offsets, pooling: Pooling::Mean, out }
    }
}

impl<T> Pool<'_, T> {
    fn check(&self) -> Result<(), Error> {
        let ([tokens, n], [sequences, _]) = (self.x.shape(), self.out.shape());
        expect_unit_rows("Pool.x", self.x.has_unit_rows(), self.x.strides())?;
        expect_unit_rows("Pool.out", self.out.has_unit_rows(), self.out.strides())?;
        expect_shape("Pool.out", &self.out.shape(), &[sequences, n])?;
        expect_shape("Pool.offsets", &[self.offsets.len()], &[sequences.saturating_add(1)])?;
        check_offsets("Pool.offsets", self.offsets, tokens)
    }
}

/// Returns an error unless the offsets rise from 0 to `tokens`.
fn check_offsets(what: &'static str, offsets: &[usize], tokens: usize) -> Result<(), Error> {
    if offsets.is_sorted() && offsets.first() == Some(&0) && offsets.last() == Some(&tokens) {
        return Ok(());
    }
    let why = format!("expected offsets that rise from 0 to {tokens}, found {offsets:?}");
    Err(Error::Invalid { what, why })
}

impl<T: Element> Kernel for Pool<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::pool);

    fn reference(self) -> Self::Output {
        self.check()?;
        for (pair, out) in self.offsets.windows(2).zip(self.out.into_rows()) {
            let rows = (pair[0]..pair[1]).flat_map(|t| to_f64(self.x.row([t, 0])));
            from_f64(&pool(&rows.collect::<Vec<_>>(), out.len(), self.pooling), out);
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        rows::run(isa, self);
        Ok(())
    }
}

/// Pools one sequence of rows of `n` numbers, in f64.
pub fn pool(rows: &[f64], n: usize, pooling: Pooling) -> Vec<f64> {
    let mut sum = vec![0.0; n];
    if n == 0 || rows.is_empty() {
        return sum;
    }
    if pooling == Pooling::Cls {
        return rows[..n].to_vec();
    }
    for row in rows.chunks_exact(n) {
        sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    let length = (rows.len() / n) as f64;
    sum.into_iter().map(|sum| sum / length).collect()
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
