//! Gradients of fused attention against their definition.

use super::super::bound::{compare, gamma};
use super::super::stored::{Stored, written};
use super::super::tensor::{Booleans, Layout, Random, Tensor, Values, indices};
use super::super::{Check, Failure, Worst};
use super::data::{AttentionData, FIRST_ROW, heads_first};
use super::params::{BUCKETS, Distance, strategy};
use super::{BF16_ROUNDING, Params, UNDERFLOW, largest};
use half::{bf16, f16};
use proptest::prelude::*;
use tilewright_kernels::{AttentionBackward as Kernel, Backend, DistanceBias, Element, View, ViewMut};

/// Gradients of any attention.
pub struct AttentionBackward;

/// One attention and the choice of its gradients.
#[derive(Clone, Debug)]
pub struct BackwardParams {
    forward: Params,
    /// True if the gradients of the bias and of T5's table are wanted.
    biases: bool,
    /// Dimensions over which the gradient of the bias is summed if the bias repeats them.
    sums: [bool; 4],
    /// A row of every head whose query and gradient are NaN.
    poisoned_row: Option<usize>,
}

/// Arguments of a backward call.
struct BackwardData {
    forward: AttentionData,
    /// \[batch, heads, queries, dv\] each.
    out: Tensor<4>,
    dout: Tensor<4>,
    lse: Vec<f32>,
    /// Gradients of the bias and of the table before the call.
    dbias: Option<Tensor<4>>,
    dtable: Vec<f32>,
}

/// Gradients, each in row-major order.
struct Found {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    bias: Vec<f32>,
    table: Vec<f32>,
}

