//! Interface of all models, for programs that choose the model at run time.

use crate::batch::Batch;
use crate::causal_lm::CausalLm;
use crate::error::Error;
use crate::layers::ModelLinear;
use crate::output::Output;

/// A loaded model.
pub trait Model: std::fmt::Debug + Send {
    /// Runs the model. `&mut` because the model keeps its working memory between calls.
    ///
    /// # Errors
    /// [`Error::Input`] if ids or positions lie outside of the model's tables.
    /// An encoder-decoder without tokens for its decoder is an [`Error::Input`] too.
    fn forward(&mut self, batch: &Batch) -> Result<Vec<Output>, Error>;

    /// Runs an encoder-decoder. `decoder` holds one sequence for each sequence of `batch`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and [`Error::Input`] if the model has no decoder.
    fn forward_pair(&mut self, batch: &Batch, decoder: &Batch) -> Result<Vec<Output>, Error> {
        let _ = (batch, decoder);
        let why = "given to a model that has no decoder".to_owned();
        Err(Error::Input { name: "decoder_input_ids", why })
    }

    /// The causal LM interface; `None` if the model cannot continue text.
    fn causal_lm(&mut self) -> Option<&mut dyn CausalLm> {
        None
    }

    /// Upper bound of the tokens of a sequence.
    fn max_length(&self) -> usize;

    /// Number of weights and biases, by part. A tensor with several uses counts once, in its first
    /// part. Empty if the model does not count them.
    fn parameters(&self) -> Vec<(&'static str, usize)> {
        Vec::new()
    }

    /// Linear layers that tokens pass, by part. Empty if the model does not list them.
    fn products(&self) -> Vec<ModelLinear<'_>> {
        Vec::new()
    }
}
