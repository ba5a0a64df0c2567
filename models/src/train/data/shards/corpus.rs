//! Reading token shards.

use super::header::{HEADER_BYTES, Header, TokenizerHash};
use super::path;
use super::read_at::ReadAt;
use crate::checkpoint::files;
use crate::error::Error;
use crate::train::data::{Corpus, Document};
use std::path::{Path, PathBuf};

/// A corpus in the token shards of a directory. Memory holds 8 bytes for each document; tokens stay on the disk.
#[derive(Debug)]
pub struct ShardedCorpus {
    shards: Vec<Shard>,
    /// Exclusive end of the documents of each shard.
    ends: Vec<usize>,
    tokens: u64,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: ReadAt,
    header: Header,
    /// Exclusive ends of each document's [tokens, sentences], counted from the start of the shard.
    documents: Vec<[u32; 2]>,
}

/// Bytes that [`ShardedCorpus::verify`] reads at once.
const BLOCK: usize = 1 << 20;

impl ShardedCorpus {
    /// Opens the shards in `directory`. Reads their headers and ends of documents, and no token.
    ///
    /// # Errors
    /// If there is no shard; if the last is missing; if one is damaged, cut off, of another version, or of another
    /// corpus than the first.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let mut shards: Vec<Shard> = Vec::new();
        let (mut ends, mut documents, mut tokens) = (Vec::new(), 0, 0);
        loop {
            let file = path(directory, shards.len());
            if !shards.is_empty() && !files::exists(&file) {
                let why = format!(
                    "{} shards, none of which is the last: tokenizing was interrupted; run it again",
                    shards.len()
                );
                return Err(Error::File { path: directory.to_owned(), why });
            }
            let shard = Shard::open(file)?;
            let header = &shard.header;
            if header.number as usize != shards.len() {
                return Err(shard.error(format!("is shard {}, moved or renamed", header.number)));
            }
            if let Some(first) = shards.first() {
                let of = |header: &Header| (header.vocab_size, header.tokenizer);
                if of(header) != of(&first.header) {
                    return Err(shard.error("is of another tokenizer than shard 0".to_owned()));
                }
            }
            documents += shard.documents.len();
            tokens += u64::from(header.tokens);
            ends.push(documents);
            let is_last = header.is_last;
            shards.push(shard);
            if is_last {
                return Ok(Self { shards, ends, tokens });
            }
        }
    }

    /// Number of tokens of all documents.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Number of sentences of all documents.
    pub fn sentences(&self) -> u64 {
        self.shards.iter().map(|shard| u64::from(shard.header.sentences)).sum()
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Size of the vocabulary. Every id is below it.
    pub fn vocab_size(&self) -> usize {
        self.shards[0].header.vocab_size as usize
    }

    /// Hash of the tokenizer.json that made the tokens.
    pub fn tokenizer(&self) -> TokenizerHash {
        self.shards[0].header.tokenizer
    }

    /// Checks that `tokenizer`, the hash of the file `path`, made the tokens.
    ///
    /// # Errors
    /// If another tokenizer did.
    pub fn check_tokenizer(&self, path: &Path, tokenizer: TokenizerHash) -> Result<(), Error> {
        if tokenizer == self.tokenizer() {
            return Ok(());
        }
        let (shard, expected) = (self.shards[0].path.display(), self.tokenizer());
        let why = format!("SHA-256 is {tokenizer}; the tokenizer of {shard} has {expected}");
        Err(Error::File { path: path.to_owned(), why })
    }

    /// Reads a document.
    ///
    /// # Errors
    /// As [`Corpus::read`].
    ///
    /// # Panics
    /// If `document` is not below [`documents`](Corpus::documents).
    pub fn document(&self, document: usize) -> Result<Document, Error> {
        let mut read = Document::default();
        self.read(document, &mut read)?;
        Ok(read)
    }

    /// Reads all shards and checks their checksums. `watch` learns the number of bytes of each read.
    ///
    /// # Errors
    /// If a shard cannot be read or is damaged.
    pub fn verify(&self, mut watch: impl FnMut(u64)) -> Result<(), Error> {
        let mut block = vec![0; BLOCK];
        for shard in &self.shards {
            let [mut at, .., end] = shard.header.positions();
            let mut crc = crc32fast::Hasher::new();
            while at < end {
                let block = &mut block[..(end - at).min(BLOCK as u64) as usize];
                shard.read(block, at)?;
                crc.update(block);
                at += block.len() as u64;
                watch(block.len() as u64);
            }
            let (found, stored) = (crc.finalize(), shard.header.payload_crc);
            if found != stored {
                return Err(shard.error(format!(
                    "is damaged: the checksum of its content is {found:08x}, its header says {stored:08x}"
                )));
            }
        }
        Ok(())
    }

    /// The shard of a document, and the document's number in it.
    fn find(&self, document: usize) -> (&Shard, usize) {
        assert!(document < self.documents(), "document {document} of {}", self.documents());
        let shard = self.ends.partition_point(|&end| end <= document);
        let start = if shard == 0 { 0 } else { self.ends[shard - 1] };
        (&self.shards[shard], document - start)
    }
}

