//! Loops over rows a register at a time: the one place where row kernels meet pointers.
//!
//! ```text
//! row      |<---- 4 vectors ---->|<---- 4 vectors ---->|<- V ->|<- V ->|<rest>|
//! group       0    1    2    3      0    1    2    3       0       0      3
//! ```
//!
//! A reduction keeps one accumulator per group, so that four chains of additions run side by side
//! (latency 4 at up to two per cycle), and adds them up at the end in a fixed order. Which element
//! enters which chain depends only on the row's length: not on threads, rows or alignment.

mod convert;

use crate::element::Element;
use crate::isa::{Isa, Vector};
pub use crate::row_slices::RowSlices;
pub(crate) use convert::{narrow, narrow_pairs, widen, widen_pairs, write_f32};

/// Chains that a reduction keeps apart.
pub(crate) const GROUPS: usize = 4;

/// Calls `visit(group, i, true)` for each vector at `i` of `n` floats, and `visit(group, i, false)`
/// for the rest that does not fill one.
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

/// The values at `i` of all inputs: a vector of each if `whole`, else what there is, and `fill` in the
/// other lanes. (A loop, for `array::map` is not always inlined.)
///
/// # Safety
/// Every input has `LANES` elements from `i` on if `whole`.
#[inline(always)]
unsafe fn load<I: Isa, T: Element, const P: usize>(
    isa: I,
    inputs: &[&[T]; P],
    i: usize,
    whole: bool,
    fill: f32,
) -> [I::V; P] {
    let mut vectors = [I::V::splat(isa, fill); P];
    for (v, x) in vectors.iter_mut().zip(inputs) {
        *v = if whole {
            // SAFETY: every input has `LANES` elements from `i` on if `whole` (precondition of `load`).
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
            // SAFETY: `walk` says `whole` where i + LANES <= n, the length of every input.
            f(group, unsafe { load(isa, &inputs, i, whole, fill) });
        },
    );
}

/// Inputs of [`map`] where it has none beside its rows.
pub(crate) const NONE: [&[f32]; 0] = [];

/// Writes `f(group, [rows[0][i..], ..], [inputs[0][i..], ..])` to the rows, for all vectors; lanes past
/// the end are `fill` in what `f` sees, and are not written.
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
    let n = rows[0].input().len();
    let mut pointers = [(core::ptr::null(), core::ptr::null_mut()); R];
    for (pointers, row) in pointers.iter_mut().zip(&mut rows) {
        assert!(row.input().len() == n, "rows differ in length");
        *pointers = row.pointers();
    }
    assert!(inputs.iter().all(|x| x.len() == n), "inputs differ in length from the rows");
    assert!(others.iter().all(|x| x.len() == n), "inputs differ in length from the rows");
    walk::<I>(
        n,
        #[inline(always)]
        |group, i, whole| {
            // SAFETY: `walk` says `whole` where i + LANES <= n, the length of every input.
            let inputs = unsafe { load(isa, &inputs, i, whole, fill) };
            // SAFETY: as above.
            let others = unsafe { load(isa, &others, i, whole, fill) };
            let mut vectors = [I::V::splat(isa, fill); R];
            for (v, &(src, _)) in vectors.iter_mut().zip(&pointers) {
                // SAFETY: valid for n elements, i + LANES <= n if `whole`, i < n always; no reference
                // lives beyond its expression.
                *v = unsafe {
                    if whole {
                        T::load(isa, src.add(i))
                    } else {
                        T::load_partial(isa, core::slice::from_raw_parts(src.add(i), n - i), fill)
                    }
                };
            }
            for (v, &(_, dst)) in f(group, vectors, inputs, others).into_iter().zip(&pointers) {
                // SAFETY: as above.
                unsafe {
                    if whole {
                        T::store(isa, v, dst.add(i));
                    } else {
                        T::store_partial(isa, v, core::slice::from_raw_parts_mut(dst.add(i), n - i));
                    }
                }
            }
        },
    );
}

/// Writes `f(row[i..], [inputs[0][i..], ..])` to the row, for all vectors, where `f` is a function of each
/// lane by itself, and arithmetic: two vectors of a type may come and go in an order that is cheaper.
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
    let n = row.input().len();
    assert!(inputs.iter().all(|x| x.len() == n), "inputs differ in length from the row");
    let (src, dst) = row.pointers();
    let pair = 2 * I::V::LANES;
    let paired = n - n % pair;
    for i in (0..paired).step_by(pair) {
        let mut others = [[I::V::splat(isa, 0.0); P]; 2];
        for (p, x) in inputs.iter().enumerate() {
            // SAFETY: i + 2 LANES <= n, the length of every input.
            [others[0][p], others[1][p]] = unsafe { T::load_pair(isa, x.as_ptr().add(i)) };
        }
        // SAFETY: as above, and the row's pointers are valid for n elements.
        unsafe {
            let [a, b] = T::load_pair(isa, src.add(i));
            T::store_pair(isa, [f(a, others[0]), f(b, others[1])], dst.add(i));
        }
    }
    let mut inputs = inputs;
    for x in &mut inputs {
        *x = &x[paired..];
    }
    map(
        isa,
        [&mut row.slice(paired..n)],
        inputs,
        0.0,
        #[inline(always)]
        |_, [x], inputs| [f(x, inputs)],
    );
}

/// The accumulators of a reduction, one for each group, all lanes `x`.
#[inline(always)]
pub(crate) fn accumulators<I: Isa>(isa: I, x: f32) -> [I::V; GROUPS] {
    [I::V::splat(isa, x); GROUPS]
}

/// The sum over all groups and lanes, in a fixed order.
#[inline(always)]
pub(crate) fn total<I: Isa>([a, b, c, d]: [I::V; GROUPS]) -> f32 {
    ((a + b) + (c + d)).sum()
}

/// The sum of `f` of each vector of `x`; lanes past the end are `fill`, of which `f` must be 0.
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

/// The largest over all groups and lanes, in a fixed order.
#[inline(always)]
pub(crate) fn largest<I: Isa>([a, b, c, d]: [I::V; GROUPS]) -> f32 {
    a.max(b).max(c.max(d)).maximum()
}

/// The largest element of `x`, -inf if it is empty; elements that are NaN may or may not be skipped.
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
