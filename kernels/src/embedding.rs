//! Embeddings: rows of tables, gathered and summed.
//!
//! ```text
//! y[t] = table_0[ids_0[t]] + table_1[ids_1[t]] + ..      word + position + type, for example
//! ```

use crate::backend::Kernel;
use crate::error::{Error, expect_shape};
use crate::isa::Isa;
use crate::isa::lanes::{Row, map};
use crate::rows::{self, RowKernel, expect_unit_rows};
use crate::view::{View, ViewMut};

/// One table and which of its rows to take.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    /// \[entries, n\].
    pub table: View<'a, 2>,
    /// \[tokens\], each less than `entries`.
    pub ids: &'a [u32],
}

/// The sum over all lookups of the row that each names for a token; zeros if there is no lookup.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if a row is not contiguous, or an id is
/// not in its table: the id, its token, and the table's size are named, and nothing was written.
///
/// # Numerics
/// Summed in the order of the lookups: exact for one, rounded once for two, and in general within
/// gamma_{lookups - 1} of the sum of magnitudes.
///
/// ```
/// use tilewright_kernels::{Backend, Embedding, Lookup, View, ViewMut};
/// let words = Lookup { table: View::new(&[1., 2., 3., 4.], [2, 2])?, ids: &[1, 0, 1] };
/// let positions = Lookup { table: View::new(&[10., 10., 20., 20., 30., 30.], [3, 2])?, ids: &[0, 1, 2] };
/// let mut y = [0.; 6];
/// let out = ViewMut::new(&mut y, [3, 2])?;
/// Backend::best().run(Embedding { lookups: &[words, positions], out })?;
/// assert_eq!(y, [13., 14., 21., 22., 33., 34.]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Embedding<'a> {
    /// What is summed.
    pub lookups: &'a [Lookup<'a>],
    /// \[tokens, n\].
    pub out: ViewMut<'a, 2>,
}

impl<'a> Lookup<'a> {
    /// What token `t` looks up.
    #[inline(always)]
    fn row(&self, t: usize) -> &'a [f32] {
        self.table.row([self.ids[t] as usize, 0])
    }
}

impl Embedding<'_> {
    fn check(&self) -> Result<(), Error> {
        let [tokens, n] = self.out.shape();
        expect_unit_rows("Embedding.out", self.out.has_unit_rows(), self.out.strides())?;
        for Lookup { table, ids } in self.lookups {
            let [entries, width] = table.shape();
            expect_unit_rows("Lookup.table", table.has_unit_rows(), table.strides())?;
            expect_shape("Lookup.table", &[entries, width], &[entries, n])?;
            expect_shape("Lookup.ids", &[ids.len()], &[tokens])?;
            if let Some(token) = ids.iter().position(|&id| id as usize >= entries) {
                return Err(Error::Invalid {
                    what: "Lookup.ids",
                    why: format!(
                        "id {} of token {token} is outside a table of {entries} entries",
                        ids[token]
                    ),
                });
            }
        }
        Ok(())
    }
}

impl Kernel for Embedding<'_> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!();

    fn reference(mut self) -> Self::Output {
        self.check()?;
        let [tokens, n] = self.out.shape();
        for t in 0..tokens {
            for j in 0..n {
                let terms = self.lookups.iter().map(|l| f64::from(l.table.get([l.ids[t] as usize, j])));
                self.out.set([t, j], terms.sum::<f64>() as f32);
            }
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        rows::run(isa, Tokens { lookups: self.lookups, start: 0, out: self.out });
        Ok(())
    }
}

/// A checked embedding of the tokens from `start` on.
struct Tokens<'a> {
    lookups: &'a [Lookup<'a>],
    start: usize,
    out: ViewMut<'a, 2>,
}

impl RowKernel for Tokens<'_> {
    fn shape(&self) -> [usize; 2] {
        self.out.shape()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let Self { lookups, start, out } = self;
        let (low, high) = out.split_at(0, mid);
        (Self { lookups, start, out: low }, Self { lookups, start: start + mid, out: high })
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (t, out) in (self.start..).zip(self.out.into_rows()) {
            let Some((first, others)) = self.lookups.split_first() else {
                out.fill(0.0);
                continue;
            };
            out.copy_from_slice(first.row(t));
            for lookup in others {
                map(
                    isa,
                    [&mut Row::InPlace(out)],
                    [lookup.row(t)],
                    0.0,
                    #[inline(always)]
                    |_, [sum], [term]| [sum + term],
                );
            }
        }
    }
}
