//! Embedding: rows of tables, gathered and summed.
//!
//! ```text
//! y[t] = table_0[ids_0[t]] + table_1[ids_1[t]] + ..      for example word + position + type, as in BERT
//! ```
//!
//! Tables are \[entries, n\], ids \[tokens\], y \[tokens, n\]. Without lookups y is 0. NaN and infinities of a row
//! propagate to y. Devlin et al., "BERT", 2018, arXiv:1810.04805, figure 2.

mod backward;

use crate::backend::Kernel;
use crate::element::{Element, from_f64, to_f64};
use crate::error::{Error, expect_shape};
use crate::isa::Isa;
use crate::lanes::{RowSlices, map, widen, write_f32};
use crate::rows::{self, RowTask, expect_unit_rows};
use crate::view::{View, ViewMut};
pub use backward::{EmbeddingBackward, embedding_backward};

/// Table, and the row of it that each token takes.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a, T = f32> {
    /// Rows \[entries, n\].
    pub table: View<'a, 2, T>,
    /// Row of each token, \[tokens\]; each less than `entries`.
    pub ids: &'a [u32],
}

/// Sum of the rows that all lookups take for each token; zeros without lookups.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if a row is not contiguous, or an id is outside its table.
/// The error names the id, its token and the size of the table. Nothing is written then.
///
/// # Numerics
/// Sums are f32, in the order of the lookups: exact for one, rounded once for two, and in general within
/// gamma_{lookups - 1} of the sum of magnitudes. In bf16 and f16 the sum is rounded once more.
///
/// ```
/// use tilewright_kernels::{Backend, Embedding, Lookup, View, ViewMut};
/// let words = Lookup { table: View::new(&[1., 2., 3., 4.], [2, 2])?, ids: &[1, 0, 1] };
/// let positions = Lookup { table: View::new(&[10., 10., 20., 20., 30., 30.], [3, 2])?, ids: &[0, 1, 2] };
/// let mut y = [0.; 6];
/// let out = ViewMut::new(&mut y, [3, 2])?;
/// Backend::best().run(Embedding::new(&[words, positions], out))?;
/// assert_eq!(y, [13., 14., 21., 22., 33., 34.]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Embedding<'a, T = f32> {
    /// Tables and ids, summed in this order.
    pub lookups: &'a [Lookup<'a, T>],
    /// y, \[tokens, n\].
    pub out: ViewMut<'a, 2, T>,
}

impl<'a, T> Lookup<'a, T> {
    /// Row that token `t` takes.
    #[inline(always)]
    fn row(&self, t: usize) -> &'a [T] {
        self.table.row([self.ids[t] as usize, 0])
    }
}

impl<'a, T> Embedding<'a, T> {
    /// The sum of the rows that `lookups` take.
    pub fn new(lookups: &'a [Lookup<'a, T>], out: ViewMut<'a, 2, T>) -> Self {
        Self { lookups, out }
    }
}

impl<T> Embedding<'_, T> {
    fn check(&self) -> Result<(), Error> {
        let [tokens, n] = self.out.shape();
        expect_unit_rows("Embedding.out", self.out.has_unit_rows(), self.out.strides())?;
        for Lookup { table, ids } in self.lookups {
            let [entries, width] = table.shape();
            expect_unit_rows("Lookup.table", table.has_unit_rows(), table.strides())?;
            expect_shape("Lookup.table", &[entries, width], &[entries, n])?;
            expect_shape("Lookup.ids", &[ids.len()], &[tokens])?;
            check_ids("Lookup.ids", ids, entries)?;
        }
        Ok(())
    }
}

/// Returns an error if an id is outside a table of `entries`.
fn check_ids(what: &'static str, ids: &[u32], entries: usize) -> Result<(), Error> {
    match ids.iter().position(|&id| id as usize >= entries) {
        None => Ok(()),
        Some(token) => {
            let why = format!("id {} of token {token} is outside a table of {entries} entries", ids[token]);
            Err(Error::Invalid { what, why })
        }
    }
}

impl<T: Element> Kernel for Embedding<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::embedding);

    fn reference(self) -> Self::Output {
        self.check()?;
        for (t, out) in self.out.into_rows().enumerate() {
            let rows: Vec<_> = self.lookups.iter().map(|lookup| to_f64(lookup.row(t))).collect();
            from_f64(&embedding(&rows, out.len()), out);
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        rows::run(isa, TokenRows { lookups: self.lookups, start: 0, out: self.out });
        Ok(())
    }
}

/// Sum of the rows of `n` numbers that a token takes, in f64.
pub fn embedding(rows: &[Vec<f64>], n: usize) -> Vec<f64> {
    (0..n).map(|j| rows.iter().map(|row| row[j]).sum()).collect()
}

/// A checked embedding of the tokens from `start` on.
struct TokenRows<'a, T> {
    lookups: &'a [Lookup<'a, T>],
    start: usize,
    out: ViewMut<'a, 2, T>,
}

impl<T: Element> RowTask for TokenRows<'_, T> {
    fn shape(&self) -> [usize; 2] {
        self.out.shape()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let Self { lookups, start, out } = self;
        let (low, high) = out.split_at(0, mid);
        (Self { lookups, start, out: low }, Self { lookups, start: start + mid, out: high })
    }

    /// One row, for sums in f32 of several lookups of another type.
    fn memory(&self) -> usize {
        if T::f32s(&[]).is_some() || self.lookups.len() < 2 { 0 } else { self.out.shape()[1] }
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, memory: &mut [f32]) {
        for (t, out) in (self.start..).zip(self.out.into_rows()) {
            let Some((first, others)) = self.lookups.split_first() else {
                out.fill(T::default());
                continue;
            };
            if others.is_empty() {
                out.copy_from_slice(first.row(t));
                continue;
            }
            write_f32(
                isa,
                out,
                memory,
                #[inline(always)]
                |sum| {
                    widen(isa, first.row(t), sum);
                    for lookup in others {
                        map(
                            isa,
                            [&mut RowSlices::InPlace(sum)],
                            [lookup.row(t)],
                            0.0,
                            #[inline(always)]
                            |_, [sum], [term]| [sum + term],
                        );
                    }
                },
            );
        }
    }
}
