//! The backward kernel with the types of its arguments erased: checks, definition, fast form.

use super::super::call::check_inputs;
use super::super::distance::DistanceBias;
use super::super::keys::{Start, Window};
use super::super::kv_source::KvSource;
use super::super::query_rows::{AttentionOperands, DistanceTables};
use super::super::sequence_layout::SequenceLayout;
use super::super::variant::with_variant;
use super::definition::{AttentionScores, attention_backward};
use super::gradients::Gradients;
use super::operands::BackwardOperands;
use super::task::{BackwardTasks, clear};
use crate::error::{Error, expect_shape};
use crate::isa::{Isa, Vector};
use crate::rows::expect_unit_rows;
use crate::scratch;
use crate::view::{AnyView, AnyViewMut, View, ViewMut};
use half::bf16;

/// Arguments of an [`AttentionBackward`](super::AttentionBackward).
pub(super) struct BackwardCall<'a> {
    pub q: AnyView<'a, 4>,
    pub source: KvSource<'a>,
    pub out: AnyView<'a, 4>,
    pub lse: View<'a, 3>,
    pub dout: AnyView<'a, 4>,
    /// True if q, k, v and dout are rounded to bf16.
    pub bf16: bool,
    pub scale: f32,
    pub softcap: Option<f32>,
    pub bias: Option<View<'a, 4>>,
    pub mask: Option<View<'a, 4, bool>>,
    pub distance: Option<DistanceBias<'a>>,
    pub start: Start<'a>,
    pub window: Window,
    pub dq: AnyViewMut<'a, 4>,
    pub dk: AnyViewMut<'a, 4>,
    pub dv: AnyViewMut<'a, 4>,
    pub dbias: Option<ViewMut<'a, 4>>,
    pub dtable: Option<ViewMut<'a, 2>>,
}

impl<'a> BackwardCall<'a> {
    /// Returns the sequences, kv_heads and dv, or an error if the arguments do not fit each other.
    fn check(&self) -> Result<(SequenceLayout<'a>, [usize; 2]), Error> {
        let [batch, heads, queries, dk] = self.q.shape();
        let (layout, [kv_heads, dv]) = check_inputs(
            (self.q, self.source),
            self.dout.shape()[3],
            self.softcap,
            (self.bias, self.mask),
            self.distance,
            (self.start, self.window),
        )?;
        let KvSource::Views { k, .. } = self.source else { unreachable!("a backward call takes views") };
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
        match (&self.dbias, &self.bias) {
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
        match (&self.dtable, self.distance) {
            (None, _) => {}
            (Some(gradient), Some(DistanceBias::T5 { table, .. })) => {
                expect_shape("AttentionBackward.dtable", &gradient.shape(), &table.shape())?;
            }
            _ => return invalid("AttentionBackward.dtable", "expected a table of T5, found none"),
        }
        Ok((layout, [kv_heads, dv]))
    }

    pub fn reference(mut self) -> Result<(), Error> {
        let (layout, [kv_heads, dv]) = self.check()?;
        let KvSource::Views { k, v, .. } = self.source else { unreachable!("a backward call takes views") };
        let [batch, heads, _, dk] = self.q.shape();
        let group = heads / kv_heads.max(1);
        let rounded = |x: f32| f64::from(if self.bf16 { bf16::from_f32(x).to_f32() } else { x });
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
                        let bias = self.bias.map_or(0.0, |bias| bias.get([sequence.index, head, i, j]));
                        let mask = self.mask.is_none_or(|mask| mask.get([sequence.index, head, i, j]));
                        if !sequence.visible(i).contains(&j) || bias == f32::NEG_INFINITY || !mask {
                            return None;
                        }
                        let distance = self.distance.map_or(0.0, |x| x.get(head, j as isize - position));
                        Some(f64::from(bias) + f64::from(distance))
                    };
                    let scores = AttentionScores {
                        shape: [rows.len(), keys.len(), dk, dv],
                        scale: self.scale.into(),
                        softcap: self.softcap.map(f64::from),
                        bias: &bias,
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
                        [&of(self.q, head, &rows), &of(k, kv_head, &keys), &of(v, kv_head, &keys)],
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
                        if let (Some(dtable), Some(distance)) = (&mut dtable, self.distance) {
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
        let (layout, [kv_heads, dv]) = self.check()?;
        let KvSource::Views { k, v, .. } = self.source else { unreachable!("a backward call takes views") };
        let [_, heads, _, dk] = self.q.shape();
        if heads == 0 {
            clear(self.dk);
            clear(self.dv);
            return Ok(());
        }
        // One table of biases by distance serves all tasks. It is read in whole vectors, which may reach past the last
        // distance.
        let span = layout.distances();
        let stride = span.len() + I::V::LANES;
        let tables = self.distance.map_or(0, |_| heads * stride);
        let most = (0..layout.len()).map(|s| layout.get(s).distances().len()).max().unwrap_or(0);
        let sums = [layout.len(), heads, if self.dtable.is_some() { most } else { 0 }];
        scratch::with(tables + sums.iter().product::<usize>(), |memory| {
            let (tables, sums_memory) = memory.split_at_mut(tables);
            sums_memory.fill(0.0);
            if let Some(distance) = self.distance {
                distance.fill_tables(&layout, span, tables, stride);
            }
            let tables = DistanceTables { tables, stride, span };
            let inputs = AttentionOperands {
                q: self.q,
                source: self.source,
                kv_heads,
                dk,
                dv,
                scale: self.scale,
                softcap: self.softcap,
                bias: self.bias,
                mask: self.mask,
                distances: self.distance.map(|_| tables),
                layout,
                group: heads / kv_heads,
                dropout: None,
            };
            let operands = BackwardOperands {
                inputs,
                k,
                v,
                out: self.out,
                lse: self.lse,
                dout: self.dout,
                bf16: self.bf16,
            };
            let gradients = Gradients {
                q: self.dq,
                k: self.dk,
                v: self.dv,
                bias: self.dbias,
                distances: ViewMut::new(sums_memory, sums)?,
            };
            with_variant!(isa, self.bf16, variant => {
                BackwardTasks::new(isa, variant, &operands).sequences(0..layout.len(), gradients);
            });
            if let (Some(mut gradient), Some(distance)) = (self.dtable, self.distance) {
                let sums = View::<3>::new(sums_memory, sums)?;
                scratch::with(gradient.shape()[0] * heads, |table| {
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
            Ok(())
        })
    }
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
