//! Errors of checkpoints and models.

use std::path::PathBuf;

/// Error of a checkpoint or a model. Every message names its file and the tensor, field or input.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    Io {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// A file is damaged, of another kind, or asks for an unsupported value.
    File {
        /// The file.
        path: PathBuf,
        /// Fault and its place in the file.
        why: String,
    },
    /// A tensor is missing, or has the wrong shape, type or values.
    Tensor {
        /// The file or directory that should hold it.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// Expected and found value.
        why: String,
    },
    /// An input does not fit the model.
    Input {
        /// The input's name.
        name: &'static str,
        /// Expected and found value.
        why: String,
    },
    /// A kernel refuses its arguments.
    Kernel(tilewright_kernels::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Self::File { path, why } => write!(f, "{}: {why}", path.display()),
            Self::Tensor { path, name, why } => write!(f, "{}: tensor {name}: {why}", path.display()),
            Self::Input { name, why } => write!(f, "{name}: {why}"),
            Self::Kernel(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<tilewright_kernels::Error> for Error {
    fn from(e: tilewright_kernels::Error) -> Self {
        Self::Kernel(e)
    }
}
