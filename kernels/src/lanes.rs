//! Loops over rows, one vector at a time: the only module of row kernels that uses pointers.
//!
//! ```text
//! row      |<---- 4 vectors ---->|<---- 4 vectors ---->|<- V ->|<- V ->|<rest>|
//! group       0    1    2    3      0    1    2    3       0       0      3
//! ```
//!
//! A reduction keeps one accumulator per group: four chains of additions run side by side (latency 4 at up to two per
//! cycle). It adds the accumulators at the end in a fixed order. The chain of an element depends on its index and the
//! row's length only, not on threads, other rows or alignment.

mod convert;
mod reduce;

use crate::element::Element;
use crate::isa::{Isa, LINE, Vector};
pub use crate::row_slices::RowSlices;
pub(crate) use convert::{narrow, narrow_pairs, widen, widen_pairs, write_f32};
use core::ops::Range;
pub(crate) use reduce::{accumulators, largest, map_and_add, maximum, read_with, sum, total};

/// Number of separate chains of a reduction.
pub(crate) const GROUPS: usize = 4;

/// Distance in bytes from a store to the line that is prefetched to be written.
///
/// Stores leave the core in order, and each to a line of L3 or memory waits for that line. With the stores of column sums
/// in between, too few lines are on their way: prefetches take the gradient of a layer norm of 4096x768 from 1.47 to 1.30
/// ms, the time of its bytes at the bandwidth of reads (Sapphire Rapids, 2026-11-30, its loop alone). All distances from
/// 64 bytes to 8 KiB took the same time.
///
/// Rows of f32 gain, and elementwise functions with two results. A vector of bf16 is half a line, so that each line would
/// be prefetched twice.
const WRITE_AHEAD: usize = 1024;

/// Prefetches the line [`WRITE_AHEAD`] bytes behind `dst`, to be written. It may belong to the next row, or to no row.
#[inline(always)]
fn prefetch_write<I: Isa, T>(isa: I, dst: *mut T) {
    isa.prefetch_write(dst.cast_const().cast::<u8>().wrapping_add(WRITE_AHEAD));
}

/// Calls `visit(group, i, true)` for the start `i` of each whole vector of `n` floats, then `visit(group, i, false)` for
/// the rest, if any.
#[inline(always)]
fn walk<I: Isa>(n: usize, mut visit: impl FnMut(usize, usize, bool)) {
    let lanes = I::V::LANES;
    let mut i = 0;
    while n - i >= GROUPS * lanes {
        visit(0, i, true);
        visit(1, i + lanes, true);
        visit(2, i + 2 * lanes, true);
        visit(3, i + 3 * lanes, true);
        i += GROUPS * lanes;
    }
    while n - i >= lanes {
        visit(0, i, true);
        i += lanes;
    }
    if i < n {
        visit(3, i, false);
    }
}

/// Loads a vector at `i` from each input: `LANES` elements if `whole`, else the elements left, with its number of `fills`
/// in the other lanes.
///
/// # Safety
/// If `whole`, every input has `LANES` elements from `i` on.
#[inline(always)]
unsafe fn load<I: Isa, T: Element, const P: usize>(
    isa: I,
    inputs: &[&[T]; P],
    i: usize,
    whole: bool,
    fills: [f32; P],
) -> [I::V; P] {
    // A loop, because `array::map` is not always inlined.
    let mut vectors = [I::V::splat(isa, 0.0); P];
    for ((v, x), fill) in vectors.iter_mut().zip(inputs).zip(fills) {
        *v = if whole {
            // SAFETY: if `whole`, every input has `LANES` elements from `i` on (precondition of `load`).
            unsafe { T::load(isa, x.as_ptr().add(i)) }
        } else {
            T::load_partial(isa, &x[i..], fill)
        };
    }
    vectors
}

/// Calls `f(group, [inputs[0][i..], ..])` for all vectors; lanes past the end are `fill`.
///
/// # Panics
/// If the inputs differ in length.
#[inline(always)]
pub(crate) fn read<I: Isa, T: Element, const P: usize>(
    isa: I,
    inputs: [&[T]; P],
    fill: f32,
    mut f: impl FnMut(usize, [I::V; P]),
) {
    let n = inputs[0].len();
    assert!(inputs.iter().all(|x| x.len() == n), "inputs differ in length");
    walk::<I>(
        n,
        #[inline(always)]
        |group, i, whole| {
            // SAFETY: `walk` passes `whole` only if i + LANES <= n, the length of every input (checked above).
            f(group, unsafe { load(isa, &inputs, i, whole, [fill; P]) });
        },
    );
}

/// No inputs, for a [`map`] of rows alone.
pub(crate) const NONE: [&[f32]; 0] = [];

