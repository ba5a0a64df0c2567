//! Writing token shards.

use super::header::{HEADER_BYTES, Header, TokenizerHash};
use super::path;
use crate::checkpoint::files;
use crate::error::Error;
use crate::train::data::Document;
use crate::whole_file::{Draft, sync_directory};
use std::io::{BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// Default size of a shard.
pub const SHARD_BYTES: u64 = 256 << 20;

/// Writer of a corpus: documents in order, a shard after the other. Every shard is written under a hidden name and
/// renamed once it is whole and on the disk.
#[derive(Debug)]
pub struct ShardWriter {
    directory: PathBuf,
    tokenizer: TokenizerHash,
    vocab_size: u32,
    shard_bytes: u64,
    shard: Shard,
    number: u32,
}

/// The shard that is being written.
#[derive(Debug)]
struct Shard {
    draft: Draft,
    /// Ids not yet written.
    buffer: Vec<u8>,
    crc: crc32fast::Hasher,
    tokens: u32,
    /// Ends of sentences and documents, as in the file.
    sentences: Vec<u8>,
    documents: Vec<u8>,
}

/// Bytes of tokens that are written at once.
const BUFFER: usize = 1 << 20;

impl ShardWriter {
    /// Begins a corpus in `directory`, which is created if it does not exist. A shard has about `shard_bytes`, or one
    /// document if that is longer.
    ///
    /// # Errors
    /// If `directory` cannot be written or has shards: see [`clear`].
    pub fn create(
        directory: &Path,
        tokenizer: TokenizerHash,
        vocab_size: u32,
        shard_bytes: u64,
    ) -> Result<Self, Error> {
        std::fs::create_dir_all(directory)
            .map_err(|source| Error::Io { path: directory.to_owned(), source })?;
        if leftover(directory)? != Leftover::Nothing {
            let why = "already holds token shards".to_owned();
            return Err(Error::File { path: directory.to_owned(), why });
        }
        let shard = Shard::create(directory, 0)?;
        Ok(Self { directory: directory.to_owned(), tokenizer, vocab_size, shard_bytes, shard, number: 0 })
    }

    /// Adds a document.
    ///
    /// # Errors
    /// If the disk cannot be written; if an id is not below the size of the vocabulary; if the ends of sentences do not
    /// ascend to the number of tokens; if the document has 2^31 tokens or more.
    pub fn push(&mut self, document: &Document) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::Input { name: "document", why });
        let tokens = document.tokens.len();
        if let Some(id) = document.tokens.iter().find(|&&id| id >= self.vocab_size) {
            return refuse(format!("id {id} is not below {}, the size of the vocabulary", self.vocab_size));
        }
        let ends = &document.sentence_ends;
        if !ends.is_sorted_by(|a, b| a < b) || ends.last().copied().unwrap_or(0) != tokens {
            return refuse(format!("{tokens} tokens: the ends of sentences do not ascend to this number"));
        }
        if tokens >= 1 << 31 {
            return refuse(format!("{tokens} tokens: a document may have 2^31 - 1"));
        }
        let header = self.header(false);
        let [.., end] = header.positions();
        let more = (tokens * header.width() + 4 * ends.len() + 8) as u64;
        // Below 2^31, so that no count in the shard reaches 2^32.
        let is_full =
            end + more > self.shard_bytes || header.tokens >= 1 << 31 || header.documents >= 1 << 31;
        if header.documents > 0 && is_full {
            let next = Shard::create(&self.directory, self.number + 1)?;
            let header = self.header(false);
            std::mem::replace(&mut self.shard, next).finish(header)?;
            self.number += 1;
        }
        let shard = &mut self.shard;
        match header.width() {
            2 => shard.buffer.extend(document.tokens.iter().flat_map(|&id| (id as u16).to_le_bytes())),
            _ => shard.buffer.extend(document.tokens.iter().flat_map(|id| id.to_le_bytes())),
        }
        shard.tokens += tokens as u32;
        shard.sentences.extend(ends.iter().flat_map(|&end| (end as u32).to_le_bytes()));
        let sentences = (shard.sentences.len() / 4) as u32;
        shard.documents.extend([shard.tokens, sentences].into_iter().flat_map(u32::to_le_bytes));
        if shard.buffer.len() >= BUFFER { shard.flush() } else { Ok(()) }
    }

    /// Writes the last shard, which completes the corpus. Returns the number of shards.
    ///
    /// # Errors
    /// If the disk cannot be written.
    pub fn finish(self) -> Result<usize, Error> {
        let header = self.header(true);
        self.shard.finish(header)?;
        Ok(self.number as usize + 1)
    }

    /// Header of the shard as far as it is written.
    fn header(&self, is_last: bool) -> Header {
        Header {
            number: self.number,
            is_last,
            vocab_size: self.vocab_size,
            tokens: self.shard.tokens,
            sentences: (self.shard.sentences.len() / 4) as u32,
            documents: (self.shard.documents.len() / 8) as u32,
            tokenizer: self.tokenizer,
            payload_crc: 0,
        }
    }
}

