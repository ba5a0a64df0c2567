//! Dropout (Srivastava et al., "Dropout", JMLR 15, 2014), fused with a residual.
//!
//! ```text
//! y = residual + m x / (1 - p),    m = 0 with probability p, else 1
//! backward: dx = m dy / (1 - p),   dresidual = dy
//! ```
//! The mask m is a function of seed, step, site and element ([`RandomBits`]): the backward pass computes it again, and
//! nothing is stored. x, y and residual are \[rows, n\]; without rows or columns nothing is written.
//!
//! An element is kept if its bits are at least p 2^32. The time goes to the bits: 60 operations on vectors for 2 LANES
//! elements. They go through a buffer of 64 columns, so that any length and type of row can follow.

use crate::backend::Kernel;
use crate::element::{Element, from_f64, to_f64};
use crate::error::{Error, expect_shape};
use crate::isa::{Isa, Vector};
use crate::lanes::{RowSlices, map_with};
use crate::philox::{BitLanes, RandomBits, SPAN};
use crate::rows::{self, RowTask, Rows, expect_unit_rows};
use crate::view::View;

/// Elements that dropout keeps: a function of the row and the column.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DropoutMask {
    /// Probability p, in \[0, 1\], that an element is dropped. Kept elements are divided by 1 - p.
    pub probability: f32,
    /// Source of the random bits.
    pub random: RandomBits,
    /// Number of the call's first row. Calls for parts of a batch get the masks of the whole batch if each names its
    /// place.
    pub first_row: u32,
}

impl DropoutMask {
    /// True if the element of `row`, counted from the first row of the call, is kept.
    pub fn keeps(self, row: u32, column: u32) -> bool {
        let bits = self.random.at(self.first_row.wrapping_add(row), column);
        f64::from(bits) >= f64::from(self.probability) * 2f64.powi(32)
    }

    /// 1 / (1 - p), or 0 if nothing is kept.
    pub(crate) fn scale(self) -> f64 {
        if self.drops_all() { 0.0 } else { 1.0 / (1.0 - f64::from(self.probability)) }
    }

    /// True if no element is kept. A lane's comparison cannot express this threshold.
    pub(crate) fn drops_all(self) -> bool {
        self.probability == 1.0
    }

    /// Prepares vectors for the elements of rows. Meaningless if [all are dropped](Self::drops_all).
    #[inline(always)]
    pub(crate) fn lanes<I: Isa>(self, isa: I) -> DropoutLanes<I> {
        // Bits are integers: they are at least p 2^32 where they are at least its ceiling.
        let threshold = (f64::from(self.probability) * 2f64.powi(32)).ceil() as u32;
        DropoutLanes {
            bits: self.random.lanes(isa),
            first_row: self.first_row,
            threshold: I::V::splat_bits(isa, threshold),
            scale: I::V::splat(isa, self.scale() as f32),
        }
    }

    /// Returns an error if p is no probability, or if rows or columns have no numbers of 32 bits.
    pub(crate) fn check(self, what: &'static str, [rows, columns]: [usize; 2]) -> Result<(), Error> {
        let invalid = |why| Err(Error::Invalid { what, why });
        if !(0.0..=1.0).contains(&self.probability) {
            return invalid(format!("expected a probability from 0 to 1, found {}", self.probability));
        }
        let end = |first: u32, n: usize| u64::from(first) + n as u64;
        if end(self.first_row, rows) > 1 << 32 || end(0, columns) > 1 << 32 {
            return invalid(format!(
                "{rows} rows from {} on, or {columns} columns, exceed 2^32",
                self.first_row
            ));
        }
        Ok(())
    }

    /// The mask of the rows from `mid` on.
    pub(crate) fn after_rows(self, mid: usize) -> Self {
        Self { first_row: self.first_row.wrapping_add(mid as u32), ..self }
    }
}

/// [`DropoutMask`] for vectors.
pub(crate) struct DropoutLanes<I: Isa> {
    bits: BitLanes<I>,
    first_row: u32,
    /// Smallest bits of a kept element.
    threshold: I::V,
    /// 1 / (1 - p).
    pub(crate) scale: I::V,
}

impl<I: Isa> DropoutLanes<I> {
    /// Writes the bits of the [`SPAN`] columns of `row` from `SPAN * span` on, for [`kept`](Self::kept).
    #[inline(always)]
    pub(crate) fn span(&self, isa: I, row: usize, span: usize, out: &mut [f32; SPAN]) {
        self.bits.span(isa, self.first_row.wrapping_add(row as u32), span as u32, out);
    }

    /// Lanes of x whose bits say that they are kept, and 0 elsewhere.
    #[inline(always)]
    pub(crate) fn kept(&self, isa: I, bits: I::V, x: I::V) -> I::V {
        I::V::splat(isa, 0.0).select(bits.lt_bits(self.threshold), x)
    }
}

