//! One block of keys: partial softmaxes (m, l, O) of the rows that see it.
//!
//! ```text
//! S = Q K^T,  m = max_j S,  P = exp(S - m),  l = sum_j P,  O = P V
//! ```
//!
//! ```text
//!            K^T panels (dk x NR each)         V panels (block x NR each)
//!            +------+------+--- .. -+          +------+------+
//!            |      |      |        |          |      |      |
//!            +------+------+--- .. -+          |      |      |
//!  scale Q   scores, then weights              +------+------+
//!  strip 0   |  MR x NR tiles       |    -->   sums of strip 0
//!  strip 1   |                      |    -->   sums of strip 1
//! ```
//!
//! An [`AttentionVariant`] fills the k-groups of both products with f32 or with pairs of bf16.

use super::blocks::{BLOCK_KEYS, GROUP_ROWS};
use super::kv_source::KvSource;
use super::prefetch_schedule::PrefetchSchedule;
use super::prefetch_span::PrefetchSpan;
use super::query_rows::{AttentionOperands, QueryRows};
use super::stage::staged;
use super::variant::{AttentionVariant, factor};
use crate::gemm::multiply_panel;
use crate::isa::{A_STRIDE, Isa, KC, Microkernel, Prefetch};
use crate::parallel::part;
use crate::view::{AnyView, with_any};
use core::cmp::Ordering::Greater;
use core::ops::Range;

/// Most rows of a group: a strip may have more than [`GROUP_ROWS`].
const MAX_GROUP_ROWS: usize = 32;

/// Most strips of a group.
const MAX_STRIPS: usize = 8;

/// Partial softmax (m, l, O) of the rows of one strip over one block.
pub(super) struct PartialSoftmax<'m> {
    /// Rows of the task.
    pub rows: Range<usize>,
    /// m: largest score of each row.
    pub max: &'m [f32],
    /// l: sum of weights of each row.
    pub sum: &'m [f32],
    /// O: weighted sums of values, `stride` floats from row to row.
    pub values: &'m [f32],
    pub stride: usize,
}

impl QueryRows<'_> {
    /// Computes block `number` for all rows and calls `take` with the partial softmax of each strip that sees a
    /// key of the block. `out`, where `take` writes, is prefetched. `memory` holds [`memory_len`] floats.
    #[inline(always)]
    pub fn block<I: Isa, M: AttentionVariant<I>>(
        &self,
        isa: I,
        variant: M,
        number: usize,
        memory: &mut [f32],
        out: PrefetchSpan,
        mut take: impl FnMut(PartialSoftmax<'_>),
    ) {
        let mut block = KeyBlock::pack(isa, variant, self, number, memory);
        let strip_rows = variant.microkernel().rows().min(MAX_GROUP_ROWS);
        let strips = self.len().div_ceil(strip_rows);
        let at_once = (GROUP_ROWS / strip_rows).clamp(1, MAX_STRIPS);
        for first in (0..strips).step_by(at_once) {
            let first_row = part(self.len(), strips, first).start;
            let end = part(self.len(), strips, strips.min(first + at_once) - 1).end;
            let group_number = [first / at_once, strips.div_ceil(at_once)];
            let mut schedule = self.prefetch_schedule(number, first_row..end, group_number, out);
            let group: [QueryStrip; MAX_STRIPS] = core::array::from_fn(|i| {
                let strip = first + i;
                if i >= at_once || strip >= strips {
                    return QueryStrip::default();
                }
                let rows = part(self.len(), strips, strip);
                let place = rows.start - first_row;
                QueryStrip::new(self, block.start, rows, place)
            });
            block.score(isa, &group, &mut schedule);
            block.weigh(isa, &group);
            block.sum_values(isa, &group, &mut schedule);
            for strip in group.iter().filter(|strip| !strip.keys.is_empty()) {
                take(block.partial::<I>(strip));
            }
        }
    }
}

