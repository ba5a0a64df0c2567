//! Reads at a position of a file, from several threads.

use std::fs::File;
use std::io::Result;

/// A file that threads read at positions, without a position of its own.
#[derive(Debug)]
#[cfg(unix)]
pub struct ReadAt(File);

#[cfg(unix)]
impl ReadAt {
    pub fn new(file: File) -> Self {
        Self(file)
    }

    /// Fills `into` from `position` on.
    pub fn read_exact_at(&self, into: &mut [u8], position: u64) -> Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.0, into, position)
    }
}

/// A file that threads read at positions, one thread at a time: its position is shared.
#[derive(Debug)]
#[cfg(not(unix))]
pub struct ReadAt(std::sync::Mutex<File>);

#[cfg(not(unix))]
impl ReadAt {
    pub fn new(file: File) -> Self {
        Self(std::sync::Mutex::new(file))
    }

    /// Fills `into` from `position` on.
    pub fn read_exact_at(&self, into: &mut [u8], position: u64) -> Result<()> {
        use std::io::{Read as _, Seek as _, SeekFrom};
        let mut file = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.seek(SeekFrom::Start(position))?;
        file.read_exact(into)
    }
}
