//! JSON files beside a checkpoint, and the values in them that several architectures share.

use crate::error::Error;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _};
use std::path::{Path, PathBuf};
use tilewright_kernels::Activation;

/// Parses the JSON file `path`, whose content is `bytes`.
///
/// # Errors
/// [`Error::File`] with the line and column of what is wrong, or the field's name.
pub fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|e| Error::File { path: path.to_owned(), why: e.to_string() })
}

/// The content of the file `path`.
///
/// # Errors
/// [`Error::Io`].
pub fn bytes(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// Reads and parses the JSON file `path`.
///
/// # Errors
/// Those of [`parse`], and [`Error::Io`].
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    parse(path, &bytes(path)?)
}

/// Reads and parses the JSON file `path`, if there is one.
///
/// # Errors
/// Those of [`read`], but for a missing file.
pub fn read_optional<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    if path.exists() { read(path).map(Some) } else { Ok(None) }
}

/// The part of config.json that says which architecture it is for.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct Kind {
    /// Classes of transformers; the first says which heads the checkpoint has.
    pub architectures: Option<Vec<String>>,
    /// The family: `bert`.
    pub model_type: Option<String>,
}

impl Kind {
    /// Reads `dir/config.json`; returns its path as well.
    ///
    /// # Errors
    /// Those of [`read`].
    pub fn read(dir: &Path) -> Result<(PathBuf, Self), Error> {
        let path = dir.join("config.json");
        let kind = read(&path)?;
        Ok((path, kind))
    }
}

/// A special token, which files give as text or as an object.
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

/// Refuses sizes of 0, by name.
pub(crate) fn positive(sizes: &[(&str, usize)]) -> Result<(), String> {
    match sizes.iter().find(|(_, size)| *size == 0) {
        Some((name, _)) => Err(format!("{name} is 0")),
        None => Ok(()),
    }
}

/// Refuses what cannot be added to a variance.
pub(crate) fn eps(name: &str, eps: f32) -> Result<(), String> {
    match eps >= 0.0 && eps.is_finite() {
        true => Ok(()),
        false => Err(format!("{name}: expected a number from 0 up, found {eps}")),
    }
}

/// Reads an activation's name, for `#[serde(deserialize_with)]`.
///
/// # Errors
/// If the name is not supported; the message lists those that are.
pub fn activation<'de, D: Deserializer<'de>>(from: D) -> Result<Activation, D::Error> {
    let name = String::deserialize(from)?;
    match name.as_str() {
        "gelu" => Ok(Activation::GeluErf),
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        "silu" | "swish" => Ok(Activation::Silu),
        "tanh" => Ok(Activation::Tanh),
        _ => Err(D::Error::custom(format_args!(
            "activation {name:?} is not supported; expected gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu, silu, swish or tanh"
        ))),
    }
}
