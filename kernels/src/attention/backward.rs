//! Gradients of fused attention, with the weights recomputed from the log-sum-exps.
//!
//! ```text
//! P_ij = exp(s_ij - lse_i)          dV = (m P)^T dO
//! D_i  = dO_i . O_i                 dS = P (m (dO V^T) - D)
//! dX   = dS cap'(scale Q K^T)       dQ = scale dX K,  dK = scale dX^T Q
//! ```
//!
//! Dao et al., "FlashAttention", 2022, arXiv:2205.14135, algorithm 4. dS is the gradient of every bias. m is 1 without
//! dropout; with it, 0 for a dropped weight and 1 / (1 - p) for a kept one. D holds for both: the sum of m P (dO V^T) is
//! dO . O.
//!
//! ```text
//! for sequence, kv head                         rows of all query heads of the group
//!   D of all rows
//!   for chunk of keys                           one task
//!     for block of BLOCK_KEYS keys              pack K^T, V^T and K once
//!       for block of BLOCK_ROWS rows            pack Q and dO once, transpose both
//!         S = Q K^T,  dO V^T -> P, dS           row by row
//!         dV^T += dO^T (m P),  dK^T += Q^T dS,  dQ of the chunk += dS K
//!   dQ = sum over chunks, in ascending order
//! ```
//!
//! 1. One pass computes all five products of a block. A loop over rows inside the loop over keys sums dK and dV in
//!    place, and dQ in a buffer of each chunk: memory is linear in the sequence's length.
//! 2. dK and dV are summed as their transposes: scores of one block of rows are then B of both products, as they are,
//!    and A of the product for dQ. Only Q and dO are transposed, once for a block of keys.
//! 3. The number of keys of a sequence alone decides its chunks. So threads divide the keys of a head, and gradients
//!    depend neither on the number of threads nor on other sequences.
//!
//! ```text
//! definition.rs                 one head in f64
//! call.rs                       checks, reference, eval
//! gradients.rs                  gradients as views, divided among tasks
//! task.rs                       sequences, heads, chunks of keys
//! operands.rs                   operands of a head and of a block of keys
//! block.rs rows.rs              one block of keys, one block of rows: the five products
//! weights.rs                    P and dS of one row
//! variant.rs variant/           operands of f32, or of bf16 pairs
//! ```

mod block;
mod call;
pub(crate) mod definition;
mod gradients;
mod operands;
mod rows;
mod task;
mod variant;
mod weights;

use super::arguments::AttentionArguments;
use super::{DistanceBias, KvSource, Precision, Sequences, Start, Window};
use crate::backend::Kernel;
use crate::dropout::DropoutMask;
use crate::element::Element;
use crate::error::Error;
use crate::isa::Isa;
use crate::view::{AnyView, AnyViewMut, View, ViewMut};
use call::BackwardCall;

