//! config.json of T5.

use crate::arithmetic::Arithmetic;
use crate::checkpoint::config::{self, Fields, named};
use crate::error::Error;
use crate::layers::Heads;
use serde_json::Value;
use std::path::Path;
use tilewright_kernels::Activation;

/// config.json. A missing field has the default of transformers' `T5Config`, the size of T5-small.
#[derive(Clone, Debug)]
pub struct Config {
    /// Entries of the word table.
    pub vocab_size: usize,
    /// Width D of a token's state.
    pub d_model: usize,
    /// Width of a head. The heads together need not be as wide as the states.
    pub d_kv: usize,
    /// Width F inside of the feed-forward block.
    pub d_ff: usize,
    /// Layers of the encoder.
    pub num_layers: usize,
    /// Layers of the decoder; the number of the encoder's layers if absent.
    pub num_decoder_layers: usize,
    /// Heads of each attention.
    pub num_heads: usize,
    /// Entries of the table of relative position biases.
    pub relative_attention_num_buckets: usize,
    /// Distance at and above which all pairs have the last bucket.
    pub relative_attention_max_distance: usize,
    /// Epsilon of RMS norms, added to the mean square.
    pub layer_norm_epsilon: f32,
    /// Activation inside of feed-forward blocks: `dense_act_fn`, or else the one that `feed_forward_proj` names.
    pub activation: Activation,
    /// True if feed-forward blocks are gated: `is_gated_act`, or else `feed_forward_proj` is `gated-..`.
    pub gated: bool,
    /// True if the head may be the word table. It is, if the checkpoint has no `lm_head`.
    pub tie_word_embeddings: bool,
    /// True if states are multiplied by 1 / sqrt(D) before the head, as in T5 1.0, whose head is the word table.
    /// `tie_word_embeddings` if absent.
    pub scale_decoder_outputs: bool,
    /// Probability that training drops an element of embeddings, weights of attention, insides and outputs of blocks.
    pub dropout_rate: f32,
    /// First token of a decoder.
    pub decoder_start_token_id: u32,
    /// Padding token.
    pub pad_token_id: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            vocab_size: 32128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_layers: 6,
            num_decoder_layers: 6,
            num_heads: 8,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            activation: Activation::Relu,
            gated: false,
            tie_word_embeddings: true,
            scale_decoder_outputs: true,
            dropout_rate: 0.1,
            decoder_start_token_id: 0,
            pad_token_id: 0,
        }
    }
}

impl Config {
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
        let or = Self::default();
        let num_layers = fields.get("num_layers", or.num_layers)?;
        let block: String = fields.get("feed_forward_proj", "relu".to_owned())?;
        let (gated, name) = match block.strip_prefix("gated-") {
            Some("gelu") => (true, "gelu_new"), // the activation that T5 1.1 was trained with
            Some(name) => (true, name),
            None => (false, &*block),
        };
        let activation = config::activation(Value::from(name))
            .map_err(|e| fields.error(format!("feed_forward_proj {block:?}: {e}")))?;
        let config = config::take! { fields or or:
            vocab_size, d_model, d_kv, d_ff, num_heads, relative_attention_num_buckets,
            relative_attention_max_distance, layer_norm_epsilon, tie_word_embeddings, dropout_rate,
            decoder_start_token_id, pad_token_id;
            num_layers,
            num_decoder_layers: fields.get("num_decoder_layers", num_layers)?,
            activation: fields.activation("dense_act_fn", activation)?,
            gated: fields.get("is_gated_act", gated)?,
            scale_decoder_outputs: fields.get("scale_decoder_outputs", fields.get("tie_word_embeddings", true)?)?,
        };
        // Other spellings of these fields, which transformers reads too.
        fields.only("hidden_size", config.d_model)?;
        fields.only("num_hidden_layers", config.num_layers)?;
        fields.only("num_attention_heads", config.num_heads)?;
        fields.only("head_dim", config.d_kv)?;
        config.check().map_err(|why| fields.error(why))?;
        Ok(config)
    }

    /// Width I of the heads together.
    pub fn inner_width(&self) -> usize {
        self.num_heads * self.d_kv
    }

    /// Heads of cross-attention. Self-attention has relative position biases too.
    pub(super) fn heads(&self, on: Arithmetic) -> Heads<'static> {
        let (heads, dim) = (self.num_heads, self.d_kv);
        Heads { on, queries: heads, keys: heads, dim, scale: 1.0, distance: None, dropout: self.dropout_rate }
    }

    /// Refuses impossible sizes; names the field.
    pub(super) fn check(&self) -> Result<(), String> {
        config::positive(&named!(self: vocab_size, d_model, d_kv, d_ff, num_heads))?;
        config::eps("layer_norm_epsilon", self.layer_norm_epsilon)?;
        config::probabilities(&named!(self: dropout_rate))?;
        let layers = named!(self: num_layers, num_decoder_layers);
        config::positive(&layers)?;
        config::layers(&layers)?;
        if self.num_heads.checked_mul(self.d_kv).and_then(|width| width.checked_mul(3)).is_none() {
            return Err(format!("num_heads {} of d_kv {} are too wide", self.num_heads, self.d_kv));
        }
        let (buckets, most) = (self.relative_attention_num_buckets, self.relative_attention_max_distance);
        if buckets < 4 {
            return Err(format!("relative_attention_num_buckets: expected at least 4, found {buckets}"));
        }
        if most <= buckets / 2 {
            return Err(format!(
                "relative_attention_max_distance: expected more than half of the {buckets} buckets, found {most}"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Config, Error> {
        Config::from_bytes("config.json".as_ref(), json.as_bytes())
    }

    /// Expected values: `T5Config` of `transformers` 5.23 for the same fields.
    #[test]
    fn fields_mean_what_they_mean_to_transformers() {
        let of = |json| read(json).map(|c| (c.activation, c.gated, c.scale_decoder_outputs)).unwrap();
        assert_eq!(of("{}"), (Activation::Relu, false, true));
        let v1_1 = r#"{"feed_forward_proj": "gated-gelu", "tie_word_embeddings": false}"#;
        assert_eq!(of(v1_1), (Activation::GeluTanh, true, false));
        let ours = r#"{"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu", "is_gated_act": false}"#;
        assert_eq!(of(ours), (Activation::GeluErf, false, true));
        let scaled = r#"{"feed_forward_proj": "gated-silu", "tie_word_embeddings": true, "scale_decoder_outputs": false}"#;
        assert_eq!(of(scaled), (Activation::Silu, true, false));
        assert_eq!(read(r#"{"num_layers": 4}"#).unwrap().num_decoder_layers, 4);
        assert_eq!(read(r#"{"num_layers": 4, "num_decoder_layers": 2}"#).unwrap().num_decoder_layers, 2);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (field, value) in [
            ("feed_forward_proj", "\"gated-quadratic\""),
            ("dense_act_fn", "\"quadratic\""),
            ("hidden_size", "99"),
            ("head_dim", "65"),
            ("num_heads", "0"),
            ("d_kv", "18446744073709551615"),
            ("num_decoder_layers", "1000000"),
            ("relative_attention_num_buckets", "3"),
            ("relative_attention_max_distance", "16"),
            ("layer_norm_epsilon", "-1"),
        ] {
            let error = read(&format!("{{\"{field}\": {value}}}")).unwrap_err().to_string();
            assert!(error.contains(field), "{field}: {error}");
        }
    }
}
