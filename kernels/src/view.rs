//! Strided views of slices: all bounds and overlaps are proved here, once.
//!
//! Element `[i, j, ..]` of a view stands at `offset + i * strides[0] + j * strides[1] + ..` of its
//! slice. A stride of 0 repeats a dimension of an input (broadcasting); a mutable view refuses
//! strides under which two indices could name the same element.

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

/// A `D`-dimensional strided view for writing, whose indices name distinct elements.
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

// SAFETY: a view is a `&[T]`.
unsafe impl<const D: usize, T: Sync> Send for View<'_, D, T> {}
// SAFETY: a view is a `&[T]`.
unsafe impl<const D: usize, T: Sync> Sync for View<'_, D, T> {}
// SAFETY: a mutable view is a `&mut [T]` of the elements it names.
unsafe impl<const D: usize, T: Send> Send for ViewMut<'_, D, T> {}
// SAFETY: a shared reference to it only reads.
unsafe impl<const D: usize, T: Sync> Sync for ViewMut<'_, D, T> {}

/// Strides of a contiguous row-major array.
fn row_major<const D: usize>(shape: [usize; D]) -> [usize; D] {
    let mut strides = [1; D];
    for d in (1..D).rev() {
        strides[d - 1] = shape[d].saturating_mul(strides[d]);
    }
    strides
}

/// Most elements of a view, repeated ones included, with dimensions of 0 taken as 1: 2^48 of them. What kernels
/// compute from shapes (bytes of packed panels, say, with up to 64 columns for one) does not overflow.
const MAX_ELEMENTS: usize = usize::MAX >> (usize::BITS / 4);

/// Refuses a shape of more than [`MAX_ELEMENTS`].
pub(crate) fn check_elements<const D: usize>(what: &'static str, shape: [usize; D]) -> Result<(), Error> {
    let elements = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n.max(1)));
    if elements.is_some_and(|elements| elements <= MAX_ELEMENTS) {
        return Ok(());
    }
    let why = format!("expected at most {MAX_ELEMENTS} elements, found shape {shape:?}");
    Err(Error::Invalid { what, why })
}

/// Refuses a view that reaches past `len` elements, or has too many.
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

/// Refuses strides under which two indices could name one element: taken from the smallest, each
/// stride must step over all that the smaller ones reach.
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
        // In bounds (checked before), so this does not overflow.
        reach += (n - 1) * stride;
    }
    Ok(())
}

/// The methods that reading and writing views share.
macro_rules! common {
    ($view:ident) => {
        impl<'a, const D: usize, T> $view<'a, D, T> {
            /// Extent of each dimension.
            #[inline(always)]
            pub fn shape(&self) -> [usize; D] {
                self.shape
            }

            /// Distance in elements between neighbours along each dimension.
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

            /// Where `index` stands, relative to the view's first element.
            #[inline(always)]
            fn offset(&self, index: [usize; D]) -> usize {
                let mut offset = 0;
                for d in 0..D {
                    assert!(index[d] < self.shape[d], "index {index:?} outside shape {:?}", self.shape);
                    offset += index[d] * self.strides[d];
                }
                offset
            }

            /// Where the row `index` (all dimensions but the last; the last must be 0) starts, and
            /// its length. The offset of an empty row is 0.
            #[inline(always)]
            fn row_span(&self, mut index: [usize; D]) -> (usize, usize) {
                assert!(self.has_unit_rows(), "rows of a view with strides {:?} are not slices", self.strides);
                index[D - 1] = 0;
                let n = self.shape[D - 1];
                (if n == 0 { 0 } else { self.offset(index) }, n)
            }

            /// The sub-range `range` of dimension `dim`.
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
                // Strides of an empty view may lead anywhere; nothing is read there.
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

        // One index less: const generics cannot yet say `D - 1`.
        common!(@index $view, 4, 3);
        common!(@index $view, 3, 2);
        common!(@index $view, 2, 1);
    };
    (@index $view:ident, $from:literal, $to:literal) => {
        impl<'a, T> $view<'a, $from, T> {
            /// The sub-view at `i` of the first dimension.
            ///
            /// # Panics
            /// If `i` lies outside it.
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
        // SAFETY: the constructor proved that the row's elements lie in the slice; they are
        // neighbours, as `row_span` asserted. An empty row has length 0 at a pointer into the slice.
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

    /// A view with any strides, in elements, under which indices name distinct elements.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`] if an index reaches past `data`; [`Error::Overlap`] if two indices
    /// could name one element (some interleavings that never do are refused as well);
    /// [`Error::Invalid`] if the shape has more than 2^48 elements.
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

    /// This view, for reading.
    #[inline(always)]
    pub fn as_view(&self) -> View<'_, D, T> {
        View { ptr: self.ptr, shape: self.shape, strides: self.strides, life: PhantomData }
    }

    /// This view, for as long as `self` is borrowed.
    #[inline(always)]
    pub fn reborrow(&mut self) -> ViewMut<'_, D, T> {
        ViewMut { ptr: self.ptr, shape: self.shape, strides: self.strides, life: PhantomData }
    }

    /// The parts before and from `mid` on along dimension `dim`, which share no element.
    ///
    /// # Panics
    /// If `mid` lies outside the dimension.
    #[inline(always)]
    pub fn split_at(self, dim: usize, mid: usize) -> (Self, Self) {
        let end = self.shape[dim];
        // SAFETY: a second handle to the same elements; the two slices below are disjoint, for
        // distinct indices name distinct elements, and the whole is given up.
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
        // SAFETY: as in `View::row`; the borrow of `self` makes it exclusive.
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
    /// The rows, from the first on.
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
    /// The rows, from the first on.
    ///
    /// # Panics
    /// If [`has_unit_rows`](Self::has_unit_rows) is false.
    #[inline(always)]
    pub fn into_rows(self) -> impl Iterator<Item = &'a mut [T]> {
        (0..self.shape[0]).map(
            #[inline(always)]
            move |i| {
                let (start, n) = self.row_span([i, 0]);
                // SAFETY: as in `View::row`; the view is given up, each row is named once, and rows
                // share no element.
                unsafe { core::slice::from_raw_parts_mut(self.ptr.wrapping_add(start), n) }
            },
        )
    }
}
