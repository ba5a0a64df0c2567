//! The input of a norm: rows, or rows added to a residual.

use crate::element::Element;
use crate::error::{Error, expect_shape};
use crate::isa::Isa;
use crate::lanes::{RowSlices, each};
use crate::rows::{Rows, expect_unit_rows};
use crate::view::ViewMut;
use core::ops::RangeInclusive;

/// Range of the squared divisor of a norm in which f32 sums are accurate. Above it, sums overflow (elements beyond
/// 1e18, infinities, NaN). Below it, squares are denormal. A row outside is computed again, with sums in f64.
pub(crate) const IN_RANGE: RangeInclusive<f32> = 1e-28..=f32::MAX;

/// Rows of a norm and, if present, the residual that they are added to.
#[derive(Debug)]
pub(crate) struct NormInput<'a, T> {
    pub(crate) rows: Rows<'a, T>,
    pub(crate) residual: Option<ViewMut<'a, 2, T>>,
}

impl<'a, T: Element> NormInput<'a, T> {
    /// Returns the shape, or an error if [`Rows::check`] fails, if the residual has another shape, or if its rows are
    /// not contiguous.
    pub(crate) fn check(&self, rows: &'static str, residual: &'static str) -> Result<[usize; 2], Error> {
        let shape = self.rows.check(rows)?;
        if let Some(view) = &self.residual {
            expect_unit_rows(residual, view.has_unit_rows(), view.strides())?;
            expect_shape(residual, &view.shape(), &shape)?;
        }
        Ok(shape)
    }

    /// The rows before `mid`, and the rows from `mid` on.
    pub(crate) fn split_at(self, mid: usize) -> (Self, Self) {
        let (low, high) = self.rows.split_at(mid);
        let (low_residual, high_residual) = self.residual.map(|view| view.split_at(0, mid)).unzip();
        (Self { rows: low, residual: low_residual }, Self { rows: high, residual: high_residual })
    }

    /// Rows to normalise, in order. Taking a row adds it to the residual first.
    ///
    /// A sum is rounded to f32 and then to T, with the result of a single rounding. f32 has at least two digits more
    /// than twice those of bf16 and f16, so the second rounding cannot meet a tie that the first one made (Figueroa,
    /// "When is double rounding innocuous?", SIGNUM Newsletter 30, 1995).
    #[inline(always)]
    pub(crate) fn into_iter<I: Isa>(self, isa: I) -> impl Iterator<Item = RowSlices<'a, T>> {
        self.added(
            #[inline(always)]
            move |sum, x| {
                each(
                    isa,
                    &mut RowSlices::InPlace(sum),
                    [x],
                    #[inline(always)]
                    |h, [x]| h + x,
                );
            },
        )
    }

    /// [`into_iter`](Self::into_iter) for the definition.
    pub(crate) fn define(self) -> impl Iterator<Item = RowSlices<'a, T>> {
        self.added(|sum, x| {
            for (h, x) in sum.iter_mut().zip(x) {
                *h = T::from_f32(h.to_f32() + x.to_f32());
            }
        })
    }

    /// Rows to normalise: rows of the residual after `add`, or rows of the input if there is no residual.
    #[inline(always)]
    fn added(self, add: impl Fn(&mut [T], &[T])) -> impl Iterator<Item = RowSlices<'a, T>> {
        let mut residual = self.residual.map(ViewMut::into_rows);
        self.rows.into_iter().map(
            #[inline(always)]
            move |row| {
                let Some(sum) = residual.as_mut().and_then(Iterator::next) else { return row };
                add(sum, row.input());
                RowSlices::Into(sum, row.into_output())
            },
        )
    }
}
