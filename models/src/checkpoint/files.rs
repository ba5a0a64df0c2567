//! Files of a checkpoint: paths and bytes.

use crate::error::Error;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
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
    if SAFETENSORS.iter().any(|name| exists(&path.join(name))) {
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

/// True if `path` exists, also as a link to a missing file, or cannot be examined: reading it then reports the fault.
pub(crate) fn exists(path: &Path) -> bool {
    let absent = |e: std::io::Error| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
    path.symlink_metadata().map_or_else(|e| !absent(e), |_| true)
}

/// Opens the regular file `path`; also returns its length. Opening a pipe could wait for a writer forever, and reading a
/// device might never end.
///
/// # Errors
/// [`Error::Io`] if the file cannot be opened, [`Error::File`] if it is not a regular file or a link to a missing file.
/// If directories of `path` are missing, the error names the outermost one too.
pub(crate) fn open(path: &Path) -> Result<(File, u64), Error> {
    let io = |source: std::io::Error| {
        let absent = |path: &&Path| !path.as_os_str().is_empty() && !exists(path);
        let source = match path.ancestors().skip(1).take_while(absent).last() {
            Some(missing) => std::io::Error::new(
                source.kind(),
                format!("no such file: the directory {} does not exist", missing.display()),
            ),
            None => source,
        };
        Error::Io { path: path.to_owned(), source }
    };
    let refuse = |why: &str| Err(Error::File { path: path.to_owned(), why: why.to_owned() });
    let metadata = match path.metadata() {
        Err(e) if e.kind() == ErrorKind::NotFound && path.is_symlink() => {
            return refuse("is a link to a missing file");
        }
        metadata => metadata.map_err(io)?,
    };
    match metadata.is_file() {
        true => Ok((File::open(path).map_err(io)?, metadata.len())),
        false => refuse("is not a regular file"),
    }
}

/// Reads the regular file `path`.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::File`] if it is not a regular file.
pub fn bytes(path: &Path) -> Result<Vec<u8>, Error> {
    let (file, len) = open(path)?;
    let mut bytes = Vec::new();
    let reserved = bytes.try_reserve_exact(usize::try_from(len).unwrap_or(usize::MAX));
    let read = reserved.map_err(|e| std::io::Error::new(ErrorKind::OutOfMemory, e));
    // A file that grows meanwhile is read up to its former length.
    let read = read.and_then(|()| file.take(len).read_to_end(&mut bytes));
    read.map_err(|source| Error::Io { path: path.to_owned(), source })?;
    Ok(bytes)
}

/// Reads the text file `path`.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::File`] if it is not a regular file or not UTF-8.
pub fn text(path: &Path) -> Result<String, Error> {
    String::from_utf8(bytes(path)?).map_err(|e| Error::File { path: path.to_owned(), why: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_outermost_missing_directory() {
        let folder = tempfile::tempdir().unwrap();
        let error = |path: &str| bytes(&folder.path().join(path)).unwrap_err().to_string();
        let none = folder.path().join("none");
        assert!(error("file").starts_with(&format!("{}: ", folder.path().join("file").display())));
        assert_eq!(
            error("none/such/file"),
            format!(
                "{}: no such file: the directory {} does not exist",
                none.join("such/file").display(),
                none.display()
            )
        );
        assert!(error("").ends_with("is not a regular file"));
        std::fs::write(folder.path().join("file"), "text").unwrap();
        assert_eq!(bytes(&folder.path().join("file")).unwrap(), b"text");
        assert!(!exists(&folder.path().join("file/config.json")), "below a file");
    }

    #[test]
    #[cfg(unix)]
    fn devices_and_links_to_nothing_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        for (target, why) in [("/dev/zero", "is not a regular file"), ("none", "is a link to a missing file")]
        {
            std::os::unix::fs::symlink(target, &file).unwrap();
            assert!(exists(&file), "{target}");
            assert!(bytes(&file).unwrap_err().to_string().ends_with(why), "{target}");
            std::fs::remove_file(&file).unwrap();
        }
        assert!(!exists(&file));
    }
}