/// Query rows of one register tile.
#[derive(Clone, Debug, Default)]
pub(super) struct QueryStrip {
    /// Rows of the task.
    pub rows: Range<usize>,
    /// Index of the first row in the group.
    pub place: usize,
    /// Keys of the block from the first to the last that any of the rows sees.
    pub keys: Range<usize>,
    /// True if the window of each of the rows holds all of `keys`.
    pub same: bool,
}

impl QueryStrip {
    /// Strip of the rows `rows` of a task, for the block of keys that begins with key `start`.
    #[inline(always)]
    pub fn new(task: &QueryRows<'_>, start: usize, rows: Range<usize>, place: usize) -> Self {
        let keys = task.visible_in(start, &rows);
        let same = task.visible_in(start, &(rows.start..rows.start + 1)) == keys
            && task.visible_in(start, &(rows.end - 1..rows.end)) == keys;
        Self { rows, place, keys, same }
    }

    /// Keys of the block that begins with key `start` in the window of one of the rows.
    #[inline(always)]
    pub fn seen(&self, task: &QueryRows<'_>, start: usize, row: usize) -> Range<usize> {
        if self.same { self.keys.clone() } else { task.visible_in(start, &(row..row + 1)) }
    }

    /// Indices of the rows in the group.
    #[inline(always)]
    pub fn places(&self) -> Range<usize> {
        self.place..self.place + self.rows.len()
    }
}

/// Floats between the rows of weighted sums: dv in whole panels.
fn value_stride<I: Isa>(inputs: &AttentionOperands<'_>) -> usize {
    inputs.dv.next_multiple_of(I::NR)
}

/// Floats of each part of a block's memory: queries, scores, weighted sums, spare memory, keys, values.
fn memory_parts<I: Isa, M: AttentionVariant<I>>(inputs: &AttentionOperands<'_>) -> [usize; 6] {
    let dk = M::k_groups(inputs.dk);
    let queries = dk.div_ceil(KC).max(1) * MAX_GROUP_ROWS * A_STRIDE;
    let values = value_stride::<I>(inputs);
    let (panel, rows) = (BLOCK_KEYS / M::ELEMENTS * I::NR, MAX_GROUP_ROWS * A_STRIDE);
    let (packing, keys, all_values) = match inputs.source {
        KvSource::Views { .. } => (staged::<I>(), BLOCK_KEYS * dk, BLOCK_KEYS / M::ELEMENTS * values),
        KvSource::Caches { .. } => (0, 0, 0),
    };
    [queries, rows, MAX_GROUP_ROWS * values, packing.max(panel), keys, all_values]
}

/// Floats of working memory for one block.
pub(super) fn memory_len<I: Isa, M: AttentionVariant<I>>(inputs: &AttentionOperands<'_>) -> usize {
    memory_parts::<I, M>(inputs).iter().sum()
}

/// One block of keys and the memory of its computation. Ranges of keys count from `start`.
struct KeyBlock<'a, M> {
    variant: M,
    rows: &'a QueryRows<'a>,
    /// First key of the block in its sequence.
    start: usize,
    /// Keys from the first to the last that any row sees.
    keys: Range<usize>,
    /// K^T in panels of NR keys, NR k-groups for each k-group of dk.
    packed_keys: &'a [f32],
    /// Index in the block of the first panel of `packed_keys`.
    first_panel: usize,
    /// V in panels of NR columns, NR k-groups for each k-group of keys.
    packed_values: &'a [f32],
    /// Floats from one panel of `packed_values` to the next.
    panel_len: usize,
    /// First key that `packed_values` covers.
    first_value: usize,
    /// Keys whose values are in `packed_values`; the rest of their k-groups is zeros.
    held: Range<usize>,
    /// Working memory of packing, and of masking values.
    spare: &'a mut [f32],
    /// True if all packed values that `keys` sums over are finite; `None` until a strip asks.
    finite: Option<bool>,
    /// Queries of the group in k-groups: slabs of KC k-groups, rows `A_STRIDE` apart.
    queries: &'a mut [f32],
    /// Scores of the group, then its weights in k-groups; rows `A_STRIDE` apart.
    scores: &'a mut [f32],
    /// Weighted sums of values of the group; rows `value_stride` apart.
    values: &'a mut [f32],
    /// Largest score of each row of the group.
    max: [f32; MAX_GROUP_ROWS],
    /// Sum of weights of each row of the group.
    sum: [f32; MAX_GROUP_ROWS],
}

