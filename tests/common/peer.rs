//! Other libraries, as second oracles and as peers in benches.

use gemm::{Parallelism, gemm};

/// B of [`product`], as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// \[k, n\].
    RowMajor,
    /// \[n, k\]: the weight of a linear layer.
    Transposed,
}

/// `c` = `a` `b` by the `gemm` crate, row-major, on all threads of the pool.
///
/// # Panics
/// If a slice has not the length of its matrix.
pub fn product<T: 'static + Copy + From<f32>>(
    [m, k, n]: [usize; 3],
    a: &[T],
    b: &[T],
    order: Order,
    c: &mut [T],
) {
    assert!(a.len() == m * k && b.len() == k * n && c.len() == m * n, "slices are whole matrices");
    let (b_column, b_row) = match order {
        Order::RowMajor => (1, n as isize),
        Order::Transposed => (k as isize, 1),
    };
    let threads = match rayon::current_num_threads() {
        1 => Parallelism::None,
        n => Parallelism::Rayon(n),
    };
    let (zero, one) = (T::from(0.0), T::from(1.0));
    // SAFETY: the slices were checked to hold the matrices that the strides describe; `gemm` reads
    // `a` and `b` and writes `c`, which is borrowed mutably.
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
            b_column,
            b_row,
            zero,
            one,
            false,
            false,
            false,
            threads,
        );
    }
}
