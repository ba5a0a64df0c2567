//! Attention (Vaswani et al. 2017, arXiv:1706.03762) on the packed output of a fused linear layer.
//!
//! ```text
//! row of a token       [q heads | k heads | v heads], each head `dim` wide
//!
//! bidirectional        a token attends to all tokens of its sequence
//! causal               a token attends to itself and to the tokens before it, cached ones included
//! cross                a token of the decoder attends to all tokens of its source
//! ```

use crate::arithmetic::Arithmetic;
use crate::error::Error;
use crate::layers::run::{Call, Gradients, Run, Saved, Slot, Version};
use crate::layers::{Cache, EmbeddingTable, Past};
use std::sync::Arc;
use tilewright_kernels::gemm::Format;
use tilewright_kernels::{
    Attention, AttentionBackward, CachedAttention, DistanceBias, DropoutMask, KvCache, Precision, Sequences,
    View, ViewMut, Window,
};

mod cross;

pub(super) use cross::CrossAttentionCall;

/// Heads of a layer's attention, and the scale and bias of the scores.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// Backend and types. If linear layers are bf16 or int8, the products of attention are bf16 and the softmax is
    /// f32; otherwise both are f32.
    pub on: Arithmetic,
    /// Number of query heads.
    pub queries: usize,
    /// Number of key heads and of value heads. Each serves `queries / keys` consecutive query heads.
    pub keys: usize,
    /// Width of a head.
    pub dim: usize,
    /// Factor of the dot products.
    pub scale: f32,
    /// Bias of the scores, by the distance from query to key.
    pub distance: Option<RelativeBias<'a>>,
    /// Probability that a weight is dropped in training.
    pub dropout: f32,
}

/// Bias of T5's scores, by the bucket of the distance from query to key: see [`DistanceBias::T5`].
#[derive(Clone, Copy, Debug)]
pub struct RelativeBias<'a> {
    /// \[buckets, heads\].
    pub table: &'a EmbeddingTable,
    /// True if keys after the query have buckets of their own.
    pub bidirectional: bool,
    /// Distance from which on all distances share the last bucket.
    pub max_distance: usize,
}

/// A call on the tape: attention within the sequences of one matrix. It saves queries, keys and values, the outputs and
/// the log-sum-exps of the scores; weights are computed again.
#[derive(Debug)]
pub(super) struct AttentionCall<'m> {
    heads: Heads<'m>,
    starts: &'m [usize],
    window: Window,
    mask: Option<DropoutMask>,
    pub qkv: Version,
    out: Version,
    lse: Version,
}

impl<'a> RelativeBias<'a> {
    fn resolve<'v>(&self, arena: &'v [f32]) -> Result<DistanceBias<'v>, Error>
    where
        'a: 'v,
    {
        let Self { table, bidirectional, max_distance } = *self;
        Ok(DistanceBias::T5 { table: table.view(arena)?, bidirectional, max_distance })
    }
}

impl<'a> Heads<'a> {
    /// `heads` query heads and as many key heads, each `width / heads` wide, with scale 1 / sqrt(dim). `heads` must
    /// divide `width`.
    ///
    /// # Panics
    /// If `heads` is 0.
    pub fn of_width(on: Arithmetic, heads: usize, width: usize) -> Self {
        let dim = width / heads;
        let scale = 1.0 / (dim as f32).sqrt();
        Self { on, queries: heads, keys: heads, dim, scale, distance: None, dropout: 0.0 }
    }

    /// Width of a token's queries, and of its output.
    pub fn query_width(&self) -> usize {
        self.queries * self.dim
    }

    /// Width of a token's keys, and of its values.
    pub fn key_width(&self) -> usize {
        self.keys * self.dim
    }

    /// Width of a token's queries, keys and values together.
    pub fn width(&self) -> usize {
        self.query_width() + 2 * self.key_width()
    }

    /// Precision of the products of queries and keys, and of weights and values.
    fn precision(&self) -> Precision {
        match self.on.dtype {
            Format::Bf16 | Format::Int8 => Precision::Bf16,
            _ => Precision::F32,
        }
    }

