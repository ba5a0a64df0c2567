//! Named tensors of a checkpoint: safetensors files, as f32.
//!
//! ```text
//! DIR/model.safetensors                 everything in one file, or
//! DIR/model.safetensors.index.json      {"weight_map": {tensor: file, ..}}
//! ```
//!
//! A model asks for the tensors it needs by name and shape. One that is missing, misshapen, not of
//! floats, or holds NaN or Inf is an error that names it and its file. Tensors that no one asks for
//! are ignored: checkpoints carry heads and buffers (`position_ids`) that a model has no use for.
//!
//! Two differences between checkpoints of the same model are hidden here: old ones call
//! `LayerNorm.weight` and `LayerNorm.bias` `LayerNorm.gamma` and `LayerNorm.beta`, and those saved
//! from a bare model lack the prefix (`bert.`) that those with a head have.

use crate::config;
use crate::error::Error;
use crate::random::Random;
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The tensors of a checkpoint.
#[derive(Debug)]
pub struct Weights {
    /// What an error about a missing tensor names.
    path: PathBuf,
    /// The prefix that names may lack, with its dot; or empty.
    base: &'static str,
    source: Source,
    watch: Option<Watch>,
}

/// Who is told how many bytes of tensors have been asked for, and of how many.
struct Watch {
    tell: Box<dyn Fn(u64, u64) + Send + Sync>,
    done: AtomicU64,
    all: u64,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watch({:?} of {})", self.done, self.all)
    }
}

#[derive(Debug)]
enum Source {
    Files {
        files: Vec<File>,
        tensors: BTreeMap<String, Entry>,
    },
    /// Any tensor that is asked for exists.
    Random {
        seed: u64,
    },
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// Where a tensor stands in its file, which the header's check has proved.
#[derive(Debug)]
struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

impl Weights {
    /// Reads the checkpoint in `dir`: `model.safetensors`, or the files that
    /// `model.safetensors.index.json` lists.
    ///
    /// # Errors
    /// If neither exists, or a file cannot be read, is damaged or lacks a tensor that the index
    /// says it holds.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let single = dir.join("model.safetensors");
        let index = dir.join("model.safetensors.index.json");
        if single.exists() || !index.exists() {
            let bytes = config::bytes(&single)?;
            return Self::from_bytes(single, bytes);
        }
        let weight_map = read_index(&index, &config::bytes(&index)?)?;
        let mut weights = Self::empty(dir.to_owned());
        for name in weight_map.values().collect::<BTreeSet<_>>() {
            let path = dir.join(name);
            let bytes = config::bytes(&path)?;
            weights.add(path, bytes)?;
        }
        for (name, file) in weight_map {
            if !weights.contains(&name) {
                return Err(weights.error(&name, format!("missing, though the index says it is in {file}")));
            }
        }
        Ok(weights)
    }

