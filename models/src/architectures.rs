//! Table of architectures: for each class of transformers, a model of this crate.

use crate::arithmetic::Arithmetic;
use crate::bart::{self, Bart};
use crate::checkpoint::config::{Fields, ModelKind};
use crate::checkpoint::weights::Weights;
use crate::error::Error;
use crate::heads::HeadKind;
use crate::model::Model;
use crate::{albert, bert, electra, gpt2, llama, roberta, t5};
use std::path::{Path, PathBuf};

/// Opens a model from its config and its weights.
type OpenModel = fn(&Fields, Weights, Arithmetic) -> Result<Box<dyn Model>, Error>;

/// A class of transformers that this crate implements.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// The class, as `architectures` in config.json names it.
    pub class: &'static str,
    /// The family, as `model_type` in config.json names it.
    pub model_type: &'static str,
    open: OpenModel,
}

/// Row of an encoder: class, module (named as the family), head.
macro_rules! encoder {
    ($class:literal, $family:ident, $task:ident) => {
        Architecture {
            class: $class,
            model_type: stringify!($family),
            open: |fields, weights, on| {
                let config = $family::Config::read(fields)?;
                Ok(Box::new($family::open(config, weights, on, HeadKind::$task)?))
            },
        }
    };
}

/// Row of a decoder: class, family, type (in a module with its config), and true if it has a head.
macro_rules! decoder {
    ($class:literal, $family:literal, $module:ident::$model:ident, $with_head:literal) => {
        Architecture {
            class: $class,
            model_type: $family,
            open: |fields, weights, on| {
                let config = $module::Config::read(fields)?;
                Ok(Box::new($module::$model::open(config, weights, on, $with_head)?))
            },
        }
    };
}

/// Row of a class of T5.
macro_rules! t5 {
    ($class:literal, $of:ident) => {
        Architecture {
            class: $class,
            model_type: "t5",
            open: |fields, weights, on| {
                let config = t5::Config::read(fields)?;
                Ok(Box::new(t5::T5::open(config, &weights, on, t5::T5Class::$of)?))
            },
        }
    };
}

/// Row of BART or Marian: class, family as text and as constant, head.
macro_rules! bart {
    ($class:literal, $model_type:literal, $family:ident, $has:ident) => {
        Architecture {
            class: $class,
            model_type: $model_type,
            open: |fields, weights, on| {
                let config = bart::Config::read(fields, bart::Family::$family)?;
                Ok(Box::new(Bart::open(config, weights, on, bart::BartClass::$has)?))
            },
        }
    };
}

/// All architectures. A family's first row is its bare model, without a head.
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
    decoder!("GPT2Model", "gpt2", gpt2::Gpt2, false),
    decoder!("GPT2LMHeadModel", "gpt2", gpt2::Gpt2, true),
    decoder!("LlamaModel", "llama", llama::Llama, false),
    decoder!("LlamaForCausalLM", "llama", llama::Llama, true),
    t5!("T5Model", Bare),
    t5!("T5EncoderModel", Encoder),
    t5!("T5ForConditionalGeneration", ConditionalGeneration),
    bart!("BartModel", "bart", BART, Bare),
    bart!("BartForConditionalGeneration", "bart", BART, ConditionalGeneration),
    bart!("BartForSequenceClassification", "bart", BART, SequenceClassification),
    bart!("MarianModel", "marian", MARIAN, Bare),
    bart!("MarianMTModel", "marian", MARIAN, ConditionalGeneration),
];

impl Architecture {
    /// Finds the architecture of the directory or GGUF file `dir`: `architectures` in its
    /// [config](crate::checkpoint::config::config_json), or else the bare model of the family `model_type`.
    ///
    /// # Errors
    /// If config.json is missing or damaged, or names an architecture that is not in the table.
    pub fn of(dir: &Path) -> Result<Self, Error> {
        let (path, kind) = ModelKind::read(dir)?;
        match kind.architectures.as_deref() {
            Some([class, ..]) => find(path, ("architectures", class), |a| a.class, |a| a.class == class),
            _ => Self::bare(dir),
        }
    }

    /// Finds the bare model of the family in `dir/config.json`, regardless of the checkpoint's head.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn bare(dir: &Path) -> Result<Self, Error> {
        let (path, kind) = ModelKind::read(dir)?;
        match &kind.model_type {
            Some(family) => find(path, ("model_type", family), |a| a.model_type, |a| a.model_type == family),
            None => Err(Error::File {
                path,
                why: "expected architectures or model_type, found neither".to_owned(),
            }),
        }
    }

    /// Finds the class of the family in `dir/config.json` whose name ends in one of `kinds`, regardless of the
    /// checkpoint's head.
    ///
    /// # Errors
    /// As [`of`](Self::of), and if the family has no such class.
    pub fn of_kind(dir: &Path, kinds: &[&str]) -> Result<Self, Error> {
        let family = Self::bare(dir)?.model_type;
        let is_kind = |class: &str| kinds.iter().any(|kind| class.ends_with(kind));
        let mut of_family = ARCHITECTURES.iter().filter(|a| a.model_type == family);
        of_family.find(|a| is_kind(a.class)).copied().ok_or_else(|| Error::File {
            path: dir.to_owned(),
            why: format!("expected a family with a class .. {}; {family} has none", kinds.join(" or .. ")),
        })
    }

    /// Reads the checkpoint in the directory or GGUF file `dir`.
    ///
    /// # Errors
    /// If a file is missing or damaged, or a tensor missing or misshapen.
    pub fn load(self, dir: &Path, on: Arithmetic) -> Result<Box<dyn Model>, Error> {
        self.open(dir, Weights::open(dir)?, on)
    }

    /// As [`load`](Self::load), with weights that the caller has opened.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn open(self, dir: &Path, weights: Weights, on: Arithmetic) -> Result<Box<dyn Model>, Error> {
        self.open_with(&Fields::open(dir)?, weights, on)
    }

    /// As [`open`](Self::open), with a config that the caller has read or made.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn open_with(
        self,
        fields: &Fields,
        weights: Weights,
        on: Arithmetic,
    ) -> Result<Box<dyn Model>, Error> {
        (self.open)(fields, weights, on)
    }
}

/// Finds the architecture that a field of config.json names, by class or family.
fn find(
    path: PathBuf,
    (field, found): (&str, &str),
    name: impl Fn(&Architecture) -> &'static str,
    which: impl Fn(&Architecture) -> bool,
) -> Result<Architecture, Error> {
    ARCHITECTURES.iter().copied().find(which).ok_or_else(|| {
        let mut known: Vec<&str> = ARCHITECTURES.iter().map(name).collect();
        known.dedup();
        let why = format!("{field}: expected one of {}, found {found}", known.join(", "));
        Error::File { path, why }
    })
}
