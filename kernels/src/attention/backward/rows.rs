//! One block of rows: its operands, and its products with a block of keys.

use super::super::block::QueryStrip;
use super::super::blocks::BLOCK_KEYS;
use super::super::query_rows::AttentionOperands;
use super::operands::{BlockSums, KeyBlock, OneHead, query_stride, take};
use super::variant::{BLOCK_ROWS, GradientVariant, ROWS_LEN};
use super::weights::{RowBiases, weigh};
use crate::gemm::{multiply_columns, multiply_panel};
use crate::isa::{A_STRIDE, Isa, KC, Microkernel, Prefetch};
use crate::parallel::part;
use crate::view::with_any;
use core::ops::Range;

/// Most rows of a strip.
const MAX_STRIP_ROWS: usize = 32;

/// Most strips of a block: a strip of a microkernel of at least 4 rows has at least 4, the last one aside.
const MAX_STRIPS: usize = BLOCK_ROWS / 4;

/// Floats of working memory to mask operands.
pub(super) fn spare_len<I: Isa>() -> usize {
    (BLOCK_KEYS * I::NR).max(MAX_STRIP_ROWS * (A_STRIDE + I::NR)).max(2 * ROWS_LEN)
}

/// Block of rows in the operands' formats.
pub(super) struct RowBlock<'m> {
    /// Q, times the scale unless scores are scaled, and dO: slabs of rows of A.
    packed: [&'m mut [f32]; 2],
    /// Q^T and dO^T: rows of A.
    transposed: [&'m mut [f32]; 2],
    /// Scores, then P (m P with dropout), and dO V^T, then dS: rows `A_STRIDE` apart.
    factors: [&'m mut [f32]; 2],
    /// Columns of P and dS, where they differ from `factors`.
    columns: [&'m mut [f32]; 2],
    /// Derivatives of the softcap of one row.
    slopes: &'m mut [f32],
    /// True if Q^T and dO^T are finite; `None` until a panel asks.
    finite: Option<bool>,
}

/// Floats of the parts of a block of rows: of q and dout each, and of the columns of each factor.
fn parts<I: Isa, M: GradientVariant<I>>(inputs: &AttentionOperands<'_>) -> ([[usize; 2]; 2], usize) {
    let slabs = |width| M::k_groups(width).div_ceil(KC).max(1);
    ([inputs.dk, inputs.dv].map(|width| [slabs(width) * ROWS_LEN, width * A_STRIDE]), M::COLUMNS_LEN)
}

/// Floats of memory of a block of rows.
pub(super) fn memory_len<I: Isa, M: GradientVariant<I>>(inputs: &AttentionOperands<'_>) -> usize {
    let (widths, columns) = parts::<I, M>(inputs);
    widths.as_flattened().iter().sum::<usize>() + 2 * ROWS_LEN + 2 * columns + BLOCK_KEYS
}

impl<'m> RowBlock<'m> {
    #[inline(always)]
    pub fn new<I: Isa, M: GradientVariant<I>>(inputs: &AttentionOperands<'_>, memory: &'m mut [f32]) -> Self {
        let mut memory = memory;
        let ([[q, q_t], [dout, dout_t]], columns) = parts::<I, M>(inputs);
        Self {
            packed: [take(&mut memory, q), take(&mut memory, dout)],
            transposed: [take(&mut memory, q_t), take(&mut memory, dout_t)],
            factors: [take(&mut memory, ROWS_LEN), take(&mut memory, ROWS_LEN)],
            columns: [take(&mut memory, columns), take(&mut memory, columns)],
            slopes: take(&mut memory, BLOCK_KEYS),
            finite: None,
        }
    }

    /// Adds the gradients of `rows`, rows of the head, and of the keys of a block. `spare` holds [`spare_len`] floats.
    #[inline(always)]
    pub fn add<I: Isa, M: GradientVariant<I>>(
        &mut self,
        head: &OneHead<'_, I, M>,
        rows: Range<usize>,
        block: &mut KeyBlock<'_>,
        sums: &mut BlockSums<'_, '_>,
        spare: &mut [f32],
    ) {
        let keys = head.rows.visible_in(block.start, &rows);
        if keys.is_empty() {
            return;
        }
        let strip_rows = head.variant.microkernel().rows().min(MAX_STRIP_ROWS);
        let strips = rows.len().div_ceil(strip_rows);
        let mut all: [QueryStrip; MAX_STRIPS] = core::array::from_fn(
            #[inline(always)]
            |_| QueryStrip::default(),
        );
        for (i, strip) in all[..strips].iter_mut().enumerate() {
            let places = part(rows.len(), strips, i);
            let of_head = rows.start + places.start..rows.start + places.end;
            *strip = QueryStrip::new(head.rows, block.start, of_head, places.start);
        }
        let strips = &all[..strips];
        self.pack(head, rows, spare);
        self.multiply(head, strips, block, &keys);
        let hides = self.weigh(head, strips, block, &keys, sums);
        let [p, ds] = &mut self.factors;
        let [columns_p, columns_ds] = &mut self.columns;
        let n = strips.iter().map(|strip| strip.rows.len()).sum();
        head.variant.pack_factors(head.isa, [p, ds], n, whole_panels::<I, M>(&keys), [columns_p, columns_ds]);
        self.sum_rows(head, strips, hides, block, &keys, &mut sums.keys, spare);
        self.sum_keys(head, strips, hides, block, sums.queries, spare);
    }

    /// Packs Q and dO, and their transposes.
    #[inline(always)]
    fn pack<I: Isa, M: GradientVariant<I>>(
        &mut self,
        head: &OneHead<'_, I, M>,
        rows: Range<usize>,
        spare: &mut [f32],
    ) {
        let OneHead { isa, variant, operands, .. } = *head;
        let (inputs, n) = (&operands.inputs, rows.len());
        let [queries, douts] = &mut self.packed;
        for (place, row) in rows.enumerate() {
            let at = head.index(row);
            with_any!(inputs.q, q => for (slab, q) in q.row(at).chunks(KC * M::ELEMENTS).enumerate() {
                let to = &mut queries[slab * ROWS_LEN + place * A_STRIDE..][..M::k_groups(q.len())];
                variant.pack_query(isa, q, inputs.scale, to);
            });
            with_any!(operands.dout, dout => for (slab, dout) in dout.row(at).chunks(KC * M::ELEMENTS).enumerate() {
                let to = &mut douts[slab * ROWS_LEN + place * A_STRIDE..][..M::k_groups(dout.len())];
                variant.pack_row(isa, dout, to);
            });
        }
        let widths = [inputs.dk, inputs.dv];
        for ((from, to), width) in self.packed.iter().zip(&mut self.transposed).zip(widths) {
            variant.transpose(isa, from, [n, width], to, spare);
        }
        self.finite = None;
    }

    /// S = Q K^T and dO V^T: multiplies each strip with the panels that hold a key of its range.
    #[inline(always)]
    fn multiply<I: Isa, M: GradientVariant<I>>(
        &mut self,
        head: &OneHead<'_, I, M>,
        strips: &[QueryStrip],
        block: &KeyBlock<'_>,
        keys: &Range<usize>,
    ) {
        let inputs = &head.operands.inputs;
        for (side, width) in [inputs.dk, inputs.dv].into_iter().enumerate() {
            let (packed, k_groups) = (&self.packed[side], M::k_groups(width));
            for panel in keys.start / I::NR..keys.end.div_ceil(I::NR) {
                let b = &block.transposed[side][(panel - block.first_panel) * k_groups * I::NR..];
                let columns = panel * I::NR..(panel + 1) * I::NR;
                for strip in strips.iter().filter(
                    #[inline(always)]
                    |strip| overlap(&strip.keys, &columns),
                ) {
                    for slab in 0..k_groups.div_ceil(KC).max(1) {
                        let c = &mut self.factors[side][strip.place * A_STRIDE + columns.start..];
                        multiply_panel(
                            (head.isa, head.variant.microkernel()),
                            [strip.rows.len(), KC.min(k_groups - slab * KC)],
                            &packed[slab * ROWS_LEN + strip.place * A_STRIDE..],
                            &b[slab * KC * I::NR..],
                            (c, A_STRIDE),
                            slab > 0,
                            Prefetch::none(b.as_ptr()),
                        );
                    }
                }
            }
        }
    }

    /// Turns scores into P (m P with dropout), and products into dS, with zeros for keys that a row does not see. Returns
    /// true if a row does not see a key of its window.
    #[inline(always)]
    fn weigh<I: Isa, M: GradientVariant<I>>(
        &mut self,
        head: &OneHead<'_, I, M>,
        strips: &[QueryStrip],
        block: &KeyBlock<'_>,
        keys: &Range<usize>,
        sums: &mut BlockSums<'_, '_>,
    ) -> bool {
        let (isa, inputs) = (head.isa, &head.operands.inputs);
        let all = whole_panels::<I, M>(keys);
        let scale = if M::SCALES_SCORES { Some(inputs.scale) } else { None };
        let plain = !inputs.adjusts() && !inputs.hides();
        let mut hides = inputs.hides();
        let dropout = inputs.dropout.map(
            #[inline(always)]
            |dropout| dropout.lanes(isa),
        );
        let mut factors = [0.0; BLOCK_KEYS];
        for strip in strips {
            for (place, row) in (strip.place..).zip(strip.rows.clone()) {
                let statistics = head.statistics(row);
                let sees_none = statistics.lse == f32::NEG_INFINITY;
                hides |= sees_none;
                let [scores, products] = &mut self.factors;
                let scores = &mut scores[place * A_STRIDE..][..BLOCK_KEYS];
                let products = &mut products[place * A_STRIDE..][..BLOCK_KEYS];
                let seen = if sees_none { 0..0 } else { strip.seen(head.rows, block.start, row) };
                if seen.is_empty() {
                    scores[all.clone()].fill(0.0);
                    products[all.clone()].fill(0.0);
                    continue;
                }
                let whole = M::whole(&seen);
                let kept = dropout.as_ref().map(
                    #[inline(always)]
                    |dropout| {
                        let (query, head_index) = head.rows.place(row);
                        let at = [head.rows.sequence.index, head_index, query];
                        dropout.factors(isa, at, block.start, whole.clone(), &mut factors);
                        &factors[whole.clone()]
                    },
                );
                if plain {
                    weigh(isa, &mut scores[whole.clone()], &mut products[whole], scale, kept, statistics);
                } else {
                    let (rows, block) = (head.rows, block.start);
                    let distances = head.distances(&mut sums.distances, row, block);
                    let bias = sums.bias.as_mut();
                    let biases = RowBiases { rows, row, block, scale, kept, bias, distances };
                    biases.weigh(isa, scores, products, (&seen, &whole), self.slopes, statistics);
                }
                if seen != all {
                    for x in [scores, products] {
                        x[all.start..seen.start].fill(0.0);
                        x[seen.end..all.end].fill(0.0);
                    }
                }
            }
        }
        hides
    }

    /// dK^T += Q^T dS and dV^T += dO^T P, panel by panel of keys, over the rows of the strips that see a key of the
    /// panel.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "the operands of two products")]
    fn sum_rows<I: Isa, M: GradientVariant<I>>(
        &mut self,
        head: &OneHead<'_, I, M>,
        strips: &[QueryStrip],
        hides: bool,
        block: &KeyBlock<'_>,
        keys: &Range<usize>,
        sums: &mut [&mut [f32]; 2],
        spare: &mut [f32],
    ) {
        let inputs = &head.operands.inputs;
        let n = strips.last().map_or(0, |strip| strip.places().end);
        let first_row = strips.first().map_or(0, |strip| strip.rows.start);
        for panel in keys.start / I::NR..keys.end.div_ceil(I::NR) {
            let columns = panel * I::NR..(panel + 1) * I::NR;
            let held = columns.start.max(block.keys.start)..columns.end.min(block.keys.end);
            let overlapping = strips.iter().filter(
                #[inline(always)]
                |strip| overlap(&strip.keys, &columns),
            );
            let (mut rows, mut all) = (n..0, !hides);
            for strip in overlapping {
                rows = rows.start.min(strip.place)..strip.places().end;
                all &= strip.same && strip.keys.start <= held.start && held.end <= strip.keys.end;
            }
            if rows.is_empty() {
                continue;
            }
            let rows = M::summed_rows(rows);
            // A weight of 0 drops a row that does not see a key, unless an element of the row is not finite.
            let masked = !all && !self.is_finite(head, n);
            for (side, width) in [inputs.dk, inputs.dv].into_iter().enumerate() {
                let (a, factor) = (&self.transposed[side], 1 - side);
                let b = head.variant.columns(self.factors[factor], self.columns[factor], panel, &rows);
                let strips = width.div_ceil(head.variant.microkernel().rows().min(MAX_STRIP_ROWS));
                for dims in (0..strips).map(
                    #[inline(always)]
                    |i| part(width, strips, i),
                ) {
                    let a = &a[dims.start * A_STRIDE..];
                    let shape = [dims.len(), rows.len() / M::ELEMENTS];
                    let c = &mut sums[side][dims.start * BLOCK_KEYS + columns.start..];
                    let none = Prefetch::none(b.0.as_ptr());
                    if !masked {
                        let a = &a[rows.start / M::ELEMENTS..];
                        multiply_columns(
                            (head.isa, head.variant.microkernel()),
                            shape,
                            a,
                            b,
                            (c, BLOCK_KEYS),
                            true,
                            none,
                        );
                        continue;
                    }
                    // Each key multiplies a copy of A that is 0 for the rows that do not see it. A key that only
                    // finite rows see gets the same bits on both paths.
                    let (tile, masked) = spare.split_at_mut(MAX_STRIP_ROWS * I::NR);
                    for key in held.clone() {
                        for i in 0..dims.len() {
                            let (from, to) = (&a[i * A_STRIDE..], &mut masked[i * A_STRIDE..]);
                            let seen = |row: usize| row < n && head.sees(first_row + row, block.start + key);
                            head.variant.mask_rows(from, &rows, seen, to);
                            tile[i * I::NR..][..I::NR].copy_from_slice(&c[i * BLOCK_KEYS..][..I::NR]);
                        }
                        let microkernel = (head.isa, head.variant.microkernel());
                        multiply_columns(microkernel, shape, masked, b, (&mut *tile, I::NR), true, none);
                        for i in 0..dims.len() {
                            c[i * BLOCK_KEYS + key - columns.start] = tile[i * I::NR + key - columns.start];
                        }
                    }
                }
            }
        }
    }

    /// True if Q^T and dO^T of `n` rows are finite.
    #[inline(always)]
    fn is_finite<I: Isa, M: GradientVariant<I>>(&mut self, head: &OneHead<'_, I, M>, n: usize) -> bool {
        if let Some(finite) = self.finite {
            return finite;
        }
        // Rows of A have zeros behind their last k-group, up to a whole number of vectors.
        let k_groups = 0..n.div_ceil(M::ELEMENTS).div_ceil(I::NR);
        // A loop, because `all` of an iterator is not always inlined.
        let mut finite = true;
        for x in &self.transposed {
            finite &= head.variant.all_finite(head.isa, (x, A_STRIDE), k_groups.clone());
        }
        self.finite = Some(finite);
        finite
    }

    /// dQ += dS K, for each strip over the keys that it sees.
    #[inline(always)]
    fn sum_keys<I: Isa, M: GradientVariant<I>>(
        &mut self,
        head: &OneHead<'_, I, M>,
        strips: &[QueryStrip],
        hides: bool,
        block: &mut KeyBlock<'_>,
        sums: &mut [f32],
        spare: &mut [f32],
    ) {
        let (isa, variant) = (head.isa, head.variant);
        let stride = query_stride::<I>(head.operands.inputs.dk);
        for (panel, values) in block.panels.chunks_exact(block.panel_len).enumerate() {
            for strip in strips.iter().filter(|strip| !strip.keys.is_empty()) {
                let keys = M::summed(&strip.keys);
                let held = keys.start.max(block.keys.start)..keys.end.min(block.keys.end);
                let all = strip.same && held == strip.keys && !hides;
                let k_groups = keys.len() / M::ELEMENTS;
                let values =
                    &values[(keys.start - block.first_key) / M::ELEMENTS * I::NR..][..k_groups * I::NR];
                let a = &self.factors[1][strip.place * A_STRIDE + keys.start / M::ELEMENTS..];
                let c = &mut sums[strip.rows.start * stride + panel * I::NR..];
                let none = Prefetch::none(values.as_ptr());
                let microkernel = (isa, variant.microkernel());
                if all || block.is_finite(isa, variant) {
                    multiply_panel(
                        microkernel,
                        [strip.rows.len(), k_groups],
                        a,
                        values,
                        (c, stride),
                        true,
                        none,
                    );
                    continue;
                }
                // Each row multiplies a copy of the keys that is 0 for the keys it does not see, as in the forward
                // call.
                for (i, row) in strip.rows.clone().enumerate() {
                    let seen = |key: usize| head.sees(row, block.start + key);
                    let masked = &mut spare[..k_groups * I::NR];
                    variant.mask_values(isa, values, keys.start, seen, masked);
                    let (a, c) = (&a[i * A_STRIDE..], &mut c[i * stride..]);
                    multiply_panel(microkernel, [1, k_groups], a, masked, (c, stride), true, none);
                }
            }
        }
    }
}

/// Range of keys whose scores the operands of later products cover: whole panels and whole k-groups.
#[inline(always)]
fn whole_panels<I: Isa, M: GradientVariant<I>>(keys: &Range<usize>) -> Range<usize> {
    M::summed(&(keys.start / I::NR * I::NR..keys.end.next_multiple_of(I::NR)))
}

/// True if the ranges share an element.
#[inline(always)]
fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start.max(b.start) < a.end.min(b.end)
}
