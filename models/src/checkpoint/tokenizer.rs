//! Tokenizers: text to ids and back, by tokenizer.json or a GGUF file.

use crate::batch::Batch;
use crate::checkpoint::config::{self, SpecialToken};
use crate::checkpoint::files;
use crate::checkpoint::gguf::Gguf;
use crate::error::Error;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use tokenizers::{
    EncodeInput, Encoding, PostProcessor as _, TruncationDirection, TruncationParams, TruncationStrategy,
};

/// The tokenizer of a model.
///
/// Padding of tokenizer.json is switched off: sequences are ragged. Only [`truncate`](Self::truncate) cuts texts,
/// on the side that the files name.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    mask: String,
    max_length: Option<usize>,
    /// Side that truncation removes.
    truncation_side: TruncationDirection,
    chat_template: Option<TemplateSource>,
    /// Chat template for conversations with tools, if it differs.
    chat_template_for_tools: Option<TemplateSource>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

/// A chat template, and the file that holds it.
#[derive(Clone, Debug)]
pub(crate) struct TemplateSource {
    pub path: PathBuf,
    pub text: String,
}

/// Origin of a token in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenPlace {
    /// 0: first text; 1: second text; `None`: special token.
    pub text: Option<usize>,
    /// Range of bytes in that text.
    pub bytes: Range<usize>,
}

/// Upper bound of the overlap of two windows, in tokens: longer than most answers, so that a window has the whole answer.
const MOST_OVERLAP: usize = 128;

/// Fields of tokenizer_config.json.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct TokenizerConfig {
    mask_token: Option<SpecialToken>,
    /// A float: some files give 1e30 for "no limit".
    model_max_length: Option<f64>,
    truncation_side: Option<TruncationSide>,
    chat_template: Option<ChatTemplate>,
    bos_token: Option<SpecialToken>,
    eos_token: Option<SpecialToken>,
}

