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

use super::{Isa, Vector};

/// Chains that a reduction keeps apart.
pub(crate) const GROUPS: usize = 4;

/// A row that is read and written.
#[derive(Debug)]
pub(crate) enum Row<'a> {
    /// Results replace what was read.
    InPlace(&'a mut [f32]),
    /// Reads from the first, writes to the second, of the same length.
    Into(&'a [f32], &'a mut [f32]),
}

impl<'a> Row<'a> {
    /// What is read.
    #[inline(always)]
    pub(crate) fn input(&self) -> &[f32] {
        match self {
            Row::InPlace(x) => x,
            Row::Into(x, _) => x,
        }
    }

    /// What is written.
    #[inline(always)]
    pub(crate) fn output(&mut self) -> &mut [f32] {
        match self {
            Row::InPlace(x) => x,
            Row::Into(_, out) => out,
        }
    }

    /// What is written, for as long as the row lives.
    #[inline(always)]
    pub(crate) fn into_output(self) -> &'a mut [f32] {
        match self {
            Row::InPlace(x) => x,
            Row::Into(_, out) => out,
        }
    }

    /// The columns before `mid` and those from it on.
    #[inline(always)]
    pub(crate) fn split_at(&mut self, mid: usize) -> (Row<'_>, Row<'_>) {
        match self {
            Row::InPlace(x) => {
                let (low, high) = x.split_at_mut(mid);
                (Row::InPlace(low), Row::InPlace(high))
            }
            Row::Into(x, out) => {
                let ((x, x_high), (out, out_high)) = (x.split_at(mid), out.split_at_mut(mid));
                (Row::Into(x, out), Row::Into(x_high, out_high))
            }
        }
    }

    /// Where reading and writing start, and how many elements follow.
    #[inline(always)]
    fn pointers(&mut self) -> (*const f32, *mut f32, usize) {
        match self {
            Row::InPlace(x) => (x.as_mut_ptr().cast_const(), x.as_mut_ptr(), x.len()),
            Row::Into(x, out) => {
                assert_eq!(x.len(), out.len());
                (x.as_ptr(), out.as_mut_ptr(), x.len())
            }
        }
    }
}

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

/// The vectors at `i` of all inputs: all of each if `whole`, else what there is, and `fill` in the
/// other lanes. (A loop, for `array::map` is not always inlined.)
///
/// # Safety
/// Every input has `LANES` elements from `i` on if `whole`.
#[inline(always)]
unsafe fn load<I: Isa, const P: usize>(
    isa: I,
    inputs: &[&[f32]; P],
    i: usize,
    whole: bool,
    fill: f32,
) -> [I::V; P] {
    let mut vectors = [I::V::splat(isa, fill); P];
    for (v, x) in vectors.iter_mut().zip(inputs) {
        *v = if whole {
            // SAFETY: the caller's.
            unsafe { I::V::load_ptr(isa, x.as_ptr().add(i)) }
        } else {
            I::V::load_partial(isa, &x[i..], fill)
        };
    }
    vectors
}

/// Calls `f(group, [inputs[0][i..], ..])` for all vectors; lanes past the end are `fill`.
///
/// # Panics
/// If the inputs differ in length.
#[inline(always)]
pub(crate) fn read<I: Isa, const P: usize>(
    isa: I,
    inputs: [&[f32]; P],
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

/// Replaces or writes each vector of `row` by `f(group, vector, [inputs[0][i..], ..])`; lanes past the
/// end are `fill` in the row's vector and in those of the inputs, and are not written.
///
/// # Panics
/// If the inputs differ in length from the row.
#[inline(always)]
pub(crate) fn map<I: Isa, const P: usize>(
    isa: I,
    row: &mut Row<'_>,
    inputs: [&[f32]; P],
    fill: f32,
    mut f: impl FnMut(usize, I::V, [I::V; P]) -> I::V,
) {
    let (src, dst, n) = row.pointers();
    assert!(inputs.iter().all(|x| x.len() == n), "inputs differ in length from the row");
    walk::<I>(
        n,
        #[inline(always)]
        |group, i, whole| {
            // SAFETY: `walk` says `whole` where i + LANES <= n, the length of every input.
            let inputs = unsafe { load(isa, &inputs, i, whole, fill) };
            // SAFETY: src and dst are valid for n elements, i + LANES <= n if `whole`, i < n always;
            // no reference to either lives beyond its expression.
            unsafe {
                if whole {
                    f(group, I::V::load_ptr(isa, src.add(i)), inputs).store_ptr(dst.add(i));
                } else {
                    let x = I::V::load_partial(isa, core::slice::from_raw_parts(src.add(i), n - i), fill);
                    let y = f(group, x, inputs);
                    y.store_partial(core::slice::from_raw_parts_mut(dst.add(i), n - i));
                }
            }
        },
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
pub(crate) fn sum<I: Isa>(isa: I, x: &[f32], fill: f32, f: impl Fn(I::V) -> I::V) -> f32 {
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

/// The largest element of `x`, -inf if it is empty; elements that are NaN may or may not be skipped.
#[inline(always)]
pub(crate) fn maximum<I: Isa>(isa: I, x: &[f32]) -> f32 {
    let mut acc = accumulators(isa, f32::NEG_INFINITY);
    read(
        isa,
        [x],
        f32::NEG_INFINITY,
        #[inline(always)]
        |g, [x]| acc[g] = acc[g].max(x),
    );
    let [a, b, c, d] = acc;
    a.max(b).max(c.max(d)).maximum()
}
