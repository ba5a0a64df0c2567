//! `tilewright answer`: where in a text the answer to a question stands.

use super::Common;
use super::checkpoint::{Dtype, characters, softmax};
use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;
use std::ops::Range;
use std::path::PathBuf;

/// Finds the answer to a question in a text
///
/// An answer is a span of the text; its probability is that of its first token to be the start, times
/// that of its last to be the end, among all tokens of the text. A text that is longer than the model
/// takes is read in windows that overlap.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tilewright answer --model roberta-base-squad2 --question 'Who lives in London?' \\
      --context 'Ada lives in London, and Alan in Wilmslow.'")]
pub struct Answer {
    /// Directory with config.json, tokenizer.json and model.safetensors of a ..ForQuestionAnswering
    #[arg(long, value_name = "DIR")]
    model: PathBuf,

    /// The question
    #[arg(long, value_name = "TEXT")]
    question: String,

    /// The text with the answer
    #[arg(long, value_name = "TEXT")]
    context: String,

    /// How many answers to show
    #[arg(long, value_name = "N", default_value_t = 1)]
    top_k: usize,

    /// The most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 30)]
    longest: usize,

    #[command(flatten)]
    precision: Dtype,

    #[command(flatten)]
    common: Common,
}

impl Answer {
    pub fn run(self) -> Result<()> {
        let session = self.precision.start(&self.common)?;
        let mut loaded = self.precision.load_for(&["ForQuestionAnswering"], &self.model, &session)?;
        let most = loaded.tokenizer.max_length().unwrap_or(usize::MAX).min(loaded.model.max_length());
        let (batch, places) = loaded.tokenizer.encode_windows([&self.question, &self.context], most)?;
        let outputs = loaded.model.forward(&batch)?;
        let [start, end] = &outputs[..] else { bail!("{} has no two outputs", loaded.class) };

        // Never across the question or another window.
        let in_context: Vec<usize> = (0..places.len()).filter(|&i| places[i].text == Some(1)).collect();
        let probabilities =
            |values: &[f32]| softmax(&in_context.iter().map(|&i| values[i]).collect::<Vec<_>>());
        let (start, end) = (probabilities(&start.values), probabilities(&end.values));
        let mut spans: Vec<(f64, Range<usize>)> = Vec::new();
        for first in 0..in_context.len() {
            for last in first..in_context.len().min(first.saturating_add(self.longest)) {
                // Tokens of a context follow each other; there are special ones between two windows.
                if in_context[last] - in_context[first] != last - first {
                    break;
                }
                let [from, to] = [first, last].map(|i| &places[in_context[i]].bytes);
                spans.push((start[first] * end[last], from.start..to.end));
            }
        }
        spans.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut best: Vec<(f64, Range<usize>)> = Vec::new();
        for span in spans {
            if best.len() == self.top_k {
                break;
            }
            // The same words may have been in two windows.
            if best.iter().all(|(_, bytes)| *bytes != span.1) {
                best.push(span);
            }
        }
        if best.is_empty() {
            bail!("no answer: the context has no tokens, or --top-k or --longest is 0");
        }

        let text = |bytes: &Range<usize>| self.context.get(bytes.clone()).unwrap_or_default();
        if session.json {
            let answers: Vec<_> = best
                .iter()
                .map(|(probability, bytes)| {
                    json!({
                        "answer": text(bytes),
                        "probability": probability,
                        "characters": characters(&self.context, bytes),
                    })
                })
                .collect();
            return session.print_json(json!({
                "architecture": loaded.class,
                "question": self.question,
                "windows": batch.len(),
                "answers": answers,
            }));
        }
        session.say(&format!("\n{:>11}  {:>11}  answer", "probability", "characters"))?;
        for (probability, bytes) in &best {
            let [from, to] = characters(&self.context, bytes);
            session.say(&format!("{probability:11.4}  {:>11}  {}", format!("{from}..{to}"), text(bytes)))?;
        }
        Ok(())
    }
}
