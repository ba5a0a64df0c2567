//! The attention kernel behind both front ends, with the types of q, k and v erased: checks, definition, fast form.

use super::arguments::{AttentionArguments, CheckedExtents};
use super::dropout::WeightDropout;
use super::kv_source::KvSource;
use super::panels::PanelFormat;
use super::task::{self, AttentionOutputs};
use super::variant::with_variant;
use crate::backend::Kernel;
use crate::error::{Error, expect_shape};
use crate::isa::Isa;
use crate::rows::expect_unit_rows;
use crate::view::{AnyViewMut, ViewMut};
use half::bf16;

/// An [`Attention`](super::Attention) or a [`CachedAttention`](super::CachedAttention).
pub(super) struct AttentionCall<'a> {
    pub arguments: AttentionArguments<'a>,
    pub out: AnyViewMut<'a, 4>,
    pub lse: Option<ViewMut<'a, 3>>,
}

impl<'a> AttentionCall<'a> {
    /// Returns the extents, or an error if the arguments do not fit each other.
    fn check(&self) -> Result<CheckedExtents<'a>, Error> {
        let [batch, heads, queries, _] = self.arguments.q.shape();
        let extents = self.arguments.check(self.out.shape()[3])?;
        expect_shape("Attention.out", &self.out.shape(), &[batch, heads, queries, extents.dv])?;
        if let Some(lse) = &self.lse {
            expect_shape("Attention.lse", &lse.shape(), &[batch, heads, queries])?;
        }
        expect_unit_rows("Attention.out", self.out.has_unit_rows(), self.out.strides())?;
        Ok(extents)
    }
}

impl Kernel for AttentionCall<'_> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!();

    fn reference(mut self) -> Result<(), Error> {
        let CheckedExtents { layout, kv_heads, dv, dropout } = self.check()?;
        let AttentionArguments { q, source, bf16: rounds, scale, softcap, bias, mask, distance, .. } =
            self.arguments;
        let [_, heads, _, dk] = q.shape();
        let group = heads / kv_heads.max(1);
        for sequence in (0..layout.len()).map(|s| layout.get(s)) {
            let queries = sequence.queries.clone();
            for (head, i) in (0..heads).flat_map(|head| queries.clone().map(move |i| (head, i))) {
                let (batch, kv_head, query) = (sequence.batch, head / group, i - sequence.queries.start);
                let rounded = |x: f32| f64::from(if rounds { bf16::from_f32(x).to_f32() } else { x });
                let mut seen = vec![];
                for j in sequence.visible(query) {
                    let at = [sequence.index, head, query, j];
                    let bias = bias.map_or(0.0, |bias| bias.get(at));
                    if bias == f32::NEG_INFINITY || mask.is_some_and(|mask| !mask.get(at)) {
                        continue;
                    }
                    let query = |d| q.get([batch, head, i, d]);
                    let key = |d| source.key(&sequence, [kv_head, j, d]);
                    let dot: f64 = (0..dk).map(|d| rounded(query(d)) * rounded(key(d))).sum();
                    let mut score = f64::from(scale) * dot;
                    if let Some(cap) = softcap.map(f64::from) {
                        score = cap * (score / cap).tanh();
                    }
                    score += f64::from(bias);
                    if let Some(distance) = distance {
                        let position = sequence.start + (i - sequence.queries.start) as isize;
                        score += f64::from(distance.get(head, j as isize - position));
                    }
                    seen.push((score, j));
                }
                let max = seen.iter().fold(f64::NEG_INFINITY, |max, s| max.max(s.0));
                let sum: f64 = seen.iter().map(|(score, _)| (score - max).exp()).sum();
                for d in 0..dv {
                    let v = |key| rounded(source.value(&sequence, [kv_head, key, d]));
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
        let extents = self.check()?;
        let [batch, heads, queries, dk] = self.arguments.q.shape();
        if batch * heads * queries == 0 {
            return Ok(());
        }
        let AttentionArguments { source, bf16, .. } = self.arguments;
        if let KvSource::Caches { caches, .. } = source {
            let format = PanelFormat::of(isa, bf16, dk);
            for cache in caches {
                cache.check_format("CachedAttention.caches", format, I::NAME)?;
            }
        }
        let mut no_lse = [];
        let lse = match self.lse {
            Some(lse) => ViewMut::<4>::from(lse).permute([1, 2, 3, 0]),
            None => ViewMut::new(&mut no_lse, [batch, heads, queries, 0])?,
        };
        let outputs = AttentionOutputs { out: self.out, lse };
        self.arguments.with_operands::<I>(extents, |inputs| {
            with_variant!(isa, bf16, variant => task::run(isa, variant, inputs, outputs));
        });
        Ok(())
    }
}
