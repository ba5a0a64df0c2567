//! Interface of all models, for programs that choose the model at run time.

use crate::batch::Batch;
use crate::causal_lm::CausalLm;
use crate::error::Error;
use crate::labels::{Labels, Loss, Totals};
use crate::layers::{ModelLinear, Parameter, Run};
use crate::output::Output;
use std::collections::HashSet;

/// A loaded model.
pub trait Model: std::fmt::Debug + Send + Sync {
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

    /// Computes the loss of a batch, of a model in training. `decoder` has the tokens of an encoder-decoder's decoder. A
    /// run that records can then compute the gradients.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); [`Error::Input`] if the labels do not fit the batch or the head.
    fn loss<'m>(
        &'m self,
        run: &mut Run<'m>,
        batch: &'m Batch,
        decoder: Option<&'m Batch>,
        labels: &Labels,
    ) -> Result<Loss, Error>;

    /// Number of labels that the loss counts.
    fn label_counts(&self, batch: &Batch, labels: &Labels) -> Totals {
        let _ = batch;
        labels.counts()
    }

    /// Tokens of the decoder for training without inputs of its own, from the batch and the labels of each sequence; `None`
    /// for a model without a decoder.
    ///
    /// # Errors
    /// [`Error::Input`] if a label is not a word.
    fn decoder_inputs(&self, batch: &Batch, labels: &[&[i64]]) -> Result<Option<Batch>, Error> {
        let _ = (batch, labels);
        Ok(None)
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
