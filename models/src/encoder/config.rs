//! config.json of BERT, and the fields that the other encoders share with it.

use crate::checkpoint::config::{self, Fields, named};
use crate::error::Error;
use std::collections::BTreeMap;
use std::path::Path;
use tilewright_kernels::Activation;

/// config.json. A missing field has the default of transformers' `BertConfig`, the size of
/// BERT-base.
#[derive(Clone, Debug)]
pub struct Config {
    /// Entries of the word table.
    pub vocab_size: usize,
    /// Width H of a token's state.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Attention heads of each layer, each H / heads wide.
    pub num_attention_heads: usize,
    /// Width I inside of the feed-forward block.
    pub intermediate_size: usize,
    /// Activation of the feed-forward block and of the masked-LM head.
    pub hidden_act: Activation,
    /// Entries of the position table: upper bound of the tokens of a sequence.
    pub max_position_embeddings: usize,
    /// Entries of the token-type table.
    pub type_vocab_size: usize,
    /// Epsilon of layer norms, added to the variance.
    pub layer_norm_eps: f32,
    /// True if the decoder of the masked-LM head is the word table.
    pub tie_word_embeddings: bool,
    /// Names of the classes, by number.
    pub id2label: Option<BTreeMap<usize, String>>,
    /// Id of padding, whose word embedding does not learn.
    pub pad_token_id: Option<u32>,
    /// Probability that training drops an element of the embeddings, or of a block's output.
    pub hidden_dropout_prob: f32,
    /// Probability that training drops a weight of attention.
    pub attention_probs_dropout_prob: f32,
    /// Probability that training drops an input of a classifier; that of the blocks if absent.
    pub classifier_dropout: Option<f32>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::GeluErf,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            tie_word_embeddings: true,
            id2label: None,
            pad_token_id: Some(0),
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            classifier_dropout: None,
        }
    }
}

impl Config {
    /// Number of classes of a classifier: 2 unless `id2label` says otherwise.
    pub fn num_labels(&self) -> usize {
        self.id2label.as_ref().map_or(2, BTreeMap::len)
    }

    /// Probability that training drops an input of a classifier.
    pub fn head_dropout(&self) -> f32 {
        self.classifier_dropout.unwrap_or(self.hidden_dropout_prob)
    }

    /// Reads config.json from memory; errors name `path`.
    ///
    /// # Errors
    /// If it is damaged or a field has an unsupported value; the message names the field.
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        Self::read(&Fields::from_bytes(path, bytes)?)
    }

    /// Reads the fields of config.json.
    ///
    /// # Errors
    /// As [`from_bytes`](Self::from_bytes).
    pub fn read(fields: &Fields) -> Result<Self, Error> {
        Self::read_or(fields, Self::default())
    }

    /// As [`read`](Self::read), with the fields of `or` as defaults.
    pub(crate) fn read_or(fields: &Fields, or: Self) -> Result<Self, Error> {
        fields.only("position_embedding_type", "absolute")?;
        fields.only("is_decoder", false)?;
        fields.only("add_cross_attention", false)?;
        fields.only("pruned_heads", serde_json::json!({}))?;
        let config = config::take! { fields or or:
            vocab_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size,
            max_position_embeddings, type_vocab_size, layer_norm_eps, tie_word_embeddings,
            pad_token_id, hidden_dropout_prob, attention_probs_dropout_prob;
            classifier_dropout: fields.get("classifier_dropout", fields.get("classifier_dropout_prob", or.classifier_dropout)?)?,
            hidden_act: fields.activation("hidden_act", or.hidden_act)?,
            id2label: fields.labels()?.or(or.id2label),
        };
        config.check().map_err(|why| fields.error(why))?;
        Ok(config)
    }

    /// Refuses impossible sizes.
    pub(super) fn check(&self) -> Result<(), String> {
        config::positive(&named!(self: vocab_size, hidden_size, num_attention_heads, intermediate_size))?;
        config::positive(&[("number of labels", self.num_labels())])?;
        config::eps("layer_norm_eps", self.layer_norm_eps)?;
        config::layers(&named!(self: num_hidden_layers))?;
        config::probabilities(&named!(self: hidden_dropout_prob, attention_probs_dropout_prob))?;
        config::probabilities(&[("classifier_dropout", self.head_dropout())])?;
        let [heads, width] = named!(self: num_attention_heads, hidden_size);
        config::divides(heads, width)
    }
}
