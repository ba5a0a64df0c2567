//! Tasks: rows and blocks of keys that a thread computes, and the merge of partial softmaxes into outputs.
//!
//! ```text
//! run          a task computes and merges all blocks of its rows
//! split_keys   pass 1: a task computes one block of all rows of a kv head     few queries, many keys
//!              pass 2: a task merges all blocks of a kv head, in ascending order
//! ```

use super::block::{PartialSoftmax, memory_len};
use super::blocks::BLOCK_KEYS;
use super::kv_source::KvSource;
use super::prefetch_span::PrefetchSpan;
use super::query_rows::{AttentionOperands, QueryRows};
use super::row_ops::{combine, merge};
use super::variant::AttentionVariant;
use crate::element::{Element, store_first_lanes};
use crate::isa::{Isa, Vector};
use crate::view::{AnyView, AnyViewMut, with_any_mut};
use crate::view::{View, ViewMut};
use crate::{math, parallel, scratch};

/// Most rows of a kv head for which threads divide its blocks of keys. With few rows, packing is most of the work,
/// and each task of rows would repeat it.
const SMALL_M_ROWS: usize = 64;

/// Least rows of a task whose keys other tasks pack, too: packing a block is then less than 5% of the work on it.
const MIN_TASK_ROWS: usize = 128;

/// Most rows of a task. Each block of keys is merged into the outputs of all rows, so these should stay in the
/// second-level cache: at 128 columns they are 1 MiB. With 8192 keys, the limit saves up to 7% of the time.
const MAX_TASK_ROWS: usize = 2048;

/// Multiply-adds below which a second thread costs more than it saves: about 20 us on one core.
const PARALLEL_WORK: usize = 2 << 20;

/// Computes `outputs`, which must not be empty.
pub(super) fn run<I: Isa, M: AttentionVariant<I>>(
    isa: I,
    variant: M,
    inputs: &AttentionOperands<'_>,
    outputs: AttentionOutputs<'_, AnyViewMut<'_, 4>>,
) {
    let AttentionOperands { kv_heads, dk, dv, group, .. } = *inputs;
    let [batch, _, queries, _] = inputs.q.shape();
    let keys = inputs.layout.longest()[1];
    // Packing keys takes as long as multiplying 16 rows with them; reading packed keys, as long as 4 rows.
    let least = if matches!(inputs.source, KvSource::Caches { .. }) { 4 } else { 16 };
    let work = (batch * kv_heads * (queries * group).max(least)).saturating_mul(keys).saturating_mul(dk + dv);
    // Two tasks for each thread even out tasks of different length.
    let tasks = match parallel::threads() {
        1 => 1,
        _ if work < PARALLEL_WORK => 1,
        threads => 2 * threads,
    };
    let parts = tasks.div_ceil(batch * kv_heads);
    if parts > 1 && keys > BLOCK_KEYS && queries * group <= SMALL_M_ROWS {
        return split_keys(isa, variant, inputs, outputs, keys.div_ceil(BLOCK_KEYS));
    }
    // Rows of a sequence. Packed sequences partial no keys, so a task gains nothing from rows of a second one.
    let sequence = queries.div_ceil((inputs.layout.len() / batch).max(1));
    let grain =
        queries.div_ceil(parts).max(sequence.min(MIN_TASK_ROWS / group)).min(MAX_TASK_ROWS / group).max(1);
    outputs.for_each_block(isa, [1, group, grain], tasks > 1, &|origin, mut outputs| {
        let rows = outputs.out.shape()[2] * group;
        let out = PrefetchSpan::of(AnyView::F32(outputs.out.as_view().at(0)));
        scratch::with(2 * rows + memory_len::<I, M>(inputs), |memory| {
            isa.run(
                #[inline(always)]
                || {
                    let (state, memory) = memory.split_at_mut(2 * rows);
                    for rows in QueryRows::of_queries(inputs, origin, outputs.out.shape()[2]) {
                        let mut merging = PartialMerge::new(&rows, origin[2], &mut outputs, state);
                        let out = out.part(0..group, rows.first_query() - origin[2]..usize::MAX);
                        for block in rows.blocks() {
                            let end = (block + 1) * BLOCK_KEYS;
                            rows.block(
                                isa,
                                variant,
                                block,
                                memory,
                                out,
                                #[inline(always)]
                                |partial| {
                                    let last = rows.visible(&partial.rows).end <= end;
                                    merging.take(isa, partial, last);
                                },
                            );
                        }
                    }
                },
            );
        });
    });
}

