//! GGUF files as checkpoints: tensors, config and tokenizer in one file.
//!
//! ```text
//! "GGUF", u32 version (2, 3), u64 tensors, u64 keys       all little endian
//! keys        string name, u32 type, value                strings are a u64 length and UTF-8
//! tensors     string name, u32 dimensions, u64 of each, u32 type, u64 offset
//! padding     to a multiple of general.alignment (32)
//! data        each tensor at its offset, a multiple of the alignment
//! ```
//!
//! Shapes are in Hugging Face's order, the reverse of the file's. Every size in the file is checked against the
//! file's length before memory is allocated.

mod config;
mod dequantize;
mod names;
mod tokenizer;
mod value;

pub use dequantize::Type;
pub(crate) use names::in_halves;
pub use value::Value;

use crate::checkpoint::files;
use crate::error::Error;
use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use value::Reader;

/// Metadata and tensor list of a GGUF file.
#[derive(Clone, Debug)]
pub struct Gguf {
    path: PathBuf,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, GgufTensor>,
}

/// A tensor and its place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufTensor {
    /// Type of its numbers.
    pub kind: Type,
    /// Shape in Hugging Face's order; of a matrix, \[rows, columns\].
    pub shape: Vec<usize>,
    /// Range of bytes in the file.
    pub bytes: Range<usize>,
    /// Number of heads, if the file interleaves the rows of each head's two halves.
    pub(crate) heads: Option<usize>,
}

/// Divisors of the rotary frequencies: a tensor that is part of the config.
pub(crate) const FREQUENCIES: &str = "rope_freqs.weight";

