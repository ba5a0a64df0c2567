//! Named tensors of a checkpoint: safetensors and GGUF files, as f32.
//!
//! ```text
//! DIR/model.safetensors                 everything in one file, or
//! DIR/model.safetensors.index.json      {"weight_map": {tensor: file, ..}}, or
//! DIR/NAME.gguf                         the only GGUF file, if none of the above exists
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

use crate::checkpoint::arena::{Arena, Values};
use crate::checkpoint::files;
use crate::checkpoint::gguf::{self, Type};
use crate::checkpoint::initial::Initialization;
use crate::error::Error;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tilewright_kernels::gemm::Format;
use tilewright_kernels::random::Random;

mod index;

pub use index::read_index;
use index::{TensorEntry, TensorFile, TensorIndex, TensorType};

/// Tensors of a checkpoint. Clones share the tensors and the record of reads.
#[derive(Clone, Debug)]
pub struct Weights {
    /// Path that an error about a missing tensor names.
    path: PathBuf,
    /// Prefix that names may lack, with its dot; or empty.
    base: &'static str,
    source: Arc<TensorSource>,
    watch: Option<Arc<ReadProgress>>,
    /// Arena that takes the values of all tensors, if the model is to be trained.
    arena: Option<Arc<Mutex<Arena>>>,
    /// Values of tensors that the files lack.
    missing: Option<Arc<MissingTensors>>,
    /// Prefix of the names in the arena, and of the names that have none: see [`inside`](Self::inside).
    inside: Option<(&'static str, &'static str)>,
    /// True if tensors in the arena have the names that the model gives them.
    full_names: bool,
}

/// A tensor of a checkpoint, as f32.
#[derive(Clone, Debug)]
pub struct NamedTensor {
    /// Name under which the checkpoint stores the tensor.
    pub name: String,
    /// Shape in the checkpoint.
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Values,
}

/// Values of tensors that the files lack, and the names of those that a model has read.
#[derive(Debug)]
struct MissingTensors {
    initialization: Initialization,
    names: Mutex<BTreeSet<String>>,
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
    Files(TensorIndex),
    /// Random values: every tensor exists.
    Random {
        seed: u64,
    },
    /// Values of a model before training.
    Initial(Initialization),
}

