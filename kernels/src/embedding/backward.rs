//! Gradient of one lookup of an embedding: a scatter-add.
//!
//! ```text
//! dtable[ids[t]] += dy[t]      for t = 0, 1, ..
//! ```
//!
//! Threads share the columns, not the tokens: every entry then receives its tokens in ascending order, and equal work
//! falls to each thread however often an id occurs.

use super::check_ids;
use crate::backend::Kernel;
use crate::element::{Element, from_f64, to_f64};
use crate::error::{Error, expect_shape};
use crate::isa::Isa;
use crate::lanes::{RowSlices, map};
use crate::parallel;
use crate::rows::{GRAIN, expect_unit_rows};
use crate::view::{View, ViewMut};

/// Gradient of one [`Lookup`](crate::Lookup) of an [`Embedding`](crate::Embedding), added to `dtable`. An embedding of
/// several lookups passes the same dy to each: run this kernel once for each table.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if a row is not contiguous, or an id is outside the table.
///
/// # Numerics
/// Sums are f32, in ascending order of the tokens: an entry errs by at most gamma_k of the sum of magnitudes, where k
/// tokens have its id. The bits do not depend on threads. NaN and infinities propagate.
///
/// ```
/// use tilewright_kernels::{Backend, EmbeddingBackward, View, ViewMut};
/// let (dy, mut dtable) = ([1., 2., 3., 4., 5., 6.], [100.; 4]);
/// let table = ViewMut::new(&mut dtable, [2, 2])?;
/// Backend::best().run(EmbeddingBackward::new(View::new(&dy, [3, 2])?, &[1, 0, 1], table))?;
/// assert_eq!(dtable, [103., 104., 106., 108.]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct EmbeddingBackward<'a, T = f32> {
    /// \[tokens, n\].
    pub dy: View<'a, 2, T>,
    /// Entry of each token, \[tokens\]; each less than `entries`.
    pub ids: &'a [u32],
    /// Id whose tokens add nothing, if any: `padding_idx` of PyTorch.
    pub padding: Option<u32>,
    /// Gradient of the table, added to, \[entries, n\].
    pub dtable: ViewMut<'a, 2>,
}

impl<'a, T> EmbeddingBackward<'a, T> {
    /// The gradient of all tokens.
    pub fn new(dy: View<'a, 2, T>, ids: &'a [u32], dtable: ViewMut<'a, 2>) -> Self {
        Self { dy, ids, padding: None, dtable }
    }

    fn check(&self) -> Result<(), Error> {
        let ([tokens, n], [entries, width]) = (self.dy.shape(), self.dtable.shape());
        expect_unit_rows("EmbeddingBackward.dy", self.dy.has_unit_rows(), self.dy.strides())?;
        expect_unit_rows("EmbeddingBackward.dtable", self.dtable.has_unit_rows(), self.dtable.strides())?;
        expect_shape("EmbeddingBackward.dtable", &[entries, width], &[entries, n])?;
        expect_shape("EmbeddingBackward.ids", &[self.ids.len()], &[tokens])?;
        check_ids("EmbeddingBackward.ids", self.ids, entries)
    }
}

impl<T: Element> Kernel for EmbeddingBackward<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::embedding_backward);

    fn reference(self) -> Self::Output {
        self.check()?;
        let n = self.dtable.shape()[1];
        let dy: Vec<f64> = self.dy.rows().flat_map(to_f64).collect();
        let mut table: Vec<f64> = self.dtable.as_view().rows().flat_map(to_f64).collect();
        embedding_backward(&dy, self.ids, self.padding, &mut table);
        for (id, row) in self.dtable.into_rows().enumerate() {
            from_f64(&table[id * n..][..n], row);
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        let Self { dy, ids, padding, dtable } = self;
        let [tokens, n] = dy.shape();
        // Whole cache lines, so that threads share none of an aligned table.
        let grain =
            if tokens * n <= GRAIN { n } else { n.div_ceil(parallel::threads()).next_multiple_of(COLUMNS) };
        parallel::for_each_block(dtable.transpose(), grain, &|start, columns: ViewMut<'_, 2>| {
            let mut table = columns.transpose();
            let dy = dy.slice(1, start..start + table.shape()[1]);
            isa.run(
                #[inline(always)]
                || {
                    for (&id, dy) in ids.iter().zip(dy.rows()).filter(|(id, _)| Some(**id) != padding) {
                        map(
                            isa,
                            [&mut RowSlices::InPlace(table.row_mut([id as usize, 0]))],
                            [dy],
                            0.0,
                            #[inline(always)]
                            |_, [sum], [dy]| [sum + dy],
                        );
                    }
                },
            );
        });
        Ok(())
    }
}

/// Multiple of the columns that a thread takes: a cache line.
const COLUMNS: usize = 16;

/// Gradient of a lookup in f64, added to `dtable`, \[entries, n\]. `dy` is \[tokens, n\].
pub fn embedding_backward(dy: &[f64], ids: &[u32], padding: Option<u32>, dtable: &mut [f64]) {
    let n = dy.len() / ids.len().max(1);
    for (t, &id) in ids.iter().enumerate().filter(|(_, id)| Some(**id) != padding) {
        for (sum, dy) in dtable[id as usize * n..][..n].iter_mut().zip(&dy[t * n..]) {
            *sum += dy;
        }
    }
}
