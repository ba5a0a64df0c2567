//! Gradients of a backward pass: of the parameters, and of the matrices of the forward pass.

use super::Version;
use crate::layers::buffer::Matrix;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;
use tilewright_kernels::half::bf16;

/// Gradients of a backward pass. Gradients of matrices live until the call that wrote the matrix has used them.
#[derive(Debug)]
pub(in crate::layers) struct Gradients<'m> {
    /// Of the parameters, with the layout of the arena; added to.
    parameters: &'m mut [f32],
    /// Of each matrix, so far. Two matrices whose gradients are equal share one.
    of: Vec<Option<Arc<Matrix>>>,
    /// Unused matrices.
    pool: &'m mut Vec<Matrix>,
    /// A matrix in bf16.
    rounded: &'m mut Vec<bf16>,
}

impl<'m> Gradients<'m> {
    pub fn new(parameters: &'m mut [f32], pool: &'m mut Vec<Matrix>, rounded: &'m mut Vec<bf16>) -> Self {
        Self { parameters, of: Vec::new(), pool, rounded }
    }

    /// Gradients of a tensor of the parameters.
    pub fn parameters(&mut self, range: Range<usize>) -> &mut [f32] {
        &mut self.parameters[range]
    }

    /// Gradients of a tensor of the parameters, and `x` in bf16.
    pub fn parameters_and_bf16(&mut self, range: Range<usize>, x: &[f32]) -> (&mut [f32], &[bf16]) {
        round(x, self.rounded);
        (&mut self.parameters[range], self.rounded)
    }

    /// Gradients of two tensors of the parameters that do not overlap.
    pub fn two_parameters(&mut self, ranges: [Range<usize>; 2]) -> [&mut [f32]; 2] {
        self.parameters.get_disjoint_mut(ranges).expect("tensors of one layer lie apart")
    }

    /// Removes the gradients of all parameters until [`put_parameters`](Self::put_parameters).
    pub fn take_parameters(&mut self) -> &'m mut [f32] {
        core::mem::take(&mut self.parameters)
    }

    /// Puts the gradients of all parameters back.
    pub fn put_parameters(&mut self, parameters: Option<&'m mut [f32]>) {
        self.parameters = parameters.unwrap_or_default();
    }

    /// Removes the gradient of a matrix; `None` if nothing depends on the matrix.
    pub fn take(&mut self, version: Version) -> Option<Arc<Matrix>> {
        self.of.get_mut(version.0)?.take()
    }

    /// Replaces the gradient of a matrix.
    pub fn set(&mut self, version: Version, gradient: Arc<Matrix>) {
        if self.of.len() <= version.0 {
            self.of.resize(version.0 + 1, None);
        }
        self.of[version.0] = Some(gradient);
    }

    /// Adds to the gradient of a matrix.
    pub fn add(&mut self, version: Version, gradient: Arc<Matrix>) {
        let sum = match self.take(version) {
            None => gradient,
            Some(old) => {
                let mut sum = self.unique(old);
                sum.values_mut().iter_mut().zip(gradient.values()).for_each(|(sum, x)| *sum += x);
                self.release(gradient);
                Arc::new(sum)
            }
        };
        self.set(version, sum);
    }

    /// A matrix of this shape with unspecified content: the smallest unused one that has room, or else the largest.
    pub fn matrix(&mut self, shape: [usize; 2]) -> Matrix {
        let len = shape[0] * shape[1];
        let fits = |matrix: &Matrix| matrix.capacity() >= len;
        let order = |&i: &usize| {
            let matrix = &self.pool[i];
            if fits(matrix) { (0, matrix.capacity()) } else { (1, usize::MAX - matrix.capacity()) }
        };
        let best = (0..self.pool.len()).min_by_key(order);
        let mut matrix = best.map(|i| self.pool.swap_remove(i)).unwrap_or_default();
        matrix.reshape(shape);
        matrix
    }

    /// The matrix for changes: itself, or a copy if others share it.
    pub fn unique(&mut self, gradient: Arc<Matrix>) -> Matrix {
        Arc::try_unwrap(gradient).unwrap_or_else(|shared| {
            let mut copy = self.matrix(shared.shape());
            copy.values_mut().copy_from_slice(shared.values());
            copy
        })
    }

    /// Returns the matrix to the unused ones, unless others share it.
    pub fn release(&mut self, gradient: Arc<Matrix>) {
        if let Some(matrix) = Arc::into_inner(gradient) {
            self.release_matrix(matrix);
        }
    }

    /// Returns a matrix to the unused ones.
    pub fn release_matrix(&mut self, matrix: Matrix) {
        if matrix.capacity() > 0 {
            self.pool.push(matrix);
        }
    }
}

/// Writes `x` in bf16, rounded to nearest, ties to even.
pub(in crate::layers) fn round(x: &[f32], to: &mut Vec<bf16>) {
    to.clear();
    to.par_extend(x.par_iter().with_min_len(1 << 14).map(|&x| bf16::from_f32(x)));
}
