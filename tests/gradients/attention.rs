//! Attention: the definition in f64 of one head by its whole Jacobian; sums over heads, sequences, repeated biases and
//! T5's buckets along directions of a whole call of the definition.

use tilewright_kernels::definition::{AttentionScores, attention, attention_backward};
use tilewright_kernels::{
    Attention, AttentionBackward, Backend, DistanceBias, DropoutMask, RandomBits, Sequences, Start, View,
    ViewMut, Window,
};
use tilewright_verify::finite_difference::check;
use tilewright_verify::tensor::Random;

fn numbers(n: usize, random: &mut Random) -> Vec<f64> {
    (0..n).map(|_| f64::from(random.unit())).collect()
}

/// q, k, v and the bias, with and without a softcap and dropout, for a row that sees nothing, too.
#[test]
fn of_one_head() {
    let random = &mut Random::new(1);
    // Queries, keys, dk, dv: a whole Jacobian, then directions.
    for shape in [[4, 5, 3, 2], [1, 1, 1, 1], [3, 6, 2, 4], [40, 50, 20, 30]] {
        let [queries, keys, dk, dv] = shape;
        // Without dropout, and with a given mask.
        for (softcap, p) in [(None, 0.0), (Some(0.7), 0.0), (None, 0.25), (Some(0.7), 0.25)] {
            let mask = DropoutMask { probability: p, ..DropoutMask::default() };
            let sizes = [queries * dk, keys * dk, keys * dv, queries * keys];
            let inputs = sizes.map(|n| numbers(n, random));
            // A causal window, but the last row of several sees nothing.
            let sees = |i: usize, j: usize| j <= i + 1 && (queries == 1 || i + 1 < queries);
            let with = |inputs: &[Vec<f64>], f: &mut dyn FnMut(&AttentionScores<'_>)| {
                let bias = |i: usize, j: usize| sees(i, j).then_some(inputs[3][i * keys + j]);
                let kept = |i: usize, j: usize| {
                    if mask.keeps(i as u32, j as u32) { 1.0 / (1.0 - f64::from(p)) } else { 0.0 }
                };
                f(&AttentionScores { shape, scale: 0.8, softcap, bias: &bias, kept: &kept });
            };
            let forward = |inputs: &[Vec<f64>]| {
                let mut out = vec![];
                with(inputs, &mut |scores| out = attention(scores, &inputs[0], &inputs[1], &inputs[2]).0);
                out
            };
            let backward = |inputs: &[Vec<f64>], dout: &[f64]| {
                let mut gradients = vec![];
                with(inputs, &mut |scores| {
                    let (out, lse) = attention(scores, &inputs[0], &inputs[1], &inputs[2]);
                    let qkv = [&inputs[0][..], &inputs[1], &inputs[2]];
                    let all = attention_backward(scores, qkv, (&out, &lse), dout);
                    gradients = vec![all.q, all.k, all.v, all.bias];
                });
                gradients
            };
            check(&inputs, forward, backward, random)
                .unwrap_or_else(|e| panic!("{shape:?} {softcap:?} {p}: {e}"));
        }
    }
}

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DK: usize = 5;
const DV: usize = 3;
const BUCKETS: usize = 8;

/// A call with two kv heads of two query heads each, a bias that all heads and sequences share, and T5's table.
struct Call {
    sequences: Sequences<'static>,
    /// Batch, queries and keys.
    extents: [usize; 3],
    /// Queries and keys of the longest sequence, and the number of sequences.
    longest: [usize; 3],
    dropout: Option<DropoutMask>,
}

impl Call {
    /// Elements of q, k, v, the bias and the table.
    fn sizes(&self) -> [usize; 5] {
        let [batch, queries, keys] = self.extents;
        let kv = batch * KV_HEADS * keys;
        let [rows, columns, _] = self.longest;
        [batch * HEADS * queries * DK, kv * DK, kv * DV, rows * columns, BUCKETS * HEADS]
    }

    /// Runs the definition; returns outputs and log-sum-exps.
    fn forward(&self, [q, k, v, bias, table]: &[Vec<f32>; 5]) -> (Vec<f32>, Vec<f32>) {
        let [batch, queries, keys] = self.extents;
        let [rows, columns, sequences] = self.longest;
        let (mut out, mut lse) = (vec![0.0; q.len() / DK * DV], vec![0.0; q.len() / DK]);
        let forward = Attention::new(
            View::new(q, [batch, HEADS, queries, DK]).unwrap(),
            View::new(k, [batch, KV_HEADS, keys, DK]).unwrap(),
            View::new(v, [batch, KV_HEADS, keys, DV]).unwrap(),
            ViewMut::new(&mut out, [batch, HEADS, queries, DV]).unwrap(),
        );
        let bias = View::with_strides(bias, [sequences, HEADS, rows, columns], [0, 0, columns, 1]).unwrap();
        Backend::REFERENCE
            .run(Attention {
                bias: Some(bias),
                distance: Some(self.distance(table)),
                sequences: self.sequences,
                start: Start::End,
                window: Window { before: Some(4), after: Some(1) },
                dropout: self.dropout,
                lse: Some(ViewMut::new(&mut lse, [batch, HEADS, queries]).unwrap()),
                ..forward
            })
            .unwrap();
        (out, lse)
    }

