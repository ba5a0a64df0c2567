//! Operands in pairs of bf16: pairs of keys in rows of dS, as in the forward call, and pairs of neighbouring rows in
//! columns of P and dS.

use super::super::super::stage::place;
use super::super::super::variant::{Pairs, whole_groups};
use super::{BLOCK_ROWS, GradientVariant, ROWS_LEN};
use crate::attention::blocks::BLOCK_KEYS;
use crate::gemm::copy_rows;
use crate::isa::{A_STRIDE, Isa, K_GROUPS, KC, Microkernel, Vector};
use crate::view::View;
use core::ops::Range;

/// Pairs of rows of a block.
const PAIRS: usize = BLOCK_ROWS / 2;

/// Both vectors rounded to bf16: `low` in the lower halves of the lanes, `high` in the upper.
///
/// Ties round up, which errs no more than ties to even. A NaN stays one if its upper half is not all ones.
#[inline(always)]
fn pair<I: Isa>(isa: I, low: I::V, high: I::V) -> I::V {
    let half = I::V::splat_bits(isa, 0x8000);
    let upper = I::V::splat_bits(isa, 0xffff_0000);
    low.add_bits(half).shr_bits::<16>().or_bits(high.add_bits(half).and_bits(upper))
}

/// Vector of row `row` from column `at` on; zeros from row `rows` on. No closure, which would not be inlined.
#[inline(always)]
fn row_vector<I: Isa>(isa: I, from: &[f32], rows: usize, [row, at]: [usize; 2]) -> I::V {
    if row < rows { I::V::load(isa, &from[row * A_STRIDE + at..]) } else { I::V::splat(isa, 0.0) }
}

/// Writes the k-groups `k_group` of the columns from key `key` on to panels of columns.
#[inline(always)]
fn put<I: Isa>(_: I, v: I::V, [k_group, key, depth]: [usize; 3], columns: &mut [f32]) {
    let (panel, column) = (key / I::NR * PAIRS * I::NR, key % I::NR);
    if depth == 1 {
        return v.store(&mut columns[panel + k_group * I::NR + column..]);
    }
    let mut each = [0.0; 16];
    v.store(&mut each);
    for (i, x) in each[..I::V::LANES].iter().enumerate() {
        columns[panel + place(I::NR, k_group, column + i, depth)] = *x;
    }
}

impl<I: Isa, M: Microkernel<I>> GradientVariant<I> for Pairs<M> {
    const COLUMNS_LEN: usize = PAIRS * BLOCK_KEYS;

    #[inline(always)]
    fn transpose(self, isa: I, from: &[f32], [rows, width]: [usize; 2], to: &mut [f32], memory: &mut [f32]) {
        let (lanes, pairs) = (I::V::LANES, rows.div_ceil(2));
        let (even, odd) = memory.split_at_mut(PAIRS * lanes);
        let (lower, upper) = (I::V::splat_bits(isa, 0xffff), I::V::splat_bits(isa, 0xffff_0000));
        // A k-group of a packed row holds two neighbouring elements: a vector of them becomes one of even elements and
        // one of odd elements, both of two rows.
        for first in (0..width).step_by(2 * lanes) {
            let (slab, k_group) = (first / 2 / KC, first / 2 % KC);
            let from = &from[slab * ROWS_LEN..];
            for pair in 0..pairs {
                let a = row_vector(isa, from, rows, [2 * pair, k_group]);
                let b = row_vector(isa, from, rows, [2 * pair + 1, k_group]);
                a.and_bits(lower).or_bits(b.shl_bits::<16>()).store(&mut even[pair * lanes..]);
                a.shr_bits::<16>().or_bits(b.and_bits(upper)).store(&mut odd[pair * lanes..]);
            }
            for (parity, staged) in [&*even, &*odd].into_iter().enumerate() {
                let elements = ((width - first + 1 - parity) / 2).min(lanes);
                let staged = View::with_strides(staged, [pairs, elements], [lanes, 1]).expect("staged pairs");
                let at = (first + parity) * A_STRIDE;
                if elements > 0 {
                    copy_rows(isa, staged.transpose(), (&mut to[at..], 2 * A_STRIDE));
                }
            }
        }
        let whole = pairs.next_multiple_of(I::NR.max(K_GROUPS));
        for row in to.chunks_mut(A_STRIDE).take(width) {
            row[pairs..whole].fill(0.0);
        }
    }

    #[inline(always)]
    fn pack_factors(
        self,
        isa: I,
        factors: [&mut [f32]; 2],
        rows: usize,
        keys: Range<usize>,
        columns: [&mut [f32]; 2],
    ) {
        let (lanes, depth) = (I::V::LANES, self.0.depth());
        let [p, ds] = factors;
        let [columns_p, columns_ds] = columns;
        for (is_product, factor, columns) in [(false, p, columns_p), (true, ds, columns_ds)] {
            for k_group in 0..rows.next_multiple_of(2 * K_GROUPS) / 2 {
                let [first, second] = [2 * k_group, 2 * k_group + 1];
                for at in keys.clone().step_by(2 * lanes) {
                    let a = row_vector(isa, factor, rows, [first, at]);
                    let b = row_vector(isa, factor, rows, [first, at + lanes]);
                    let c = row_vector(isa, factor, rows, [second, at]);
                    let d = row_vector(isa, factor, rows, [second, at + lanes]);
                    if is_product && first < rows {
                        pair(isa, a, b).store(&mut factor[first * A_STRIDE + at / 2..]);
                    }
                    if is_product && second < rows {
                        pair(isa, c, d).store(&mut factor[second * A_STRIDE + at / 2..]);
                    }
                    put(isa, pair(isa, a, c), [k_group, at, depth], columns);
                    put(isa, pair(isa, b, d), [k_group, at + lanes, depth], columns);
                }
            }
        }
    }

    #[inline(always)]
    fn summed_rows(rows: Range<usize>) -> Range<usize> {
        whole_groups(&rows, 2 * K_GROUPS)
    }

    #[inline(always)]
    fn columns<'m>(
        self,
        _: &'m [f32],
        columns: &'m [f32],
        panel: usize,
        rows: &Range<usize>,
    ) -> (&'m [f32], usize) {
        (&columns[(panel * PAIRS + rows.start / 2) * I::NR..], I::NR)
    }

    #[inline(always)]
    fn mask_rows(self, from: &[f32], rows: &Range<usize>, seen: impl Fn(usize) -> bool, to: &mut [f32]) {
        let half = |row: usize, mask: u32| if seen(row) { mask } else { 0 };
        for (k_group, to) in (rows.start / 2..rows.end / 2).zip(to) {
            let mask = half(2 * k_group, 0xffff) | half(2 * k_group + 1, 0xffff_0000);
            *to = f32::from_bits(from[k_group].to_bits() & mask);
        }
    }
}
