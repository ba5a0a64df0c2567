//! Interface of all models, for programs that choose the model at run time.

use crate::batch::Batch;
use crate::causal_lm::CausalLm;
use crate::error::Error;
use crate::layers::{ModelLinear, Parameter};
use crate::output::Output;
use std::collections::HashSet;

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

    /// Upper bound of the tokens of a sequence; `usize::MAX` if there is none.
    fn max_length(&self) -> usize;

    /// Parts of the model and the tensors of the checkpoint that each part holds. A tensor with several uses is listed
    /// once, in the first part that uses it.
    fn parts(&self) -> Vec<Part<'_>>;

    /// All tensors of the checkpoint that the model holds, in the order of its parts, each once.
    fn parameters(&self) -> Vec<Parameter<'_>> {
        self.parts().into_iter().flat_map(|part| part.parameters).collect()
    }

    /// Linear layers that tokens pass, part by part.
    fn linear_layers(&self) -> Vec<ModelLinear<'_>>;
}

/// Part of a model.
#[derive(Clone, Debug)]
pub struct Part<'m> {
    /// Name for tables, such as `word embeddings` or `layers`.
    pub name: &'static str,
    /// Tensors of the checkpoint, in the order of the layers.
    pub parameters: Vec<Parameter<'m>>,
}

impl<'m> Part<'m> {
    /// Number of weights and biases.
    pub fn count(&self) -> usize {
        self.parameters.iter().map(Parameter::count).sum()
    }

    /// Parts of these names and tensors. A tensor stays in its first part alone.
    pub(crate) fn list(parts: impl IntoIterator<Item = (&'static str, Vec<Parameter<'m>>)>) -> Vec<Self> {
        let mut seen = HashSet::new();
        let part = |(name, mut parameters): (_, Vec<Parameter<'m>>)| {
            parameters.retain(|parameter| seen.insert(parameter.name));
            Self { name, parameters }
        };
        parts.into_iter().map(part).collect()
    }
}
