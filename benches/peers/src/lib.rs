//! Other libraries' kernels behind one interface, so that a benchmark can run them beside its own.
//!
//! [`built_in`] lists the crates that were compiled in; [`load`] opens MKL, OpenBLAS or oneDNN from a
//! shared library that the user names. Their operations, in f32 unless the table names other types:
//!
//! | library          | products                       | packs before | rows          | threads          |
//! |------------------|--------------------------------|--------------|---------------|------------------|
//! | `gemm`           | f32, f16                       | no           |               | of rayon's pool  |
//! | `matrixmultiply` | f32                            | no           |               | one              |
//! | `mkl`            | f32, bf16, f16, int8           | yes          |               | of OpenMP        |
//! | `openblas`       | f32, in some builds bf16, f16  | no           |               | as it was built  |
//! | `onednn`         | f32, bf16, f16, int8           | yes          | softmax, layer normalisation, GELU | as it was built |
//!
//! A library that does not pack weights beforehand ignores `packed` in [`PeerOperation::Linear`]. `gemm` computes in
//! the rayon pool in which it is run: run it inside a pool of the number of threads that it was prepared for.
//! `prepare` returns `None` for an operation that the library or the CPU lacks.
//!
//! # Sources of the libraries
//! Building and testing this crate needs none of the libraries.
//!
//! | library    | from                                       | its file                               |
//! |------------|--------------------------------------------|----------------------------------------|
//! | `mkl`      | PyPI: `mkl`; Intel's oneAPI packages       | `lib/libmkl_rt.so.*`                   |
//! | `openblas` | PyPI: `scipy-openblas32`, `-openblas64`    | `scipy_openblas32/lib/libscipy_openblas.so` |
//! |            | Debian: `libopenblas0-pthread`, `-openmp`  | `libopenblas.so.0`                     |
//! | `onednn`   | its sources; Debian: `libdnnl`, if of version 3 | `libdnnl.so.3`                    |
//! |            | PyPI: `onednn`, `onednn-cpu-gomp`          | `lib/libdnnl.so.3`                     |
//!
//! The loader searches its own paths for a name without a slash. Dependencies of the files:
//! - `mkl` finds its kernels and threads in its own directory. Its threads need Intel's OpenMP,
//!   `libiomp5.so` (PyPI: `intel-openmp`, which `mkl` depends on): [`load`] takes it from the same
//!   directory or from the loader's paths. Without `libmkl_core` and similar files MKL ends the process.
//! - `openblas` of PyPI needs nothing; Debian's needs `libgfortran.so.5`, a dependency of its package.
//! - `onednn-cpu-gomp` (3.2) needs `libgomp.so.1` alone. The newer `onednn` is built for SYCL on TBB; its
//!   dependencies are packages of their own, installed to one `lib` directory, which has to be in
//!   `LD_LIBRARY_PATH` when the process starts, for the file names no search path. SYCL finds the CPU by
//!   `OCL_ICD_FILENAMES=lib/libintelocl.so`, with its full path. A product then costs some
//!   microseconds more than without SYCL. Debian 12 has version 2, whose interface is another.
//!
//! # Settings
//! Libraries keep their defaults: the time that threads spin, the choice of kernels, fewer threads for a small
//! product. They share an OpenMP runtime only if they were built for one. If a library keeps its number of
//! threads per process or per thread, every run sets it again. `prepare` converts inputs of types other than f32;
//! outputs stay in the library's type until [`PeerCall::output`].

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

/// The type that a product is computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// f32 inputs, sums and outputs.
    F32,
    /// bf16 inputs, f32 sums, f32 or bf16 outputs.
    Bf16,
    /// f16 inputs, f32 sums, f32 or f16 outputs.
    F16,
    /// s8 (or u8) inputs, i32 sums and outputs. Inputs must be whole numbers, x in 0..=127 and weights in
    /// -127..=127, so that results are exact.
    Int8,
    /// Weights of int8 in groups of 32 with a scale each, f32 inputs and outputs. No peer supports it.
    Q8_0,
    /// As [`Q8_0`](Self::Q8_0), of int4.
    Q4_0,
    /// As [`Q4_0`](Self::Q4_0), with a minimum each.
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
        /// Type of the inputs that the library multiplies.
        dtype: Dtype,
        /// True to pack weights into the library's own layout before the first run, if the library can.
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

    /// Its version, and the instruction set it chose if it says so.
    fn version(&self) -> String;

    /// True if the library computes in the rayon pool that a run is called in, which must have the prepared
    /// number of threads; false if it has threads of its own.
    fn in_rayon(&self) -> bool {
        false
    }

    /// Prepares the operation for `threads` threads: converts, packs and allocates everything once. Returns `None` if
    /// the library lacks the operation or cannot use `threads` threads.
    ///
    /// # Errors
    /// The error that the library reports.
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

/// The crates that were compiled in.
pub fn built_in() -> Vec<Box<dyn Library>> {
    vec![
        #[cfg(feature = "gemm")]
        Box::new(gemm::GemmCrate),
        #[cfg(feature = "matrixmultiply")]
        Box::new(matrixmultiply::Matrixmultiply),
    ]
}

/// Opens a library at a path.
type Open = fn(&Path) -> Result<Box<dyn Library>, Error>;

const LOADABLE: [(&str, Open); 3] =
    [("mkl", mkl::load), ("openblas", openblas::load), ("onednn", onednn::load)];

/// Opens the library `name` at `path`. It runs that file's code: name no file that you do not trust.
///
/// # Errors
/// If the name is unknown, the file cannot be loaded, or it lacks a function that every version has. `prepare` looks
/// up the functions that only some versions have.
pub fn load(name: &str, path: &Path) -> Result<Box<dyn Library>, Error> {
    match LOADABLE.iter().find(|(known, _)| *known == name) {
        Some((_, open)) => open(path),
        None => {
            let known = LOADABLE.map(|(known, _)| known).join(", ");
            Err(Error(format!("{name}={}: no such library; known are {known}", path.display())))
        }
    }
}
