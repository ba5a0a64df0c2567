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

mod training;

pub(crate) use training::shifted_labels;
pub use training::{TrainingInputs, write_gradients};

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

/// Tensors of a safetensors file; errors name the file and the tensor.
struct TensorReader<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
}

impl<'a> TensorReader<'a> {
    fn new(path: &'a Path, bytes: &'a [u8]) -> Result<Self, Error> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| Error::File {
            path: path.to_owned(),
            why: format!("not a safetensors file: {e}"),
        })?;
        Ok(Self { path, tensors })
    }

    fn error(&self, name: &str, why: String) -> Error {
        Error::Tensor { path: self.path.to_owned(), name: name.to_owned(), why }
    }

    /// Shape of a tensor, if there is one of this name.
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.tensor(name).ok().map(|tensor| tensor.shape().to_vec())
    }

    /// Type of a tensor, if there is one of this name.
    fn dtype(&self, name: &str) -> Option<Dtype> {
        self.tensors.tensor(name).ok().map(|tensor| tensor.dtype())
    }

    /// Values of an int64 tensor, if there is one of this name.
    fn read(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<i64>>, Error> {
        let bytes = self.bytes(name, shape, Dtype::I64)?;
        Ok(bytes.map(|bytes| bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()))
    }

    /// Values of a float32 tensor, if there is one of this name.
    fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<f32>>, Error> {
        let bytes = self.bytes(name, shape, Dtype::F32)?;
        Ok(bytes.map(|bytes| bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
    }

    fn bytes(&self, name: &str, shape: &[usize], dtype: Dtype) -> Result<Option<&'a [u8]>, Error> {
        let Ok(tensor) = self.tensors.tensor(name) else { return Ok(None) };
        if tensor.dtype() != dtype {
            return Err(self.error(name, format!("expected {dtype:?}, found {:?}", tensor.dtype())));
        }
        if tensor.shape() != shape {
            return Err(self.error(name, format!("expected shape {shape:?}, found {:?}", tensor.shape())));
        }
        Ok(Some(tensor.data()))
    }
}

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
        Self::read(&TensorReader::new(path, bytes)?, &[])
    }

    /// Reads the inputs of a file, which may also have tensors of the names `others`.
    fn read(file: &TensorReader<'_>, others: &[&str]) -> Result<Self, Error> {
        let known = TOKENS.iter().chain(&DECODER).chain(others).copied().collect::<Vec<_>>();
        if let Some(name) = file.tensors.names().into_iter().find(|name| !known.contains(name)) {
            return Err(file.error(name, format!("no such input; expected {}", known.join(", "))));
        }
        // Ids, mask and token types have one shape.
        let shape_of = |name: &str| match file.shape(name) {
            Some(shape) if matches!(shape.len(), 2 | 3) => Ok(Some(shape)),
            Some(found) => Err(file.error(
                name,
                format!("expected shape [rows, columns] or [rows, choices, columns], found {found:?}"),
            )),
            None => Ok(None),
        };
        let padded = |shape: Vec<usize>, ids: &str, mask: &str, types: Option<&str>| {
            let (columns, rows) = shape.split_last().expect("at least two");
            // No overflow: the file holds ids of this shape.
            let rows = rows.iter().product();
            let [ids, mask] = [file.read(ids, &shape)?, file.read(mask, &shape)?];
            let types = types.map_or(Ok(None), |types| file.read(types, &shape))?;
            let ids = ids.unwrap_or_default();
            let batch = Batch::from_padded([rows, *columns], &ids, mask.as_deref(), types.as_deref())?;
            Ok::<_, Error>(Padded { shape, batch })
        };
        let Some(shape) = shape_of(TOKENS[0])? else {
            return Err(file.error(TOKENS[0], "missing".to_owned()));
        };
        let tokens = padded(shape, TOKENS[0], TOKENS[1], Some(TOKENS[2]))?;
        let decoder = match shape_of(DECODER[0])? {
            Some(shape) => Some(padded(shape, DECODER[0], DECODER[1], None)?),
            None if file.shape(DECODER[1]).is_some() => {
                return Err(file.error(DECODER[1], format!("given without {}", DECODER[0])));
            }
            None => None,
        };
        if let Some(decoder) = &decoder
            && decoder.batch.len() != tokens.batch.len()
        {
            let [expected, found] = [tokens.batch.len(), decoder.batch.len()];
            return Err(file.error(DECODER[0], format!("expected {expected} sequences, found {found}")));
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