    /// Reads one safetensors file from memory; errors call it `path`.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn from_bytes(path: PathBuf, bytes: Vec<u8>) -> Result<Self, Error> {
        let mut weights = Self::empty(path.clone());
        weights.add(path, bytes)?;
        Ok(weights)
    }

    /// A checkpoint as a model is initialised before training: every tensor that is asked for
    /// exists, normally distributed around 0 (the weights of norms around 1) with deviation 0.02.
    pub fn random(seed: u64) -> Self {
        Self { path: "random weights".into(), base: "", source: Source::Random { seed }, watch: None }
    }

    /// The same tensors, whose names may or may not start with `base`, which ends in a dot.
    pub fn with_base(self, base: &'static str) -> Self {
        Self { base, ..self }
    }

    /// The same tensors; `tell` hears how many bytes of them have been asked for, and how many there are.
    /// Whoever loads a model asks for the next when it has converted the last.
    pub fn watched(self, tell: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        let watch = Watch { tell: Box::new(tell), done: AtomicU64::new(0), all: self.bytes() };
        Self { watch: Some(watch), ..self }
    }

    /// Bytes of all tensors in the files.
    pub fn bytes(&self) -> u64 {
        match &self.source {
            Source::Files { tensors, .. } => tensors.values().map(|t| t.bytes.len() as u64).sum(),
            Source::Random { .. } => 0,
        }
    }

    /// All names, in alphabetical order; none for random weights.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let tensors = match &self.source {
            Source::Files { tensors, .. } => Some(tensors),
            Source::Random { .. } => None,
        };
        tensors.into_iter().flat_map(|tensors| tensors.keys().map(String::as_str))
    }

    /// Whether [`get`](Self::get) would find the tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        match &self.source {
            Source::Files { tensors, .. } => self.find(tensors, name).is_some(),
            Source::Random { .. } => true,
        }
    }

    /// The tensor `name` of shape `shape`, row-major.
    ///
    /// # Errors
    /// [`Error::Tensor`] if it is missing, has another shape, is stored as anything but f32, f16 or
    /// bf16, or holds a value that is not finite.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let (files, tensors) = match &self.source {
            Source::Files { files, tensors } => (files, tensors),
            Source::Random { seed } => return Ok(random(*seed, name, shape)),
        };
        let Some((name, entry)) = self.find(tensors, name) else {
            return Err(self.error(name, format!("missing; expected shape {shape:?}")));
        };
        let File { path, bytes } = &files[entry.file];
        let error = |why| Error::Tensor { path: path.clone(), name: name.to_owned(), why };
        if entry.shape != shape {
            return Err(error(format!("expected shape {shape:?}, found {:?}", entry.shape)));
        }
        let bytes = &bytes[entry.bytes.clone()];
        if let Some(Watch { tell, done, all }) = &self.watch {
            tell(done.fetch_add(bytes.len() as u64, Ordering::Relaxed), *all);
        }
        let values: Vec<f32> = match entry.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => {
                bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect()
            }
            other => return Err(error(format!("expected F32, F16 or BF16, found {other:?}"))),
        };
        match values.iter().position(|v| !v.is_finite()) {
            Some(i) => Err(error(format!("element {i} is {}", values[i]))),
            None => Ok(values),
        }
    }

    fn empty(path: PathBuf) -> Self {
        let source = Source::Files { files: Vec::new(), tensors: BTreeMap::new() };
        Self { path, base: "", source, watch: None }
    }

    /// Adds a file's tensors; a name in two files is an error.
    fn add(&mut self, path: PathBuf, bytes: Vec<u8>) -> Result<(), Error> {
        let Source::Files { files, tensors } = &mut self.source else {
            unreachable!("only weights of files gain files")
        };
        // The header's length, 8 bytes, and the header precede the data.
        let (header, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|e| Error::File { path: path.clone(), why: format!("not a safetensors file: {e}") })?;
        let data = 8 + header;
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let entry = Entry {
                file: files.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                bytes: data + start..data + end,
            };
            if let Some(other) = tensors.get(&name) {
                let why = format!("also in {}", files[other.file].path.display());
                return Err(Error::Tensor { path, name, why });
            }
            tensors.insert(name, entry);
        }
        files.push(File { path, bytes });
        Ok(())
    }

    /// The tensor under `name` or one of its other spellings, and which it was.
    fn find<'a>(&self, tensors: &'a BTreeMap<String, Entry>, name: &str) -> Option<(&'a str, &'a Entry)> {
        let old = name
            .strip_suffix("LayerNorm.weight")
            .map(|start| format!("{start}LayerNorm.gamma"))
            .or_else(|| name.strip_suffix("LayerNorm.bias").map(|start| format!("{start}LayerNorm.beta")));
        [Some(name), old.as_deref()]
            .into_iter()
            .flatten()
            .flat_map(|name| [Some(name), name.strip_prefix(self.base)])
            .flatten()
            .find_map(|name| tensors.get_key_value(name))
            .map(|(name, entry)| (name.as_str(), entry))
    }

    fn error(&self, name: &str, why: String) -> Error {
        Error::Tensor { path: self.path.clone(), name: name.to_owned(), why }
    }
}

/// The files that an index names for its tensors, which may only be neighbours of the index.
pub(crate) fn read_index(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, String>, Error> {
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

/// Values that depend on the seed, the name and the place only.
fn random(seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    // FNV-1a, whose value no release of any library changes.
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut rng = Random::new(seed ^ hash);
    let of_norm = ["norm.weight", "ln_1.weight", "ln_2.weight", "ln_f.weight"];
    let lower = name.to_ascii_lowercase();
    let mean = if of_norm.iter().any(|end| lower.ends_with(end)) { 1.0 } else { 0.0 };
    (0..shape.iter().product()).map(|_| mean + 0.02 * rng.normal()).collect()
}
