//! Text sources of a subcommand: FILES, `--documents`, `--sentences`, `--field`, `--max-bytes`.

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use std::path::PathBuf;
use tilewright::train::data::text::{DocumentSplit, MAX_BYTES, SentenceSplit, TextOptions, TextSources};

/// Text files, and what is a document and a sentence in them.
#[derive(Debug, Args)]
pub struct Text {
    /// Files, and directories to search for .txt, .jsonl and .ndjson, each with or without .gz, .zst or .zstd. JSON
    /// Lines hold one document a line. Directories are read in the order of their files' names
    #[arg(required = true, value_name = "FILES")]
    files: Vec<PathBuf>,

    /// Documents in plain text: separated by blank lines, or one a line, or one a file
    #[arg(long, value_name = "SPLIT", default_value = "blank-lines")]
    documents: Documents,

    /// Sentences in a document: one a line; or running text, split after `.`, `!` and `?` before an upper-case letter or
    /// quote, and at blank lines; or the whole document. Lines are tokenized one by one, other documents in one piece
    #[arg(long, value_name = "SPLIT", default_value = "lines")]
    sentences: Sentences,

    /// Field of JSON Lines that holds the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    field: String,

    /// Longest line and longest document, in bytes
    #[arg(long, value_name = "N", default_value_t = MAX_BYTES as u64, value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    max_bytes: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Documents {
    BlankLines,
    Lines,
    Files,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sentences {
    Lines,
    Punctuation,
    Whole,
}

impl Text {
    /// Finds the files.
    pub fn sources(&self) -> Result<TextSources> {
        TextSources::find(&self.files).context("text")
    }

    /// Form of the files.
    pub fn options(&self) -> TextOptions {
        TextOptions {
            documents: match self.documents {
                Documents::BlankLines => DocumentSplit::BlankLines,
                Documents::Lines => DocumentSplit::Lines,
                Documents::Files => DocumentSplit::Files,
            },
            sentences: match self.sentences {
                Sentences::Lines => SentenceSplit::Lines,
                Sentences::Punctuation => SentenceSplit::Punctuation,
                Sentences::Whole => SentenceSplit::Whole,
            },
            field: self.field.clone(),
            max_bytes: self.max_bytes as usize,
        }
    }
}

/// Progress bar over the bytes of `sources`.
pub fn progress(sources: &TextSources, message: &'static str) -> ProgressBar {
    ProgressBar::new(sources.bytes()).with_style(super::style::progress()).with_message(message)
}
