//! Gradient of pooling.
//!
//! ```text
//! mean   dx[t] = dy[s] / length of s          for each token t of sequence s
//! CLS    dx[t] = dy[s], t the first token of s; 0 for the others
//! ```

use super::{Pooling, check_offsets};
use crate::backend::Kernel;
use crate::element::{Element, from_f64, to_f64};
use crate::error::{Error, expect_shape};
use crate::isa::{Isa, Vector};
use crate::lanes::{NONE, RowSlices, map};
use crate::rows::{self, RowTask, expect_unit_rows};
use crate::view::{View, ViewMut};

/// Gradient of [`Pool`](crate::Pool): each row of dy, shared out to the rows of its sequence.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ or the number of offsets is not sequences + 1; [`Error::Invalid`] if a row is
/// not contiguous, or the offsets do not rise from 0 to the number of tokens.
///
/// # Numerics
/// A quotient is rounded once to f32, and in bf16 and f16 once more. NaN and infinities propagate, and the gradient of an
/// empty sequence is dropped.
///
/// ```
/// use tilewright_kernels::{Backend, PoolBackward, View, ViewMut};
/// let (dy, mut dx) = ([4., 8.], [0.; 3]); // two tokens, then one
/// let out = ViewMut::new(&mut dx, [3, 1])?;
/// Backend::best().run(PoolBackward::new(View::new(&dy, [2, 1])?, &[0, 2, 3], out))?;
/// assert_eq!(dx, [2., 2., 8.]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct PoolBackward<'a, T = f32> {
    /// \[sequences, n\].
    pub dy: View<'a, 2, T>,
    /// \[sequences + 1\]: sequence s has the rows `offsets[s]..offsets[s + 1]` of dx.
    pub offsets: &'a [usize],
    /// Row that represents a sequence in the forward.
    pub pooling: Pooling,
    /// dx, \[tokens, n\].
    pub out: ViewMut<'a, 2, T>,
}

impl<'a, T> PoolBackward<'a, T> {
    /// Gradient of the means of the sequences.
    pub fn new(dy: View<'a, 2, T>, offsets: &'a [usize], out: ViewMut<'a, 2, T>) -> Self {
        Self { dy, offsets, pooling: Pooling::Mean, out }
    }

    fn check(&self) -> Result<(), Error> {
        let ([sequences, n], [tokens, _]) = (self.dy.shape(), self.out.shape());
        expect_unit_rows("PoolBackward.dy", self.dy.has_unit_rows(), self.dy.strides())?;
        expect_unit_rows("PoolBackward.out", self.out.has_unit_rows(), self.out.strides())?;
        expect_shape("PoolBackward.out", &self.out.shape(), &[tokens, n])?;
        expect_shape("PoolBackward.offsets", &[self.offsets.len()], &[sequences.saturating_add(1)])?;
        check_offsets("PoolBackward.offsets", self.offsets, tokens)
    }
}

impl<T: Element> Kernel for PoolBackward<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::pool_backward);

    fn reference(self) -> Self::Output {
        self.check()?;
        let mut out = self.out.into_rows();
        for (s, pair) in self.offsets.windows(2).enumerate() {
            let dy = to_f64(self.dy.row([s, 0]));
            let dx = pool_backward(&dy, pair[1] - pair[0], self.pooling);
            for (t, out) in (0..pair[1] - pair[0]).zip(&mut out) {
                from_f64(&dx[t * dy.len()..][..dy.len()], out);
            }
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        rows::run(
            isa,
            TokenGradients {
                dy: self.dy,
                offsets: self.offsets,
                pooling: self.pooling,
                start: 0,
                out: self.out,
            },
        );
        Ok(())
    }
}

/// Gradient of one pooled sequence of `length` rows, in f64.
pub fn pool_backward(dy: &[f64], length: usize, pooling: Pooling) -> Vec<f64> {
    let share = |t: usize, dy: f64| match pooling {
        Pooling::Mean => dy / length as f64,
        Pooling::Cls if t == 0 => dy,
        Pooling::Cls => 0.0,
    };
    (0..length).flat_map(|t| dy.iter().map(move |&dy| share(t, dy))).collect()
}

/// A checked gradient of the tokens from `start` on.
struct TokenGradients<'a, T> {
    dy: View<'a, 2, T>,
    offsets: &'a [usize],
    pooling: Pooling,
    start: usize,
    out: ViewMut<'a, 2, T>,
}

impl<T: Element> RowTask for TokenGradients<'_, T> {
    fn shape(&self) -> [usize; 2] {
        self.out.shape()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let (low, high) = self.out.split_at(0, mid);
        (Self { out: low, ..self }, Self { out: high, start: self.start + mid, ..self })
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        let Self { dy, offsets, pooling, start, out } = self;
        // Sequence of the first token: the last that starts at or before it, behind empty ones.
        let mut s = offsets.partition_point(|&offset| offset <= start) - 1;
        let mut before: &[T] = &[];
        for (t, out) in (start..).zip(out.into_rows()) {
            let mut first = t == start;
            while offsets[s + 1] <= t {
                s += 1;
                first = true;
            }
            let dy = dy.row([s, 0]);
            match pooling {
                // Rows of a sequence are equal: a copy costs no divisions.
                Pooling::Mean if !first => out.copy_from_slice(before),
                Pooling::Mean => {
                    let length = I::V::splat(isa, (offsets[s + 1] - offsets[s]) as f32);
                    map(
                        isa,
                        [&mut RowSlices::Into(dy, out)],
                        NONE,
                        0.0,
                        #[inline(always)]
                        |_, [dy], []| [dy / length],
                    );
                }
                Pooling::Cls if t == offsets[s] => out.copy_from_slice(dy),
                Pooling::Cls => out.fill(T::default()),
            }
            before = out;
        }
    }
}
