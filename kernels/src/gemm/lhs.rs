//! A of a product.

use crate::element::Element;
use crate::view::{AnyView, View};

/// A of a [`Gemm`](super::Gemm): \[batch, m, k\], or \[1, m, k\] for all.
///
/// | A | weights of | arithmetic |
/// |---|---|---|
/// | `Exact` of f32 or f16, or of bf16 with weights of another type | any | exact products of the stored values, summed in f32 |
/// | `Exact` of bf16, or `Rounded`, with weights of bf16 | bf16 | products of bf16, summed in f32 |
/// | `Rounded` | f16 | A is rounded to f16, then as `Exact` |
/// | `Rounded`, `ZeroPoint` | int8 | A is quantised row by row, products and sums of integers: exact |
/// | `Rounded` | groups of int8 or int4 | A is quantised in the same groups of 32, products and sums of a group are exact, groups are summed in f32 |
/// | `Rounded` | f32 | as `Exact` |
///
/// Errors: what is quantised or rounded is part of the definition, the same to the bit on every backend. Sums
/// of int8 are exact, and a result has three roundings; sums of pairs of bf16 have at most 2 k of them, and may
/// take numbers below 2^-126 for zeros; all others k, as those of f32.
///
/// ```
/// use tilewright_kernels::{Backend, View, ViewMut};
/// use tilewright_kernels::gemm::{Epilogue, Format, Gemm, Lhs, PackedB, Rhs};
/// let (x, w) = ([0.5, -1., 0.25, 1.], [1., 2., 3., 4.]);
/// let (x, w) = (View::new(&x, [1, 2, 2])?, View::new(&w, [2, 2])?.transpose());
/// for format in Format::ALL {
///     let b = PackedB::in_format(Backend::best(), format, w)?;
///     let mut y = [0.; 4];
///     Backend::best().run(Gemm {
///         alpha: 1.,
///         a: Lhs::Rounded(x), // to bf16, f16 or int8, as the weights are
///         b: Rhs::Packed(&b),
///         beta: 0.,
///         c: ViewMut::new(&mut y, [2, 2])?.into(),
///         epilogue: Epilogue::default(),
///     })?;
///     // Within a step of int4 at most: those of exact arithmetic are -1.5, -2.5, 2.25 and 4.75.
///     assert!((y[0] + 1.5).abs() < 0.3 && (y[3] - 4.75).abs() < 0.6, "{}: {y:?}", format.name());
/// }
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Lhs<'a, const D: usize = 3> {
    /// Used as it is.
    Exact(AnyView<'a, D>),
    /// f32, rounded to the type of the weights on the variant: to the nearest bf16 or f16, ties to even; of
    /// int8, row by row, and of groups, group by group, by [`symmetric`](super::Quantized::symmetric).
    Rounded(View<'a, D>),
    /// f32, quantised row by row by [`zero_point`](super::Quantized::zero_point): for weights of int8
    /// alone.
    ZeroPoint(View<'a, D>),
}

/// Runs an expression on the view in an operand of any kind.
macro_rules! with_rows {
    ($operand:expr, $view:ident => $body:expr) => {
        match $operand {
            $crate::gemm::Lhs::Exact($crate::view::AnyView::F32($view))
            | $crate::gemm::Lhs::Rounded($view)
            | $crate::gemm::Lhs::ZeroPoint($view) => $body,
            $crate::gemm::Lhs::Exact($crate::view::AnyView::Bf16($view)) => $body,
            $crate::gemm::Lhs::Exact($crate::view::AnyView::F16($view)) => $body,
        }
    };
}
pub(super) use with_rows;

impl<'a, const D: usize> Lhs<'a, D> {
    /// Extent of each dimension.
    #[inline(always)]
    pub fn shape(&self) -> [usize; D] {
        with_rows!(self, v => v.shape())
    }

    /// The sub-range of a dimension.
    #[inline(always)]
    pub(super) fn slice(self, dim: usize, range: core::ops::Range<usize>) -> Self {
        match self {
            Self::Exact(v) => Self::Exact(v.slice(dim, range)),
            Self::Rounded(v) => Self::Rounded(v.slice(dim, range)),
            Self::ZeroPoint(v) => Self::ZeroPoint(v.slice(dim, range)),
        }
    }

    /// The value at `index`, before anything is rounded.
    pub(super) fn get(&self, index: [usize; D]) -> f32 {
        with_rows!(self, v => v.get(index).to_f32())
    }

    /// The floats, where they are f32 and used as they are.
    #[inline(always)]
    pub(super) fn floats(self) -> Option<View<'a, D>> {
        match self {
            Lhs::Exact(AnyView::F32(v)) => Some(v),
            _ => None,
        }
    }
}

impl<'a> Lhs<'a> {
    /// A of one product of the batch.
    #[inline(always)]
    pub(super) fn of_batch(self, batch: usize) -> Lhs<'a, 2> {
        // The same for all, if there is but one.
        let batch = if self.shape()[0] == 1 { 0 } else { batch };
        match self {
            Self::Exact(v) => Lhs::Exact(v.at(batch)),
            Self::Rounded(v) => Lhs::Rounded(v.at(batch)),
            Self::ZeroPoint(v) => Lhs::ZeroPoint(v.at(batch)),
        }
    }
}

impl<'a, T: Element> From<View<'a, 3, T>> for Lhs<'a> {
    fn from(v: View<'a, 3, T>) -> Self {
        Self::Exact(v.into())
    }
}

impl<'a, T: Element> From<View<'a, 2, T>> for Lhs<'a> {
    fn from(v: View<'a, 2, T>) -> Self {
        View::<3, T>::from(v).into()
    }
}
