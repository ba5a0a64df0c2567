//! Header of a token shard.

use crate::error::Error;
use sha2::{Digest as _, Sha256};
use std::path::Path;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 88;

/// First bytes of a shard.
const MAGIC: [u8; 8] = *b"TWTOKENS";

/// Version of the format.
const VERSION: u32 = 1;

/// SHA-256 of a tokenizer.json. Tokens mean nothing without their tokenizer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenizerHash(pub [u8; 32]);

impl TokenizerHash {
    /// Hash of the content of a tokenizer.json.
    pub fn of(tokenizer_json: &[u8]) -> Self {
        Self(Sha256::digest(tokenizer_json).into())
    }
}

impl std::fmt::Display for TokenizerHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for TokenizerHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenizerHash({self})")
    }
}

/// Header of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of the shard, from 0.
    pub number: u32,
    /// True if the corpus ends with this shard.
    pub is_last: bool,
    /// Size of the vocabulary. Every id is below it.
    pub vocab_size: u32,
    /// Number of tokens.
    pub tokens: u32,
    /// Number of sentences.
    pub sentences: u32,
    /// Number of documents.
    pub documents: u32,
    /// Tokenizer of the corpus.
    pub tokenizer: TokenizerHash,
    /// CRC-32 of all bytes after the header.
    pub payload_crc: u32,
}

impl Header {
    /// Bytes of a token: 2 or 4.
    pub fn width(&self) -> usize {
        if self.vocab_size <= 1 << 16 { 2 } else { 4 }
    }

    /// Position in the file of [ids, ends of sentences, ends of documents, end of the file]. Counts are below 2^32, so
    /// no sum overflows.
    pub fn positions(&self) -> [u64; 4] {
        let ids = HEADER_BYTES as u64;
        let sentences = ids + u64::from(self.tokens) * self.width() as u64;
        let documents = sentences + 4 * u64::from(self.sentences);
        [ids, sentences, documents, documents + 8 * u64::from(self.documents)]
    }

    /// Bytes of the header in a file.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        let numbers = [
            VERSION,
            self.width() as u32,
            self.number,
            self.is_last.into(),
            self.vocab_size,
            self.tokens,
            self.sentences,
            self.documents,
        ];
        for (into, number) in bytes[8..].chunks_exact_mut(4).zip(numbers) {
            into.copy_from_slice(&number.to_le_bytes());
        }
        bytes[40..72].copy_from_slice(&self.tokenizer.0);
        bytes[72..76].copy_from_slice(&self.payload_crc.to_le_bytes());
        // 8 bytes are zero.
        let crc = crc32fast::hash(&bytes[..84]);
        bytes[84..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header of the file `path` from `bytes`, its first bytes. `file_bytes` is the length of the file.
    ///
    /// # Errors
    /// If the file is no shard, has another version, is damaged, or has another length than the header says.
    pub fn from_bytes(path: &Path, bytes: &[u8; HEADER_BYTES], file_bytes: u64) -> Result<Self, Error> {
        let error = |why: String| Error::File { path: path.to_owned(), why };
        let number = |i: usize| u32::from_le_bytes(bytes[4 * i..][..4].try_into().expect("four bytes"));
        if bytes[..8] != MAGIC {
            return Err(error("is no token shard: it does not start with TWTOKENS".to_owned()));
        }
        if number(2) != VERSION {
            let found = number(2);
            return Err(error(format!("is a token shard of version {found}: expected version {VERSION}")));
        }
        let crc = crc32fast::hash(&bytes[..84]);
        if number(21) != crc {
            let stored = number(21);
            return Err(error(format!(
                "the header is damaged: its checksum is {crc:08x}, the file states {stored:08x}"
            )));
        }
        let header = Self {
            number: number(4),
            is_last: number(5) != 0,
            vocab_size: number(6),
            tokens: number(7),
            sentences: number(8),
            documents: number(9),
            tokenizer: TokenizerHash(bytes[40..72].try_into().expect("32 bytes")),
            payload_crc: number(18),
        };
        let [.., end] = header.positions();
        match file_bytes.cmp(&end) {
            std::cmp::Ordering::Less => {
                Err(error(format!("is cut off: it has {file_bytes} bytes, its header says {end}")))
            }
            std::cmp::Ordering::Greater => Err(error(format!(
                "has {} bytes after its end: it has {file_bytes} bytes, its header says {end}",
                file_bytes - end
            ))),
            // A header as we write it is its own bytes again: width, flag and reserved bytes are as expected.
            std::cmp::Ordering::Equal if header.to_bytes() == *bytes => Ok(header),
            std::cmp::Ordering::Equal => Err(error(format!(
                "the header does not fit itself: {} bytes a token for a vocabulary of {}",
                number(3),
                header.vocab_size
            ))),
        }
    }
}
