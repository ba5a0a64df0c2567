//! The backward kernel with the types of its arguments erased: checks, definition, fast form.

use super::super::arguments::{AttentionArguments, CheckedExtents};
use super::super::distance::DistanceBias;
use super::super::kv_source::KvSource;
use super::super::sequence_layout::SequenceLayout;
use super::super::variant::with_variant;
use super::definition::{AttentionScores, attention_backward};
use super::gradients::Gradients;
use super::operands::BackwardOperands;
use super::task::{BackwardTasks, clear};
use crate::error::{Error, expect_shape};
use crate::isa::Isa;
use crate::rows::expect_unit_rows;
use crate::scratch;
use crate::view::{AnyView, AnyViewMut, View, ViewMut};
use half::bf16;

/// An [`AttentionBackward`](super::AttentionBackward).
pub(super) struct BackwardCall<'a> {
    /// Arguments of the forward call; dout is rounded as q, k and v are.
    pub arguments: AttentionArguments<'a>,
    pub out: AnyView<'a, 4>,
    pub lse: View<'a, 3>,
    pub dout: AnyView<'a, 4>,
    pub dq: AnyViewMut<'a, 4>,
    pub dk: AnyViewMut<'a, 4>,
    pub dv: AnyViewMut<'a, 4>,
    pub dbias: Option<ViewMut<'a, 4>>,
    pub dtable: Option<ViewMut<'a, 2>>,
}

impl<'a> BackwardCall<'a> {
    /// K and V.
    fn keys_and_values(&self) -> [AnyView<'a, 4>; 2] {
        let KvSource::Views { k, v, .. } = self.arguments.source else {
            unreachable!("a backward call takes views")
        };
        [k, v]
    }