impl Corpus for ShardedCorpus {
    fn documents(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    fn len_of(&self, document: usize) -> usize {
        let (shard, document) = self.find(document);
        let [(start, end), _] = shard.ranges(document);
        (end - start) as usize
    }

    fn read(&self, document: usize, into: &mut Document) -> Result<(), Error> {
        let (shard, number) = self.find(document);
        let [tokens, sentences] = shard.ranges(number);
        let [ids, ends, ..] = shard.header.positions();
        let width = shard.header.width();
        let mut bytes = vec![0; (tokens.1 - tokens.0) as usize * width];
        shard.read(&mut bytes, ids + u64::from(tokens.0) * width as u64)?;
        into.tokens.clear();
        match width {
            2 => into.tokens.extend(bytes.as_chunks().0.iter().map(|&b| u32::from(u16::from_le_bytes(b)))),
            _ => into.tokens.extend(bytes.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b))),
        }
        bytes.resize(4 * (sentences.1 - sentences.0) as usize, 0);
        shard.read(&mut bytes, ends + 4 * u64::from(sentences.0))?;
        into.sentence_ends.clear();
        into.sentence_ends.extend(bytes.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b) as usize));

        let id = into.tokens.iter().find(|&&id| id >= shard.header.vocab_size);
        let ends = &into.sentence_ends;
        let why = if let Some(id) = id {
            format!("id {id} is not below {}, the size of the vocabulary", shard.header.vocab_size)
        } else if !ends.is_sorted_by(|a, b| a < b) || ends.last().copied().unwrap_or(0) != into.tokens.len() {
            "the ends of sentences do not ascend to the number of tokens".to_owned()
        } else {
            return Ok(());
        };
        Err(shard.error(format!("is damaged in document {number}: {why}")))
    }
}

/// Reads the header of the file `path`, which has `bytes` bytes.
pub(super) fn read_header(path: &Path, file: &ReadAt, bytes: u64) -> Result<Header, Error> {
    if bytes < HEADER_BYTES as u64 {
        let why = format!("is cut off: it has {bytes} bytes, a token shard has at least {HEADER_BYTES}");
        return Err(Error::File { path: path.to_owned(), why });
    }
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    Header::from_bytes(path, &header, bytes)
}

impl Shard {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let (file, bytes) = files::open(&path)?;
        let file = ReadAt::new(file);
        let header = read_header(&path, &file, bytes)?;
        let mut shard = Self { path, file, header, documents: Vec::new() };
        // The header fits the file's length, so its counts are no larger than the file.
        let [.., at, end] = shard.header.positions();
        let mut documents = vec![0; (end - at) as usize];
        shard.read(&mut documents, at)?;
        let ends = documents.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect::<Vec<_>>();
        shard.documents = ends.as_chunks().0.to_vec();
        let total = [shard.header.tokens, shard.header.sentences];
        let ascend = shard.documents.is_sorted_by(|a, b| a[0] <= b[0] && a[1] <= b[1]);
        if !ascend || shard.documents.last().copied().unwrap_or([0; 2]) != total {
            let why =
                "is damaged: the ends of documents do not ascend to the numbers of tokens and sentences";
            return Err(shard.error(why.to_owned()));
        }
        Ok(shard)
    }

    /// Ranges of a document's [tokens, sentences], counted from the start of the shard.
    fn ranges(&self, document: usize) -> [(u32, u32); 2] {
        let starts = if document == 0 { [0; 2] } else { self.documents[document - 1] };
        let ends = self.documents[document];
        [(starts[0], ends[0]), (starts[1], ends[1])]
    }

    fn read(&self, into: &mut [u8], position: u64) -> Result<(), Error> {
        self.file.read_exact_at(into, position).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                self.error(format!("was cut off since it was opened: no {} bytes at {position}", into.len()))
            }
            _ => Error::Io { path: self.path.clone(), source: e },
        })
    }

    fn error(&self, why: String) -> Error {
        Error::File { path: self.path.clone(), why }
    }
}
