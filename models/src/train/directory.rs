//! Atomic writes of directories: a directory is there whole or not at all.

use crate::error::Error;
use crate::whole_file;
use std::fs;
use std::path::Path;

/// Writes the directory `path`, atomically: `fill` writes its files to a hidden directory beside it, which is renamed.
/// A directory `path` that exists already is left as it is.
///
/// # Errors
/// [`Error::Io`] if the directory cannot be written; errors of `fill`.
pub fn write_directory(path: &Path, fill: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
    if path.exists() {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.new"));
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    if beside.exists() {
        // Left by a run that was interrupted here.
        fs::remove_dir_all(&beside).map_err(io(&beside))?;
    }
    fs::create_dir_all(&beside).map_err(io(&beside))?;
    if let Err(e) = fill(&beside).and_then(|()| whole_file::sync_directory(&beside)) {
        // A full disk gets its room back. If removing fails too, the first error says why.
        let _ = fs::remove_dir_all(&beside);
        return Err(e);
    }
    fs::rename(&beside, path).map_err(io(path))?;
    path.parent().map_or(Ok(()), whole_file::sync_directory)
}
