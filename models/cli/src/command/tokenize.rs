//! `tilewright tokenize`: text to token shards.

use super::Common;
use super::text::{Text, progress};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;
use tilewright::train::data::shards::{self, Leftover, SHARD_BYTES};
use tilewright::train::data::{TextTokenizer, tokenize};

/// Turns text into token shards, once, for every later pre-training
///
/// Shards hold documents, their sentences and their tokens, without special tokens: each recipe adds its own. Special
/// tokens that are written in the text are text. The shards' bytes do not depend on the number of threads. An
/// interrupted run leaves no shard half-written; the next run starts over.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tilewright tokenize --tokenizer bert-tokenizer --out shards corpus/
  tilewright tokenize --tokenizer gpt2/tokenizer.json --out shards --sentences whole web-1.jsonl.gz web-2.jsonl.gz
  tilewright tokenize --tokenizer bert-tokenizer --out shards --documents files --sentences punctuation books/ --json")]
pub struct Tokenize {
    /// tokenizer.json, or its directory
    #[arg(long, value_name = "DIR_OR_JSON")]
    tokenizer: PathBuf,

    /// Directory for the shards
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Size of a shard, in MiB
    #[arg(long, value_name = "N", default_value_t = SHARD_BYTES >> 20, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    shard_size: u64,

    /// Remove the corpus that --out holds
    #[arg(long)]
    overwrite: bool,

    #[command(flatten)]
    text: Text,

    #[command(flatten)]
    common: Common,
}

impl Tokenize {
    pub fn run(self) -> Result<()> {
        let session = self.common.start()?;
        let (sources, options) = (self.text.sources()?, self.text.options());
        let tokenizer = TextTokenizer::open(&self.tokenizer).context("--tokenizer")?;
        if shards::leftover(&self.out)? == Leftover::Corpus {
            if !self.overwrite {
                bail!("{}: already holds token shards: --overwrite removes them", self.out.display());
            }
            shards::clear(&self.out)?;
        }
        let start = Instant::now();
        let bar = progress(&sources, "tokenized");
        let (mut documents, bytes) = (sources.documents(&options), self.shard_size << 20);
        let counts = tokenize(&tokenizer, &mut documents, options.sentences, &self.out, bytes, |read| {
            bar.set_position(read);
        })?;
        bar.finish_and_clear();
        let seconds = start.elapsed().as_secs_f64();
        let speed = counts.tokens as f64 / seconds;
        let unknown = counts.unknown as f64 / counts.tokens.max(1) as f64;
        if session.json {
            return session.print_json(json!({
                "documents": counts.documents,
                "sentences": counts.sentences,
                "tokens": counts.tokens,
                "unknown_share": unknown,
                "shards": counts.shards,
                "vocab_size": tokenizer.vocab_size(),
                "tokenizer_sha256": tokenizer.hash().to_string(),
                "bytes": sources.bytes(),
                "seconds": seconds,
                "tokens_per_second": speed,
                "out": self.out,
            }));
        }
        session.say(&format!(
            "{}: {} documents, {} sentences, {} tokens ({:.3}% unknown) in {} shard{}, {speed:.0} tokens/s",
            self.out.display(),
            counts.documents,
            counts.sentences,
            counts.tokens,
            100.0 * unknown,
            counts.shards,
            if counts.shards == 1 { "" } else { "s" },
        ))
    }
}
