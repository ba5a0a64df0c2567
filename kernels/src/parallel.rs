//! Threads: the caller's rayon pool, or none.
//!
//! Each task writes to memory of its own, so that no result depends on the order or the number of tasks.

#[cfg(feature = "rayon")]
mod awake;

use crate::view::ViewMut;
#[cfg(feature = "rayon")]
use awake::BusyGuard;
use core::ops::Range;

/// Returns the number of threads that a kernel may use: the threads of the caller's pool.
#[inline]
pub(crate) fn threads() -> usize {
    #[cfg(feature = "rayon")]
    return rayon::current_num_threads();
    #[cfg(not(feature = "rayon"))]
    1
}

/// Cuts `0..n` into `parts` ranges whose lengths differ by at most one; returns range `i`.
#[inline(always)]
pub(crate) fn part(n: usize, parts: usize, i: usize) -> Range<usize> {
    i * n / parts..(i + 1) * n / parts
}

/// Calls `f(0)`, `f(1)`, .. `f(tasks - 1)` on the threads of the pool.
pub(crate) fn for_each(tasks: usize, f: &(dyn Fn(usize) + Sync)) {
    #[cfg(feature = "rayon")]
    if tasks > 1 && threads() > 1 {
        use rayon::prelude::*;
        awake::keep(threads());
        let _busy = BusyGuard::new();
        (0..tasks).into_par_iter().with_max_len(1).for_each(|task| BusyGuard::with(|| f(task)));
        return;
    }
    (0..tasks).for_each(f);
}

/// Cuts `view` along its first dimension into blocks of `grain` (the last may be shorter) and calls
/// `f(start, block)` for each on the threads of the pool.
pub(crate) fn for_each_block<const D: usize, T: Send>(
    view: ViewMut<'_, D, T>,
    grain: usize,
    f: &(impl Fn(usize, ViewMut<'_, D, T>) + Sync),
) {
    split(0, view, grain.max(1), f);
}

/// Halves the range of blocks until one is left.
fn split<const D: usize, T: Send>(
    start: usize,
    view: ViewMut<'_, D, T>,
    grain: usize,
    f: &(impl Fn(usize, ViewMut<'_, D, T>) + Sync),
) {
    let n = view.shape()[0];
    if n <= grain {
        if n > 0 {
            f(start, view);
        }
        return;
    }
    let mid = n.div_ceil(grain) / 2 * grain;
    let (low, high) = view.split_at(0, mid);
    join(|| split(start, low, grain, f), || split(start + mid, high, grain, f));
}

/// Calls `a` and `b`, in parallel if a thread of the pool is idle.
pub(crate) fn join(a: impl FnOnce() + Send, b: impl FnOnce() + Send) {
    let (mut a, mut b) = (Some(a), Some(b));
    join_dyn(&mut || a.take().expect("one call")(), &mut || b.take().expect("one call")());
}

/// Calls each function once. rayon's code around two functions is compiled once, not for each pair of kernels.
fn join_dyn(a: &mut (dyn FnMut() + Send), b: &mut (dyn FnMut() + Send)) {
    #[cfg(feature = "rayon")]
    if threads() > 1 {
        awake::keep(threads());
        let _busy = BusyGuard::new();
        rayon::join(|| BusyGuard::with(a), || BusyGuard::with(b));
        return;
    }
    a();
    b();
}
