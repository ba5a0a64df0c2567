//! LLaMA's config.json and its rotary frequencies.

use crate::checkpoint::config::{self, Fields, named};
use crate::error::Error;
use std::f64::consts::TAU;
use tilewright_kernels::Activation;

/// config.json. A missing field has the default of transformers' `LlamaConfig`, the size of
/// LLaMA 7B.
#[derive(Clone, Debug)]
pub struct Config {
    /// Entries of the word table.
    pub vocab_size: usize,
    /// Width H of a token's state.
    pub hidden_size: usize,
    /// Width I inside of the feed-forward block.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key heads and of value heads; the number of query heads if absent.
    pub num_key_value_heads: Option<usize>,
    /// Width of a head; H / heads if absent.
    pub head_dim: Option<usize>,
    /// Activation of the gate.
    pub hidden_act: Activation,
    /// Upper bound of the tokens of a sequence.
    pub max_position_embeddings: usize,
    /// Epsilon of RMS norms, added to the mean square.
    pub rms_norm_eps: f32,
    /// True if the head is the word table.
    pub tie_word_embeddings: bool,
    /// True if the linear layers of attention have a bias.
    pub attention_bias: bool,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Scaling of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Probability that training drops a weight of attention.
    pub attention_dropout: f32,
    /// Id of padding, whose word embedding does not learn; below 0 it counts from the end of the table.
    pub pad_token_id: Option<i64>,
}

/// Upper bound of a head's width. A larger one means a damaged file.
const MOST_HEAD_DIM: usize = 1 << 16;

/// Scaling of rotary frequencies, for contexts longer than the original one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum RopeScaling {
    /// No scaling.
    #[default]
    Default,
    /// All frequencies are divided by a factor: Chen et al. 2023, arXiv:2306.15595.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// LLaMA 3.1: low frequencies are divided by a factor, high ones stay, and those between are interpolated.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Turns within the original context at or below which a frequency is low.
        low_freq_factor: f64,
        /// Turns within the original context at or above which a frequency is high.
        high_freq_factor: f64,
        /// Original context of the model, in positions.
        original_max_position_embeddings: f64,
    },
}

/// `rope_parameters` or `rope_scaling` of config.json: fields of all kinds of scaling.
#[derive(Default, serde::Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    rope_type: Option<String>,
    /// Older name of `rope_type`; a file may have both.
    #[serde(rename = "type")]
    kind: Option<String>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

impl RopeScaling {
    /// Scaling that `raw` describes. `positions` is the default of the original context.
    fn new(raw: &RopeParameters, positions: usize) -> Result<Self, String> {
        let need = |name: &str, value: Option<f64>| value.ok_or_else(|| format!("{name} is missing"));
        match raw.rope_type.as_deref().or(raw.kind.as_deref()) {
            None | Some("default") => Ok(Self::Default),
            Some("linear") => Ok(Self::Linear { factor: need("factor", raw.factor)? }),
            Some("llama3") => Ok(Self::Llama3 {
                factor: need("factor", raw.factor)?,
                low_freq_factor: need("low_freq_factor", raw.low_freq_factor)?,
                high_freq_factor: need("high_freq_factor", raw.high_freq_factor)?,
                original_max_position_embeddings: need(
                    "original_max_position_embeddings",
                    raw.original_max_position_embeddings.or(Some(positions as f64)),
                )?,
            }),
            Some(other) => {
                Err(format!("rope_type {other:?} is not supported; expected default, linear or llama3"))
            }
        }
    }

    /// Refuses factors that give no frequencies; names the field.
    fn check(self) -> Result<(), String> {
        let positive = |name: &str, value: f64| match value > 0.0 && value.is_finite() {
            true => Ok(()),
            false => Err(format!("{name}: expected a positive number, found {value}")),
        };
        match self {
            Self::Default => Ok(()),
            Self::Linear { factor } => positive("factor", factor),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                positive("factor", factor)?;
                positive("low_freq_factor", low_freq_factor)?;
                positive("high_freq_factor", high_freq_factor)?;
                positive("original_max_position_embeddings", original_max_position_embeddings)?;
                if high_freq_factor <= low_freq_factor {
                    return Err(format!(
                        "high_freq_factor: expected a number above low_freq_factor {low_freq_factor}, \
                         found {high_freq_factor}"
                    ));
                }
                Ok(())
            }
        }
    }

    /// Scaled `frequency`, in radians a position.
    fn apply(self, frequency: f64) -> f64 {
        match self {
            Self::Default => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let turns = original_max_position_embeddings * frequency / TAU;
                let high = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                high * frequency + (1.0 - high) * frequency / factor
            }
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            vocab_size: 32000,
            hidden_size: 4096,
            intermediate_size: 11008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: Activation::Silu,
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            attention_bias: false,
            rope_theta: 1e4,
            rope_scaling: RopeScaling::Default,
            attention_dropout: 0.0,
            pad_token_id: None,
        }
    }
}

