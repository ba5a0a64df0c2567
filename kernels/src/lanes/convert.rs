//! Conversion of rows between their element type and f32.

use super::{RowSlices, map};
use crate::element::Element;
use crate::isa::{Isa, Vector};

/// Converts `x` to f32, exactly.
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

/// Rounds `wide` to the nearest elements of `out`.
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

/// Converts `x` to f32, exactly. Whole pairs of vectors have the order of [`Element::load_pair`].
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub(crate) fn widen_pairs<I: Isa, T: Element>(isa: I, x: &[T], wide: &mut [f32]) {
    assert!(x.len() == wide.len(), "input and output differ in length");
    let (lanes, pair) = (I::V::LANES, 2 * I::V::LANES);
    let paired = x.len() - x.len() % pair;
    for i in (0..paired).step_by(pair) {
        // SAFETY: i + 2 LANES <= paired, at most the length of `x` and of `wide` (checked above).
        unsafe {
            let [a, b] = T::load_pair(isa, x.as_ptr().add(i));
            a.store_ptr(wide.as_mut_ptr().add(i));
            b.store_ptr(wide.as_mut_ptr().add(i + lanes));
        }
    }
    widen(isa, &x[paired..], &mut wide[paired..]);
}

/// Rounds `f(wide)` to the nearest elements of `out`. `wide` has the order of [`widen_pairs`]. NaN must result from
/// arithmetic on elements.
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
        // SAFETY: i + 2 LANES <= paired, at most the length of `wide` and of `out` (checked above).
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

/// Fills `out` by `f`, which writes a row of f32 of its length.
///
/// `f` gets `out` itself if its type is f32. Otherwise `f` gets `memory`, which is then rounded to `out`. The initial
/// values of the row are unspecified.
///
/// # Panics
/// If the type of `out` is not f32 and `memory` is shorter than `out`.
#[inline(always)]
pub(crate) fn write_f32<I: Isa, T: Element>(
    isa: I,
    out: &mut [T],
    memory: &mut [f32],
    f: impl FnOnce(&mut [f32]),
) {
    let n = out.len();
    // One call of `f`, because `f` is inlined.
    let wide = match T::f32s_mut(out) {
        Some(out) => out,
        None => &mut memory[..n],
    };
    f(wide);
    if T::f32s(&[]).is_none() {
        narrow(isa, &memory[..n], out);
    }
}
