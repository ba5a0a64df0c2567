//! Strided views of slices. Constructors prove all bounds and overlaps, once.
//!
//! Element `[i, j, ..]` of a view is at `offset + i * strides[0] + j * strides[1] + ..` in its slice. A stride of 0
//! repeats a dimension of an input (broadcasting). A mutable view refuses strides under which two indices could name
//! one element.

mod any;

use crate::error::Error;
use core::marker::PhantomData;
use core::ops::Range;

pub use any::{AnyView, AnyViewMut};
pub(crate) use any::{with_any, with_any_mut};

/// A `D`-dimensional strided view for reading.
///
/// ```
/// use tilewright_kernels::View;
/// let data = [1., 2., 3., 4., 5., 6.];
/// let a = View::new(&data, [2, 3])?; // row-major
/// assert_eq!(a.get([1, 0]), 4.);
/// assert_eq!(a.transpose().get([0, 1]), 4.);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct View<'a, const D: usize, T = f32> {
    ptr: *const T,
    shape: [usize; D],
    strides: [usize; D],
    life: PhantomData<&'a [T]>,
}

/// A `D`-dimensional strided view for writing; different indices name different elements.
#[derive(Debug)]
pub struct ViewMut<'a, const D: usize, T = f32> {
    ptr: *mut T,
    shape: [usize; D],
    strides: [usize; D],
    life: PhantomData<&'a mut [T]>,
}

impl<const D: usize, T> Clone for View<'_, D, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<const D: usize, T> Copy for View<'_, D, T> {}

// SAFETY: a view only reads elements of a `&'a [T]`, which is `Send` because `T` is `Sync` (bound).
unsafe impl<const D: usize, T: Sync> Send for View<'_, D, T> {}
// SAFETY: a view only reads elements of a `&'a [T]`, which is `Sync` because `T` is `Sync` (bound).
unsafe impl<const D: usize, T: Sync> Sync for View<'_, D, T> {}
// SAFETY: a mutable view alone accesses its elements, as `&'a mut [T]` does, which is `Send` because `T` is `Send`
// (bound). Methods that make two of one view give each its own elements.
unsafe impl<const D: usize, T: Send> Send for ViewMut<'_, D, T> {}
// SAFETY: a shared reference to a mutable view only reads elements, and `T` is `Sync` (bound).
unsafe impl<const D: usize, T: Sync> Sync for ViewMut<'_, D, T> {}

/// Strides of a contiguous row-major array.
fn row_major<const D: usize>(shape: [usize; D]) -> [usize; D] {
    let mut strides = [1; D];
    for d in (1..D).rev() {
        strides[d - 1] = shape[d].saturating_mul(strides[d]);
    }
    strides
}

/// Most elements of a view: 2^48, with repeated elements counted and dimensions of 0 taken as 1. Sizes that kernels
/// compute from shapes, such as bytes of packed panels padded to 64 columns, then do not overflow.
const MAX_ELEMENTS: usize = usize::MAX >> (usize::BITS / 4);

/// Returns an error if a shape has more than [`MAX_ELEMENTS`].
pub(crate) fn check_elements<const D: usize>(what: &'static str, shape: [usize; D]) -> Result<(), Error> {
    let elements = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n.max(1)));
    if elements.is_some_and(|elements| elements <= MAX_ELEMENTS) {
        return Ok(());
    }
    let why = format!("expected at most {MAX_ELEMENTS} elements, found shape {shape:?}");
    Err(Error::Invalid { what, why })
}

/// Returns an error if a view reaches past `len` elements, or has more than [`MAX_ELEMENTS`].
fn check_bounds<const D: usize>(shape: [usize; D], strides: [usize; D], len: usize) -> Result<(), Error> {
    check_elements("View", shape)?;
    if shape.contains(&0) {
        return Ok(());
    }
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(0usize, |sum, (n, stride)| sum.checked_add((n - 1).checked_mul(stride)?));
    match last {
        Some(last) if last < len => Ok(()),
        _ => Err(Error::OutOfBounds { shape: shape.to_vec(), strides: strides.to_vec(), len }),
    }
}

