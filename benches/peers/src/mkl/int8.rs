//! Products of u8 by s8, with i32 sums and outputs. In the row-major layout, A is unsigned.

use super::{B_MATRIX, Int, MklThreads, PACKED, PackedSize};
use crate::cblas::{Integer, NO_TRANS, ROW_MAJOR, TRANS};
use crate::operand::{AlignedBuffer, LinearLayer, call};
use crate::symbols::Symbols;
use crate::{Error, PeerCall};
use std::ffi::c_uint;

/// `CblasFixOffset`: adds one offset, here 0, to all elements of C.
const FIX_OFFSET: c_uint = 173;

/// Layout, transpositions of A and B, kind of offset, m, n, k, alpha, A with its leading dimension and offset, B with
/// its leading dimension and offset, beta, C with its leading dimension, offset of C. A transposition is a [`c_uint`]
/// in the unpacked form and an [`Int`] in the packed form; the calling convention passes both alike.
type Int8Gemm<Transposition> = unsafe extern "C" fn(
    c_uint,
    Transposition,
    Transposition,
    c_uint,
    Int,
    Int,
    Int,
    f32,
    *const u8,
    Int,
    i8,
    *const i8,
    Int,
    i8,
    f32,
    *mut i32,
    Int,
    *const i32,
);

pub(super) struct Int8GemmFunctions {
    gemm: Int8Gemm<c_uint>,
    packing: Option<Int8GemmPacking>,
}

#[derive(Clone, Copy)]
struct Int8GemmPacking {
    size: PackedSize,
    /// Layout, identifier, transposition, m, n, k, source and its leading dimension, result.
    pack: unsafe extern "C" fn(c_uint, c_uint, c_uint, Int, Int, Int, *const i8, Int, *mut i8),
    compute: Int8Gemm<Int>,
}

impl Int8GemmFunctions {
    /// Looks up the functions; `None` if the library lacks the product.
    ///
    /// # Safety
    /// - The library counts in [`Int`] when these functions are called.
    pub unsafe fn new(symbols: &Symbols) -> Option<Self> {
        // SAFETY: the types are the signatures of these functions in `mkl_cblas.h`.
        unsafe {
            let packing = || {
                Some(Int8GemmPacking {
                    size: symbols.optional("cblas_gemm_s8u8s32_pack_get_size")?,
                    pack: symbols.optional("cblas_gemm_s8u8s32_pack")?,
                    compute: symbols.optional("cblas_gemm_s8u8s32_compute")?,
                })
            };
            Some(Self { gemm: symbols.optional("cblas_gemm_s8u8s32")?, packing: packing() })
        }
    }

    /// Prepares a product. Returns `None` if packed weights are requested and the library has no packed form.
    pub fn prepare<'a>(
        &self,
        threads: MklThreads,
        count: Int,
        layer: LinearLayer<'a>,
    ) -> Result<Option<Box<dyn PeerCall + 'a>>, Error> {
        let (x, weight) = layer.int8()?;
        let LinearLayer { m, k, n, packed, .. } = layer;
        let [im, ik, in_] = [m, k, n].map(Int::new);
        if !packed {
            let gemm = self.gemm;
            return Ok(Some(call(m * n, move |y: &mut [i32]| {
                threads.set(count);
                let (a, b, y) = (x.as_ptr(), weight.as_ptr(), y.as_mut_ptr());
                // SAFETY: `x` is m x k, `weight` n x k and `y` m x n, row-major and dense; the call reads one offset.
                unsafe {
                    gemm(
                        ROW_MAJOR, NO_TRANS, TRANS, FIX_OFFSET, im, in_, ik, 1.0, a, ik, 0, b, ik, 0, 0.0, y,
                        in_, &0,
                    );
                }
            })));
        }
        let Some(Int8GemmPacking { size, pack, compute }) = self.packing else { return Ok(None) };
        // SAFETY: the function reads only its arguments, which are dimensions that `PeerOperation::check` accepted.
        let mut packed = AlignedBuffer::<i8>::zeros(unsafe { size(B_MATRIX, im, in_, ik) });
        // SAFETY: `weight` is n x k, row-major and dense; `packed` has the size that `size` returned.
        unsafe { pack(ROW_MAJOR, B_MATRIX, TRANS, im, in_, ik, weight.as_ptr(), ik, packed.as_mut_ptr()) };
        Ok(Some(call(m * n, move |y: &mut [i32]| {
            threads.set(count);
            let (no_trans, a, b, y) = (NO_TRANS as Int, x.as_ptr(), packed.as_ptr(), y.as_mut_ptr());
            // SAFETY: `x` is m x k and `y` m x n, row-major and dense; B was packed for this shape; the call reads one
            // offset.
            unsafe {
                compute(
                    ROW_MAJOR, no_trans, PACKED, FIX_OFFSET, im, in_, ik, 1.0, a, ik, 0, b, ik, 0, 0.0, y,
                    in_, &0,
                );
            }
        })))
    }
}
