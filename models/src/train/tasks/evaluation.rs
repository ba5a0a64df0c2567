//! Evaluation: loss and metrics of a model on examples.

use super::Task;
use super::answers::BestAnswer;
use super::example::Target;
use super::examples::Examples;
use super::setup::TaskSetup;
use crate::checkpoint::arena::Arena;
use crate::error::Error;
use crate::labels::largest;
use crate::layers::{IGNORED, Run, Slot, Workspace};
use crate::model::Model;
use crate::train::metrics;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use tilewright_kernels::LossSum;

/// Sequences that an evaluation computes at once. Metrics do not depend on it, because rows of a batch do not depend on
/// each other.
const BATCH: usize = 32;

/// Loss and metrics. JSON has null for NaN.
#[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Evaluation {
    /// Mean loss of a label, as in training but without dropout.
    #[serde(deserialize_with = "or_nan")]
    pub loss: f64,
    /// Number of texts, tagged words, questions or predicted tokens.
    pub count: usize,
    /// Metrics, the task's own first. Shares are from 0 to 1.
    #[serde(deserialize_with = "metrics_of_json")]
    pub metrics: Vec<(&'static str, f64)>,
}

impl Evaluation {
    /// Value of the task's own metric.
    pub fn score(&self) -> f64 {
        self.metrics[0].1
    }

    /// True if this evaluation is better than `other`. NaN is worse than any number.
    pub fn is_better(&self, other: &Self, task: Task) -> bool {
        let [new, old] = [self, other].map(Self::score);
        if task.minimizes() {
            new < old || old.is_nan() && !new.is_nan()
        } else {
            new > old || old.is_nan() && !new.is_nan()
        }
    }
}

/// Names of all metrics.
const METRICS: [&str; 12] = [
    "accuracy",
    "entity_f1",
    "entity_precision",
    "entity_recall",
    "exact_match",
    "f1",
    "f1_macro",
    "f1_micro",
    "matthews",
    "pearson",
    "perplexity",
    "spearman",
];

fn or_nan<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

fn metrics_of_json<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(&'static str, f64)>, D::Error> {
    let found: Vec<(String, Option<f64>)> = Deserialize::deserialize(from)?;
    let known = |(name, value): (String, Option<f64>)| {
        let known = METRICS.into_iter().find(|known| *known == name);
        let known = known.ok_or_else(|| D::Error::custom(format!("expected a metric, found {name:?}")));
        Ok((known?, value.unwrap_or(f64::NAN)))
    };
    let found: Vec<_> = found.into_iter().map(known).collect::<Result<_, D::Error>>()?;
    if found.is_empty() { Err(D::Error::custom("expected a metric, found none")) } else { Ok(found) }
}

/// Predictions so far.
#[derive(Debug, Default)]
struct Predictions {
    /// Gold and found classes.
    classes: [Vec<usize>; 2],
    /// Gold and found values.
    values: [Vec<f64>; 2],
    /// Gold and found tags of each sentence.
    tags: [Vec<Vec<usize>>; 2],
    /// Best answers, by the question's number.
    answers: BTreeMap<usize, BestAnswer>,
}

