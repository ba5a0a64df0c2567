//! One block of keys: scores, weights and weighted sums of the rows that see it.
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

use super::ahead::{Ahead, Span};
use super::row::{all_finite, exponentials, largest, scale};
use super::rows::{Inputs, Rows};
use crate::gemm::{KC, multiply_panel, pack_panels};
use crate::isa::{A_STRIDE, Isa, Prefetch, Vector};
use crate::view::View;
use core::ops::Range;

/// Keys of one block. The weights of a strip are the A of the second product, so they have to fit
/// its rows.
pub(super) const KEYS: usize = 256;
const _: () = assert!(KEYS <= KC);

/// Rows that pass a panel of keys or values while it is in L1, in whole strips of up to MR rows.
const GROUP_ROWS: usize = 28;

/// Strips that [`GROUP_ROWS`] may be.
const MOST_STRIPS: usize = 8;

/// One strip's share of a block: for each of its rows the largest score, the sum of weights and,
/// `stride` floats apart, the weighted sums of values.
pub(super) struct Share<'m> {
    pub rows: Range<usize>,
    pub max: &'m [f32],
    pub sum: &'m [f32],
    pub values: &'m [f32],
    pub stride: usize,
}

/// Part `i` of `n` cut into `parts` that differ by at most one.
#[inline(always)]
fn part(n: usize, parts: usize, i: usize) -> Range<usize> {
    i * n / parts..(i + 1) * n / parts
}

/// The least whole vectors that hold all of `keys`; none for none.
#[inline(always)]
fn whole_vectors(keys: &Range<usize>, lanes: usize) -> Range<usize> {
    if keys.is_empty() { keys.clone() } else { keys.start / lanes * lanes..keys.end.next_multiple_of(lanes) }
}

impl Rows<'_> {
    /// What to prefetch while `rows` are at a block: where their results go, the queries of the next
    /// group, and this group's share, a part of so many, of the keys and values of the next block or,
    /// after the last, of the next head.
    #[inline(always)]
    fn ahead(&self, block: usize, rows: Range<usize>, [share, shares]: [usize; 2], out: Span) -> Ahead {
        let Inputs { q, k, v, group, .. } = *self.inputs;
        let [batch, kv_heads, ..] = k.shape();
        let here = (self.sequence.batch, self.kv_head);
        let next_head = match here {
            (batch, head) if head + 1 < kv_heads => (batch, head + 1),
            (last, _) => ((last + 1).min(batch - 1), 0),
        };
        let (next, next_block) =
            if block + 1 < self.blocks().end { (here, block + 1) } else { (next_head, 0) };
        let first = self.sequence.keys.start + next_block * KEYS;
        let keys = part(KEYS, shares, share);
        let keys = first + keys.start..first + keys.end;
        let of_rows = |rows: Range<usize>| rows.start / group..rows.end.div_ceil(group);
        let (at, next_rows) = if rows.end < self.len() {
            (here, rows.end..rows.end + GROUP_ROWS)
        } else {
            (next, 0..GROUP_ROWS)
        };
        let queries = of_rows(next_rows);
        let queries = self.first_query() + queries.start..self.first_query() + queries.end;
        Ahead::new([
            out.part(0..group, of_rows(rows)),
            Span::of(q.at(at.0)).part(at.1 * group..(at.1 + 1) * group, queries),
            Span::of(k.at(next.0)).part(next.1..next.1 + 1, keys.clone()),
            Span::of(v.at(next.0)).part(next.1..next.1 + 1, keys),
        ])
    }

    /// Computes one block of keys for all rows and hands the shares of their strips to `take`,
    /// without those that see nothing of it. Results will go to `out`. `memory` has [`memory_len`]
    /// floats.
    #[inline(always)]
    pub fn block<I: Isa>(
        &self,
        isa: I,
        number: usize,
        memory: &mut [f32],
        out: Span,
        mut take: impl FnMut(Share<'_>),
    ) {
        let mut block = Block::pack(isa, self, number, memory);
        let strips = self.len().div_ceil(I::MR);
        let at_once = strips_at_once::<I>();
        for first in (0..strips).step_by(at_once) {
            let first_row = part(self.len(), strips, first).start;
            let end = part(self.len(), strips, strips.min(first + at_once) - 1).end;
            let share = [first / at_once, strips.div_ceil(at_once)];
            let mut ahead = self.ahead(number, first_row..end, share, out);
            let group: [Strip; MOST_STRIPS] = core::array::from_fn(|i| {
                let strip = first + i;
                if i >= at_once || strip >= strips {
                    return Strip::default();
                }
                let rows = part(self.len(), strips, strip);
                let keys = self.visible_in(block.start, &rows);
                let same = self.visible_in(block.start, &(rows.start..rows.start + 1)) == keys
                    && self.visible_in(block.start, &(rows.end - 1..rows.end)) == keys;
                Strip { place: rows.start - first_row, rows, keys, same }
            });
            block.score(isa, &group, &mut ahead);
            block.weigh(isa, &group);
            block.sum_values(isa, &group, &mut ahead);
            for strip in group.iter().filter(|strip| !strip.keys.is_empty()) {
                take(block.share::<I>(strip));
            }
        }
    }
}

