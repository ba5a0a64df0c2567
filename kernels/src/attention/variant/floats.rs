//! Variant with f32 k-groups: the scale is folded into the queries, and weights stay f32.

use super::super::dropout::WeightLanes;
use super::super::row_ops::{all_finite, exponentials, largest, map};
use super::super::stage::pack_staged;
use super::{AttentionVariant, whole_groups};
use crate::element::{Element, first_bf16_bits, first_lanes};
use crate::gemm::pack_panels;
use crate::isa::{F32, Isa, OuterProduct, Vector};
use crate::view::{AnyView, with_any};
use core::ops::Range;

/// Products of f32.
#[derive(Clone, Copy)]
pub struct Floats {
    /// True if q, k and v are rounded to bf16 first. Weights are never rounded.
    pub rounded: bool,
}

/// The first `LANES` elements as f32, rounded to bf16 if `rounded`.
#[inline(always)]
pub fn widened<I: Isa, T: Element>(isa: I, from: &[T], rounded: bool) -> I::V {
    if rounded && !T::IS_BF16 { first_bf16_bits(isa, from).shl_bits::<16>() } else { first_lanes(isa, from) }
}

impl<I: Isa> AttentionVariant<I> for Floats {
    type Microkernel = OuterProduct<F32>;
    const ELEMENTS: usize = 1;
    const SCALES_SCORES: bool = false;

    #[inline(always)]
    fn microkernel(self) -> OuterProduct<F32> {
        OuterProduct(F32)
    }

    #[inline(always)]
    fn k_groups(n: usize) -> usize {
        n
    }

    #[inline(always)]
    fn whole(keys: &Range<usize>) -> Range<usize> {
        whole_groups(keys, I::V::LANES)
    }

    #[inline(always)]
    fn summed(keys: &Range<usize>) -> Range<usize> {
        keys.clone()
    }

    #[inline(always)]
    fn pack_query<T: Element>(self, isa: I, query: &[T], factor: f32, to: &mut [f32]) {
        map::<I, T>(
            query,
            to,
            #[inline(always)]
            |part| widened(isa, part, self.rounded) * I::V::splat(isa, factor),
        );
    }

    #[inline(always)]
    fn pack_row<T: Element>(self, isa: I, row: &[T], to: &mut [f32]) {
        map::<I, T>(
            row,
            to,
            #[inline(always)]
            |part| widened(isa, part, self.rounded),
        );
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
        if let (AnyView::F32(keys), false) = (keys, self.rounded) {
            return pack_panels(isa, keys.transpose(), panels, panel_len);
        }
        let k_groups = keys.shape()[1];
        with_any!(keys, keys => pack_staged(
            isa,
            keys,
            [k_groups, 1],
            (panels, panel_len),
            memory,
            #[inline(always)]
            |row, p, to| self.pack_row(isa, &row[p..p + to.len()], to),
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
        if let (AnyView::F32(values), false) = (values, self.rounded) {
            return pack_panels(isa, values, panels, panel_len);
        }
        with_any!(values, values => for key in 0..keys.len() {
            self.put_value(isa, values.row([key, 0]), key, (panels, panel_len));
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
        for (panel, part) in value.chunks(I::NR).enumerate() {
            let to = &mut panels[panel * panel_len + key * I::NR..][..I::NR];
            for (at, to) in to.chunks_exact_mut(I::V::LANES).enumerate() {
                let from = part.get(at * I::V::LANES..).unwrap_or(&[]);
                widened(isa, from, self.rounded).store(to);
            }
        }
    }

    #[inline(always)]
    fn largest(self, isa: I, row: &[f32], whole: Range<usize>, _: f32) -> f32 {
        largest(isa, &row[whole])
    }

    #[inline(always)]
    fn weigh(self, isa: I, row: &mut [f32], whole: Range<usize>, max: &mut f32, _: f32) -> f32 {
        exponentials(isa, &mut row[whole], *max)
    }

    #[inline(always)]
    fn drop(self, isa: I, row: &mut [f32], whole: Range<usize>, bits: &[f32], lanes: &WeightLanes<I>) {
        let bits = bits[whole.clone()].chunks_exact(I::V::LANES);
        for (weights, bits) in row[whole].chunks_exact_mut(I::V::LANES).zip(bits) {
            lanes.kept(isa, I::V::load(isa, bits), I::V::load(isa, weights)).store(weights);
        }
    }

    #[inline(always)]
    fn all_finite(self, isa: I, panels: (&[f32], usize), k_groups: Range<usize>) -> bool {
        all_finite(
            isa,
            panels,
            k_groups,
            #[inline(always)]
            |v| [v],
        )
    }

    #[inline(always)]
    fn mask_values(self, _: I, from: &[f32], first: usize, seen: impl Fn(usize) -> bool, to: &mut [f32]) {
        let rows = from.chunks_exact(I::NR).zip(to.chunks_exact_mut(I::NR));
        for (key, (from, to)) in rows.enumerate() {
            if seen(first + key) {
                to.copy_from_slice(from);
            } else {
                to.fill(0.0);
            }
        }
    }
}