/// As [`heads_first`], for writing.
fn heads_first_mut<T>(x: ViewMut<'_, 4, T>, rows_first: bool) -> ViewMut<'_, 4, T> {
    if rows_first { x.permute([0, 2, 1, 3]) } else { x }
}

impl Check for AttentionBackward {
    const KERNEL: &'static str = "attention_backward";
    type Params = BackwardParams;

    fn strategy() -> BoxedStrategy<BackwardParams> {
        let row = prop::option::weighted(0.2, 0..100usize);
        (strategy(), any::<bool>(), any::<[bool; 4]>(), row)
            .prop_map(|(mut forward, biases, sums, poisoned_row)| {
                // Gradients multiply five numbers.
                if forward.values == Values::Large {
                    forward.values = Values::Wide;
                }
                BackwardParams { forward, biases, sums, poisoned_row }
            })
            .boxed()
    }

    fn run(p: &BackwardParams, backend: Backend) -> Result<Worst, Failure> {
        let data = BackwardData::new(p)?;
        let mut found = data.run(p, backend, p.forward.stored[1])?;
        let expected = data.run(p, Backend::REFERENCE, Stored::F32)?;
        let bounds = data.bounds(p)?;
        let mut worst = Worst::default();
        let stored = p.forward.stored[1];
        for (found, expected, bound, rounded) in [
            (&mut found.q, &expected.q, &bounds.q, true),
            (&mut found.k, &expected.k, &bounds.k, true),
            (&mut found.v, &expected.v, &bounds.v, true),
            (&mut found.bias, &expected.bias, &bounds.bias, false),
            (&mut found.table, &expected.table, &bounds.table, false),
        ] {
            for (found, &expected) in found.iter_mut().zip(expected) {
                // An infinite factor of a weight that underflows in f32 but not in f64.
                if found.is_nan() && expected.is_infinite() && bounds.score > UNDERFLOW / 2.0 {
                    *found = expected;
                }
            }
            let allowed = |i: usize| {
                let error = bound[i];
                let most = f64::from(expected[i].abs()) + error;
                let storing = if rounded && most.is_finite() { stored.half_ulp(most) } else { 0.0 };
                if error.is_finite() { error + storing } else { f64::INFINITY }
            };
            worst = worst.max(compare(found, expected, allowed)?);
        }
        Ok(worst)
    }
}

/// Bounds of the errors of all gradients.
struct Bounds {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    bias: Vec<f64>,
    table: Vec<f64>,
    /// Largest magnitude of the terms of a score.
    score: f64,
}

impl BackwardData {
    fn new(p: &BackwardParams) -> Result<Self, Failure> {
        let forward = AttentionData::new(&p.forward);
        let [batch, kv_heads, group, queries, _, _, dv] = p.forward.extents;
        let heads = kv_heads * group;
        let (out, lse) = forward.run(&p.forward, Backend::REFERENCE, &forward.v, Stored::F32)?;
        let shape = [batch, heads, queries, dv];
        let stored = p.forward.stored[1];
        let mut out = out.into_iter();
        let layout = Layout::row_major();
        let out = Tensor::new(shape, &layout, |_| stored.round(out.next().expect("one for each index")));
        let random = &mut Random::new(!p.forward.seed);
        let dout = Tensor::new(shape, &p.forward.layouts[3], |[_, _, row, _]| {
            let x = stored.round(p.forward.values.draw(random));
            if p.poisoned_row == Some(row) { f32::NAN } else { x }
        });
        let dbias = forward.bias.as_ref().filter(|_| p.biases).map(|bias| {
            let (mut shape, strides) = (bias.shape(), bias.view().strides());
            for d in 0..4 {
                if p.sums[d] && strides[d] == 0 {
                    shape[d] = 1;
                }
            }
            Tensor::new(shape, &p.forward.layouts[0], |_| random.unit())
        });
        let t5 = matches!(p.forward.distance, Distance::T5 { .. });
        let dtable = (0..if t5 && p.biases { BUCKETS * heads } else { 0 }).map(|_| random.unit()).collect();
        Ok(Self { forward, out, dout, lse, dbias, dtable })
    }

    /// All gradients; those of q, k and v stored as `stored`.
    fn run(&self, p: &BackwardParams, backend: Backend, stored: Stored) -> Result<Found, Failure> {
        macro_rules! of {
            ($q:ty, $out:ty) => {
                self.call::<$q, $out>(p, backend)
            };
        }
        match (p.forward.stored[0], stored) {
            (Stored::F32, Stored::F32) => of!(f32, f32),
            (Stored::F32, Stored::Bf16) => of!(f32, bf16),
            (Stored::F32, Stored::F16) => of!(f32, f16),
            (Stored::Bf16, Stored::F32) => of!(bf16, f32),
            (Stored::Bf16, Stored::Bf16) => of!(bf16, bf16),
            (Stored::Bf16, Stored::F16) => of!(bf16, f16),
            (Stored::F16, Stored::F32) => of!(f16, f32),
            (Stored::F16, Stored::Bf16) => of!(f16, bf16),
            (Stored::F16, Stored::F16) => of!(f16, f16),
        }
    }

    fn call<T: Element, G: Element>(&self, p: &BackwardParams, backend: Backend) -> Result<Found, Failure> {
        let Params { extents: [batch, kv_heads, group, queries, keys, dk, dv], rows_first, .. } = p.forward;
        let heads = kv_heads * group;
        let [q, k, v] = [&self.forward.q, &self.forward.k, &self.forward.v].map(|x| x.cast::<T>());
        let gradient = |shape: [usize; 4], layout: usize, rows_first: bool| {
            let [b, h, rows, width] = shape;
            let shape = if rows_first { [b, rows, h, width] } else { shape };
            Tensor::<4, G>::new(shape, &p.forward.layouts[layout], |_| G::from_f32(f32::NAN))
        };
        let mut dq = gradient([batch, heads, queries, dk], 0, rows_first[2]);
        let mut dk = gradient([batch, kv_heads, keys, dk], 1, rows_first[0]);
        let mut dv = gradient([batch, kv_heads, keys, dv], 2, rows_first[1]);
        let mut dbias = self.dbias.clone();
        let mut dtable = self.dtable.clone();
        backend.run(Kernel {
            precision: p.forward.precision,
            scale: p.forward.scale,
            softcap: p.forward.softcap,
            bias: self.forward.bias.as_ref().map(Tensor::view),
            distance: self.forward.distance(&p.forward),
            sequences: self.forward.sequences(&p.forward),
            mask: self.forward.mask.as_ref().map(Booleans::view),
            start: p.forward.start.kernel(&self.forward.positions),
            window: p.forward.window,
            dropout: p.forward.dropout_mask(FIRST_ROW),
            dbias: dbias.as_mut().map(Tensor::view_mut),
            dtable: match dtable.len() {
                0 => None,
                _ => Some(ViewMut::new(&mut dtable, [BUCKETS, heads])?),
            },
            ..Kernel::new(
                [
                    heads_first(q.view(), rows_first[0]),
                    heads_first(k.view(), rows_first[1]),
                    heads_first(v.view(), rows_first[1]),
                ],
                (self.out.view(), View::new(&self.lse, [batch, heads, queries])?),
                self.dout.view(),
                [
                    heads_first_mut(dq.view_mut(), rows_first[2]),
                    heads_first_mut(dk.view_mut(), rows_first[0]),
                    heads_first_mut(dv.view_mut(), rows_first[1]),
                ],
            )
        })?;
        let in_order = |x: &Tensor<4, G>, rows_first| -> Result<Vec<f32>, Failure> {
            written(x)?;
            let view = heads_first(x.view(), rows_first);
            Ok(indices(view.shape()).map(|index| view.get(index).to_f32()).collect())
        };
        let bias = match &dbias {
            Some(dbias) => {
                dbias.gaps_intact()?;
                dbias.elements()
            }
            None => vec![],
        };
        Ok(Found {
            q: in_order(&dq, rows_first[2])?,
            k: in_order(&dk, rows_first[0])?,
            v: in_order(&dv, rows_first[1])?,
            bias,
            table: dtable,
        })
    }

    /// Weights P \[sequences, heads, queries, keys\] by the definition: the gradients of the bias if dO and V have one
    /// column of ones, and O is 0.
    fn weights(&self, p: &BackwardParams) -> Result<Tensor<4>, Failure> {
        let Params { extents: [batch, kv_heads, group, queries, keys, dk, _], rows_first, .. } = p.forward;
        let heads = kv_heads * group;
        let forward = &self.forward;
        let shape = match (&forward.bias, forward.key_ends.len(), forward.query_ends.len()) {
            (Some(bias), ..) => bias.shape(),
            (None, ends, 1..) => {
                let most = |ends: &[usize]| ends.windows(2).map(|e| e[1] - e[0]).max().unwrap_or(0);
                [ends - 1, heads, most(&forward.query_ends), most(&forward.key_ends)]
            }
            (None, ..) => [batch, heads, queries, keys],
        };
        let none = Tensor::new(shape, &Layout::row_major(), |_| 0.0);
        let mut weights = none.clone();
        let (ones, zeros) =
            (vec![1.0; batch * heads.max(kv_heads) * queries.max(keys)], vec![0.0; batch * heads * queries]);
        let mut gradients =
            [batch * heads * queries * dk, batch * kv_heads * keys * dk, batch * kv_heads * keys]
                .map(|n| vec![0.0; n]);
        let [dq, dk_, dv] = &mut gradients;
        // Scores are those of numbers rounded as the kernel rounds them; ones and zeros are exact.
        let number = |x: f32| if p.forward.is_bf16() { bf16::from_f32(x).to_f32() } else { x };
        let (q, k) = (forward.q.map(number), forward.k.map(number));
        Backend::REFERENCE.run(Kernel {
            scale: p.forward.scale,
            softcap: p.forward.softcap,
            bias: Some(forward.bias.as_ref().unwrap_or(&none).view()),
            distance: forward.distance(&p.forward),
            sequences: forward.sequences(&p.forward),
            mask: forward.mask.as_ref().map(Booleans::view),
            start: p.forward.start.kernel(&forward.positions),
            window: p.forward.window,
            dbias: Some(weights.view_mut()),
            ..Kernel::new(
                [
                    heads_first(q.view(), rows_first[0]),
                    heads_first(k.view(), rows_first[1]),
                    View::new(&ones, [batch, kv_heads, keys, 1])?,
                ],
                (
                    View::new(&zeros, [batch, heads, queries, 1])?,
                    View::new(&self.lse, [batch, heads, queries])?,
                ),
                View::new(&ones, [batch, heads, queries, 1])?,
                [
                    ViewMut::new(dq, [batch, heads, queries, dk])?,
                    ViewMut::new(dk_, [batch, kv_heads, keys, dk])?,
                    ViewMut::new(dv, [batch, kv_heads, keys, 1])?,
                ],
            )
        })?;
        Ok(weights)
    }

    /// Bounds of the errors of all gradients.
    ///
    /// `AttentionData::rows` bounds the relative error e of the weights of a row and of their sum; P = exp(s - lse) has
    /// no such sum, and two roundings of s - lse instead. Then, for one pair, with A = sum |dO||V| and B = sum |dO||O|:
    ///
    /// ```text
    /// dO V^T, D     gamma_dv (A + B)
    /// dS            P (A + B) t,  1 + t = (1 + e) (1 + gamma_(dv+3))
    /// dX            one rounding more, and |d cap'/dx| <= 1 / cap times the error of x
    /// ```
    ///
    /// Dropout replaces A by m A, and P by m P in dV: two roundings each, of m and of the product.
    ///
    /// A sum over n pairs adds gamma_n of the sum of magnitudes. Pairs of bf16 round P and dX by 2^-8 each, and round
    /// twice for each product. A weight that underflows loses less than the smallest normal number.
    fn bounds(&self, p: &BackwardParams) -> Result<Bounds, Failure> {
        let Params { extents: [batch, kv_heads, group, queries, keys, dk, dv], rows_first, .. } = p.forward;
        let (heads, forward) = (kv_heads * group, &self.forward);
        let weights = self.weights(p)?;
        let weights = weights.view();
        let rows = forward.rows(&p.forward);
        let (times, rounding) = if p.forward.is_bf16() { (2, BF16_ROUNDING) } else { (1, 0.0) };
        let number =
            |x: f32| f64::from(if p.forward.is_bf16() { bf16::from_f32(x).to_f32() } else { x }.abs());
        let q = heads_first(forward.q.view(), rows_first[0]);
        let k = heads_first(forward.k.view(), rows_first[1]);
        let v = heads_first(forward.v.view(), rows_first[1]);
        let (out, dout) = (self.out.view(), self.dout.view());
        let most = |x: &Tensor<4>| largest(x.elements().into_iter().map(f64::from));
        let scale = f64::from(p.forward.scale.abs());
        let all = [&forward.q, &forward.k, &forward.v, &self.out, &self.dout].map(most);
        // Largest loss of one term by underflow: of a weight, a product, or a factor in bf16.
        let factors = all.iter().fold(1.0f64, |m, &x| m.max(x));
        let kept_factor = p.forward.dropout_factor();
        let lost = f64::from(f32::MIN_POSITIVE)
            * (1.0 + scale)
            * (1.0 + kept_factor)
            * 4.0
            * (1.0 + dv as f64)
            * factors.powi(3);
        let (mask, dropping) =
            (p.forward.dropout_mask(FIRST_ROW), if p.forward.dropout.is_some() { 2 } else { 0 });
        let mut bounds = Bounds {
            q: vec![lost * keys as f64; batch * heads * queries * dk],
            k: vec![lost * (queries * group) as f64; batch * kv_heads * keys * dk],
            v: vec![lost * (queries * group) as f64; batch * kv_heads * keys * dv],
            bias: self
                .dbias
                .as_ref()
                .map_or(vec![], |x| x.elements().iter().map(|x| gamma(1) * f64::from(x.abs())).collect()),
            table: self.dtable.iter().map(|x| gamma(1) * f64::from(x.abs())).collect(),
            score: rows.iter().map(|row| row.score).fold(0.0, f64::max),
        };
        // Roundings of sums over rows, over keys, and over all pairs of a head.
        let [over_rows, over_keys] = [queries * group, keys].map(|n| gamma(times * n + 20));
        let of_bias = gamma(queries * keys * heads * batch + 20);
        let shape = self.dbias.as_ref().map_or([0; 4], Tensor::shape);
        let distance = forward.distance(&p.forward);
        for sequence in forward.spans(&p.forward) {
            let b = sequence.batch;
            for head in 0..heads {
                let kv_head = head / group;
                for (i, row) in sequence.queries.clone().enumerate() {
                    let at_row = (b * heads + head) * queries + row;
                    let of_row = &rows[at_row];
                    let (dout, out) = (dout.row([b, head, row, 0]), out.row([b, head, row, 0]));
                    let share =
                        of_row.weights + gamma(4) * (of_row.score + f64::from(self.lse[at_row].abs()));
                    let delta: f64 = dout.iter().zip(out).map(|(d, o)| number(*d) * f64::from(o.abs())).sum();
                    for (j, key) in sequence.keys.clone().enumerate() {
                        let weight = f64::from(weights.get([sequence.index, head, i, j]));
                        if weight == 0.0 {
                            continue;
                        }
                        let (at_key, v) =
                            ((b * kv_heads + kv_head) * keys + key, v.row([b, kv_head, key, 0]));
                        let product: f64 = dout.iter().zip(v).map(|(d, v)| number(*d) * number(*v)).sum();
                        let kept = match mask {
                            None => 1.0,
                            Some(mask) => {
                                let row = (sequence.index * heads + head) as u32;
                                if mask.keeps(row, (i << 16 | j) as u32) { kept_factor } else { 0.0 }
                            }
                        };
                        let magnitude = weight * (kept * product + delta);
                        // A weight of NaN or a weight off by half makes no claim.
                        let claim = if share < 0.5 { 0.0 } else { f64::INFINITY };
                        let t = (1.0 + share) * (1.0 + gamma(times * dv + 4 + dropping)) - 1.0;
                        let slope = p.forward.softcap.map_or(0.0, |cap| {
                            gamma(times * dk + 10) * of_row.product / f64::from(cap) + gamma(10)
                        });
                        let of_product = (1.0 + t + slope) * (1.0 + rounding) - 1.0;
                        for (x, out) in dout.iter().zip(&mut bounds.v[at_key * dv..][..dv]) {
                            let of_weight = (1.0 + share) * (1.0 + gamma(dropping)) * (1.0 + rounding);
                            let relative = of_weight * (1.0 + over_rows) - 1.0;
                            *out += relative * kept * weight * number(*x) + claim;
                        }
                        let (q, k) = (q.row([b, head, row, 0]), k.row([b, kv_head, key, 0]));
                        let relative = (1.0 + of_product) * (1.0 + over_keys) - 1.0;
                        for (k, out) in k.iter().zip(&mut bounds.q[at_row * dk..][..dk]) {
                            *out += relative * scale * magnitude * number(*k) + claim;
                        }
                        let relative = (1.0 + of_product) * (1.0 + over_rows) - 1.0;
                        for (q, out) in q.iter().zip(&mut bounds.k[at_key * dk..][..dk]) {
                            *out += relative * scale * magnitude * number(*q) + claim;
                        }
                        let error = ((1.0 + t) * (1.0 + of_bias) - 1.0) * magnitude + lost + claim;
                        if self.dbias.is_some() {
                            let index = [sequence.index, head, i, j];
                            let at = (0..4)
                                .fold(0, |at, d| at * shape[d] + if shape[d] == 1 { 0 } else { index[d] });
                            bounds.bias[at] += error;
                        }
                        if let (false, Some(DistanceBias::T5 { .. })) = (self.dtable.is_empty(), distance) {
                            // The bucket is the kernel's; the bound holds for all buckets of the head together.
                            for bucket in 0..BUCKETS {
                                bounds.table[bucket * heads + head] += error;
                            }
                        }
                    }
                }
            }
        }
        Ok(bounds)
    }
}