impl Weights {
    /// Reads the checkpoint at `path`: a GGUF file, or a directory of `model.safetensors`, of the files that
    /// `model.safetensors.index.json` lists, or of a single GGUF file.
    ///
    /// # Errors
    /// If no such file exists, or a file cannot be read, is damaged or lacks a tensor that the index promises.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if let Some(file) = files::find_gguf(path) {
            let bytes = files::bytes(&file)?;
            return Self::from_gguf(file, bytes);
        }
        let dir = path;
        let [single, index] = files::SAFETENSORS.map(|name| dir.join(name));
        if files::exists(&single) || !files::exists(&index) {
            let bytes = files::bytes(&single)?;
            return Self::from_bytes(single, bytes);
        }
        let weight_map = read_index(&index, &files::bytes(&index)?)?;
        let mut tensors = TensorIndex::default();
        for name in weight_map.values().collect::<BTreeSet<_>>() {
            let path = dir.join(name);
            let bytes = files::bytes(&path)?;
            tensors.add_safetensors(path, bytes)?;
        }
        let weights = Self::of(dir.to_owned(), TensorSource::Files(tensors));
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
        let mut index = TensorIndex::default();
        index.add_safetensors(path.clone(), bytes)?;
        Ok(Self::of(path, TensorSource::Files(index)))
    }

    /// Reads one GGUF file from memory; errors name `path`. Tensors have Hugging Face's names.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn from_gguf(path: PathBuf, bytes: Vec<u8>) -> Result<Self, Error> {
        let mut index = TensorIndex::default();
        index.add_gguf(path.clone(), bytes)?;
        Ok(Self::of(path, TensorSource::Files(index)))
    }

    /// Random weights, as before training. Every tensor exists; its values are nearly normal with standard deviation
    /// 0.02 and mean 0 (mean 1 for weights of norms).
    pub fn random(seed: u64) -> Self {
        Self::of("random weights".into(), TensorSource::Random { seed })
    }

    /// Parameters of a model before training.
    pub fn initial(initialization: Initialization) -> Self {
        Self::of("initial weights".into(), TensorSource::Initial(initialization))
    }

    /// Takes the initial values of tensors that the files lack or have in another shape: the new head of a fine-tuned
    /// model. [`initialized`](Self::initialized) lists them.
    pub fn with_missing(self, initialization: Initialization) -> Self {
        let missing = MissingTensors { initialization, names: Mutex::default() };
        Self { missing: Some(missing.into()), ..self }
    }

    /// Names tensors of a model in training as the model does, not as the files do: checkpoints of a bare model lack the
    /// prefix that transformers expects of checkpoints with a head.
    pub fn with_full_names(self) -> Self {
        Self { full_names: true, ..self }
    }

    /// Names of the tensors that took initial values, in alphabetical order: see [`with_missing`](Self::with_missing).
    ///
    /// # Panics
    /// If a thread panicked while it read a tensor.
    pub fn initialized(&self) -> Vec<String> {
        let names = self.missing.as_ref().map(|missing| missing.names.lock().expect("no reader panicked"));
        names.map_or_else(Vec::new, |names| names.iter().cloned().collect())
    }

    /// These tensors for a model that is a part of another. Names in the arena, and names of initial weights, have the
    /// prefix `part` unless they start with `shared`, so the two models share the tensors whose names start with `shared`.
    pub fn inside(&self, part: &'static str, shared: &'static str) -> Self {
        Self { inside: Some((part, shared)), ..self.clone() }
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

    /// Puts the values of all tensors that a model reads into one [`Arena`], which [`into_arena`](Self::into_arena)
    /// returns: the model is then to be trained, and computes with the values that a [`Run`](crate::layers::Run) has.
    pub fn trainable(self) -> Self {
        Self { arena: Some(Arc::default()), ..self }
    }

    /// True if a model that reads these tensors is to be trained.
    pub fn is_trainable(&self) -> bool {
        self.arena.is_some()
    }

    /// The arena of [`trainable`](Self::trainable) weights, with all tensors read so far; empty for other weights.
    ///
    /// # Panics
    /// If a thread panicked while it read a tensor.
    pub fn into_arena(self) -> Arena {
        self.arena
            .map(|arena| std::mem::take(&mut *arena.lock().expect("no reader panicked")))
            .unwrap_or_default()
    }

    /// Bytes of all tensors in the files.
    pub fn bytes(&self) -> u64 {
        self.tensors().map(|(_, entry)| entry.bytes.len() as u64).sum()
    }

    /// All names, in alphabetical order; none for random weights.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors().map(|(name, _)| name)
    }

    /// Names of unread tensors of floats, in alphabetical order. Once a model is open, they are heads of other classes
    /// or buffers, or a sign that config and file belong to different models.
    pub fn unread(&self) -> impl Iterator<Item = &str> {
        let floats = self.tensors().filter(|(_, entry)| matches!(entry.kind, TensorType::Floats(_)));
        floats.filter(|(_, entry)| !entry.read.load(Ordering::Relaxed)).map(|(name, _)| name)
    }

    fn tensors(&self) -> impl Iterator<Item = (&str, &TensorEntry)> {
        let tensors = self.index().into_iter().flat_map(|index| &index.tensors);
        tensors.map(|(name, entry)| (name.as_str(), entry))
    }

    /// True if [`get`](Self::get) would find the tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        match &*self.source {
            TensorSource::Files(_) => self.stores(name),
            TensorSource::Random { .. } => true,
            TensorSource::Initial(initialization) => initialization.has(name),
        }
    }

    /// True if a file has the tensor `name`; false for random weights.
    pub fn stores(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Name under which the checkpoint stores the tensor `name`; `name` itself for random weights and missing tensors.
    /// GGUF files count as storing Hugging Face's names.
    pub fn stored_name<'n>(&'n self, name: &'n str) -> &'n str {
        self.find(name).map_or(name, |(stored, _)| stored)
    }

    /// Name of the tensor `name` in the arena.
    fn trained_name<'n>(&'n self, name: &'n str) -> &'n str {
        if self.full_names { name } else { self.stored_name(name) }
    }

    /// The tensor `name` of shape `shape`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Panics
    /// If a thread panicked while it read a tensor into the arena.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<NamedTensor, Error> {
        let inner = match self.inside {
            Some((part, shared)) if !name.starts_with(shared) => Some(format!("{part}{name}")),
            _ => None,
        };
        let name = inner.as_deref().unwrap_or(name);
        let stored = self.trained_name(name);
        let named = |values| NamedTensor { name: stored.to_owned(), shape: shape.to_vec(), values };
        let Some(arena) = &self.arena else { return Ok(named(Values::Own(self.get(name, shape)?))) };
        let mut arena = arena.lock().expect("no reader panicked");
        let place = match arena.find(stored) {
            Some(tensor) if tensor.shape == shape => tensor.range.clone(),
            Some(tensor) => {
                let why = format!("expected shape {shape:?}, found {:?}", tensor.shape);
                return Err(self.error(stored, why));
            }
            None => arena.push(stored, shape, &self.get(name, shape)?),
        };
        Ok(named(Values::Arena(place)))
    }

    /// As [`tensor`](Self::tensor), for a tensor that does not learn.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Panics
    /// As [`tensor`](Self::tensor).
    pub fn constant(&self, name: &str, shape: &[usize]) -> Result<NamedTensor, Error> {
        let (stored, values) = (self.trained_name(name), self.get(name, shape)?);
        if let Some(arena) = &self.arena {
            arena.lock().expect("no reader panicked").push_constant(stored, shape, &values);
        }
        Ok(NamedTensor { name: stored.to_owned(), shape: shape.to_vec(), values: Values::Own(values) })
    }

    /// Values of the tensor `name` of shape `shape`, row-major.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the tensor is missing, has another shape, stores neither floats nor quantized blocks,
    /// or holds a value that is not finite.
    ///
    /// # Panics
    /// If a thread panicked while it read a missing tensor.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let index = match &*self.source {
            TensorSource::Files(index) => index,
            TensorSource::Random { seed } => return Ok(random(*seed, name, shape)),
            TensorSource::Initial(initialization) => return Ok(initialization.values(name, shape)),
        };
        let found = index.find(name, self.base);
        let fits = found.is_some_and(|(_, entry)| entry.shape == shape);
        if let Some(MissingTensors { initialization, names }) = self.missing.as_deref().filter(|_| !fits) {
            names.lock().expect("no reader panicked").insert(name.to_owned());
            return Ok(initialization.values(name, shape));
        }
        let Some((_, entry)) = found else {
            return Err(self.error(name, format!("missing; expected shape {shape:?}")));
        };
        entry.read.store(true, Ordering::Relaxed);
        let TensorFile { path, bytes } = &index.files[entry.file];
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

    /// Rows of the matrix `name`, \[out, in\], as the blocks of a GGUF file, if the file stores the matrix in `format`.
    /// The rows are input of [`PackedB::from_groups`](tilewright_kernels::gemm::PackedB::from_groups).
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
        let Some(index) = self.index() else { return Ok(None) };
        let same = |(_, entry): &(&str, &TensorEntry)| {
            entry.shape == shape && matches!(entry.kind, TensorType::Floats(stored) if stored == kind)
        };
        let Some((_, entry)) = index.find(name, self.base).filter(same) else { return Ok(None) };
        entry.read.store(true, Ordering::Relaxed);
        let TensorFile { path, bytes } = &index.files[entry.file];
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
        Self {
            path,
            base: "",
            source: source.into(),
            watch: None,
            arena: None,
            missing: None,
            inside: None,
            full_names: false,
        }
    }

    /// Entry of the tensor `name`; `None` for random weights.
    fn find(&self, name: &str) -> Option<(&str, &TensorEntry)> {
        self.index()?.find(name, self.base)
    }

    fn index(&self) -> Option<&TensorIndex> {
        match &*self.source {
            TensorSource::Files(index) => Some(index),
            TensorSource::Random { .. } | TensorSource::Initial(_) => None,
        }
    }

    fn error(&self, name: &str, why: String) -> Error {
        Error::Tensor { path: self.path.clone(), name: name.to_owned(), why }
    }
}

/// Random values: a function of seed, name and index.
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
