//! Losses of heads.

use super::{EncoderModel, Head, HeadKind, Predictions};
use crate::batch::Batch;
use crate::error::Error;
use crate::labels::{self, Labels, Loss};
use crate::layers::{
    IGNORED, Run, Slot, answer_loss, binary_cross_entropy, cross_entropy, linear_cross_entropy, select_rows,
    squared_error,
};

impl Predictions {
    /// Cross-entropy of the words of labelled tokens. Other tokens are not computed.
    fn loss<'m>(
        &'m self,
        run: &mut Run<'m>,
        batch: &Batch,
        of: &Labels,
        loss: &mut Loss,
    ) -> Result<(), Error> {
        labels::expect("labels", of.labels.len(), batch.tokens())?;
        let (rows, words) = labels::labelled(&of.labels);
        select_rows(run, Slot::X, &rows, Slot::ROWS);
        self.transform(run, Slot::ROWS)?;
        let count = of.tokens(&words);
        let sum = linear_cross_entropy(run, &self.decoder, Slot::HEAD, &words, (1.0 / count) as f32)?;
        loss.push("masked words", sum, 1.0, count);
        if !run.records() {
            let mut logits = Vec::new();
            self.decoder.outputs(run, Slot::HEAD, &mut logits)?;
            loss.push_right_classes("masked words", &logits, &words);
        }
        Ok(())
    }
}

impl Head {
    /// Loss of the head's class in transformers.
    ///
    /// | head | loss |
    /// |---|---|
    /// | masked LM | mean cross-entropy of labelled tokens |
    /// | pre-training | that, and the mean cross-entropy of the sequences' labels |
    /// | replaced tokens | mean binary cross-entropy of all tokens |
    /// | sequences | mean cross-entropy; with one class, mean squared error |
    /// | tokens, choices | mean cross-entropy |
    /// | answers | half the mean cross-entropy of the starts and of the ends, each over the tokens of a sequence |
    ///
    /// Padding has no scores here, while transformers' cross-entropy of answers runs over padding, too: both are equal
    /// for sequences without padding.
    pub(super) fn loss<'m>(&'m self, run: &mut Run<'m>, batch: &Batch, of: &Labels) -> Result<Loss, Error> {
        let mut loss = Loss::default();
        self.classify(run, batch)?;
        match self {
            Self::Bare(_) => {
                let why = "given to a model without a head".to_owned();
                return Err(Error::Input { name: "labels", why });
            }
            Self::MaskedLm(predictions) => predictions.loss(run, batch, of, &mut loss)?,
            Self::PreTraining(predictions, _, (name, classes)) => {
                let name = if *name == "sop_logits" { "sentence_order_label" } else { "next_sentence_label" };
                labels::expect(name, of.sequences.len(), batch.len())?;
                let count = of.of_sequences(&of.sequences);
                let sum =
                    cross_entropy(run, classes.backend(), Slot::LOGITS, &of.sequences, (1.0 / count) as f32)?;
                predictions.loss(run, batch, of, &mut loss)?;
                loss.push("sequences", sum, 1.0, count);
                if !run.records() {
                    loss.push_right_classes("sequences", run.matrix(Slot::LOGITS).values(), &of.sequences);
                }
            }
            Self::ReplacedTokens(_, _, replaced) => {
                labels::expect("labels", of.labels.len(), batch.tokens())?;
                let targets: Vec<f32> = of.labels.iter().map(|&label| label as f32).collect();
                let count = of.tokens(&of.labels);
                let scale = (1.0 / count) as f32;
                let sum = binary_cross_entropy(run, replaced.backend(), Slot::LOGITS, &targets, scale)?;
                loss.push("replaced tokens", sum, 1.0, count);
            }
            Self::Sequence(_, classes) if classes.width() == 1 && of.labels.is_empty() => {
                let count = of.totals.map_or(of.values.len() as f64, |totals| totals.sequences);
                let sum = squared_error(run, Slot::LOGITS, &of.values, (1.0 / count) as f32)?;
                loss.push("squared error", sum, 1.0, count);
            }
            Self::Sequence(_, classes) | Self::Token(classes, _) | Self::MultipleChoice(_, classes) => {
                let (expected, count) = match self {
                    Self::Token(..) => (batch.tokens(), of.tokens(&of.labels)),
                    Self::MultipleChoice(..) => {
                        let (rows, sequences) = (of.labels.len(), batch.len());
                        if rows == 0 || !sequences.is_multiple_of(rows) {
                            let why = format!(
                                "expected one for each row of choices among {sequences} sequences, found {rows}"
                            );
                            return Err(Error::Input { name: "labels", why });
                        }
                        (rows, of.of_sequences(&of.labels))
                    }
                    _ => (batch.len(), of.of_sequences(&of.labels)),
                };
                labels::expect("labels", of.labels.len(), expected)?;
                let sum =
                    cross_entropy(run, classes.backend(), Slot::LOGITS, &of.labels, (1.0 / count) as f32)?;
                loss.push("classes", sum, 1.0, count);
            }
            Self::QuestionAnswering(ends) => {
                for (column, name) in ["start_positions", "end_positions"].into_iter().enumerate() {
                    labels::expect(name, of.answers[column].len(), batch.len())?;
                    let tokens = answers(batch, &of.answers[column]);
                    let labels: Vec<i64> = tokens.iter().map(|t| t.map_or(IGNORED, |_| 0)).collect();
                    let count = of.of_sequences(&labels);
                    let sum = answer_loss(
                        run,
                        ends.backend(),
                        batch.starts(),
                        column,
                        &tokens,
                        (0.5 / count) as f32,
                    )?;
                    loss.push(name, sum, 0.5, count);
                }
            }
        }
        Ok(loss)
    }
}

