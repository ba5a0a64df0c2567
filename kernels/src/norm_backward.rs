//! Gradients of layer norm and RMS norm: one algorithm for both.
//!
//! ```text
//! z = (x - mean) r         RMS norm: z = x r              r: the inverse deviation of the row
//! g = dy weight
//! dx = r (g - mean(g) - z mean(g z))                      RMS norm: without mean(g)
//! dweight_j += sum over rows of dy_j z_j,  dbias_j += sum over rows of dy_j
//! ```
//!
//! The mean that the forward stored is rounded, which matters if it is large against sigma. So pass 1 also sums z, and
//! pass 2 corrects it:
//!
//! ```text
//! pass 1   s0 = sum(z) / n,  s1 = sum(g) / n,  s2 = sum(g z) / n
//! pass 2   a = s2 - s0 s1,  b = s1 - s0 a
//!          dx = r (g - (b + a z)),  dweight += dy (z - s0),  dbias += dy
//! ```
//!
//! Pass 1 of each row runs within pass 2 of the row before, as in the forward norms: x and dy are read from memory once.
//! Sums over rows start anew in each chunk of [`CHUNK`] rows and are then added up in ascending order, whatever thread
//! computed them.

use crate::column_sums::add_columns;
use crate::element::{Element, from_f64, to_f64};
use crate::error::{Error, expect_shape};
use crate::isa::{Isa, Vector};
use crate::lanes::{GROUPS, RowSlices, accumulators, map_and_add, read_with, total};
use crate::rows::{self, RowTask, Rows, expect_unit_rows};
use crate::scratch;
use crate::view::View;
use core::ops::RangeInclusive;

/// Rows of a chunk. Clearing and adding its sums costs as many operations as one of its rows, 3% of all.
const CHUNK: usize = 32;

/// Chunks whose sums are in memory at a time: at most as many threads work, and 768 columns take 384 KiB.
const CHUNKS: usize = 64;

/// Inverse deviations for which f32 sums are accurate: the inverse roots of
/// [`IN_RANGE`](crate::residual::IN_RANGE).
const INVERSE_IN_RANGE: RangeInclusive<f32> = 6e-20..=1e14;

/// Rows of the gradient of a norm. With `CENTERED` the norm subtracts the mean: layer norm.
pub(crate) struct NormRows<'a, T, const CENTERED: bool> {
    /// dy and dx.
    pub rows: Rows<'a, T>,
    pub x: View<'a, 2, T>,
    /// Added to dx.
    pub dresidual: Option<View<'a, 2, T>>,
    /// \[rows\] if `CENTERED`, else empty.
    pub mean: &'a [f32],
    /// \[rows\].
    pub inverse_deviation: &'a [f32],
}

/// Names of the fields of a kernel, for errors.
pub(crate) struct Names {
    pub rows: &'static str,
    pub x: &'static str,
    pub dresidual: &'static str,
    pub mean: &'static str,
    pub inverse_deviation: &'static str,
}

