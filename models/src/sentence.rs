//! Sentence embeddings: from token states to one vector for a text, configured by the files of
//! sentence-transformers (Reimers and Gurevych, "Sentence-BERT", 2019, arXiv:1908.10084).
//!
//! ```text
//! modules.json                 [Transformer, Pooling in 1_Pooling, Normalize, ..]
//! 1_Pooling/config.json        pooling_mode_mean_tokens, ..
//! sentence_bert_config.json    max_seq_length, do_lower_case
//! ```

use crate::architectures::Architecture;
use crate::arithmetic::Arithmetic;
use crate::batch::Batch;
use crate::checkpoint::config;
use crate::checkpoint::files;
use crate::checkpoint::gguf::Gguf;
use crate::checkpoint::tokenizer::Tokenizer;
use crate::checkpoint::weights::Weights;
use crate::error::Error;
use crate::model::Model;
use crate::output::Output;
use std::path::Path;
use tilewright_kernels::{Backend, L2Normalize, Pool, Pooling, Rows, View, ViewMut};

/// Pooling, normalisation and limits of a text embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sentence {
    /// Pooling of token states.
    pub pooling: Pooling,
    /// True if the result is divided by its L2 norm.
    pub normalize: bool,
    /// Upper bound of tokens of a text; the rest is cut off.
    pub max_length: Option<usize>,
    /// True if texts are converted to lower case.
    pub lowercase: bool,
}

/// An entry of modules.json.
#[derive(Debug, serde::Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    class: String,
}

/// sentence_bert_config.json.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
    do_lower_case: Option<bool>,
}

impl Sentence {
    /// Reads the files in the directory `path`, or beside the GGUF file `path`.
    ///
    /// Without modules.json, a GGUF file decides the pooling, and vectors are normalised as in llama.cpp. Without
    /// either, the vector is the mean without normalisation, as in sentence-transformers.
    ///
    /// # Errors
    /// If a file is damaged, or names an unsupported module or pooling.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let dir = files::directory(path);
        let settings: SentenceConfig =
            config::read_optional(&dir.join("sentence_bert_config.json"))?.unwrap_or_default();
        let mut sentence = Self {
            pooling: Pooling::Mean,
            normalize: false,
            max_length: settings.max_seq_length,
            lowercase: settings.do_lower_case.unwrap_or_default(),
        };
        let file = files::find_gguf(path);
        let path = dir.join("modules.json");
        let Some(modules) = config::read_optional::<Vec<Module>>(&path)? else {
            if let Some(pooling) = file.map(|file| Gguf::open(&file)?.pooling()).transpose()?.flatten() {
                (sentence.pooling, sentence.normalize) = (pooling, true);
            }
            return Ok(sentence);
        };
        for module in &modules {
            match module.class.rsplit('.').next() {
                Some("Transformer") => {}
                Some("Pooling") => {
                    let path = dir.join(&module.path).join("config.json");
                    sentence.pooling = pooling(&path, &config::read(&path)?)?;
                }
                Some("Normalize") => sentence.normalize = true,
                _ => {
                    let why = format!(
                        "module {} is not supported; expected Transformer, Pooling or Normalize",
                        module.class
                    );
                    return Err(Error::File { path, why });
                }
            }
        }
        Ok(sentence)
    }
}

/// Encoder, tokenizer and pooling: makes one vector of each text.
#[derive(Debug)]
pub struct Embedder {
    backend: Backend,
    model: Box<dyn Model>,
    tokenizer: Tokenizer,
    sentence: Sentence,
    max_length: usize,
}

impl Embedder {
    /// Reads the bare model in `dir`, its tokenizer and its sentence-transformers files.
    ///
    /// # Errors
    /// If a file is missing or damaged, or a field has an unsupported value.
    pub fn open(dir: &Path, on: Arithmetic) -> Result<Self, Error> {
        Self::with_weights(dir, Weights::open(dir)?, on)
    }

    /// As [`open`](Self::open), with weights that the caller has opened.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_weights(dir: &Path, weights: Weights, on: Arithmetic) -> Result<Self, Error> {
        let sentence = Sentence::open(dir)?;
        let model = Architecture::bare(dir)?.open(dir, weights, on)?;
        let mut tokenizer = Tokenizer::open(dir)?;
        let max_length = sentence.max_length.or(tokenizer.max_length()).unwrap_or(usize::MAX);
        let max_length = max_length.min(model.max_length());
        tokenizer.truncate(max_length)?;
        Ok(Self { backend: on.backend, model, tokenizer, sentence, max_length })
    }

    /// Pooling, normalisation and limits.
    pub fn sentence(&self) -> Sentence {
        self.sentence
    }

    /// Upper bound of tokens of a text; the rest is cut off.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Embeds texts: returns their tokens, the width of a vector, and the vectors, \[texts, width\].
    ///
    /// # Errors
    /// If the tokenizer refuses a text.
    pub fn embed<T: AsRef<str>>(&mut self, texts: &[T]) -> Result<(Batch, usize, Vec<f32>), Error> {
        let batch = match self.sentence.lowercase {
            true => {
                let texts: Vec<String> = texts.iter().map(|text| text.as_ref().to_lowercase()).collect();
                self.tokenizer.encode(&texts)?
            }
            false => self.tokenizer.encode(texts)?,
        };
        let outputs = self.model.forward(&batch)?;
        let states = outputs.into_iter().find(|o| o.name == "last_hidden_state");
        let Output { width, values, .. } = states.expect("a bare model has this output");
        let mut vectors = vec![0.0; batch.len() * width];
        let x = View::new(&values, [batch.tokens(), width])?;
        let out = ViewMut::new(&mut vectors, [batch.len(), width])?;
        let pooling = self.sentence.pooling;
        self.backend.run(Pool { pooling, ..Pool::new(x, batch.starts(), out) })?;
        if self.sentence.normalize {
            let rows = Rows::InPlace(ViewMut::new(&mut vectors, [batch.len(), width])?);
            self.backend.run(L2Normalize::new(rows, NORM_EPS))?;
        }
        Ok((batch, width, vectors))
    }
}

/// Lower bound of the divisor, as in torch.nn.functional.normalize.
const NORM_EPS: f32 = 1e-12;

/// The pooling that `1_Pooling/config.json` asks for: `"pooling_mode": "mean"` or
/// `"pooling_mode_mean_tokens": true`.
fn pooling(path: &Path, fields: &serde_json::Map<String, serde_json::Value>) -> Result<Pooling, Error> {
    let on = |(name, value): (&String, &serde_json::Value)| {
        let mode = name.strip_prefix("pooling_mode_")?;
        (value == true).then(|| mode.to_owned())
    };
    let modes: Vec<String> = match fields.get("pooling_mode").and_then(|v| v.as_str()) {
        Some(mode) => vec![mode.to_owned()],
        None => fields.iter().filter_map(on).collect(),
    };
    match modes.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["mean" | "mean_tokens"] => Ok(Pooling::Mean),
        ["cls" | "cls_token"] => Ok(Pooling::Cls),
        _ => {
            let why =
                format!("pooling {modes:?} is not supported; expected one of mean_tokens and cls_token");
            Err(Error::File { path: path.to_owned(), why })
        }
    }
}