/// Returns an error if two indices could name one element. From the smallest stride up, each stride must exceed the
/// offset of the last element that the smaller strides reach.
fn check_distinct<const D: usize>(shape: [usize; D], strides: [usize; D]) -> Result<(), Error> {
    if shape.contains(&0) {
        return Ok(());
    }
    let mut dims: [(usize, usize); D] = core::array::from_fn(|d| (strides[d], shape[d]));
    dims.sort_unstable();
    let mut reach = 0usize;
    for (stride, n) in dims {
        if n > 1 && stride <= reach {
            return Err(Error::Overlap { shape: shape.to_vec(), strides: strides.to_vec() });
        }
        // No overflow: `check_bounds` has proved the view to lie in its slice.
        reach += (n - 1) * stride;
    }
    Ok(())
}

/// Methods of both reading and writing views.
macro_rules! common {
    ($view:ident) => {
        impl<'a, const D: usize, T> $view<'a, D, T> {
            /// Extent of each dimension.
            #[inline(always)]
            pub fn shape(&self) -> [usize; D] {
                self.shape
            }

            /// Distance, in elements, between neighbours along each dimension.
            #[inline(always)]
            pub fn strides(&self) -> [usize; D] {
                self.strides
            }

            /// True if any dimension is 0.
            #[inline(always)]
            pub fn is_empty(&self) -> bool {
                self.shape.contains(&0)
            }

            /// True if the elements of the last dimension are neighbours in memory.
            #[inline(always)]
            pub fn has_unit_rows(&self) -> bool {
                D == 0 || self.strides[D - 1] == 1 || self.shape[D - 1] <= 1
            }

            /// Offset of `index` from the first element of the view.
            #[inline(always)]
            fn offset(&self, index: [usize; D]) -> usize {
                let mut offset = 0;
                for d in 0..D {
                    assert!(index[d] < self.shape[d], "index {index:?} outside shape {:?}", self.shape);
                    offset += index[d] * self.strides[d];
                }
                offset
            }

            /// Offset and length of the row at `index`, whose last entry is ignored. The offset of an empty row is 0.
            #[inline(always)]
            fn row_span(&self, mut index: [usize; D]) -> (usize, usize) {
                assert!(self.has_unit_rows(), "rows of a view with strides {:?} are not slices", self.strides);
                index[D - 1] = 0;
                let n = self.shape[D - 1];
                (if n == 0 { 0 } else { self.offset(index) }, n)
            }

            /// The part of the view in `range` of dimension `dim`.
            ///
            /// # Panics
            /// If the range does not lie in the dimension.
            #[inline(always)]
            pub fn slice(self, dim: usize, range: Range<usize>) -> Self {
                assert!(
                    range.start <= range.end && range.end <= self.shape[dim],
                    "range {range:?} outside dimension {dim} of shape {:?}",
                    self.shape
                );
                let mut shape = self.shape;
                shape[dim] = range.len();
                // The strides of an empty view are unchecked, and nothing is read: keep the pointer in the slice.
                let skip = if shape.contains(&0) { 0 } else { range.start * self.strides[dim] };
                Self { ptr: self.ptr.wrapping_add(skip), shape, strides: self.strides, life: PhantomData }
            }

            /// The view with its dimensions in the order `axes`.
            ///
            /// # Panics
            /// If `axes` is not a permutation of `0..D`.
            #[inline(always)]
            pub fn permute(self, axes: [usize; D]) -> Self {
                let mut seen = [false; D];
                for a in axes {
                    assert!(a < D && !core::mem::replace(&mut seen[a], true), "{axes:?} is not a permutation");
                }
                Self {
                    ptr: self.ptr,
                    shape: axes.map(|a| self.shape[a]),
                    strides: axes.map(|a| self.strides[a]),
                    life: PhantomData,
                }
            }
        }

        impl<'a, T> $view<'a, 2, T> {
            /// Rows and columns exchanged.
            #[inline(always)]
            pub fn transpose(self) -> Self {
                self.permute([1, 0])
            }
        }

        // One dimension less: const generics cannot express `D - 1` yet.
        common!(@index $view, 4, 3);
        common!(@index $view, 3, 2);
        common!(@index $view, 2, 1);
    };
    (@index $view:ident, $from:literal, $to:literal) => {
        impl<'a, T> $view<'a, $from, T> {
            /// The sub-view at index `i` of the first dimension.
            ///
            /// # Panics
            /// If `i` lies outside the dimension.
            #[inline(always)]
            pub fn at(self, i: usize) -> $view<'a, $to, T> {
                assert!(i < self.shape[0], "index {i} outside shape {:?}", self.shape);
                let skip = if self.is_empty() { 0 } else { i * self.strides[0] };
                $view {
                    ptr: self.ptr.wrapping_add(skip),
                    shape: core::array::from_fn(|d| self.shape[d + 1]),
                    strides: core::array::from_fn(|d| self.strides[d + 1]),
                    life: PhantomData,
                }
            }
        }

        impl<'a, T> From<$view<'a, $to, T>> for $view<'a, $from, T> {
            /// Prepends a dimension of 1.
            #[inline(always)]
            fn from(v: $view<'a, $to, T>) -> Self {
                $view {
                    ptr: v.ptr,
                    shape: core::array::from_fn(|d| if d == 0 { 1 } else { v.shape[d - 1] }),
                    strides: core::array::from_fn(|d| if d == 0 { 0 } else { v.strides[d - 1] }),
                    life: PhantomData,
                }
            }
        }
    };
}
common!(View);
common!(ViewMut);

