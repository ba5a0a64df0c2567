//! Views of f32, bf16 or f16, chosen at run time: a kernel over them is compiled once, not once for each type.

use super::{View, ViewMut};
use crate::element::Element;
use core::ops::Range;
use half::{bf16, f16};

/// A [`View`] of elements of any type.
///
/// ```
/// use tilewright_kernels::{AnyView, View};
/// let x = [1.0, 2.0].map(half::bf16::from_f32);
/// let view: AnyView<'_, 1> = View::new(&x, [2])?.into();
/// assert!(matches!(view, AnyView::Bf16(_)));
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub enum AnyView<'a, const D: usize> {
    /// f32.
    F32(View<'a, D>),
    /// bf16.
    Bf16(View<'a, D, bf16>),
    /// f16.
    F16(View<'a, D, f16>),
}

/// A [`ViewMut`] of elements of any type.
///
/// ```
/// use tilewright_kernels::{AnyViewMut, ViewMut};
/// let mut y = [half::f16::ZERO; 6];
/// let rows: AnyViewMut<'_, 3> = ViewMut::new(&mut y, [2, 3])?.into(); // a batch of one
/// assert_eq!(rows.shape(), [1, 2, 3]);
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Debug)]
pub enum AnyViewMut<'a, const D: usize> {
    /// f32.
    F32(ViewMut<'a, D>),
    /// bf16.
    Bf16(ViewMut<'a, D, bf16>),
    /// f16.
    F16(ViewMut<'a, D, f16>),
}

/// Runs an expression on the view, whatever its type.
macro_rules! with_any {
    ($any:expr, $view:ident => $body:expr) => {
        match $any {
            $crate::view::AnyView::F32($view) => $body,
            $crate::view::AnyView::Bf16($view) => $body,
            $crate::view::AnyView::F16($view) => $body,
        }
    };
}
pub(crate) use with_any;

/// [`with_any`] for mutable views.
macro_rules! with_any_mut {
    ($any:expr, $view:ident => $body:expr) => {
        match $any {
            $crate::view::AnyViewMut::F32($view) => $body,
            $crate::view::AnyViewMut::Bf16($view) => $body,
            $crate::view::AnyViewMut::F16($view) => $body,
        }
    };
}
pub(crate) use with_any_mut;

/// Applies an expression to the view, and wraps the result in the same variant.
macro_rules! map {
    ($enum:ident, $any:expr, $view:ident => $body:expr) => {
        match $any {
            Self::F32($view) => $enum::F32($body),
            Self::Bf16($view) => $enum::Bf16($body),
            Self::F16($view) => $enum::F16($body),
        }
    };
}

impl<'a, const D: usize> AnyView<'a, D> {
    /// Extent of each dimension.
    #[inline(always)]
    pub fn shape(&self) -> [usize; D] {
        with_any!(self, v => v.shape())
    }

    /// Distance, in elements, between neighbours along each dimension.
    pub(crate) fn strides(&self) -> [usize; D] {
        with_any!(self, v => v.strides())
    }

    /// True if the elements of the last dimension are neighbours in memory.
    pub(crate) fn has_unit_rows(&self) -> bool {
        with_any!(self, v => v.has_unit_rows())
    }

    /// The part of the view in `range` of dimension `dim`.
    #[inline(always)]
    pub(crate) fn slice(self, dim: usize, range: Range<usize>) -> Self {
        map!(AnyView, self, v => v.slice(dim, range))
    }

    /// The value at `index`.
    pub(crate) fn get(&self, index: [usize; D]) -> f32 {
        with_any!(self, v => v.get(index).to_f32())
    }
}

impl<'a> AnyView<'a, 2> {
    /// The view with its dimensions swapped.
    pub(crate) fn transpose(self) -> Self {
        map!(AnyView, self, v => v.transpose())
    }
}

impl<'a> AnyView<'a, 4> {
    /// The sub-view at index `i` of the first dimension.
    #[inline(always)]
    pub(crate) fn at(self, i: usize) -> AnyView<'a, 3> {
        map!(AnyView, self, v => v.at(i))
    }
}

impl<'a> AnyView<'a, 3> {
    /// The sub-view at index `i` of the first dimension.
    #[inline(always)]
    pub(crate) fn at(self, i: usize) -> AnyView<'a, 2> {
        map!(AnyView, self, v => v.at(i))
    }
}

impl<'a, const D: usize> AnyViewMut<'a, D> {
    /// Extent of each dimension.
    #[inline(always)]
    pub fn shape(&self) -> [usize; D] {
        with_any_mut!(self, v => v.shape())
    }

    /// Distance, in elements, between neighbours along each dimension.
    pub(crate) fn strides(&self) -> [usize; D] {
        with_any_mut!(self, v => v.strides())
    }

    /// True if any dimension is 0.
    pub(crate) fn is_empty(&self) -> bool {
        self.shape().contains(&0)
    }

    /// True if the elements of the last dimension are neighbours in memory.
    pub(crate) fn has_unit_rows(&self) -> bool {
        with_any_mut!(self, v => v.has_unit_rows())
    }

    /// The parts before `mid` and from `mid` on along dimension `dim`.
    pub(crate) fn split_at(self, dim: usize, mid: usize) -> (Self, Self) {
        macro_rules! split {
            ($variant:ident, $v:expr) => {{
                let (low, high) = $v.split_at(dim, mid);
                (Self::$variant(low), Self::$variant(high))
            }};
        }
        match self {
            Self::F32(v) => split!(F32, v),
            Self::Bf16(v) => split!(Bf16, v),
            Self::F16(v) => split!(F16, v),
        }
    }

    /// The value at `index`.
    pub(crate) fn get(&self, index: [usize; D]) -> f32 {
        with_any_mut!(self, v => v.as_view().get(index).to_f32())
    }

    /// Rounds `value` to the element type, and stores it at `index`.
    pub(crate) fn set(&mut self, index: [usize; D], value: f32) {
        with_any_mut!(self, v => v.set(index, Element::from_f32(value)))
    }
}

impl<'a, T: Element, const D: usize> From<View<'a, D, T>> for AnyView<'a, D> {
    fn from(view: View<'a, D, T>) -> Self {
        T::any(view)
    }
}

impl<'a, T: Element> From<View<'a, 2, T>> for AnyView<'a, 3> {
    fn from(view: View<'a, 2, T>) -> Self {
        View::<3, T>::from(view).into()
    }
}

impl<'a, T: Element, const D: usize> From<ViewMut<'a, D, T>> for AnyViewMut<'a, D> {
    fn from(view: ViewMut<'a, D, T>) -> Self {
        T::any_mut(view)
    }
}

impl<'a, T: Element> From<ViewMut<'a, 2, T>> for AnyViewMut<'a, 3> {
    fn from(view: ViewMut<'a, 2, T>) -> Self {
        ViewMut::<3, T>::from(view).into()
    }
}

impl<'a> From<AnyView<'a, 2>> for AnyView<'a, 3> {
    fn from(view: AnyView<'a, 2>) -> Self {
        with_any!(view, v => v.into())
    }
}

impl<'a> From<AnyViewMut<'a, 2>> for AnyViewMut<'a, 3> {
    fn from(view: AnyViewMut<'a, 2>) -> Self {
        with_any_mut!(view, v => v.into())
    }
}
