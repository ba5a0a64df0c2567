//! Training tokenizers: from text to the files that transformers' `AutoTokenizer` loads.
//!
//! | family | model | words | special tokens |
//! |---|---|---|---|
//! | BERT, ELECTRA | WordPiece, `##` | BERT's, at white space and punctuation | `[PAD] [UNK] [CLS] [SEP] [MASK]` |
//! | RoBERTa, BART | byte-level BPE | GPT-2's | `<s> <pad> </s> <unk> <mask>` |
//! | GPT-2 | byte-level BPE | GPT-2's | `<\|endoftext\|>` |
//! | LLaMA | BPE over characters, bytes where one is unknown | at white space; digits alone | `<unk> <s> </s>` |
//! | T5 | Unigram | at white space | `<pad> </s> <unk>`; last `<extra_id_99>` .. `<extra_id_0>` |
//! | ALBERT | Unigram | at white space | `<pad> <unk> [CLS] [SEP] [MASK]` |
//!
//! Special tokens have the ids from 0 on. The same documents give the same bytes, on any number of threads.
//!
//! ```no_run
//! use tilewright::train::data::text::{TextOptions, TextSources};
//! use tilewright::train::data::tokenizer_training::{Family, TokenizerTraining};
//!
//! let options = TextOptions::default();
//! let mut documents = TextSources::find(&["corpus".into()])?.documents(&options);
//! let training = TokenizerTraining { lowercase: true, ..TokenizerTraining::new(Family::Bert, 30_000) };
//! training.train(&mut documents, options.sentences, |_| ())?.write("tokenizer".as_ref())?;
//! # Ok::<(), tilewright::Error>(())
//! ```

mod family;
mod merges;
mod unigram;
mod words;

pub use family::Family;

use super::text::{SentenceSplit, TextDocuments};
use crate::checkpoint::tokenizer::caught;
use crate::error::Error;
use crate::whole_file;
use family::Algorithm;
use serde_json::{Value, json};
use std::path::Path;
use words::Words;

/// Settings of a tokenizer's training.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerTraining {
    /// Family of the model.
    pub family: Family,
    /// Size of the vocabulary, special tokens included. Little text gives fewer tokens.
    pub vocab_size: usize,
    /// Lower-cases text and strips accents: BERT, ELECTRA and ALBERT.
    pub lowercase: bool,
    /// Merges of WordPiece and BPE appear at least this often.
    pub min_frequency: u64,
    /// Upper bound of the characters that are tokens, except in byte-level BPE: the most frequent ones. Words with
    /// other characters are left out of the training.
    pub alphabet: usize,
    /// Upper bound of tokens that the model takes: `model_max_length`.
    pub max_length: usize,
}

/// Number of T5's sentinels.
const SENTINELS: usize = 100;

impl TokenizerTraining {
    /// Cased training with at least 2 appearances of a merge, 1000 characters, and the family's longest sequence.
    pub fn new(family: Family, vocab_size: usize) -> Self {
        let max_length = family.max_length();
        Self { family, vocab_size, lowercase: false, min_frequency: 2, alphabet: 1000, max_length }
    }