impl<'a, const D: usize, T> View<'a, D, T> {
    /// The contiguous row-major view of `data`, which may be longer than needed.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] if `data` is shorter than the shape's product; [`Error::Invalid`] if the shape
    /// has more than 2^48 elements.
    pub fn new(data: &'a [T], shape: [usize; D]) -> Result<Self, Error> {
        Self::with_strides(data, shape, row_major(shape))
    }

    /// A view with any strides, in elements; 0 repeats a dimension.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] if an index reaches past `data`; [`Error::Invalid`] if the shape has more than
    /// 2^48 elements, repeated ones included.
    pub fn with_strides(data: &'a [T], shape: [usize; D], strides: [usize; D]) -> Result<Self, Error> {
        check_bounds(shape, strides, data.len())?;
        Ok(Self { ptr: data.as_ptr(), shape, strides, life: PhantomData })
    }

    /// The parts before `mid` and from `mid` on along dimension `dim`.
    ///
    /// # Panics
    /// If `mid` lies outside the dimension.
    #[inline(always)]
    pub fn split_at(self, dim: usize, mid: usize) -> (Self, Self) {
        (self.slice(dim, 0..mid), self.slice(dim, mid..self.shape[dim]))
    }

    /// The first element; dangling if the view is empty.
    #[inline(always)]
    pub fn as_ptr(&self) -> *const T {
        self.ptr
    }

    /// The row at `index`, whose last entry is ignored.
    ///
    /// # Panics
    /// If the index lies outside, or [`has_unit_rows`](Self::has_unit_rows) is false.
    #[inline(always)]
    pub fn row(&self, index: [usize; D]) -> &'a [T] {
        let (start, n) = self.row_span(index);
        // SAFETY: the constructor proved that the elements of the row lie in the slice, which is valid for 'a. They are
        // neighbours (asserted in `row_span`). An empty row has length 0 at a pointer into the slice.
        unsafe { core::slice::from_raw_parts(self.ptr.wrapping_add(start), n) }
    }
}

impl<const D: usize, T: Copy> View<'_, D, T> {
    /// The element at `index`.
    ///
    /// # Panics
    /// If the index lies outside the shape.
    #[inline(always)]
    pub fn get(&self, index: [usize; D]) -> T {
        let offset = self.offset(index);
        // SAFETY: the constructor proved every index inside the shape to lie in the slice.
        unsafe { *self.ptr.add(offset) }
    }
}

impl<'a, const D: usize, T> ViewMut<'a, D, T> {
    /// The contiguous row-major view of `data`, which may be longer than needed.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] if `data` is shorter than the shape's product; [`Error::Invalid`] if the shape
    /// has more than 2^48 elements.
    pub fn new(data: &'a mut [T], shape: [usize; D]) -> Result<Self, Error> {
        Self::with_strides(data, shape, row_major(shape))
    }

