//! Inputs with labels, and gradients of parameters, as safetensors files.

use super::{ModelInputs, Padded, TensorReader};
use crate::batch::Batch;
use crate::checkpoint::arena::Arena;
use crate::checkpoint::files;
use crate::checkpoint::save::write_tensors;
use crate::error::Error;
use crate::labels::{Labels, Loss};
use crate::layers::{IGNORED, Run, StepRandom, Workspace};
use crate::model::Model;
use safetensors::tensor::Dtype;
use std::path::Path;

/// Inputs and labels of a training step.
#[derive(Clone, Debug)]
pub struct TrainingInputs {
    /// Tokens.
    pub inputs: ModelInputs,
    /// Labels of the tokens that the masks keep.
    pub labels: Labels,
}

/// Names of labels.
const LABELS: [&str; 5] =
    ["labels", "next_sentence_label", "sentence_order_label", "start_positions", "end_positions"];

impl TrainingInputs {
    /// Reads a safetensors file: the inputs of [`ModelInputs::open`], and the labels that the class of the model has in
    /// transformers. `labels` is int64, or float32 for a regression; the other labels are int64. -100 is no label.
    ///
    /// An encoder-decoder without `decoder_input_ids` reads its labels, shifted by one token, as transformers does.
    ///
    /// # Errors
    /// As [`ModelInputs::open`]; [`Error::Tensor`] if labels have another type or shape.
    pub fn open(path: &Path, model: &dyn Model) -> Result<Self, Error> {
        Self::from_bytes(path, &files::bytes(path)?, model)
    }

    /// As [`open`](Self::open), from memory; errors name `path`.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn from_bytes(path: &Path, bytes: &[u8], model: &dyn Model) -> Result<Self, Error> {
        let file = TensorReader::new(path, bytes)?;
        let mut inputs = ModelInputs::read(&file, &LABELS)?;
        let mut labels = Labels::default();
        let rows = |name: &str| file.read(name, &[inputs.tokens.shape[0]]);
        for name in ["next_sentence_label", "sentence_order_label"] {
            if let Some(found) = rows(name)? {
                labels.sequences = found;
            }
        }
        for (answers, name) in labels.answers.iter_mut().zip(["start_positions", "end_positions"]) {
            *answers = rows(name)?.unwrap_or_default();
        }
        match file.shape("labels") {
            None => {}
            Some(shape) if file.dtype("labels") == Some(Dtype::F32) => {
                labels.values = file.read_f32("labels", &shape)?.unwrap_or_default();
            }
            Some(shape) => {
                let all = file.read("labels", &shape)?.unwrap_or_default();
                let columns = if shape.len() > 1 { shape[shape.len() - 1] } else { 0 };
                if inputs.decoder.is_none() {
                    inputs.decoder = decoder(&inputs, &by_row(&all, columns), model)?;
                }
                labels.labels = match (&inputs.decoder, columns) {
                    (_, 0) => all,
                    (Some(decoder), _) => of_tokens(&file, &shape, &all, decoder)?,
                    (None, _) => of_tokens(&file, &shape, &all, &inputs.tokens)?,
                };
            }
        }
        if inputs.decoder.is_none() && labels.labels.is_empty() {
            inputs.decoder = decoder(&inputs, &[], model)?;
        }
        Ok(Self { inputs, labels })
    }

    /// Computes the loss of `model`, whose parameters are in `arena`, and adds its gradients to `gradients`. Nothing is
    /// dropped.
    ///
    /// # Errors
    /// See [`Model::loss`].
    pub fn gradients(&self, model: &dyn Model, arena: &Arena, gradients: &mut [f32]) -> Result<Loss, Error> {
        let mut workspace = Workspace::default();
        let mut run = Run::recording(&mut workspace, arena, gradients, StepRandom::default());
        let decoder = self.inputs.decoder.as_ref().map(|decoder| &decoder.batch);
        let loss = model.loss(&mut run, &self.inputs.tokens.batch, decoder, &self.labels)?;
        run.backward()?;
        Ok(loss)
    }
}

/// Writes `loss`, of shape \[\], and the gradients of all parameters under the names and in the shapes of the checkpoint.
///
/// # Errors
/// [`Error::Io`].
pub fn write_gradients(path: &Path, loss: &Loss, arena: &Arena, gradients: &[f32]) -> Result<(), Error> {
    let total = [loss.total as f32];
    let gradients =
        arena.tensors().iter().map(|t| (t.name.as_str(), t.shape.clone(), &gradients[t.range.clone()]));
    write_tensors(path, core::iter::once(("loss", Vec::new(), &total[..])).chain(gradients))
}

/// Rows of a padded matrix of labels.
fn by_row(labels: &[i64], columns: usize) -> Vec<&[i64]> {
    if columns == 0 { Vec::new() } else { labels.chunks_exact(columns).collect() }
}

/// Labels of the tokens that `tokens` keeps, from padded labels.
fn of_tokens(
    file: &TensorReader<'_>,
    shape: &[usize],
    labels: &[i64],
    tokens: &Padded,
) -> Result<Vec<i64>, Error> {
    let Padded { batch, .. } = tokens;
    let columns = shape[shape.len() - 1];
    let rows = labels.len() / columns.max(1);
    let longest = batch.positions.iter().max().map_or(0, |&p| p as usize + 1);
    if rows != batch.len() || longest > columns {
        let expected = &tokens.shape;
        return Err(file.error("labels", format!("expected shape {expected:?}, found {shape:?}")));
    }
    let mut found = Vec::with_capacity(batch.tokens());
    for (row, ends) in batch.starts().windows(2).enumerate() {
        let columns_of = &batch.positions[ends[0]..ends[1]];
        found.extend(columns_of.iter().map(|&column| labels[row * columns + column as usize]));
    }
    Ok(found)
}

/// Tokens of a decoder without inputs of its own: `None` for a model without a decoder.
fn decoder(inputs: &ModelInputs, labels: &[&[i64]], model: &dyn Model) -> Result<Option<Padded>, Error> {
    // Labels after a sequence's last one belong to padding.
    let trimmed: Vec<&[i64]> = labels
        .iter()
        .map(|row| {
            &row[..row.iter().rposition(|&label| label != IGNORED).map_or(1.min(row.len()), |at| at + 1)]
        })
        .collect();
    let Some(batch) = model.decoder_inputs(&inputs.tokens.batch, &trimmed)? else { return Ok(None) };
    let columns = labels.first().map_or(batch.longest(), |row| row.len());
    Ok(Some(Padded { shape: vec![batch.len(), columns], batch }))
}

/// Labels shifted by one token: `start`, then all labels but the last; `padding` for tokens without a label.
///
/// # Errors
/// [`Error::Input`] if a label is negative and not -100, or a sequence has none.
pub(crate) fn shifted_labels(labels: &[&[i64]], [start, padding]: [u32; 2]) -> Result<Batch, Error> {
    let mut batch = Batch::default();
    let word = |&label: &i64| match label {
        IGNORED => Ok(padding),
        _ => u32::try_from(label).map_err(|_| Error::Input {
            name: "labels",
            why: format!("expected a word or {IGNORED}, found {label}"),
        }),
    };
    for row in labels {
        let words = row[..row.len().saturating_sub(1)].iter().map(word);
        let ids = core::iter::once(Ok(start)).chain(words).collect::<Result<Vec<u32>, Error>>()?;
        batch.push_ids(&ids)?;
    }
    Ok(batch)
}