/// Computes `outputs` in two passes over shared memory: the partial softmaxes of each block for all rows, then their
/// merge in ascending order of blocks, so that the bits are those of a single task.
fn split_keys<I: Isa, M: AttentionVariant<I>>(
    isa: I,
    variant: M,
    inputs: &AttentionOperands<'_>,
    outputs: AttentionOutputs<'_, AnyViewMut<'_, 4>>,
    blocks: usize,
) {
    let AttentionOperands { kv_heads, dv, group, .. } = *inputs;
    let [batch, _, queries, _] = inputs.q.shape();
    let rows = queries * group;
    let shape = [batch * kv_heads * blocks, rows * (2 + dv)];
    scratch::with(shape[0] * shape[1], |partials| {
        let all = ViewMut::new(partials, shape).expect("as long as its shape");
        parallel::for_each_block(all, 1, &|task, mut partials| {
            let (head, block) = (task / blocks, task % blocks);
            let partials = partials.row_mut([0, 0]);
            scratch::with(memory_len::<I, M>(inputs), |memory| {
                isa.run(
                    #[inline(always)]
                    || {
                        let (max, rest) = partials.split_at_mut(rows);
                        let (sum, values) = rest.split_at_mut(rows);
                        max.fill(f32::NEG_INFINITY);
                        sum.fill(0.0);
                        values.fill(0.0);
                        for part in QueryRows::of_queries(
                            inputs,
                            [head / kv_heads, head % kv_heads * group, 0],
                            queries,
                        ) {
                            if !part.blocks().contains(&block) {
                                continue;
                            }
                            let first = part.first_query() * group;
                            part.block(
                                isa,
                                variant,
                                block,
                                memory,
                                PrefetchSpan::NOTHING,
                                #[inline(always)]
                                |partial| {
                                    let to = first + partial.rows.start..first + partial.rows.end;
                                    max[to.clone()].copy_from_slice(partial.max);
                                    sum[to.clone()].copy_from_slice(partial.sum);
                                    for (i, row) in to.enumerate() {
                                        values[row * dv..][..dv]
                                            .copy_from_slice(&partial.values[i * partial.stride..][..dv]);
                                    }
                                },
                            );
                        }
                    },
                );
            });
        });
        let partials = View::new(partials, shape).expect("as long as its shape");
        outputs.for_each_block(isa, [1, group, queries], true, &|origin, mut outputs| {
            let head = origin[0] * kv_heads + origin[1] / group;
            scratch::with(2 * rows, |state| {
                isa.run(
                    #[inline(always)]
                    || {
                        for part in QueryRows::of_queries(inputs, origin, queries) {
                            let mut merging = PartialMerge::new(&part, 0, &mut outputs, state);
                            let first = part.first_query() * group;
                            for block in part.blocks() {
                                let (max, rest) = partials.row([head * blocks + block, 0]).split_at(rows);
                                let (sum, values) = rest.split_at(rows);
                                let all = first..first + part.len();
                                let partial = PartialSoftmax {
                                    rows: 0..part.len(),
                                    max: &max[all.clone()],
                                    sum: &sum[all.clone()],
                                    values: &values[first * dv..],
                                    stride: dv,
                                };
                                merging.take(isa, partial, block + 1 == part.blocks().end);
                            }
                        }
                    },
                );
            });
        });
    });
}

/// Outputs of a call, or a block of them: out \[batch, heads, queries, dv\] and log-sum-exps
/// \[batch, heads, queries, 1\]. The last dimension is 0 if the log-sum-exps are not wanted.
pub(super) struct AttentionOutputs<'a, V = ViewMut<'a, 4>> {
    pub out: V,
    pub lse: ViewMut<'a, 4>,
}

