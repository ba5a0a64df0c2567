//! Cross-attention: from the tokens of a decoder to those of its source.

use super::Heads;
use crate::error::Error;
use crate::layers::run::{Call, Gradients, Run, Saved, Slot, Version};
use crate::layers::{Cache, Linear, Past};
use std::sync::Arc;
use tilewright_kernels::{
    Attention, AttentionBackward, DropoutMask, KvCache, Sequences, View, ViewMut, Window,
};

/// A call on the tape: attention from the tokens of a decoder to those of its source. It saves as [`AttentionCall`].
#[derive(Debug)]
pub(in crate::layers) struct CrossAttentionCall<'m> {
    heads: Heads<'m>,
    /// Starts of the decoder's sequences, and of their sources.
    starts: [&'m [usize]; 2],
    mask: Option<DropoutMask>,
    pub q: Version,
    pub kv: Version,
    out: Version,
    lse: Version,
}

impl<'a> Heads<'a> {
    /// Caches for sequences that read sources: no tokens, room for `capacity` of them, and the keys and values of one
    /// source each. `layers`, \[H, 2 key width\], compute these keys and values from the sources' states in
    /// [`Slot::SOURCE`].
    ///
    /// # Errors
    /// [`Error::Kernel`] if shapes do not fit.
    pub fn source_caches(
        &self,
        run: &mut Run<'a>,
        starts: &[usize],
        layers: impl Iterator<Item = &'a Linear>,
        capacity: usize,
    ) -> Result<Vec<Cache>, Error> {
        let mut found = vec![Vec::new(); starts.len().saturating_sub(1)];
        for layer in layers {
            layer.forward(run, Slot::SOURCE, Slot::SOURCE_KV)?;
            let kv = run.matrix(Slot::SOURCE_KV).values();
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

    /// Cross-attention in layer `layer`: from the queries in [`Slot::WIDE`], \[tokens, query width\], to
    /// [`Slot::CONTEXT`] of the same shape. `kv` computes keys and values from the source's states, unless `past` caches
    /// them.
    ///
    /// # Errors
    /// [`Error::Kernel`] if shapes do not fit; [`Error::Input`] if a cache has no source, or `past` names no source.
    pub fn cross(
        &self,
        run: &mut Run<'a>,
        starts: &'a [usize],
        kv: &'a Linear,
        past: &Past<'a, '_>,
        layer: usize,
    ) -> Result<(), Error> {
        match past {
            Past::Source(source) => {
                kv.forward(run, Slot::SOURCE, Slot::SOURCE_KV)?;
                self.attend_to_source(run, [starts, source])
            }
            Past::Cached(caches) => {
                let sources =
                    caches.iter().map(|cache| Ok(&cache.source.as_ref().ok_or_else(no_source)?[layer]));
                let sources: Vec<&KvCache> = sources.collect::<Result<_, Error>>()?;
                let tokens = run.matrix(Slot::WIDE).shape()[0];
                let mut context = run.take(Slot::CONTEXT, [tokens, self.query_width()]);
                let queries = self.all(run.matrix(Slot::WIDE).values(), self.queries)?;
                self.cached(run, starts, queries, &sources, Window::ALL, context.matrix.values_mut())?;
                run.put(context);
                Ok(())
            }
            Past::None => Err(no_source()),
        }
    }

    /// Attention from the decoder's queries in [`Slot::WIDE`] to the keys and values in [`Slot::SOURCE_KV`].
    fn attend_to_source(&self, run: &mut Run<'a>, starts: [&'a [usize]; 2]) -> Result<(), Error> {
        let tokens = run.matrix(Slot::WIDE).shape()[0];
        let mut context = run.take(Slot::CONTEXT, [tokens, self.query_width()]);
        let mut lse = run.keep([self.queries, tokens]);
        let mask = run.dropout(self.dropout);
        let queries = self.all(run.matrix(Slot::WIDE).values(), self.queries)?;
        let (k, v) = self.all(run.matrix(Slot::SOURCE_KV).values(), 2 * self.keys)?.split_at(1, self.keys);
        let lse_view =
            lse.as_mut().map(|lse| ViewMut::new(lse.matrix.values_mut(), [1, self.queries, tokens]));
        self.on.backend.run(Attention {
            sequences: Sequences::Packed { q: starts[0], k: starts[1] },
            precision: self.precision(),
            scale: self.scale,
            dropout: mask,
            lse: lse_view.transpose()?,
            ..Attention::new(queries, k, v, self.all_mut(context.matrix.values_mut(), self.queries)?)
        })?;
        let (heads, q, kv) = (*self, run.version(Slot::WIDE), run.version(Slot::SOURCE_KV));
        let (lse, out) = (lse.map(|lse| run.put(lse)), run.put(context));
        if let Some(lse) = lse {
            run.record(|| Call::CrossAttention(CrossAttentionCall { heads, starts, mask, q, kv, out, lse }));
        }
        Ok(())
    }
}

impl CrossAttentionCall<'_> {
    /// Gradients of the decoder's queries, and of the source's keys and values.
    pub fn backward(self, saved: Saved<'_>, gradients: &mut Gradients<'_>) -> Result<(), Error> {
        let Self { heads, starts, mask, q, kv, out, lse } = self;
        let Some(dout) = gradients.take(out) else { return Ok(()) };
        let mut dq = gradients.matrix(saved.matrix(q).shape());
        let mut dkv = gradients.matrix(saved.matrix(kv).shape());
        let (dk, dv) = heads.all_mut(dkv.values_mut(), 2 * heads.keys)?.split_at(1, heads.keys);
        let result = (
            heads.all(saved.matrix(out).values(), heads.queries)?,
            View::new(saved.matrix(lse).values(), [1, heads.queries, dout.shape()[0]])?,
        );
        let of_out = heads.all(dout.values(), heads.queries)?;
        let queries = heads.all(saved.matrix(q).values(), heads.queries)?;
        let (k, v) = heads.all(saved.matrix(kv).values(), 2 * heads.keys)?.split_at(1, heads.keys);
        let of_q = heads.all_mut(dq.values_mut(), heads.queries)?;
        heads.on.backend.run(AttentionBackward {
            precision: heads.precision(),
            scale: heads.scale,
            sequences: Sequences::Packed { q: starts[0], k: starts[1] },
            dropout: mask,
            ..AttentionBackward::new([queries, k, v], result, of_out, [of_q, dk, dv])
        })?;
        gradients.add(q, Arc::new(dq));
        gradients.add(kv, Arc::new(dkv));
        gradients.release(dout);
        Ok(())
    }
}

fn no_source() -> Error {
    Error::Input { name: "caches", why: "expected a source in each, found one without".to_owned() }
}
