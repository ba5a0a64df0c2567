//! Attention to KV caches, which hold keys and values in packed panels.

use super::arguments::AttentionArguments;
use super::cache::KvCache;
use super::call::AttentionCall;
use super::distance::DistanceBias;
use super::keys::{Start, Window};
use super::kv_source::KvSource;
use crate::backend::Kernel;
use crate::error::Error;
use crate::isa::Isa;
use crate::view::{AnyView, AnyViewMut, View, ViewMut};

/// [`Attention`](super::Attention) of packed query sequences, each to its own [`KvCache`].
///
/// Results have the bits of [`Attention`](super::Attention) to the same keys and values in views, with the
/// [`Precision`](super::Precision) of the caches, on their backend. One cache may serve several sequences, for example
/// beams that attend to one encoder.
///
/// # Errors
/// The errors of [`Attention`](super::Attention), under its names. Also an error: caches that do not fit q or each
/// other, and caches laid out for another backend. Only [`Backend::REFERENCE`](crate::Backend::REFERENCE) reads every
/// layout.
///
/// ```
/// use tilewright_kernels::{Backend, CachedAttention, KvCache, Precision, View, ViewMut, Window};
/// let backend = Backend::best();
/// // Two query heads that share a head of keys and values, of 4 numbers each.
/// let (heads, kv_heads, dim) = (2, 1, 4);
/// let mut cache = KvCache::new(backend, Precision::F32, kv_heads, [dim, dim], 100);
/// let x = [0.5; 24];
/// // A prompt of three tokens, and then one more.
/// for tokens in [3, 1] {
///     let kv = View::new(&x, [kv_heads, tokens, dim])?;
///     cache.append(kv, kv)?;
///     let q = View::new(&x, [1, heads, tokens, dim])?;
///     let mut out = vec![0.0; heads * tokens * dim];
///     let out = ViewMut::new(&mut out, [1, heads, tokens, dim])?;
///     let (caches, starts) = ([&cache], [0, tokens]);
///     let attention = CachedAttention::new(q, &caches, &starts, out);
///     backend.run(CachedAttention { window: Window::CAUSAL, ..attention })?;
/// }
/// assert_eq!(cache.len(), 4);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
///
/// Beams that attend to one encoder whose last token is padding; their log-sum-exps are wanted, too:
///
/// ```
/// use tilewright_kernels::{Backend, CachedAttention, KvCache, Precision, View, ViewMut};
/// let (backend, beams, heads, tokens, dim) = (Backend::best(), 2, 2, 3, 4);
/// let mut cache = KvCache::new(backend, Precision::F32, heads, [dim, dim], tokens);
/// let x = [0.5; 24];
/// let kv = View::new(&x, [heads, tokens, dim])?;
/// cache.append(kv, kv)?;
/// let (mut out, mut lse) = ([0.0; 16], [0.0; 4]);
/// let q = View::new(&x, [1, heads, beams, dim])?;
/// let sees = [true, true, false];
/// let to = ViewMut::new(&mut out, [1, heads, beams, dim])?;
/// backend.run(CachedAttention {
///     mask: Some(View::with_strides(&sees, [beams, heads, 1, tokens], [0, 0, 0, 1])?),
///     lse: Some(ViewMut::new(&mut lse, [1, heads, beams])?),
///     ..CachedAttention::new(q, &[&cache, &cache], &[0, 1, 2], to)
/// })?;
/// // Two keys of the score 4 * 0.5^2 / sqrt(4) each.
/// assert!(lse.iter().all(|lse| (lse - (0.5 + 2.0_f32.ln())).abs() < 1e-6));
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct CachedAttention<'a> {
    /// Queries \[1, heads, queries, dk\], sequence after sequence.
    pub q: View<'a, 4>,
    /// Keys and values of each sequence; all caches have one shape \[kv_heads, dk, dv\] and one precision.
    pub caches: &'a [&'a KvCache],
    /// \[sequences + 1\], ascending from 0 to the number of queries: sequence s has the queries
    /// `starts[s]..starts[s + 1]`.
    pub starts: &'a [usize],
    /// Factor of the dot products.
    pub scale: f32,
    /// Bound c of scores, applied before any bias: score = c tanh(score / c); positive and finite.
    pub softcap: Option<f32>,
    /// Added to the scores, as [`Attention::bias`](super::Attention::bias): \[sequences, heads, queries, keys\].
    pub bias: Option<View<'a, 4>>,
    /// False hides a key, as [`Attention::mask`](super::Attention::mask): \[sequences, heads, queries, keys\].
    pub mask: Option<View<'a, 4, bool>>,
    /// Added to each score, by head and distance from query to key.
    pub distance: Option<DistanceBias<'a>>,
    /// Position of each sequence's first query among its keys.
    pub start: Start<'a>,
    /// Keys that a query sees around its position.
    pub window: Window,
    /// Result \[1, heads, queries, dv\].
    pub out: ViewMut<'a, 4>,
    /// Log-sum-exp m + ln l of each row, if wanted: \[1, heads, queries\].
    pub lse: Option<ViewMut<'a, 3>>,
}

impl<'a> CachedAttention<'a> {
    /// Attention over all keys at scale 1 / sqrt(dk). The queries stand at the last keys ([`Start::End`]): they
    /// belong to the tokens appended last.
    pub fn new(q: View<'a, 4>, caches: &'a [&'a KvCache], starts: &'a [usize], out: ViewMut<'a, 4>) -> Self {
        Self {
            q,
            caches,
            starts,
            scale: 1.0 / (q.shape()[3] as f32).sqrt(),
            softcap: None,
            bias: None,
            mask: None,
            distance: None,
            start: Start::End,
            window: Window::ALL,
            out,
            lse: None,
        }
    }

    fn call(self) -> AttentionCall<'a> {
        AttentionCall {
            arguments: AttentionArguments {
                q: AnyView::F32(self.q),
                source: KvSource::Caches { caches: self.caches, starts: self.starts },
                bf16: self.caches.first().is_some_and(|cache| cache.is_bf16()),
                scale: self.scale,
                softcap: self.softcap,
                bias: self.bias,
                mask: self.mask,
                distance: self.distance,
                start: self.start,
                window: self.window,
                dropout: None,
            },
            out: AnyViewMut::F32(self.out),
            lse: self.lse,
        }
    }
}

impl Kernel for CachedAttention<'_> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!();

    fn reference(self) -> Result<(), Error> {
        self.call().reference()
    }

    fn eval<I: Isa>(self, isa: I) -> Result<(), Error> {
        self.call().eval(isa)
    }
}
