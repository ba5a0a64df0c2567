//! Threads: the caller's rayon pool, or none.

/// Threads that [`for_each`] may use: those of the pool it is called in.
#[inline]
pub(crate) fn threads() -> usize {
    #[cfg(feature = "rayon")]
    return rayon::current_num_threads();
    #[cfg(not(feature = "rayon"))]
    1
}

/// Calls `f(0)`, `f(1)`, .. `f(tasks - 1)`, in any order, on the threads of the pool it is called in.
///
/// No result may depend on the order: tasks write to places of their own.
#[inline]
pub(crate) fn for_each(tasks: usize, f: impl Fn(usize) + Sync + Send) {
    #[cfg(feature = "rayon")]
    if tasks > 1 && threads() > 1 {
        use rayon::prelude::*;
        (0..tasks).into_par_iter().with_max_len(1).for_each(&f);
        return;
    }
    (0..tasks).for_each(f);
}
