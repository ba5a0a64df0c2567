//! The epilogue of one panel: each operation is a loop over sums in L1.

use super::super::output::{COutput, CPointer};
use super::super::pack::copy_row;
use super::super::rhs::{any_of_batch, of_batch};
use super::{DerivativeOperands, Operations};
use crate::activation::for_activation;
use crate::element::Element;
use crate::isa::{Isa, Vector};
use crate::view::{AnyView, with_any};

/// The epilogue of the columns of C that one panel makes.
#[derive(Clone, Copy)]
pub(in crate::gemm) struct PanelEpilogue<'a> {
    pub alpha: f32,
    pub beta: f32,
    pub operations: &'a Operations<'a>,
    /// Index of this product in the batch.
    pub batch: usize,
    /// First column in C.
    pub column: usize,
    /// Number of columns.
    pub columns: usize,
    /// Columns of C, and index of the first bias of the up matrix.
    pub n: usize,
    pub gated: bool,
    /// C of this product.
    pub c: CPointer,
    pub c_strides: [usize; 2],
}

impl PanelEpilogue<'_> {
    /// Finishes rows of C, from row `first` on, from their sums, `NR` floats a row.
    ///
    /// Each operation runs over all rows, which are in L1: a choice of operations for each vector took a tenth of
    /// the time of the product. The function enters the instruction set by itself and is never inlined, so that
    /// the program contains it once.
    ///
    /// # Safety
    /// The rows and columns lie in C, and nothing else touches them.
    #[inline(never)]
    pub(in crate::gemm) unsafe fn rows<I: Isa>(&self, isa: I, sums: &mut [f32], first: usize) {
        isa.run(
            #[inline(always)]
            || {
                if let (true, CPointer::F32(_)) = (self.only_accumulates(), self.c) {
                    // SAFETY: the rows and columns lie in C, and nothing else touches them (precondition of `rows`).
                    return unsafe { self.accumulate(isa, sums, first) };
                }
                // SAFETY: the rows and columns lie in C (precondition of `rows`).
                unsafe { self.scale(isa, sums, first) };
                self.add_biases(isa, sums, first);
                let width = if self.gated { I::NR / 2 } else { I::NR };
                if let Some(aux) = self.operations.aux {
                    for (half, column) in [0, self.n].into_iter().take(I::NR / width).enumerate() {
                        let columns = half * width..half * width + self.columns;
                        for (r, row) in sums.chunks_exact(I::NR).enumerate() {
                            // SAFETY: `Epilogue::check` proved that aux has these columns.
                            unsafe { self.store_row(isa, &row[columns.clone()], aux, first + r, column) };
                        }
                    }
                }
                if let Some(activation) = self.operations.activation {
                    for_activation!(activation, F => each(
                        isa,
                        sums,
                        width,
                        #[inline(always)]
                        |_, _, sum| F.apply(isa, sum),
                    ));
                }
                if self.gated {
                    for row in sums.chunks_exact_mut(I::NR) {
                        let (gate, up) = row.split_at_mut(width);
                        for (gate, up) in gate.chunks_exact_mut(I::V::LANES).zip(up.chunks_exact(I::V::LANES))
                        {
                            (I::V::load(isa, gate) * I::V::load(isa, up)).store(gate);
                        }
                    }
                }
                // SAFETY: the rows and columns lie in C, and nothing else touches them (precondition of `rows`).
                unsafe {
                    if let Some(derivative) = self.operations.derivative {
                        self.multiply_derivative(isa, sums, first, derivative);
                    }
                    self.store(isa, sums, first);
                }
            },
        );
    }

    /// True if C = sums + beta * C, in f32 with unit stride: the gradient of a weight.
    fn only_accumulates(&self) -> bool {
        self.beta != 0.0
            && self.alpha == 1.0
            && self.c_strides[1] == 1
            && !self.gated
            && self.operations.is_empty()
    }

    /// C = sums + beta * C in one pass.
    ///
    /// # Safety
    /// As [`rows`](Self::rows), and [`only_accumulates`](Self::only_accumulates) of a C of f32.
    #[inline(always)]
    unsafe fn accumulate<I: Isa>(&self, isa: I, sums: &[f32], first: usize) {
        let (beta, lanes) = (I::V::splat(isa, self.beta), I::V::LANES);
        for (r, row) in sums.chunks_exact(I::NR).enumerate() {
            let CPointer::F32(c) = self.c_at(first + r, 0) else { return };
            // SAFETY: `columns` elements of row `first + r` of C, which nothing else touches (precondition of
            // `accumulate`).
            let c = unsafe { core::slice::from_raw_parts_mut(c, self.columns) };
            for (c, sums) in c.chunks_mut(lanes).zip(row.chunks_exact(lanes)) {
                let sums = I::V::load(isa, sums);
                if c.len() == lanes {
                    beta.mul_add(I::V::load(isa, c), sums).store(c);
                } else {
                    beta.mul_add(I::V::load_partial(isa, c, 0.0), sums).store_partial(c);
                }
            }
        }
    }

    /// sums = alpha * sums + beta * C.
    ///
    /// # Safety
    /// As [`rows`](Self::rows).
    #[inline(always)]
    unsafe fn scale<I: Isa>(&self, isa: I, sums: &mut [f32], first: usize) {
        if self.alpha != 1.0 {
            let alpha = I::V::splat(isa, self.alpha);
            each(
                isa,
                sums,
                I::NR,
                #[inline(always)]
                |_, _, sum| alpha * sum,
            );
        }
        if self.beta != 0.0 {
            let beta = I::V::splat(isa, self.beta);
            each(
                isa,
                sums,
                self.columns,
                #[inline(always)]
                |r, j, sum| {
                    // SAFETY: `live` elements of C from column j of the panel on (precondition of `scale`).
                    let old = unsafe {
                        let (stride, live) = (self.c_strides[1], self.live::<I>(j));
                        match self.c_at(first + r, j) {
                            CPointer::F32(c) => load_strided(isa, c, stride, live),
                            CPointer::Bf16(c) => load_strided(isa, c, stride, live),
                            CPointer::F16(c) => load_strided(isa, c, stride, live),
                        }
                    };
                    beta.mul_add(old, sum)
                },
            );
        }
    }

    /// Adds the biases of rows and columns, to both halves of a gated pair.
    #[inline(always)]
    fn add_biases<I: Isa>(&self, isa: I, sums: &mut [f32], first: usize) {
        if let Some(bias) = self.operations.row_bias {
            each(
                isa,
                sums,
                I::NR,
                #[inline(always)]
                |r, _, sum| sum + I::V::splat(isa, bias[first + r]),
            );
        }
        if let Some(bias) = self.operations.column_bias {
            let mut of_panel = [0.0; MAX_NR];
            let columns = self.column..self.column + self.columns;
            of_panel[..self.columns].copy_from_slice(&bias[columns.clone()]);
            if self.gated {
                of_panel[I::NR / 2..][..self.columns]
                    .copy_from_slice(&bias[self.n + columns.start..self.n + columns.end]);
            }
            each(
                isa,
                sums,
                I::NR,
                #[inline(always)]
                |_, j, sum| sum + I::V::load(isa, &of_panel[j..]),
            );
        }
    }

    /// sums = sums * derivative; of a gated pair, stores the gradient of up besides.
    ///
    /// # Safety
    /// As [`rows`](Self::rows).
    #[inline(always)]
    unsafe fn multiply_derivative<I: Isa>(
        &self,
        isa: I,
        sums: &mut [f32],
        first: usize,
        DerivativeOperands { activation, at, gated }: DerivativeOperands<'_>,
    ) {
        let at = any_of_batch(at, self.batch);
        // SAFETY: `Epilogue::check` proved that the operands and dup have the shape of C, whose rows and columns these
        // are (precondition of `multiply_derivative`); tasks write disjoint blocks.
        for_activation!(activation, F => unsafe {
            let Some((up, dup)) = gated else {
                return each(
                    isa,
                    sums,
                    self.columns,
                    #[inline(always)]
                    |r, j, sum| sum * F.derivative(isa, self.load(isa, at, first + r, j)),
                );
            };
            let up = any_of_batch(up, self.batch);
            for (r, row) in sums.chunks_exact_mut(I::NR).enumerate() {
                let mut of_up = [0.0; MAX_NR];
                for j in (0..self.columns).step_by(I::V::LANES) {
                    let sum = &mut row[j..][..I::V::LANES];
                    let v = I::V::load(isa, sum);
                    let gate = self.load(isa, at, first + r, j);
                    let (value, slope) = F.apply_with_derivative::<I, f32>(isa, gate);
                    (v * value).store(&mut of_up[j..]);
                    (v * self.load(isa, up, first + r, j) * slope).store(sum);
                }
                self.store_row(isa, &of_up[..self.columns], dup, first + r, 0);
            }
        });
    }

    /// Loads the vector at column `j` of the panel in row `row` of an operand of the shape of C.
    ///
    /// # Safety
    /// The operand has the row and the panel's columns.
    #[inline(always)]
    unsafe fn load<I: Isa>(&self, isa: I, from: AnyView<'_, 2>, row: usize, j: usize) -> I::V {
        let ([row_stride, stride], live) = (from.strides(), self.live::<I>(j));
        let at = row * row_stride + (self.column + j) * stride;
        // SAFETY: `live` elements of the operand (precondition of `load`).
        with_any!(from, v => unsafe { load_strided(isa, v.as_ptr().add(at), stride, live) })
    }

    /// Stores a row of the panel's columns to an output of the shape of C, or `columns_before` columns further on.
    ///
    /// # Safety
    /// The output has the row and the columns, and nothing else touches them.
    #[inline(always)]
    unsafe fn store_row<I: Isa>(
        &self,
        isa: I,
        row: &[f32],
        to: COutput,
        index: usize,
        columns_before: usize,
    ) {
        let stride = to.strides[2];
        // SAFETY: the row's elements of the output, which nothing else touches (precondition of `store_row`).
        unsafe {
            match to.at([self.batch, index, columns_before + self.column]) {
                CPointer::F32(c) => store_row(isa, row, c, stride),
                CPointer::Bf16(c) => store_row(isa, row, c, stride),
                CPointer::F16(c) => store_row(isa, row, c, stride),
            }
        }
    }

    /// Adds the residual and stores to C.
    ///
    /// # Safety
    /// As [`rows`](Self::rows).
    #[inline(always)]
    unsafe fn store<I: Isa>(&self, isa: I, sums: &mut [f32], first: usize) {
        if let Some(residual) = self.operations.residual {
            let residual = of_batch(residual, self.batch);
            let [row_stride, column_stride] = residual.strides();
            each(
                isa,
                sums,
                self.columns,
                #[inline(always)]
                |r, j, sum| {
                    let at = (first + r) * row_stride + (self.column + j) * column_stride;
                    // SAFETY: `Epilogue::check` proved that the residual has the shape of C.
                    sum + unsafe {
                        load_strided(isa, residual.as_ptr().add(at), column_stride, self.live::<I>(j))
                    }
                },
            );
        }
        for (r, row) in sums.chunks_exact(I::NR).enumerate() {
            let row = &row[..self.columns];
            let stride = self.c_strides[1];
            // SAFETY: `columns` elements of C, which nothing else touches (precondition of `store`).
            unsafe {
                match self.c_at(first + r, 0) {
                    // A constant length: the compiler calls memmove for a variable one, 8% of the samples of q8_0
                    // 4096x64x64 on Zen 4.
                    CPointer::F32(c) if stride == 1 && row.len() == I::NR => {
                        copy_row(isa, row.as_ptr(), c, I::NR);
                    }
                    CPointer::F32(c) if stride == 1 => copy_row(isa, row.as_ptr(), c, row.len()),
                    CPointer::F32(c) => store_row(isa, row, c, stride),
                    CPointer::Bf16(c) => store_row(isa, row, c, stride),
                    CPointer::F16(c) => store_row(isa, row, c, stride),
                }
            }
        }
    }

    /// The element of C in row `row` and column `j` of the panel.
    #[inline(always)]
    fn c_at(&self, row: usize, j: usize) -> CPointer {
        self.c.add(row * self.c_strides[0] + (self.column + j) * self.c_strides[1])
    }

    /// Columns of C in the vector that starts at column `j` of the panel.
    #[inline(always)]
    fn live<I: Isa>(&self, j: usize) -> usize {
        (self.columns - j).min(I::V::LANES)
    }
}

