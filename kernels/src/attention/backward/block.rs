//! One block of keys: the five products with each block of rows.
//!
//! ```text
//!              K^T panels            V^T panels
//!  scale Q     S = Q K^T       dO    dO V^T
//!  strip 0   | MR x NR tiles |     |         |   -> P, dS row by row
//!  strip 1   |               |     |         |
//!
//!              P, panel of columns   dS, panel of columns            K panels
//!  dO^T        dV^T            Q^T   dK^T                       dS   dQ
//!  MR of dv  | += MR x NR    |     | += MR x NR         |       strip | += MR x NR |
//! ```

use super::super::blocks::BLOCK_KEYS;
use super::super::query_rows::{AttentionOperands, QueryRows};
use super::super::stage::staged;
use super::super::variant::widened;
use super::gradients::Gradients;
use super::operands::{BackwardOperands, BlockSums, KeyBlock, OneHead, query_stride, row_index, take};
use super::rows::{self, RowBlock};
use super::variant::{BLOCK_ROWS, GradientVariant};
use crate::element::{Element, first_lanes, store_first_lanes};
use crate::gemm::pack_panels;
use crate::isa::{Isa, LINE_FLOATS, Vector};
use crate::view::{AnyViewMut, View, ViewMut, with_any, with_any_mut};
use core::ops::Range;

/// Floats of the parts of a chunk's memory: D of each row, a block of rows, panels of K^T, V^T and K, dK^T and dV^T,
/// and memory of packing, masking and transposing.
fn parts<I: Isa, M: GradientVariant<I>>(inputs: &AttentionOperands<'_>, rows: usize) -> [usize; 8] {
    let AttentionOperands { dk, dv, .. } = *inputs;
    let width = dk.max(dv).next_multiple_of(I::NR);
    [
        rows.next_multiple_of(LINE_FLOATS),
        rows::memory_len::<I, M>(inputs),
        BLOCK_KEYS * M::k_groups(dk),
        BLOCK_KEYS * M::k_groups(dv),
        BLOCK_KEYS / M::ELEMENTS * query_stride::<I>(dk),
        dk * BLOCK_KEYS,
        dv * BLOCK_KEYS,
        staged::<I>().max(BLOCK_KEYS * width).max(rows::spare_len::<I>()),
    ]
}

/// Floats of working memory of a chunk of keys, for `rows` rows.
pub(super) fn memory_len<I: Isa, M: GradientVariant<I>>(
    inputs: &AttentionOperands<'_>,
    rows: usize,
) -> usize {
    parts::<I, M>(inputs, rows).iter().sum()
}

/// Computes the gradients of `keys`, a chunk of the keys of one head. `memory` holds [`memory_len`] floats.
#[inline(always)]
pub(super) fn chunk<I: Isa, M: GradientVariant<I>>(
    (isa, variant): (I, M),
    operands: &BackwardOperands<'_>,
    rows: &QueryRows<'_>,
    keys: Range<usize>,
    gradients: Gradients<'_>,
    memory: &mut [f32],
) {
    const { assert!(BLOCK_KEYS.is_multiple_of(I::NR), "no panel ends outside of its block") };
    let inputs = &operands.inputs;
    let Gradients { q, mut k, mut v, mut bias, mut distances } = gradients;
    let AnyViewMut::F32(mut queries) = q else { unreachable!("sums of a chunk are f32") };
    let queries = queries.row_mut([0; 4]);
    queries.fill(0.0);
    if !distances.is_empty() {
        for head in 0..inputs.group {
            distances.row_mut([0, head, 0]).fill(0.0);
        }
    }
    let [deltas, row_block, keys_t, values_t, panels, sums_k, sums_v, spare] =
        parts::<I, M>(inputs, rows.len());
    let mut memory = memory;
    let deltas = &mut take(&mut memory, deltas)[..rows.len()];
    for (row, delta) in deltas.iter_mut().enumerate() {
        *delta = dot(isa, operands, row_index(rows, row));
    }
    let head = OneHead { isa, variant, operands, rows, deltas };
    let mut row_block = RowBlock::new::<I, M>(inputs, take(&mut memory, row_block));
    let [keys_t, values_t] = [take(&mut memory, keys_t), take(&mut memory, values_t)];
    let panels = take(&mut memory, panels);
    let [sums_k, sums_v] = [take(&mut memory, sums_k), take(&mut memory, sums_v)];
    let spare = take(&mut memory, spare);
    for start in keys.clone().step_by(BLOCK_KEYS) {
        let end = keys.end.min(start + BLOCK_KEYS);
        let (block_k, rest_k) = k.split_at(2, end - start);
        let (block_v, rest_v) = v.split_at(2, end - start);
        (k, v) = (rest_k, rest_v);
        let visible = if rows.len() == 0 { 0..0 } else { rows.visible_in(start, &(0..rows.len())) };
        if !visible.is_empty() {
            sums_k.fill(0.0);
            sums_v.fill(0.0);
            let memory = [&mut *keys_t, &mut *values_t, &mut *panels];
            let mut block = KeyBlock::pack(&head, start, visible.clone(), memory, spare);
            let mut sums = BlockSums {
                keys: [&mut *sums_k, &mut *sums_v],
                queries: &mut *queries,
                bias: bias.as_mut().map(|bias| {
                    let bias = bias.reborrow();
                    let of_block = start - keys.start..end - keys.start;
                    if bias.shape()[3] > 1 { bias.slice(3, of_block) } else { bias }
                }),
                distances: distances.reborrow(),
            };
            for first in (0..rows.len()).step_by(BLOCK_ROWS) {
                let of_block = first..rows.len().min(first + BLOCK_ROWS);
                row_block.add(&head, of_block, &mut block, &mut sums, spare);
            }
        }
        let scale = if M::SCALES_SCORES { inputs.scale } else { 1.0 };
        store_keys(isa, sums_k, visible.clone(), scale, block_k, spare);
        store_keys(isa, sums_v, visible, 1.0, block_v, spare);
    }
}

