//! Variant with pairs of bf16 as k-groups: the scale multiplies scores, and weights are rounded to bf16.

use super::super::dropout::WeightLanes;
use super::super::row_ops::all_finite;
use super::super::stage::{pack_staged, place};
use super::{AttentionVariant, whole_groups};
use crate::element::{Element, first_bf16_bits};
use crate::gemm::pack_pairs;
use crate::isa::{Isa, K_GROUPS, Microkernel, Vector};
use crate::math;
use crate::view::{AnyView, with_any};
use core::f32::consts::LN_2;
use core::ops::Range;

/// Products of pairs of bf16.
#[derive(Clone, Copy)]
pub struct Pairs<M>(pub M);

impl<I: Isa, M: Microkernel<I>> AttentionVariant<I> for Pairs<M> {
    type Microkernel = M;
    const ELEMENTS: usize = 2;
    const SCALES_SCORES: bool = true;

    #[inline(always)]
    fn microkernel(self) -> M {
        self.0
    }

    #[inline(always)]
    fn k_groups(n: usize) -> usize {
        n.div_ceil(2).next_multiple_of(K_GROUPS)
    }

    #[inline(always)]
    fn whole(keys: &Range<usize>) -> Range<usize> {
        whole_groups(keys, 2 * I::V::LANES)
    }

    #[inline(always)]
    fn summed(keys: &Range<usize>) -> Range<usize> {
        whole_groups(keys, 2 * K_GROUPS)
    }

    #[inline(always)]
    fn pack_query<T: Element>(self, isa: I, query: &[T], _: f32, to: &mut [f32]) {
        pack_pairs(isa, query, to);
    }

    #[inline(always)]
    fn pack_row<T: Element>(self, isa: I, row: &[T], to: &mut [f32]) {
        pack_pairs(isa, row, to);
    }

    #[inline(always)]
    fn pack_keys(
        self,
        isa: I,
        keys: AnyView<'_, 2>,
        panels: &mut [f32],
        panel_len: usize,
        memory: &mut [f32],
    ) {
        let k_groups = <Self as AttentionVariant<I>>::k_groups(keys.shape()[1]);
        with_any!(keys, keys => pack_staged(
            isa,
            keys,
            [k_groups, self.0.depth()],
            (panels, panel_len),
            memory,
            #[inline(always)]
            |row, p, to| {
                let end = row.len().min(2 * (p + to.len()));
                self.pack_row(isa, &row[2 * p..end], to);
            },
        ));
    }

    #[inline(always)]
    fn pack_values(
        self,
        isa: I,
        values: AnyView<'_, 2>,
        keys: Range<usize>,
        (panels, panel_len): (&mut [f32], usize),
    ) {
        let (lanes, depth) = (I::V::LANES, self.0.depth());
        let summed = <Self as AttentionVariant<I>>::summed(&keys);
        with_any!(values, values => for first in summed.clone().step_by(2 * lanes) {
            for key in first..first + lanes {
                let row = |key: usize| {
                    if keys.contains(&key) { values.row([key - keys.start, 0]) } else { &[] }
                };
                let (low, high) = (row(key), row(key + lanes));
                let k_group = (first - summed.start) / 2 + key - first;
                for (panel, to) in panels.chunks_mut(panel_len).enumerate() {
                    for column in (0..I::NR).step_by(lanes) {
                        let at = panel * I::NR + column;
                        let low = first_bf16_bits(isa, low.get(at..).unwrap_or(&[]));
                        let high = first_bf16_bits(isa, high.get(at..).unwrap_or(&[]));
                        let k_groups = low.or_bits(high.shl_bits::<16>());
                        if depth == 1 {
                            k_groups.store(&mut to[k_group * I::NR + column..]);
                            continue;
                        }
                        let mut each = [0.0; 16];
                        k_groups.store(&mut each);
                        for (i, x) in each[..lanes].iter().enumerate() {
                            to[place(I::NR, k_group, column + i, depth)] = *x;
                        }
                    }
                }
            }
        });
    }

