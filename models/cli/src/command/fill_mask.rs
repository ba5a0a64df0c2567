//! `tilewright fill-mask`: the words that a masked language model predicts at a mask.

use super::Common;
use super::checkpoint::{Checkpoint, LayerPrecision, most_probable};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::json;
use tilewright::architectures::Architecture;
use tilewright::checkpoint::tokenizer::Tokenizer;
use tilewright::output::{Each, Output};

/// Fills the masks in a text with the most probable words
///
/// The model is a masked language model. GGUF files do not hold its head.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tilewright fill-mask --model bert-base-uncased 'The capital of France is [MASK].'
  tilewright fill-mask --model bert-base-uncased --dtype int8 --top-k 3 'The [MASK] sat on the [MASK].'")]
pub struct FillMask {
    #[command(flatten)]
    checkpoint: Checkpoint,

    /// Text with one or more masks in the tokenizer's spelling: [MASK] or <mask>
    #[arg(value_name = "TEXT")]
    text: String,

    /// Number of words to show for each mask
    #[arg(long, value_name = "N", default_value_t = 5)]
    top_k: usize,

    #[command(flatten)]
    precision: LayerPrecision,

    #[command(flatten)]
    common: Common,
}

impl FillMask {
    pub fn run(self) -> Result<()> {
        let session = self.precision.start(&self.common)?;
        let dir = self.checkpoint.locate()?;
        let tokenizer = Tokenizer::open(&dir)?;
        let mask = tokenizer.mask();
        let mask_id = tokenizer.id(mask).with_context(|| format!("the vocabulary has no {mask}"))?;
        let batch = tokenizer.encode(&[&self.text])?;
        let masks: Vec<usize> = (0..batch.tokens()).filter(|&i| batch.ids()[i] == mask_id).collect();
        if masks.is_empty() {
            bail!("no {mask} in the text {:?}", self.text);
        }
        let architecture = Architecture::of(&dir)?;
        let mut model = self.precision.load(architecture, &dir, &session)?;
        let most = model.max_length();
        if batch.tokens() > most {
            bail!("the text has {} tokens; the model takes at most {most}", batch.tokens());
        }
        let outputs = model.forward(&batch)?;
        let is_scores =
            |o: &&Output| o.each == Each::Token && ["logits", "prediction_logits"].contains(&o.name);
        let Some(scores) = outputs.iter().find(is_scores) else {
            bail!("{} in {} has no head that predicts words", architecture.class, dir.display());
        };

        let mut found = Vec::new();
        for (nth, &at) in masks.iter().enumerate() {
            let scores = &scores.values[at * scores.width..][..scores.width];
            let mut best = Vec::new();
            for (id, probability) in most_probable(scores, self.top_k) {
                let mut ids = batch.ids().to_vec();
                ids[at] = id;
                let token = tokenizer.token(id).unwrap_or_else(|| format!("id {id}"));
                best.push((probability, token, tokenizer.decode(&ids)?));
            }
            if session.json {
                found.push(json!({
                    "mask": nth,
                    "position": at,
                    "words": best.iter().map(|(probability, token, text)| {
                        json!({ "probability": probability, "token": token, "text": text })
                    }).collect::<Vec<_>>(),
                }));
                continue;
            }
            session.say(&format!(
                "\nmask {} of {}\n{:>11}  {:16}  text",
                nth + 1,
                masks.len(),
                "probability",
                "token"
            ))?;
            for (probability, token, text) in best {
                session.say(&format!("{probability:11.4}  {token:16}  {text}"))?;
            }
        }
        if session.json {
            session.print_json(
                json!({ "architecture": architecture.class, "text": self.text, "masks": found }),
            )?;
        }
        Ok(())
    }
}