    /// An empty cache of `layers` layers with room for `capacity` tokens.
    pub fn caches(&self, layers: usize, capacity: usize) -> Cache {
        Cache { layers: (0..layers).map(|_| self.cache(capacity)).collect(), source: None }
    }

    /// An empty cache of one layer with room for `capacity` tokens.
    fn cache(&self, capacity: usize) -> KvCache {
        KvCache::new(self.on.backend, self.precision(), self.keys, [self.dim; 2], capacity)
    }

    /// `heads` heads of each row of `x`, \[tokens, width\], from column `column` on: \[heads, tokens, dim\].
    fn part<'x>(
        &self,
        x: &'x [f32],
        width: usize,
        column: usize,
        heads: usize,
    ) -> Result<View<'x, 3>, Error> {
        let tokens = x.len() / width;
        let x = &x[column.min(x.len())..];
        Ok(View::with_strides(x, [heads, tokens, self.dim], [self.dim, width, 1])?)
    }

    /// All heads of `x`, \[tokens, heads dim\], as \[1, heads, tokens, dim\].
    fn all<'x>(&self, x: &'x [f32], heads: usize) -> Result<View<'x, 4>, Error> {
        Ok(one(self.part(x, heads * self.dim, 0, heads)?))
    }

    /// All heads of `x`, \[tokens, heads dim\], as \[1, heads, tokens, dim\].
    fn all_mut<'x>(&self, x: &'x mut [f32], heads: usize) -> Result<ViewMut<'x, 4>, Error> {
        let width = heads * self.dim;
        let shape = [1, heads, x.len() / width, self.dim];
        Ok(ViewMut::with_strides(x, shape, [0, self.dim, width, 1])?)
    }

    /// Queries, keys and values of `qkv`, \[tokens, width\].
    fn split<'x>(&self, qkv: &'x [f32]) -> Result<[View<'x, 4>; 3], Error> {
        let (q, kv) = self.all(qkv, self.queries + 2 * self.keys)?.split_at(1, self.queries);
        let (k, v) = kv.split_at(1, self.keys);
        Ok([q, k, v])
    }

    /// Bidirectional attention from the queries, keys and values in [`Slot::WIDE`], \[tokens, width\], to
    /// [`Slot::CONTEXT`], \[tokens, query width\]. `starts` has the index of each sequence's first token, then the number
    /// of tokens.
    ///
    /// # Errors
    /// [`Error::Kernel`] if shapes do not fit.
    pub fn bidirectional(&self, run: &mut Run<'a>, starts: &'a [usize]) -> Result<(), Error> {
        self.packed(run, starts, Window::ALL)
    }

    /// Attention within each sequence, without caches.
    fn packed(&self, run: &mut Run<'a>, starts: &'a [usize], window: Window) -> Result<(), Error> {
        let tokens = run.matrix(Slot::WIDE).shape()[0];
        let mut context = run.take(Slot::CONTEXT, [tokens, self.query_width()]);
        let mut lse = run.keep([self.queries, tokens]);
        let mask = run.dropout(self.dropout);
        let [q, k, v] = self.split(run.matrix(Slot::WIDE).values())?;
        let lse_view =
            lse.as_mut().map(|lse| ViewMut::new(lse.matrix.values_mut(), [1, self.queries, tokens]));
        self.on.backend.run(Attention {
            sequences: Sequences::Packed { q: starts, k: starts },
            precision: self.precision(),
            scale: self.scale,
            distance: self.distance.map(|bias| bias.resolve(run.arena())).transpose()?,
            window,
            dropout: mask,
            lse: lse_view.transpose()?,
            ..Attention::new(q, k, v, self.all_mut(context.matrix.values_mut(), self.queries)?)
        })?;
        let (heads, qkv) = (*self, run.version(Slot::WIDE));
        let (lse, out) = (lse.map(|lse| run.put(lse)), run.put(context));
        if let Some(lse) = lse {
            run.record(|| Call::Attention(AttentionCall { heads, starts, window, mask, qkv, out, lse }));
        }
        Ok(())
    }

    /// As [`bidirectional`](Self::bidirectional), but causal, in layer `layer`. Tokens that `past` caches come first; new keys and values are appended to its caches. A token's output has the same bits
    /// whether the tokens before it are cached or new.
    ///
    /// # Errors
    /// [`Error::Kernel`] if shapes do not fit or a cache has no room.
    pub fn causal(
        &self,
        run: &mut Run<'a>,
        starts: &'a [usize],
        past: &mut Past<'_, '_>,
        layer: usize,
    ) -> Result<(), Error> {
        let Past::Cached(caches) = past else {
            return self.packed(run, starts, Window::CAUSAL);
        };
        let tokens = run.matrix(Slot::WIDE).shape()[0];
        let mut context = run.take(Slot::CONTEXT, [tokens, self.query_width()]);
        let (width, q, k) = (self.width(), self.query_width(), self.key_width());
        let qkv = run.matrix(Slot::WIDE).values();
        let [keys, values] = [self.part(qkv, width, q, self.keys)?, self.part(qkv, width, q + k, self.keys)?];
        for (cache, ends) in caches.iter_mut().zip(starts.windows(2)) {
            let tokens = ends[0]..ends[1];
            cache.layers[layer].append(keys.slice(1, tokens.clone()), values.slice(1, tokens))?;
        }
        let caches: Vec<&KvCache> = caches.iter().map(|cache| &cache.layers[layer]).collect();
        let queries = one(self.part(qkv, width, 0, self.queries)?);
        self.cached(run, starts, queries, &caches, Window::CAUSAL, context.matrix.values_mut())?;
        run.put(context);
        Ok(())
    }

    /// Attention from `q` to the keys and values of `caches`, one cache for each sequence.
    fn cached(
        &self,
        run: &Run<'a>,
        starts: &[usize],
        q: View<'_, 4>,
        caches: &[&KvCache],
        window: Window,
        out: &mut [f32],
    ) -> Result<(), Error> {
        Ok(self.on.backend.run(CachedAttention {
            scale: self.scale,
            distance: self.distance.map(|bias| bias.resolve(run.arena())).transpose()?,
            window,
            ..CachedAttention::new(q, caches, starts, self.all_mut(out, self.queries)?)
        })?)
    }
}

