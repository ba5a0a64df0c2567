//! ALBERT (Lan et al. 2019, arXiv:1909.11942): BERT with shared layers and narrow embeddings.
//!
//! ```text
//! differs from BERT   embeddings are E wide, and one linear layer takes them to H
//!                     layers are shared: step i computes the layers of group floor(i G / steps)
//! heads               masked language model   decoder(LN(GELU(dense(x)))), where dense goes from H to E
//!                     order of two texts      dense(pooler): label 0 is the right one
//! ```
//!
//! With 30000 words, H = 768 and E = 128 the embeddings need 3.94 M weights instead of 23.04 M. Twelve
//! shared layers need the weights of one.

use crate::arithmetic::Arithmetic;
use crate::bert;
use crate::checkpoint::config::{self, Fields, MOST_LAYERS, named};
use crate::checkpoint::weights::Weights;
use crate::encoder::{Encoder, EncoderPlan, LayerNames};
use crate::error::Error;
use crate::heads::{EncoderModel, Head, HeadKind, HeadReader, PredictionNames};
use tilewright_kernels::Activation;

/// config.json. A missing field has the default of transformers' `AlbertConfig`, the size of
/// ALBERT-xxlarge.
#[derive(Clone, Debug)]
pub struct Config {
    /// Fields shared with BERT. `num_hidden_layers` counts steps, not stored layers.
    pub bert: bert::Config,
    /// Width E of the embeddings.
    pub embedding_size: usize,
    /// Number of groups G of layers. Steps are divided evenly among the groups, in order.
    pub num_hidden_groups: usize,
    /// Layers of a group; each step of the group computes all of them.
    pub inner_group_num: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bert: bert::Config {
                vocab_size: 30000,
                hidden_size: 4096,
                num_attention_heads: 64,
                intermediate_size: 16384,
                hidden_act: Activation::GeluTanh,
                hidden_dropout_prob: 0.0,
                attention_probs_dropout_prob: 0.0,
                classifier_dropout: Some(0.1),
                ..bert::Config::default()
            },
            embedding_size: 128,
            num_hidden_groups: 1,
            inner_group_num: 1,
        }
    }
}

impl Config {
    /// Reads the fields of config.json.
    ///
    /// # Errors
    /// If a field has an unsupported value; the message names the field.
    pub fn read(fields: &Fields) -> Result<Self, Error> {
        fields.only("net_structure_type", 0)?;
        fields.only("num_memory_blocks", 0)?;
        let or = Self::default();
        let config = config::take! { fields or or:
            embedding_size, num_hidden_groups, inner_group_num;
            bert: bert::Config::read_or(fields, or.bert)?,
        };
        config.check().map_err(|why| fields.error(why))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        config::positive(&named!(self: embedding_size, num_hidden_groups, inner_group_num))?;
        let (groups, inner) = (self.num_hidden_groups, self.inner_group_num);
        if groups.max(self.bert.num_hidden_layers).saturating_mul(inner) > MOST_LAYERS {
            return Err(format!(
                "num_hidden_groups {groups}, inner_group_num {inner}: more than {MOST_LAYERS} layers"
            ));
        }
        Ok(())
    }

    fn plan(&self) -> EncoderPlan {
        let (groups, inner) = (self.num_hidden_groups, self.inner_group_num);
        // transformers rounds like this where `groups` does not divide the steps.
        let steps_of_group = self.bert.num_hidden_layers as f64 / groups as f64;
        let group = |step: usize| (step as f64 / steps_of_group) as usize;
        let name =
            |n: usize| format!("encoder.albert_layer_groups.{}.albert_layers.{}", n / inner, n % inner);
        EncoderPlan {
            embedding_size: self.embedding_size,
            projection: Some("encoder.embedding_hidden_mapping_in"),
            layers: (0..groups * inner).map(name).collect(),
            order: (0..self.bert.num_hidden_layers)
                .flat_map(|step| (0..inner).map(move |layer| group(step) * inner + layer))
                .collect(),
            names: LayerNames {
                query_key_value: ["attention.query", "attention.key", "attention.value"],
                attention_output_dense: "attention.dense",
                attention_output_layer_norm: "attention.LayerNorm",
                intermediate_dense: "ffn",
                output_dense: "ffn_output",
                output_layer_norm: "full_layer_layer_norm",
            },
            ..EncoderPlan::bert("albert.", &self.bert)
        }
    }
}

/// Opens ALBERT with the head `task` from `weights`, whose names may lack the prefix `albert.`.
///
/// # Errors
/// See [`Weights::get`]; [`Error::Input`] if the config has a size of 0 or another impossible value, or the family
/// has no such head.
///
/// ```
/// use tilewright::{Arithmetic, albert, bert, heads::HeadKind, model::Model as _, checkpoint::weights::Weights};
/// let on = Arithmetic::f32(tilewright_kernels::Backend::best());
/// let base = bert::Config { vocab_size: 300, hidden_size: 24, num_attention_heads: 3, ..bert::Config::default() };
/// let config = albert::Config { bert: base, embedding_size: 8, ..albert::Config::default() };
/// let model = albert::open(config, Weights::random(0), on, HeadKind::Bare)?;
/// let parts = model.parts();
/// assert_eq!((parts[0].name, parts[0].count()), ("word embeddings", 300 * 8));
/// assert_eq!((parts[2].name, parts[2].count()), ("projection of embeddings", 8 * 24 + 24));
/// # Ok::<(), tilewright::Error>(())
/// ```
pub fn open(config: Config, weights: Weights, on: Arithmetic, task: HeadKind) -> Result<EncoderModel, Error> {
    config.check().map_err(|why| Error::Input { name: "config", why })?;
    let (plan, config) = (config.plan(), config.bert);
    let weights = weights.with_base("albert.");
    let of = HeadReader { config: &config, embedding_size: plan.embedding_size, weights: &weights, on };
    let labels = config.num_labels();
    let pooler = || of.pooler("albert.pooler", Some(Activation::Tanh));
    let predictions = || {
        let names = PredictionNames {
            dense: "predictions.dense",
            layer_norm: "predictions.LayerNorm",
            word_embeddings: "albert.embeddings.word_embeddings.weight",
            decoder: "predictions.decoder",
            bias: "predictions.bias",
        };
        of.predictions(names, config.hidden_act)
    };
    let head = match task {
        HeadKind::Bare => Head::Bare(of.has("albert.pooler.weight").then(pooler).transpose()?),
        HeadKind::MaskedLm => Head::MaskedLm(predictions()?),
        HeadKind::PreTraining => {
            let order = of.classifier("sop_classifier.classifier", labels)?;
            Head::PreTraining(predictions()?, pooler()?, ("sop_logits", order))
        }
        HeadKind::SequenceClassification => Head::Sequence(pooler()?, of.classifier("classifier", labels)?),
        HeadKind::TokenClassification => of.token_classes("classifier")?,
        HeadKind::QuestionAnswering => Head::QuestionAnswering(of.classifier("qa_outputs", 2)?),
        HeadKind::MultipleChoice => Head::MultipleChoice(pooler()?, of.classifier("classifier", 1)?),
        HeadKind::NextSentence => return Err(task.missing("ALBERT")),
    };
    Ok(EncoderModel::new(Encoder::open(config, plan, &weights, on)?, head))
}
