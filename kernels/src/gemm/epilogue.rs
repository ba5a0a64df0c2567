//! What happens to a tile between its sums and C.

use crate::activation::Activation;
use crate::error::{Error, expect_shape};
use crate::isa::{Isa, Vector};
use crate::view::View;

/// Operations fused behind the product, in this order:
///
/// ```text
/// v = alpha * sum (+ beta * C) + row_bias[i] + column_bias[j]
/// v = activation(v)                      or, for a gated pair,  activation(v_gate) * v_up
/// C = v + residual[i, j]
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// Added to every element of row i: m values.
    pub row_bias: Option<&'a [f32]>,
    /// Added to every element of column j: n values; for a gated pair 2n, the gate's first.
    pub column_bias: Option<&'a [f32]>,
    /// Applied to the biased sums.
    pub activation: Option<Activation>,
    /// Added last: \[batch, m, n\], or batch 1 for all.
    pub residual: Option<View<'a, 3>>,
}

impl Epilogue<'_> {
    /// Whether C receives the bare sums.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.row_bias.is_none()
            && self.column_bias.is_none()
            && self.activation.is_none()
            && self.residual.is_none()
    }

    /// Refuses operands that do not fit a product of this shape.
    pub(super) fn check(&self, [batch, m, n]: [usize; 3], gated: bool) -> Result<(), Error> {
        if let Some(bias) = self.row_bias {
            expect_shape("Epilogue.row_bias", &[bias.len()], &[m])?;
        }
        if let Some(bias) = self.column_bias {
            expect_shape("Epilogue.column_bias", &[bias.len()], &[if gated { 2 * n } else { n }])?;
        }
        if let Some(residual) = self.residual {
            let batch = if residual.shape()[0] == 1 { 1 } else { batch };
            expect_shape("Epilogue.residual", &residual.shape(), &[batch, m, n])?;
        }
        Ok(())
    }
}

/// The columns of C that one panel makes, and what is needed to finish them.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    pub alpha: f32,
    pub beta: f32,
    pub epilogue: Epilogue<'a>,
    /// The residual of this product of the batch.
    pub residual: Option<View<'a, 2>>,
    /// First column in C, and their number.
    pub column: usize,
    pub columns: usize,
    /// All columns of C: where the up matrix' biases start.
    pub n: usize,
    pub gated: bool,
    /// C of this product.
    pub c: *mut f32,
    pub c_strides: [usize; 2],
}

impl Finish<'_> {
    /// Finishes rows `first..first + rows` of C from their sums, `NR` floats a row.
    ///
    /// # Safety
    /// `sums` is valid for reads of `rows` rows; the rows and columns lie in C, of which no one
    /// else touches them.
    #[inline(always)]
    pub(super) unsafe fn rows<I: Isa>(&self, isa: I, sums: *const f32, first: usize, rows: usize) {
        for r in 0..rows {
            for j in (0..self.columns).step_by(I::V::LANES) {
                // SAFETY: row r of the sums holds NR floats, and `j` + LANES stays within the half
                // (NR is an even number of vectors) that `columns` is at most.
                unsafe { self.vector(isa, sums.add(r * I::NR + j), first + r, j) };
            }
        }
    }

    /// Finishes up to `LANES` columns from `j` on.
    ///
    /// # Safety
    /// As [`rows`](Self::rows), for one row and `LANES` sums at `sums`.
    #[inline(always)]
    unsafe fn vector<I: Isa>(&self, isa: I, sums: *const f32, row: usize, j: usize) {
        let lanes = I::V::LANES;
        let live = (self.columns - j).min(lanes);
        let column = self.column + j;
        let [row_stride, column_stride] = self.c_strides;
        // SAFETY: element [row, column] lies in C.
        let c = unsafe { self.c.add(row * row_stride + column * column_stride) };

        let alpha = I::V::splat(isa, self.alpha);
        // SAFETY: LANES sums at `sums`.
        let mut v = alpha * unsafe { I::V::load_ptr(isa, sums) };
        if self.beta != 0.0 {
            // SAFETY: `live` elements of C.
            let old = unsafe { load_strided(isa, c, column_stride, live) };
            v = I::V::splat(isa, self.beta).mul_add(old, v);
        }
        v = self.biased(isa, v, row, column, live);
        if let Some(activation) = self.epilogue.activation {
            v = activation.apply(isa, v);
        }
        if self.gated {
            // SAFETY: the up half of the panel follows the gate's.
            let up = alpha * unsafe { I::V::load_ptr(isa, sums.add(I::NR / 2)) };
            v = v * self.biased(isa, up, row, self.n + column, live);
        }
        if let Some(residual) = self.residual {
            let [row_stride, column_stride] = residual.strides();
            // SAFETY: the check proved that the residual has C's shape.
            v = v + unsafe {
                let at = residual.as_ptr().add(row * row_stride + column * column_stride);
                load_strided(isa, at, column_stride, live)
            };
        }
        if column_stride == 1 {
            if live == lanes {
                // SAFETY: LANES elements of C.
                unsafe { v.store_ptr(c) };
            } else {
                // SAFETY: `live` elements of C, which no one else touches.
                v.store_partial(unsafe { core::slice::from_raw_parts_mut(c, live) });
            }
        } else {
            let mut buffer = [0.0; MAX_LANES];
            v.store(&mut buffer);
            for (i, x) in buffer[..live].iter().enumerate() {
                // SAFETY: `live` elements of C.
                unsafe { *c.add(i * column_stride) = *x };
            }
        }
    }

    /// `v` plus the biases of `row` and of the `live` columns whose first bias is at `bias`.
    #[inline(always)]
    fn biased<I: Isa>(&self, isa: I, mut v: I::V, row: usize, bias: usize, live: usize) -> I::V {
        if let Some(row_bias) = self.epilogue.row_bias {
            v = v + I::V::splat(isa, row_bias[row]);
        }
        if let Some(column_bias) = self.epilogue.column_bias {
            v = v + load_live(isa, &column_bias[bias..bias + live]);
        }
        v
    }
}

/// More lanes than any vector has.
const MAX_LANES: usize = 16;

/// A whole slice of at most `LANES` elements.
#[inline(always)]
fn load_live<I: Isa>(isa: I, src: &[f32]) -> I::V {
    if src.len() == I::V::LANES { I::V::load(isa, src) } else { I::V::load_partial(isa, src, 0.0) }
}

/// `live` elements, `stride` apart.
///
/// # Safety
/// They are valid for reads.
#[inline(always)]
unsafe fn load_strided<I: Isa>(isa: I, from: *const f32, stride: usize, live: usize) -> I::V {
    if stride == 1 {
        // SAFETY: the caller's.
        return load_live(isa, unsafe { core::slice::from_raw_parts(from, live) });
    }
    let mut buffer = [0.0; MAX_LANES];
    for (i, x) in buffer[..live].iter_mut().enumerate() {
        // SAFETY: the caller's.
        *x = unsafe { *from.add(i * stride) };
    }
    I::V::load(isa, &buffer)
}
