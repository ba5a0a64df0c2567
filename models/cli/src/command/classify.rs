//! `tilewright classify`: the class of a text, or of each of its tokens.

use super::checkpoint::{Checkpoint, Dtype, Loaded, characters, most_probable, sigmoid};
use super::{Common, Session};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use tilewright::checkpoint::config::Fields;

/// Says of what class texts are, or each of their tokens, with the probability
///
/// Which of both is decided by the class of the model: ..ForSequenceClassification or
/// ..ForTokenClassification. Names of classes are those of id2label in config.json.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tilewright classify --model distilled-sst2 'A film to remember.' 'A film to forget.'
  tilewright classify --model bert-mnli --pair 'A man sleeps.' 'Someone is awake.'
  tilewright classify --model bert-ner --json 'Ada lives in London.'")]
pub struct Classify {
    #[command(flatten)]
    checkpoint: Checkpoint,

    /// Texts; without any, each line of stdin is one
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,

    /// Every two texts are a pair, to be classified together
    #[arg(long)]
    pair: bool,

    /// How many classes to show for each text
    #[arg(long, value_name = "N", default_value_t = 3)]
    top_k: usize,

    #[command(flatten)]
    precision: Dtype,

    #[command(flatten)]
    common: Common,
}

/// Function that makes a probability of a class's logit.
#[derive(Clone, Copy, PartialEq)]
enum Problem {
    /// One class of several: the softmax.
    Single,
    /// Any number of them: the sigmoid of each.
    Multiple,
    /// No class but a number: itself.
    Regression,
}

impl Problem {
    /// The `n` largest, and what they are called.
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
                bail!("no texts: give some as arguments, or lines on stdin");
            }
            self.texts = std::io::stdin().lines().collect::<Result<_, _>>().context("stdin")?;
        }
        let size = if self.pair { 2 } else { 1 };
        if !self.texts.len().is_multiple_of(size) {
            bail!("--pair: {} texts are no pairs", self.texts.len());
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
                        // As transformers' pipeline takes it.
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

    /// The class of each token.
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

/// The name of a class: where config.json has none, what transformers calls it.
fn name(names: &BTreeMap<usize, String>, class: u32) -> String {
    names.get(&(class as usize)).cloned().unwrap_or_else(|| format!("LABEL_{class}"))
}
