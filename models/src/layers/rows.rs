//! Calls without parameters: sums, dropout, factors, rotary positions, and rows that a head reads.

use crate::error::Error;
use crate::layers::run::{Call, Gradients, Run, Slot, Version};
use std::sync::Arc;
use tilewright_kernels::{Backend, Dropout, DropoutMask, Rope, RopeTable, Rows, ViewMut};

/// out = a + b. It saves nothing.
#[derive(Debug)]
pub(super) struct AddCall {
    pub a: Version,
    pub b: Version,
    out: Version,
}

impl AddCall {
    /// Adds two matrices of one shape; `out` may be `a`.
    pub fn forward(run: &mut Run<'_>, a: Slot, b: Slot, out: Slot) {
        let in_place = out == a && !run.records();
        let (of_a, of_b) = (run.version(a), run.version(b));
        let mut sum = if in_place {
            run.take_in_place(a)
        } else {
            let mut copy = run.take(out, run.matrix(a).shape());
            copy.matrix.values_mut().copy_from_slice(run.matrix(a).values());
            copy
        };
        sum.matrix.values_mut().iter_mut().zip(run.matrix(b).values()).for_each(|(sum, b)| *sum += b);
        let out = run.put(sum);
        run.record(|| Call::Add(Self { a: of_a, b: of_b, out }));
    }

    /// Both summands have the gradient of the sum.
    pub fn backward(self, gradients: &mut Gradients<'_>) {
        let Some(dy) = gradients.take(self.out) else { return };
        gradients.add(self.a, dy.clone());
        gradients.add(self.b, dy);
    }
}

/// a = a + b, both of one shape.
pub(crate) fn add(run: &mut Run<'_>, a: Slot, b: Slot) {
    AddCall::forward(run, a, b, a);
}

/// x\[i\] = x\[i\] + rows\[index i\], for rows that do not learn.
///
/// # Panics
/// If an index is not that of a row.
pub(crate) fn add_constants(run: &mut Run<'_>, rows: &[f32], indices: &[u32], x: Slot) {
    let mut sum = run.take_in_place(x);
    let [_, width] = sum.matrix.shape();
    for (x, &i) in sum.matrix.values_mut().chunks_exact_mut(width.max(1)).zip(indices) {
        let row = &rows[i as usize * width..(i as usize + 1) * width];
        x.iter_mut().zip(row).for_each(|(x, row)| *x += row);
    }
    run.put(sum);
}

/// x = x / (1 - p) for the elements that are kept, and 0 for the others. It saves nothing: the mask is computed again.
#[derive(Debug)]
pub(super) struct DropoutCall {
    backend: Backend,
    mask: DropoutMask,
    /// Rows and columns of x.
    shape: [usize; 2],
    x: Version,
}

/// Drops elements of `x` with this probability, in place, if the run trains with dropout.
///
/// # Errors
/// [`Error::Kernel`] if the probability is not in \[0, 1\].
pub(crate) fn dropout(run: &mut Run<'_>, backend: Backend, probability: f32, x: Slot) -> Result<(), Error> {
    let Some(mask) = run.dropout(probability) else { return Ok(()) };
    let mut rows = run.take_in_place(x);
    let kernel = Dropout { rows: Rows::InPlace(rows.matrix.view_mut()?), residual: None, mask };
    backend.run(kernel)?;
    let (shape, x) = (rows.matrix.shape(), run.put(rows));
    run.record(|| Call::Dropout(DropoutCall { backend, mask, shape, x }));
    Ok(())
}

impl DropoutCall {
    /// dx = dy / (1 - p) for the same elements, and 0 for the others.
    pub fn backward(self, gradients: &mut Gradients<'_>) -> Result<(), Error> {
        let Some(dx) = gradients.take(self.x) else { return Ok(()) };
        let mut dx = gradients.unique(dx);
        let ([rows, columns], [_, width]) = (dx.shape(), self.shape);
        // The gradient of a gated product has the gradients of gate and up side by side: the mask applies to both.
        for half in 0..columns / width.max(1) {
            let half = &mut dx.values_mut()[half * width..];
            let rows = Rows::InPlace(ViewMut::with_strides(half, [rows, width], [columns, 1])?);
            self.backend.run(Dropout { rows, residual: None, mask: self.mask })?;
        }
        gradients.set(self.x, Arc::new(dx));
        Ok(())
    }
}

/// x = factor x. It saves nothing.
#[derive(Debug)]
pub(super) struct ScaleCall {
    factor: f32,
    x: Version,
}

