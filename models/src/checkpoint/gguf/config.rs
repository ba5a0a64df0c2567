//! A GGUF file's model, as a config.json.
//!
//! llama.cpp stores LLaMA 3's scaling of rotary frequencies as the resulting divisors, `rope_freqs.weight`, not as fields
//! of config.json. All LLaMA 3 models share these fields except `factor`, which is the largest divisor. Divisors that do
//! not follow from these fields are refused.

use super::{FREQUENCIES, Gguf};
use crate::error::Error;
use serde_json::{Map, Value as Json, json};
use tilewright_kernels::Pooling;

impl Gguf {
    /// The bytes of config.json for the class `LlamaForCausalLM` or `BertModel`.
    ///
    /// # Errors
    /// If `general.architecture` is neither llama nor bert, or a key is missing, has another type or an unsupported
    /// value. The message names the key.
    pub fn config_json(&self) -> Result<Vec<u8>, Error> {
        let mut config = match self.architecture() {
            "llama" => self.llama_config()?,
            "bert" => self.bert_config()?,
            other => {
                let why = format!("general.architecture: expected llama or bert, found {other:?}");
                return Err(self.error(why));
            }
        };
        for (name, key) in [("bos", "bos"), ("pad", "padding"), ("unk", "unknown")] {
            if let Some(id) = self.unsigned(&format!("tokenizer.ggml.{key}_token_id"))? {
                config.insert(format!("{name}_token_id"), id.into());
            }
        }
        // End of text and end of turn may be different tokens: both end a text.
        let end = self.unsigned("tokenizer.ggml.eos_token_id")?;
        let turn = self.unsigned("tokenizer.ggml.eot_token_id")?;
        match (end, turn) {
            (Some(end), Some(turn)) if end != turn => {
                config.insert("eos_token_id".into(), json!([end, turn]))
            }
            (Some(id), _) | (None, Some(id)) => config.insert("eos_token_id".into(), id.into()),
            (None, None) => None,
        };
        Ok(Json::Object(config).to_string().into_bytes())
    }