impl<'a, M> KeyBlock<'a, M> {
    /// Packs the keys and values that any row sees; a cache holds them packed already.
    #[inline(always)]
    fn pack<I: Isa>(isa: I, variant: M, rows: &'a QueryRows<'a>, block: usize, memory: &'a mut [f32]) -> Self
    where
        M: AttentionVariant<I>,
    {
        let inputs = rows.inputs;
        let [queries, scores, values, spare, packed_keys, _] = memory_parts::<I, M>(inputs);
        let (queries, memory) = memory.split_at_mut(queries);
        let (scores, memory) = memory.split_at_mut(scores);
        let (values, memory) = memory.split_at_mut(values);
        let (spare, memory) = memory.split_at_mut(spare);
        let (packed_keys, packed_values) = memory.split_at_mut(packed_keys);
        let first_key = block * BLOCK_KEYS;
        let keys = rows.visible_in(first_key, &(0..rows.len()));
        let (first_panel, panel_len, first_value, held);
        let (packed_keys, packed_values): (&[f32], &[f32]) = match inputs.source {
            KvSource::Caches { caches, .. } => {
                let panels = caches[rows.sequence.index].block(rows.kv_head, block);
                (first_panel, panel_len, first_value, held) = (0, panels.panel_len, 0, 0..panels.len);
                (panels.keys, panels.values)
            }
            KvSource::Views { k, v, .. } => {
                let Range { start, end } = keys;
                (first_panel, panel_len) = (start / I::NR, BLOCK_KEYS / M::ELEMENTS * I::NR);
                (first_value, held) = (M::summed(&keys).start, start..end);
                let first = rows.sequence.keys.start + first_key;
                let head = |view: AnyView<'a, 4>| view.at(rows.sequence.batch).at(rows.kv_head);
                let k = head(k).slice(0, first + first_panel * I::NR..first + end);
                variant.pack_keys(isa, k, packed_keys, M::k_groups(inputs.dk) * I::NR, spare);
                let v = head(v).slice(0, first + start..first + end);
                variant.pack_values(isa, v, start..end, (packed_values, panel_len));
                (packed_keys, packed_values)
            }
        };
        Self {
            variant,
            rows,
            start: first_key,
            keys,
            packed_keys,
            first_panel,
            packed_values,
            panel_len,
            first_value,
            held,
            spare,
            finite: None,
            queries,
            scores,
            values,
            max: [0.0; MAX_GROUP_ROWS],
            sum: [0.0; MAX_GROUP_ROWS],
        }
    }

    /// S = Q K^T: multiplies each strip with the panels that hold a key of its range.
    #[inline(always)]
    fn score<I: Isa>(&mut self, isa: I, group: &[QueryStrip], schedule: &mut PrefetchSchedule)
    where
        M: AttentionVariant<I>,
    {
        let inputs = self.rows.inputs;
        let sequence = &self.rows.sequence;
        let dk = M::k_groups(inputs.dk);
        for strip in group.iter().filter(|strip| !strip.keys.is_empty()) {
            for row in strip.rows.clone() {
                let (query, head) = self.rows.place(row);
                let place = strip.place + row - strip.rows.start;
                with_any!(inputs.q, q => {
                    let q = q.row([sequence.batch, head, sequence.queries.start + query, 0]);
                    for (slab, q) in q.chunks(KC * M::ELEMENTS).enumerate() {
                        let at = (slab * MAX_GROUP_ROWS + place) * A_STRIDE;
                        let to = &mut self.queries[at..][..M::k_groups(q.len())];
                        self.variant.pack_query(isa, q, inputs.scale, to);
                    }
                });
            }
        }
        for panel in self.keys.start / I::NR..self.keys.end.div_ceil(I::NR) {
            let keys = &self.packed_keys[(panel - self.first_panel) * dk * I::NR..];
            let columns = panel * I::NR..(panel + 1) * I::NR;
            let sees_some = |s: &&QueryStrip| s.keys.start < columns.end && columns.start < s.keys.end;
            for strip in group.iter().filter(sees_some) {
                for slab in 0..dk.div_ceil(KC).max(1) {
                    let shape = [strip.rows.len(), KC.min(dk - slab * KC)];
                    multiply_panel(
                        (isa, self.variant.microkernel()),
                        shape,
                        &self.queries[(slab * MAX_GROUP_ROWS + strip.place) * A_STRIDE..],
                        &keys[slab * KC * I::NR..],
                        (&mut self.scores[strip.place * A_STRIDE + columns.start..], A_STRIDE),
                        slab > 0,
                        schedule.next::<I>(shape, keys.as_ptr()),
                    );
                }
            }
        }
    }

    /// P = exp(S - m): turns the scores of a group into weights, 0 for keys that a row does not see.
    #[inline(always)]
    fn weigh<I: Isa>(&mut self, isa: I, group: &[QueryStrip])
    where
        M: AttentionVariant<I>,
    {
        let inputs = self.rows.inputs;
        // A hidden score is -inf, and the factor keeps it so only if it is positive. Otherwise `adjustment`
        // applies the scale before it hides.
        let adjusts =
            inputs.adjusts() || (M::SCALES_SCORES && inputs.scale.partial_cmp(&0.0) != Some(Greater));
        let scale = if M::SCALES_SCORES { Some(inputs.scale) } else { None };
        let factor = factor(if adjusts { 1.0 } else { inputs.scale });
        let dropout = inputs.dropout.map(
            #[inline(always)]
            |dropout| dropout.lanes(isa),
        );
        for strip in group.iter().filter(|strip| !strip.keys.is_empty()) {
            // All maxima before all weights: the reduction of one row's lanes overlaps with the loads of others.
            for (place, row) in strip.places().zip(strip.rows.clone()) {
                let seen = strip.seen(self.rows, self.start, row);
                let whole = M::whole(&seen);
                let scores = &mut self.scores[place * A_STRIDE..][..BLOCK_KEYS];
                if adjusts {
                    let adjustment = self.rows.adjustment(row, self.start + whole.start);
                    adjustment.apply(isa, &mut scores[whole.clone()], scale);
                }
                self.rows.mask(row, self.start + whole.start).hide(&mut scores[whole.clone()]);
                if whole != seen {
                    scores[whole.start..seen.start].fill(f32::NEG_INFINITY);
                    scores[seen.end..whole.end].fill(f32::NEG_INFINITY);
                }
                self.max[place] = self.variant.largest(isa, scores, whole, factor);
            }
            for (place, row) in strip.places().zip(strip.rows.clone()) {
                let whole = M::whole(&strip.seen(self.rows, self.start, row));
                let scores = &mut self.scores[place * A_STRIDE..][..BLOCK_KEYS];
                let max = &mut self.max[place];
                self.sum[place] = self.variant.weigh(isa, scores, whole.clone(), max, factor);
                if let Some(dropout) = &dropout {
                    let (query, head) = self.rows.place(row);
                    let mut bits = [0.0; BLOCK_KEYS];
                    let at = [self.rows.sequence.index, head, query];
                    dropout.bits(isa, at, self.start, whole.clone(), &mut bits);
                    self.variant.drop(isa, scores, whole.clone(), &bits, dropout);
                }
                if !strip.same || M::ELEMENTS > 1 {
                    // The product with V spans the keys of the whole strip.
                    let all = M::summed(&strip.keys);
                    let [start, end] = [whole.start, whole.end].map(|key| key / M::ELEMENTS);
                    let [first, last] = [all.start, all.end].map(|key| key / M::ELEMENTS);
                    scores[first.min(start)..start].fill(0.0);
                    scores[end..last.max(end)].fill(0.0);
                }
            }
        }
    }

    /// O = P V: multiplies the weights of a group with the values.
    #[inline(always)]
    fn sum_values<I: Isa>(&mut self, isa: I, group: &[QueryStrip], schedule: &mut PrefetchSchedule)
    where
        M: AttentionVariant<I>,
    {
        let stride = value_stride::<I>(self.rows.inputs);
        let (packed, first) = (self.packed_values, self.first_value);
        let microkernel = self.variant.microkernel();
        for (panel, values) in packed.chunks_exact(self.panel_len).enumerate() {
            for strip in group.iter().filter(|strip| !strip.keys.is_empty()) {
                let scores = &self.scores[strip.place * A_STRIDE..];
                let sums = &mut self.values[strip.place * stride + panel * I::NR..];
                // A weight of 0 drops a key that a row does not see, unless its value is not finite: 0 * NaN is
                // NaN.
                let keys = M::summed(&strip.keys);
                let held = keys.start.max(self.held.start)..keys.end.min(self.held.end);
                let all = strip.same && held == strip.keys && !self.rows.inputs.hides();
                if !all && self.finite.is_none() {
                    let summed = M::summed(&self.keys);
                    let [start, end] = [summed.start, summed.end].map(|key| (key - first) / M::ELEMENTS);
                    self.finite = Some(self.variant.all_finite(isa, (packed, self.panel_len), start..end));
                }
                let k_groups = keys.len() / M::ELEMENTS;
                let values = &values[(keys.start - first) / M::ELEMENTS * I::NR..][..k_groups * I::NR];
                let scores = &scores[keys.start / M::ELEMENTS..];
                if all || self.finite == Some(true) {
                    let shape = [strip.rows.len(), k_groups];
                    let prefetch = schedule.next::<I>(shape, values.as_ptr());
                    multiply_panel(
                        (isa, microkernel),
                        shape,
                        scores,
                        values,
                        (sums, stride),
                        false,
                        prefetch,
                    );
                    continue;
                }
                // Each row multiplies a copy of the values that is 0 for the keys it does not see. A row that sees
                // only finite values gets the same bits on both paths.
                for (i, row) in strip.rows.clone().enumerate() {
                    let (scores, sums) = (&scores[i * A_STRIDE..], &mut sums[i * stride..]);
                    let hidden = self.rows.hidden(row, self.start);
                    let visible = self.rows.visible_in(self.start, &(row..row + 1));
                    let seen = |key: usize| visible.contains(&key) && !hidden.contains(key);
                    let masked = &mut self.spare[..k_groups * I::NR];
                    self.variant.mask_values(isa, values, keys.start, seen, masked);
                    let none = Prefetch::none(values.as_ptr());
                    multiply_panel(
                        (isa, microkernel),
                        [1, k_groups],
                        scores,
                        masked,
                        (sums, stride),
                        false,
                        none,
                    );
                }
            }
        }
    }

    /// Partial softmax of a strip.
    #[inline(always)]
    fn partial<I: Isa>(&self, strip: &QueryStrip) -> PartialSoftmax<'_> {
        let places = strip.places();
        let stride = value_stride::<I>(self.rows.inputs);
        PartialSoftmax {
            rows: strip.rows.clone(),
            max: &self.max[places.clone()],
            sum: &self.sum[places],
            values: &self.values[strip.place * stride..],
            stride,
        }
    }
}