/// Rows of one register tile.
#[derive(Clone, Debug, Default)]
struct Strip {
    /// Rows of the task.
    rows: Range<usize>,
    /// The first row's number in the group.
    place: usize,
    /// Keys of the block from the first to the last that any of the rows sees.
    keys: Range<usize>,
    /// Whether each of the rows sees all of these.
    same: bool,
}

impl Strip {
    /// Numbers of the rows in the group.
    #[inline(always)]
    fn places(&self) -> Range<usize> {
        self.place..self.place + self.rows.len()
    }
}

/// Strips of a group: those of [`GROUP_ROWS`].
const fn strips_at_once<I: Isa>() -> usize {
    let n = GROUP_ROWS / I::MR;
    assert!(0 < n && n <= MOST_STRIPS);
    n
}

/// Floats between the rows of weighted sums: dv in whole panels.
fn value_stride<I: Isa>(inputs: &Inputs<'_>) -> usize {
    inputs.v.shape()[3].next_multiple_of(I::NR)
}

/// The parts of a block's memory, in the order of their lengths here.
fn memory_parts<I: Isa>(inputs: &Inputs<'_>) -> [usize; 5] {
    let [_, _, _, dk] = inputs.k.shape();
    let queries = dk.div_ceil(KC).max(1) * GROUP_ROWS * A_STRIDE;
    let values = value_stride::<I>(inputs);
    [queries, GROUP_ROWS * A_STRIDE, GROUP_ROWS * values, KEYS * dk, KEYS * values]
}

/// Floats of working memory for one block.
pub(super) fn memory_len<I: Isa>(inputs: &Inputs<'_>) -> usize {
    memory_parts::<I>(inputs).iter().sum()
}

/// One block of keys at work.
struct Block<'a> {
    rows: &'a Rows<'a>,
    /// Its first key.
    start: usize,
    /// Its keys that any row sees, counted from `start`, as are all ranges of keys below.
    keys: Range<usize>,
    /// K^T in panels of NR keys from the one of `keys.start` on, dk * NR floats each.
    packed_keys: &'a mut [f32],
    /// V in panels of NR columns, a row for each of `keys`, KEYS * NR floats each.
    packed_values: &'a mut [f32],
    /// Whether these are all finite, once that has been asked.
    finite: Option<bool>,
    /// Scaled queries of the group, in slabs of KC dimensions, rows A_STRIDE apart.
    queries: &'a mut [f32],
    /// Scores, then weights of the group, rows A_STRIDE apart.
    scores: &'a mut [f32],
    /// Weighted sums of values of the group, rows `value_stride` apart.
    values: &'a mut [f32],
    /// Largest score of each row of the group.
    max: [f32; GROUP_ROWS],
    /// Sum of weights of each row of the group.
    sum: [f32; GROUP_ROWS],
}

