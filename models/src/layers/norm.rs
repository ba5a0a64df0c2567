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
use crate::layers::rows::add;
use crate::layers::run::{Call, Gradients, Run, Saved, Slot, Version};
use std::sync::Arc;
use tilewright_kernels::{
    Backend, LayerNorm, LayerNormBackward, RmsNorm, RmsNormBackward, Rows, View, ViewMut,
};

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

/// A call on the tape. It saves the rows before the norm, and of each row the inverse deviation and the mean.
#[derive(Debug)]
pub(super) struct NormCall<'m> {
    layer: &'m Norm,
    pub x: Version,
    statistics: Version,
    out: Version,
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
        let rms = Self::open_rms(weights, name, width, eps, on)?;
        Ok(Self { bias: Some(weights.tensor(&format!("{name}.bias"), &[width])?), ..rms })
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

    /// out = norm(x), both \[tokens, width\].
    ///
    /// # Errors
    /// [`Error::Kernel`] if x does not have `width` columns.
    pub fn forward<'m>(&'m self, run: &mut Run<'m>, x: Slot, out: Slot) -> Result<(), Error> {
        let shape = run.matrix(x).shape();
        let mut y = run.take(out, shape);
        let mut statistics = run.keep([2, shape[0]]);
        let rows = Rows::Into(run.matrix(x).view()?, y.matrix.view_mut()?);
        self.run(run.arena(), rows, None, statistics.as_mut().map(|kept| kept.matrix.values_mut()))?;
        let x = run.version(x);
        let (statistics, out) = (statistics.map(|kept| run.put(kept)), run.put(y));
        if let Some(statistics) = statistics {
            run.record(|| Call::Norm(NormCall { layer: self, x, statistics, out }));
        }
        Ok(())
    }

    /// x = norm(x), \[tokens, width\].
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn in_place<'m>(&'m self, run: &mut Run<'m>, x: Slot) -> Result<(), Error> {
        if run.records() {
            return self.forward(run, x, x);
        }
        let mut rows = run.take_in_place(x);
        self.run(run.arena(), Rows::InPlace(rows.matrix.view_mut()?), None, None)?;
        run.put(rows);
        Ok(())
    }

    /// x = x + y, then y = norm(x), both \[tokens, width\]: the step between two blocks of a pre-norm model.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn after_adding<'m>(&'m self, run: &mut Run<'m>, y: Slot, x: Slot) -> Result<(), Error> {
        if run.records() {
            add(run, x, y);
            return self.forward(run, x, y);
        }
        let (mut rows, mut residual) = (run.take_in_place(y), run.take_in_place(x));
        let added = residual.matrix.view_mut()?;
        self.run(run.arena(), Rows::InPlace(rows.matrix.view_mut()?), Some(added), None)?;
        run.put(rows);
        run.put(residual);
        Ok(())
    }

    /// `statistics` takes the inverse deviations of all rows, then the means.
    fn run(
        &self,
        arena: &[f32],
        rows: Rows<'_>,
        residual: Option<ViewMut<'_, 2>>,
        statistics: Option<&mut [f32]>,
    ) -> Result<(), Error> {
        let (weight, eps) = (Some(self.weight.values.get(arena)), self.eps);
        let (inverse_deviation, mean) = match statistics {
            Some(statistics) => {
                let (deviations, means) = statistics.split_at_mut(statistics.len() / 2);
                (Some(deviations), Some(means))
            }
            None => (None, None),
        };
        match &self.bias {
            Some(bias) => {
                let bias = Some(bias.values.get(arena));
                let norm = LayerNorm::new(rows, eps);
                self.backend.run(LayerNorm { residual, weight, bias, mean, inverse_deviation, ..norm })?;
            }
            None => {
                let norm = RmsNorm::new(rows, eps);
                self.backend.run(RmsNorm { residual, weight, inverse_deviation, ..norm })?;
            }
        }
        Ok(())
    }
}

impl NormCall<'_> {
    /// dx = the norm's gradient, plus what other calls have added to the gradient of x; dweight and dbias are added to.
    pub fn backward(self, saved: Saved<'_>, gradients: &mut Gradients<'_>) -> Result<(), Error> {
        let Self { layer: Norm { backend, weight, bias, .. }, x, statistics, out } = self;
        let Some(dy) = gradients.take(out) else { return Ok(()) };
        let (old, mut dx) = (gradients.take(x), gradients.matrix(dy.shape()));
        let rows = Rows::Into(dy.view()?, dx.view_mut()?);
        let dresidual = old.as_ref().map(|old| old.view()).transpose()?;
        let inputs: View<'_, 2> = saved.matrix(x).view()?;
        let statistics = saved.matrix(statistics).values();
        let (inverse_deviation, mean) = statistics.split_at(statistics.len() / 2);
        let values = Some(weight.values.get(saved.arena()));
        let place = weight.values.place().unwrap_or_default();
        match bias.as_ref().and_then(|bias| bias.values.place()) {
            Some(of_bias) => {
                let [dweight, dbias] = gradients.two_parameters([place, of_bias]).map(Some);
                let norm = LayerNormBackward::new(rows, inputs, mean, inverse_deviation);
                backend.run(LayerNormBackward { dresidual, weight: values, dweight, dbias, ..norm })?;
            }
            None => {
                let dweight = Some(gradients.parameters(place));
                let norm = RmsNormBackward::new(rows, inputs, inverse_deviation);
                backend.run(RmsNormBackward { dresidual, weight: values, dweight, ..norm })?;
            }
        }
        old.into_iter().for_each(|old| gradients.release(old));
        gradients.set(x, Arc::new(dx));
        gradients.release(dy);
        Ok(())
    }
}

impl Parameters for Norm {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        [Some(&self.weight), self.bias.as_ref()].into_iter().flatten().map(Parameter::from).collect()
    }
}
