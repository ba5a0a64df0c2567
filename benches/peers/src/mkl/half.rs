//! Products in bf16 and f16, with f32 sums and outputs.

use super::{B_MATRIX, Int, MklThreads, PACKED, PackedSize};
use crate::PeerCall;
use crate::cblas::{CblasGemm, Integer, NO_TRANS, ROW_MAJOR, TRANS, linear};
use crate::operand::{AlignedBuffer, LinearLayer, call};
use crate::symbols::Symbols;
use std::ffi::c_uint;

pub(super) struct HalfGemmFunctions {
    convert: fn(f32) -> u16,
    gemm: CblasGemm<Int, u16>,
    packing: Option<HalfGemmPacking>,
}

#[derive(Clone, Copy)]
struct HalfGemmPacking {
    size: PackedSize,
    /// Layout, identifier, transposition, m, n, k, source and its leading dimension, result.
    pack: unsafe extern "C" fn(c_uint, c_uint, c_uint, Int, Int, Int, *const u16, Int, *mut u16),
    /// As [`CblasGemm`].
    compute: unsafe extern "C" fn(
        c_uint,
        Int,
        Int,
        Int,
        Int,
        Int,
        f32,
        *const u16,
        Int,
        *const u16,
        Int,
        f32,
        *mut f32,
        Int,
    ),
}

impl HalfGemmFunctions {
    /// Looks up the functions `cblas_gemm_{types}`; `None` if the library lacks them.
    ///
    /// # Safety
    /// - The library counts in [`Int`] when these functions are called.
    pub unsafe fn new(symbols: &Symbols, types: &str, convert: fn(f32) -> u16) -> Option<Self> {
        let name = |form: &str| format!("cblas_gemm_{types}{form}");
        // SAFETY: the types are the signatures of these functions in `mkl_cblas.h`.
        unsafe {
            let packing = || {
                Some(HalfGemmPacking {
                    size: symbols.optional(&name("_pack_get_size"))?,
                    pack: symbols.optional(&name("_pack"))?,
                    compute: symbols.optional(&name("_compute"))?,
                })
            };
            Some(Self { convert, gemm: symbols.optional(&name(""))?, packing: packing() })
        }
    }

    /// Prepares a product. Returns `None` if `packed` is set and the library has no packed form.
    pub fn prepare<'a>(
        &self,
        threads: MklThreads,
        count: Int,
        layer: LinearLayer<'a>,
    ) -> Option<Box<dyn PeerCall + 'a>> {
        let set_threads = move || {
            threads.set(count);
        };
        let [x, weight] = layer.convert(self.convert);
        if !layer.packed {
            // SAFETY: `new` took `self.gemm` from the library under its name in `mkl_cblas.h`, whose signature is
            // `CblasGemm`.
            return Some(unsafe { linear(self.gemm, set_threads, layer, x, weight) });
        }
        let HalfGemmPacking { size, pack, compute } = self.packing?;
        let LinearLayer { m, k, n, .. } = layer;
        let [im, ik, in_] = [m, k, n].map(Int::new);
        // SAFETY: the function reads only its arguments, which are dimensions that `PeerOperation::check` accepted.
        let bytes = unsafe { size(B_MATRIX, im, in_, ik) };
        let mut packed = AlignedBuffer::<u16>::zeros(bytes.div_ceil(size_of::<u16>()));
        // SAFETY: `weight` is n x k, row-major and dense; `packed` has the size that `size` returned.
        unsafe { pack(ROW_MAJOR, B_MATRIX, TRANS, im, in_, ik, weight.as_ptr(), ik, packed.as_mut_ptr()) };
        Some(call(m * n, move |y: &mut [f32]| {
            set_threads();
            let (no_trans, x, b, y) = (NO_TRANS as Int, x.as_ptr(), packed.as_ptr(), y.as_mut_ptr());
            // SAFETY: `x` is m x k and `y` m x n, row-major and dense; B was packed for this shape.
            unsafe { compute(ROW_MAJOR, no_trans, PACKED, im, in_, ik, 1.0, x, ik, b, ik, 0.0, y, in_) };
        }))
    }
}