impl<T: Element, const CENTERED: bool> NormRows<'_, T, CENTERED> {
    /// Returns the shape, or an error if shapes differ or rows are not contiguous.
    pub fn check(&self, names: &Names) -> Result<[usize; 2], Error> {
        let [rows, n] = self.rows.check(names.rows)?;
        for (name, view) in [(names.x, Some(self.x)), (names.dresidual, self.dresidual)] {
            let Some(view) = view else { continue };
            expect_unit_rows(name, view.has_unit_rows(), view.strides())?;
            expect_shape(name, &view.shape(), &[rows, n])?;
        }
        if CENTERED {
            expect_shape(names.mean, &[self.mean.len()], &[rows])?;
        }
        expect_shape(names.inverse_deviation, &[self.inverse_deviation.len()], &[rows])?;
        Ok([rows, n])
    }

    /// The rows before `mid`, and the rows from `mid` on.
    fn split_at(self, mid: usize) -> (Self, Self) {
        let (rows, high_rows) = self.rows.split_at(mid);
        let (x, high_x) = self.x.split_at(0, mid);
        let (dresidual, high_dresidual) = self.dresidual.map(|view| view.split_at(0, mid)).unzip();
        let (mean, high_mean) = self.mean.split_at(if CENTERED { mid } else { 0 });
        let (inverse_deviation, high_inverse) = self.inverse_deviation.split_at(mid);
        (
            Self { rows, x, dresidual, mean, inverse_deviation },
            Self {
                rows: high_rows,
                x: high_x,
                dresidual: high_dresidual,
                mean: high_mean,
                inverse_deviation: high_inverse,
            },
        )
    }

    /// The definition: `gradient(x, r, dy)` returns dx and the gradients of the parameters of a row, which are summed up
    /// in f64 and added to `sums`.
    pub fn define<const P: usize>(
        self,
        sums: [&mut Option<&mut [f32]>; P],
        gradient: impl Fn(&[f64], f64, &[f64]) -> (Vec<f64>, [Vec<f64>; P]),
    ) {
        let Self { rows, x, dresidual, inverse_deviation, .. } = self;
        let mut totals = [(); P].map(|()| vec![0.0; x.shape()[1]]);
        for (i, mut row) in rows.into_iter().enumerate() {
            let (x, dy) = (to_f64(x.row([i, 0])), to_f64(row.input()));
            let (mut dx, gradients) = gradient(&x, inverse_deviation[i].into(), &dy);
            let dresidual = dresidual.map_or_else(Vec::new, |view| to_f64(view.row([i, 0])));
            dx.iter_mut().zip(dresidual).for_each(|(dx, more)| *dx += more);
            from_f64(&dx, row.output());
            for (total, gradient) in totals.iter_mut().zip(gradients) {
                total.iter_mut().zip(gradient).for_each(|(total, more)| *total += more);
            }
        }
        for (sum, total) in sums.into_iter().zip(totals) {
            let sum = sum.as_deref_mut().unwrap_or_default();
            sum.iter_mut().zip(total).for_each(|(sum, more)| *sum = (f64::from(*sum) + more) as f32);
        }
    }

    /// Computes dx, and adds to dweight and dbias, which have one number for each column, as `weight` does.
    pub fn eval<'b, I: Isa>(
        self,
        isa: I,
        weight: Option<&[f32]>,
        mut dweight: Option<&'b mut [f32]>,
        mut dbias: Option<&'b mut [f32]>,
    ) {
        let [rows, n] = self.rows.shape();
        if rows == 0 || n == 0 {
            return;
        }
        let chunks = rows.div_ceil(CHUNK).min(CHUNKS);
        scratch::with((2 + 2 * chunks) * n, |memory| {
            let (spare, sums) = memory.split_at_mut(2 * n);
            let (ones, zeros) = spare.split_at_mut(n);
            let weight = weight.unwrap_or_else(|| {
                ones.fill(1.0);
                ones
            });
            zeros.fill(0.0);
            let mut rest = self;
            while rest.rows.shape()[0] > 0 {
                let rows = rest.rows.shape()[0].min(CHUNKS * CHUNK);
                let (block, after) = rest.split_at(rows);
                rest = after;
                let shape = [rows.div_ceil(CHUNK), 2 * n];
                let sums = &mut sums[..shape[0] * shape[1]];
                rows::run(isa, Chunks { rows: block, weight, zeros, sums });
                // `sums` holds as many elements as the shape has.
                let Ok(sums) = View::new(sums, shape) else { return };
                let (weights, biases) = sums.split_at(1, n);
                for (sums, total) in [(weights, &mut dweight), (biases, &mut dbias)] {
                    if let Some(total) = total {
                        add_columns(isa, sums, total);
                    }
                }
            }
        });
    }
}

/// Some chunks of rows.
struct Chunks<'a, T, const CENTERED: bool> {
    rows: NormRows<'a, T, CENTERED>,
    weight: &'a [f32],
    /// \[n\].
    zeros: &'a [f32],
    /// \[chunks, 2 n\]: sums of each chunk, of dweight and of dbias.
    sums: &'a mut [f32],
}

