//! Heads of encoders: from states of tokens, \[tokens, H\], to the outputs of a class of transformers.
//!
//! ```text
//! first token     activation(dense(x of token 0))
//! words           decoder(LN(activation(dense(x))))
//! classes         dense(first token), or dense(x) for each token
//! ```
//!
//! Families differ in tensor names and activations; each model's file gives them.

use crate::arithmetic::Arithmetic;
use crate::batch::Batch;
use crate::checkpoint::weights::Weights;
use crate::encoder::{Config, Encoder, Workspace};
use crate::error::Error;
use crate::layers::{Linear, ModelLinear, Norm, Parameter, Parameters, parameters_of};
use crate::model::{Model, Part};
use crate::output::{Each, Output};
use tilewright_kernels::{Activation, Pool, Pooling, View, ViewMut};

/// Head of an encoder, by the class of transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// `..Model`: the states themselves.
    Bare,
    /// `..ForMaskedLM`: words in the place of mask tokens.
    MaskedLm,
    /// `..ForNextSentencePrediction`: the second text follows the first or not.
    NextSentence,
    /// `..ForPreTraining`: the objective of the family's pre-training.
    PreTraining,
    /// `..ForSequenceClassification`: the class of a text.
    SequenceClassification,
    /// `..ForTokenClassification`: the class of each token.
    TokenClassification,
    /// `..ForQuestionAnswering`: start and end of an answer.
    QuestionAnswering,
    /// `..ForMultipleChoice`: a score for each of several texts.
    MultipleChoice,
}

impl HeadKind {
    /// Error of a family without this head.
    pub(crate) fn missing(self, family: &str) -> Error {
        Error::Input { name: "task", why: format!("{family} has no head for {self:?}") }
    }
}

/// Layer on the first token of each sequence: activation(dense(x)).
#[derive(Debug)]
pub struct Pooler {
    on: Arithmetic,
    /// pooler.dense, or the family's name of it, \[H, H\].
    dense: Linear,
    activation: Option<Activation>,
}

impl Pooler {
    /// Pools states, \[tokens, H\], to \[sequences, H\].
    fn forward(&self, batch: &Batch, states: &[f32]) -> Result<Vec<f32>, Error> {
        let h = states.len() / batch.tokens().max(1);
        let mut first = vec![0.0; batch.len() * h];
        let x = View::new(states, [batch.tokens(), h])?;
        let out = ViewMut::new(&mut first, [batch.len(), h])?;
        self.on.backend.run(Pool { pooling: Pooling::Cls, ..Pool::new(x, batch.starts(), out) })?;
        let mut pooled = vec![0.0; first.len()];
        match self.activation {
            Some(activation) => self.dense.activated(&first, activation, &mut pooled)?,
            None => self.dense.forward(&first, &mut pooled)?,
        }
        Ok(pooled)
    }
}

/// Masked-LM head: a score of every word for every token. `PredictionNames` has the tensor names.
#[derive(Debug)]
pub struct Predictions {
    /// dense, \[H, E\].
    dense: Linear,
    activation: Activation,
    /// LayerNorm, \[E\].
    layer_norm: Norm,
    /// decoder, \[E, vocab_size\].
    decoder: Linear,
    /// True if the decoder is the word table.
    tied: bool,
}

impl Predictions {
    /// Computes logits, \[tokens, vocab_size\], from states, \[tokens, H\].
    fn forward(&self, batch: &Batch, states: &[f32]) -> Result<Vec<f32>, Error> {
        let mut transformed = vec![0.0; batch.tokens() * self.dense.width()];
        self.dense.activated(states, self.activation, &mut transformed)?;
        self.layer_norm.in_place(&mut transformed)?;
        let mut logits = vec![0.0; batch.tokens() * self.decoder.width()];
        self.decoder.forward(&transformed, &mut logits)?;
        Ok(logits)
    }
}

impl Parameters for Predictions {
    /// A tied decoder lists the word table.
    fn parameters(&self) -> Vec<Parameter<'_>> {
        parameters_of(&[&self.dense, &self.layer_norm, &self.decoder])
    }
}