    /// Returns the extents, or an error if the arguments do not fit each other.
    fn check(&self) -> Result<CheckedExtents<'a>, Error> {
        let AttentionArguments { q, bias, distance, .. } = self.arguments;
        let [batch, heads, queries, dk] = q.shape();
        let extents = self.arguments.check(self.dout.shape()[3])?;
        let CheckedExtents { kv_heads, dv, .. } = extents;
        let [k, _] = self.keys_and_values();
        let (rows, keys) = ([batch, heads, queries, dv], k.shape()[2]);
        expect_shape("AttentionBackward.out", &self.out.shape(), &rows)?;
        expect_shape("AttentionBackward.dout", &self.dout.shape(), &rows)?;
        expect_shape("AttentionBackward.lse", &self.lse.shape(), &rows[..3])?;
        for (what, view) in [("AttentionBackward.out", &self.out), ("AttentionBackward.dout", &self.dout)] {
            expect_unit_rows(what, view.has_unit_rows(), view.strides())?;
        }
        for (what, gradient, shape) in [
            ("AttentionBackward.dq", &self.dq, [batch, heads, queries, dk]),
            ("AttentionBackward.dk", &self.dk, [batch, kv_heads, keys, dk]),
            ("AttentionBackward.dv", &self.dv, [batch, kv_heads, keys, dv]),
        ] {
            expect_shape(what, &gradient.shape(), &shape)?;
            expect_unit_rows(what, gradient.has_unit_rows(), gradient.strides())?;
        }
        let invalid = |what, why: &str| Err(Error::Invalid { what, why: why.to_owned() });
        match (&self.dbias, &bias) {
            (None, _) => {}
            (Some(_), None) => return invalid("AttentionBackward.dbias", "expected a bias, found none"),
            (Some(gradient), Some(bias)) => {
                let (mut shape, found) = (bias.shape(), gradient.shape());
                for d in 0..4 {
                    if found[d] == 1 && bias.strides()[d] == 0 {
                        shape[d] = 1;
                    }
                }
                expect_shape("AttentionBackward.dbias", &found, &shape)?;
                if !gradient.has_unit_rows() {
                    let what = "AttentionBackward.dbias";
                    expect_unit_rows(what, false, gradient.strides())?;
                }
            }
        }
        match (&self.dtable, distance) {
            (None, _) => {}
            (Some(gradient), Some(DistanceBias::T5 { table, .. })) => {
                expect_shape("AttentionBackward.dtable", &gradient.shape(), &table.shape())?;
            }
            _ => return invalid("AttentionBackward.dtable", "expected a table of T5, found none"),
        }
        Ok(extents)
    }

    pub fn reference(mut self) -> Result<(), Error> {
        let CheckedExtents { layout, kv_heads, dv, dropout } = self.check()?;
        let AttentionArguments { q, bf16: rounds, scale, softcap, bias, mask, distance, .. } = self.arguments;
        let [k, v] = self.keys_and_values();
        let [batch, heads, _, dk] = q.shape();
        let group = heads / kv_heads.max(1);
        let rounded = |x: f32| f64::from(if rounds { bf16::from_f32(x).to_f32() } else { x });
        for (gradient, width) in [(&mut self.dk, dk), (&mut self.dv, dv)] {
            let [_, _, keys, _] = gradient.shape();
            for index in (0..batch * kv_heads * keys * width).map(|i| {
                [i / width / keys / kv_heads, i / width / keys % kv_heads, i / width % keys, i % width]
            }) {
                gradient.set(index, 0.0);
            }
        }
        let mut dbias = self.dbias.as_ref().map(|x| Sums::new(x.as_view()));
        let mut dtable = self.dtable.as_ref().map(|x| Sums::new(View::<3>::from(x.as_view()).into()));
        for sequence in (0..layout.len()).map(|s| layout.get(s)) {
            let (b, rows, keys) = (sequence.batch, sequence.queries.clone(), sequence.keys.clone());
            for kv_head in 0..kv_heads {
                let (mut of_k, mut of_v) = (vec![0.0; keys.len() * dk], vec![0.0; keys.len() * dv]);
                for head in kv_head * group..(kv_head + 1) * group {
                    let bias = |i: usize, j: usize| {
                        let position = sequence.start + i as isize;
                        let bias = bias.map_or(0.0, |bias| bias.get([sequence.index, head, i, j]));
                        let mask = mask.is_none_or(|mask| mask.get([sequence.index, head, i, j]));
                        if !sequence.visible(i).contains(&j) || bias == f32::NEG_INFINITY || !mask {
                            return None;
                        }
                        let distance = distance.map_or(0.0, |x| x.get(head, j as isize - position));
                        Some(f64::from(bias) + f64::from(distance))
                    };
                    let kept = |i: usize, j: usize| match dropout {
                        None => 1.0,
                        Some(dropout) if dropout.keeps([sequence.index, head, i, j]) => dropout.scale(),
                        Some(_) => 0.0,
                    };
                    let scores = AttentionScores {
                        shape: [rows.len(), keys.len(), dk, dv],
                        scale: scale.into(),
                        softcap: softcap.map(f64::from),
                        bias: &bias,
                        kept: &kept,
                    };
                    let of = |x: AnyView<'_, 4>, head: usize, rows: &core::ops::Range<usize>| -> Vec<f64> {
                        let width = x.shape()[3];
                        let row = |i| (0..width).map(move |d| rounded(x.get([b, head, i, d])));
                        rows.clone().flat_map(row).collect()
                    };
                    let out: Vec<f64> = rows
                        .clone()
                        .flat_map(|i| (0..dv).map(move |d| [b, head, i, d]))
                        .map(|index| self.out.get(index).into())
                        .collect();
                    let lse: Vec<f64> = rows.clone().map(|i| self.lse.get([b, head, i]).into()).collect();
                    let gradients = attention_backward(
                        &scores,
                        [&of(q, head, &rows), &of(k, kv_head, &keys), &of(v, kv_head, &keys)],
                        (&out, &lse),
                        &of(self.dout, head, &rows),
                    );
                    for (i, row) in rows.clone().enumerate() {
                        for d in 0..dk {
                            self.dq.set([b, head, row, d], gradients.q[i * dk + d] as f32);
                        }
                    }
                    of_k.iter_mut().zip(gradients.k).for_each(|(sum, x)| *sum += x);
                    of_v.iter_mut().zip(gradients.v).for_each(|(sum, x)| *sum += x);
                    for (i, j) in (0..rows.len()).flat_map(|i| (0..keys.len()).map(move |j| (i, j))) {
                        let gradient = gradients.bias[i * keys.len() + j];
                        if let Some(dbias) = &mut dbias {
                            dbias.add([sequence.index, head, i, j], gradient);
                        }
                        if let (Some(dtable), Some(distance)) = (&mut dtable, distance) {
                            let bucket = distance.bucket(j as isize - (sequence.start + i as isize));
                            dtable.add([0, 0, bucket, head], gradient);
                        }
                    }
                }
                for (j, key) in keys.clone().enumerate() {
                    for d in 0..dk {
                        self.dk.set([b, kv_head, key, d], of_k[j * dk + d] as f32);
                    }
                    for d in 0..dv {
                        self.dv.set([b, kv_head, key, d], of_v[j * dv + d] as f32);
                    }
                }
            }
        }
        if let (Some(sums), Some(gradient)) = (dbias, self.dbias) {
            sums.store(gradient);
        }
        if let (Some(sums), Some(gradient)) = (dtable, self.dtable) {
            sums.store(ViewMut::<3>::from(gradient).into());
        }
        Ok(())
    }

    pub fn eval<I: Isa>(self, isa: I) -> Result<(), Error> {
        let extents = self.check()?;
        let [k, v] = self.keys_and_values();
        let AttentionArguments { bf16, distance, .. } = self.arguments;
        let heads = self.arguments.q.shape()[1];
        if heads == 0 {
            clear(self.dk);
            clear(self.dv);
            return Ok(());
        }
        let layout = extents.layout;
        let most = (0..layout.len()).map(|s| layout.get(s).distances().len()).max().unwrap_or(0);
        let sums = [layout.len(), heads, if self.dtable.is_some() { most } else { 0 }];
        scratch::with(sums.iter().product(), |sums_memory| {
            sums_memory.fill(0.0);
            let gradients = Gradients {
                q: self.dq,
                k: self.dk,
                v: self.dv,
                bias: self.dbias,
                distances: ViewMut::new(sums_memory, sums)?,
            };
            let (out, lse, dout) = (self.out, self.lse, self.dout);
            self.arguments.with_operands::<I>(extents, |inputs| {
                let operands = BackwardOperands { inputs: *inputs, k, v, out, lse, dout, bf16 };
                with_variant!(isa, bf16, variant => {
                    BackwardTasks::new(isa, variant, &operands).sequences(0..layout.len(), gradients);
                });
            });
            if let (Some(gradient), Some(distance)) = (self.dtable, distance) {
                add_by_bucket(&layout, distance, View::new(sums_memory, sums)?, gradient);
            }
            Ok(())
        })
    }
}

