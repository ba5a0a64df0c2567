//! Column sums, accumulated: the gradient of a bias that was added to every row.
//!
//! ```text
//! sums[j] += sum over i of x[i, j]
//! ```
//!
//! Rows are read in [`STEP`]s side by side, from end to end, so that hardware prefetchers follow them; partial sums of a
//! [`CHUNK`] stay in L1. Threads share out columns: the order of a sum does not depend on them.

use crate::backend::Kernel;
use crate::element::Element;
use crate::error::{Error, expect_shape};
use crate::isa::Isa;
use crate::lanes::{RowSlices, map};
use crate::parallel;
use crate::rows::expect_unit_rows;
use crate::scratch;
use crate::view::View;

/// sums\[j\] += the sum of column j of x.
///
/// # Errors
/// [`Error::Shape`] if `sums` is not as long as a row; [`Error::Invalid`] if a row is not contiguous.
///
/// # Numerics
/// Sums are f32, in a fixed order that does not depend on threads: partial sums of 256 rows, added in ascending order.
/// The error is at most gamma_{36 + rows / 256} times the sum of |x| and of the old value.
///
/// ```
/// use tilewright_kernels::{Backend, ColumnSums, View};
/// let mut dbias = [10., 0.];
/// let dy = [1., 2., 3., 4.];
/// Backend::best().run(ColumnSums { x: View::new(&dy, [2, 2])?, sums: &mut dbias })?;
/// assert_eq!(dbias, [14., 6.]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct ColumnSums<'a, T = f32> {
    /// \[rows, columns\], with contiguous rows.
    pub x: View<'a, 2, T>,
    /// \[columns\], accumulated into.
    pub sums: &'a mut [f32],
}

/// The sum of each of `columns` columns of x.
pub fn column_sums(x: &[f64], columns: usize) -> Vec<f64> {
    (0..columns).map(|j| x.iter().skip(j).step_by(columns).sum()).collect()
}

/// Rows that are added side by side: a tree of three additions, and one to the partial sum.
const STEP: usize = 8;

/// Rows of a partial sum. It bounds the error of long columns; its own cost is one pass over L1 in 32 steps.
const CHUNK: usize = 256;

/// Fewest columns of a thread: stretches of rows that hardware prefetchers follow.
const MIN_COLUMNS: usize = 128;

/// Fewest elements of a thread: 256 KiB of f32. An estimate of the work that pays for a handover; not measured.
const GRAIN: usize = 1 << 16;

impl<T: Element> ColumnSums<'_, T> {
    fn check(&self) -> Result<(), Error> {
        expect_unit_rows("ColumnSums.x", self.x.has_unit_rows(), self.x.strides())?;
        expect_shape("ColumnSums.sums", &[self.sums.len()], &[self.x.shape()[1]])
    }
}

impl<T: Element> Kernel for ColumnSums<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::column_sums);

    fn reference(self) -> Self::Output {
        self.check()?;
        let x: Vec<f64> = self.x.rows().flatten().map(|x| f64::from(x.to_f32())).collect();
        for (sum, of_x) in self.sums.iter_mut().zip(column_sums(&x, self.x.shape()[1])) {
            *sum = (f64::from(*sum) + of_x) as f32;
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        add_columns(isa, self.x, self.sums);
        Ok(())
    }
}

/// Adds the column sums of x, whose rows are contiguous and as long as `sums`, on the threads of the pool.
pub(crate) fn add_columns<I: Isa, T: Element>(isa: I, x: View<'_, 2, T>, sums: &mut [f32]) {
    let [rows, columns] = x.shape();
    let parts = parallel::threads().min(columns / MIN_COLUMNS).min(rows * columns / GRAIN);
    split(isa, x, sums, parts);
}

/// Halves the columns until each of `parts` parts is left.
fn split<I: Isa, T: Element>(isa: I, x: View<'_, 2, T>, sums: &mut [f32], parts: usize) {
    let [rows, columns] = x.shape();
    if parts < 2 {
        return scratch::with(columns, |partial| {
            isa.run(
                #[inline(always)]
                || add(isa, x, sums, partial),
            );
        });
    }
    let low = parts / 2;
    let mid = (columns * low / parts).next_multiple_of(MIN_COLUMNS / 2).min(columns);
    let (sums, high_sums) = sums.split_at_mut(mid);
    let (x, high) = (x.slice(1, 0..mid), x.slice(1, mid..columns));
    debug_assert!(rows > 0);
    parallel::join(|| split(isa, x, sums, low), || split(isa, high, high_sums, parts - low));
}

/// Adds the column sums of x to `sums`.
#[inline(always)]
fn add<I: Isa, T: Element>(isa: I, x: View<'_, 2, T>, sums: &mut [f32], partial: &mut [f32]) {
    let rows = x.shape()[0];
    for chunk in (0..rows).step_by(CHUNK) {
        let end = rows.min(chunk + CHUNK);
        partial.fill(0.0);
        let mut i = chunk;
        while end - i >= STEP {
            let mut step: [&[T]; STEP] = [&[]; STEP];
            for (r, row) in step.iter_mut().enumerate() {
                *row = x.row([i + r, 0]);
            }
            add_rows(
                isa,
                partial,
                step,
                #[inline(always)]
                |[a, b, c, d, e, f, g, h]| ((a + b) + (c + d)) + ((e + f) + (g + h)),
            );
            i += STEP;
        }
        for i in i..end {
            add_rows(
                isa,
                partial,
                [x.row([i, 0])],
                #[inline(always)]
                |[a]| a,
            );
        }
        add_rows(
            isa,
            sums,
            [&*partial],
            #[inline(always)]
            |[a]| a,
        );
    }
}

/// sums += f(rows), vector by vector.
#[inline(always)]
fn add_rows<I: Isa, T: Element, const P: usize>(
    isa: I,
    sums: &mut [f32],
    rows: [&[T]; P],
    f: impl Fn([I::V; P]) -> I::V,
) {
    map(
        isa,
        [&mut RowSlices::InPlace(sums)],
        rows,
        0.0,
        #[inline(always)]
        |_, [sum], rows| [sum + f(rows)],
    );
}