/// Gradients of [`Attention`](crate::Attention) with respect to q, k, v and, on request, its bias and T5's table.
///
/// Arguments up to `dropout` are those of the forward call, `out` and `lse` its results. Rows of all views are contiguous
/// (unit last stride); other dimensions may have any strides.
///
/// - `dq`, `dk` and `dv` are overwritten. `dbias` and `dtable` are added to.
/// - The gradients of a row of q that sees no key are 0, and so are those of a key that no row sees. A row and a key
///   that do not see each other never reach each other's gradients, even if they are NaN.
/// - Other NaN and infinities propagate.
///
/// # Numerics
/// Scores are those of the forward call, weights exp(score - lse) in f32. All sums are f32, also for bf16: dq, dk and
/// dv are rounded once, at the end. With u = 2^-24, the weight P of a pair errs by a share e of it: the absolute errors
/// of its score and of lse, plus 6 u. The error of dS is then at most
/// (e + (dv + 3) u) P (sum |dO||V| + sum |dO||O|), and a gradient that sums n products adds gamma_n of the sum of their
/// magnitudes. With dropout, m P and m (dO V^T) have two roundings more.
///
/// In bf16, q, k, v and dout are rounded to bf16 unless they are stored in it. Where the CPU multiplies pairs of bf16,
/// weights and dS are rounded to bf16 for their products: 2^-8 of each more.
///
/// Sums have a fixed order: dk and dv ascend over the rows of a sequence, row by row over the heads of a group; dq
/// ascends over keys in chunks whose number depends on the keys of the sequence. The bits of a sequence's dq, dk and dv
/// do not depend on other sequences, padding, or the number of threads; nor do those of `dbias` and `dtable` depend on
/// threads.
///
/// # Errors
/// Nothing is written if there is an error. Arguments that the forward call has, too, are named as its own.
///
/// - [`Error::Shape`] if the arguments do not fit each other.
/// - [`Error::Invalid`] if the forward call would return it; if a row of a gradient is not contiguous; if `dbias` is
///   given without `bias`, or `dtable` without [`DistanceBias::T5`].
///
/// ```
/// use tilewright_kernels::{Attention, AttentionBackward, Backend, View, ViewMut};
/// let (backend, shape) = (Backend::best(), [1, 2, 3, 4]);
/// let (x, dout) = (vec![0.5; 24], vec![1.0; 24]);
/// let (mut out, mut lse) = (vec![0.0; 24], vec![0.0; 6]);
/// let x = View::new(&x, shape)?;
/// let forward = Attention::new(x, x, x, ViewMut::new(&mut out, shape)?);
/// backend.run(Attention { lse: Some(ViewMut::new(&mut lse, [1, 2, 3])?), ..forward })?;
/// let [mut dq, mut dk, mut dv] = [0; 3].map(|_| vec![0.0; 24]);
/// backend.run(AttentionBackward::new(
///     [x, x, x],
///     (View::new(&out, shape)?, View::new(&lse, [1, 2, 3])?),
///     View::new(&dout, shape)?,
///     [ViewMut::new(&mut dq, shape)?, ViewMut::new(&mut dk, shape)?, ViewMut::new(&mut dv, shape)?],
/// ))?;
/// // Equal keys share each row's gradient equally, and no weight can change.
/// assert!(dv.iter().all(|x: &f32| (x - 1.0).abs() < 1e-6));
/// assert!(dq.iter().chain(&dk).all(|x: &f32| x.abs() < 1e-6));
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct AttentionBackward<'a, T: Element = f32> {
    /// Queries \[batch, heads, queries, dk\].
    pub q: View<'a, 4, T>,
    /// Keys \[batch, kv_heads, keys, dk\].
    pub k: View<'a, 4, T>,
    /// Values \[batch, kv_heads, keys, dv\].
    pub v: View<'a, 4, T>,
    /// Result of the forward call \[batch, heads, queries, dv\].
    pub out: AnyView<'a, 4>,
    /// Log-sum-exps of the forward call \[batch, heads, queries\].
    pub lse: View<'a, 3>,
    /// Gradient of `out`, of the same shape.
    pub dout: AnyView<'a, 4>,
    /// As [`Attention::precision`](crate::Attention::precision).
    pub precision: Precision,
    /// As [`Attention::scale`](crate::Attention::scale).
    pub scale: f32,
    /// As [`Attention::softcap`](crate::Attention::softcap).
    pub softcap: Option<f32>,
    /// As [`Attention::bias`](crate::Attention::bias).
    pub bias: Option<View<'a, 4>>,
    /// As [`Attention::mask`](crate::Attention::mask).
    pub mask: Option<View<'a, 4, bool>>,
    /// As [`Attention::distance`](crate::Attention::distance).
    pub distance: Option<DistanceBias<'a>>,
    /// As [`Attention::sequences`](crate::Attention::sequences).
    pub sequences: Sequences<'a>,
    /// As [`Attention::start`](crate::Attention::start).
    pub start: Start<'a>,
    /// As [`Attention::window`](crate::Attention::window).
    pub window: Window,
    /// As [`Attention::dropout`](crate::Attention::dropout): the mask of the forward call.
    pub dropout: Option<DropoutMask>,
    /// Gradient of `q`, of its shape and any type.
    pub dq: AnyViewMut<'a, 4>,
    /// Gradient of `k`, of its shape and any type.
    pub dk: AnyViewMut<'a, 4>,
    /// Gradient of `v`, of its shape and any type.
    pub dv: AnyViewMut<'a, 4>,
    /// Gradient of `bias`, added to, if wanted: \[sequences, heads, queries, keys\]. A dimension that `bias` repeats
    /// (stride 0) may be 1 instead: the gradient is then summed over it. Threads share the work on dimensions that are
    /// not summed.
    pub dbias: Option<ViewMut<'a, 4>>,
    /// Gradient of T5's table, added to, if wanted: \[buckets, heads\].
    pub dtable: Option<ViewMut<'a, 2>>,
}

impl<'a, T: Element> AttentionBackward<'a, T> {
    /// Gradients of [`Attention::new`](crate::Attention::new), with every other field at its neutral value.
    pub fn new<G: Into<AnyViewMut<'a, 4>>>(
        [q, k, v]: [View<'a, 4, T>; 3],
        (out, lse): (impl Into<AnyView<'a, 4>>, View<'a, 3>),
        dout: impl Into<AnyView<'a, 4>>,
        [dq, dk, dv]: [G; 3],
    ) -> Self {
        Self {
            q,
            k,
            v,
            out: out.into(),
            lse,
            dout: dout.into(),
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
            dq: dq.into(),
            dk: dk.into(),
            dv: dv.into(),
            dbias: None,
            dtable: None,
        }
    }

    /// Erases the type of q, k and v, so that one compiled loop serves all types.
    fn call(self) -> BackwardCall<'a> {
        BackwardCall {
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
            dout: self.dout,
            dq: self.dq,
            dk: self.dk,
            dv: self.dv,
            dbias: self.dbias,
            dtable: self.dtable,
        }
    }
}

impl<T: Element> Kernel for AttentionBackward<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::attention_backward);

    fn reference(self) -> Result<(), Error> {
        self.call().reference()
    }

    fn eval<I: Isa>(self, isa: I) -> Result<(), Error> {
        self.call().eval(isa)
    }
}
