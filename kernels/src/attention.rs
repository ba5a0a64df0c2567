//! Fused attention: softmax(scale Q K^T + bias) V without the S x S scores in memory.
//!
//! ```text
//! s_ij = cap(scale q_i . k_j) + bias_ij,  cap(x) = softcap tanh(x / softcap)
//! o_i  = sum_j exp(s_ij - m_i) v_j / l_i,  m_i = max_j s_ij,  l_i = sum_j exp(s_ij - m_i),  lse_i = m_i + ln l_i
//! ```
//!
//! With dropout, o_i takes the weights that are kept, times 1 / (1 - p); l_i takes all weights.
//!
//! j runs over the keys that row i sees. Online softmax visits them block by block. A block b yields a partial
//! softmax (m_b, l_b, O_b) for each row, and merging it into the running (m, l, O) of that row rescales both:
//!
//! ```text
//! m_b = max_j s_ij,  l_b = sum_j exp(s_ij - m_b),  O_b = sum_j exp(s_ij - m_b) v_j      j in block b
//! m'  = max(m, m_b)
//! l'  = exp(m - m') l + exp(m_b - m') l_b
//! O'  = exp(m - m') O + exp(m_b - m') O_b            after the last block: o_i = O / l
//! ```
//!
//! Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018, arXiv:1805.02867. Dao et al.,
//! "FlashAttention", 2022, arXiv:2205.14135. Dao, "FlashAttention-2", 2023, arXiv:2307.08691, divides by l once,
//! at the end, as here.
//!
//! ```text
//! for batch, kv head, range of queries          one task; rows of all query heads of the group
//!   for block of BLOCK_KEYS keys that any row sees        pack K^T and V once
//!     for group of GROUP_ROWS rows
//!       S = Q K^T -> P = exp(S - m_b), m_b, l_b -> O_b = P V      all in L1 and L2
//!       (m, l, O) <- merge((m, l, O), (m_b, l_b, O_b))
//! ```
//!
//! Three departures from the papers:
//!
//! 1. Blocks start at multiples of 256 keys, counted from the first key of the sequence. Each block is finished by
//!    itself and then merged, in ascending order. So the bits of a row depend on its own keys alone: not on other
//!    rows, padding, threads, or prefill against decode. A block that a row does not see leaves its bits unchanged.
//! 2. Different threads may therefore compute the blocks of one row, and a second pass merges them. Few queries over
//!    many keys use all threads in this way.
//! 3. K and V are packed for the microkernel of matrix products, so that both products run at its speed. A task packs
//!    a block once for all of its rows, and so for all query heads that share the key head.
//!
//! The files, in the order in which data passes them:
//!
//! ```text
//! attention.rs cached.rs        arguments: views of K and V, or caches
//!   keys.rs distance.rs precision.rs     their types: sequences and windows, biases by distance, bf16 or f32
//!   dropout.rs                           weights that dropout keeps
//! call.rs                       reference; eval picks a variant
//!   arguments.rs                  checks the arguments of forward and backward calls; fills the bias tables
//!   sequence_layout.rs            queries, keys and positions of each sequence
//! task.rs                       splits rows or blocks among threads; merges partial softmaxes; writes out and lse
//!   query_rows.rs                 rows of a task and the keys that each sees
//! block.rs                      one block: scores, weights, weighted sums of values
//!   kv_source.rs                  its keys and values: views, or caches that are packed already
//!   variant.rs variant/           k-groups of f32 or of bf16 pairs: packing, weights
//!   stage.rs                      packs keys by way of rows of k-groups
//!   row_ops.rs                    vector operations on rows of scores
//!   prefetch_schedule.rs prefetch_span.rs    memory that tiles prefetch
//! cache.rs panels.rs            KvCache, and where its elements stand in panels
//! blocks.rs                     sizes of blocks and groups
//! backward.rs backward/         gradients
//! ```

mod arguments;
pub(crate) mod backward;
mod block;
mod blocks;
mod cache;
mod cached;
mod call;
mod distance;
mod dropout;
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

