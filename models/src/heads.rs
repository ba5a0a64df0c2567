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
use crate::encoder::Encoder;
use crate::error::Error;
use crate::labels::{Labels, Loss};
use crate::layers::{
    Linear, ModelLinear, Norm, Parameter, Parameters, Run, Slot, Workspace, dropout, parameters_of,
    select_rows,
};
use crate::model::{Model, Part};
use crate::output::{Each, Output};
use tilewright_kernels::Activation;

mod loss;
mod reader;

pub(crate) use reader::{HeadReader, PredictionNames};

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
    /// Probability that training drops an element of the first token's states.
    dropout: f32,
    /// Probability that training drops an element of the result, if a classifier reads it.
    classifier_dropout: f32,
}

impl Pooler {
    /// Training drops elements of the first token's states, too.
    pub(crate) fn with_dropout(self) -> Self {
        Self { dropout: self.classifier_dropout, ..self }
    }

    /// Pools the states, \[tokens, H\], to \[sequences, H\] in [`Slot::HEAD`].
    fn forward<'m>(&'m self, run: &mut Run<'m>, batch: &Batch) -> Result<(), Error> {
        select_rows(run, Slot::X, &batch.starts()[..batch.len()], Slot::ROWS);
        dropout(run, self.on.backend, self.dropout, Slot::ROWS)?;
        match self.activation {
            Some(activation) => self.dense.activated(run, Slot::ROWS, activation, Slot::HEAD),
            None => self.dense.forward(run, Slot::ROWS, Slot::HEAD),
        }
    }

    /// Computes the logits of a classifier of the pooled states, \[sequences, classes\], in [`Slot::LOGITS`].
    fn classify<'m>(&'m self, run: &mut Run<'m>, batch: &Batch, classes: &'m Linear) -> Result<(), Error> {
        self.forward(run, batch)?;
        dropout(run, self.on.backend, self.classifier_dropout, Slot::HEAD)?;
        classes.forward(run, Slot::HEAD, Slot::LOGITS)
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
    /// LN(activation(dense(x))) of the rows of `x`, in [`Slot::HEAD`].
    fn transform<'m>(&'m self, run: &mut Run<'m>, x: Slot) -> Result<(), Error> {
        self.dense.activated(run, x, self.activation, Slot::HEAD)?;
        self.layer_norm.in_place(run, Slot::HEAD)
    }

    /// Logits of all tokens, \[tokens, vocab_size\].
    fn forward<'m>(&'m self, run: &mut Run<'m>) -> Result<Vec<f32>, Error> {
        let mut logits = Vec::new();
        self.transform(run, Slot::X)?;
        self.decoder.outputs(run, Slot::HEAD, &mut logits)?;
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
    /// `logits` for each token, and the probability that training drops an element of its states.
    Token(Linear, f32),
    /// `start_logits` and `end_logits`, one each for each token.
    QuestionAnswering(Linear),
    /// One logit for each sequence.
    MultipleChoice(Pooler, Linear),
}

impl Head {
    fn forward<'m>(&'m self, run: &mut Run<'m>, batch: &Batch) -> Result<Vec<Output>, Error> {
        let per_token = |name, values| Output::new(name, Each::Token, batch.tokens(), values);
        let per_sequence = |name, values| Output::new(name, Each::Sequence, batch.len(), values);
        let values = |run: &Run<'_>, slot| run.matrix(slot).values().to_vec();
        if !matches!(self, Self::Bare(_) | Self::MaskedLm(_)) {
            self.classify(run, batch)?;
        }
        let logits = |run: &Run<'_>| values(run, Slot::LOGITS);
        Ok(match self {
            Self::Bare(pooler) => {
                let mut outputs = vec![per_token("last_hidden_state", values(run, Slot::X))];
                if let Some(pooler) = pooler {
                    pooler.forward(run, batch)?;
                    outputs.push(per_sequence("pooler_output", values(run, Slot::HEAD)));
                }
                outputs
            }
            Self::MaskedLm(predictions) => vec![per_token("logits", predictions.forward(run)?)],
            Self::PreTraining(predictions, _, (name, _)) => {
                let of_sequences = per_sequence(name, logits(run));
                vec![per_token("prediction_logits", predictions.forward(run)?), of_sequences]
            }
            Self::ReplacedTokens(..) => vec![Output::scalars("logits", Each::Token, logits(run))],
            Self::Sequence(..) => vec![per_sequence("logits", logits(run))],
            Self::Token(..) => vec![per_token("logits", logits(run))],
            Self::QuestionAnswering(_) => {
                let logits = run.matrix(Slot::LOGITS).values();
                let end = |i| logits.iter().skip(i).step_by(2).copied().collect();
                vec![
                    Output::scalars("start_logits", Each::Token, end(0)),
                    Output::scalars("end_logits", Each::Token, end(1)),
                ]
            }
            Self::MultipleChoice(..) => vec![Output::scalars("logits", Each::Sequence, logits(run))],
        })
    }

    /// Computes the logits of the head's classes in [`Slot::LOGITS`], if it has classes.
    fn classify<'m>(&'m self, run: &mut Run<'m>, batch: &Batch) -> Result<(), Error> {
        match self {
            Self::Bare(_) | Self::MaskedLm(_) => Ok(()),
            Self::ReplacedTokens(dense, activation, replaced) => {
                dense.activated(run, Slot::X, *activation, Slot::HEAD)?;
                replaced.forward(run, Slot::HEAD, Slot::LOGITS)
            }
            Self::PreTraining(_, pooler, (_, classes))
            | Self::Sequence(pooler, classes)
            | Self::MultipleChoice(pooler, classes) => pooler.classify(run, batch, classes),
            Self::Token(classes, p) => {
                dropout(run, classes.backend(), *p, Slot::X)?;
                classes.forward(run, Slot::X, Slot::LOGITS)
            }
            Self::QuestionAnswering(ends) => ends.forward(run, Slot::X, Slot::LOGITS),
        }
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
            Self::Token(classes, _) | Self::QuestionAnswering(classes) => classes.parameters(),
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
            Self::Token(classes, _) | Self::QuestionAnswering(classes) => {
                ModelLinear::of("head", [classes], 1).collect()
            }
            Self::Bare(_) | Self::Sequence(..) | Self::MultipleChoice(..) => Vec::new(),
        }
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
        let mut run = Run::new(&mut self.work);
        self.encoder.forward(&mut run, batch)?;
        self.head.forward(&mut run, batch)
    }

    fn loss<'m>(
        &'m self,
        run: &mut Run<'m>,
        batch: &'m Batch,
        _decoder: Option<&'m Batch>,
        labels: &Labels,
    ) -> Result<Loss, Error> {
        self.encoder.forward(run, batch)?;
        self.head.loss(run, batch, labels)
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
