//! Attention of a layer: how heads stand in the output of a linear layer, and what sees what.
//!
//! ```text
//! queries, keys and values of a token      [q heads | k heads | v heads], each head `dim` wide
//! ```

use crate::arithmetic::Arithmetic;
use crate::error::Error;
use crate::layers::{Cache, Linear, Past};
use tilewright_kernels::gemm::Format;
use tilewright_kernels::{
    Attention, CachedAttention, DistanceBias, KvCache, Precision, Sequences, View, ViewMut, Window,
};

/// Heads of an attention, and the scale and bias of its scores.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// Backend and types. Where linear layers are bf16 or int8, products of attention are bf16 and
    /// the softmax is f32; otherwise all of it is f32.
    pub on: Arithmetic,
    /// Heads of queries.
    pub queries: usize,
    /// Heads of keys and of values, each for `queries / keys` consecutive heads of queries.
    pub keys: usize,
    /// Width of a head.
    pub dim: usize,
    /// Factor of the dot products.
    pub scale: f32,
    /// Added to the scores for the distance from query to key.
    pub distance: Option<DistanceBias<'a>>,
}

impl Heads<'_> {
    /// `heads` heads of queries and of keys that share `width`, a multiple of `heads`; scale
    /// 1 / sqrt(dim).
    ///
    /// # Panics
    /// If there are no heads.
    pub fn of_width(on: Arithmetic, heads: usize, width: usize) -> Self {
        let dim = width / heads;
        Self { on, queries: heads, keys: heads, dim, scale: 1.0 / (dim as f32).sqrt(), distance: None }
    }

    /// Width of queries and of the output of a token.
    pub fn query_width(&self) -> usize {
        self.queries * self.dim
    }

    /// Width of the keys of a token, and of its values.
    pub fn key_width(&self) -> usize {
        self.keys * self.dim
    }

    /// Width of queries, keys and values of a token.
    pub fn width(&self) -> usize {
        self.query_width() + 2 * self.key_width()
    }

    /// Precision of the products.
    fn precision(&self) -> Precision {
        match self.on.dtype {
            Format::Bf16 | Format::Int8 => Precision::Bf16,
            _ => Precision::F32,
        }
    }

    /// Room for the keys and values of `capacity` tokens in each of `layers`.
    pub fn caches(&self, layers: usize, capacity: usize) -> Cache {
        Cache { layers: (0..layers).map(|_| self.cache(capacity)).collect(), source: None }
    }

    /// Room for `capacity` tokens in one layer.
    fn cache(&self, capacity: usize) -> KvCache {
        KvCache::new(self.on.backend, self.precision(), self.keys, [self.dim; 2], capacity)
    }

    /// `heads` heads of each row of `x`, from column `column` on: \[heads, tokens, dim\].
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

    /// Every token sees all tokens of its sequence: from `qkv`, \[tokens, width\], to `out`,
    /// \[tokens, query width\].
    ///
    /// # Errors
    /// [`Error::Kernel`] if shapes do not fit; here and below.
    pub fn bidirectional(&self, starts: &[usize], qkv: &[f32], out: &mut [f32]) -> Result<(), Error> {
        self.packed(starts, qkv, Window::ALL, out)
    }

    /// Attention within each sequence, without a cache.
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

    /// Every token, \[tokens, width\], sees its sequence up to itself, with what `past` holds of it in layer
    /// `layer`. Outputs have the same bits for any `past` of the same tokens.
    ///
    /// # Errors
    /// As [`bidirectional`](Self::bidirectional), and if a cache has no room.
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

    /// An empty cache of up to `capacity` tokens for each source, which has what each of the `layers`, from H to
    /// 2 key width, makes of the states of the sources, \[tokens, H\]. `kv`, \[tokens, 2 key width\], is working
    /// memory.
    ///
    /// # Errors
    /// As [`bidirectional`](Self::bidirectional).
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

    /// Keys and values of sources in one layer, \[tokens, 2 key width\], each in a cache of its own.
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

    /// Lets each token, \[tokens, query width\], see all of its sequence's source in layer `layer`.
    ///
    /// # Errors
    /// As [`bidirectional`](Self::bidirectional), and if a cache has no source.
    pub fn cross(
        &self,
        starts: &[usize],
        q: &[f32],
        caches: &[&mut Cache],
        layer: usize,
        out: &mut [f32],
    ) -> Result<(), Error> {
        let missing = || Error::Input { name: "caches", why: "one has no source".to_owned() };
        let sources = caches.iter().map(|cache| Ok(&cache.source.as_ref().ok_or_else(missing)?[layer]));
        let sources: Vec<&KvCache> = sources.collect::<Result<_, Error>>()?;
        let queries = one(self.part(q, self.query_width(), 0, self.queries)?);
        self.cached(starts, queries, &sources, Window::ALL, out)
    }

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
