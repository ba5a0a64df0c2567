//! Softmax and its logarithm against their definition.

use super::bound::{ETA, U};
use super::rows::{RowsParams, conforms_coarsely, of_type};
use super::tensor::{Layout, Random, Tensor, Values, seed};
use super::{Check, Failure, Worst};
use proptest::prelude::*;
use proptest::sample::select;
use tilewright_kernels::{Backend, ColumnMask, Element, Softmax as Kernel, View};

/// Softmax and log-softmax with scales, every kind of mask, and fully masked rows.
pub struct Softmax;

/// Arguments of one softmax.
#[derive(Clone, Debug)]
pub struct Params {
    rows: RowsParams,
    mask: MaskKind,
    scale: f32,
    log: bool,
    values: Values,
    seed: u64,
}

/// The kind of mask.
#[derive(Clone, Debug)]
pub(super) enum MaskKind {
    None,
    Lengths,
    Keep,
    Bias(Layout<2>),
}

impl MaskKind {
    pub(super) fn any() -> BoxedStrategy<Self> {
        prop_oneof![
            3 => Just(MaskKind::None),
            1 => Just(MaskKind::Lengths),
            1 => Just(MaskKind::Keep),
            2 => Layout::rows().prop_map(MaskKind::Bias),
        ]
        .boxed()
    }
}

/// A mask of each kind, for rows of one shape.
pub(super) struct Masks {
    lengths: Vec<usize>,
    keep: Vec<bool>,
    pub(super) bias: Tensor<2>,
}

impl Masks {
    pub(super) fn new([rows, n]: [usize; 2], kind: &MaskKind, values: Values, random: &mut Random) -> Self {
        let lengths: Vec<usize> = (0..rows).map(|_| random.below(n + 1)).collect();
        // The mask keeps nothing of one row in four.
        let nothing: Vec<bool> = (0..rows).map(|_| random.below(4) == 0).collect();
        let keep: Vec<bool> = (0..rows * n).map(|i| !nothing[i / n] && random.below(4) > 0).collect();
        let bias = match kind {
            MaskKind::Bias(layout) => layout.clone(),
            _ => Layout::row_major(),
        };
        let bias = Tensor::new([rows, n], &bias, |[i, j]| {
            if keep[i * n + j] { values.draw(random) } else { f32::NEG_INFINITY }
        });
        Self { lengths, keep, bias }
    }

    /// The mask of a kind.
    pub(super) fn mask(&self, kind: &MaskKind) -> Result<ColumnMask<'_>, Failure> {
        Ok(match kind {
            MaskKind::None => ColumnMask::None,
            MaskKind::Lengths => ColumnMask::Lengths(&self.lengths),
            MaskKind::Keep => ColumnMask::Keep(View::new(&self.keep, self.bias.shape())?),
            MaskKind::Bias(_) => ColumnMask::Bias(self.bias.view()),
        })
    }

    /// True if the mask of a kind keeps column `j` of row `i`.
    pub(super) fn counts(&self, kind: &MaskKind, i: usize, j: usize) -> bool {
        match kind {
            MaskKind::None => true,
            MaskKind::Lengths => j < self.lengths[i],
            MaskKind::Keep | MaskKind::Bias(_) => self.keep[i * self.bias.shape()[1] + j],
        }
    }
}

impl Check for Softmax {
    const KERNEL: &'static str = "softmax";
    type Params = Params;

    fn strategy() -> BoxedStrategy<Params> {
        let scale = select(vec![1.0, 1.0, 0.125, -0.3]);
        (RowsParams::any(1100), MaskKind::any(), scale, any::<bool>(), Values::any(), seed())
            .prop_map(|(rows, mask, scale, log, values, seed)| {
                // The rounding errors of scores of 2^50 exceed the distances between the scores.
                let exact = scale == 1.0 && !matches!(mask, MaskKind::Bias(_));
                let values = if values == Values::Large && !exact { Values::Wide } else { values };
                Params { rows, mask, scale, log, values, seed }
            })
            .boxed()
    }

    fn run(p: &Params, backend: Backend) -> Result<Worst, Failure> {
        let random = &mut Random::new(p.seed);
        let [rows, n] = p.rows.shape;
        let x = p.rows.input(p.values, random);
        let masks = Masks::new([rows, n], &p.mask, p.values, random);
        let (mask, bias) = (masks.mask(&p.mask)?, &masks.bias);
        fn apply<T: Element>(
            p: &Params,
            x: &Tensor<2>,
            mask: ColumnMask<'_>,
            backend: Backend,
        ) -> Result<Vec<f32>, Failure> {
            let Params { scale, log, .. } = *p;
            p.rows.run::<T>(x, |rows| backend.run(Kernel { rows, scale, mask, log }))
        }
        let apply = |stored, backend| of_type!(stored, apply(p, &x, mask, backend));

        // The unmasked scores, their errors, and the largest score, in f64.
        let score = |i: usize, j: usize| {
            let product = f64::from(p.scale) * f64::from(x.view().get([i, j]));
            match p.mask {
                MaskKind::Bias(_) => {
                    let s = product + f64::from(bias.view().get([i, j]));
                    (s, U * (product.abs() + s.abs()))
                }
                _ if p.scale != 1.0 => (product, U * product.abs()),
                _ => (product, 0.0),
            }
        };
        let of_row = |i: usize| {
            let scores = (0..n).filter(|&j| masks.counts(&p.mask, i, j)).map(|j| score(i, j));
            let finite = scores.filter(|(s, _)| s.is_finite());
            finite.fold((f64::NEG_INFINITY, 0f64), |(max, off), (s, e)| (max.max(s), off.max(e)))
        };
        let maxima: Vec<(f64, f64)> = (0..rows).map(of_row).collect();
        let within = |index: usize, expected: &[f32], [constant, distances]: [f64; 2]| {
            let (i, j) = (index / n, index % n);
            let ((max, off), y) = (maxima[i], f64::from(expected[index].abs()));
            let distance = (score(i, j).0 - max).abs();
            let roundings = U * (n as f64 / 16.0 + constant + distances * distance);
            let bound = if p.log {
                2.0 * off + roundings + 2.0 * U * y
            } else {
                // The exponential and the product may each round to a denormal.
                (2.0 * off + roundings).exp_m1() * y + 4.0 * ETA
            };
            if bound.is_finite() { bound } else { 0.0 }
        };
        conforms_coarsely(
            p.rows.stored,
            backend,
            apply,
            |index, expected| within(index, expected, [24.0, 1.0]),
            // For bf16, an exponential errs by 52 u and two roundings: that of log2(e), and that of its product with
            // the distance. The sum has the same relative error. Results below 2^-126 are flushed to zero.
            Some(|index: usize, expected: &[f32]| {
                within(index, expected, [150.0, 3.0]) + f64::from(f32::MIN_POSITIVE)
            }),
        )
    }
}