impl<'a> Block<'a> {
    /// Packs the keys and values that any row sees.
    #[inline(always)]
    fn pack<I: Isa>(isa: I, rows: &'a Rows<'a>, block: usize, memory: &'a mut [f32]) -> Self {
        let inputs = rows.inputs;
        let [queries, scores, values, packed_keys, _] = memory_parts::<I>(inputs);
        let (queries, memory) = memory.split_at_mut(queries);
        let (scores, memory) = memory.split_at_mut(scores);
        let (values, memory) = memory.split_at_mut(values);
        let (packed_keys, packed_values) = memory.split_at_mut(packed_keys);
        let mut block = Self {
            rows,
            start: block * KEYS,
            keys: 0..0,
            packed_keys,
            packed_values,
            finite: None,
            queries,
            scores,
            values,
            max: [0.0; GROUP_ROWS],
            sum: [0.0; GROUP_ROWS],
        };
        block.keys = rows.visible_in(block.start, &(0..rows.len()));
        let Range { start, end } = block.keys;
        let first = rows.sequence.keys.start + block.start;
        let head = |view: View<'a, 4>| view.at(rows.sequence.batch).at(rows.kv_head);
        let k = head(inputs.k).slice(0, first + start / I::NR * I::NR..first + end);
        pack_panels(isa, k.transpose(), block.packed_keys, k.shape()[1] * I::NR);
        let v = head(inputs.v).slice(0, first + start..first + end);
        pack_panels(isa, v, block.packed_values, KEYS * I::NR);
        block
    }

    /// Scores of a group's strips, each with the panels of keys that it sees something of.
    #[inline(always)]
    fn score<I: Isa>(&mut self, isa: I, group: &[Strip], ahead: &mut Ahead) {
        let inputs = self.rows.inputs;
        let sequence = &self.rows.sequence;
        let dk = inputs.k.shape()[3];
        for strip in group.iter().filter(|strip| !strip.keys.is_empty()) {
            for row in strip.rows.clone() {
                let (query, head) = self.rows.place(row);
                let q = inputs.q.row([sequence.batch, head, sequence.queries.start + query, 0]);
                let place = strip.place + row - strip.rows.start;
                for (slab, q) in q.chunks(KC).enumerate() {
                    let at = (slab * GROUP_ROWS + place) * A_STRIDE;
                    scale(isa, q, inputs.scale, &mut self.queries[at..][..q.len()]);
                }
            }
        }
        let first_panel = self.keys.start / I::NR;
        for panel in first_panel..self.keys.end.div_ceil(I::NR) {
            let keys = &self.packed_keys[(panel - first_panel) * dk * I::NR..];
            let columns = panel * I::NR..(panel + 1) * I::NR;
            let sees_some = |s: &&Strip| s.keys.start < columns.end && columns.start < s.keys.end;
            for strip in group.iter().filter(sees_some) {
                for slab in 0..dk.div_ceil(KC).max(1) {
                    let shape = [strip.rows.len(), KC.min(dk - slab * KC)];
                    multiply_panel(
                        isa,
                        shape,
                        &self.queries[(slab * GROUP_ROWS + strip.place) * A_STRIDE..],
                        &keys[slab * KC * I::NR..],
                        (&mut self.scores[strip.place * A_STRIDE + columns.start..], A_STRIDE),
                        slab > 0,
                        ahead.next::<I>(shape, keys.as_ptr()),
                    );
                }
            }
        }
    }

