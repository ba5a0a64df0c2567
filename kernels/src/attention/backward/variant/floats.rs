//! Operands in f32: scores are their own k-groups.

use super::super::super::variant::Floats;
use super::{GradientVariant, ROWS_LEN};
use crate::gemm::copy_rows;
use crate::isa::{A_STRIDE, Isa, KC};
use crate::view::View;
use core::ops::Range;

impl<I: Isa> GradientVariant<I> for Floats {
    const COLUMNS_LEN: usize = 0;

    #[inline(always)]
    fn transpose(self, isa: I, from: &[f32], [rows, width]: [usize; 2], to: &mut [f32], _: &mut [f32]) {
        for (slab, first) in (0..width).step_by(KC).enumerate() {
            let shape = [rows, KC.min(width - first)];
            let from =
                View::with_strides(&from[slab * ROWS_LEN..], shape, [A_STRIDE, 1]).expect("packed rows");
            copy_rows(isa, from.transpose(), (&mut to[first * A_STRIDE..], A_STRIDE));
        }
        if rows % I::NR > 0 {
            for row in to.chunks_mut(A_STRIDE).take(width) {
                row[rows..rows.next_multiple_of(I::NR)].fill(0.0);
            }
        }
    }

    #[inline(always)]
    fn pack_factors(self, _: I, _: [&mut [f32]; 2], _: usize, _: Range<usize>, _: [&mut [f32]; 2]) {}

    #[inline(always)]
    fn summed_rows(rows: Range<usize>) -> Range<usize> {
        rows
    }

    #[inline(always)]
    fn columns<'m>(
        self,
        factor: &'m [f32],
        _: &'m [f32],
        panel: usize,
        rows: &Range<usize>,
    ) -> (&'m [f32], usize) {
        (&factor[rows.start * A_STRIDE + panel * I::NR..], A_STRIDE)
    }

    #[inline(always)]
    fn mask_rows(self, from: &[f32], rows: &Range<usize>, seen: impl Fn(usize) -> bool, to: &mut [f32]) {
        for (row, to) in rows.clone().zip(to) {
            *to = if seen(row) { from[row] } else { 0.0 };
        }
    }
}
