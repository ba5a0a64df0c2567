//! Address range to prefetch, described without access to it.

use crate::view::{AnyView, View, with_any};
use core::ops::Range;

/// Rows of memory \[heads, rows, floats\] that are prefetched and never read, so that they may exceed an allocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct PrefetchSpan {
    /// Address of the first float; never read through.
    pub first: *const f32,
    /// Heads, rows of a head, floats of a row.
    pub shape: [usize; 3],
    /// Floats from head to head, and from row to row.
    pub strides: [usize; 2],
}

impl PrefetchSpan {
    /// The span without rows.
    pub const NOTHING: Self = Self { first: core::ptr::null(), shape: [0; 3], strides: [0; 2] };

    /// A span that starts at the first of `floats`.
    #[inline(always)]
    pub fn new(floats: &[f32], shape: [usize; 3], strides: [usize; 2]) -> Self {
        Self { first: floats.as_ptr(), shape, strides }
    }

    /// The elements of `view`.
    #[inline(always)]
    pub fn of(view: AnyView<'_, 3>) -> Self {
        with_any!(view, v => Self::of_type(v))
    }

    /// The elements of a view of `T`. Two 16-bit elements count as one float.
    #[inline(always)]
    fn of_type<T>(view: View<'_, 3, T>) -> Self {
        let ([heads, rows, _], [all_heads, all_rows, numbers]) = (view.strides(), view.shape());
        let in_float = size_of::<f32>() / size_of::<T>();
        let shape = [all_heads, all_rows, numbers.div_ceil(in_float)];
        Self { first: view.as_ptr().cast(), shape, strides: [heads / in_float, rows / in_float] }
    }

    /// The given heads and rows, as far as they lie in the span.
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
