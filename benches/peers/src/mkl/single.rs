//! Products in f32.

use super::{B_MATRIX, Int, MklThreads, PACKED, PackedSize};
use crate::cblas::{CblasGemm, Integer, NO_TRANS, ROW_MAJOR, TRANS, linear};
use crate::operand::{AlignedBuffer, LinearLayer, call};
use crate::symbols::Symbols;
use crate::{Error, PeerCall};
use std::ffi::c_uint;

pub(super) struct SgemmFunctions {
    gemm: CblasGemm<Int, f32>,
    packing: Option<SgemmPacking>,
}

#[derive(Clone, Copy)]
struct SgemmPacking {
    size: PackedSize,
    /// Layout, identifier, transposition, m, n, k, alpha, source and its leading dimension, result.
    pack: unsafe extern "C" fn(c_uint, c_uint, c_uint, Int, Int, Int, f32, *const f32, Int, *mut f32),
    /// As [`CblasGemm`], without alpha.
    compute: unsafe extern "C" fn(
        c_uint,
        Int,
        Int,
        Int,
        Int,
        Int,
        *const f32,
        Int,
        *const f32,
        Int,
        f32,
        *mut f32,
        Int,
    ),
}

impl SgemmFunctions {
    /// Looks up the functions of f32 products.
    ///
    /// # Safety
    /// - The library counts in [`Int`] when these functions are called.
    pub unsafe fn new(symbols: &Symbols) -> Result<Self, Error> {
        // SAFETY: the types are the signatures of these functions in `mkl_cblas.h`.
        unsafe {
            let packing = || {
                Some(SgemmPacking {
                    size: symbols.optional("cblas_sgemm_pack_get_size")?,
                    pack: symbols.optional("cblas_sgemm_pack")?,
                    compute: symbols.optional("cblas_sgemm_compute")?,
                })
            };
            Ok(Self { gemm: symbols.required("cblas_sgemm")?, packing: packing() })
        }
    }

    /// Prepares a product; weights stay unpacked if the library cannot pack them.
    pub fn prepare<'a>(
        &self,
        threads: MklThreads,
        count: Int,
        layer: LinearLayer<'a>,
    ) -> Box<dyn PeerCall + 'a> {
        let set_threads = move || {
            threads.set(count);
        };
        let (Some(SgemmPacking { size, pack, compute }), true) = (self.packing, layer.packed) else {
            // SAFETY: `new` took `self.gemm` from the library under its name in `mkl_cblas.h`, whose signature is
            // `CblasGemm`.
            return unsafe { linear(self.gemm, set_threads, layer, layer.x, layer.weight) };
        };
        let LinearLayer { m, k, n, x, weight, .. } = layer;
        let [im, ik, in_] = [m, k, n].map(Int::new);
        // SAFETY: the function reads only its arguments, which are dimensions that `PeerOperation::check` accepted.
        let bytes = unsafe { size(B_MATRIX, im, in_, ik) };
        let mut packed = AlignedBuffer::<f32>::zeros(bytes.div_ceil(size_of::<f32>()));
        // SAFETY: `weight` is n x k, row-major and dense; the result has the bytes asked for.
        unsafe {
            pack(ROW_MAJOR, B_MATRIX, TRANS, im, in_, ik, 1.0, weight.as_ptr(), ik, packed.as_mut_ptr());
        }
        call(m * n, move |y: &mut [f32]| {
            set_threads();
            let (no_trans, x, b, y) = (NO_TRANS as Int, x.as_ptr(), packed.as_ptr(), y.as_mut_ptr());
            // SAFETY: `x` is m x k and `y` m x n, row-major and dense; B was packed for this shape.
            unsafe { compute(ROW_MAJOR, no_trans, PACKED, im, in_, ik, x, ik, b, ik, 0.0, y, in_) };
        })
    }
}
