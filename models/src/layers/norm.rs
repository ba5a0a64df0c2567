//! Layer norm (Ba et al. 2016, arXiv:1607.06450) and RMS norm (Zhang and Sennrich 2019, arXiv:1910.07467).
//!
//! ```text
//! layer norm    (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias
//! RMS norm      x / sqrt(mean(x^2) + eps) * weight
//! ```

use super::parameter::{Parameter, Parameters};
use crate::arithmetic::Arithmetic;
use crate::checkpoint::weights::{NamedTensor, Weights};
use crate::error::Error;
use tilewright_kernels::{Backend, LayerNorm, RmsNorm, Rows, View, ViewMut};

/// Normalises the state of each token.
#[derive(Clone, Debug)]
pub struct Norm {
    backend: Backend,
    /// \[width\].
    weight: NamedTensor,
    /// \[width\]; an RMS norm has none.
    bias: Option<NamedTensor>,
    eps: f32,
}

impl Norm {
    /// Reads `{name}.weight` and `{name}.bias`, both \[width\], of a layer norm.
    ///
    /// # Errors
    /// See [`Weights::get`].
    pub fn open(
        weights: &Weights,
        name: &str,
        width: usize,
        eps: f32,
        on: Arithmetic,
    ) -> Result<Self, Error> {
        let bias = weights.tensor(&format!("{name}.bias"), &[width])?;
        Ok(Self { bias: Some(bias), ..Self::open_rms(weights, name, width, eps, on)? })
    }

    /// Reads `{name}.weight`, \[width\], of an RMS norm.
    ///
    /// # Errors
    /// See [`Weights::get`].
    pub fn open_rms(
        weights: &Weights,
        name: &str,
        width: usize,
        eps: f32,
        on: Arithmetic,
    ) -> Result<Self, Error> {
        let weight = weights.tensor(&format!("{name}.weight"), &[width])?;
        Ok(Self { backend: on.backend, weight, bias: None, eps })
    }

    /// Normalises the rows of x, \[tokens, width\], into out. `out` determines the number of tokens; `x` may be longer.
    ///
    /// # Errors
    /// [`Error::Kernel`] if x is too short for the rows of out.
    pub fn forward(&self, x: &[f32], out: &mut [f32]) -> Result<(), Error> {
        let shape = self.shape(out);
        self.run(Rows::Into(View::new(x, shape)?, ViewMut::new(out, shape)?), None)
    }

    /// Normalises the rows of x, \[tokens, width\], in place.
    ///
    /// # Errors
    /// [`Error::Kernel`] if the kernel refuses its arguments.
    pub fn in_place(&self, x: &mut [f32]) -> Result<(), Error> {
        let shape = self.shape(x);
        self.run(Rows::InPlace(ViewMut::new(x, shape)?), None)
    }

    /// x = x + y, then y = norm(x), both \[tokens, width\]: the step between two blocks of a pre-norm model.
    ///
    /// # Errors
    /// [`Error::Kernel`] if x is too short for the rows of y.
    pub fn after_adding(&self, y: &mut [f32], x: &mut [f32]) -> Result<(), Error> {
        let shape = self.shape(y);
        self.run(Rows::InPlace(ViewMut::new(y, shape)?), Some(ViewMut::new(x, shape)?))
    }

    fn shape(&self, rows: &[f32]) -> [usize; 2] {
        let width = self.weight.values.len();
        [rows.len() / width, width]
    }

    fn run(&self, rows: Rows<'_>, residual: Option<ViewMut<'_, 2>>) -> Result<(), Error> {
        let (weight, eps) = (Some(&*self.weight.values), self.eps);
        match &self.bias {
            Some(bias) => {
                let bias = Some(&*bias.values);
                self.backend.run(LayerNorm { residual, weight, bias, ..LayerNorm::new(rows, eps) })?;
            }
            None => self.backend.run(RmsNorm { residual, weight, ..RmsNorm::new(rows, eps) })?,
        }
        Ok(())
    }
}

impl Parameters for Norm {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        [Some(&self.weight), self.bias.as_ref()].into_iter().flatten().map(Parameter::from).collect()
    }
}
