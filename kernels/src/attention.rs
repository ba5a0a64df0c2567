//! Fused attention: softmax(scale Q K^T + bias) V without the S x S scores in memory.
//!
//! ```text
//! s_ij = cap(scale q_i . k_j) + bias_ij,  cap(x) = softcap tanh(x / softcap)
//! m_i = max_j s_ij,  l_i = sum_j exp(s_ij - m_i),  o_i = sum_j exp(s_ij - m_i) v_j / l_i
//! ```
//!
//! Over the keys j that row i sees. The scores are made, used and dropped in blocks of keys: Milakov
//! and Gimelshein, "Online normalizer calculation for softmax" (2018); Dao et al.,
//! "FlashAttention" (2022). With three departures:
//!
//! ```text
//! for batch, kv head, part of the rows        one task; rows of all query heads of the group
//!   for block of BLOCK_KEYS keys that any row sees  pack K^T and V once
//!     for group of a few register tiles of rows
//!       S = Q K^T -> P = exp(S - m), m, l -> O = P V     all in L1 and L2
//!       (M, L, out) <- merge((M, L, out), (m, l, O))
//! ```
//!
//! 1. Blocks start at multiples of 256 keys, counted from the first key of the sequence, and every
//!    block is finished by itself before it is merged, in ascending order. A row's bits are then a
//!    function of its own keys: not of the other rows, the padding, the number of threads, or of
//!    whether it came with a prompt or alone. A block that the row does not see changes nothing.
//! 2. Blocks of one row may therefore be computed by different threads, and merged afterwards: that
//!    is how a few queries over many keys use all of them.
//! 3. K and V are packed for the register tile of matrix products, so both products run at its
//!    speed; a block is packed once for all rows and for all query heads that share it.

mod block;
mod blocks;
mod cache;
mod cached;
mod call;
mod distance;
mod keys;
mod kv_source;
mod panels;
mod precision;
mod prefetch_schedule;
mod prefetch_span;
mod query_rows;
mod row_ops;
mod sequence_layout;
mod stage;
mod task;
mod variant;

pub use cache::KvCache;
pub use cached::CachedAttention;
pub use distance::DistanceBias;
pub use keys::{Sequences, Start, Window};
pub use precision::Precision;

use crate::backend::Kernel;
use crate::element::Element;
use crate::error::Error;
use crate::isa::Isa;
use crate::view::{AnyViewMut, View, ViewMut};
use call::AttentionCall;
use kv_source::KvSource;

