//! JSON files of a checkpoint, and fields that several architectures share.

use crate::checkpoint::files::{bytes, exists, find_gguf};
use crate::checkpoint::gguf::Gguf;
use crate::error::Error;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tilewright_kernels::Activation;

/// Parses the JSON file `path`, whose content is `bytes`.
///
/// # Errors
/// [`Error::File`] with line and column of the fault, or the field's name.
pub fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|e| Error::File { path: path.to_owned(), why: e.to_string() })
}

/// Reads and parses the JSON file `path`.
///
/// # Errors
/// See [`parse`]; [`Error::Io`].
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    parse(path, &bytes(path)?)
}

/// Reads and parses the JSON file `path` if it exists.
///
/// # Errors
/// See [`read`]; a missing file is not an error.
pub fn read_optional<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    if exists(path) { read(path).map(Some) } else { Ok(None) }
}

/// Returns the path that errors name, and the content of config.json of the checkpoint at `path`. For a GGUF file the
/// content is built from the metadata.
///
/// # Errors
/// If neither file exists, or the GGUF file is damaged or of an unsupported model.
pub fn config_json(path: &Path) -> Result<(PathBuf, Vec<u8>), Error> {
    let json = path.join("config.json");
    match find_gguf(path).filter(|_| !exists(&json)) {
        Some(file) => {
            let bytes = Gguf::open(&file)?.config_json()?;
            Ok((file, bytes))
        }
        None => {
            let bytes = bytes(&json)?;
            Ok((json, bytes))
        }
    }
}

/// Fields of config.json that name the architecture.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct ModelKind {
    /// Classes of transformers; the first class determines the head.
    pub architectures: Option<Vec<String>>,
    /// The family: `bert`.
    pub model_type: Option<String>,
}

impl ModelKind {
    /// Reads the config of the checkpoint at `path`; also returns the path that errors name.
    ///
    /// # Errors
    /// See [`config_json`] and [`parse`].
    pub fn read(path: &Path) -> Result<(PathBuf, Self), Error> {
        let (path, bytes) = config_json(path)?;
        let kind = parse(&path, &bytes)?;
        Ok((path, kind))
    }
}

/// A special token: text or an object, as files have both.
#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
pub(crate) enum SpecialToken {
    Text(String),
    Object { content: String },
}

impl From<SpecialToken> for String {
    fn from(token: SpecialToken) -> Self {
        match token {
            SpecialToken::Text(content) | SpecialToken::Object { content } => content,
        }
    }
}

/// Builds a config: the named fields come from config.json (`fields`), with the values of `or` as defaults.
/// Fields after the semicolon are given as expressions.
macro_rules! take {
    ($fields:ident or $or:ident: $($name:ident),+; $($other:tt)*) => {
        Self { $($name: $fields.get(stringify!($name), $or.$name)?,)+ $($other)* }
    };
}
pub(crate) use take;

/// Names and values of the fields of a config.
macro_rules! named {
    ($config:ident: $($name:ident),+) => { [$((stringify!($name), $config.$name)),+] };
}
pub(crate) use named;

/// Upper bound of layers. A larger number means a damaged file; the names of its layers would fill the memory.
pub(crate) const MOST_LAYERS: usize = 1 << 16;

/// Refuses more than `MOST_LAYERS` layers; names the field.
pub(crate) fn layers(counts: &[(&str, usize)]) -> Result<(), String> {
    match counts.iter().find(|(_, layers)| *layers > MOST_LAYERS) {
        Some((name, layers)) => Err(format!("{name}: {layers} are more than {MOST_LAYERS}")),
        None => Ok(()),
    }
}

/// Refuses a number of heads that does not divide the width; names the field.
pub(crate) fn divides((part, heads): (&str, usize), (whole, width): (&str, usize)) -> Result<(), String> {
    match width.is_multiple_of(heads) {
        true => Ok(()),
        false => Err(format!("{part} {heads} does not divide {whole} {width}")),
    }
}

/// Refuses sizes of 0; names the field.
pub(crate) fn positive(sizes: &[(&str, usize)]) -> Result<(), String> {
    match sizes.iter().find(|(_, size)| *size == 0) {
        Some((name, _)) => Err(format!("{name}: expected at least 1, found 0")),
        None => Ok(()),
    }
}

