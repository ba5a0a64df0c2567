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
                let (low, high) = keep.split_at(0, mid);
                (ColumnMask::Keep(low), ColumnMask::Keep(high))
            }
            ColumnMask::Bias(bias) => {
                let (low, high) = bias.split_at(0, mid);
                (ColumnMask::Bias(low), ColumnMask::Bias(high))
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

    /// Biases of the columns of row `i`, -inf if masked: for the definition.
    pub(super) fn biases(self, i: usize, n: usize) -> Vec<f64> {
        let bias = |j| match self.at(i, j) {
            (true, _) => f64::NEG_INFINITY,
            (false, bias) => bias.into(),
        };
        (0..n).map(bias).collect()
    }

    /// Writes the biases of row `i` to `memory`, -inf if masked, if the mask is of booleans.
    #[inline(always)]
    pub(super) fn fill_biases(self, i: usize, memory: &mut [f32]) {
        let ColumnMask::Keep(keep) = self else { return };
        for (bias, &keep) in memory.iter_mut().zip(keep.row([i, 0])) {
            *bias = if keep { 0.0 } else { f32::NEG_INFINITY };
        }
    }

    /// Biases of row `i`, which [`fill_biases`](Self::fill_biases) has written to `memory`; none if the mask is the same
    /// in all columns up to a length.
    #[inline(always)]
    pub(super) fn bias_row<'b>(self, i: usize, memory: &'b [f32]) -> &'b [f32]
    where
        'a: 'b,
    {
        match self {
            ColumnMask::None | ColumnMask::Lengths(_) => &[],
            ColumnMask::Keep(_) => memory,
            ColumnMask::Bias(bias) => bias.row([i, 0]),
        }
    }
}
