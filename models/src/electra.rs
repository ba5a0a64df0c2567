//! ELECTRA (Clark et al. 2020, arXiv:2003.10555): a discriminator that tells replaced tokens from
//! original ones, and a small generator that replaces them.
//!
//! ```text
//! differs from BERT   embeddings are E wide, and one linear layer takes them to H if that is another width
//!                     no pooler
//! heads               discriminator         dense(act(dense(x))): above 0 is replaced
//!                     generator             decoder(LN(GELU(dense(x)))), where dense goes from H to E
//!                     class of a sequence   out_proj(GELU(dense(x of token 0)))
//!                     choice of several     dense(act(summary(x of token 0)))
//! ```

use crate::arithmetic::Arithmetic;
use crate::bert;
use crate::checkpoint::config::{self, Fields};
use crate::checkpoint::weights::Weights;
use crate::encoder::{Encoder, EncoderPlan};
use crate::error::Error;
use crate::heads::{EncoderModel, Head, HeadKind, HeadReader, PredictionNames};
use tilewright_kernels::Activation;

/// config.json. A missing field has the default of transformers' `ElectraConfig`, the size of
/// ELECTRA-small.
#[derive(Clone, Debug)]
pub struct Config {
    /// Fields shared with BERT.
    pub bert: bert::Config,
    /// Width E of the embeddings.
    pub embedding_size: usize,
    /// Activation of the multiple-choice head; none if the config's name is empty.
    pub summary_activation: Option<Activation>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bert: bert::Config {
                hidden_size: 256,
                num_attention_heads: 4,
                intermediate_size: 1024,
                ..bert::Config::default()
            },
            embedding_size: 128,
            summary_activation: Some(Activation::GeluErf),
        }
    }
}

impl Config {
    /// Reads the fields of config.json.
    ///
    /// # Errors
    /// If a field has an unsupported value; the message names the field.
    pub fn read(fields: &Fields) -> Result<Self, Error> {
        fields.only("summary_type", "first")?;
        fields.only("summary_use_proj", true)?;
        fields.only("summary_proj_to_labels", false)?;
        let or = Self::default();
        let embedding_size = fields.get("embedding_size", or.embedding_size)?;
        config::positive(&[("embedding_size", embedding_size)]).map_err(|why| fields.error(why))?;
        let summary_activation = match fields.get("summary_activation", "gelu".to_owned())?.is_empty() {
            true => None,
            false => Some(fields.activation("summary_activation", Activation::GeluErf)?),
        };
        Ok(Self { bert: bert::Config::read_or(fields, or.bert)?, embedding_size, summary_activation })
    }
}

/// Opens ELECTRA with the head `task` from `weights`, whose names may lack the prefix `electra.`.
///
/// # Errors
/// See [`Weights::get`]; [`Error::Input`] if the config has a size of 0 or another impossible value, or the family
/// has no such head.
pub fn open(config: Config, weights: Weights, on: Arithmetic, task: HeadKind) -> Result<EncoderModel, Error> {
    let Config { bert: config, embedding_size, summary_activation } = config;
    let weights = weights.with_base("electra.");
    let of = HeadReader { config: &config, embedding_size, weights: &weights, on };
    let labels = config.num_labels();
    let head = match task {
        HeadKind::Bare => Head::Bare(None),
        HeadKind::MaskedLm => {
            let names = PredictionNames {
                dense: "generator_predictions.dense",
                layer_norm: "generator_predictions.LayerNorm",
                word_embeddings: "electra.embeddings.word_embeddings.weight",
                decoder: "generator_lm_head",
                bias: "generator_lm_head.bias",
            };
            Head::MaskedLm(of.predictions(names, Activation::GeluErf)?)
        }
        HeadKind::PreTraining => Head::ReplacedTokens(
            of.square("discriminator_predictions.dense")?,
            config.hidden_act,
            of.classifier("discriminator_predictions.dense_prediction", 1)?,
        ),
        HeadKind::SequenceClassification => Head::Sequence(
            of.pooler("classifier.dense", Some(Activation::GeluErf))?.with_dropout(),
            of.classifier("classifier.out_proj", labels)?,
        ),
        HeadKind::TokenClassification => of.token_classes("classifier")?,
        HeadKind::QuestionAnswering => Head::QuestionAnswering(of.classifier("qa_outputs", 2)?),
        HeadKind::MultipleChoice => Head::MultipleChoice(
            of.pooler("sequence_summary.summary", summary_activation)?,
            of.classifier("classifier", 1)?,
        ),
        HeadKind::NextSentence => return Err(task.missing("ELECTRA")),
    };
    let plan = EncoderPlan {
        embedding_size,
        projection: (embedding_size != config.hidden_size).then_some("embeddings_project"),
        ..EncoderPlan::bert("electra.", &config)
    };
    Ok(EncoderModel::new(Encoder::open(config, plan, &weights, on)?, head))
}