impl AttentionCall<'_> {
    /// Gradients of queries, keys and values; the bias table gains its own.
    pub fn backward(self, saved: Saved<'_>, gradients: &mut Gradients<'_>) -> Result<(), Error> {
        let Self { heads, starts, window, mask, qkv, out, lse } = self;
        let Some(dout) = gradients.take(out) else { return Ok(()) };
        let mut dqkv = gradients.matrix(saved.matrix(qkv).shape());
        let views = heads.all_mut(dqkv.values_mut(), heads.queries + 2 * heads.keys)?;
        let (dq, dkv) = views.split_at(1, heads.queries);
        let (dk, dv) = dkv.split_at(1, heads.keys);
        let result = (
            heads.all(saved.matrix(out).values(), heads.queries)?,
            View::new(saved.matrix(lse).values(), [1, heads.queries, dout.shape()[0]])?,
        );
        let of_out = heads.all(dout.values(), heads.queries)?;
        let inputs = heads.split(saved.matrix(qkv).values())?;
        heads.on.backend.run(AttentionBackward {
            precision: heads.precision(),
            scale: heads.scale,
            distance: heads.distance.map(|bias| bias.resolve(saved.arena())).transpose()?,
            sequences: Sequences::Packed { q: starts, k: starts },
            window,
            dropout: mask,
            dtable: heads.distance.map(|bias| bias.table.gradient(gradients)).transpose()?,
            ..AttentionBackward::new(inputs, result, of_out, [dq, dk, dv])
        })?;
        gradients.add(qkv, Arc::new(dqkv));
        gradients.release(dout);
        Ok(())
    }
}

/// A batch of one.
fn one(x: View<'_, 3>) -> View<'_, 4> {
    x.into()
}
