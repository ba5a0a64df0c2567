//! Lines of a file, decompressed.

use super::Compression;
use super::zstd::ZstdReader;
use crate::checkpoint::files;
use crate::error::Error;
use flate2::bufread::MultiGzDecoder;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Lines of a file of UTF-8, without their ends and without a byte order mark.
pub struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    is_compressed: bool,
    max_bytes: usize,
    line: Vec<u8>,
    number: u64,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines")
            .field("path", &self.path)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// Bytes of each buffer: few system calls, small beside a document.
const BUFFER: usize = 256 << 10;

/// A file that adds the bytes read to a counter.
struct Counted(File, Arc<AtomicU64>);

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.read(into)?;
        self.1.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

impl Lines {
    /// Opens a file. `read` counts its bytes, compressed as they are.
    pub fn open(
        path: PathBuf,
        compression: Option<Compression>,
        max_bytes: usize,
        read: &Arc<AtomicU64>,
    ) -> Result<Self, Error> {
        let file = BufReader::with_capacity(BUFFER, Counted(files::open(&path)?.0, read.clone()));
        let reader: Box<dyn BufRead + Send> = match compression {
            None => Box::new(file),
            Some(Compression::Gzip) => Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(file))),
            Some(Compression::Zstd) => Box::new(BufReader::with_capacity(BUFFER, ZstdReader::new(file))),
        };
        Ok(Self {
            path,
            reader,
            is_compressed: compression.is_some(),
            max_bytes,
            line: Vec::new(),
            number: 0,
        })
    }

    /// Number of the last line, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Error that names the file and the last line.
    pub fn error(&self, why: &str) -> Error {
        Error::File { path: self.path.clone(), why: format!("line {}: {why}", self.number) }
    }

    /// The next line. `None` at the end of the file.
    ///
    /// # Errors
    /// If the file cannot be read or decompressed, is not UTF-8, or has a longer line than allowed.
    pub fn next(&mut self) -> Result<Option<&str>, Error> {
        self.line.clear();
        // One more byte shows that the line is too long; two are its end.
        let most = self.max_bytes as u64 + 3;
        let read = (&mut self.reader).take(most).read_until(b'\n', &mut self.line);
        self.number += 1;
        match read {
            Err(e) if self.is_compressed => return Err(self.error(&format!("cannot be decompressed: {e}"))),
            Err(source) => return Err(Error::Io { path: self.path.clone(), source }),
            Ok(0) => return Ok(None),
            Ok(_) => {}
        }
        let mut line = &self.line[..];
        line = line.strip_suffix(b"\n").unwrap_or(line);
        line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > self.max_bytes {
            return Err(self.error(&format!("has more than {} bytes, the upper bound", self.max_bytes)));
        }
        if self.number == 1 {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        match std::str::from_utf8(line) {
            Ok(line) => Ok(Some(line)),
            Err(e) => {
                let (at, found) = (e.valid_up_to() + 1, line[e.valid_up_to()]);
                Err(self.error(&format!("byte {at} is {found:#04x}: expected UTF-8")))
            }
        }
    }
}
