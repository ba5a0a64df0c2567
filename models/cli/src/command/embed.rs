//! `tilewright embed`: one vector for each text.

use super::Common;
use super::checkpoint::{self, Checkpoint, LayerPrecision};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::json;
use std::io::IsTerminal as _;
use tilewright::sentence::Embedder;

/// Turns texts into vectors; the cosine of two vectors measures how similar their texts are
///
/// The sentence-transformers files in the directory (modules.json, 1_Pooling/config.json,
/// sentence_bert_config.json) decide pooling, normalisation and the longest text.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tilewright embed --model all-minilm-l6-v2 'A cat sits on a mat.' 'A feline rests.'
  tilewright embed --model all-minilm-l6-v2 --dtype int8 'A cat sits on a mat.'
  tilewright embed --model all-minilm-l6-v2 --json < sentences.txt | jq '.embeddings[].embedding'")]
pub struct Embed {
    #[command(flatten)]
    checkpoint: Checkpoint,

    /// Texts [default: the lines of stdin]
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,

    #[command(flatten)]
    precision: LayerPrecision,

    #[command(flatten)]
    common: Common,
}

/// Texts of a batch: enough work for all threads, small enough for the cache.
const TEXTS: usize = 32;

/// Components of a vector that a table shows.
const SHOWN: usize = 4;

impl Embed {
    pub fn run(mut self) -> Result<()> {
        let session = self.precision.start(&self.common)?;
        let dtype = self.precision.dtype;
        let dir = self.checkpoint.locate()?;
        let weights = checkpoint::weights(&dir, dtype)?;
        let mut embedder = Embedder::with_weights(&dir, weights, self.precision.arithmetic(&session))?;
        if self.texts.is_empty() {
            if std::io::stdin().is_terminal() {
                bail!("no texts: pass them as arguments, or as lines on stdin");
            }
            self.texts = std::io::stdin().lines().collect::<Result<_, _>>().context("stdin")?;
        }
        let about = embedder.sentence();
        session.say(&format!(
            "{} pooling, {}normalised, texts of up to {} tokens",
            format!("{:?}", about.pooling).to_lowercase(),
            if about.normalize { "" } else { "not " },
            embedder.max_length(),
        ))?;

        let mut found = Vec::new();
        for texts in self.texts.chunks(TEXTS) {
            let (batch, width, vectors) = embedder.embed(texts)?;
            for (i, (text, vector)) in texts.iter().zip(vectors.chunks_exact(width)).enumerate() {
                let tokens = batch.starts()[i + 1] - batch.starts()[i];
                if session.json {
                    found.push(json!({ "text": text, "tokens": tokens, "embedding": vector }));
                } else {
                    let shown: String = vector.iter().take(SHOWN).map(|v| format!("{v:8.4}")).collect();
                    session
                        .say(&format!("[{shown} .. {} values]  {tokens:3} tokens  {text}", vector.len()))?;
                }
            }
        }
        if session.json {
            session.print_json(json!({
                "pooling": format!("{:?}", about.pooling).to_lowercase(),
                "normalized": about.normalize,
                "embeddings": found,
            }))?;
        }
        Ok(())
    }
}
