//! The attention kernel behind both front ends, with the types of q, k and v erased: checks, definition, fast form.

use super::distance::DistanceBias;
use super::dropout::WeightDropout;
use super::keys::{Start, Window};
use super::kv_source::KvSource;
use super::panels::PanelFormat;
use super::query_rows::{AttentionOperands, DistanceTables};
use super::sequence_layout::SequenceLayout;
use super::task::{self, AttentionOutputs};
use super::variant::with_variant;
use crate::backend::Kernel;
use crate::dropout::DropoutMask;
use crate::error::{Error, expect_shape};
use crate::isa::{Isa, Vector};
use crate::rows::expect_unit_rows;
use crate::scratch;
use crate::view::{AnyView, AnyViewMut, View, ViewMut};
use half::bf16;

/// Arguments of an [`Attention`](super::Attention) or a [`CachedAttention`](super::CachedAttention).
pub(super) struct AttentionCall<'a> {
    pub q: AnyView<'a, 4>,
    pub source: KvSource<'a>,
    /// True if q, k and v are rounded to bf16.
    pub bf16: bool,
    pub scale: f32,
    pub softcap: Option<f32>,
    pub bias: Option<View<'a, 4>>,
    pub mask: Option<View<'a, 4, bool>>,
    pub distance: Option<DistanceBias<'a>>,
    pub start: Start<'a>,
    pub window: Window,
    pub dropout: Option<DropoutMask>,
    pub out: AnyViewMut<'a, 4>,
    pub lse: Option<ViewMut<'a, 3>>,
}

/// Returns an error if an argument with an element for each score does not fit the sequences.
fn check_scores<T>(
    what: &'static str,
    argument: Option<View<'_, 4, T>>,
    layout: &SequenceLayout<'_>,
    heads: usize,
) -> Result<(), Error> {
    let Some(argument) = argument else { return Ok(()) };
    let [rows, columns] = layout.longest();
    expect_shape(what, &argument.shape(), &[layout.len(), heads, rows, columns])?;
    if !argument.has_unit_rows() && argument.strides()[3] != 0 {
        let why = format!("expected a last stride of 0 or 1, found strides {:?}", argument.strides());
        return Err(Error::Invalid { what, why });
    }
    Ok(())
}

impl<'a> AttentionCall<'a> {
    /// Returns the sequences, kv_heads and dv, or an error if the arguments do not fit each other.
    fn check(&self) -> Result<(SequenceLayout<'a>, [usize; 2]), Error> {
        let [batch, heads, queries, _] = self.q.shape();
        let (layout, [kv_heads, dv]) = check_inputs(
            (self.q, self.source),
            self.out.shape()[3],
            self.softcap,
            (self.bias, self.mask),
            self.distance,
            (self.start, self.window),
        )?;
        expect_shape("Attention.out", &self.out.shape(), &[batch, heads, queries, dv])?;
        if let Some(lse) = &self.lse {
            expect_shape("Attention.lse", &lse.shape(), &[batch, heads, queries])?;
        }
        expect_unit_rows("Attention.out", self.out.has_unit_rows(), self.out.strides())?;
        Ok((layout, [kv_heads, dv]))
    }

    /// Returns the dropout of the sequences, or an error if weights have no elements.
    fn weight_dropout(&self, layout: &SequenceLayout<'_>) -> Result<Option<WeightDropout>, Error> {
        let [queries, keys] = layout.longest();
        let shape = [layout.len(), self.q.shape()[1], queries, keys];
        self.dropout.map(|mask| WeightDropout::new(mask, shape)).transpose()
    }
}

/// Returns the sequences, kv_heads and dv, or an error if the arguments do not fit each other. Without keys, dv is
/// `out_width`.
pub(super) fn check_inputs<'a>(
    (q, source): (AnyView<'a, 4>, KvSource<'a>),
    out_width: usize,
    softcap: Option<f32>,
    (bias, mask): (Option<View<'a, 4>>, Option<View<'a, 4, bool>>),
    distance: Option<DistanceBias<'a>>,
    (start, window): (Start<'a>, Window),
) -> Result<(SequenceLayout<'a>, [usize; 2]), Error> {
    let [batch, heads, queries, _] = q.shape();
    let [kv_heads, dv] = source.check(q.shape(), out_width)?;
    expect_unit_rows("Attention.q", q.has_unit_rows(), q.strides())?;
    if let Some(cap) = softcap
        && !(cap > 0.0 && cap.is_finite())
    {
        let why = format!("expected a positive number, found {cap}");
        return Err(Error::Invalid { what: "Attention.softcap", why });
    }
    let layout = SequenceLayout::new(source, start, window, [batch, queries])?;
    check_scores("Attention.bias", bias, &layout, heads)?;
    check_scores("Attention.mask", mask, &layout, heads)?;
    if let Some(distance) = &distance {
        distance.check(heads)?;
    }
    Ok((layout, [kv_heads, dv]))
}

