//! Rows of other types than f32 become f32, and back.

use super::{RowSlices, map};
use crate::element::Element;
use crate::isa::{Isa, Vector};

/// The values of `x`, exactly.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub(crate) fn widen<I: Isa, T: Element>(isa: I, x: &[T], wide: &mut [f32]) {
    match T::f32s(x) {
        Some(x) => wide.copy_from_slice(x),
        None => map(
            isa,
            [&mut RowSlices::InPlace(wide)],
            [x],
            0.0,
            #[inline(always)]
            |_, [_], [x]| [x],
        ),
    }
}

/// The nearest to each of `wide`.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub(crate) fn narrow<I: Isa, T: Element>(isa: I, wide: &[f32], out: &mut [T]) {
    map(
        isa,
        [&mut RowSlices::InPlace(out)],
        [wide],
        0.0,
        #[inline(always)]
        |_, [_], [x]| [x],
    );
}

/// The values of `x`, exactly, in the order of [`Element::load_pair`] as far as there are pairs.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub(crate) fn widen_pairs<I: Isa, T: Element>(isa: I, x: &[T], wide: &mut [f32]) {
    assert!(x.len() == wide.len(), "input and output differ in length");
    let (lanes, pair) = (I::V::LANES, 2 * I::V::LANES);
    let paired = x.len() - x.len() % pair;
    for i in (0..paired).step_by(pair) {
        // SAFETY: i + 2 LANES is at most the length of both.
        unsafe {
            let [a, b] = T::load_pair(isa, x.as_ptr().add(i));
            a.store_ptr(wide.as_mut_ptr().add(i));
            b.store_ptr(wide.as_mut_ptr().add(i + lanes));
        }
    }
    widen(isa, &x[paired..], &mut wide[paired..]);
}

/// The nearest to `f` of each of `wide`, which has the order of [`widen_pairs`]. NaN must be from arithmetic
/// on elements.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub(crate) fn narrow_pairs<I: Isa, T: Element>(
    isa: I,
    wide: &[f32],
    out: &mut [T],
    f: impl Fn(I::V) -> I::V,
) {
    assert!(wide.len() == out.len(), "input and output differ in length");
    let (lanes, pair) = (I::V::LANES, 2 * I::V::LANES);
    let paired = wide.len() - wide.len() % pair;
    for i in (0..paired).step_by(pair) {
        // SAFETY: i + 2 LANES is at most the length of both.
        unsafe {
            let at = wide.as_ptr().add(i);
            let (a, b) = (I::V::load_ptr(isa, at), I::V::load_ptr(isa, at.add(lanes)));
            T::store_pair(isa, [f(a), f(b)], out.as_mut_ptr().add(i));
        }
    }
    map(
        isa,
        [&mut RowSlices::InPlace(&mut out[paired..])],
        [&wide[paired..]],
        0.0,
        #[inline(always)]
        |_, [_], [x]| [f(x)],
    );
}

/// Makes `out` what `f` makes of a row of f32 of the same length and unspecified values: the row itself,
/// or, of other types, `memory`, of which each number is then rounded.
///
/// # Panics
/// If `memory` is shorter than the row, and not f32.
#[inline(always)]
pub(crate) fn write_f32<I: Isa, T: Element>(
    isa: I,
    out: &mut [T],
    memory: &mut [f32],
    f: impl FnOnce(&mut [f32]),
) {
    let n = out.len();
    // One call of `f`, for it is inlined.
    let wide = match T::f32s_mut(out) {
        Some(out) => out,
        None => &mut memory[..n],
    };
    f(wide);
    if T::f32s(&[]).is_none() {
        narrow(isa, &memory[..n], out);
    }
}