/// Head of an encoder. The last linear layer of a variant is a classifier, \[H, classes\].
#[allow(clippy::large_enum_variant, reason = "a model has one head")]
#[derive(Debug)]
pub enum Head {
    /// `last_hidden_state`, and `pooler_output` where there is a pooler.
    Bare(Option<Pooler>),
    /// `logits` of words for each token.
    MaskedLm(Predictions),
    /// `prediction_logits` of words for each token, and the named output for each sequence.
    PreTraining(Predictions, Pooler, (&'static str, Linear)),
    /// One logit for each token, above 0 if the token was replaced. The first layer is \[H, H\].
    ReplacedTokens(Linear, Activation, Linear),
    /// `logits` for each sequence.
    Sequence(Pooler, Linear),
    /// `logits` for each token.
    Token(Linear),
    /// `start_logits` and `end_logits`, one each for each token.
    QuestionAnswering(Linear),
    /// One logit for each sequence.
    MultipleChoice(Pooler, Linear),
}

impl Head {
    fn forward(&self, batch: &Batch, states: &[f32]) -> Result<Vec<Output>, Error> {
        let per_token = |name, values| Output::new(name, Each::Token, batch.tokens(), values);
        let per_sequence = |name, values| Output::new(name, Each::Sequence, batch.len(), values);
        let classify = |rows: usize, x: &[f32], classes: &Linear| {
            let mut logits = vec![0.0; rows * classes.width()];
            classes.forward(x, &mut logits).map(|()| logits)
        };
        let of_tokens = |classes| classify(batch.tokens(), states, classes);
        let of_sequences =
            |pooler: &Pooler, classes| classify(batch.len(), &pooler.forward(batch, states)?, classes);
        Ok(match self {
            Self::Bare(pooler) => {
                let mut outputs = vec![per_token("last_hidden_state", states.to_vec())];
                if let Some(pooler) = pooler {
                    outputs.push(per_sequence("pooler_output", pooler.forward(batch, states)?));
                }
                outputs
            }
            Self::MaskedLm(predictions) => vec![per_token("logits", predictions.forward(batch, states)?)],
            Self::PreTraining(predictions, pooler, (name, classes)) => vec![
                per_token("prediction_logits", predictions.forward(batch, states)?),
                per_sequence(name, of_sequences(pooler, classes)?),
            ],
            Self::ReplacedTokens(dense, activation, replaced) => {
                let mut inside = vec![0.0; states.len()];
                dense.activated(states, *activation, &mut inside)?;
                let logits = classify(batch.tokens(), &inside, replaced)?;
                vec![Output::scalars("logits", Each::Token, logits)]
            }
            Self::Sequence(pooler, classes) => vec![per_sequence("logits", of_sequences(pooler, classes)?)],
            Self::Token(classes) => vec![per_token("logits", of_tokens(classes)?)],
            Self::QuestionAnswering(ends) => {
                let logits = of_tokens(ends)?;
                let end = |i| logits.iter().skip(i).step_by(2).copied().collect();
                vec![
                    Output::scalars("start_logits", Each::Token, end(0)),
                    Output::scalars("end_logits", Each::Token, end(1)),
                ]
            }
            Self::MultipleChoice(pooler, score) => {
                vec![Output::scalars("logits", Each::Sequence, of_sequences(pooler, score)?)]
            }
        })
    }
}

impl Parameters for Pooler {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        self.dense.parameters()
    }
}

impl Parameters for Head {
    fn parameters(&self) -> Vec<Parameter<'_>> {
        match self {
            Self::Bare(pooler) => pooler.parameters(),
            Self::MaskedLm(predictions) => predictions.parameters(),
            Self::PreTraining(predictions, pooler, (_, classes)) => {
                parameters_of(&[predictions, pooler, classes])
            }
            Self::ReplacedTokens(dense, _, replaced) => parameters_of(&[dense, replaced]),
            Self::Sequence(pooler, classes) | Self::MultipleChoice(pooler, classes) => {
                parameters_of(&[pooler, classes])
            }
            Self::Token(classes) | Self::QuestionAnswering(classes) => classes.parameters(),
        }
    }
}

impl Head {
    /// Linear layers that every token passes. Layers that only a sequence's first token passes are left out.
    fn linear_layers(&self) -> Vec<ModelLinear<'_>> {
        match self {
            Self::MaskedLm(words) | Self::PreTraining(words, ..) => {
                let decoder =
                    ModelLinear { part: "head", linear: &words.decoder, times: 1, tied: words.tied };
                ModelLinear::of("head", [&words.dense], 1).chain([decoder]).collect()
            }
            Self::ReplacedTokens(dense, _, replaced) => {
                ModelLinear::of("head", [dense, replaced], 1).collect()
            }
            Self::Token(classes) | Self::QuestionAnswering(classes) => {
                ModelLinear::of("head", [classes], 1).collect()
            }
            Self::Bare(_) | Self::Sequence(..) | Self::MultipleChoice(..) => Vec::new(),
        }
    }
}

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
        Ok(Pooler { on: self.on, dense: self.square(name)?, activation })
    }

    /// A linear layer from H to H.
    pub fn square(&self, name: &str) -> Result<Linear, Error> {
        Linear::open(self.weights, name, [self.config.hidden_size; 2], self.on)
    }

    /// A linear layer from H to `classes`, in f32 for every dtype.
    pub fn classifier(&self, name: &str, classes: usize) -> Result<Linear, Error> {
        Linear::open(self.weights, name, [classes, self.config.hidden_size], self.on.exactly())
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

/// An encoder, its head, and their working memory.
#[derive(Debug)]
pub struct EncoderModel {
    encoder: Encoder,
    head: Head,
    work: Workspace,
}

impl EncoderModel {
    /// A model of `encoder` and `head`.
    pub(crate) fn new(encoder: Encoder, head: Head) -> Self {
        Self { encoder, head, work: Workspace::default() }
    }
}

impl Model for EncoderModel {
    fn forward(&mut self, batch: &Batch) -> Result<Vec<Output>, Error> {
        let states = self.encoder.forward(batch, &mut self.work)?;
        self.head.forward(batch, states)
    }

    fn max_length(&self) -> usize {
        self.encoder.max_length()
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let head = ("head", self.head.parameters());
        Part::list(self.encoder.parts().into_iter().chain([head]))
    }

    fn linear_layers(&self) -> Vec<ModelLinear<'_>> {
        let mut found = self.encoder.linear_layers();
        found.extend(self.head.linear_layers());
        found
    }
}