/// y = residual + dropout(x).
///
/// The backward pass is the same kernel on dy with the same mask and no residual: dx = dropout(dy). The gradient of the
/// residual is dy.
///
/// A dropped element adds nothing to the residual, even if it is NaN or infinite. With p = 0 all elements are kept; with
/// p = 1 none is, and y is the residual, or 0.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Invalid`] if a row is not contiguous, if p is not in \[0, 1\], or if
/// a row or column has a number of 2^32 or more.
///
/// # Numerics
/// x and the residual are widened to f32 exactly, 1 / (1 - p) is rounded to f32, and y is rounded once to f32 (also the
/// product, on the backend `portable`), then to its type. The error before the last rounding is at most
/// u (2 |x| / (1 - p) + |y|), u = 2^-24. The mask is the same on all backends.
///
/// ```
/// use tilewright_kernels::{Backend, Dropout, DropoutMask, RandomBits, Rows, View, ViewMut};
/// let random = RandomBits { seed: 1, step: 0, site: 3 };
/// let mask = DropoutMask { probability: 0.5, random, first_row: 0 };
/// let (x, residual, mut y) = ([1., 2., 3., 4.], [10.; 4], [0.; 4]);
/// let rows = Rows::Into(View::new(&x, [1, 4])?, ViewMut::new(&mut y, [1, 4])?);
/// Backend::best().run(Dropout { rows, residual: Some(View::new(&residual, [1, 4])?), mask })?;
/// for j in 0..4 {
///     assert_eq!(y[j], if mask.keeps(0, j as u32) { 10. + 2. * x[j] } else { 10. });
/// }
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Dropout<'a, T = f32> {
    /// x and y, \[rows, n\]; in the backward pass, dy and dx.
    pub rows: Rows<'a, T>,
    /// Added to the result, \[rows, n\].
    pub residual: Option<View<'a, 2, T>>,
    /// Elements to keep.
    pub mask: DropoutMask,
}

/// Definition of [`Dropout`] without its residual: x / (1 - p) where `kept`, 0 elsewhere. It is its own backward.
pub fn dropout(x: &[f64], kept: &[bool], p: f64) -> Vec<f64> {
    x.iter().zip(kept).map(|(x, &kept)| if kept { x / (1.0 - p) } else { 0.0 }).collect()
}

impl<T: Element> Dropout<'_, T> {
    fn check(&self) -> Result<(), Error> {
        let shape = self.rows.check("Dropout.rows")?;
        if let Some(residual) = &self.residual {
            expect_unit_rows("Dropout.residual", residual.has_unit_rows(), residual.strides())?;
            expect_shape("Dropout.residual", &residual.shape(), &shape)?;
        }
        self.mask.check("Dropout.mask", shape)
    }
}

impl<T: Element> Kernel for Dropout<'_, T> {
    type Output = Result<(), Error>;

    crate::backend::compile_here!(T::dropout);

    fn reference(self) -> Self::Output {
        self.check()?;
        let Self { rows, residual, mask } = self;
        for (i, mut row) in rows.into_iter().enumerate() {
            let kept: Vec<bool> = (0..row.input().len()).map(|j| mask.keeps(i as u32, j as u32)).collect();
            let mut y = dropout(&to_f64(row.input()), &kept, f64::from(mask.probability));
            if let Some(residual) = residual {
                y.iter_mut().zip(to_f64(residual.row([i, 0]))).for_each(|(y, r)| *y += r);
            }
            from_f64(&y, row.output());
        }
        Ok(())
    }

    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        self.check()?;
        rows::run(isa, self);
        Ok(())
    }
}

impl<T: Element> RowTask for Dropout<'_, T> {
    fn shape(&self) -> [usize; 2] {
        self.rows.shape()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let (low, high) = self.rows.split_at(mid);
        let (low_residual, high_residual) = self.residual.map(|view| view.split_at(0, mid)).unzip();
        (
            Self { rows: low, residual: low_residual, ..self },
            Self { rows: high, residual: high_residual, mask: self.mask.after_rows(mid) },
        )
    }

    #[inline(always)]
    fn run<I: Isa>(self, isa: I, _: &mut [f32]) {
        let Self { rows, residual, mask } = self;
        let lanes = mask.lanes(isa);
        for (i, row) in rows.into_iter().enumerate() {
            match residual.map(|residual| residual.row([i, 0])) {
                Some(residual) if mask.drops_all() => row.into_output().copy_from_slice(residual),
                None if mask.drops_all() => row.into_output().fill(T::default()),
                Some(residual) => drop_row(isa, &lanes, row, [residual], i),
                None => drop_row(isa, &lanes, row, [], i),
            }
        }
    }
}

/// Drops elements of row `i`, and adds the residual, if there is one.
#[inline(always)]
fn drop_row<I: Isa, T: Element, const R: usize>(
    isa: I,
    lanes: &DropoutLanes<I>,
    mut row: RowSlices<'_, T>,
    residual: [&[T]; R],
    i: usize,
) {
    let n = row.input().len();
    let whole = n - n % SPAN;
    for start in (0..whole).step_by(SPAN) {
        // A constant length: no loop over the vectors of a span remains.
        let end = start + SPAN;
        drop_span(isa, lanes, row.slice(start..end), columns(residual, start, end), [i, start / SPAN]);
    }
    if whole < n {
        drop_span(isa, lanes, row.slice(whole..n), columns(residual, whole, n), [i, whole / SPAN]);
    }
}

/// Columns `start..end` of each row.
#[inline(always)]
fn columns<T, const R: usize>(mut rows: [&[T]; R], start: usize, end: usize) -> [&[T]; R] {
    for row in &mut rows {
        *row = &row[start..end];
    }
    rows
}

/// Drops elements of a span, or of its first columns.
#[inline(always)]
fn drop_span<I: Isa, T: Element, const R: usize>(
    isa: I,
    lanes: &DropoutLanes<I>,
    mut row: RowSlices<'_, T>,
    residual: [&[T]; R],
    [i, span]: [usize; 2],
) {
    let mut bits = [0.0; SPAN];
    lanes.span(isa, i, span, &mut bits);
    let bits = &bits[..row.input().len()];
    map_with(
        isa,
        [&mut row],
        [bits],
        residual,
        0.0,
        #[inline(always)]
        |_, [x], [bits], residual| {
            let kept = lanes.kept(isa, bits, x);
            match residual.first() {
                Some(&residual) => [kept.mul_add(lanes.scale, residual)],
                None => [kept * lanes.scale],
            }
        },
    );
}