impl<T: Element, const CENTERED: bool> RowTask for Chunks<'_, T, CENTERED> {
    /// Chunks, and the elements of a chunk.
    fn shape(&self) -> [usize; 2] {
        let [rows, n] = self.rows.rows.shape();
        [rows.div_ceil(CHUNK), CHUNK * n]
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let (low, high) = self.rows.split_at(mid * CHUNK);
        let (low_sums, high_sums) = self.sums.split_at_mut(mid * 2 * self.weight.len());
        (Self { rows: low, sums: low_sums, ..self }, Self { rows: high, sums: high_sums, ..self })
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        let Self { rows: NormRows { rows, x, dresidual, mean, inverse_deviation }, weight, zeros, sums } =
            self;
        let n = weight.len();
        let spare = T::stand_in(zeros);
        let mut chunks = sums.chunks_exact_mut(2 * n);
        let mut sums: &mut [f32] = &mut [];
        let center =
            |i: usize| Center { mean: if CENTERED { mean[i] } else { 0.0 }, r: inverse_deviation[i] };
        let mut rows = rows.into_iter();
        let Some(mut row) = rows.next() else { return };
        let mut means = RowMeans::of::<_, _, CENTERED>(isa, row.input(), x.row([0, 0]), weight, center(0));
        for i in 0.. {
            if i % CHUNK == 0 {
                sums = chunks.next().unwrap_or_default();
                sums.fill(0.0);
            }
            let gradients = sums.split_at_mut(n);
            let next = rows.next();
            // After the last row, zeros serve as the next row.
            let following = match &next {
                Some(next) => Following { dy: next.input(), x: x.row([i + 1, 0]), center: center(i + 1) },
                None => Following { dy: spare, x: spare, center: Center { mean: 0.0, r: 0.0 } },
            };
            let here = Here {
                x: x.row([i, 0]),
                dresidual: dresidual.map_or(spare, |view| view.row([i, 0])),
                center: center(i),
                means,
            };
            means = if INVERSE_IN_RANGE.contains(&here.center.r) && means.are_finite() {
                write::<_, _, CENTERED>(isa, &mut row, here, weight, gradients, following)
            } else {
                write_wide::<_, CENTERED>(&mut row, here, weight, gradients);
                let Following { dy, x, center } = following;
                RowMeans::of::<_, _, CENTERED>(isa, dy, x, weight, center)
            };
            match next {
                Some(next) => row = next,
                None => return,
            }
        }
    }
}

/// Statistics of a row.
#[derive(Clone, Copy)]
struct Center {
    mean: f32,
    r: f32,
}

/// A row that is written.
struct Here<'a, T> {
    x: &'a [T],
    dresidual: &'a [T],
    center: Center,
    means: RowMeans,
}

/// The row after it.
struct Following<'a, T> {
    dy: &'a [T],
    x: &'a [T],
    center: Center,
}

/// Result of pass 1.
#[derive(Clone, Copy)]
struct RowMeans {
    /// Means of z, g and g z; only of g z without `CENTERED`.
    s: [f32; 3],
}

impl RowMeans {
    /// Pass 1 alone.
    #[inline(always)]
    fn of<I: Isa, T: Element, const CENTERED: bool>(
        isa: I,
        dy: &[T],
        x: &[T],
        weight: &[f32],
        center: Center,
    ) -> Self {
        let mut sums = RowSums::<I, CENTERED>::new(isa, center);
        read_with(
            isa,
            [weight],
            [dy, x],
            [0.0, center.mean],
            #[inline(always)]
            |g, [weight], [dy, x]| sums.add(g, dy * weight, x),
        );
        sums.means(weight.len())
    }

    fn are_finite(&self) -> bool {
        self.s.iter().all(|s| s.is_finite())
    }
}

/// Running sums of pass 1.
struct RowSums<I: Isa, const CENTERED: bool> {
    mean: I::V,
    r: I::V,
    sums: [[I::V; GROUPS]; 3],
}

impl<I: Isa, const CENTERED: bool> RowSums<I, CENTERED> {
    #[inline(always)]
    fn new(isa: I, center: Center) -> Self {
        let (mean, r) = (I::V::splat(isa, center.mean), I::V::splat(isa, center.r));
        Self { mean, r, sums: [accumulators(isa, 0.0); 3] }
    }

