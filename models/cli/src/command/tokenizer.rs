//! `tilewright tokenizer`: tokenizers trained on text.

use super::Common;
use super::text::{Text, progress};
use anyhow::Result;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;
use tilewright::train::data::tokenizer_training::{Family, TokenizerTraining};

/// Trains a tokenizer
#[derive(Debug, Args)]
pub struct Tokenizer {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Train(Box<Train>),
}

/// Trains a tokenizer of a model family on text
///
/// Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json, which transformers' AutoTokenizer loads.
/// BERT and ELECTRA have WordPiece; RoBERTa, BART and GPT-2 byte-level BPE; LLaMA BPE with byte fallback; T5 and
/// ALBERT a unigram model. The same text gives the same bytes, on any number of threads.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tilewright tokenizer train --family bert --lowercase --vocab-size 30000 --out bert-tokenizer corpus/
  tilewright tokenizer train --family gpt2 --vocab-size 50257 --sentences whole --out gpt2-tokenizer web.jsonl.zst
  tilewright tokenizer train --family t5 --vocab-size 32100 --out t5-tokenizer corpus/ --json | jq .vocab_size")]
struct Train {
    /// Family of the model
    #[arg(long, value_name = "FAMILY", value_parser = family())]
    family: Family,

    /// Size of the vocabulary, special tokens included; little text gives fewer tokens
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    vocab_size: u32,

    /// Directory for the files
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Lower-case text and strip its accents: bert, electra, albert
    #[arg(long)]
    lowercase: bool,

    /// Smallest number of appearances of a merge, in WordPiece and BPE
    #[arg(long, value_name = "N", default_value_t = 2)]
    min_frequency: u64,

    /// Largest number of characters that are tokens; words with rarer ones are left out. Byte-level BPE knows all
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    alphabet: u32,

    /// Longest sequence that the model will take, in tokens [default: the published models']
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_length: Option<u32>,

    #[command(flatten)]
    text: Text,

    #[command(flatten)]
    common: Common,
}

/// Parses the name of a family.
pub fn family() -> impl TypedValueParser<Value = Family> {
    PossibleValuesParser::new(Family::ALL.map(Family::name)).map(|name| {
        Family::ALL.into_iter().find(|family| family.name() == name).expect("one of the possible values")
    })
}

impl Tokenizer {
    pub fn run(self) -> Result<()> {
        match self.action {
            Action::Train(args) => args.run(),
        }
    }
}

impl Train {
    fn run(self) -> Result<()> {
        let session = self.common.start()?;
        let (sources, options) = (self.text.sources()?, self.text.options());
        let default = TokenizerTraining::new(self.family, self.vocab_size as usize);
        let training = TokenizerTraining {
            lowercase: self.lowercase,
            min_frequency: self.min_frequency,
            alphabet: self.alphabet as usize,
            max_length: self.max_length.map_or(default.max_length, |n| n as usize),
            ..default
        };
        let start = Instant::now();
        let bar = progress(&sources, "of the text read");
        let mut documents = sources.documents(&options);
        let trained = training.train(&mut documents, options.sentences, |read| bar.set_position(read))?;
        bar.finish_and_clear();
        trained.write(&self.out)?;
        let seconds = start.elapsed().as_secs_f64();
        if session.json {
            return session.print_json(json!({
                "family": self.family.name(),
                "vocab_size": trained.vocab_size,
                "words": trained.words,
                "distinct_words": trained.distinct_words,
                "bytes": sources.bytes(),
                "seconds": seconds,
                "out": self.out,
            }));
        }
        session.say(&format!(
            "{}: {} tokens, from {} words, {} different ones, in {seconds:.1} s",
            self.out.display(),
            trained.vocab_size,
            trained.words,
            trained.distinct_words,
        ))?;
        if trained.vocab_size < training.vocab_size {
            session.say(&format!("note: the text gives fewer tokens than {}", training.vocab_size))?;
        }
        Ok(())
    }
}
