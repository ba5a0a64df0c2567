//! Text to ids and back, as tokenizer.json says.

use crate::batch::Batch;
use crate::config::{self, SpecialToken};
use crate::error::Error;
use std::path::{Path, PathBuf};
use tokenizers::{PostProcessor as _, TruncationParams};

/// The tokenizer of a model directory.
///
/// Padding that tokenizer.json asks for is switched off (sequences are ragged), and truncation is
/// only what [`truncate`](Self::truncate) asks for.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    mask: String,
    max_length: Option<usize>,
}

/// Fields of tokenizer_config.json.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Settings {
    mask_token: Option<SpecialToken>,
    /// A float, for some files give 1e30 for "no limit".
    model_max_length: Option<f64>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` in `dir`, and `tokenizer_config.json` if there is one.
    ///
    /// # Errors
    /// If a file is missing or damaged.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("tokenizer.json");
        let bytes = config::bytes(&path)?;
        let mut tokenizer = Self::from_bytes(path, &bytes)?;
        let settings: Settings =
            config::read_optional(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
        if let Some(mask) = settings.mask_token {
            tokenizer.mask = mask.into();
        }
        tokenizer.max_length = settings.model_max_length.filter(|&n| n < 1e9).map(|n| n as usize);
        Ok(tokenizer)
    }

    /// Reads a tokenizer.json from memory; errors call it `path`.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn from_bytes(path: PathBuf, bytes: &[u8]) -> Result<Self, Error> {
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|e| Error::File { path: path.clone(), why: e.to_string() })?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| Error::File { path: path.clone(), why: e.to_string() })?;
        Ok(Self { path, inner, mask: "[MASK]".to_owned(), max_length: None })
    }

    /// The longest sequence that tokenizer_config.json allows, if it says so.
    pub fn max_length(&self) -> Option<usize> {
        self.max_length
    }

    /// The token to be filled in, as it is written in a text: `[MASK]`.
    pub fn mask(&self) -> &str {
        &self.mask
    }

    /// Cuts what [`encode`](Self::encode) returns to `max_length` tokens, special ones included.
    ///
    /// # Errors
    /// If the special tokens alone are as many.
    pub fn truncate(&mut self, max_length: usize) -> Result<(), Error> {
        let special = self.inner.get_post_processor().map_or(0, |p| p.added_tokens(false));
        if max_length <= special {
            let why =
                format!("a maximum length of {max_length} leaves no room beside {special} special tokens");
            return Err(self.error(why));
        }
        let params = TruncationParams { max_length, ..TruncationParams::default() };
        match self.inner.with_truncation(Some(params)) {
            Ok(_) => Ok(()),
            Err(e) => Err(Error::File { path: self.path.clone(), why: e.to_string() }),
        }
    }

    /// Ids and token types of each text, with special tokens.
    ///
    /// # Errors
    /// If the tokenizer refuses a text, or makes no token of it.
    pub fn encode<T: AsRef<str>>(&self, texts: &[T]) -> Result<Batch, Error> {
        let mut batch = Batch::default();
        for text in texts {
            let encoding =
                self.inner.encode_fast(text.as_ref(), true).map_err(|e| self.error(e.to_string()))?;
            batch.push(encoding.get_ids(), encoding.get_type_ids())?;
        }
        Ok(batch)
    }

    /// Ids of `text`, which holds the special tokens that it needs, as a rendered chat does: they are
    /// recognised where they are written, and none is added.
    ///
    /// # Errors
    /// If the tokenizer refuses the text.
    pub fn encode_as_written(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| self.error(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The id of `token`, as the vocabulary spells it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of `id`, as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The text of `ids`, without special tokens.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        self.inner.decode(ids, true).map_err(|e| self.error(e.to_string()))
    }

    fn error(&self, why: String) -> Error {
        Error::File { path: self.path.clone(), why }
    }
}
