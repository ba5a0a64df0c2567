//! Token shards: a corpus of token ids in files, written once and read by position.
//!
//! A corpus is a directory of `shard-00000.tokens`, `shard-00001.tokens` and so on. Numbers are little-endian.
//!
//! | bytes | content of a shard |
//! |---|---|
//! | [`HEADER_BYTES`] | [`Header`], with a checksum of itself and one of all that follows |
//! | `tokens` x `width` | ids of the tokens, u16 if the vocabulary has at most 65,536 tokens, else u32 |
//! | `sentences` x 4 | u32: exclusive end of each sentence, counted from the start of its document |
//! | `documents` x 8 | u32, u32: exclusive ends of each document's tokens and sentences, counted from the start of the shard |
//!
//! Checksums are CRC-32 as in gzip. The last shard says that it is the last, and it is written last: a directory
//! without one was left by an interrupted run, and is refused.
//!
//! Reading is by positional reads instead of a memory map. This crate forbids unsafe code, which a map needs; and if
//! another process truncates a mapped file, the next access kills the process by SIGBUS, where a read returns an error.

mod corpus;
mod header;
mod read_at;
mod writer;

pub use corpus::ShardedCorpus;
pub use header::{HEADER_BYTES, Header, TokenizerHash};
pub use writer::{Leftover, SHARD_BYTES, ShardWriter, clear, leftover};

use std::path::{Path, PathBuf};

/// File of shard `number`.
fn path(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("shard-{number:05}.tokens"))
}

#[cfg(test)]
mod tests;