/// An end of a text.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum TruncationSide {
    Left,
    Right,
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
    /// The template `name`; a single template is the default.
    fn named(&self, name: &str) -> Option<String> {
        match self {
            Self::One(template) => (name == "default").then(|| template.clone()),
            Self::Named(all) => all.iter().find(|t| t.name == name).map(|t| t.template.clone()),
        }
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json` in the directory `path` or beside the GGUF file `path`, or else the tokenizer in the
    /// GGUF file. A GGUF file in a directory with safetensors is not read.
    ///
    /// Reads `tokenizer_config.json`, `chat_template.jinja` and `additional_chat_templates/tool_use.jinja` if they
    /// exist.
    ///
    /// # Errors
    /// If no tokenizer exists, or a file is damaged.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let dir = files::directory(path);
        let (json, file) = (dir.join("tokenizer.json"), files::find_gguf(path));
        let gguf = file.map(|file| Gguf::open(&file)).transpose()?;
        let mut tokenizer = match &gguf {
            Some(gguf) if !files::exists(&json) => return Self::from_gguf(gguf),
            _ => {
                let bytes = files::bytes(&json)?;
                Self::from_bytes(json, &bytes)?
            }
        };
        let path = dir.join("tokenizer_config.json");
        let settings: TokenizerConfig = config::read_optional(&path)?.unwrap_or_default();
        if let Some(mask) = settings.mask_token {
            tokenizer.mask = mask.into();
        }
        tokenizer.bos_token = settings.bos_token.map(String::from);
        tokenizer.eos_token = settings.eos_token.map(String::from);
        tokenizer.max_length = settings.model_max_length.filter(|&n| n < 1e9).map(|n| n as usize);
        match settings.truncation_side {
            Some(TruncationSide::Left) => tokenizer.truncation_side = TruncationDirection::Left,
            Some(TruncationSide::Right) => tokenizer.truncation_side = TruncationDirection::Right,
            None => {}
        }
        let jinja = dir.join("chat_template.jinja");
        match (settings.chat_template, gguf) {
            _ if files::exists(&jinja) => {
                tokenizer.chat_template = Some(TemplateSource::read(jinja)?);
                let for_tools = dir.join("additional_chat_templates/tool_use.jinja");
                if files::exists(&for_tools) {
                    tokenizer.chat_template_for_tools = Some(TemplateSource::read(for_tools)?);
                }
            }
            (Some(template), _) => {
                let named =
                    |name| template.named(name).map(|text| TemplateSource { path: path.clone(), text });
                tokenizer.chat_template = named("default");
                tokenizer.chat_template_for_tools = named("tool_use");
            }
            (None, Some(gguf)) => tokenizer.chat_template = TemplateSource::of_gguf(&gguf)?,
            (None, None) => {}
        }
        Ok(tokenizer)
    }

    /// Reads the tokenizer in a GGUF file.
    ///
    /// # Errors
    /// See [`Gguf::tokenizer_json`]; also if the parts of the tokenizer do not fit each other.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, Error> {
        let mut tokenizer = Self::from_bytes(gguf.path().to_owned(), &gguf.tokenizer_json()?)?;
        if let Some(mask) = gguf.special_token("mask")? {
            tokenizer.mask = mask.to_owned();
        }
        tokenizer.bos_token = gguf.special_token("bos")?.map(str::to_owned);
        tokenizer.eos_token = gguf.special_token("eos")?.map(str::to_owned);
        tokenizer.chat_template = TemplateSource::of_gguf(gguf)?;
        Ok(tokenizer)
    }

    /// Reads a tokenizer.json from memory; errors name `path`.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn from_bytes(path: PathBuf, bytes: &[u8]) -> Result<Self, Error> {
        let mut inner = guarded(&path, || tokenizers::Tokenizer::from_bytes(bytes))?;
        let truncation_side = inner.get_truncation().map(|t| t.direction).unwrap_or_default();
        inner.with_padding(None);
        guarded(&path, || inner.with_truncation(None).map(|_| ()))?;
        let mask = ["[MASK]", "<mask>"].into_iter().find(|mask| inner.token_to_id(mask).is_some());
        let mask = mask.unwrap_or("[MASK]").to_owned();
        Ok(Self {
            path,
            inner,
            mask,
            max_length: None,
            truncation_side,
            chat_template: None,
            chat_template_for_tools: None,
            bos_token: None,
            eos_token: None,
        })
    }

    /// Upper bound of tokens in tokenizer_config.json, if it has one.
    pub fn max_length(&self) -> Option<usize> {
        self.max_length
    }

    /// Chat template in Jinja, if a file has one.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_ref().map(|template| &*template.text)
    }

    /// Chat template for conversations with tools.
    pub fn chat_template_for_tools(&self) -> Option<&str> {
        self.template(true).map(|template| &*template.text)
    }

    /// First token of a text, as the vocabulary spells it, if a file names one.
    pub fn bos_token(&self) -> Option<&str> {
        self.bos_token.as_deref()
    }

    /// Last token of a text, as the vocabulary spells it, if a file names one.
    pub fn eos_token(&self) -> Option<&str> {
        self.eos_token.as_deref()
    }

    /// Mask token as a text spells it: `[MASK]`, `<mask>`.
    pub fn mask(&self) -> &str {
        &self.mask
    }

    /// Limits the sequences of [`encode`](Self::encode) to `max_length` tokens, special tokens included. Cuts the end
    /// of a text, or its start if `truncation_side` in tokenizer_config.json or `direction` in tokenizer.json is left.
    ///
    /// # Errors
    /// If `max_length` leaves no room beside the special tokens.
    pub fn truncate(&mut self, max_length: usize) -> Result<(), Error> {
        let special = self.inner.get_post_processor().map_or(0, |p| p.added_tokens(false));
        if max_length <= special {
            let why =
                format!("a maximum length of {max_length} leaves no room beside {special} special tokens");
            return Err(self.error(why));
        }
        let params =
            TruncationParams { max_length, direction: self.truncation_side, ..TruncationParams::default() };
        guarded(&self.path, || self.inner.with_truncation(Some(params)).map(|_| ()))
    }

    /// Encodes each text as a sequence with special tokens.
    ///
    /// # Errors
    /// If the tokenizer refuses a text or returns no token.
    pub fn encode<T: AsRef<str>>(&self, texts: &[T]) -> Result<Batch, Error> {
        let mut batch = Batch::default();
        for text in texts {
            let encoding = guarded(&self.path, || self.inner.encode_fast(text.as_ref(), true))?;
            batch.push(encoding.get_ids(), encoding.get_type_ids())?;
        }
        Ok(batch)
    }

    /// Encodes `text` without adding special tokens. Special tokens written in the text, as in a rendered chat, are
    /// recognised.
    ///
    /// # Errors
    /// If the tokenizer refuses the text.
    pub fn encode_as_written(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = guarded(&self.path, || self.inner.encode_fast(text, false))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// From now on, special tokens that are written in a text are text.
    pub fn read_special_tokens_as_text(&mut self) {
        self.inner.set_encode_special_tokens(true);
    }

    /// Encodes `text` without adding special tokens. Also returns the end of each token, in bytes of the text.
    ///
    /// # Errors
    /// If the tokenizer refuses the text.
    pub fn encode_with_ends(&self, text: &str) -> Result<(Vec<u32>, Vec<usize>), Error> {
        let encoding = guarded(&self.path, || self.inner.encode(text, false))?;
        let ends = encoding.get_offsets().iter().map(|&(_, end)| end).collect();
        Ok((encoding.get_ids().to_vec(), ends))
    }

    /// Size of the vocabulary: every id is below it.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// Ids of special tokens, ascending.
    pub fn special_ids(&self) -> Vec<u32> {
        let added = self.inner.get_added_tokens_decoder();
        let mut ids: Vec<_> =
            added.into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids
    }

    /// Encodes a text, or a pair of texts, as one sequence; also returns the origin of each token.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_placed(
        &self,
        first: &str,
        second: Option<&str>,
    ) -> Result<(Batch, Vec<TokenPlace>), Error> {
        let input = match second {
            Some(second) => EncodeInput::from((first, second)),
            None => EncodeInput::from(first),
        };
        self.placed(&[guarded(&self.path, || self.inner.encode(input, true))?])
    }

    /// Encodes a pair of texts in sequences of at most `max_length` tokens. A second text that does not fit is
    /// split into overlapping windows, one sequence each. Replaces the limit of [`truncate`](Self::truncate).
    ///
    /// # Errors
    /// As [`encode`](Self::encode), or if the first text leaves no room for the second.
    pub fn encode_windows(
        &mut self,
        [first, second]: [&str; 2],
        max_length: usize,
    ) -> Result<(Batch, Vec<TokenPlace>), Error> {
        guarded(&self.path, || self.inner.with_truncation(None).map(|_| ()))?;
        // Encoding stops soon after the limit of a tokenizer that truncates, and loses the windows that follow. So the
        // limit comes after the texts are encoded.
        let first = guarded(&self.path, || self.inner.encode(first, false))?;
        let second = guarded(&self.path, || self.inner.encode(second, false))?;
        let alone = first.len();
        let special = self.inner.get_post_processor().map_or(0, |p| p.added_tokens(true));
        let room = max_length.saturating_sub(alone + special);
        // An overlap below half of a window leaves at least half of it for new tokens.
        if room < 4 {
            let why = format!("{alone} tokens of {max_length} leave no room for the second text");
            return Err(Error::Input { name: "first text", why });
        }
        let params = TruncationParams {
            max_length,
            stride: (room / 2 - 1).min(MOST_OVERLAP),
            strategy: TruncationStrategy::OnlySecond,
            ..TruncationParams::default()
        };
        guarded(&self.path, || self.inner.with_truncation(Some(params)).map(|_| ()))?;
        let mut encoding = guarded(&self.path, || self.inner.post_process(first, Some(second), true))?;
        let others = encoding.take_overflowing();
        self.placed(&[vec![encoding], others].concat())
    }

    fn placed(&self, encodings: &[Encoding]) -> Result<(Batch, Vec<TokenPlace>), Error> {
        let (mut batch, mut places) = (Batch::default(), Vec::new());
        for encoding in encodings {
            batch.push(encoding.get_ids(), encoding.get_type_ids())?;
            let offsets = encoding.get_offsets().iter();
            places.extend(
                encoding
                    .get_sequence_ids()
                    .into_iter()
                    .zip(offsets)
                    .map(|(text, &(start, end))| TokenPlace { text, bytes: start..end }),
            );
        }
        Ok((batch, places))
    }

    /// The id of `token`, as the vocabulary spells it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of `id`, as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Decodes `ids` to text, without special tokens.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        guarded(&self.path, || self.inner.decode(ids, true))
    }

    /// Chat template with its file, for conversations with or without tools.
    pub(crate) fn template(&self, tools: bool) -> Option<&TemplateSource> {
        self.chat_template_for_tools.as_ref().filter(|_| tools).or(self.chat_template.as_ref())
    }

    /// Error that names the tokenizer's file.
    pub(crate) fn error(&self, why: String) -> Error {
        Error::File { path: self.path.clone(), why }
    }
}

impl TemplateSource {
    fn read(path: PathBuf) -> Result<Self, Error> {
        Ok(Self { text: files::text(&path)?, path })
    }

    fn of_gguf(gguf: &Gguf) -> Result<Option<Self>, Error> {
        let text = gguf.chat_template()?;
        Ok(text.map(|text| Self { path: gguf.path().to_owned(), text: text.to_owned() }))
    }
}

/// Runs `work` of the crate tokenizers and turns its panics into errors that name `path`.
fn guarded<T>(path: &Path, work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, Error> {
    caught(work).map_err(|why| Error::File { path: path.to_owned(), why })
}

/// Runs `work` of the crate tokenizers and turns its errors and panics into messages. The crate panics on some damaged
/// files, when it reads or when it uses them.
pub(crate) fn caught<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(e.to_string()),
        Err(panic) => {
            let message = panic.downcast_ref::<String>().map(String::as_str);
            let message = message.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(format!("tokenizers panicked: expected a valid tokenizer.json, found {message}"))
        }
    }
}
