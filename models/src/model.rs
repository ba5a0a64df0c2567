//! What every model has in common for a program that does not know which one it runs.

use crate::arithmetic::Arithmetic;
use crate::batch::Batch;
use crate::config::{self, Fields, Kind};
use crate::error::Error;
use crate::generator::Generator;
use crate::heads::Task;
use crate::llama::{self, Llama};
use crate::weights::Weights;
use crate::{albert, bert, electra, roberta};
use std::path::{Path, PathBuf};

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
    fn generator(&mut self) -> Option<&mut dyn Generator> {
        None
    }

    /// The most tokens that a sequence may have.
    fn max_length(&self) -> usize;

    /// Number of weights and biases, by part. What is used in several places counts once, where it is
    /// first. Empty if the model does not count them.
    fn parameters(&self) -> Vec<(&'static str, usize)> {
        Vec::new()
    }
}

/// One result of a model, under the name that Hugging Face's class gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// `last_hidden_state`, `logits` ..
    pub name: &'static str,
    /// What the rows stand for.
    pub each: Each,
    /// Length of a row.
    pub width: usize,
    /// Whether a row is one number, and not a vector of one: then `width` is no dimension of the shape.
    pub scalar: bool,
    /// \[tokens or sequences, width\].
    pub values: Vec<f32>,
}

impl Output {
    /// An output of `rows` rows.
    pub(crate) fn new(name: &'static str, each: Each, rows: usize, values: Vec<f32>) -> Self {
        Self { name, each, width: values.len() / rows.max(1), scalar: false, values }
    }

    /// An output of one number for each token or sequence.
    pub(crate) fn scalars(name: &'static str, each: Each, values: Vec<f32>) -> Self {
        Self { name, each, width: 1, scalar: true, values }
    }
}

/// What an output has a row for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Each {
    /// Every token of the batch.
    Token,
    /// Every sequence of the batch.
    Sequence,
    /// Every token that the decoder of an encoder-decoder was given.
    DecoderToken,
}

/// Makes the model of a checkpoint's directory or file out of its weights.
type Open = fn(&Path, Weights, Arithmetic) -> Result<Box<dyn Model>, Error>;

/// A class of transformers that this crate implements.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// The class, as `architectures` in config.json names it.
    pub class: &'static str,
    /// The family, as `model_type` in config.json names it.
    pub model_type: &'static str,
    open: Open,
}

/// The row of an encoder: its class, its module, which has the name of the family, and its task.
macro_rules! encoder {
    ($class:literal, $family:ident, $task:ident) => {
        Architecture {
            class: $class,
            model_type: stringify!($family),
            open: |dir, weights, on| {
                let config = $family::Config::read(&Fields::open(dir)?)?;
                Ok(Box::new($family::open(config, weights, on, Task::$task)?))
            },
        }
    };
}

/// The one table of architectures. A family's first row is its bare model, without a head.
pub const ARCHITECTURES: &[Architecture] = &[
    encoder!("BertModel", bert, Bare),
    encoder!("BertForMaskedLM", bert, MaskedLm),
    encoder!("BertForNextSentencePrediction", bert, NextSentence),
    encoder!("BertForPreTraining", bert, PreTraining),
    encoder!("BertForSequenceClassification", bert, SequenceClassification),
    encoder!("BertForTokenClassification", bert, TokenClassification),
    encoder!("BertForQuestionAnswering", bert, QuestionAnswering),
    encoder!("BertForMultipleChoice", bert, MultipleChoice),
    encoder!("RobertaModel", roberta, Bare),
    encoder!("RobertaForMaskedLM", roberta, MaskedLm),
    encoder!("RobertaForSequenceClassification", roberta, SequenceClassification),
    encoder!("RobertaForTokenClassification", roberta, TokenClassification),
    encoder!("RobertaForQuestionAnswering", roberta, QuestionAnswering),
    encoder!("RobertaForMultipleChoice", roberta, MultipleChoice),
    encoder!("AlbertModel", albert, Bare),
    encoder!("AlbertForMaskedLM", albert, MaskedLm),
    encoder!("AlbertForPreTraining", albert, PreTraining),
    encoder!("AlbertForSequenceClassification", albert, SequenceClassification),
    encoder!("AlbertForTokenClassification", albert, TokenClassification),
    encoder!("AlbertForQuestionAnswering", albert, QuestionAnswering),
    encoder!("AlbertForMultipleChoice", albert, MultipleChoice),
    encoder!("ElectraModel", electra, Bare),
    encoder!("ElectraForMaskedLM", electra, MaskedLm),
    encoder!("ElectraForPreTraining", electra, PreTraining),
    encoder!("ElectraForSequenceClassification", electra, SequenceClassification),
    encoder!("ElectraForTokenClassification", electra, TokenClassification),
    encoder!("ElectraForQuestionAnswering", electra, QuestionAnswering),
    encoder!("ElectraForMultipleChoice", electra, MultipleChoice),
    Architecture {
        class: "LlamaModel",
        model_type: "llama",
        open: |dir, weights, on| llama(dir, weights, on, false),
    },
    Architecture {
        class: "LlamaForCausalLM",
        model_type: "llama",
        open: |dir, weights, on| llama(dir, weights, on, true),
    },
];

fn llama(dir: &Path, weights: Weights, on: Arithmetic, with_head: bool) -> Result<Box<dyn Model>, Error> {
    let (path, bytes) = config::config_json(dir)?;
    let config = llama::Config::from_bytes(&path, &bytes)?;
    Ok(Box::new(Llama::open(config, weights, on, with_head)?))
}

impl Architecture {
    /// The architecture that `architectures` in the [config](config::config_json) of the directory or GGUF file
    /// `dir` asks for; where the field is
    /// missing, the bare model of the family `model_type`.
    ///
    /// # Errors
    /// If config.json is missing or damaged, or asks for an architecture that is not in the table.
    pub fn of(dir: &Path) -> Result<Self, Error> {
        let (path, kind) = Kind::read(dir)?;
        match kind.architectures.as_deref() {
            Some([class, ..]) => find(path, class, |a| a.class == class),
            _ => Self::bare(dir),
        }
    }

    /// The bare model of the family that `dir/config.json` is for, whatever head the checkpoint has.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn bare(dir: &Path) -> Result<Self, Error> {
        let (path, kind) = Kind::read(dir)?;
        match &kind.model_type {
            Some(family) => find(path, family, |a| a.model_type == family),
            None => find(path, "without model_type", |_| false),
        }
    }

    /// Reads the checkpoint that is the directory or GGUF file `dir`.
    ///
    /// # Errors
    /// If a file is missing or damaged, or a tensor missing or misshapen.
    pub fn load(self, dir: &Path, on: Arithmetic) -> Result<Box<dyn Model>, Error> {
        self.open(dir, Weights::open(dir)?, on)
    }

    /// Makes the model of the checkpoint in `dir`, whose weights are open already.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn open(self, dir: &Path, weights: Weights, on: Arithmetic) -> Result<Box<dyn Model>, Error> {
        (self.open)(dir, weights, on)
    }
}

fn find(path: PathBuf, asked: &str, which: impl Fn(&Architecture) -> bool) -> Result<Architecture, Error> {
    ARCHITECTURES.iter().copied().find(which).ok_or_else(|| {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|a| a.class).collect();
        let why = format!("architecture {asked} is not supported; expected one of {}", known.join(", "));
        Error::File { path, why }
    })
}
