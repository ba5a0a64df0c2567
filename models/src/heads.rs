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
use crate::encoder::{Config, Encoder};
use crate::error::Error;
use crate::labels::{self, Labels, Loss};
use crate::layers::{
    IGNORED, Linear, ModelLinear, Norm, Parameter, Parameters, Run, Slot, Workspace, answer_loss,
    binary_cross_entropy, cross_entropy, dropout, linear_cross_entropy, parameters_of, select_rows,
    squared_error,
};
use crate::model::{Model, Part};
use crate::output::{Each, Output};
use tilewright_kernels::Activation;

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

    /// Cross-entropy of the words of labelled tokens. Other tokens are not computed.
    fn loss<'m>(
        &'m self,
        run: &mut Run<'m>,
        batch: &Batch,
        of: &Labels,
        loss: &mut Loss,
    ) -> Result<(), Error> {
        labels::expect("labels", of.labels.len(), batch.tokens())?;
        let (rows, words) = labels::labelled(&of.labels);
        select_rows(run, Slot::X, &rows, Slot::ROWS);
        self.transform(run, Slot::ROWS)?;
        let count = of.tokens(&words);
        let sum = linear_cross_entropy(run, &self.decoder, Slot::HEAD, &words, (1.0 / count) as f32)?;
        loss.push("masked words", sum, 1.0, count);
        Ok(())
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

    /// Loss of the head's class in transformers.
    ///
    /// | head | loss |
    /// |---|---|
    /// | masked LM | mean cross-entropy of labelled tokens |
    /// | pre-training | that, and the mean cross-entropy of the sequences' labels |
    /// | replaced tokens | mean binary cross-entropy of all tokens |
    /// | sequences | mean cross-entropy; with one class, mean squared error |
    /// | tokens, choices | mean cross-entropy |
    /// | answers | half the mean cross-entropy of the starts and of the ends, each over the tokens of a sequence |
    ///
    /// Padding has no scores here, while transformers' cross-entropy of answers runs over padding, too: both are equal
    /// for sequences without padding.
    fn loss<'m>(&'m self, run: &mut Run<'m>, batch: &Batch, of: &Labels) -> Result<Loss, Error> {
        let mut loss = Loss::default();
        self.classify(run, batch)?;
        match self {
            Self::Bare(_) => {
                let why = "given to a model without a head".to_owned();
                return Err(Error::Input { name: "labels", why });
            }
            Self::MaskedLm(predictions) => predictions.loss(run, batch, of, &mut loss)?,
            Self::PreTraining(predictions, _, (name, classes)) => {
                let name = if *name == "sop_logits" { "sentence_order_label" } else { "next_sentence_label" };
                labels::expect(name, of.sequences.len(), batch.len())?;
                let count = of.of_sequences(&of.sequences);
                let sum =
                    cross_entropy(run, classes.backend(), Slot::LOGITS, &of.sequences, (1.0 / count) as f32)?;
                predictions.loss(run, batch, of, &mut loss)?;
                loss.push("sequences", sum, 1.0, count);
            }
            Self::ReplacedTokens(_, _, replaced) => {
                labels::expect("labels", of.labels.len(), batch.tokens())?;
                let targets: Vec<f32> = of.labels.iter().map(|&label| label as f32).collect();
                let count = of.tokens(&of.labels);
                let scale = (1.0 / count) as f32;
                let sum = binary_cross_entropy(run, replaced.backend(), Slot::LOGITS, &targets, scale)?;
                loss.push("replaced tokens", sum, 1.0, count);
            }
            Self::Sequence(_, classes) if classes.width() == 1 && of.labels.is_empty() => {
                let count = of.totals.map_or(of.values.len() as f64, |totals| totals.sequences);
                let sum = squared_error(run, Slot::LOGITS, &of.values, (1.0 / count) as f32)?;
                loss.push("squared error", sum, 1.0, count);
            }
            Self::Sequence(_, classes) | Self::Token(classes, _) | Self::MultipleChoice(_, classes) => {
                let (expected, count) = match self {
                    Self::Token(..) => (batch.tokens(), of.tokens(&of.labels)),
                    Self::MultipleChoice(..) => (of.labels.len(), of.of_sequences(&of.labels)),
                    _ => (batch.len(), of.of_sequences(&of.labels)),
                };
                labels::expect("labels", of.labels.len(), expected)?;
                let sum =
                    cross_entropy(run, classes.backend(), Slot::LOGITS, &of.labels, (1.0 / count) as f32)?;
                loss.push("classes", sum, 1.0, count);
            }
            Self::QuestionAnswering(ends) => {
                for (column, name) in ["start_positions", "end_positions"].into_iter().enumerate() {
                    labels::expect(name, of.answers[column].len(), batch.len())?;
                    let tokens = answers(batch, &of.answers[column]);
                    let labels: Vec<i64> = tokens.iter().map(|t| t.map_or(IGNORED, |_| 0)).collect();
                    let count = of.of_sequences(&labels);
                    let sum = answer_loss(
                        run,
                        ends.backend(),
                        batch.starts(),
                        column,
                        &tokens,
                        (0.5 / count) as f32,
                    )?;
                    loss.push(name, sum, 0.5, count);
                }
            }
        }
        Ok(loss)
    }
}

/// Place of each answer's token in its sequence; `None` if no token is in that column.
fn answers(batch: &Batch, columns: &[i64]) -> Vec<Option<usize>> {
    let place = |(ends, &column): (&[usize], &i64)| {
        let positions = &batch.positions[ends[0]..ends[1]];
        positions.iter().position(|&position| i64::from(position) == column.max(0))
    };
    batch.starts().windows(2).zip(columns).map(place).collect()
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

impl EncoderModel {
    /// Number of words.
    pub(crate) fn vocab_size(&self) -> usize {
        self.encoder.config().vocab_size
    }

    /// Logits of the words of labelled tokens, after the loss of a masked LM: \[labelled tokens, vocab_size\].
    pub(crate) fn masked_word_logits(&self, run: &Run<'_>) -> Result<Vec<f32>, Error> {
        let Head::MaskedLm(predictions) = &self.head else {
            return Err(HeadKind::MaskedLm.missing("the model"));
        };
        let mut logits = Vec::new();
        predictions.decoder.outputs(run, Slot::HEAD, &mut logits)?;
        Ok(logits)
    }

    /// Adds the loss of a discriminator for the batch with other `ids`: `replaced` is 1 for tokens that differ from the
    /// original ones, else 0.
    #[allow(clippy::too_many_arguments, reason = "a batch with its ids and its labels")]
    pub(crate) fn replaced_loss<'m>(
        &'m self,
        run: &mut Run<'m>,
        batch: &'m Batch,
        ids: &[u32],
        replaced: &[f32],
        weight: f64,
        of: &Labels,
        loss: &mut Loss,
    ) -> Result<(), Error> {
        self.encoder.forward_ids(run, batch, ids)?;
        self.head.classify(run, batch)?;
        let count = of.totals.map_or(replaced.len() as f64, |totals| totals.sequences);
        let backend = self.encoder.arithmetic().backend;
        let scale = (weight / count) as f32;
        let sum = binary_cross_entropy(run, backend, Slot::LOGITS, replaced, scale)?;
        loss.push("replaced tokens", sum, weight, count);
        Ok(())
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
