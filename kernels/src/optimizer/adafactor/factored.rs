//! Adafactor with the second moment of a matrix factored into rows and columns.
//!
//! ```text
//! pass 1   sums of g^2 over each row, and over the columns of each chunk of rows
//! pass 2   norm of g / sqrt(C) of each row, hence the root mean square of u
//! pass 3   p
//! ```

use super::AdafactorOptions;
use crate::isa::{Isa, Vector};
use crate::lanes::{RowSlices, accumulators, map, map_with, narrow, read, total};
use crate::optimizer::Trainable;
use crate::optimizer::norm;
use crate::rows::{self, RowTask};
use crate::scratch;
use half::bf16;

/// Rows whose squares are summed into one row of column sums: few enough to divide a matrix among threads, and enough
/// that the sums of chunks are 1% of the work.
const CHUNK: usize = 128;

/// Steps a matrix of root mean square `rms`.
pub(super) fn step<I: Isa>(
    isa: I,
    of: Trainable<'_>,
    [row_moments, column_moments]: [&mut [f32]; 2],
    options: &AdafactorOptions,
    rms: f64,
) {
    let (rows, columns) = (row_moments.len(), column_moments.len());
    let chunks = rows.div_ceil(CHUNK);
    let scale = f64::from(of.gradient_scale);
    scratch::with(rows + (chunks + 1) * columns, |memory| {
        let (of_rows, of_columns) = memory.split_at_mut(rows);
        let (partial, of_columns) = of_columns.split_at_mut(chunks * columns);
        partial.fill(0.0);
        let gradients = of.gradients;
        rows::run(isa, Squares { gradients, columns, of_rows: &mut *of_rows, partial: &mut *partial });
        of_columns.fill(0.0);
        isa.run(
            #[inline(always)]
            || {
                for chunk in partial.chunks_exact(columns) {
                    map(
                        isa,
                        [&mut RowSlices::InPlace(&mut *of_columns)],
                        [chunk],
                        0.0,
                        #[inline(always)]
                        |_, [sum], [x]| [sum + x],
                    );
                }
            },
        );
        let moments = |moments: &mut [f32], sums: &[f32], n: usize| {
            let [old, new] = options.decays();
            for (moment, &sum) in moments.iter_mut().zip(sums) {
                let mean = scale * scale * f64::from(sum) / n as f64 + options.epsilons[0];
                *moment = (old * f64::from(*moment) + new * mean) as f32;
            }
        };
        moments(row_moments, of_rows, columns);
        moments(column_moments, of_columns, rows);
        let mean = row_moments.iter().map(|&r| f64::from(r)).sum::<f64>() / rows as f64;
        for (inverse, &moment) in of_columns.iter_mut().zip(&*column_moments) {
            *inverse = f64::from(moment).sqrt().recip() as f32;
        }
        rows::run(isa, RowNorms { gradients, of_columns, of_rows: &mut *of_rows });
        // gradient_scale / sqrt(R_i / mean(R)), and with it the norm of row i of u.
        let inverse = |moment: f32| scale / (f64::from(moment) / mean).sqrt();
        for (norm, &moment) in of_rows.iter_mut().zip(&*row_moments) {
            *norm = (f64::from(*norm) * inverse(moment)) as f32;
        }
        let [keep, factor] = options.factors([rms, norm::total(of_rows) / ((rows * columns) as f64).sqrt()]);
        for (of_row, &moment) in of_rows.iter_mut().zip(&*row_moments) {
            *of_row = (factor * inverse(moment)) as f32;
        }
        let Trainable { parameters, bf16, .. } = of;
        rows::run(isa, Update { parameters, gradients, copy: bf16, of_columns, of_rows, keep: keep as f32 });
    });
}

/// Pass 1, on chunks of rows.
struct Squares<'a> {
    gradients: &'a [f32],
    columns: usize,
    of_rows: &'a mut [f32],
    partial: &'a mut [f32],
}