/// Scaled dot-product attention.
///
/// Rows of all views are contiguous (unit last stride); the other dimensions may have any strides,
/// so that heads may come before or after rows, and q, k and v may be parts of one buffer. Each of
/// `heads / kv_heads` consecutive query heads reads the same head of k and v.
///
/// A row sees the keys of its sequence that lie in its window and whose bias is not -inf. What it
/// does not see never reaches it, whatever it holds; a row that sees nothing is zero, and its
/// log-sum-exp -inf. NaN and infinities in what it does see propagate: a score that is NaN or +inf
/// makes the row NaN, and so do scores that are all -inf; a value that is not finite is multiplied by
/// its weight, even if that is 0.
///
/// Numerics, in f32: scores are within gamma_dk * scale * sum |q||k| and a rounding for each addition,
/// weights are made by [`exp_fast`](crate::math::exp_fast), and sums over keys are in f32.
///
/// In bf16: q, k and v are rounded to it, unless they are of it; their products are exact and summed in
/// f32, at most two roundings for each, and the scale is applied to the sums. Where the CPU multiplies
/// pairs of bf16, weights (of 2^-18 relative error) are rounded to bf16 for the product with v, while their
/// own sum is of what is not rounded. So an output is off by at most 2^-8 sum w |v| / sum w more than in
/// f32, and the log-sum-exp by no more than the 2^-18; numbers below 2^-126 may count as zeros. Other CPUs
/// multiply in f32, and round no weight.
///
/// The bits of a row depend on its query, on the keys and values it sees, on their positions, and on the
/// backend; not on other rows, padding, packing into a batch, the number of threads, or on how many
/// queries come at once.
///
/// # Errors
/// [`Error::Shape`] if q, k, v, out, lse, the biases or the sequences do not fit each other; [`Error::Invalid`]
/// if a row is not contiguous (a bias may also repeat one number), the key heads do not divide the heads, the
/// softcap is not a positive number, ends of sequences do not ascend from 0 to the number of rows, lengths exceed
/// the keys, or T5's buckets do not fit its distances. Nothing is written then.
///
/// ```
/// use tilewright_kernels::{Attention, Backend, View, ViewMut, Window};
/// let (batch, heads, rows, dim) = (1, 2, 3, 4);
/// let shape = [batch, heads, rows, dim];
/// let x = vec![0.5; shape.iter().product()];
/// let mut out = vec![0.0; x.len()];
/// let x = View::new(&x, shape)?;
/// Backend::best().run(Attention {
///     window: Window::CAUSAL,
///     ..Attention::new(x, x, x, ViewMut::new(&mut out, shape)?)
/// })?;
/// assert!(out.iter().all(|x| (x - 0.5).abs() < 1e-6));
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
///
/// Of bf16, or of f32 that may be rounded to it:
///
/// ```
/// use half::bf16;
/// use tilewright_kernels::{Attention, Backend, Precision, View, ViewMut};
/// let shape = [1, 2, 3, 4];
/// let (x, mut out) = (vec![bf16::from_f32(0.5); 24], vec![bf16::ZERO; 24]);
/// let view = View::new(&x, shape)?;
/// Backend::best().run(Attention::new(view, view, view, ViewMut::new(&mut out, shape)?))?;
/// assert_eq!(out[0].to_f32(), 0.5);
/// let (x, mut out) = (vec![0.5; 24], vec![0.0; 24]);
/// let view = View::new(&x, shape)?;
/// let attention = Attention::new(view, view, view, ViewMut::new(&mut out, shape)?);
/// Backend::best().run(Attention { precision: Precision::Bf16, ..attention })?;
/// assert!((out[0] - 0.5).abs() < 0.5 / 256.0);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Attention<'a, T: Element = f32> {
    /// Queries \[batch, heads, queries, dk\].
    pub q: View<'a, 4, T>,
    /// Keys \[batch, kv_heads, keys, dk\].
    pub k: View<'a, 4, T>,
    /// Values \[batch, kv_heads, keys, dv\].
    pub v: View<'a, 4, T>,
    /// Element type of the two products.
    pub precision: Precision,
    /// Factor of the dot products.
    pub scale: f32,
    /// Bends scores to lie between its negative and itself, before any bias; positive.
    pub softcap: Option<f32>,
    /// Added to the scores: \[sequences, heads, queries, keys\], of the longest sequence where they
    /// differ; stride 0 repeats any dimension. -inf hides a key.
    pub bias: Option<View<'a, 4>>,
    /// Added to the scores for the distance from query to key.
    pub distance: Option<DistanceBias<'a>>,
    /// How batch rows divide into sequences.
    pub sequences: Sequences<'a>,
    /// Where the queries stand among the keys.
    pub start: Start,
    /// Which keys around its position a query sees.
    pub window: Window,
    /// \[batch, heads, queries, dv\] of any type: each element is rounded once from f32.
    pub out: AnyViewMut<'a, 4>,
    /// Where to put m + ln l of each row: \[batch, heads, queries\].
    pub lse: Option<ViewMut<'a, 3>>,
}

impl<'a, T: Element> Attention<'a, T> {
    /// Plain attention over all keys, at scale 1 / sqrt(dk): every other field at its neutral value.
    pub fn new(
        q: View<'a, 4, T>,
        k: View<'a, 4, T>,
        v: View<'a, 4, T>,
        out: impl Into<AnyViewMut<'a, 4>>,
    ) -> Self {
        Self {
            q,
            k,
            v,
            precision: Precision::Stored,
            scale: 1.0 / (q.shape()[3] as f32).sqrt(),
            softcap: None,
            bias: None,
            distance: None,
            sequences: Sequences::Rows,
            start: Start::At(0),
            window: Window::ALL,
            out: out.into(),
            lse: None,
        }
    }

    /// The arguments with the type of q, k and v as a value: one loop serves all types.
    fn call(self) -> AttentionCall<'a> {
        AttentionCall {
            q: self.q.into(),
            source: KvSource::Views { k: self.k.into(), v: self.v.into(), sequences: self.sequences },
            bf16: match self.precision {
                Precision::Stored => T::IS_BF16,
                Precision::F32 => false,
                Precision::Bf16 => true,
            },
            scale: self.scale,
            softcap: self.softcap,
            bias: self.bias,
            distance: self.distance,
            start: self.start,
            window: self.window,
            out: self.out,
            lse: self.lse,
        }
    }
}

impl<T: Element> Kernel for Attention<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::attention);

    fn reference(self) -> Result<(), Error> {
        self.call().reference()
    }

    fn eval<I: Isa>(self, isa: I) -> Result<(), Error> {
        self.call().eval(isa)
    }
}