/// Place of each answer's token in its sequence; `None` if no token is in that column.
fn answers(batch: &Batch, columns: &[i64]) -> Vec<Option<usize>> {
    let place = |(ends, &column): (&[usize], &i64)| {
        let positions = &batch.positions[ends[0]..ends[1]];
        positions.iter().position(|&position| i64::from(position) == column.max(0))
    };
    batch.starts().windows(2).zip(columns).map(place).collect()
}

impl EncoderModel {
    /// Number of words.
    pub(crate) fn vocab_size(&self) -> usize {
        self.encoder.config().vocab_size
    }

    /// Logits of the words of labelled tokens, after the loss of a masked LM: \[labelled tokens, vocab_size\].
    pub(crate) fn masked_word_logits(&self, run: &Run<'_>) -> Result<Vec<f32>, Error> {
        let Head::MaskedLm(predictions) = &self.head else {
            return Err(HeadKind::MaskedLm.missing("the model"));
        };
        let mut logits = Vec::new();
        predictions.decoder.outputs(run, Slot::HEAD, &mut logits)?;
        Ok(logits)
    }

    /// Adds the loss of a discriminator for the batch with other `ids`: `replaced` is 1 for tokens that differ from the
    /// original ones, else 0.
    #[allow(clippy::too_many_arguments, reason = "a batch with its ids and its labels")]
    pub(crate) fn replaced_loss<'m>(
        &'m self,
        run: &mut Run<'m>,
        batch: &'m Batch,
        ids: &[u32],
        replaced: &[f32],
        weight: f64,
        of: &Labels,
        loss: &mut Loss,
    ) -> Result<(), Error> {
        self.encoder.forward_ids(run, batch, ids)?;
        self.head.classify(run, batch)?;
        let count = of.totals.map_or(replaced.len() as f64, |totals| totals.sequences);
        let backend = self.encoder.arithmetic().backend;
        let scale = (weight / count) as f32;
        let sum = binary_cross_entropy(run, backend, Slot::LOGITS, replaced, scale)?;
        loss.push("replaced tokens", sum, weight, count);
        if !run.records() {
            let logits = run.matrix(Slot::LOGITS).values();
            let answers = || {
                replaced.iter().zip(logits).map(|(&label, &logit)| (label, (logit > 0.0) == (label > 0.0)))
            };
            loss.push_right("replaced tokens", answers().map(|(_, right)| right));
            for (name, label) in [("replaced", 1.0), ("original", 0.0)] {
                loss.push_right(name, answers().filter(|&(of, _)| of == label).map(|(_, right)| right));
            }
        }
        Ok(())
    }
}
