//! Named tensors of a checkpoint: safetensors and GGUF files, as f32.
//!
//! ```text
//! DIR/model.safetensors                 everything in one file, or
//! DIR/model.safetensors.index.json      {"weight_map": {tensor: file, ..}}, or
//! DIR/NAME.gguf                         if there is one alone, and none of the above
//! FILE.gguf
//! ```
//!
//! A model reads the tensors it needs by name and shape. A missing or misshapen tensor, one without floats, and
//! one with NaN or Inf are errors that name tensor and file. Unread tensors are no error, because checkpoints
//! carry unused heads and buffers: [`Weights::unread`] lists them.
//!
//! This module hides three differences between checkpoints of one model:
//! - Old checkpoints write `LayerNorm.gamma` and `LayerNorm.beta` for `LayerNorm.weight` and `LayerNorm.bias`.
//! - Checkpoints of a bare model lack the prefix (`bert.`) of checkpoints with a head.
//! - GGUF files have their own names, another order of LLaMA's query and key rows, and quantized blocks, which
//!   [`Weights::groups`] returns unchanged.

use crate::checkpoint::config;
use crate::checkpoint::files;
use crate::checkpoint::gguf::{self, Gguf, Type};
use crate::error::Error;
use safetensors::{Dtype, SafeTensors};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tilewright_kernels::gemm::Format;
use tilewright_kernels::random::Random;

/// Tensors of a checkpoint. Clones share the tensors and the record of reads.
#[derive(Clone, Debug)]
pub struct Weights {
    /// Path that an error about a missing tensor names.
    path: PathBuf,
    /// Prefix that names may lack, with its dot; or empty.
    base: &'static str,
    source: Arc<TensorSource>,
    watch: Option<Arc<ReadProgress>>,
}

/// Callback for progress: bytes read so far, bytes of all tensors.
struct ReadProgress {
    tell: Box<dyn Fn(u64, u64) + Send + Sync>,
    done: AtomicU64,
    all: u64,
}

impl std::fmt::Debug for ReadProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReadProgress({:?} of {})", self.done, self.all)
    }
}

#[derive(Debug)]
enum TensorSource {
    Files(Files),
    /// Random values: every tensor exists.
    Random {
        seed: u64,
    },
}

#[derive(Debug, Default)]
struct Files {
    files: Vec<TensorFile>,
    /// Tensors under Hugging Face's names.
    tensors: BTreeMap<String, TensorEntry>,
}

#[derive(Debug)]
struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// Place of a tensor in its file; the header's check has proved that it lies inside.
#[derive(Debug)]
struct TensorEntry {
    file: usize,
    /// Name in the file, for errors.
    name: String,
    kind: TensorType,
    shape: Vec<usize>,
    bytes: Range<usize>,
    /// Heads whose rows are interleaved, if they are.
    heads: Option<usize>,
    /// True if its values were read.
    read: AtomicBool,
}

/// Type of a tensor's numbers.
#[derive(Debug)]
enum TensorType {
    Floats(Type),
    /// Another type, such as integers; no model reads it.
    Other(Dtype),
}

