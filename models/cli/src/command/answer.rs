//! `tilewright answer`: the span of a text that answers a question.

use super::Common;
use super::checkpoint::{Checkpoint, LayerPrecision, characters, softmax};
use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;
use std::ops::Range;

/// Finds the answer to a question in a text
///
/// The model is a ..ForQuestionAnswering. An answer is a span of the text. Its probability is the product of
/// two: that its first token is the start, and that its last token is the end, among all tokens of the text.
/// Overlapping windows cover a text that is longer than the model's input.
///
/// The score of a span is the sum of its start logit and its end logit. A model trained on questions without an
/// answer scores "no answer" at the first token of its input; of several windows, the lowest score counts. The
/// command finds no answer if this score exceeds the best span's score by more than --no-answer-threshold.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tilewright answer --model roberta-base-squad2 --question 'Who lives in London?' \\
      --context 'Ada lives in London, and Alan in Wilmslow.'
  tilewright answer --model roberta-base-squad2 --no-answer-threshold 0 --question 'Who lives in Paris?' \\
      --context 'Ada lives in London, and Alan in Wilmslow.'")]
pub struct Answer {
    #[command(flatten)]
    checkpoint: Checkpoint,

    /// The question
    #[arg(long, value_name = "TEXT")]
    question: String,

    /// The text to search
    #[arg(long, value_name = "TEXT")]
    context: String,

    /// Number of answers to show
    #[arg(long, value_name = "N", default_value_t = 1)]
    top_k: usize,

    /// Find no answer if the score of "no answer" exceeds the best span's score by more than X [default: always answer]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    no_answer_threshold: Option<f32>,

    /// Largest number of tokens in an answer
    #[arg(long, value_name = "N", default_value_t = 30)]
    longest: usize,

    #[command(flatten)]
    precision: LayerPrecision,

    #[command(flatten)]
    common: Common,
}

/// A candidate answer: a part of the context.
struct AnswerSpan {
    probability: f64,
    /// Start logit + end logit.
    score: f32,
    bytes: Range<usize>,
}

impl Answer {
    pub fn run(self) -> Result<()> {
        let session = self.precision.start(&self.common)?;
        let mut loaded =
            self.precision.load_for(&["ForQuestionAnswering"], &self.checkpoint.locate()?, &session)?;
        let most = loaded.tokenizer.max_length().unwrap_or(usize::MAX).min(loaded.model.max_length());
        let (batch, places) = loaded.tokenizer.encode_windows([&self.question, &self.context], most)?;
        let outputs = loaded.model.forward(&batch)?;
        let [start, end] = &outputs[..] else { bail!("{} has no two outputs", loaded.class) };

        // Spans lie in the context alone, and in one window.
        let in_context: Vec<usize> = (0..places.len()).filter(|&i| places[i].text == Some(1)).collect();
        let probabilities =
            |values: &[f32]| softmax(&in_context.iter().map(|&i| values[i]).collect::<Vec<_>>());
        let score = |first: usize, last: usize| start.values[first] + end.values[last];
        let first_tokens = &batch.starts()[..batch.len()];
        let null_score = first_tokens.iter().map(|&i| score(i, i)).fold(f32::INFINITY, f32::min);
        let (starts, ends) = (probabilities(&start.values), probabilities(&end.values));
        let mut spans: Vec<AnswerSpan> = Vec::new();
        for first in 0..in_context.len() {
            for last in first..in_context.len().min(first.saturating_add(self.longest)) {
                // Special tokens separate two windows, so a gap in the places ends the window.
                if in_context[last] - in_context[first] != last - first {
                    break;
                }
                let [from, to] = [first, last].map(|i| &places[in_context[i]].bytes);
                spans.push(AnswerSpan {
                    probability: starts[first] * ends[last],
                    score: score(in_context[first], in_context[last]),
                    bytes: from.start..to.end,
                });
            }
        }
        spans.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        let mut best: Vec<AnswerSpan> = Vec::new();
        for span in spans {
            if best.len() == self.top_k {
                break;
            }
            // Overlapping windows find a span twice.
            if best.iter().all(|other| other.bytes != span.bytes) {
                best.push(span);
            }
        }
        let Some(most) = best.first() else {
            bail!("no answer: the context has no tokens, or --top-k or --longest is 0");
        };
        let difference = null_score - most.score;
        let answered = self.no_answer_threshold.is_none_or(|threshold| difference <= threshold);
        if !answered {
            best.clear();
        }

        let text = |bytes: &Range<usize>| self.context.get(bytes.clone()).unwrap_or_default();
        if session.json {
            let answers: Vec<_> = best
                .iter()
                .map(|AnswerSpan { probability, score, bytes }| {
                    json!({
                        "answer": text(bytes),
                        "probability": probability,
                        "score": score,
                        "characters": characters(&self.context, bytes),
                    })
                })
                .collect();
            return session.print_json(json!({
                "architecture": loaded.class,
                "question": self.question,
                "windows": batch.len(),
                "null_score": null_score,
                "score_difference": difference,
                "answered": answered,
                "answers": answers,
            }));
        }
        if !answered {
            return session.say(&format!(
                "\nno answer: the score of \"no answer\" is {difference:.2} above the best span's"
            ));
        }
        session.say(&format!("\n{:>11}  {:>11}  answer", "probability", "characters"))?;
        for AnswerSpan { probability, bytes, .. } in &best {
            let [from, to] = characters(&self.context, bytes);
            session.say(&format!("{probability:11.4}  {:>11}  {}", format!("{from}..{to}"), text(bytes)))?;
        }
        Ok(())
    }
}
