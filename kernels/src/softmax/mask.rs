//! Mask of a softmax: the columns that it is over, and the bias added to them.

use crate::error::{Error, expect_shape};
use crate::rows::expect_unit_rows;
use crate::view::View;

/// Columns of each row that a softmax is over.
#[derive(Clone, Copy, Debug)]
pub enum ColumnMask<'a> {
    /// All columns.
    None,
    /// \[rows\]: number of leading columns that each row sees.
    Lengths(&'a [usize]),
    /// \[rows, n\]: true for the columns that a row sees.
    Keep(View<'a, 2, bool>),
    /// \[rows, n\]: bias added to scale * x; -inf masks a column.
    Bias(View<'a, 2>),
}

impl<'a> ColumnMask<'a> {
    /// Returns an error, which names the mask `what`, if it does not fit rows of that shape.
    pub(super) fn check(self, what: &'static str, [rows, n]: [usize; 2]) -> Result<(), Error> {
        match self {
            ColumnMask::None => Ok(()),
            ColumnMask::Lengths(lengths) => {
                expect_shape(what, &[lengths.len()], &[rows])?;
                match lengths.iter().position(|&length| length > n) {
                    None => Ok(()),
                    Some(row) => Err(Error::Invalid {
                        what,
                        why: format!("length {} of row {row} exceeds its {n} columns", lengths[row]),
                    }),
                }
            }
            ColumnMask::Keep(keep) => {
                expect_unit_rows(what, keep.has_unit_rows(), keep.strides())?;
                expect_shape(what, &keep.shape(), &[rows, n])
            }
            ColumnMask::Bias(bias) => {
                expect_unit_rows(what, bias.has_unit_rows(), bias.strides())?;
                expect_shape(what, &bias.shape(), &[rows, n])
            }
        }
    }

    /// Masks of the rows before `mid`, and of the rows from `mid` on.
    pub(super) fn split_at(self, mid: usize) -> (Self, Self) {
        match self {
            ColumnMask::None => (ColumnMask::None, ColumnMask::None),
            ColumnMask::Lengths(lengths) => {
                let (low, high) = lengths.split_at(mid);
                (ColumnMask::Lengths(low), ColumnMask::Lengths(high))
            }
            ColumnMask::Keep(keep) => {
                let rows = keep.shape()[0];
                (ColumnMask::Keep(keep.slice(0, 0..mid)), ColumnMask::Keep(keep.slice(0, mid..rows)))
            }
            ColumnMask::Bias(bias) => {
                let rows = bias.shape()[0];
                (ColumnMask::Bias(bias.slice(0, 0..mid)), ColumnMask::Bias(bias.slice(0, mid..rows)))
            }
        }
    }

    /// True if column `j` of row `i` is masked; and its bias.
    #[inline(always)]
    pub(super) fn at(self, i: usize, j: usize) -> (bool, f32) {
        match self {
            ColumnMask::None => (false, 0.0),
            ColumnMask::Lengths(lengths) => (j >= lengths[i], 0.0),
            ColumnMask::Keep(keep) => (!keep.get([i, j]), 0.0),
            ColumnMask::Bias(bias) => (bias.get([i, j]) == f32::NEG_INFINITY, bias.get([i, j])),
        }
    }
}
