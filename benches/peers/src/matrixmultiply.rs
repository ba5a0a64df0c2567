//! The `matrixmultiply` crate: products in f32 on one thread.

use crate::operand::{LinearLayer, call};
use crate::{Dtype, Error, Library, PeerCall, PeerOperation};

/// The crate. It packs weights in every run and ignores [`PeerOperation::Linear::packed`].
pub(crate) struct Matrixmultiply;

impl Library for Matrixmultiply {
    fn name(&self) -> &'static str {
        "matrixmultiply"
    }

    fn version(&self) -> String {
        "0.3".to_owned()
    }

    fn prepare<'a>(
        &'a self,
        operation: PeerOperation<'a>,
        threads: usize,
    ) -> Result<Option<Box<dyn PeerCall + 'a>>, Error> {
        let Some(LinearLayer { m, k, n, x, weight, dtype, .. }) = LinearLayer::new(operation)? else {
            return Ok(None);
        };
        if dtype != Dtype::F32 || threads != 1 {
            return Ok(None);
        }
        Ok(Some(call(m * n, move |y| {
            // SAFETY: `x` is m x k and `weight` n x k (checked by `LinearLayer::new`); the transpose of `weight`
            // has row stride 1 and column stride k. `y` is m x n and borrowed mutably.
            unsafe {
                matrixmultiply::sgemm(
                    m,
                    k,
                    n,
                    1.0,
                    x.as_ptr(),
                    k as isize,
                    1,
                    weight.as_ptr(),
                    1,
                    k as isize,
                    0.0,
                    y.as_mut_ptr(),
                    n as isize,
                    1,
                );
            }
        })))
    }
}