/// Evaluates a model, whose parameters are in `arena`, on examples.
///
/// # Errors
/// See [`Model::loss`].
pub fn evaluate(
    model: &dyn Model,
    arena: &Arena,
    examples: &Examples,
    setup: &TaskSetup,
) -> Result<Evaluation, Error> {
    let (mut workspace, mut predictions) = (Workspace::default(), Predictions::default());
    let mut parts: Vec<(&'static str, LossSum)> = Vec::new();
    let all: Vec<usize> = (0..examples.len()).collect();
    for which in all.chunks(BATCH) {
        let of = examples.micro_batch(which, model)?;
        let mut run = Run::evaluating(&mut workspace, arena);
        let loss = model.loss(&mut run, &of.batch, of.decoder.as_ref(), &of.labels)?;
        for (name, sum) in loss.parts {
            match parts.iter_mut().find(|(of, _)| *of == name) {
                Some((_, terms)) => *terms = *terms + sum,
                None => parts.push((name, sum)),
            }
        }
        if !matches!(setup.task, Task::Causal | Task::Seq2Seq) {
            // The head's logits stay after the loss of a run that records nothing.
            predictions.add(examples, which, run.matrix(Slot::LOGITS).values(), of.batch.starts());
        }
    }
    // Starts and ends of answers count half each.
    let loss = parts.iter().map(|(_, sum)| sum.mean()).sum::<f64>() / parts.len() as f64;
    let terms = parts.first().map_or(0.0, |(_, sum)| sum.weight) as usize;
    let (count, metrics) = predictions.metrics(examples, setup, loss);
    Ok(Evaluation { loss, count: count.unwrap_or(terms), metrics })
}

impl Predictions {
    /// Takes the logits of a batch. `starts` has the first token of each sequence.
    fn add(&mut self, examples: &Examples, which: &[usize], logits: &[f32], starts: &[usize]) {
        let tokens = starts.last().copied().unwrap_or(0);
        let [of_sequence, of_token] = [which.len(), tokens].map(|rows| logits.len() / rows.max(1));
        for (row, (&i, ends)) in which.iter().zip(starts.windows(2)).enumerate() {
            let of_tokens = &logits[..].get(ends[0] * of_token..ends[1] * of_token).unwrap_or_default();
            let own = &logits[row * of_sequence..(row + 1) * of_sequence];
            match &examples.list[i].target {
                Target::Class(gold) => {
                    self.classes[0].push(*gold);
                    self.classes[1].push(largest(own));
                }
                Target::Value(gold) => {
                    self.values[0].push(f64::from(*gold));
                    self.values[1].push(f64::from(own[0]));
                }
                Target::Tags(gold) => {
                    let rows = gold.iter().zip(of_tokens.chunks_exact(of_token));
                    let scored = rows.filter(|(gold, _)| **gold != IGNORED);
                    let (gold, found) = scored.map(|(gold, row)| (*gold as usize, largest(row))).unzip();
                    self.tags[0].push(gold);
                    self.tags[1].push(found);
                }
                Target::Answer { question, places, .. } => {
                    self.answers.entry(*question).or_default().add(of_tokens, places);
                }
                Target::NextTokens | Target::Tokens(_) => {}
            }
        }
    }

    /// Number of predictions, if not that of the loss's terms, and metrics.
    fn metrics(
        &self,
        examples: &Examples,
        setup: &TaskSetup,
        loss: f64,
    ) -> (Option<usize>, Vec<(&'static str, f64)>) {
        match setup.task {
            Task::Classify | Task::Pairs => {
                let [gold, found] = &self.classes;
                let metrics = vec![
                    ("accuracy", metrics::accuracy(gold, found)),
                    ("f1_macro", metrics::f1_macro(gold, found)),
                    ("f1_micro", metrics::f1_micro(gold, found)),
                    ("matthews", metrics::matthews(gold, found)),
                ];
                (None, metrics)
            }
            Task::Regress => {
                let [gold, found] = &self.values;
                let of = [
                    ("pearson", metrics::pearson(gold, found)),
                    ("spearman", metrics::spearman(gold, found)),
                ];
                (None, of.to_vec())
            }
            Task::Tag => {
                let [gold, found] = &self.tags;
                let [of_gold, of_found] = [gold, found].map(|sentences| sentences.concat());
                let mut of = Vec::new();
                if metrics::is_iob2(&setup.labels) {
                    let names = |sentences: &[Vec<usize>]| -> Vec<Vec<&str>> {
                        let name = |&class: &usize| setup.labels[class].as_str();
                        sentences.iter().map(|sentence| sentence.iter().map(name).collect()).collect()
                    };
                    let scores = metrics::entity_scores(&names(gold), &names(found));
                    of.push(("entity_f1", scores.f1));
                    of.push(("entity_precision", scores.precision));
                    of.push(("entity_recall", scores.recall));
                }
                of.push(("accuracy", metrics::accuracy(&of_gold, &of_found)));
                of.push(("f1_macro", metrics::f1_macro(&of_gold, &of_found)));
                (None, of)
            }
            Task::Answer => {
                let questions = &examples.questions;
                let may_be_none = questions.iter().any(|question| question.answers.is_empty());
                let [mut f1, mut exact] = [0.0; 2];
                for (&number, best) in &self.answers {
                    let question = &questions[number];
                    let found = question.context.get(best.bytes(may_be_none)).unwrap_or_default();
                    let golds: Vec<&str> = question.answers.iter().map(|answer| &*answer.text).collect();
                    f1 += metrics::answer_f1(found, &golds);
                    exact += metrics::exact_match(found, &golds);
                }
                let count = questions.len() as f64;
                (Some(questions.len()), vec![("f1", f1 / count), ("exact_match", exact / count)])
            }
            Task::Causal | Task::Seq2Seq => (None, vec![("perplexity", metrics::perplexity(loss))]),
        }
    }
}