/// Refuses probabilities outside of \[0, 1\]; names the field.
pub(crate) fn probabilities(all: &[(&str, f32)]) -> Result<(), String> {
    match all.iter().find(|(_, p)| !(0.0..=1.0).contains(p)) {
        Some((name, p)) => Err(format!("{name}: expected a probability from 0 to 1, found {p}")),
        None => Ok(()),
    }
}

/// Refuses an epsilon that is negative or not finite; names the field.
pub(crate) fn eps(name: &str, eps: f32) -> Result<(), String> {
    match eps >= 0.0 && eps.is_finite() {
        true => Ok(()),
        false => Err(format!("{name}: expected a number from 0 up, found {eps}")),
    }
}

/// Fields of a config.json. A null field counts as missing.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    path: PathBuf,
    values: Map<String, Value>,
}

impl Fields {
    /// Reads the [config](config_json) of a directory or a GGUF file.
    ///
    /// # Errors
    /// See [`config_json`] and [`parse`].
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let (path, bytes) = config_json(dir)?;
        Self::from_bytes(&path, &bytes)
    }

    /// Reads config.json from memory; errors name `path`.
    ///
    /// # Errors
    /// See [`parse`].
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        Ok(Self { path: path.to_owned(), values: parse(path, bytes)? })
    }

    /// Value of `name`, or else `default`.
    ///
    /// # Errors
    /// [`Error::File`], naming the field, if it has another type.
    pub fn get<T: DeserializeOwned>(&self, name: &str, default: T) -> Result<T, Error> {
        match self.values.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => T::deserialize(value).map_err(|e| self.error(format!("{name}: {e}"))),
        }
    }

    /// Activation in the field `name`, or else `default`.
    ///
    /// # Errors
    /// As [`get`](Self::get), and if the activation is not supported.
    pub fn activation(&self, name: &str, default: Activation) -> Result<Activation, Error> {
        #[derive(serde::Deserialize)]
        struct Named(#[serde(deserialize_with = "activation")] Activation);
        Ok(self.get(name, Named(default))?.0)
    }

    /// Names of classes, by number: `id2label`, or default names for `num_labels` classes.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn labels(&self) -> Result<Option<BTreeMap<usize, String>>, Error> {
        let number: Option<u16> = self.get("num_labels", None)?;
        let numbered = |n: u16| (0..n.into()).map(|i| (i, format!("LABEL_{i}"))).collect();
        self.get("id2label", number.map(numbered))
    }

    /// Sets the field `name`; null removes it.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        match value.into() {
            Value::Null => drop(self.values.remove(name)),
            value => drop(self.values.insert(name.to_owned(), value)),
        }
    }

    /// The fields as the text of a config.json.
    pub fn to_json(&self) -> String {
        format!("{:#}\n", Value::Object(self.values.clone()))
    }

    /// Refuses a field with a value other than `supported`.
    ///
    /// # Errors
    /// [`Error::File`] if the field is present and not `supported`.
    pub fn only(&self, name: &str, supported: impl Into<Value>) -> Result<(), Error> {
        let supported = supported.into();
        match self.values.get(name) {
            Some(found) if !found.is_null() && *found != supported => {
                Err(self.error(format!("{name}: only {supported} is supported, found {found}")))
            }
            _ => Ok(()),
        }
    }

    /// An error about this file.
    pub fn error(&self, why: String) -> Error {
        Error::File { path: self.path.clone(), why }
    }
}

/// Reads an activation's name, for `#[serde(deserialize_with)]`.
///
/// # Errors
/// If the name is not supported; the message lists the supported names.
pub fn activation<'de, D: Deserializer<'de>>(from: D) -> Result<Activation, D::Error> {
    let name = String::deserialize(from)?;
    match name.as_str() {
        "gelu" => Ok(Activation::GeluErf),
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "linear" => Ok(Activation::Identity),
        "mish" => Ok(Activation::Mish),
        "quick_gelu" => Ok(Activation::QuickGelu),
        "relu" => Ok(Activation::Relu),
        "sigmoid" => Ok(Activation::Sigmoid),
        "silu" | "swish" => Ok(Activation::Silu),
        "tanh" => Ok(Activation::Tanh),
        _ => Err(D::Error::custom(format_args!(
            "activation {name:?} is not supported; expected gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, linear, mish, \
             quick_gelu, relu, sigmoid, silu, swish or tanh"
        ))),
    }
}