impl Weights {
    /// Reads the checkpoint at `path`: a GGUF file, or a directory of `model.safetensors`, of the files that
    /// `model.safetensors.index.json` lists, or of a single GGUF file.
    ///
    /// # Errors
    /// If none exists, or a file cannot be read, is damaged or lacks a tensor that the index
    /// promises.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if let Some(file) = files::find_gguf(path) {
            let bytes = files::bytes(&file)?;
            return Self::from_gguf(file, bytes);
        }
        let dir = path;
        let [single, index] = files::SAFETENSORS.map(|name| dir.join(name));
        if single.exists() || !index.exists() {
            let bytes = files::bytes(&single)?;
            return Self::from_bytes(single, bytes);
        }
        let weight_map = read_index(&index, &files::bytes(&index)?)?;
        let mut files = Files::default();
        for name in weight_map.values().collect::<BTreeSet<_>>() {
            let path = dir.join(name);
            let bytes = files::bytes(&path)?;
            files.add_safetensors(path, bytes)?;
        }
        let weights = Self::of(dir.to_owned(), TensorSource::Files(files));
        for (name, file) in weight_map {
            if !weights.contains(&name) {
                return Err(weights.error(&name, format!("missing, though the index says it is in {file}")));
            }
        }
        Ok(weights)
    }

    /// Reads one safetensors file from memory; errors name `path`.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn from_bytes(path: PathBuf, bytes: Vec<u8>) -> Result<Self, Error> {
        let mut files = Files::default();
        files.add_safetensors(path.clone(), bytes)?;
        Ok(Self::of(path, TensorSource::Files(files)))
    }

    /// Reads one GGUF file from memory; errors name `path`. Tensors have Hugging Face's names.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn from_gguf(path: PathBuf, bytes: Vec<u8>) -> Result<Self, Error> {
        let mut files = Files::default();
        files.add_gguf(path.clone(), bytes)?;
        Ok(Self::of(path, TensorSource::Files(files)))
    }

    /// Random weights, as before training: every tensor exists, normally distributed with standard deviation 0.02
    /// around 0 (around 1 for weights of norms).
    pub fn random(seed: u64) -> Self {
        Self::of("random weights".into(), TensorSource::Random { seed })
    }

    /// Accepts names without the prefix `base`, which ends in a dot.
    pub fn with_base(self, base: &'static str) -> Self {
        Self { base, ..self }
    }

    /// Calls `tell` at every read with the bytes read so far and the bytes of all tensors. A model reads the next
    /// tensor after it has converted the last, so the count follows the work.
    pub fn watched(self, tell: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        let watch = ReadProgress { tell: Box::new(tell), done: AtomicU64::new(0), all: self.bytes() };
        Self { watch: Some(watch.into()), ..self }
    }

    /// Bytes of all tensors in the files.
    pub fn bytes(&self) -> u64 {
        match &*self.source {
            TensorSource::Files(files) => files.tensors.values().map(|t| t.bytes.len() as u64).sum(),
            TensorSource::Random { .. } => 0,
        }
    }

    /// All names, in alphabetical order; none for random weights.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors().map(|(name, _)| name)
    }

    /// Names of unread tensors of floats, in alphabetical order. After a model was opened they are heads of other
    /// classes or buffers, or a sign that config and file belong to different models.
    pub fn unread(&self) -> impl Iterator<Item = &str> {
        let floats = self.tensors().filter(|(_, entry)| matches!(entry.kind, TensorType::Floats(_)));
        floats.filter(|(_, entry)| !entry.read.load(Ordering::Relaxed)).map(|(name, _)| name)
    }

    fn tensors(&self) -> impl Iterator<Item = (&str, &TensorEntry)> {
        let tensors = match &*self.source {
            TensorSource::Files(files) => Some(&files.tensors),
            TensorSource::Random { .. } => None,
        };
        tensors.into_iter().flatten().map(|(name, entry)| (name.as_str(), entry))
    }

    /// True if [`get`](Self::get) would find the tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        match &*self.source {
            TensorSource::Files(files) => self.find(files, name).is_some(),
            TensorSource::Random { .. } => true,
        }
    }

    /// True if a file has the tensor `name`; false for random weights.
    pub fn stores(&self, name: &str) -> bool {
        matches!(&*self.source, TensorSource::Files(files) if self.find(files, name).is_some())
    }

    /// Values of the tensor `name` of shape `shape`, row-major.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the tensor is missing, has another shape, stores neither floats nor quantized blocks,
    /// or holds a value that is not finite.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let files = match &*self.source {
            TensorSource::Files(files) => files,
            TensorSource::Random { seed } => return Ok(random(*seed, name, shape)),
        };
        let Some(entry) = self.find(files, name) else {
            return Err(self.error(name, format!("missing; expected shape {shape:?}")));
        };
        entry.read.store(true, Ordering::Relaxed);
        let TensorFile { path, bytes } = &files.files[entry.file];
        let error = |why| Error::Tensor { path: path.clone(), name: entry.name.clone(), why };
        if entry.shape != shape {
            return Err(error(format!("expected shape {shape:?}, found {:?}", entry.shape)));
        }
        let bytes = &bytes[entry.bytes.clone()];
        self.tell(bytes);
        let values = match &entry.kind {
            TensorType::Floats(kind) => kind.dequantize(bytes),
            TensorType::Other(found) => {
                return Err(error(format!("expected F32, F16 or BF16, found {found:?}")));
            }
        };
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            return Err(error(format!("element {i} is {}", values[i])));
        }
        Ok(match entry.heads {
            Some(heads) => gguf::in_halves(&values, entry.shape[0], heads),
            None => values,
        })
    }

    /// Rows of the matrix `name`, \[out, in\], in the blocks of a GGUF file, if these are of `format`. Input of
    /// [`PackedB::from_groups`](tilewright_kernels::gemm::PackedB::from_groups).
    ///
    /// # Errors
    /// [`Error::Tensor`] if the scale of a block is not finite. [`get`](Self::get) reports all other faults of the
    /// tensor.
    pub fn groups(
        &self,
        name: &str,
        shape: [usize; 2],
        format: Format,
    ) -> Result<Option<Cow<'_, [u8]>>, Error> {
        let kind = match format {
            Format::Q8_0 => Type::Q8_0,
            Format::Q4_0 => Type::Q4_0,
            Format::Q4_1 => Type::Q4_1,
            _ => return Ok(None),
        };
        let TensorSource::Files(files) = &*self.source else { return Ok(None) };
        let same = |entry: &&TensorEntry| {
            entry.shape == shape && matches!(entry.kind, TensorType::Floats(stored) if stored == kind)
        };
        let Some(entry) = self.find(files, name).filter(same) else { return Ok(None) };
        entry.read.store(true, Ordering::Relaxed);
        let TensorFile { path, bytes } = &files.files[entry.file];
        let bytes = &bytes[entry.bytes.clone()];
        let halves = if kind == Type::Q4_1 { 2 } else { 1 };
        for (i, block) in bytes.chunks_exact(kind.block().1).enumerate() {
            let scales = block.as_chunks().0.iter().take(halves).map(|b| half::f16::from_le_bytes(*b));
            if let Some(scale) = scales.into_iter().find(|scale| !scale.is_finite()) {
                let why = format!("the scale of block {i} is {scale}");
                return Err(Error::Tensor { path: path.clone(), name: entry.name.clone(), why });
            }
        }
        self.tell(bytes);
        Ok(Some(match entry.heads {
            Some(heads) => gguf::in_halves(bytes, shape[0], heads).into(),
            None => bytes.into(),
        }))
    }

    fn tell(&self, bytes: &[u8]) {
        if let Some(ReadProgress { tell, done, all }) = self.watch.as_deref() {
            tell(done.fetch_add(bytes.len() as u64, Ordering::Relaxed), *all);
        }
    }

    fn of(path: PathBuf, source: TensorSource) -> Self {
        Self { path, base: "", source: source.into(), watch: None }
    }

    /// The tensor under `name` or one of its other spellings.
    fn find<'a>(&self, files: &'a Files, name: &str) -> Option<&'a TensorEntry> {
        let old = name
            .strip_suffix("LayerNorm.weight")
            .map(|start| format!("{start}LayerNorm.gamma"))
            .or_else(|| name.strip_suffix("LayerNorm.bias").map(|start| format!("{start}LayerNorm.beta")));
        [Some(name), old.as_deref()]
            .into_iter()
            .flatten()
            .flat_map(|name| [Some(name), name.strip_prefix(self.base)])
            .flatten()
            .find_map(|name| files.tensors.get(name))
    }

    fn error(&self, name: &str, why: String) -> Error {
        Error::Tensor { path: self.path.clone(), name: name.to_owned(), why }
    }
}

impl Files {
    fn add_safetensors(&mut self, path: PathBuf, bytes: Vec<u8>) -> Result<(), Error> {
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

    fn add_gguf(&mut self, path: PathBuf, bytes: Vec<u8>) -> Result<(), Error> {
        let gguf = Gguf::from_bytes(&path, &bytes)?;
        let entry = |(name, tensor): (&String, &gguf::GgufTensor)| {
            let gguf::GgufTensor { kind, shape, bytes, heads } = tensor.clone();
            // This tensor is part of the config.
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
}

/// Files that the index `path` with content `bytes` names. Each must lie beside the index.
///
/// # Errors
/// [`Error::File`] if it is no index, or names a file elsewhere.
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

/// Random values, a function of seed, name and index.
fn random(seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    // FNV-1a: the hash must not change with a library's release.
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut rng = Random::new(seed ^ hash);
    let of_norm = ["norm.weight", "ln_1.weight", "ln_2.weight", "ln_f.weight"];
    let lower = name.to_ascii_lowercase();
    let mean = if of_norm.iter().any(|end| lower.ends_with(end)) { 1.0 } else { 0.0 };
    (0..shape.iter().product()).map(|_| mean + 0.02 * rng.normal()).collect()
}
