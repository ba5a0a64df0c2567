//! Text to ids and back, as tokenizer.json or a GGUF file says.

use crate::batch::Batch;
use crate::config;
use crate::error::Error;
use crate::gguf::{self, Gguf};
use std::path::{Path, PathBuf};
use tokenizers::{PostProcessor as _, TruncationParams};

/// The tokenizer of a model.
///
/// Padding that tokenizer.json asks for is switched off (sequences are ragged), and truncation is
/// only what [`truncate`](Self::truncate) asks for.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    mask: String,
    max_length: Option<usize>,
    chat_template: Option<String>,
}

/// Fields of tokenizer_config.json.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Settings {
    mask_token: Option<SpecialToken>,
    /// A float, for some files give 1e30 for "no limit".
    model_max_length: Option<f64>,
    chat_template: Option<ChatTemplate>,
}

/// A chat template, or several with names.
#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
enum ChatTemplate {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Debug, serde::Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl ChatTemplate {
    fn default(self) -> Option<String> {
        match self {
            Self::One(template) => Some(template),
            Self::Named(all) => all.into_iter().find(|t| t.name == "default").map(|t| t.template),
        }
    }
}

/// A special token, which files give as text or as an object.
#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
enum SpecialToken {
    Text(String),
    Object { content: String },
}

impl Tokenizer {
    /// Reads `tokenizer.json` in the directory `path` or beside the GGUF file `path`, with
    /// `tokenizer_config.json` and `chat_template.jinja` if there are such files; where there is no
    /// `tokenizer.json`, the tokenizer in the GGUF file.
    ///
    /// # Errors
    /// If there is none, or a file is damaged.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let dir = config::directory(path);
        let (json, file) = (dir.join("tokenizer.json"), gguf::find(path));
        let gguf = file.map(|file| Gguf::open(&file)).transpose()?;
        let mut tokenizer = match &gguf {
            Some(gguf) if !json.exists() => return Self::from_gguf(gguf),
            _ => {
                let bytes = config::bytes(&json)?;
                Self::from_bytes(json, &bytes)?
            }
        };
        let settings: Settings =
            config::read_optional(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
        match settings.mask_token {
            Some(SpecialToken::Text(content) | SpecialToken::Object { content }) => tokenizer.mask = content,
            None => {}
        }
        tokenizer.max_length = settings.model_max_length.filter(|&n| n < 1e9).map(|n| n as usize);
        let jinja = dir.join("chat_template.jinja");
        tokenizer.chat_template = match (settings.chat_template, gguf) {
            _ if jinja.exists() => {
                let text = String::from_utf8(config::bytes(&jinja)?);
                Some(text.map_err(|e| Error::File { path: jinja, why: e.to_string() })?)
            }
            (Some(template), _) => template.default(),
            (None, Some(gguf)) => gguf.chat_template()?.map(str::to_owned),
            (None, None) => None,
        };
        Ok(tokenizer)
    }

    /// Makes the tokenizer that a GGUF file holds.
    ///
    /// # Errors
    /// Those of [`Gguf::tokenizer_json`], and if its parts do not fit each other.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, Error> {
        let mut tokenizer = Self::from_bytes(gguf.path().to_owned(), &gguf.tokenizer_json()?)?;
        if let Some(mask) = gguf.mask_token()? {
            tokenizer.mask = mask.to_owned();
        }
        tokenizer.chat_template = gguf.chat_template()?.map(str::to_owned);
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
        Ok(Self { path, inner, mask: "[MASK]".to_owned(), max_length: None, chat_template: None })
    }

    /// The longest sequence that tokenizer_config.json allows, if it says so.
    pub fn max_length(&self) -> Option<usize> {
        self.max_length
    }

    /// How a conversation is written as a text, in Jinja, if a file says so.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
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