impl Shard {
    fn create(directory: &Path, number: u32) -> Result<Self, Error> {
        let draft = Draft::create(&path(directory, number as usize))?;
        // The header follows once its checksums are known.
        draft.file().seek(SeekFrom::Start(HEADER_BYTES as u64)).map_err(|source| draft.error(source))?;
        let (buffer, sentences, documents) = Default::default();
        Ok(Self { draft, buffer, crc: crc32fast::Hasher::new(), tokens: 0, sentences, documents })
    }

    /// Writes the buffered ids.
    fn flush(&mut self) -> Result<(), Error> {
        self.crc.update(&self.buffer);
        self.draft.file().write_all(&self.buffer).map_err(|source| self.draft.error(source))?;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self, mut header: Header) -> Result<(), Error> {
        self.flush()?;
        self.crc.update(&self.sentences);
        self.crc.update(&self.documents);
        header.payload_crc = self.crc.clone().finalize();
        let write = || {
            let mut file = BufWriter::new(self.draft.file());
            file.write_all(&self.sentences)?;
            file.write_all(&self.documents)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header.to_bytes())?;
            file.flush()
        };
        write().map_err(|source| self.draft.error(source))?;
        self.draft.rename_durably()
    }
}

/// Shards that an earlier run left in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// No shard.
    Nothing,
    /// Shards of a run that was interrupted: none says that it is the last.
    Interrupted,
    /// A corpus, or damaged shards.
    Corpus,
}

/// Tells what `directory` holds.
///
/// # Errors
/// If the directory or a shard cannot be read.
pub fn leftover(directory: &Path) -> Result<Leftover, Error> {
    let mut number = 0;
    while files::exists(&path(directory, number)) {
        let (file, bytes) = files::open(&path(directory, number))?;
        match super::corpus::read_header(&path(directory, number), &super::read_at::ReadAt::new(file), bytes)
        {
            Ok(header) if !header.is_last => number += 1,
            _ => return Ok(Leftover::Corpus),
        }
    }
    Ok(if number == 0 { Leftover::Nothing } else { Leftover::Interrupted })
}

/// Removes all shards in `directory`, and hidden ones that an interrupted run left. Removes the last shard first, so
/// that an interruption of this call leaves no corpus that looks whole.
///
/// # Errors
/// If the directory cannot be read or written.
pub fn clear(directory: &Path) -> Result<(), Error> {
    let io = |source| Error::Io { path: directory.to_owned(), source };
    let entries = match std::fs::read_dir(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(io)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(io)?.file_name().into_string().unwrap_or_default();
        // `shard-00000.tokens`, or `.shard-00000.tokens.` and a process.
        let number =
            name.trim_start_matches('.').strip_prefix("shard-").and_then(|rest| rest.split_once(".tokens"));
        if let Some((number, _)) = number.filter(|(number, _)| number.parse::<u32>().is_ok()) {
            names.push((number.parse::<u32>().unwrap_or(0), name.clone()));
        }
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    for (_, name) in names {
        let path = directory.join(name);
        std::fs::remove_file(&path).map_err(|source| Error::Io { path, source })?;
        sync_directory(directory)?;
    }
    Ok(())
}
