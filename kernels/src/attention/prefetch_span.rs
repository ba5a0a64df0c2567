//! Memory that is prefetched, described without reading it.

use crate::view::{AnyView, View, with_any};
use core::ops::Range;

/// Rows in memory, \[heads, rows, floats\], that are only prefetched: any part of it may be named.
#[derive(Clone, Copy, Debug)]
pub(super) struct PrefetchSpan {
    /// Address of the first float; never read through.
    pub first: *const f32,
    /// Heads, rows of each, floats of a row.
    pub shape: [usize; 3],
    /// Floats from head to head and from row to row.
    pub strides: [usize; 2],
}

impl PrefetchSpan {
    /// No rows.
    pub const NOTHING: Self = Self { first: core::ptr::null(), shape: [0; 3], strides: [0; 2] };

    /// Of any memory.
    #[inline(always)]
    pub fn new(floats: &[f32], shape: [usize; 3], strides: [usize; 2]) -> Self {
        Self { first: floats.as_ptr(), shape, strides }
    }

    /// All of `view`.
    #[inline(always)]
    pub fn of(view: AnyView<'_, 3>) -> Self {
        with_any!(view, v => Self::of_type(v))
    }

    /// All of a view of `T`; 16-bit numbers count as half a float each.
    #[inline(always)]
    fn of_type<T>(view: View<'_, 3, T>) -> Self {
        let ([heads, rows, _], [all_heads, all_rows, numbers]) = (view.strides(), view.shape());
        let in_float = size_of::<f32>() / size_of::<T>();
        let shape = [all_heads, all_rows, numbers.div_ceil(in_float)];
        Self { first: view.as_ptr().cast(), shape, strides: [heads / in_float, rows / in_float] }
    }

    /// These heads and rows, as far as there are such.
    #[inline(always)]
    pub fn part(self, heads: Range<usize>, rows: Range<usize>) -> Self {
        let [all_heads, all_rows, floats] = self.shape;
        let at = heads.start * self.strides[0] + rows.start * self.strides[1];
        let len = |range: Range<usize>, all: usize| range.end.min(all).saturating_sub(range.start);
        Self {
            first: self.first.wrapping_add(at),
            shape: [len(heads, all_heads), len(rows, all_rows), floats],
            strides: self.strides,
        }
    }
}
