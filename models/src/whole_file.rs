//! Atomic writes: a file is written whole or not at all.

use crate::error::Error;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes `bytes` to `path` atomically: first to a hidden file beside it, named after this process, then, once the disk
/// has it, by a rename. `path` never holds half a file.
///
/// A symbolic link stays; its target is replaced. A pipe or device, such as `/dev/null`, is written directly.
///
/// # Errors
/// [`Error::Io`] if the directory cannot be written or the rename fails.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_with(path, |file| file.write_all(bytes))
}

/// As [`write()`], piece by piece.
///
/// # Errors
/// As [`write()`]; errors of `fill`.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
    let found = path.canonicalize();
    let path = found.as_deref().unwrap_or(path);
    let buffered = |file: &File| {
        let mut file = BufWriter::with_capacity(1 << 20, file);
        fill(&mut file)?;
        file.flush()
    };
    if path.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        let written = File::options().write(true).open(path).and_then(|file| buffered(&file));
        return written.map_err(|source| Error::Io { path: path.to_owned(), source });
    }
    let draft = Draft::create(path)?;
    buffered(draft.file()).map_err(|source| draft.error(source))?;
    draft.rename_durably()
}

/// A file that is being written under a hidden name beside its own, as [`write()`] does. Dropping it removes it.
#[derive(Debug)]
pub struct Draft {
    file: File,
    path: PathBuf,
    beside: PathBuf,
    is_renamed: bool,
}

impl Draft {
    /// Creates an empty file, which will be `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be written.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&beside);
        match file {
            Ok(file) => Ok(Self { file, path: path.to_owned(), beside, is_renamed: false }),
            Err(source) => Err(Error::Io { path: beside, source }),
        }
    }

    /// The file, for reading and writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Error of reading or writing [`file`](Self::file).
    pub fn error(&self, source: io::Error) -> Error {
        Error::Io { path: self.beside.clone(), source }
    }

    fn rename(mut self) -> Result<(), Error> {
        let renamed = std::fs::rename(&self.beside, &self.path);
        self.is_renamed = renamed.is_ok();
        renamed.map_err(|source| Error::Io { path: self.path.clone(), source })
    }

    /// Gives the file its name once its content is on the disk, and waits until the name is there too.
    ///
    /// # Errors
    /// [`Error::Io`] if the disk cannot be written.
    pub fn rename_durably(self) -> Result<(), Error> {
        self.file.sync_all().map_err(|source| self.error(source))?;
        let directory = self.path.parent().map(Path::to_owned).unwrap_or_default();
        self.rename()?;
        sync_directory(&directory)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_renamed {
            // If removing fails too, the first error says why.
            let _ = std::fs::remove_file(&self.beside);
        }
    }
}

/// Waits until the names in `directory` are on the disk. Systems other than Unix cannot: they return at once.
///
/// # Errors
/// [`Error::Io`] if the directory cannot be opened or written.
pub fn sync_directory(directory: &Path) -> Result<(), Error> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    if cfg!(unix) {
        let synced = File::open(directory).and_then(|file| file.sync_all());
        synced.map_err(|source| Error::Io { path: directory.to_owned(), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn links_stay_links_and_devices_devices() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link] = ["file", "link"].map(|name| folder.path().join(name));
        std::fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write(&link, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        let device = folder.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &device).unwrap();
        write(&device, b"new").unwrap();
        assert!(!device.metadata().unwrap().is_file());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "nothing is left beside them");
    }

    #[test]
    fn drafts_have_their_name_once_they_are_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let files = || std::fs::read_dir(folder.path()).unwrap().count();
        drop(Draft::create(&path).unwrap());
        assert_eq!(files(), 0, "a dropped draft is removed");
        let draft = Draft::create(&path).unwrap();
        Write::write_all(&mut draft.file(), b"new").unwrap();
        assert!(!path.exists());
        draft.rename_durably().unwrap();
        assert_eq!((std::fs::read(&path).unwrap(), files()), (b"new".to_vec(), 1));
    }
}
