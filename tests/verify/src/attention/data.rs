//! The data of an attention case, and its calls: the whole attention, or a part alone.

use super::super::Failure;
use super::super::stored::{Stored, written};
use super::super::tensor::{Booleans, Layout, Random, Tensor, indices};
use super::params::{self, BUCKETS, Params, SequenceDivision};
use core::ops::Range;
use half::{bf16, f16};
use tilewright_kernels::{
    Attention as Kernel, Backend, DistanceBias, Element, Sequences, Start, View, ViewMut,
};

/// The arguments of one attention.
pub(super) struct AttentionData {
    pub(super) q: Tensor<4>,
    pub(super) k: Tensor<4>,
    pub(super) v: Tensor<4>,
    /// Key lengths, or the ends of the packed sequences.
    pub(super) query_ends: Vec<usize>,
    pub(super) key_ends: Vec<usize>,
    /// Position of the first query of each sequence, unless it follows from the keys.
    pub(super) positions: Vec<usize>,
    pub(super) bias: Option<Tensor<4>>,
    pub(super) mask: Option<Booleans<4>>,
    pub(super) slopes: Vec<f32>,
    pub(super) table: Vec<f32>,
}

/// Position of a sequence in its batch row.
pub(super) struct SequenceSpan {
    pub(super) index: usize,
    pub(super) batch: usize,
    pub(super) queries: Range<usize>,
    pub(super) keys: Range<usize>,
}

/// Row of the first weights of a call in the mask of dropout.
pub(super) const FIRST_ROW: u32 = 11;

/// Part of an attention that one call computes.
struct CallPart<'a> {
    sequences: Sequences<'a>,
    start: Start<'a>,
    bias: Option<View<'a, 4>>,
    mask: Option<View<'a, 4, bool>>,
    /// Row of the first weights in the mask of dropout.
    first_row: u32,
    /// Type of out.
    rows_first: bool,
}

impl SequenceSpan {
    /// Part of an argument with an element for each score, for some queries of this sequence.
    fn scores<'a, T>(&self, argument: View<'a, 4, T>, queries: Range<usize>) -> View<'a, 4, T> {
        let argument = argument.slice(0, self.index..self.index + 1);
        argument.slice(2, queries).slice(3, 0..self.keys.len())
    }
}