impl Gguf {
    /// Reads metadata and tensor list of the file `path`, without the data.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged, or has a tensor of an unsupported type. The message names the key or
    /// tensor.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (file, len) = files::open(path)?;
        Self::read(path, BufReader::new(file), len)
    }

    /// Reads a file from memory; errors name `path`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        Self::read(path, bytes, bytes.len() as u64)
    }

    fn read(path: &Path, from: impl Read, len: u64) -> Result<Self, Error> {
        let from = &mut Reader::new(from, len);
        let mut gguf = Self { path: path.to_owned(), metadata: BTreeMap::new(), tensors: BTreeMap::new() };
        let [tensors, keys] = gguf.read_header(from).map_err(|why| gguf.error(why))?;
        for n in 0..keys {
            gguf.read_key(from, n).map_err(|why| gguf.error(why))?;
        }
        if gguf.unsigned("split.count")?.is_some_and(|parts| parts > 1) {
            return Err(gguf.error("split.count: expected a single file, found one of several".to_owned()));
        }
        let alignment = gguf.unsigned("general.alignment")?.unwrap_or(32);
        if alignment == 0 || !alignment.is_multiple_of(8) {
            let why = format!("general.alignment: expected a multiple of 8, found {alignment}");
            return Err(gguf.error(why));
        }
        let mut table = Vec::new();
        for n in 0..tensors {
            let (name, kind, dimensions, offset) = gguf.read_tensor(from, n)?;
            table.push((name, kind, dimensions, offset));
        }
        let data = from.at.checked_next_multiple_of(alignment);
        for (name, kind, dimensions, offset) in table {
            let placed = match data {
                Some(data) => gguf.place(&name, kind, &dimensions, offset, alignment, data, len),
                None => Err(format!("no place for data at a multiple of {alignment}")),
            };
            let tensor = placed.map_err(|why| gguf.tensor_error(&name, why))?;
            gguf.tensors.insert(name, tensor);
        }
        gguf.refuse_overlaps()?;
        Ok(gguf)
    }

    /// Reads the header: numbers of tensors and keys.
    fn read_header(&self, from: &mut Reader<impl Read>) -> Result<[u64; 2], String> {
        let magic = from.bytes::<4>().map_err(|why| format!("not a GGUF file: {why}"))?;
        if magic != *b"GGUF" {
            return Err(format!("not a GGUF file: it starts with {:?}", magic.escape_ascii().to_string()));
        }
        let version = from.u32().map_err(|why| format!("version: {why}"))?;
        match version {
            2 | 3 => {}
            _ if (1..=3).contains(&version.swap_bytes()) => {
                return Err("expected a little-endian file, found a big-endian one".to_owned());
            }
            _ => return Err(format!("expected version 2 or 3, found {version}")),
        }
        // Minimum bytes of a tensor: name length, number of dimensions, one dimension, type, offset. Minimum of a
        // key: name length, type, one byte.
        let tensors = from.count(32).map_err(|why| format!("number of tensors: {why}"))?;
        let keys = from.count(13).map_err(|why| format!("number of keys: {why}"))?;
        Ok([tensors, keys])
    }

    fn read_key(&mut self, from: &mut Reader<impl Read>, n: u64) -> Result<(), String> {
        let key = from.string().map_err(|why| format!("name of key {n}: {why}"))?.into_string();
        let value = from.value().map_err(|why| format!("{key}: {why}"))?;
        if self.metadata.contains_key(&key) {
            return Err(format!("{key}: there are two keys of this name"));
        }
        self.metadata.insert(key, value);
        Ok(())
    }

    /// Reads an entry of the tensor list: name, type, dimensions in the file's order, offset.
    fn read_tensor(
        &mut self,
        from: &mut Reader<impl Read>,
        n: u64,
    ) -> Result<(String, Type, Vec<u64>, u64), Error> {
        let name = from.string().map_err(|why| self.error(format!("name of tensor {n}: {why}")))?;
        let row = || {
            let dimensions = from.u32()?;
            if !(1..=4).contains(&dimensions) {
                return Err(format!("expected 1 to 4 dimensions, found {dimensions}"));
            }
            let dimensions = (0..dimensions).map(|_| from.u64()).collect::<Result<_, _>>()?;
            Ok((dimensions, Type::of(from.u32()?)?, from.u64()?))
        };
        let (dimensions, kind, offset) = { row }().map_err(|why| self.tensor_error(&name, why))?;
        Ok((name.into_string(), kind, dimensions, offset))
    }

    /// Checks shape, alignment and bounds of a tensor, and returns its place in the file.
    #[allow(clippy::too_many_arguments, reason = "a row of the table and its bounds")]
    fn place(
        &self,
        name: &str,
        kind: Type,
        dimensions: &[u64],
        offset: u64,
        alignment: u64,
        data: u64,
        len: u64,
    ) -> Result<GgufTensor, String> {
        if self.tensors.contains_key(name) {
            return Err("there are two tensors of this name".to_owned());
        }
        if !offset.is_multiple_of(alignment) {
            return Err(format!("expected an offset that is a multiple of {alignment}, found {offset}"));
        }
        let (numbers, size) = kind.block();
        if !dimensions[0].is_multiple_of(numbers as u64) {
            let row = dimensions[0];
            return Err(format!("expected rows of blocks of {numbers} in {}, found {row}", kind.name()));
        }
        let all = dimensions.iter().try_fold(1, |all: u64, &d| all.checked_mul(d));
        let size = all.and_then(|all| (all / numbers as u64).checked_mul(size as u64));
        let start = data.checked_add(offset);
        let end = start.zip(size).and_then(|(start, size)| start.checked_add(size));
        let (Some(start), Some(end)) = (start, end.filter(|&end| end <= len)) else {
            let kind = kind.name();
            return Err(format!("{dimensions:?} of {kind} at {offset} ends after the file of {len} bytes"));
        };
        let fits = |size: u64| usize::try_from(size).map_err(|e| e.to_string());
        let shape: Vec<usize> = dimensions.iter().rev().map(|&d| fits(d)).collect::<Result<_, _>>()?;
        let heads = self.interleaved_heads(name, shape[0])?;
        Ok(GgufTensor { kind, shape, bytes: fits(start)?..fits(end)?, heads })
    }

    /// Number of heads of the tensor `name`, if the file interleaves the rows of each head's two halves.
    fn interleaved_heads(&self, name: &str, rows: usize) -> Result<Option<usize>, String> {
        let Some(key) = names::interleaved(self.architecture(), name) else { return Ok(None) };
        let count = |key: &str| match self.metadata.get(&format!("llama.{key}")) {
            Some(&Value::Unsigned(heads)) => usize::try_from(heads).ok(),
            _ => None,
        };
        let heads = count(key).or_else(|| count("attention.head_count")).unwrap_or(0);
        match heads.checked_mul(2) {
            Some(halves) if halves != 0 && rows.is_multiple_of(halves) => Ok(Some(heads)),
            _ => Err(format!("expected rows of llama.{key} heads of even width, found {rows} for {heads}")),
        }
    }

    fn refuse_overlaps(&self) -> Result<(), Error> {
        let mut places: Vec<_> = self.tensors.iter().filter(|(_, t)| !t.bytes.is_empty()).collect();
        places.sort_by_key(|(_, t)| t.bytes.start);
        match places.windows(2).find(|pair| pair[0].1.bytes.end > pair[1].1.bytes.start) {
            Some(pair) => Err(self.tensor_error(pair[1].0, format!("overlaps tensor {}", pair[0].0))),
            None => Ok(()),
        }
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `general.architecture`: `llama`, `bert`; empty if the file has no such key.
    pub fn architecture(&self) -> &str {
        match self.metadata.get("general.architecture") {
            Some(Value::String(name)) => name,
            _ => "",
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// All tensors, under the file's names.
    pub fn tensors(&self) -> &BTreeMap<String, GgufTensor> {
        &self.tensors
    }

    /// Hugging Face's name of a tensor, or the file's name if there is none.
    pub(crate) fn hugging_face(&self, name: &str) -> String {
        names::hugging_face(self.architecture(), name).unwrap_or_else(|| name.to_owned())
    }

    /// Values of a tensor, read from the file on disk.
    fn values(&self, tensor: &GgufTensor) -> Result<Vec<f32>, Error> {
        let mut bytes = vec![0; tensor.bytes.len()];
        std::fs::File::open(&self.path)
            .and_then(|mut file| {
                file.seek(SeekFrom::Start(tensor.bytes.start as u64))?;
                file.read_exact(&mut bytes)
            })
            .map_err(|source| Error::Io { path: self.path.clone(), source })?;
        Ok(tensor.kind.dequantize(&bytes))
    }

    /// Integer value of a key, if the key exists.
    fn unsigned(&self, key: &str) -> Result<Option<u64>, Error> {
        self.typed(key, "an integer from 0 up", |value| match *value {
            Value::Unsigned(v) => Some(v),
            Value::Signed(v) => u64::try_from(v).ok(),
            _ => None,
        })
    }

    fn float(&self, key: &str) -> Result<Option<f64>, Error> {
        self.typed(key, "a finite float", |value| match value {
            &Value::Float(v) if v.is_finite() => Some(v),
            _ => None,
        })
    }

    fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "a bool", |value| match value {
            &Value::Bool(v) => Some(v),
            _ => None,
        })
    }

    fn string(&self, key: &str) -> Result<Option<&str>, Error> {
        self.typed(key, "a string", |value| match value {
            Value::String(v) => Some(&**v),
            _ => None,
        })
    }

    fn strings(&self, key: &str) -> Result<Option<&[Box<str>]>, Error> {
        self.typed(key, "strings", |value| match value {
            Value::Strings(v) => Some(&**v),
            _ => None,
        })
    }

    fn numbers(&self, key: &str) -> Result<Option<&[f64]>, Error> {
        self.typed(key, "numbers", |value| match value {
            Value::Numbers(v) => Some(&**v),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(self.error(format!("{key}: expected {expected}, found {}", value.what()))),
        }
    }

    /// Unwraps `found`; if it is `None`, an error names the missing `key`.
    fn required<T>(&self, key: &str, found: Result<Option<T>, Error>) -> Result<T, Error> {
        found?.ok_or_else(|| self.error(format!("{key}: missing")))
    }

    fn error(&self, why: String) -> Error {
        Error::File { path: self.path.clone(), why }
    }

    fn tensor_error(&self, name: &str, why: String) -> Error {
        Error::Tensor { path: self.path.clone(), name: name.to_owned(), why }
    }
}
