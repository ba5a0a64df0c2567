//! Reductions over a row, and sums over rows.

use super::{GROUPS, RowSlices, load, load_at, pointers, read, store_at, walk};
use crate::element::Element;
use crate::isa::{Isa, Vector};

/// [`read`] of inputs of two types. Lanes past the end are 0 in `inputs`, and `fills` in `others`.
///
/// # Panics
/// If the inputs differ in length.
#[inline(always)]
pub(crate) fn read_with<I: Isa, S: Element, U: Element, const P: usize, const Q: usize>(
    isa: I,
    inputs: [&[S]; P],
    others: [&[U]; Q],
    fills: [f32; Q],
    mut f: impl FnMut(usize, [I::V; P], [I::V; Q]),
) {
    let n = inputs[0].len();
    assert!(inputs.iter().all(|x| x.len() == n), "inputs differ in length");
    assert!(others.iter().all(|x| x.len() == n), "inputs differ in length");
    walk::<I>(
        n,
        #[inline(always)]
        |group, i, whole| {
            // SAFETY: `walk` passes `whole` only if i + LANES <= n, the length of every input (checked above).
            let inputs = unsafe { load(isa, &inputs, i, whole, [0.0; P]) };
            // SAFETY: `walk` passes `whole` only if i + LANES <= n, the length of every one of `others` (checked above).
            let others = unsafe { load(isa, &others, i, whole, fills) };
            f(group, inputs, others);
        },
    );
}

/// [`map_with`] of one row that also replaces rows of sums in f32: `f` gets their vectors and returns them last. Lanes past
/// the end are 0 in the row, the sums and `inputs`, and `fills` in `others`.
///
/// # Panics
/// If the row, sums and inputs differ in length.
#[inline(always)]
pub(crate) fn map_and_add<I: Isa, T: Element, const A: usize, const P: usize, const Q: usize>(
    isa: I,
    row: &mut RowSlices<'_, T>,
    mut sums: [&mut [f32]; A],
    inputs: [&[f32]; P],
    others: [&[T]; Q],
    fills: [f32; Q],
    mut f: impl FnMut(usize, I::V, [I::V; A], [I::V; P], [I::V; Q]) -> (I::V, [I::V; A]),
) {
    let (n, [(src, dst)]) = pointers(&mut [row]);
    let mut totals = [core::ptr::null_mut(); A];
    for (total, sum) in totals.iter_mut().zip(&mut sums) {
        assert!(sum.len() == n, "sums differ in length from the row");
        *total = sum.as_mut_ptr();
    }
    assert!(inputs.iter().all(|x| x.len() == n), "inputs differ in length from the row");
    assert!(others.iter().all(|x| x.len() == n), "inputs differ in length from the row");
    walk::<I>(
        n,
        #[inline(always)]
        |group, i, whole| {
            // SAFETY: all inputs, the row and the sums have n elements (checked above). `walk` guarantees i < n, and
            // i + LANES <= n if `whole`. Rows and sums are borrowed mutably, so nothing else accesses them.
            unsafe {
                let inputs = load(isa, &inputs, i, whole, [0.0; P]);
                let others = load(isa, &others, i, whole, fills);
                let x = load_at(isa, src.add(i), n - i, whole, 0.0);
                let mut sums = [I::V::splat(isa, 0.0); A];
                for (sum, total) in sums.iter_mut().zip(totals) {
                    *sum = load_at(isa, total.add(i).cast_const(), n - i, whole, 0.0);
                }
                let (x, sums) = f(group, x, sums, inputs, others);
                store_at(isa, x, dst.add(i), n - i, whole);
                for (sum, total) in sums.into_iter().zip(totals) {
                    // Sums stay in L1: unlike `store_at`, no prefetch.
                    if whole {
                        sum.store_ptr(total.add(i));
                    } else {
                        store_at(isa, sum, total.add(i), n - i, false);
                    }
                }
            }
        },
    );
}

/// Returns the accumulators of a reduction, one for each group, with `x` in all lanes.
#[inline(always)]
pub(crate) fn accumulators<I: Isa>(isa: I, x: f32) -> [I::V; GROUPS] {
    [I::V::splat(isa, x); GROUPS]
}

/// Returns the sum over all groups and lanes, in a fixed order.
#[inline(always)]
pub(crate) fn total<I: Isa>([a, b, c, d]: [I::V; GROUPS]) -> f32 {
    ((a + b) + (c + d)).sum()
}

/// Returns the sum of `f` over the elements of `x`. Lanes past the end are `fill`: `f(fill)` must be 0.
#[inline(always)]
pub(crate) fn sum<I: Isa, T: Element>(isa: I, x: &[T], fill: f32, f: impl Fn(I::V) -> I::V) -> f32 {
    let mut acc = accumulators(isa, 0.0);
    read(
        isa,
        [x],
        fill,
        #[inline(always)]
        |g, [x]| acc[g] = acc[g] + f(x),
    );
    total::<I>(acc)
}

/// Returns the maximum over all groups and lanes, in a fixed order.
#[inline(always)]
pub(crate) fn largest<I: Isa>([a, b, c, d]: [I::V; GROUPS]) -> f32 {
    a.max(b).max(c.max(d)).maximum()
}

/// Returns the largest element of `x`, or -inf if `x` is empty. NaN may or may not be skipped.
#[inline(always)]
pub(crate) fn maximum<I: Isa, T: Element>(isa: I, x: &[T]) -> f32 {
    let mut acc = accumulators(isa, f32::NEG_INFINITY);
    read(
        isa,
        [x],
        f32::NEG_INFINITY,
        #[inline(always)]
        |g, [x]| acc[g] = acc[g].max(x),
    );
    largest::<I>(acc)
}