    fn llama_config(&self) -> Result<Map<String, Json>, Error> {
        let optional = |key: &str| self.unsigned(&format!("llama.{key}"));
        let size = |key: &str| self.required(&format!("llama.{key}"), optional(key));
        let (hidden, heads) = (size("embedding_length")?, size("attention.head_count")?);
        let of_hidden = || hidden.checked_div(heads);
        let rotated = optional("rope.dimension_count")?;
        let Some(head) = optional("attention.key_length")?.or(rotated).or_else(of_hidden) else {
            return Err(self.error("llama.attention.head_count: expected at least 1, found 0".to_owned()));
        };
        let must_be = [
            ("rope.dimension_count", rotated, head),
            ("attention.value_length", optional("attention.value_length")?, head),
            ("expert_count", optional("expert_count")?, 0),
        ];
        if let Some((key, Some(found), expected)) = must_be.iter().find(|k| k.1.is_some_and(|v| v != k.2)) {
            return Err(self.error(format!("llama.{key}: expected {expected}, found {found}")));
        }
        let theta = self.float("llama.rope.freq_base")?.unwrap_or(10_000.0);
        let eps = "llama.attention.layer_norm_rms_epsilon";
        Ok(object(json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": hidden,
            "intermediate_size": size("feed_forward_length")?,
            "num_hidden_layers": size("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": optional("attention.head_count_kv")?.unwrap_or(heads),
            "head_dim": head,
            "rms_norm_eps": self.required(eps, self.float(eps))?,
            "rope_theta": theta,
            "rope_scaling": self.rope_scaling(theta, head)?,
            "max_position_embeddings": size("context_length")?,
            "vocab_size": self.rows("token_embd.weight")?,
            "tie_word_embeddings": !self.tensors.contains_key("output.weight"),
            "attention_bias": self.tensors.contains_key("blk.0.attn_q.bias"),
            "mlp_bias": self.tensors.contains_key("blk.0.ffn_up.bias"),
        })))
    }

    fn bert_config(&self) -> Result<Map<String, Json>, Error> {
        let size = |key: &str| {
            let key = format!("bert.{key}");
            self.required(&key, self.unsigned(&key))
        };
        let eps = "bert.attention.layer_norm_epsilon";
        Ok(object(json!({
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_act": "gelu",
            "hidden_size": size("embedding_length")?,
            "intermediate_size": size("feed_forward_length")?,
            "num_hidden_layers": size("block_count")?,
            "num_attention_heads": size("attention.head_count")?,
            "layer_norm_eps": self.required(eps, self.float(eps))?,
            "max_position_embeddings": self.rows("position_embd.weight")?,
            "type_vocab_size": self.rows("token_types.weight")?,
            "vocab_size": self.rows("token_embd.weight")?,
            "is_decoder": self.bool("bert.attention.causal")?.unwrap_or(false),
        })))
    }

    /// Pooling of token states, if the file names one.
    pub(crate) fn pooling(&self) -> Result<Option<Pooling>, Error> {
        let key = format!("{}.pooling_type", self.architecture());
        match self.unsigned(&key)? {
            None | Some(0) => Ok(None),
            Some(1) => Ok(Some(Pooling::Mean)),
            Some(2) => Ok(Some(Pooling::Cls)),
            Some(other) => {
                Err(self.error(format!("{key}: expected 1 (mean) or 2 (first token), found {other}")))
            }
        }
    }

    /// Number of rows of a table, from its shape.
    fn rows(&self, name: &str) -> Result<usize, Error> {
        match self.tensors.get(name).map(|t| &t.shape[..]) {
            Some(&[rows, _]) => Ok(rows),
            Some(shape) => Err(self.tensor_error(name, format!("expected a table, found shape {shape:?}"))),
            None => Err(self.tensor_error(name, "missing".to_owned())),
        }
    }

    fn rope_scaling(&self, theta: f64, head: u64) -> Result<Json, Error> {
        let name = FREQUENCIES;
        if let Some(tensor) = self.tensors.get(name) {
            let found = self.values(tensor)?;
            let factor = found.iter().copied().fold(1.0, f32::max);
            let expected = llama3_factors(theta, head, factor.into());
            let same = |(&f, e): (&f32, f64)| (f64::from(f) / e - 1.0).abs() < 1e-4;
            if found.len() as u64 != head / 2 || !found.iter().zip(expected).all(same) {
                let why = format!(
                    "expected the factors of LLaMA 3, from {LOW} and {HIGH} turns in {LENGTH} tokens, found others"
                );
                return Err(self.tensor_error(name, why));
            }
            return Ok(json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": LOW,
                "high_freq_factor": HIGH,
                "original_max_position_embeddings": LENGTH,
            }));
        }
        let factor = match self.float("llama.rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.float("llama.rope.scale_linear")?,
        };
        let kind = self.string("llama.rope.scaling.type")?.unwrap_or("linear");
        Ok(match factor {
            Some(factor) if kind != "none" => json!({
                "rope_type": kind,
                "factor": factor,
                "original_max_position_embeddings":
                    self.unsigned("llama.rope.scaling.original_context_length")?,
            }),
            _ => Json::Null,
        })
    }
}

/// `low_freq_factor` of LLaMA 3: frequencies of fewer turns within the original context are divided by the factor.
const LOW: f64 = 1.0;
/// `high_freq_factor` of LLaMA 3: frequencies of more turns within the original context stay.
const HIGH: f64 = 4.0;
/// `original_max_position_embeddings` of LLaMA 3.
const LENGTH: u32 = 8192;

/// Divisors of the rotary frequencies, one for each pair, in LLaMA 3's scaling by `factor`.
fn llama3_factors(theta: f64, head: u64, factor: f64) -> impl Iterator<Item = f64> {
    (0..head / 2).map(move |i| {
        let turns = f64::from(LENGTH) / std::f64::consts::TAU / theta.powf(2.0 * i as f64 / head as f64);
        let share = ((turns - LOW) / (HIGH - LOW)).clamp(0.0, 1.0);
        1.0 / ((1.0 - share) / factor + share)
    })
}

fn object(value: Json) -> Map<String, Json> {
    match value {
        Json::Object(map) => map,
        _ => unreachable!("written as an object"),
    }
}
