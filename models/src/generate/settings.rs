//! Options of generation_config.json, with the names and meanings of transformers'
//! `GenerationConfig`.

use crate::checkpoint::config::{self, Fields};
use crate::checkpoint::files;
use crate::error::Error;
use serde::de::{Deserialize, Deserializer, Error as _};
use serde_json::Value;
use std::path::Path;

/// Choice of tokens and end of a text. The default is greedy, 20 tokens, without an end token.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end a text.
    pub eos_token_id: Vec<u32>,
    /// First token of a text.
    pub bos_token_id: Option<u32>,
    /// First token of an encoder-decoder's decoder; `bos_token_id` if absent.
    pub decoder_start_token_id: Option<u32>,
    /// Second token, forced.
    pub forced_bos_token_id: Option<u32>,
    /// Forced last token of a text that reaches its length limit: one of these.
    pub forced_eos_token_id: Vec<u32>,
    /// Upper bound of tokens, the prompt included.
    pub max_length: Option<usize>,
    /// Upper bound of new tokens.
    pub max_new_tokens: Option<usize>,
    /// Lower bound of tokens before an end token, the prompt included.
    pub min_length: usize,
    /// Lower bound of new tokens before an end token.
    pub min_new_tokens: Option<usize>,
    /// Forbidden sequences of tokens. A sequence of one end token is ignored.
    pub bad_words_ids: Vec<Vec<u32>>,
    /// Forbidden tokens.
    pub suppress_tokens: Vec<u32>,
    /// Tokens forbidden at the start of the generated text.
    pub begin_suppress_tokens: Vec<u32>,
    /// Length of n-grams that may not repeat; 0: no restriction.
    pub no_repeat_ngram_size: usize,
    /// Divisor of positive scores, and factor of negative scores, of tokens that have occurred: Keskar et al. 2019,
    /// arXiv:1909.05858.
    pub repetition_penalty: f32,
    /// True if tokens are drawn at random; false for greedy choice.
    pub do_sample: bool,
    /// Divisor of the scores before a token is drawn.
    pub temperature: f32,
    /// Number of the best tokens that can be drawn; 0: all.
    pub top_k: usize,
    /// Nucleus: the smallest set of most probable tokens that reaches this probability. Holtzman et al.
    /// 2020, arXiv:1904.09751.
    pub top_p: f32,
    /// Lower bound of a token's probability, relative to the most probable token: Nguyen et al.
    /// 2024, arXiv:2407.01082.
    pub min_p: f32,
    /// Number of beams; 1: no beam search.
    pub num_beams: usize,
    /// Exponent of the length that divides a beam's score.
    pub length_penalty: f64,
    /// When a beam search ends.
    pub early_stopping: EarlyStopping,
    /// True if beam search normalises probabilities again after forbidding tokens.
    pub renormalize_logits: bool,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            eos_token_id: Vec::new(),
            bos_token_id: None,
            decoder_start_token_id: None,
            forced_bos_token_id: None,
            forced_eos_token_id: Vec::new(),
            max_length: None,
            max_new_tokens: None,
            min_length: 0,
            min_new_tokens: None,
            bad_words_ids: Vec::new(),
            suppress_tokens: Vec::new(),
            begin_suppress_tokens: Vec::new(),
            no_repeat_ngram_size: 0,
            repetition_penalty: 1.0,
            do_sample: false,
            temperature: 1.0,
            top_k: 50,
            top_p: 1.0,
            min_p: 0.0,
            num_beams: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Heuristic,
            renormalize_logits: false,
        }
    }
}

/// When a beam search ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// `true`: as soon as `num_beams` hypotheses are finished.
    Full,
    /// `false`: when no beam of the present length could beat the worst finished hypothesis.
    #[default]
    Heuristic,
    /// `"never"`: when no beam of any length could beat the worst finished hypothesis.
    Never,
}

