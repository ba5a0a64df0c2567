//! The interface of every model, for a program that does not know which one it runs.

use crate::batch::Batch;
use crate::causal_lm::CausalLm;
use crate::error::Error;
use crate::layers::ModelLinear;
use crate::output::Output;

/// A loaded model.
pub trait Model: std::fmt::Debug + Send {
    /// Runs the model. `&mut` for its working memory, which it keeps.
    ///
    /// # Errors
    /// [`Error::Input`] if ids or positions lie outside of the model's tables.
    /// Of an encoder-decoder, if it is not given what the decoder reads.
    fn forward(&mut self, batch: &Batch) -> Result<Vec<Output>, Error>;

    /// Runs an encoder-decoder: `decoder` has a sequence for each of `batch`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and [`Error::Input`] if the model has no decoder.
    fn forward_pair(&mut self, batch: &Batch, decoder: &Batch) -> Result<Vec<Output>, Error> {
        let _ = (batch, decoder);
        let why = "given to a model that has no decoder".to_owned();
        Err(Error::Input { name: "decoder_input_ids", why })
    }

    /// The model as one that continues texts, if it is.
    fn causal_lm(&mut self) -> Option<&mut dyn CausalLm> {
        None
    }

    /// The most tokens that a sequence may have.
    fn max_length(&self) -> usize;

    /// Number of weights and biases, by part. A tensor with several uses counts once, where it is
    /// first. Empty if the model does not count them.
    fn parameters(&self) -> Vec<(&'static str, usize)> {
        Vec::new()
    }

    /// The linear layers that tokens pass, by part. Empty if the model does not list them.
    fn products(&self) -> Vec<ModelLinear<'_>> {
        Vec::new()
    }
}
