//! Inputs and outputs of models as safetensors files under Hugging Face's names, for comparison with other
//! frameworks.

use crate::batch::Batch;
use crate::checkpoint::files;
use crate::error::Error;
use crate::model::Model;
use crate::output::{Each, Output};
use crate::whole_file;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::path::Path;

/// A padded batch. Only tokens whose mask is 1 are computed.
#[derive(Clone, Debug)]
pub struct Padded {
    /// \[rows, columns\], or \[rows, choices, columns\], where each choice is a sequence.
    pub shape: Vec<usize>,
    /// Tokens whose mask is 1.
    pub batch: Batch,
}

/// Inputs of a model's forward pass.
#[derive(Clone, Debug)]
pub struct ModelInputs {
    /// `input_ids`; for an encoder-decoder, tokens of the encoder.
    pub tokens: Padded,
    /// `decoder_input_ids`.
    pub decoder: Option<Padded>,
}

/// Names of ids, mask and token types.
const TOKENS: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];
const DECODER: [&str; 2] = ["decoder_input_ids", "decoder_attention_mask"];

impl ModelInputs {
    /// Reads a safetensors file. It must have `input_ids` and may have `attention_mask`, `token_type_ids`,
    /// `decoder_input_ids` and `decoder_attention_mask`. All are int64, \[rows, columns\] or
    /// \[rows, choices, columns\].
    ///
    /// # Errors
    /// If the file cannot be read, an input has another type or shape, or a name is unknown: a mistyped name is not
    /// ignored.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::from_bytes(path, &files::bytes(path)?)
    }

    /// As [`open`](Self::open), from memory; errors name `path`.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let file = SafeTensors::deserialize(bytes).map_err(|e| Error::File {
            path: path.to_owned(),
            why: format!("not a safetensors file: {e}"),
        })?;
        let error = |name: &str, why| Error::Tensor { path: path.to_owned(), name: name.to_owned(), why };
        let known = TOKENS.iter().chain(&DECODER).copied().collect::<Vec<_>>();
        if let Some(name) = file.names().into_iter().find(|name| !known.contains(name)) {
            return Err(error(name, format!("no such input; expected {}", known.join(", "))));
        }
        let read = |name: &str, shape: &[usize]| -> Result<Option<Vec<i64>>, Error> {
            let Ok(tensor) = file.tensor(name) else { return Ok(None) };
            if tensor.dtype() != Dtype::I64 {
                return Err(error(name, format!("expected I64, found {:?}", tensor.dtype())));
            }
            if tensor.shape() != shape {
                return Err(error(name, format!("expected shape {shape:?}, found {:?}", tensor.shape())));
            }
            Ok(Some(tensor.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()))
        };
        // Ids, mask and token types have one shape.
        let shape_of = |name: &str| match file.tensor(name) {
            Ok(tensor) if matches!(tensor.shape().len(), 2 | 3) => Ok(Some(tensor.shape().to_vec())),
            Ok(tensor) => {
                let found = tensor.shape();
                Err(error(
                    name,
                    format!("expected shape [rows, columns] or [rows, choices, columns], found {found:?}"),
                ))
            }
            Err(_) => Ok(None),
        };
        let padded = |shape: Vec<usize>, ids: &str, mask: &str, types: Option<&str>| {
            let (columns, rows) = shape.split_last().expect("at least two");
            // No overflow: the file holds ids of this shape.
            let rows = rows.iter().product();
            let [ids, mask] = [read(ids, &shape)?, read(mask, &shape)?];
            let types = types.map_or(Ok(None), |types| read(types, &shape))?;
            let ids = ids.unwrap_or_default();
            let batch = Batch::from_padded([rows, *columns], &ids, mask.as_deref(), types.as_deref())?;
            Ok::<_, Error>(Padded { shape, batch })
        };
        let Some(shape) = shape_of(TOKENS[0])? else {
            return Err(error(TOKENS[0], "missing".to_owned()));
        };
        let tokens = padded(shape, TOKENS[0], TOKENS[1], Some(TOKENS[2]))?;
        let decoder = match shape_of(DECODER[0])? {
            Some(shape) => Some(padded(shape, DECODER[0], DECODER[1], None)?),
            None if file.tensor(DECODER[1]).is_ok() => {
                return Err(error(DECODER[1], format!("given without {}", DECODER[0])));
            }
            None => None,
        };
        if let Some(decoder) = &decoder
            && decoder.batch.len() != tokens.batch.len()
        {
            let [expected, found] = [tokens.batch.len(), decoder.batch.len()];
            return Err(error(DECODER[0], format!("expected {expected} sequences, found {found}")));
        }
        Ok(Self { tokens, decoder })
    }

    /// Runs `model` on these inputs.
    ///
    /// # Errors
    /// See [`Model::forward`] and [`Model::forward_pair`].
    pub fn run(&self, model: &mut dyn Model) -> Result<Vec<Output>, Error> {
        match &self.decoder {
            Some(decoder) => model.forward_pair(&self.tokens.batch, &decoder.batch),
            None => model.forward(&self.tokens.batch),
        }
    }

    /// Padded inputs whose rows `output` describes.
    fn padded_of(&self, output: &Output) -> &Padded {
        match (output.each, &self.decoder) {
            (Each::DecoderToken, Some(decoder)) => decoder,
            _ => &self.tokens,
        }
    }

    /// Shape of `output` with padding.
    pub fn padded_shape(&self, output: &Output) -> Vec<usize> {
        let mut shape = self.padded_of(output).shape.clone();
        if output.each == Each::Sequence {
            shape.pop();
        }
        if !output.scalar {
            shape.push(output.width);
        }
        shape
    }

    /// Values of `output` with zeros for padding.
    pub fn pad(&self, output: &Output) -> Vec<f32> {
        if output.each == Each::Sequence {
            return output.values.clone();
        }
        let Padded { shape, batch } = self.padded_of(output);
        let columns = shape[shape.len() - 1];
        let mut padded = vec![0.0; batch.len() * columns * output.width];
        for (row, tokens) in batch.starts().windows(2).enumerate() {
            for token in tokens[0]..tokens[1] {
                let to = (row * columns + batch.positions[token] as usize) * output.width;
                let from = token * output.width;
                padded[to..to + output.width].copy_from_slice(&output.values[from..from + output.width]);
            }
        }
        padded
    }

    /// Writes `outputs`, padded, to a safetensors file, atomically.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path, outputs: &[Output]) -> Result<(), Error> {
        let data: Vec<Vec<u8>> =
            outputs.iter().map(|o| self.pad(o).iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
        let tensors = outputs.iter().zip(&data).map(|(output, data)| {
            let view = TensorView::new(Dtype::F32, self.padded_shape(output), data);
            (output.name, view.expect("as many bytes as the shape says"))
        });
        let bytes = safetensors::serialize(tensors, None)
            .map_err(|e| Error::File { path: path.to_owned(), why: e.to_string() })?;
        whole_file::write(path, &bytes)
    }
}