    /// Trains on `documents`, whose sentences are those of `sentences`. `watch` learns the number of bytes read.
    ///
    /// # Errors
    /// If a document cannot be read; if no word remains; if the vocabulary is smaller than its special tokens and
    /// characters; if `lowercase` is set for a family that does not lower-case.
    pub fn train(
        &self,
        documents: &mut TextDocuments,
        sentences: SentenceSplit,
        watch: impl FnMut(u64),
    ) -> Result<TrainedTokenizer, Error> {
        if self.lowercase && !self.family.can_lowercase() {
            let why = format!("tokenizers of {} do not lower-case in transformers", self.family.name());
            return Err(Error::Input { name: "lowercase", why });
        }
        let words = Words::count(self, documents, sentences, watch)?;
        let special = self.family.special_tokens().iter().map(|token| (*token).to_owned());
        let algorithm = self.family.algorithm();
        let (first, last) = (special.len(), if self.family == Family::T5 { SENTINELS } else { 0 });
        let first = first + if algorithm == Algorithm::ByteFallbackBpe { 256 } else { 0 };
        let inner = if algorithm == Algorithm::WordPiece { words.inner.len() } else { 0 };
        let characters = words.alphabet.len() + inner;
        let least = first + last + characters + 1;
        if self.vocab_size < least {
            let why = format!(
                "{} tokens: {} special tokens and bytes, and {characters} characters, need at least {least}",
                self.vocab_size,
                first + last,
            );
            return Err(Error::Input { name: "vocab_size", why });
        }
        let mut model = match algorithm {
            Algorithm::Unigram => {
                let named = |name: String| (name, 0.0);
                let mut vocab: Vec<_> = special.map(named).collect();
                let sentinels: Vec<_> = (0..last).rev().map(sentinel).map(named).collect();
                let mut pieces = unigram::train(&words, self.vocab_size - first - last)?;
                // Text that spells a special token gives no second token of this name.
                pieces.retain(|(piece, _)| vocab.iter().chain(&sentinels).all(|(name, _)| name != piece));
                vocab.extend(pieces);
                vocab.extend(sentinels);
                json!({ "unk_id": self.family.unknown_id(), "byte_fallback": false, "vocab": vocab })
            }
            _ => {
                let bytes = (algorithm == Algorithm::ByteFallbackBpe)
                    .then(|| (0..256).map(|byte| format!("<0x{byte:02X}>")));
                let reserved = special.chain(bytes.into_iter().flatten()).collect();
                let prefix = if algorithm == Algorithm::WordPiece { "##" } else { "" };
                let (tokens, merges) =
                    merges::train(&words, reserved, prefix, self.vocab_size, self.min_frequency);
                let vocab: serde_json::Map<_, _> =
                    tokens.into_iter().enumerate().map(|(id, token)| (token, id.into())).collect();
                match algorithm {
                    Algorithm::WordPiece => json!({ "vocab": vocab }),
                    _ => json!({ "vocab": vocab, "merges": merges }),
                }
            }
        };
        let vocab = &model["vocab"];
        let vocab_size = vocab.as_array().map_or_else(|| vocab.as_object().map_or(0, |v| v.len()), Vec::len);
        let mut file = self.family.parts(self.lowercase);
        for (field, value) in algorithm.fields().as_object().expect("an object") {
            model[field] = value.clone();
        }
        file["model"] = model;
        file["version"] = "1.0".into();
        file["added_tokens"] = self.added_tokens(vocab_size);
        // The crate writes its own order of fields, the one that transformers writes too.
        let tokenizer = caught(|| {
            let tokenizer: tokenizers::Tokenizer = file.to_string().parse()?;
            tokenizer.to_string(true)
        })
        .map_err(|why| Error::Input { name: "tokenizer", why })?;
        let config = self.family.config(self.lowercase, self.max_length);
        let map = self.family.special_tokens_map();
        let pretty = |json: &Value| format!("{json:#}\n");
        let files = [
            ("tokenizer.json", tokenizer),
            ("tokenizer_config.json", pretty(&config)),
            ("special_tokens_map.json", pretty(&map)),
        ];
        Ok(TrainedTokenizer { vocab_size, words: words.total, distinct_words: words.counts.len(), files })
    }

    /// Special tokens as tokenizer.json lists them.
    fn added_tokens(&self, vocab_size: usize) -> Value {
        let special = self.family.special_tokens().iter().map(|token| (*token).to_owned()).enumerate();
        let last = if self.family == Family::T5 { SENTINELS } else { 0 };
        let sentinels = (0..last).rev().map(|i| (vocab_size - 1 - i, sentinel(i)));
        special
            .chain(sentinels)
            .map(|(id, token)| {
                json!({
                    "id": id,
                    "lstrip": self.family.strips_space_before(&token),
                    "content": token,
                    "single_word": false,
                    "rstrip": false,
                    "normalized": false,
                    "special": true,
                })
            })
            .collect()
    }
}

/// Name of T5's sentinel `i`.
fn sentinel(i: usize) -> String {
    format!("<extra_id_{i}>")
}

/// A trained tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainedTokenizer {
    /// Size of the vocabulary, special tokens included.
    pub vocab_size: usize,
    /// Number of words in the text that trained it.
    pub words: u64,
    /// Number of different words.
    pub distinct_words: usize,
    /// Names and contents of tokenizer.json, tokenizer_config.json and special_tokens_map.json.
    pub files: [(&'static str, String); 3],
}

impl TrainedTokenizer {
    /// Writes the files to `directory`, which is created if it does not exist. tokenizer.json is written last.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn write(&self, directory: &Path) -> Result<(), Error> {
        std::fs::create_dir_all(directory)
            .map_err(|source| Error::Io { path: directory.to_owned(), source })?;
        for (name, content) in self.files.iter().rev() {
            whole_file::write(&directory.join(name), content.as_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
