//! Inputs and outputs as safetensors files under Hugging Face's names: how other frameworks compare
//! themselves with this one.

use crate::batch::Batch;
use crate::config;
use crate::error::Error;
use crate::model::{Each, Output};
use crate::whole_file;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::path::Path;

/// A padded batch, \[rows, columns\], of which only the tokens that its mask shows are computed.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Sequences.
    pub rows: usize,
    /// Tokens of a sequence, padding included.
    pub columns: usize,
    /// What the mask shows.
    pub batch: Batch,
}

impl Inputs {
    /// Reads a safetensors file with `input_ids` and, if it has them, `attention_mask` and
    /// `token_type_ids`, all of int64 and \[rows, columns\].
    ///
    /// # Errors
    /// If the file cannot be read, an input has another type or shape, or is one that no model
    /// takes: a mistyped name is better refused than ignored.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::from_bytes(path, &config::bytes(path)?)
    }

    /// Reads the same from memory; errors call it `path`.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let file = SafeTensors::deserialize(bytes).map_err(|e| Error::File {
            path: path.to_owned(),
            why: format!("not a safetensors file: {e}"),
        })?;
        let error = |name: &str, why| Error::Tensor { path: path.to_owned(), name: name.to_owned(), why };
        let known = ["input_ids", "attention_mask", "token_type_ids"];
        if let Some(name) = file.names().into_iter().find(|name| !known.contains(name)) {
            return Err(error(name, format!("no such input; expected {}", known.join(", "))));
        }
        let Ok(ids) = file.tensor("input_ids") else {
            return Err(error("input_ids", "missing".to_owned()));
        };
        let &[rows, columns] = ids.shape() else {
            return Err(error(
                "input_ids",
                format!("expected shape [rows, columns], found {:?}", ids.shape()),
            ));
        };
        let read = |name: &str| -> Result<Option<Vec<i64>>, Error> {
            let Ok(tensor) = file.tensor(name) else { return Ok(None) };
            if tensor.dtype() != Dtype::I64 {
                return Err(error(name, format!("expected I64, found {:?}", tensor.dtype())));
            }
            if tensor.shape() != [rows, columns] {
                return Err(error(
                    name,
                    format!("expected shape [{rows}, {columns}], found {:?}", tensor.shape()),
                ));
            }
            Ok(Some(tensor.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()))
        };
        let [ids, mask, types] = [read(known[0])?, read(known[1])?, read(known[2])?];
        let ids = ids.unwrap_or_default();
        let batch = Batch::from_padded([rows, columns], &ids, mask.as_deref(), types.as_deref())?;
        Ok(Self { rows, columns, batch })
    }

    /// The shape of `output` where padding is back in its place.
    pub fn padded_shape(&self, output: &Output) -> Vec<usize> {
        match output.each {
            Each::Token => vec![self.rows, self.columns, output.width],
            Each::Sequence => vec![self.rows, output.width],
        }
    }

    /// The values of `output` with zeros where padding was.
    pub fn pad(&self, output: &Output) -> Vec<f32> {
        if output.each == Each::Sequence {
            return output.values.clone();
        }
        let mut padded = vec![0.0; self.rows * self.columns * output.width];
        let starts = self.batch.starts();
        for (row, tokens) in starts.windows(2).enumerate() {
            for token in tokens[0]..tokens[1] {
                let to = (row * self.columns + self.batch.positions[token] as usize) * output.width;
                let from = token * output.width;
                padded[to..to + output.width].copy_from_slice(&output.values[from..from + output.width]);
            }
        }
        padded
    }

    /// Writes `outputs`, padded, to a safetensors file, whole or not at all.
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