impl Config {
    /// Reads the fields of config.json. Fields of the rotary embedding are in `rope_parameters` or, in files of
    /// transformers 4, in `rope_theta` and `rope_scaling`.
    ///
    /// # Errors
    /// If a field has the wrong type or an unsupported value; the message names the field.
    pub fn read(fields: &Fields) -> Result<Self, Error> {
        fields.only("mlp_bias", false)?;
        fields.only("partial_rotary_factor", 1.0)?;
        let or = Self::default();
        // As in transformers, `rope_scaling` precedes `rope_parameters`, and the outer
        // `original_max_position_embeddings` the inner one.
        let rope: Option<RopeParameters> = match fields.get("rope_scaling", None)? {
            Some(rope) => Some(rope),
            None => fields.get("rope_parameters", None)?,
        };
        let mut rope = rope.unwrap_or_default();
        if let Some(original) = fields.get("original_max_position_embeddings", None)? {
            rope.original_max_position_embeddings = Some(original);
        }
        let positions = fields.get("max_position_embeddings", or.max_position_embeddings)?;
        let rope_scaling = RopeScaling::new(&rope, positions).map_err(|why| fields.error(why))?;
        if let Some(share) = rope.partial_rotary_factor
            && share != 1.0
        {
            return Err(fields.error(format!("partial_rotary_factor: only 1.0 is supported, found {share}")));
        }
        let config = config::take! { fields or or:
            vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads,
            num_key_value_heads, head_dim, max_position_embeddings, rms_norm_eps, tie_word_embeddings,
            attention_bias, attention_dropout, pad_token_id;
            hidden_act: fields.activation("hidden_act", or.hidden_act)?,
            rope_theta: rope.rope_theta.or(fields.get("rope_theta", None)?).unwrap_or(or.rope_theta),
            rope_scaling,
        };
        config.check().map_err(|why| fields.error(why))?;
        Ok(config)
    }

    /// Number of key heads and of value heads.
    pub fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Word whose embedding does not learn.
    pub(super) fn padding(&self) -> Option<u32> {
        let id = self.pad_token_id?;
        u32::try_from(if id < 0 { id.saturating_add(self.vocab_size as i64) } else { id }).ok()
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Frequencies in radians a position, one for each pair of a head's columns.
    pub(super) fn frequencies(&self) -> Vec<f64> {
        let dim = self.head_dim();
        (0..dim / 2)
            .map(|i| self.rope_theta.powf(-((2 * i) as f64) / dim as f64))
            .map(|frequency| self.rope_scaling.apply(frequency))
            .collect()
    }

    /// Refuses impossible sizes and frequencies; names the field.
    pub(super) fn check(&self) -> Result<(), String> {
        config::probabilities(&named!(self: attention_dropout))?;
        let (heads, kv_heads) = (self.num_attention_heads, self.kv_heads());
        config::positive(&named!(
            self: vocab_size, hidden_size, intermediate_size, num_attention_heads, num_hidden_layers,
            max_position_embeddings
        ))?;
        config::positive(&[("num_key_value_heads", kv_heads), ("head_dim", self.head_dim())])?;
        config::eps("rms_norm_eps", self.rms_norm_eps)?;
        let [of_queries, width] = named!(self: num_attention_heads, hidden_size);
        config::divides(("num_key_value_heads", kv_heads), of_queries)?;
        if self.head_dim.is_none() {
            config::divides(of_queries, width)?;
        }
        // Frequencies are computed before any tensor confirms the size.
        if self.head_dim() > MOST_HEAD_DIM || heads.checked_mul(self.head_dim()).is_none() {
            return Err(format!("head_dim: {} columns in {heads} heads are too many", self.head_dim()));
        }
        if !self.head_dim().is_multiple_of(2) {
            return Err(format!("head_dim: expected an even number, found {}", self.head_dim()));
        }
        if !(self.rope_theta > 0.0 && self.rope_theta.is_finite()) {
            return Err(format!("rope_theta: expected a positive number, found {}", self.rope_theta));
        }
        self.rope_scaling.check()
    }
}
