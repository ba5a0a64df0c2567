//! A shared library and its functions.

use crate::Error;
use libloading::Library;
use std::path::{Path, PathBuf};

/// A shared library that stays loaded until the process ends. It is never closed, because its threads (OpenMP's,
/// TBB's) run its code as long as they live, its exit handlers run at exit, and pointers to its functions are copied
/// freely.
pub(crate) struct Symbols {
    name: &'static str,
    path: PathBuf,
    library: &'static Library,
}

impl Symbols {
    /// Opens the file and binds all its functions, so that a missing or old dependency is an error here, and does not
    /// end the process during a benchmark.
    pub fn open(name: &'static str, path: &Path) -> Result<Self, Error> {
        match open(path, false) {
            Ok(library) => Ok(Self { name, path: path.to_owned(), library }),
            Err(e) => Err(Error(format!("{name}={}: cannot be loaded: {}", path.display(), reason(&e)))),
        }
    }

    /// An error that names the library and its file.
    pub fn error(&self, what: impl std::fmt::Display) -> Error {
        Error(format!("{}={}: {what}", self.name, self.path.display()))
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The function `symbol`, or an error that names it.
    ///
    /// # Safety
    /// - `F` is the type of a pointer to the function of this name.
    pub unsafe fn required<F: Copy + 'static>(&self, symbol: &str) -> Result<F, Error> {
        // SAFETY: `F` is the type of a pointer to the function `symbol` (precondition of this function).
        unsafe { self.optional(symbol) }.ok_or_else(|| self.error(format_args!("has no function {symbol}")))
    }

    /// The function `symbol` of the library or of its dependencies, if it exists.
    ///
    /// # Safety
    /// - `F` is the type of a pointer to the function of this name.
    pub unsafe fn optional<F: Copy + 'static>(&self, symbol: &str) -> Option<F> {
        // SAFETY: `F` is the type of a pointer to the function (precondition of this function); the library
        // is never closed, so the copy stays valid.
        unsafe { self.library.get::<F>(symbol) }.ok().map(|function| *function)
    }
}

/// The loader's message, which is the source of `libloading`'s error.
pub(crate) fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Opens a library for other libraries that do not name it as a dependency. MKL's threading layer is linked with no
/// OpenMP runtime and uses the one in the process.
pub(crate) fn open_for_others(path: &Path) -> Result<(), libloading::Error> {
    open(path, true).map(|_| ())
}

/// Finds the function `symbol` among the libraries that [`open_for_others`] and the program opened.
///
/// # Safety
/// - `F` is the type of a pointer to the function of this name.
#[cfg(unix)]
pub(crate) unsafe fn of_process<F: Copy + 'static>(symbol: &str) -> Option<F> {
    // SAFETY: `F` is the type of a pointer to the function (precondition of this function). The program, or a library
    // that is never closed, holds the function.
    unsafe { libloading::os::unix::Library::this().get::<F>(symbol) }.ok().map(|function| *function)
}

/// Returns `None`, because libraries name their dependencies on this system.
///
/// # Safety
/// - None.
#[cfg(not(unix))]
pub(crate) unsafe fn of_process<F: Copy + 'static>(_: &str) -> Option<F> {
    None
}

#[cfg(unix)]
fn open(path: &Path, for_others: bool) -> Result<&'static Library, libloading::Error> {
    use libloading::os::unix::{Library as Unix, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};
    /// Makes a library's own dependencies precede the libraries of the process. Without the flag, an OpenBLAS or a
    /// oneDNN built for GNU's OpenMP would run on Intel's OpenMP if MKL was loaded before.
    const RTLD_DEEPBIND: i32 = if cfg!(all(target_os = "linux", target_env = "gnu")) { 8 } else { 0 };
    let scope = if for_others { RTLD_GLOBAL } else { RTLD_LOCAL | RTLD_DEEPBIND };
    // SAFETY: loading runs the initialisers of the file; the user who names the file vouches for them.
    let library = unsafe { Unix::open(Some(path), RTLD_NOW | scope) }?;
    Ok(Box::leak(Box::new(library.into())))
}

#[cfg(not(unix))]
fn open(path: &Path, _: bool) -> Result<&'static Library, libloading::Error> {
    // SAFETY: loading runs the initialisers of the file; the user who names the file vouches for them.
    let library = unsafe { Library::new(path) }?;
    Ok(Box::leak(Box::new(library)))
}