impl RowTask for Squares<'_> {
    fn shape(&self) -> [usize; 2] {
        [self.of_rows.len().div_ceil(CHUNK), CHUNK * self.columns]
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let Self { gradients, columns, of_rows, partial } = self;
        let (gradients, high_gradients) = gradients.split_at(mid * CHUNK * columns);
        let (of_rows, high_rows) = of_rows.split_at_mut(mid * CHUNK);
        let (partial, high_partial) = partial.split_at_mut(mid * columns);
        (
            Self { gradients, columns, of_rows, partial },
            Self { gradients: high_gradients, columns, of_rows: high_rows, partial: high_partial },
        )
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        let Self { gradients, columns, of_rows, partial } = self;
        for (i, (g, row_sum)) in gradients.chunks_exact(columns).zip(of_rows).enumerate() {
            let mut sums = accumulators(isa, 0.0);
            map(
                isa,
                [&mut RowSlices::InPlace(&mut partial[i / CHUNK * columns..][..columns])],
                [g],
                0.0,
                #[inline(always)]
                |group, [sum], [g]| {
                    sums[group] = g.mul_add(g, sums[group]);
                    [g.mul_add(g, sum)]
                },
            );
            *row_sum = total::<I>(sums);
        }
    }
}

/// Pass 2.
struct RowNorms<'a> {
    gradients: &'a [f32],
    of_columns: &'a [f32],
    of_rows: &'a mut [f32],
}

impl RowTask for RowNorms<'_> {
    fn shape(&self) -> [usize; 2] {
        [self.of_rows.len(), self.of_columns.len()]
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let Self { gradients, of_columns, of_rows } = self;
        let (gradients, high_gradients) = gradients.split_at(mid * of_columns.len());
        let (of_rows, high_rows) = of_rows.split_at_mut(mid);
        (
            Self { gradients, of_columns, of_rows },
            Self { gradients: high_gradients, of_columns, of_rows: high_rows },
        )
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        for (g, norm) in self.gradients.chunks_exact(self.of_columns.len()).zip(self.of_rows) {
            let mut sums = accumulators(isa, 0.0);
            read(
                isa,
                [g, self.of_columns],
                0.0,
                #[inline(always)]
                |group, [g, inverse]| {
                    let u = g * inverse;
                    sums[group] = u.mul_add(u, sums[group]);
                },
            );
            *norm = total::<I>(sums).sqrt();
        }
    }
}

/// Pass 3.
struct Update<'a> {
    parameters: &'a mut [f32],
    gradients: &'a [f32],
    copy: Option<&'a mut [bf16]>,
    of_columns: &'a [f32],
    of_rows: &'a [f32],
    keep: f32,
}

impl RowTask for Update<'_> {
    fn shape(&self) -> [usize; 2] {
        [self.of_rows.len(), self.of_columns.len()]
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let Self { parameters, gradients, copy, of_columns, of_rows, keep } = self;
        let at = mid * of_columns.len();
        let (parameters, high_parameters) = parameters.split_at_mut(at);
        let (gradients, high_gradients) = gradients.split_at(at);
        let (copy, high_copy) = copy.map(|copy| copy.split_at_mut(at)).unzip();
        let (of_rows, high_rows) = of_rows.split_at(mid);
        (
            Self { parameters, gradients, copy, of_columns, of_rows, keep },
            Self {
                parameters: high_parameters,
                gradients: high_gradients,
                copy: high_copy,
                of_columns,
                of_rows: high_rows,
                keep,
            },
        )
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        let Self { parameters, gradients, mut copy, of_columns, of_rows, keep } = self;
        let (n, keep) = (of_columns.len(), I::V::splat(isa, keep));
        for (i, (p, g)) in parameters.chunks_exact_mut(n).zip(gradients.chunks_exact(n)).enumerate() {
            let of_row = I::V::splat(isa, of_rows[i]);
            map_with(
                isa,
                [&mut RowSlices::InPlace(&mut *p)],
                [g],
                [of_columns],
                0.0,
                #[inline(always)]
                |_, [p], [g], [of_column]| [(g * of_column).mul_add(of_row, p * keep)],
            );
            if let Some(copy) = &mut copy {
                narrow(isa, p, &mut copy[i * n..][..n]);
            }
        }
    }
}