    /// z.
    #[inline(always)]
    fn normalize(&self, x: I::V) -> I::V {
        if CENTERED { (x - self.mean) * self.r } else { x * self.r }
    }

    #[inline(always)]
    fn add(&mut self, group: usize, g: I::V, x: I::V) {
        let z = self.normalize(x);
        if CENTERED {
            self.sums[0][group] = self.sums[0][group] + z;
            self.sums[1][group] = self.sums[1][group] + g;
        }
        self.sums[2][group] = g.mul_add(z, self.sums[2][group]);
    }

    #[inline(always)]
    fn means(self, n: usize) -> RowMeans {
        let [z, g, gz] = self.sums;
        let n = n as f32;
        let s = if CENTERED { [total::<I>(z) / n, total::<I>(g) / n] } else { [0.0; 2] };
        RowMeans { s: [s[0], s[1], total::<I>(gz) / n] }
    }
}

/// Pass 2 of a row together with pass 1 of the row after it. `gradients` are the sums of dweight and dbias.
#[inline(always)]
fn write<I: Isa, T: Element, const CENTERED: bool>(
    isa: I,
    row: &mut RowSlices<'_, T>,
    here: Here<'_, T>,
    weight: &[f32],
    (dweight, dbias): (&mut [f32], &mut [f32]),
    following: Following<'_, T>,
) -> RowMeans {
    let [s0, s1, s2] = here.means.s;
    let factor = s2 - s0 * s1;
    let (a, b) = (I::V::splat(isa, factor), I::V::splat(isa, s1 - s0 * factor));
    let s0 = I::V::splat(isa, s0);
    let current = RowSums::<I, CENTERED>::new(isa, here.center);
    let mut sums = RowSums::<I, CENTERED>::new(isa, following.center);
    map_and_add(
        isa,
        row,
        [dweight, dbias],
        [weight],
        [here.x, here.dresidual, following.dy, following.x],
        // Lanes past the end only enter the sums: dy = 0 and x = mean add 0 to them.
        [0.0, 0.0, 0.0, following.center.mean],
        #[inline(always)]
        |g, dy, [dweight, dbias], [weight], [x, dresidual, next_dy, next_x]| {
            sums.add(g, next_dy * weight, next_x);
            let z = current.normalize(x);
            let gradient = dy * weight;
            let (dx, dweight) = if CENTERED {
                (gradient - a.mul_add(z, b), dy.mul_add(z - s0, dweight))
            } else {
                (gradient - a * z, dy.mul_add(z, dweight))
            };
            (dx.mul_add(current.r, dresidual), [dweight, dbias + dy])
        },
    );
    sums.means(weight.len())
}

/// Pass 2 of a row whose statistics or sums leave the range of f32, all in f64.
#[cold]
#[inline(never)]
fn write_wide<T: Element, const CENTERED: bool>(
    row: &mut RowSlices<'_, T>,
    here: Here<'_, T>,
    weight: &[f32],
    (dweight, dbias): (&mut [f32], &mut [f32]),
) {
    let wide = |x: &T| f64::from(x.to_f32());
    let (n, r) = (weight.len() as f64, f64::from(here.center.r));
    let mean = if CENTERED { here.x.iter().map(wide).sum::<f64>() / n } else { 0.0 };
    let [mut s1, mut s2] = [0.0f64; 2];
    for ((dy, x), weight) in row.input().iter().zip(here.x).zip(weight) {
        let g = wide(dy) * f64::from(*weight);
        s1 += g;
        s2 += g * ((wide(x) - mean) * r);
    }
    let (s1, s2) = (if CENTERED { s1 / n } else { 0.0 }, s2 / n);
    for (j, weight) in weight.iter().enumerate() {
        let (dy, z) = (wide(&row.input()[j]), (wide(&here.x[j]) - mean) * r);
        let dx = r * (dy * f64::from(*weight) - s1 - z * s2);
        row.output()[j] = T::from_f32((dx + wide(&here.dresidual[j])) as f32);
        dweight[j] += (dy * z) as f32;
        dbias[j] += dy as f32;
    }
}
