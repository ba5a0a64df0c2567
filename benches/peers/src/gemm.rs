//! The `gemm` crate: products in f32 and f16, on rayon's threads.

use crate::operand::{LinearLayer, Number, call};
use crate::{Dtype, Error, Library, PeerCall, PeerOperation};
use ::gemm::{Parallelism, f16, gemm};
use std::ops::Deref;

/// The crate. It packs weights in every run and ignores [`PeerOperation::Linear::packed`].
pub(crate) struct GemmCrate;

impl Library for GemmCrate {
    fn name(&self) -> &'static str {
        "gemm"
    }

    fn version(&self) -> String {
        "0.19".to_owned()
    }

    fn in_rayon(&self) -> bool {
        true
    }

    fn prepare<'a>(
        &'a self,
        operation: PeerOperation<'a>,
        threads: usize,
    ) -> Result<Option<Box<dyn PeerCall + 'a>>, Error> {
        let Some(layer) = LinearLayer::new(operation)? else { return Ok(None) };
        let parallelism = match threads {
            0 => return Ok(None),
            1 => Parallelism::None,
            _ => Parallelism::Rayon(threads),
        };
        Ok(match layer.dtype {
            Dtype::F32 => Some(linear(layer, layer.x, layer.weight, parallelism)),
            Dtype::F16 => {
                let [x, weight] = layer.convert(f16::from_f32);
                Some(linear(layer, x, weight, parallelism))
            }
            Dtype::Bf16 | Dtype::Int8 | Dtype::Q8_0 | Dtype::Q4_0 | Dtype::Q4_1 => None,
        })
    }
}

fn linear<'a, T: Number + One>(
    LinearLayer { m, k, n, .. }: LinearLayer<'a>,
    x: impl Deref<Target = [T]> + Send + 'a,
    weight: impl Deref<Target = [T]> + Send + 'a,
    parallelism: Parallelism,
) -> Box<dyn PeerCall + 'a> {
    call(m * n, move |y| product([m, k, n], &x, (&weight, [1, k]), y, parallelism))
}

/// Computes `c` (m x n) = `a` (m x k) `b` (k x n), where b\[i, j\] is `b[i * row + j * column]`.
///
/// # Panics
/// If the length of a slice differs from the size of its matrix.
fn product<T: One>(
    [m, k, n]: [usize; 3],
    a: &[T],
    (b, [row, column]): (&[T], [usize; 2]),
    c: &mut [T],
    parallelism: Parallelism,
) {
    assert!([row, column] == [1, k] || [row, column] == [n, 1], "b is dense");
    // Checked products: an overflow must not pass the check of a safe function.
    let whole = |slice: &[T], rows: usize, columns: usize| Some(slice.len()) == rows.checked_mul(columns);
    assert!(whole(a, m, k) && whole(b, k, n) && whole(c, m, n), "slices are whole matrices");
    // SAFETY: the slices hold the matrices that the strides describe (asserted above). `gemm` reads `a` and `b` and
    // writes `c`, which is borrowed mutably.
    unsafe {
        gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            1,
            k as isize,
            b.as_ptr(),
            column as isize,
            row as isize,
            T::default(),
            T::ONE,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Element types that the crate multiplies.
trait One: Copy + Default + Send + Sync + 'static {
    const ONE: Self;
}

impl One for f32 {
    const ONE: Self = 1.0;
}

impl One for f64 {
    const ONE: Self = 1.0;
}

impl One for f16 {
    const ONE: Self = f16::ONE;
}

/// The matrix product `a` (m x k) `b` (k x n), row-major, in f64 by the `gemm` crate in the current rayon pool: a
/// second oracle for sizes at which a definition takes too long.
///
/// # Panics
/// If the length of a slice differs from the size of its matrix.
pub fn product_f64([m, k, n]: [usize; 3], a: &[f64], b: &[f64]) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    product([m, k, n], a, (b, [n, 1]), &mut c, Parallelism::Rayon(0));
    c
}