impl std::str::FromStr for EarlyStopping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "true" => Ok(Self::Full),
            "false" => Ok(Self::Heuristic),
            "never" => Ok(Self::Never),
            _ => Err(format!("expected true, false or never, found {text:?}")),
        }
    }
}

impl<'de> Deserialize<'de> for EarlyStopping {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)? {
            Value::Bool(true) => Ok(Self::Full),
            Value::Bool(false) => Ok(Self::Heuristic),
            Value::String(text) => text.parse().map_err(D::Error::custom),
            other => Err(D::Error::custom(format_args!("expected true, false or \"never\", found {other}"))),
        }
    }
}

/// Unsupported keys that would change a text, with the neutral value of each.
const UNSUPPORTED: [(&str, f64); 20] = [
    ("assistant_early_exit", 0.0),
    ("constraints", 0.0),
    ("diversity_penalty", 0.0),
    ("dola_layers", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("exponential_decay_length_penalty", 0.0),
    ("force_words_ids", 0.0),
    ("guidance_scale", 1.0),
    ("max_time", f64::INFINITY),
    ("num_beam_groups", 1.0),
    ("penalty_alpha", 0.0),
    ("sequence_bias", 0.0),
    ("stop_strings", 0.0),
    ("token_healing", 0.0),
    ("top_h", 0.0),
    ("typical_p", 1.0),
    ("watermarking_config", 0.0),
];

/// Generated tokens if no limit is given, as in transformers.
const DEFAULT_LENGTH: usize = 20;

/// Upper bound of `num_beams`: each beam has its own cache.
const MOST_BEAMS: usize = 1 << 12;

impl GenerationConfig {
    /// Reads `generation_config.json` in the directory `path` or beside the GGUF file `path`. If the file does not exist,
    /// reads the [config](config::config_json).
    ///
    /// # Errors
    /// If the file is missing or damaged, or a key has an unsupported value; the message names the key.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let own = files::directory(path).join("generation_config.json");
        let (path, bytes) = match files::exists(&own) {
            true => (own.clone(), files::bytes(&own)?),
            false => config::config_json(path)?,
        };
        Self::from_bytes(&path, &bytes)
    }

    /// As [`open`](Self::open), from memory; errors name `path`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let fields = &Fields::from_bytes(path, bytes)?;
        for (name, neutral) in UNSUPPORTED {
            let value = fields.get(name, Value::Null)?;
            let changes = match &value {
                Value::Null | Value::Bool(false) => false,
                Value::Number(number) => number.as_f64() != Some(neutral),
                Value::Array(values) => !values.is_empty(),
                _ => true,
            };
            if changes {
                return Err(fields.error(format!("{name} = {value} is not supported")));
            }
        }
        let ids = |name: &str| Ok::<_, Error>(fields.get(name, Ids::default())?.0);
        let id = |name: &str| Ok::<_, Error>(ids(name)?.first().copied());
        let default = Self::default();
        let settings = Self {
            eos_token_id: ids("eos_token_id")?,
            bos_token_id: id("bos_token_id")?,
            decoder_start_token_id: id("decoder_start_token_id")?,
            forced_bos_token_id: id("forced_bos_token_id")?,
            forced_eos_token_id: ids("forced_eos_token_id")?,
            max_length: fields.get("max_length", None)?,
            max_new_tokens: fields.get("max_new_tokens", None)?,
            min_length: fields.get("min_length", default.min_length)?,
            min_new_tokens: fields.get("min_new_tokens", None)?,
            bad_words_ids: fields.get("bad_words_ids", Vec::new())?,
            suppress_tokens: ids("suppress_tokens")?,
            begin_suppress_tokens: ids("begin_suppress_tokens")?,
            no_repeat_ngram_size: fields.get("no_repeat_ngram_size", default.no_repeat_ngram_size)?,
            repetition_penalty: fields.get("repetition_penalty", default.repetition_penalty)?,
            do_sample: fields.get("do_sample", default.do_sample)?,
            temperature: fields.get("temperature", default.temperature)?,
            top_k: fields.get("top_k", default.top_k)?,
            top_p: fields.get("top_p", default.top_p)?,
            min_p: fields.get("min_p", default.min_p)?,
            num_beams: fields.get("num_beams", default.num_beams)?,
            length_penalty: fields.get("length_penalty", default.length_penalty)?,
            early_stopping: fields.get("early_stopping", default.early_stopping)?,
            renormalize_logits: fields.get("renormalize_logits", default.renormalize_logits)?,
        };
        settings.check_values().map_err(|why| fields.error(why))?;
        Ok(settings)
    }

    /// Checks that every setting has a possible value and that they fit together.
    ///
    /// # Errors
    /// Name of the setting, expected and found value.
    pub fn check(&self) -> Result<(), String> {
        self.check_values()?;
        if self.do_sample && self.num_beams > 1 {
            return Err(
                "do_sample: drawing tokens in a beam search (num_beams > 1) is not supported".to_owned()
            );
        }
        Ok(())
    }

    fn check_values(&self) -> Result<(), String> {
        let within =
            |name: &str, value: f64, range: std::ops::RangeInclusive<f64>| match range.contains(&value) {
                true => Ok(()),
                false => Err(format!(
                    "{name}: expected a number from {} to {}, found {value}",
                    range.start(),
                    range.end()
                )),
            };
        let positive = |name: &str, value: f32| match value.is_finite() && value >= f32::MIN_POSITIVE {
            true => Ok(()),
            false => Err(format!("{name}: expected a positive number, found {value}")),
        };
        if self.do_sample {
            positive("temperature", self.temperature)?;
        }
        within("top_p", self.top_p.into(), 0.0..=1.0)?;
        within("min_p", self.min_p.into(), 0.0..=1.0)?;
        positive("repetition_penalty", self.repetition_penalty)?;
        if !self.length_penalty.is_finite() {
            return Err(format!("length_penalty: expected a finite number, found {}", self.length_penalty));
        }
        within("num_beams", self.num_beams as f64, 1.0..=MOST_BEAMS as f64)?;
        if self.max_new_tokens == Some(0) {
            return Err("max_new_tokens: expected at least 1, found 0".to_owned());
        }
        Ok(())
    }

    /// Upper bound of tokens of a text with `prompt` tokens, the prompt included.
    pub fn longest(&self, prompt: usize) -> usize {
        match (self.max_new_tokens, self.max_length) {
            (Some(new), _) => prompt.saturating_add(new),
            (None, Some(all)) => all,
            (None, None) => prompt.saturating_add(DEFAULT_LENGTH),
        }
    }

    /// True if `max_new_tokens` or `max_length` is given.
    pub fn has_longest(&self) -> bool {
        self.max_new_tokens.is_some() || self.max_length.is_some()
    }

    /// First token of an encoder-decoder's decoder.
    ///
    /// # Errors
    /// [`Error::Input`] if neither `decoder_start_token_id` nor `bos_token_id` is given.
    pub fn decoder_start(&self) -> Result<u32, Error> {
        self.decoder_start_token_id.or(self.bos_token_id).ok_or_else(|| Error::Input {
            name: "decoder_start_token_id",
            why: "missing, and so is bos_token_id".to_owned(),
        })
    }
}

/// One token or several; negative numbers mean none.
#[derive(Default)]
struct Ids(Vec<u32>);

impl<'de> Deserialize<'de> for Ids {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let ids = match Value::deserialize(from)? {
            Value::Array(ids) => ids,
            one => vec![one],
        };
        let ids = ids.into_iter().filter(|id| id.as_i64().is_none_or(|id| id >= 0)).map(u32::deserialize);
        ids.collect::<Result<_, _>>().map(Self).map_err(D::Error::custom)
    }
}
