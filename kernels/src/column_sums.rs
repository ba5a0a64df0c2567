//! Sums over rows, in a fixed order.

use crate::isa::Isa;
use crate::lanes::{RowSlices, map};
use crate::rows::{self, RowTask};
use crate::view::View;

/// out\[j\] = ((out\[j\] + rows\[0\]\[j\]) + rows\[1\]\[j\]) + .. for each column. Threads share the columns.
///
/// # Panics
/// If the rows are not contiguous, or differ in length from `out`.
pub(crate) fn add_rows<I: Isa>(isa: I, rows: View<'_, 2>, out: &mut [f32]) {
    rows::run(isa, AddRows { rows, out });
}

/// Columns that a task takes at least: four cache lines, so that tasks share none if `out` is aligned.
const COLUMNS: usize = 64;

/// The sums of some columns.
struct AddRows<'a> {
    rows: View<'a, 2>,
    out: &'a mut [f32],
}

impl RowTask for AddRows<'_> {
    /// Blocks of columns, and the elements that each reads.
    fn shape(&self) -> [usize; 2] {
        [self.out.len().div_ceil(COLUMNS), COLUMNS * self.rows.shape()[0]]
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let (low, high) = self.rows.split_at(1, mid * COLUMNS);
        let (low_out, high_out) = self.out.split_at_mut(mid * COLUMNS);
        (Self { rows: low, out: low_out }, Self { rows: high, out: high_out })
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        let sum = &mut RowSlices::InPlace(self.out);
        for row in self.rows.rows() {
            map(
                isa,
                [&mut *sum],
                [row],
                0.0,
                #[inline(always)]
                |_, [sum], [x]| [sum + x],
            );
        }
    }
}
