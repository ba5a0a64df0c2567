//! `tilewright classify`: classes of a text, or of each of its tokens.

use super::checkpoint::{Checkpoint, LayerPrecision, Loaded, characters, most_probable, sigmoid};
use super::{Common, Session};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use tilewright::checkpoint::config::Fields;

/// Classifies texts or their tokens, and shows probabilities
///
/// A ..ForSequenceClassification classifies texts, a ..ForTokenClassification each token. id2label in
/// config.json names the classes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tilewright classify --model distilled-sst2 'A film to remember.' 'A film to forget.'
  tilewright classify --model bert-mnli --pair 'A man sleeps.' 'Someone is awake.'
  tilewright classify --model bert-ner --json 'Ada lives in London.'")]
pub struct Classify {
    #[command(flatten)]
    checkpoint: Checkpoint,

    /// Texts [default: the lines of stdin]
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,

    /// Classify pairs: the first text with the second, the third with the fourth, ..
    #[arg(long)]
    pair: bool,

    /// Number of classes to show for each text
    #[arg(long, value_name = "N", default_value_t = 3)]
    top_k: usize,

    #[command(flatten)]
    precision: LayerPrecision,

    #[command(flatten)]
    common: Common,
}

/// Kind of the classification, which decides how a logit becomes a probability.
#[derive(Clone, Copy, PartialEq)]
enum Problem {
    /// Exactly one class applies: softmax.
    Single,
    /// Any number of classes apply: the sigmoid of each logit.
    Multiple,
    /// The logit is the result.
    Regression,
}

impl Problem {
    /// The `n` classes of the largest logits, with their probabilities or scores.
    fn best(self, logits: &[f32], n: usize) -> Vec<(u32, f64)> {
        let mut best = most_probable(logits, n);
        for (class, value) in &mut best {
            let logit = logits[*class as usize];
            match self {
                Self::Single => {}
                Self::Multiple => *value = sigmoid(logit),
                Self::Regression => *value = logit.into(),
            }
        }
        best
    }

    fn unit(self) -> &'static str {
        if self == Self::Regression { "score" } else { "probability" }
    }
}

impl Classify {
    pub fn run(mut self) -> Result<()> {
        let session = self.precision.start(&self.common)?;
        let kinds = ["ForSequenceClassification", "ForTokenClassification"];
        let dir = self.checkpoint.locate()?;
        let mut loaded = self.precision.load_for(&kinds, &dir, &session)?;
        let fields = Fields::open(&dir)?;
        let names = fields.labels()?.unwrap_or_default();
        if self.texts.is_empty() {
            if std::io::stdin().is_terminal() {
                bail!("no texts: pass them as arguments, or as lines on stdin");
            }
            self.texts = std::io::stdin().lines().collect::<Result<_, _>>().context("stdin")?;
        }
        let size = if self.pair { 2 } else { 1 };
        if !self.texts.len().is_multiple_of(size) {
            bail!("--pair: {} is an odd number of texts", self.texts.len());
        }
        let of_tokens = loaded.class.ends_with(kinds[1]);
        let mut found = Vec::new();
        for texts in self.texts.chunks(size) {
            found.push(match of_tokens {
                true => self.tokens(texts, &mut loaded, &names, &session)?,
                false => {
                    let problem = match &*fields.get("problem_type", String::new())? {
                        "multi_label_classification" => Problem::Multiple,
                        "regression" => Problem::Regression,
                        // transformers' pipeline applies a sigmoid to a single class.
                        "" if names.len() == 1 => Problem::Multiple,
                        _ => Problem::Single,
                    };
                    self.whole(texts, &mut loaded, &names, problem, &session)?
                }
            });
        }
        if session.json {
            session.print_json(json!({ "architecture": loaded.class, "texts": found }))?;
        }
        Ok(())
    }

    /// The classes of a text.
    fn whole(
        &self,
        texts: &[String],
        loaded: &mut Loaded,
        names: &BTreeMap<usize, String>,
        problem: Problem,
        session: &Session,
    ) -> Result<Value> {
        let (batch, _) = loaded.tokenizer.encode_placed(&texts[0], texts.get(1).map(String::as_str))?;
        let logits = loaded.output(&batch, "logits")?.values;
        let best = problem.best(&logits, self.top_k);
        if !session.json {
            session.say(&format!("\n{}\n{:>11}  label", texts.join(" | "), problem.unit()))?;
            for &(class, value) in &best {
                session.say(&format!("{value:11.4}  {}", name(names, class)))?;
            }
        }
        let labels: Vec<Value> = best
            .into_iter()
            .map(|(class, value)| json!({ "label": name(names, class), problem.unit(): value }))
            .collect();
        Ok(json!({ "text": texts[0], "pair": texts.get(1), "labels": labels }))
    }

    /// The most probable class of each token.
    fn tokens(
        &self,
        texts: &[String],
        loaded: &mut Loaded,
        names: &BTreeMap<usize, String>,
        session: &Session,
    ) -> Result<Value> {
        let (batch, places) = loaded.tokenizer.encode_placed(&texts[0], texts.get(1).map(String::as_str))?;
        let logits = loaded.output(&batch, "logits")?;
        if !session.json {
            session.say(&format!("\n{}\n{:>11}  {:16}  label", texts.join(" | "), "probability", "token"))?;
        }
        let mut found = Vec::new();
        for (place, logits) in places.iter().zip(logits.values.chunks_exact(logits.width)) {
            let Some(text) = place.text else { continue };
            let token = texts[text].get(place.bytes.clone()).unwrap_or_default();
            let best = most_probable(logits, 1);
            let Some(&(class, probability)) = best.first() else { continue };
            if !session.json {
                session.say(&format!("{probability:11.4}  {token:16}  {}", name(names, class)))?;
            }
            found.push(json!({
                "token": token,
                "text": text,
                "characters": characters(&texts[text], &place.bytes),
                "label": name(names, class),
                "probability": probability,
            }));
        }
        Ok(json!({ "text": texts[0], "pair": texts.get(1), "tokens": found }))
    }
}

/// The name of a class in config.json, or else transformers' default.
fn name(names: &BTreeMap<usize, String>, class: u32) -> String {
    names.get(&(class as usize)).cloned().unwrap_or_else(|| format!("LABEL_{class}"))
}
