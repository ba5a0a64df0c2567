//! Index of a checkpoint's tensors: the place of each one in its file.

use crate::checkpoint::config;
use crate::checkpoint::gguf::{self, Gguf, Type};
use crate::error::Error;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Files of a checkpoint and their tensors.
#[derive(Debug, Default)]
pub(super) struct TensorIndex {
    pub files: Vec<TensorFile>,
    /// Tensors under Hugging Face's names.
    pub tensors: BTreeMap<String, TensorEntry>,
}

/// A file in memory.
#[derive(Debug)]
pub(super) struct TensorFile {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

/// Type, shape and place of a tensor.
#[derive(Debug)]
pub(super) struct TensorEntry {
    /// Index of the file.
    pub file: usize,
    /// Name in the file, for errors.
    pub name: String,
    pub kind: TensorType,
    pub shape: Vec<usize>,
    /// Bytes of the file; the check of the header has proved that they lie inside.
    pub bytes: Range<usize>,
    /// Number of heads, if the file interleaves the rows of each head's two halves.
    pub heads: Option<usize>,
    /// True if its values were read.
    pub read: AtomicBool,
}

/// Type of a tensor's numbers.
#[derive(Debug)]
pub(super) enum TensorType {
    Floats(Type),
    /// Another type, such as integers; no model reads it.
    Other(Dtype),
}

impl TensorIndex {
    /// Adds the tensors of a safetensors file.
    pub fn add_safetensors(&mut self, path: PathBuf, bytes: Vec<u8>) -> Result<(), Error> {
        // The header's length, 8 bytes, and the header precede the data.
        let (header, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|e| Error::File { path: path.clone(), why: format!("not a safetensors file: {e}") })?;
        let data = 8 + header;
        let entry = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
            let (start, end) = info.data_offsets;
            let kind = match info.dtype {
                Dtype::F32 => TensorType::Floats(Type::F32),
                Dtype::F16 => TensorType::Floats(Type::F16),
                Dtype::BF16 => TensorType::Floats(Type::BF16),
                other => TensorType::Other(other),
            };
            let (shape, bytes) = (info.shape.clone(), data + start..data + end);
            (name.clone(), TensorEntry { file: 0, name, kind, shape, bytes, heads: None, read: false.into() })
        };
        self.add(path, bytes, metadata.tensors().into_iter().map(entry))
    }

    /// Adds the tensors of a GGUF file.
    pub fn add_gguf(&mut self, path: PathBuf, bytes: Vec<u8>) -> Result<(), Error> {
        let gguf = Gguf::from_bytes(&path, &bytes)?;
        let entry = |(name, tensor): (&String, &gguf::GgufTensor)| {
            let gguf::GgufTensor { kind, shape, bytes, heads } = tensor.clone();
            // `Gguf::config_json` reads the frequencies; no layer holds them.
            let (kind, read) = (TensorType::Floats(kind), (name == gguf::FREQUENCIES).into());
            (
                gguf.hugging_face(name),
                TensorEntry { file: 0, name: name.clone(), kind, shape, bytes, heads, read },
            )
        };
        self.add(path, bytes, gguf.tensors().iter().map(entry))
    }

    /// Adds a file's tensors; a name in two files is an error.
    fn add(
        &mut self,
        path: PathBuf,
        bytes: Vec<u8>,
        tensors: impl Iterator<Item = (String, TensorEntry)>,
    ) -> Result<(), Error> {
        self.files.push(TensorFile { path, bytes });
        let file = self.files.len() - 1;
        for (name, entry) in tensors {
            if let Some(other) = self.tensors.insert(name.clone(), TensorEntry { file, ..entry }) {
                let path = self.files[file].path.clone();
                let why = format!("also in {}", self.files[other.file].path.display());
                return Err(Error::Tensor { path, name, why });
            }
        }
        Ok(())
    }

    /// Name and entry of the tensor `name`, or of one of its other spellings; names may lack the prefix `base`.
    pub fn find(&self, name: &str, base: &str) -> Option<(&str, &TensorEntry)> {
        let old = name
            .strip_suffix("LayerNorm.weight")
            .map(|start| format!("{start}LayerNorm.gamma"))
            .or_else(|| name.strip_suffix("LayerNorm.bias").map(|start| format!("{start}LayerNorm.beta")));
        let (name, entry) = [Some(name), old.as_deref()]
            .into_iter()
            .flatten()
            .flat_map(|name| [Some(name), name.strip_prefix(base)])
            .flatten()
            .find_map(|name| self.tensors.get_key_value(name))?;
        Some((name, entry))
    }
}

/// Reads `model.safetensors.index.json`, whose path is `path` and whose content is `bytes`: the file of each tensor.
/// Each file must lie beside the index.
///
/// # Errors
/// [`Error::File`] if the content is no index, or names a file elsewhere.
pub fn read_index(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, String>, Error> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = config::parse(path, bytes)?;
    for (name, file) in &index.weight_map {
        if Path::new(file).file_name() != Some(file.as_ref()) {
            let why = format!("weight_map.{name}: expected a file name, found {file:?}");
            return Err(Error::File { path: path.to_owned(), why });
        }
    }
    Ok(index.weight_map)
}
