//! The work of a run, and the function that computes it.

use tilewright::Error;

/// Computes a case once, into an output that the caller holds.
pub(crate) type Compute<'a> = Box<dyn FnMut(&mut [f32]) -> Result<(), Error> + Send + 'a>;

/// Operations, bytes and tokens of one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Floating-point operations of the matrix products, two for each multiply-add. 0 for row kernels: memory
    /// limits them.
    pub flops: f64,
    /// Lower bound of bytes read and written: inputs, weights and outputs once each.
    pub bytes: f64,
    /// Tokens that a model processes.
    pub tokens: Option<f64>,
}
