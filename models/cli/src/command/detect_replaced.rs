//! `tilewright detect-replaced`: tokens of a text that an ELECTRA discriminator considers replaced.

use super::Common;
use super::checkpoint::{Checkpoint, LayerPrecision, characters, sigmoid};
use anyhow::Result;
use clap::Args;
use serde_json::json;
use std::io::IsTerminal as _;

/// Marks replaced tokens in a text
///
/// The model is an ElectraForPreTraining. A token counts as replaced if its probability exceeds a half.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tilewright detect-replaced --model electra-base-discriminator 'The quick brown fox fake over the lazy dog'")]
pub struct DetectReplaced {
    #[command(flatten)]
    checkpoint: Checkpoint,

    /// The text
    #[arg(value_name = "TEXT")]
    text: String,

    #[command(flatten)]
    precision: LayerPrecision,

    #[command(flatten)]
    common: Common,
}

impl DetectReplaced {
    pub fn run(self) -> Result<()> {
        let session = self.precision.start(&self.common)?;
        let mut loaded =
            self.precision.load_for(&["ElectraForPreTraining"], &self.checkpoint.locate()?, &session)?;
        let (batch, places) = loaded.tokenizer.encode_placed(&self.text, None)?;
        let logits = loaded.output(&batch, "logits")?.values;
        let tokens: Vec<_> =
            places.into_iter().zip(logits).filter(|(place, _)| place.text.is_some()).collect();
        let text = |bytes: &std::ops::Range<usize>| self.text.get(bytes.clone()).unwrap_or_default();

        if session.json {
            let tokens: Vec<_> = tokens
                .iter()
                .map(|(place, logit)| {
                    json!({
                        "token": text(&place.bytes),
                        "characters": characters(&self.text, &place.bytes),
                        "probability": sigmoid(*logit),
                        "replaced": *logit > 0.0,
                    })
                })
                .collect();
            return session.print_json(json!({
                "architecture": loaded.class,
                "text": self.text,
                "tokens": tokens,
            }));
        }
        let terminal = std::io::stdout().is_terminal();
        session.say(&format!("\n{:>11}  token", "probability"))?;
        for (place, logit) in &tokens {
            let (token, replaced) = (text(&place.bytes), *logit > 0.0);
            let token = match (replaced, terminal) {
                (false, _) => token.to_owned(),
                (true, false) => format!("{token:16}  replaced"),
                (true, true) => format!("\x1b[7m{token}\x1b[0m"),
            };
            session.say(&format!("{:11.4}  {token}", sigmoid(*logit)))?;
        }
        Ok(())
    }
}