/// Adds the sums by distance \[sequences, heads, distances\] to the gradient of a table \[buckets, heads\].
fn add_by_bucket(
    layout: &SequenceLayout<'_>,
    distance: DistanceBias<'_>,
    sums: View<'_, 3>,
    mut gradient: ViewMut<'_, 2>,
) {
    let [buckets, heads] = gradient.shape();
    scratch::with(buckets * heads, |table| {
        table.fill(0.0);
        for (s, sequence) in (0..layout.len()).map(|s| (s, layout.get(s))) {
            for (i, by) in sequence.distances().enumerate() {
                let row = &mut table[distance.bucket(by) * heads..][..heads];
                for (head, sum) in row.iter_mut().enumerate() {
                    *sum += sums.get([s, head, i]);
                }
            }
        }
        for (bucket, head) in (0..table.len()).map(|i| (i / heads, i % heads)) {
            let sum = gradient.as_view().get([bucket, head]) + table[bucket * heads + head];
            gradient.set([bucket, head], sum);
        }
    });
}

/// Sums in f64 over dimensions of a gradient that are 1.
struct Sums {
    shape: [usize; 4],
    sums: Vec<f64>,
}

impl Sums {
    /// Starts from the elements of `gradient`.
    fn new(gradient: View<'_, 4>) -> Self {
        let shape = gradient.shape();
        let mut new = Self { shape, sums: vec![] };
        new.sums = (0..shape.iter().product()).map(|i| gradient.get(new.index(i)).into()).collect();
        new
    }

    /// Index of element `i` in row-major order.
    fn index(&self, mut i: usize) -> [usize; 4] {
        let mut index = [0; 4];
        for d in (0..4).rev() {
            index[d] = i % self.shape[d];
            i /= self.shape[d];
        }
        index
    }

    fn add(&mut self, index: [usize; 4], x: f64) {
        let at = (0..4).fold(0, |at, d| at * self.shape[d] + if self.shape[d] == 1 { 0 } else { index[d] });
        self.sums[at] += x;
    }

    fn store(self, mut gradient: ViewMut<'_, 4>) {
        for (i, sum) in self.sums.iter().enumerate() {
            gradient.set(self.index(i), *sum as f32);
        }
    }
}
