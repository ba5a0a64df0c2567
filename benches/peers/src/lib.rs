//! Kernels of other libraries behind one interface, so that a benchmark can run them beside its own kernels.
//!
//! [`built_in`] lists the compiled-in crates. [`load`] opens MKL, OpenBLAS or oneDNN from a shared library that the
//! user names. The table lists their operations, in f32 unless it names other types:
//!
//! | library          | products                       | packs weights beforehand | row kernels | threads  |
//! |------------------|--------------------------------|--------------|---------------|------------------|
//! | `gemm`           | f32, f16                       | no           |               | rayon's pool     |
//! | `matrixmultiply` | f32                            | no           |               | one              |
//! | `mkl`            | f32, bf16, f16, int8           | yes          |               | OpenMP           |
//! | `openblas`       | f32, in some builds bf16, f16  | no           |               | depends on the build |
//! | `onednn`         | f32, bf16, f16, int8           | yes          | softmax, layer normalisation, GELU | depends on the build |
//!
//! A library that does not pack weights beforehand ignores `packed` in [`PeerOperation::Linear`]. `gemm` computes in
//! the current rayon pool: run it inside a pool with the number of threads that it was prepared for.
//! `prepare` returns `None` for an operation that the library or the CPU lacks.
//!
//! # Sources of the libraries
//! Building and testing this crate needs none of the libraries.
//!
//! | library    | source                                     | file                                   |
//! |------------|--------------------------------------------|----------------------------------------|
//! | `mkl`      | PyPI: `mkl`; Intel's oneAPI packages       | `lib/libmkl_rt.so.*`                   |
//! | `openblas` | PyPI: `scipy-openblas32`, `-openblas64`    | `scipy_openblas32/lib/libscipy_openblas.so` |
//! |            | Debian: `libopenblas0-pthread`, `-openmp`  | `libopenblas.so.0`                     |
//! | `onednn`   | its repository; Debian: `libdnnl`, if version 3 | `libdnnl.so.3`                    |
//! |            | PyPI: `onednn`, `onednn-cpu-gomp`          | `lib/libdnnl.so.3`                     |
//!
//! The loader searches its own paths for a name without a slash. Dependencies of the files:
//! - `mkl` finds its kernels and threads in its own directory. Its threads need Intel's OpenMP, `libiomp5.so` (PyPI:
//!   `intel-openmp`, a dependency of `mkl`): [`load`] takes it from the same directory or from the loader's paths.
//!   Without `libmkl_core` and similar files, MKL ends the process.
//! - `openblas` from PyPI needs no other file. Debian's needs `libgfortran.so.5`, a dependency of its package.
//! - `onednn-cpu-gomp` (3.2) needs only `libgomp.so.1`. The newer `onednn` is built for SYCL on TBB. Its dependencies
//!   are separate packages, which install into one `lib` directory. That directory must be in `LD_LIBRARY_PATH` when
//!   the process starts, because the file names no search path. SYCL finds the CPU by the full path of
//!   `libintelocl.so` in `OCL_ICD_FILENAMES`. With SYCL, a product costs some microseconds more. Debian 12 has
//!   version 2, which has a different interface.
//!
//! # Settings
//! Libraries keep their defaults: the time that threads spin, the choice of kernels, fewer threads for a small
//! product. Two libraries share an OpenMP runtime only if both were built for it. If a library keeps its number of
//! threads per process or per thread, every run sets it again. `prepare` converts inputs of types other than f32.
//! Outputs stay in the library's type until [`PeerCall::output`].

mod cblas;
#[cfg(feature = "gemm")]
mod gemm;
#[cfg(feature = "matrixmultiply")]
mod matrixmultiply;
mod mkl;
mod onednn;
mod openblas;
mod operand;
mod symbols;

#[cfg(feature = "gemm")]
pub use gemm::product_f64;
use std::path::Path;

/// Type of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// f32 inputs, sums and outputs.
    F32,
    /// bf16 inputs, f32 sums, f32 or bf16 outputs.
    Bf16,
    /// f16 inputs, f32 sums, f32 or f16 outputs.
    F16,
    /// s8 or u8 inputs, i32 sums and outputs. Inputs must be whole numbers, x in 0..=127 and weights in -127..=127, so
    /// that results are exact.
    Int8,
    /// int8 weights in groups of 32, each with a scale; f32 inputs and outputs. No peer supports this type.
    Q8_0,
    /// As [`Q8_0`](Self::Q8_0), with int4 weights.
    Q4_0,
    /// As [`Q4_0`](Self::Q4_0), with a minimum for each group.
    Q4_1,
}

