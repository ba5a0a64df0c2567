//! RoBERTa (Liu et al. 2019, arXiv:1907.11692): BERT trained longer, without next-sentence
//! prediction.
//!
//! ```text
//! differs from BERT   positions are counted from pad_token_id + 1
//! heads               masked language model   decoder(LN(GELU(dense(x)))), whatever the activation
//!                     class of a sequence     out_proj(tanh(dense(x of token 0))), without the pooler
//! ```

use crate::arithmetic::Arithmetic;
use crate::bert;
use crate::checkpoint::config::Fields;
use crate::checkpoint::weights::Weights;
use crate::encoder::{Encoder, EncoderPlan};
use crate::error::Error;
use crate::heads::{EncoderModel, Head, HeadKind, HeadReader, PredictionNames};
use tilewright_kernels::Activation;

/// config.json. A missing field has the default of transformers' `RobertaConfig`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Fields shared with BERT. `max_position_embeddings` includes positions 0 to `pad_token_id`, which
    /// no token of a sequence has.
    pub bert: bert::Config,
    /// The id of padding.
    pub pad_token_id: u32,
}

impl Default for Config {
    fn default() -> Self {
        let bert = bert::Config { vocab_size: 50265, pad_token_id: Some(1), ..bert::Config::default() };
        Self { bert, pad_token_id: 1 }
    }
}

impl Config {
    /// Reads the fields of config.json.
    ///
    /// # Errors
    /// If a field has an unsupported value; the message names the field.
    pub fn read(fields: &Fields) -> Result<Self, Error> {
        let or = Self::default();
        let pad_token_id = fields.get("pad_token_id", or.pad_token_id)?;
        let bert = bert::Config::read_or(fields, or.bert)?;
        if pad_token_id as usize + 1 >= bert.max_position_embeddings {
            let most = bert.max_position_embeddings;
            return Err(fields.error(format!(
                "pad_token_id {pad_token_id} leaves no position of max_position_embeddings {most}"
            )));
        }
        Ok(Self { bert, pad_token_id })
    }
}

/// Opens RoBERTa with the head `task` from `weights`, whose names may lack the prefix `roberta.`.
///
/// # Errors
/// See [`Weights::get`]; [`Error::Input`] if the config has a size of 0 or another impossible value, or the family
/// has no such head.
pub fn open(config: Config, weights: Weights, on: Arithmetic, task: HeadKind) -> Result<EncoderModel, Error> {
    let Config { bert: config, pad_token_id } = config;
    let weights = weights.with_base("roberta.");
    let of = HeadReader { config: &config, embedding_size: config.hidden_size, weights: &weights, on };
    let labels = config.num_labels();
    let tanh = |name| of.pooler(name, Some(Activation::Tanh));
    let pooler = || tanh("roberta.pooler.dense");
    let head = match task {
        HeadKind::Bare => Head::Bare(of.has("roberta.pooler.dense.weight").then(pooler).transpose()?),
        HeadKind::MaskedLm => {
            let names = PredictionNames {
                dense: "lm_head.dense",
                layer_norm: "lm_head.layer_norm",
                word_embeddings: "roberta.embeddings.word_embeddings.weight",
                decoder: "lm_head.decoder",
                bias: "lm_head.bias",
            };
            Head::MaskedLm(of.predictions(names, Activation::GeluErf)?)
        }
        HeadKind::SequenceClassification => Head::Sequence(
            tanh("classifier.dense")?.with_dropout(),
            of.classifier("classifier.out_proj", labels)?,
        ),
        HeadKind::TokenClassification => of.token_classes("classifier")?,
        HeadKind::QuestionAnswering => Head::QuestionAnswering(of.classifier("qa_outputs", 2)?),
        HeadKind::MultipleChoice => Head::MultipleChoice(pooler()?, of.classifier("classifier", 1)?),
        HeadKind::NextSentence | HeadKind::PreTraining => return Err(task.missing("RoBERTa")),
    };
    let plan = EncoderPlan { padding: Some(pad_token_id), ..EncoderPlan::bert("roberta.", &config) };
    Ok(EncoderModel::new(Encoder::open(config, plan, &weights, on)?, head))
}