    /// Turns the scores of a group into weights, 0 where a row does not see.
    #[inline(always)]
    fn weigh<I: Isa>(&mut self, isa: I, group: &[Strip]) {
        let lanes = I::V::LANES;
        let adjusts = self.rows.inputs.adjusts();
        for strip in group.iter().filter(|strip| !strip.keys.is_empty()) {
            // All maxima before all weights: some rows are summed up while others are reduced.
            for (place, row) in strip.places().zip(strip.rows.clone()) {
                let seen = self.seen(strip, row);
                let whole = whole_vectors(&seen, lanes);
                let cells = &mut self.scores[place * A_STRIDE..][whole.clone()];
                if adjusts {
                    self.rows.adjustment(row, self.start + whole.start).apply(isa, cells);
                }
                if whole != seen {
                    cells[..seen.start - whole.start].fill(f32::NEG_INFINITY);
                    cells[seen.end - whole.start..].fill(f32::NEG_INFINITY);
                }
                self.max[place] = largest(isa, cells);
            }
            for (place, row) in strip.places().zip(strip.rows.clone()) {
                let whole = whole_vectors(&self.seen(strip, row), lanes);
                let scores = &mut self.scores[place * A_STRIDE..][..KEYS];
                self.sum[place] = exponentials(isa, &mut scores[whole.clone()], self.max[place]);
                if !strip.same {
                    // The product with V spans the keys of the whole strip.
                    scores[strip.keys.start.min(whole.start)..whole.start].fill(0.0);
                    scores[whole.end..strip.keys.end.max(whole.end)].fill(0.0);
                }
            }
        }
    }

    /// Keys of the block that a row of a strip sees.
    #[inline(always)]
    fn seen(&self, strip: &Strip, row: usize) -> Range<usize> {
        if strip.same { strip.keys.clone() } else { self.rows.visible_in(self.start, &(row..row + 1)) }
    }

    /// Multiplies the weights of a group with the values.
    #[inline(always)]
    fn sum_values<I: Isa>(&mut self, isa: I, group: &[Strip], ahead: &mut Ahead) {
        let stride = value_stride::<I>(self.rows.inputs);
        let packed = &*self.packed_values;
        for (panel, values) in packed.chunks_exact(KEYS * I::NR).enumerate() {
            for strip in group.iter().filter(|strip| !strip.keys.is_empty()) {
                let scores = &self.scores[strip.place * A_STRIDE..];
                let sums = &mut self.values[strip.place * stride + panel * I::NR..];
                let first = self.keys.start;
                // A weight of 0 drops what a row does not see of the strip's keys, unless its value
                // is not finite: 0 * NaN is NaN.
                let all = strip.same && self.rows.inputs.bias.is_none();
                if !all && self.finite.is_none() {
                    self.finite = Some(all_finite(isa, packed, self.keys.len()));
                }
                if all || self.finite == Some(true) {
                    let Range { start, end } = strip.keys;
                    let values = &values[(start - first) * I::NR..];
                    let shape = [strip.rows.len(), end - start];
                    let prefetch = ahead.next::<I>(shape, values.as_ptr());
                    multiply_panel(isa, shape, &scores[start..], values, (sums, stride), false, prefetch);
                    continue;
                }
                // Then each row takes the keys that it does see, which gives the same bits.
                let none = Prefetch::none(values.as_ptr());
                for (i, row) in strip.rows.clone().enumerate() {
                    let (scores, sums) = (&scores[i * A_STRIDE..], &mut sums[i * stride..]);
                    multiply_panel(isa, [1, 0], scores, values, (sums, stride), false, none);
                    let bias = self.rows.bias(row, self.start);
                    let seen = self.rows.visible_in(self.start, &(row..row + 1));
                    for key in seen.filter(|&key| !bias.hides(key)) {
                        let values = &values[(key - first) * I::NR..];
                        multiply_panel(isa, [1, 1], &scores[key..], values, (sums, stride), true, none);
                    }
                }
            }
        }
    }

    /// What a strip has to hand over.
    #[inline(always)]
    fn share<I: Isa>(&self, strip: &Strip) -> Share<'_> {
        let places = strip.places();
        let stride = value_stride::<I>(self.rows.inputs);
        Share {
            rows: strip.rows.clone(),
            max: &self.max[places.clone()],
            sum: &self.sum[places],
            values: &self.values[strip.place * stride..],
            stride,
        }
    }
}