/// Upper bound of `NR`: 32 on AVX-512, less elsewhere.
const MAX_NR: usize = 64;

/// Replaces each vector of the first `columns` columns of the sums by `f(row, column, vector)`.
#[inline(always)]
fn each<I: Isa>(isa: I, sums: &mut [f32], columns: usize, f: impl Fn(usize, usize, I::V) -> I::V) {
    for (r, row) in sums.chunks_exact_mut(I::NR).enumerate() {
        for j in (0..columns).step_by(I::V::LANES) {
            let sum = &mut row[j..][..I::V::LANES];
            f(r, j, I::V::load(isa, sum)).store(sum);
        }
    }
}

/// Loads `live` elements, `stride` apart, as floats, and zeros in the other lanes.
///
/// # Safety
/// - `from + i * stride` is valid for reads for each `i < live`;
/// - `live <= LANES`.
#[inline(always)]
unsafe fn load_strided<I: Isa, T: Element>(isa: I, from: *const T, stride: usize, live: usize) -> I::V {
    if stride == 1 && live == I::V::LANES {
        // SAFETY: `from` is valid for reads of LANES elements (precondition of `load_strided`).
        return unsafe { T::load::<I>(isa, from) };
    }
    let mut buffer = [0.0; MAX_NR];
    for (i, x) in buffer[..live].iter_mut().enumerate() {
        // SAFETY: i < live (precondition of `load_strided`).
        *x = unsafe { *from.add(i * stride) }.to_f32();
    }
    I::V::load(isa, &buffer)
}

/// Stores a row, rounded to `T`, with elements `stride` apart.
///
/// # Safety
/// `to + j * stride` is valid for writes for each element `j` of the row.
#[inline(always)]
unsafe fn store_row<I: Isa, T: Element>(isa: I, row: &[f32], to: *mut T, stride: usize) {
    let lanes = I::V::LANES;
    let whole = if stride == 1 { row.len() / lanes * lanes } else { 0 };
    for j in (0..whole).step_by(lanes) {
        // SAFETY: a vector inside the row.
        unsafe { T::store::<I>(isa, I::V::load(isa, &row[j..]), to.add(j)) };
    }
    for (j, x) in row.iter().enumerate().skip(whole) {
        // SAFETY: j is inside the row.
        unsafe { *to.add(j * stride) = T::from_f32(*x) };
    }
}
