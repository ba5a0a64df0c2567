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
use crate::layers::{Cache, Linear, Past};
use tilewright_kernels::gemm::Format;
use tilewright_kernels::{
    Attention, CachedAttention, DistanceBias, KvCache, Precision, Sequences, View, ViewMut, Window,
};

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
    pub distance: Option<DistanceBias<'a>>,
}

impl Heads<'_> {
    /// `heads` query heads and as many key heads, each `width / heads` wide, with scale 1 / sqrt(dim). `heads` must
    /// divide `width`.
    ///
    /// # Panics
    /// If `heads` is 0.
    pub fn of_width(on: Arithmetic, heads: usize, width: usize) -> Self {
        let dim = width / heads;
        Self { on, queries: heads, keys: heads, dim, scale: 1.0 / (dim as f32).sqrt(), distance: None }
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

    /// All heads of `out`, \[1, heads, tokens, dim\].
    fn outputs<'x>(&self, out: &'x mut [f32]) -> Result<ViewMut<'x, 4>, Error> {
        let width = self.query_width();
        let shape = [1, self.queries, out.len() / width, self.dim];
        Ok(ViewMut::with_strides(out, shape, [0, self.dim, width, 1])?)
    }

    /// Bidirectional attention from `qkv`, \[tokens, width\], to `out`, \[tokens, query width\]. `starts` has the index
    /// of each sequence's first token, then the number of tokens.
    ///
    /// # Errors
    /// [`Error::Kernel`] if shapes do not fit.
    pub fn bidirectional(&self, starts: &[usize], qkv: &[f32], out: &mut [f32]) -> Result<(), Error> {
        self.packed(starts, qkv, Window::ALL, out)
    }

    /// Attention within each sequence of `qkv`, without caches.
    fn packed(&self, starts: &[usize], qkv: &[f32], window: Window, out: &mut [f32]) -> Result<(), Error> {
        let (width, q, k) = (self.width(), self.query_width(), self.key_width());
        let part = |column, heads| Ok::<_, Error>(one(self.part(qkv, width, column, heads)?));
        Ok(self.on.backend.run(Attention {
            sequences: Sequences::Packed { q: starts, k: starts },
            precision: self.precision(),
            scale: self.scale,
            distance: self.distance,
            window,
            ..Attention::new(
                part(0, self.queries)?,
                part(q, self.keys)?,
                part(q + k, self.keys)?,
                self.outputs(out)?,
            )
        })?)
    }

    /// Causal attention from `qkv`, \[tokens, width\], to `out`, \[tokens, query width\], in layer `layer`. Tokens that
    /// `past` caches come first; new keys and values are appended to its caches. A token's output has the same bits
    /// whether the tokens before it are cached or new.
    ///
    /// # Errors
    /// [`Error::Kernel`] if shapes do not fit or a cache has no room.
    pub fn causal(
        &self,
        starts: &[usize],
        qkv: &[f32],
        past: &mut Past<'_, '_>,
        layer: usize,
        out: &mut [f32],
    ) -> Result<(), Error> {
        let Past::Cached(caches) = past else {
            return self.packed(starts, qkv, Window::CAUSAL, out);
        };
        let (width, q, k) = (self.width(), self.query_width(), self.key_width());
        let [keys, values] = [self.part(qkv, width, q, self.keys)?, self.part(qkv, width, q + k, self.keys)?];
        for (cache, ends) in caches.iter_mut().zip(starts.windows(2)) {
            let tokens = ends[0]..ends[1];
            cache.layers[layer].append(keys.slice(1, tokens.clone()), values.slice(1, tokens))?;
        }
        let caches: Vec<&KvCache> = caches.iter().map(|cache| &cache.layers[layer]).collect();
        let queries = one(self.part(qkv, width, 0, self.queries)?);
        self.cached(starts, queries, &caches, Window::CAUSAL, out)
    }

    /// Caches for sequences that read sources: no tokens, room for `capacity` of them, and the keys and values of one
    /// source each. `layers`, \[H, 2 key width\], compute these keys and values from the sources' `states`,
    /// \[tokens, H\]. `kv`, \[tokens, 2 key width\], is working memory.
    ///
    /// # Errors
    /// [`Error::Kernel`] if shapes do not fit.
    pub fn source_caches<'l>(
        &self,
        starts: &[usize],
        states: &[f32],
        layers: impl Iterator<Item = &'l Linear>,
        kv: &mut [f32],
        capacity: usize,
    ) -> Result<Vec<Cache>, Error> {
        let mut found = vec![Vec::new(); starts.len().saturating_sub(1)];
        for layer in layers {
            layer.forward(states, kv)?;
            for (source, layer) in found.iter_mut().zip(self.sources(starts, kv)?) {
                source.push(layer);
            }
        }
        let cache = |source: Vec<KvCache>| {
            let empty = self.caches(source.len(), capacity);
            Cache { source: Some(source.into()), ..empty }
        };
        Ok(found.into_iter().map(cache).collect())
    }

    /// Keys and values of one layer: a cache for each source, filled from `kv`, \[tokens, 2 key width\].
    fn sources(&self, starts: &[usize], kv: &[f32]) -> Result<Vec<KvCache>, Error> {
        let (width, k) = (2 * self.key_width(), self.key_width());
        let [keys, values] = [self.part(kv, width, 0, self.keys)?, self.part(kv, width, k, self.keys)?];
        let source = |ends: &[usize]| {
            let tokens = ends[0]..ends[1];
            let mut cache = self.cache(tokens.len());
            cache.append(keys.slice(1, tokens.clone()), values.slice(1, tokens))?;
            Ok(cache)
        };
        starts.windows(2).map(source).collect()
    }

    /// Cross-attention in layer `layer`: from the queries `q`, \[tokens, query width\], to `out` of the same shape.
    /// Keys and values are those of the sources in `caches`, one cache for each sequence.
    ///
    /// # Errors
    /// [`Error::Kernel`] if shapes do not fit; [`Error::Input`] if a cache has no source.
    pub fn cross(
        &self,
        starts: &[usize],
        q: &[f32],
        caches: &[&mut Cache],
        layer: usize,
        out: &mut [f32],
    ) -> Result<(), Error> {
        let missing = || Error::Input {
            name: "caches",
            why: "expected a source in each, found one without".to_owned(),
        };
        let sources = caches.iter().map(|cache| Ok(&cache.source.as_ref().ok_or_else(missing)?[layer]));
        let sources: Vec<&KvCache> = sources.collect::<Result<_, Error>>()?;
        let queries = one(self.part(q, self.query_width(), 0, self.queries)?);
        self.cached(starts, queries, &sources, Window::ALL, out)
    }

    /// Attention from `q` to the keys and values of `caches`, one cache for each sequence.
    fn cached(
        &self,
        starts: &[usize],
        q: View<'_, 4>,
        caches: &[&KvCache],
        window: Window,
        out: &mut [f32],
    ) -> Result<(), Error> {
        Ok(self.on.backend.run(CachedAttention {
            scale: self.scale,
            distance: self.distance,
            window,
            ..CachedAttention::new(q, caches, starts, self.outputs(out)?)
        })?)
    }
}

/// A batch of one.
fn one(x: View<'_, 3>) -> View<'_, 4> {
    x.into()
}