    /// A view with any strides, in elements, under which different indices name different elements.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] if an index reaches past `data`; [`Error::Invalid`] if the shape has more than 2^48
    /// elements; [`Error::Overlap`] if two indices could name one element. The test for overlaps also refuses some
    /// interleavings without any.
    pub fn with_strides(data: &'a mut [T], shape: [usize; D], strides: [usize; D]) -> Result<Self, Error> {
        check_bounds(shape, strides, data.len())?;
        check_distinct(shape, strides)?;
        Ok(Self { ptr: data.as_mut_ptr(), shape, strides, life: PhantomData })
    }

    /// The first element; dangling if the view is empty.
    #[inline(always)]
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.ptr
    }

    /// A view of the same elements for reading.
    #[inline(always)]
    pub fn as_view(&self) -> View<'_, D, T> {
        View { ptr: self.ptr, shape: self.shape, strides: self.strides, life: PhantomData }
    }

    /// A view of the same elements that borrows `self`.
    #[inline(always)]
    pub fn reborrow(&mut self) -> ViewMut<'_, D, T> {
        ViewMut { ptr: self.ptr, shape: self.shape, strides: self.strides, life: PhantomData }
    }

    /// The parts before `mid` and from `mid` on along dimension `dim`, which share no element.
    ///
    /// # Panics
    /// If `mid` lies outside the dimension.
    #[inline(always)]
    pub fn split_at(self, dim: usize, mid: usize) -> (Self, Self) {
        let end = self.shape[dim];
        // Both handles name the same elements only until they are sliced below: the slices are disjoint, because
        // different indices name different elements (proved by the constructor), and `self` is consumed.
        let twin = Self { ptr: self.ptr, shape: self.shape, strides: self.strides, life: PhantomData };
        (self.slice(dim, 0..mid), twin.slice(dim, mid..end))
    }

    /// The row at `index`, whose last entry is ignored.
    ///
    /// # Panics
    /// If the index lies outside, or [`has_unit_rows`](Self::has_unit_rows) is false.
    #[inline(always)]
    pub fn row_mut(&mut self, index: [usize; D]) -> &mut [T] {
        let (start, n) = self.row_span(index);
        // SAFETY: the constructor proved that the elements of the row lie in the slice; they are neighbours (asserted
        // in `row_span`). The borrow of `self` makes the access exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.ptr.wrapping_add(start), n) }
    }

    /// Stores `value` at `index`.
    ///
    /// # Panics
    /// If the index lies outside the shape.
    #[inline(always)]
    pub fn set(&mut self, index: [usize; D], value: T) {
        let offset = self.offset(index);
        // SAFETY: the constructor proved every index inside the shape to lie in the slice.
        unsafe { *self.ptr.add(offset) = value }
    }
}

impl<'a, T> View<'a, 2, T> {
    /// The rows in order.
    ///
    /// # Panics
    /// If [`has_unit_rows`](Self::has_unit_rows) is false.
    #[inline(always)]
    pub fn rows(self) -> impl Iterator<Item = &'a [T]> {
        (0..self.shape[0]).map(
            #[inline(always)]
            move |i| self.row([i, 0]),
        )
    }
}

impl<'a, T> ViewMut<'a, 2, T> {
    /// The rows in order.
    ///
    /// # Panics
    /// If [`has_unit_rows`](Self::has_unit_rows) is false.
    #[inline(always)]
    pub fn into_rows(self) -> impl Iterator<Item = &'a mut [T]> {
        (0..self.shape[0]).map(
            #[inline(always)]
            move |i| {
                let (start, n) = self.row_span([i, 0]);
                // SAFETY: the constructor proved that the elements of the row lie in the slice; they are neighbours
                // (asserted in `row_span`). The view is consumed, each row is made once, and rows share no element
                // (proved by the constructor), so the access is exclusive.
                unsafe { core::slice::from_raw_parts_mut(self.ptr.wrapping_add(start), n) }
            },
        )
    }
}
