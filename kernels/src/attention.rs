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
//!   for block of KEYS keys that any row sees  pack K^T and V once
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

mod ahead;
mod block;
mod distance;
mod keys;
mod row;
mod rows;
mod task;

pub use distance::DistanceBias;
pub use keys::{Sequences, Start, Window};

use crate::backend::Kernel;
use crate::error::{Error, expect_shape};
use crate::isa::{Isa, Vector};
use crate::scratch;
use crate::view::{View, ViewMut};
use keys::Layout;
use rows::{Distances, Inputs};
use task::Outputs;

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
/// Numerics: scores are within gamma_dk * scale * sum |q||k| and a rounding for each addition,
/// weights are made by [`exp_fast`](crate::math::exp_fast), and sums over keys are in f32. The bits
/// of a row depend on its query, on the keys and values it sees, on their positions, and on the
/// backend; not on other rows, padding, packing into a batch, the number of threads, or on how many
/// queries come at once.
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
#[derive(Debug)]
pub struct Attention<'a> {
    /// Queries \[batch, heads, queries, dk\].
    pub q: View<'a, 4>,
    /// Keys \[batch, kv_heads, keys, dk\].
    pub k: View<'a, 4>,
    /// Values \[batch, kv_heads, keys, dv\].
    pub v: View<'a, 4>,
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
    /// \[batch, heads, queries, dv\].
    pub out: ViewMut<'a, 4>,
    /// Where to put m + ln l of each row: \[batch, heads, queries\].
    pub lse: Option<ViewMut<'a, 3>>,
}

impl<'a> Attention<'a> {
    /// Plain attention over all keys, at scale 1 / sqrt(dk): every other field at its neutral value.
    pub fn new(q: View<'a, 4>, k: View<'a, 4>, v: View<'a, 4>, out: ViewMut<'a, 4>) -> Self {
        Self {
            q,
            k,
            v,
            scale: 1.0 / (q.shape()[3] as f32).sqrt(),
            softcap: None,
            bias: None,
            distance: None,
            sequences: Sequences::Rows,
            start: Start::At(0),
            window: Window::ALL,
            out,
            lse: None,
        }
    }

    /// Refuses arguments that do not fit each other.
    fn check(&self) -> Result<Layout<'a>, Error> {
        let [batch, heads, queries, dk] = self.q.shape();
        let [_, kv_heads, keys, _] = self.k.shape();
        let dv = self.v.shape()[3];
        expect_shape("Attention.k", &self.k.shape(), &[batch, kv_heads, keys, dk])?;
        expect_shape("Attention.v", &self.v.shape(), &[batch, kv_heads, keys, dv])?;
        expect_shape("Attention.out", &self.out.shape(), &[batch, heads, queries, dv])?;
        if let Some(lse) = &self.lse {
            expect_shape("Attention.lse", &lse.shape(), &[batch, heads, queries])?;
        }
        let invalid = |what, why| Err(Error::Invalid { what, why });
        if heads > 0 && (kv_heads == 0 || heads % kv_heads != 0) {
            return invalid("Attention.k", format!("{kv_heads} heads do not divide the {heads} of q"));
        }
        for (what, unit) in [
            ("Attention.q", self.q.has_unit_rows()),
            ("Attention.k", self.k.has_unit_rows()),
            ("Attention.v", self.v.has_unit_rows()),
            ("Attention.out", self.out.has_unit_rows()),
        ] {
            if !unit {
                return invalid(what, "expected a last stride of 1".to_owned());
            }
        }
        if let Some(cap) = self.softcap
            && !(cap > 0.0 && cap.is_finite())
        {
            return invalid("Attention.softcap", format!("expected a positive number, found {cap}"));
        }
        let layout = Layout::new(self.sequences, self.start, self.window, [batch, queries, keys])?;
        if let Some(bias) = &self.bias {
            let [rows, columns] = layout.longest();
            expect_shape("Attention.bias", &bias.shape(), &[layout.len(), heads, rows, columns])?;
            if !bias.has_unit_rows() && bias.strides()[3] != 0 {
                return invalid("Attention.bias", "expected a last stride of 0 or 1".to_owned());
            }
        }
        if let Some(distance) = &self.distance {
            distance.check(heads)?;
        }
        Ok(layout)
    }
}

impl Kernel for Attention<'_> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!();

    fn reference(mut self) -> Result<(), Error> {
        let layout = self.check()?;
        let [_, heads, _, _] = self.q.shape();
        let group = heads / self.k.shape()[1].max(1);
        for sequence in (0..layout.len()).map(|s| layout.get(s)) {
            let queries = sequence.queries.clone();
            for (head, i) in (0..heads).flat_map(|head| queries.clone().map(move |i| (head, i))) {
                let (batch, kv_head, query) = (sequence.batch, head / group, i - sequence.queries.start);
                let q = self.q.row([batch, head, i, 0]);
                let mut seen = vec![];
                for j in sequence.visible(query) {
                    let bias = self.bias.map_or(0.0, |bias| bias.get([sequence.index, head, query, j]));
                    if bias == f32::NEG_INFINITY {
                        continue;
                    }
                    let k = self.k.row([batch, kv_head, sequence.keys.start + j, 0]);
                    let dot: f64 = q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                    let mut score = f64::from(self.scale) * dot;
                    if let Some(cap) = self.softcap.map(f64::from) {
                        score = cap * (score / cap).tanh();
                    }
                    score += f64::from(bias);
                    if let Some(distance) = self.distance {
                        let position = sequence.start + query as isize;
                        score += f64::from(distance.get(head, j as isize - position));
                    }
                    seen.push((score, self.v.row([batch, kv_head, sequence.keys.start + j, 0])));
                }
                let max = seen.iter().fold(f64::NEG_INFINITY, |max, s| max.max(s.0));
                let sum: f64 = seen.iter().map(|(score, _)| (score - max).exp()).sum();
                for (d, out) in self.out.row_mut([batch, head, i, 0]).iter_mut().enumerate() {
                    let terms = seen.iter().map(|(score, v)| (score - max).exp() * f64::from(v[d]));
                    *out = if seen.is_empty() { 0.0 } else { (terms.sum::<f64>() / sum) as f32 };
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
        let layout = self.check()?;
        let [batch, heads, queries, _] = self.q.shape();
        if batch * heads * queries == 0 {
            return Ok(());
        }
        // The table of distances is made once, for all tasks.
        let distances = if self.distance.is_some() { layout.distances() } else { 0..0 };
        // Rows of scores are read in whole vectors, which may reach past the last distance.
        let stride = distances.len() + I::V::LANES;
        let tables = self.distance.map_or(0, |_| heads * stride);
        scratch::with(tables, |tables| {
            if let Some(distance) = self.distance {
                for (head, table) in tables.chunks_exact_mut(stride).enumerate() {
                    distance.fill(head, distances.clone(), &mut table[..distances.len()]);
                    table[distances.len()..].fill(0.0);
                }
            }
            let tables = Distances { tables, stride, first: distances.start };
            let inputs = Inputs {
                q: self.q,
                k: self.k,
                v: self.v,
                scale: self.scale,
                softcap: self.softcap,
                bias: self.bias,
                distances: self.distance.map(|_| tables),
                layout,
                group: heads / self.k.shape()[1],
            };
            let mut unwanted = [];
            let lse = match self.lse {
                Some(lse) => ViewMut::<4>::from(lse).permute([1, 2, 3, 0]),
                None => ViewMut::new(&mut unwanted, [batch, heads, queries, 0])?,
            };
            task::run(isa, &inputs, Outputs { out: self.out, lse });
            Ok(())
        })
    }
}
