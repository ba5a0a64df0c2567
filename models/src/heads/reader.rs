//! Reading heads from a checkpoint.

use super::{Head, Pooler, Predictions};
use crate::arithmetic::Arithmetic;
use crate::checkpoint::weights::Weights;
use crate::encoder::Config;
use crate::error::Error;
use crate::layers::{Linear, Norm};
use tilewright_kernels::Activation;

/// Reads the layers of heads from a checkpoint.
#[derive(Clone, Copy)]
pub(crate) struct HeadReader<'a> {
    pub config: &'a Config,
    pub embedding_size: usize,
    pub weights: &'a Weights,
    pub on: Arithmetic,
}

/// Tensor names of a masked-LM head; layers are named without `.weight`.
#[derive(Clone, Copy)]
pub(crate) struct PredictionNames {
    /// The linear layer from H to E.
    pub dense: &'static str,
    /// The norm after it.
    pub layer_norm: &'static str,
    /// Word table, which is the decoder's weight where the config ties them.
    pub word_embeddings: &'static str,
    /// The linear layer from E to words.
    pub decoder: &'static str,
    /// Alternative name of the decoder's bias.
    pub bias: &'static str,
}

impl HeadReader<'_> {
    /// True if the checkpoint has the tensor, or weights are random.
    pub fn has(&self, name: &str) -> bool {
        self.weights.contains(name)
    }

    pub fn pooler(&self, name: &str, activation: Option<Activation>) -> Result<Pooler, Error> {
        let (dense, classifier_dropout) = (self.square(name)?, self.config.head_dropout());
        Ok(Pooler { on: self.on, dense, activation, dropout: 0.0, classifier_dropout })
    }

    /// A linear layer from H to H.
    pub fn square(&self, name: &str) -> Result<Linear, Error> {
        Linear::open(self.weights, name, [self.config.hidden_size; 2], self.on)
    }

    /// A linear layer from H to `classes`, in f32 for every dtype.
    pub fn classifier(&self, name: &str, classes: usize) -> Result<Linear, Error> {
        Linear::open(self.weights, name, [classes, self.config.hidden_size], self.on.exactly())
    }

    /// A classifier of tokens.
    pub fn token_classes(&self, name: &str) -> Result<Head, Error> {
        Ok(Head::Token(self.classifier(name, self.config.num_labels())?, self.config.head_dropout()))
    }

    pub fn predictions(&self, names: PredictionNames, activation: Activation) -> Result<Predictions, Error> {
        let Self { config, embedding_size: e, weights, on } = *self;
        let tied = config.tie_word_embeddings;
        let own = ["weight", "bias"].map(|part| format!("{}.{part}", names.decoder));
        let (weight, biases) = match tied {
            true => (names.word_embeddings, [names.bias, &own[1]]),
            false => (&*own[0], [&*own[1], names.bias]),
        };
        let bias = biases.into_iter().find(|name| self.has(name)).unwrap_or(biases[0]);
        Ok(Predictions {
            dense: Linear::open(weights, names.dense, [e, config.hidden_size], on)?,
            activation,
            layer_norm: Norm::open(weights, names.layer_norm, e, config.layer_norm_eps, on)?,
            decoder: Linear::open_as(weights, weight, Some(bias), [config.vocab_size, e], on)?,
            tied,
        })
    }
}