/// Views of a tensor that may have heads and rows in either order.
pub(super) fn heads_first<T>(v: View<'_, 4, T>, rows_first: bool) -> View<'_, 4, T> {
    if rows_first { v.permute([0, 2, 1, 3]) } else { v }
}

impl AttentionData {
    pub(super) fn new(p: &Params) -> Self {
        let [batch, kv_heads, group, queries, keys, dk, dv] = p.extents;
        let random = &mut Random::new(p.seed);
        let shape = |heads: usize, rows: usize, width: usize, rows_first: bool| {
            if rows_first { [batch, rows, heads, width] } else { [batch, heads, rows, width] }
        };
        let poisoned = |x: f32, [_, a, b, _]: [usize; 4]| {
            let key = if p.rows_first[1] { a } else { b };
            if p.poison == Some(key) { f32::NAN } else { x }
        };
        let [q, k, v, _] = &p.layouts;
        let q = Tensor::random(shape(kv_heads * group, queries, dk, p.rows_first[0]), q, p.values, random);
        let [k, v] = [(k, dk), (v, dv)].map(|(layout, width)| {
            let shape = shape(kv_heads, keys, width, p.rows_first[1]);
            Tensor::new(shape, layout, |index| poisoned(p.values.draw(random), index))
        });
        let mut ends = |n: usize, rows: usize| -> Vec<usize> {
            let mut ends: Vec<usize> = (1..n).map(|_| random.below(rows + 1)).collect();
            ends.extend([0, rows]);
            ends.sort_unstable();
            ends
        };
        let (query_ends, key_ends) = match p.sequences {
            SequenceDivision::Rows => (vec![], vec![]),
            SequenceDivision::KeyLengths => (vec![], (0..batch).map(|_| random.below(keys + 1)).collect()),
            SequenceDivision::Packed(n) => (ends(n, queries), ends(n, keys)),
        };
        let [q, k, v] = [q, k, v].map(|x: Tensor<4>| x.map(|x| p.stored[0].round(x)));
        let mut data = Self {
            q,
            k,
            v,
            query_ends,
            key_ends,
            positions: vec![],
            bias: None,
            mask: None,
            slopes: (0..kv_heads * group).map(|_| random.unit().abs()).collect(),
            table: (0..BUCKETS * kv_heads * group).map(|_| random.unit()).collect(),
        };
        let most = |ends: &[usize]| ends.windows(2).map(|e| e[1] - e[0]).max().unwrap_or(0);
        let [sequences, rows, columns] = match p.sequences {
            SequenceDivision::Packed(n) => [n, most(&data.query_ends), most(&data.key_ends)],
            _ => [batch, queries, keys],
        };
        data.bias = p.bias.as_ref().map(|layout| {
            Tensor::new([sequences, kv_heads * group, rows, columns], layout, |_| {
                if p.hides && random.below(4) == 0 { f32::NEG_INFINITY } else { p.values.draw(random) }
            })
        });
        data.mask = p.mask.as_ref().map(|layout| {
            let shape = [sequences, kv_heads * group, rows, columns];
            Booleans::new(shape, layout, |_| !(p.hides && random.below(4) == 0))
        });
        data.positions = p.start.positions(sequences, random);
        data
    }

    /// The `sequences` argument of the kernel.
    pub(super) fn sequences(&self, p: &Params) -> Sequences<'_> {
        match p.sequences {
            SequenceDivision::Rows => Sequences::Rows,
            SequenceDivision::KeyLengths => Sequences::KeyLengths(&self.key_ends),
            SequenceDivision::Packed(_) => Sequences::Packed { q: &self.query_ends, k: &self.key_ends },
        }
    }

    /// The `distance` argument of the kernel.
    pub(super) fn distance(&self, p: &Params) -> Option<DistanceBias<'_>> {
        p.distance.bias(&self.slopes, &self.table)
    }

    /// All sequences.
    pub(super) fn spans(&self, p: &Params) -> Vec<SequenceSpan> {
        let [batch, _, _, queries, keys, _, _] = p.extents;
        match p.sequences {
            SequenceDivision::Packed(n) => (0..n)
                .map(|i| SequenceSpan {
                    index: i,
                    batch: 0,
                    queries: self.query_ends[i]..self.query_ends[i + 1],
                    keys: self.key_ends[i]..self.key_ends[i + 1],
                })
                .collect(),
            _ => (0..batch)
                .map(|i| SequenceSpan {
                    index: i,
                    batch: i,
                    queries: 0..queries,
                    keys: 0..self.key_ends.get(i).copied().unwrap_or(keys),
                })
                .collect(),
        }
    }

    /// A random sequence that has queries; `None` if no sequence has.
    pub(super) fn any_sequence(&self, p: &Params, random: &mut Random) -> Option<SequenceSpan> {
        let mut all: Vec<SequenceSpan> =
            self.spans(p).into_iter().filter(|s| !s.queries.is_empty()).collect();
        if all.is_empty() { None } else { Some(all.swap_remove(random.below(all.len()))) }
    }

    /// Outputs, stored in the type of out, and log-sum-exps of the whole attention, in the order batch, head, query,
    /// dv.
    pub(super) fn run(
        &self,
        p: &Params,
        backend: Backend,
        v: &Tensor<4>,
        out: Stored,
    ) -> Result<(Vec<f32>, Vec<f32>), Failure> {
        let [batch, kv_heads, group, queries, _, _, dv] = p.extents;
        let heads = kv_heads * group;
        let shape = if p.rows_first[2] { [batch, queries, heads, dv] } else { [batch, heads, queries, dv] };
        let out = (Tensor::new(shape, &p.layouts[3], |_| f32::NAN), out);
        let all = CallPart {
            sequences: self.sequences(p),
            start: p.start.kernel(&self.positions),
            bias: self.bias.as_ref().map(Tensor::view),
            mask: self.mask.as_ref().map(Booleans::view),
            first_row: FIRST_ROW,
            rows_first: p.rows_first[2],
        };
        let whole = |v: View<'_, 4>| v.shape().map(|n| 0..n);
        let (q, k) =
            (heads_first(self.q.view(), p.rows_first[0]), heads_first(self.k.view(), p.rows_first[1]));
        self.compute(p, backend, v, (whole(q), whole(k)), all, out)
    }

    /// Computes the queries `part` of one sequence alone and without the padding.
    pub(super) fn alone(
        &self,
        p: &Params,
        backend: Backend,
        sequence: &SequenceSpan,
        part: Range<usize>,
    ) -> Result<(Vec<f32>, Vec<f32>), Failure> {
        let [_, kv_heads, group, _, _, dk, dv] = p.extents;
        let (heads, n) = (kv_heads * group, part.len());
        let before = part.start - sequence.queries.start;
        let of_batch = sequence.batch..sequence.batch + 1;
        let start = match p.start {
            params::Start::End => Start::End,
            _ => Start::At(self.positions[sequence.index] + before),
        };
        let out = Tensor::new([1, heads, n, dv], &Layout::row_major(), |_| f32::NAN);
        let ranges = (
            [of_batch.clone(), 0..heads, part, 0..dk],
            [of_batch, 0..kv_heads, sequence.keys.clone(), 0..dk],
        );
        let queries = before..before + n;
        let alone = CallPart {
            sequences: Sequences::Rows,
            start,
            bias: self.bias.as_ref().map(|bias| sequence.scores(bias.view(), queries.clone())),
            mask: self.mask.as_ref().map(|mask| sequence.scores(mask.view(), queries)),
            first_row: FIRST_ROW + (sequence.index * heads) as u32,
            rows_first: false,
        };
        self.compute(p, backend, &self.v, ranges, alone, (out, p.stored[1]))
    }

    /// Outputs and log-sum-exps of a part, which is given by ranges of q and k, in the order batch, head, query, dv.
    fn compute(
        &self,
        p: &Params,
        backend: Backend,
        v: &Tensor<4>,
        ranges: ([Range<usize>; 4], [Range<usize>; 4]),
        part: CallPart<'_>,
        out: (Tensor<4>, Stored),
    ) -> Result<(Vec<f32>, Vec<f32>), Failure> {
        /// Calls [`store`](Self::store) for tensors of `T`.
        macro_rules! compute {
            ($q:expr, $k:expr, $v:expr) => {{
                let mut q = heads_first($q, p.rows_first[0]);
                let (mut k, mut v) = (heads_first($k, p.rows_first[1]), heads_first($v, p.rows_first[1]));
                for (d, (of_q, of_k)) in ranges.0.into_iter().zip(ranges.1).enumerate() {
                    q = q.slice(d, of_q);
                    k = k.slice(d, of_k.clone());
                    v = if d < 3 { v.slice(d, of_k) } else { v };
                }
                self.store(p, backend, [q, k, v], part, out)
            }};
        }
        macro_rules! narrow {
            ($ty:ty) => {{
                let [q, k, v] = [&self.q, &self.k, v].map(|x| x.cast::<$ty>());
                compute!(q.view(), k.view(), v.view())
            }};
        }
        match p.stored[0] {
            Stored::F32 => compute!(self.q.view(), self.k.view(), v.view()),
            Stored::Bf16 => narrow!(bf16),
            Stored::F16 => narrow!(f16),
        }
    }

    /// Runs the part on views, with an output of the case's type.
    fn store<T: Element>(
        &self,
        p: &Params,
        backend: Backend,
        inputs: [View<'_, 4, T>; 3],
        part: CallPart<'_>,
        (mut out, stored): (Tensor<4>, Stored),
    ) -> Result<(Vec<f32>, Vec<f32>), Failure> {
        let rows_first = part.rows_first;
        macro_rules! narrow {
            ($ty:ty) => {{
                let mut narrow = out.cast::<$ty>();
                let lse = self.call(p, backend, inputs, part, narrow.view_mut())?;
                written(&narrow)?;
                let view = heads_first(narrow.view(), rows_first);
                Ok((indices(view.shape()).map(|index| view.get(index).to_f32()).collect(), lse))
            }};
        }
        match stored {
            Stored::F32 => {
                let lse = self.call(p, backend, inputs, part, out.view_mut())?;
                out.gaps_intact()?;
                let view = heads_first(out.view(), rows_first);
                Ok((indices(view.shape()).map(|index| view.get(index)).collect(), lse))
            }
            Stored::Bf16 => narrow!(bf16),
            Stored::F16 => narrow!(f16),
        }
    }

    /// Runs the kernel, and returns the log-sum-exps.
    fn call<T: Element, O: Element>(
        &self,
        p: &Params,
        backend: Backend,
        [q, k, v]: [View<'_, 4, T>; 3],
        part: CallPart<'_>,
        out: ViewMut<'_, 4, O>,
    ) -> Result<Vec<f32>, Failure> {
        let [batch, heads, queries, _] = q.shape();
        let mut lse = vec![f32::NAN; batch * heads * queries];
        let to_lse = ViewMut::new(&mut lse, [batch, heads, queries])?;
        let out = if part.rows_first { out.permute([0, 2, 1, 3]) } else { out };
        backend.run(Kernel {
            precision: p.precision,
            scale: p.scale,
            softcap: p.softcap,
            bias: part.bias,
            mask: part.mask,
            dropout: p.dropout_mask(part.first_row),
            distance: self.distance(p),
            sequences: part.sequences,
            start: part.start,
            window: p.window,
            lse: p.lse.then_some(to_lse),
            ..Kernel::new(q, k, v, out)
        })?;
        Ok(lse)
    }
}