impl AttentionOutputs<'_, AnyViewMut<'_, 4>> {
    /// Cuts the first three dimensions into blocks of `grain` and calls `f` for each, with the index of its first
    /// row; on the threads of the pool if `parallel`.
    fn for_each_block<I: Isa>(
        self,
        isa: I,
        grain: [usize; 3],
        parallel: bool,
        f: &(impl Fn([usize; 3], AttentionOutputs<'_>) + Sync),
    ) {
        self.for_each_block_from([0; 3], grain, parallel, &|origin, outputs| {
            outputs.with_floats(isa, origin, f)
        });
    }

    fn for_each_block_from(
        self,
        origin: [usize; 3],
        grain: [usize; 3],
        parallel: bool,
        f: &(impl Fn([usize; 3], Self) + Sync),
    ) {
        let shape = self.out.shape();
        let Some(dim) = (0..3).find(|&d| shape[d] > grain[d]) else {
            return f(origin, self);
        };
        let mid = shape[dim].div_ceil(grain[dim]) / 2 * grain[dim];
        let (low, high) = self.out.split_at(dim, mid);
        let (low_lse, high_lse) = self.lse.split_at(dim, mid);
        let mut beyond = origin;
        beyond[dim] += mid;
        let low =
            || AttentionOutputs { out: low, lse: low_lse }.for_each_block_from(origin, grain, parallel, f);
        let high =
            || AttentionOutputs { out: high, lse: high_lse }.for_each_block_from(beyond, grain, parallel, f);
        if parallel {
            parallel::join(low, high);
        } else {
            low();
            high();
        }
    }

    /// Calls `f` with outputs in f32, which accumulate the blocks of keys; then rounds each element once.
    fn with_floats<I: Isa>(self, isa: I, origin: [usize; 3], f: &impl Fn([usize; 3], AttentionOutputs<'_>)) {
        let Self { out, lse } = self;
        let shape = out.shape();
        match out {
            AnyViewMut::F32(out) => f(origin, AttentionOutputs { out, lse }),
            out => scratch::with(shape.iter().product(), |floats| {
                f(
                    origin,
                    AttentionOutputs { out: ViewMut::new(floats, shape).expect("as long as its shape"), lse },
                );
                let floats = View::new(floats, shape).expect("as long as its shape");
                with_any_mut!(out, out => isa.run(
                    #[inline(always)]
                    || round(isa, floats, out),
                ));
            }),
        }
    }
}

/// Rounds `floats` to the nearest elements of `out`.
#[inline(always)]
fn round<I: Isa, T: Element>(isa: I, floats: View<'_, 4>, mut out: ViewMut<'_, 4, T>) {
    let [batch, heads, queries, _] = out.shape();
    for b in 0..batch {
        for (head, query) in (0..heads).flat_map(|head| (0..queries).map(move |query| (head, query))) {
            let to = out.row_mut([b, head, query, 0]).chunks_mut(I::V::LANES);
            for (from, to) in floats.row([b, head, query, 0]).chunks(I::V::LANES).zip(to) {
                store_first_lanes(isa, I::V::load_partial(isa, from, 0.0), to);
            }
        }
    }
}

/// Sum of weights of a row whose output is not written yet. A written row whose weights are all 0 has the sum -0
/// instead: scores of -inf weigh 0, but 0 times an infinite value is NaN and must stay.
const UNWRITTEN: f32 = 0.0;

/// Merge of the partial softmaxes of rows into their outputs; the running O of each row is its output.
struct PartialMerge<'a, 'o> {
    rows: &'a QueryRows<'a>,
    /// Index of the first query of `rows` in `outputs`.
    query: usize,
    outputs: &'a mut AttentionOutputs<'o>,
    /// m: largest score of each row so far.
    max: &'a mut [f32],
    /// l: sum of weights of each row so far, relative to m, or [`UNWRITTEN`].
    sum: &'a mut [f32],
}

impl<'a, 'o> PartialMerge<'a, 'o> {
    /// Starts before the first block, and finishes rows that see no block. `first` is the first query of `outputs`;
    /// `state` holds at least two floats for each row.
    fn new(
        rows: &'a QueryRows<'a>,
        first: usize,
        outputs: &'a mut AttentionOutputs<'o>,
        state: &'a mut [f32],
    ) -> Self {
        let (max, sum) = state.split_at_mut(state.len() / 2);
        max.fill(f32::NEG_INFINITY);
        sum.fill(UNWRITTEN);
        let mut merging = Self { rows, query: rows.first_query() - first, outputs, max, sum };
        // The window moves with the queries, so only the first and last queries of a sequence can see no key.
        let sees_nothing = |row: &usize| rows.visible(&(*row..row + 1)).is_empty();
        let first = (0..rows.len()).find(|row| !sees_nothing(row)).unwrap_or(rows.len());
        let last = (first..rows.len()).rfind(|row| !sees_nothing(row)).map_or(first, |row| row + 1);
        for row in (0..first).chain(last..rows.len()) {
            merging.finish_without_weights(row);
        }
        merging
    }

    /// Output of a row.
    #[inline(always)]
    fn out(&mut self, row: usize) -> &mut [f32] {
        let (query, head) = self.rows.inputs.query_and_head(row);
        self.outputs.out.row_mut([0, head, self.query + query, 0])
    }

    /// Finishes a row whose weights are all 0: 0 if it sees no key, NaN if all of its scores are -inf.
    fn finish_without_weights(&mut self, row: usize) {
        let (out, lse) =
            if self.rows.sees_any(row) { (f32::NAN, f32::NAN) } else { (0.0, f32::NEG_INFINITY) };
        self.out(row).fill(out);
        self.set_lse(row, lse);
    }

    /// Stores the log-sum-exp of a row, if wanted.
    #[inline(always)]
    fn set_lse(&mut self, row: usize, lse: f32) {
        if !self.outputs.lse.is_empty() {
            let (query, head) = self.rows.inputs.query_and_head(row);
            self.outputs.lse.set([0, head, self.query + query, 0], lse);
        }
    }

    /// Merges a partial softmax of the next block. If `last`, the rows see no later block and are finished.
    #[inline(always)]
    fn take<I: Isa>(&mut self, isa: I, partial: PartialSoftmax<'_>, last: bool) {
        let scale = self.rows.inputs.dropout.map_or(1.0, |dropout| dropout.scale() as f32);
        for at in (0..partial.rows.len()).step_by(I::V::LANES) {
            let part = at..partial.rows.len().min(at + I::V::LANES);
            let rows = partial.rows.start + part.start..partial.rows.start + part.end;
            let (max, sum) = (&mut self.max[rows.clone()], &mut self.sum[rows.clone()]);
            let old = (I::V::load_partial(isa, max, 0.0), I::V::load_partial(isa, sum, 0.0));
            let new = (
                I::V::load_partial(isa, &partial.max[part.clone()], 0.0),
                I::V::load_partial(isa, &partial.sum[part], 0.0),
            );
            let merged = merge(isa, old, new);
            let (mut old, mut new, mut before, mut lse) = ([0.0; 16], [0.0; 16], [0.0; 16], [0.0; 16]);
            before[..sum.len()].copy_from_slice(sum);
            merged.old.store_partial(&mut old);
            merged.new.store_partial(&mut new);
            merged.max.store_partial(max);
            merged.sum.store_partial(sum);
            if last {
                (merged.max + math::log(isa, merged.sum)).store_partial(&mut lse);
            }
            for (i, row) in rows.enumerate() {
                let values = &partial.values[(at + i) * partial.stride..];
                let sum = self.sum[row];
                if sum == 0.0 {
                    self.sum[row] = -0.0;
                }
                if last && sum == 0.0 {
                    self.finish_without_weights(row);
                    continue;
                }
                let old = if before[i].to_bits() == UNWRITTEN.to_bits() { None } else { Some(old[i]) };
                let factor = if last { Some(scale / sum) } else { None };
                combine(isa, self.out(row), old, (values, new[i]), factor);
                if last {
                    self.set_lse(row, lse[i]);
                }
            }
        }
    }
}
