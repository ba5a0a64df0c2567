//! The C interface of BLAS that MKL and OpenBLAS share.

use crate::PeerCall;
use crate::operand::{LinearLayer, call};
use std::ffi::c_uint;
use std::ops::Deref;

pub(crate) const ROW_MAJOR: c_uint = 101;
pub(crate) const NO_TRANS: c_uint = 111;
pub(crate) const TRANS: c_uint = 112;

/// Integer type of dimensions in a build of the library.
pub(crate) trait Integer: Copy + Send + Sync + 'static {
    /// # Panics
    /// If the number does not fit; the checks of operations exclude this case.
    fn new(dim: usize) -> Self;
}

impl Integer for i32 {
    fn new(dim: usize) -> Self {
        Self::try_from(dim).expect("dimensions were checked")
    }
}

impl Integer for i64 {
    fn new(dim: usize) -> Self {
        Self::try_from(dim).expect("dimensions were checked")
    }
}

/// Signature of `cblas_sgemm` and of its variants with bf16 or f16 inputs and f32 outputs: layout, transpositions of A
/// and B, m, n, k, alpha, A and lda, B and ldb, beta, C and ldc.
pub(crate) type CblasGemm<I, T> =
    unsafe extern "C" fn(c_uint, c_uint, c_uint, I, I, I, f32, *const T, I, *const T, I, f32, *mut f32, I);

/// Prepares y = x Wᵀ by `gemm`. Each run calls `set_threads` first.
///
/// # Safety
/// - `gemm` points to a function with the signature and the parameters of [`CblasGemm`].
///
/// # Panics
/// If the length of `x` or `weight` differs from the size of its matrix.
pub(crate) unsafe fn linear<'a, I: Integer, T: Sync + 'a>(
    gemm: CblasGemm<I, T>,
    set_threads: impl Fn() + Send + 'a,
    LinearLayer { m, k, n, .. }: LinearLayer<'a>,
    x: impl Deref<Target = [T]> + Send + 'a,
    weight: impl Deref<Target = [T]> + Send + 'a,
) -> Box<dyn PeerCall + 'a> {
    assert!(x.len() == m * k && weight.len() == n * k, "slices are whole matrices");
    let [im, ik, in_] = [m, k, n].map(I::new);
    call(m * n, move |y: &mut [f32]| {
        set_threads();
        let (x, weight, y) = (x.as_ptr(), weight.as_ptr(), y.as_mut_ptr());
        // SAFETY: `gemm` has the signature [`CblasGemm`] (precondition of this function); `x` is m x k, `weight`
        // n x k and `y` m x n, all row-major and dense (asserted above).
        unsafe {
            gemm(ROW_MAJOR, NO_TRANS, TRANS, im, in_, ik, 1.0, x, ik, weight, ik, 0.0, y, in_);
        }
    })
}
