//! Text to token shards.

use super::shards::{ShardWriter, TokenizerHash};
use super::text::{SentenceSplit, TextDocument, TextDocuments};
use super::{Document, shards};
use crate::checkpoint::files;
use crate::checkpoint::tokenizer::Tokenizer;
use crate::error::Error;
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// A tokenizer for training text. It adds no special tokens, and finds none in the text: pre-training recipes add them.
#[derive(Debug)]
pub struct TextTokenizer {
    path: PathBuf,
    tokenizer: Tokenizer,
    hash: TokenizerHash,
    vocab_size: u32,
    special: Vec<u32>,
    unknown: Option<u32>,
}

/// Part of tokenizer.json that names the token for unknown characters.
#[derive(serde::Deserialize)]
struct TokenizerJson {
    model: ModelJson,
}

#[derive(serde::Deserialize)]
struct ModelJson {
    unk_token: Option<String>,
    unk_id: Option<u32>,
}

impl TextTokenizer {
    /// Reads tokenizer.json: the file `path`, or the one in the directory `path`.
    ///
    /// # Errors
    /// If the file is missing or damaged.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let path = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        let bytes = files::bytes(&path)?;
        let mut tokenizer = Tokenizer::from_bytes(path.clone(), &bytes)?;
        tokenizer.read_special_tokens_as_text();
        let json: TokenizerJson = serde_json::from_slice(&bytes)
            .map_err(|e| Error::File { path: path.clone(), why: e.to_string() })?;
        let unknown = json.model.unk_token.and_then(|token| tokenizer.id(&token)).or(json.model.unk_id);
        let vocab_size = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
        let (hash, special) = (TokenizerHash::of(&bytes), tokenizer.special_ids());
        Ok(Self { path, tokenizer, hash, vocab_size, special, unknown })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hash of the file.
    pub fn hash(&self) -> TokenizerHash {
        self.hash
    }

    /// Size of the vocabulary: every id is below it.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// Tokens of `text`, whose sentences are those of `by`. A sentence without tokens is left out. A token belongs to the
    /// sentence of its last byte; white space belongs to the sentence before it.
    ///
    /// A unigram model may find a special token as a piece of the text: it becomes the unknown token.
    ///
    /// # Errors
    /// If the tokenizer refuses the text, or finds a special token in it and has no unknown token.
    pub fn tokenize(&self, text: &TextDocument, by: SentenceSplit) -> Result<Document, Error> {
        let mut document = Document::default();
        let Document { tokens, sentence_ends } = &mut document;
        for piece in text.pieces(by) {
            if by == SentenceSplit::Punctuation {
                let (ids, ends) = self.tokenizer.encode_with_ends(piece)?;
                let mut starts = text.sentences.iter().skip(1).map(|sentence| sentence.start).peekable();
                for (i, end) in ends.into_iter().enumerate() {
                    while starts.next_if(|&start| start < end).is_some() {
                        sentence_ends.push(i);
                    }
                }
                *tokens = ids;
            } else {
                tokens.extend(self.tokenizer.encode_as_written(piece)?);
            }
            sentence_ends.push(tokens.len());
        }
        sentence_ends.dedup();
        sentence_ends.retain(|&end| end > 0);
        for id in tokens {
            if Some(*id) != self.unknown && self.special.binary_search(id).is_ok() {
                *id = self.unknown.ok_or_else(|| {
                    let token = self.tokenizer.token(*id).unwrap_or_default();
                    let why =
                        format!("finds its special token {token} in the text, and has no unknown token");
                    Error::File { path: self.path.clone(), why }
                })?;
            }
        }
        Ok(document)
    }
}

/// Counts of a tokenized text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokenized {
    /// Number of documents with a token.
    pub documents: u64,
    /// Number of sentences with a token.
    pub sentences: u64,
    /// Number of tokens.
    pub tokens: u64,
    /// Number of tokens that stand for unknown characters.
    pub unknown: u64,
    /// Number of shards.
    pub shards: usize,
}

/// Writes the tokens of `documents`, whose sentences are those of `sentences`, as shards of about `shard_bytes` in
/// `directory`. `watch` learns the number of bytes read. Documents without tokens are left out.
///
/// Runs on the threads of the rayon pool; the bytes of the shards do not depend on their number. After an interruption
/// the directory has no [whole](super::shards) corpus, and this function starts over.
///
/// # Errors
/// If a document cannot be read or tokenized; if the directory cannot be written or already holds a corpus, which
/// [`shards::clear`] removes.
pub fn tokenize(
    tokenizer: &TextTokenizer,
    documents: &mut TextDocuments,
    sentences: SentenceSplit,
    directory: &Path,
    shard_bytes: u64,
    mut watch: impl FnMut(u64),
) -> Result<Tokenized, Error> {
    if shards::leftover(directory)? != shards::Leftover::Corpus {
        // Also removes a hidden file, all that a run leaves which is killed in its first shard.
        shards::clear(directory)?;
    }
    let mut writer = ShardWriter::create(directory, tokenizer.hash, tokenizer.vocab_size, shard_bytes)?;
    let mut counts = Tokenized::default();
    while let Some(batch) = documents.batch()? {
        let batch: Vec<Document> =
            batch.par_iter().map(|text| tokenizer.tokenize(text, sentences)).collect::<Result<_, _>>()?;
        for document in batch.iter().filter(|document| !document.tokens.is_empty()) {
            writer.push(document)?;
            counts.documents += 1;
            counts.sentences += document.sentence_ends.len() as u64;
            counts.tokens += document.tokens.len() as u64;
            counts.unknown +=
                document.tokens.iter().filter(|&&id| Some(id) == tokenizer.unknown).count() as u64;
        }
        watch(documents.bytes_read());
    }
    counts.shards = writer.finish()?;
    Ok(counts)
}

#[cfg(test)]
mod tests;