/// An operation and its inputs, row-major and dense.
#[derive(Clone, Copy, Debug)]
pub enum PeerOperation<'a> {
    /// y = x Wᵀ, \[m, n\].
    Linear {
        /// m, k, n.
        shape: [usize; 3],
        /// \[m, k\].
        x: &'a [f32],
        /// \[n, k\].
        weight: &'a [f32],
        /// Type that the library converts the inputs to.
        dtype: Dtype,
        /// True to pack weights into the library's layout before the first run, if the library supports that.
        packed: bool,
    },
    /// (x - mean) / sqrt(variance + eps) * weight + bias, row by row.
    LayerNorm {
        /// Rows, columns.
        shape: [usize; 2],
        /// \[rows, columns\].
        x: &'a [f32],
        /// \[columns\].
        weight: &'a [f32],
        /// \[columns\].
        bias: &'a [f32],
        /// Added to the variance.
        eps: f32,
    },
    /// exp(x) / sum of exp(x), row by row.
    Softmax {
        /// Rows, columns.
        shape: [usize; 2],
        /// \[rows, columns\].
        x: &'a [f32],
    },
    /// GELU, with erf or with its tanh approximation.
    Gelu {
        /// Rows, columns.
        shape: [usize; 2],
        /// \[rows, columns\].
        x: &'a [f32],
        /// True for the tanh approximation.
        tanh: bool,
    },
}

/// A library.
pub trait Library: Send + Sync {
    /// The name of the library: `mkl`, `openblas`, `onednn`, `gemm` or `matrixmultiply`.
    fn name(&self) -> &'static str;

    /// Version of the library, with the instruction set in use if the library reports it.
    fn version(&self) -> String;

    /// True if the library computes in the current rayon pool, which must have the prepared number of threads. False if
    /// it has its own threads.
    fn in_rayon(&self) -> bool {
        false
    }

    /// Prepares the operation for `threads` threads: converts, packs and allocates everything once. Returns `None` if
    /// the library lacks the operation or cannot use `threads` threads.
    ///
    /// # Errors
    /// Errors that the library reports.
    fn prepare<'a>(
        &'a self,
        operation: PeerOperation<'a>,
        threads: usize,
    ) -> Result<Option<Box<dyn PeerCall + 'a>>, Error>;
}

/// A prepared operation. Any thread may run it, one at a time.
pub trait PeerCall: Send {
    /// Computes the operation once.
    fn run(&mut self);

    /// The result of the last run, as f32.
    fn output(&self) -> Vec<f32>;
}

/// A library that cannot be loaded, or that refused an operation, and the reason.
#[derive(Clone, Debug)]
pub struct Error(pub String);

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// The compiled-in crates.
pub fn built_in() -> Vec<Box<dyn Library>> {
    vec![
        #[cfg(feature = "gemm")]
        Box::new(gemm::GemmCrate),
        #[cfg(feature = "matrixmultiply")]
        Box::new(matrixmultiply::Matrixmultiply),
    ]
}

/// Function that opens a library at a path.
type Open = fn(&Path) -> Result<Box<dyn Library>, Error>;

const LOADABLE: [(&str, Open); 3] =
    [("mkl", mkl::load), ("openblas", openblas::load), ("onednn", onednn::load)];

/// Opens the library `name` at `path`. Opening runs code of the file: name only files that you trust.
///
/// # Errors
/// If the name is unknown, the file cannot be loaded, or it lacks a function that every version has. `prepare` looks up
/// the functions that only some versions have.
pub fn load(name: &str, path: &Path) -> Result<Box<dyn Library>, Error> {
    match LOADABLE.iter().find(|(known, _)| *known == name) {
        Some((_, open)) => open(path),
        None => {
            let known = LOADABLE.map(|(known, _)| known).join(", ");
            Err(Error(format!("{name}={}: no such library; known are {known}", path.display())))
        }
    }
}