/// Multiplies `x` by a factor, in place.
pub(crate) fn scale(run: &mut Run<'_>, factor: f32, x: Slot) {
    let mut rows = run.take_in_place(x);
    rows.matrix.values_mut().iter_mut().for_each(|x| *x *= factor);
    let x = run.put(rows);
    run.record(|| Call::Scale(ScaleCall { factor, x }));
}

impl ScaleCall {
    /// dx = factor dy.
    pub fn backward(self, gradients: &mut Gradients<'_>) {
        let Some(dx) = gradients.take(self.x) else { return };
        let mut dx = gradients.unique(dx);
        dx.values_mut().iter_mut().for_each(|x| *x *= self.factor);
        gradients.set(self.x, Arc::new(dx));
    }
}

/// Rotation of the first columns of x by the tokens' positions. It saves the positions.
#[derive(Debug)]
pub(super) struct RopeCall<'m> {
    backend: Backend,
    table: &'m RopeTable,
    positions: Vec<u32>,
    /// Columns that are rotated, and width of a head.
    columns: [usize; 2],
    x: Version,
}

/// Rotates the first `width` columns of `x`, heads of `dim` columns, in place.
///
/// # Errors
/// [`Error::Kernel`] if a position is not in the table, or sizes do not fit.
pub(crate) fn rope<'m>(
    run: &mut Run<'m>,
    backend: Backend,
    table: &'m RopeTable,
    positions: &[u32],
    [width, dim]: [usize; 2],
    x: Slot,
) -> Result<(), Error> {
    let mut rows = run.take_in_place(x);
    let [n, stride] = rows.matrix.shape();
    let view = ViewMut::with_strides(rows.matrix.values_mut(), [n, width], [stride, 1])?;
    backend.run(Rope::new(Rows::InPlace(view), dim, positions, table))?;
    let x = run.put(rows);
    run.record(|| {
        Call::Rope(RopeCall { backend, table, positions: positions.to_vec(), columns: [width, dim], x })
    });
    Ok(())
}

impl RopeCall<'_> {
    /// Rotates the gradient back.
    pub fn backward(self, gradients: &mut Gradients<'_>) -> Result<(), Error> {
        let Some(dx) = gradients.take(self.x) else { return Ok(()) };
        let (mut dx, [width, dim]) = (gradients.unique(dx), self.columns);
        let [n, stride] = dx.shape();
        let rows = Rows::InPlace(ViewMut::with_strides(dx.values_mut(), [n, width], [stride, 1])?);
        self.backend.run(Rope { backward: true, ..Rope::new(rows, dim, &self.positions, self.table) })?;
        gradients.set(self.x, Arc::new(dx));
        Ok(())
    }
}

/// out\[i\] = x\[index i\]. It saves the indices.
#[derive(Debug)]
pub(super) struct RowsCall {
    indices: Vec<usize>,
    pub x: Version,
    /// Number of rows of x.
    rows: usize,
    out: Version,
}

/// Copies the rows of `x` at `indices`.
///
/// # Panics
/// If an index is not that of a row.
pub(crate) fn select_rows(run: &mut Run<'_>, x: Slot, indices: &[usize], out: Slot) {
    let [rows, width] = run.matrix(x).shape();
    let mut selected = run.take(out, [indices.len(), width]);
    for (to, &i) in selected.matrix.values_mut().chunks_exact_mut(width.max(1)).zip(indices) {
        to.copy_from_slice(run.matrix(x).row(i));
    }
    let (x, out) = (run.version(x), run.put(selected));
    run.record(|| Call::Rows(RowsCall { indices: indices.to_vec(), x, rows, out }));
}

impl RowsCall {
    /// Each row of x gains the gradients of its copies, in order.
    pub fn backward(self, gradients: &mut Gradients<'_>) {
        let Some(dy) = gradients.take(self.out) else { return };
        let [_, width] = dy.shape();
        let mut dx = match gradients.take(self.x) {
            Some(old) => gradients.unique(old),
            None => {
                let mut zeros = gradients.matrix([self.rows, width]);
                zeros.values_mut().fill(0.0);
                zeros
            }
        };
        for (from, &i) in dy.values().chunks_exact(width.max(1)).zip(&self.indices) {
            let to = &mut dx.values_mut()[i * width..(i + 1) * width];
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
        gradients.set(self.x, Arc::new(dx));
        gradients.release(dy);
    }
}