pub use backward::AttentionBackward;
pub use cache::KvCache;
pub use cached::CachedAttention;
pub use distance::DistanceBias;
pub use keys::{Sequences, Start, Window};
pub use precision::Precision;

use crate::backend::Kernel;
use crate::dropout::DropoutMask;
use crate::element::Element;
use crate::error::Error;
use crate::isa::Isa;
use crate::view::{AnyViewMut, View, ViewMut};
use arguments::AttentionArguments;
use call::AttentionCall;
use kv_source::KvSource;

/// Scaled dot-product attention.
///
/// Rows of all views are contiguous (unit last stride). Other dimensions may have any strides: heads may come
/// before or after rows, and q, k and v may be parts of one buffer. Query head h reads the key head
/// h / (heads / kv_heads).
///
/// A row sees the keys of its sequence that lie in its window, whose bias is not -inf, and whose mask is true.
///
/// - Keys and values that a row does not see never reach it, even if they are NaN.
/// - A row that sees no key is zero, and its log-sum-exp is -inf.
/// - NaN and infinities that a row sees propagate. A score of NaN or +inf makes the row NaN, and so do scores that
///   are all -inf. A value that is not finite is multiplied by its weight, even if the weight is 0.
///
/// # Numerics
/// In f32 a score errs by at most gamma_dk * scale * sum |q||k|, plus one rounding for each bias added. Weights come
/// from [`exp_fast`](crate::math::exp_fast). Sums over keys are f32.
///
/// In bf16, q, k and v are rounded to bf16 unless they are stored in it. Where the CPU multiplies pairs of bf16:
///
/// - Products are exact, and sums f32 with at most two roundings for each product. The scale multiplies the sums.
/// - Weights have a relative error of 2^-18. They are rounded to bf16 for the product with v; their own sum takes
///   them unrounded.
/// - So an output errs by at most 2^-8 sum w |v| / sum w more than in f32, and the log-sum-exp by at most 2^-18 more.
///   Numbers below 2^-126 may count as zero.
///
/// Other CPUs multiply the rounded numbers in f32, and round no weight.
///
/// Dropout multiplies the result by 1 / (1 - p) in f32: one rounding more. A dropped weight is 0, and 0 times a value that
/// is not finite is NaN. The log-sum-exp is that of all weights. All backends drop the same weights.
///
/// The bits of a row depend on its query, the keys and values it sees, their positions, and the backend. They do not
/// depend on other rows, padding, packing into a batch, the number of threads, or how many queries come at once.
///
/// # Errors
/// Nothing is written if there is an error.
///
/// - [`Error::Shape`] if q, k, v, out, lse, the biases, the mask, the sequences or their starts do not fit each other.
/// - [`Error::Invalid`] if a row is not contiguous (a row of bias or mask may also have stride 0), kv_heads does not
///   divide heads, the softcap is not a positive number, ends of sequences do not ascend from 0 to the number of rows,
///   lengths exceed the keys, a start exceeds `usize::MAX / 8`, T5's buckets do not fit its distances, or dropout finds
///   no probability, a sequence of more than 65536 queries or keys, or rows of 2^32 or more.
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
/// Two sequences that continue prefixes of 2 and 0 tokens, the keys of the second padded with a mask that all heads
/// and queries share:
///
/// ```
/// use tilewright_kernels::{Attention, Backend, Start, View, ViewMut, Window};
/// let (batch, heads, rows, keys, dim) = (2, 2, 1, 3, 4);
/// let q = vec![0.5; batch * heads * rows * dim];
/// let k = vec![0.5; batch * heads * keys * dim];
/// let sees = [true, true, true, /* second sequence */ true, false, false];
/// let mut out = vec![0.0; q.len()];
/// let (of_q, of_k) = ([batch, heads, rows, dim], [batch, heads, keys, dim]);
/// let k = View::new(&k, of_k)?;
/// Backend::best().run(Attention {
///     start: Start::Each(&[2, 0]),
///     window: Window::CAUSAL,
///     mask: Some(View::with_strides(&sees, [batch, heads, rows, keys], [keys, 0, 0, 1])?),
///     ..Attention::new(View::new(&q, of_q)?, k, k, ViewMut::new(&mut out, of_q)?)
/// })?;
/// assert!(out.iter().all(|x| (x - 0.5).abs() < 1e-6));
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
///
/// Dropout with the mask of one layer in one step. The second half of a batch, by itself, names its first row:
///
/// ```
/// use tilewright_kernels::{Attention, Backend, DropoutMask, RandomBits, View, ViewMut};
/// let (batch, heads, rows, dim) = (2, 2, 3, 4);
/// let x: Vec<f32> = (0..batch * heads * rows * dim).map(|i| i as f32 / 64.0).collect();
/// let random = RandomBits { seed: 1, step: 0, site: 3 };
/// let run = |first: usize| -> Result<Vec<f32>, tilewright_kernels::Error> {
///     let x = View::new(&x, [batch, heads, rows, dim])?.slice(0, first..batch);
///     let mut out = vec![0.0; (batch - first) * heads * rows * dim];
///     let to = ViewMut::new(&mut out, x.shape())?;
///     let mask = DropoutMask { probability: 0.1, random, first_row: (first * heads) as u32 };
///     Backend::best().run(Attention { dropout: Some(mask), ..Attention::new(x, x, x, to) })?;
///     Ok(out)
/// };
/// assert_eq!(run(0)?[heads * rows * dim..], run(1)?);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
///
/// In bf16, stored or rounded from f32:
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
    /// Bound c of scores, applied before any bias: score = c tanh(score / c); positive and finite.
    pub softcap: Option<f32>,
    /// Added to the scores: \[sequences, heads, queries, keys\]; queries and keys of the longest sequence.
    /// Stride 0 repeats any dimension. -inf hides a key.
    pub bias: Option<View<'a, 4>>,
    /// True where a query sees a key, false where the key is hidden: \[sequences, heads, queries, keys\], as `bias`.
    /// Stride 0 repeats any dimension.
    pub mask: Option<View<'a, 4, bool>>,
    /// Added to each score, by head and distance from query to key.
    pub distance: Option<DistanceBias<'a>>,
    /// Division of the batch into sequences.
    pub sequences: Sequences<'a>,
    /// Position of the first query among the keys.
    pub start: Start<'a>,
    /// Keys that a query sees around its position.
    pub window: Window,
    /// Weights that dropout keeps, if there is dropout. The weight of a key is the element in row
    /// `sequence * heads + head` and column `query * 65536 + key`, query and key counted from the first of their sequence.
    pub dropout: Option<DropoutMask>,
    /// Result \[batch, heads, queries, dv\] of any type, rounded once from f32.
    pub out: AnyViewMut<'a, 4>,
    /// Log-sum-exp m + ln l of each row, if wanted: \[batch, heads, queries\].
    pub lse: Option<ViewMut<'a, 3>>,
}

impl<'a, T: Element> Attention<'a, T> {
    /// Attention over all keys at scale 1 / sqrt(dk), with every other field at its neutral value.
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
            mask: None,
            distance: None,
            sequences: Sequences::Rows,
            start: Start::At(0),
            window: Window::ALL,
            dropout: None,
            out: out.into(),
            lse: None,
        }
    }

    /// Erases the type of q, k and v, so that one compiled loop serves all types.
    fn call(self) -> AttentionCall<'a> {
        AttentionCall {
            arguments: AttentionArguments {
                q: self.q.into(),
                source: KvSource::Views { k: self.k.into(), v: self.v.into(), sequences: self.sequences },
                bf16: self.precision.is_bf16::<T>(),
                scale: self.scale,
                softcap: self.softcap,
                bias: self.bias,
                mask: self.mask,
                distance: self.distance,
                start: self.start,
                window: self.window,
                dropout: self.dropout,
            },
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
