//! Files that are written whole or not at all.

use crate::error::Error;
use std::path::Path;

/// Writes `bytes` to a hidden neighbour of `path` that no other process writes, then renames it, so that
/// `path` never holds half a file.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written =
        std::fs::write(&beside, bytes).map_err(|source| Error::Io { path: beside.clone(), source }).and_then(
            |()| std::fs::rename(&beside, path).map_err(|source| Error::Io { path: path.to_owned(), source }),
        );
    if written.is_err() {
        // What is left of it is of no use; if it cannot be removed either, the first error says why.
        let _ = std::fs::remove_file(&beside);
    }
    written
}