/// Writes `f(group, [rows[0][i..], ..], [inputs[0][i..], ..])` to the rows, for all vectors. Lanes past the end are
/// `fill` in the arguments of `f`, and are not written.
///
/// # Panics
/// If the rows and inputs differ in length.
#[inline(always)]
pub(crate) fn map<I: Isa, T: Element, S: Element, const R: usize, const P: usize>(
    isa: I,
    rows: [&mut RowSlices<'_, T>; R],
    inputs: [&[S]; P],
    fill: f32,
    mut f: impl FnMut(usize, [I::V; R], [I::V; P]) -> [I::V; R],
) {
    map_with(
        isa,
        rows,
        inputs,
        NONE,
        fill,
        #[inline(always)]
        |group, rows, inputs, []| f(group, rows, inputs),
    );
}

/// [`map`] with inputs of two types.
///
/// # Panics
/// If the rows and inputs differ in length.
#[inline(always)]
pub(crate) fn map_with<
    I: Isa,
    T: Element,
    S: Element,
    U: Element,
    const R: usize,
    const P: usize,
    const Q: usize,
>(
    isa: I,
    mut rows: [&mut RowSlices<'_, T>; R],
    inputs: [&[S]; P],
    others: [&[U]; Q],
    fill: f32,
    mut f: impl FnMut(usize, [I::V; R], [I::V; P], [I::V; Q]) -> [I::V; R],
) {
    let (n, pointers) = pointers(&mut rows);
    assert!(inputs.iter().all(|x| x.len() == n), "inputs differ in length from the rows");
    assert!(others.iter().all(|x| x.len() == n), "inputs differ in length from the rows");
    walk::<I>(
        n,
        #[inline(always)]
        |group, i, whole| {
            // SAFETY: the pointers are those of rows of n elements, and all inputs have n elements (checked above).
            // `walk` guarantees i < n, and i + LANES <= n if `whole`.
            unsafe {
                map_vector(
                    isa,
                    i..n,
                    whole,
                    &pointers,
                    &inputs,
                    &others,
                    fill,
                    #[inline(always)]
                    |rows, inputs, others| f(group, rows, inputs, others),
                );
            }
        },
    );
}

/// Pointers to read and to write of each row, and the length of all.
///
/// # Panics
/// If the rows differ in length.
#[inline(always)]
fn pointers<T: Element, const R: usize>(
    rows: &mut [&mut RowSlices<'_, T>; R],
) -> (usize, [(*const T, *mut T); R]) {
    let n = rows[0].input().len();
    let mut pointers = [(core::ptr::null(), core::ptr::null_mut()); R];
    for (pointers, row) in pointers.iter_mut().zip(rows) {
        assert!(row.input().len() == n, "rows differ in length");
        *pointers = row.pointers();
    }
    (n, pointers)
}

/// Writes `f` of one vector of the rows and inputs: of elements `at.start + 0..LANES` if `whole`, else of the elements
/// `at`.
///
/// # Safety
/// - The pointers of each row are valid for reads and writes of `at.end` elements.
/// - All inputs have `at.end` elements.
/// - `at` is not empty; if `whole`, it has `LANES` elements or more.
#[expect(clippy::too_many_arguments, reason = "the inside of two loops")]
#[inline(always)]
unsafe fn map_vector<
    I: Isa,
    T: Element,
    S: Element,
    U: Element,
    const R: usize,
    const P: usize,
    const Q: usize,
>(
    isa: I,
    at: Range<usize>,
    whole: bool,
    pointers: &[(*const T, *mut T); R],
    inputs: &[&[S]; P],
    others: &[&[U]; Q],
    fill: f32,
    f: impl FnOnce([I::V; R], [I::V; P], [I::V; Q]) -> [I::V; R],
) {
    let (i, rest) = (at.start, at.end - at.start);
    // SAFETY: if `whole`, all inputs have `LANES` elements from i on (precondition of `map_vector`).
    let (inputs, others) =
        unsafe { (load(isa, inputs, i, whole, [fill; P]), load(isa, others, i, whole, [fill; Q])) };
    let mut vectors = [I::V::splat(isa, fill); R];
    for (v, &(src, _)) in vectors.iter_mut().zip(pointers) {
        // SAFETY: `src` is valid for reads of the elements `at`, which are `LANES` or more if `whole` (precondition of
        // `map_vector`).
        *v = unsafe { load_at(isa, src.add(i), rest, whole, fill) };
    }
    for (v, &(_, dst)) in f(vectors, inputs, others).into_iter().zip(pointers) {
        // SAFETY: `dst` is valid for writes of the elements `at`, which are `LANES` or more if `whole` (precondition of
        // `map_vector`).
        unsafe { store_at(isa, v, dst.add(i), rest, whole) };
    }
}

/// Loads a vector at `src`: `LANES` elements if `whole`, else `rest` elements, with `fill` in the other lanes.
///
/// # Safety
/// - If `whole`, `src` is valid for reads of `LANES` elements.
/// - Otherwise `src` is valid for reads of `rest` elements.
#[inline(always)]
unsafe fn load_at<I: Isa, T: Element>(isa: I, src: *const T, rest: usize, whole: bool, fill: f32) -> I::V {
    // SAFETY: `src` is valid for reads of LANES elements if `whole`, else of `rest` (preconditions of `load_at`). The
    // slice does not outlive its expression.
    unsafe {
        if whole {
            T::load(isa, src)
        } else {
            T::load_partial(isa, core::slice::from_raw_parts(src, rest), fill)
        }
    }
}

/// Rounds and stores a vector at `dst`: `LANES` elements if `whole`, else `rest` elements.
///
/// # Safety
/// - If `whole`, `dst` is valid for writes of `LANES` elements.
/// - Otherwise `dst` is valid for writes of `rest` elements, and nothing else accesses them during the call.
#[inline(always)]
unsafe fn store_at<I: Isa, T: Element>(isa: I, v: I::V, dst: *mut T, rest: usize, whole: bool) {
    // SAFETY: `dst` is valid for writes of LANES elements if `whole`, else of `rest` (preconditions of `store_at`). The
    // slice does not outlive its expression.
    unsafe {
        if whole {
            if size_of::<T>() == size_of::<f32>() {
                prefetch_write(isa, dst);
            }
            T::store(isa, v, dst);
        } else {
            T::store_partial(isa, v, core::slice::from_raw_parts_mut(dst, rest));
        }
    }
}

/// Multiplies the row by `factor`.
#[inline(always)]
pub(crate) fn scale<I: Isa, T: Element>(isa: I, row: &mut RowSlices<'_, T>, factor: f32) {
    let factor = I::V::splat(isa, factor);
    map(
        isa,
        [row],
        NONE,
        0.0,
        #[inline(always)]
        |_, [x], []| [x * factor],
    );
}

/// Writes `f(row[i..], [inputs[0][i..], ..])` to the row, for all vectors.
///
/// `f` must compute each lane by itself, and by arithmetic: two vectors of bf16 are loaded and stored in an order that is
/// cheaper than that of memory ([`Element::load_pair`]).
///
/// # Panics
/// If the row and the inputs differ in length.
#[inline(always)]
pub(crate) fn each<I: Isa, T: Element, const P: usize>(
    isa: I,
    row: &mut RowSlices<'_, T>,
    inputs: [&[T]; P],
    f: impl Fn(I::V, [I::V; P]) -> I::V,
) {
    each_of(
        isa,
        [row],
        inputs,
        #[inline(always)]
        |[x], inputs| [f(x, inputs)],
    );
}

/// [`each`] with several rows.
///
/// # Panics
/// If the rows and the inputs differ in length.
#[inline(always)]
pub(crate) fn each_of<I: Isa, T: Element, const R: usize, const P: usize>(
    isa: I,
    mut rows: [&mut RowSlices<'_, T>; R],
    inputs: [&[T]; P],
    f: impl Fn([I::V; R], [I::V; P]) -> [I::V; R],
) {
    let (n, pointers) = pointers(&mut rows);
    assert!(inputs.iter().all(|x| x.len() == n), "inputs differ in length from the rows");
    let pair = 2 * I::V::LANES;
    let paired = n - n % pair;
    for i in (0..paired).step_by(pair) {
        if R > 1 {
            for (_, dst) in pointers {
                for v in (0..pair).step_by(LINE / size_of::<T>()) {
                    prefetch_write(isa, dst.wrapping_add(i + v));
                }
            }
        }
        let mut others = [[I::V::splat(isa, 0.0); P]; 2];
        for (p, x) in inputs.iter().enumerate() {
            // SAFETY: i + 2 LANES <= paired <= n, the length of every input (checked above).
            [others[0][p], others[1][p]] = unsafe { T::load_pair(isa, x.as_ptr().add(i)) };
        }
        let mut own = [[I::V::splat(isa, 0.0); R]; 2];
        for (r, &(src, _)) in pointers.iter().enumerate() {
            // SAFETY: i + 2 LANES <= paired <= n, and `src` is valid for n elements (`Row::pointers`).
            [own[0][r], own[1][r]] = unsafe { T::load_pair(isa, src.add(i)) };
        }
        let (a, b) = (f(own[0], others[0]), f(own[1], others[1]));
        for (r, &(_, dst)) in pointers.iter().enumerate() {
            // SAFETY: i + 2 LANES <= paired <= n, and `dst` is valid for n elements (`Row::pointers`).
            unsafe { T::store_pair(isa, [a[r], b[r]], dst.add(i)) };
        }
    }
    let whole = n - n % I::V::LANES;
    if paired < whole {
        // SAFETY: the pointers are those of rows of n elements, and the inputs have n elements (checked above). paired is
        // at most n - LANES.
        unsafe {
            map_vector(
                isa,
                paired..n,
                true,
                &pointers,
                &inputs,
                &NONE,
                0.0,
                #[inline(always)]
                |rows, inputs, []| f(rows, inputs),
            );
        }
    }
    if whole < n {
        // SAFETY: the pointers are those of rows of n elements, and the inputs have n elements (checked above). whole is
        // below n.
        unsafe {
            map_vector(
                isa,
                whole..n,
                false,
                &pointers,
                &inputs,
                &NONE,
                0.0,
                #[inline(always)]
                |rows, inputs, []| f(rows, inputs),
            );
        }
    }
}