    #[inline(always)]
    fn put_value<T: Element>(
        self,
        isa: I,
        value: &[T],
        key: usize,
        (panels, panel_len): (&mut [f32], usize),
    ) {
        let (lanes, depth) = (I::V::LANES, self.0.depth());
        let (k_group, high) = (key / (2 * lanes) * lanes + key % lanes, key / lanes % 2 == 1);
        let others = if high { 0xffff } else { 0xffff_0000 };
        for (part, panel) in value.chunks(I::NR).zip(panels.chunks_mut(panel_len)) {
            for column in (0..I::NR).step_by(lanes) {
                let bits = first_bf16_bits(isa, part.get(column..).unwrap_or(&[]));
                let bits = if high { bits.shl_bits::<16>() } else { bits };
                if depth == 1 {
                    let to = &mut panel[k_group * I::NR + column..];
                    let kept = I::V::load(isa, to).and_bits(I::V::splat_bits(isa, others));
                    kept.or_bits(bits).store(to);
                    continue;
                }
                let mut each = [0.0; 16];
                bits.store(&mut each);
                for (i, x) in each[..lanes].iter().enumerate() {
                    let to = &mut panel[place(I::NR, k_group, column + i, depth)];
                    *to = f32::from_bits(to.to_bits() & others | x.to_bits());
                }
            }
        }
    }

    #[inline(always)]
    fn largest(self, isa: I, row: &[f32], whole: Range<usize>, factor: f32) -> f32 {
        let factor = I::V::splat(isa, factor);
        let mut max = [I::V::splat(isa, f32::NEG_INFINITY); 2];
        for cells in row[whole].chunks_exact(2 * I::V::LANES) {
            let (a, b) = cells.split_at(I::V::LANES);
            max[0] = (I::V::load(isa, a) * factor).max(max[0]);
            max[1] = (I::V::load(isa, b) * factor).max(max[1]);
        }
        max[0].max(max[1]).maximum()
    }

    /// Weights are 2^(factor s - max): `factor` contains log2(e).
    #[inline(always)]
    fn weigh(self, isa: I, row: &mut [f32], whole: Range<usize>, max: &mut f32, factor: f32) -> f32 {
        let lanes = I::V::LANES;
        let row = &mut row[..whole.end];
        // If all scores are -inf, all weights are 0, as in `row_ops::exponentials`.
        let shift = I::V::splat(isa, if *max == f32::NEG_INFINITY { 0.0 } else { *max });
        let factor = I::V::splat(isa, factor);
        // Half a unit in the last place of bf16. Ties round up, which errs no more than ties to even. The bits that a
        // NaN becomes do not matter, because the sum of the row is NaN, too.
        let half = I::V::splat_bits(isa, 0x8000);
        let upper = I::V::splat_bits(isa, 0xffff_0000);
        let mut sums = [I::V::splat(isa, 0.0); 2];
        for at in whole.step_by(2 * lanes) {
            let a = math::exp2_coarse(isa, I::V::load(isa, &row[at..]) * factor - shift);
            let b = math::exp2_coarse(isa, I::V::load(isa, &row[at + lanes..]) * factor - shift);
            sums = [sums[0] + a, sums[1] + b];
            let low = a.add_bits(half).shr_bits::<16>();
            low.or_bits(b.add_bits(half).and_bits(upper)).store(&mut row[at / 2..]);
        }
        *max *= LN_2;
        (sums[0] + sums[1]).sum()
    }

    #[inline(always)]
    fn drop(self, isa: I, row: &mut [f32], whole: Range<usize>, bits: &[f32], lanes: &WeightLanes<I>) {
        for at in whole.step_by(2 * I::V::LANES) {
            let (low, high) = (I::V::load(isa, &bits[at..]), I::V::load(isa, &bits[at + I::V::LANES..]));
            let low = lanes.kept(isa, low, I::V::splat_bits(isa, 0xffff));
            let high = lanes.kept(isa, high, I::V::splat_bits(isa, 0xffff_0000));
            let weights = &mut row[at / 2..];
            I::V::load(isa, weights).and_bits(low.or_bits(high)).store(weights);
        }
    }

    #[inline(always)]
    fn all_finite(self, isa: I, panels: (&[f32], usize), k_groups: Range<usize>) -> bool {
        all_finite(
            isa,
            panels,
            k_groups,
            #[inline(always)]
            |v| [v.and_bits(I::V::splat_bits(isa, 0xffff_0000)), v.shl_bits::<16>()],
        )
    }

    #[inline(always)]
    fn mask_values(self, _: I, from: &[f32], first: usize, seen: impl Fn(usize) -> bool, to: &mut [f32]) {
        let lanes = I::V::LANES;
        for k_group in 0..to.len() / I::NR {
            let low = first + k_group / lanes * 2 * lanes + k_group % lanes;
            let half = |key: usize, mask: u32| if seen(key) { mask } else { 0 };
            let mask = half(low, 0xffff) | half(low + lanes, 0xffff_0000);
            for column in 0..I::NR {
                let at = place(I::NR, k_group, column, self.0.depth());
                to[at] = f32::from_bits(from[at].to_bits() & mask);
            }
        }
    }
}