    fn distance<'a>(&self, table: &'a [f32]) -> DistanceBias<'a> {
        let table = View::new(table, [BUCKETS, HEADS]).unwrap();
        DistanceBias::T5 { table, bidirectional: true, max_distance: 6 }
    }

    /// Runs the definition; returns the gradients of all inputs.
    fn backward(&self, inputs: &[Vec<f32>; 5], dout: &[f32]) -> [Vec<f32>; 5] {
        let (out, lse) = self.forward(inputs);
        let [q, k, v, bias, table] = inputs;
        let [batch, queries, keys] = self.extents;
        let [rows, columns, sequences] = self.longest;
        let mut gradients = self.sizes().map(|n| vec![0.0; n]);
        let [dq, dk, dv, dbias, dtable] = &mut gradients;
        let [of_q, of_k, of_v] = [(HEADS, queries, DK), (KV_HEADS, keys, DK), (KV_HEADS, keys, DV)]
            .map(|(heads, rows, width)| [batch, heads, rows, width]);
        let of_out = [batch, HEADS, queries, DV];
        let backward = AttentionBackward::new(
            [View::new(q, of_q).unwrap(), View::new(k, of_k).unwrap(), View::new(v, of_v).unwrap()],
            (View::new(&out, of_out).unwrap(), View::new(&lse, [batch, HEADS, queries]).unwrap()),
            View::new(dout, of_out).unwrap(),
            [
                ViewMut::new(dq, of_q).unwrap(),
                ViewMut::new(dk, of_k).unwrap(),
                ViewMut::new(dv, of_v).unwrap(),
            ],
        );
        let bias = View::with_strides(bias, [sequences, HEADS, rows, columns], [0, 0, columns, 1]).unwrap();
        Backend::REFERENCE
            .run(AttentionBackward {
                bias: Some(bias),
                distance: Some(self.distance(table)),
                sequences: self.sequences,
                start: Start::End,
                window: Window { before: Some(4), after: Some(1) },
                dropout: self.dropout,
                dbias: Some(ViewMut::new(dbias, [1, 1, rows, columns]).unwrap()),
                dtable: Some(ViewMut::new(dtable, [BUCKETS, HEADS]).unwrap()),
                ..backward
            })
            .unwrap();
        gradients
    }
}

/// Sums over the heads of a group, sequences, repeated dimensions of the bias and buckets, along random directions.
/// Outputs are rounded to f32, so the step is 2^-4 and the tolerance 1e-4 of the terms' root mean square.
#[test]
fn of_whole_calls() {
    let random = RandomBits { seed: 3, step: 1, site: 2 };
    let dropout = Some(DropoutMask { probability: 0.25, random, first_row: 5 });
    let calls = [
        Call { sequences: Sequences::Rows, extents: [2, 6, 9], longest: [6, 9, 2], dropout: None },
        Call { sequences: Sequences::KeyLengths(&[7, 0]), extents: [2, 6, 9], longest: [6, 9, 2], dropout },
        Call {
            sequences: Sequences::Packed { q: &[0, 5, 5, 8], k: &[0, 6, 8, 10] },
            extents: [1, 8, 10],
            longest: [5, 6, 3],
            dropout,
        },
    ];
    let random = &mut Random::new(2);
    let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| random.unit()).collect() };
    for call in calls {
        let inputs = call.sizes().map(&mut draw);
        let dout = draw(call.sizes()[0] / DK * DV);
        let gradients = call.backward(&inputs, &dout);
        // Each input by itself, then all of them.
        for only in (0..5).map(Some).chain([None]) {
            let mut direction = call.sizes().map(&mut draw);
            for (i, x) in direction.iter_mut().enumerate() {
                if only.is_some_and(|only| only != i) {
                    x.fill(0.0);
                }
            }
            let along = |t: f32| -> f64 {
                let mut moved = inputs.clone();
                for (x, d) in moved.iter_mut().zip(&direction) {
                    x.iter_mut().zip(d).for_each(|(x, d)| *x += t * d);
                }
                let (out, _) = call.forward(&moved);
                out.iter().zip(&dout).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            let h = 1.0 / 16.0;
            let expected =
                (8.0 * (along(h) - along(-h)) - (along(2.0 * h) - along(-2.0 * h))) / (12.0 * f64::from(h));
            let terms = || {
                let pairs = gradients.iter().flatten().zip(direction.iter().flatten());
                pairs.map(|(g, d)| f64::from(*g) * f64::from(*d))
            };
            let (found, scale) = (terms().sum::<f64>(), terms().map(|x| x * x).sum::<f64>().sqrt());
            assert!((found - expected).abs() <= 1e-4 * scale, "{only:?}: found {found}, expected {expected}");
            assert!(scale > 0.0);
        }
    }
}
