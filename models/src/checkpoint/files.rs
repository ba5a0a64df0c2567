//! Files of a checkpoint: paths and bytes.

use crate::error::Error;
use std::path::{Path, PathBuf};

/// Files of a safetensors checkpoint: all tensors, or the index that says which file holds which tensor.
pub const SAFETENSORS: [&str; 2] = ["model.safetensors", "model.safetensors.index.json"];

/// Finds the GGUF file of the checkpoint at `path`: `path` itself, or the only GGUF file in a directory without
/// safetensors.
pub(crate) fn find_gguf(path: &Path) -> Option<PathBuf> {
    let is_gguf = |path: &Path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    if path.is_file() || is_gguf(path) && !path.is_dir() {
        return Some(path.to_owned());
    }
    if SAFETENSORS.iter().any(|name| path.join(name).exists()) {
        return None;
    }
    let mut files = std::fs::read_dir(path).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut only = None;
    for file in files.by_ref().filter(|file| is_gguf(file)) {
        if only.replace(file).is_some() {
            return None;
        }
    }
    only
}

/// Directory of the other files of the checkpoint at `path`.
pub fn directory(path: &Path) -> &Path {
    match find_gguf(path) {
        Some(file) if file == path => path.parent().unwrap_or(path),
        _ => path,
    }
}

/// Reads the file `path`.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read.
pub fn bytes(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// Reads the text file `path`.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::File`] if it is no UTF-8.
pub fn text(path: &Path) -> Result<String, Error> {
    String::from_utf8(bytes(path)?).map_err(|e| Error::File { path: path.to_owned(), why: e.to_string() })
}
