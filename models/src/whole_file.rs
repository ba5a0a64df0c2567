//! Atomic writes: a file is written whole or not at all.

use crate::error::Error;
use std::io::Write as _;
use std::path::Path;

/// Writes `bytes` to `path` atomically: first to a hidden file beside it, named after this process, then, once the disk
/// has it, by a rename. `path` never holds half a file.
///
/// A symbolic link stays; its target is replaced. A pipe or device, such as `/dev/null`, is written directly.
///
/// # Errors
/// [`Error::Io`] if the directory cannot be written or the rename fails.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let found = path.canonicalize();
    let path = found.as_deref().unwrap_or(path);
    if path.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return std::fs::write(path, bytes).map_err(|source| Error::Io { path: path.to_owned(), source });
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written =
        write_synced(&beside, bytes).map_err(|source| Error::Io { path: beside.clone(), source }).and_then(
            |()| std::fs::rename(&beside, path).map_err(|source| Error::Io { path: path.to_owned(), source }),
        );
    if written.is_err() {
        // Remove the partial file. If that fails too, the first error says why.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the disk have the names in `directory`: files that were made, renamed or removed.
///
/// # Errors
/// [`Error::Io`] if the directory cannot be opened or synced.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), Error> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let io = |source| Error::Io { path: directory.to_owned(), source };
    if cfg!(unix) {
        std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::write;

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
}