/// D of a row: the sum of dO O.
#[inline(always)]
fn dot<I: Isa>(isa: I, operands: &BackwardOperands<'_>, row: [usize; 4]) -> f32 {
    let mut sum = I::V::splat(isa, 0.0);
    with_any!(operands.dout, dout => with_any!(operands.out, out => {
        let (dout, out) = (dout.row(row).chunks(I::V::LANES), out.row(row).chunks(I::V::LANES));
        for (dout, out) in dout.zip(out) {
            sum = widened(isa, dout, operands.bf16).mul_add(first_lanes(isa, out), sum);
        }
    }));
    sum.sum()
}

impl<'a> KeyBlock<'a> {
    /// Packs the keys `keys` of the block that begins with key `start`, and their values.
    #[inline(always)]
    fn pack<I: Isa, M: GradientVariant<I>>(
        head: &OneHead<'_, I, M>,
        start: usize,
        keys: Range<usize>,
        [keys_t, values_t, panels]: [&'a mut [f32]; 3],
        spare: &mut [f32],
    ) -> Self {
        let OneHead { isa, variant, operands, rows, .. } = *head;
        let [k, v] = [operands.k, operands.v].map(|view| view.at(rows.sequence.batch).at(rows.kv_head));
        let first = rows.sequence.keys.start + start;
        let first_panel = keys.start / I::NR;
        let (whole, seen) =
            (first + first_panel * I::NR..first + keys.end, first + keys.start..first + keys.end);
        let panel_len = BLOCK_KEYS / M::ELEMENTS * I::NR;
        let [of_k, of_v] = [operands.inputs.dk, operands.inputs.dv].map(|width| M::k_groups(width) * I::NR);
        variant.pack_keys(isa, k.slice(0, whole.clone()), keys_t, of_k, spare);
        variant.pack_keys(isa, v.slice(0, whole), values_t, of_v, spare);
        variant.pack_values(isa, k.slice(0, seen), keys.clone(), (panels, panel_len));
        let first_key = M::summed(&keys).start;
        Self {
            start,
            keys,
            transposed: [keys_t, values_t],
            first_panel,
            panels,
            panel_len,
            first_key,
            finite: None,
        }
    }

    /// True if the keys that `panels` holds are finite.
    #[inline(always)]
    pub fn is_finite<I: Isa, M: GradientVariant<I>>(&mut self, isa: I, variant: M) -> bool {
        if let Some(finite) = self.finite {
            return finite;
        }
        let summed = M::summed(&self.keys);
        let [start, end] = [summed.start, summed.end].map(|key| (key - self.first_key) / M::ELEMENTS);
        let finite = variant.all_finite(isa, (self.panels, self.panel_len), start..end);
        self.finite = Some(finite);
        finite
    }
}

/// Writes the transpose of `sums` to the gradient \[1, 1, keys, width\] of a block, times `scale`; zeros for keys
/// outside of `visible`.
#[inline(always)]
fn store_keys<I: Isa>(
    isa: I,
    sums: &[f32],
    visible: Range<usize>,
    scale: f32,
    gradient: AnyViewMut<'_, 4>,
    spare: &mut [f32],
) {
    let [_, _, keys, width] = gradient.shape();
    let sums = View::with_strides(sums, [width, keys], [BLOCK_KEYS, 1]).expect("rows of BLOCK_KEYS floats");
    let panel_len = BLOCK_KEYS * I::NR;
    pack_panels(isa, sums.transpose(), spare, panel_len);
    with_any_mut!(gradient, gradient => store_rows(isa, (spare, panel_len), visible, scale, gradient));
}

/// Writes rows of panels to the gradient \[1, 1, keys, width\], times `scale`; zeros for keys outside of `visible`.
#[inline(always)]
fn store_rows<I: Isa, T: Element>(
    isa: I,
    (panels, panel_len): (&[f32], usize),
    visible: Range<usize>,
    scale: f32,
    mut gradient: ViewMut<'_, 4, T>,
) {
    let scale = I::V::splat(isa, scale);
    for key in 0..gradient.shape()[2] {
        let row = gradient.row_mut([0, 0, key, 0]);
        if !visible.contains(&key) {
            row.fill(T::default());
            continue;
        }
        for (panel, to) in row.chunks_mut(I::NR).enumerate() {
            let from = &panels[panel * panel_len + key * I::NR..][..I::NR];
            for (to, from) in to.chunks_mut(I::V::LANES).zip(from.chunks(I::V::LANES)) {
                store_first_lanes(isa, I::V::load(isa, from) * scale, to);
            }
        }
    }
}
