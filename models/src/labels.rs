//! Labels of a batch, and the loss that a head computes from them.

use crate::batch::Batch;
use crate::error::Error;
use crate::layers::IGNORED;
use tilewright_kernels::LossSum;

/// Labels of a batch, under Hugging Face's names. A head reads those of its objective.
///
/// Labels of tokens have one element for each token of the batch, or of the decoder's batch. -100 is no label.
///
/// ```
/// use tilewright::labels::Labels;
/// // Masked LM with next sentence: of two sequences of three tokens, two tokens have labels.
/// let labels = [-100, 7, -100, -100, -100, 9].to_vec();
/// let labels = Labels { labels, sequences: vec![0, 1], ..Labels::default() };
/// assert!(labels.values.is_empty());
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Labels {
    /// `labels`: the word or class of each token, or the class of each sequence.
    pub labels: Vec<i64>,
    /// True if `labels` of a causal LM are those of the next token already: transformers shifts them itself.
    pub next: bool,
    /// `labels` of a regression: a value for each sequence.
    pub values: Vec<f32>,
    /// `next_sentence_label` or `sentence_order_label`: of each sequence.
    pub sequences: Vec<i64>,
    /// `start_positions` and `end_positions`: of each sequence, the column of the answer's first and last token.
    pub answers: [Vec<i64>; 2],
    /// Number of labels of the whole step, if the batch is a part of it: the losses are then divided by these.
    pub totals: Option<Totals>,
}

/// Number of labels, for means over all batches of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Totals {
    /// Labelled tokens.
    pub tokens: f64,
    /// Labelled sequences.
    pub sequences: f64,
}

/// Loss of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loss {
    /// Sum of the weighted means. If the batch is a part of a step, its part of the step's loss.
    pub total: f64,
    /// Sums of the objectives.
    pub parts: Vec<(&'static str, LossSum)>,
    /// Right answers of the pre-training objectives, if the run records nothing: `sum` is their number, the mean
    /// the accuracy. Names are those of `parts`. Replaced tokens are also counted apart by label: `replaced`, `original`.
    pub right: Vec<(&'static str, LossSum)>,
}

impl Loss {
    /// Adds an objective. Its mean, with `count` as the number of terms, counts `weight` times.
    pub(crate) fn push(&mut self, name: &'static str, sum: LossSum, weight: f64, count: f64) {
        self.total += weight * sum.sum / count;
        self.parts.push((name, sum));
    }

    /// Adds the right answers of an objective.
    pub(crate) fn push_right(&mut self, name: &'static str, answers: impl Iterator<Item = bool>) {
        let mut right = LossSum::default();
        for answer in answers {
            right = right + LossSum { sum: f64::from(u8::from(answer)), weight: 1.0 };
        }
        self.right.push((name, right));
    }

    /// Adds the right answers of rows of logits: rows whose largest logit is that of the label.
    pub(crate) fn push_right_classes(&mut self, name: &'static str, logits: &[f32], labels: &[i64]) {
        let classes = (logits.len() / labels.len().max(1)).max(1);
        let rows = logits.chunks(classes).zip(labels).filter(|&(_, &label)| label != IGNORED);
        self.push_right(name, rows.map(|(row, &label)| largest(row) as i64 == label));
    }
}

impl Labels {
    /// Number of labels of tokens, and of sequences.
    pub(crate) fn counts(&self) -> Totals {
        let Self { labels, values, sequences, answers, .. } = self;
        let of_sequences = match (sequences.is_empty(), values.is_empty(), answers[0].is_empty()) {
            (false, ..) => count(sequences),
            (_, false, _) => values.len() as f64,
            (.., false) => answers[0].len() as f64,
            _ => count(labels),
        };
        Totals { tokens: count(labels), sequences: of_sequences }
    }

    /// Number of terms of a loss over tokens whose labels are `labels`: of the whole step, if it is known.
    pub(crate) fn tokens(&self, labels: &[i64]) -> f64 {
        self.totals.map_or_else(|| count(labels), |totals| totals.tokens)
    }

    /// Number of terms of a loss over sequences whose labels are `labels`.
    pub(crate) fn of_sequences(&self, labels: &[i64]) -> f64 {
        self.totals.map_or_else(|| count(labels), |totals| totals.sequences)
    }

    /// Label of the next token for each token, and of none for the last of a sequence: the targets of a causal LM.
    pub(crate) fn shifted(&self, batch: &Batch) -> Result<Vec<i64>, Error> {
        expect("labels", self.labels.len(), batch.tokens())?;
        if self.next {
            return Ok(self.labels.clone());
        }
        let mut targets = vec![IGNORED; batch.tokens()];
        for ends in batch.starts().windows(2) {
            let next = ends[0] + 1..ends[1];
            targets[ends[0]..ends[1] - 1].copy_from_slice(&self.labels[next]);
        }
        Ok(targets)
    }
}

/// Place of the first largest logit.
pub(crate) fn largest(logits: &[f32]) -> usize {
    let mut best = 0;
    for (i, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = i;
        }
    }
    best
}

/// Number of labels that are not ignored.
pub(crate) fn count(labels: &[i64]) -> f64 {
    labels.iter().filter(|&&label| label != IGNORED).count() as f64
}

/// Rows that have a label, and their labels.
pub(crate) fn labelled(labels: &[i64]) -> (Vec<usize>, Vec<i64>) {
    labels.iter().copied().enumerate().filter(|&(_, label)| label != IGNORED).unzip()
}

/// Refuses labels that are not as many as their rows.
pub(crate) fn expect(name: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    match found == expected {
        true => Ok(()),
        false => Err(Error::Input { name, why: format!("expected {expected} values, found {found}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows without a label do not count; of equal logits the first one is the answer.
    #[test]
    fn right_answers_are_counted() {
        let mut loss = Loss::default();
        let logits = [1.0, 2.0, 3.0, 0.0, 5.0, 5.0, -1.0, -2.0];
        loss.push_right_classes("classes", &logits, &[1, 0, 1, IGNORED]);
        loss.push_right_classes("none", &[], &[]);
        let [(_, classes), (_, none)] = loss.right[..] else { panic!("expected 2, found {:?}", loss.right) };
        assert_eq!(classes, LossSum { sum: 2.0, weight: 3.0 });
        assert_eq!(none, LossSum::default());
    }
}