impl Kernel for AttentionCall<'_> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!();

    fn reference(mut self) -> Result<(), Error> {
        let (layout, [kv_heads, dv]) = self.check()?;
        let [_, heads, _, dk] = self.q.shape();
        let dropout = self.weight_dropout(&layout)?;
        let group = heads / kv_heads.max(1);
        for sequence in (0..layout.len()).map(|s| layout.get(s)) {
            let queries = sequence.queries.clone();
            for (head, i) in (0..heads).flat_map(|head| queries.clone().map(move |i| (head, i))) {
                let (batch, kv_head, query) = (sequence.batch, head / group, i - sequence.queries.start);
                let rounded = |x: f32| f64::from(if self.bf16 { bf16::from_f32(x).to_f32() } else { x });
                let mut seen = vec![];
                for j in sequence.visible(query) {
                    let at = [sequence.index, head, query, j];
                    let bias = self.bias.map_or(0.0, |bias| bias.get(at));
                    if bias == f32::NEG_INFINITY || self.mask.is_some_and(|mask| !mask.get(at)) {
                        continue;
                    }
                    let (q, k) = (
                        |d| self.q.get([batch, head, i, d]),
                        |d| self.source.key(&sequence, [kv_head, j, d]),
                    );
                    let dot: f64 = (0..dk).map(|d| rounded(q(d)) * rounded(k(d))).sum();
                    let mut score = f64::from(self.scale) * dot;
                    if let Some(cap) = self.softcap.map(f64::from) {
                        score = cap * (score / cap).tanh();
                    }
                    score += f64::from(bias);
                    if let Some(distance) = self.distance {
                        let position = sequence.start + query as isize;
                        score += f64::from(distance.get(head, j as isize - position));
                    }
                    seen.push((score, j));
                }
                let max = seen.iter().fold(f64::NEG_INFINITY, |max, s| max.max(s.0));
                let sum: f64 = seen.iter().map(|(score, _)| (score - max).exp()).sum();
                for d in 0..dv {
                    let v = |key| rounded(self.source.value(&sequence, [kv_head, key, d]));
                    let terms = seen.iter().map(|&(score, key)| {
                        let at = [sequence.index, head, query, key];
                        let kept = dropout.is_none_or(|dropout| dropout.keeps(at));
                        if kept { (score - max).exp() * v(key) } else { 0.0 * v(key) }
                    });
                    let scale = dropout.map_or(1.0, WeightDropout::scale);
                    let out = if seen.is_empty() { 0.0 } else { (scale * terms.sum::<f64>() / sum) as f32 };
                    self.out.set([batch, head, i, d], out);
                }
                if let Some(lse) = &mut self.lse {
                    lse.set(
                        [batch, head, i],
                        if seen.is_empty() { f32::NEG_INFINITY } else { (max + sum.ln()) as f32 },
                    );
                }
            }
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Result<(), Error> {
        let (layout, [kv_heads, dv]) = self.check()?;
        let [batch, heads, queries, dk] = self.q.shape();
        let dropout = self.weight_dropout(&layout)?;
        if batch * heads * queries == 0 {
            return Ok(());
        }
        if let KvSource::Caches { caches, .. } = self.source {
            let format = PanelFormat::of(isa, self.bf16, dk);
            for cache in caches {
                cache.check_format("CachedAttention.caches", format, I::NAME)?;
            }
        }
        // One table of biases by distance serves all tasks.
        let span = layout.distances();
        // Tasks read the table in whole vectors, which may reach past the last distance.
        let stride = span.len() + I::V::LANES;
        let tables = self.distance.map_or(0, |_| heads * stride);
        scratch::with(tables, |tables| {
            if let Some(distance) = self.distance {
                distance.fill_tables(&layout, span, tables, stride);
            }
            let tables = DistanceTables { tables, stride, span };
            let inputs = AttentionOperands {
                q: self.q,
                source: self.source,
                kv_heads,
                dk,
                dv,
                scale: self.scale,
                softcap: self.softcap,
                bias: self.bias,
                mask: self.mask,
                distances: self.distance.map(|_| tables),
                layout,
                dropout,
                group: heads / kv_heads,
            };
            let mut no_lse = [];
            let lse = match self.lse {
                Some(lse) => ViewMut::<4>::from(lse).permute([1, 2, 3, 0]),
                None => ViewMut::new(&mut no_lse, [batch, heads, queries, 0])?,
            };
            let outputs = AttentionOutputs { out: self.out, lse };
            with_variant!(isa, self.bf16, variant => task::run(isa, variant, &inputs, outputs));
            Ok(())
        })
    }
}
